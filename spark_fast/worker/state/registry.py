"""Exposed values and functions: controllers read and set the values, and call the functions.

A value is in three places: in the state object that the script reads and assigns, on the board for readers, and, with
its limits, in the description (runfiles/schema.py). The state object decides. A run that nothing controls has no board
and no description, but it has the state object.
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
        return True  # a tensor's content changes all the time, so a new tensor is no new initial value
    try:
        return type(one) is type(other) and (one is other or json_bytes(one) == json_bytes(other))
    except (TypeError, ValueError):  # the script has since put something into it that is no JSON
        return False


def _as_json(name: str, found: object) -> bytes:
    try:
        return json_bytes(found)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: a value that is exposed is a number, a bool, a str or JSON: {error}") from None


class SetterError(Exception):
    """The on_set function of a value has raised `error`."""

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
        """The run folder with the board; None if there is no board."""
        self._origins: dict[str, str] = {}
        """The module that exposed each name."""
        self._stale: set[str] = set()
        """Names of modules that are executed again, and that have not exposed them again yet."""
        self._cells: dict[str, int] = {}
        """The cells of values that are no longer exposed, to use again if the values come back."""
        self._sent: dict[str, tuple[int, object]] = {}
        """The values that controllers have set, each with an increasing number."""
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
                    if before is None or before.initial is not initial:  # else the script may have changed it
                        _as_json(name, initial)
                    continue
                # The tensor is kept as long as the run lives, but its computation graph must not be.
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
        """Hold the locks for a change of the exposed values and functions.

        A signal handler may pass a checkpoint during this. So the locks that a checkpoint takes are taken first, in the
        checkpoint's order. Removed objects are kept until the locks are released, since their finalizers may run code
        of the user.
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
        """Show the values on the board of the run in this folder; None for no run. Never raises an Exception."""
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
        except (TypeError, ValueError) as error:  # the script has since put something into it that is no JSON
            it.value = value
            self._warn(name, f"the exposed value {name} can't be shown: {error}")

    def _make_fast(self, name: str, it: Exposed) -> None:
        it.kind = _KINDS.get(self._limits[name].type, 0)
        it.fast = it.kind != 0

    def _describe(self) -> None:
        if self._folder is None:
            return
        with self._exclusively():  # so that the last description written is the newest
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
        """Assign a value. The state object calls this, except for a plain number of a value that is on the board."""
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
        if limits is None:  # another thread has just ended the exposure
            return
        kind = type_of(found)
        try:
            if kind not in _KINDS or not it.fast or (isinstance(found, int) and not -(1 << 63) <= found < 1 << 63):
                _core.board_put_text(it.index, text)
            elif isinstance(found, (int, float)) and kind in (limits.type, "integer") and limits.type != "boolean":
                _core.board_put_number(it.index, found)  # an instance of a subclass: a NumPy number, an IntEnum
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

        Raises UnfitError if a value does not fit, and SetterError if an on_set raises. After the latter, the on_set
        functions that were called already are called again, with the old values. If one of those calls raises, a
        warning says so.
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
        """Call the on_set of these values with the old values, since another value of the request could not be set.

        Returns the exception that must leave the loop, an interrupt say, if one was raised during this.
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
        """Return the names of the exposed values or functions."""
        return sorted(self._found if what == "value" else self._functions)

    def expect_again(self, modules: Iterable[str]) -> None:
        """Have commit() remove what these modules exposed and, executed again, don't expose again."""
        with self._exclusively():
            again = set(modules)
            self._stale.update(name for name, origin in self._origins.items() if origin in again)

    def commit(self) -> None:
        """Remove what the new code, which has proved itself, has not exposed again."""
        with self._exclusively():
            if self._stale:
                for name in self._stale:
                    self._retire(name)
                    self._functions.pop(name, None)
                    self._origins.pop(name, None)
                self._stale.clear()
                self._describe()

    def snapshot(self) -> tuple[Any, ...]:
        """Return the present values and functions, for restore()."""
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
        """Expose the content of a snapshot and nothing else, so that new code that failed leaves nothing behind.

        A value that a controller has set in between stays set, since the controller was told that it is set.
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
        """Give up, in a forked child, the parent's board, and the lock that another thread of the parent may hold."""
        self._lock = threading.RLock()
        self._folder = None
        _core.board_forget()


current = Registry()
"""What this process exposes. Its forked children inherit it."""


def expose(bindings: Mapping[str, Any] | None = None, /, **more: Any) -> State:
    """Show values and functions to controllers, which may change the values and call the functions.

        state = spark.expose(lr=1e-3, loss=0.0, evaluate=evaluate)

    Args:
        bindings, more: the names, each with its value or function: a number, a bool, a str, dicts and lists of these
            (JSON), a tensor of one element, a value() with limits, a function, or a function() with the ranks that call
            it. A class instance that can be called counts as a function.

    Returns the state object, of which the process has one: `state.loss = 0.5` shows up in every controller, `state.lr`
    reads the value that was set last. A value that a controller sets changes only at a checkpoint, also at one where
    the run is parked. Assigning a number costs some tens of nanoseconds, JSON some microseconds. To show a change
    within a list or a dict, assign it again. A tensor on an accelerator is copied only while a controller reads it, a
    few times a second, and the loop never waits for the copy.

    A function is called at a checkpoint, also at one where the run is parked, on the thread that passes it. Its
    arguments and its result must be JSON. An exception in it goes to the caller and not to the loop. Checkpoints that
    the function passes are no steps, and cost some microseconds each; they raise a stop or a reload that comes during
    the call.

    You may call this again, to add names, and after a reload. A value then stays, unless its initial value differs from
    the one given before. A name that new code does not expose again is removed. Raises TypeError for anything that is
    neither JSON nor a function, ValueError for a name that is no str of 1 to 64 characters. Problems of the run's
    control raise nothing: the state object works without it.
    """
    return current.expose({**(bindings or {}), **more}, str(sys._getframe(1).f_globals.get("__name__")))
