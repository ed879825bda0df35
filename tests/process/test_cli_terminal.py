"""What the command line does at a terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import DEADLINE, kill, until

pytestmark = pytest.mark.process


class Terminal:
    """A program at a terminal of its own."""

    def __init__(self, *words: str) -> None:
        self.control, self.side = pty.openpty()
        termios.tcsetwinsize(self.side, (24, 80))
        self.before = termios.tcgetattr(self.side)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "spark_fast", *words],
            stdin=self.side,
            stdout=self.side,
            stderr=self.side,
            env=os.environ | {"TERM": "xterm"},
        )
        self.shown = b""

    def see(self, text: bytes) -> None:
        """Reads on until this has been shown."""
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            ready, _, _ = select.select([self.control], [], [], 0.1)
            if ready:
                self.shown += os.read(self.control, 65536)
            assert time.monotonic() < end, self.shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.control)
        os.close(self.side)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[str]:
    """A live run."""
    script = tmp_path / "loop.py"
    script.write_text("import time, spark_fast as spark\nwhile True: spark.checkpoint(); time.sleep(0.002)\n")
    process = subprocess.Popen([sys.executable, "-m", "spark_fast", "run", "--name", "watched", str(script)])
    until(lambda: any(run.step > 2 for run in client.runs()))
    yield "watched"
    kill(process)
    process.wait()


@pytest.mark.parametrize("how", ["q", "ctrl-c", "terminated"])
def test_top_is_left_with_the_terminal_as_it_was(run: str, how: str) -> None:
    terminal = Terminal("top")
    try:
        terminal.see(run.encode())
        terminal.see(b"running")
        assert not termios.tcgetattr(terminal.side)[3] & termios.ICANON
        if how == "q":
            os.write(terminal.control, b"q")
        else:
            terminal.process.send_signal(signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
        terminal.see(b"\x1b[?1049l")  # back from the alternate screen
        terminal.see(b"\x1b[?25h")  # with the cursor
        assert terminal.process.wait(DEADLINE) == (143 if how == "terminated" else 0)
        assert termios.tcgetattr(terminal.side) == terminal.before
    finally:
        terminal.close()


def test_top_shows_what_changes(run: str) -> None:
    terminal = Terminal("top")
    try:
        terminal.see(b"running")
        client.attach(run).pause(timeout=DEADLINE)
        terminal.see(b"paused")
        client.attach(run).stop(wait=False)
        terminal.see(b"no live runs")
    finally:
        terminal.close()


def test_who_waits_long_is_told_what_for(run: str) -> None:
    terminal = Terminal("pause", "--at-step", "1000000")
    try:
        terminal.see(b"waiting for")
        client.attach(run).resume(timeout=DEADLINE)
        terminal.see(b"superseded")
        assert terminal.process.wait(DEADLINE) == 1
    finally:
        terminal.close()
