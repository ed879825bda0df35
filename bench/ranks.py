"""Many ranks: the cost of their steps, beside peers that stop all ranks at one step, and the time until they agree."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.homes import environment, home
from bench.measure import median, net, ratio
from bench.rank import EMPTY, OURS, YIELD
from bench.twins import CACHE

__all__ = ["EMPTY", "OURS", "Agreed", "Idle", "Parked", "Ranks", "measure"]

ROOT = Path(__file__).parent.parent
LIMIT = 300.0


@dataclass(frozen=True)
class Idle:
    """What a step of each of so many ranks costs.

    Attributes:
        ranks: how many.
        found: ns a call of each case in each round, at rank 0.
        about: of each case its name, version, whether all ranks get the same answer at the same
            step ("yes", "once", "no"), and a note.
    """

    ranks: int
    found: dict[str, list[float]]
    about: list[tuple[str, str, str, str]]

    def cost(self, name: str) -> float:
        """Return the ns of a call beyond an empty loop."""
        return median(net(self.found[name], self.found[EMPTY]))

    def times(self, name: str) -> float:
        """Return how many times the cost of our call a call has."""
        base = self.found[EMPTY]
        return ratio(net(self.found[name], base), net(self.found[OURS], base))


@dataclass(frozen=True)
class Agreed:
    """ns from asking so many simulated ranks, which run, until the step is decided and all have been told.

    Attributes:
        ranks: how many.
        took, least, most: of them the median, the least, and what nine of ten are below.
    """

    ranks: int
    took: int
    least: int
    most: int


@dataclass(frozen=True)
class Parked:
    """Of so many processes whose steps sleep.

    Attributes:
        ranks: how many.
        step: ns that a step sleeps.
        agreed: ns from asking for a pause until its step is decided.
        parked: until all have parked.
        running: from asking for a resume until all run.
        steps: between asking and acting, for the rank that was furthest behind.
    """

    ranks: int
    step: int
    agreed: int
    parked: int
    running: int
    steps: int


@dataclass(frozen=True)
class Ranks:
    """Attributes:
    idle: for some numbers of ranks.
    agreed: the same.
    parked: the same.
    """

    idle: list[Idle]
    agreed: list[Agreed]
    parked: list[Parked]

    @property
    def more(self) -> float:
        """Return the cost of a step of each of the most ranks divided by that of an only one.

        Both are measured by their twin in the same batches: where the ranks keep all CPUs busy, each of them may be
        slower than a rank that is alone.
        """
        return self.idle[0].times(YIELD) / self.idle[-1].times(YIELD)

    def least_times(self) -> float:
        """Return the cost of the nearest peer that stops several ranks at one step, as a multiple of ours."""
        return min(
            idle.times(name)
            for idle in self.idle[1:]
            for name, _, same, _ in idle.about
            if same == "yes" and name not in (OURS, EMPTY)
        )


def _free_ports(count: int) -> list[int]:
    """Return free ports with consecutive numbers."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
        try:
            for number in range(port, port + count):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", number))
        except OSError:
            continue
        return list(range(port, port + count))


def _idle(ranks: int, rounds: int) -> Idle:
    port, own, *_ = _free_ports(4)
    with home() as folder:
        jobs = [
            subprocess.Popen(
                [sys.executable, "-m", "bench.rank", str(rounds)],
                env=environment(folder) | {
                    "RANK": str(rank), "WORLD_SIZE": str(ranks),
                    "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(ranks),
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "BENCH_PORT": str(own), "GROUP_RANK": "0",
                    "TORCHELASTIC_RUN_ID": "bench", "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1",
                    "ACCELERATE_USE_CPU": "true",
                },
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )
            for rank in range(ranks)
        ]  # fmt: skip
        try:
            said, _ = jobs[0].communicate(timeout=LIMIT)
            for job in jobs:
                if job.wait(timeout=LIMIT) != 0:
                    raise RuntimeError(f"a rank of {ranks} ended with {job.returncode}")
        finally:
            for job in jobs:
                job.kill()
                job.communicate()
    found = json.loads(said.splitlines()[-1])
    return Idle(ranks, found["found"], [tuple(each) for each in found["about"]])


def _build() -> Path:
    """Compile bench/crowd.c with the sources of the core."""
    program = CACHE / "crowd"
    CACHE.mkdir(parents=True, exist_ok=True)
    sources = [ROOT / "bench" / "crowd.c", *sorted((ROOT / "csrc").glob("*.c"))]
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-pthread", f"-I{ROOT / 'csrc'}"]
    subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", program, *sources], check=True)
    return program


def _crowd(program: Path, *words: object) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="spark-fast-bench-") as folder:
        kind, *rest = map(str, words)
        done = subprocess.run(
            [program, kind, folder, *rest], stdout=subprocess.PIPE, text=True, check=True, timeout=LIMIT
        )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _agreed(program: Path, ranks: int, rounds: int) -> Agreed:
    took = _crowd(program, "agree", ranks, rounds)["agreed"]
    return Agreed(ranks, took["median"], took["least"], took["most of ten"])


def _parked(program: Path, ranks: int, rounds: int) -> Parked:
    # Longer steps for more ranks: two CPUs can wake only so many of them in a second.
    step = max(1_000_000, ranks * 40_000)
    found = _crowd(program, "park", ranks, rounds, step)
    middle = {name: found[name]["median"] for name in ("agreed", "parked", "running", "steps")}
    return Parked(ranks, step, **middle)


def measure(*, quick: bool) -> Ranks:
    """Measure all of it, in some two minutes, or less if it is to be quick."""
    program = _build()
    return Ranks(
        idle=[_idle(ranks, 10 if quick else 60) for ranks in (1, 2, 4)],
        agreed=[_agreed(program, ranks, 200 if quick else 2000) for ranks in (2, 4, 16, 64, 256, 1024)],
        parked=[_parked(program, ranks, 10 if quick else 50) for ranks in (1, 2, 4, 16, 64, 256)],
    )
