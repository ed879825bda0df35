"""Small files for their owner alone, below a run folder: written whole, read with a limit, no link followed.

A file that is read may be damaged, or another process may have put it there. Each problem is a StoreError that names
the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from spark_fast import _core
from spark_fast.errors import FolderRefusedError, StoreError
from spark_fast.runfiles.descriptors import is_short, open_own, open_own_folder

__all__ = ["append_line", "locked", "opened", "read_whole", "write_whole"]


@contextmanager
def opened(folder: Path, *names: str, create: bool = False) -> Iterator[int]:
    """Open a folder, or one below it. Each folder on the way is one of this user that no other user may enter.

    create: whether to make missing folders below `folder`.

    Raises FileNotFoundError if one is not there, FolderRefusedError if one can't be trusted, another OSError if the
    system can't tell.
    """
    shown = folder
    fd = open_own_folder(folder)
    try:
        for name in names:
            shown = shown / name
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=fd)
            inner = open_own_folder(name, dir_fd=fd, shown=shown)
            outer, fd = fd, inner  # in this order: an interrupt in between closes nothing twice
            os.close(outer)
        yield fd
    finally:
        os.close(fd)


def write_whole(folder: int, name: str, content: bytes, *, replace: bool = True) -> bool:
    """Write a file such that a reader finds all of it or none, also if this process is killed.

    replace: whether to replace a file that is there.

    Returns whether the file was written. Raises OSError.
    """
    making = f".{name}.{os.getpid()}.{os.urandom(4).hex()}"
    fd = open_own(making, os.O_WRONLY | os.O_CREAT | os.O_EXCL, dir_fd=folder)
    try:
        with open(fd, "wb", buffering=0) as file:
            while content:
                content = content[file.write(content) :]
        if replace:
            os.rename(making, name, src_dir_fd=folder, dst_dir_fd=folder)
            return True
        os.link(making, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        os.unlink(making, dir_fd=folder)
        return False
    except BaseException:
        with suppress(FileNotFoundError):  # an interrupt may come after the rename
            os.unlink(making, dir_fd=folder)
        raise
    os.unlink(making, dir_fd=folder)
    return True


def append_line(folder: int, name: str, line: bytes) -> None:
    """Add a line by one write; on a full disk, all of it or nothing. Callers take turns.

    Raises OSError, FolderRefusedError if the file is not ours alone.
    """
    fd = open_own(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, dir_fd=folder)
    try:
        size = os.fstat(fd).st_size
        if os.write(fd, line) < len(line):
            os.ftruncate(fd, size)
            raise OSError(f"no room for a line in {name}")
    finally:
        os.close(fd)


def read_whole(folder: int, name: str, limit: int, shown: Path) -> bytes:
    """Return the content of a file.

    Raises FileNotFoundError if it is not there, StoreError if it is not ours alone, can't be read or is over `limit`;
    another OSError for want of descriptors or memory, which says nothing of the file.
    """
    path = str(shown / name)
    try:
        # write_whole() gives a file a second name for a moment.
        fd = open_own(name, os.O_RDONLY, dir_fd=folder, shown=path, linked=True)
    except FolderRefusedError as error:
        raise StoreError(path, f"it is no file of yours: {error.found}") from None
    except FileNotFoundError:
        raise
    except OSError as error:
        if is_short(error):
            raise
        raise StoreError(path, f"it can't be opened: {os.strerror(error.errno or 0)}") from None
    try:
        size = os.fstat(fd).st_size
        if size > limit:
            raise StoreError(path, f"it has {size} bytes; at most {limit} are read")
        with open(fd, "rb", closefd=False) as file:
            return file.read(limit)
    except OSError as error:
        if is_short(error):
            raise
        raise StoreError(path, f"it can't be read: {error.strerror}") from None
    finally:
        os.close(fd)


@contextmanager
def locked(folder: int, name: str, timeout: float, shown: Path) -> Iterator[None]:
    """Hold a lock on a folder. The kernel drops the lock of a process that dies.

    Raises StoreError after `timeout` seconds, OSError, FolderRefusedError.
    """
    fd = open_own(name, os.O_RDWR | os.O_CREAT, dir_fd=folder, shown=shown / name)
    try:
        if not _core.lock_file(fd, timeout):
            raise StoreError(str(shown / name), f"another process has kept it locked for {timeout:g} s")
        yield
    finally:
        _core.unlock_file(fd)
        os.close(fd)
