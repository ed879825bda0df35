"""How much memory a worker has, as far as this host's /proc says it."""

import os
from pathlib import Path

from spark_fast import run_folder

__all__ = ["resident"]

_PAGE = os.sysconf("SC_PAGE_SIZE")


def is_worker(pid: int, folder: Path) -> bool:
    """Whether the process of this number, here, is a worker of the run in this folder: it has the control file open.

    A worker in a container goes by another number there, and its own names another process here.
    """
    control = str(folder / run_folder.CONTROL)
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in descriptors:
        try:
            if os.readlink(f"/proc/{pid}/fd/{name}") == control:
                return True
        except OSError:
            continue
    return False


def resident(pid: int) -> int | None:
    """Bytes in memory; None if there is no such process, or the system does not say."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as file:
            return int(file.read(128).split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return None
