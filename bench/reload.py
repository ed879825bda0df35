"""New code: from a file's save to its first step, beside what people use instead; and reloads of many modules."""

import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bench.homes import environment, home_to_control
from bench.processes import result
from spark_fast import client

__all__ = ["Modules", "Reload", "Saved", "Under", "measure"]

LIMIT = 30.0

# Each training spins for a step of a millisecond, and writes down when a step runs that was edited.
_BEGIN = """
import mmap, sys, time
with open({words!r}, "r+b") as file:
    words = memoryview(mmap.mmap(file.fileno(), 4096)).cast("q")
"""
_STEP = """
    edit = 0
    if words[0] != edit:
        words[1] = time.monotonic_ns()
        words[0] = edit
    end = time.monotonic_ns() + 1_000_000
    while time.monotonic_ns() < end:
        pass
"""
_OURS = "import spark_fast as spark" + _BEGIN + "def step():" + _STEP
_OURS += 'for number in spark.track(range(10**9), key="number"):\n    step()\n'
_JURIGGED = _BEGIN + "def step():" + _STEP + "while True:\n    step()\n"
_RELOADING = "from reloading import reloading" + _BEGIN + "for number in reloading(range(10**9)):" + _STEP


@dataclass
class Saved:
    """ns from just before a file's save to the first step of the new code.

    Attributes:
        name, version: what reloads.
        took: of each edit.
    """

    name: str
    version: str
    took: list[int] = field(default_factory=list)


@dataclass
class Modules:
    """Seconds from asking for a reload to its fate.

    Attributes:
        count: modules of the project, beside the script and the one that is edited.
        shared: of an edit in a module that all others import, so that all are executed.
        alone: of one that only the script imports.
    """

    count: int
    shared: list[float]
    alone: list[float]


@dataclass
class Under:
    """ns that an idle checkpoint costs, under plain Python and under `spark-fast run`, in each round."""

    plain: list[float]
    run: list[float]


@dataclass
class Reload:
    """All of it."""

    ours: Saved
    peers: list[Saved]
    modules: list[Modules]
    under: Under


@contextmanager
def _started(command: list[str], folder: Path, ready: memoryview) -> Iterator[None]:
    """A training beside the block, once it has made a step."""
    ready[0] = -1
    process = subprocess.Popen(
        command,
        cwd=Path(command[-1]).parent,  # jurigged watches the files there
        env=environment(folder) | {"SPARK_FAST_RUN": "bench", "SPARK_FAST_JOURNAL": "off"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until(lambda: ready[0] == 0 or process.poll() is not None, f"{command} makes a step")
        if process.poll() is not None:
            raise RuntimeError(f"{command!r} ended with {process.returncode}")
        yield
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the supervisor and its worker
        process.wait()


def _until(done: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not done():
        assert time.monotonic() < end, what
        time.sleep(0.0005)


def _measure_saves(edits: int, rounds: int) -> tuple[Saved, list[Saved]]:
    """In each round one training after the other, so that each has the machine for itself; in random order."""
    ours = Saved("spark-fast run --watch", version("spark-fast"))
    jurigged = Saved("jurigged", version("jurigged"))
    reloading = Saved("reloading's loop", version("reloading"))
    python = str(Path(sys.executable).parent)
    order = random.Random(1)
    kinds = [
        (ours, _OURS, [sys.executable, "-m", "spark_fast", "run", "--watch"]),
        (jurigged, _JURIGGED, [f"{python}/jurigged"]),
        (reloading, _RELOADING, [sys.executable]),
    ]
    with tempfile.TemporaryDirectory(prefix="spark-fast-bench-") as name, home_to_control() as home:
        folder = Path(name)
        words = folder / "words"
        words.write_bytes(bytes(4096))
        with words.open("r+b") as file:
            shared = memoryview(mmap.mmap(file.fileno(), 4096)).cast("q")
        for _ in range(rounds):
            for saved, code, command in order.sample(kinds, len(kinds)):
                script = folder / "train.py"
                source = code.format(words=str(words))
                script.write_text(source)
                with _started([*command, str(script)], home, shared):
                    time.sleep(1.0)  # what watches files is ready only some time after the first step
                    for edit in range(1, edits + 2):
                        text = source.replace("edit = 0", f"edit = {edit}")
                        time.sleep(0.1 + order.random() / 20)
                        began = time.monotonic_ns()
                        script.write_text(text)
                        _until(lambda wanted=edit: shared[0] == wanted, f"{saved.name} runs edit {edit}")
                        if edit > 1:  # the first loads what a reload needs
                            saved.took.append(shared[1] - began)
                            assert saved.took[-1] > 0
    return ours, [jurigged, reloading]


def _project(folder: Path, count: int, *, shared: bool) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "edited.py").write_text("VALUE = 0\ndef value():\n    return VALUE\n")
    for number in range(count):
        (folder / f"part{number}.py").write_text(
            ("import edited\n" if shared else "")
            + f"class Part{number}:\n    def one(self):\n        return {number}\n    def two(self, x):\n"
            "        return 2 * x\ndef function(a, b=2):\n    return a + b\n"
        )
    imports = "".join(f"import part{number}\n" for number in range(count))
    loop = 'for number in spark.track(range(10**12), key="number"):\n    pass\n'
    (folder / "train.py").write_text(f"import spark_fast as spark\nimport edited\n{imports}{loop}")
    return folder / "train.py"


def _measure_modules(count: int, rounds: int, *, shared: bool) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="spark-fast-bench-") as name, home_to_control() as home:
        script = _project(Path(name) / "project", count, shared=shared)
        process = subprocess.Popen(
            [sys.executable, "-m", "spark_fast.worker", "run", str(script)],
            env=environment(home) | {"SPARK_FAST_JOURNAL": "off"},
            stdin=subprocess.DEVNULL,
        )
        try:
            _until(lambda: any(run.step > 100 for run in client.runs()), "it trains")
            run = client.attach()
            took = []
            for edit in range(rounds + 1):
                (script.parent / "edited.py").write_text(f"VALUE = {edit + 1}\ndef value():\n    return VALUE\n")
                time.sleep(0.02)  # senders read a file again that was written to only now
                began = time.perf_counter()
                request = run.reload(timeout=LIMIT)
                took.append(time.perf_counter() - began)
                assert request.fate.state == "applied" and request.version == edit + 2, request.fate
            return took[1:]  # the first loads what a reload needs
        finally:
            process.kill()
            process.wait()


def _measure_under(rounds: int) -> Under:
    under = Under([], [])
    with home_to_control() as home:
        order = random.Random(1)
        kinds = {"plain": under.plain, "run": under.run}
        for _ in range(rounds):
            for how in order.sample(list(kinds), 2):
                kinds[how].append(float(result(home, "step", runner=how == "run")["ns"]))
    return under


def measure(*, quick: bool) -> Reload:
    """All of it; takes some two minutes, or half of one."""
    ours, peers = _measure_saves(10, 1 if quick else 5)
    rounds = 5 if quick else 20
    modules = [
        Modules(
            count,
            _measure_modules(count, rounds, shared=True),
            _measure_modules(count, rounds, shared=False),
        )
        for count in (1, 20, 200)
    ]
    return Reload(ours, peers, modules, _measure_under(3 if quick else 15))
