"""The parts of a journal. A journal that has grown is continued in a new file, and the oldest parts are dropped.

    FILE       the newest part, to which the worker writes
    FILE.3     the part before it; a higher number is a newer part
    FILE.2     …

A worker renames FILE and then makes it anew. If it is killed in between, the highest number is the newest part. The
header of a part that continues another has `part`, its place in the journal, from 2 on, and `before`, the number of the
part before it: several runs may write to one FILE, one after the other, and their parts lie side by side.

FILE may lie where other users can make files. So only regular files of this user count as parts, and a new part takes a
number that no file has.
"""

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

__all__ = ["COUNT", "drop_oldest", "newest", "path_of", "put_aside"]

COUNT = 8
"""How many parts a journal has at most. Each takes an equal share of the journal's limit."""


def path_of(base: Path, number: int) -> Path:
    """Return the file of the part of this number."""
    return base.with_name(f"{base.name}.{number}")


def newest(base: Path) -> Path | None:
    """Return the file of the newest part; None if there is no journal.

    A worker that was killed in between may have left FILE empty beside parts with numbers. It is passed over then. So
    is a FILE of another user, who may have made it while the parts were changed.
    """
    numbers = _numbers(base)
    try:
        status = os.lstat(base)
    except FileNotFoundError:
        return path_of(base, numbers[-1]) if numbers else None
    if numbers and (status.st_size == 0 or not _is_own(status)):
        return path_of(base, numbers[-1])
    return base


def put_aside(base: Path) -> int:
    """Give the newest part a number, so that FILE can be made anew. Returns the number. Raises OSError."""
    number = max(_numbers(base), default=0) + 1
    taken = _named(base)
    while number in taken:  # by another user: it must not be replaced
        number += 1
    os.rename(base, path_of(base, number))
    return number


def drop_oldest(base: Path, most: int) -> int:
    """Remove the oldest numbered parts until those that are left have `most` bytes at most.

    Returns how many were removed. Raises OSError.
    """
    kept = dropped = 0
    for number in reversed(_numbers(base)):
        path = path_of(base, number)
        kept += path.lstat().st_size
        if kept > most:
            path.unlink()
            dropped += 1
    return dropped


def _numbers(base: Path) -> list[int]:
    """The numbers of the parts, the oldest first."""
    found = []
    for number in _named(base):
        with suppress(FileNotFoundError):
            if _is_own(os.lstat(path_of(base, number))):
                found.append(number)
    return sorted(found)


def _named(base: Path) -> set[int]:
    """The numbers of all files that are called like parts."""
    shape = re.compile(re.escape(base.name) + r"\.([1-9][0-9]{0,8})")
    try:
        return {int(found[1]) for name in os.listdir(base.parent) if (found := shape.fullmatch(name))}
    except FileNotFoundError:
        return set()


def _is_own(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
