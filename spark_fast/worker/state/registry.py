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

from spark_fast import _core, stderr
from spark_fast._core import Exposed, State, attach_lock
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
from spark_fast.worker import session
from spark_fast.worker.state import tensors
from spark_fast.worker.state.declare import ExposedFunction, ExposedValue, described, is_function, limits_of
from spark_fast.worker.state.mappings import replace_items

__all__ = ["Registry", "SetterError", "current", "expose"]

_KINDS = {"number": _core.FLOAT, "integer": _core.INTEGER, "boolean": _core.BOOLEAN}


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


class SetterError(Exception):
    """The on_set of a value has raised; the error is its cause."""

    def __init__(self, name: str, error: BaseException) -> None:
        super().__init__(name)
        self.name = name
        self.error = error


class Registry:
    """What this process exposes. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._found: dict[str, Exposed] = {}
        self._declared: dict[str, ExposedValue] = {}
        self._limits: dict[str, Limits] = {}
        self._functions: dict[str, tuple[Callable[..., object], Function]] = {}
        self._lock = threading.RLock()
        self._folder: Path | None = None
        """The run folder that has the board; None if there is none."""
        self._origins: dict[str, str] = {}
        """The module that has exposed each name."""
        self._stale: set[str] = set()
        """Names that modules which are executed anew have not exposed again."""
        self._cells: dict[str, int] = {}
        """The cells of values that are exposed no more, for those that come back."""
        self._sent: dict[str, tuple[int, object]] = {}
        """What controllers have set, each with a number that grows."""
        self._numbers = count(1)
        self._warned: set[str] = set()
        self._state = State(self._found, self._assign)

    def expose(self, given: dict[str, Any], origin: str) -> State:
        for name, each in given.items():
            if not isinstance(name, str) or not 0 < len(name) <= NAME_MAX or not name.isprintable():
                raise ValueError(
                    f"the name of an exposed value is a str of 1 to {NAME_MAX} printable characters: {name!r}"
                )
            if name.startswith("__"):
                raise ValueError(f"an exposed value can't be called {name!r}")
            if inspect.iscoroutinefunction(each.call if isinstance(each, ExposedFunction) else each):
                raise TypeError(f"{name}: a function that is awaited can't be called at a checkpoint")
            if not is_function(each):
                initial = each.initial if isinstance(each, ExposedValue) else each
                if not tensors.is_tensor(initial):
                    before = self._declared.get(name)
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
        with self._exclusively():
            for name, each in given.items():
                self._origins[name] = origin
                self._stale.discard(name)
                if name in functions:
                    self._retire(name)
                    self._functions[name] = functions[name]
                else:
                    self._functions.pop(name, None)
                    self._expose_value(name, each if isinstance(each, ExposedValue) else ExposedValue(each))
            if session.begun():
                self.connect(session.folder() if session.first_here() else None)
        return self._state

    @contextmanager
    def _exclusively(self) -> Iterator[None]:
        """Hold the locks while what is exposed changes.

        A signal handler may pass a checkpoint in between. So the locks that a checkpoint takes are taken first, in the
        checkpoint's order. What is removed may run code of the user's as it goes: it goes when the locks are released.
        """
        with nullcontext() if session.begun() else attach_lock, session.current.lock, self._lock:
            before = dict(self._functions), dict(self._declared), [it.value for it in self._found.values()]
            yield
        del before

    def _expose_value(self, name: str, given: ExposedValue) -> None:
        before = self._declared.get(name)
        self._declared[name] = given
        it = self._found.get(name)
        if it is None:
            it = self._found[name] = Exposed(name, given.initial)
        elif before is None or not _same(before.initial, given.initial):
            it.value = given.initial
        self._limits[name] = limits_of(given, it.index)
        self._show(name, it)

    def _retire(self, name: str) -> None:
        it = self._found.pop(name, None)
        if it is not None:
            del self._declared[name], self._limits[name]
            self._cells[name] = it.index

    def connect(self, place: Path | None) -> None:
        """Show what is exposed on the board of the run in this folder; None for no run. Never raises an Exception."""
        with self._exclusively():
            if place is None:
                for name, it in self._found.items():
                    self._make_fast(name, it)
                return
            if not self._found and not self._functions:
                return
            try:
                if self._folder is None:
                    _core.board_create(place / BOARD)
                    self._folder = place
                for name, it in self._found.items():
                    if it.index < 0:
                        self._show(name, it)
                self._describe()
            except OSError as error:
                self._warn("board", f"what is exposed can't be shown: {error}")

    def _show(self, name: str, it: Exposed) -> None:
        """Put a value on the board, in a cell of its own."""
        if self._folder is None:
            return
        try:
            if it.index < 0:
                cell = self._cells.pop(name, -1)
                it.index = cell if cell >= 0 else _core.board_add()
                self._limits[name] = replace(self._limits[name], cell=it.index)
            if self._limits[name].type in _KINDS and not it.fast:
                _core.board_keep_history(it.index)
                self._make_fast(name, it)
        except OSError as error:
            self._warn(
                "room", f"the exposed value {name}, and others maybe, can't be shown on the board: {error.strerror}"
            )
            return
        self._put(name, it, it.value)

    def _put(self, name: str, it: Exposed, value: object) -> None:
        try:
            self._state[name] = value
        except (TypeError, ValueError) as error:  # the script has put something into it since that is no JSON
            it.value = value
            self._warn(name, f"the exposed value {name} can't be shown: {error}")

    def _make_fast(self, name: str, it: Exposed) -> None:
        it.kind = _KINDS.get(self._limits[name].type, 0)
        it.fast = it.kind != 0

    def _describe(self) -> None:
        if self._folder is None:
            return
        with self._exclusively():  # the last that is written is the newest
            exposures = Exposures(
                dict(self._limits), {name: described for name, (_, described) in self._functions.items()}
            )
            try:
                with private_files.opened(self._folder) as descriptor:
                    write(descriptor, exposures)
            except (OSError, FolderRefusedError) as error:
                self._warn("description", f"what is exposed can't be described: {error}")
            _core.board_described()

    def _warn(self, what: str, text: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            stderr.warn(text)

    def _assign(self, name: str, it: Exposed | None, found: object) -> None:
        """Assign a value. The state object calls this for all but plain numbers of a value that is on the board."""
        if it is None:
            if name in self._functions:
                raise AttributeError(f"{name!r} is an exposed function, and no value")
            raise AttributeError(f"{name!r} is not exposed: spark.expose({name}=…) comes first")
        if tensors.is_tensor(found):
            it.value = tensors.assign(it, found)
            return
        text = _as_json(name, found)
        it.value = found
        if it.index < 0 or self._folder is None:
            return
        limits = self._limits.get(name)
        if limits is None:  # exposed no more, since a moment ago
            return
        kind = type_of(found)
        try:
            if kind not in _KINDS or not it.fast or (isinstance(found, int) and not -(1 << 63) <= found < 1 << 63):
                _core.board_put_text(it.index, text)
            elif isinstance(found, (int, float)) and kind in (limits.type, "integer") and limits.type != "boolean":
                _core.board_put_number(it.index, found)  # of a subclass: a number of NumPy's, an IntEnum
            if kind != limits.type and not (kind == "integer" and limits.type == "number"):
                # The script has changed the type; controllers may set values of the new type.
                self._limits[name] = replace(limits, type=kind, min=None, max=None, step=None, choices=None)
                it.fast = False
                if kind in _KINDS:
                    self._show(name, it)
                self._describe()
        except OSError as error:
            self._warn(name, f"the exposed value {name} can't be shown any more: {error}")

    def set_values(self, given: Mapping[str, object]) -> None:
        """Set these values for a controller, all or none.

        Raises UnfitError if one does not fit, and SetterError if an on_set raises. Then the on_set functions that were
        called before are called again, with the old values. An exception of these calls becomes a warning.
        """
        fitting = {name: fit(name, self._limits[name], value) for name, value in given.items()}
        called: list[str] = []
        for name, value in fitting.items():
            on_set = self._declared[name].on_set
            if on_set is None:
                continue
            try:
                on_set(value)
            except BaseException as error:
                escaped = self._take_back(called)
                raise SetterError(
                    name, escaped if escaped is not None and isinstance(error, Exception) else error
                ) from error
            called.append(name)
        for name, value in fitting.items():
            self._state[name] = value
            self._sent[name] = next(self._numbers), value

    def _take_back(self, names: Sequence[str]) -> BaseException | None:
        """Hand the values that these have to their on_set: another value that was to be set with them was not set.

        Returns what is to leave the loop, an interrupt say, if that was raised meanwhile.
        """
        escaped: BaseException | None = None
        for name in reversed(names):
            on_set = self._declared[name].on_set
            if on_set is None:
                continue
            try:
                on_set(self._found[name].value)
            except Exception as error:
                stderr.warn(f"on_set of {name} raised when the old value was handed to it again: {error!r}")
            except BaseException as error:
                escaped = error
        return escaped

    def function_of(self, name: str) -> tuple[Callable[..., object], Function]:
        """Return the exposed function of this name, and its description."""
        return self._functions[name]

    def is_value(self, name: str) -> bool:
        """Return whether a value is exposed under this name."""
        return name in self._found

    def runs_code(self, name: str) -> bool:
        """Return whether setting this value runs code of the script."""
        return self._declared[name].on_set is not None

    def listed(self, what: str) -> list[str]:
        """Return the names of the exposed values, or of the functions."""
        return sorted(self._found if what == "value" else self._functions)

    def expect_again(self, modules: Iterable[str]) -> None:
        """Have commit() remove what these modules, which are executed anew, have exposed and don't expose again."""
        with self._exclusively():
            again = set(modules)
            self._stale.update(name for name, origin in self._origins.items() if origin in again)

    def commit(self) -> None:
        """Remove what new code, which has proved itself, has not exposed again."""
        with self._exclusively():
            if self._stale:
                for name in self._stale:
                    self._retire(name)
                    self._functions.pop(name, None)
                    self._origins.pop(name, None)
                self._stale.clear()
                self._describe()

    def snapshot(self) -> tuple[Any, ...]:
        """Return what is exposed now, for restore()."""
        with self._exclusively():
            values = {name: it.value for name, it in self._found.items()}
            return (
                next(self._numbers),
                values,
                dict(self._found),
                dict(self._declared),
                dict(self._limits),
                dict(self._functions),
                dict(self._origins),
            )

    def restore(self, before: tuple[Any, ...]) -> None:
        """Expose what a snapshot had, and nothing else: new code that failed leaves nothing behind.

        A value that a controller has set since stays set, since the controller was told that it is.
        """
        when: int
        values: dict[str, Any]
        when, values, *then_all = before
        with self._exclusively():
            self._stale.clear()
            self._cells.update(
                {name: it.index for name, it in self._found.items() if name not in values and it.index >= 0}
            )
            all_now: list[dict[str, Any]] = [self._found, self._declared, self._limits, self._functions, self._origins]
            for there, then in zip(all_now, then_all, strict=True):
                replace_items(there, then)
            for name, it in self._found.items():
                sent_at, sent = self._sent.get(name, (0, None))
                wanted = sent if sent_at > when and type_of(sent) == self._limits[name].type else values[name]
                if it.value is not wanted:
                    self._put(name, it, wanted)
            self._describe()

    def after_fork(self) -> None:
        """In a forked child: leave the board, which is the parent's, and a lock that another thread may hold."""
        self._lock = threading.RLock()
        self._folder = None
        _core.board_forget()


current = Registry()
"""What this process exposes, and its forked children too."""


def expose(bindings: Mapping[str, Any] | None = None, /, **more: Any) -> State:
    """Show values to controllers, which may change them, and functions, which they may call.

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
    return current.expose({**(bindings or {}), **more}, str(sys._getframe(1).f_globals.get("__name__")))
