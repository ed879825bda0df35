"""Jobs of several ranks for the tests: under torchrun, or as plain processes with torchrun's variables."""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch

from spark_fast import client
from tests.support.child import Child, kill, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "ddp.py"

START = 120.0
"""Seconds that torchrun, and torch in each rank, take at most to start on a busy machine."""

HEAD = """
import os, time
import spark_fast as spark
from spark_fast import _core
RANK = int(os.environ["RANK"])
"""


class Torchrun:
    """`torchrun --nproc-per-node=RANKS train.py`, killed when the block ends.

    args: arguments of the training.
    code: the source of the training; by default the example.
    options: options of torchrun.
    """

    def __init__(
        self,
        folder: Path,
        ranks: int,
        *args: str,
        code: str | None = None,
        options: Sequence[str] = (),
        **env: str,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.ranks = ranks
        self.script = folder / "train.py"
        self.code = EXAMPLE.read_text() if code is None else code
        self.script.write_text(self.code)
        self.weights = folder / "weights{rank}.pt"
        self.stdout_path, self.stderr_path = folder / "out", folder / "err"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *options]
        with self.stdout_path.open("wb") as out, self.stderr_path.open("wb") as err:
            self.process = subprocess.Popen(
                [*command, str(self.script), "--out", str(self.weights), *args],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | {"SPARK_FAST_RUN": "job", "OMP_NUM_THREADS": "1"} | env,
            )

    def __enter__(self) -> "Torchrun":
        return self

    def __exit__(self, *_: object) -> None:
        kill(self.process)
        self.process.wait()

    @property
    def out(self) -> str:
        return self.stdout_path.read_text()

    @property
    def err(self) -> str:
        return self.stderr_path.read_text()

    def run(self) -> client.Run:
        """Return the run, once all its ranks have passed a checkpoint."""
        return until(lambda: joined(self.ranks, "job", self), f"a run of {self.ranks} ranks", START)

    def check(self) -> None:
        """Fail if the job has ended."""
        assert self.process.poll() is None, f"it ended with {self.process.returncode}: {self.out}{self.err}"

    def ended(self) -> int:
        """Wait for the job's end; return the exit status of torchrun."""
        return self.process.wait(START)

    def learned(self) -> list[dict[str, torch.Tensor]]:
        """Return the weights that each rank has saved."""
        return [torch.load(str(self.weights).replace("{rank}", str(rank))) for rank in range(self.ranks)]

    def stops(self) -> dict[int, int]:
        """Return the step at which each rank says that it was stopped."""
        return {int(rank): int(step) for rank, step in re.findall(r"rank (\d+): stopped at step (\d+)", self.out)}


class Ranks:
    """Plain processes that run `code` as the ranks of one job. If one is killed, the others live.

    In `code`, `RANK` is the number of the rank.

    late: the number of ranks that only start() starts.
    """

    def __init__(self, folder: Path, ranks: int, code: str, *, late: int = 0, **env: str) -> None:
        folder.mkdir(exist_ok=True)
        job = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        job |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}  # nobody listens: it only names the job
        self.code = HEAD + textwrap.dedent(code)
        (folder / "job.py").write_text(self.code)
        self.folder, self.env = folder, job | env
        self.children: list[Child] = []
        try:
            for _ in range(ranks - late):
                self.start()
        except BaseException:
            self.__exit__()
            raise

    def start(self) -> Child:
        """Start the next rank."""
        rank = str(len(self.children))
        place = {"RANK": rank, "LOCAL_RANK": rank}
        child = Child(self.folder, "", "-m", "job", name="job", cwd=self.folder, **self.env, **place)
        self.children.append(child)
        return child

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.__exit__()

    def run(self, ranks: int | None = None) -> client.Run:
        """Return the run, once this many ranks, by default all, have passed a checkpoint and functions are exposed."""
        count = len(self.children) if ranks is None else ranks
        run = until(lambda: joined(count, "job"), f"a run of {count} ranks: {self.err}")
        until(lambda: run.functions, "the first rank shows what it exposes")
        return run

    @property
    def err(self) -> str:
        return "".join(child.err for child in self.children)


def joined(ranks: int, name: str, job: Torchrun | None = None) -> client.Run | None:
    """Return the run of this name, if this many of its ranks are live and have passed a checkpoint; else None."""
    if job is not None:
        job.check()
    try:
        run = client.attach(name)
    except client.NoSuchRunError:
        return None
    # A late rank is at the step of the others before it has passed a checkpoint.
    running = [rank for rank in run.ranks if rank.status.live and rank.status != "idle" and rank.step > 0]
    return run if len(running) == ranks else None


def step_of(run: client.Run) -> int:
    """Return the step of all living ranks of a paused run. Raises AssertionError if their steps differ."""
    living = [rank for rank in run.ranks if rank.status.live]
    assert living
    assert {str(rank.status) for rank in living} == {"paused"}, living
    assert len({rank.step for rank in living}) == 1, living
    return living[0].step
