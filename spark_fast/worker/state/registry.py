"""Values and functions that controllers see: read and set, and called, from outside.

A value stands in three places: in the state object that the script reads and assigns, on the board for readers, and in
the description (runfiles/schema.py) with its limits. The state object is the truth; a run without a board, since
nothing controls it, has that alone.
"""

import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from spark_fast import _core
from spark_fast._core import Exposed, State, beginning
from spark_fast.errors import FolderRefusedError
from spark_fast.runfiles import private_files
from spark_fast.runfiles.schema import (
    BOARD,
    NAME_MAX,
    Exposures,
    Function,
    Limits,
    fit,
    json_bytes,
    type_of,
    write,
)
from spark_fast.worker import session, stderr
from spark_fast.worker.state import tensors
from spark_fast.worker.state.declare import ExposedFunction, ExposedValue, described, is_function, limits_of
from spark_fast.worker.state.mappings import replace_items

__all__ = [
    "SetterError",
    "connect",
    "expect_again",
    "expose",
    "function_of",
    "is_value",
    "listed",
    "restore",
    "runs_code",
    "set_values",
    "settle",
    "snapshot",
]

_found: dict[str, Exposed] = {}
_declared: dict[str, "ExposedValue"] = {}
_limits: dict[str, Limits] = {}
_functions: dict[str, tuple[Callable[..., object], Function]] = {}
_lock = threading.RLock()
_folder: Path | None = None
"""The run folder that has the board; None if there is none."""
_origins: dict[str, str] = {}
"""The module that has exposed each name."""
_stale: set[str] = set()
"""Names that modules which are executed anew have not exposed again."""
_cells: dict[str, int] = {}
"""The cells of values that are exposed no more, for those that come back."""
_sent: dict[str, tuple[int, object]] = {}
"""What controllers have set, and in which order."""
_turns = count(1)
_warned: set[str] = set()
_KINDS = {"number": _core.FLOAT, "integer": _core.INTEGER, "boolean": _core.BOOLEAN}


def expose(bindings: Mapping[str, Any] | None = None, /, **more: Any) -> State:
    """Shows values to controllers, which may change them, and functions, which they may call.

        state = spark.expose(lr=1e-3, loss=0.0, evaluate=evaluate)

    Args:
        bindings, more: names, and what they stand for: a number, a bool, a str, dicts and lists of these (JSON), a
            tensor of one element, a value() with limits, a function, or a function() with the ranks that call it. A
            class instance that can be called counts as a function.

    Returns the state object, one for the process: `state.loss = 0.5` shows up in every controller, `state.lr` reads
    what was set last. What a controller sets shows up at a checkpoint and only there, also while the run is parked.
    Assigning a number costs some tens of nanoseconds, JSON some microseconds; of JSON, what is changed within it is
    seen when it is assigned again. A tensor on an accelerator is copied only while somebody looks, a few times a
    second, and nobody waits for it.

    A function is called at a checkpoint, on the thread that passes it, also while the run is parked, with JSON
    arguments; what it returns must be JSON. An exception in it goes to the caller and not to the loop. Checkpoints that
    it passes itself are no steps, and cost some microseconds each; a stop or a reload that comes meanwhile is raised
    from them.

    May be called again, to add names and after a reload: a value keeps what it is, unless its initial value is another
    than the last time; what new code does not expose again is gone. Raises TypeError for what is neither JSON nor a
    function, ValueError for a name that is no str of 1 to 64 characters. Never fails for reasons of the run's: without
    control, the state object works alone.
    """
    given = {**(bindings or {}), **more}
    origin = str(sys._getframe(1).f_globals.get("__name__"))
    for name, each in given.items():
        if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or not name.isprintable():
            raise ValueError(f"the name of an exposed value is a str of 1 to {NAME_MAX} printable characters: {name!r}")
        if name.startswith("__"):
            raise ValueError(f"an exposed value can't be called {name!r}")
        if inspect.iscoroutinefunction(each.call if isinstance(each, ExposedFunction) else each):
            raise TypeError(f"{name}: a function that is awaited can't be called at a checkpoint")
        if not is_function(each):
            initial = each.initial if isinstance(each, ExposedValue) else each
            if not tensors.is_tensor(initial):
                before = _declared.get(name)
                if before is None or before.initial is not initial:  # what the script has put into it since, it may
                    _as_json(name, initial)
                continue
            # It is kept as long as the run lives: what it was computed from is not to be.
            initial = tensors.detached(name, initial)
            given[name] = replace(each, initial=initial) if isinstance(each, ExposedValue) else initial
    functions = {}
    for name, each in given.items():
        if is_function(each):
            made = each if isinstance(each, ExposedFunction) else ExposedFunction(each)
            functions[name] = made.call, described(made)
    with _exclusively():
        for name, each in given.items():
            _origins[name] = origin
            _stale.discard(name)
            if name in functions:
                _retire(name)
                _functions[name] = functions[name]
            else:
                _functions.pop(name, None)
                _expose_value(name, each if isinstance(each, ExposedValue) else ExposedValue(each))
        if session.begun():
            connect(session.folder() if session.first_here() else None)
    return _state


@contextmanager
def _exclusively() -> Iterator[None]:
    """What is exposed changes. A signal handler may pass a checkpoint in the middle of it: so the locks that this takes
    are taken before, as a thread takes them which comes from a checkpoint. What goes may run code of the user's, and
    does so when they are given back."""
    with nullcontext() if session.begun() else beginning, session.current.lock, _lock:
        before = dict(_functions), dict(_declared), [it.value for it in _found.values()]
        yield
    del before


def _expose_value(name: str, given: ExposedValue) -> None:
    before = _declared.get(name)
    _declared[name] = given
    it = _found.get(name)
    if it is None:
        it = _found[name] = Exposed(name, given.initial)
    elif before is None or not _same(before.initial, given.initial):
        it.value = given.initial
    _limits[name] = limits_of(given, it.index)
    _show(name, it)


def _retire(name: str) -> None:
    it = _found.pop(name, None)
    if it is not None:
        del _declared[name], _limits[name]
        _cells[name] = it.index


def _same(one: object, other: object) -> bool:
    if tensors.is_tensor(one) or tensors.is_tensor(other):
        return True  # what a tensor holds changes all the time: that it is exposed again says nothing
    try:
        return type(one) is type(other) and (one is other or json_bytes(one) == json_bytes(other))
    except (TypeError, ValueError):  # the script has put something into it since that is no JSON
        return False


def _as_json(name: str, found: object) -> bytes:
    try:
        return json_bytes(found)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: a value that is exposed is a number, a bool, a str or JSON: {error}") from None


# --- the board ---


def connect(place: Path | None) -> None:
    """What is exposed goes to the board of the run in this folder; None: there is no run. Never raises an Exception."""
    global _folder
    with _exclusively():
        if place is None:
            for name, it in _found.items():
                _make_fast(name, it)
            return
        if not _found and not _functions:
            return
        try:
            if _folder is None:
                _core.board_create(place / BOARD)
                _folder = place
            for name, it in _found.items():
                if it.index < 0:
                    _show(name, it)
            _describe()
        except OSError as error:
            _warn("board", f"what is exposed can't be shown: {error}")


def _show(name: str, it: Exposed) -> None:
    """Puts a value on the board, in a cell of its own."""
    if _folder is None:
        return
    try:
        if it.index < 0:
            cell = _cells.pop(name, -1)
            it.index = cell if cell >= 0 else _core.board_add()
            _limits[name] = replace(_limits[name], cell=it.index)
        if _limits[name].type in _KINDS and not it.fast:
            _core.board_keep_history(it.index)
            _make_fast(name, it)
    except OSError as error:
        _warn("room", f"the exposed value {name}, and others maybe, can't be shown on the board: {error.strerror}")
        return
    _put(name, it, it.value)


def _put(name: str, it: Exposed, value: object) -> None:
    try:
        _state[name] = value
    except (TypeError, ValueError) as error:  # the script has put something into it since that is no JSON
        it.value = value
        _warn(name, f"the exposed value {name} can't be shown: {error}")


def _make_fast(name: str, it: Exposed) -> None:
    it.kind = _KINDS.get(_limits[name].type, 0)
    it.fast = it.kind != 0


def _describe() -> None:
    if _folder is None:
        return
    with _exclusively():  # the last that is written is the newest
        exposures = Exposures(dict(_limits), {name: described for name, (_, described) in _functions.items()})
        try:
            with private_files.opened(_folder) as descriptor:
                write(descriptor, exposures)
        except (OSError, FolderRefusedError) as error:
            _warn("description", f"what is exposed can't be described: {error}")
        _core.board_described()


def _warn(what: str, text: str) -> None:
    if what not in _warned:
        _warned.add(what)
        stderr.warn(text)


# --- assigning ---


def _assign(name: str, it: Exposed | None, found: object) -> None:
    """Called by the state object for all but the plain numbers of a value that has its place on the board."""
    if it is None:
        if name in _functions:
            raise AttributeError(f"{name!r} is an exposed function, and no value")
        raise AttributeError(f"{name!r} is not exposed: spark.expose({name}=…) comes first")
    if tensors.is_tensor(found):
        it.value = tensors.assign(it, found)
        return
    text = _as_json(name, found)
    it.value = found
    if it.index < 0 or _folder is None:
        return
    limits = _limits.get(name)
    if limits is None:  # exposed no more, since a moment ago
        return
    kind = type_of(found)
    try:
        if kind not in _KINDS or not it.fast or (isinstance(found, int) and not -(1 << 63) <= found < 1 << 63):
            _core.board_put_text(it.index, text)
        elif isinstance(found, (int, float)) and kind in (limits.type, "integer") and limits.type != "boolean":
            _core.board_put_number(it.index, found)  # of a subclass: a number of NumPy's, an IntEnum
        if kind != limits.type and not (kind == "integer" and limits.type == "number"):
            # The script has changed its mind; what may be set from outside follows.
            _limits[name] = replace(limits, type=kind, min=None, max=None, step=None, choices=None)
            it.fast = False
            if kind in _KINDS:
                _show(name, it)
            _describe()
    except OSError as error:
        _warn(name, f"the exposed value {name} can't be shown any more: {error}")


_state = State(_found, _assign)


# --- what comes from outside ---


class SetterError(Exception):
    """The on_set of a value has raised; the error is its cause."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(name)
        self.name = name
        self.error = error


def set_values(given: Mapping[str, object]) -> None:
    """Set these values for a controller, all or none.

    Raises UnfitError if one does not fit, and SetterError if the on_set of one raises. Then the on_set of those before
    it is called once more, with the old value. What these calls raise is a warning.
    """
    fitting = {name: fit(name, _limits[name], value) for name, value in given.items()}
    called: list[str] = []
    for name, value in fitting.items():
        on_set = _declared[name].on_set
        if on_set is None:
            continue
        try:
            on_set(value)
        except BaseException as error:
            escaped = _take_back(called)
            raise SetterError(
                name, escaped if escaped is not None and isinstance(error, Exception) else error
            ) from error
        called.append(name)
    for name, value in fitting.items():
        _state[name] = value
        _sent[name] = next(_turns), value


def _take_back(names: Sequence[str]) -> BaseException | None:
    """Hand the values that these have to their on_set: another value that was to be set with them was not set.

    Returns what is to leave the loop, an interrupt say, if that was raised meanwhile.
    """
    escaped: BaseException | None = None
    for name in reversed(names):
        on_set = _declared[name].on_set
        if on_set is None:
            continue
        try:
            on_set(_found[name].value)
        except Exception as error:
            stderr.warn(f"on_set of {name} raised when the old value was handed to it again: {error!r}")
        except BaseException as error:
            escaped = error
    return escaped


def function_of(name: str) -> tuple[Callable[..., object], Function]:
    """The function of this name for a controller, and what describes it."""
    return _functions[name]


def is_value(name: str) -> bool:
    """Whether a value is exposed under this name."""
    return name in _found


def runs_code(name: str) -> bool:
    """Whether code of the script's runs when this value is set."""
    return _declared[name].on_set is not None


def listed(what: str) -> list[str]:
    """The names of the exposed values, or of the functions."""
    return sorted(_found if what == "value" else _functions)


# --- reloads and forks ---


def expect_again(modules: Iterable[str]) -> None:
    """These modules are executed anew: what they have exposed, and do not expose again, is gone with settle()."""
    with _exclusively():
        again = set(modules)
        _stale.update(name for name, origin in _origins.items() if origin in again)


def settle() -> None:
    """The new code runs."""
    with _exclusively():
        if _stale:
            for name in _stale:
                _retire(name)
                _functions.pop(name, None)
                _origins.pop(name, None)
            _stale.clear()
            _describe()


def snapshot() -> tuple[Any, ...]:
    """What is exposed now, for restore()."""
    with _exclusively():
        values = {name: it.value for name, it in _found.items()}
        return next(_turns), values, dict(_found), dict(_declared), dict(_limits), dict(_functions), dict(_origins)


def restore(before: tuple[Any, ...]) -> None:
    """Exposes what a snapshot had, and nothing else: new code that failed leaves nothing behind. What a controller has
    set since stays set: it was told so."""
    when: int
    values: dict[str, Any]
    when, values, *then_all = before
    with _exclusively():
        _stale.clear()
        _cells.update({name: it.index for name, it in _found.items() if name not in values and it.index >= 0})
        all_now: list[dict[str, Any]] = [_found, _declared, _limits, _functions, _origins]
        for there, then in zip(all_now, then_all, strict=True):
            replace_items(there, then)
        for name, it in _found.items():
            sent_at, sent = _sent.get(name, (0, None))
            wanted = sent if sent_at > when and type_of(sent) == _limits[name].type else values[name]
            if it.value is not wanted:
                _put(name, it, wanted)
        _describe()


def forget_after_fork() -> None:
    """In a forked child: it assigns for itself alone."""
    global _lock, _folder
    _lock = threading.RLock()
    _folder = None
    _core.board_forget()
