"""Requests to jobs of several hosts: round trips over real relays, and what a thousand hosts ask of the store."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil

from bench.homes import environment
from spark_fast import hosts, run_folder
from spark_fast.hosts.store import Store, open_store
from spark_fast.request import Kind
from tests.hosts_sim import SimClient, SimJob

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
    """

    hosts: int
    calls: int
    store_ns: int


@dataclass(frozen=True)
class Hosts:
    """Attributes:
    trips: over real hosts.
    many: over simulated ones.
    get_ns, swap_ns: one call to the store from one relay, by median.
    torch: the version of PyTorch, whose store it is.
    """

    trips: list[RoundTrip]
    many: list[Many]
    get_ns: int
    swap_ns: int
    torch: str


@contextmanager
def _served() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        try:
            yield f"tcp://127.0.0.1:{int(server.stdout.readline())}"
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
    runs, processes = [], []
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


class _Timed(SimClient):
    """A simulated host's connection, each call of which is made to a real store too."""

    real: Store
    spent = 0

    def get(self, key: str) -> bytes | None:
        began = time.perf_counter_ns()
        found = self.real.get(key)
        _Timed.spent += time.perf_counter_ns() - began
        assert found == super().get(key)
        return found

    def set(self, key: str, value: bytes) -> None:
        began = time.perf_counter_ns()
        self.real.set(key, value)
        _Timed.spent += time.perf_counter_ns() - began
        super().set(key, value)

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        began = time.perf_counter_ns()
        found = self.real.compare_set(key, expected, desired)
        _Timed.spent += time.perf_counter_ns() - began
        assert found == super().compare_set(key, expected, desired)
        return found


def _many(address: str, count: int) -> Many:
    with closing(open_store(f"{address}/many{count}", 30.0)) as real:
        _Timed.real = real
        job = SimJob(1, count, 1, client=_Timed)
        job.run(0.5)
        calls, _Timed.spent = job.store.calls, 0
        host = job.hosts[0]
        ident = job.ask(host, Kind.SET)
        job.run(30.0, lambda: ident in host.fates)
        assert host.fates[ident][0].state == "applied"
        job.check()
        return Many(count, job.store.calls - calls, _Timed.spent)


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


def measure(*, quick: bool) -> Hosts:
    """All of it; half a minute."""
    rounds = 5 if quick else 40
    with tempfile.TemporaryDirectory() as folder, _served() as address:
        trips = [_round_trips(Path(folder), address, count, rounds) for count in (2, 3)]
        many = [_many(address, count) for count in ((10, 100) if quick else (10, 100, 1000))]
        get_ns, swap_ns = _calls(address, 500 if quick else 5000)
    return Hosts(trips, many, get_ns, swap_ns, version("torch"))


if __name__ == "__main__":
    print(measure(quick="--quick" in sys.argv))
