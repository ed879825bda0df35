"""Ray: plain workers on two nodes, and Ray Train."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from spark_fast import hosts
from spark_fast.hosts.store import StoreGoneError
from spark_fast.request import Kind
from spark_fast.run_folder import new_id
from tests.support import until

ROOT = Path(__file__).parent.parent
STORE = 80_000_000

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # Ray's own
    pytest.mark.timeout(300),
]


def train(rank: int, out: str) -> int:
    """What a worker does: writes down where it was set; the step at which it was stopped."""
    import spark_fast as spark
    from spark_fast._core import worker
    from spark_fast.integrations import ray as spark_ray

    spark_ray.configure(rank=rank, world_size=2)
    state = spark.expose(lr=0.0)
    lr = 0.0
    with open(out, "w", buffering=1) as log:
        try:
            while True:
                spark.checkpoint()
                if state.lr != lr:
                    lr = state.lr
                    print(worker.step(), lr, file=log)
                time.sleep(0.002)
        except spark.SparkStopError as error:
            return error.step


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes on this machine."""
    os.environ["PYTHONPATH"] = str(ROOT)
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "resources": {"node0": 1}, "object_store_memory": STORE},
    )
    try:
        nodes.add_node(num_cpus=1, resources={"node1": 1}, object_store_memory=STORE)
        ray.init(address=nodes.address, log_to_driver=False)
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.fixture
def job(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[list[Path], list[Path], list[Any]]]:
    """A worker on each node: their run folders, what they write, and what they will return."""
    assert cluster.address
    outs = [tmp_path / f"out{rank}" for rank in range(2)]
    homes = [tmp_path / f"home{rank}" for rank in range(2)]
    tasks = [
        ray.remote(train)
        .options(
            resources={f"node{rank}": 1},
            runtime_env={"env_vars": {"SPARK_FAST_HOME": str(homes[rank]), "SPARK_FAST_RUN": "job"}},
            max_retries=0,
        )
        .remote(rank, str(outs[rank]))
        for rank in range(2)
    ]
    runs = [home / "job" for home in homes]
    try:
        for run in runs:
            until(lambda: (run / "hosts" / "note.json").exists(), f"{run} takes its place", 120.0)  # noqa: B023
        yield runs, outs, tasks
    finally:
        for task in tasks:
            with suppress(ray.exceptions.RayError):
                ray.cancel(task, force=True)


def ask(run: Path, kind: Kind, mail: str = "") -> int:
    ident = new_id()
    hosts.ask(run, kind, ident, mail=mail)
    fate = hosts.wait(run, ident, 60.0)
    assert fate is not None and fate.state == "applied", fate
    assert fate.step is not None
    return fate.step


def relays(runs: list[Path]) -> list[psutil.Process]:
    found = [process for process in psutil.process_iter(["name", "cmdline"]) if "::RelayActor" in str(process.info)]
    homes = [str(run.parent) for run in runs]
    return [process for process in found if process.environ().get("SPARK_FAST_HOME") in homes]


def test_workers_on_two_nodes_act_on_one_step(job: tuple[list[Path], list[Path], list[Any]]) -> None:
    runs, outs, tasks = job
    for number in range(4):
        step = ask(runs[number % 2], Kind.PAUSE)
        assert ask(runs[1], Kind.SET, f'{{"name":"lr","value":{number + 1}}}') == step
        ask(runs[0], Kind.RESUME)
    step = ask(runs[1], Kind.STOP)
    assert ray.get(tasks, timeout=60) == [step, step]
    assert outs[0].read_text() == outs[1].read_text() != ""


def test_a_relay_that_is_killed_is_started_again_by_a_command(job: tuple[list[Path], list[Path], list[Any]]) -> None:
    runs, _, tasks = job
    assert len(relays(runs)) == 2
    for process in relays(runs):
        process.kill()
        process.wait(10)
    env = os.environ | {"SPARK_FAST_HOME": str(runs[1].parent), "PYTHONPATH": str(ROOT)}
    hosts.ring(runs[0])
    until(lambda: hosts.folder.ring(runs[0]), "the other host's relay is there", 60.0)

    def stop() -> bool:
        command = [sys.executable, "-m", "spark_fast", "stop", "job"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        return done.returncode == 0

    until(stop, "the command stops the job", 120.0)
    steps = ray.get(tasks, timeout=60)
    assert steps[0] == steps[1]


def test_an_actor_that_is_gone_is_a_store_that_is_gone(cluster: Cluster) -> None:
    from spark_fast.hosts.ray import RayStore

    address = f"{cluster.address}/{ray.get_runtime_context().namespace}/test"
    with pytest.raises(StoreGoneError):
        RayStore(address, 5.0)
    RayStore.serve(address)
    store = RayStore(address, 30.0)
    assert store.get("a") is None
    assert store.compare_set("a", None, b"1") == b"1" == store.compare_set("a", None, b"2")
    assert store.compare_set("a", b"1", b"2") == b"2" == store.wait("a", 1.0)
    store.delete("a")
    assert store.wait("a", 0.1) is None
    ray.kill(ray.get_actor("test", ray.get_runtime_context().namespace))
    with pytest.raises(StoreGoneError):
        store.get("a")
