"""Opening files: those that the user names, and those that are the run owner's alone. The core has sf_open.h for it.

Every file and folder of the package's own goes through `open_own()` or `open_own_folder()`. A test of the package's
source sees to that.
"""

import errno
import os
import stat
from pathlib import Path

from spark_fast.errors import FolderRefusedError

__all__ = ["describe", "is_short", "open_file", "open_own", "open_own_folder"]

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}

_LINK = (errno.ELOOP, errno.EMLINK)
_REPLACED_MOST = 100
"""How often a file that was replaced meanwhile is opened. Some file systems say of each file that it was removed."""

_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def is_short(error: BaseException | None) -> bool:
    """Return whether the system lacked descriptors or memory. Such an error says nothing of the file itself."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def open_file(path: str | os.PathLike[str], flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
    """Return a descriptor as os.open() does, closed on exec, but of 3 or more.

    A process that was started with closed standard streams gets the numbers 0 to 2 for the first files that it opens,
    and what its code then prints would be written into them.

    Raises OSError.
    """
    fd = os.open(path, flags | os.O_CLOEXEC, mode, dir_fd=dir_fd)
    if fd > 2:
        return fd
    import fcntl  # here, because hardly any process needs it

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def open_own(
    path: str | os.PathLike[str],
    flags: int,
    mode: int = 0o600,
    *,
    dir_fd: int | None = None,
    shown: str | os.PathLike[str] | None = None,
    pipe: bool = False,
    linked: bool = False,
) -> int:
    """Open a file of this user that no other user can have put there, as sf_open_own() of the core does.

    Another user may have put something else under this name. A named pipe would block the call, a symbolic link would
    lead to another file, and the other user could read what is written into a file of theirs. So the call does not
    block and follows no link. The checks look at the open file, so nothing can be swapped in after them.

    Args:
        path, flags, mode, dir_fd: as os.open() takes them.
        shown: the path for messages, where `path` is relative to `dir_fd`.
        pipe: whether a named pipe is expected, and not a regular file.
        linked: whether the file may have several names. Only in a folder that no other user may enter: elsewhere a
            second name may have been made to have another file of ours written into.

    Raises OSError; FolderRefusedError if it is not a regular file of this user with exactly one name, or no pipe of
    this user. Costs one call of the system more than os.open().
    """
    name = str(shown if shown is not None else path)
    for _ in range(_REPLACED_MOST):
        fd = _open_once(path, flags, mode, dir_fd, name, pipe=pipe, linked=linked)
        if fd is not None:
            return fd
    raise FileNotFoundError(errno.ENOENT, "it was removed or replaced each time that it was opened", name)


def _open_once(
    path: str | os.PathLike[str], flags: int, mode: int, dir_fd: int | None, name: str, *, pipe: bool, linked: bool
) -> int | None:
    """As open_own(); None if the file was removed or replaced meanwhile: the name leads to its successor or nowhere."""
    wanted = stat.S_IFIFO if pipe else stat.S_IFREG
    expected = f"expected {_KINDS[wanted]} of yours{'' if pipe else ' with one name'}, and no link"
    try:
        fd = open_file(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=dir_fd)
    except OSError as error:
        # A link (its number depends on the system), a folder, a pipe without a reader, or a socket.
        if error.errno in (*_LINK, errno.EISDIR) or (error.errno == errno.ENXIO and not pipe):
            raise FolderRefusedError(name, _found(path, dir_fd), expected) from None
        raise
    try:
        status = os.fstat(fd)
        several = status.st_nlink > 1 and not linked
        if stat.S_IFMT(status.st_mode) != wanted or status.st_uid != os.geteuid() or several:
            raise FolderRefusedError(name, f"found {describe(status)}", expected)
    except BaseException:
        os.close(fd)
        raise
    if status.st_nlink == 0:
        os.close(fd)
        return None
    return fd


def open_own_folder(
    path: str | os.PathLike[str],
    *,
    dir_fd: int | None = None,
    shown: str | os.PathLike[str] | None = None,
    inner: bool = False,
) -> int:
    """Open a folder of this user that no other user may enter. Arguments as open_own() takes them.

    inner: whether any mode will do, since it is below a folder that no other user may enter.

    Raises FileNotFoundError if it is not there, FolderRefusedError if it is a link, another user's or open to others,
    and another OSError if the system can't tell.
    """
    name = str(shown if shown is not None else path)
    expected = "expected a folder of yours with mode 0700, and no link"
    try:
        fd = open_file(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in (*_LINK, errno.ENOTDIR):
            raise FolderRefusedError(name, _found(path, dir_fd), expected) from None
        if error.errno == errno.EACCES:  # of another user, most often
            raise FolderRefusedError(name, f"{_found(path, dir_fd)}, which can't be read", expected) from None
        raise
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or (status.st_mode & 0o077 and not inner):
        os.close(fd)
        raise FolderRefusedError(name, f"found {describe(status)}", expected)
    return fd


def describe(status: os.stat_result) -> str:
    """Return what a file is, whose, and who may use it, for messages."""
    kind = _KINDS.get(stat.S_IFMT(status.st_mode), "a special file")
    names = f" and {status.st_nlink} names" if stat.S_ISREG(status.st_mode) and status.st_nlink > 1 else ""
    return f"{kind} of uid {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}{names}"


def _found(path: str | os.PathLike[str], dir_fd: int | None) -> str:
    try:
        return f"found {describe(os.stat(path, dir_fd=dir_fd, follow_symlinks=False))}"
    except OSError as error:
        return f"found {Path(path).name}, of which the system says: {error.strerror}"
