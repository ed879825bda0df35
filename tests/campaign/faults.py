"""What the campaign does to processes and files: suspend, kill, take away room and descriptors, damage files."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

__all__ = ["Limits", "Suspended", "damage", "dump", "kill", "truncate", "usage"]


class Suspended:
    """Processes that are suspended for a while."""

    def __init__(self) -> None:
        self._until: dict[int, float] = {}

    def suspend(self, pid: int, seconds: float) -> None:
        """Suspend a process; `wake` continues it when the time is over."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._until[pid] = time.monotonic() + seconds

    def wake(self, *, all_of_them: bool = False) -> None:
        """Continue those whose time is over, or all."""
        for pid, end in list(self._until.items()):
            if all_of_them or time.monotonic() >= end:
                del self._until[pid]
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


class Limits:
    """Limits of running processes that are lowered for a while."""

    def __init__(self) -> None:
        self._lowered: dict[tuple[int, int], tuple[int, int, float]] = {}

    def lower(self, pid: int, what: int, limit: int, seconds: float) -> None:
        """Lower a limit, one of resource.RLIMIT_*; `lift` restores it when the time is over."""
        if (pid, what) not in self._lowered:
            with suppress(ProcessLookupError):
                soft, hard = resource.prlimit(pid, what)
                resource.prlimit(pid, what, (limit, hard))
                self._lowered[pid, what] = soft, hard, time.monotonic() + seconds

    def lift(self, *, all_of_them: bool = False) -> None:
        """Restore those whose time is over, or all."""
        for (pid, what), (soft, hard, end) in list(self._lowered.items()):
            if all_of_them or time.monotonic() >= end:
                del self._lowered[pid, what]
                with suppress(ProcessLookupError):
                    resource.prlimit(pid, what, (soft, hard))


def kill(pids: Sequence[int]) -> None:
    """Kill processes by their ids."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def dump(pids: Sequence[int]) -> None:
    """Have trainings of the campaign write the stacks of all their threads to standard error."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR2)


def damage(folder: Path, chance: random.Random) -> str | None:
    """Damage a random file of a run folder other than its control file; return what was done, None without a file."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name != "control"]
    if not files:
        return None
    path = chance.choice(sorted(files))
    what = chance.choice(["cut", "bytes", "empty", "removed"])
    with suppress(FileNotFoundError):  # the run removes files of its own
        size = path.stat().st_size
        if what == "cut":
            os.truncate(path, chance.randrange(size + 1))
        elif what == "empty":
            os.truncate(path, 0)
        elif what == "removed":
            path.unlink()
        else:
            with path.open("r+b") as file:
                for _ in range(8):
                    file.seek(chance.randrange(size + 1))
                    file.write(chance.randbytes(chance.randint(1, 8)))
    return f"{what} {path.relative_to(folder)}"


def truncate(folder: Path, chance: random.Random) -> str:
    """Take the control file of a run away, in one of several ways; return which."""
    control = folder / "control"
    what = chance.choice(["control file cut", "control file overwritten", "control file removed", "folder removed"])
    if what == "control file cut":
        os.truncate(control, chance.choice([0, 1, 64, 4096]))
    elif what == "control file overwritten":
        with control.open("r+b") as file:
            file.write(chance.randbytes(control.stat().st_size))
    elif what == "control file removed":
        control.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)  # the run may add a file meanwhile
    return what


def usage(pid: int) -> tuple[int, int] | None:
    """Return how many descriptors a process has open and its resident memory in bytes; None if it is gone."""
    try:
        process = psutil.Process(pid)
        return process.num_fds(), int(process.memory_info().rss)
    except psutil.Error:
        return None
