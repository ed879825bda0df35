"""Durations as people type them."""

import math
import re
from typing import overload

__all__ = ["DURATIONS", "Duration", "parse_duration", "seconds_of"]

Duration = float | str
"""Seconds, or text as in DURATIONS."""

DURATIONS = "a number of seconds, or one with units: 90, 90s, 10m, 1h30m, 500ms"

_NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
_SECONDS = re.compile(_NUMBER)
_UNITS = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m(?!s))?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_SIZES = (86400.0, 3600.0, 60.0, 1.0, 0.001)
_LONGEST = 3650 * 86400.0


def parse_duration(text: str) -> float:
    """Return the seconds. Raises ValueError, with a message for the user, if the text is no duration."""
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


@overload
def seconds_of(duration: Duration, what: str) -> float: ...


@overload
def seconds_of(duration: None, what: str) -> None: ...


@overload
def seconds_of(duration: Duration | None, what: str) -> float | None: ...


def seconds_of(duration: Duration | None, what: str) -> float | None:
    """Return a duration in seconds; None, which means no limit, stays None.

    what: the name of the argument, for the error.

    Raises ValueError if `duration` is no duration, TypeError if it is neither a number nor text.
    """
    if duration is None:
        return None
    if isinstance(duration, str):
        try:
            return parse_duration(duration)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
    try:
        seconds = math.nan if isinstance(duration, bool) else float(duration)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: {duration!r} is no duration: give {DURATIONS}") from None
    if math.isnan(seconds):
        raise ValueError(f"{what}: {duration!r} is no duration: give {DURATIONS}")
    return seconds
