"""Durations as people type them."""

import math
import re

__all__ = ["DURATIONS", "parse_duration"]

DURATIONS = "a number of seconds, or one with units: 90, 90s, 10m, 1h30m, 500ms"

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SECONDS = re.compile(_NUMBER)
_UNITS = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_SIZES = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_LONGEST = 3650 * 86400.0


def parse_duration(text: str) -> float:
    """Seconds. ValueError, with the message for the person who typed it, if it is none."""
    asked = text.strip().lower()
    seconds = math.nan
    if _SECONDS.fullmatch(asked):
        seconds = float(asked)
    elif asked and (found := _UNITS.fullmatch(asked)):
        seconds = sum(float(number) * size for number, size in zip(found.groups(), _SIZES, strict=True) if number)
    if math.isnan(seconds):
        raise ValueError(f"{text!r} is no duration: give {DURATIONS}")
    if seconds > _LONGEST:
        raise ValueError(f"{text!r} is longer than ten years")
    return seconds
