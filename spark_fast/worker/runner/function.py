"""Functions that are run again, with new code, after a reload."""

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from spark_fast.errors import CodeRefusedError
from spark_fast.worker import process, session

__all__ = ["run", "run_hosted"]

Args = ParamSpec("Args")
Result = TypeVar("Result")


class _Reached(BaseException):
    """The script, executed anew, has come to its run(): what is to be run is known, and the rest is for later."""

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call = fn, args, kwargs


_reaching: int | None = None
"""The thread that executes the script anew to find out what it runs."""


def run(fn: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
    """Calls `fn(*args, **kwargs)`, and again after each reload of the code, with the new code; returns what the last
    call returned.

    What `spark-fast run script.py` does for a script this does for a function of a script that is started in any other
    way, and in a notebook. At a reload the modules that changed are executed anew, and the script too if it changed, or
    imports what did, up to its `run()`: its arguments are then those of the new code. Under `spark-fast run`, and
    within another `run()`, it is a plain call.

    The code that belongs to the project is what lies in the script's folder and in the working directory. Makes the run
    if there is none. Raises what `fn` raises. To be called from one thread at a time; outside the main thread the
    script itself is never executed anew, only the modules that it imports.
    """
    thread = threading.get_ident()
    if _reaching == thread:
        raise _Reached(fn, args, kwargs)
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    script = os.path.abspath(main) if isinstance(main, str) and main.endswith(".py") else None
    roots = [*([os.path.dirname(script)] if script else []), os.getcwd()]
    if thread != threading.main_thread().ident:
        script = None  # executed anew here, it would start its threads a second time
    return run_hosted(roots, script, fn, args, kwargs)


def run_hosted(
    roots: Sequence[str],
    script: str | None,
    fn: Callable[..., Result],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Result:
    """As run(), for a caller who knows which folders hold the project's code.

    script: what is executed anew if it changed; None where `__main__` is no script of the user's.
    """
    args, kwargs = tuple(args), dict(kwargs or {})
    if session.current.host is not None or not process.attach():
        return fn(*args, **kwargs)
    # Imported when used: most trainings never need any of it.
    from spark_fast.worker.reload.reloader import Reloader

    host = Reloader(roots)
    host.executes_entry = script is not None and not args and not kwargs
    host.project.install()
    host.project.adopt_loaded(script)
    host.open(script, None)
    session.current.host = host
    call: tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]] = fn, args, kwargs

    def first() -> object:
        return fn(*args, **kwargs)

    def again(transaction: Any) -> object:
        nonlocal call
        if script is not None and transaction.touches_entry:
            reached = _reach(transaction.entry_code())
            if reached is None and host.on_probation:
                raise CodeRefusedError("executed anew, the script does not come to spark.run() any more")
            if reached is None:
                return None  # it has done all there was to do without: a second time would be one too many
            call = reached
        return call[0](*call[1], **call[2])

    try:
        return host.run(first, again)  # type: ignore[return-value]
    finally:
        session.current.host = None
        host.close()


def _reach(code: Any) -> tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]] | None:
    global _reaching
    _reaching = threading.get_ident()
    try:
        exec(code, sys.modules["__main__"].__dict__)
    except _Reached as reached:
        return reached.call
    finally:
        _reaching = None
    return None
