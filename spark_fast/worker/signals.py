"""Signals that ask for a stop: the same request as any other, so that all ranks stop at one step, whichever was told.

What ends the process at once stays possible: a second Ctrl-C, or a second SIGTERM when the first is some time ago. A
batch system signals each process of a job, a launcher hands on its own, and a supervisor too: these copies of the first
are overlooked.
"""

import os
import signal
import threading
from collections.abc import Iterable
from types import FrameType

from spark_fast._core import next_signal_ends, worker
from spark_fast.request import Kind, Verdict, sender_name
from spark_fast.runfiles import run_folder
from spark_fast.worker import options, session, stderr
from spark_fast.worker.lifecycle import forking

__all__ = ["COPIES", "install"]

COPIES = 1.0
"""Seconds in which a second SIGTERM is the first once more, for a process on its own."""
_COPIES_OF_A_JOB = 5.0
"""The same in a job of several ranks, whose launcher hands on what it gets itself."""

_ELSEWHERE = 20.0
"""Seconds in which the other hosts are to say what becomes of a stop: more than a relay takes to start."""

_overlooks = False
"""Whether copies of a SIGTERM are to be expected."""


def install(numbers: Iterable[signal.Signals], *, copies: bool) -> None:
    """From here on these signals ask for a stop. Where one is ignored, by nohup or in a shell's background job, it
    stays so. copies: whether a SIGTERM may come several times."""
    global _overlooks
    _overlooks = copies
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def install_chosen() -> None:
    """The signals that configure() names. Called when the run begins."""
    names = options.current().stop_signals
    if not names:
        return
    if threading.current_thread() is not threading.main_thread():
        stderr.warn(
            f"{', '.join(names)} can't ask for a stop: only the main thread can take signals. Pass a checkpoint in it, "
            "or call configure() there, before any other thread does"
        )
        return
    install([signal.Signals[name] for name in names], copies=True)


def _on_signal(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        # The second interrupts at once.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    elif number == signal.SIGTERM:
        if signal.getsignal(signal.SIGINT) is _on_signal:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if _overlooks:
            # The system does it: also where the interpreter is stuck in a long call.
            next_signal_ends(number, _COPIES_OF_A_JOB if session.several() else COPIES)
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if number == signal.SIGINT and signal.getsignal(signal.SIGTERM) is _on_signal:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    name = signal.Signals(number).name
    who = _sender(name)
    why = _ask(who)
    at_once = "; once more interrupts at once" if number in (signal.SIGINT, signal.SIGTERM) else ""
    if why is None:
        stderr.say_at_once(f"{name}: it will stop at the next checkpoint{at_once}")
        return
    if options.current().enabled:
        # Whoever counts on it saves then: an exception in the middle of a step would cost what was learned since.
        session.stop_alone(who)
        stderr.say_at_once(
            f"{name}: the run can't be asked to stop ({why}): this process will, at its next checkpoint{at_once}"
        )
        return
    stderr.say_at_once(f"{name}: it can't be asked to stop ({why}), so it is interrupted")
    if session.host is not None:
        session.host.ending = True
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _sender(name: str) -> str:
    rank = session.rank()
    try:
        here = sender_name()
    except Exception:  # it is looked up now, and there is no descriptor left for that
        here = f"pid {os.getpid()}"
    return f"{name}, {here}" if rank is None else f"{name} to rank {rank}, {here}"


def _ask(who: str) -> str | None:
    """Asks for the stop; None, or why that can't be done."""
    try:
        # A process that was forked from a worker becomes one by a checkpoint: it may be none that trains.
        if session.forked() or not session.attach():
            return "nothing controls this process"
        deadline = options.current().stop_deadline or 0.0
        if session.elsewhere():
            ident, why = session.ask_hosts(Kind.STOP, sender=who, duration=deadline)
            if why is None:
                session.expect_stop(ident, who, min(_ELSEWHERE, deadline / 2) if deadline else _ELSEWHERE)
            return why
        verdict, _seq, _target = worker.append(Kind.STOP, run_folder.new_id(), sender=who, duration=deadline)
        if not session.passed:
            forking.stop_children(session.run_id(), who, deadline)
    except Exception as error:  # of the store of several hosts, too
        return str(error)
    return None if verdict in (Verdict.APPENDED, Verdict.NOTHING_TO_DO) else "no rank of the run is left"
