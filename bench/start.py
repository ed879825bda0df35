"""The time of the import, and of the list of a thousand runs."""

import json
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import spark_fast
from bench.homes import environment, home
from bench.measure import median
from bench.processes import child, result
from spark_fast.runfiles import run_folder

__all__ = ["Import", "List", "measure_import", "measure_list"]

_IMPORT = """
import sys, time
sys.path.append({root!r})
began = time.perf_counter_ns()
import {modules}
took = time.perf_counter_ns() - began
print(took)
"""
_LOADED = """
import sys
sys.path.append({root!r})
before = set(sys.modules)
import spark_fast
print(*[name for name in sys.modules if name not in before])
"""
JSON_TWIN = "json"


@dataclass
class Import:
    """ns that an import takes in a fresh interpreter, in each round.

    Attributes:
        modules: the standard modules that a plain `import spark_fast` loads.
        own: the modules of spark_fast that it loads.
        spark, standard, nothing, json: ns.
    """

    modules: list[str]
    own: list[str]
    spark: list[int]
    standard: list[int]
    json: list[int]

    @property
    def ratio(self) -> float:
        """The ratio to the import of the same standard modules: the median of the rounds."""
        return median(mine / theirs for mine, theirs in zip(self.spark, self.standard, strict=True))


def _python(code: str) -> str:
    # Isolated and without site: the interpreter loads as little as possible by itself, so that no module that
    # spark_fast needs is there by chance.
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    return done.stdout


def measure_import(rounds: int) -> Import:
    """Measure each import in a fresh interpreter, in random order in each round."""
    root = str(Path(spark_fast.__file__).parent.parent)
    loaded = _python(_LOADED.format(root=root)).split()
    own = [name for name in loaded if name.partition(".")[0] == "spark_fast"]
    # A module stands in sys.modules after those that it imports. So the last ones bring all others.
    modules = [name for name in reversed(loaded) if name.partition(".")[0] in sys.stdlib_module_names]
    found = Import(modules, own, [], [], [])
    kinds = {"spark_fast": found.spark, ", ".join(modules): found.standard, JSON_TWIN: found.json}
    for code in kinds:
        _python(_IMPORT.format(root=root, modules=code))  # compiles the modules that have no bytecode yet
    order = random.Random(1)
    for _ in range(rounds):
        for code in order.sample(list(kinds), len(kinds)):
            kinds[code].append(int(_python(_IMPORT.format(root=root, modules=code))))
    return found


@dataclass
class List:
    """Seconds that `spark-fast ps --json` takes, in each round.

    Attributes:
        runs: how many there are.
        live: how many of the mixed ones live.
        none: of an empty home.
        ended: of runs that have all ended.
        mixed: of as many, some of them live.
    """

    runs: int
    live: int
    none: list[float]
    ended: list[float]
    mixed: list[float]


def _fill(folder: Path, runs: int) -> None:
    """Fill a home with copies of one ended run, each under a name of its own."""
    one = folder / str(result(folder, "once")["run"])
    about = json.loads((one / run_folder.ABOUT).read_text())
    for number in range(1, runs):
        name = f"bench-{number}"
        copy = folder / name
        copy.mkdir(0o700)
        shutil.copy(one / run_folder.CONTROL, copy)
        (copy / run_folder.ABOUT).write_text(json.dumps(about | {"id": name}))


def _list(folder: Path, expected: int) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "spark_fast", "ps", "--json"],
        env=environment(folder),
        stdout=subprocess.PIPE,
        check=True,
        timeout=120,
    )
    took = time.perf_counter() - began
    listed = len(json.loads(done.stdout))
    assert listed == expected, f"ps lists {listed} runs of {expected}"
    return took


def measure_list(*, runs: int, live: int, rounds: int) -> List:
    """Measure `ps` over three homes, in random order in each round."""
    found = List(runs, live, [], [], [])
    with home() as empty, home() as ended, home() as mixed:
        _fill(ended, runs)
        _fill(mixed, runs - live)
        with child(mixed, "live", str(live)):
            kinds = [(empty, 0, found.none), (ended, runs, found.ended), (mixed, runs, found.mixed)]
            for folder, expected, _ in kinds:
                _list(folder, expected)
            order = random.Random(1)
            for _ in range(rounds):
                for folder, expected, times in order.sample(kinds, len(kinds)):
                    times.append(_list(folder, expected))
    return found
