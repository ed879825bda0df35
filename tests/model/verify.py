"""Searches the models of the agreement with SPIN, size by size: what holds must hold, and what is broken must fail.

`make verify` runs all but the largest, which `--all` adds, and `--quick` the part that the tests run. Needs `spin` and
a C compiler. Every search is exhaustive for its size, each state compared whole: it is an error if one ends early,
for want of memory or depth.
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
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).parent
MEMORY_KIB = 3 * 1024 * 1024  # of one search; two run at a time
LARGE_KIB = 8 * 1024 * 1024  # of one that runs alone
DEPTH = 10_000
PARALLEL = 2
TAKES = {"--quick": "2 minutes", "": "10 minutes", "--all": "30 minutes"}  # on two cores, or a little less

AGREEMENT = "agreement.pml"
VOTES = "votes.pml"
HOSTS = "hosts.pml"

# What each assertion of the models says, by a piece of it as SPIN prints it: no blanks, constants in place.
MEANINGS = {
    AGREEMENT: {
        "asleep[i]": "two ranks are parked at different steps",
        "==step[_pid]": "two ranks apply a request at different steps",
        "done&": "a rank applies a request twice",
        "acted[applied]==12": "one rank applies a request that another skips as void",
        "lost[sender": "a request is made void, and its sender lives",
        ">=before_target": "a request is aimed before the one before it",
        "park>step": "a parked rank is aimed at behind its park",
        "lock!=0": "a request has no target, and nobody is there to decide it",
        "applied==tail": "a rank sleeps for ever, and there is something for it",
        "&&pending": "a rank has forgotten a request and runs past it",
        "non-progress cycle": "somebody goes round for ever",
    },
    VOTES: {
        "acted[": "two ranks take different decisions for agreed",
        "gone[n]": "a yes is agreed on that a living rank has not said",
        "(pc==": "a rank waits for ever",
        "non-progress cycle": "somebody goes round for ever",
    },
    HOSTS: {
        "decided[at]==step[h]": "a rank runs past the step that was decided",
        "!(acted[": "a rank applies a request twice",
        "last_number[h]<": "a host applies requests in another order than the job's log has",
        "(acted_at[(id-1)]==step[h])": "two hosts apply a request at different steps",
        "fate[(id-1)]!=": "a request is applied although its sender heard that it was not",
        "(i<": "a request stands in the job's log twice",
        "dead[": "a living host does not say what it has to say",
        "log_stop[i]": "a request counts as applied, and a host has not applied it",
        "(pc[h]==": "a sender waits for ever",
        "log[next]==0": "a relay stops before the end of the job's log",
        "!(awaits": "a rank waits for ever",
        "acted_at[n]": "one living host applies a request, and another does not",
        "target[(found": "a relay has passed a request that has no decision",
        "acted_at[": "a sender hears that a request was refused, and a host has applied it",
        "invalid end state": "a relay waits for ever",
        "non-progress cycle": "a relay goes round for ever",
    },
}


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search: a model, its size, and what it has to find."""

    name: str
    size: dict[str, int]  # constants of the model
    model: str = AGREEMENT
    broken: tuple[str, ...] = ()  # the variant, as the model names it
    fails: bool = False  # whether it has to
    cycles: bool = False  # also that no run goes round for ever
    ends: bool = False  # instead: that the coarser moves lose none of the ends that the finer come to
    quick: bool = False
    large: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    states: int
    depth: int
    seconds: float
    violated: str  # empty if everything holds


class IncompleteError(Exception):
    """A search that says nothing."""


KINDS = ("pause", "pause at a step", "resume", "stop", "reload", "advance", "set or call")


def _kinds(*names: str) -> int:
    """A set of kinds of requests, as the model takes it; left out, all are meant."""
    return sum(1 << KINDS.index(name) for name in names)


def _upper(others: dict[str, int]) -> dict[str, int]:
    return {name.upper(): n for name, n in others.items()}


def _size(ranks: int, requests: int, last: int, **others: int) -> dict[str, int]:
    """Of the agreement: `last` is the step at which ranks end."""
    return {"RANKS": ranks, "REQUESTS": requests, "LAST": last} | _upper(others)


def _coarse(ranks: int, requests: int, last: int, **others: int) -> dict[str, int]:
    """The same with the coarser moves that the model argues for."""
    return _size(ranks, requests, last, coarse=1, **others)


HOLD = [
    Search(name="3 ranks, 3 requests", size=_coarse(3, 3, 2)),
    Search(name="3 parked ranks, 3 requests", size=_coarse(3, 3, 2, parked=1)),
    Search(name="3 ranks, 3 requests, one dies", size=_coarse(3, 3, 2, deaths=1), large=True),
    Search(name="3 parked ranks, 3 requests, one dies", size=_coarse(3, 3, 2, deaths=1, parked=1), large=True),
    Search(name="3 ranks, 2 requests, one dies", size=_coarse(3, 2, 2, deaths=1)),
    Search(name="3 parked ranks, 2 requests, one dies", size=_coarse(3, 2, 2, deaths=1, parked=1)),
    Search(name="3 ranks, 2 requests, 3 steps, one dies", size=_coarse(3, 2, 3, deaths=1)),
    Search(name="3 ranks, 2 requests", size=_size(3, 2, 2)),
    Search(name="3 ranks, 1 request, one dies", size=_size(3, 1, 3, deaths=1)),
    Search(name="3 parked ranks, 1 request, one dies", size=_size(3, 1, 3, deaths=1, parked=1)),
    Search(name="2 ranks, 3 requests", size=_size(2, 3, 2)),
    Search(name="2 parked ranks, 3 requests", size=_size(2, 3, 2, parked=1)),
    Search(name="2 ranks, 3 requests, one dies", size=_size(2, 3, 2, deaths=1)),
    Search(name="2 parked ranks, 3 requests, one dies", size=_size(2, 3, 2, deaths=1, parked=1)),
    Search(name="2 ranks, 2 requests", size=_size(2, 2, 3)),
    Search(name="2 ranks, 2 requests, one dies", size=_size(2, 2, 3, deaths=1)),
    Search(name="2 parked ranks, 2 requests, one dies", size=_size(2, 2, 3, deaths=1, parked=1)),
    Search(name="2 ranks, 2 requests, two die", size=_size(2, 2, 2, deaths=2)),
    Search(name="2 ranks, 2 requests, parked ones look at any time", size=_size(2, 2, 2, looks=1)),
    Search(name="2 ranks, 2 requests, one dies: no run without end", size=_size(2, 2, 2, deaths=1), cycles=True),
    Search(name="2 ranks, 1 request, one dies", size=_size(2, 1, 3, deaths=1), quick=True),
    Search(name="2 parked ranks, 1 request, one dies", size=_size(2, 1, 3, deaths=1, parked=1), quick=True),
    Search(name="2 ranks and one that joins, 1 request, one dies", size=_size(3, 1, 2, deaths=1, joins=1)),
    Search(name="1 rank and one that joins, 2 requests", size=_size(2, 2, 3, joins=1)),
    Search(name="1 rank and one that joins, 2 requests, one dies", size=_size(2, 2, 3, deaths=1, joins=1)),
    Search(name="1 rank and one that joins, 1 request, one dies", size=_size(2, 1, 3, deaths=1, joins=1), quick=True),
    Search(name="3 ranks, 1 request, one dies and is replaced", size=_size(3, 1, 2, deaths=1, takes=1)),
    Search(
        name="3 parked ranks, 1 request, one dies and is replaced", size=_size(3, 1, 2, deaths=1, takes=1, parked=1)
    ),
    Search(name="2 ranks, 2 requests, one dies and is replaced", size=_size(2, 2, 3, deaths=1, takes=1)),
    Search(
        name="2 parked ranks, 2 requests, one dies and is replaced", size=_size(2, 2, 3, deaths=1, takes=1, parked=1)
    ),
    Search(name="2 ranks, 1 request, one dies and is replaced", size=_size(2, 1, 2, deaths=1, takes=1), quick=True),
    Search(name="2 ranks, 2 requests: finer and coarser moves come to the same", size=_size(2, 2, 2), ends=True),
    Search(name="the same where one dies", size=_size(2, 2, 2, deaths=1), ends=True),
    Search(name="the same where one dies, parked", size=_size(2, 2, 2, deaths=1, parked=1), ends=True),
    Search(name="the same with 3 ranks, 1 request, where one dies", size=_size(3, 1, 2, deaths=1), ends=True),
    Search(name="the same with 1 request, where one dies", size=_size(2, 1, 2, deaths=1), ends=True, quick=True),
]


def _broken(name: str, *variant: str, **others: int) -> Search:
    return Search(name=name, size=_size(2, 2, 3) | _upper(others), broken=variant, fails=True, quick=True)


BROKEN = [
    _broken("target is the largest step, not the next", "TARGET_MAX"),
    _broken("steps read before every word is set", "STEPS_FIRST"),
    _broken("step stored after the word is loaded", "STEP_LATE"),
    _broken("word left clear after the recheck of the tail", "NO_SET_AGAIN", "NO_SET_AHEAD"),
    _broken("tail not read again", "NO_RECHECK"),
    _broken("parked ranks not woken", "NO_WAKE"),
    _broken("the kernel puts to sleep without a look at the word", "WAIT_BLIND"),
    _broken("parked ranks aimed at behind their park", "NO_PARK_CLAMP"),
    _broken("made void without a look at the lock", "NO_LOCK_ASKED"),
    _broken("target stored, not swapped", "TARGET_STORED"),
    _broken("applied by whoever meets it, at once", "APPLIED_AT_ONCE"),
    _broken("targets in no order", "NO_ORDER_CLAMP", last=2, deaths=1),
    _broken("an orphan left to the next sender as it is", "NO_VOID_LAST", last=2, deaths=1),
    _broken("a parked rank never looks around", "NO_SLICES", last=2, deaths=1),
    _broken("a rank joins without the lock, and voids", "JOIN_UNLOCKED", last=2, joins=1),
    _broken("a rank joins with its word clear", "JOIN_CLEAR", last=2, joins=1),
    _broken("who takes a slot begins where a dead rank stood", "TAKE_STEP_OF_DEAD", last=2, deaths=1, takes=1),
    _broken("who takes a slot begins behind a park", "TAKE_PARKED_AHEAD", last=2, deaths=1, takes=1),
    _broken("who takes a slot applies what was due before", "TAKE_WHAT_IS_DUE", last=2, deaths=1, takes=1),
    _broken("coarser: target is the largest step, not the next", "TARGET_MAX", coarse=1),
    _broken("coarser: step stored after the word is loaded", "STEP_LATE", coarse=1),
    _broken("coarser: word left clear after the recheck", "NO_SET_AGAIN", "NO_SET_AHEAD", coarse=1),
    _broken("coarser: parked ranks not woken", "NO_WAKE", coarse=1),
    _broken("coarser: targets in no order", "NO_ORDER_CLAMP", last=2, coarse=1, deaths=1),
    _broken("coarser: a parked rank never looks around", "NO_SLICES", last=2, coarse=1, deaths=1),
]

# Of two precautions each would do alone; both stand in the code.
SPARE = [
    Search(name="word not set again at the recheck", size=_size(2, 2, 3), broken=("NO_SET_AGAIN",)),
    Search(name="word not set again ahead of a target", size=_size(2, 2, 3), broken=("NO_SET_AHEAD",)),
    Search(
        name="a rank joins and voids nothing",
        size=_size(2, 2, 2, deaths=1, joins=1),
        broken=("JOIN_VOIDS_NOTHING", "JOIN_UNLOCKED"),
    ),
]


def _votes(name: str, ranks: int, reloads: int, *variant: str, **others: int) -> Search:
    size = {"RANKS": ranks, "ENTRIES": reloads} | _upper(others)
    quick = bool(variant) or ranks == 2
    return Search(name=f"votes: {name}", model=VOTES, size=size, broken=variant, fails=bool(variant), quick=quick)


VOTES_HOLD = [
    _votes("2 ranks, 2 reloads", 2, 2),
    _votes("2 ranks, 2 reloads, one dies", 2, 2, deaths=1),
    _votes("3 ranks, 2 reloads", 3, 2),
    _votes("3 ranks, 1 reload", 3, 1),
    _votes("3 ranks, 1 reload, up to two die", 3, 1, deaths=2),
    _votes("3 ranks, 1 reload, up to two die, some wait too long", 3, 1, deaths=2, impatient=1),
    _votes("3 ranks, one of them late, 1 reload, one dies", 3, 1, deaths=1, joins=1),
    _votes("2 ranks, 2 reloads, one dies and its slot is taken", 2, 2, deaths=1, takes=1),
    _votes("2 ranks, 2 reloads, two die, a slot is taken, some wait too long", 2, 2, deaths=2, takes=1, impatient=1),
    _votes("3 ranks, 1 reload, one dies and its slot is taken", 3, 1, deaths=1, takes=1),
    _votes("3 ranks, 1 reload, two die and a slot is taken", 3, 1, deaths=2, takes=1),
    replace(_votes("3 ranks, 1 reload, one dies: no run without end", 3, 1, deaths=1), cycles=True),
]

VOTES_BROKEN = [
    _votes("vote stored after the look", 2, 1, "VOTE_AFTER_LOOK"),
    _votes("counter loaded after the look", 2, 1, "COUNTER_AFTER_LOOK"),
    _votes("neither vote nor decision announced", 2, 1, "VOTE_NOT_TOLD", "DECISION_NOT_TOLD"),
    _votes("the dead are waited for", 2, 1, "DEAD_COUNT", deaths=1),
    _votes("a vote counts for any phase", 2, 1, "ANY_BALLOT"),
    _votes("who is not so far counts as a yes", 2, 1, "BEHIND_IS_YES"),
    _votes("who takes a slot leaves the vote that was in it", 2, 1, "FILL_NO_VOTE", deaths=1, takes=1),
    _votes("decision stored, not swapped", 2, 1, "DECISION_STORED", impatient=1),
    _votes("a rank does what it found, not what was agreed", 2, 1, "OWN_MIND", impatient=1),
    _votes("a waiting rank never looks around", 2, 1, "NO_SLICES", deaths=1),
]


SOME = {"kinds": 0b110}  # sets and pauses


def _hosts(name: str, hosts: int, requests: int, *variant: str, **others: int) -> Search:
    size = {"HOSTS": hosts, "REQUESTS": requests, "SENDERS": min(hosts, requests)} | _upper(others)
    quick = bool(variant) or (requests == 1 and not others.get("groups"))
    return Search(name=f"hosts: {name}", model=HOSTS, size=size, broken=variant, fails=bool(variant), quick=quick)


HOSTS_HOLD = [
    _hosts("2 hosts, 1 request", 2, 1),
    _hosts("2 hosts, 1 request, 2 relays restart", 2, 1, restarts=2),
    _hosts("2 hosts, 1 request, a relay restarts, time runs out early", 2, 1, restarts=1, early=1),
    _hosts("2 hosts, 1 request, a host dies, a rank ends, time runs out early", 2, 1, deaths=1, ends=1, early=1),
    _hosts("2 hosts, 2 requests", 2, 2),
    _hosts("2 hosts, 2 requests of one sender", 2, 2, senders=1),
    _hosts("2 hosts, 2 requests, a host dies", 2, 2, deaths=1),
    _hosts("2 hosts, 2 requests, a rank ends", 2, 2, ends=1),
    _hosts("2 hosts, 2 requests, time runs out early", 2, 2, early=1),
    _hosts("2 hosts, 2 requests, a relay restarts", 2, 2, restarts=1, **SOME),
    _hosts("2 hosts, 2 requests, a relay restarts without its note", 2, 2, restarts=1, lost=1, **SOME),
    _hosts("3 hosts, 1 request, a host dies", 3, 1, deaths=1),
    _hosts("3 hosts, 1 request, two of them a group, time runs out early", 3, 1, groups=1, early=1),
]

HOSTS_BROKEN = [
    _hosts("low is the step that a rank is at", 2, 1, "LOW_IS_STEP", last=2, early=1),
    _hosts("a host takes a target below its own low", 2, 1, "NO_LATE", last=2, early=1),
    _hosts("the target is the least low", 2, 1, "TARGET_LEAST"),
    _hosts("void is stored, not swapped", 2, 1, "VOID_STORED", restarts=1, early=1),
    _hosts("a host's decision is stored, not swapped", 2, 1, "COMMIT_STORED", last=2, early=1),
    _hosts("the asked host dies, and no other voids", 2, 1, "NO_TAKEOVER", deaths=1),
    _hosts("a silent host is left out of a set", 2, 1, "LEAVES_OUT_ANY", early=1),
    _hosts("a relay that restarts does not look into its host's log", 2, 1, "NO_FIND", restarts=1),
    _hosts("a relay that restarts does not look for what it has sent", 2, 2, "NO_SEARCH", restarts=1, **SOME),
    _hosts("the note is not saved before the next request", 2, 2, "NO_SAVE", restarts=1, **SOME),
    _hosts("a relay without its note looks for one request alone", 2, 2, "SEARCH_ONE", restarts=1, lost=1, **SOME),
    _hosts("a relay whose ranks have ended leaves and looks for no request", 2, 1, "LEAVES_DEAF", ends=1),
    _hosts("a lead tells the answers of a part of its group", 3, 1, "LEAD_ALONE", groups=1),
]

ALL = [*HOLD, *VOTES_HOLD, *HOSTS_HOLD, *SPARE, *BROKEN, *VOTES_BROKEN, *HOSTS_BROKEN]


def run(search: Search) -> Found:
    """Makes the searching program of one model and size, and runs it. Raises IncompleteError."""
    if search.ends:
        return _compare_ends(search)
    began = time.monotonic()
    text = _search(search, ["-DNP" if search.cycles else "-DSAFETY"])
    return _read(search, text, time.monotonic() - began)


def _compare_ends(search: Search) -> Found:
    began = time.monotonic()
    read, ends = [], []
    for coarse in (0, 1):
        size = search.size | {"COARSE": coarse, "ENDS": 1}
        text = _search(replace(search, size=size), ["-DSAFETY", "-DPRINTF"])
        read.append(_read(search, text, 0))
        ends.append({line.strip() for line in text.splitlines() if line.strip().startswith("END ")})
    lost = len(ends[0] - ends[1]) if ends[0] else 1
    violated = read[0].violated or read[1].violated or (f"{lost} of {len(ends[0])} ends are lost" if lost else "")
    return replace(read[0], seconds=time.monotonic() - began, violated=violated)


def _search(search: Search, how: list[str]) -> str:
    defines = [f"-D{name}={value}" for name, value in search.size.items()] + [f"-D{name}" for name in search.broken]
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        # -o2: what is only printed belongs to a state too.
        _call(["spin", *(["-o2"] if search.ends else []), "-a", *defines, str(HERE / search.model)], folder)
        # Small searches are over before a better compiler's work would pay, and need no large hash table.
        optimised, slots = ("-O1", "-w20") if search.quick else ("-O2", "-w27" if search.large else "-w25")
        _call(["cc", optimised, "-w", *how, "-DNOREDUCE", "-DCOLLAPSE", "-o", "pan", "pan.c"], folder)
        pan = ["./pan", f"-m{DEPTH}", slots, *(["-l"] if search.cycles else [])]
        limit = LARGE_KIB if search.large else MEMORY_KIB
        return _call(["sh", "-c", f'ulimit -v {limit} && exec "$@"', "sh", *pan], folder)


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
        "states": r"([\d.e+]+) states, stored",  # with eight digits: 1.0234568e+08
    }.items():
        match = re.search(pattern, text)
        if match is None:
            raise IncompleteError(f"{search.name}: no {what} in\n{text[-2000:]}")
        counts[what] = int(float(match[1]))
    found = re.search(r"^pan:1: (.*) \(at depth", text, re.MULTILINE)
    violated = found[1] if counts["errors"] and found else ""
    if not violated and counts["errors"]:
        raise IncompleteError(f"{search.name}: errors, and none told in\n{text[-2000:]}")
    if not violated and re.search(r"max search depth too small|Search not completed|out of memory|MEMLIM", text):
        raise IncompleteError(f"{search.name}: the search ended early\n{text[-2000:]}")
    return Found(
        states=counts["states"], depth=counts["depth"], seconds=seconds, violated=_meaning(search.model, violated)
    )


def _meaning(model: str, violated: str) -> str:
    for piece, meaning in MEANINGS[model].items():
        if piece in violated:
            return meaning
    return violated


def verdict(search: Search, found: Found) -> tuple[bool, str]:
    """Whether the search found what it had to, and what it found in words."""
    if found.violated:
        return search.fails, found.violated
    return not search.fails, "holds" if not search.fails else "HOLDS, and should not"


def _title(search: Search) -> str:
    kinds = search.size.get("KINDS")
    coarse = " *" if search.size.get("COARSE") and not search.broken else ""
    if kinds is None:
        return search.name + coarse
    return f"{search.name} ({', '.join(name for bit, name in enumerate(KINDS) if kinds >> bit & 1)}){coarse}"


def run_all(searches: list[Search]) -> Iterator[tuple[Search, Found]]:
    """The results, in the order of the list, but the large ones last: each runs alone."""
    side_by_side = [search for search in searches if not search.large]
    with ThreadPoolExecutor(min(PARALLEL, os.cpu_count() or 1)) as pool:
        yield from zip(side_by_side, pool.map(run, side_by_side), strict=True)
    for search in searches:
        if search.large:
            yield search, run(search)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--quick", action="store_true", help="only what the tests run")
    chosen.add_argument("--all", action="store_true", help="also those that need up to 8 GiB each")
    arguments = parser.parse_args()
    searches = [
        search for search in ALL if search.quick or not (arguments.quick or (search.large and not arguments.all))
    ]
    takes = TAKES["--quick" if arguments.quick else "--all" if arguments.all else ""]
    began = time.monotonic()
    failures = 0
    print(f"{len(searches)} searches, some {takes} on two cores. With * of coarser moves: see agreement.pml.")
    print(f"{'configuration':<72} {'states':>11} {'depth':>6} {'time':>6}  verdict", flush=True)
    for search, found in run_all(searches):
        right, words = verdict(search, found)
        failures += not right
        print(
            f"{_title(search):<72} {found.states:>11,} {found.depth:>6} {found.seconds:>4.0f} s  "
            f"{'' if right else 'WRONG: '}{words}",
            flush=True,
        )
    print(f"{(time.monotonic() - began) / 60:.0f} minutes")
    if failures:
        print(f"{failures} of {len(searches)} searches did not find what they had to")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
