"""The locks by which a run's supervisor shows that it lives: a file for each run, beside the run folders."""

import os
from contextlib import suppress

from spark_fast import _core
from spark_fast.errors import SegmentError
from spark_fast.runfiles import run_folder
from spark_fast.runfiles.descriptors import open_own
from spark_fast.runfiles.homes import Home, opened_homes

__all__ = ["PREFIX", "has_supervisor", "hold_supervisor", "is_locked"]

PREFIX = ".supervisor-"
"""How the names of these files begin; the run id follows."""


def hold_supervisor(run: str) -> int | None:
    """Take the lock of the supervisor of this run. The kernel drops it when the process dies.

    Returns a descriptor, which holds the lock as long as it is open; None if another process has a lock. Never waits.

    Raises OSError, FolderRefusedError.
    """
    with opened_homes() as homes:
        if not homes:
            raise FileNotFoundError("the folder of runs is gone")
        home = next((each for each in homes if run in os.listdir(each.fd)), homes[0])
        # Under the lock of the home, so that remove_ended() can't remove the file before it is locked.
        with suppress(SegmentError), run_folder.locked_home(home, 0.0):
            name = PREFIX + run
            fd = open_own(name, os.O_RDWR | os.O_CREAT, dir_fd=home.fd, shown=home.path / name)
            if _core.lock_file(fd, 0.0):
                return fd
            os.close(fd)
        return None


def has_supervisor(run: str) -> bool:
    """Return whether a supervisor of this run lives. Raises OSError or FolderRefusedError if that is not known."""
    with opened_homes() as homes:
        return any(is_locked(PREFIX + run, home) for home in homes)


def is_locked(name: str, home: Home) -> bool:
    """Return whether a process holds the lock of this file of a home. Raises OSError, FolderRefusedError."""
    try:
        fd = open_own(name, os.O_RDONLY, dir_fd=home.fd, shown=home.path / name)
    except FileNotFoundError:
        return False
    try:
        return _core.any_lock(fd)
    finally:
        os.close(fd)
