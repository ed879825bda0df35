"""The description of what a run exposes, for both sides: the limits of each value, the parameters of each function.

The values themselves stand on the board (csrc/sf_board.h). Their description is one file of the run folder. The worker
writes it anew whenever the script exposes something:

    {"values": {name: {"cell": 0, "type": "number", "min": 0.0, …}}, "functions": {name: {"doc": …, "parameters": …}}}
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from spark_fast.errors import StoreError
from spark_fast.runfiles import private_files

__all__ = [
    "BOARD",
    "DEPTH_MAX",
    "NAME_MAX",
    "Exposures",
    "Function",
    "Limits",
    "Parameter",
    "UnfitError",
    "check_arguments",
    "check_depth",
    "fit",
    "json_bytes",
    "read",
    "type_of",
    "unknown",
    "write",
]

BOARD = "board"
"""The file of a run folder that holds the values."""
NAME_MAX = 64
"""The longest name, in characters."""
DEPTH_MAX = 100
"""The deepest nesting of JSON."""
_FILE = "exposed.json"
_FILE_MAX = 8 << 20
_TYPES = ("number", "integer", "boolean", "text", "json")
_KINDS = ("positional", "positional_or_keyword", "var_positional", "keyword", "var_keyword")


@dataclass(frozen=True)
class Limits:
    """The description of a value, and the limits of what it can be set to.

    Attributes:
        cell: its number on the board; -1 if it is not there.
        type: `number`, `integer`, `boolean`, `text` or `json`.
        readonly: whether only the script changes it.
        min, max: the smallest and the largest number; None for no limit.
        step: by how much an input field changes it at a time; not a limit.
        choices: the values that it can take; None for any of its type.
        unit: the unit of the number, for people.
        doc: a description, for people.
    """

    cell: int
    type: str
    readonly: bool = False
    min: float | None = None
    max: float | None = None
    step: float | None = None
    choices: list[Any] | None = None
    unit: str = ""
    doc: str = ""


@dataclass(frozen=True)
class Parameter:
    """A parameter of a function.

    Attributes:
        name: its name.
        kind: `positional`, `positional_or_keyword`, `var_positional`, `keyword` or `var_keyword`.
        required: whether it has no default.
        default: its default, if that is JSON; else None.
        annotation: its annotation, as in the source; empty if there is none.
    """

    name: str
    kind: str
    required: bool
    default: Any = None
    annotation: str = ""


@dataclass(frozen=True)
class Function:
    """A function that controllers can call.

    Attributes:
        doc: its docstring.
        signature: its signature, as Python writes it.
        parameters: its parameters.
        ranks: which ranks call it if the controller does not say: 0 for the first, "all" for all at the same step.
    """

    doc: str
    signature: str
    parameters: list[Parameter]
    ranks: Literal[0, "all"] = 0


@dataclass(frozen=True)
class Exposures:
    """The descriptions of what a run exposes, by name."""

    values: dict[str, Limits] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)


def json_bytes(value: object) -> bytes:
    """Return a value as JSON. Raises TypeError or ValueError if it is none, or is nested too deep."""
    try:
        raw = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    check_depth(value, raw)
    return raw


def check_depth(value: object, raw: bytes) -> None:
    """Raise ValueError if JSON is nested deeper than DEPTH_MAX.

    How deep JSON can be parsed depends on the depth of the stack. Without a limit, one process could write a file that
    another can't read.
    """
    if raw.count(b"[") + raw.count(b"{") <= DEPTH_MAX:
        return
    level: list[Any] = [value]
    for _ in range(DEPTH_MAX + 1):
        level = [each for each in level if isinstance(each, (dict, list, tuple))]
        if not level:
            return
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
    raise ValueError(f"it is nested more than {DEPTH_MAX} deep")


def type_of(value: object) -> str:
    """Return the type of a Python value, as Limits names it."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "text" if isinstance(value, str) else "json"


class UnfitError(ValueError):
    """A value or an argument does not fit its declaration in the script; the text says why."""


def fit(name: str, limits: Limits, value: object) -> object:
    """Return the value as the script gets it, a number as a float for instance.

    Raises UnfitError, with the reason, if it does not fit.
    """
    if limits.readonly:
        raise UnfitError(f"{name} is for reading only")
    found = _of_type(name, limits.type, value)
    if limits.choices is not None and not any(type(each) is type(found) and each == found for each in limits.choices):
        raise UnfitError(f"{name} is one of {_listed(limits.choices)}, not {_shown(value)}")
    if isinstance(found, (int, float)) and not isinstance(found, bool):
        unit = f" {limits.unit}" if limits.unit else ""
        if limits.min is not None and found < limits.min:
            raise UnfitError(f"{name} is at least {_number(limits.min)}{unit}, not {_shown(value)}")
        if limits.max is not None and found > limits.max:
            raise UnfitError(f"{name} is at most {_number(limits.max)}{unit}, not {_shown(value)}")
    return found


def _of_type(name: str, kind: str, value: object) -> object:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "number" and number:
        try:
            found = float(value)  # type: ignore[arg-type]
        except OverflowError:
            found = math.inf
        if not math.isfinite(found):
            raise UnfitError(f"{name} is a finite number, not {_shown(value)}")
        return found
    if kind == "integer" and number:
        if not isinstance(value, float) or value.is_integer():
            return int(value)  # type: ignore[call-overload]
        raise UnfitError(f"{name} is a whole number, not {_shown(value)}: a script that exposes 1.0 takes any number")
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "text" and isinstance(value, str):
        return value
    if kind == "json":
        try:
            json_bytes(value)
        except (TypeError, ValueError) as error:
            raise UnfitError(f"{name} is JSON: {error}") from None
        return value
    wanted = {"number": "a number", "integer": "a whole number", "boolean": "true or false", "text": "a text"}
    raise UnfitError(f"{name} is {wanted.get(kind, kind)}, not {_shown(value)}")


def unknown(name: str, what: str, there: Sequence[str]) -> str:
    """Return the reason why a name is refused."""
    from difflib import get_close_matches  # here, because only a mistake needs it

    listed = f"there are: {', '.join(sorted(there))}" if there else f"this run exposes no {what}"
    meant = get_close_matches(name, there, n=1)
    question = f" (did you mean {meant[0]!r}?)" if meant else ""
    return f"no exposed {what} is called {name!r}{question}; {listed}"


def check_arguments(name: str, function: Function, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise UnfitError, with the reason, if the function can't be called with these arguments."""
    places = [each for each in function.parameters if each.kind in ("positional", "positional_or_keyword")]
    named = {each.name for each in function.parameters if each.kind in ("positional_or_keyword", "keyword")}
    kinds = {each.kind for each in function.parameters}
    shown = f"{name}{function.signature}"
    if len(args) > len(places) and "var_positional" not in kinds:
        raise UnfitError(f"{shown} takes {len(places)} positional arguments, not {len(args)}")
    given = {each.name for each in places[: len(args)] if each.kind == "positional_or_keyword"}
    for word in kwargs:
        if word in given:
            raise UnfitError(f"{shown} is given {word!r} twice")
        if word not in named and "var_keyword" not in kinds:
            raise UnfitError(f"{shown} has no parameter {word!r}")
    for at, each in enumerate(places):
        if each.required and at >= len(args) and (each.kind == "positional" or each.name not in kwargs):
            raise UnfitError(f"{shown} lacks an argument: {each.name!r}")
    for each in function.parameters:
        if each.kind == "keyword" and each.required and each.name not in kwargs:
            raise UnfitError(f"{shown} lacks an argument: {each.name!r}")


def _listed(choices: Sequence[object]) -> str:
    return ", ".join(_shown(each) for each in choices[:20]) + (", …" if len(choices) > 20 else "")


def _number(limit: float) -> str:
    try:
        return f"{limit:g}"
    except OverflowError:  # of a whole number
        return _shown(limit)


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        try:
            text = repr(value)
        except Exception:  # a number of too many digits
            text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:59]}…"


# --- the file ---


def write(folder: int, exposures: Exposures) -> None:
    """Write the description into a run folder. Raises OSError."""
    private_files.write_whole(folder, _FILE, json_bytes(asdict(exposures)))


def read(folder: Path) -> Exposures:
    """Return the description of what the run in this folder exposes.

    Raises StoreError if it is damaged, FolderRefusedError, FileNotFoundError if there is no such folder.
    """
    with private_files.opened(folder) as descriptor:
        try:
            raw = private_files.read_whole(descriptor, _FILE, _FILE_MAX, folder)
        except FileNotFoundError:
            return Exposures()
    try:
        found = json.loads(raw)
        values = {name: Limits(**each) for name, each in found["values"].items()}
        functions = {
            name: Function(**each | {"parameters": [Parameter(**one) for one in each["parameters"]]})
            for name, each in found["functions"].items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise StoreError(str(folder / _FILE), "it is damaged") from None
    if not all(map(_sound, values.values())) or not all(map(_sound_function, functions.values())):
        raise StoreError(str(folder / _FILE), "it is damaged")
    return Exposures(values, functions)


def _sound(limits: Limits) -> bool:
    return (
        type(limits.cell) is int
        and limits.type in _TYPES
        and isinstance(limits.readonly, bool)
        and all(each is None or type(each) in (int, float) for each in (limits.min, limits.max, limits.step))
        and (limits.choices is None or isinstance(limits.choices, list))
        and isinstance(limits.unit, str)
        and isinstance(limits.doc, str)
    )


def _sound_function(function: Function) -> bool:
    return (
        isinstance(function.doc, str)
        and isinstance(function.signature, str)
        and (function.ranks == "all" or (type(function.ranks) is int and function.ranks == 0))
        and all(
            isinstance(each.name, str)
            and each.kind in _KINDS
            and isinstance(each.required, bool)
            and isinstance(each.annotation, str)
            for each in function.parameters
        )
    )
