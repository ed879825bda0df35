"""How the relay of the asked host gathers the outcomes of a request on all hosts, and tells its sender the fate."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from spark_fast.hosts.decision import combine
from spark_fast.hosts.messages import Decision, Done, Member
from spark_fast.hosts.roster import Roster
from spark_fast.hosts.steps import Local, Steps, Times, call
from spark_fast.hosts.store import Store

__all__ = ["Gathering"]

_PAUSE = 0.02
_PAUSE_MAX = 0.5
"""Seconds between two reads of the other hosts' outcomes: at first _PAUSE, then longer each time, up to _PAUSE_MAX. The
driver watches the keys too, and tells when all outcomes are there."""
_PAUSE_ACTED = 0.001
"""Seconds between the first two reads after this host's ranks have acted, and then longer each time."""


@dataclass
class _Request:
    """A request of this host's senders that has a target.

    Attributes:
        done: its outcomes, by the lowest ranks of the hosts.
        without: the hosts that were left out of it.
        awaited: the hosts whose outcomes the last read did not find.
        pause, due: seconds until the next read of outcomes, and its time.
    """

    ident: str
    target: int
    done: dict[int, Done] = field(default_factory=dict)
    without: tuple[int, ...] = ()
    awaited: tuple[int, ...] = ()
    pause: float = _PAUSE
    due: float = 0.0


class Gathering:
    """The requests of one host's senders that have a target and no fate yet."""

    def __init__(self, store: Store, local: Local, member: Member, times: Times, roster: Roster) -> None:
        self._store = store
        self._local = local
        self._member = member
        self._times = times
        self._roster = roster
        self._requests: dict[int, _Request] = {}

    def __bool__(self) -> bool:
        return bool(self._requests)

    def __contains__(self, number: int) -> bool:
        return number in self._requests

    def move(self, store: Store) -> None:
        """Use another store from now on."""
        self._store = store
        self._requests.clear()

    def begin(self, number: int, ident: str, decision: Decision, asked: Sequence[int] = ()) -> Steps[None]:
        """Begin to gather the outcomes of a request that has a target.

        asked: the lowest ranks of the hosts that have just answered, and so have told nothing else yet.
        """
        assert decision.target is not None
        request = self._requests[number] = _Request(ident, decision.target, without=decision.without)
        if asked:
            request.awaited = tuple(first for first in asked if first not in decision.without)
            request.due = (yield from call(self._local.now)) + request.pause

    @property
    def dues(self) -> Iterator[float]:
        """When to look again."""
        return (request.due for request in self._requests.values())

    @property
    def awaited(self) -> tuple[str, ...]:
        """The keys that say what became of the oldest request, once all of them are there."""
        for number, request in self._requests.items():
            return tuple(f"done/{number}/{first}" for first in request.awaited)
        return ()

    def learn(self, number: int, first: int, done: Done) -> None:
        """Take in the outcome on a host."""
        request = self._requests.get(number)
        if request is not None:
            request.done[first] = done
            if first == self._member.first:
                # The others act at the same step, so they tell soon. After a stop the store may end right then, and
                # the driver may be watching for what became of an older request.
                request.pause, request.due = _PAUSE_ACTED, 0.0
            if request.done.keys() >= set(request.awaited):
                request.due = 0.0

    def look(self) -> Steps[None]:
        """Read what the others have told by now, and tell the senders of the requests of which all is known."""
        if not self._requests:
            return
        now = yield from call(self._local.now)
        due = [(number, request) for number, request in self._requests.items() if now >= request.due]
        if not due:
            return
        members, unknown = yield from self._roster.all()
        if unknown is not None:
            for _, request in due:
                self._look_later(request, now)
            return  # another host is taking a place
        for number, request in due:
            yield from self._read(number, request, members)
            missing = [each for each in members if each.first not in request.done and each.first not in request.without]
            request.awaited = tuple(member.first for member in missing)
            silent: list[Member] = []
            if missing:
                away = yield from self._away(request, missing)
                if away is None:
                    self._look_later(request, now)
                    continue
                silent = away
            found = {member: request.done[member.first] for member in members if member.first in request.done}
            yield from call(self._local.tell, request.ident, combine(request.target, found, silent))
            del self._requests[number]

    def _look_later(self, request: _Request, now: float) -> None:
        request.pause = min(_PAUSE_MAX, 1.5 * request.pause)
        request.due = now + request.pause

    def _read(self, number: int, request: _Request, members: list[Member]) -> Steps[None]:
        known = {*request.done, *request.without}
        wanted = [member.first for member in members if member.first not in known]
        if wanted:
            keys = [f"done/{number}/{first}" for first in wanted]
            for first, raw in zip(wanted, (yield from call(self._store.get_many, keys)), strict=True):
                if raw is not None:
                    request.done[first] = Done.parsed(raw)

    def _away(self, request: _Request, missing: list[Member]) -> Steps[list[Member] | None]:
        """Return the hosts of which nothing was heard for long, or None if one may still tell. One that has ended
        without a word counts as lost."""
        if request.pause < _PAUSE_MAX or self._member in missing:
            return None
        silent = []
        for peer in (yield from self._roster.hear(missing)):
            if peer.ended:
                request.done[peer.member.first] = Done("lost")
            elif peer.silent >= self._times.gone:
                silent.append(peer.member)
            else:
                return None
        return silent


def learned(news: Mapping[str, bytes]) -> Iterator[tuple[int, int, Done]]:
    """Return what the keys `done/<number>/<lowest rank>` among these say."""
    for key, raw in news.items():
        kind, *numbers = key.split("/")
        if kind == "done":
            number, first = map(int, numbers)
            yield number, first, Done.parsed(raw)
