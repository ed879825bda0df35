"""The project's code as immutable versions, in the folder `code` of a run's folder.

    entry.json          what the run was started with; its presence says that the run can be reloaded
    loaded.jsonl        a line for each project file that the worker executed from disk, the entry as "__main__"
    blobs/<sha256>      source bytes
    versions/<n>.json   a version: the digest of each file; and what was on disk by then, so that a file that changed
                        on disk is told apart from one that a sender replaced
    current             the number of the version that runs
    spawned/<sha256>.py the scripts of processes that the worker spawns: see spark_fast/project/spawned.py

The newest 256 versions are kept, and the one that runs.

A worker writes all of it at its start, and `loaded.jsonl` and `current` again later; senders add versions. A version
does not change. So a process that is killed at any point leaves a whole version or none, and all ranks read the same
source for it, whatever happens to the files that it was made from.
"""

import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from spark_fast.errors import CodeRefusedError, StoreError
from spark_fast.runfiles import private_files

__all__ = [
    "SOURCE_MAX",
    "SPAWNED_MAX",
    "VERSIONS_MAX",
    "CodeInfo",
    "Loaded",
    "Store",
    "Version",
    "digest_of",
    "this_python",
]

SOURCE_MAX = 16 << 20
"""The largest source, in bytes."""

_CODE = "code"
_ABOUT = "entry.json"
_LOADED = "loaded.jsonl"
_CURRENT = "current"
_LOCK = ".lock"
_BLOBS = "blobs"
_VERSIONS = "versions"
_SPAWNED = "spawned"

VERSIONS_MAX = 256
"""How many versions are kept, beside the one that runs."""
SPAWNED_MAX = 256
"""How many scripts for spawned processes are kept: one for each state of the code in which a process was spawned."""
_PASSED_BY = 32
"""How many versions beyond VERSIONS_MAX start a search for files to remove."""
_UNUSED = 600.0
"""Seconds for which a source is kept that belongs to no version yet."""

_RECORD_MAX = 64 << 20
"""The largest record that is read, in bytes: a project of a hundred thousand files takes a fifth of it."""
_TURN = 5.0
"""Seconds to wait for other senders, each of which takes less than a millisecond."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_RECORD = re.compile(r"([1-9][0-9]{0,8})\.json")

_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Version:
    """The code that a run runs, has run, or that a controller asked it to run.

    Attributes:
        number: from 1 on, in the order in which they were made.
        made: when it was made, in seconds since the epoch.
        sender: the process that made it, for people.
        note: the reason for it: "start", "changed on disk", "pushed" or "back to 3".
        files: the digest of each file's source, by path; all files of the version.
        disk: the digests of the files on disk by then, by path, as far as the sender read them.
    """

    number: int
    made: float
    sender: str
    note: str
    files: Mapping[str, str]
    disk: Mapping[str, str]


@dataclass(frozen=True)
class CodeInfo:
    """What a run that can be reloaded was started with.

    Attributes:
        entry: the path of the entry file, such as the script; None if there is none.
        roots: the folders that hold the project.
        path: those entries of the worker's sys.path that lie in a root.
        python: the version of its interpreter, such as "3.11".
    """

    entry: str | None
    roots: tuple[str, ...]
    path: tuple[str, ...]
    python: str


@dataclass(frozen=True)
class Loaded:
    """A project file that the worker executed from disk.

    Attributes:
        module: its name, "__main__" for the entry.
        path: the file.
        digest: of its source.
        version: the number of the version that ran at that time.
    """

    module: str
    path: str
    digest: str
    version: int


def digest_of(source: bytes) -> str:
    """Return the digest of a source: its SHA-256, in hexadecimal."""
    return sha256(source).hexdigest()


class Store:
    """The versions of a run's code.

    folder: the run folder.

    Any thread may use it. Everything raises StoreError or FolderRefusedError if what is there can't be used, and
    OSError if something can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._shown = self._folder / _CODE
        self._appending = threading.RLock()
        self._beside = False
        self._recorded: dict[tuple[str, str], str] | None = None

    # --- for the worker ---

    def create(self, entry: str | None, roots: Sequence[str], path: Sequence[str]) -> None:
        """Make the store, empty. From here on senders may add versions."""
        about = {
            "entry": None if entry is None else os.path.abspath(entry),
            "roots": list(dict.fromkeys(os.path.abspath(root) for root in roots)),
            "path": [os.path.abspath(entry) for entry in path],
            "python": this_python(),
        }
        self._make_folders()
        with private_files.opened(self._folder, _CODE) as code:
            private_files.write_whole(code, _ABOUT, _to_json(about))

    def join(self) -> None:
        """Use the store that another rank makes. What that rank has recorded, this one does not record again."""
        self._make_folders()
        self._beside = True

    def _make_folders(self) -> None:
        for below in (_BLOBS, _VERSIONS):
            with private_files.opened(self._folder, _CODE, below, create=True):
                pass

    def record(self, module: str, path: str, source: bytes, version: int) -> str:
        """Note that a project file was read from disk to be executed; return its digest."""
        path = os.path.abspath(path)
        digest = self.put(source, path)
        if self._beside and any((line.path, line.digest) == (path, digest) for line in self.loaded()):
            return digest
        with self._appending:
            if self._recorded is None:  # what a process before this one has recorded
                self._recorded = {(line.module, line.path): line.digest for line in self.loaded()}
            if self._recorded.get((module, path)) != digest:
                line = _to_json({"module": module, "path": path, "digest": digest, "version": version})
                with private_files.opened(self._folder, _CODE) as code:
                    private_files.append_line(code, _LOADED, line)
                self._recorded[module, path] = digest
        return digest

    def make_first(self, sender: str = "") -> Version:
        """Make a version of the files loaded so far, and note that it runs. Call it once."""
        files = {line.path: line.digest for line in self.loaded()}
        version = self.add(files, files, "start", sender)
        self.set_current(version.number)
        return version

    def set_current(self, number: int) -> None:
        """Note which version runs."""
        with private_files.opened(self._folder, _CODE) as code:
            private_files.write_whole(code, _CURRENT, b"%d\n" % number)

    def keep_script(self, script: bytes) -> str:
        """Keep a script for processes that the worker spawns; return its path."""
        name = f"{digest_of(script)}.py"
        with private_files.opened(self._folder, _CODE, _SPAWNED, create=True) as folder:
            if private_files.write_whole(folder, name, script, replace=False):
                names = sorted(os.listdir(folder), key=lambda each: os.stat(each, dir_fd=folder).st_mtime)
                for old in names[:-SPAWNED_MAX]:
                    os.unlink(old, dir_fd=folder)
            else:
                os.utime(name, dir_fd=folder)  # it is not the oldest
        return str(self._shown / _SPAWNED / name)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self._folder

    @property
    def blobs(self) -> Path:
        """The folder that holds the sources."""
        return self._shown / _BLOBS

    def close(self) -> None:
        """Note that the run can't be reloaded any more. The versions stay."""
        with private_files.opened(self._folder, _CODE) as code, suppress(FileNotFoundError):  # another rank was first
            os.unlink(_ABOUT, dir_fd=code)

    # --- for senders ---

    @property
    def reloadable(self) -> bool:
        """Whether the run can be reloaded: a runner runs its code again when a reload has left the loop."""
        try:
            self.about()
        except FileNotFoundError:
            return False
        return True

    def about(self) -> CodeInfo:
        """Return what the run was started with. Raises FileNotFoundError if it can't be reloaded."""
        with private_files.opened(self._folder, _CODE) as code:
            raw = private_files.read_whole(code, _ABOUT, _RECORD_MAX, self._shown)
        return self._parsed(raw, self._shown / _ABOUT, _as_about)

    def current_number(self) -> int:
        """Return the number of the version that runs; 0 if the worker has not noted it yet."""
        try:
            with private_files.opened(self._folder, _CODE) as code:
                raw = private_files.read_whole(code, _CURRENT, 64, self._shown)
        except FileNotFoundError:
            return 0
        if not re.fullmatch(rb"[1-9][0-9]{0,8}\n", raw):
            raise StoreError(str(self._shown / _CURRENT), "it holds no number of a version")
        return int(raw)

    def current(self) -> Version:
        """Return the version that runs, with the files that were imported from disk since it was made.

        Raises FileNotFoundError if there is none yet, because the run is starting.
        """
        number = self.current_number()
        if number == 0:
            raise FileNotFoundError(f"{self._shown / _CURRENT}: no version runs yet")
        return self.with_loaded(self.version(number))

    def with_loaded(self, version: Version) -> Version:
        """Return the version with those files added that the worker has imported from disk since."""
        since = {line.path: line.digest for line in self.loaded() if line.path not in version.files}
        return replace(version, files={**version.files, **since}, disk={**since, **version.disk})

    def version(self, number: int) -> Version:
        """Return a version, as it was made. Raises StoreError if there is none of this number."""
        name = f"{number}.json"
        try:
            with private_files.opened(self._folder, _CODE, _VERSIONS) as folder:
                raw = private_files.read_whole(folder, name, _RECORD_MAX, self._shown / _VERSIONS)
        except FileNotFoundError:
            kept = f": the newest {VERSIONS_MAX} are kept" if self._is_pruned(number) else ""
            raise StoreError(str(self._shown / _VERSIONS / name), f"there is no version {number}{kept}") from None
        found = self._parsed(raw, self._shown / _VERSIONS / name, _as_version)
        if found.number != number:
            raise StoreError(str(self._shown / _VERSIONS / name), f"it says that it is version {found.number}")
        return found

    def _is_pruned(self, number: int) -> bool:
        with private_files.opened(self._folder, _CODE, _VERSIONS) as folder:
            return number <= max(_numbers(folder), default=0) - VERSIONS_MAX

    def versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        try:
            with private_files.opened(self._folder, _CODE, _VERSIONS) as folder:
                numbers = _numbers(folder)
        except FileNotFoundError:
            return []
        return [self.version(number) for number in numbers]

    def loaded(self) -> list[Loaded]:
        """Return the files that the worker executed from disk, in that order. A partial last line is left out."""
        try:
            with private_files.opened(self._folder, _CODE) as code:
                raw = private_files.read_whole(code, _LOADED, _RECORD_MAX, self._shown)
        except FileNotFoundError:
            return []
        whole = raw.split(b"\n")[:-1]
        path = self._shown / _LOADED
        return [self._parsed(line, f"{path}, line {at}", _as_loaded) for at, line in enumerate(whole, 1)]

    def source(self, digest: str) -> bytes:
        """Return the source that has this digest."""
        name = digest if _DIGEST.fullmatch(digest) else "none"
        shown = self._shown / _BLOBS
        try:
            with private_files.opened(self._folder, _CODE, _BLOBS) as blobs:
                source = private_files.read_whole(blobs, name, SOURCE_MAX, shown)
        except FileNotFoundError:
            raise StoreError(str(shown / name), "the source is not there") from None
        if digest_of(source) != digest:
            raise StoreError(str(shown / name), "it is damaged: its content has another digest")
        return source

    def put(self, source: bytes, path: str = "the source") -> str:
        """Keep a source; return its digest. Raises CodeRefusedError, which names `path`, if it is over 16 MiB."""
        if len(source) > SOURCE_MAX:
            raise CodeRefusedError(f"{path} has {len(source)} bytes: a source of over {SOURCE_MAX} is not taken")
        digest = digest_of(source)
        with private_files.opened(self._folder, _CODE, _BLOBS) as blobs:
            try:
                there = os.stat(digest, dir_fd=blobs, follow_symlinks=False).st_size == len(source)
            except FileNotFoundError:
                there = False
            if there:
                os.utime(digest, dir_fd=blobs)  # so that no sender removes it before it belongs to a version
            else:
                private_files.write_whole(blobs, digest, source)
        return digest

    def add(self, files: Mapping[str, str], disk: Mapping[str, str], note: str, sender: str) -> Version:
        """Make a version of sources that put() has kept. Senders take turns, so each gets a number of its own."""
        with (
            private_files.opened(self._folder, _CODE) as code,
            private_files.opened(self._folder, _CODE, _VERSIONS) as folder,
            private_files.locked(code, _LOCK, _TURN, self._shown),
        ):
            number = max(_numbers(folder), default=0) + 1
            version = Version(number, time.time(), sender, note, dict(files), dict(disk))
            record = {
                "number": number,
                "made": version.made,
                "sender": sender,
                "note": note,
                "files": version.files,
                "disk": version.disk,
            }
            if not private_files.write_whole(folder, f"{number}.json", _to_json(record), replace=False):
                raise StoreError(str(self._shown / _VERSIONS), f"somebody made version {number} without waiting")
            self._prune(folder)
            return version

    def _prune(self, folder: int) -> None:
        """Remove the oldest versions, but not the one that runs, and the sources that no version has any more.

        The caller holds the senders' lock. Does nothing until there are some versions more than VERSIONS_MAX.
        """
        numbers = _numbers(folder)
        if len(numbers) <= VERSIONS_MAX + _PASSED_BY:
            return
        current = self.current_number()
        for number in numbers[:-VERSIONS_MAX]:
            if number != current:
                with suppress(FileNotFoundError):  # its sender has discarded it
                    os.unlink(f"{number}.json", dir_fd=folder)
        used = {digest for version in self.versions() for digest in version.files.values()}
        used.update(line.digest for line in self.loaded())
        with private_files.opened(self._folder, _CODE, _BLOBS) as blobs:
            # A sender keeps the sources before it makes the version, so new ones stay.
            for name in _older_than(blobs, time.time() - _UNUSED):
                if _DIGEST.fullmatch(name) and name not in used:
                    os.unlink(name, dir_fd=blobs)

    def discard(self, version: Version) -> None:
        """Remove a version that no request names."""
        with (
            private_files.opened(self._folder, _CODE) as code,
            private_files.opened(self._folder, _CODE, _VERSIONS) as folder,
            private_files.locked(code, _LOCK, _TURN, self._shown),
        ):
            os.unlink(f"{version.number}.json", dir_fd=folder)

    def changed(self, old: Version | None, new: Version) -> list[str]:
        """Return the paths of the files that differ, sorted.

        A file that was imported after `old` was made, and has not changed since its import, does not differ.

        old: None to list all files of `new`.
        """
        if old is None:
            return sorted(new.files)
        before = self.with_loaded(old).files
        return sorted(path for path in old.files.keys() | new.files.keys() if before.get(path) != new.files.get(path))

    # --- parsing ---

    def _parsed(self, raw: bytes, shown: Path | str, make: Callable[[Any], _Found]) -> _Found:
        try:
            return make(json.loads(raw))
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise StoreError(str(shown), f"it is damaged: {type(error).__name__}: {error}") from None


def this_python() -> str:
    """Return the version of this interpreter, as far as it decides which source it compiles."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _older_than(folder: int, when: float) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if entry.stat(follow_symlinks=False).st_mtime < when]


def _numbers(folder: int) -> list[int]:
    return sorted(int(found[1]) for name in os.listdir(folder) if (found := _RECORD.fullmatch(name)))


def _to_json(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


# A file may hold anything, so each value is checked or converted.


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _path(value: object) -> str:
    path = _text(value)
    if not os.path.isabs(path) or "\0" in path:
        raise ValueError(f"{path!r:.80} is no absolute path")
    return path


def _digest(value: object) -> str:
    if not _DIGEST.fullmatch(_text(value)):
        raise ValueError(f"{value!r:.80} is no digest")
    return str(value)


def _number(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r:.40} is no number of a version")
    return value


def _as_about(found: Any) -> CodeInfo:
    return CodeInfo(
        entry=None if found["entry"] is None else _path(found["entry"]),
        roots=tuple(_path(root) for root in found["roots"]),
        path=tuple(_path(entry) for entry in found["path"]),
        python=_text(found["python"]),
    )


def _as_loaded(found: Any) -> Loaded:
    return Loaded(_text(found["module"]), _path(found["path"]), _digest(found["digest"]), _number(found["version"]))


def _as_version(found: Any) -> Version:
    return Version(
        number=_number(found["number"]),
        made=float(found["made"]),
        sender=_text(found["sender"]),
        note=_text(found["note"]),
        files={_path(path): _digest(digest) for path, digest in found["files"].items()},
        disk={_path(path): _digest(digest) for path, digest in found["disk"].items()},
    )
