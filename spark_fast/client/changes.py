"""What the sender of a reload makes a version of: what changed on disk, code that it was given, or an older version."""

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spark_fast.code_versions import SOURCE_MAX, About, Store, Version, digest_of, this_python
from spark_fast.errors import CodeRefusedError, StoreError
from spark_fast.project_files import is_project_file, relative
from spark_fast.sources import Fault, check, encode, imports_of

__all__ = ["add_version"]

_STILL = 0.005
"""Seconds for which a file has not been written to when it counts as whole. Editors write in two steps."""
_LOOKS = 10
"""How often a file is read that does not hold still, or is empty: that is how it looks between the steps."""


def add_version(store: Store, sender: str, *, code: str | bytes | None = None, to: int | None = None) -> Version | None:
    """Makes a version and returns it; None if it would be the one that runs.

    code: the new source of the entry file; without, what changed on disk is taken.
    to: the number of the version to go back to, instead of either.

    Raises CodeRefusedError if it is no code that could run, StoreError if the store can't be used.
    """
    base = store.current()
    about = store.about()
    if to is not None:
        found = _older(store, to, base)
    elif code is not None:
        found = _pushed(about, base, code)
    else:
        found = _on_disk(about, base)
    if dict(found.files) == dict(base.files):
        return None
    for path, source in found.sources.items():
        store.put(source, path)
    return store.add(found.files, found.disk, found.note, sender)


@dataclass(frozen=True)
class _Found:
    files: dict[str, str]
    disk: dict[str, str]
    sources: dict[str, bytes]
    note: str


def _older(store: Store, number: int, base: Version) -> _Found:
    try:
        old = store.version(number)
    except StoreError as error:
        raise CodeRefusedError(f"can't go back to version {number}: {error.reason}") from None
    # What the senders saw on disk stays known: an edit that no version has yet is still one.
    return _Found(dict(store.with_loaded(old).files), dict(base.disk), {}, f"back to {number}")


def _pushed(about: About, base: Version, code: str | bytes) -> _Found:
    if about.entry is None:
        raise CodeRefusedError("the run has no entry file that the code could replace")
    try:
        source = encode(code) if isinstance(code, str) else code
    except UnicodeEncodeError as error:
        raise CodeRefusedError(f"the code can't be encoded as it says itself: {error}") from None
    _refuse_blank(about.entry, source)
    # Nothing on disk was looked at: what changed there still counts as changed.
    return _complete(about, base, {about.entry: source}, base.disk, "pushed")


def _on_disk(about: About, base: Version) -> _Found:
    found = _read_all(base.files, base.disk)
    changed = {path: source for path, source in found.items() if source is not None}
    changed = {path: source for path, source in changed.items() if digest_of(source) != base.disk.get(path)}
    if about.entry in changed:
        _refuse_blank(about.entry, changed[about.entry])
    gone = sorted(path for path, source in found.items() if source is None and path in base.disk)
    note = "changed on disk"
    if gone:
        shown = ", ".join(relative(path, about.roots) for path in gone[:3])
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        note += f"; gone from disk, and as it was: {shown}{more}"
    disk = {path: digest for path, digest in base.disk.items() if path not in gone}
    return _complete(about, base, changed, disk | {path: digest_of(source) for path, source in changed.items()}, note)


def _refuse_blank(path: str, source: bytes) -> None:
    if not source.strip():
        raise CodeRefusedError(f"{path} is empty")


def _complete(
    about: About, base: Version, changed: Mapping[str, bytes], on_disk: Mapping[str, str], note: str
) -> _Found:
    """The files of `base` with those that changed, and with those that these import and that are not known yet."""
    sources = dict(changed)
    must_compile = dict(changed)
    disk = dict(on_disk)
    waiting = list(changed.items())
    while waiting:
        path, source = waiting.pop()
        wanted: dict[str, bool] = {}
        for found, sure in _imported(path, source, about):
            if found not in base.files and found not in sources:
                wanted[found] = sure or wanted.get(found, False)
        for found, more in _read_all(wanted, {}).items():
            if more is None:
                continue
            sources[found] = more
            disk[found] = digest_of(more)
            waiting.append((found, more))
            if wanted[found] and path in must_compile:
                must_compile[found] = more
    if this_python() == about.python and (faults := check(must_compile)):
        raise CodeRefusedError(_told(faults, about.roots))
    files = {**base.files, **{path: digest_of(source) for path, source in sources.items()}}
    return _Found(files, disk, sources, note)


def _told(faults: Sequence[Fault], roots: Sequence[str]) -> str:
    first = faults[0]
    line = "" if first.line is None else f", line {first.line}"
    summary = f"{relative(first.path, roots)}{line}: {first.what}"
    return "\n".join([summary, *(fault.text.rstrip("\n") for fault in faults)])


# --- files of the person who trains ---


def _read_all(paths: Iterable[str], known: Mapping[str, str]) -> dict[str, bytes | None]:
    """The content of each file, None for one that is gone; each is read again until it holds still, for a while.

    known: the digests of those that need not be looked at twice if that is what they have.
    """
    found: dict[str, bytes | None] = {}
    waiting = list(paths)
    for look in range(_LOOKS):
        if look:
            time.sleep(_STILL)
        moving = []
        for path in waiting:
            source, still = _read(path)
            found[path] = source
            if source is None:
                still = path not in known  # one that was there may be about to be put in place
            elif not still:
                still = digest_of(source) == known.get(path)
            if not still:
                moving.append(path)
        if not moving:
            break
        waiting = moving
    return found


def _read(path: str) -> tuple[bytes | None, bool]:
    """The content, and whether the file holds still."""
    try:
        # A pipe of this name must not make us wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None, False
        raise CodeRefusedError(f"{path} can't be read: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise CodeRefusedError(f"{path} can't be read: it is no file")
        if status.st_size > SOURCE_MAX:
            raise CodeRefusedError(f"{path} has {status.st_size} bytes: a source of over {SOURCE_MAX} is not taken")
        with open(fd, "rb", closefd=False) as file:
            source = file.read(SOURCE_MAX)
    except OSError as error:
        raise CodeRefusedError(f"{path} can't be read: {error.strerror}") from None
    finally:
        os.close(fd)
    age = time.time() - status.st_mtime
    wanted = _STILL if source.strip() else _STILL * _LOOKS
    return source, not 0 <= age < wanted


# --- what imports lead to ---


def _imported(path: str, source: bytes, about: About) -> Iterator[tuple[str, bool]]:
    """The project's files that the import statements of a source may lead to, and whether they surely do."""
    folder = os.path.dirname(path)
    for each in imports_of(source):
        if each.level:
            base = folder
            for _ in range(each.level - 1):
                base = os.path.dirname(base)
            places: Sequence[str] = [base]
        else:
            places = [*about.path, *about.roots]
        for found in _locate(each.names, places):
            if is_project_file(found, about.roots):
                yield found, each.sure


def _locate(names: Sequence[str], places: Iterable[str]) -> list[str]:
    """The files of a module and of the packages around it, in the first place that has any. As the import system does,
    but for what hooks and changes of the search path would do."""
    for place in places:
        files = []
        folder = place
        for name in names:
            package = os.path.join(folder, name, "__init__.py")
            module = os.path.join(folder, f"{name}.py")
            folder = os.path.join(folder, name)
            if os.path.isfile(package):
                files.append(package)
            elif os.path.isfile(module):
                files.append(module)
                break
            elif not os.path.isdir(folder):
                break
        if files:
            return files
    return []
