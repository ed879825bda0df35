"""The folder of a run, in a folder of all runs (see `homes`). Only its owner can enter it, and no link is followed."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from spark_fast import _core
from spark_fast.errors import (
    FolderRefusedError,
    JobEndingError,
    LayoutError,
    RunNameTakenError,
    SegmentError,
    StoreError,
)
from spark_fast.runfiles import names, private_files
from spark_fast.runfiles.core_errors import layout_error
from spark_fast.runfiles.descriptors import is_short, open_own, open_own_folder
from spark_fast.runfiles.homes import Home, opened_homes

__all__ = [
    "Claim",
    "RunInfo",
    "claim",
    "clear",
    "has_open",
    "is_alive",
    "is_worker",
    "locked_home",
    "new_id",
    "open_control",
    "open_run",
    "read_info",
    "run_names",
]

CONTROL = "control"
ABOUT = "run.json"
HOME_LOCK = ".lock"
ABOUT_MAX = 1 << 20


@contextmanager
def locked_home(home: Home, timeout: float) -> Iterator[None]:
    """Hold the lock under which run folders are made and removed. The kernel drops the lock of a process that dies.

    Raises SegmentError after `timeout` seconds, OSError, FolderRefusedError.
    """
    fd = open_own(HOME_LOCK, os.O_RDWR | os.O_CREAT, dir_fd=home.fd, shown=home.path / HOME_LOCK)
    try:
        if not _core.lock_file(fd, timeout):
            raise SegmentError("another process has kept it locked", str(home.path / HOME_LOCK))
        yield
    finally:
        _core.unlock_file(fd)  # also if an interrupt came when the lock was just taken
        os.close(fd)


@dataclass(frozen=True)
class RunInfo:
    """The content of `run.json`: one JSON object, written before the run exists, and never changed.

    Attributes:
        id: the run id.
        command: the command line, as a list.
        directory: the working directory at the start.
        user, host, pid: of the process that made the run.
        boot: the kernel's id of this boot of the host, the same in all containers; "" if there is none.
        started: when it was made, in seconds since the epoch.
        version: the version of spark_fast.
        python: the version of the interpreter.
        job: the name of the job, the same for all its ranks on one host; "" for a run of one process.
        world_size: how many ranks the job has.
        generation: how often the launcher had started the job again by then.
        forked_from, parent: the run, and the process, of the worker from which this process was forked; "" and 0 if
            it was not forked from one.
    """

    id: str
    command: list[str]
    directory: str
    user: str
    host: str
    boot: str
    pid: int
    started: float
    version: str
    python: str
    job: str = ""
    world_size: int = 1
    generation: int = 0
    forked_from: str = ""
    parent: int = 0


def boot_id() -> str:
    """Return the id of this boot of this machine."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # not Linux
        return ""


def elsewhere(info: RunInfo) -> bool:
    """Return whether a run is on another machine that shares this folder. Whether it lives is not known here."""
    return info.host != socket.gethostname() and info.boot != boot_id()


def _write_info(run: int, info: RunInfo) -> None:
    private_files.write_whole(run, ABOUT, json.dumps(asdict(info)).encode())


def read_info(run: int) -> RunInfo | None:
    """Read `run.json`; None if it is missing or damaged.

    Raises OSError for want of descriptors or memory, which says nothing about the run.
    """
    try:
        raw = private_files.read_whole(run, ABOUT, ABOUT_MAX, Path())
    except (FileNotFoundError, StoreError):
        return None
    try:
        found = json.loads(raw)
        # Another version may have written it without some fields. They stay empty, so that the run is still listed.
        empty = {"command": [], "pid": 0, "started": 0.0, "world_size": 1, "generation": 0, "parent": 0}
        known = {field.name: found.get(field.name, empty.get(field.name, "")) for field in fields(RunInfo)}
        return RunInfo(
            id=str(known["id"]),
            command=[str(word) for word in known["command"]],
            directory=str(known["directory"]),
            user=str(known["user"]),
            host=str(known["host"]),
            boot=str(known["boot"]),
            pid=int(known["pid"]),
            started=float(known["started"]),
            version=str(known["version"]),
            python=str(known["python"]),
            job=str(known["job"]),
            world_size=int(known["world_size"]),
            generation=int(known["generation"]),
            forked_from=str(known["forked_from"]),
            parent=int(known["parent"]),
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def open_run(home: Home, run: str) -> int:
    """Open a run's folder. Raises FileNotFoundError, FolderRefusedError if it can't be trusted, or OSError."""
    shown = home.path / run
    try:
        return open_own_folder(run, dir_fd=home.fd, shown=shown)
    except FolderRefusedError as error:
        raise FolderRefusedError(error.path, error.found, f"{error.expected}: mend or remove it") from None


def open_control(run: int, shown: Path) -> int:
    """Open a run's control file to read it.

    run: a descriptor of the run's folder; shown: its path.

    Raises FileNotFoundError if it has none, FolderRefusedError if it is not the owner's alone, or OSError.
    """
    return open_own(CONTROL, os.O_RDONLY, dir_fd=run, shown=shown / CONTROL)


def open_control_of(run: str) -> int:
    """Open the control file of the run of this name. Raises as open_control() does."""
    found: OSError = FileNotFoundError(f"there is no run {run}")
    with opened_homes() as homes:
        for home in homes:
            try:
                folder = open_run(home, run)
            except FileNotFoundError as error:
                found = error
                continue
            try:
                return open_control(folder, home.path / run)
            finally:
                os.close(folder)
    raise found


def is_alive(run: int, shown: Path) -> bool:
    """Return whether a rank lives: a process holds a lock in the control file, even if the file is damaged.

    A run of another machine counts as alive.

    Raises OSError or FolderRefusedError if that is not known: a file that can't be opened is no proof of death.
    """
    info = read_info(run)
    if info is not None and elsewhere(info):
        return True
    try:
        control = open_control(run, shown)
    except FileNotFoundError:
        return False
    try:
        return _core.any_lock(control)
    finally:
        os.close(control)


def name_path(error: SegmentError, path: Path) -> SegmentError:
    """Return the same error with the file that it is about."""
    if isinstance(error, LayoutError):
        return layout_error(str(path))
    return SegmentError(error.reason, str(path))


def clear(run: int) -> None:
    # The control file first: a client that has it open and finds no run.json then sees by its link count why.
    for name in sorted(os.listdir(run), key=lambda name: name != CONTROL):
        try:
            os.unlink(name, dir_fd=run)
        except IsADirectoryError:
            inner = open_own_folder(name, dir_fd=run, inner=True)
            try:
                clear(inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=run)


def run_names(home: Home) -> list[str]:
    """Return the names of the run folders, sorted."""
    return sorted(name for name in os.listdir(home.fd) if names.valid(name))


@dataclass(frozen=True)
class Claim:
    """A run folder that this process may fill, or may join.

    Attributes:
        run: the run id.
        folder: the folder.
        joined: whether another rank of the job has made the run, so that there is a control file.
        refused: why the earlier places for runs can't be used; empty if the folder is in the first.
    """

    run: str
    folder: Path
    joined: bool = False
    refused: tuple[Exception, ...] = ()

    @property
    def control(self) -> Path:
        """The path of the control file."""
        return self.folder / CONTROL


@contextmanager
def claim(
    wanted: str | None,
    command: list[str],
    version: str,
    *,
    job: str = "",
    everywhere: str = "",
    world_size: int = 1,
    generation: int = 0,
    forked_from: tuple[str, int] = ("", 0),
    timeout: float = 2.0,
) -> Iterator[Claim]:
    """Make a folder for a new run, or take that of the job's run. Until the block ends, no other process makes or
    removes runs.

    wanted: the run id, or None for a new one. A folder that a dead run left under this id is emptied.
    job: the name of the job. A run of this id that another living rank of the job has made is joined. Ranks without a
        wanted id choose the same one.
    everywhere: the name of the job that is the same on all hosts, so that their ranks choose the same id too.
    generation: how often the launcher has started the job again. Ranks of two generations share no run, because the
        same step would be another item.
    forked_from: the run and the process of the worker from which this process was forked, if it was.
    timeout: seconds to wait for other processes that make or remove runs.

    Raises OSError, FolderRefusedError, SegmentError; RunNameTakenError if a living run has the id, JobEndingError if
    that is the job's own, and it is stopping or of another generation.
    """
    with opened_homes(create=True) as homes:
        if wanted is not None:
            home = _home_of(homes, wanted)
        else:
            home = _home_of(homes, names.of_job(everywhere or job, 1)) if job else homes[0]
        with locked_home(home, timeout):
            taken = {name for each in homes for name in os.listdir(each.fd)}
            run = wanted if wanted is not None else _unused(home, job, everywhere or job, generation, taken)
            try:
                fd = open_run(home, run)
            except FileNotFoundError:
                os.mkdir(run, 0o700, dir_fd=home.fd)
                fd = open_run(home, run)
            # One descriptor for all changes, so that the folder can be removed if there is no descriptor left.
            try:
                if is_alive(fd, home.path / run):
                    if not _is_of(fd, home.path / run, job, generation):
                        raise RunNameTakenError(run)
                    yield Claim(run, home.path / run, joined=True, refused=home.refused)
                    return
                clear(fd)
                _core.point("claim:folder")
                made = False
                try:
                    _write_info(fd, _new_info(run, command, version, job, world_size, generation, forked_from))
                    _core.point("claim:about")
                    yield Claim(run, home.path / run, refused=home.refused)
                    made = True
                finally:
                    if not made:
                        # This first, as it needs no descriptor: a run without a control file is not listed.
                        with suppress(FileNotFoundError):
                            os.unlink(CONTROL, dir_fd=fd)
                        clear(fd)
                        os.rmdir(run, dir_fd=home.fd)
            finally:
                os.close(fd)


def _home_of(homes: list[Home], run: str) -> Home:
    """Return the home in which a run of this name lives; the first one if it lives in none."""
    for home in homes[1:]:
        try:
            fd = open_run(home, run)
            try:
                if is_alive(fd, home.path / run):
                    return home
            finally:
                os.close(fd)
        except (OSError, FolderRefusedError) as error:
            if is_short(error):
                raise
            continue  # there is no such run, or it is not known whether it lives
    return homes[0]


def _new_info(
    run: str,
    command: list[str],
    version: str,
    job: str,
    world_size: int,
    generation: int,
    forked_from: tuple[str, int],
) -> RunInfo:
    """Return the content of `run.json` for a run that this process makes."""
    import platform
    import pwd
    import time

    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # a container's uid with no name
        user = str(os.geteuid())
    return RunInfo(
        id=run,
        command=command,
        directory=_directory(),
        user=user,
        host=socket.gethostname(),
        boot=boot_id(),
        pid=os.getpid(),
        started=time.time(),
        version=version,
        python=platform.python_version(),
        job=job,
        world_size=world_size,
        generation=generation,
        forked_from=forked_from[0],
        parent=forked_from[1],
    )


def _unused(home: Home, job: str, everywhere: str, generation: int, taken: set[str]) -> str:
    """Return a name for a run without a wanted id. For a job, it is that of the job's run, if there is one."""
    if not job:
        return names.draw(taken)
    for attempt in range(1, 100):
        run = names.of_job(everywhere, attempt)
        if run not in taken:
            return run
        try:
            fd = open_run(home, run)
            try:
                if not is_alive(fd, home.path / run) or _is_of(fd, home.path / run, job, generation):
                    return run
            finally:
                os.close(fd)
        except (OSError, FolderRefusedError) as error:
            if is_short(error):
                raise
            continue  # it was removed meanwhile, or it is not known whether it lives
    return names.draw(taken)


def _is_of(run: int, shown: Path, job: str, generation: int) -> bool:
    """Return whether the living run in this folder is the job's own.

    Raises JobEndingError if it is, and is stopping or of another generation.
    """
    info = read_info(run)
    if not job or info is None or info.job != job or elsewhere(info):
        return False
    if info.generation != generation:
        raise JobEndingError(info.id)
    try:
        control = open_control(run, shown)
    except FileNotFoundError:
        return False
    try:
        stopping = _core.read_view(control)["stop_seq"] != 0
    except SegmentError:
        return False
    finally:
        os.close(control)
    if stopping:
        raise JobEndingError(info.id)
    return True


def is_worker(pid: int, folder: Path) -> bool:
    """Return whether the process of this number is a worker of the run in this folder: it has the control file open.

    A worker in a container has another number there, and that number may be another process here.

    Raises OSError for want of descriptors or memory.
    """
    try:
        fd = open_own(folder / CONTROL, os.O_RDONLY)
    except (OSError, FolderRefusedError) as error:
        if is_short(error):
            raise
        return False
    try:
        return has_open(pid, fd)
    finally:
        os.close(fd)


def has_open(pid: int, control: int) -> bool:
    """Return whether the process of this number has this control file open. control: a descriptor of it.

    Raises OSError for want of descriptors or memory.
    """
    ours = os.fstat(control)
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError as error:
        if is_short(error):
            raise
        return False
    for name in descriptors:
        path = f"/proc/{pid}/fd/{name}"
        try:
            # The name first, because stat() would hang on a file of a file server that hangs.
            if os.path.basename(os.readlink(path)).startswith(CONTROL) and os.path.samestat(os.stat(path), ours):
                return True
        except OSError:
            continue
    return False


def _directory() -> str:
    try:
        return os.getcwd()
    except FileNotFoundError:  # removed under the process
        return ""


def new_id() -> int:
    """Return a new id for a request, or a cookie: 63 random bits, not 0."""
    return int.from_bytes(os.urandom(8), "little") >> 1 or 1
