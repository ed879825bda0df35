"""The ranks of a job's other hosts, as this host's relay reads them in the job's store."""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from spark_fast.errors import FolderRefusedError
from spark_fast.hosts import requests, state_files
from spark_fast.runfiles.descriptors import is_short
from spark_fast.status import ENDED, SparkStatus

__all__ = ["SILENT", "read_peers"]

SILENT = 10.0
"""Seconds without a word after which a host counts as unheard: twice the time between two words of a host that no
controller watches."""
_WAIT = 0.5
"""Seconds that the first reader waits for the other hosts' words."""


def read_peers(folder: Path) -> list[dict[str, Any]]:
    """Return the ranks of all other hosts: each a dictionary of rank, status, step, pid, host and since.

    A rank that has not ended, and whose host is not heard, has the status `unheard`. Its `since` is when its host was
    last heard, in seconds since the epoch; that of any other rank is 0.0. The list is empty if this is no job of
    several hosts, or its store was not reached yet.

    Also tells the relay that a controller looks, so that it goes on reading for three seconds. Raises OSError for want
    of descriptors or memory: then nothing is known of the other hosts.
    """
    shown = folder / state_files.HOSTS
    try:
        if state_files.read_place(folder) is None:
            return []
        fresh = state_files.touch_watched(folder)
        if fresh:
            requests.ring(folder)
        with state_files.opened(folder) as fd:
            found = state_files.read_object(fd, state_files.PEERS, shown)
            end = time.monotonic() + _WAIT
            while fresh and _age(found) > SILENT and time.monotonic() < end:
                time.sleep(0.01)
                found = state_files.read_object(fd, state_files.PEERS, shown)
    except (OSError, FolderRefusedError) as error:
        if is_short(error):
            raise
        return []
    ranks = []
    for host in (found or {}).get("hosts", []):
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            silent = float(host["silent"]) + _age(found) > SILENT or (found or {}).get("unreachable") is True
            said = {rank["rank"]: rank for rank in host["ranks"]}
            for number in host["numbers"]:
                rank = said.get(number, {"rank": number, "status": "idle", "step": 0, "pid": 0})
                status = SparkStatus(rank["status"])
                unheard = silent and host["ended"] is not True and status not in ENDED
                ranks.append(
                    {
                        "rank": int(number),
                        "status": SparkStatus.UNHEARD if unheard else status,
                        "step": int(rank["step"]),
                        "pid": int(rank["pid"]),
                        "host": str(host["name"]),
                        "since": float(host["heard"]) if unheard else 0.0,
                    }
                )
    return sorted(ranks, key=lambda rank: rank["rank"])


def _age(found: dict[str, Any] | None) -> float:
    read = (found or {}).get("read")
    return time.monotonic() - read if isinstance(read, float) else 1e9
