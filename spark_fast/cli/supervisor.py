"""The process that `spark-fast run` is: it starts the worker as its child, and watches over it.

It hands on the signals that it gets, starts the worker afresh when that is asked for, and says how the worker ended.
Nothing of the worker depends on it: both share the terminal, the standard streams and the process group, there is no
pipe between them once the run is there, and a worker whose supervisor is killed trains on and can be controlled.
"""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from spark_fast import _core, launchers
from spark_fast.cli import exits, extras, ui_server, watching
from spark_fast.errors import SegmentError, SparkError
from spark_fast.own_process import asks_for_safe_path
from spark_fast.request import GRACE, RESET
from spark_fast.runfiles import names, run_folder, supervisors

__all__ = ["Order", "order", "supervise"]

TOLD = "SPARK_FAST_RUNNER"

_HANDED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGQUIT,
)
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""Whoever sends one of these wants an end: a reset that was asked for before is called off."""
_OURS = frozenset({signal.SIGCHLD, signal.SIGALRM})
"""The worker has ended, or it is time for a look."""

_LOOK = 0.5
"""Seconds between looks whether a reset is asked for."""
_BIRTH = 0.01
"""The same while the worker has not yet said what its run is called."""
_SOON = 0.001
"""Seconds that a timer runs at the least: none at all would be no timer."""
_LAST_WORDS = 2.0
"""Seconds between the SIGTERM and the SIGKILL for a worker that did not end in the time that it was given."""


@dataclass(frozen=True)
class Order:
    """What is to be run.

    Attributes:
        target: the script or the module.
        arguments: its arguments.
        module: whether it is a module.
        name: the run id, None for SPARK_FAST_RUN, or one that is drawn.
        reload_dirs, journal, replay: see RunnerOptions.
        watch: whether to reload what changes on disk; in a job of several ranks the supervisor of rank 0 sees to it.
        page: whether to serve the web page, too; likewise.
        journal_limit, stop_deadline, on_error, error_timeout: see configure().
    """

    target: str
    arguments: list[str]
    module: bool = False
    name: str | None = None
    reload_dirs: tuple[str, ...] = ()
    journal: str | None = None
    replay: str | None = None
    watch: bool = False
    page: bool = False
    journal_limit: str | None = None
    stop_deadline: float | None = None
    on_error: str | None = None
    error_timeout: float | None = None


def order(
    target: str,
    arguments: list[str],
    *,
    module: bool,
    watch: bool,
    name: str | None,
    reload_dirs: list[str],
    journal: str | None,
    replay: str | None,
    page: bool = False,
    journal_limit: str | None = None,
    stop_deadline: float | None = None,
    on_error: str | None = None,
    error_timeout: float | None = None,
) -> Order:
    """The order that a command line gives. Its paths are those of the working directory as it is now."""
    return Order(
        target=target,
        arguments=arguments,
        module=module,
        watch=watch,
        name=name,
        reload_dirs=tuple(os.path.abspath(folder) for folder in reload_dirs),
        journal=journal if journal is None or journal.lower() in names.OFF else os.path.abspath(journal),
        replay=os.path.abspath(replay) if replay is not None else None,
        page=page,
        journal_limit=journal_limit,
        stop_deadline=stop_deadline,
        on_error=on_error,
        error_timeout=error_timeout,
    )


def supervise(order: Order) -> int:
    """Runs the order to its end. Returns the exit status of the worker; if that was killed by a signal, this process
    ends by the same signal, but for SIGKILL, which gives 137.

    To be called once, from the main thread, with nothing to follow it in the process.
    """
    if order.watch and extras.missing("watch", "--watch"):
        return exits.Exit.REFUSED
    if order.page and extras.missing("ui", "the page"):
        return exits.Exit.REFUSED
    first = not (order.watch or order.page) or launchers.leads()
    page = ui_server.Page(sys.stderr) if order.page and first else None
    # What is ignored now, by nohup or in a shell's background job, stays so in both processes.
    taken = {number for number in _HANDED_ON if signal.getsignal(number) is not signal.SIG_IGN} | _OURS
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, taken)
    try:
        return _Supervisor(order, taken, mask, watch=order.watch and first).run()
    finally:
        if page is not None:
            page.close()


class _Supervisor:
    def __init__(self, order: Order, taken: set[signal.Signals], mask: set[int], *, watch: bool) -> None:
        self._order = order
        self._taken = taken
        self._mask = mask
        self._name = order.name
        self._lock: int | None = None
        self._ended_by: tuple[float, int] = (0.0, 0)
        self._watcher = watching.Watcher(_script_of(order), order.reload_dirs) if watch else None

    def run(self) -> int:
        while True:
            worker = _Worker(self._order, self._name, self._mask)
            try:
                status = self._attend(worker)
                if not self._is_reset(worker):
                    return self._end(worker, status)
                self._name = worker.run
            finally:
                worker.close()
            exits.say(f"run {self._name} is reset: a fresh worker starts")

    def _attend(self, worker: "_Worker") -> int:
        """Waits for the worker's end; its status as subprocess gives it."""
        while (status := worker.process.poll()) is None:
            # Not sigtimedwait(): CPython returns what lay on its stack when the time is over at the moment at which the
            # process, suspended meanwhile, goes on.
            signal.setitimer(signal.ITIMER_REAL, max(_SOON, worker.patience()))
            received = signal.sigwaitinfo(self._taken)
            if received.si_signo not in _OURS:
                self._hand_on(worker, received)
            worker.listen()
            if self._lock is None and worker.run is not None:
                # Somebody else's turn, or a supervisor that is just ending: tried again at the next look.
                with suppress(OSError, SparkError):
                    self._lock = supervisors.hold_supervisor(worker.run)
            if self._watcher is not None and worker.run is not None:
                from spark_fast import client  # now that the worker is on its way, and only where it is needed

                self._watcher.start(functools.partial(client.attach, worker.run, exact=True))
                self._watcher = None
            worker.hurry()
        worker.listen()
        return status

    def _hand_on(self, worker: "_Worker", received: signal.struct_siginfo) -> None:
        number = received.si_signo
        if number in _ENDING:
            self._ended_by = time.time(), number
        # What the kernel sends comes from the terminal, and the worker, of the same process group, has it already. But
        # when a terminal hangs up, the leader of its session alone is told.
        from_terminal = received.si_code > 0 and not (number == signal.SIGHUP and os.getsid(0) == os.getpid())
        if not from_terminal:
            worker.process.send_signal(number)

    def _is_reset(self, worker: "_Worker") -> bool:
        entry = worker.stop_entry()
        if entry is None or entry["mail"] != RESET:
            return False
        when, number = self._ended_by
        if when > entry["asked"]:
            exits.say(f"the reset of run {worker.run} is called off: {_name_of(number)} came after it")
            return False
        return True

    def _end(self, worker: "_Worker", status: int) -> int:
        if status >= 0:
            return status
        number = -status
        whose = f" of run {worker.run}" if worker.run is not None else ""
        rank, step = worker.last_seen()
        if rank is not None:
            whose += f" (rank {rank})"
        where = f" at step {step}" if step is not None else ""
        hint = ""
        if worker.ended_by is not None:
            hint = ", since it had not ended in time"
        elif number == signal.SIGKILL and worker.stop_entry() is not None:
            # A sender can give a grace to a stop that the log has already: the log does not say so.
            hint = ", after it was asked to stop: 'stop --grace' kills a process that has not ended in time"
        elif number == signal.SIGKILL:
            hint = "; if no person or program sent it, the system was short of memory: see its log (dmesg)"
        exits.say(f"the worker{whose} was killed by {_name_of(number)}{where}{hint}")
        return _end_by(number)


class _Worker:
    """One worker's process."""

    def __init__(self, order: Order, name: str | None, mask: set[int]) -> None:
        self.run: str | None = None
        self._control = -1
        self._kill_at: float | None = None
        self.ended_by: signal.Signals | None = None
        """The last signal by which its time was ended."""
        self._news, theirs = os.pipe()
        os.set_blocking(self._news, False)
        os.set_inheritable(theirs, True)
        told = {
            "name": name,
            "reload_dirs": order.reload_dirs,
            "journal": order.journal,
            "replay": order.replay,
            "journal_limit": order.journal_limit,
            "stop_deadline": order.stop_deadline,
            "on_error": order.on_error,
            "error_timeout": order.error_timeout,
            "supervisor": os.getpid(),
            "safe_path": asks_for_safe_path(),
            "watched": order.watch,
            "announce": theirs,
            "mask": sorted(mask),
        }
        # With -P the working directory, where any file may be called as one of the standard library, is no place that
        # our own imports look into. The runner puts the script's folder there, if this process was not told -P itself.
        flags = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
        module = ["-m"] if order.module else []
        try:
            # Whatever else is open stays open, as it would be if the worker were this process.
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-m", "spark_fast.worker", "run", *module, order.target, *order.arguments],
                env=os.environ | {TOLD: json.dumps(told)},
                close_fds=False,
            )
        except BaseException:
            os.close(self._news)
            raise
        finally:
            os.close(theirs)

    def close(self) -> None:
        for descriptor in (self._news, self._control):
            if descriptor >= 0:
                os.close(descriptor)
        self._news = self._control = -1

    def patience(self) -> float:
        """Seconds until the next look at it, if nothing happens."""
        if self._news >= 0:
            return _BIRTH
        if self._kill_at is None:
            return _LOOK
        return min(_LOOK, max(0.0, self._kill_at - time.monotonic()))

    def listen(self) -> None:
        """Learns what its run is called, once it has one."""
        if self._news < 0:
            return
        try:
            said = os.read(self._news, 256)  # less than a pipe takes at once: the whole line or nothing
        except BlockingIOError:
            return
        os.close(self._news)
        self._news = -1
        name = said.decode().strip()
        if not name:
            return
        self.run = name
        # It can still be watched over if its folder is gone already.
        with suppress(OSError, SparkError):
            self._control = run_folder.open_control_of(name)

    def last_seen(self) -> tuple[int | None, int | None]:
        """Its rank, where others share its run, and the step that it came to, as far as they can be told."""
        if self._control < 0:
            return None, None
        try:
            count = _core.read_view(self._control)["slot_count"]
            slots = [_core.read_slot(self._control, slot) for slot in range(count)]
        except SegmentError:
            return None, None
        if count == 1:
            return None, int(slots[0]["step"])
        return next(((slot["rank"], slot["step"]) for slot in slots if slot["pid"] == self.process.pid), (None, None))

    def stop_entry(self) -> dict[str, Any] | None:
        """The stop that was asked for. Of a sender that died while sending it, the view tells nothing."""
        if self._control < 0:
            return None
        try:
            seq = _core.read_view(self._control)["stop_seq"]
            return _core.read_entry(self._control, seq) if seq else None
        except SegmentError:
            return None

    def hurry(self) -> None:
        """Ends it when it has not ended in the time that a reset, or a stop with a grace, has given it."""
        entry = self.stop_entry()
        if entry is None or entry["mail"] not in (GRACE, RESET):
            return
        now = time.monotonic()
        if self._kill_at is None:
            # The sender's clock may have been set since; never is it given more time than was asked for.
            self._kill_at = now + min(entry["duration"], max(0.0, entry["asked"] + entry["duration"] - time.time()))
        if now < self._kill_at:
            return
        number = signal.SIGKILL if self.ended_by is not None else signal.SIGTERM
        self.process.send_signal(number)
        self.ended_by = number
        if number == signal.SIGTERM:
            exits.say(f"run {self.run} did not end in the {entry['duration']:g} s that it was given: it gets SIGTERM")
        self._kill_at = now + _LAST_WORDS


def _script_of(order: Order) -> str | None:
    """The file that the order runs, where that can be told without importing anything."""
    if not order.module:
        target = os.path.abspath(order.target)
        return os.path.join(target, "__main__.py") if os.path.isdir(target) else target
    place = os.path.abspath(os.path.join(*order.target.split(".")))
    return next((path for path in (f"{place}.py", f"{place}/__main__.py") if os.path.exists(path)), None)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _end_by(number: int) -> int:
    """Ends this process by the signal, so that whoever waits for it sees what happened to the worker."""
    if number != signal.SIGKILL:
        # The worker has left its core already, where it was to leave one.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    return 128 + number  # also of a container's first process, on which no signal takes its default action
