"""The other processes of the benchmark: `python -m bench.worker COMMAND ARGUMENTS`. Each prints one line of JSON."""

import json
import mmap
import os
import resource
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["ANSWER", "FLOODING", "FUTEX", "READ_AT", "READ_VALUE", "SENT", "STAMP", "STATE", "WORDS"]

# Words that the two processes of the wake measurement share.
WORDS = mmap.PAGESIZE
FUTEX, STATE, STAMP = 0, 64, 128
# Words of the trainings of bench/values.py: of eight bytes each, in cache lines of their own.
READ_VALUE, READ_AT, FLOODING, SENT = 0, 1, 8, 16

ANSWER = 42


def wake(path: str, rounds: int) -> dict[str, Any]:
    """Sleep on a bare futex and park at a checkpoint in turn, and record when the process runs again."""
    import spark_fast as spark
    from bench.twins import twin
    from spark_fast._core import worker

    with open(path, "r+b") as file:
        words = mmap.mmap(file.fileno(), WORDS)
    shared = memoryview(words)
    futex, state = twin.Futex(shared[FUTEX : FUTEX + 4]), twin.Futex(shared[STATE : STATE + 4])
    stamp = shared[STAMP : STAMP + 8].cast("q")
    spark.checkpoint()
    assert worker.attached()
    print(json.dumps({"pid": os.getpid()}), flush=True)

    for number in range(1, rounds + 1):
        state.wake(4 * number)
        stamp[0] = futex.wait(2 * number - 2, 60.0)
        state.wake(4 * number + 1)
        futex.wait(2 * number - 1, 60.0)  # now the pause is in the log
        before = worker.step()
        spark.checkpoint()
        stamp[0] = time.monotonic_ns()
        assert worker.step() == before + 1
        state.wake(4 * number + 2)
    state.wait(4 * rounds + 2, 60.0)
    return {"steps": worker.step()}


def park(as_run: bool) -> dict[str, Any]:
    """Pass checkpoints until the run is stopped; or wait for a signal, as the twin."""
    if not as_run:
        print(json.dumps({"pid": os.getpid()}), flush=True)
        signal.pause()
    import spark_fast as spark

    spark.checkpoint()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    try:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    except spark.SparkStopError:
        return {}


def live(count: int) -> dict[str, Any]:
    """Make so many live runs: each is a forked process that has passed a checkpoint."""
    import spark_fast as spark

    children = []
    for _ in range(count):
        ready, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(ready)
            spark.checkpoint()
            os.write(tell, b"x")
            signal.pause()
        os.close(tell)
        children.append(child)
        os.read(ready, 1)
        os.close(ready)
    print(json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.read()  # until the measuring process has finished
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return {}


def crowd(count: int) -> dict[str, Any]:
    """Make so many copies of a run that count as live, and pass ten checkpoints a second.

    This process holds for each the lock by which its worker counts as live, and moves its step on.
    """
    import ctypes
    import fcntl
    import struct

    import spark_fast as spark
    from spark_fast import client
    from spark_fast.runfiles import run_folder

    spark.checkpoint()
    (one,) = (run for run in client.runs() if run.ranks[0].pid == os.getpid())
    source = one.folder / run_folder.CONTROL
    flock = "hhqqi"
    with source.open("rb") as file:
        asked = struct.pack(flock, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        # The lock of a rank is at the offset of its slot. The step is the second field of the slot.
        _, _, start, length, _ = struct.unpack(flock, fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked))
        content = file.read()
    about = json.loads((one.folder / run_folder.ABOUT).read_text())
    kept, steps = [], []
    for number in range(1, count):
        folder = one.folder.parent / f"{one.id}-{number}"
        folder.mkdir(0o700)
        (folder / run_folder.CONTROL).write_bytes(content)
        (folder / run_folder.ABOUT).write_text(json.dumps(about | {"id": folder.name}))
        control = os.open(folder / run_folder.CONTROL, os.O_RDWR)
        fcntl.fcntl(control, fcntl.F_OFD_SETLK, struct.pack(flock, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0))
        kept.append(mmap.mmap(control, len(content)))
        steps.append(ctypes.c_uint64.from_buffer(kept[-1], start + 8))
    print(json.dumps({"pid": os.getpid()}), flush=True)
    over = threading.Event()

    def listen() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=listen, daemon=True).start()
    while not over.wait(0.1):
        spark.checkpoint()
        for step in steps:
            step.value += 1
    return {}


def expose(values: int, steps: int) -> dict[str, Any]:
    """Make a run that has assigned so many values so often."""
    import spark_fast as spark

    names = [f"value{number}" for number in range(values)]
    state = spark.expose(dict.fromkeys(names, 0.0))
    for step in range(steps):
        spark.checkpoint()
        for name in names:
            setattr(state, name, 1 / (step + 1))
    print(json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.read()
    return {}


def once() -> dict[str, Any]:
    """Make a run of one step."""
    import spark_fast as spark
    from spark_fast.worker import create_controller

    spark.checkpoint()
    return {"run": create_controller().run}


def step() -> dict[str, Any]:
    """Measure an idle checkpoint beyond an empty method, in batches in turn."""
    import spark_fast as spark
    from bench.measure import Case, interleave
    from bench.twins import twin
    from spark_fast._core import worker
    from spark_fast.worker import session

    spark.checkpoint()
    assert worker.attached()
    before = worker.step()
    calls = {"checkpoint": spark.checkpoint, "empty": twin.Empty().empty}
    cases = [Case(name, "call()", {"function": call}, setup="call = function") for name, call in calls.items()]
    found = interleave(cases, rounds=50, seconds=0.002)
    assert worker.attached() and worker.step() > before
    costs = [one - other for one, other in zip(found["checkpoint"], found["empty"], strict=True)]
    return {"ns": statistics.median(costs), "reloader": session.current.reloader is not None}


def _map_words(path: str) -> memoryview:
    with open(path, "r+b") as file:
        return memoryview(mmap.mmap(file.fileno(), WORDS)).cast("q")


def steered(path: str, seconds: float) -> dict[str, Any]:
    """Train with steps of so many seconds, and record when a new value is read."""
    import spark_fast as spark

    def answer() -> int:
        return ANSWER

    words = _map_words(path)
    state = spark.expose(number=0, answer=answer)
    length, known = int(seconds * 1e9), 0
    spark.checkpoint()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    try:
        while True:
            spark.checkpoint()
            number = state.number
            if number != known:
                words[READ_AT] = time.monotonic_ns()
                words[READ_VALUE] = known = number
            end = time.monotonic_ns() + length
            while time.monotonic_ns() < end:
                pass
    except spark.SparkStopError:
        return {}


def steady(seconds: float) -> dict[str, Any]:
    """Train with steps of the same work each, of about so many seconds where nothing disturbs them."""
    import spark_fast as spark

    def spin(count: int) -> None:
        for _ in range(count):
            pass

    def timed(count: int) -> float:
        began = time.perf_counter()
        spin(count)
        return time.perf_counter() - began

    count = int(seconds / min(timed(10_000) for _ in range(100)) * 10_000)
    spark.expose(noise=0, other=0.0)
    spark.checkpoint()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    try:
        while True:
            spark.checkpoint()
            spin(count)
    except spark.SparkStopError:
        return {}


def flood(path: str) -> dict[str, Any]:
    """Set a value as often as possible, as long as a shared word says so."""
    from spark_fast import client

    words = _map_words(path)
    run = client.attach()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    while words[FLOODING] >= 0:
        if words[FLOODING]:
            run.set("noise", words[SENT], wait=False)
            words[SENT] += 1
        else:
            time.sleep(0.005)
    return {}


def write(folder: str) -> dict[str, Any]:
    """Keep the disk busy: flush block after block, and at every tenth all that the system holds back."""
    done = 0
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    path = Path(folder) / f"busy-{os.getpid()}"
    block = os.urandom(1 << 20)
    with path.open("wb", buffering=0) as file:
        print(json.dumps({"pid": os.getpid()}), flush=True)
        while not stop.is_set():
            if done % 64 == 0:
                file.seek(0)
            file.write(block)
            os.fsync(file.fileno())
            done += 1
            if done % 10 == 0:
                os.sync()
    path.unlink()
    return {"flushed": done}


def longest(call: str, interval: str, thread: str, calls: int, seconds: float) -> dict[str, Any]:
    """Time each of many calls."""
    import spark_fast as spark
    from bench.idle import INTERVALS
    from bench.twins import twin
    from spark_fast._core import worker

    spark.checkpoint()
    assert worker.attached()
    spark.configure(yield_interval=INTERVALS.get(interval))
    spun = 0
    over = False

    def spin() -> None:
        nonlocal spun
        while not over:
            spun += 1

    other = threading.Thread(target=spin)
    if thread == "busy":
        other.start()
    functions: dict[str, Callable[[], object]] = {
        "checkpoint": spark.checkpoint,
        "empty": twin.Empty().empty,
        "empty_nogil": twin.Empty().empty_nogil,
    }
    function = functions[call]
    watch = twin.Stopwatch()
    lap = watch.lap
    before, used = worker.step(), resource.getrusage(resource.RUSAGE_THREAD)
    began = time.monotonic()
    chunk = min(calls, 10_000)
    while watch.laps < calls and time.monotonic() - began < seconds:
        watch.start()
        for _ in range(chunk):
            function()
            lap()
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_THREAD)
    over = True
    if thread == "busy":
        other.join()
        assert spun > 0
    assert worker.attached()
    assert worker.step() - before == (watch.laps if call == "checkpoint" else 0)
    return {
        "calls": watch.laps,
        "seconds": took,
        "median": watch.percentile(50),
        "p99": watch.percentile(99),
        "p99.9": watch.percentile(99.9),
        "p99.99": watch.percentile(99.99),
        "p99.999": watch.percentile(99.999),
        "longest": watch.longest,
        "faults": after.ru_minflt - used.ru_minflt,
        "blocked": after.ru_nvcsw - used.ru_nvcsw,
        "preempted": after.ru_nivcsw - used.ru_nivcsw,
        "spun": spun,
    }


def main(words: list[str]) -> None:
    """Runs one command."""
    match words:
        case ["wake", path, rounds]:
            found = wake(path, int(rounds))
        case ["park", kind]:
            found = park(kind == "run")
        case ["live", count]:
            found = live(int(count))
        case ["crowd", count]:
            found = crowd(int(count))
        case ["expose", values, steps]:
            found = expose(int(values), int(steps))
        case ["once"]:
            found = once()
        case ["step"]:
            found = step()
        case ["assign", rounds, seconds]:
            from bench.assigning import assign

            found = assign(int(rounds), float(seconds))
        case ["steered", path, seconds]:
            found = steered(path, float(seconds))
        case ["steady", seconds]:
            found = steady(float(seconds))
        case ["flood", path]:
            found = flood(path)
        case ["write", folder]:
            found = write(folder)
        case ["longest", call, interval, thread, calls, seconds]:
            found = longest(call, interval, thread, int(calls), float(seconds))
        case _:
            raise SystemExit(f"no such command: {words}")
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
