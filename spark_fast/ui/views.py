"""Runs, requests and what else the client has, as the API says them in JSON."""

import json
import math
from collections.abc import Iterable
from typing import Any

from spark_fast.client import Request

__all__ = ["function_view", "history_view", "request_view", "to_json", "value_view"]


def to_json(value: object) -> str:
    """Compact JSON; NaN and infinities, for which it has no word, are null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def request_view(request: Request) -> dict[str, Any]:
    """A request, with what became of it by now."""
    fate = request.fate
    view = {
        "id": request.id,
        "kind": request.kind,
        "sender": request.sender,
        "asked": request.asked,
        "version": request.version,
        "fate": {
            "state": str(fate.state),
            "step": fate.step,
            "by": fate.by,
            "reason": fate.reason,
            "final": fate.final,
        },
    }
    if request.kind in ("set", "call"):
        view["name"] = request.name
    if request.kind == "call":
        view |= {"result": request.result, "output": request.output}
    return view


def value_view(value: Any) -> dict[str, Any]:
    """An exposed value."""
    return {
        "name": value.name,
        "value": value.value,
        "type": value.type,
        "step": value.step,
        "time": value.time,
        "readonly": value.readonly,
        "min": value.min,
        "max": value.max,
        "step_size": value.step_size,
        "choices": value.choices,
        "unit": value.unit,
        "doc": value.doc,
    }


def function_view(function: Any) -> dict[str, Any]:
    """An exposed function."""
    return {
        "name": function.name,
        "doc": function.doc,
        "signature": function.signature,
        "parameters": [
            {
                "name": each.name,
                "kind": each.kind,
                "required": each.required,
                "default": each.default,
                "annotation": each.annotation,
            }
            for each in function.parameters
        ],
    }


def history_view(history: Any) -> dict[str, list[Any]]:
    """The course of a value."""
    curves = {name: _plain(getattr(history, name)) for name in ("last", "low", "high", "mean")}
    return {"steps": list(history.steps), "times": list(history.times), **curves}


def _plain(numbers: Iterable[float]) -> list[float | None]:
    return [number if math.isfinite(number) else None for number in numbers]
