"""Jobs of several hosts: requests that all ranks apply at one step, though no memory is shared.

`requests` is what senders and ranks call, `relay` the process that carries requests, `protocol` how relays agree.
"""

from spark_fast.hosts.requests import ask, fate, patience, ring, start, wait

__all__ = ["ask", "fate", "patience", "ring", "start", "wait"]
