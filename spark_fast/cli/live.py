"""`top`: a table of the live runs that stays up to date."""

import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from spark_fast import client
from spark_fast.cli import render
from spark_fast.client import Run
from spark_fast.status import monotonic

__all__ = ["top"]

_REFRESH = 0.5
_SCAN_SHARE = 20
"""The search for new runs takes at most one part in so many of the time: there may be thousands of ended runs."""


def top() -> None:
    """Show the live runs until `q` or Ctrl-C; only once, where standard output is no terminal."""
    console = render.console()
    watch = _Watch()
    if not console.is_terminal or console.is_dumb_terminal:
        console.print(watch.page(console.width, None))
        return
    while _show(watch):
        # Ctrl-Z: the terminal is restored. The process stops here, until the shell continues it.
        os.kill(os.getpid(), signal.SIGTSTP)


class _SuspendError(Exception):
    """The user has pressed Ctrl-Z."""


def _suspend(number: int, frame: FrameType | None) -> None:
    raise _SuspendError


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


@contextmanager
def _signals() -> Iterator[None]:
    """Turn the signals that end or stop the process into exceptions, so that the terminal is restored first."""
    wanted = {signal.SIGTSTP: _suspend, signal.SIGTERM: _terminate, signal.SIGHUP: _terminate}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show(watch: "_Watch") -> bool:
    """Show the runs. Return whether the user has suspended the process, so that they are to be shown again."""
    console = render.console()
    try:
        with (
            _signals(),
            _keys() as pressed,
            Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
        ):
            while True:
                live.update(watch.page(console.width, console.height), refresh=True)
                if pressed(_REFRESH) in ("q", "Q", "\x04", "\x1b"):
                    return False
    except KeyboardInterrupt:
        return False
    except _SuspendError:
        return True


class _Keys:
    """Reads single keys, without waiting for the end of a line."""

    def __init__(self, source: int | None) -> None:
        self._source = source

    def __call__(self, timeout: float) -> str | None:
        """Return the key that is pressed within this time, or None."""
        if self._source is None:
            select.select([], [], [], timeout)
            return None
        if not select.select([self._source], [], [], timeout)[0]:
            return None
        got = os.read(self._source, 16).decode("ascii", "replace")
        if not got:
            self._source = None  # closed: there will be no more keys
        # The code of an arrow key begins with that of the escape key.
        return got if len(got) == 1 else None


@contextmanager
def _keys() -> Iterator[_Keys]:
    if not sys.stdin or not sys.stdin.isatty():
        yield _Keys(None)
        return
    source = sys.stdin.fileno()
    before = termios.tcgetattr(source)
    try:
        tty.setcbreak(source)
        yield _Keys(source)
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)


class _Watch:
    """The live runs. They are kept from one look to the next, since a run's speed is measured between two looks."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, float], Run] = {}
        self._next_scan = 0.0

    def _scan(self) -> None:
        began = monotonic()
        if began < self._next_scan:
            return
        found = {(run.id, run.started): run for run in client.runs(ended=False)}
        self._known = {key: self._known.get(key, run) for key, run in found.items()}
        ended = monotonic()
        self._next_scan = ended + max(0.0, (ended - began) * _SCAN_SHARE - _REFRESH)

    def page(self, width: int, height: int | None) -> Group:
        """Return the page for a screen of this size. height: None for a page of any length."""
        self._scan()
        runs = [run for run in self._known.values() if run.status.live]
        if not runs:
            return Group(Text("no live runs; start one with: spark-fast run script.py"))
        if height is None:
            return Group(render.run_table(runs, width))
        room = max(1, height - 4)
        lines: list[RenderableType] = [
            Text(f"{len(runs)} live run{'' if len(runs) == 1 else 's'}   q leaves", "dim", no_wrap=True),
            Text(),
            render.run_table(runs[:room], width),
        ]
        if len(runs) > room:
            lines.append(Text(f"and {len(runs) - room} more: spark-fast ps", "dim", no_wrap=True))
        return Group(*lines)
