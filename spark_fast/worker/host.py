"""Whoever runs the loop again when a reload has unwound it: the loop `run → SparkReloadError → new code → run`.

What happens at a reload, in order:
1. At a checkpoint of the thread under the host the request is met, the version's sources are read, and what speaks
   against it is looked for. If something does, the request is refused and the loop goes on: nothing was unwound.
2. SparkReloadError leaves the user's frames. Loops with a key keep their places.
3. The modules that changed, and those that imported them, are executed (see transaction.py), then the entry.
4. The new code is on trial until its loop has come round once. If it raises before that, everything is put back and the
   old code runs from the same place. What came of the request is published then: before, nobody could tell.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spark_fast import mailbox
from spark_fast._core import GIVEN, ROUND, worker
from spark_fast.code_versions import Store
from spark_fast.errors import (
    CodeRefusedError,
    SparkError,
    SparkInterrupt,
    SparkReloadError,
)
from spark_fast.project_files import is_under
from spark_fast.request import format_id, version_of
from spark_fast.worker import journaling, loaders, options, places, report, session, voting
from spark_fast.worker.project import ENTRY, Module, Project
from spark_fast.worker.spawning import Spawning
from spark_fast.worker.voting import ElsewhereError

if TYPE_CHECKING:
    from spark_fast.worker.transaction import Transaction

__all__ = ["Host", "answer"]


class _Asked:
    """A reload that was met."""

    def __init__(self, entry: dict[str, Any], step: int) -> None:
        self.entry = entry
        self.step = step
        self.error = SparkReloadError(format_id(entry["id"]), step, entry["sender"])
        self.told = False


class _Trial:
    """Code that has not proved itself yet. asked: None for old code that was put back."""

    def __init__(self, transaction: "Transaction", asked: _Asked | None) -> None:
        self.transaction = transaction
        self.asked = asked
        self.executed = False


class Host:
    """The host of this process; there is one at most.

    roots: the folders that hold the project's code.

    Attributes:
        thread: the thread that it runs the code in.
        ending: True once the process is to end whatever the code on trial does.
    """

    def __init__(self, roots: Sequence[str]) -> None:
        self.thread = threading.get_ident()
        self.ending = False
        self._roots = list(dict.fromkeys(os.path.abspath(root) for root in roots))
        self._spawning = Spawning()
        self._project = Project(self._roots, self._on_loaded, self._on_spawn)
        self._store: Store | None = None
        self._number = 1
        self._leaving: _Trial | None = None
        self._trials: list[_Trial] = []
        self._looks = 0
        self._began = 0
        self._rounds = 0

    # --- the code that runs ---

    def open(self, entry: str | None, source: bytes | None) -> None:
        """Keeps the versions of the code in the run's folder. Without that, which a warning says, the run can't be
        reloaded.

        entry: the file that is executed as `__main__`; None if none can be executed anew.
        source: what is about to be executed of it.
        """
        if entry is not None and source is not None:
            self._project.note(Module(ENTRY, os.path.abspath(entry), source), from_disk=True)
        folder = session.folder()
        if folder is None:
            return
        store = Store(folder)
        if session.several() and not session.first_here():
            self._join(store)
            return
        path = [os.path.abspath(each or ".") for each in sys.path]
        inside = [each for each in path if any(is_under(each, root) for root in self._roots)]
        try:
            store.create(entry, self._roots, inside)
            for module in list(self._project.modules.values()):
                store.record(module.name, module.path, module.source, self._number)
            store.make_first()
        except (OSError, SparkError) as error:
            report.warn(f"this run can't be reloaded: its code can't be kept: {error}")
            return
        self._store = store
        self._spawning.store = store

    def _join(self, store: Store) -> None:
        """The first rank keeps the versions; this one adds what it alone imports."""
        try:
            store.join()
        except (OSError, SparkError) as error:
            report.warn(f"this rank can't be reloaded: its code can't be kept: {error}")
            return
        self._store = self._spawning.store = store

    def close(self) -> None:
        """From here on nobody runs the code again."""
        self._project.remove()
        self._spawning.close()
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except (OSError, SparkError) as error:
                report.warn(f"that this run can't be reloaded any more can't be written down: {error}")

    def add_version(self, sources: Mapping[str, bytes], sender: str) -> int | None:
        """Makes a version of what runs with some sources in place of others, and returns its number; None, after a
        warning, if it can't be kept."""
        if self._store is None:
            return None
        files = {module.path: module.digest for module in list(self._project.modules.values())}
        try:
            for path, source in sources.items():
                files[path] = self._store.put(source, path)
            disk = self._store.current().disk
            return self._store.add(files, disk, "replayed", sender).number
        except (OSError, SparkError) as error:
            report.warn(f"a reload can't be replayed: {error}")
            return None

    def forget_after_fork(self) -> None:
        """In a forked child: what it imports is no part of the run. What it spawns runs what ran when it was forked."""
        self._store = None
        self._project.remove()

    @property
    def project(self) -> Project:
        """The project's modules."""
        return self._project

    @property
    def trying(self) -> bool:
        """Whether code runs that has not proved itself yet."""
        return bool(self._trials)

    def _on_loaded(self, module: Module) -> None:
        if self._store is None:
            return
        try:
            self._store.record(module.name, module.path, module.source, self._number)
        except (OSError, SparkError) as error:
            self._store = self._spawning.store = None
            report.warn(f"the code of this run can't be kept any more, so it can't be reloaded: {error}")

    def _on_spawn(self, spawn: ModuleType) -> None:
        self._spawning.begin(self._project, spawn)

    # --- at a checkpoint, holding session.turns ---

    def pass_checkpoint(self, done: int | None) -> None:
        """The thread under the host passes a checkpoint. done: GIVEN if its loop has handed out a new item since it
        began, and ROUND if the body of its last item has come round; None if it has no loop.

        Raises SparkReloadError again if frames that it should have left are still there.
        """
        if self._leaving is not None and self._leaving.asked is not None:
            raise self._leaving.asked.error
        if self._trials:
            # A bare checkpoint says nothing of the code that follows it; that it came back to one does.
            self._looks += done is None
            self._rounds += self._looks > 1 if done is None else bool(done & ROUND)
            if (done or 0) & GIVEN or self._looks > 1:
                self._prove()

    def meet(self, entry: dict[str, Any], step: int) -> SparkReloadError | None:
        """A reload is due. The exception to raise; None if it was refused, and the loop goes on."""
        transaction: Transaction | None = None
        try:
            transaction = self._prepare(entry)
        except Exception as error:  # whatever it is, the loop has not been left, and goes on
            voting.vote(entry["seq"], voting.READY, False)
            known = isinstance(error, (SparkError, OSError, SyntaxError))
            answer(entry, step, "refused", _reason(error), "" if known else report.as_printed(error))
            return None
        if not voting.agree(entry["seq"], voting.READY):
            worker.tell(entry["seq"], step, failed=True)  # whoever refused has said why
            return None
        self.tell()  # of the one before it: it ran by then
        asked = _Asked(entry, step)
        self._leaving = _Trial(transaction, asked)
        places.unwind(self.thread)
        return asked.error

    def _prepare(self, entry: dict[str, Any]) -> "Transaction":
        if self._store is None:
            raise CodeRefusedError("the code of this run could not be kept")
        number = version_of(entry["mail"])
        if number is None:
            raise CodeRefusedError(f"the request names no version of the code: {entry['mail']!r}")
        version = self._store.version(number)
        running = {module.path: module.digest for module in list(self._project.modules.values())}
        sources = {
            path: self._store.source(digest) for path, digest in version.files.items() if running.get(path) != digest
        }
        transaction = self._transaction(sources, version.number)
        transaction.check()
        return transaction

    def _transaction(self, sources: Mapping[str, bytes], number: int) -> "Transaction":
        from spark_fast.worker.transaction import Transaction  # 50 ms, for those who reload

        return Transaction(self._project, sources, number=number, before=self._number)

    def tell(self) -> None:
        """Publishes that the new code runs: it has come to a point at which it would wait."""
        for trial in self._trials:
            if trial.asked is not None and not trial.asked.told:
                trial.asked.told = True
                try:
                    trial.transaction.finish_warnings()
                except Exception as error:  # the new code runs, whatever can't be said of it
                    report.warn_of("what a reload leaves as it was can't be told", error)
                _publish(trial.asked.entry, trial.asked.step, trial.transaction.warnings)

    def _prove(self) -> None:
        """The new code runs, and stays, where it does so in all ranks. Raises SparkReloadError if it does not."""
        for trial in self._trials:
            asked = trial.asked
            if asked is not None and not voting.agree(asked.entry["seq"], voting.PROVED):
                places.unwind(self.thread)
                raise SparkReloadError(format_id(asked.entry["id"]), asked.step, asked.entry["sender"]) from (
                    ElsewhereError("another rank can't run it")
                )
        with session.turns:
            self.tell()
        for trial in self._trials:
            try:
                trial.transaction.commit()
            except Exception as error:  # the new code runs: a fault in what only tidies up is not to end it
                report.warn_of("the end of a reload raised", error)
        self._trials.clear()
        places.settle()
        loaders.settle()
        with session.turns:
            session.on_trial(False)

    # --- running ---

    def run(self, first: Callable[[], object], again: Callable[["Transaction"], object]) -> object:
        """Runs the user's code, and again after each reload. Returns and raises what the last one does.

        first: runs it for the first time.
        again: executes what is to be executed anew of the entry, and runs it.
        """
        transaction: Transaction | None = None
        stranded = False
        while True:
            try:
                if stranded:
                    session.park("a reload that failed")
                    result = None
                else:
                    result = first() if transaction is None else again(transaction)
                # What left the loop may have been swallowed by the code around it.
                if self._leaving is None and not stranded:
                    self._end_trials()
                    return result
            except BaseException as error:
                if self._leaving is not None and not self.ending and not isinstance(error, KeyboardInterrupt):
                    if error is not (self._leaving.asked and self._leaving.asked.error):
                        report.warn_of("leaving the loop for a reload raised", error)
                elif not self._take_back(error):
                    stranded = self._strand(error)
                    if stranded:
                        continue
                    with suppress(SparkReloadError):  # another rank can't run it; here nothing runs any more
                        self._end_trials()
                    raise
            stranded = False
            transaction = self._next()

    def _end_trials(self) -> None:
        if self._trials:
            self._prove()

    def _next(self) -> "Transaction":
        """The frames are gone. What is to run now: the new code, or the old once more if that can't be executed."""
        while True:
            places.abandon(self.thread)
            self._looks = self._rounds = 0
            left = self._leaving
            if left is not None and left.asked is not None:
                # They hold the old frames, whose generators may wait for threads as they go: not with the turns.
                left.asked.error.__traceback__ = left.asked.error.__context__ = None
            with session.turns:
                trial, self._leaving = self._leaving, None
                if trial is not None and trial.asked is not None and session.together():
                    # The new code comes to the step at which the old one was left: nothing was done in it, and what
                    # the log says of it, that they park there say, holds for all ranks alike.
                    worker.set_back(trial.asked.step - options.current().stride)
                if trial is None:  # the last one was taken back
                    trial = _Trial(self._transaction({}, self._number), None)
                self._trials.append(trial)
                self._began = worker.step()
                session.on_trial(True)
            try:
                if trial.asked is not None:
                    ident = format_id(trial.asked.entry["id"])
                    journaling.code(ident, trial.transaction.number, trial.transaction.sources)
                with self._spawning.settling():
                    trial.transaction.execute()
                if trial.asked is not None and not voting.agree(trial.asked.entry["seq"], voting.EXECUTED):
                    raise ElsewhereError("another rank can't execute it")
                trial.executed = True
            except BaseException as error:
                if not self._take_back(error):
                    raise
                del error
                continue
            self._set_current(trial.transaction.number)
            loaders.defer(self.thread)
            return trial.transaction

    def _take_back(self, error: BaseException) -> bool:
        """The code has failed. If it was on trial, what ran before it is put back; whether it was."""
        if self.ending or not _speaks_against(error):
            return False
        if not any(trial.asked is not None for trial in self._trials):
            return False
        elsewhere = _elsewhere(error)
        text = report.as_printed(error) if elsewhere is None else str(elsewhere)
        while True:
            trial = self._trials.pop()
            trial.transaction.undo()
            if trial.asked is not None:
                break
        voting.vote(trial.asked.entry["seq"], voting.PROVED if trial.executed else voting.EXECUTED, False)
        if session.together():
            # In all ranks a step stands for the same item, however many have been done with this code here.
            worker.set_back(self._began + self._rounds * options.current().stride)
        loaders.settle()
        transaction = trial.transaction
        self._set_current(transaction.before)
        back = f"version {transaction.number} of the code failed; version {transaction.before} runs on"
        report.warn(f"{back}:\n{text.rstrip()}")
        with session.turns:
            journaling.failed(format_id(trial.asked.entry["id"]), _reason(error))
            if elsewhere is not None:
                worker.tell(trial.asked.entry["seq"], trial.asked.step, failed=True)  # whose fault it is has said why
            elif not trial.asked.told:
                answer(trial.asked.entry, trial.asked.step, "failed", back, text)
        return True

    def _strand(self, error: BaseException) -> bool:
        """The old code can't be run again either: it was never made to be run twice, say. Nobody's edit is to cost what
        the process has in memory, so it parks, until it is given code that runs, or is stopped. Whether it did."""
        if not self._trials or not _speaks_against(error):
            return False
        while self._trials:
            self._trials.pop().transaction.undo()
        loaders.settle()
        places.abandon(self.thread)
        with session.turns:
            session.on_trial(False)
        report.warn(
            "the code that ran before can't be run again either, so this process is paused, with all that it has "
            "persisted: mend the code and reload it, or stop the run. Resumed, it tries once more.\n"
            + report.as_printed(error)
        )
        return True

    def _set_current(self, number: int) -> None:
        if number == self._number:
            return
        self._number = number
        if self._store is not None:
            try:
                self._store.set_current(number)
            except (OSError, SparkError) as error:
                report.warn(f"which version of the code runs can't be written down: {error}")


def _speaks_against(error: BaseException) -> bool:
    """Whether the code failed, and was not just ended."""
    quits = isinstance(error, SystemExit) and error.code in (None, 0)
    interrupted = isinstance(error, (SparkInterrupt, KeyboardInterrupt))
    return _elsewhere(error) is not None or not (quits or interrupted)


def _elsewhere(error: BaseException) -> ElsewhereError | None:
    """The fault of another rank that this error stands for, if it does."""
    found = error if isinstance(error, ElsewhereError) else error.__cause__
    return found if isinstance(found, ElsewhereError) else None


def answer(entry: dict[str, Any], step: int, state: str, reason: str, trace: str = "") -> None:
    """Tells the sender of a reload why it came to nothing. The fate is published whatever happens to the words."""
    if state == "refused":
        report.warn(f"a reload was refused: {reason}")
    folder = session.folder()
    if folder is not None:
        try:
            mailbox.write_reply(folder, entry["id"], mailbox.Reply(state, reason, trace), session.rank())
        except (OSError, SparkError) as error:
            report.warn(f"the sender of a reload can't be told why it came to nothing: {error}")
    worker.tell(entry["seq"], step, failed=True)


def _publish(entry: dict[str, Any], step: int, warnings: Sequence[str]) -> None:
    """Tells the sender of a reload that the new code runs, and what stays as the old code made it."""
    folder = session.folder()
    for warning in warnings:
        report.warn(f"after a reload: {warning}")
    if warnings and folder is not None:
        reply = mailbox.Reply("done", step=step, warnings=tuple(dict.fromkeys(warnings)))
        try:
            mailbox.write_reply(folder, entry["id"], reply, session.rank())
        except (OSError, SparkError) as error:
            report.warn(f"the sender of a reload can't be told of its warnings: {error}")
    worker.tell(entry["seq"], step, failed=False)


def _reason(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error)).strip()
    try:
        return str(error)
    except Exception:  # of the user's own class
        return type(error).__name__
