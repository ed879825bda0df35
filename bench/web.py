"""The cost of the web server while pages show a thousand active runs, and the time to open a run."""

import json
import os
import random
import select
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench.homes import environment, home
from bench.processes import child

__all__ = ["Looked", "Web", "measure"]

PROCESSES = 10
"""Processes that hold the runs: each may have only so many files open."""
SETTLE = 10.0
"""Seconds after which the server has seen all runs, and the memory of each."""


@dataclass(frozen=True)
class Looked:
    """The server, while so many pages look.

    Attributes:
        pages: how many.
        each: whether each also looks at a run of its own in full.
        cores: the share of a CPU that the server used.
        events: events that a page got in a second.
    """

    pages: int
    each: bool
    cores: float
    events: float


@dataclass(frozen=True)
class Web:
    """All that was found.

    Attributes:
        runs: live ones, each at another step ten times a second.
        looked: the twin, a server that no page looks at, first.
        values, steps: of the run that was opened: how many, and how often each was assigned.
        opened: seconds in which the answers came to all that a page asks then, each time.
        fresh: the same of the twin, a run that has assigned each of as many values once.
    """

    runs: int
    looked: list[Looked]
    values: int
    steps: int
    opened: list[float]
    fresh: list[float]


@contextmanager
def _server(folder: Path) -> Iterator[tuple[int, int, str]]:
    """Start a server. Return its process id, its port and its token."""
    command = [sys.executable, "-m", "spark_fast", "ui", "--port", "0"]
    process = subprocess.Popen(command, env=environment(folder), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().strip())
        assert address.port is not None
        yield process.pid, address.port, address.fragment.partition("=")[2]
    finally:
        process.terminate()
        process.communicate()


def _get(port: int, token: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


class _Pages:
    """Reads the server's streams as its pages do, in a thread, and counts the events."""

    def __init__(self, port: int, token: str, runs: list[str | None]) -> None:
        self.events = 0
        self._over = threading.Event()
        self._lines = [_listen(port, token, run) for run in runs]
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._over.is_set():
            for line in select.select(self._lines, [], [], 0.2)[0]:
                self.events += line.recv(1 << 20).count(b"event: runs")

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        for line in self._lines:
            line.close()


def _listen(port: int, token: str, run: str | None) -> socket.socket:
    line = socket.create_connection(("127.0.0.1", port))
    query = "" if run is None else f"?run={run}"
    head = f"GET /api/stream{query} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n\r\n"
    line.sendall(head.encode())
    return line


def _look(folder: Path, pages: int, each: bool, seconds: float) -> Looked:
    with _server(folder) as (pid, port, token):
        names = [run["id"] for run in json.loads(_get(port, token, "/api/runs"))["runs"]]
        looking = _Pages(port, token, [names[number] if each else None for number in range(pages)])
        try:
            time.sleep(SETTLE)
            events, began, before = looking.events, time.monotonic(), _cpu_time(pid)
            time.sleep(seconds)
            took = time.monotonic() - began
            cores = (_cpu_time(pid) - before) / took
            told = (looking.events - events) / took / max(1, pages)
        finally:
            looking.close()
        states = {run["status"] for run in json.loads(_get(port, token, "/api/runs"))["runs"]}
        assert states == {"running"}, f"the runs are {states}"
        assert told > 0.2 or not pages, "the pages were told nothing"
    return Looked(pages, each, cores, told)


def _cpu_time(pid: int) -> float:
    """Return the CPU seconds of all threads of a process."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _opened(values: int, steps: int, rounds: int) -> tuple[list[float], list[float]]:
    order = random.Random(1)
    with (
        home() as folder,
        child(folder, "expose", str(values), str(steps)) as long,
        child(folder, "expose", str(values), "1") as fresh,
        _server(folder) as (_, port, token),
    ):
        runs = {run["ranks"][0]["pid"]: run["id"] for run in json.loads(_get(port, token, "/api/runs"))["runs"]}
        found: dict[int, list[float]] = {long.pid: [], fresh.pid: []}
        for _ in range(rounds):
            for pid in order.sample(list(found), 2):
                took, courses = _open(port, token, runs[pid])
                found[pid].append(took)
                assert len(courses) == values
                for course in courses.values():
                    many = len(course["steps"]) > 500 and course["steps"][-1] >= steps * 0.9
                    assert many if pid == long.pid else len(course["steps"]) <= 2, "the course is that of its run"
    return found[long.pid], found[fresh.pid]


def _open(port: int, token: str, run: str) -> tuple[float, dict[str, Any]]:
    """Asks for what the page of a run asks for, one after the other; the seconds, and the courses of all values."""
    began = time.perf_counter()
    values = json.loads(_get(port, token, f"/api/runs/{run}"))["values"]
    query = "&".join(f"name={value['name']}" for value in values)
    courses: dict[str, Any] = json.loads(_get(port, token, f"/api/runs/{run}/history?{query}"))["history"]
    for other in ("journal", "versions"):
        json.loads(_get(port, token, f"/api/runs/{run}/{other}"))
    return time.perf_counter() - began, courses


def measure(*, runs: int = 1000, quick: bool = False) -> Web:
    """Measure several servers, one after the other, over the same runs, and one over a run with long histories."""
    seconds = 5.0 if quick else 20.0
    with ExitStack() as stack:
        folder = stack.enter_context(home())
        for _ in range(PROCESSES):
            stack.enter_context(child(folder, "crowd", str(runs // PROCESSES)))
        looked = [_look(folder, *kind, seconds) for kind in ((0, False), (1, False), (20, False), (20, True))]
    values, steps = 50, 10_000 if quick else 1_000_000
    return Web(runs, looked, values, steps, *_opened(values, steps, 3 if quick else 11))
