"""How the answers of all hosts to a request reach the asked host, which decides.

The asked host is the one where the sender left the request. In a job of many hosts, hosts with consecutive ranks are a
group. The lead of a group is the host whose lowest rank is also the group's. The lead reads the other hosts' answers
and puts the few that count into the store, so the asked host reads one value for each group. If a group has no lead, or
the lead lacks an answer, the asked host reads the answers of the group's hosts itself.
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
"""The fewest hosts of a job that has groups. The asked host reads fewer answers sooner than a lead could tell them."""

_BESIDE = (Kind.PAUSE, Kind.RESUME, Kind.ADVANCE, Kind.STOP)
"""The requests that may be decided without a host that has been silent for long: hosts can be brought together again
afterwards. After any other request, if the silent host's ranks live, their values or code would differ for good."""


def ranks_of_group(member: Member) -> int:
    """Return how many ranks the hosts of a group have together; 0 if the job has no groups."""
    hosts = member.world_size / len(member.ranks)
    return 0 if hosts < _GROUPS_FROM else math.ceil(math.sqrt(hosts)) * len(member.ranks)


def decisive(answers: Mapping[Member, Answer]) -> dict[Member, Answer]:
    """Return the few answers that affect the decision as all of these do, whatever other hosts answer."""
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
    """The hosts' answers to requests, as one host's relay reads them to decide, or gathers them for its group."""

    def __init__(self, store: Store, local: Local, member: Member, times: Times, roster: Roster) -> None:
        self._store = store
        self._local = local
        self._member = member
        self._times = times
        self._roster = roster
        self._told: dict[int, str] = {}  # by request: the key of the answers of this host's group

    def move(self, store: Store) -> None:
        """Use another store from now on."""
        self._store = store
        self._told.clear()

    @property
    def _grace(self) -> float:
        """Seconds within which a host answers that is not in trouble."""
        return min(0.2, self._times.bound / 10)

    # --- the host that was asked ---

    def ask(self, number: int, entry: Entry, own: Answer) -> Steps[Decision]:
        """Wait for the answers of all hosts to a request, and return the decision.

        own: this host's answer.
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
                self._roster.forget()  # another host may have taken its place since
                names = f"host {member.name} (ranks {_spans(member.ranks)})"
                return Decision(why="failed", reason=f"{names} did not answer in {self._times.bound:g} s")
        return decide(entry.kind, answers, without)

    def _read_groups(
        self, number: int, ranks: int, members: Sequence[Member], answers: dict[Member, Answer]
    ) -> Steps[list[Member]]:
        """Wait a moment for the answers of these hosts, or of their leads for them. Return the hosts without an answer.

        ranks: how many the hosts of a group have; 0 if there are no groups.
        """
        groups: dict[int, list[Member]] = {}
        alone = []  # hosts whose answers are read without a lead
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
        """Wait for the answers of these hosts, `timeout` seconds at most. Return the hosts that have not answered."""
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
        """Put the answers of this host's group into the store for the asked host, if this host is the lead.

        own: this host's answer.
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
            return  # the asked host reads the answers itself
        said = {member.first: answer for member, answer in decisive(answers).items()}
        self._told[number] = f"lows/{number}/{group}"
        yield from call(self._store.set, self._told[number], GroupAnswer(len(answers), said).packed())

    def forget(self, number: int) -> list[str]:
        """Forget a request. Return the keys that this host has set for its group, to be removed."""
        key = self._told.pop(number, None)
        return [] if key is None else [key]


def _spans(ranks: Sequence[int]) -> str:
    """Return the ranks as people write them: 0-3, 8."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], rank]
        else:
            parts.append([rank])
    return ", ".join("-".join(str(end) for end in part) for part in parts)
