"""The journal of a run: the requests that it applied, with their step, time and sender. One JSON object a line.

    {"journal": 1, "run": …, "command": […], "directory": …, "started": …, "version": …, "python": …, "entry": …}
    {"rank": 0, "step": 120, "time": …, "kind": "pause", "id": …, "sender": …, "arg": 0, "duration": 0.0, "mail": ""}
    {…, "kind": "pause", …, "inner": 31}             the same at the 31st checkpoint of a function that was called there
    {"payload": {"name": …, "value": …}, "id": …}    the content of a set; of several values: {"values": {name: value}};
                                                     of a call: name, args and kwargs
                                                     (a short set has it in its own line, as "mail": the reader adds
                                                     this line)
    {"returned": id}                                 the call has ended: the lines in between were applied while it ran
    {"code": 3, "id": …, "files": {path: source}}    the code of a reload: the sources that differ from those before
    {"failed": id, "reason": …}                      the reload was rolled back; the value stays as it was; or the
                                                     function raised
    {"modules": {path: sha256}}                      the modules of the project that were imported by then
    {"error": "ValueError: …", "traceback": …, "step": 841, "time": …}    the worker was paused after this error
    {"end": "stopped", "step": 900, "time": …}

The worker's core writes the line of a request (csrc/sf_journal.c) before it publishes that the request is applied, so
a worker that is killed leaves a line for all that it has done. A file in the user's folder of journals is made with the
first line, so a run without requests has none. A file that the user named is made at the start, empty. `entry` holds
the script's path and source if the script can be run again, else null.

A file may hold the journals of several runs, one after the other; readers take the last one. A long journal has several
files: see spark_fast/runfiles/journal_parts.py. The header of each but the first also has "part" and "before".
"""

import json
import os
import platform
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spark_fast import _core
from spark_fast.errors import FolderRefusedError, JournalError
from spark_fast.runfiles import journal_parts, mailbox, private_files
from spark_fast.runfiles.descriptors import open_file, open_own

__all__ = [
    "POINTER",
    "Journal",
    "append",
    "default_path",
    "find",
    "first_line",
    "folder",
    "is_begun",
    "lead",
    "make",
    "of_folder",
    "read",
]

FORMAT = 1
POINTER = "journal"
"""The file of a run folder that holds the path of the run's journal."""
_BEGINS = b'{"journal": '
"""The beginning of each header."""
_SIZE_MAX = 1 << 30
"""The most bytes of a journal that are read, all of its parts together."""
_LINES_MAX = 4_000_000
"""The most lines of one part. A line takes some hundred bytes of memory, however short it is."""
_PART = re.compile(r"(.+)\.[1-9][0-9]{0,8}")
"""The name of the file of an older part."""
_KINDS = ("pause", "resume", "stop", "reload", "advance", "set", "call")


@dataclass(frozen=True)
class Journal:
    """The content of a journal.

    Attributes:
        path: the file.
        header: its first line.
        lines: the others.
        torn: whether a partial last line was left out: its writer was killed, or the disk was full.
        dropped: how many parts of its beginning were removed.
        owner: the user id that owns the file.
        size: the bytes of the file.
    """

    path: Path
    header: Mapping[str, Any]
    lines: list[dict[str, Any]] = field(repr=False)
    torn: bool
    dropped: int = 0
    owner: int = -1
    size: int = 0

    @property
    def loss(self) -> str | None:
        """A sentence about the missing beginning, for people; None if nothing is missing."""
        if not self.dropped:
            return None
        parts = "its first part is" if self.dropped == 1 else f"its first {self.dropped} parts are"
        first = self.requests[0]["step"] if self.requests else None
        begins = "" if first is None else f"; it begins at step {first}"
        return f"{parts} not there any more, because a journal has a limit{begins}"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The lines of requests."""
        return [line for line in self.lines if "kind" in line]


def folder() -> Path:
    """Return the user's folder of journals; it may not exist."""
    chosen = os.environ.get("XDG_STATE_HOME", "")
    state = Path(chosen) if os.path.isabs(chosen) else Path.home() / ".local" / "state"
    return state / "spark_fast"


def default_path(run: str, started: float) -> Path:
    """Return the default path of the journal of a run of this process."""
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(started))
    return folder() / f"{run}-{when}-{os.getpid()}.jsonl"


def find(run: str) -> Path | None:
    """Return the newest journal of a run of this name in the user's folder; None if there is none."""
    shape = re.compile(rf"({re.escape(run)}-(\d{{8}}T\d{{6}})-\d+\.jsonl)(?:\.\d+)?")
    try:
        names = [(match[2], match[1]) for name in os.listdir(folder()) if (match := shape.fullmatch(name))]
    except FileNotFoundError:
        return None
    return folder() / max(names)[1] if names else None


def of_folder(run_folder: Path) -> Path | None:
    """Return the path of the journal of the run in this folder, which may not exist yet; None if it keeps none."""
    try:
        with private_files.opened(run_folder) as descriptor:
            return Path(os.fsdecode(private_files.read_whole(descriptor, POINTER, 1 << 16, run_folder)))
    except FileNotFoundError:
        return None


def first_line(
    run: str,
    command: list[str],
    started: float,
    entry: tuple[str, bytes] | None,
    *,
    part: int = 1,
    before: int = 0,
) -> bytes:
    """Return the header of a new journal, or of a part that continues another.

    part: its place in the journal, from 1 on.
    before: the number of the part that it continues.
    """
    try:
        directory = os.getcwd()
    except FileNotFoundError:
        directory = ""
    return _encode(
        {
            "journal": FORMAT,
            "run": run,
            "command": command,
            "directory": directory,
            "started": started,
            "version": _core.BUILD_VERSION,
            "python": platform.python_version(),
            "entry": None if entry is None else _entry(*entry),
            **({"part": part, "before": before} if part > 1 else {}),
        }
    )


def _entry(path: str, source: bytes) -> dict[str, str]:
    from spark_fast.project.sources import decode  # it loads ast and tokenize

    return {"path": path, "source": decode(source)}


def make(path: Path) -> None:
    """Make the file of a journal, empty, if there is none: then no other user can put another file there.

    Raises JournalError if there is one that is not ours alone, OSError.
    """
    os.close(_opened(path, os.O_WRONLY | os.O_CREAT))


def is_begun(path: Path) -> bool:
    """Return whether anything was written into a journal. Raises OSError."""
    newest = journal_parts.newest(path)
    if newest is None:
        return False
    try:
        status = os.stat(newest)
    except FileNotFoundError:
        return False
    return not stat.S_ISREG(status.st_mode) or status.st_size > 0


def lead(path: Path) -> bytes:
    """Return what has to stand before the header of a new journal: a line break, if the last line has none.

    Raises JournalError if the file is there and is no journal, OSError.
    """
    try:
        fd = _opened(path, os.O_RDONLY)
    except FileNotFoundError:
        return b""
    with open(fd, "rb") as file:
        if os.fstat(fd).st_size == 0:
            return b""
        if file.read(len(_BEGINS)) != _BEGINS:
            raise JournalError(str(path), "it is there, and is no journal")
        file.seek(-1, os.SEEK_END)
        return b"" if file.read(1) == b"\n" else b"\n"


def append(path: str, line: Mapping[str, Any]) -> None:
    """Add a line to a journal that is there, in one write; on a full disk, all of it or nothing. Callers take turns.

    Raises JournalError if the file is not ours alone, OSError.
    """
    fd = _opened(Path(path), os.O_WRONLY | os.O_APPEND)
    try:
        text = _encode(line)
        size = os.fstat(fd).st_size
        if os.write(fd, text) != len(text):
            os.ftruncate(fd, size)  # else the next line of the core would end this partial line
            raise OSError(f"{path}: no room for a line")
    finally:
        os.close(fd)


def _opened(path: Path, flags: int) -> int:
    """Open a journal to write to it. It may lie where other users can make files."""
    try:
        return open_own(path, flags)
    except FolderRefusedError as error:
        raise JournalError(str(path), f"it is no file of yours alone: {error.found}, {error.expected}") from None


def _encode(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line).encode() + b"\n"


def read(path: Path) -> Journal:
    """Read a journal, all of its parts as one.

    Raises JournalError, which names the line, if it is none, or damaged before its last line.
    """
    parts = [_read_part(journal_parts.newest(path) or path)]
    left = _SIZE_MAX - parts[0].size
    while (earlier := _part_before(path, parts[-1])) is not None:
        left -= earlier.size
        if left < 0:
            raise JournalError(str(path), f"its parts have more than {_SIZE_MAX} bytes: at most that many are read")
        parts.append(earlier)
    parts.reverse()
    lines = [line for part in parts for line in part.lines]
    dropped = parts[0].header.get("part", 1) - 1
    torn = any(part.torn for part in parts)
    return Journal(path, parts[0].header, _with_payloads(lines), torn, dropped, parts[0].owner)


def _part_before(path: Path, part: Journal) -> Journal | None:
    """Read the part that this one continues, of the journal `path`; None if it is the first, or the other is gone."""
    if "part" not in part.header:
        return None
    base = path.with_name(name[1]) if (name := _PART.fullmatch(part.path.name)) else part.path
    places = [journal_parts.path_of(each, part.header["before"]) for each in (path, base)]
    # A part holds code, which a replay runs, and may lie where any user can make a file of its name.
    place = next((each for each in places if _owner_of(each) == part.owner), None)
    if place is None:
        return None
    found = _read_part(place)
    same = found.owner == part.owner
    same = same and all(found.header.get(key) == part.header.get(key) for key in ("run", "started"))
    return found if same and found.header.get("part", 1) == part.header["part"] - 1 else None


def _owner_of(path: Path) -> int | None:
    """Return the user id that owns a regular file; None for anything else."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_uid if stat.S_ISREG(status.st_mode) else None


def _read_part(path: Path) -> Journal:
    """Read one file of a journal."""
    try:
        fd = open_file(path, os.O_RDONLY | os.O_NONBLOCK)
        with open(fd, "rb") as file:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise JournalError(str(path), "it is no file")
            if status.st_size > _SIZE_MAX:
                raise JournalError(str(path), f"it has {status.st_size} bytes: at most {_SIZE_MAX} are read")
            raw = file.read(_SIZE_MAX)
    except OSError as error:
        raise JournalError(str(path), error.strerror or str(error)) from None
    if raw.count(b"\n") > _LINES_MAX:
        raise JournalError(str(path), f"it has more than {_LINES_MAX} lines: at most that many are read")
    *whole, rest = raw.split(b"\n")
    torn = bool(rest)
    if not whole:
        raise JournalError(str(path), "it is empty" if not raw else "its first line is not whole")
    first = max((at for at, line in enumerate(whole) if line.startswith(_BEGINS)), default=0)
    lines = [_parse(path, number, line) for number, line in enumerate(whole[first:], first + 1)]
    header = lines[0]
    if "journal" not in header:
        raise JournalError(str(path), "line 1: it is no journal")
    if header["journal"] != FORMAT:
        ours = f"spark_fast {_core.BUILD_VERSION} reads version {FORMAT}"
        raise JournalError(str(path), f"it is of version {header['journal']!r}, {ours}")
    if not _fits_header(header):
        raise JournalError(str(path), f"line {first + 1} is damaged")
    for number, line in enumerate(lines[1:], first + 2):
        if not _fits(line):
            raise JournalError(str(path), f"line {number} is damaged")
    return Journal(path, header, lines[1:], torn, owner=status.st_uid, size=len(raw))


def _with_payloads(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines, with a line of payload added for each set whose content stood in the log."""
    there = {line["id"] for line in lines if "payload" in line}
    found = []
    for line in lines:
        found.append(line)
        if line.get("kind") == "set" and mailbox.stands_in_log(line["mail"]) and line["id"] not in there:
            content = mailbox.content_in_log(line["mail"])
            added = {"payload": content, "id": line["id"]}
            if content is not None and _fits(added):
                found.append(added)
    return found


def _parse(path: Path, number: int, raw: bytes) -> dict[str, Any]:
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict):
        raise JournalError(str(path), f"line {number} is damaged")
    return line


def _fits_header(header: Mapping[str, Any]) -> bool:
    entry, command = header.get("entry"), header.get("command")
    if not isinstance(header.get("run"), str) or not isinstance(command, list):
        return False
    if not all(isinstance(word, str) for word in command):
        return False
    if "part" in header and not (_is_count(header["part"]) and header["part"] > 1 and _is_count(header.get("before"))):
        return False
    return entry is None or (
        isinstance(entry, dict) and all(isinstance(entry.get(name), str) for name in ("path", "source"))
    )


def _fits(line: Mapping[str, Any]) -> bool:
    """Whether a line holds what its readers look at. Of lines that none of them knows, any may stand there."""
    if "kind" in line:
        return (
            line["kind"] in _KINDS
            and all(_is_count(line.get(name)) for name in ("rank", "step", "arg"))
            and _is_count(line.get("inner", 0))
            and all(isinstance(line.get(name), str) for name in ("id", "sender", "mail"))
            and all(isinstance(line.get(name), (int, float)) for name in ("time", "duration"))
            and bool(0 <= line["duration"] < 4e9)
        )
    if "payload" in line:
        payload = line["payload"]
        if not isinstance(line.get("id"), str) or not isinstance(payload, dict):
            return False
        return isinstance(payload.get("name"), str) or isinstance(payload.get("values"), dict)
    if "files" in line:
        return _is_count(line.get("code")) and isinstance(line.get("id"), str) and _are_texts(line["files"])
    if "failed" in line:
        return isinstance(line["failed"], str) and isinstance(line.get("reason"), str)
    if "modules" in line:
        return _are_texts(line["modules"])
    if "end" in line:
        known = isinstance(line["end"], str) and isinstance(line.get("time"), (int, float))
        return known and _is_count(line.get("step"))
    return True


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _are_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
