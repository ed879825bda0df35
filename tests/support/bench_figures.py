"""Invented figures for the pages of the benchmarks: all different, and the same with each call."""

from itertools import count

from bench.assigning import ASSIGN, ASSIGN_JSON, ASSIGN_TENSOR, PLAIN_ASSIGN, PLAIN_READ, READ
from bench.hosts import Hosts, Many, RoundTrip
from bench.hosts_model import Costs, StandStill
from bench.idle import INTERVALS, Idle, Rounds, kinds_of_call
from bench.longest import Longest
from bench.measure import Case
from bench.parked import Parked
from bench.peers import EMPTY, Absent, Peer
from bench.rank import EMPTY as NO_CALL
from bench.rank import OURS, YIELD
from bench.ranks import Agreed, Ranks
from bench.ranks import Idle as IdleRanks
from bench.ranks import Parked as ParkedRanks
from bench.reload import Modules, Reload, Saved, Saves, Under
from bench.results import Results
from bench.start import Import, List
from bench.values import Assigning, Flood, Logger, Steering, Values
from bench.wake import Wake
from bench.web import Looked, Web

__all__ = ["results"]


def results() -> Results:
    """Return the figures of a run in which some targets are met and others are not."""
    numbers = count(1)

    def ints(scale: int = 1000) -> list[int]:
        return [next(numbers) * scale for _ in range(3)]

    def floats(scale: float = 1.0) -> list[float]:
        return [next(numbers) * scale for _ in range(3)]

    def rounds(names: list[str]) -> dict[str, list[float]]:
        return {EMPTY.name: [0.5, 0.6, 0.7]} | {name: floats(2.5) for name in names}

    calls = [f"spark.checkpoint(), yield {label}" for label in INTERVALS] + ["spark.pending()"]
    cases = [
        *["empty method, GIL released", *kinds_of_call(), *(f"checkpoint, yield {label}" for label in INTERVALS)],
        *["pending", "threading.Event.is_set", "mmap[0]", "a bare loop", "track", "track, key", "persist"],
        *["a dict behind a function", *calls, "tqdm", "os.path.exists"],
    ]
    loop = Case("a bare loop", "pass", {})
    peers = [
        Peer("tqdm's loop", "tqdm 4", Case("tqdm", "pass", {}), loop, "quiet"),
        Peer("os.path.exists", "Python 3", Case("os.path.exists", "pass", {}), EMPTY, ""),
    ]
    absent = [Absent("a peer", "it is not installed")]
    assigned = [ASSIGN, READ, ASSIGN_JSON, ASSIGN_TENSOR, PLAIN_ASSIGN, PLAIN_READ, "log"]
    ranks = [OURS, YIELD, NO_CALL, "barrier", "broadcast"]
    about = [
        (OURS, "spark_fast 0", "yes", ""),
        (YIELD, "", "no", "yields"),
        (NO_CALL, "", "no", ""),
        ("barrier", "torch 2", "yes", "gloo"),
        ("broadcast", "torch 2", "once", ""),
    ]
    longest = {"calls": 12_345, "median": 20, "p99.9": 300, "p99.999": 4000, "longest": 5e6, "faults": 6, "blocked": 7}
    return Results(
        quick=True,
        took=123.0,
        idle=Idle(Rounds(rounds(cases)), Rounds(rounds(cases)), peers, absent),
        wakes={"where the system puts them": Wake(ints(), ints()), "each on a CPU of its own": Wake(ints(), ints())},
        parked=Parked(5.0, 0, 1_234_567, 8, 6, 0, 2_345, 1),
        imports=Import(["os", "sys"], ["spark_fast"], ints(), ints(), ints()),
        listing=List(1000, 100, floats(0.01), floats(0.01), floats(0.02)),
        longest=[
            Longest("quiet", "", "empty", "", longest),
            Longest("quiet", "", "empty_nogil", "", longest),
            Longest("busy disk", "memory", "checkpoint", "0", longest | {"calls": 999}),
        ],
        reload=Reload(
            [
                Saves(
                    "written in place",
                    Saved("spark_fast", "0", ints(100_000), ints()),
                    [Saved("jurigged", "1", ints(), ints(), 2), Saved("reloading", "2", [], [], 3)],
                ),
                Saves("renamed into place", Saved("spark_fast", "0", ints(100_000), ints()), [Saved("jurigged", "1")]),
            ],
            [Modules(10, floats(0.001), floats(0.001)), Modules(1000, floats(0.01), floats(0.01))],
            Under(floats(), floats()),
        ),
        values=Values(
            Assigning(Rounds(rounds(assigned)), [Logger("TensorBoard", "2.20", "log", "to a file")], absent),
            Steering(ints(), ints(), ints(), ints(), ints()),
            Flood(floats(1000), floats(1000), floats(), floats(), floats(), ints(), ints()),
        ),
        ranks=Ranks(
            [IdleRanks(number, {name: floats() for name in ranks}, about) for number in (1, 2, 8)],
            [Agreed(number, *ints()) for number in (2, 64, 1024)],
            [ParkedRanks(number, 1_000_000, *ints(), 5) for number in (2, 8)],
        ),
        hosts=Hosts(
            [RoundTrip(number, ints(), ints(), ints(), ints(), 50 << 20) for number in (2, 4)],
            [Many(number, *ints()) for number in (100, 1000)],
            *(1234, 2345),
            Costs(1e-5, 2e-5, 3e-5, 4e-6),
            [StandStill(number, *floats(0.001), 0.5) for number in (100, 1000)],
            "2.13",
        ),
        web=Web(
            1000,
            [Looked(0, False, 0.01, 0.0), Looked(1, False, 0.05, 1.5), Looked(10, True, 0.7, 2.5)],
            *(20, 5000),
            floats(0.01),
            floats(0.01),
        ),
    )
