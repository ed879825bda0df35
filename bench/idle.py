"""The cost of a step without a request, beside its twins and beside what people use instead."""

import dis
import mmap
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import spark_fast as spark
from bench.measure import Case, interleave, median, net, ratio
from bench.peers import EMPTY, ITEMS, Absent, Peer, open_peers
from bench.twins import twin
from spark_fast._core import worker

__all__ = ["INTERVALS", "Idle", "Rounds", "check_counts", "core_cases", "how_it_is_called", "kinds_of_call", "measure"]

INTERVALS: dict[str, float | None] = {"0": 0.0, "1e-3": 1e-3, "None": None}
"""Yield intervals, as they are written in the tables."""

THROUGH_MODULE = "spark.checkpoint()"


@dataclass
class Rounds:
    """ns a step of each case in each round."""

    found: dict[str, list[float]]

    def cost(self, name: str, twin: str = EMPTY.name) -> float:
        """Return the cost of `name` beyond its twin, in ns: the median of the rounds."""
        return median(net(self.found[name], self.found[twin]))

    def ratio(self, name: str, other: str, twin: str = EMPTY.name) -> float:
        """Return the cost of `name` divided by that of `other`, both beyond the twin: the median of the rounds."""
        base = self.found[twin]
        return ratio(net(self.found[name], base), net(self.found[other], base))


@dataclass
class Idle:
    """The core cases in a process that never had a second thread; all cases in one that had; the peers."""

    alone: Rounds
    rounds: Rounds
    peers: list[Peer]
    absent: list[Absent]


def _yielding(interval: float | None) -> Callable[[], None]:
    return lambda: spark.configure(yield_interval=interval)


def kinds_of_call() -> dict[str, Callable[[], object]]:
    """Return an empty function of each kind of callable that Cython makes."""
    empty = twin.Empty()
    return {
        "method": empty.empty,
        "method with a keyword": empty.empty_keyword,
        "method, binding=True": empty.empty_cyfunction,
        "module function": twin.function,
        "module function with a keyword": twin.function_keyword,
        "module function, binding=True": twin.cyfunction,
    }


def how_it_is_called(function: Callable[[], object]) -> str:
    """The instruction that CPython has put into a loop that calls it: an adaptive one if it found none for it."""

    def loop() -> None:
        for _ in range(1000):
            function()

    loop()
    loop()
    names = [step.opname for step in dis.get_instructions(loop, adaptive=True)]
    # Of two calls the second is the one in the loop. Python 3.11 rewrites the instruction before CALL.
    calls = [name for name in names if name.startswith("PRECALL")] or [
        name for name in names if name.startswith("CALL")
    ]
    return calls[1]


def core_cases() -> list[Case]:
    """Return the calls whose ratios have targets, all called through a local name, and their twins."""
    every_call = _yielding(0.0)

    def call(name: str, function: Callable[[], object], before: Callable[[], None] = every_call) -> Case:
        return Case(name, "call()", {"function": function}, setup="call = function", before=before)

    empty = twin.Empty()
    items = range(ITEMS)
    mapped = mmap.mmap(-1, 1)
    event = threading.Event()
    persist, found = spark.persist, {"bench": 1}.get
    persist("bench", object)
    return [
        EMPTY,
        call("empty method, GIL released", empty.empty_nogil),
        *(call(name, function) for name, function in kinds_of_call().items()),
        *(
            call(f"checkpoint, yield {label}", spark.checkpoint, _yielding(interval))
            for label, interval in INTERVALS.items()
        ),
        call("pending", spark.pending),
        call("threading.Event.is_set, local", event.is_set),
        Case("mmap[0], local", "mapped[0]", {"m": mapped}, setup="mapped = m"),
        Case("a bare loop", "for _ in items: pass", {"items": items}, steps=ITEMS),
        Case("track", "for _ in track(items): pass", {"track": spark.track, "items": items}, steps=ITEMS),
        Case("track, key", "for _ in track(items, key='k'): pass", {"track": spark.track, "items": items}, steps=ITEMS),
        call("persist", lambda: persist("bench", object)),
        call("a dict behind a function", lambda: found("bench")),
    ]


def _as_users_call_it() -> list[Case]:
    names = {"spark": spark}
    return [
        *(
            Case(f"{THROUGH_MODULE}, yield {label}", THROUGH_MODULE, names, before=_yielding(interval))
            for label, interval in INTERVALS.items()
        ),
        Case("spark.pending()", "spark.pending()", names),
    ]


def check_counts(calls: int = 1000) -> None:
    """Check that this process is an attached worker, and that checkpoint() and track() count steps."""
    assert worker.attached(), "this process is the worker of a run"
    for interval in INTERVALS.values():
        spark.configure(yield_interval=interval)
        before = worker.step()
        for _ in range(calls):
            spark.checkpoint()
        assert worker.step() == before + calls, "each checkpoint counts one step"
    for items in (spark.track(range(calls)), spark.track(range(calls), key="counted")):
        before = worker.step()
        assert sum(1 for _ in items) == calls
        assert worker.step() == before + calls + 1, "track() passes a checkpoint for each item, and one at the end"
    assert spark.pending() is False


def _check_yields() -> None:
    """Check that checkpoint() yields the GIL as `yield_interval` says."""
    # With a switch interval of an hour, another thread runs only when this one yields the GIL by itself.
    switch = sys.getswitchinterval()
    sys.setswitchinterval(3600.0)
    try:
        for label, interval in INTERVALS.items():
            assert _lets_go(interval) is (interval is not None), f"yield_interval={label} does what it says"
    finally:
        sys.setswitchinterval(switch)


def _lets_go(interval: float | None, seconds: float = 30.0) -> bool:
    """Return whether another thread gets the GIL. At a single yield that is a matter of luck, so there are many."""
    ran = False

    def other() -> None:
        nonlocal ran
        begin.acquire()
        ran = True

    begin = threading.Lock()
    begin.acquire()
    thread = threading.Thread(target=other)
    thread.start()
    spark.configure(yield_interval=interval)
    end = time.monotonic() + (0.2 if interval is None else seconds)
    begin.release()
    while not ran and time.monotonic() < end:
        for _ in range(1000):
            spark.checkpoint()
    found = ran
    thread.join()
    return found


def measure(*, rounds: int, seconds: float) -> Idle:
    """Measure all cases. To be called in the worker of a run that never had a second thread."""
    check_counts()
    core = core_cases()
    before = worker.step()
    alone = interleave(core, rounds=rounds, seconds=seconds)
    _check_yields()  # starts threads: from here on the C library's locks cost what they cost in most trainings
    with open_peers() as (peers, absent):
        cases = {case.name: case for case in (*core, *_as_users_call_it())}
        for peer in peers:
            cases.setdefault(peer.case.name, peer.case)
            cases.setdefault(peer.twin.name, peer.twin)
        found = interleave(list(cases.values()), rounds=rounds, seconds=seconds)
    calls = rounds * 2  # each batch is many calls
    assert worker.attached() and worker.step() > before + calls, "the run was attached, and its steps counted"
    check_counts()
    spark.configure(yield_interval=0.0)
    return Idle(Rounds(alone), Rounds(found), peers, absent)
