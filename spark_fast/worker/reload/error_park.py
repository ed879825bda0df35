"""Keeps a worker alive after an exception that would have ended its script.

By then the script's frames are gone. But the process still holds what may have taken days to make: the modules with
their globals, persisted values, and the iterators of loops with a key. So the worker parks, as for a pause. Meanwhile a
controller can reload corrected code, and call exposed functions. A resume runs the code again from where its loops
were. A stop runs the functions of `on_stop()`, and then ends the process as the exception would have.
"""

import sys
import threading
import time
import traceback

from spark_fast import stderr
from spark_fast._core import Place, worker
from spark_fast.errors import SparkError, SparkInterrupt, is_stop
from spark_fast.request import AFTER_ERROR, Kind, Verdict
from spark_fast.runfiles import run_error, run_folder
from spark_fast.runfiles.descriptors import is_short
from spark_fast.status import monotonic
from spark_fast.worker import options, process, session
from spark_fast.worker.journal import writer
from spark_fast.worker.lifecycle.error_record import record
from spark_fast.worker.session import Reason
from spark_fast.worker.state import loops, persist

__all__ = ["ErrorPark"]

_JOB_TIMEOUT = 300.0
"""Seconds for which a rank of a job is paused after an error. The other ranks may wait in a collective, whose default
time limit is ten minutes."""

_AGAIN = 1.0
"""Seconds between two tries to pause while no file can be opened."""
_SENDER_MAX = 60
"""The most bytes of a request's sender that the log has room for."""


class ErrorPark:
    """Parks the worker after an error, and keeps what the code needs to run again. A reloader has one.

    watched: whether new code is expected, so that an error parks the worker from the start.

    Attributes:
        error: the exception after which the worker is parked, or whose corrected code is on probation; None if there
            is none.
    """

    def __init__(self, *, watched: bool) -> None:
        self.error: BaseException | None = None
        self._thread = threading.get_ident()
        self._aside: list[Place] = []
        self._message = ""
        self._pause: int | None = None
        self._after_reload = watched
        self.arm()

    def arm(self, *, reloaded: bool = False) -> None:
        """From now on, if errors park the worker, let loops that an exception unwinds keep their places.

        reloaded: whether a reload was applied.
        """
        self._after_reload |= reloaded
        if self._is_chosen():
            loops.keep_after_errors(_note_unwound)

    def disarm(self) -> None:
        """Let exceptions end the loops and the script from now on."""
        loops.keep_after_errors(None)

    def _is_chosen(self) -> bool:
        """Return whether errors park the worker: as configured, or else once a reload was applied or is expected."""
        chosen = options.current().on_error
        if chosen is not None:
            return chosen == "park"
        # An interactive interpreter shows the error and keeps everything in memory itself.
        return self._after_reload and not hasattr(sys, "ps1")

    def takes(self, error: BaseException, *, on_probation: bool) -> bool:
        """Return whether this exception must park the worker.

        on_probation: whether it ended code on probation, and the code before it can't go on either.
        """
        if isinstance(error, (SparkInterrupt, KeyboardInterrupt)) or is_stop(error) or not worker.attached():
            return False
        if on_probation:
            return not (isinstance(error, SystemExit) and error.code in (None, 0))
        # Hosts agree on a pause by messages, and the ranks of other hosts may not have failed.
        return self._is_chosen() and not isinstance(error, SystemExit) and not session.has_remote_peers()

    def begin(self, error: BaseException) -> None:
        """Keep the error, publish it, and print the remedies."""
        self._aside = loops.set_aside(self._thread, error)
        if error is self.error:
            return  # corrected code failed on probation: the worker is parked after the same error as before
        self.error = error
        kept = record(error, can_resume=self.has_places or bool(persist.current.snapshot()))
        self._message = kept.message
        writer.current.stopped_by_error(kept.message, kept.traceback)
        run = session.run_id() or "RUN"
        stderr.warn(
            f"run {run} is paused after an error, with everything in memory: {kept.message}\n"
            f"{kept.traceback.rstrip()}\n" + "\n".join(run_error.remedies(run))
        )

    def wait(self) -> None:
        """Park until the code must run again.

        Raises SparkReloadError for new code. Raises SparkStopError for a stop, when the time is over, and if the run
        can no longer be controlled.
        """
        seconds = options.current().error_timeout
        if seconds is None and session.is_distributed():
            seconds = _JOB_TIMEOUT
        ends = None if seconds is None else monotonic() + seconds
        try:
            self._pause = self._ask_pause(seconds or 0.0)
            worker.checkpoint()
            if ends is not None and monotonic() >= ends:
                worker.append(Kind.STOP, run_folder.new_id(), sender=f"the time limit of {seconds:g} s after an error")
                worker.checkpoint()
        except (SparkError, OSError) as error:
            stderr.warn(f"the run can't be paused any longer after its error: {error}")
        if self.error is not None and not worker.attached():
            process.current.local_stop.stop("the loss of the run's control")  # so that the code that saves runs
            worker.checkpoint()
            raise self.error

    def _ask_pause(self, seconds: float) -> int | None:
        """Append the pause; return its number in the log, None if a stop takes its place.

        While no file can be opened, try again each second: running the failed code again would fail at once.

        seconds: the pause ends by itself after this time; 0 for never.

        Raises OSError for any other reason, SparkError.
        """
        sender = f"{AFTER_ERROR}{self._message}"[:_SENDER_MAX]
        warned = False
        while True:
            try:
                verdict, seq, _target = worker.append(Kind.PAUSE, run_folder.new_id(), sender=sender, duration=seconds)
                return seq if verdict == Verdict.APPENDED else None
            except OSError as error:
                if not is_short(error):
                    raise
                if not warned:
                    stderr.warn(f"the run waits, and is paused as soon as a file can be opened: {error}")
                warned = True
                time.sleep(_AGAIN)
                if process.current.local_stop.pending() is not None:
                    return None  # the next checkpoint raises the stop that a signal asked for

    def end(self, *, new_code: bool) -> list[str]:
        """Prepare to run the code again: put the places of its loops back, and end the pause.

        Return the keys of loops that begin at their first items, since their iterators can't go on.

        new_code: whether a reload brought new code.
        """
        if self._pause is not None:
            # A reload does not end a pause, but this pause was made for the error and has served its purpose.
            try:
                sender = "the end of an error's pause"
                worker.append(Kind.RESUME, run_folder.new_id(), sender=sender, only_if_park_seq=self._pause)
            except (SparkError, OSError) as error:
                stderr.warn(f"the pause after an error could not be ended: {error}; 'spark-fast resume' ends it")
        anew = loops.begin_anew(self._aside, new_code=new_code)
        loops.bring_back(self._aside)
        self._aside = []
        loops.unwind(self._thread)
        for each in loops.chain(self.error):
            traceback.clear_frames(each.__traceback__)  # the frames hold the objects of the failed step
        return anew

    def over(self) -> None:
        """Forget the error, as the code that ran again has proved itself."""
        if self.error is None:
            return
        self.error = None
        folder = session.folder()
        if folder is not None:
            try:
                run_error.clear(folder, session.slot())
            except (OSError, SparkError) as error:
                stderr.warn(f"the file that describes an earlier error can't be removed: {error}")

    @property
    def keys(self) -> list[str]:
        """The keys of the loops that can go on where they were."""
        return [place.key for place in self._aside]

    @property
    def has_places(self) -> bool:
        """Whether a loop with a key can go on where it was."""
        return bool(self._aside)


def _note_unwound(whether: bool) -> None:
    """Have the next checkpoint decide whether loops that an exception unwound go on; with False, end that."""
    session.current.watch.every(Reason.LOOPS_UNWOUND, whether)
