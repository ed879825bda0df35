"""Requests to jobs of several hosts: round trips over real relays, and the load of a thousand hosts on the store."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bench.homes import environment
from bench.hosts_model import Costs, StandStill, stand_still
from spark_fast import hosts
from spark_fast.hosts.store import Store, open_store
from spark_fast.hosts.tcp import TcpStore
from spark_fast.request import Kind
from spark_fast.runfiles import run_folder
from tests.support.hosts_sim import SimClient, SimJob

__all__ = ["Hosts", "Many", "RoundTrip", "measure"]

_SERVER = """
import sys, time
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), wait_for_workers=False)
print(store.port, flush=True)
sys.stdin.read()
"""
_WORKER = """
import time
import spark_fast as spark
state = spark.expose(lr=0.0)
try:
    while True:
        spark.checkpoint()
        time.sleep(0.001)
except spark.SparkStopError:
    pass
"""


@dataclass(frozen=True)
class RoundTrip:
    """Requests to a job of so many real hosts, each with its own relay, on one machine, steps of 1 ms.

    Attributes:
        hosts: how many.
        set_running: ns from asking for a value to be set until it is known that all hosts have, while they run.
        set_parked: the same while they are parked.
        pause: ns from asking for a pause until it is known that all are parked.
        resume: ns from asking for a resume until it is known that all run.
        relay_bytes: resident memory of a relay.
    """

    hosts: int
    set_running: list[int]
    set_parked: list[int]
    pause: list[int]
    resume: list[int]
    relay_bytes: int


@dataclass(frozen=True)
class Many:
    """One request to so many simulated hosts, whose relays' calls go to a real store, one after the other.

    Attributes:
        hosts: how many.
        calls: to the store.
        store_ns: time spent in them.
        thread_ns: time that the store's thread took for them.
    """

    hosts: int
    calls: int
    store_ns: int
    thread_ns: int


@dataclass(frozen=True)
class Hosts:
    """Attributes:
    trips: over real hosts.
    many: over simulated ones.
    get_ns, swap_ns: one call to the store from one relay, by median.
    costs: of the store's thread, by which the model goes.
    stands: how long ranks stand still, as modelled.
    torch: the version of PyTorch, whose store it is.
    """

    trips: list[RoundTrip]
    many: list[Many]
    get_ns: int
    swap_ns: int
    costs: Costs
    stands: list[StandStill]
    torch: str


class Served(NamedTuple):
    """A store in a process of its own.

    Attributes:
        address: as open_store() takes it.
        pid: of the process.
    """

    address: str
    pid: int

    def thread_ns(self) -> int:
        """Return the time that its threads have run, of which only the store's does anything."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


@contextmanager
def _served() -> Iterator[Served]:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield Served(f"tcp://127.0.0.1:{int(server.stdout.readline())}", server.pid)
        finally:
            server.kill()


def _until(run: Path, ident: int) -> None:
    while (fate := hosts.fate(run, ident)) is None:
        time.sleep(0.0002)
    assert fate.state == "applied", fate


def _ask(run: Path, kind: Kind, value: float | None = None) -> int:
    ident = run_folder.new_id()
    began = time.perf_counter_ns()
    hosts.ask(run, kind, ident, mail="" if value is None else json.dumps({"name": "lr", "value": value}))
    _until(run, ident)
    return time.perf_counter_ns() - began


def _round_trips(folder: Path, address: str, count: int, rounds: int) -> RoundTrip:
    script = folder / "worker.py"
    script.write_text(_WORKER)
    runs, processes, relays = [], [], []
    try:
        for rank in range(count):
            home = folder / f"home{count}-{rank}"
            env = environment(home) | {
                "SPARK_FAST_RUN": "job", "SPARK_FAST_STORE": f"{address}/bench{count}",
                "SPARK_FAST_SECRET": "the secret of the benchmark",
                "RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0",
                "LOCAL_WORLD_SIZE": "1", "SPARK_FAST_JOB": f"bench{count}-{rank}",
            }  # fmt: skip
            processes.append(subprocess.Popen([sys.executable, str(script)], env=env))
            runs.append(home / "job")
        for run in runs:
            while not (run / "hosts" / "note.json").exists():
                time.sleep(0.01)
        relays = [
            process
            for process in psutil.process_iter(["cmdline"])
            if (process.info["cmdline"] or [])[2:4] == ["-m", "spark_fast.hosts"]
            and process.info["cmdline"][-1] in map(str, runs)
        ]
        running, parked, paused, resumed = [], [], [], []
        for number in range(rounds):
            asked = runs[number % count]
            running.append(_ask(asked, Kind.SET, number))
            paused.append(_ask(asked, Kind.PAUSE))
            parked.append(_ask(asked, Kind.SET, number + 0.5))
            resumed.append(_ask(asked, Kind.RESUME))
        memory = max(process.memory_info().rss for process in relays)
        _ask(runs[0], Kind.STOP)
        return RoundTrip(count, running, parked, paused, resumed, memory)
    finally:
        for process in processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        psutil.wait_procs(relays, 30)  # they write into the folder until their end


class _Timed(SimClient):
    """The connection of a simulated host. It makes each call to a real store, too."""

    real: Store
    spent = 0

    def _timed(self, method: str, *arguments: Any) -> Any:
        began = time.perf_counter_ns()
        found = getattr(self.real, method)(*arguments)
        _Timed.spent += time.perf_counter_ns() - began
        assert found == getattr(super(), method)(*arguments)
        return found

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._timed("get", key)
        return found

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = self._timed("get_many", keys)
        return found

    def set(self, key: str, value: bytes) -> None:
        self._timed("set", key, value)

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        found: bytes = self._timed("compare_set", key, expected, desired)
        return found

    def waited(self, keys: Sequence[str]) -> list[bytes | None]:
        began = time.perf_counter_ns()
        found = self.real.wait_many(keys, 0.001)  # a request to wait, and one to read
        _Timed.spent += time.perf_counter_ns() - began
        assert found == super().waited(keys)
        return found

    def delete(self, *keys: str) -> None:
        self._timed("delete", *keys)


def _many(served: Served, count: int) -> Many:
    with closing(open_store(f"{served.address}/many{count}", 30.0)) as real:
        _Timed.real = real
        job = SimJob(1, count, 1, client=_Timed)
        job.run(0.5)
        host = job.hosts[0]
        for _ in range(2):  # until the first request the hosts do not know each other
            calls, thread_ns, _Timed.spent = job.store.calls, served.thread_ns(), 0
            ident = job.ask(host, Kind.SET)
            job.run(30.0, lambda: ident in host.fates)  # noqa: B023
            assert host.fates[ident][0].state == "applied"
            job.run(0.1)  # the hosts remove what they no longer need
        job.check()
        return Many(count, job.store.calls - calls, _Timed.spent, served.thread_ns() - thread_ns)


def _calls(address: str, count: int) -> tuple[int, int]:
    with closing(open_store(f"{address}/calls", 30.0)) as store:
        store.set("a", b"x" * 200)
        gets, swaps = [], []
        for number in range(count):
            began = time.perf_counter_ns()
            store.get("a")
            between = time.perf_counter_ns()
            store.compare_set(f"n{number}", None, b"x" * 200)
            gets.append(between - began)
            swaps.append(time.perf_counter_ns() - between)
    return sorted(gets)[count // 2], sorted(swaps)[count // 2]


def _costs(served: Served, count: int) -> Costs:
    """Measure the time of the store's thread for the requests of so many connections."""

    def taken(times: int, work: Callable[[], object]) -> float:
        began = served.thread_ns()
        work()
        return (served.thread_ns() - began) / times / 1e9

    with ExitStack() as stack:
        place = f"{served.address.removeprefix('tcp://')}/costs"
        stores = [stack.enter_context(closing(TcpStore(place, 30.0))) for _ in range(count)]
        keys = [f"b/{number}" for number in range(count)]
        value = b"x" * 60
        stores[0].set("a", value)
        answered = taken(count, lambda: [store.get("a") for store in stores])
        # Once the answers are here, the store's thread has handled all of them.
        pairs = list(zip(stores, keys, strict=True))
        put = taken(count, lambda: [(store.set(key, value), store.get("a")) for store, key in pairs]) - answered
        key = taken(count, lambda: stores[0].get_many(keys))
        end = time.monotonic() + 30.0
        woken = taken(count, lambda: [store._wait(["a"], end) for store in stores]) - put
    return Costs(answered, put, woken, key)


def measure(*, quick: bool) -> Hosts:
    """Measure all of it, in half a minute."""
    rounds = 5 if quick else 40
    with tempfile.TemporaryDirectory() as folder, _served() as served:
        trips = [_round_trips(Path(folder), served.address, count, rounds) for count in (2, 3)]
        many = [_many(served, count) for count in ((10, 100) if quick else (10, 100, 1000))]
        costs = _costs(served, 50 if quick else 300)
        get_ns, swap_ns = _calls(served.address, 500 if quick else 5000)
    stands = [stand_still(count, costs) for count in ((10, 100) if quick else (10, 100, 1000))]
    return Hosts(trips, many, get_ns, swap_ns, costs, stands, version("torch"))


if __name__ == "__main__":
    print(measure(quick="--quick" in sys.argv))
