"""How the hosts of a job combine their ranks' votes on a reload into a verdict, phase by phase: see `protocol`."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from spark_fast.hosts.messages import PHASES, VOTE_NO, VOTE_YES, Entry, Member
from spark_fast.hosts.roster import Roster
from spark_fast.hosts.steps import Local, Steps, Times, call
from spark_fast.hosts.store import Store

__all__ = ["Votes"]

_VERDICTS = {b"yes": VOTE_YES, b"no": VOTE_NO}
_PAUSE = 0.002
_PAUSE_MAX = 0.25
"""Seconds between two reads of the others' votes: at first _PAUSE, then longer each time, up to _PAUSE_MAX. It may take
minutes until the ranks run new code."""


@dataclass
class _Ballot:
    """A reload that this host's ranks vote on.

    Attributes:
        said: the phases in which this host has told the others its yes.
        yes: the known yes votes: the lowest rank of the host, and the phase.
        home: the lowest rank of the asked host; None until it is known.
        pause, due: seconds until the next read of the others' votes, and its time; due is None while none is awaited.
        awaited: the keys that the last read did not find.
        over: whether the ranks have nothing more to hear, and the others have heard the ranks' votes.
    """

    said: set[int] = field(default_factory=set)
    yes: set[tuple[int, int]] = field(default_factory=set)
    home: int | None = None
    pause: float = _PAUSE
    due: float | None = None
    awaited: tuple[str, ...] = ()
    over: bool = False


class Votes:
    """The reloads that one host's ranks vote on."""

    def __init__(self, store: Store, local: Local, member: Member, times: Times, roster: Roster) -> None:
        self._store = store
        self._local = local
        self._member = member
        self._times = times
        self._roster = roster
        self._ballots: dict[int, _Ballot] = {}
        self._own: set[int] = set()  # this host's requests whose verdicts are in the store

    def move(self, store: Store) -> None:
        """Use another store from now on."""
        self._store = store
        self._ballots.clear()

    @property
    def dues(self) -> Iterator[float]:
        """When to read the others' votes again."""
        return (ballot.due for ballot in self._ballots.values() if ballot.due is not None)

    @property
    def awaited(self) -> tuple[str, ...]:
        """The keys for which the oldest open vote waits: it goes on once all of them are there."""
        return next((ballot.awaited for ballot in self._ballots.values() if ballot.due is not None), ())

    def wake(self) -> None:
        """Have the others' votes read at once: the awaited keys are there."""
        for ballot in self._ballots.values():
            if ballot.due is not None:
                ballot.due = 0.0

    def bring(self, number: int, ident: str, seq: int, mine: bool) -> Steps[None]:
        """Tell the others how this host's ranks vote, and hand the ranks the verdict. Do nothing if it is no reload.

        mine: whether this host was asked for it.
        """
        votes = yield from call(self._local.votes, seq, ident)
        if votes is None:
            return
        ballot = self._ballots.setdefault(number, _Ballot())
        if mine:
            self._own.add(number)
            ballot.home = self._member.first
        for phase, (here, settled) in enumerate(votes):
            if VOTE_NO in (here, settled):
                yield from call(self._store.compare_set, f"verdict/{number}/{phase}", None, b"no")
                ballot.over = True
            elif here and phase not in ballot.said:
                yield from call(self._store.set, f"vote/{number}/{phase}/{self._member.first}", b"yes")
                ballot.said.add(phase)
                ballot.yes.add((self._member.first, phase))
                ballot.pause, ballot.due = _PAUSE, None
            if not here or (not settled and not (yield from self._settle(number, seq, phase, ballot))):
                break
            ballot.over = ballot.over or phase + 1 == PHASES

    def is_open(self, number: int) -> bool:
        """Return whether the ranks of this host, or of another one, may still vote the request down."""
        ballot = self._ballots.get(number)
        return ballot is not None and not ballot.over

    def close(self, number: int) -> Steps[None]:
        """Remove this host's votes from the store: the request is over here."""
        if self._ballots.pop(number, None) is not None:
            keys = [f"vote/{number}/{phase}/{self._member.first}" for phase in range(PHASES)]
            yield from call(self._store.delete, *keys)

    def forget(self, number: int) -> list[str]:
        """Forget a request. Return the keys of its verdicts, to be removed."""
        if number not in self._own:
            return []
        self._own.discard(number)
        return [f"verdict/{number}/{phase}" for phase in range(PHASES)]

    def _settle(self, number: int, seq: int, phase: int, ballot: _Ballot) -> Steps[bool]:
        """Hand the verdict of all hosts on a phase to the ranks. Return whether there is one."""
        now = yield from call(self._local.now)
        if ballot.due is not None and now < ballot.due:
            return False
        key = f"verdict/{number}/{phase}"
        raw = yield from call(self._store.get, key)
        ballot.awaited = (key,)
        if raw is None and (yield from self._counts(number, ballot)):
            verdict = yield from self._tally(number, phase, ballot)
            if verdict is not None:
                raw = yield from call(self._store.compare_set, key, None, verdict)
        if raw is None:
            ballot.pause = min(_PAUSE_MAX, 1.3 * ballot.pause)
            ballot.due = now + ballot.pause
            return False
        ballot.due = None
        yield from call(self._local.commit_vote, seq, phase, _VERDICTS.get(raw, VOTE_NO))
        return True

    def _counts(self, number: int, ballot: _Ballot) -> Steps[bool]:
        """Return whether this host has to count the votes: it is the asked host, or that one is gone."""
        if ballot.home is None:
            entry = Entry.parsed((yield from call(self._store.get, f"log/{number}")) or b"")
            ballot.home = self._member.first if entry is None else entry.home
        if ballot.home == self._member.first:
            return True
        home = yield from self._roster.at(ballot.home)
        if home is None:
            return True
        (peer,) = yield from self._roster.hear([home])
        return peer.ended or peer.silent >= self._times.gone

    def _tally(self, number: int, phase: int, ballot: _Ballot) -> Steps[bytes | None]:
        """Return the verdict of all hosts on a phase; None while a vote is missing."""
        members, unknown = yield from self._roster.all()
        if unknown is not None:
            return None
        asked = [member for member in members if (member.first, phase) not in ballot.yes]
        open_ = {f"vote/{number}/{phase}/{member.first}": member for member in asked}
        raws = (yield from call(self._store.get_many, list(open_))) if open_ else []
        missing = {}
        for (key, member), raw in zip(open_.items(), raws, strict=True):
            if raw is not None:
                ballot.yes.add((member.first, phase))
            else:
                missing[key] = member
        peers = [peer for peer in (yield from self._roster.hear(missing.values())) if not peer.ended]
        if not peers:
            return b"yes"
        ballot.awaited = tuple(missing)
        return b"no" if any(peer.silent >= self._times.gone for peer in peers) else None
