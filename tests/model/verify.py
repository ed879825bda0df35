"""Searches the models of the agreement with SPIN, size by size: what holds must hold, and what is broken must fail.

`make verify` runs all of it, `--quick` the part that the tests run. Needs `spin` and a C compiler. Every search is
exhaustive for its size: it is an error if one ends early, for want of memory or depth.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
MEMORY_KIB = 3 * 1024 * 1024  # of one search; two run at a time
DEPTH = 10_000
PARALLEL = 2

AGREEMENT = "agreement.pml"

# What each assertion of the models says, by a piece of it, as SPIN prints it.
MEANINGS = {
    "acted[applied]==step": "two ranks apply a request at different steps",
    "done&": "a rank applies a request twice",
    "acted[applied]==12": "one rank applies a request that another skips",
    "lost[sender": "a request is made void, and its sender lives",
    "target[e]>=before": "a request is aimed before the one before it",
    ">=before_target": "a request is aimed before the one before it",
    "park>step": "a parked rank is aimed at behind its park",
    "applied==tail": "a rank sleeps for ever, and there is something for it",
    "&&pending": "a rank runs past a request that it forgot",
    "assertion violated 0": "somebody waits for ever",
    "non-progress cycle": "somebody goes round for ever",
}


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search: a model, its size, and what it has to find."""

    name: str
    model: str = AGREEMENT
    size: dict[str, int]
    broken: tuple[str, ...] = ()  # the variant, as the model names it
    fails: bool = False
    cycles: bool = False  # also that no run goes round for ever
    quick: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    states: int
    depth: int
    seconds: float
    violated: str  # empty if everything holds


class IncompleteError(Exception):
    """A search that says nothing."""


def _kinds(*names: str) -> int:
    """A set of kinds of requests, as the model takes it."""
    order = ("pause", "pause at", "resume", "stop", "reload", "advance", "set")
    return sum(1 << order.index(name) for name in names)


# fmt: off
HOLD = [
    Search(name="2 ranks, 2 requests", size={"RANKS": 2, "REQUESTS": 2, "LAST": 3}),
    Search(name="2 ranks, 2 requests, one dies", size={"RANKS": 2, "REQUESTS": 2, "LAST": 2, "DEATHS": 1}, quick=True),
    Search(name="2 parked ranks, 2 requests, one dies",
           size={"RANKS": 2, "REQUESTS": 2, "LAST": 2, "DEATHS": 1, "PARKED": 1}, quick=True),
]

SMALL = {"RANKS": 2, "REQUESTS": 2, "LAST": 3}
SMALL_DEATHS = {"RANKS": 2, "REQUESTS": 2, "LAST": 2, "DEATHS": 1}

BROKEN = [
    Search(name="target is the largest step, not the next", size=SMALL, broken=("TARGET_MAX",), fails=True, quick=True),
    Search(name="steps are read before every word is set", size=SMALL, broken=("STEPS_FIRST",), fails=True, quick=True),
    Search(name="step stored after the word is loaded", size=SMALL, broken=("STEP_LATE",), fails=True, quick=True),
    Search(name="word left clear after the recheck of the tail", size=SMALL, broken=("NO_SET_AGAIN", "NO_SET_AHEAD"),
           fails=True, quick=True),
    Search(name="tail not read again", size=SMALL, broken=("NO_RECHECK",), fails=True, quick=True),
    Search(name="parked ranks not woken", size=SMALL, broken=("NO_WAKE",), fails=True, quick=True),
    Search(name="the kernel does not compare the word", size=SMALL, broken=("WAIT_BLIND",), fails=True, quick=True),
    Search(name="parked ranks aimed at behind their park", size=SMALL, broken=("NO_PARK_CLAMP",), fails=True,
           quick=True),
    Search(name="voided without a look at the lock", size=SMALL, broken=("NO_LOCK_ASKED",), fails=True, quick=True),
    Search(name="target stored, not swapped", size=SMALL, broken=("TARGET_STORED",), fails=True, quick=True),
    Search(name="applied by whoever meets it", size=SMALL, broken=("APPLIED_AT_ONCE",), fails=True, quick=True),
    Search(name="no order of targets", size=SMALL_DEATHS, broken=("NO_ORDER_CLAMP",), fails=True, quick=True),
    Search(name="an orphan left to the next sender", size=SMALL_DEATHS, broken=("NO_VOID_LAST",), fails=True,
           quick=True),
    Search(name="a parked rank never looks around", size=SMALL_DEATHS, broken=("NO_SLICES",), fails=True, quick=True),
]

# Two precautions make up for each other; both stand in the code.
SPARE = [
    Search(name="word not set again by the recheck alone", size=SMALL, broken=("NO_SET_AGAIN",)),
    Search(name="word not set ahead of a target alone", size=SMALL, broken=("NO_SET_AHEAD",)),
]
# fmt: on

ALL = [*HOLD, *SPARE, *BROKEN]


def run(search: Search) -> Found:
    """Makes the searching program of one model and size, and runs it. Raises IncompleteError."""
    defines = [f"-D{name}={value}" for name, value in search.size.items()] + [f"-D{name}" for name in search.broken]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        _call(["spin", "-a", *defines, str(HERE / search.model)], folder)
        how = "-DNP" if search.cycles else "-DSAFETY"
        _call(["cc", "-O2", "-w", how, "-DNOREDUCE", "-DCOLLAPSE", "-o", "pan", "pan.c"], folder)
        # A hash table of 2^25 slots fits the larger searches; what is expected to fail is found long before.
        pan = ["./pan", f"-m{DEPTH}", "-w20" if search.fails else "-w25", *(["-l"] if search.cycles else [])]
        text = _call(["sh", "-c", f'ulimit -v {MEMORY_KIB} && exec "$@"', "sh", *pan], folder)
    return _read(search, text, time.monotonic() - began)


def _call(command: list[str], folder: str) -> str:
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise IncompleteError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-2000:]}")
    return done.stdout


def _read(search: Search, text: str, seconds: float) -> Found:
    counts = {}
    for what, pattern in {
        "errors": r"errors: (\d+)",
        "depth": r"depth reached (\d+)",
        "states": r"(\d+) states, stored",
    }.items():
        match = re.search(pattern, text)
        if match is None:
            raise IncompleteError(f"{search.name}: no {what} in\n{text[-2000:]}")
        counts[what] = int(match[1])
    found = re.search(r"^pan:1: (.*) \(at depth", text, re.MULTILINE)
    violated = found[1] if counts["errors"] and found else ""
    if not violated and counts["errors"]:
        raise IncompleteError(f"{search.name}: errors, and none told in\n{text[-2000:]}")
    if not violated and re.search(r"max search depth too small|Search not completed|out of memory|MEMLIM", text):
        raise IncompleteError(f"{search.name}: the search ended early\n{text[-2000:]}")
    return Found(states=counts["states"], depth=counts["depth"], seconds=seconds, violated=_meaning(violated))


def _meaning(violated: str) -> str:
    for piece, meaning in MEANINGS.items():
        if violated and piece in violated:
            return meaning
    return violated


def verdict(search: Search, found: Found) -> tuple[bool, str]:
    """Whether the search found what it had to, and what it found in words."""
    if found.violated:
        return search.fails, found.violated
    return not search.fails, "holds" if not search.fails else "HOLDS, and should not"


def run_all(searches: list[Search]) -> Iterator[tuple[Search, Found]]:
    """The results, in the order of the list."""
    with ThreadPoolExecutor(min(PARALLEL, os.cpu_count() or 1)) as pool:
        yield from zip(searches, pool.map(run, searches), strict=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="only what the tests run")
    searches = [search for search in ALL if search.quick or not parser.parse_args().quick]
    failures = 0
    print(f"{'configuration':<56} {'states':>11} {'depth':>6} {'time':>6}  verdict", flush=True)
    for search, found in run_all(searches):
        right, words = verdict(search, found)
        failures += not right
        print(
            f"{search.name:<56} {found.states:>11,} {found.depth:>6} {found.seconds:>4.0f} s  "
            f"{'' if right else 'WRONG: '}{words}",
            flush=True,
        )
    if failures:
        print(f"{failures} of {len(searches)} searches did not find what they had to")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
