"""Small disks that can be filled: memory file systems in mounts of the campaign's own, which vanish with it."""

import ctypes
import errno
import os
import time
from pathlib import Path

__all__ = ["SmallDisk", "own_mounts"]

_NEW_MOUNTS = 0x20000
_RECURSIVE, _PRIVATE, _DETACH = 1 << 14, 1 << 18, 2
_CHUNK = 16 << 10

_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> bool:
    """Give this process and its children mounts of their own; return whether it may have them, as root may."""
    if os.geteuid() != 0 or _libc.unshare(_NEW_MOUNTS) != 0:
        return False
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(_RECURSIVE | _PRIVATE), None))
    return True


class SmallDisk:
    """A memory file system of so many bytes on a folder, gone when the block ends."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._filler = folder, folder / "filler"
        self._until = 0.0
        folder.mkdir(mode=0o700)
        options = f"size={size},mode=0700".encode()
        _check(_libc.mount(b"none", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(0), options))

    def __enter__(self) -> "SmallDisk":
        return self

    def __exit__(self, *_: object) -> None:
        _check(_libc.umount2(os.fsencode(self._folder), _DETACH))

    def fill(self, seconds: float) -> None:
        """Fill it to the last block; `free` frees it when the time is over."""
        self._until = time.monotonic() + seconds
        with self._filler.open("ab", buffering=0) as file:
            for size in (_CHUNK, 512):
                try:
                    while file.write(bytes(size)) == size:
                        continue
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self, *, at_once: bool = False) -> None:
        """Make room again, if the time is over."""
        if at_once or time.monotonic() >= self._until:
            self._filler.unlink(missing_ok=True)


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
