"""Removing the folders of runs that have ended."""

import os

from spark_fast.durations import Duration, seconds_of
from spark_fast.errors import FolderRefusedError
from spark_fast.runfiles import run_folder, supervisors
from spark_fast.runfiles.descriptors import is_short
from spark_fast.runfiles.homes import Home, opened_homes

__all__ = ["remove_ended"]


def remove_ended(*, timeout: Duration = 10.0) -> list[str]:
    """Remove the folders of runs of which no process lives; return their ids. Folders that can't be looked at stay.

    timeout: seconds, or text such as "90s", to wait at most for another process that makes or removes runs.

    Raises SegmentError when the time is up, FolderRefusedError if the folder of runs can't be trusted, OSError for want
    of descriptors or memory.
    """
    limit = seconds_of(timeout, "timeout")
    removed = []
    with opened_homes() as homes:
        for home in homes:
            with run_folder.locked_home(home, limit):
                removed += [run for run in run_folder.run_names(home) if _remove(home, run)]
                _remove_supervisors(home)
    return removed


def _remove(home: Home, run: str) -> bool:
    """Remove a run's folder if no process of the run lives. Return whether it is removed."""
    try:
        fd = run_folder.open_run(home, run)
    except (OSError, FolderRefusedError) as error:
        if is_short(error):
            raise
        return False  # it is not known whether the run lives, so the folder stays
    try:
        try:
            if run_folder.is_alive(fd, home.path / run):
                return False
        except (OSError, FolderRefusedError) as error:
            if is_short(error):
                raise
            return False
        run_folder.clear(fd)
    finally:
        os.close(fd)
    os.rmdir(run, dir_fd=home.fd)
    return True


def _remove_supervisors(home: Home) -> None:
    for name in os.listdir(home.fd):
        if name.startswith(supervisors.PREFIX):
            try:
                over = not supervisors.is_locked(name, home)
            except (OSError, FolderRefusedError) as error:
                if is_short(error):
                    raise
                continue  # it is not known whether the supervisor lives, so the file stays
            if over:
                os.unlink(name, dir_fd=home.fd)
