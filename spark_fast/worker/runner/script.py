"""Runs a script or a module as the worker of a run: what `spark-fast run` does."""

import contextlib
import importlib.util
import io
import os
import runpy
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Protocol

import spark_fast
from spark_fast import stderr
from spark_fast.errors import JournalError, ReplayRefusedError, RunNameTakenError, error_behind, first_stop, is_stop
from spark_fast.runfiles.journal import Journal, read
from spark_fast.status import WorkerState
from spark_fast.worker import process, session
from spark_fast.worker.journal.replay import Replay
from spark_fast.worker.lifecycle import stop_in_threads
from spark_fast.worker.lifecycle.error_record import record
from spark_fast.worker.lifecycle.exit import state_after
from spark_fast.worker.lifecycle.join import keep_journal
from spark_fast.worker.options import configure
from spark_fast.worker.reload import reloader as reloader_module
from spark_fast.worker.reload.reloader import Reloader
from spark_fast.worker.runner.options import RunnerOptions
from spark_fast.worker.slow_path import replay_driver
from spark_fast.worker.state import hooks

if TYPE_CHECKING:
    from spark_fast.worker.reload.transaction import Transaction

__all__ = ["run_module", "run_script"]

USAGE = 2
_CONFIGURED = ("journal", "journal_limit", "stop_deadline", "on_error", "error_timeout")
"""The options that configure() takes under the same name."""
INTERRUPTED = 128 + signal.SIGINT
PLAIN = RunnerOptions()
_RUNPY = frozenset({runpy.__file__, "<frozen runpy>"})
"""The file names in frames of runpy."""


def run_script(path: str, args: list[str], *, options: RunnerOptions = PLAIN) -> int:
    """Run a script as `python path args…` would, and again after each reload of its code.

    The run begins before the script's first line. Returns the exit status: the script's own; 0 if it was stopped and
    let SparkStopError through; 1 for an uncaught exception, whose traceback is printed; 2 if it can't be started. The
    first SIGINT or SIGTERM asks for a stop at the next checkpoint, the second interrupts at once. Under a supervisor, a
    SIGTERM within a second of the first is ignored as a repeat. Call this once, from the main thread, as the last
    action of the process.
    """
    full = os.path.abspath(path)
    if os.path.isdir(path):
        return _run(_Folder(path), args, options, [path, *args])
    try:
        with io.open_code(full) as file:
            source = file.read()
        code = compile(source, full, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        _show(error)
        return 1
    except OSError as error:
        stderr.say(f"can't read {path}: {error.strerror}")
        return USAGE
    return _run(_Script(path, source, code), args, options, [path, *args])


def run_module(module: str, args: list[str], *, options: RunnerOptions = PLAIN) -> int:
    """Run a module as `python -m module args…` would; otherwise as run_script()."""
    return _run(_Module(module), args, options, ["-m", module, *args])


class _Entry(Protocol):
    """The script, folder or module that is executed as `__main__`."""

    argv0: str
    first_path: str

    def find(self) -> tuple[str, bytes] | None:
        """Return its file and source; None if it can't be executed again. Called once the search path is set."""

    def start(self) -> None:
        """Execute it for the first time."""


class _Script:
    def __init__(self, path: str, source: bytes, code: CodeType) -> None:
        self.argv0 = path
        self.first_path = str(Path(path).resolve().parent)
        self._path = os.path.abspath(path)
        self._source = source
        self._code = code

    def find(self) -> tuple[str, bytes] | None:
        return self._path, self._source

    def start(self) -> None:
        _begin_main(__file__=self._path, __cached__=None)
        exec(self._code, sys.modules["__main__"].__dict__)


class _Folder:
    def __init__(self, path: str) -> None:
        self.argv0 = path
        self.first_path = str(Path(path).resolve())

    def find(self) -> tuple[str, bytes] | None:
        return None

    def start(self) -> None:
        with _unrunnable():
            runpy.run_path(self.argv0, run_name="__main__")


class _Module:
    def __init__(self, name: str) -> None:
        self.argv0 = name
        self.first_path = os.getcwd()
        self._name = name
        self._spec: ModuleSpec | None = None
        self._source = b""

    def find(self) -> tuple[str, bytes] | None:
        try:
            spec = importlib.util.find_spec(self._name)
            if spec is not None and spec.submodule_search_locations is not None:
                spec = importlib.util.find_spec(f"{self._name}.__main__")
        except (ImportError, AttributeError, TypeError, ValueError):
            return None  # runpy will fail, too, with the reason
        if spec is None or not isinstance(spec.loader, SourceFileLoader):
            return None
        self._spec = spec
        self._source = spec.loader.get_data(spec.loader.path)
        self.argv0 = spec.loader.path
        return os.path.abspath(spec.loader.path), self._source

    def start(self) -> None:
        if self._spec is None:  # runpy runs it, or reports the error
            with _unrunnable():
                runpy.run_module(self._name, run_name="__main__", alter_sys=True)
            return
        path = os.path.abspath(self.argv0)
        code = compile(self._source, path, "exec", dont_inherit=True)
        _begin_main(
            __file__=path,
            __cached__=self._spec.cached,
            __package__=self._spec.parent,
            __spec__=self._spec,
            __loader__=self._spec.loader,
        )
        exec(code, sys.modules["__main__"].__dict__)


class _UnrunnableError(Exception):
    """There is nothing to run. The message is Python's own."""


@contextmanager
def _unrunnable() -> Iterator[None]:
    """Raise _UnrunnableError if runpy itself raises an ImportError, since it found no such module."""
    try:
        yield
    except ImportError as error:
        last = error.__traceback__
        while last is not None and last.tb_next is not None:
            last = last.tb_next
        if last is None or last.tb_frame.f_code.co_filename not in _RUNPY:
            raise
        raise _UnrunnableError(str(error)) from None


def _begin_main(**names: object) -> None:
    # The module stays __main__ to the end of the process: its classes and functions are pickled by that name, and
    # processes that multiprocessing spawns need its file.
    main = ModuleType("__main__")
    main.__dict__.update(names, __builtins__=__builtins__)
    sys.modules["__main__"] = main


def _read_own(path: Path) -> Journal:
    """Read a journal to replay it. Raises JournalError for one of another user: a replay runs the code in it."""
    journal = read(path)
    if journal.owner != os.geteuid():
        raise JournalError(
            str(path),
            f"it belongs to the user with the number {journal.owner}, and a replay would run the code in it. If you "
            "trust it, copy it first",
        )
    return journal


def _run_with_reloads(entry: _Entry, args: list[str], options: RunnerOptions, command: list[str]) -> None:
    """Run the entry, and again after each reload."""
    if options.watched:
        # The first edit would wait some 20 ms for these imports.
        for name in ("libraries", "restarts", "transaction"):
            importlib.import_module(f"spark_fast.worker.reload.{name}")
    journal = None if options.replay is None else _read_own(Path(options.replay))
    # A journal with an error also has the reload that followed the error.
    errors = journal is not None and any("error" in line for line in journal.lines)
    reloader = Reloader([entry.first_path, os.getcwd(), *options.reload_dirs], watched=options.watched or errors)
    reloader.project.install()
    if options.safe_path is None and not sys.flags.safe_path:
        sys.path[0] = entry.first_path
    elif options.safe_path is False:
        sys.path.insert(0, entry.first_path)  # the supervisor's -P left it out
    found = entry.find()
    sys.argv = [entry.argv0, *args]
    if found is None:  # a folder or an archive with a __main__, or nothing to run
        reloader.close()
        entry.start()
        return
    path, source = found
    reloader.open(path, source)
    session.current.reloader = reloader
    keep_journal(command, found)
    if options.replay is not None and journal is not None:
        if session.has_local_peers() or session.has_remote_peers():
            reason = (
                "this process is one of several ranks, and the journal is of one; SPARK_FAST_RANKS=off makes it a run"
            )
            raise ReplayRefusedError(options.replay, f"{reason} of its own")
        if journal.loss is not None:
            stderr.warn(f"the journal {journal.path} is replayed, but it is not whole: {journal.loss}")
        replay = Replay(journal)
        replay.check(path, source, command)
        replay_driver.start(replay)
    folder = os.getcwd()

    def again(transaction: "Transaction") -> None:
        # The entry begins as it did the first time.
        sys.argv = [entry.argv0, *args]
        with suppress(OSError):  # the folder was removed; the script may not need it
            os.chdir(folder)
        exec(transaction.entry_code(), sys.modules["__main__"].__dict__)

    try:
        reloader.run(entry.start, again)
    finally:
        session.current.reloader = None  # threads may outlive the script, but none of them is run again


def _run(entry: _Entry, args: list[str], options: RunnerOptions, command: list[str]) -> int:
    sys.argv = command  # the command to list the run with
    try:
        given = {"run": options.name} | {name: getattr(options, name) for name in _CONFIGURED}
        if chosen := {name: value for name, value in given.items() if value is not None}:
            configure(**chosen)
        # Even if this process becomes no worker: until then, each use of a public name costs a call.
        spark_fast._load()
        process.attach(fresh_name=options.name is None)
    except RunNameTakenError as error:
        stderr.say(f"{error}; stop it, or choose another name")
        return 1
    except ValueError as error:
        stderr.say(str(error))
        return USAGE
    if options.announce is not None:
        _announce(options.announce)
    process.take_signals(
        [signal.SIGINT, signal.SIGTERM], copies=options.supervisor is not None or session.has_local_peers()
    )
    try:
        _run_with_reloads(entry, args, options, command)
    except (JournalError, _UnrunnableError) as error:
        stderr.say(str(error))
        return _ended(WorkerState.FAILED, 1)
    except SystemExit as leaving:
        return _left(leaving)
    except BaseException as error:
        return _stopped(error) if is_stop(error) else _failed(error)
    session.current.outcome = state_after(None)
    # At the interpreter's end no thread can be started any more, so code that saves in threads would fail then.
    if stop_in_threads.has_left_a_thread() and not stop_in_threads.finish():
        return _ended(WorkerState.FAILED, 1)
    return 0


def _announce(descriptor: int) -> None:
    # Closed before the script begins, so that none of its children inherits it.
    with suppress(OSError), open(descriptor, "w", encoding="utf-8") as file:
        file.write(f"{session.run_id() or ''}\n")


def _ended(state: WorkerState, status: int) -> int:
    # The outcome is published when the interpreter ends: threads of the script may still pass checkpoints.
    session.current.outcome = state
    return status


def _stopped(error: BaseException) -> int:
    """End a script that a stop's exception has left; return the exit status."""
    saved = hooks.current.run_on_stop()
    behind = error_behind(error)
    if behind is not None:
        return _failed(behind)
    stderr.say(str(first_stop(error)))
    return _ended(WorkerState.STOPPED, 0) if saved else _ended(WorkerState.FAILED, 1)


def _failed(error: BaseException) -> int:
    """End a script that an uncaught exception has left; return the exit status."""
    record(error)
    _show(error)
    return _ended(WorkerState.FAILED, INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1)


def _left(leaving: SystemExit) -> int:
    if leaving.code is None or leaving.code == 0:
        return _ended(state_after(None), 0)
    record(leaving)
    if isinstance(leaving.code, int):
        return _ended(WorkerState.FAILED, leaving.code & 0xFF)
    print(leaving.code, file=sys.stderr)
    return _ended(WorkerState.FAILED, 1)


def _show(error: BaseException) -> None:
    """Print the traceback without the frames of this package's runner."""
    ours = {__file__, reloader_module.__file__, contextlib.__file__, *_RUNPY}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)
