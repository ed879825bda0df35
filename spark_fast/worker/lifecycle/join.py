"""Gives a process its run: makes one, or joins its job's run."""

import errno
import os
import time
from contextlib import suppress
from pathlib import Path

from spark_fast import __version__, _core, stderr
from spark_fast._core import worker
from spark_fast.errors import JobEndingError, RunNameTakenError, SparkError
from spark_fast.launchers import ancestors
from spark_fast.runfiles import names, run_folder
from spark_fast.runfiles.descriptors import open_own, open_own_folder
from spark_fast.worker import options, session
from spark_fast.worker.journal import writer
from spark_fast.worker.lifecycle import launchers
from spark_fast.worker.state import registry

__all__ = ["keep_journal", "make_run"]

_AGAIN = 0.05
"""Seconds between two tries to join a run."""
_SEAT = 5.0
"""Seconds to wait for the former process of this rank to end."""
_ALONE = 2.0
"""Seconds to wait for other processes that are making or removing runs."""
_OLD_JOB = 30.0
"""Seconds to wait for the former processes of a job that is started again to end."""


def make_run(wanted: str | None, command: list[str], *, fresh_name: bool) -> str:
    """Make the run, or join the job's run; return its id.

    wanted: the wanted name; None for any.
    command: the command to list the run with.
    fresh_name: whether to take another name if a living run has the wanted one; else RunNameTakenError is raised.
    """
    # A process that was forked from a rank can't be that rank, since the rank's process lives.
    session.current.place = launchers.place(options.current()) if session.current.parent is None else None
    began = time.monotonic()
    number = 1
    while True:
        name = wanted if number == 1 or wanted is None else f"{wanted[:56]}-{number}"
        try:
            run = _take_part(name, command)
        except RunNameTakenError:
            if not fresh_name:
                raise
            number += 1
        except JobEndingError:
            if time.monotonic() > began + _OLD_JOB:
                raise
            time.sleep(_AGAIN)  # no event tells when its last process has ended
        except OSError as error:
            place = session.current.place
            if place is None or error.errno not in (errno.EADDRINUSE, errno.EINVAL):
                raise
            if error.errno == errno.EINVAL or time.monotonic() > began + _SEAT or _started_by_its_rank(error.filename):
                stderr.warn(
                    f"rank {place.rank} of this job is there already; this process, which has its environment, is a "
                    "run of its own"
                )
                session.current.place = None
            else:
                time.sleep(_AGAIN)
        else:
            if number > 1 and session.current.place is None and session.current.parent is None:
                stderr.warn(f"a living run is called {wanted!r}; this one is called {run!r}")
            return run


def _started_by_its_rank(control: str) -> bool:
    """Return whether this process was started, directly or not, by the process that has its rank in this control file.

    If so, it is no use to wait for that process to end. Returns False if the system does not tell the ancestors, or if
    the slot's process id is of another pid namespace.
    """
    place = session.current.place
    if place is None:
        return False
    try:
        fd = open_own(control, os.O_RDONLY)
        try:
            pid: int = _core.read_slot(fd, place.local_rank)["pid"]
        finally:
            os.close(fd)
    except (OSError, SparkError):  # the run is gone, or the next try raises the error again
        return False
    return pid in ancestors() and run_folder.is_worker(pid, Path(control).parent)


def _take_part(name: str | None, command: list[str]) -> str:
    """Make the run of this name, or join the job's run; return its id."""
    place, parent = session.current.place, session.current.parent
    if place is None:
        forked_from = (parent.run, parent.pid) if parent is not None else ("", 0)
        claim = run_folder.claim(name, command, __version__, timeout=_ALONE, forked_from=forked_from)
    else:
        claim = run_folder.claim(
            name,
            command,
            __version__,
            job=place.job,
            everywhere=place.everywhere,
            world_size=place.world_size,
            generation=place.generation,
            timeout=_OLD_JOB,  # long, since the others' requests would not reach a rank that is left out
        )
    with claim as found:
        if place is not None:
            worker.place(place.rank, place.world_size, options.current().stride)
        else:
            worker.place(0, 1, options.current().stride)
        seat = session.slot()
        if found.joined and session.first_here():
            _clear_seat(found, seat)
        if session.first_here():
            # Before any controller sees the run, or can send it a request.
            _keep_journal(found.folder, found.run, command, None)
            registry.current.connect(found.folder)
        else:
            registry.current.connect(None)
        if found.joined:
            worker.join(found.control, slot=seat, cookie=run_folder.new_id(), timeout=_SEAT)
        else:
            slot_count = 1 if place is None else place.local_world_size
            worker.attach(found.control, slot_count=slot_count, slot=seat, cookie=run_folder.new_id())
        session.current.folder = found.folder
        _hold_folder(found.folder)
        if found.refused:
            stderr.warn(f"{found.refused[0]}. Until then runs are kept in {found.folder.parent}")
        return found.run


def _hold_folder(folder: Path) -> None:
    """Keep cleaners of /tmp away from the run's folder for the life of this process.

    systemd-tmpfiles skips folders that have a lock of this kind. This package itself never checks the lock.
    """
    # The run exists by now, so nothing may raise any more. Even the import needs a descriptor.
    with suppress(OSError, ImportError, SparkError):
        import fcntl

        session.current.folder_lock = open_own_folder(folder)
        fcntl.flock(session.current.folder_lock, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _clear_seat(found: run_folder.Claim, slot: int) -> None:
    """Remove the board of the former first rank of this host, so that this process can make a new one.

    The caller holds the run's turn, so no other process can join during this. Raises OSError with EADDRINUSE if the
    former process lives.
    """
    from spark_fast.runfiles.schema import BOARD

    fd = open_own(found.control, os.O_RDONLY)
    try:
        if _core.read_slot(fd, slot)["alive"]:
            raise OSError(errno.EADDRINUSE, "the process that had this rank lives", str(found.control))
    finally:
        os.close(fd)
    (found.folder / BOARD).unlink(missing_ok=True)


def keep_journal(command: list[str], entry: tuple[str, bytes] | None) -> None:
    """Keep a journal of the applied requests, unless the options turn it off or another rank keeps it.

    command: the command that the runner runs.
    entry: the script's path and source; None if it can't be run again.
    """
    run, folder = session.run_id(), session.folder()
    if run is not None and folder is not None and session.first_here():
        _keep_journal(folder, run, command, entry)


def _keep_journal(folder: Path, run: str, command: list[str], entry: tuple[str, bytes] | None) -> None:
    chosen = options.current().journal
    if chosen is not None and chosen.lower() in names.OFF:
        return
    writer.current.keep(folder, run, command, chosen, entry)
