"""Opening files such that none of them becomes a standard stream, as csrc/sf_open.h does for the core."""

import os

__all__ = ["open_file"]


def open_file(path: str | os.PathLike[str], flags: int, mode: int = 0o600, *, dir_fd: int | None = None) -> int:
    """Return a descriptor as os.open() does, closed on exec, but of 3 or more.

    A process that was started with closed standard streams gets the numbers 0 to 2 for the first files that it opens,
    and whatever its code then prints would be written into them.

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
