"""Runs, requests and what else the client has, as the API says them in JSON."""

import json
import math
from typing import Any

from spark_fast.client import Request

__all__ = ["request_view", "to_json"]


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
    return {
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
