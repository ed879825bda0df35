"""Making the version that a reload brings: from changed files, from given code, or from an older version."""

import errno
import os
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spark_fast.errors import CodeRefusedError, StoreError
from spark_fast.project.files import is_project_file, relative
from spark_fast.project.sources import Fault, check, encode, imports_of
from spark_fast.runfiles.descriptors import open_file
from spark_fast.runfiles.versions import SOURCE_MAX, CodeInfo, Store, Version, digest_of, this_python

__all__ = ["add_version"]

_STILL = 0.005
"""Seconds without a write after which a file counts as whole. Editors write in two steps."""
_LOOKS = 10
"""How often a file is read while it changes or is empty, as it is between the two steps."""


def add_version(store: Store, sender: str, *, code: str | bytes | None = None, to: int | None = None) -> Version | None:
    """Make a version and return it; None if it would be the same as the one that runs.

    code: the new source of the entry file; None to take what changed on disk.
    to: the number of the version to go back to, instead of either.

    Raises CodeRefusedError if the code can't be read or does not compile, StoreError if the store can't be used.
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
    # The known state of the disk stays, so that an edit that no version has yet still counts as one.
    return _Found(dict(store.with_loaded(old).files), dict(base.disk), {}, f"back to {number}")


def _pushed(about: CodeInfo, base: Version, code: str | bytes) -> _Found:
    if about.entry is None:
        raise CodeRefusedError("the run has no entry file that the code could replace")
    try:
        source = encode(code) if isinstance(code, str) else code
    except UnicodeEncodeError as error:
        raise CodeRefusedError(f"the code can't be encoded as it says itself: {error}") from None
    _refuse_blank(about.entry, source)
    # No file was read, so files that have changed on disk still count as changed.
    return _complete(about, base, {about.entry: source}, base.disk, "pushed")


def _on_disk(about: CodeInfo, base: Version) -> _Found:
    found = _differing(base.files, base.disk)
    changed = {path: source for path, source in found.items() if source is not None}
    if about.entry in changed:
        _refuse_blank(about.entry, changed[about.entry])
    gone = sorted(found.keys() - changed.keys())
    note = "changed on disk"
    if gone:
        shown = ", ".join(relative(path, about.roots) for path in gone[:3])
        more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
        note += f"; gone from disk, and as it was: {shown}{more}"
    disk = {path: digest for path, digest in base.disk.items() if path not in found}
    return _complete(about, base, changed, disk | {path: digest_of(source) for path, source in changed.items()}, note)


def _refuse_blank(path: str, source: bytes) -> None:
    if not source.strip():
        raise CodeRefusedError(f"{path} is empty")


def _complete(
    about: CodeInfo, base: Version, changed: Mapping[str, bytes], on_disk: Mapping[str, str], note: str
) -> _Found:
    """Return the files of `base`, with the changed ones and with those that they import and that are not known yet."""
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
        for found, more in _differing(wanted, {}).items():
            assert more is not None  # only a known file can be gone
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


def _differing(paths: Iterable[str], known: Mapping[str, str]) -> dict[str, bytes | None]:
    """Return the content of the files whose digest differs from the known one; None for a known file that is gone.

    Each such file is read again until it does not change any more, or ten times.
    """
    found: dict[str, bytes | None] = {}
    waiting = list(paths)
    for look in range(_LOOKS):
        if look:
            time.sleep(_STILL)
        moving = []
        for path in waiting:
            found.pop(path, None)
            status = _status(path)
            if status is not None and _seen.get(path) == (_signature(status), known.get(path)):
                continue
            source, digest, still = _read(path)
            if source is None:
                if path in known:  # an editor may be replacing it
                    found[path] = None
                    moving.append(path)
            elif digest != known.get(path):
                found[path] = source
                if not still:
                    moving.append(path)
        if not moving:
            break
        waiting = moving
    return found


_Signature = tuple[int, int, int, int, int]

_seen: dict[str, tuple[_Signature, str]] = {}
"""For each file that this process has read: the signature that shows, without reading, that it has not changed, and its
known digest. A watcher sends one reload after another. Bounded by the project's files."""


def _signature(status: os.stat_result) -> _Signature:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _read(path: str) -> tuple[bytes | None, str, bool]:
    """Return the content, None if the file is gone; its digest; and whether the file is whole."""
    try:
        # O_NONBLOCK, so that a pipe of this name does not block until it has a writer.
        fd = open_file(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None, "", False
        raise CodeRefusedError(f"{path} can't be read: {error.strerror}") from None
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise CodeRefusedError(f"{path} can't be read: it is no file")
        if before.st_size > SOURCE_MAX:
            raise CodeRefusedError(f"{path} has {before.st_size} bytes: a source of over {SOURCE_MAX} is not taken")
        with open(fd, "rb", closefd=False) as file:
            source = file.read(before.st_size)
        status = os.fstat(fd)
    except OSError as error:
        raise CodeRefusedError(f"{path} can't be read: {error.strerror}") from None
    finally:
        os.close(fd)
    digest = digest_of(source)
    age = time.time() - max(status.st_mtime, status.st_ctime)
    whole = _signature(before) == _signature(status)
    if whole and age > _STILL * _LOOKS:  # two writes might have the same time before that
        _seen[path] = _signature(status), digest
    age = time.time() - status.st_mtime
    wanted = _STILL if source.strip() else _STILL * _LOOKS
    return source, digest, whole and not 0 <= age < wanted


# --- what imports lead to ---


def _imported(path: str, source: bytes, about: CodeInfo) -> Iterator[tuple[str, bool]]:
    """Yield the project's files that the import statements of a source may load, and whether they surely do."""
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
    """Return the files of a module and of its packages, from the first place that has any.

    It follows the import system, without import hooks and changes of the search path.
    """
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
