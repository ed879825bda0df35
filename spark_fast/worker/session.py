"""The worker's life: from the first checkpoint, which makes the run, to the end of the process."""

import atexit
import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import spark_fast
from spark_fast import __version__, _core
from spark_fast._core import NEVER, beginning, worker
from spark_fast.errors import (
    JobEndingError,
    RunNameTakenError,
    SegmentError,
    SparkError,
    error_behind,
    first_stop,
    is_stop,
)
from spark_fast.launchers import ancestors
from spark_fast.request import Kind, format_id
from spark_fast.runfiles import names, run_folder
from spark_fast.runfiles.descriptors import open_own, open_own_folder
from spark_fast.status import WorkerState
from spark_fast.worker import options, stderr
from spark_fast.worker.lifecycle import child_process, launchers, stop_in_threads
from spark_fast.worker.lifecycle.forking import Parent
from spark_fast.worker.lifecycle.stopping import StopRule
from spark_fast.worker.state import hooks

if TYPE_CHECKING:
    from spark_fast.worker.journal.replay import Replay
    from spark_fast.worker.reload.reloader import Reloader

__all__ = [
    "ask_hosts",
    "attach",
    "begun",
    "delivered",
    "delivering",
    "elsewhere",
    "end",
    "first_here",
    "folder",
    "forget_after_fork",
    "lose_control",
    "on_trial",
    "rank",
    "run_id",
    "several",
    "turns",
]


class _Life(Enum):
    NEW = 0
    ATTACHED = 1
    OFF = 2


# Whoever changes or reads the worker's place in the log holds it. Reentrant: a signal handler may run at any
# bytecode of the slow path and come here again.
turns = threading.RLock()

_alone: tuple[str, str] | None = None
"""The stop that this process is to raise by itself: its id, and who asked."""
_stop_elsewhere: tuple[int, str, float] | None = None
"""The stop that all hosts were asked for by a signal: its id, who asked, and until when it is waited for."""
_looked = 0.0
_LOOK = 0.1
"""Seconds between two looks at what became of it."""

_held = -1
"""The run's folder, with a lock on it."""

_attaching = False
"""Whether the thread that has all locks is making the run: it may come here again by a signal handler."""

_AGAIN = 0.05
"""Seconds between two tries to take part in a run."""
_SEAT = 5.0
"""Seconds to wait for the process that had this rank before to be gone."""
_ALONE = 2.0
"""Seconds to wait for others that make or remove runs."""
_OLD_JOB = 30.0
"""Seconds to wait for the processes of a job that stops, when it is started again."""

_life = _Life.NEW
_parent: Parent | None = None
"""The worker that this process was forked from, if it was."""
_pid = 0
"""This process, once it is a worker."""
passed = False
"""Whether a checkpoint was passed."""
_place: launchers.Place | None = None
_run: str | None = None
_folder: Path | None = None
_stop_raised = False
stop_rule = StopRule()
"""Says which checkpoints raise the stop that is in force."""
_on_trial = False
_delivering = False
_loops_unwound = False

host: "Reloader | None" = None
"""Who runs the loop again after a reload; None where nobody does."""

_replay: "Replay | None" = None
_replayed: dict[str, str] = {}
"""The ids that the journal has of the requests with mail that are replayed."""

command: list[str] | None = None
"""What the run is listed with, where the interpreter's own command line does not say what it runs."""

outcome: WorkerState | None = None
"""How the run ended, where somebody knows better than the interpreter's last words: the runner."""


def begun() -> bool:
    """Whether this process has become the worker of a run, or was found to be none."""
    return _life is not _Life.NEW


def forked() -> bool:
    """Whether this process was forked from a worker, and has passed no checkpoint yet."""
    return _life is _Life.NEW and _parent is not None


def run_id() -> str | None:
    """The id of the run that this process is the worker of, else None."""
    return _run if worker.attached() else None


def folder() -> Path | None:
    """The folder of this process's run; None where nothing controls it."""
    return _folder if worker.attached() else None


def several() -> bool:
    """Whether other ranks share this process's run."""
    return _place is not None and _place.local_world_size > 1


def together() -> bool:
    """Whether other ranks, on this host or elsewhere, act at the steps at which this process does."""
    return _place is not None and _place.world_size > 1


def rank() -> int | None:
    """This process's rank in its job; None where it has its run for itself."""
    return _place.rank if _place is not None and _place.local_world_size > 1 else None


def slot() -> int:
    """The number of this process's slot in its run."""
    return 0 if _place is None else _place.local_rank


def first_here() -> bool:
    """Whether this process is the first rank of its host: it keeps what a run has once, the board and the journal."""
    return slot() == 0


def attach(*, fresh_name: bool = True) -> bool:
    """Makes this process the worker of a new run, if it is nothing yet; whether it is one.

    Never raises an Exception: what stands in the way is said in one warning, and the loop goes on uncontrolled.

    fresh_name: whether to take another name if a living run has the one that was asked for. If not, RunNameTakenError
        is raised.
    """
    global _attaching
    if _life is not _Life.NEW:  # before the lock: a signal handler may come here while another thread waits for us
        return worker.attached()
    hint = None
    with beginning, turns:
        if _life is _Life.NEW and not _attaching:  # else by a signal handler, in the middle of it
            _attaching = True
            try:
                hint = _attach(fresh_name)
            finally:
                _attaching = False
    if hint is not None:
        stderr.say(hint)  # not holding the locks: somebody may be writing there whose signal handler wants them
    return worker.attached()


def _attach(fresh_name: bool) -> str | None:
    """Does so; what is to be said then."""
    global _life, _run, _pid
    try:
        spark_fast._load()
        from spark_fast.worker.state import registry
    except Exception as error:
        _life = _Life.OFF
        worker.quiet()
        stderr.warn(f"this run can't be controlled from outside: {error!r}. The training goes on without.")
        return None
    chosen = options.current()
    serves = _parent is not None and (_parent.trains or child_process.is_daemon())
    if not chosen.enabled or serves:
        _life = _Life.OFF
        worker.quiet()
        registry.connect(None)
        if _parent is not None and not child_process.is_daemon():
            stderr.say(
                f"nothing controls this process: it was forked from the worker of run {_parent.run}, which passes "
                "checkpoints itself. Start it with multiprocessing's 'spawn', and it is a run of its own"
            )
        return None
    try:
        _run = _make_run(chosen.run if _parent is None else chosen.run or _parent.run, fresh_name=fresh_name)
    except RunNameTakenError:
        raise
    except Exception as error:  # a full disk, a folder of somebody else, a limit on locks: all are the same here
        _life = _Life.OFF
        worker.quiet()
        registry.connect(None)
        stderr.warn(f"this run can't be controlled from outside: {error}. The training goes on without.")
        _take_signals(chosen)
        return None
    _life = _Life.ATTACHED
    _pid = os.getpid()
    if _parent is not None:
        _heed_stop_of(_parent)
    _watch_the_end()
    _meet_hosts()
    _take_signals(chosen)
    if not chosen.quiet and (_place is None or _place.rank == 0):
        return _hint(_run)
    return None


def _heed_stop_of(parent: Parent) -> None:
    try:
        stop = parent.stop()
        if stop is not None:
            # Due at the checkpoint that makes this run, if it is one: before anything is done.
            ident, step = run_folder.new_id(), worker.step()
            worker.append(Kind.STOP, ident, duration=stop["duration"], sender=stop["sender"], target=step)
    except (SparkError, OSError) as error:
        stderr.warn(f"whether run {parent.run} was asked to stop can't be told: {error}")


def _take_signals(chosen: options.Options) -> None:
    if chosen.stop_signals:
        try:
            from spark_fast.worker import signals

            signals.install_chosen()
        except Exception as error:  # it is loaded here, and there may be no descriptor left for that
            stderr.warn(f"{', '.join(chosen.stop_signals)} can't ask for a stop: {error}")


def _make_run(wanted: str | None, *, fresh_name: bool) -> str:
    """Makes the run, or joins that of the job: its id."""
    global _place
    # A process that was forked from a rank can't be that rank, whose process lives.
    _place = launchers.place(options.current()) if _parent is None else None
    began = time.monotonic()
    number = 1
    while True:
        name = wanted if number == 1 or wanted is None else f"{wanted[:56]}-{number}"
        try:
            run = _take_part(name)
        except RunNameTakenError:
            if not fresh_name:
                raise
            number += 1
        except JobEndingError:
            if time.monotonic() > began + _OLD_JOB:
                raise
            time.sleep(_AGAIN)  # nobody tells when the last of them has ended
        except OSError as error:
            if _place is None or error.errno not in (errno.EADDRINUSE, errno.EINVAL):
                raise
            if error.errno == errno.EINVAL or time.monotonic() > began + _SEAT or _started_by_its_rank(error.filename):
                stderr.warn(
                    f"rank {_place.rank} of this job is there already; this process, which has its environment, is a "
                    "run of its own"
                )
                _place = None
            else:
                time.sleep(_AGAIN)
        else:
            if number > 1 and _place is None and _parent is None:
                stderr.warn(f"a living run is called {wanted!r}; this one is called {run!r}")
            return run


def _started_by_its_rank(control: str) -> bool:
    """Whether the process that has this one's rank, by this control file, has started it: then it makes no room for it.

    Not where the system does not say, or the number that it goes by is one of another pid namespace.
    """
    from spark_fast import _core

    if _place is None:
        return False
    try:
        fd = open_own(control, os.O_RDONLY)
        try:
            pid: int = _core.read_slot(fd, _place.local_rank)["pid"]
        finally:
            os.close(fd)
    except (OSError, SparkError):  # the run is gone, or the next try tells
        return False
    return pid in ancestors() and run_folder.is_worker(pid, Path(control).parent)


def _take_part(name: str | None) -> str:
    from spark_fast.worker.state import registry

    global _folder
    if _place is None:
        parent = (_parent.run, _parent.pid) if _parent is not None else ("", 0)
        claim = run_folder.claim(name, _command(), __version__, timeout=_ALONE, forked_from=parent)
    else:
        claim = run_folder.claim(
            name,
            _command(),
            __version__,
            job=_place.job,
            everywhere=_place.everywhere,
            world_size=_place.world_size,
            generation=_place.generation,
            timeout=_OLD_JOB,  # a rank that is left out would stay behind when the others stop
        )
    with claim as found:
        if _place is not None:
            worker.place(_place.rank, _place.world_size, options.current().stride)
        else:
            worker.place(0, 1, options.current().stride)
        seat = slot()
        if found.joined and first_here():
            _clear_seat(found, seat)
        if first_here():
            # Before anybody sees the run, or can ask it for anything.
            _keep_journal(found.folder, found.run, _command(), None)
            registry.connect(found.folder)
        else:
            registry.connect(None)
        if found.joined:
            worker.join(found.control, slot=seat, cookie=run_folder.new_id(), timeout=_SEAT)
        else:
            slot_count = 1 if _place is None else _place.local_world_size
            worker.attach(found.control, slot_count=slot_count, slot=seat, cookie=run_folder.new_id())
        _folder = found.folder
        _hold_folder()
        if found.refused:
            stderr.warn(f"{found.refused[0]}. Until then runs are kept in {found.folder.parent}")
        return found.run


def _hold_folder() -> None:
    """Has what cleans /tmp of old files leave the run's folder alone: systemd-tmpfiles passes over folders on which
    somebody has a lock of this kind, which means nothing to us. It goes with the process."""
    global _held
    if _folder is not None:
        # The run is there by now, so nothing may raise any more; even the import needs a descriptor.
        with suppress(OSError, ImportError, SparkError):
            import fcntl

            _held = open_own_folder(_folder)
            fcntl.flock(_held, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _clear_seat(found: run_folder.Claim, slot: int) -> None:
    """The first rank of a host comes back, or comes late: what it exposes takes the place of what the process before it
    has left. OSError with EADDRINUSE if that lives. Nobody else comes meanwhile: the caller has the turn."""
    from spark_fast.runfiles.schema import BOARD

    fd = open_own(found.control, os.O_RDONLY)
    try:
        if _core.read_slot(fd, slot)["alive"]:
            raise OSError(errno.EADDRINUSE, "the process that had this rank lives", str(found.control))
    finally:
        os.close(fd)
    (found.folder / BOARD).unlink(missing_ok=True)


def elsewhere() -> bool:
    """Whether this process's job has ranks on other hosts, which have a say in what is asked of it."""
    return _place is not None and _place.world_size > _place.local_world_size


def _meet_hosts() -> None:
    """The first rank of each host of several has its host take part in what they agree on."""
    if not elsewhere() or not first_here() or _place is None or _folder is None:
        return
    from spark_fast import hosts

    try:
        unused = hosts.start(_folder, _place)
    except Exception as error:  # of the store's own kind, too: it is Ray's, say
        stderr.warn(f"this host can't be controlled with the others of its job: {error}")
        return
    if unused:
        stderr.warn(f"the hosts of this job have no secret, since {unused}")


def ask_hosts(kind: int, *, sender: str, duration: float = 0.0, only_if: str = "") -> tuple[int, str | None]:
    """Asks all hosts of the job, where elsewhere() is so. Waits for none of them. The request's id, and why it was
    refused, if that is known at once. Raises OSError, SparkError."""
    from spark_fast import hosts

    ident = run_folder.new_id()
    if _folder is None:
        return ident, "nothing controls this process"
    return ident, hosts.ask(_folder, kind, ident, sender=sender, duration=duration, only_if=only_if)


def _refusal(ident: int) -> str | None:
    """Why the hosts have not done what was asked; None if they have, or that is not known."""
    from spark_fast import hosts

    try:
        fate = hosts.fate(_folder, ident) if _folder is not None else None
    except (OSError, SparkError):  # no descriptor is left, say: it is looked again
        return None
    if fate is None or fate.state in ("asked", "applied", "superseded"):
        return None
    if fate.state == "lost" and _is_in_the_log(ident):
        return None  # only its answer is gone
    return fate.reason or fate.state


def ring_hosts() -> None:
    """Has this host's relay started again if it died, where elsewhere() is so."""
    if not elsewhere() or _folder is None:
        return
    from spark_fast import hosts

    try:
        hosts.ring(_folder)
    except Exception as error:
        stderr.warn(f"what the other hosts say can't be heard: {error}")


def _command() -> list[str]:
    return list(command or getattr(sys, "argv", None) or sys.orig_argv)


def _hint(run: str) -> str:
    home = os.environ.get("SPARK_FAST_HOME")
    where = f"SPARK_FAST_HOME={home} " if home else ""
    if _parent is not None:
        return (
            f"this process was forked from the worker of run {_parent.run}, and is run {run}; control it with: "
            f"{where}spark-fast pause {run}   (as long as {_parent.run} is idle, its name stands for this run too)"
        )
    return f"this is run {run}; control it with: {where}spark-fast pause {run}   (also resume, stop, status, top)"


def lose_control(error: Exception) -> None:
    """The control file is of no use any more. The loop goes on."""
    global _life
    with turns:
        if _life is not _Life.ATTACHED:
            return
        _life = _Life.OFF
        worker.quiet()
        stderr.warn(f"control of run {_run} is lost: {error}. The training goes on without.")


def on_trial(whether: bool) -> None:
    """Whether new code runs that has not proved itself: its host looks at each checkpoint. Called with `turns`."""
    global _on_trial
    _on_trial = whether
    _watch()


def delivering(whether: bool) -> None:
    """Whether something is delivered: the checkpoints that it passes are to be told from the loop's. Called with
    `turns`."""
    global _delivering
    if _delivering != whether:
        _delivering = whether
        _watch()


def loops_unwound(whether: bool) -> None:
    """Whether an exception has unwound loops that may still go on: the next checkpoint settles it. Takes no lock: it is
    called by finalizers."""
    global _loops_unwound
    _loops_unwound = whether
    _watch()


def _watch() -> None:
    due = _replay.next_step if _replay is not None else None
    looks = _on_trial or _delivering or _loops_unwound or _alone is not None or _stop_elsewhere is not None
    worker.watch(0 if looks else NEVER if due is None else due)


# --- stops that the run's log can't carry ---


def entries(first: int, last: int) -> list[dict[str, Any] | None]:
    """These of the log: None in the place of one that it holds no more, nothing at all once it is gone."""
    try:
        return [_core.read_entry(worker.fileno(), seq) for seq in range(first, last + 1)]
    except (OSError, SegmentError):
        return []


def _is_in_the_log(ident: int) -> bool:
    _, tail = worker.in_the_log()
    kept = entries(max(1, tail - _core.LOG_CAPACITY + 1), tail)
    return any(entry is not None and entry["id"] == ident for entry in kept)


def stop_alone(sender: str) -> None:
    """This process's next checkpoint raises SparkStopError by itself: the log could not be told, or the other hosts.
    Async-safe as Python's signal handlers need it: takes no lock."""
    global _alone
    _alone = format_id(run_folder.new_id()), sender
    worker.stop_alone()
    _watch()


def expect_stop(ident: int, sender: str, seconds: float) -> None:
    """All hosts were asked for a stop. If they refuse it, or say nothing in this time, this process stops alone."""
    global _stop_elsewhere
    _stop_elsewhere = ident, sender, time.monotonic() + seconds
    _watch()


def stops_alone() -> tuple[str, str] | None:
    """The id and sender of the stop that this process is to raise by itself. Looks what the hosts have said of one."""
    global _stop_elsewhere, _looked
    if _stop_elsewhere is not None and _alone is None:
        ident, sender, until = _stop_elsewhere
        now = time.monotonic()
        if now - _looked > _LOOK:
            _looked = now
            why = _refusal(ident)
            if why is None and now > until:
                if _is_in_the_log(ident):
                    _stop_elsewhere = None  # it is decided there, and at which step
                    return None
                why = "the other hosts have said nothing"
            if why is not None:
                _stop_elsewhere = None
                stderr.warn(f"the job can't be stopped together ({why}): this process stops alone")
                stop_alone(sender)
    return _alone


def stop_raised() -> None:
    """A checkpoint is about to raise SparkStopError."""
    global _stop_raised
    _stop_raised = True


# --- the journal, and a journal that is applied again ---


def keep_journal(command: list[str], entry: tuple[str, bytes] | None) -> None:
    """Has what is applied written down, unless that is turned off, or another rank does it.

    command: what the runner was asked to run.
    entry: the script's path and source, if it can be run again.
    """
    run, place = run_id(), folder()
    if run is not None and place is not None and first_here():
        _keep_journal(place, run, command, entry)


def _keep_journal(place: Path, run: str, command: list[str], entry: tuple[str, bytes] | None) -> None:
    chosen = options.current().journal
    if chosen is not None and chosen.lower() in names.OFF:
        return
    from spark_fast.worker.journal import writer

    writer.keep(place, run, command, chosen, entry)


def follow() -> None:
    """After a turn: what the core wrote down, or could not, is followed up."""
    from spark_fast.worker.journal import writer

    writer.follow(host.project if host is not None else None)


def replay(found: "Replay") -> None:
    """Has the requests of a journal applied at their steps. Before the first checkpoint."""
    global _replay
    _replay = found
    _watch()


def replay_due(step: int) -> None:
    """Appends the requests of the journal whose step has come. Called with `turns`, before the turn."""
    if _replay is None:
        return
    from spark_fast.request import is_restart, version_mail
    from spark_fast.worker.slow_path import dispatch as delivery

    within = delivery.running_call()
    inside = _replayed.get(within) if within is not None else None
    for line in _replay.due(step, inside, delivery.inner(), most=_room()):
        # A reset ended the process that the journal is of. That is all of it that is done again.
        mail = ""
        if line["kind"] == "reload":
            if host is None or (version := host.add_version(_replay.code_of(line), line["sender"])) is None:
                continue
            mail = version_mail(version, restart=is_restart(line["mail"]))
        ident = run_folder.new_id()
        try:
            if line["kind"] in ("set", "call"):
                from spark_fast.runfiles import mailbox

                place = folder()
                content = _replay.payload_of(line)
                if content is None or place is None:
                    raise ValueError("the journal lacks its payload")
                mail = mailbox.send_mail(place, ident, content)
                _replayed[format_id(ident)] = line["id"]
            worker.append(
                Kind[line["kind"].upper()],
                ident,
                arg=line["arg"],
                duration=line["duration"],
                sender=f"the journal: {line['sender']}",
                mail=mail,
                target=step,
            )
        except (SparkError, OSError, ValueError) as error:
            stderr.warn(f"the {line['kind']} of step {line['step']} can't be replayed: {error}")
            _replay.over(line["id"])
    _watch()


def _room() -> int:
    """How many requests the log takes, and some that may come from elsewhere. What is asked of a run that is parked is
    all of one step, and may be more than that."""
    from spark_fast import _core

    try:
        tail: int = _core.read_view(worker.fileno())["tail"]
        applied: int = _core.read_slot(worker.fileno(), 0)["applied"]
        return _core.LOG_CAPACITY // 2 - (tail - applied)
    except (SegmentError, OSError):  # what is wrong with it the turn that follows finds
        return 0


def delivered(ident: int) -> None:
    """A request with mail was delivered."""
    if _replay is not None and (line := _replayed.pop(format_id(ident), None)) is not None:
        _replay.over(line)


# --- the end ---


def end(state: WorkerState) -> None:
    """Publishes how the process ends. Later calls change nothing."""
    global _life
    with turns:
        if _life is _Life.ATTACHED:
            _life = _Life.OFF
            if _replay is not None and (left := _replay.left(worker.step())) is not None:
                stderr.warn(left)
            if worker.journal_begun():
                from spark_fast.worker.journal import writer

                writer.end(state.name.lower())
            try:
                worker.end(state)
            except (SegmentError, OSError) as error:
                stderr.warn(f"control of run {_run} was lost some time before it ended: {error}")


def state_after(error: BaseException | None) -> WorkerState:
    """What an uncaught exception, or None, makes of the run."""
    if error is not None and (not is_stop(error) or error_behind(error) is not None):
        return WorkerState.FAILED
    return WorkerState.STOPPED if _stop_raised else WorkerState.FINISHED


def _at_exit() -> None:
    global outcome
    if outcome is WorkerState.FINISHED:
        outcome = state_after(None)  # threads of the script may have been stopped since
    if not stop_in_threads.finish():
        outcome = WorkerState.FAILED
    if outcome is WorkerState.FINISHED:
        outcome = state_after(None)  # a thread may have been stopped since the script came to its end
    if outcome is not None:
        end(outcome)
        return
    # An interactive interpreter prints errors and goes on: its last error says nothing of how it ended.
    interactive = hasattr(sys, "ps1") or sys.flags.interactive
    error = None if interactive else getattr(sys, "last_value", None)
    run = folder()
    state = state_after(error)
    if state is WorkerState.FAILED and error is not None and run is not None:
        try:
            from spark_fast.worker.reload.error_park import record

            record(error_behind(error) or error if is_stop(error) else error)
        except (ImportError, OSError) as reason:  # no file can be opened, say: the end is told all the same
            stderr.warn(f"the error that ended run {_run} can't be kept for `spark-fast status`: {reason}")
    end(state)
    if is_stop(error) and run is not None and several():
        from spark_fast.worker.lifecycle import shutdown

        shutdown.wait_for_others(run, options.current().stop_deadline)


_previous_hook: Callable[[type[BaseException], BaseException, TracebackType | None], object] = sys.__excepthook__


def _on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not is_stop(error):
        _previous_hook(kind, error, trace)
        return
    global outcome
    if not hooks.run_on_stop():
        outcome = WorkerState.FAILED
    behind = error_behind(error)
    if behind is not None:
        _previous_hook(type(behind), behind, behind.__traceback__)
    else:
        stderr.say(str(first_stop(error)))


def _watch_the_end() -> None:
    global _previous_hook
    atexit.register(_at_exit)
    if sys.excepthook is not _on_uncaught:  # else it was forked from a worker
        _previous_hook = sys.excepthook
        sys.excepthook = _on_uncaught
    stop_in_threads.watch()
    if child_process.is_child():
        child_process.watch(_on_raised, _on_ended)


def _on_raised(error: BaseException) -> None:
    global outcome
    outcome = state_after(error)
    if is_stop(error) and not hooks.run_on_stop():
        outcome = WorkerState.FAILED


def _on_ended(exit_code: int) -> None:
    global outcome
    if not stop_in_threads.finish():
        outcome = WorkerState.FAILED
    if outcome is not None:
        end(outcome)
    else:
        end(state_after(None) if exit_code == 0 else WorkerState.FAILED)


def forget_after_fork() -> None:
    """In a forked child: not the worker that its parent is, and nothing that it does shows in its parent's run."""
    global _life, _attaching, turns, host, stop_rule, outcome, passed, _replay, _alone, _stop_elsewhere
    global _parent, _run, _folder, _place, _held, _stop_raised, _on_trial, _delivering
    _attaching = False
    stop_rule = StopRule()
    _alone = _stop_elsewhere = None
    if host is not None:
        host.forget_after_fork()
    host = _replay = None
    turns = threading.RLock()  # another thread of the parent may have held it, making the run say
    if _life is _Life.ATTACHED and _run is not None and _folder is not None:
        # No worker yet, and one of its own at its first checkpoint, if it is the one that trains.
        _life = _Life.NEW
        _parent = Parent(_run, _pid, passed, _folder / run_folder.CONTROL)
        _run = _folder = _place = outcome = None
        passed = _stop_raised = _on_trial = _delivering = False
        if _held >= 0:
            os.close(_held)
            _held = -1
        worker.begin_anew()
        _watch()
    elif _life is not _Life.NEW:  # else it may still become a worker of its own
        # The C hook has done this already, unless the child was made without the C library's fork().
        _life = _Life.OFF
        worker.quiet()
    for name in ("state.registry", "journal.writer"):
        # Not imported: another thread of the parent may have been doing so.
        module = sys.modules.get(f"spark_fast.worker.{name}")
        forget = getattr(module, "forget_after_fork", None)
        if forget is not None:
            forget()


os.register_at_fork(after_in_child=forget_after_fork)
