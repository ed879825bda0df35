"""A token that outlives its server, in a file for its owner alone: bookmarks and scripts keep working.

No token is kept unless the user asks for it. An open page or a bookmark hands the token to the server at its port. If
another user's server has taken the port meanwhile, a token that ended with its own server is worthless to it; a kept
one is not.
"""

import os
import secrets
import stat
from pathlib import Path

from spark_fast.errors import FolderRefusedError, StoreError
from spark_fast.runfiles import journal, private_files
from spark_fast.runfiles.descriptors import open_own
from spark_fast.runfiles.safe_paths import make_folders
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
    make_folders(place.parent)
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
        fd = open_own(_NAME, os.O_RDONLY, dir_fd=folder, shown=place)
    except FileNotFoundError:
        raise
    except FolderRefusedError as error:
        raise StoreError(str(place), f"others may know the token: {error.found}, {error.expected}; {remedy}") from None
    except OSError as error:
        raise StoreError(str(place), f"the token can't be read: {os.strerror(error.errno or 0)}; {remedy}") from None
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if mode & 0o077:
            raise StoreError(str(place), f"others may know the token: the file has mode {mode:04o}; {remedy}")
        text = os.read(fd, _SIZE_MAX).decode("ascii", "replace").strip()
    finally:
        os.close(fd)
    if not TOKEN.fullmatch(text):
        raise StoreError(str(place), f"it holds no token; {remedy}")
    return text
