"""Runs, requests and what else the client has, as the API says them in JSON."""

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
"""Ranks with which the same is wrong that are named one by one."""

_RESTART = "--restart"
"""The option of the command line that a refusal names, where a restart is what the run would take."""

_RESULT_MAX = 16 << 10
"""Characters of a result and what was printed that stand in a list of requests."""


def present_view(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many ranks there are, and with which something is wrong: what a list of runs says of them."""
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
    """A run as it stands in a list: without each of its ranks, which may be a thousand."""
    return {name: value for name, value in summary.items() if name != "ranks"}


def request_view(request: Request, name: str | None = None) -> dict[str, Any]:
    """A request, with what became of it by now.

    name: of the value or the function, where it is known.
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
    """A request as it stands in a list: without a long result."""
    if view.get("result") is None and not view.get("output"):
        return view
    if len(to_json(view["result"])) + len(view["output"]) <= _RESULT_MAX:
        return view
    return view | {"result": None, "output": view["output"][:_RESULT_MAX], "cut": True}


def value_view(value: Value) -> dict[str, Any]:
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


def function_view(name: str, function: Function) -> dict[str, Any]:
    """An exposed function."""
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
    """The course of a value."""
    return {
        "steps": history.steps,
        "times": history.times,
        "last": history.last,
        "low": history.low,
        "high": history.high,
        "mean": history.mean,
    }
