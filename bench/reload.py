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

__all__ = ["Modules", "Reload", "Saved", "Saves", "Under", "measure"]

LIMIT = 30.0

_UNSEEN = 2.0
"""Seconds after which an edit counts as not seen: twenty times the time of the slowest peer."""

# Each training spins for steps of a millisecond, and records when an edited step runs.
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
        took: of each edit but the first.
        first: of the first edit of each training, which loads what a reload needs.
        unseen: trainings that did not see an edit.
    """

    name: str
    version: str
    took: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    unseen: int = 0


@dataclass
class Saves:
    """One way to save a file.

    Attributes:
        way: `written in place`, or `renamed into place`: written under another name beside it, as many editors do.
        ours, peers: who was measured.
    """

    way: str
    ours: Saved
    peers: list[Saved]


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
    """All figures of reloads."""

    saves: list[Saves]
    modules: list[Modules]
    under: Under


@contextmanager
def _started(command: list[str], folder: Path, ready: memoryview) -> Iterator[None]:
    """Run a training beside the block, once it has made a step."""
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
    assert _within(LIMIT, done), what


def _within(seconds: float, done: Callable[[], bool]) -> bool:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)
    return True


def _seen(shared: memoryview, edit: int) -> bool:
    return _within(_UNSEEN, lambda: shared[0] == edit)


def _write_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def _rename_into_place(path: Path, text: str) -> None:
    other = path.with_name(f".{path.name}.new")
    other.write_text(text)
    other.replace(path)


_WAYS = {"written in place": _write_in_place, "renamed into place": _rename_into_place}


def _measure_saves(edits: int, rounds: int) -> list[Saves]:
    """Run in each round one training after the other, in random order, so that each has the machine for itself."""
    python = str(Path(sys.executable).parent)
    order = random.Random(1)
    found = []
    kinds = []
    for way, save in _WAYS.items():
        ours = Saved("spark-fast run --watch", version("spark-fast"))
        jurigged = Saved("jurigged", version("jurigged"))
        reloading = Saved("reloading's loop", version("reloading"))
        found.append(Saves(way, ours, [jurigged, reloading]))
        kinds += [
            (ours, save, _OURS, [sys.executable, "-m", "spark_fast", "run", "--watch"]),
            (jurigged, save, _JURIGGED, [f"{python}/jurigged"]),
            (reloading, save, _RELOADING, [sys.executable]),
        ]
    mine = [saves.ours for saves in found]
    with tempfile.TemporaryDirectory(prefix="spark-fast-bench-") as name, home_to_control() as home:
        folder = Path(name)
        words = folder / "words"
        words.write_bytes(bytes(4096))
        with words.open("r+b") as file:
            shared = memoryview(mmap.mmap(file.fileno(), 4096)).cast("q")
        for _ in range(rounds):
            for saved, save, code, command in order.sample(kinds, len(kinds)):
                own = any(saved is each for each in mine)
                script = folder / "train.py"
                source = code.format(words=str(words))
                script.write_text(source)
                with _started([*command, str(script)], home, shared):
                    time.sleep(1.0)  # a watcher of files is ready only some time after the first step
                    for edit in range(1, edits + 2):
                        text = source.replace("edit = 0", f"edit = {edit}")
                        time.sleep(0.1 + order.random() / 20)
                        began = time.monotonic_ns()
                        save(script, text)
                        if not _seen(shared, edit):
                            assert not own, f"edit {edit} runs"
                            saved.unseen += 1
                            break
                        took = shared[1] - began
                        assert took > 0
                        (saved.took if edit > 1 else saved.first).append(took)
                    if own:
                        _until(lambda: client.attach().version == edits + 2, "each edit was one reload")
    return found


def _project(folder: Path, words: Path, count: int, *, shared: bool) -> Path:
    """Write a script that records which edit it runs, and how many modules that edit has executed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    _edit(folder, 0)
    for number in range(count):
        (folder / f"part{number}.py").write_text(
            ("import edited\nedited.executed += 1\n" if shared else "")
            + f"class Part{number}:\n    def one(self):\n        return {number}\n    def two(self, x):\n"
            "        return 2 * x\ndef function(a, b=2):\n    return a + b\n"
        )
    imports = "".join(f"import part{number}\n" for number in range(count))
    loop = 'for number in spark.track(range(10**12), key="number"):\n    pass\n'
    begin = _BEGIN.format(words=str(words)) + "words[0], words[1] = edited.VALUE, edited.executed\n"
    (folder / "train.py").write_text(f"import spark_fast as spark\nimport edited\n{imports}{begin}{loop}")
    return folder / "train.py"


def _edit(folder: Path, value: int) -> None:
    (folder / "edited.py").write_text(f"VALUE = {value}\nexecuted = 0\ndef value():\n    return VALUE\n")


def _measure_modules(count: int, rounds: int, *, shared: bool) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="spark-fast-bench-") as name, home_to_control() as home:
        path = Path(name) / "words"
        path.write_bytes(bytes(4096))
        with path.open("r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), 4096)).cast("q")
        script = _project(Path(name) / "project", path, count, shared=shared)
        process = subprocess.Popen(
            [sys.executable, "-m", "spark_fast.worker", "run", str(script)],
            env=environment(home) | {"SPARK_FAST_JOURNAL": "off"},
            stdin=subprocess.DEVNULL,
        )
        try:
            _until(lambda: any(run.step > 100 for run in client.runs()), "it trains")
            run = client.attach()
            took = []
            for edit in range(1, rounds + 2):
                _edit(script.parent, edit)
                time.sleep(0.02)  # senders read a file twice that was changed less than this time ago
                began = time.perf_counter()
                request = run.reload(timeout=LIMIT)
                took.append(time.perf_counter() - began)
                assert request.fate.state == "applied" and request.version == edit + 1, request.fate
                assert words[0] == edit and words[1] == (count if shared else 0), "it executed what it was to execute"
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
                step = result(home, "step", runner=how == "run")
                assert step["reloader"] is (how == "run"), "the runner has a reloader, or has none"
                kinds[how].append(float(step["ns"]))
    return under


def measure(*, quick: bool) -> Reload:
    """Measure all of it, in some three minutes, or one if it is to be quick."""
    saves = _measure_saves(10, 1 if quick else 5)
    rounds = 5 if quick else 20
    modules = [
        Modules(
            count,
            _measure_modules(count, rounds, shared=True),
            _measure_modules(count, rounds, shared=False),
        )
        for count in (1, 20, 200)
    ]
    return Reload(saves, modules, _measure_under(3 if quick else 15))
