"""Handles signals that ask for a stop.

The stop is a request like any other, so that all ranks stop at one step, whichever rank got the signal. A second Ctrl-C
ends the process at once, and so does a second SIGTERM some time after the first. A SIGTERM soon after the first is
ignored: a batch system signals each process of a job, and launchers and supervisors pass on the signal that they get.
"""

import signal
from collections.abc import Callable, Iterable
from types import FrameType

from spark_fast import stderr
from spark_fast._core import next_signal_ends
from spark_fast.worker import options, session

__all__ = ["COPIES", "install"]

COPIES = 1.0
"""Seconds in which a second SIGTERM counts as a repeat of the first, for a process on its own."""
_COPIES_OF_A_JOB = 5.0
"""The same in a job of several ranks, whose launcher passes on the signals that it gets."""

Ask = Callable[[str], tuple[str, str | None]]
"""Asks for a stop in the name of a signal; returns the sender, and why that failed, None if it did not."""

_ignores_repeats = False
"""Whether a SIGTERM may come several times."""
_ask: Ask
_stop_alone: Callable[[str], object]


def install(numbers: Iterable[signal.Signals], *, copies: bool, ask: Ask, stop_alone: Callable[[str], object]) -> None:
    """Have these signals ask for a stop from now on.

    A signal that is ignored, by nohup or in a shell's background job, stays ignored.

    copies: whether a SIGTERM may come several times.
    stop_alone: has this process stop by itself, in the name of a sender.
    """
    global _ignores_repeats, _ask, _stop_alone
    _ignores_repeats, _ask, _stop_alone = copies, ask, stop_alone
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        # The second interrupts at once.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    elif number == signal.SIGTERM:
        if signal.getsignal(signal.SIGINT) is _on_signal:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if _ignores_repeats:
            # The system will end the process, even while the interpreter is stuck in a long call.
            next_signal_ends(number, _COPIES_OF_A_JOB if session.has_local_peers() else COPIES)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if number == signal.SIGINT and signal.getsignal(signal.SIGTERM) is _on_signal:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    name = signal.Signals(number).name
    sender, why = _ask(name)
    at_once = "; once more interrupts at once" if number in (signal.SIGINT, signal.SIGTERM) else ""
    if why is None:
        stderr.say_at_once(f"{name}: it will stop at the next checkpoint{at_once}")
        return
    if options.current().enabled:
        # The script can save at a checkpoint: an exception in the middle of a step would lose what the step has done.
        _stop_alone(sender)
        stderr.say_at_once(
            f"{name}: the run can't be asked to stop ({why}): this process will, at its next checkpoint{at_once}"
        )
        return
    stderr.say_at_once(f"{name}: it can't be asked to stop ({why}), so it is interrupted")
    reloader = session.current.reloader
    if reloader is not None:
        reloader.ending = True
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
