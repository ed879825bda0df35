"""Private folders by their path: no other user can have put them there, nor can put another in their place.

A folder is opened one name at a time, each below a descriptor of the folder before. What is checked is what was opened.
"""

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from spark_fast.errors import FolderRefusedError
from spark_fast.runfiles.descriptors import describe, open_file, open_own_folder

__all__ = ["make_folders", "open_private", "own_state_folder"]

_LINKS = 40
"""Symbolic links on the way at most, as the kernel has it."""
_LOOK = getattr(os, "O_PATH", os.O_RDONLY)
"""To look at a folder, and open what is in it; with O_PATH also where it can't be listed."""
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def open_private(path: Path, *, make: bool = False, make_parents: bool = False) -> int:
    """Open a folder that only this user can enter, below folders in which no other user can replace it.

    Args:
        path: absolute.
        make: whether to make the folder, with mode 0700, if it is not there.
        make_parents: whether to make the folders above it, too, each with mode 0700.

    Raises FolderRefusedError, which says what to do, if the folder or one above it can't be trusted; FileNotFoundError
    if it is not there; OSError. Costs some 5 µs for each folder on the way.
    """
    try:
        above = _open_above(path, make=make_parents)
    except OSError as error:  # it names the folder on the way alone
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
    name = path.name or "."
    try:
        if make:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
        try:
            return open_own_folder(name, dir_fd=above, shown=path)
        except FolderRefusedError as error:
            raise FolderRefusedError(error.path, error.found, _remedy(path, above)) from None
    finally:
        os.close(above)


def make_folders(path: Path) -> None:
    """Make a folder and those above it that are not there, each with mode 0700 whatever the umask allows.

    Raises OSError.
    """
    if path.is_dir():
        return
    make_folders(path.parent)
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)


def own_state_folder() -> Path | None:
    """Return the folder for runs below the user's home directory; None for a user without one."""
    path = Path(os.path.expanduser("~/.local/state/spark-fast"))
    return path if path.is_absolute() else None


def _elsewhere() -> str:
    mine = own_state_folder()
    return f"set SPARK_FAST_HOME to a folder that only you can change{'' if mine is None else f', such as {mine}'}"


def _open_above(path: Path, *, make: bool) -> int:
    """A descriptor of the folder that holds `path`. All from `/` on have been looked at."""
    fd = open_file("/", _LOOK | os.O_DIRECTORY)
    try:
        root = os.fstat(fd).st_uid
        _check_above(os.fstat(fd), Path("/"), path, root)
        names, shown, links = list(reversed(path.parts[1:-1])), Path("/"), 0
        while names:
            name = names.pop()
            inner = _step(fd, name, make=make)
            if inner is None:
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                _check_link(os.stat(name, dir_fd=fd, follow_symlinks=False), shown / name, path, root)
                target = Path(os.readlink(name, dir_fd=fd))
                if target.is_absolute():
                    inner, shown = open_file("/", _LOOK | os.O_DIRECTORY), Path("/")
                    fd = _follow(fd, inner)
                names += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                continue
            fd = _follow(fd, inner)
            shown = shown.parent if name == ".." else shown / name
            _check_above(os.fstat(fd), shown, path, root)
        return fd
    except BaseException:
        os.close(fd)
        raise


def _follow(outer: int, inner: int) -> int:
    os.close(outer)
    return inner


def _step(fd: int, name: str, *, make: bool) -> int | None:
    """A descriptor of the folder of this name; None if it is a symbolic link."""
    flags = _LOOK | os.O_DIRECTORY | os.O_NOFOLLOW
    try:
        return open_file(name, flags, dir_fd=fd)
    except FileNotFoundError:
        if not make:
            raise
        with suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=fd)
        return open_file(name, flags, dir_fd=fd)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            raise
        if not stat.S_ISLNK(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
            raise
        return None


def _check_above(status: os.stat_result, shown: Path, path: Path, root: int) -> None:
    """Refuses a folder in which another user could replace what is in it."""
    if status.st_uid not in (0, os.geteuid(), root):
        raise FolderRefusedError(str(path), f"another user owns {shown}, {describe(status)}", _elsewhere())
    if status.st_mode & _OTHERS and not status.st_mode & stat.S_ISVTX and not _is_own_group(status):
        # With the sticky bit, as /tmp has it, others can add to the folder and replace nothing.
        remedy = f"chmod +t {shown}, or {_elsewhere()}" if status.st_uid == os.geteuid() else _elsewhere()
        raise FolderRefusedError(str(path), f"others can replace it: {shown} is {describe(status)}", remedy)


def _check_link(status: os.stat_result, shown: Path, path: Path, root: int) -> None:
    if status.st_uid not in (0, os.geteuid(), root):
        raise FolderRefusedError(str(path), f"another user owns {shown}, {describe(status)}", _elsewhere())


def _is_own_group(status: os.stat_result) -> bool:
    """Whether only the group may write, and has no member but this user and root.

    Many systems give each user a group of the same name, and let the group write into what the user makes.
    """
    if status.st_mode & stat.S_IWOTH:
        return False
    if status.st_gid == 0:
        return True
    import grp  # rarely needed, and a look at a directory service may be slow
    import pwd

    try:
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _remedy(path: Path, above: int) -> str:
    """What to do about a folder of runs that was refused."""
    try:
        status = os.stat(path.name or ".", dir_fd=above, follow_symlinks=False)
    except OSError:
        return _elsewhere()
    mine = status.st_uid == os.geteuid()
    if mine and stat.S_ISLNK(status.st_mode):
        return f"no link is followed: set SPARK_FAST_HOME to the folder itself, {os.path.realpath(path)}"
    if mine and stat.S_ISDIR(status.st_mode):
        if _is_for_runs(path, status):
            return f"others could read it or ask for things: chmod 700 {path}"
        return f"others may enter it, and it is not for runs alone: {_elsewhere()}"
    if os.geteuid() == 0 and stat.S_ISDIR(status.st_mode):
        return f"run the command as the user who owns it, or {_elsewhere()}"
    return _elsewhere()


def _is_for_runs(path: Path, status: os.stat_result) -> bool:
    """Whether others lose nothing if they can't enter this folder: it is empty, or holds what we put there."""
    if len(path.parts) <= 2 or status.st_mode & stat.S_IWOTH:  # `/`, `/mnt`, `/tmp`
        return False
    try:
        return all(name.startswith(".") or (path / name / "run.json").exists() for name in os.listdir(path))
    except OSError:
        return False
