"""A training whose code is edited while it runs, for the tests of reloads."""

import json
import textwrap
from pathlib import Path
from typing import Any

from spark_fast import client
from spark_fast.client import Request
from tests.support.child import DEADLINE, Child, outcome, until


class Edited(Child):
    """A worker that runs `train.py` of its folder, beside the modules that were given, without a supervisor.

    inside: whether the folder is its working directory, too.
    options: of the command that runs it.

    What it prints as JSON lines is what `said` returns.
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
        """Saves a file of the project."""
        path = self.project / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(source).lstrip("\n"))

    def source(self, name: str = "train.py") -> str:
        """What stands in a file of the project."""
        return (self.project / name).read_text()

    def edit(self, old: str, new: str, name: str = "train.py") -> None:
        """Replaces a part of a file."""
        source = self.source(name)
        assert old in source
        (self.project / name).write_text(source.replace(old, new))

    def reload(self, *, timeout: float = DEADLINE, **options: Any) -> Request:
        """Asks for a reload of what changed on disk, and waits for its fate, whatever it is."""
        return outcome(client.attach("test").reload, timeout=timeout, **options)

    def reloaded(self, **options: Any) -> Request:
        """The same for one that is to succeed."""
        request = self.reload(**options)
        assert request.fate.state == "applied", f"{request.fate.reason}\n{self.err}"
        return request

    @property
    def said(self) -> list[Any]:
        """What it printed, line by line."""
        lines = self.out.split("\n")[:-1]
        return [json.loads(line) for line in lines]

    def says(self, count: int = 1, after: int = 0, deadline: float = DEADLINE) -> list[Any]:
        """Waits until it has printed so many lines more than `after`, and returns those."""
        until(lambda: len(self.said) >= after + count or self.process.poll() is not None, self.err, deadline)
        assert len(self.said) >= after + count, f"it ended with {self.process.poll()}: {self.err}"
        return self.said[after:]

    def over(self, status: int = 0, deadline: float = DEADLINE) -> list[Any]:
        """Waits for its end, and returns all that it printed."""
        assert self.ended(deadline) == status, self.err
        return self.said
