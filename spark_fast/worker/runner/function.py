"""spark.run(): runs a function, and again with the new code after each reload."""

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
    """Ends the repeated execution of a script at its run(), whose call is known then."""

    def __init__(self, fn: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        super().__init__()
        self.call = fn, args, kwargs


_reaching: int | None = None
"""The thread that executes the script again to find its run() call."""


def run(fn: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result:
    """Call `fn(*args, **kwargs)`, and again with the new code after each reload; return the last call's result.

    Use this to make a function reloadable without `spark-fast run`: in a script that is started in another way, or in a
    notebook. A reload executes the changed modules again. If the script changed, or imports a module that did, the
    reload also executes the script again, up to its `run()`, whose call then has the new code's arguments. Under
    `spark-fast run`, and within another `run()`, this is a plain call.

    The files in the script's folder and in the working directory are the project's code. This makes the run if there is
    none. Raises what `fn` raises. Call it from one thread at a time. Outside the main thread, a reload never executes
    the script itself again, only the modules that it imports.
    """
    thread = threading.get_ident()
    if _reaching == thread:
        raise _Reached(fn, args, kwargs)
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    script = os.path.abspath(main) if isinstance(main, str) and main.endswith(".py") else None
    roots = [*([os.path.dirname(script)] if script else []), os.getcwd()]
    if thread != threading.main_thread().ident:
        script = None  # executed again in this thread, it would start its threads a second time
    return run_hosted(roots, script, fn, args, kwargs)


def run_hosted(
    roots: Sequence[str],
    script: str | None,
    fn: Callable[..., Result],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
) -> Result:
    """Do as run(), with the folders of the project's code.

    script: the file to execute again if it changed; None if `__main__` is no script of the user.
    """
    args, kwargs = tuple(args), dict(kwargs or {})
    if session.current.reloader is not None or not process.attach():
        return fn(*args, **kwargs)
    # Imported here, since most scripts are not reloaded.
    from spark_fast.worker.reload.reloader import Reloader

    reloader = Reloader(roots)
    reloader.executes_entry = script is not None and not args and not kwargs
    reloader.project.install()
    reloader.project.adopt_loaded(script)
    reloader.open(script, None)
    session.current.reloader = reloader
    call: tuple[Callable[..., object], tuple[Any, ...], dict[str, Any]] = fn, args, kwargs

    def first() -> object:
        return fn(*args, **kwargs)

    def again(transaction: Any) -> object:
        nonlocal call
        if script is not None and transaction.touches_entry:
            reached = _reach(transaction.entry_code())
            if reached is None and reloader.on_probation:
                raise CodeRefusedError("executed anew, the script does not come to spark.run() any more")
            if reached is None:
                return None  # the script has done all its work without run(), so there is nothing left to run
            call = reached
        return call[0](*call[1], **call[2])

    try:
        return reloader.run(first, again)  # type: ignore[return-value]
    finally:
        session.current.reloader = None
        reloader.close()


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
