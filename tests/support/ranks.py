"""A job of several ranks for the tests: real processes, whose environment tells each its rank."""

import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from spark_fast import _core, client
from spark_fast.status import Rank
from tests.support.child import DEADLINE, kill, until

LOOP = """
import json, os, random, time
import spark_fast as spark
from spark_fast import _core
from spark_fast._core import worker
from spark_fast.worker.reload import vote as voting
#TOP
rank = int(os.environ["RANK"])
voting.PATIENCE = float(os.environ.get("PATIENCE", voting.PATIENCE))
calls = spark.persist("calls", list)

def note(number: int):
    calls.append(number)
    return [rank, number]

armed = spark.persist("armed", list)
def arm(point: str):
    armed.append(point)  # the call itself is to end well

state = spark.expose(lr=0.1, note=note, arm=arm)
told = os.open(f"{os.environ['TOLD']}.{rank}", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
sleeps = random.Random(rank)
longest = float(os.environ.get("LONGEST", 0.003))

def tell(**what):
    os.write(told, json.dumps(what).encode() + b"\\n")

for each in range(int(os.environ.get("TOGETHER", 0))):
    while not os.path.exists(f"{os.environ['TOLD']}.{each}"):
        time.sleep(0.001)

try:
    for item in spark.track(range(10**9), key="batch"):
        tell(step=worker.step(), item=item, lr=state.lr, calls=calls[:])
        calls.clear()
        while armed:
            _core.arm_point(armed.pop())
        #BODY
        time.sleep(sleeps.random() * longest)
except spark.SparkStopError as stop:
    tell(stopped=stop.step)
"""
"""Records in a file of each rank, at each step, the item, the set value, and the calls since the last step."""

LOCKSTEP = LOOP.replace(
    "#TOP",
    """#TOP
def meet(what: str):
    with open(f"{os.environ['TOLD']}.{what}.{rank}", "ab"):
        for each in range(int(os.environ["WORLD_SIZE"])):
            while not os.path.exists(f"{os.environ['TOLD']}.{what}.{each}"):
                time.sleep(0.0005)
""",
).replace("#BODY", 'meet(f"item{item}")\n        #BODY')
"""The same, but each step waits for all ranks, as a training step does in its backward pass."""


class Ranks:
    """The processes of a job on this host, killed when the block ends.

    how: "plain" for `python train.py`; "runner" for the process that `spark-fast run` starts; "supervised" for
        `spark-fast run` itself.
    job: a number that no other job has.
    start: whether to start all ranks at once; if so, none begins its loop before all live.

    Attributes:
        told_in: the path, to which each rank adds its number, of the file that records the rank's steps.
    """

    def __init__(
        self,
        folder: Path,
        count: int,
        code: str = LOOP,
        *args: str,
        how: str = "plain",
        job: int = 1,
        start: bool = True,
        **env: str,
    ) -> None:
        self.folder = folder / f"job{job}"
        self.folder.mkdir(exist_ok=True)
        self.script = self.folder / "train.py"
        self.script.write_text(textwrap.dedent(code))
        self.count = count
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self._old: list[subprocess.Popen[bytes]] = []
        before = {"plain": (), "runner": ("-m", "spark_fast.worker", "run"), "supervised": ("-m", "spark_fast", "run")}
        self._command = [sys.executable, *before[how], *args, str(self.script)]
        self.told_in = self.folder / "told"
        self._env = {
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(30000 + job),
        } | env
        if start:
            self._env["TOGETHER"] = str(count)
            for rank in range(count):
                self.start(rank)

    def __enter__(self) -> "Ranks":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self._old, *self.processes.values()):
            kill(process)
            process.wait()

    def start(self, rank: int, **env: str) -> None:
        """Start a rank, even one that was started before."""
        if rank in self.processes:
            self._old.append(self.processes[rank])
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "TOLD": str(self.told_in)}
        with (self.folder / f"out.{rank}").open("ab") as out, (self.folder / f"err.{rank}").open("ab") as err:
            self.processes[rank] = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=os.environ | self._env | own | env,
                cwd=self.folder,
            )

    def kill(self, rank: int) -> None:
        """Kill a rank, and wait for its end."""
        kill(self.processes[rank])
        self.processes[rank].wait()

    def ended(self, *ranks: int, deadline: float = DEADLINE) -> list[int]:
        """Wait for these ranks, or all if none is given, to end; return their exit statuses."""
        return [self.processes[rank].wait(deadline) for rank in ranks or self.processes]

    def err(self, rank: int) -> str:
        """Return a rank's standard error."""
        return (self.folder / f"err.{rank}").read_text()

    @property
    def errs(self) -> str:
        """The standard error of all ranks."""
        return "\n".join(f"--- rank {rank}\n{self.err(rank)}" for rank in self.processes)

    def run(self, name: str | None = None, ranks: int | None = None) -> client.Run:
        """Return the job's run, once this many ranks, by default all, have passed a checkpoint."""

        def look() -> client.Run | None:
            for rank, process in self.processes.items():
                assert process.poll() is None, f"rank {rank} ended with {process.returncode}: {self.err(rank)}"
            found = [
                run
                for run in client.runs(ended=False)
                if {each.pid for each in run.ranks} & self.pids and name in (None, run.id)
            ]
            if len(found) != 1:
                return None
            there = [rank for rank in found[0].ranks if rank.status.live and rank.step > 0]
            return found[0] if len(there) == (self.count if ranks is None else ranks) else None

        return until(look, "a run of all ranks")

    @property
    def pids(self) -> set[int]:
        """The process ids of the ranks and their descendants, a supervisor's worker say."""
        import psutil

        found = set()
        for process in self.processes.values():
            if process.poll() is None:
                found |= {process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))}
        return found

    # --- the ranks' records ---

    def told(self, rank: int) -> list[dict[str, Any]]:
        """Return all records of a rank, in order."""
        path = Path(f"{self.told_in}.{rank}")
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def steps(self, rank: int) -> dict[int, dict[str, Any]]:
        """Return a rank's record of each step.

        If the rank came to a step again, after a reload that was rolled back, this is the last record, but with the
        calls of all of them.
        """
        found: dict[int, dict[str, Any]] = {}
        for line in self.told(rank):
            if (step := line.get("step")) is not None:
                before = found[step]["calls"] if step in found else []
                found[step] = line | {"calls": before + line["calls"]}
        return found

    def stops(self) -> set[int]:
        """Return the steps at which ranks were stopped."""
        return {line["stopped"] for rank in self.processes for line in self.told(rank) if "stopped" in line}

    def assert_same(self, *ranks: int, last: int = 1 << 62, calls: bool = True) -> dict[int, dict[str, Any]]:
        """Assert that these ranks, by default all, have the same records, with each item in turn.

        Return the first rank's records. Only steps up to `last` that all ranks have recorded count.

        calls: whether to compare the calls, too.
        """
        told = {rank: self.steps(rank) for rank in ranks or self.processes}
        if not calls:
            told = {rank: {at: line | {"calls": []} for at, line in steps.items()} for rank, steps in told.items()}
        common = sorted(set.intersection(*(set(steps) for steps in told.values())))
        common = [step for step in common if step <= last]
        assert common, "no step is common to all"
        for step in common:
            each = {rank: steps[step] for rank, steps in told.items()}
            assert len({json.dumps(line) for line in each.values()}) == 1, f"at step {step}: {each}\n{self.errs}"
        one = told[min(told)]
        items = [one[step]["item"] for step in common]
        assert items == list(range(items[0], items[0] + len(items))), items
        return {step: one[step] for step in common}

    def noted(self, rank: int) -> Counter[int]:
        """Return how often a rank was asked to note each number."""
        return Counter(number for line in self.told(rank) for number in line.get("calls", ()))


def last_entry(run: client.Run) -> dict[str, Any]:
    """Return the log's last entry."""
    with (run.folder / "control").open("rb") as control:
        entry = _core.read_entry(control.fileno(), _core.read_view(control.fileno())["tail"])
        assert entry is not None
        return entry


def standing(run: client.Run) -> set[int]:
    """Return the steps of a run's living ranks."""
    return {rank.step for rank in run.ranks if rank.status.live}


def by_number(run: client.Run) -> dict[int, Rank]:
    """Return the ranks of a run by their numbers."""
    return {rank.rank: rank for rank in run.ranks}
