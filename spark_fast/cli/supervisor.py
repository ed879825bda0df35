"""The supervisor, the process of `spark-fast run`: it starts the worker as its child, and watches over it.

It hands on the signals that it gets, starts a fresh worker at a reset, and reports how the worker ended. The worker
does not depend on it. Both share the terminal, the standard streams and the process group, and once the run is there no
pipe connects them. A worker whose supervisor is killed trains on and can be controlled.
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
from typing import Any

from spark_fast import _core, launchers
from spark_fast.cli import exits, extras, ui_server, watching
from spark_fast.cli.run_options import Order
from spark_fast.errors import SegmentError, SparkError
from spark_fast.own_process import asks_for_safe_path
from spark_fast.request import GRACE, RESET
from spark_fast.runfiles import run_folder, supervisors

__all__ = ["supervise"]

VARIABLE = "SPARK_FAST_RUNNER"
"""The variable of the environment that holds the options of the worker, as JSON."""

_HANDED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGQUIT,
)
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
"""The sender of one of these wants the run to end: it cancels a reset that was asked for before."""
_OURS = frozenset({signal.SIGCHLD, signal.SIGALRM})
"""The signals for the supervisor itself: the worker has ended, or the next look is due."""

_LOOK = 0.5
"""Seconds between two looks for a reset."""
_BIRTH = 0.01
"""The same until the worker has announced the name of its run."""
_SOON = 0.001
"""The least seconds of a timer: 0 would turn it off."""
_LAST_WORDS = 2.0
"""Seconds between SIGTERM and SIGKILL for a worker that did not end within its grace."""


def supervise(order: Order) -> int:
    """Run the order to its end, and return the exit status of the worker.

    If a signal killed the worker, this process ends by the same signal; for SIGKILL it returns 137 instead.

    To be called once, from the main thread, as the last thing that the process does.
    """
    if order.watch and extras.missing("watch", "--watch"):
        return exits.Exit.REFUSED
    if order.page and extras.missing("ui", "the page"):
        return exits.Exit.REFUSED
    first = not (order.watch or order.page) or launchers.leads()
    page = ui_server.Page(sys.stderr) if order.page and first else None
    # Signals that are ignored now, by nohup or in a shell's background job, stay ignored in both processes.
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
        """Wait for the worker's end. Return its status, as subprocess gives it."""
        while (status := worker.process.poll()) is None:
            # Not sigtimedwait(): if its time is over when a suspended process goes on, CPython returns uninitialized
            # memory.
            signal.setitimer(signal.ITIMER_REAL, max(_SOON, worker.patience()))
            received = signal.sigwaitinfo(self._taken)
            if received.si_signo not in _OURS:
                self._hand_on(worker, received)
            worker.listen()
            if self._lock is None and worker.run is not None:
                # Another process, or a supervisor that is just ending, holds the lock. The next look tries again.
                with suppress(OSError, SparkError):
                    self._lock = supervisors.hold_supervisor(worker.run)
            if self._watcher is not None and worker.run is not None:
                from spark_fast import client  # here, so that the worker starts earlier, and only --watch pays for it

                self._watcher.start(functools.partial(client.attach, worker.run, exact=True))
                self._watcher = None
            worker.hurry()
        worker.listen()
        return status

    def _hand_on(self, worker: "_Worker", received: signal.struct_siginfo) -> None:
        number = received.si_signo
        if number in _ENDING:
            self._ended_by = time.time(), number
        # A signal from the kernel comes from the terminal. The worker is in the same process group, and has it already.
        # But when a terminal hangs up, only the leader of its session gets the signal.
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
            # A sender can give a grace to a stop that is in the log already. The log does not show that.
            hint = ", after it was asked to stop: 'stop --grace' kills a process that has not ended in time"
        elif number == signal.SIGKILL:
            hint = "; if no person or program sent it, the system was short of memory: see its log (dmesg)"
        exits.say(f"the worker{whose} was killed by {_name_of(number)}{where}{hint}")
        return _end_by(number)


class _Worker:
    """The process of one worker."""

    def __init__(self, order: Order, name: str | None, mask: set[int]) -> None:
        self.run: str | None = None
        self._control = -1
        self._kill_at: float | None = None
        self.ended_by: signal.Signals | None = None
        """The last signal that was sent because its grace was over."""
        self._news, theirs = os.pipe()
        os.set_blocking(self._news, False)
        os.set_inheritable(theirs, True)
        options = order.for_worker() | {
            "name": name,
            "supervisor": os.getpid(),
            "safe_path": asks_for_safe_path(),
            "watched": order.watch,
            "announce": theirs,
            "mask": sorted(mask),
        }
        # -P keeps our own imports from the working directory, where a file may have the name of a standard module. The
        # runner adds the script's folder, unless the user gave -P to this process.
        flags = [*subprocess._args_from_interpreter_flags(), "-P"]  # type: ignore[attr-defined]
        module = ["-m"] if order.module else []
        try:
            # All other descriptors stay open, as if the worker were this process.
            self.process = subprocess.Popen(
                [sys.executable, *flags, "-m", "spark_fast.worker", "run", *module, order.target, *order.arguments],
                env=os.environ | {VARIABLE: json.dumps(options)},
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
        """Return the seconds until the next look, if no signal comes first."""
        if self._news >= 0:
            return _BIRTH
        if self._kill_at is None:
            return _LOOK
        return min(_LOOK, max(0.0, self._kill_at - time.monotonic()))

    def listen(self) -> None:
        """Read the name of the run, once the worker has announced it."""
        if self._news < 0:
            return
        try:
            said = os.read(self._news, 256)  # the pipe holds the whole line or nothing: so short a write is atomic
        except BlockingIOError:
            return
        os.close(self._news)
        self._news = -1
        name = said.decode().strip()
        if not name:
            return
        self.run = name
        # If its folder is gone already, the worker is watched all the same.
        with suppress(OSError, SparkError):
            self._control = run_folder.open_control_of(name)

    def last_seen(self) -> tuple[int | None, int | None]:
        """Return its rank, if others share its run, and its last step; None for what is not known."""
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
        """Return the log's entry of the stop. A stop whose sender died while sending it does not count."""
        if self._control < 0:
            return None
        try:
            seq = _core.read_view(self._control)["stop_seq"]
            return _core.read_entry(self._control, seq) if seq else None
        except SegmentError:
            return None

    def hurry(self) -> None:
        """End the worker if the grace of a reset or a stop is over."""
        entry = self.stop_entry()
        if entry is None or entry["mail"] not in (GRACE, RESET):
            return
        now = time.monotonic()
        if self._kill_at is None:
            # The clock may have been set since the request. The worker never gets more time than the request says.
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
    """Return the file that the order runs, if it can be found without an import."""
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
    """End this process by the signal, so that its parent sees what happened to the worker."""
    if number != signal.SIGKILL:
        # The worker has dumped its core already, if it was to dump one.
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
        os.kill(os.getpid(), number)
    return 128 + number  # also in the first process of a container, where no signal has its default action
