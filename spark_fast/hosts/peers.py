"""The ranks of a job's other hosts, as this host's relay reads them in the job's store."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from spark_fast.descriptors import is_short
from spark_fast.errors import FolderRefusedError
from spark_fast.hosts import asking
from spark_fast.hosts import folder as files

__all__ = ["SILENT", "read_peers"]

SILENT = 15.0
"""Seconds without a word after which nobody can say what a host does."""
_WAIT = 0.5
"""Seconds that who looks first waits for the others' words."""


def read_peers(folder: Path, *, over: bool = False) -> list[dict[str, Any]]:
    """The ranks of all other hosts: each a dictionary of rank, status, step, pid, host and `silent`, the seconds since
    the host was last heard of. Empty if this is no job of several hosts, or its store was not reached yet.

    over: whether all ranks of this host have ended. Its relay then ends, and may have heard nothing of how those of
        another host did: they are left out.

    Tells the relay that somebody looks, so that it goes on reading for three seconds. Raises OSError for want of
    descriptors or memory: then nothing is known of the other hosts.
    """
    shown = folder / files.HOSTS
    try:
        if files.read_place(folder) is None:
            return []
        fresh = files.touch_watched(folder)
        if fresh:
            asking.ring(folder)
        with files.opened(folder) as fd:
            found = files.read_object(fd, files.PEERS, shown)
            end = time.monotonic() + _WAIT
            while fresh and _age(found) > 10.0 and time.monotonic() < end:
                time.sleep(0.01)
                found = files.read_object(fd, files.PEERS, shown)
    except (OSError, FolderRefusedError) as error:
        if is_short(error):
            raise
        return []
    ranks = []
    for host in (found or {}).get("hosts", []):
        with suppress(KeyError, TypeError):
            silent = float(host["silent"]) + (_age(found) if _age(found) > 5.0 else 0.0)
            said = {rank["rank"]: rank for rank in host["ranks"]}
            for number in host["numbers"]:
                rank = said.get(number, {"rank": number, "status": "idle", "step": 0, "pid": 0})
                ended = rank["status"] in ("stopped", "finished", "failed", "lost")
                lost = silent > SILENT and not host["ended"] and not ended
                if lost and over:
                    continue
                ranks.append(
                    {
                        "rank": int(number),
                        "status": "lost" if lost else str(rank["status"]),
                        "step": int(rank["step"]),
                        "pid": int(rank["pid"]),
                        "host": str(host["name"]),
                        "silent": silent,
                    }
                )
    return sorted(ranks, key=lambda rank: rank["rank"])


def _age(found: dict[str, Any] | None) -> float:
    read = (found or {}).get("read")
    return time.monotonic() - read if isinstance(read, float) else 1e9
