"""Trainings under Ray: a real one of two CPUs on this machine, with Ray Train's workers and with plain actors."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from spark_fast import client
from tests.support.child import Child, until
from tests.support.ray_cluster import ONE_NODE, Ray, running

pytestmark = [pytest.mark.ranks, pytest.mark.tier("all")]  # needs Ray

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_ddp.py"
START = 240.0
"""Seconds in which workers start, on a machine that does much else."""
TIMEOUT = 60.0
ENDLESS = ("--steps", "100000000")


@pytest.fixture(scope="module")
def started() -> Iterator[Ray]:
    # The time is for a process group of which a rank is dead.
    with running(ONE_NODE, ["home"], TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S="1") as ray:
        yield ray


@pytest.fixture
def ray(started: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ray:
    started.enter(monkeypatch, tmp_path)
    return started


def ranks_of(driver: Child, name: str, ranks: int, but: set[int] = frozenset()) -> client.Run:  # type: ignore[assignment]
    """The run of this name, once it has so many ranks that pass checkpoints, none of them with these pids."""

    def look() -> client.Run | None:
        assert driver.process.poll() is None, f"it ended with {driver.process.returncode}: {driver.out}{driver.err}"
        try:
            run = client.attach(name)
        except client.NoSuchRunError:
            return None
        found = run.ranks
        ready = [rank for rank in found if rank.status.live and rank.step > 0 and rank.pid not in but]
        return run if len(found) == len(ready) == ranks else None

    try:
        return until(look, f"{ranks} ranks of run {name}", START)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{driver.out}{driver.err}") from None


def applied(request: client.Request) -> int:
    assert request.fate.state == "applied", request
    assert request.fate.step is not None
    return request.fate.step


def steps(run: client.Run) -> set[int]:
    return {rank.step for rank in run.ranks}


@contextmanager
def training(folder: Path, name: str, *args: str) -> Iterator[Child]:
    """The example, as one copies it, but that each rank keeps what it has learned."""
    code = EXAMPLE.read_text()
    for old, new in (("if rank == 0", "if True"), ('"state.pt"', 'f"state{rank}.pt"')):
        assert old in code
        code = code.replace(old, new)
    with Child(folder, code, "--name", name, "--storage", str(folder / "kept"), *args, name=None) as driver:
        yield driver


def kept(folder: Path, name: str) -> list[dict[str, Any]]:
    """What the ranks have left in the last checkpoint."""
    return [torch.load(path) for path in sorted(max(checkpoints(folder, name)).glob("state*.pt"))]


def checkpoints(folder: Path, name: str) -> list[Path]:
    return [path for path in (folder / "kept" / name).glob("checkpoint_*") if path.is_dir()]


@pytest.mark.timeout(600)
def test_the_workers_of_ray_train_are_one_run_also_when_they_are_started_again_and_end_well_when_it_is_stopped(
    ray: Ray, tmp_path: Path
) -> None:
    with training(tmp_path, "spirals", *ENDLESS, "--report-every", "20", "--delay", "0.005") as driver:
        run = ranks_of(driver, "spirals", 2)
        assert run.command[0].startswith("ray::")
        parked = applied(run.pause(timeout=TIMEOUT))
        assert steps(run) == {parked}
        assert {str(rank.status) for rank in run.ranks} == {"paused"}
        applied(run.resume(timeout=TIMEOUT))
        # The first one is then one of which Ray Train knows that all ranks have reported it.
        until(lambda: len(checkpoints(tmp_path, "spirals")) > 2, "checkpoints", START)
        before = {rank.pid for rank in run.ranks}
        os.kill(run.ranks[1].pid, signal.SIGKILL)

        run = ranks_of(driver, "spirals", 2, but=before)
        parked = applied(run.pause(timeout=TIMEOUT))
        assert steps(run) == {parked}
        applied(run.set("lr", 0.01, timeout=TIMEOUT))
        results = run.call("evaluate", spark_ranks="all", spark_timeout=TIMEOUT)
        assert results[0]["points"] == 1024
        assert results == dict.fromkeys(range(2), results[0])
        applied(run.advance(3, timeout=TIMEOUT))
        assert steps(run) == {parked + 3}
        applied(run.resume(timeout=TIMEOUT))
        stopped = applied(run.stop(timeout=TIMEOUT))
        assert run.wait("stopped", timeout=TIMEOUT) == "stopped"
        assert steps(run) == {stopped}
        assert driver.ended(START) == 0, driver.err
        assert "'stopped': True" in driver.out
    first, second = kept(tmp_path, "spirals")
    assert first["step"] == second["step"] >= 20 + stopped - 1  # they went on from a checkpoint
    assert first["optimizer"]["param_groups"][0]["lr"] == 0.01
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())


ACTORS = """
import ray
from spark_fast.integrations import ray as spark_ray
from learning import learn


@ray.remote
class Trainer:
    def __init__(self, rank):
        spark_ray.configure(rank=rank, world_size=2, job="mine", run="actors")

    def train(self):
        return spark_ray.run(learn)


ray.init()
trainers = [Trainer.remote(rank) for rank in range(2)]
print(ray.get([trainer.train.remote() for trainer in trainers]), flush=True)
"""
LEARNING = """
import time
import spark_fast as spark

CODE = "old"


def learn():
    state = spark.expose(lr=0.1, code=lambda: CODE)
    try:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    except spark.SparkStopError as stop:
        return stop.step, state.lr, CODE
"""


@pytest.mark.timeout(600)
def test_plain_actors_are_one_run_which_can_be_reloaded(ray: Ray, tmp_path: Path) -> None:
    module = tmp_path / "learning.py"
    module.write_text(LEARNING)
    with Child(tmp_path, ACTORS, name=None) as driver:
        run = ranks_of(driver, "actors", 2)
        applied(run.set("lr", 0.2, timeout=TIMEOUT))
        parked = applied(run.pause(timeout=TIMEOUT))
        assert steps(run) == {parked}
        applied(run.resume(timeout=TIMEOUT))
        module.write_text(LEARNING.replace("old", "new"))
        applied(run.reload(timeout=TIMEOUT))
        assert run.call("code", spark_ranks="all", spark_timeout=TIMEOUT) == {0: "new", 1: "new"}
        stopped = applied(run.stop(timeout=TIMEOUT))
        assert driver.ended(START) == 0, driver.err
        assert str([(stopped, 0.2, "new")] * 2) in driver.out
        assert run.status == "stopped"


def test_without_ray_the_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['ray'] = None; import spark_fast.integrations.ray"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == 1
    assert "pip install 'ray[train]'" in done.stderr.splitlines()[-1]
