"""A token that outlives its server, in a file for its owner alone: bookmarks and scripts keep working.

No token is kept unless the user asks for it. An open page or a bookmark hands the token to the server at its port. If
another user's server has taken the port meanwhile, a token that ended with its own server is worthless to it; a kept
one is not.
"""

import os
import secrets
import stat
from pathlib import Path

from spark_fast import journal, private_files
from spark_fast.descriptors import open_file
from spark_fast.errors import StoreError
from spark_fast.ui.security import TOKEN

__all__ = ["path", "read_or_make"]

_NAME = "ui-token"
_SIZE_MAX = 256


def path() -> Path:
    """Return where the token is kept; the file may not exist."""
    return journal.folder() / _NAME


def read_or_make() -> str:
    """Return the kept token. Where none is kept, make one.

    Raises StoreError if the file is not one that only its owner could read, FolderRefusedError for its folder, OSError.
    """
    place = path()
    place.parent.mkdir(0o700, parents=True, exist_ok=True)
    with private_files.opened(place.parent) as folder:
        try:
            return _read(folder, place)
        except FileNotFoundError:
            # Another server may make one at the same time: the first stays.
            private_files.write_whole(folder, _NAME, f"{secrets.token_urlsafe(32)}\n".encode(), replace=False)
            return _read(folder, place)


def _read(folder: int, place: Path) -> str:
    remedy = "remove it, and another is made"
    try:
        fd = open_file(_NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link is ELOOP
        raise StoreError(str(place), f"the token can't be read: {os.strerror(error.errno or 0)}; {remedy}") from None
    try:
        status = os.fstat(fd)
        private = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and status.st_nlink == 1
        if not private or status.st_mode & 0o077:
            raise StoreError(str(place), f"others may know the token: it is no file of yours with mode 0600; {remedy}")
        text = os.read(fd, _SIZE_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
    if not TOKEN.fullmatch(text):
        raise StoreError(str(place), f"it holds no token; {remedy}")
    return text
