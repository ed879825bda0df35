"""Durations, numbers and names, as people read them."""

import shlex
import time
from collections.abc import Iterable

from spark_fast.plain_text import printable

__all__ = ["clock", "command_line", "duration", "exact_duration", "latency", "one_line", "speed"]


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `42s`, `5m03s`, `2h05m`, `3d04h`."""
    whole = int(max(0.0, seconds))
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            return f"{whole // size}{unit}{whole % size // below:02}{small}"
    return f"{whole}s"


def exact_duration(seconds: float) -> str:
    """Return a duration to the millisecond, as people type it: `500ms`, `1.5s`, `1h00m`, `2h05m30s`."""
    if seconds < 1:
        return f"{seconds * 1e3:.4g}ms"
    left = round(seconds * 1e3)
    words: list[str] = []
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")):
        number, left = divmod(left, size)
        if unit == "s" and left:
            fraction = f"{left:03}".rstrip("0")
            unit, left = f".{fraction}s", 0
        if words or number or size == 1000:
            words.append(f"{number:02}{unit}" if words else f"{number}{unit}")
        if len(words) > 1 and not left:
            break
    return "".join(words)


def clock(when: float, now: float) -> str:
    """Return the local time, with the date if it is not today."""
    local = time.localtime(when)
    today = local[:3] == time.localtime(now)[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", local)


def latency(seconds: float) -> str:
    """Return a time to two or three figures: `0.21 ms`, `31 ms`, `2.4 s`."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.2f} ms"
    return f"{seconds * 1e3:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def speed(per_second: float | None) -> str:
    """Return a speed to about three figures, or a dash if it is not known."""
    if per_second is None:
        return "-"
    if per_second >= 1e6:
        return f"{per_second / 1e6:.1f}M"
    if per_second >= 1e4:
        return f"{per_second / 1e3:.0f}k"
    if per_second >= 100:
        return f"{per_second:.0f}"
    return f"{per_second:.1f}" if per_second >= 1 else f"{per_second:.2g}"


def one_line(text: str) -> str:
    """Return the text on one line, without control characters."""
    return printable(" ".join(text.split("\n")))


def command_line(words: Iterable[str]) -> str:
    """Return a command on one line, quoted for a shell."""
    return printable(shlex.join(words))
