"""Ray on two nodes: Ray Train, and actors of one's own."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from spark_fast import client, hosts
from tests.support.child import ALL, Child, until
from tests.support.ray_cluster import TWO_NODES, Ray, running

START = 300.0
"""Seconds in which workers start, on a machine that does much else."""
TIMEOUT = 60.0

pytestmark = [pytest.mark.hosts, pytest.mark.tier("all"), pytest.mark.timeout(1200)]  # needs Ray


@pytest.fixture(scope="module")
def started() -> Iterator[Ray]:
    with running(TWO_NODES, ["home0", "home1"], SPARK_FAST_HOSTS_BOUND="30") as ray:
        yield ray


@pytest.fixture
def ray(started: Ray, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Ray:
    started.enter(monkeypatch, tmp_path)
    return started


class Job:
    """A job of two ranks, one on each node, as it is seen from both. folder: where LEARNING lies."""

    def __init__(self, ray: Ray, monkeypatch: pytest.MonkeyPatch, driver: Child, name: str, folder: Path) -> None:
        self.hurry = folder / "hurry"
        self._ray = ray
        self._monkeypatch = monkeypatch
        self._driver = driver
        self._name = name

    def _look(self, but: set[int]) -> list[client.Run] | None:
        assert self._driver.process.poll() is None, "the driver has ended"
        found = []
        for node in range(2):
            self._ray.at(node, self._monkeypatch)
            try:
                run = client.attach(self._name)
            except client.NoSuchRunError:
                return None
            ready = [rank for rank in run.ranks if rank.status.live and rank.step > 0 and rank.pid not in but]
            if len(ready) < 2:
                return None
            found.append(run)
        return found

    def runs(self, but: set[int] = frozenset()) -> list[client.Run]:  # type: ignore[assignment]
        """The run on each node, once both tell of two ranks that pass checkpoints, none of them with these pids."""
        try:
            found = until(lambda: self._look(but), "two ranks on either node", START)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._driver.out}{self._driver.err}") from None
        assert found is not None
        return found


def applied(request: client.Request) -> int:
    assert request.fate.state == "applied", request
    assert request.fate.step is not None
    return request.fate.step


def waited(job: Job, runs: list[client.Run], request: client.Request) -> int:
    """The step at which both ranks have done a pause or a stop.

    The ranks share no work, and one that starts late, or comes back, counts from 0: it may be thousands of steps
    behind. Once the other has acted, the step is decided, and the one that is behind goes there without a rest.
    """

    def acted() -> bool:
        here = [rank for run in runs for rank in run.ranks if not rank.told]  # of the others it may be old
        return request.fate.final or any(rank.status in ("paused", "stopped") for rank in here)

    try:
        until(acted, "one rank has done it", TIMEOUT)
        job.hurry.touch()
        request.wait(timeout=TIMEOUT)
    except (AssertionError, client.SparkTimeoutError) as error:
        raise AssertionError(f"{error}\n{tables(runs)}") from None
    finally:
        job.hurry.unlink(missing_ok=True)
    return applied(request)


def tables(runs: list[client.Run]) -> str:
    """What each node says of the ranks, and its relay of itself."""
    found = []
    for run in runs:
        found += [f"{rank.rank} {rank.status} {rank.step} {rank.pid}" for rank in run.ranks]
        log = run.folder / "hosts" / "relay.log"
        found.append(log.read_text() if log.exists() else "no relay has written anything")
    return "\n".join(found)


def pids(runs: list[client.Run]) -> list[int]:
    """By rank."""
    return [rank.pid for rank in sorted(runs[0].ranks, key=lambda rank: rank.rank)]


def steers(job: Job, runs: list[client.Run], lr: float) -> None:
    """Both ranks do at one step what either node is asked for."""
    parked = waited(job, runs, runs[0].pause(wait=False))
    for run in runs:  # a node tells of the other what that has said last
        both = {("paused", parked)}
        until(lambda: {(str(rank.status), rank.step) for rank in run.ranks} == both, f"both parked at {parked}")  # noqa: B023
    assert applied(runs[1].set("lr", lr, timeout=TIMEOUT)) == parked
    assert [run.values["lr"].value for run in runs] == [lr, lr]
    applied(runs[1].resume(timeout=TIMEOUT))


def stopped(job: Job, runs: list[client.Run], asked: client.Run) -> int:
    """The step at which both ranks stop, when one node is asked."""
    step = waited(job, runs, asked.stop(wait=False))
    for run in runs:
        assert run.wait("stopped", timeout=TIMEOUT) == "stopped"
        assert run.step == step
    return step


LEARNING = """
import os
import time
import spark_fast as spark

HURRY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hurry")


def learn():
    state = spark.expose(lr=0.1)
    try:
        while True:
            spark.checkpoint()
            if not os.path.exists(HURRY):
                time.sleep(0.01)
    except spark.SparkStopError as stop:
        return stop.step, state.lr
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a driver's script lies, with the module that its workers import."""
    (tmp_path / "learning.py").write_text(LEARNING)
    return tmp_path


TRAIN = """
import sys
from ray.train import RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer  # TorchTrainer would import PyTorch each time

from learning import learn


def train(config):
    from spark_fast.integrations import ray as spark_ray
    spark_ray.run(learn)


for _ in range(int(sys.argv[2])):
    DataParallelTrainer(
        train,
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="arms", storage_path=sys.argv[1]),
    ).fit()
"""


@pytest.mark.parametrize("starts", [2 if ALL else 1])
def test_the_workers_of_ray_train_on_two_nodes_are_one_job_and_the_next_of_that_name_is_another(
    ray: Ray, folder: Path, monkeypatch: pytest.MonkeyPatch, starts: int
) -> None:
    with Child(folder, TRAIN, str(folder / "kept"), str(starts), name=None) as driver:
        job = Job(ray, monkeypatch, driver, "arms", folder)
        runs = job.runs()
        steers(job, runs, 0.2)
        first = pids(runs)
        stopped(job, runs, runs[1])
        if starts == 2:
            runs = job.runs(but=set(first))
            assert [run.values["lr"].value for run in runs] == [0.1, 0.1]
            stopped(job, runs, runs[0])
        assert driver.ended(START) == 0, driver.err


ACTORS = """
import ray
from learning import learn


@ray.remote(max_restarts=1, max_task_retries=1)
class Trainer:
    def train(self, rank):
        from spark_fast.integrations import ray as spark_ray
        spark_ray.configure(rank=rank, world_size=2, job="mine", run="actors")
        return spark_ray.run(learn)


ray.init()
for _ in range(2):
    trainers = [Trainer.options(resources={f"node{rank}": 1}).remote() for rank in range(2)]
    for result in [trainer.train.remote(rank) for rank, trainer in enumerate(trainers)]:
        try:
            print(ray.get(result), flush=True)
        except ray.exceptions.ActorDiedError:
            print("dead", flush=True)
"""


def actors(what: str, ray: Ray) -> Iterator[psutil.Process]:
    """The processes of such actors of this Ray."""
    for process in psutil.process_iter(["cmdline"]):
        if f"::{what}" in str(process.info) and process.environ().get("HOME") == str(ray.homes[0].parent):
            yield process


def relay(run: client.Run, ray: Ray) -> psutil.Process:
    """That of the run's node: an actor, or a process that a command has started."""
    home = str(run.folder.parent)
    of_node = [process for process in actors("RelayActor", ray) if process.environ()["SPARK_FAST_HOME"] == home]
    others = [each for each in psutil.process_iter(["cmdline"]) if str(run.folder) in (each.info["cmdline"] or ())]
    return (others or of_node)[0]


def joined(run: client.Run) -> str:
    """What tells the store in which the run's node has joined the others last."""
    return str(json.loads((run.folder / "hosts" / "note.json").read_text())["store"])


def test_actors_on_two_nodes_are_one_job_which_outlives_its_store_its_relays_and_its_first_rank(
    ray: Ray, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Child(folder, ACTORS, name=None) as driver:
        job = Job(ray, monkeypatch, driver, "actors", folder)
        runs = job.runs()
        steers(job, runs, 0.2)
        before = [joined(run) for run in runs]
        for process in actors("Table", ray):
            process.kill()  # as if its node had died; that of the test before may be there still
        until(lambda: all(joined(run) not in before for run in runs), "all have joined in the new store", TIMEOUT)
        steers(job, runs, 0.25)
        for run in runs:
            process = relay(run, ray)
            process.kill()
            process.wait(TIMEOUT)
            hosts.ring(run.folder)  # as a command on the node would
        steers(job, runs, 0.3)
        first = pids(runs)
        step = stopped(job, runs, runs[1])

        # The next start of the job: nothing that was asked for before is there. A rank that dies comes back.
        runs = job.runs(but=set(first))
        assert [run.values["lr"].value for run in runs] == [0.1, 0.1]
        killed = pids(runs)[0]
        os.kill(killed, signal.SIGKILL)
        runs = job.runs(but={killed})
        assert pids(runs)[1] not in first
        steers(job, runs, 0.4)

        # Now it is dead for good.
        os.kill(pids(runs)[0], signal.SIGKILL)
        run = runs[1]
        until(lambda: [str(rank.status) for rank in run.ranks if rank.rank == 0] == ["lost"], "rank 0 is lost", TIMEOUT)
        parked = applied(run.pause(timeout=TIMEOUT))
        assert (run.status, run.step) == ("paused", parked)
        applied(run.set("lr", 0.5, timeout=TIMEOUT))
        last = applied(run.stop(timeout=TIMEOUT))
        assert driver.ended(START) == 0, driver.err
    told = [line for line in driver.out.splitlines() if line.startswith(("(", "dead"))]  # of Ray's own there is more
    assert told == [str((step, 0.3))] * 2 + ["dead", str((last, 0.5))]


MEETING = """
import ray
from spark_fast.hosts.ray import NAMESPACE
from spark_fast.hosts.ray_rendezvous import Meeting


@ray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)
class Rank:
    def come(self, rank, timeout=60.0):
        from spark_fast.hosts.ray_rendezvous import meet
        try:
            return meet("test", rank, 2, timeout)[0]
        except TimeoutError as error:
            return str(error)


def on(node):
    return Rank.options(resources={f"node{node}": 0.01}).remote()


def start(*nodes):
    ranks = [on(node) for node in nodes]
    first, second = ray.get([each.come.remote(rank) for rank, each in enumerate(ranks)])
    assert first == second
    return *ranks, first


def there(store):
    try:
        return bool(ray.get_actor(store.split("/")[2], NAMESPACE))
    except ValueError:
        return False


ray.init()
options = {"name": "test", "namespace": NAMESPACE, "max_concurrency": 100}
meeting = ray.remote(num_cpus=0)(Meeting).options(**options).remote("test", 0.5)

one, two, store = start(0, 0)
assert not there(store), "ranks that share a node need none"

# Others come while these live: the job is started once more.
three, four, other = start(0, 0)
assert other != store

# The same actor, which Ray has restarted.
ray.kill(four, no_restart=False)
assert ray.get(four.come.remote(1)) == other

# Another one that stands in for one that is dead, and one that nobody waits for.
ray.kill(three)
five = on(0)
assert ray.get(five.come.remote(0)) == other
assert ray.get(on(0).come.remote(0, 1.0)) == "not all have come in 1 s"

# All of them are dead: who comes is no stand-in.
ray.kill(four)
ray.kill(five)
six, seven, store = start(0, 1)
assert there(store) and store != other

# Nobody may come to share a node with one that does not know of it.
ray.kill(six)
assert "on another node" in ray.get(on(1).come.remote(0))
assert ray.get(on(0).come.remote(0)) == store
"""


def test_who_comes_to_a_meeting_belongs_to_this_start_of_the_job_or_to_the_next(ray: Ray, tmp_path: Path) -> None:
    with Child(tmp_path, MEETING, name=None) as driver:
        assert driver.ended(START) == 0, driver.err


STORE = """
import time
import ray
from spark_fast.hosts.ray import NAMESPACE, RayStore, Table
from spark_fast.hosts.store import StoreGoneError


def raises(error, function, *arguments):
    try:
        function(*arguments)
    except error:
        return True
    return False


@ray.remote(num_cpus=0)
class Worker:
    def serve(self, address):
        RayStore.serve(address)

    def myself(self):
        return ray.get_runtime_context().current_actor


ray.init()
address = f"{ray.get_runtime_context().gcs_address}/{NAMESPACE}/test store"
assert raises(StoreGoneError, RayStore, address, 5.0)
worker = Worker.remote()
ray.get(worker.serve.remote(address))
ray.kill(worker)  # the store does not need who has made it
store = RayStore(address, 30.0)
assert store.get("a") is None
assert store.compare_set("a", None, b"1") == b"1" == store.compare_set("a", None, b"2")
assert store.compare_set("a", b"1", b"2") == b"2" == store.wait("a", 1.0)
store.set("b", b"3")
assert store.get_many(["a", "b", "c"]) == [b"2", b"3", None] == store.wait_many(["a", "b", "c"], 0.1)
assert store.wait_many(["a", "b"], 60.0) == [b"2", b"3"]
store.delete("a", "b")
assert store.wait("a", 0.1) is None is store.get("b")
ray.kill(ray.get_actor("test store", NAMESPACE))
end = time.monotonic() + 60
while not raises(StoreGoneError, store.get, "a"):
    assert time.monotonic() < end, "the kill takes effect"

worker = Worker.remote()
options = {"name": "short", "namespace": NAMESPACE, "lifetime": "detached"}
table = ray.remote(num_cpus=0)(Table).options(**options).remote([ray.get(worker.myself.remote())], 0.2)
ray.get(table.set.remote("a", b"1"))
end = time.monotonic() + 1
while time.monotonic() < end:  # a worker lives
    assert not raises(ValueError, ray.get_actor, "short", NAMESPACE)
    time.sleep(0.05)
del worker  # what the store has does not keep it
end = time.monotonic() + 60
while not raises(ValueError, ray.get_actor, "short", NAMESPACE):
    assert time.monotonic() < end
    time.sleep(0.05)
"""


def test_a_store_outlives_who_made_it_and_ends_when_no_worker_lives_and_nobody_calls_it(
    ray: Ray, tmp_path: Path
) -> None:
    with Child(tmp_path, STORE, name=None) as driver:
        assert driver.ended(START) == 0, driver.err


def test_a_worker_goes_to_no_store_outside_of_its_cluster_and_believes_no_unsigned_place() -> None:
    from spark_fast.hosts.ray_rendezvous import checked, signed

    key = b"k" * 32
    workers = [(node, signed(key, rank, node)) for rank, node in enumerate(("a", "b"))]
    store = "10.0.0.1:6379/spark_fast/store:x"
    assert checked((store, workers), key, "10.0.0.1:6379") == (store, ["a", "b"])
    for forged in ("10.0.0.2:6379/spark_fast/store:x", "10.0.0.1:6379/other/store:x", "10.0.0.1:63790/spark_fast/x"):
        for known in (key, None):
            with pytest.raises(TimeoutError, match="outside of this cluster"):
                checked((forged, workers), known, "10.0.0.1:6379")
    for rank, node, signature in ((0, "b", workers[0][1]), (1, "b", b""), (1, "b", signed(b"o" * 32, 1, "b"))):
        with pytest.raises(TimeoutError, match=f"rank {rank} has another secret"):
            checked(
                (store, [(node, signature) if each == rank else workers[each] for each in (0, 1)]), key, "10.0.0.1:6379"
            )
    with pytest.raises(TimeoutError, match="rank 0 has another secret"):
        checked((store, [("a", signed(key, 1, "a")), workers[1]]), key, "10.0.0.1:6379")
    assert checked((store, [("a", b""), ("b", b"")]), None, "10.0.0.1:6379")[1] == ["a", "b"]
