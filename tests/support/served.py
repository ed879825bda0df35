"""The web page with a real server and a real browser."""

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright

from tests.support.child import kill, until
from tests.system import CHROMIUM

errors: list[str] = []
"""The exceptions that no script of a page caught."""


def launch(playwright: Playwright) -> Browser:
    """Start this machine's Chromium."""
    found = next((path for name in CHROMIUM if (path := shutil.which(name))), None)
    assert found is not None, f"there is no browser: install one of {', '.join(CHROMIUM)}"
    return playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])


class Served:
    """`spark-fast ui` in its own process, ended when the block ends.

    port: the port; 0 for any free one.
    options: further options of the command.
    """

    def __init__(self, folder: Path, port: int = 0, *options: str) -> None:
        folder.mkdir(exist_ok=True)
        number = len(list(folder.glob("ui*.out")))
        self._out, self._err = folder / f"ui{number}.out", folder / f"ui{number}.err"
        command = [sys.executable, "-m", "spark_fast", "ui", "--port", str(port), *options]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process: subprocess.Popen[Any] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.process)
        self.process.wait()

    @property
    def address(self) -> str:
        """The address that the command printed, with the token."""

        def look() -> str:
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self._err.read_text()}"
            found = re.search(r"http://\S+/#token=\S+", self._out.read_text())
            return found[0] if found else ""

        return until(look, "the address of the page")

    @property
    def port(self) -> int:
        """The port on which the server listens."""
        found = re.search(r":(\d+)/", self.address)
        assert found is not None
        return int(found[1])

    def end(self) -> None:
        """End the command as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def opened(browser: Browser, served: Served, run: str | None = None, **options: Any) -> Page:
    """Open the printed address in a new browser context, and there the page of `run`, if given; return the page."""
    context = browser.new_context(**({"viewport": {"width": 1400, "height": 900}} | options))
    context.on("weberror", lambda error: errors.append(f"{error.error}"))
    page = context.new_page()
    page.goto(served.address)
    if run is not None:
        page.goto(f"{page.url.split('#')[0]}#/runs/{run}")
    return page
