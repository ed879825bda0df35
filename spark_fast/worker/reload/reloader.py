"""Whoever runs the loop again when a reload has unwound it: the loop `run → SparkReloadError → new code → run`.

What happens at a reload, in order:
1. At a checkpoint of the thread under the host the request is met, the version's sources are read, and what speaks
   against it is looked for. If something does, the request is refused and the loop goes on: nothing was unwound.
2. SparkReloadError leaves the user's frames. Loops with a key keep their places.
3. The modules that changed, and those that imported them, are executed (see transaction.py), then the entry.
4. The new code is on trial until its loop has come round once. If it raises before that, everything is put back and the
   old code runs from the same place. What came of the request is published then: before, nobody could tell.
5. If code fails and there is none to run in its place, the worker parks with everything in memory: see error_park.py.
"""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spark_fast._core import GIVEN, ROUND, Place, worker
from spark_fast.errors import (
    CodeRefusedError,
    SparkError,
    SparkReloadError,
    first_stop,
    is_reload,
    is_stop,
)
from spark_fast.project.files import is_under
from spark_fast.request import format_id, is_restart, sender_name, version_of
from spark_fast.runfiles.versions import Store
from spark_fast.worker import options, session, stderr
from spark_fast.worker.journal import writer
from spark_fast.worker.reload import dataloaders, starting_over, vote
from spark_fast.worker.reload.answers import answer, elsewhere_error, publish_applied, reason_of, speaks_against
from spark_fast.worker.reload.error_park import ErrorPark
from spark_fast.worker.reload.modules import ENTRY, Module, Project
from spark_fast.worker.reload.spawn import Spawning
from spark_fast.worker.reload.vote import ElsewhereError
from spark_fast.worker.session import Reason
from spark_fast.worker.state import ended_loops, loops, persist

if TYPE_CHECKING:
    from spark_fast.worker.reload.transaction import Transaction

__all__ = ["Host"]


class _Asked:
    """A reload that was met."""

    def __init__(self, entry: dict[str, Any], step: int) -> None:
        self.entry = entry
        self.step = step
        self.error = SparkReloadError(format_id(entry["id"]), step, entry["sender"])
        self.told = False


class _Trial:
    """Code that has not proved itself yet.

    asked: None for old code that was put back.

    Attributes:
        aside: the places of loops that code which starts over does not go on from.
        ended: the loops that had ended before this code.
    """

    def __init__(self, transaction: "Transaction", asked: _Asked | None) -> None:
        self.transaction = transaction
        self.asked = asked
        self.executed = False
        self.aside: list[Place] = []
        self.ended = ended_loops.snapshot()


class Host:
    """The host of this process; there is one at most.

    roots: the folders that hold the project's code.
    watched: whether somebody is about to save new code.

    Attributes:
        thread: the thread that it runs the code in.
        ending: True once the process is to end whatever the code on trial does.
        executes_entry: whether a reload executes the script, and with it what it makes at its top level, once more.
    """

    def __init__(self, roots: Sequence[str], *, watched: bool = False) -> None:
        self.thread = threading.get_ident()
        self.ending = False
        self.executes_entry = True
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
        self._park = ErrorPark(watched=watched)
        self._undo_error: Exception | None = None

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
        if session.has_local_peers() and not session.first_here():
            self._join(store)
            return
        path = [os.path.abspath(each or ".") for each in sys.path]
        inside = [each for each in path if any(is_under(each, root) for root in self._roots)]
        try:
            store.create(entry, self._roots, inside)
            for module in list(self._project.modules.values()):
                store.record(module.name, module.path, module.source, self._number)
            store.make_first(sender_name())
        except (OSError, SparkError) as error:
            stderr.warn(f"this run can't be reloaded: its code can't be kept: {error}")
            return
        self._store = store
        self._spawning.store = store

    def _join(self, store: Store) -> None:
        """The first rank keeps the versions; this one adds what it alone imports."""
        try:
            store.join()
        except (OSError, SparkError) as error:
            stderr.warn(f"this rank can't be reloaded: its code can't be kept: {error}")
            return
        self._store = self._spawning.store = store

    def close(self) -> None:
        """From here on nobody runs the code again."""
        self._park.disarm()
        self._project.remove()
        self._spawning.close()
        store, self._store = self._store, None
        if store is not None:
            try:
                store.close()
            except (OSError, SparkError) as error:
                stderr.warn(f"that this run can't be reloaded any more can't be written down: {error}")

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
            stderr.warn(f"a reload can't be replayed: {error}")
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
            stderr.warn(f"the code of this run can't be kept any more, so it can't be reloaded: {error}")

    def _on_spawn(self, spawn: ModuleType) -> None:
        self._spawning.begin(self._project, spawn)

    # --- at a checkpoint, holding session.current.lock ---

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
            vote.vote(entry["seq"], vote.READY, False)
            known = isinstance(error, (SparkError, OSError, SyntaxError))
            answer(entry, step, "refused", reason_of(error), "" if known else stderr.as_printed(error))
            return None
        if not vote.agree(entry["seq"], vote.READY):
            worker.tell(entry["seq"], step, failed=True)  # whoever refused has said why
            return None
        self.tell()  # of the one before it: it ran by then
        asked = _Asked(entry, step)
        self._leaving = _Trial(transaction, asked)
        loops.unwind(self.thread)
        return asked.error

    def _prepare(self, entry: dict[str, Any]) -> "Transaction":
        if self._store is None:
            raise CodeRefusedError("the code of this run could not be kept")
        number = version_of(entry["mail"])
        if number is None:
            raise CodeRefusedError(f"the request names no version of the code: {entry['mail']!r}")
        version = self._store.version(number)
        restart = is_restart(entry["mail"])
        running = {module.path: module.digest for module in list(self._project.modules.values())}
        sources = {
            path: self._store.source(digest) for path, digest in version.files.items() if running.get(path) != digest
        }
        transaction = self._transaction(sources, version.number, restart=restart)
        transaction.check()
        if not restart:
            starting_over.look(
                transaction, self._project, self._park, self._roots, thread=self.thread, anew=self.executes_entry
            )
        return transaction

    def _transaction(self, sources: Mapping[str, bytes], number: int, *, restart: bool = False) -> "Transaction":
        from spark_fast.worker.reload.transaction import Transaction  # 50 ms, for those who reload

        return Transaction(self._project, sources, number=number, before=self._number, restart=restart)

    def tell(self) -> None:
        """Publishes that the new code runs: it has come to a point at which it would wait."""
        for trial in self._trials:
            if trial.asked is not None and not trial.asked.told:
                trial.asked.told = True
                self._finish_warnings(trial)
                publish_applied(trial.asked.entry, trial.asked.step, trial.transaction.warnings)

    def _finish_warnings(self, trial: _Trial) -> None:
        try:
            trial.transaction.finish_warnings()
        except Exception as error:  # the new code runs, whatever can't be said of it
            stderr.warn_of("what a reload leaves as it was can't be told", error)

    def _prove(self) -> None:
        """The new code runs, and stays, where it does so in all ranks. Raises SparkReloadError if it does not."""
        for trial in self._trials:
            asked = trial.asked
            if asked is not None and not vote.agree(asked.entry["seq"], vote.PROVED):
                loops.unwind(self.thread)
                raise SparkReloadError(format_id(asked.entry["id"]), asked.step, asked.entry["sender"]) from (
                    ElsewhereError("another rank can't run it")
                )
        for trial in self._trials:
            self._finish_warnings(trial)  # not with the turns: it looks through all objects
        with session.current.lock:
            self.tell()
        for trial in self._trials:
            try:
                trial.transaction.commit()
            except Exception as error:  # the new code runs: a fault in what only tidies up is not to end it
                stderr.warn_of("the end of a reload raised", error)
        self._park.over()
        self._park.arm(reloaded=any(trial.asked is not None for trial in self._trials))
        self._trials.clear()
        loops.settle()
        dataloaders.settle()
        with session.current.lock:
            session.current.watch.every(Reason.RELOAD_ON_TRIAL, False)

    # --- running ---

    def run(self, first: Callable[[], object], again: Callable[["Transaction"], object]) -> object:
        """Runs the user's code, and again after each reload. Returns and raises what the last one does.

        first: runs it for the first time.
        again: executes what is to be executed anew of the entry, and runs it.
        """
        transaction: Transaction | None = None
        ended_loops.begin()
        while True:
            try:
                result = first() if transaction is None else again(transaction)
                # What left the loop may have been swallowed by the code around it.
                if self._leaving is None:
                    self._end_trials()
                    return result
            except BaseException as error:
                if self._leaving is not None and not self.ending and not isinstance(error, KeyboardInterrupt):
                    if not is_reload(error):
                        stderr.warn_of("leaving the loop for a reload raised", error)
                elif not self._take_back(error) and not self._hold(error):
                    with suppress(SparkReloadError):  # another rank can't run it; here nothing runs any more
                        self._end_trials()
                    raise
            transaction = self._next()

    def _hold(self, error: BaseException) -> bool:
        """Code has failed, and there is none to run in its place. Keeps the worker alive to park, unless the error is
        one that ends the process; whether it does."""
        if self.ending or not self._park.takes(error, on_trial=bool(self._trials)):
            return False
        while self._trials:
            self._undo(self._trials.pop())
        self._begin_hold(error)
        return True

    def _begin_hold(self, error: BaseException) -> None:
        self._leaving = None
        dataloaders.settle()
        with session.current.lock:
            session.current.watch.every(Reason.RELOAD_ON_TRIAL, False)
        self._park.begin(error)

    def _wait(self) -> None:
        """Parks after an error until code is to run again: new code, or the same if the run was resumed.

        Raises SparkStopError, from the error, if it is stopped instead.
        """
        while True:
            try:
                self._park.wait()
            except SparkReloadError:
                if self._leaving is None:
                    raise
            except BaseException as error:
                if not is_stop(error):
                    raise
                raise first_stop(error) from self._park.error
            if self._leaving is not None or self._can_go_on():
                self._end_hold()
                return
            stderr.warn(
                "the run was resumed, but none of its loops has a key and nothing is persisted: its code would start "
                "the training over, so it stays paused. Stop it, or mend the code and reload it with --restart"
            )

    def _end_hold(self) -> None:
        left = self._leaving
        for key in self._park.end(new_code=left is not None):
            told = f"the loop with the key {key!r} begins at its first item again: its iterator had raised the error"
            if left is not None:
                left.transaction.warnings.append(told)
            else:
                stderr.warn(told)

    def _can_go_on(self) -> bool:
        """Whether code that runs again finds anything of what was there."""
        return self._park.has_places or bool(persist.current.snapshot())

    def _undo(self, trial: _Trial) -> None:
        """Puts back what the trial's code took the place of."""
        try:
            trial.transaction.undo()
        except Exception as error:
            stderr.warn_of("not all of the new code could be taken back: old and new code are mixed", error)
            self._undo_error = error
        loops.bring_back(trial.aside)
        ended_loops.restore(trial.ended)

    def _end_trials(self) -> None:
        if self._trials:
            self._prove()

    def _next(self) -> "Transaction":
        """The frames are gone. What is to run now: the new code, or the old once more if that can't be executed."""
        while True:
            if self._park.error is not None and self._leaving is None:
                self._wait()
            try:
                return self._execute_next()
            except BaseException as error:
                if not self._take_back(error) and not self._hold(error):
                    raise

    def _execute_next(self) -> "Transaction":
        """Executes the modules of the version that was asked for; of the one that runs, where none was."""
        loops.abandon(self.thread)
        self._looks = self._rounds = 0
        left = self._leaving
        if left is not None and left.asked is not None:
            # They hold the old frames, whose generators may wait for threads as they go: not with the turns.
            left.asked.error.__traceback__ = left.asked.error.__context__ = None
        with session.current.lock:
            trial, self._leaving = self._leaving, None
            if trial is not None and trial.asked is not None and session.is_distributed():
                # The new code comes to the step at which the old one was left: nothing was done in it, and what
                # the log says of it, that they park there say, holds for all ranks alike.
                worker.set_back(trial.asked.step - options.current().stride)
            if trial is None:  # the last one was taken back, or the run was resumed after an error
                trial = _Trial(self._transaction({}, self._number), None)
            self._trials.append(trial)
            self._began = worker.step()
            session.current.watch.every(Reason.RELOAD_ON_TRIAL, True)
        if trial.transaction.restart:
            trial.aside = loops.set_aside(self.thread)
            loops.unwind(self.thread)
            ended_loops.forget()
        ended_loops.pass_over(starting_over.ended(self._project, self._park)[0])
        if trial.asked is not None:
            ident = format_id(trial.asked.entry["id"])
            writer.current.code(ident, trial.transaction.number, trial.transaction.sources)
        with self._spawning.settling():
            trial.transaction.execute()
        if trial.asked is not None and not vote.agree(trial.asked.entry["seq"], vote.EXECUTED):
            raise ElsewhereError("another rank can't execute it")
        trial.executed = True
        self._set_current(trial.transaction.number)
        dataloaders.defer(self.thread)
        return trial.transaction

    def _take_back(self, error: BaseException) -> bool:
        """The code has failed. If it was on trial, what ran before it is put back; whether it was."""
        if self.ending or not speaks_against(error):
            return False
        if not any(trial.asked is not None for trial in self._trials):
            return False
        elsewhere = elsewhere_error(error)
        text = stderr.as_printed(error) if elsewhere is None else str(elsewhere)
        while True:
            trial = self._trials.pop()
            self._undo(trial)
            if trial.asked is not None:
                break
        vote.vote(trial.asked.entry["seq"], vote.PROVED if trial.executed else vote.EXECUTED, False)
        if session.is_distributed():
            # In all ranks a step stands for the same item, however many have been done with this code here.
            worker.set_back(self._began + self._rounds * options.current().stride)
        dataloaders.settle()
        transaction = trial.transaction
        self._set_current(transaction.before)
        if self._park.error is not None:
            after = "the run stays paused after its error"
        elif self._undo_error is not None:
            after = "it could not be taken back whole, so the run is paused"
        else:
            after = f"version {transaction.before} runs on"
        back = f"version {transaction.number} of the code failed; {after}"
        stderr.warn(f"{back}:\n{text.rstrip()}")
        with session.current.lock:
            writer.current.failed(format_id(trial.asked.entry["id"]), reason_of(error))
            if elsewhere is not None:
                worker.tell(trial.asked.entry["seq"], trial.asked.step, failed=True)  # whose fault it is has said why
            elif not trial.asked.told:
                answer(trial.asked.entry, trial.asked.step, "failed", back, text)
        undo_error, self._undo_error = self._undo_error, None
        again = self._park.error if undo_error is None else undo_error
        if again is not None:
            self._begin_hold(again)
        return True

    def _set_current(self, number: int) -> None:
        if number == self._number:
            return
        self._number = number
        if self._store is not None:
            try:
                self._store.set_current(number)
            except (OSError, SparkError) as error:
                stderr.warn(f"which version of the code runs can't be written down: {error}")
