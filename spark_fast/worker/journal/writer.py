"""What the worker's Python adds to the journal that its core writes: see spark_fast/runfiles/journal.py."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_fast._core import worker
from spark_fast.core_errors import describe_code
from spark_fast.errors import JournalError, SparkError
from spark_fast.runfiles import journal, journal_parts, private_files
from spark_fast.runfiles.safe_paths import make_folders
from spark_fast.sizes import size_text
from spark_fast.worker import options, session, stderr

if TYPE_CHECKING:
    from spark_fast.worker.reload.modules import Project

__all__ = ["code", "end", "failed", "follow", "forget_after_fork", "keep", "payload", "returned", "stopped_by_error"]

_path: str | None = None
_refused = False
"""Whether it was said that no journal is kept: the runner asks for one again, once it knows the script."""
_kept: "_Kept | None" = None
_noted = 0
_error: dict[str, Any] | None = None
"""An error that is to be written down once the journal has begun, with the pause that follows it."""


@dataclass
class _Kept:
    """What the header of each part of the journal says, and how far the journal is."""

    run: str
    command: list[str]
    started: float
    entry: tuple[str, bytes] | None
    header_size: int
    part: int = 1
    says_dropped: bool = False

    def header(self, before: int) -> bytes:
        return journal.first_line(self.run, self.command, self.started, self.entry, part=self.part, before=before)


def keep(folder: Path, run: str, command: list[str], chosen: str | None, entry: tuple[str, bytes] | None) -> None:
    """From here on what is applied is written down. A journal that can't be kept is said, and costs nothing else.

    folder: the run folder, which then says where the journal is.
    chosen: the file; None for one in the user's folder.
    entry: the path and the source of the script, if it can be run again.
    """
    global _path, _kept, _refused
    if _refused:
        return
    if worker.journal_begun():
        return  # something was asked before the script was found: a second header would part it from the rest
    started = time.time()
    try:
        # Already chosen, for a run that now has an entry.
        path = Path(chosen).absolute() if chosen else Path(_path) if _path else journal.default_path(run, started)
        if chosen is None:
            make_folders(path.parent)
            with private_files.opened(path.parent):
                pass  # it holds sources: nobody else may be able to put a file there
        else:
            journal.make(path)
        header = journal.first_line(run, command, started, entry)
        worker.keep_journal(path, journal.lead(path) + header)
        _kept = _Kept(run, command, started, entry, len(header))
        with private_files.opened(folder) as descriptor:
            private_files.write_whole(descriptor, journal.POINTER, os.fsencode(path))
        _path = str(path)
    except (OSError, SparkError, RuntimeError) as error:  # RuntimeError: a user without a home
        _refused = True
        stderr.warn(f"no journal is kept: {error}")


def follow(project: "Project | None") -> None:
    """After requests were applied: says if they could not be written down, and notes what was imported since."""
    global _path, _noted
    error = worker.journal_error()
    if error:
        stderr.warn(f"the journal {_path} can't be written any more: {describe_code(error)}")
        _path = None
    _write_error()
    _limit_size()
    if project is not None and len(project.modules) > _noted and worker.journal_begun():
        fresh = list(project.modules.values())[_noted:]
        _noted = len(project.modules)
        _append({"modules": {module.path: module.digest for module in fresh if module.name != "__main__"}})


def _limit_size() -> None:
    """Goes on in a new part once this one is full, and drops the oldest parts beyond the limit.

    A part may be as long as two headers, however small the limit: a header holds the script's source.
    """
    global _noted, _path
    limit = options.current().journal_limit
    if limit is None or _path is None or _kept is None or not worker.journal_begun():
        return
    path, share = Path(_path), limit // journal_parts.COUNT
    try:
        if path.stat().st_size < max(share, 2 * _kept.header_size):
            return
        before = journal_parts.put_aside(path)
    except OSError as error:
        if not _kept.says_dropped:
            _kept.says_dropped = True
            stderr.warn(f"the journal {_path} can't be kept below its limit: {error}")
        return
    _kept.part += 1
    header = _kept.header(before)
    _kept.header_size = len(header)
    _noted = 0  # each part names the modules, so that it can be checked without those before it
    try:
        worker.continue_journal(header)
        dropped = journal_parts.drop_oldest(path, limit - share)
    except (OSError, SparkError) as error:
        stderr.warn(f"the journal {_path} can't be written any more: {error}")
        _path = None
        return
    if dropped and not _kept.says_dropped:
        _kept.says_dropped = True
        stderr.warn(
            f"the journal {_path} has reached its limit of {size_text(limit)}: its oldest part is dropped, as later "
            "ones will be. SPARK_FAST_JOURNAL_LIMIT sets the limit"
        )


def code(ident: str, number: int, sources: Mapping[str, bytes]) -> None:
    """Writes down the sources that a reload is about to run."""
    from spark_fast.project.sources import decode

    _append({"code": number, "id": ident, "files": {path: decode(source) for path, source in sources.items()}})


def payload(ident: str, content: Mapping[str, Any]) -> None:
    """Writes down what a request brought that is about to be delivered."""
    _append({"payload": content, "id": ident})


def returned(ident: str) -> None:
    """Writes down that a function has ended that was called: what is applied from here on was not while it ran."""
    _append({"returned": ident})


def failed(ident: str, reason: str) -> None:
    """Writes down that a reload was taken back, or that a value was not set or a function not called, or raised."""
    _append({"failed": ident, "reason": reason})


def stopped_by_error(message: str, text: str) -> None:
    """Writes down that the worker was paused after an error of the script."""
    global _error
    _error = {"error": message, "traceback": text, "step": worker.step(), "time": time.time()}
    _write_error()


def _write_error() -> None:
    global _error
    if _error is not None and worker.journal_begun():
        line, _error = _error, None
        _append(line)


def end(state: str) -> None:
    """Writes down how the run ended, if anything was written down before."""
    if worker.journal_begun():
        _append({"end": state, "step": worker.step(), "time": time.time()})


def forget_after_fork() -> None:
    """In a forked child: the journal is its parent's."""
    global _path, _kept, _refused
    _path = _kept = None
    _refused = False


def _append(line: Mapping[str, Any]) -> None:
    global _path
    if _path is None or not worker.journal_begun():
        return
    try:
        with session.current.lock:  # in which the core writes its lines
            journal.append(_path, line)
    except RecursionError:  # as deep as can be read, and then within a line: without its payload it is not replayed
        stderr.warn("what a request carries is nested too deep for the journal")
    except (OSError, JournalError) as error:
        stderr.warn(f"the journal {_path} can't be written any more: {error}")
        _path = None
