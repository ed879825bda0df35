"""The exposed values of a run and their histories, read from its board."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from spark_fast import _core
from spark_fast.client.connection import Connection
from spark_fast.errors import FolderRefusedError, SegmentError, StoreError
from spark_fast.runfiles import schema
from spark_fast.runfiles.descriptors import open_own
from spark_fast.runfiles.schema import Exposures, Limits, unknown

__all__ = ["Board", "Change", "History", "Value"]


@dataclass(frozen=True)
class Value:
    """An exposed value.

    Attributes:
        name: its name.
        value: what it was when it was read.
        type: `number`, `integer`, `boolean`, `text` or `json`.
        step: the step at which it was assigned last; 0 before the first.
        time: when that was, in seconds since the epoch; 0 if it never was.
        readonly: whether only the script changes it.
        min, max: its limits, None if there is none.
        step_size: by how much an input field changes it; None if the script does not say.
        choices: the values that it can take; None for any of its type.
        unit, doc: of it, for people; empty if the script does not say.
    """

    name: str
    value: Any
    type: str
    step: int
    time: float
    readonly: bool = False
    min: float | None = None
    max: float | None = None
    step_size: float | None = None
    choices: list[Any] | None = None
    unit: str = ""
    doc: str = ""


@dataclass(frozen=True)
class Change:
    """A change of a value, as Run.watch() yields it: its name, its new value, and when it was assigned."""

    name: str
    value: Any
    step: int
    time: float


@dataclass(frozen=True)
class History:
    """The numbers that a value has been, over the whole run.

    Each entry stands for as many assignments as it takes to cover the run with some thousand entries at most; of the
    newest ones only the last is here. A value that was not finite is left out of low, high and mean; where there was
    nothing else, these are NaN.

    Attributes:
        steps, times: of the first assignment of each entry; seconds since the epoch.
        last: the value at its end.
        low, high, mean: of its values.
    """

    steps: list[int]
    times: list[float]
    last: list[float]
    low: list[float]
    high: list[float]
    mean: list[float]

    def __len__(self) -> int:
        return len(self.steps)


class _File:
    """An open board. Its last reference closes it, since another thread may read it when this one finds a newer one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class Board:
    """The values and functions that a run exposes. Several threads may use it.

    It reads the description of them again only after the worker has written a new one.

    Attributes:
        connection: the connection to the run.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._file: _File | None = None
        self._known: tuple[_File | None, int, Exposures] = (None, -1, Exposures())
        """A board, the number of its description, and the description, which is as new or newer."""

    def release(self) -> None:
        """Close the board, until it is needed again."""
        self._file = None
        self._known = (None, -1, Exposures())

    def _open(self) -> _File:
        """Return the board in the run folder; the one that was there before, if that is gone."""
        known = self._file
        ended = os.fstat(self.connection.control).st_nlink == 0  # another run may have the name now
        if known is not None and (ended or os.fstat(known.fd).st_nlink > 0):
            return known
        path = self.connection.folder / schema.BOARD
        try:
            found = _File(open_own(path, os.O_RDWR))
        except FileNotFoundError:
            if known is None:
                raise
            return known
        except FolderRefusedError as error:
            raise StoreError(str(path), f"it is no file of yours: {error.found}") from None
        self._file = found  # the known one was that of an earlier process of the run
        return found

    @contextmanager
    def _reading(self) -> Iterator[int]:
        """Open the board. Raises SegmentError or StoreError with its path; FileNotFoundError if there is none."""
        path = self.connection.folder / schema.BOARD
        try:
            found = self._open()
            yield found.fd
        except FileNotFoundError:
            raise
        except SegmentError as error:
            raise type(error)(error.reason, str(path)) from None
        except OSError as error:
            raise StoreError(str(path), f"it can't be read: {error.strerror}") from None

    def exposures(self) -> Exposures:
        """Return the description of the values and functions. Raises StoreError, FolderRefusedError."""
        known = self._known
        found: _File | None = None
        try:
            found = self._open()
            described = _core.read_board(found.fd)[1]
        except (OSError, SegmentError, StoreError):
            described = -1  # no board, or a damaged one: the description alone says which functions can be called
        if described < 0 or (found, described) != known[:2]:
            try:
                known = (found, described, schema.read(self.connection.folder))
            except FileNotFoundError:  # with its run
                return known[2]
            self._known = known
        return known[2]

    def version(self) -> int:
        """Return a number that grows with each assignment, and each time that the script exposes something."""
        try:
            found = self._open()
            _cells, described, changes = _core.read_board(found.fd)
        except (OSError, SegmentError, StoreError):
            return 0
        return described + changes

    def touch(self) -> None:
        """Tell the worker that a controller reads the values: for some seconds it copies them from an accelerator."""
        try:
            found = self._open()
            _core.touch_board(found.fd)
        except (OSError, SegmentError, StoreError):  # values() raises the error
            return

    def values(self) -> dict[str, Value]:
        """Return all values, now."""
        exposures = self.exposures()
        try:
            with self._reading() as fd:
                cells, _described, _changes = _core.read_board(fd)
                found = _core.read_cells(fd, cells)
        except FileNotFoundError:
            return {}
        return {name: self._value(name, limits, found) for name, limits in exposures.values.items()}

    def _value(self, name: str, limits: Limits, found: Sequence[tuple[Any, int, float]]) -> Value:
        raw, step, when = found[limits.cell] if 0 <= limits.cell < len(found) else (None, 0, 0.0)
        if isinstance(raw, bytes):
            try:
                raw = json.loads(raw.decode("utf-8", "surrogatepass"))
            except (ValueError, RecursionError):
                raise StoreError(str(self.connection.folder / schema.BOARD), f"the value {name!r} is damaged") from None
        elif limits.type == "number" and type(raw) is int:
            raw = float(raw)
        return Value(
            name,
            raw,
            limits.type,
            step,
            when,
            limits.readonly,
            limits.min,
            limits.max,
            limits.step,
            limits.choices,
            limits.unit,
            limits.doc,
        )

    def history(self, name: str) -> History:
        """Return the history of a number, which may be empty. Raises LookupError if no value has this name."""
        exposed_values = self.exposures().values
        limits = exposed_values.get(name)
        if limits is None:
            raise LookupError(unknown(name, "value", list(exposed_values)))
        nothing = History([], [], [], [], [], [])
        try:
            with self._reading() as fd:
                cells, _described, _changes = _core.read_board(fd)
                if not 0 <= limits.cell < cells:
                    return nothing
                found = History(*_core.read_history(fd, limits.cell))
                now, step, when = _core.read_cells(fd, limits.cell + 1)[limits.cell]
        except FileNotFoundError:
            return nothing
        if isinstance(now, (int, float)) and (not found.steps or step > found.steps[-1]):
            # The newest assignments have not filled an entry yet.
            number = float(now)
            finite = number if number - number == 0 else float("nan")
            rows = (found.steps, found.times, found.last, found.low, found.high, found.mean)
            for row, entry in zip(rows, (step, when, number, finite, finite, finite), strict=True):
                row.append(entry)  # type: ignore[attr-defined]
        return found
