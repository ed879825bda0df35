"""The end of a worker's process: publishes how the run ended, and waits for ranks that still save."""

import atexit
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from spark_fast import _core, stderr
from spark_fast._core import worker
from spark_fast.errors import SegmentError, error_behind, first_stop, is_stop
from spark_fast.runfiles import run_folder
from spark_fast.status import WorkerState, monotonic, ranges
from spark_fast.worker import options, session
from spark_fast.worker.journal import writer
from spark_fast.worker.lifecycle import child_process, stop_in_threads
from spark_fast.worker.session import Life
from spark_fast.worker.state import hooks

__all__ = ["end", "state_after", "watch_the_end"]

_PATIENCE = 60.0
"""Seconds that the other ranks have to end, unless `stop_deadline` says how long the launcher waits."""
_COMING = 5.0
"""Seconds for which ranks that have not raised the stop yet are waited for."""
_LOOK = 1.0
"""Seconds between two checks that the other ranks live."""

_previous_hook: Callable[[type[BaseException], BaseException, TracebackType | None], object] = sys.__excepthook__


def end(state: WorkerState) -> None:
    """Publish how the process ends. Later calls change nothing."""
    with session.current.lock:
        if session.current.life is not Life.ATTACHED:
            return
        session.current.life = Life.OFF
        replay = session.current.replay
        if replay is not None and (left := replay.left(worker.step())) is not None:
            stderr.warn(left)
        writer.current.end(state.name.lower())
        try:
            worker.end(state)
        except (SegmentError, OSError) as error:
            stderr.warn(f"control of run {session.current.run} was lost some time before it ended: {error}")


def state_after(error: BaseException | None) -> WorkerState:
    """Return the final state of a run. error: the uncaught exception that ended it; None if it came to its end."""
    if error is not None and (not is_stop(error) or error_behind(error) is not None):
        return WorkerState.FAILED
    return WorkerState.STOPPED if session.current.stop_raised else WorkerState.FINISHED


def watch_the_end() -> None:
    """Have the end of this process published: it is a worker from now on."""
    global _previous_hook
    atexit.register(_at_exit)
    if sys.excepthook is not _on_uncaught:  # else this process was forked from a worker
        _previous_hook = sys.excepthook
        sys.excepthook = _on_uncaught
    stop_in_threads.watch()
    if child_process.is_child():
        child_process.watch(_on_raised, _on_ended)


def _at_exit() -> None:
    if session.current.outcome is WorkerState.FINISHED:
        session.current.outcome = state_after(None)  # threads of the script may have been stopped since
    if not stop_in_threads.finish():
        session.current.outcome = WorkerState.FAILED
    if session.current.outcome is WorkerState.FINISHED:
        session.current.outcome = state_after(None)  # a thread may have been stopped during finish()
    if session.current.outcome is not None:
        end(session.current.outcome)
        return
    # An interactive interpreter prints errors and goes on: its last error did not end it.
    interactive = hasattr(sys, "ps1") or sys.flags.interactive
    error = None if interactive else getattr(sys, "last_value", None)
    run = session.folder()
    state = state_after(error)
    if state is WorkerState.FAILED and error is not None and run is not None:
        try:
            from spark_fast.worker.lifecycle.error_record import record  # most runs don't fail

            record(error_behind(error) or error if is_stop(error) else error)
        except (ImportError, OSError) as reason:  # no file can be opened, say: the end is published nonetheless
            stderr.warn(
                f"the error that ended run {session.current.run} can't be kept for `spark-fast status`: {reason}"
            )
    end(state)
    if is_stop(error) and run is not None and session.has_local_peers():
        _wait_for_others(run, options.current().stop_deadline)


def _on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not is_stop(error):
        _previous_hook(kind, error, trace)
        return
    if not hooks.current.run_on_stop():
        session.current.outcome = WorkerState.FAILED
    behind = error_behind(error)
    if behind is not None:
        _previous_hook(type(behind), behind, behind.__traceback__)
    else:
        stderr.say(str(first_stop(error)))


def _on_raised(error: BaseException) -> None:
    session.current.outcome = state_after(error)
    if is_stop(error) and not hooks.current.run_on_stop():
        session.current.outcome = WorkerState.FAILED


def _on_ended(exit_code: int) -> None:
    if not stop_in_threads.finish():
        session.current.outcome = WorkerState.FAILED
    if session.current.outcome is not None:
        end(session.current.outcome)
    else:
        end(state_after(None) if exit_code == 0 else WorkerState.FAILED)


def _wait_for_others(folder: Path, patience: float | None) -> None:
    """Wait until no other rank of this host is between the stop and its end.

    To a launcher such as torchrun, a process that ends with an exception has failed, and the launcher then ends the
    others at once. So ranks that let the exception through wait for the slowest and end together. They don't wait for
    each other, since each has published its end before.

    patience: the most seconds to wait; None for a minute.
    """
    began = monotonic()
    most = _PATIENCE if patience is None else patience
    said = False
    try:
        segment = _core.Segment(folder / run_folder.CONTROL)
        slots = _core.read_view(segment.fileno())["slot_count"]
        while True:
            seen, waited = segment.changes(), monotonic() - began
            left = [rank for rank in range(slots) if _is_to_end(_core.read_slot(segment.fileno(), rank), waited)]
            if not left or waited >= most:
                return
            if not said and waited > _LOOK:
                said = True
                stderr.say(f"waits for {'ranks' if len(left) > 1 else 'rank'} {ranges(left)}, at most {most:g} s")
            segment.wait(seen, min(_LOOK, most - waited))
    except (SegmentError, OSError, KeyboardInterrupt):  # the file is gone, or the user interrupts the wait
        return


def _is_to_end(slot: dict[str, object], waited: float) -> bool:
    state = slot["state"]
    stopping = state == WorkerState.STOPPING
    return bool(slot["alive"]) and (
        stopping or (waited < _COMING and state in (WorkerState.RUNNING, WorkerState.PARKED))
    )
