"""Passes stops from a worker to the processes that were forked from it."""

import os
from typing import Any

from spark_fast import _core
from spark_fast.errors import FolderRefusedError
from spark_fast.request import Kind
from spark_fast.runfiles import run_folder
from spark_fast.runfiles.descriptors import open_own
from spark_fast.runfiles.homes import Home, opened_homes
from spark_fast.worker.session import Parent

__all__ = ["stop_children", "stop_of"]


def stop_of(parent: Parent) -> dict[str, Any] | None:
    """Return the stop that the parent's run was asked for; None if it was not.

    Such a stop also applies to later children, of a process that forks one training after the other, say.

    Raises OSError, SegmentError.
    """
    fd = open_own(parent.control, os.O_RDONLY)
    try:
        seq = _core.read_view(fd)["stop_seq"]
        return _core.read_entry(fd, seq) if seq else None
    finally:
        os.close(fd)


def stop_children(run: str | None, sender: str, deadline: float) -> None:
    """Ask the runs of this process's forked children to stop: one of them may be the one that trains.

    run: the run of this process.
    deadline: seconds that the children have to end; 0 for no limit.

    Raises OSError, SparkError.
    """
    with opened_homes() as homes:
        for home in homes:
            for name in run_folder.run_names(home):
                _stop_child(home, name, run, sender, deadline)


def _stop_child(home: Home, name: str, run: str | None, sender: str, deadline: float) -> None:
    """Ask one run to stop if its process was forked from this one."""
    try:
        folder = run_folder.open_run(home, name)
    except (FileNotFoundError, FolderRefusedError):  # the run was just removed, or this is no run's folder
        return
    try:
        about = run_folder.read_info(folder)
    finally:
        os.close(folder)
    if about is not None and (about.forked_from, about.parent) == (run, os.getpid()):
        segment = _core.Segment(home.path / name / run_folder.CONTROL)
        segment.append(Kind.STOP, run_folder.new_id(), duration=deadline, sender=sender)
