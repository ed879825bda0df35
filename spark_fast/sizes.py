"""Sizes of files as people type them."""

import re

__all__ = ["parse_size", "size_text"]

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:([kmg]i?)b?|b?)")


def parse_size(text: str) -> int:
    """Return a number of bytes. Raises ValueError, with a message for the user, if the text is no size."""
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError(f"{text!r} is no size: give a number of bytes, or one with a unit, as 64MiB or 500kB")
    return int(float(found[1]) * _UNITS[found[2] or ""])


def size_text(size: int) -> str:
    """Return a number of bytes as text for people."""
    for unit, bytes_of in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= bytes_of:
            return f"{size / bytes_of:.3g} {unit}"
    return f"{size} bytes"
