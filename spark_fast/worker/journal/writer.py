"""Writes the journal's lines that the core does not write. See spark_fast/runfiles/journal.py."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_fast import stderr
from spark_fast._core import worker
from spark_fast.errors import JournalError, SparkError
from spark_fast.runfiles import journal, journal_parts, private_files
from spark_fast.runfiles.core_errors import describe_code
from spark_fast.runfiles.safe_paths import make_folders
from spark_fast.sizes import size_text
from spark_fast.worker import options, session

if TYPE_CHECKING:
    from spark_fast.worker.reload.modules import Project

__all__ = ["JournalWriter", "current"]


@dataclass
class _Kept:
    """The content of each part's header, and the present part of the journal."""

    run: str
    command: list[str]
    started: float
    entry: tuple[str, bytes] | None
    header_size: int
    part: int = 1
    says_dropped: bool = False

    def header(self, before: int) -> bytes:
        return journal.first_line(self.run, self.command, self.started, self.entry, part=self.part, before=before)


class JournalWriter:
    """The journal of this process's run, if one is kept. Without one, its methods do nothing."""

    def __init__(self) -> None:
        self._path: str | None = None
        self._kept: _Kept | None = None
        self._is_refused = False
        """Whether a warning has said that no journal is kept. The runner calls keep() again, once it knows the
        script."""
        self._noted = 0
        """How many of the project's modules this part of the journal names."""
        self._error: dict[str, Any] | None = None
        """An error to write down once the journal has begun, which it does with the pause that follows the error."""

    def keep(
        self, folder: Path, run: str, command: list[str], chosen: str | None, entry: tuple[str, bytes] | None
    ) -> None:
        """Record the requests that are applied from now on. If that fails, warn, and go on without a journal.

        folder: the run folder, in which a pointer to the journal is written.
        chosen: the journal's file; None for one in the user's folder.
        entry: the path and the source of the script, if it can be run again.
        """
        if self._is_refused:
            return
        if worker.journal_begun():
            return  # a request came before the script was found: a second header would separate it from the rest
        started = time.time()
        try:
            if chosen:
                path = Path(chosen).absolute()
            else:  # an existing path belongs to this run, whose entry is known only now
                path = Path(self._path) if self._path else journal.default_path(run, started)
            if chosen is None:
                make_folders(path.parent)
                with private_files.opened(path.parent):
                    pass  # the folder will hold sources, so no other user may be able to put files there
            else:
                journal.make(path)
            header = journal.first_line(run, command, started, entry)
            worker.keep_journal(path, journal.lead(path) + header)
            self._kept = _Kept(run, command, started, entry, len(header))
            with private_files.opened(folder) as descriptor:
                private_files.write_whole(descriptor, journal.POINTER, os.fsencode(path))
            self._path = str(path)
        except (OSError, SparkError, RuntimeError) as error:  # RuntimeError: a user without a home
            self._is_refused = True
            stderr.warn(f"no journal is kept: {error}")

    def follow(self, project: "Project | None") -> None:
        """Warn, after requests were applied, if the core could not record them; record new imports."""
        error = worker.journal_error()
        if error:
            self._give_up(describe_code(error))
        self._write_error()
        self._limit_size()
        if project is not None and len(project.modules) > self._noted and worker.journal_begun():
            fresh = list(project.modules.values())[self._noted :]
            self._noted = len(project.modules)
            self._append({"modules": {module.path: module.digest for module in fresh if module.name != "__main__"}})

    def code(self, ident: str, number: int, sources: Mapping[str, bytes]) -> None:
        """Record the sources that a reload is about to run."""
        from spark_fast.project.sources import decode

        self._append({"code": number, "id": ident, "files": {path: decode(text) for path, text in sources.items()}})

    def payload(self, ident: str, content: Mapping[str, Any]) -> None:
        """Record the content of a request that is about to be delivered."""
        self._append({"payload": content, "id": ident})

    def returned(self, ident: str) -> None:
        """Record that a called function has ended, so that requests after this line do not belong to the call."""
        self._append({"returned": ident})

    def failed(self, ident: str, reason: str) -> None:
        """Record that a reload was rolled back, that a value was not set, or that a call failed."""
        self._append({"failed": ident, "reason": reason})

    def stopped_by_error(self, message: str, text: str) -> None:
        """Record that the worker was paused after an error of the script."""
        self._error = {"error": message, "traceback": text, "step": worker.step(), "time": time.time()}
        self._write_error()

    def end(self, state: str) -> None:
        """Record how the run ended, if the journal has begun."""
        self._append({"end": state, "step": worker.step(), "time": time.time()})

    def _limit_size(self) -> None:
        """Begin a new part once the present one is full, and drop the oldest parts beyond the limit.

        A part may be as long as two headers, however small the limit: a header holds the script's source.
        """
        limit, kept = options.current().journal_limit, self._kept
        if limit is None or self._path is None or kept is None or not worker.journal_begun():
            return
        path, share = Path(self._path), limit // journal_parts.COUNT
        try:
            if path.stat().st_size < max(share, 2 * kept.header_size):
                return
            before = journal_parts.put_aside(path)
        except OSError as error:
            if not kept.says_dropped:
                kept.says_dropped = True
                stderr.warn(f"the journal {path} can't be kept below its limit: {error}")
            return
        kept.part += 1
        header = kept.header(before)
        kept.header_size = len(header)
        self._noted = 0  # each part names the modules, so that it can be checked without the earlier parts
        try:
            worker.continue_journal(header)
            dropped = journal_parts.drop_oldest(path, limit - share)
        except (OSError, SparkError) as error:
            self._give_up(error)
            return
        if dropped and not kept.says_dropped:
            kept.says_dropped = True
            stderr.warn(
                f"the journal {path} has reached its limit of {size_text(limit)}: its oldest part is dropped, as later "
                "ones will be. SPARK_FAST_JOURNAL_LIMIT sets the limit"
            )

    def _write_error(self) -> None:
        if self._error is not None and worker.journal_begun():
            line, self._error = self._error, None
            self._append(line)

    def _append(self, line: Mapping[str, Any]) -> None:
        if self._path is None or not worker.journal_begun():
            return
        try:
            with session.current.lock:  # the core holds it, too, when it writes its lines
                journal.append(self._path, line)
        except RecursionError:  # readable, but a line nests it one level deeper: it won't be replayed
            stderr.warn("what a request carries is nested too deep for the journal")
        except (OSError, JournalError) as error:
            self._give_up(error)

    def _give_up(self, reason: object) -> None:
        stderr.warn(f"the journal {self._path} can't be written any more: {reason}")
        self._path = None


current = JournalWriter()
"""The journal of this process. A forked child gets a new one: the journal is its parent's."""
