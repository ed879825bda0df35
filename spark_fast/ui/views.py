"""Objects of the client as the API shows them in JSON."""

from collections.abc import Mapping, Sequence
from typing import Any

from spark_fast.client import FateState, Function, History, Request, SparkStatus, Value
from spark_fast.runfiles.json_text import to_json

__all__ = [
    "function_view",
    "history_view",
    "listed_view",
    "present_view",
    "request_view",
    "shortened",
    "value_view",
]

_TROUBLES = ("lost", "failed", "unheard", "overdue", "behind")
_TROUBLED = 3
"""How many ranks that have the same trouble are named."""

_RESTART = "--restart"
"""The option that the reason of a refused reload names where the reload would start the training over."""

_RESULT_MAX = 16 << 10
"""The most characters of a result and its output in a list of requests."""


def present_view(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what a list of runs shows of the ranks: how many there are, and which are in trouble."""
    numbers = {trouble: [rank["rank"] for rank in ranks if rank["trouble"] == trouble] for trouble in _TROUBLES}
    return {
        "ranks": len(ranks),
        "live": sum(SparkStatus(rank["status"]).live for rank in ranks),
        "hosts": len({rank["host"] for rank in ranks}),
        "troubles": [
            {"trouble": trouble, "count": len(found), "first": found[:_TROUBLED]}
            for trouble, found in numbers.items()
            if found
        ],
    }


def listed_view(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run for a list: without its ranks, which may be a thousand."""
    return {name: value for name, value in summary.items() if name != "ranks"}


def request_view(request: Request, name: str | None = None) -> dict[str, Any]:
    """Return a request, with its fate as it is now.

    name: that of the value or the function, where it is known.
    """
    fate = request.fate
    view = {
        "id": request.id,
        "kind": request.kind,
        "sender": request.sender,
        "asked": request.asked,
        "version": request.version,
        "can_start_over": fate.state is FateState.REFUSED and _RESTART in fate.reason,
        "fate": {
            "state": str(fate.state),
            "step": fate.step,
            "by": fate.by,
            "reason": fate.reason,
            "final": fate.final,
            "warnings": list(fate.warnings),
        },
    }
    if request.kind in ("set", "call"):
        view |= {"name": name, "result": request.result, "output": request.output, "cut": False}
    if request.kind == "call":
        view["ranks"] = request.ranks
    return view


def shortened(view: dict[str, Any]) -> dict[str, Any]:
    """Return a request for a list: without a long result."""
    if view.get("result") is None and not view.get("output"):
        return view
    if len(to_json(view["result"])) + len(view["output"]) <= _RESULT_MAX:
        return view
    return view | {"result": None, "output": view["output"][:_RESULT_MAX], "cut": True}


def value_view(value: Value) -> dict[str, Any]:
    """Return an exposed value."""
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


def function_view(name: str, function: Function) -> dict[str, Any]:
    """Return an exposed function."""
    return {
        "name": name,
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
        "ranks": function.ranks,
    }


def history_view(history: History) -> dict[str, list[Any]]:
    """Return the history of a value."""
    return {
        "steps": history.steps,
        "times": history.times,
        "last": history.last,
        "low": history.low,
        "high": history.high,
        "mean": history.mean,
    }
