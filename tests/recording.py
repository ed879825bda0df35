"""Record the terminal session of README as an animated picture, docs/images/terminal.svg: `make screenshots`.

The session is real: a tmux server of its own shows a training in the upper pane and a shell in the lower one. Its
screen is captured ten times a second. The picture shows each change for as long as it was there, long waits shortened.
"""

import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from html import escape
from itertools import pairwise
from pathlib import Path

from rich.console import Console
from rich.text import Text

IMAGE = Path(__file__).resolve().parent.parent / "docs" / "images" / "terminal.svg"

COLUMNS, ROWS, UPPER = 92, 27, 9
CELL_WIDTH, CELL_HEIGHT, MARGIN = 8.4, 18, 16
LONGEST = 1.6
"""Seconds that the picture shows a screen at most."""
LAST = 4.0
"""Seconds that it shows the last screen, before it begins again."""

TRAINING = """
import time
import spark_fast as spark

state = spark.expose(lr=0.002, loss=1.0)
for epoch in spark.track(range(20), key="epoch"):
    for batch in spark.track(range(100), key="batch"):
        state.loss = state.loss * (1 - state.lr)
        if batch % 25 == 0:
            print(f"epoch {epoch:2} batch {batch:2}  lr {state.lr:g}  loss {state.loss:.4f}")
        time.sleep(0.02)
"""

PROMPT = "\x1b[32m$\x1b[0m "
RUN = "brave-otter"
EDIT = r"sed -i 's/loss {/(new code) loss {/' train.py"
SESSION = (  # a command, and the text on the screen that shows that it is over
    (f"spark-fast pause {RUN}", "is paused at step"),
    (f"spark-fast status {RUN}", "started"),
    (f"spark-fast set {RUN} lr=0.02", "has lr = 0.02"),
    (f"spark-fast resume {RUN}", "goes on at step"),
    (EDIT, "(new code) loss"),
    (f"spark-fast stop {RUN}", "is stopped at step"),
)


class Terminal:
    """A tmux server with two panes. A context manager: the server ends with the block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._socket = str(folder / "tmux")
        self.screens: list[tuple[float, list[str]]] = []

    def __enter__(self) -> "Terminal":
        shell = shlex.join(["env", f"PS1={PROMPT}", "bash", "--norc", "--noprofile"])
        size = ["-x", str(COLUMNS), "-y", str(ROWS)]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "-c", str(self._folder), shell)
        self._tmux("set-option", "-g", "default-terminal", "xterm-256color")
        self._tmux("split-window", "-v", "-l", str(ROWS - UPPER - 1), "-c", str(self._folder), shell)
        return self

    def __exit__(self, *_: object) -> None:
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        return subprocess.run(["tmux", "-S", self._socket, *words], check=True, capture_output=True, text=True).stdout

    def capture(self) -> list[str]:
        """Note what both panes show now, if it is another screen than before."""
        lines = []
        for pane, rows in ((0, UPPER), (1, ROWS - UPPER - 1)):
            shown = self._tmux("capture-pane", "-e", "-p", "-t", f":0.{pane}").split("\n")
            lines += (shown + [""] * rows)[:rows]
        for before in ("@", " on "):  # the picture does not name the machine on which it was made
            lines = [line.replace(before + socket.gethostname(), before + "node7") for line in lines]
        if not self.screens or self.screens[-1][1] != lines:
            self.screens.append((time.monotonic(), lines))
        return lines

    def watch(self, done: Callable[[list[str]], bool], what: str, least: float = 0.0) -> None:
        """Capture until the screen shows it, and for `least` seconds."""
        began = time.monotonic()
        while not done(self.capture()) or time.monotonic() < began + least:
            if time.monotonic() > began + 60:
                raise TimeoutError(f"the terminal never showed {what!r}:\n" + "\n".join(self.screens[-1][1]))
            time.sleep(0.1)

    def enter(self, pane: int, command: str, shows: str) -> None:
        """Type a command, and capture until its end."""
        self._tmux("send-keys", "-t", f":0.{pane}", "-l", command)
        self.watch(lambda lines: command in _plain(lines), command, 0.7)
        seen = _plain(self.capture()).count(shows)
        self._tmux("send-keys", "-t", f":0.{pane}", "Enter")
        self.watch(lambda lines: _plain(lines).count(shows) > seen, shows)
        self.watch(lambda _: True, shows, 1.5)


def _plain(lines: list[str]) -> str:
    return "\n".join(Text.from_ansi(line).plain for line in lines)


def record() -> list[tuple[float, list[str]]]:
    """Run the session and return its screens, each with the time at which it came."""
    with tempfile.TemporaryDirectory(prefix="spark-fast-") as name:
        folder = Path(name)
        (folder / "train.py").write_text(TRAINING.lstrip("\n"))
        os.environ |= {"XDG_STATE_HOME": str(folder / "state"), "LOGNAME": "kim", "TERM": "xterm-256color"}
        os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        os.environ.pop("SPARK_FAST_HOME", None)
        with Terminal(folder) as terminal:
            terminal.watch(lambda lines: _plain(lines).count("$") == 2, "$")
            terminal.screens.clear()
            terminal.enter(0, f"spark-fast run --watch --name {RUN} train.py", "batch 75")
            for command, shows in SESSION:
                terminal.enter(1, command, shows)
            return terminal.screens


def draw(screens: list[tuple[float, list[str]]]) -> str:
    """Return the animated picture of the screens."""
    times = [0.0]
    for (before, _), (after, _) in pairwise(screens):
        times.append(times[-1] + min(after - before, LONGEST))
    total = times[-1] + LAST
    shown: dict[tuple[int, str], list[tuple[int, int]]] = {}
    for number, (_, lines) in enumerate(screens):
        for row, line in enumerate(lines):
            spans = shown.setdefault((row, line), [])
            if spans and spans[-1][1] == number:
                spans[-1] = (spans[-1][0], number + 1)
            else:
                spans.append((number, number + 1))
    groups: dict[tuple[int, int], list[str]] = {}
    for (row, line), spans in shown.items():
        for span in spans:
            groups.setdefault(span, []).append(_text(row, line))
    ends = [*times, total]
    style, body = [], []
    for (first, end), texts in groups.items():
        inside = "".join(filter(None, texts))
        if not inside:
            continue
        if (first, end) == (0, len(screens)):
            body.append(inside)
            continue
        name = f"f{first}-{end}"
        start, stop = (100 * ends[number] / total for number in (first, end))
        frames = "0%{visibility:hidden}" if first else ""
        frames += f"{start:.2f}%{{visibility:visible}}" + (f"{stop:.2f}%{{visibility:hidden}}" if stop < 100 else "")
        style.append(f"@keyframes {name}{{{frames}}}.{name}{{animation-name:{name}}}")
        last = " last" if end == len(screens) else ""
        body.append(f'<g class="f {name}{last}">{inside}</g>')
    width, height = COLUMNS * CELL_WIDTH + 2 * MARGIN, ROWS * CELL_HEIGHT + 2 * MARGIN
    line = MARGIN + (UPPER + 0.5) * CELL_HEIGHT
    rows = "\n".join(body)
    words = (
        "A training runs in the upper half. In the lower half commands pause it, change a value, resume it, edit its "
        "code and stop it."
    )
    size = f'viewBox="0 0 {width:.0f} {height:.0f}"'
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{words}">
<style>
text{{font:14px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d7dce5;white-space:pre}}
.f{{visibility:hidden;animation:{total:.2f}s step-end infinite}}
{"".join(style)}
@media(prefers-reduced-motion:reduce){{.f{{animation:none}}.last{{visibility:visible}}}}
</style>
<rect width="100%" height="100%" rx="8" fill="#171b23"/>
<path d="M{MARGIN} {line:.0f}H{width - MARGIN:.0f}" stroke="#4a5264"/>
{rows}
</svg>
"""


def _text(row: int, line: str) -> str:
    """Return a row of the screen as an element; below the upper pane there is room for a line between the two."""
    parts, column = [], 0
    top = MARGIN + (row + (1 if row >= UPPER else 0)) * CELL_HEIGHT + 14
    console = Console(width=COLUMNS, color_system="truecolor", force_terminal=True)
    for segment in Text.from_ansi(line.rstrip()).render(console):
        text = segment.text.rstrip("\n")
        if text.strip():
            plain = not segment.style or not segment.style.color or segment.style.color.is_default
            color = "" if plain else segment.style.color.get_truecolor().hex
            weight = ' font-weight="bold"' if segment.style and segment.style.bold else ""
            fill = f' style="fill:{_lighter(color)}"' if color else ""
            left = MARGIN + column * CELL_WIDTH
            size = f' textLength="{len(text) * CELL_WIDTH:.1f}"'
            parts.append(f'<text x="{left:.1f}" y="{top}"{size}{fill}{weight}>{escape(text)}</text>')
        column += len(text)
    return "".join(parts)


def _lighter(color: str) -> str:
    """Return a color of the sixteen basic ones as it is legible on a dark ground."""
    return {"#800000": "#ff8a80", "#008000": "#7bd88f", "#808000": "#e5c07b", "#000080": "#7fb0ff"}.get(color, color)


def make() -> None:
    """Record the session and write the picture."""
    IMAGE.parent.mkdir(parents=True, exist_ok=True)
    IMAGE.write_text(draw(record()), encoding="utf-8")


if __name__ == "__main__":
    make()
