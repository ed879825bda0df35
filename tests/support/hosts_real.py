"""Jobs of several hosts on one machine. Each host has a home, a worker and a relay; the hosts share a store."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from spark_fast import _core, hosts
from spark_fast.hosts.messages import Fate
from spark_fast.request import Kind
from spark_fast.runfiles.run_folder import new_id
from tests.support.child import until

SECRET = "the secret of the tests' jobs"

STORE = """
import sys, time
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore(sys.argv[1], int(sys.argv[2]), None, True, timedelta(seconds=30), wait_for_workers=False)
print(store.port, flush=True)
time.sleep(1e6)
"""

WORKER = """
import os, sys, time
import spark_fast as spark
from spark_fast._core import worker

state = spark.expose(lr=0.0, where=lambda: worker.step())
log = open(sys.argv[1], "w", buffering=1)
spark.on_pause(lambda: print("paused", worker.step(), file=log))
lr = 0.0
try:
    while True:
        spark.checkpoint()
        if state.lr != lr:
            lr = state.lr
            print("set", worker.step(), lr, file=log)
        time.sleep(float(os.environ.get("TEST_STEP", "0.002")))
except spark.SparkStopError as error:
    print("stopped", error.step, file=log)
"""
"""Logs the steps at which it parks, gets a value, and stops."""


@contextmanager
def store(address: str = "127.0.0.1", prefix: Sequence[str] = ()) -> Iterator["Server"]:
    """Serve a store in its own process. prefix: the beginning of the command."""
    server = Server(address, prefix)
    try:
        yield server
    finally:
        server.kill()


class Server:
    """The process that serves a TCPStore."""

    def __init__(self, address: str, prefix: Sequence[str] = (), port: int = 0) -> None:
        command = [*prefix, sys.executable, "-c", STORE, address, str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.address = f"tcp://{address}:{self.port}/test"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


class Host:
    """One host of a job, with its home and a worker of one rank. prefix: the beginning of its commands."""

    def __init__(
        self, folder: Path, rank: int, world: int, address: str, *, prefix: Sequence[str] = (), **env: str
    ) -> None:
        folder.mkdir()
        self.rank = rank
        self.home = folder / "home"
        self.run = self.home / "job"
        self.out = folder / "out"
        self.err = folder / "err"
        self.prefix = list(prefix)
        self.env = os.environ | {
            "SPARK_FAST_HOME": str(self.home),
            "SPARK_FAST_RUN": "job",
            "SPARK_FAST_STORE": address,
            "SPARK_FAST_SECRET": SECRET,
            "SPARK_FAST_HOSTS_BOUND": "10",  # for a busy machine
            "RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(1024 + rank),
            **env,
        }
        self.script = folder / "worker.py"
        self.script.write_text(textwrap.dedent(WORKER))
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [*self.prefix, sys.executable, str(self.script), str(self.out)]
        with self.err.open("ab") as err:
            return subprocess.Popen(command, env=self.env, stdin=subprocess.DEVNULL, stderr=err)

    def start_again(self, **env: str) -> None:
        """Kill the worker and start another one of the same rank, as a launcher does when it restarts a single rank."""
        self.process.kill()
        self.process.wait()
        self.env |= env
        self.process = self._start()

    # --- its actions ---

    def lines(self, what: str) -> list[list[str]]:
        """Return the lines that the worker wrote: "paused", "set" or "stopped", and the step."""
        text = self.out.read_text() if self.out.exists() else ""
        return [line.split() for line in text.splitlines() if line.startswith(what)]

    def slot(self) -> dict[str, Any]:
        fd = os.open(self.run / "control", os.O_RDONLY)
        try:
            return _core.read_slot(fd, 0)
        finally:
            os.close(fd)

    @property
    def step(self) -> int:
        return int(self.slot()["step"])

    def relay(self) -> psutil.Process | None:
        """Return the host's relay; None if it has none."""
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if words[1:4] == ["-P", "-m", "spark_fast.hosts"] and words[-1] == str(self.run):
                return process
        return None

    def joined(self) -> bool:
        """Return whether the host's relay has taken its place in the job."""
        return bool(self.joined_store())

    def joined_store(self) -> str:
        """Return the identity of the store, or the session, that the relay joined last; empty if it has joined none."""
        note = self.run / "hosts" / "note.json"
        return str(json.loads(note.read_text())["store"]) if note.exists() else ""

    def kill_relay(self) -> None:
        process = self.relay()
        if process is not None:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                process.wait(10)

    # --- requests ---

    def leave(self, kind: Kind, **more: Any) -> int:
        ident = new_id()
        hosts.ask(self.run, kind, ident, sender="test", **more)
        return ident

    def ask(self, kind: Kind, timeout: float = 30.0, **more: Any) -> Fate:
        ident = self.leave(kind, **more)
        fate = hosts.wait(self.run, ident, timeout)
        assert fate is not None, f"no fate in {timeout} s: {self.said()}"
        return fate

    def said(self) -> str:
        log = self.run / "hosts" / "relay.log"
        return self.err.read_text() + (log.read_text() if log.exists() else "no relay has written anything")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.kill_relay()


@contextmanager
def job(folder: Path, count: int, address: str, **env: str) -> Iterator[list[Host]]:
    """Yield the hosts of a job, once all their relays have joined."""
    found = [Host(folder / f"host{rank}", rank, count, address, **env) for rank in range(count)]
    try:
        for host in found:
            until(host.joined, f"host {host.rank} takes its place")
        yield found
    finally:
        for host in found:
            host.end()


def parked_together(found: Sequence[Host]) -> int:
    """Return the step at which all hosts are parked, after asserting that it is the same step."""

    def steps() -> set[int]:
        return {int(host.lines("paused")[-1][1]) for host in found if host.lines("paused")}

    until(lambda: all(host.slot()["state"] == 3 for host in found), "all are parked")
    assert len(steps()) == 1, [host.lines("paused") for host in found]
    time.sleep(0.05)
    assert {host.step for host in found} == steps()
    return steps().pop()
