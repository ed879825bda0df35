"""JSON for readers outside this project: strict, so that every parser takes it."""

import json
import math

__all__ = ["to_json"]


def to_json(value: object, *, indent: int | None = None, ascii_only: bool = True) -> str:
    """Return `value` as JSON. NaN and infinities become null, because JSON has no number for them.

    indent: spaces for each level; None for one compact line.
    ascii_only: whether other characters are written as escapes. If not, those that are not printable are all the same:
        such as steer a terminal.

    Raises TypeError if the value holds what JSON can't express.
    """
    separators = (",", ":") if indent is None else None
    try:
        found = json.dumps(value, indent=indent, separators=separators, ensure_ascii=ascii_only, allow_nan=False)
    except ValueError:  # looking for NaN beforehand would cost every caller a walk through the value
        finite = _finite(value)
        found = json.dumps(finite, indent=indent, separators=separators, ensure_ascii=ascii_only, allow_nan=False)
    return found if ascii_only or found.isprintable() else "".join(map(_shown, found))


def _shown(sign: str) -> str:
    """The character; its escape if it is not printable. The line breaks of an indented text stay."""
    return sign if sign.isprintable() or sign == "\n" else json.dumps(sign)[1:-1]


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
