"""A training whose code is edited while it runs, for the tests of reloads."""

import json
import textwrap
from pathlib import Path
from typing import Any

from spark_fast import client
from spark_fast.client import Request
from tests.support.child import DEADLINE, Child, outcome, until


class Edited(Child):
    """A worker without a supervisor. It runs `train.py` of its project folder, which also holds the given modules.

    inside: whether the project folder is also its working directory.
    options: options of the command that runs it.

    It prints lines of JSON, which `said` returns.
    """

    module = "spark_fast.worker"

    def __init__(
        self,
        folder: Path,
        code: str,
        *args: str,
        modules: dict[str, str] | None = None,
        inside: bool = False,
        options: tuple[str, ...] = (),
        **env: str,
    ) -> None:
        self.project = folder / "project"
        self.project.mkdir()
        for name, source in (modules or {}).items():
            self.write(name, source)
        self.write("train.py", code)
        target = args or (str(self.project / "train.py"),)
        cwd = self.project if inside else None
        super().__init__(folder, "", "-m", self.module, "run", *options, *target, cwd=cwd, **env)

    def write(self, name: str, source: str) -> None:
        """Save a file of the project."""
        path = self.project / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source).lstrip("\n"))

    def source(self, name: str = "train.py") -> str:
        """Return the source of a file of the project."""
        return (self.project / name).read_text()

    def edit(self, old: str, new: str, name: str = "train.py") -> None:
        """Replace a part of a file."""
        source = self.source(name)
        assert old in source
        (self.project / name).write_text(source.replace(old, new))

    def reload(self, *, timeout: float = DEADLINE, **options: Any) -> Request:
        """Ask for a reload of the changed files, and wait for its fate, whatever it is."""
        return outcome(client.attach("test").reload, timeout=timeout, **options)

    def reloaded(self, **options: Any) -> Request:
        """Do the same, and assert that the reload was applied."""
        request = self.reload(**options)
        assert request.fate.state == "applied", f"{request.fate.reason}\n{self.err}"
        return request

    @property
    def said(self) -> list[Any]:
        """The values that the worker printed, one a line."""
        lines = self.out.split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def says(self, count: int = 1, after: int = 0, deadline: float = DEADLINE) -> list[Any]:
        """Wait until the worker has printed `count` lines more than `after`; return the lines after those `after`."""
        until(lambda: len(self.said) >= after + count or self.process.poll() is not None, self.err, deadline)
        assert len(self.said) >= after + count, f"it ended with {self.process.poll()}: {self.err}"
        return self.said[after:]

    def over(self, status: int = 0, deadline: float = DEADLINE) -> list[Any]:
        """Wait for the worker's end, and return all printed values."""
        assert self.ended(deadline) == status, self.err
        return self.said
