"""Exposed values and functions: their cost for the training, the time of a change, and the effect of a flood."""

import mmap
import os
import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from bench.homes import home, home_to_control
from bench.idle import Rounds
from bench.peers import Absent
from bench.processes import child, result
from bench.worker import ANSWER, FLOODING, READ_AT, READ_VALUE, SENT, WORDS
from spark_fast import client
from spark_fast.client.rate_limit import RATE

__all__ = ["Assigning", "Flood", "Logger", "Steering", "Values", "measure"]

STEP, SHORT_STEP = 1e-3, 1e-4
"""Seconds of a step: of the training for the times of a change, and of the one for the flood."""

LIMIT = 30.0

_APART = 1.1 / RATE
"""The least seconds between two requests of one sender. Faster requests would wait for the sender's share, and the
measurement is not about that wait."""
_SETTLING = 0.5
"""Seconds after which a flood has used up its burst, and its requests come one by one."""


@dataclass(frozen=True)
class Logger:
    """A peer: its name, its version, its case, and how it was set up."""

    name: str
    version: str
    case: str
    note: str


@dataclass
class Assigning:
    """ns of an assignment and of a read, and the peers."""

    rounds: Rounds
    peers: list[Logger]
    absent: list[Absent]


@dataclass
class Steering:
    """ns from just before a request is made.

    Attributes:
        set, set_parked: until Run.set() returns, its fate being applied, of a run whose steps take STEP and of one
            that is parked.
        read: until the running loop has read the value.
        call, call_parked: until Run.call() returns.
    """

    set: list[int] = field(default_factory=list)
    set_parked: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    call: list[int] = field(default_factory=list)
    call_parked: list[int] = field(default_factory=list)


@dataclass
class Flood:
    """A training with steps of SHORT_STEP, in each round undisturbed and while another process sets a value in an
    endless loop.

    Attributes:
        quiet, flooded: steps a second.
        cpu_quiet, cpu_flooded: ns on a CPU for each step, with what is done for requests. Other processes that want the
            CPUs disturb it less than the steps a second.
        sent: requests of that process a second.
        set_quiet, set_flooded: ns that Run.set() takes of a third process.
    """

    quiet: list[float] = field(default_factory=list)
    flooded: list[float] = field(default_factory=list)
    cpu_quiet: list[float] = field(default_factory=list)
    cpu_flooded: list[float] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    set_quiet: list[int] = field(default_factory=list)
    set_flooded: list[int] = field(default_factory=list)


@dataclass
class Values:
    """All figures of values and functions."""

    assigning: Assigning
    steering: Steering
    flood: Flood


def measure(*, quick: bool) -> Values:
    """Measure all of it, in some 75 seconds, or 20 if it is to be quick."""
    return Values(
        _measure_assigning(15 if quick else 100, 0.002 if quick else 0.005),
        _measure_steering(*((2, 10) if quick else (10, 10))),
        _measure_flood(2 if quick else 8, 0.7 if quick else 1.0),
    )


def _measure_assigning(rounds: int, seconds: float) -> Assigning:
    with home() as folder:
        found = result(folder, "assign", str(rounds), str(seconds))
    return Assigning(
        Rounds(found["rounds"]),
        [Logger(*each) for each in found["peers"]],
        [Absent(*each) for each in found["absent"]],
    )


@contextmanager
def _shared_words() -> Iterator[tuple[str, memoryview]]:
    """Make a file that several processes map. Return its name and its words."""
    with tempfile.NamedTemporaryFile() as file:
        os.truncate(file.name, WORDS)
        yield file.name, memoryview(mmap.mmap(file.fileno(), WORDS)).cast("q")


def _measure_steering(rounds: int, each: int) -> Steering:
    """Send in each round so many requests of each kind to a running training, and as many to a parked one."""
    found = Steering()
    order = random.Random(1)
    number = 0
    with (
        home_to_control() as folder,
        _shared_words() as (path, words),
        child(folder, "steered", path, str(STEP)),
    ):
        run = client.attach()
        for _ in range(rounds):
            for parked in (False, True):
                if parked:
                    assert run.pause(timeout=LIMIT).fate.state == "applied"
                for is_set in order.sample([True, False] * each, 2 * each):
                    time.sleep(_APART + order.random() * STEP * 2)
                    began = time.monotonic_ns()
                    if not is_set:
                        answer = run.call("answer", spark_timeout=LIMIT)
                        (found.call_parked if parked else found.call).append(time.monotonic_ns() - began)
                        assert answer == ANSWER
                        continue
                    number += 1
                    request = run.set("number", number, timeout=LIMIT)
                    (found.set_parked if parked else found.set).append(time.monotonic_ns() - began)
                    assert request.fate.state == "applied" and run.values["number"].value == number
                    if not parked:
                        found.read.append(_when_read(words, number) - began)
                if parked:
                    assert run.status == "paused"
                    run.resume(timeout=LIMIT)
        run.stop(timeout=LIMIT)
    assert min(found.read) > 0
    return found


def _measure_flood(rounds: int, seconds: float) -> Flood:
    """Measure four spans in each round, in random order: with and without the flood, and each of these with and without
    the requests of a third process."""
    found = Flood()
    order = random.Random(1)
    with (
        home_to_control() as folder,
        _shared_words() as (path, words),
        child(folder, "steady", str(SHORT_STEP)) as training,
        child(folder, "flood", path),
    ):
        run = client.attach()
        for _ in range(rounds):
            for flooding, setting in order.sample([(False, False), (False, True), (True, False), (True, True)], 4):
                words[FLOODING] = flooding
                time.sleep(_SETTLING)
                took = found.set_flooded if flooding else found.set_quiet
                rates = found.flooded if flooding else found.quiet
                cpu = found.cpu_flooded if flooding else found.cpu_quiet
                began, step, sent, used = time.monotonic(), run.step, words[SENT], _cpu_time(training.pid)
                if setting:
                    _set_for_a_while(run, seconds, took, order)
                else:
                    time.sleep(seconds)
                    lasted = time.monotonic() - began
                    steps = run.step - step
                    rates.append(steps / lasted)
                    cpu.append((_cpu_time(training.pid) - used) / steps)
                    if flooding:
                        found.sent.append((words[SENT] - sent) / lasted)
                assert (words[SENT] > sent) is flooding, "the other process sends when it is told to"
        words[FLOODING] = -1
        run.stop(timeout=LIMIT)
    return found


def _cpu_time(pid: int) -> int:
    """Return the ns that a process of one thread has been on a CPU."""
    with open(f"/proc/{pid}/schedstat", encoding="ascii") as file:
        return int(file.read().split()[0])


def _set_for_a_while(run: client.Run, seconds: float, took: list[int], order: random.Random) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(_APART + order.random() * STEP * 2)
        began = time.monotonic_ns()
        fate = run.set("other", order.random(), timeout=LIMIT).fate
        took.append(time.monotonic_ns() - began)
        assert fate.state == "applied"


def _when_read(words: memoryview, number: int) -> int:
    end = time.monotonic() + LIMIT
    while words[READ_VALUE] != number:
        assert time.monotonic() < end, "the loop reads what was set"
        time.sleep(0.0002)
    return words[READ_AT]
