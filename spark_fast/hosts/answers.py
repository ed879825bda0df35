"""How the answers of all hosts to a request reach the host that was asked, and what it decides.

In a job of many hosts, hosts that follow each other by their ranks are a group. The host that has the group's lowest
rank as its own lowest, its lead, reads what the others answer, and tells the few answers that count: so the host that
was asked reads one value of each group. If a group has no lead, or its lead has not heard of all its hosts, the host
that was asked reads what they answer itself.
"""

import math
from collections.abc import Mapping, Sequence

from spark_fast.hosts.decision import decide
from spark_fast.hosts.messages import Answer, Decision, Entry, GroupAnswer, Member
from spark_fast.hosts.roster import Roster
from spark_fast.hosts.steps import Local, Steps, Times, call
from spark_fast.hosts.store import Store
from spark_fast.request import Kind

__all__ = ["Answers", "decisive", "ranks_of_group"]

_GROUPS_FROM = 64
"""Hosts from which on there are groups. Fewer answers are read sooner than a lead could."""

_BESIDE = (Kind.PAUSE, Kind.RESUME, Kind.ADVANCE, Kind.STOP)
"""What may be done without a host that has been silent for long: hosts can be brought together again after it. Should
its ranks live, values and code would differ for good."""


def ranks_of_group(member: Member) -> int:
    """Return how many ranks the hosts of a group have together; 0 if the job has no groups."""
    hosts = member.world_size / len(member.ranks)
    return 0 if hosts < _GROUPS_FROM else math.ceil(math.sqrt(hosts)) * len(member.ranks)


def decisive(answers: Mapping[Member, Answer]) -> dict[Member, Answer]:
    """Return those of the answers from which the same follows as from all of them, together with any others."""
    for member, answer in answers.items():
        if answer.why == "failed":
            return {member: answer}
    lows = {member: answer for member, answer in answers.items() if answer.low is not None}
    if not lows:
        order = ("stopping", "nothing", "ended")
        first = min(answers, key=lambda member: order.index(answers[member].why), default=None)
        return {} if first is None else {first: answers[first]}
    latest = max(lows, key=lambda member: lows[member].low or 0)
    parks = {member: answer.park for member, answer in lows.items() if answer.park is not None}
    found = {latest, *([min(parks, key=lambda member: parks[member])] if parks else [])}
    return {member: answer for member, answer in lows.items() if member in found}


class Answers:
    """What hosts answer to requests, as the relay of one of them asks for it or gathers it."""

    def __init__(self, store: Store, local: Local, member: Member, times: Times, roster: Roster) -> None:
        self._store = store
        self._local = local
        self._member = member
        self._times = times
        self._roster = roster
        self._told: dict[int, str] = {}  # of a request: the key at which this host has told for its group

    def move(self, store: Store) -> None:
        """Use another store from here on."""
        self._store = store
        self._told.clear()

    @property
    def _grace(self) -> float:
        """Seconds in which hosts answer that are not in trouble."""
        return min(0.2, self._times.bound / 10)

    # --- the host that was asked ---

    def ask(self, number: int, entry: Entry, own: Answer) -> Steps[Decision]:
        """Wait for what all hosts answer to a request, and return what follows from it.

        own: what this host answers.
        """
        until = (yield from call(self._local.now)) + self._times.bound
        members, unknown = yield from self._roster.all(until)
        if unknown is not None:
            reason = (
                f"no word yet of rank {unknown}: it has passed no checkpoint, does not reach the job's store, or has "
                "another secret than this host"
            )
            return Decision(why="failed", reason=reason)
        answers = {self._member: own}
        without = []
        others = [member for member in members if member.first != self._member.first]
        missing = yield from self._read_groups(number, entry.group, others, answers)
        for peer in (yield from self._roster.hear(missing)):
            member = peer.member
            if peer.ended:
                answers[member] = Answer(why="ended")
                continue
            left = until - (yield from call(self._local.now))
            gone = peer.silent >= self._times.gone and entry.kind in _BESIDE
            if not (yield from self._read(number, [member], 0.0 if gone else max(left, 0.0), answers)):
                continue
            if gone:
                without.append(member)
            else:
                self._roster.forget()  # another may have taken its place since
                names = f"host {member.name} (ranks {_spans(member.ranks)})"
                return Decision(why="failed", reason=f"{names} did not answer in {self._times.bound:g} s")
        return decide(entry.kind, answers, without)

    def _read_groups(
        self, number: int, ranks: int, members: Sequence[Member], answers: dict[Member, Answer]
    ) -> Steps[list[Member]]:
        """Wait a moment for what these hosts answer, or their leads for them. Return those of which nothing was heard.

        ranks: how many the hosts of a group have; 0 if there are no groups.
        """
        groups: dict[int, list[Member]] = {}
        alone = []  # those that are read without a lead
        for member in members:
            if not ranks or member.first // ranks == self._member.first // ranks:
                alone.append(member)
            else:
                groups.setdefault(member.first // ranks, []).append(member)
        if not groups:
            return (yield from self._read(number, alone, self._grace, answers))
        keys = [f"low/{number}/{member.first}" for member in alone] + [f"lows/{number}/{group}" for group in groups]
        found = yield from call(self._store.wait_many, keys, self._grace)
        missing = []
        for member, raw in zip(alone, found, strict=False):
            if raw is None:
                missing.append(member)
            else:
                answers[member] = Answer.parsed(raw)
        for group, raw in zip(groups.values(), found[len(alone) :], strict=True):
            said = GroupAnswer.parsed(raw)
            there = {member.first: member for member in group}
            if said.hosts == len(group) and there.keys() >= said.answers.keys():
                answers.update({there[first]: answer for first, answer in said.answers.items()})
            else:
                missing += group
        return (yield from self._read(number, missing, 0.0, answers))

    def _read(
        self, number: int, members: Sequence[Member], timeout: float, answers: dict[Member, Answer]
    ) -> Steps[list[Member]]:
        """Wait for what these hosts answer, so many seconds at most. Return those that have not."""
        if not members:
            return []
        keys = [f"low/{number}/{member.first}" for member in members]
        missing = []
        for member, raw in zip(members, (yield from call(self._store.wait_many, keys, timeout)), strict=True):
            if raw is None:
                missing.append(member)
            else:
                answers[member] = Answer.parsed(raw)
        return missing

    # --- the lead of a group ---

    def gather(self, number: int, entry: Entry, own: Answer) -> Steps[None]:
        """Tell the host that was asked what the hosts of this group answer, if this host is the lead.

        own: what this host answers.
        """
        if not entry.group:
            return
        group, first = self._member.first // entry.group, self._member.first
        if first != group * entry.group or group == entry.home // entry.group:
            return
        end = min(first + entry.group, self._member.world_size)
        members, unknown = yield from self._roster.within(first, end)
        others = [member for member in members if member.first != first]
        answers = {self._member: own}
        if unknown is not None or (yield from self._read(number, others, self._grace, answers)):
            return  # the host that was asked finds out itself
        said = {member.first: answer for member, answer in decisive(answers).items()}
        self._told[number] = f"lows/{number}/{group}"
        yield from call(self._store.set, self._told[number], GroupAnswer(len(answers), said).packed())

    def forget(self, number: int) -> list[str]:
        """Return the keys that this host has told for its group, and that are asked for no more."""
        key = self._told.pop(number, None)
        return [] if key is None else [key]


def _spans(ranks: Sequence[int]) -> str:
    """As people write them: 0-3, 8."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], rank]
        else:
            parts.append([rank])
    return ", ".join("-".join(str(end) for end in part) for part in parts)
