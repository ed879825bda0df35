"""The jobs of the campaign: how each begins, which processes it has, and what it has told."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from spark_fast import client
from tests.campaign.checks import lines_of
from tests.campaign.scripts import DDP, LOOP, THREADS
from tests.support import ranks
from tests.support.child import Child

__all__ = ["BYSTANDER", "JOBS", "Job", "bystander"]

BYSTANDER = """
import time
import spark_fast as spark
state = spark.expose(lr=1.0)
for item in spark.track(range(10**9), key="batch"):
    time.sleep(0.02)
"""
"""A run that nobody asks for anything."""


class Job(ABC):
    """A job on this host, ended when the block ends.

    Attributes:
        count: how many ranks it has.
        reloads: whether its code can be replaced.
        by_step: whether each step has one item.
        can_lose_rank: whether the others go on when a rank is killed.
        exits: whether all its processes end with status 0 after a stop.
    """

    count = 1
    reloads = False
    by_step = True
    can_lose_rank = False
    exits = True

    def __init__(self, folder: Path) -> None:
        self.told_in = folder / "told"
        self._stack = ExitStack()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @abstractmethod
    def run(self) -> client.Run:
        """Return the run, once all ranks have passed a checkpoint."""

    @abstractmethod
    def launchers(self) -> list[psutil.Process]:
        """Return the processes that this job has started itself: its ranks, or what starts them."""

    @abstractmethod
    def err(self) -> str:
        """Return what its processes have written to standard error."""

    def start(self, rank: int) -> bool:
        """Start a rank again, unless its process lives; return whether it was started."""
        raise NotImplementedError

    def told(self, rank: int) -> list[dict[str, Any]]:
        """Return what a rank has told, in order."""
        return lines_of(Path(f"{self.told_in}.{rank}"))


class _Plain(Job):
    """Ranks that nothing but this campaign starts and ends."""

    def __init__(self, folder: Path, code: str = LOOP, how: str = "plain") -> None:
        super().__init__(folder)
        self.job = self._stack.enter_context(ranks.Ranks(folder, self.count, code, how=how))
        self.told_in = self.job.told_in

    def run(self) -> client.Run:
        return self.job.run()

    def launchers(self) -> list[psutil.Process]:
        return [psutil.Process(process.pid) for process in self.job.processes.values() if process.poll() is None]

    def err(self) -> str:
        return self.job.errs

    def start(self, rank: int) -> bool:
        if self.job.processes[rank].poll() is None:
            return False  # it has not come to its first checkpoint yet
        self.job.start(rank)
        return True


class Single(_Plain):
    """One process."""


class Threads(_Plain):
    """One process whose threads pass checkpoints too, and which forks."""

    by_step = False

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, THREADS)


class Reloadable(_Plain):
    """One process whose code can be replaced."""

    reloads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, how="runner")


class Supervised(_Plain):
    """One process under `spark-fast run`."""

    reloads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, how="supervised")


class Several(_Plain):
    """Three ranks that do not wait for each other."""

    count = 3
    can_lose_rank = True


class SeveralReloadable(_Plain):
    """Two ranks whose code can be replaced."""

    count = 2
    reloads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, how="runner")


class Ddp(Job):
    """Two ranks under torchrun, with a collective of gloo in each step."""

    count = 2
    exits = False  # gloo may abort a process that has ended well

    def __init__(self, folder: Path) -> None:
        from tests.support import torchrun  # which imports torch: the other jobs do without

        super().__init__(folder)
        self.job = self._stack.enter_context(torchrun.Torchrun(folder / "ddp", 2, code=DDP, TOLD=str(self.told_in)))

    def run(self) -> client.Run:
        return self.job.run()

    def launchers(self) -> list[psutil.Process]:
        return [psutil.Process(self.job.process.pid)] if self.job.process.poll() is None else []

    def err(self) -> str:
        return self.job.err


JOBS: dict[str, Callable[[Path], Job]] = {
    "single": Single,
    "several": Several,
    "reloadable": Reloadable,
    "threads": Threads,
    "ddp": Ddp,
    "supervised": Supervised,
    "several reloadable": SeveralReloadable,
}
"""The jobs of one host by their names."""


def bystander(folder: Path) -> Child:
    """Start a run that nobody asks for anything, in the same home as the job."""
    return Child(folder / "bystander", BYSTANDER, name="bystander", SPARK_FAST_HOME=os.environ["SPARK_FAST_HOME"])
