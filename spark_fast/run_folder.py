"""Where runs are kept: one folder for each user, in it one folder for each run.

The home is `$SPARK_FAST_HOME`, else `/tmp/spark-fast-<uid>`: not the user's runtime directory nor shared memory, which
are emptied at logout, and not $TMPDIR, which batch systems set for each job, so that a person's shell would look
elsewhere than the job does. Everything is for its owner alone, and no link is followed.
"""

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from spark_fast import _core, names
from spark_fast.errors import (
    FolderRefusedError,
    JobEndingError,
    LayoutError,
    RunNameTakenError,
    SegmentError,
    layout_error,
)

__all__ = [
    "About",
    "Claim",
    "claim",
    "has_open",
    "has_supervisor",
    "hold_supervisor",
    "home_path",
    "is_short",
    "is_worker",
    "open_home",
    "read_about",
    "remove_ended",
    "run_names",
]

CONTROL = "control"
ABOUT = "run.json"
HOME_LOCK = ".lock"
SUPERVISOR = ".supervisor-"
ABOUT_MAX = 1 << 20


def is_short(error: Exception) -> bool:
    """Whether it is a lack of descriptors or memory, which says nothing of the file: a run that can't be looked at for
    want of a descriptor is not dead."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def home_path() -> Path:
    """The user's folder of runs; it may not exist yet."""
    chosen = os.environ.get("SPARK_FAST_HOME")
    if chosen and not os.path.isabs(chosen):  # it was set after the package was imported
        chosen = os.environ["SPARK_FAST_HOME"] = os.path.abspath(chosen)
    return Path(chosen) if chosen else Path("/tmp") / f"spark-fast-{os.geteuid()}"


def _describe(status: os.stat_result) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFREG: "a file", stat.S_IFDIR: "a folder"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a special file")
    return f"{kind} of uid {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}"


def _check_folder(path: str | Path, *, dir_fd: int | None = None, shown: Path) -> os.stat_result:
    status = os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    uid = os.geteuid()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != uid:
        raise FolderRefusedError(
            str(shown),
            f"found {_describe(status)}",
            f"expected a folder of uid {uid} with mode 0700: remove it, or set SPARK_FAST_HOME to a folder of yours",
        )
    if status.st_mode & 0o077:
        raise FolderRefusedError(
            str(shown),
            f"found {_describe(status)}",
            f"others could read it or ask for things: chmod 700 {shown}",
        )
    return status


def open_home(*, create: bool = False) -> int:
    """A descriptor of the home folder. FileNotFoundError if there is none, FolderRefusedError if it is not ours."""
    path = home_path()
    if create:
        with suppress(FileExistsError):
            os.mkdir(path, 0o700)
    before = _check_folder(path, shown=path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    after = os.fstat(fd)
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
        os.close(fd)
        raise FolderRefusedError(str(path), "it was replaced while it was being opened", "try again")
    return fd


@contextmanager
def _home_locked(home: int, timeout: float) -> Iterator[None]:
    """Turns at making and removing run folders. The kernel ends the turn of a process that dies."""
    fd = os.open(HOME_LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=home)
    try:
        if not _core.lock_file(fd, timeout):
            raise SegmentError("another process has kept it locked", str(home_path() / HOME_LOCK))
        yield
    finally:
        _core.unlock_file(fd)  # whatever came first: an interrupt, say, with the lock just taken
        os.close(fd)


@dataclass(frozen=True)
class About:
    """What is known of a run for as long as its folder is there. One JSON object, written before the run exists.

    Attributes:
        id: the run id.
        command: the command line, as a list.
        directory: the working directory at the start.
        user, host, pid: of the process that made the run.
        boot: of the host: the kernel's own id of this boot, the same in all containers; "" where there is none.
        started: seconds since the epoch.
        version: of spark_fast.
        python: of the interpreter.
        job: what all ranks of a job on one host have in common; "" for a run of one process.
        world_size: how many ranks the job has.
        generation: how often the launcher had started the job again by then.
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


def boot_id() -> str:
    """What tells this boot of this machine from all others."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # not Linux
        return ""


def elsewhere(about: About) -> bool:
    """Whether a run is on another machine that shares this folder: nothing can be told of it here, not even its end."""
    return about.host != socket.gethostname() and about.boot != boot_id()


def _write_about(run: int, about: About) -> None:
    making = ABOUT + ".new"
    fd = os.open(making, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=run)
    with open(fd, "w", encoding="utf-8") as file:
        json.dump(asdict(about), file)
    os.rename(making, ABOUT, src_dir_fd=run, dst_dir_fd=run)


def read_about(run: int) -> About | None:
    """What a run's folder says of it; None if it says nothing that makes sense."""
    try:
        fd = os.open(ABOUT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
    except OSError as error:
        if is_short(error):
            raise
        return None
    with open(fd, "rb") as file:
        raw = file.read(ABOUT_MAX)
    try:
        found = json.loads(raw)
        # Of a run of another version, what it does not say is left empty: better shown than hidden.
        empty = {"command": [], "pid": 0, "started": 0.0, "world_size": 1, "generation": 0}
        known = {field.name: found.get(field.name, empty.get(field.name, "")) for field in fields(About)}
        return About(
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
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def open_run(home: int, run: str) -> int:
    """A descriptor of a run's folder. FileNotFoundError, or FolderRefusedError if it can't be trusted."""
    shown = home_path() / run
    before = _check_folder(run, dir_fd=home, shown=shown)
    fd = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
    after = os.fstat(fd)
    if (before.st_dev, before.st_ino) != (after.st_dev, after.st_ino):
        os.close(fd)
        raise FolderRefusedError(str(shown), "it was replaced while it was being opened", "try again")
    return fd


def open_control(run: int) -> int:
    """A descriptor of a run's control file, to read. FileNotFoundError if it has none."""
    return os.open(CONTROL, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)


def _alive(run: int) -> bool:
    """Whether a process holds a lock in the control file of this folder, whatever the file holds: a living rank. A run
    of another machine counts as alive."""
    about = read_about(run)
    if about is not None and elsewhere(about):
        return True
    try:
        control = open_control(run)
    except OSError as error:
        if is_short(error):
            raise
        return False
    try:
        return _core.any_lock(control)
    finally:
        os.close(control)


def name_path(error: SegmentError, path: Path) -> SegmentError:
    """The same error with the file that it is about."""
    if isinstance(error, LayoutError):
        return layout_error(str(path))
    return SegmentError(error.reason, str(path))


def _empty(run: int) -> None:
    # The control file first: whoever has opened it and then finds no run.json sees by its link count why.
    for name in sorted(os.listdir(run), key=lambda name: name != CONTROL):
        try:
            os.unlink(name, dir_fd=run)
        except IsADirectoryError:
            inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=run)
            try:
                _empty(inner)
            finally:
                os.close(inner)
            os.rmdir(name, dir_fd=run)


def run_names(home: int) -> list[str]:
    """The names of the run folders, sorted."""
    return sorted(name for name in os.listdir(home) if names.valid(name))


@dataclass(frozen=True)
class Claim:
    """A run folder that is this process's to fill, or to join.

    Attributes:
        run: the run id.
        folder: the folder.
        joined: whether another rank of the job has made the run: there is a control file.
    """

    run: str
    folder: Path
    joined: bool = False

    @property
    def control(self) -> Path:
        """Where the control file is to be."""
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
    timeout: float = 2.0,
) -> Iterator[Claim]:
    """A folder for a new run, or that of the job's run. Until the block ends nobody else makes or removes runs.

    wanted: its id, or None for a new one. A folder that a dead run left under this id is emptied.
    job: if another rank of this job lives, and has made a run of this id, that is joined. Ranks without a wanted id
        come to the same one.
    everywhere: the job, the same on all hosts, so that they come to one id there too.
    generation: how often the launcher has started the job again. Ranks of two generations share no run: their steps
        would stand for different items.
    timeout: seconds to wait for others that make or remove runs.

    Raises OSError, FolderRefusedError, SegmentError; RunNameTakenError if a living run has the id, JobEndingError if
    that is the job's own, and it is stopping or of another generation.
    """
    import platform
    import pwd
    import time

    home = open_home(create=True)
    try:
        with _home_locked(home, timeout):
            taken = set(os.listdir(home))
            run = wanted if wanted is not None else _unused(home, job, everywhere or job, generation, taken)
            if run in taken:
                fd = open_run(home, run)
                try:
                    if _alive(fd):
                        if not _is_of(fd, job, generation):
                            raise RunNameTakenError(run)
                        yield Claim(run, home_path() / run, joined=True)
                        return
                    _empty(fd)
                finally:
                    os.close(fd)
            else:
                os.mkdir(run, 0o700, dir_fd=home)
            _core.point("claim:folder")
            try:
                user = pwd.getpwuid(os.geteuid()).pw_name
            except KeyError:  # a container's uid with no name
                user = str(os.geteuid())
            about = About(
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
            )
            fd = open_run(home, run)
            try:
                _write_about(fd, about)
                _core.point("claim:about")
            finally:
                os.close(fd)
            made = False
            try:
                yield Claim(run, home_path() / run)
                made = True
            finally:
                if not made:
                    _remove(home, run)
    finally:
        os.close(home)


def _unused(home: int, job: str, everywhere: str, generation: int, taken: set[str]) -> str:
    """A name for a run that nobody has asked for a certain one. Of a job, that of its run, if there is one."""
    if not job:
        return names.draw(taken)
    for attempt in range(1, 100):
        run = names.of_job(everywhere, attempt)
        if run not in taken:
            return run
        try:
            fd = open_run(home, run)
        except (FileNotFoundError, FolderRefusedError):
            continue
        try:
            if not _alive(fd) or _is_of(fd, job, generation):
                return run
        finally:
            os.close(fd)
    return names.draw(taken)


def _is_of(run: int, job: str, generation: int) -> bool:
    """Whether the living run in this folder is the job's own. Raises JobEndingError if it is, and is stopping or of
    another generation."""
    about = read_about(run)
    if not job or about is None or about.job != job or elsewhere(about):
        return False
    if about.generation != generation:
        raise JobEndingError(about.id)
    try:
        control = open_control(run)
    except OSError as error:
        if is_short(error):
            raise
        return False
    try:
        stopping = _core.read_view(control)["stop_seq"] != 0
    except SegmentError:
        return False
    finally:
        os.close(control)
    if stopping:
        raise JobEndingError(about.id)
    return True


def is_worker(pid: int, folder: Path) -> bool:
    """Whether the process of this number, here, is a worker of the run in this folder: it has the control file open.

    A worker in a container goes by another number there, and its own names another process here.
    """
    try:
        fd = os.open(folder / CONTROL, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return has_open(pid, fd)
    finally:
        os.close(fd)


def has_open(pid: int, control: int) -> bool:
    """Whether the process of this number, here, has the control file open of which this is a descriptor."""
    ours = os.fstat(control)
    try:
        descriptors = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return False
    for name in descriptors:
        path = f"/proc/{pid}/fd/{name}"
        try:
            # The name first: a look at a file of a server that hangs would hang too.
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


def _remove(home: int, run: str) -> None:
    fd = open_run(home, run)
    try:
        _empty(fd)
    finally:
        os.close(fd)
    os.rmdir(run, dir_fd=home)


# --- supervisors ---


def hold_supervisor(run: str) -> int | None:
    """Takes the lock that says that a supervisor watches over this run; the kernel drops it when the process dies.

    Returns a descriptor that is to be kept open, or None if the lock can't be had now. Never waits. Raises OSError,
    FolderRefusedError.
    """
    home = open_home()
    try:
        # In the home's turn, so that remove_ended() does not remove the file between its opening and its locking.
        with suppress(SegmentError), _home_locked(home, 0.0):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(SUPERVISOR + run, flags, 0o600, dir_fd=home)
            if _core.lock_file(fd, 0.0):
                return fd
            os.close(fd)
        return None
    finally:
        os.close(home)


def has_supervisor(run: str) -> bool:
    """Whether a supervisor lives that watches over this run."""
    home = open_home()
    try:
        return _locked(SUPERVISOR + run, home)
    finally:
        os.close(home)


def _locked(name: str, home: int) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
    except OSError as error:
        if is_short(error):
            raise
        return False
    try:
        return _core.any_lock(fd)
    finally:
        os.close(fd)


def _remove_supervisors(home: int) -> None:
    for name in os.listdir(home):
        if name.startswith(SUPERVISOR) and not _locked(name, home):
            os.unlink(name, dir_fd=home)


# --- what is left ---


def remove_ended(*, timeout: float = 10.0) -> list[str]:
    """Removes the folders of runs of which no process lives; returns their ids. Folders that can't be trusted stay."""
    try:
        home = open_home()
    except FileNotFoundError:
        return []
    removed = []
    try:
        with _home_locked(home, timeout):
            for run in run_names(home):
                try:
                    fd = open_run(home, run)
                except (FileNotFoundError, FolderRefusedError):
                    continue
                try:
                    alive = _alive(fd)
                finally:
                    os.close(fd)
                if not alive:
                    _remove(home, run)
                    removed.append(run)
            _remove_supervisors(home)
    finally:
        os.close(home)
    return removed


def new_id() -> int:
    """An id for a request, or a cookie: 63 random bits, not 0."""
    return int.from_bytes(os.urandom(8), "little") >> 1 or 1
