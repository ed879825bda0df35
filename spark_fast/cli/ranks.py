"""The ranks of a run in words: which are there, which are in trouble, and which are alike."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from spark_fast.cli.formatting import clock, duration
from spark_fast.client import Rank, Run, SparkStatus
from spark_fast.plain_text import printable
from spark_fast.status import ranges, trouble_of

__all__ = ["Group", "concerns", "grouped", "lateness", "present", "several", "troubles", "wanted"]

_EACH = 16
"""Up to so many ranks, each has a line. Of more ranks, those that are alike share one."""
_LONG_STEP = 10.0
"""Seconds after which a step counts as long, even if no request waits for its end."""
_LINES = 4
"""Up to so many ranks with the same trouble, each has a line."""


def several(run: Run) -> bool:
    """Return whether the run's job has several ranks, on this host or on others."""
    return run.world_size > 1 or run.local_world_size > 1


def wanted(ranks: Sequence[Rank], here: int, world_size: int) -> int:
    """How many ranks there are to be: of all hosts, where those of others are known; else of this one.

    here: how many are to be on this host.
    """
    return world_size if len(ranks) > here or len({rank.host for rank in ranks}) > 1 else here


def present(ranks: Sequence[Rank], here: int, world_size: int) -> str:
    """Say how many ranks are there, and which are missing. here: see wanted()."""
    live = [rank for rank in ranks if rank.status.live]
    total = wanted(ranks, here, world_size)
    unheard = [rank for rank in ranks if rank.status is SparkStatus.UNHEARD]
    if live or unheard:
        words = f"{len(live)} of {total} {'is' if len(live) == 1 else 'are'} there"
    else:
        words = f"{total}, none of which is there any more"
    if (hosts := len({rank.host for rank in ranks})) > 1:
        words += f", on {hosts} hosts"
    if unheard:
        words += f"; {_subject(unheard, 'is', 'are')} not heard"
    if live and total == world_size and (late := set(range(world_size)) - {rank.rank for rank in ranks}):
        has = "has" if len(late) == 1 else "have"
        words += f"; {_name(sorted(late))} {has} not {'come yet' if total == here else 'been heard of'}"
    if world_size > total:
        words += f"; the job has {world_size}, {world_size - total} of them on other hosts"
    return words


def troubles(ranks: Sequence[Rank], per_second: float | None) -> dict[int, str]:
    """Return the trouble of each rank that has one, by its number. See trouble_of()."""
    found = {rank.rank: trouble_of(rank, per_second) for rank in ranks}
    return {number: trouble for number, trouble in found.items() if trouble}


def concerns(
    ranks: Sequence[Rank], per_second: float | None, now: float, *, only: Collection[str] | None = None
) -> list[str]:
    """Return the troubles of the ranks in sentences, one for each rank, or for many at once.

    only: the troubles that are wanted, see trouble_of(); None for all.
    """
    wrong = troubles(ranks, per_second)
    found = []
    for trouble, say in _SAYINGS.items():
        if only is not None and trouble not in only:
            continue
        those = [rank for rank in ranks if wrong.get(rank.rank) == trouble]
        for some in [[rank] for rank in those] if len(those) <= _LINES else [those]:
            found.append(say(some, now))
    return found


def lateness(run: Run) -> str:
    """Say for how long the only rank of a run has passed no checkpoint, if that is known and long; else return "".

    It is known where the rank has not come to a request, and in the first step since it began or was resumed.
    """
    overdue = max((rank.overdue for rank in run.ranks if rank.status.live), default=0.0)
    in_step = run.in_first_step
    if not overdue and in_step < _LONG_STEP:
        return ""
    if any(request.fate.running for request in run.requests):
        return f"what was asked {duration(overdue)} ago waits for the end of a function that is being called"
    return f"no checkpoint for {duration(max(overdue, in_step))}: it hangs, or its step takes long"


def _lost(ranks: Sequence[Rank], now: float) -> str:
    known = [rank.since for rank in ranks if rank.since]
    since = f" since {_span([clock(min(known), now), clock(max(known), now)])}" if known else ""
    return f"{_subject(ranks, 'is', 'are')} lost{since}, last seen at {_steps(ranks)}"


def _failed(ranks: Sequence[Rank], now: float) -> str:
    when = _span([clock(rank.since, now) for rank in ranks if rank.since])
    return f"{_subject(ranks, 'has', 'have')} failed{f' at {when}' if when else ''}, at {_steps(ranks)}"


def _unheard(ranks: Sequence[Rank], now: float) -> str:
    known = sorted(rank.since for rank in ranks if rank.since)
    since = f" since {_span([clock(when, now) for when in known])}" if known else ""
    hosts = ", ".join(sorted({printable(rank.host) for rank in ranks})[:_LINES])
    return f"{_subject(ranks, 'has', 'have')} not been heard{since} ({hosts}), last seen at {_steps(ranks)}"


def _overdue(ranks: Sequence[Rank], now: float) -> str:
    ago = _span([duration(seconds) for seconds in sorted(rank.overdue for rank in ranks)])
    why = "it hangs, or its step takes long" if len(ranks) == 1 else "they hang, or their steps take long"
    return f"{_subject(ranks, 'has', 'have')} not come to a request that was asked {ago} ago, and others have: {why}"


def _behind(ranks: Sequence[Rank], now: float) -> str:
    return f"{_subject(ranks, 'is', 'are')} {_span(sorted(rank.behind for rank in ranks))} steps behind"


_SAYINGS: dict[str, Callable[[Sequence[Rank], float], str]] = {
    "lost": _lost,
    "failed": _failed,
    "unheard": _unheard,
    "overdue": _overdue,
    "behind": _behind,
}


@dataclass(frozen=True)
class Group:
    """A line of a table: ranks that are alike.

    Attributes:
        ranks: their numbers.
        first: one of them.
        steps, since: of all of them: one, or the first and the last.
        trouble: their trouble, see trouble_of(); empty if there is none.
        count: how many.
    """

    ranks: str
    first: Rank
    steps: str
    since: str
    trouble: str
    count: int


def grouped(ranks: Sequence[Rank], per_second: float | None, now: float, *, each: bool = False) -> list[Group]:
    """Return the ranks in order. Of many ranks, those with the same status and the same trouble share a group.

    each: whether to list each for itself, however many there are.
    """
    wrong = troubles(ranks, per_second)
    alike: dict[object, list[Rank]] = {}
    for rank in ranks:
        trouble = wrong.get(rank.rank, "")
        key = rank.rank if each or len(ranks) <= _EACH else (rank.status, trouble, rank.host)
        alike.setdefault(key, []).append(rank)
    return [
        Group(
            ranges(rank.rank for rank in those),
            those[0],
            _span(sorted(rank.step for rank in those)),
            _span([duration(seconds) for seconds in sorted(now - rank.since for rank in those if rank.since)]),
            wrong.get(those[0].rank, ""),
            len(those),
        )
        for those in alike.values()
    ]


def _span(found: Sequence[object]) -> str:
    """Return the first and the last with a dash; only one if they are equal, "" if there is none."""
    ends = [str(found[0]), str(found[-1])] if found else []
    return "–".join(dict.fromkeys(ends))


def _name(numbers: Sequence[int]) -> str:
    return f"rank{'s' if len(numbers) > 1 else ''} {ranges(numbers)}"


def _subject(ranks: Sequence[Rank], one: str, more: str) -> str:
    return f"{_name([rank.rank for rank in ranks])} {one if len(ranks) == 1 else more}"


def _steps(ranks: Sequence[Rank]) -> str:
    span = _span(sorted(rank.step for rank in ranks))
    return f"step{'s' if '–' in span else ''} {span}"
