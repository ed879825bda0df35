"""Which hosts a job has, and what each says of itself in the store, as one relay reads it."""

from collections.abc import Iterable, Sequence

from spark_fast.hosts.messages import Member, Peer, as_object, ranks_said, whole
from spark_fast.hosts.steps import Local, Steps, call
from spark_fast.hosts.store import Store

__all__ = ["Roster"]


class Roster:
    """The hosts of the job.

    member: the host of this relay.
    """

    def __init__(self, store: Store, local: Local, member: Member) -> None:
        self._store = store
        self._local = local
        self._member = member
        self._hosts: dict[int, Member] = {}
        self._complete: list[Member] | None = None  # all hosts, once all are known
        self._heard: dict[int, tuple[int, float]] = {}  # each other host's count, and when it was first seen

    def move(self, store: Store) -> None:
        """Use another store from now on."""
        self._store = store
        self.forget()

    def forget(self) -> None:
        """Have the members read anew when they are next needed: another host may have taken a place since."""
        self._hosts.clear()
        self._complete = None

    def all(self, until: float = 0.0) -> Steps[tuple[list[Member], int | None]]:
        """Return all hosts, sorted by their lowest ranks, and the lowest rank that belongs to no known host, if any.

        until: when to stop waiting for the host of such a rank.
        """
        if self._complete is None:
            members, unknown = yield from self.within(0, self._member.world_size, until)
            if unknown is not None:
                return members, unknown
            self._complete = members
        return self._complete, None

    def within(self, rank: int, end: int, until: float = 0.0) -> Steps[tuple[list[Member], int | None]]:
        """Return, as all() does, the hosts whose lowest ranks are `rank` to `end` - 1. One host begins at `rank`."""
        # Hosts have the same number of ranks in most jobs.
        likely = [each for each in range(rank, end, len(self._member.ranks)) if each not in self._hosts]
        if likely:
            yield from self._read(likely)
        covered: set[int] = set()
        found: list[Member] = []
        while rank < end:
            if rank not in self._hosts and rank not in likely:
                yield from self._read([rank])
            member = self._hosts.get(rank)
            if member is None and until:
                left = until - (yield from call(self._local.now))
                if left > 0:
                    member = Member.parsed((yield from call(self._store.wait, f"host/{rank}", left)))
            if member is None or member.first != rank:
                return found, rank
            self._hosts[rank] = member
            found.append(member)
            covered.update(member.ranks)
            while rank in covered:
                rank += 1
        return found, None

    def at(self, first: int) -> Steps[Member | None]:
        """Return the host with this lowest rank; None if no such host has announced itself."""
        if first not in self._hosts:
            yield from self._read([first])
        return self._hosts.get(first)

    def _read(self, ranks: Sequence[int]) -> Steps[None]:
        for raw in (yield from call(self._store.get_many, [f"host/{rank}" for rank in ranks])):
            member = Member.parsed(raw)
            if member is not None and member.first in ranks:
                self._hosts[member.first] = member

    def hear(self, members: Iterable[Member]) -> Steps[list[Peer]]:
        """Return what these hosts say of themselves now."""
        members = list(members)
        if not members:
            return []
        raws = yield from call(self._store.get_many, [f"state/{member.first}" for member in members])
        now = yield from call(self._local.now)
        return [self._peer(member, raw, now) for member, raw in zip(members, raws, strict=True)]

    def _peer(self, member: Member, raw: bytes | None, now: float) -> Peer:
        said = as_object(raw)
        count, ranks = whole(said.get("count")) or 0, ranks_said(said.get("ranks"), member)
        heard = self._heard.get(member.first)
        if heard is None or heard[0] != count:
            heard = self._heard[member.first] = count, now
        return Peer(member, count, ranks, said.get("ended") is True, now - heard[1])
