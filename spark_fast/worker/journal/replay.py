"""A journal that is replayed: its requests take effect again at the same steps."""

import os
import platform
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spark_fast import stderr
from spark_fast._core import BUILD_VERSION
from spark_fast.errors import ReplayRefusedError
from spark_fast.plain_text import replaced
from spark_fast.project.sources import decode
from spark_fast.runfiles.descriptors import open_file
from spark_fast.runfiles.journal import Journal
from spark_fast.runfiles.versions import SOURCE_MAX, digest_of

__all__ = ["Replay"]


class Replay:
    """The requests of one rank in a journal that have not been replayed yet.

    Pauses are replayed without their duration: the request that ended a pause follows it at the same step, so both are
    applied together. A reload that was rolled back is replayed, too: it left the loop, so its code passed checkpoints.
    A reload that was refused is left out: it did nothing, and its code is not in the journal.
    """

    def __init__(self, journal: Journal, rank: int = 0) -> None:
        self._journal = journal
        self._path = ""
        self._code: dict[str, dict[str, str]] = {}
        self._payloads: dict[str, dict[str, Any]] = {}
        self._over: set[str] = set()
        self._open: list[str] = []
        for line in journal.lines:
            if "files" in line:
                self._code[line["id"]] = line["files"]
            if "payload" in line:
                self._payloads[line["id"]] = line["payload"]
        self._waiting = [
            line
            for line in _with_calls(journal.lines)
            if line["rank"] == rank and (line["kind"] != "reload" or line["id"] in self._code)
        ]
        self._waiting.reverse()

    def check(self, path: str, source: bytes, command: Sequence[str]) -> None:
        """Raise ReplayRefusedError with the first difference if the script, a module of its project or the command line
        differs from the recorded one. Warn if Python or spark_fast is of another version.

        path: the script's absolute path. Files that were in its folder at the recording must be in its folder now.
        source: the script's source.
        command: the command line, as in the header of a journal.
        """
        self._path = path
        entry = self._journal.header["entry"]
        if entry is None:
            raise self._refusal("it is of a run whose script can't be run again")
        name = Path(path).name
        if entry["source"] != (now := decode(source)):
            raise self._refusal(f"{name} differs from the journal's, first {_first_difference(entry['source'], now)}")
        then = list(self._journal.header["command"])
        for at in range(max(len(then), len(command))):
            one, other = (words[at] if at < len(words) else None for words in (then, command))
            # The script itself may be in another folder.
            if one != other and not (at == 0 and one and other and Path(one).name == Path(other).name):
                raise self._refusal(f"argument {at} was {_shown(one)}, and is now {_shown(other)}")
        self._check_modules()
        self._warn_of_versions()

    def _check_modules(self) -> None:
        changed: set[str] = set()
        for line in self._journal.lines:
            if "files" in line:
                changed |= line["files"].keys()
            for path, digest in line.get("modules", {}).items():
                if path in changed:
                    continue
                here = self._here(path)
                try:
                    now = digest_of(_read(here))
                except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
                    why = getattr(error, "strerror", None) or error
                    raise self._refusal(f"{replaced(here)} can't be read: {why}") from None
                if now != digest:
                    raise self._refusal(f"{replaced(here)} differs from the one that was imported then")

    def _here(self, path: str) -> str:
        """Return where a recorded file of the project is now: script and project may have moved together."""
        header = self._journal.header
        entry = header["entry"]["path"]
        if path == entry:
            return self._path
        if header["command"][:1] == ["-m"]:
            then, now = str(header.get("directory", "")), os.getcwd()
        else:
            then, now = os.path.dirname(entry), os.path.dirname(self._path)
        if then and path.startswith(inside := os.path.join(then, "")):
            return os.path.join(now, path[len(inside) :])
        return path

    def _warn_of_versions(self) -> None:
        header = self._journal.header
        python = ".".join(str(header.get("python", "")).split(".")[:2])
        then = f"Python {python} and spark_fast {header.get('version', '')}"
        now = f"Python {'.'.join(platform.python_version_tuple()[:2])} and spark_fast {BUILD_VERSION}"
        if then != now:
            stderr.warn(
                f"the journal {self._journal.path} is of {replaced(then)}, this is {now}: it may come out differently"
            )

    def _refusal(self, why: str) -> ReplayRefusedError:
        return ReplayRefusedError(str(self._journal.path), why)

    @property
    def next_step(self) -> int | None:
        """The step of the next request; None if no request is left."""
        return self._waiting[-1]["step"] if self._waiting else None

    def due(
        self, step: int, within: str | None = None, inner: int = 0, *, most: int | None = None
    ) -> list[dict[str, Any]]:
        """Return the requests of all steps up to this one, each once. Requests after a set or a call wait for over():
        they must not come during its delivery.

        within: the journal's id of the running call: only requests that were applied during that call are due.
        inner: how many checkpoints that call has passed.
        most: the most requests to return; None for all.
        """
        found: list[dict[str, Any]] = []
        while (
            self._open[-1:] in ([], [within])
            and (most is None or len(found) < most)
            and self._waiting
            and self._waiting[-1]["step"] <= step
        ):
            inside = self._waiting[-1].get("within")
            if inside in self._over:
                line = self._waiting.pop()
                stderr.warn(
                    f"the {line['kind']} of step {line['step']} can't be replayed: it came while a function ran"
                )
            elif inside != within or (inside is not None and self._waiting[-1].get("inner", 0) > inner):
                break
            else:
                line = self._waiting.pop()
                found.append(line)
                if line["kind"] in ("set", "call"):
                    self._open.append(line["id"])
        return found

    def over(self, ident: str) -> None:
        """Note the end of the set or call with this id in the journal, even if it could not be replayed.

        Requests that were applied during its delivery and that the replay has not reached are not replayed.
        """
        self._over.add(ident)
        if ident in self._open:
            del self._open[self._open.index(ident) :]

    def code_of(self, request: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the sources of a reload, by path."""
        from spark_fast.project.sources import encode

        return {self._here(path): encode(text) for path, text in self._code[request["id"]].items()}

    def payload_of(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the content of a set or a call; None if the worker was killed before it had recorded the content."""
        return self._payloads.get(request["id"])

    def left(self, step: int) -> str | None:
        """Return a sentence on the requests that a loop which ended at this step missed; None if it reached all."""
        if not self._waiting:
            return None
        count = len(self._waiting)
        first = self._waiting[-1]
        what = "1 request was" if count == 1 else f"{count} requests were"
        return (
            f"{what} not replayed: the loop ended at step {step}, and the journal's next, a {first['kind']}, was "
            f"applied at step {first['step']}"
        )


def _with_calls(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the requests. Those applied while a function ran have the id of its call as "within"."""
    running: list[str] = []
    calls: set[str] = set()
    found = []
    for line in lines:
        if "kind" in line:
            found.append({**line, "within": running[-1]} if running else dict(line))
            if line["kind"] == "call":
                calls.add(line["id"])
        elif "payload" in line and line["id"] in calls:  # whatever the payload is
            running.append(line["id"])
        elif line.get("returned") in running:
            running.remove(line["returned"])
    return found


def _first_difference(then: str, now: str) -> str:
    old, new = then.split("\n"), now.split("\n")
    at = next(
        (at for at, (one, other) in enumerate(zip(old, new, strict=False)) if one != other), min(len(old), len(new))
    )
    one, other = (_shown(lines[at].strip() if at < len(lines) else None) for lines in (old, new))
    return f"at line {at + 1}: there {one}, now {other}"


def _shown(text: str | None) -> str:
    return "nothing" if text is None else repr(text if len(text) <= 60 else text[:59] + "…")


def _read(path: str) -> bytes:
    """Return the content of a source that a journal names. The path may be anything: a pipe would block."""
    with open(open_file(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is no file")
        if status.st_size > SOURCE_MAX:
            raise ValueError(f"it has {status.st_size} bytes: a source of over {SOURCE_MAX} is not read")
        return file.read(SOURCE_MAX)
