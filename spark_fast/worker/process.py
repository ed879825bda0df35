"""This process's worker: makes the process the worker of a run, and gives a forked child its own worker."""

import os
import signal
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress

from spark_fast import stderr
from spark_fast._core import attach_lock, worker
from spark_fast.errors import RunNameTakenError, SparkError
from spark_fast.request import Kind, Verdict, sender_name
from spark_fast.runfiles import run_folder
from spark_fast.worker import options, session
from spark_fast.worker.journal import writer
from spark_fast.worker.journal.writer import JournalWriter
from spark_fast.worker.lifecycle import child_process, forking, join
from spark_fast.worker.lifecycle import exit as ending
from spark_fast.worker.lifecycle.hosts import ask_hosts, meet_hosts
from spark_fast.worker.lifecycle.local_stop import LocalStop
from spark_fast.worker.lifecycle.stopping import StopRule
from spark_fast.worker.session import Life, Parent
from spark_fast.worker.state import loops, persist, registry

__all__ = ["WorkerProcess", "attach", "current", "take_signals"]

_REMOTE = 20.0
"""Seconds that the other hosts have to answer a stop: more than a relay takes to start."""


class WorkerProcess:
    """The parts of this process's worker that a forked child gets anew.

    Attributes:
        stop_rule: Decides which checkpoints raise the stop in force. Used with the session's lock held.
        local_stop: The stop that this process raises by itself.
    """

    def __init__(self) -> None:
        self.stop_rule = StopRule()
        self.local_stop = LocalStop()


current = WorkerProcess()
"""The worker of this process. A forked child gets a new one: don't keep it across code that may fork."""


# --- the start ---


def attach(*, fresh_name: bool = True) -> bool:
    """Make this process the worker of a run, unless that was tried before; return whether it is a worker.

    If something prevents control, this raises no Exception: a warning says why, and the loop goes on uncontrolled.

    fresh_name: whether to take another name if a living run has the wanted one; else RunNameTakenError is raised.
    """
    if session.begun():  # before the locks: a signal handler may run this while another thread waits for this thread
        return worker.attached()
    hint = None
    with attach_lock, session.current.lock:
        if not session.begun() and not session.current.attaching:  # else a signal handler interrupts an attach()
            session.current.attaching = True
            try:
                hint = _attach(fresh_name)
            finally:
                session.current.attaching = False
    if hint is not None:
        stderr.say(hint)  # without the locks: a signal handler of a thread that is writing to stderr may want them
    return worker.attached()


def _attach(fresh_name: bool) -> str | None:
    """Attach; return the hint to print, if any."""
    chosen = options.current()
    parent = session.current.parent
    serves = parent is not None and (parent.trains or child_process.is_daemon())
    if not chosen.enabled or serves:
        _stay_alone()
        registry.current.connect(None)
        if parent is not None and not child_process.is_daemon():
            stderr.say(
                f"nothing controls this process: it was forked from the worker of run {parent.run}, which passes "
                "checkpoints itself. Start it with multiprocessing's 'spawn', and it is a run of its own"
            )
        return None
    try:
        wanted = chosen.run if parent is None else chosen.run or parent.run
        run = join.make_run(wanted, _command(), fresh_name=fresh_name)
    except RunNameTakenError:
        raise
    except Exception as error:  # a full disk, another user's folder, a limit on locks: all are handled alike
        _stay_alone()
        registry.current.connect(None)
        stderr.warn(f"this run can't be controlled from outside: {error}. The training goes on without.")
        _take_chosen_signals(chosen)
        return None
    session.current.run = run
    options.freeze()
    session.current.life = Life.ATTACHED
    session.current.pid = os.getpid()
    if parent is not None:
        _heed_stop_of(parent)
    ending.watch_the_end()
    meet_hosts()
    _take_chosen_signals(chosen)
    place = session.current.place
    return _hint(run) if not chosen.quiet and (place is None or place.rank == 0) else None


def _stay_alone() -> None:
    """Decide that this process is no worker."""
    options.freeze()
    session.current.life = Life.OFF
    worker.detach()


def _heed_stop_of(parent: Parent) -> None:
    """Stop this process too if the run that it was forked from was asked to stop."""
    try:
        stop = forking.stop_of(parent)
        if stop is not None:
            # If a checkpoint is making this run, the stop is due at it, before the script does anything.
            ident, step = run_folder.new_id(), worker.step()
            worker.append(Kind.STOP, ident, duration=stop["duration"], sender=stop["sender"], target=step)
    except (SparkError, OSError) as error:
        stderr.warn(f"whether run {parent.run} was asked to stop can't be told: {error}")


def _command() -> list[str]:
    return list(session.current.command or getattr(sys, "argv", None) or sys.orig_argv)


def _hint(run: str) -> str:
    home = os.environ.get("SPARK_FAST_HOME")
    where = f"SPARK_FAST_HOME={home} " if home else ""
    parent = session.current.parent
    if parent is not None:
        return (
            f"this process was forked from the worker of run {parent.run}, and is run {run}; control it with: "
            f"{where}spark-fast pause {run}   (as long as {parent.run} is idle, its name stands for this run too)"
        )
    return f"this is run {run}; control it with: {where}spark-fast pause {run}   (also resume, stop, status, top)"


# --- signals ---


def take_signals(numbers: Iterable[signal.Signals], *, copies: bool) -> None:
    """Have these signals ask for a stop from now on.

    copies: whether a SIGTERM may come several times.
    """
    from spark_fast.worker import signals  # most scripts take none

    signals.install(numbers, copies=copies, ask=_ask_for_stop, stop_alone=_stop_alone)


def _take_chosen_signals(chosen: options.Options) -> None:
    """Take the signals that configure() names."""
    if not chosen.stop_signals:
        return
    names = ", ".join(chosen.stop_signals)
    if threading.current_thread() is not threading.main_thread():
        stderr.warn(
            f"{names} can't ask for a stop: only the main thread can take signals. Pass a checkpoint in it, "
            "or call configure() there, before any other thread does"
        )
        return
    try:
        take_signals([signal.Signals[name] for name in chosen.stop_signals], copies=True)
    except Exception as error:  # the handler's module is loaded here, which needs a descriptor
        stderr.warn(f"{names} can't ask for a stop: {error}")


def _ask_for_stop(name: str) -> tuple[str, str | None]:
    """Ask for a stop in the name of a signal; return the sender, and why that failed, None if it did not."""
    sender = _sender(name)
    try:
        return sender, _ask(sender)
    except Exception as error:  # also one of the store that several hosts use
        return sender, str(error)


def _sender(name: str) -> str:
    rank = session.rank()
    try:
        here = sender_name()
    except Exception:  # the look-up needs a descriptor, and none is left
        here = f"pid {os.getpid()}"
    return f"{name}, {here}" if rank is None else f"{name} to rank {rank}, {here}"


def _ask(sender: str) -> str | None:
    # A process that was forked from a worker may not be one that trains. It becomes a worker at its first checkpoint.
    if session.forked() or not attach():
        return "nothing controls this process"
    deadline = options.current().stop_deadline or 0.0
    if session.has_remote_peers():
        ident, why = ask_hosts(Kind.STOP, sender=sender, duration=deadline)
        if why is None:
            current.local_stop.expect(ident, sender, min(_REMOTE, deadline / 2) if deadline else _REMOTE)
        return why
    verdict, _seq, _target = worker.append(Kind.STOP, run_folder.new_id(), sender=sender, duration=deadline)
    if not session.current.passed:
        forking.stop_children(session.run_id(), sender, deadline)
    return None if verdict in (Verdict.APPENDED, Verdict.NOTHING_TO_DO) else "no rank of the run is left"


def _stop_alone(sender: str) -> None:
    current.local_stop.stop(sender)


# --- forks ---

# The slow path's state needs no reset: it is used once a worker has passed a checkpoint. Such a worker is the process
# that trains, and its forked children never become workers.


def _after_fork() -> None:
    """Separate a forked child from its parent, so that nothing that it does shows up in its parent's run."""
    global current
    before = session.current
    session.current = child = before.after_fork()
    current = WorkerProcess()
    # The locks first: another thread of the parent may have held one. None of this can raise.
    registry.current.after_fork()
    writer.current = JournalWriter()
    loops.forget_after_fork()
    persist.current.after_fork()
    if child.life is Life.ATTACHED and child.run is not None and child.folder is not None:
        # It becomes a worker at its first checkpoint, if it is the process that trains.
        child.become_new(Parent(child.run, child.pid, child.passed, child.folder / run_folder.CONTROL))
        options.thaw()
        worker.begin_anew()
        child.watch.publish()
    elif child.life is not Life.NEW:  # a NEW one may still become a worker of its own
        # The core's fork hook has done this, unless the child was made without the C library's fork().
        child.life = Life.OFF
        worker.detach()
    if before.reloader is not None:
        before.reloader.forget_after_fork()
    if child.folder_lock >= 0:
        held, child.folder_lock = child.folder_lock, -1
        with suppress(OSError):  # the script has closed it
            os.close(held)


os.register_at_fork(after_in_child=_after_fork)
