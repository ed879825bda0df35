"""Runs a script or a module as the worker of a run: what `spark-fast run` does."""

import io
import os
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType, ModuleType

from spark_fast.errors import RunNameTakenError, SparkError, SparkStopError
from spark_fast.request import FateState
from spark_fast.status import WorkerState
from spark_fast.worker import options, report, session
from spark_fast.worker.controller import create_controller

__all__ = ["run_module", "run_script"]

USAGE = 2
INTERRUPTED = 128 + signal.SIGINT


def run_script(path: str, args: list[str], *, name: str | None = None) -> int:
    """Runs a script as `python path args…` would, under a run that is there before its first line.

    name: the run id; None for SPARK_FAST_RUN, or one that is drawn.

    Returns the exit status: the script's own; 0 if it was stopped and let SparkStopError through; 1 for an uncaught
    exception, whose traceback is printed; 2 if it can't be started. The first SIGINT or SIGTERM asks for a stop at the
    next checkpoint, the second interrupts at once. To be called once, from the main thread, with nothing to follow it
    in the process.
    """
    code: CodeType | None = None
    try:
        if not Path(path).is_dir():
            with io.open_code(os.path.abspath(path)) as file:
                code = compile(file.read(), path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        _show(error)
        return 1
    except OSError as error:
        report.say(f"can't read {path}: {error.strerror}")
        return USAGE

    def start() -> None:
        sys.argv = [path, *args]
        if not sys.flags.safe_path:
            sys.path[0] = str(Path(path).resolve() if code is None else Path(path).resolve().parent)
        if code is None:
            runpy.run_path(path, run_name="__main__")
            return
        # The module stays __main__ to the end of the process: what it defines is pickled by that name, and processes
        # that multiprocessing spawns look for its file.
        main = ModuleType("__main__")
        main.__dict__.update(__file__=path, __builtins__=__builtins__, __cached__=None)
        sys.modules["__main__"] = main
        exec(code, main.__dict__)

    return _run(start, name, [path, *args])


def run_module(module: str, args: list[str], *, name: str | None = None) -> int:
    """Runs a module as `python -m module args…` would; as run_script()."""

    def start() -> None:
        sys.argv = [module, *args]
        if not sys.flags.safe_path:
            sys.path[0] = os.getcwd()
        runpy.run_module(module, run_name="__main__", alter_sys=True)

    return _run(start, name, ["-m", module, *args])


def _run(start: Callable[[], None], name: str | None, command: list[str]) -> int:
    sys.argv = command  # what the run is listed with
    try:
        if name is not None:
            options.configure(run=name)
        session.attach(fresh_name=name is None)
    except RunNameTakenError as error:
        report.say(f"{error}; stop it, or choose another name")
        return 1
    except ValueError as error:
        report.say(str(error))
        return USAGE
    _install_handlers()
    try:
        start()
    except SparkStopError as stop:
        report.say(str(stop))
        return _ended(WorkerState.STOPPED, 0)
    except SystemExit as leaving:
        return _left(leaving)
    except BaseException as error:
        _show(error)
        return _ended(WorkerState.FAILED, INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1)
    session.outcome = session.state_after(None)
    return 0


def _ended(state: WorkerState, status: int) -> int:
    # Published when the interpreter ends: threads of the script may still pass checkpoints.
    session.outcome = state
    return status


def _left(leaving: SystemExit) -> int:
    if leaving.code is None or leaving.code == 0:
        return _ended(session.state_after(None), 0)
    if isinstance(leaving.code, int):
        return _ended(WorkerState.FAILED, leaving.code & 0xFF)
    print(leaving.code, file=sys.stderr)
    return _ended(WorkerState.FAILED, 1)


def _show(error: BaseException) -> None:
    """The traceback as the script's author knows it: without the frames of this file."""
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    sys.excepthook(type(error), error.with_traceback(trace), trace)


def _install_handlers() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        # Left alone where it is ignored: nohup, or a shell's background job.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _on_signal(number: int, frame: FrameType | None) -> None:
    # The second interrupts at once, and the system does it: also where the interpreter is stuck in a long call.
    if signal.getsignal(signal.SIGINT) is _on_signal:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is _on_signal:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    name = signal.Signals(number).name
    try:
        fate = create_controller().stop()
        asked = fate.state is not FateState.REFUSED
        why = fate.reason
    except (SparkError, OSError) as error:
        asked, why = False, str(error)
    if asked:
        _say_from_handler(f"{name}: it will stop at the next checkpoint; once more interrupts at once")
        return
    _say_from_handler(f"{name}: it can't be asked to stop ({why}), so it is interrupted")
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _say_from_handler(message: str) -> None:
    # Not through sys.stderr: the main thread may be in the middle of writing to it.
    try:
        os.write(2, f"spark_fast: {message}\n".encode())
    except OSError:
        return
