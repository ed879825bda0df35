"""The memory of a worker, from this host's /proc."""

import os

__all__ = ["resident"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident(pid: int) -> int | None:
    """Return the bytes that a process has in memory; None if there is no such process, or /proc does not say."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read(128).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None
