"""Runs the user's code, and runs it again after each reload.

A reload takes these steps:
1. The reload is due at a checkpoint of the reloader's thread. `begin_reload()` reads the new sources and checks whether
   they can replace the old ones. If not, it refuses the reload: nothing is unwound, and the loop goes on.
2. SparkReloadError leaves the user's frames. Loops with a key keep their places.
3. The modules that changed, and those that import them, are executed (transaction.py), and then the entry.
4. The new code is on probation until its loop has come round (probation.py). If it raises before that, it is rolled
   back, and the old code runs from the same place. The sender learns only now how the reload ended.
5. If code fails and no other code can replace it, the worker parks with everything in memory (error_park.py).
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from spark_fast import stderr
from spark_fast._core import worker
from spark_fast.errors import CodeRefusedError, SparkError, SparkReloadError, first_stop, is_reload, is_stop
from spark_fast.request import is_restart, version_of
from spark_fast.worker import options, session
from spark_fast.worker.journal import writer
from spark_fast.worker.reload import starting_over, vote
from spark_fast.worker.reload.answers import answer, elsewhere_error, publish_applied, reason_of, speaks_against
from spark_fast.worker.reload.dataloaders import DeferredLoaders
from spark_fast.worker.reload.error_park import ErrorPark
from spark_fast.worker.reload.modules import Project
from spark_fast.worker.reload.probation import Attempt, DueReload, Probation
from spark_fast.worker.reload.running_code import RunningCode
from spark_fast.worker.reload.vote import ElsewhereError
from spark_fast.worker.session import Reason
from spark_fast.worker.state import hooks, loops, persist, registry

if TYPE_CHECKING:
    from spark_fast.worker.reload.repetition import Repetitions
    from spark_fast.worker.reload.transaction import Transaction

__all__ = ["Reloader"]


class Reloader:
    """Runs the user's code in one thread, and again after each reload. A process has at most one reloader.

    roots: the folders that hold the project's code.
    watched: whether new code is expected, so that an error parks the worker from the start.

    Attributes:
        thread: the thread that runs the code.
        ending: True once the process must end even if new code is on probation.
        executes_entry: whether a reload executes the script again, which makes its top-level objects anew.
    """

    def __init__(self, roots: Sequence[str], *, watched: bool = False) -> None:
        self.thread = threading.get_ident()
        self.ending = False
        self.executes_entry = True
        self._code = RunningCode(roots)
        self._leaving: Attempt | None = None
        self._probation = Probation()
        self._loaders = DeferredLoaders()
        self._park = ErrorPark(watched=watched)
        self._undo_error: Exception | None = None
        self._repetitions: Repetitions | None = None

    @property
    def project(self) -> Project:
        """The project's modules."""
        return self._code.project

    @property
    def on_probation(self) -> bool:
        """Whether the running code is not committed yet."""
        return bool(self._probation)

    def open(self, entry: str | None, source: bytes | None) -> None:
        """Begin to keep the code's versions in the run's folder: see RunningCode.keep()."""
        self._code.keep(entry, source)

    def add_version(self, sources: Mapping[str, bytes], sender: str) -> int | None:
        """Add a version of the running code with some files replaced: see RunningCode.add_version()."""
        return self._code.add_version(sources, sender)

    def close(self) -> None:
        """Stop: from now on the process runs no new code, and an error ends it."""
        self._park.disarm()
        self._code.close()

    def forget_after_fork(self) -> None:
        """Stop in a forked child, which is no worker yet."""
        self._code.forget_after_fork()

    # --- at a checkpoint of this thread ---

    def pass_checkpoint(self, done: int | None) -> None:
        """Count a checkpoint of this thread, and commit new code that has now proved itself.

        done: ITEM_YIELDED if the loop has handed out a new item since it began, and BODY_DONE if the body of its last
            item is complete; None for a checkpoint outside `track()`.

        Raises SparkReloadError again if frames still exist that it had to leave.
        """
        if self._leaving is not None and self._leaving.due is not None:
            raise self._leaving.due.error
        if self._probation and self._probation.passes(done):
            self._commit()

    def begin_reload(self, entry: dict[str, Any], step: int) -> SparkReloadError | None:
        """Prepare a due reload. Return the exception to raise; None if the reload was refused.

        The caller holds session.current.lock.

        entry: the request, as the log has it.
        """
        try:
            transaction = self._prepare(entry)
        except Exception as error:  # the loop has not been left, so it goes on after any error
            vote.vote(entry["seq"], vote.READY, False)
            known = isinstance(error, (SparkError, OSError, SyntaxError))
            answer(entry, step, "refused", reason_of(error), "" if known else stderr.as_printed(error))
            return None
        if not vote.agree(entry["seq"], vote.READY):
            worker.publish_outcome(entry["seq"], step, failed=True)  # the rank that refused has given the reason
            return None
        self.publish_applied()  # of the former reload, whose code has come to this checkpoint
        due = DueReload(entry, step)
        self._leaving = Attempt(transaction, due)
        loops.unwind(self.thread)
        return due.error

    def _prepare(self, entry: dict[str, Any]) -> "Transaction":
        """Make the transaction of a reload, and check it. Raises an exception if the reload is impossible."""
        number = version_of(entry["mail"])
        if number is None:
            raise CodeRefusedError(f"the request names no version of the code: {entry['mail']!r}")
        restart = is_restart(entry["mail"])
        transaction = self._transaction(self._code.changes_of(number), number, restart=restart)
        transaction.check()
        if not restart:
            starting_over.check(
                transaction, self.project, self._park, self._code.roots, thread=self.thread, anew=self.executes_entry
            )
        return transaction

    def _transaction(self, sources: Mapping[str, bytes], number: int, *, restart: bool = False) -> "Transaction":
        # These imports take 50 ms, and only a reload needs them.
        from spark_fast.worker.reload.libraries import make_repetitions
        from spark_fast.worker.reload.transaction import Transaction

        if self._repetitions is None:
            self._repetitions = make_repetitions()

        return Transaction(
            self.project,
            sources,
            number=number,
            before=self._code.number,
            persisted=persist.current,
            declarations=registry.current,
            repetitions=self._repetitions,
            parts=[hooks.current],
            restart=restart,
        )

    def publish_applied(self) -> None:
        """Publish that the new code runs, since it has proved itself, or has come to a point where it parks or stops.

        The caller holds session.current.lock.
        """
        for attempt in self._probation:
            if attempt.due is not None and not attempt.due.published:
                attempt.due.published = True
                self._finish_warnings(attempt)
                publish_applied(attempt.due.entry, attempt.due.step, attempt.transaction.warnings)

    def _finish_warnings(self, attempt: Attempt) -> None:
        try:
            attempt.transaction.finish_warnings()
        except Exception as error:  # the new code runs nonetheless
            stderr.warn_of("the warnings of a reload are not complete: collecting them raised", error)

    def _commit(self) -> None:
        """Keep the new code, if it has proved itself in all ranks. Raises SparkReloadError if it has not."""
        for attempt in self._probation:
            due = attempt.due
            if due is not None and not vote.agree(due.seq, vote.PROVED):
                loops.unwind(self.thread)
                raise due.leave() from ElsewhereError("another rank can't run it")
        for attempt in self._probation:
            self._finish_warnings(attempt)  # without the lock, since it searches all objects
        with session.current.lock:
            self.publish_applied()
        for attempt in self._probation:
            try:
                attempt.transaction.commit()
            except Exception as error:  # a fault in tidying up must not end code that runs
                stderr.warn_of("the end of a reload raised", error)
        self._park.over()
        self._park.arm(reloaded=self._probation.has_new_code)
        self._probation.clear()
        loops.settle()
        self._loaders.end()
        with session.current.lock:
            session.current.watch.every(Reason.RELOAD_ON_TRIAL, False)

    # --- running ---

    def run(self, first: Callable[[], object], again: Callable[["Transaction"], object]) -> object:
        """Run the user's code, and again after each reload. Return or raise as the last run does.

        first: runs the code for the first time.
        again: executes the entry again, as far as needed, and runs the code.
        """
        transaction: Transaction | None = None
        loops.ended_loops.begin()
        while True:
            try:
                result = first() if transaction is None else again(transaction)
                # The code may have swallowed the exception that left its loop.
                if self._leaving is None:
                    self._commit_all()
                    return result
            except BaseException as error:
                if self._leaving is not None and not self.ending and not isinstance(error, KeyboardInterrupt):
                    if not is_reload(error):
                        stderr.warn_of("leaving the loop for a reload raised", error)
                elif not self._rollback(error) and not self._park_after(error):
                    with suppress(SparkReloadError):  # another rank can't run the code; this rank runs no more code
                        self._commit_all()
                    raise
            transaction = self._next()

    def _commit_all(self) -> None:
        if self._probation:
            self._commit()

    def _next(self) -> "Transaction":
        """Return the transaction whose entry must run next: of new code, or of the old code after a rollback."""
        while True:
            if self._park.error is not None and self._leaving is None:
                self._wait()
            try:
                return self._execute_next()
            except BaseException as error:
                if not self._rollback(error) and not self._park_after(error):
                    raise

    def _execute_next(self) -> "Transaction":
        """Execute the modules of the version that a reload brings, or else of the running version."""
        loops.abandon(self.thread)
        left = self._leaving
        if left is not None and left.due is not None:
            # The exception holds the old frames. Their generators may wait for threads as they are closed, so they are
            # dropped before the lock is taken.
            left.due.error.__traceback__ = left.due.error.__context__ = None
        with session.current.lock:
            attempt, self._leaving = self._leaving, None
            if attempt is not None and attempt.due is not None and session.is_distributed():
                # The new code begins at the step at which the old code was left: no work was done in that step, and a
                # request of that step in the log, a pause say, applies to all ranks alike.
                worker.set_back(attempt.due.step - options.current().stride)
            if attempt is None:  # after a rollback, or the run was resumed after an error
                attempt = Attempt(self._transaction({}, self._code.number), None)
            self._probation.begin(attempt, worker.step())
            session.current.watch.every(Reason.RELOAD_ON_TRIAL, True)
        transaction = attempt.transaction
        if transaction.restart:
            attempt.aside = loops.set_aside(self.thread)
            loops.unwind(self.thread)
            loops.ended_loops.forget()
        loops.ended_loops.pass_over(starting_over.ended(self.project, self._park)[0])
        if attempt.due is not None:
            writer.current.code(attempt.due.id, transaction.number, transaction.sources)
        with self._code.spawning.frozen():
            transaction.execute()
        if attempt.due is not None and not vote.agree(attempt.due.seq, vote.EXECUTED):
            raise ElsewhereError("another rank can't execute it")
        attempt.executed = True
        self._code.set_current(transaction.number)
        self._loaders.begin(self.thread)
        return transaction

    # --- code that fails ---

    def _rollback(self, error: BaseException) -> bool:
        """Put back the old code, if new code on probation has failed. Return whether it had."""
        if self.ending or not speaks_against(error) or not self._probation.has_new_code:
            return False
        elsewhere = elsewhere_error(error)
        text = stderr.as_printed(error) if elsewhere is None else str(elsewhere)
        while True:
            attempt = self._probation.pop()
            self._undo(attempt)
            if attempt.due is not None:
                break
        due, transaction = attempt.due, attempt.transaction
        vote.vote(due.seq, vote.PROVED if attempt.executed else vote.EXECUTED, False)
        if session.is_distributed():
            # A step must mean the same item in all ranks, however many items this rank has done with the new code.
            worker.set_back(self._probation.step + self._probation.rounds * options.current().stride)
        self._loaders.end()
        self._code.set_current(transaction.before)
        if self._park.error is not None:
            after = "the run stays paused after its error"
        elif self._undo_error is not None:
            after = "it could not be taken back whole, so the run is paused"
        else:
            after = f"version {transaction.before} runs on"
        back = f"version {transaction.number} of the code failed; {after}"
        stderr.warn(f"{back}:\n{text.rstrip()}")
        with session.current.lock:
            writer.current.failed(due.id, reason_of(error))
            if elsewhere is not None:
                worker.publish_outcome(due.seq, due.step, failed=True)  # the rank whose code failed gives the reason
            elif not due.published:
                answer(due.entry, due.step, "failed", back, text)
        undo_error, self._undo_error = self._undo_error, None
        again = self._park.error if undo_error is None else undo_error
        if again is not None:
            self._park_after_rollback(again)
        return True

    def _undo(self, attempt: Attempt) -> None:
        """Put back what the attempt's code replaced. If that fails, warn, and have the worker park."""
        try:
            attempt.rollback()
        except Exception as error:
            stderr.warn_of("not all of the new code could be taken back: old and new code are mixed", error)
            self._undo_error = error

    def _park_after(self, error: BaseException) -> bool:
        """Park if this error parks the worker: code has failed, and no other code can replace it.

        Return whether the error does.
        """
        if self.ending or not self._park.takes(error, on_probation=self.on_probation):
            return False
        while self._probation:
            self._undo(self._probation.pop())
        self._park_after_rollback(error)
        return True

    def _park_after_rollback(self, error: BaseException) -> None:
        self._leaving = None
        self._loaders.end()
        with session.current.lock:
            session.current.watch.every(Reason.RELOAD_ON_TRIAL, False)
        self._park.begin(error)

    def _wait(self) -> None:
        """Stay parked after an error until code must run again: new code, or the same code if the run was resumed.

        Raises SparkStopError, with the error as its cause, if the run is stopped instead.
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
                self._end_park()
                return
            stderr.warn(
                "the run was resumed, but none of its loops has a key and nothing is persisted: its code would start "
                "the training over, so it stays paused. Stop it, or mend the code and reload it with --restart"
            )

    def _can_go_on(self) -> bool:
        """Return whether code that runs again finds a loop's place or a persisted value."""
        return self._park.has_places or bool(persist.current.snapshot())

    def _end_park(self) -> None:
        left = self._leaving
        for key in self._park.end(new_code=left is not None):
            warning = f"the loop with the key {key!r} begins at its first item again: its iterator had raised the error"
            if left is not None:
                left.transaction.warnings.append(warning)
            else:
                stderr.warn(warning)
