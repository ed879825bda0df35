"""A job of several ranks on this host: real processes, whose environment tells each its rank."""

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

from spark_fast import client
from tests.support.child import Child, until

RANKS = """
import os, time
import spark_fast as spark

rank = int(os.environ["RANK"])

def evaluate(split: str = "test"):
    "How good this rank is."
    print("rank", rank, "evaluates", split)
    return {"rank": rank, "split": split}

def broken():
    if rank % 2:
        raise ValueError(f"no data for {rank}")
    return rank

state = spark.expose(lr=0.1, evaluate=evaluate, broken=broken, gather=spark.function(evaluate, ranks="all"))
begin, length = float(os.environ.get("BEGIN", time.time())), float(os.environ.get("STEP", "0.002"))
try:
    for batch in spark.track(range(1_000_000), key="batch"):
        time.sleep(max(0.0, begin + batch * length - time.time()))
except spark.SparkStopError:
    time.sleep(float(os.environ.get("SAVING", "0")))
    raise
"""
"""Its batches begin at the same times in all ranks, so that a rank that had to wait for a processor catches up."""


class Job:
    """The processes of a job, ended when the block ends.

    size: the number of ranks on this host; absent: ranks that are not started; world_size: the ranks on all hosts.
    """

    def __init__(
        self,
        folder: Path,
        code: str = RANKS,
        *args: str,
        size: int = 3,
        world_size: int | None = None,
        absent: tuple[int, ...] = (),
        name: str | None = "job",
        **env: str,
    ) -> None:
        self._stack = ExitStack()
        self.there = [rank for rank in range(size) if rank not in absent]
        self.name = name or ""
        self.ranks: dict[int, Child] = {}
        begin = time.time()
        for rank in self.there:
            told = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size or size),
                "LOCAL_WORLD_SIZE": str(size),
                "BEGIN": str(begin),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(29000 + os.getpid() % 1000),
            }
            self.ranks[rank] = Child(folder, code, *args, name=name, **(told | env))

    def __enter__(self) -> "Job":
        for child in self.ranks.values():
            self._stack.enter_context(child)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self) -> client.Run:
        """Return the run, once all ranks have passed some checkpoints."""

        def look() -> client.Run | None:
            for rank, child in self.ranks.items():
                assert child.process.poll() is None, f"rank {rank} ended: {child.out}{child.err}"
            try:
                run = client.attach(self.name)
            except client.SparkError:
                return None
            return run if len(run.ranks) == len(self.there) and all(rank.step > 2 for rank in run.ranks) else None

        return until(look, "all ranks")

    def kill(self, rank: int) -> None:
        """Kill a rank."""
        self.ranks[rank].process.kill()
        self.ranks[rank].process.wait()

    def hang(self, rank: int) -> None:
        """Make a rank hang, until it is continued or ended."""
        self.ranks[rank].process.send_signal(signal.SIGSTOP)
