"""What a script declares to be exposed: values with limits, functions with the ranks that call them."""

import inspect
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from spark_fast.runfiles.schema import Function, Limits, Parameter, fit, json_bytes, type_of
from spark_fast.worker.state import tensors

__all__ = ["ExposedFunction", "ExposedValue", "described", "function", "is_function", "limits_of", "value"]


@dataclass(frozen=True)
class ExposedValue:
    """A value to expose(), and its limits. value() returns it."""

    initial: Any
    min: float | None = None
    max: float | None = None
    step: float | None = None
    choices: Sequence[Any] | None = None
    unit: str = ""
    doc: str = ""
    readonly: bool = False
    on_set: Callable[[Any], object] | None = None


def value(
    initial: Any,
    *,
    min: float | None = None,  # noqa: A002
    max: float | None = None,  # noqa: A002
    step: float | None = None,
    choices: Sequence[Any] | None = None,
    unit: str = "",
    doc: str = "",
    readonly: bool = False,
    on_set: Callable[[Any], object] | None = None,
) -> ExposedValue:
    """Declare a value with its limits, for expose(): `spark.expose(lr=spark.value(1e-3, min=0, max=1))`.

    A value from outside that does not fit is refused with the reason. The script's own assignments are not checked.

    Args:
        initial: the value at the beginning. Its type says which values may be set: for a float any finite number, for
            an int whole numbers, for a bool a bool, for a str a str, for a dict or a list any JSON.
        min, max: the smallest and the largest number.
        step: the change that one click in an input field makes.
        choices: all allowed values.
        unit: the number's unit, for people.
        doc: what the value means, for people.
        readonly: True if only the script may change the value.
        on_set: called with the new value, at a checkpoint, when a controller sets it: to hand it to an optimizer's
            parameter groups, say. If it raises, the value stays as it was, and the controller gets the traceback.

    Raises ValueError if the limits contradict each other or the initial value does not fit them, TypeError if an
    argument has the wrong type.
    """
    min, max, step = _number("min", min), _number("max", max), _number("step", step)  # noqa: A001
    if not isinstance(unit, str) or not isinstance(doc, str):
        raise TypeError(f"unit and doc are texts: {unit!r}, {doc!r}")
    found = ExposedValue(initial, min, max, step, choices, unit, doc, bool(readonly), on_set)
    limits = limits_of(found, -1)
    if min is not None and max is not None and min > max:
        raise ValueError(f"min is {min}, and max is {max}")
    if limits.type not in ("number", "integer") and not (min is None and max is None and step is None):
        raise ValueError(f"min, max and step are for numbers: {initial!r}")
    if step is not None and step <= 0:
        raise ValueError(f"step is more than 0: {step}")
    if choices is not None:
        _checked("choices", choices, limits)
    # Not checked: the best loss so far begins at infinity, and a loss that is not known yet is NaN.
    if not tensors.is_tensor(initial) and not (isinstance(initial, float) and not math.isfinite(initial)):
        fit("the initial value", replace(limits, readonly=False), _as_sent(initial))
    return found


@dataclass(frozen=True)
class ExposedFunction:
    """A function to expose(), and the ranks that call it. function() returns it."""

    call: Callable[..., object]
    ranks: Literal[0, "all"] = 0


def function(call: Callable[..., object], *, ranks: Literal[0, "all"] = 0) -> ExposedFunction:
    """Declare a function, for expose(), and the ranks of a job that call it:
    `spark.expose(evaluate=spark.function(evaluate, ranks="all"))`.

    All ranks must call a function that uses collectives: called by one rank, it waits for the others for ever. The
    script declares this once, so that no controller has to know it.

    Args:
        call: the function.
        ranks: the ranks that call the function if the caller names none: 0 for the first, "all" for all of them at the
            same step. With "all" the results come by rank, even in a run of one rank.

    Raises TypeError if `call` can't be called, ValueError for other ranks.
    """
    if not is_function(call) or isinstance(call, ExposedFunction):
        raise TypeError(f"it is no function: {call!r}")
    if ranks != "all" and (isinstance(ranks, bool) or ranks != 0):
        raise ValueError(f'ranks is 0 or "all": {ranks!r}')
    return ExposedFunction(call, ranks)


def _number(name: str, limit: Any) -> float | None:
    if tensors.is_tensor(limit):
        limit = limit.item()
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float))):
        raise TypeError(f"{name} is a number: {limit!r}")
    return limit


def _as_sent(found: Any) -> Any:
    """Return the value as a controller would send it: with lists in place of tuples."""
    return json.loads(json_bytes(found))


def _checked(name: str, choices: Sequence[Any], limits: Limits) -> None:
    plain = replace(limits, choices=None, readonly=False)
    for each in choices:
        fit(f"each of {name}", plain, each)


def limits_of(found: ExposedValue, cell: int) -> Limits:
    tensor = tensors.is_tensor(found.initial)
    kind = "number" if tensor else type_of(found.initial)
    choices = None
    if found.choices is not None:
        choices = [float(each) if kind == "number" and type(each) is int else _as_sent(each) for each in found.choices]
    return Limits(
        cell,
        kind,
        found.readonly or tensor,  # a number from outside would replace the tensor
        found.min,
        found.max,
        found.step,
        choices,
        found.unit,
        found.doc,
    )


def is_function(each: object) -> bool:
    return isinstance(each, ExposedFunction) or (callable(each) and not isinstance(each, ExposedValue))


def described(given: ExposedFunction) -> Function:
    fn = given.call
    try:
        signature = inspect.signature(fn)
        shown = str(signature)
        parameters = [_parameter(each) for each in signature.parameters.values()]
    except Exception:  # a builtin without a signature, or a default whose repr() raises
        names = [Parameter("args", "var_positional", False), Parameter("kwargs", "var_keyword", False)]
        return Function(inspect.getdoc(fn) or "", "(*args, **kwargs)", names, given.ranks)
    return Function(inspect.getdoc(fn) or "", shown, parameters, given.ranks)


_PARAMETER_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional_or_keyword",
    inspect.Parameter.VAR_POSITIONAL: "var_positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword",
    inspect.Parameter.VAR_KEYWORD: "var_keyword",
}


def _parameter(each: inspect.Parameter) -> Parameter:
    empty = inspect.Parameter.empty
    variable = each.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    default = None if each.default is empty else each.default
    try:
        json_bytes(default)
    except (TypeError, ValueError):
        default = None
    annotation = "" if each.annotation is empty else inspect.formatannotation(each.annotation)
    return Parameter(
        each.name, _PARAMETER_KINDS[each.kind], each.default is empty and not variable, default, annotation
    )
