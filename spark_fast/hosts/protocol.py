"""How the hosts of a job agree on the step of a request. No input or output: see `relay` for who carries it out.

Each host has one relay, and all have one store. Keys, where r is a host's lowest rank and n counts the requests:

    job            drawn by whoever comes first: tells one store from another
    host/<r>       who is there: JSON of a Member
    log/<n>        the request: JSON of an Entry. From the swap that puts it there on, it exists
    low/<n>/<r>    the earliest step that the host can take it at, or why it can't: JSON of an Answer
    target/<n>     what was decided, once and for all: JSON of a Decision
    done/<n>/<r>   what became of it on the host: JSON of a Done
    vote/<n>/<p>/<r>   the host's ranks have come through phase p of a reload
    verdict/<n>/<p>    whether all hosts' have, once and for all: yes or no
    state/<r>      the host's ranks, and a count that grows while its relay lives
    watched        changes while somebody, anywhere, looks at the whole job

Every relay takes the requests in their order. It appends the request to its host's own log, as one of which the target
comes from elsewhere: from then on none of its ranks passes the step `low`, which it tells. The relay whose host was
asked waits for all lows and decides the largest, or that there is no such step; if it does not, any other voids the
request when its time is over. A host acts at the step that was decided, or, if its ranks have not waited for it, not at
all, and says so: it came too late. That is all that safety rests on. Who has to answer is a matter of manners: a host
that nobody asked can't act at a wrong step, since no step below its own `low` is ever committed to it.

A reload is voted on, phase by phase: see csrc/sf_layout.h. The ranks of a host count what they say themselves. One no
among them is everybody's; with a yes they wait for the verdict, which the relay brings. It is yes once every host that
has not ended has said so; the relay of the host that was asked counts, or any other where that one is gone.

A relay may be killed between any two calls. What it has to know stands in the store, in its host's log, or in its note.
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar

from spark_fast.hosts.deciding import combine, decide
from spark_fast.hosts.store import Store, StoreGoneError
from spark_fast.hosts.words import (
    PHASES,
    VOID,
    VOTE_NO,
    VOTE_YES,
    Answer,
    Ask,
    Decision,
    Done,
    Entry,
    Fate,
    Member,
    Note,
    Peer,
    Place,
    as_object,
    ranks_said,
    whole,
)
from spark_fast.request import Kind

__all__ = ["Call", "Local", "Relay", "Steps", "Times"]

_KEPT = 128
"""Requests of which the store keeps what was said: as many as a host's log holds."""
_RING = 128

_VERDICTS = {b"yes": VOTE_YES, b"no": VOTE_NO}
_VOTE_PAUSE = 0.002
_VOTE_PAUSE_MOST = 0.25
"""Seconds between two looks what the others have said, ever more: new code may take minutes to come round."""

_GATHER_PAUSE = 0.001
"""Seconds between two looks what became of a request on the other hosts, ever more."""

_BESIDE = (Kind.PAUSE, Kind.RESUME, Kind.ADVANCE, Kind.STOP)
"""What may be done without a host that has been silent for long: hosts can be brought together again after it. Should
its ranks live, values and code would differ for good."""

_Result = TypeVar("_Result")


class Call(NamedTuple):
    """One thing that is done outside: `function(*arguments)`, the result of which is sent back."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


Steps = Generator[Call, Any, _Result]
"""Calls one after the other, and what comes of them. StoreGoneError may be thrown in at any of them."""


def call(function: Callable[..., _Result], *arguments: Any) -> Steps[_Result]:
    """One call. For `yield from`, so that what it returns has a type."""
    result: _Result = yield Call(function, arguments)
    return result


@dataclass(frozen=True)
class Times:
    """All in seconds.

    Attributes:
        bound: how long the hosts have to answer, before a request is void.
        beat: between two words of a host that nobody watches.
        watched: the same while somebody does.
        gone: silence after which a host is left out.
    """

    bound: float = 5.0
    beat: float = 5.0
    watched: float = 1.0
    gone: float = 20.0

    @property
    def takeover(self) -> float:
        """After so long without a decision any host voids the request."""
        return 1.5 * self.bound

    @property
    def patience(self) -> float:
        """So long a rank waits for a decision: none comes later than that, but by a broken link."""
        return 2 * self.bound


class Local(Protocol):
    """The host: its log, what its senders have left, its ranks. Calls take microseconds."""

    def load(self) -> Note:
        """What the relay before has noted."""

    def save(self, note: Note) -> None:
        """Keeps it."""

    def asks(self) -> list[Ask]:
        """What senders have left, oldest first, and no fate was written for."""

    def mark(self, ident: str, number: int | None) -> None:
        """Keeps that the request may stand in the job's log, and where."""

    def tell(self, ident: str, fate: Fate) -> None:
        """Leaves the fate for the sender, and forgets what it had left. Nothing if that was done before."""

    def find(self, ident: str) -> Place | None:
        """Where a request stands in the host's log; None if it was not appended."""

    def append(self, entry: Entry) -> Place:
        """Appends it, as one of which the target comes from elsewhere."""

    def commit(self, seq: int, target: int) -> int:
        """Hands the target, or VOID, to the ranks. The one that the entry has: VOID if they have given up."""

    def votes(self, seq: int, ident: str) -> list[tuple[int, int]] | None:
        """Of an entry that is a reload: for each phase what this host's ranks say, and what all do, VOTE_YES or
        VOTE_NO, or 0 while it is open. None of any other."""

    def commit_vote(self, seq: int, phase: int, verdict: int) -> int:
        """Hands the verdict to the ranks. The one that the entry has: another if they have given up."""

    def outcome(self, seq: int, ident: str) -> Done | None:
        """What became of an entry with a target; None as long as that is open."""

    def ranks(self) -> list[dict[str, Any]]:
        """What the host's ranks are doing."""

    def alive(self) -> bool:
        """Whether one of them lives."""

    def watched(self) -> bool:
        """Whether somebody on this host looks at the whole job."""

    def show(self, peers: Sequence[Peer], missing: str) -> None:
        """Lays out what is known of the others. missing: which ranks nobody has heard of, for people."""

    def now(self) -> float:
        """Seconds, of a clock that does not jump."""


# --- the relay ---


@dataclass
class _Own:
    """A request of this host's senders that has a target."""

    ident: str
    target: int
    done: dict[int, Done] = field(default_factory=dict)
    without: tuple[int, ...] = ()
    pause: float = _GATHER_PAUSE
    due: float = 0.0


@dataclass
class _Ballot:
    """A reload that this host's ranks vote on.

    Attributes:
        said: the phases of which the others have been told that it said yes.
        yes: the hosts of which that is known, with the phase.
        home: the lowest rank of the host that was asked; None until it is known.
        pause, due: when it is looked again what the others say; None while they are not waited for.
        over: the ranks have nothing more to hear, and the others have heard what they said.
    """

    said: set[int] = field(default_factory=set)
    yes: set[tuple[int, int]] = field(default_factory=set)
    home: int | None = None
    pause: float = _VOTE_PAUSE
    due: float | None = None
    over: bool = False


class Relay:
    """One host's relay. turn() is to be run again and again: at once when something has come, else when it says.

    member: this host.
    """

    def __init__(self, store: Store, local: Local, member: Member, times: Times) -> None:
        self._store = store
        self._local = local
        self._member = member
        self._times = times
        self._note: Note | None = None
        self._hosts: dict[int, Member] = {}
        self._heard: dict[int, tuple[int, float]] = {}  # of another host: its count, and when it was first seen
        self._own: dict[int, _Own] = {}
        self._ballots: dict[int, _Ballot] = {}
        self._told: set[int] = set()
        self._voted: set[int] = set()  # requests of this host of which the store has verdicts
        self._count = 0
        self._beat_due = 0.0
        self._watch_due = 0.0
        self._watched: bytes | None = None
        self._watched_until = 0.0
        self._cleared = 0

    @property
    def next_key(self) -> str | None:
        """The key of the next request of the job; None before the first turn."""
        return None if self._note is None else f"log/{self._note.next}"

    def turn(self) -> Steps[float]:
        """Does what there is to do. The seconds until it is to be run again, if nothing comes before."""
        if self._note is None:
            yield from self._join()
        yield from self._send()
        yield from self._follow()
        yield from self._vote()
        yield from self._report()
        yield from self._gather()
        yield from self._beat()
        return (yield from self._rest())

    def move(self, store: Store) -> None:
        """From here on this is the store: a new connection to the old one, it may be, or another."""
        self._store = store
        self._note = None
        self._hosts.clear()
        self._own.clear()
        self._ballots.clear()
        self._told.clear()
        self._beat_due = 0.0

    def hurry(self, *, tell: bool) -> None:
        """Has the next turn read what the others tell, if somebody looks, whenever that was due.

        tell: whether it is also to tell what this host's ranks do.
        """
        self._watch_due = 0.0
        if tell:
            self._beat_due = 0.0

    def leave(self) -> Steps[None]:
        """No rank lives any more: tells the others."""
        if self._note is None:
            return
        yield from self._report(ended=True)
        yield from self._gather()
        self._count += 1
        yield from call(self._store.set, f"state/{self._member.first}", self._state((yield from self._ranks()), True))
        # A put may be on its way still; what is answered was taken.
        yield from call(self._store.get, "job")

    def refuse(self, reason: str, since: float, *, over: bool = False) -> Steps[None]:
        """Tell the senders of this host what is known, since the store can't be reached.

        since: for how many seconds it could not be reached.
        over: whether no rank of this host lives, so that no relay will wait for the store any longer.
        """
        for ask in (yield from call(self._local.asks)):
            if not ask.tried and ask.number is None:
                if over or ask.age >= self._times.bound:
                    yield from call(self._local.tell, ask.entry.id, Fate("refused", reason=reason))
                continue
            step = yield from self._did_here(ask.entry)
            if step is not None and ask.entry.kind == Kind.STOP:
                # The store often ends with the job: the other hosts were told the same step, and say nothing any more.
                partly = f"on this host; of the others nothing was heard: {reason}"
                yield from call(self._local.tell, ask.entry.id, Fate("applied", step, reason=partly))
            elif over or min(ask.age, since) >= self._times.patience:
                # It was sent, or its answer was lost. The others have decided by now, or have voided it.
                here = "" if step is None else f"this host acted at step {step}; "
                unknown = f"{here}what became of it on the other hosts is not known: {reason}"
                yield from call(self._local.tell, ask.entry.id, Fate("lost", reason=unknown))

    def _did_here(self, entry: Entry) -> Steps[int | None]:
        """The step at which all living ranks of this host have done what was asked; None if they have not."""
        place = yield from call(self._local.find, entry.id)
        if place is None or not place.seq:
            return None
        done = yield from call(self._local.outcome, place.seq, entry.id)
        return done.step if done is not None and done.outcome == "applied" else None

    # --- who is there ---

    def _join(self) -> Steps[None]:
        mine = self._member
        fresh = f"{mine.node}-{(yield from call(self._local.now))}".encode()
        store = (yield from call(self._store.compare_set, "job", None, fresh)).decode(errors="replace")
        note = yield from call(self._local.load)
        if note.store != store:
            # It begins with the first request, as its ranks do with the first step; what no ring holds it skips.
            tail = yield from self._find_tail()
            for ask in (yield from call(self._local.asks)):
                if ask.tried or ask.number is not None:
                    lost = Fate("lost", reason="the job has another store now")
                    yield from call(self._local.tell, ask.entry.id, lost)
            note = Note(store, max(1, tail - _RING + 1))
            yield from call(self._local.save, note)
        key = f"host/{mine.first}"
        while True:
            stands = yield from call(self._store.get, key)
            there = Member.parsed(stands)
            if there is not None and there.node != mine.node and there.generation > mine.generation:
                raise StoreGoneError(f"host {there.name} has taken the place of this one in the job")
            if stands == mine.packed():
                break
            if (yield from call(self._store.compare_set, key, stands, mine.packed())) == mine.packed():
                break
        said = as_object((yield from call(self._store.get, f"state/{mine.first}")))
        self._count = whole(said.get("count")) or 0
        self._note = note

    def _find_tail(self) -> Steps[int]:
        """The number of the last request in the job's log."""
        there, beyond = 0, 1
        while (yield from call(self._store.get, f"log/{beyond}")) is not None:
            there, beyond = beyond, 2 * beyond
        while beyond - there > 1:
            middle = (there + beyond) // 2
            if (yield from call(self._store.get, f"log/{middle}")) is not None:
                there = middle
            else:
                beyond = middle
        return there

    def _all_hosts(self, until: float = 0.0) -> Steps[tuple[list[Member], int | None]]:
        """All hosts, by their lowest ranks, and the lowest rank of which nobody has heard, if there is one.

        until: when to stop waiting for such a rank.
        """
        covered: set[int] = set()
        found: list[Member] = []
        rank = 0
        while rank < self._member.world_size:
            member = self._hosts.get(rank) or Member.parsed((yield from call(self._store.get, f"host/{rank}")))
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

    def _hear(self, member: Member) -> Steps[Peer]:
        """What a host says of itself now."""
        said = as_object((yield from call(self._store.get, f"state/{member.first}")))
        count, ranks = whole(said.get("count")) or 0, ranks_said(said.get("ranks"), member)
        now = yield from call(self._local.now)
        heard = self._heard.get(member.first)
        if heard is None or heard[0] != count:
            heard = self._heard[member.first] = count, now
        return Peer(member, count, ranks, said.get("ended") is True, now - heard[1])

    # --- what this host's senders have left ---

    def _send(self) -> Steps[None]:
        """Puts what senders have left into the job's log."""
        for ask in (yield from call(self._local.asks)):
            if ask.number is not None:
                yield from self._take_up(ask)
                continue
            yield from self._put(ask)

    def _put(self, ask: Ask) -> Steps[None]:
        assert self._note is not None
        number = self._note.next
        if ask.tried:
            number = max(1, number - _RING)  # it may have been settled since
        entry = replace(ask.entry, home=self._member.first)
        while True:
            raw = yield from call(self._store.get, f"log/{number}")
            if raw is None:
                if ask.age >= self._times.bound:
                    reason = f"it could not be sent for {ask.age:.0f} s"
                    yield from call(self._local.tell, entry.id, Fate("refused", reason=reason))
                    return
                yield from call(self._local.mark, entry.id, None)
                raw = yield from call(self._store.compare_set, f"log/{number}", None, entry.packed())
            there = Entry.parsed(raw)
            if there is not None and there.id == entry.id:
                break
            number += 1
        yield from call(self._local.mark, entry.id, number)

    def _take_up(self, ask: Ask) -> Steps[None]:
        """A request of which the number is known: once it is settled here, what became of it has to be found out."""
        assert self._note is not None and ask.number is not None
        if ask.number in self._own or ask.number >= self._note.next:
            return
        raw = yield from call(self._store.get, f"target/{ask.number}")
        if raw is None:
            unknown = "it was asked for too long ago" if ask.age > self._times.patience else None
            if unknown:
                yield from call(self._local.tell, ask.entry.id, Fate("lost", reason=unknown))
            return
        yield from self._settled(ask.number, ask.entry.id, Decision.parsed(raw))

    def _settled(self, number: int, ident: str, decision: Decision) -> Steps[None]:
        """Of a request of this host's senders it is known what was decided."""
        if decision.target is not None:
            self._own[number] = _Own(ident, decision.target, without=decision.without)
            return
        fates = {
            "nothing": Fate("same", by=decision.same) if decision.same else Fate("nothing"),
            "stopping": Fate("refused", reason="the run is stopping"),
            "ended": Fate("refused", reason="the run has ended"),
        }
        yield from call(self._local.tell, ident, fates.get(decision.why, Fate("refused", reason=decision.reason)))

    # --- the job's log ---

    def _follow(self) -> Steps[None]:
        """Settles what stands in the job's log."""
        assert self._note is not None
        while True:
            number = self._note.next
            raw = yield from call(self._store.get, f"log/{number}")
            if raw is None:
                return
            entry = Entry.parsed(raw)
            seq = 0
            if entry is not None:
                seq = yield from self._settle(number, entry)
            open_ = (*self._note.open, (number, entry.id, seq)) if entry is not None and seq else self._note.open
            note = replace(self._note, next=number + 1, open=open_)
            yield from call(self._local.save, note)
            self._note = note
            if entry is not None:
                yield from call(self._store.delete, f"low/{number}/{self._member.first}")  # it has served
                yield from self._forget(number - _KEPT, entry.home == self._member.first)

    def _settle(self, number: int, entry: Entry) -> Steps[int]:
        """Has a request decided, and the decision handed to the ranks: its number in the host's own log, 0 if it has no
        part in it."""
        mine, first = entry.home == self._member.first, self._member.first
        raw = yield from call(self._store.get, f"target/{number}")
        place = yield from call(self._local.find, entry.id)
        if place is None and (raw is None or Decision.parsed(raw).target is not None):
            place = yield from call(self._local.append, entry)
        if raw is None:
            assert place is not None
            yield from call(self._store.set, f"low/{number}/{first}", place.answer.packed())
            if mine:
                raw = yield from self._decide(number, entry, place.answer)
            else:
                raw = yield from self._await(number, entry)
        decision = Decision.parsed(raw)
        late = False
        if place is not None and place.seq:
            # Never below the step from which on the ranks have waited: they may be past it. Nor, where the others have
            # decided without this host, beyond the one at which they park: they would never come to it.
            low, park, target = place.answer.low, place.answer.park, decision.target
            late = target is not None and (low is None or target < low or (park is not None and park < target))
            wanted = VOID if target is None or late else target
            stands = yield from call(self._local.commit, place.seq, wanted)
            late = late or (target is not None and stands != target)
        if decision.target is not None and (place is None or not place.seq or late):
            done = Done("late" if late else "nothing")
            if entry.kind == Kind.RELOAD and not (place is not None and place.answer.why == "ended"):
                # The others are not to run what this host does not.
                yield from call(self._store.compare_set, f"verdict/{number}/0", None, b"no")
            yield from call(self._store.set, f"done/{number}/{first}", done.packed())
        if mine:
            yield from self._settled(number, entry.id, decision)
        return place.seq if place is not None and decision.target is not None and not late else 0

    def _await(self, number: int, entry: Entry) -> Steps[bytes]:
        """Waits for the host that was asked to decide; voids the request if it does not."""
        key = f"target/{number}"
        raw = yield from call(self._store.wait, key, self._times.takeover)
        if raw is not None:
            return raw
        member = self._hosts.get(entry.home) or Member.parsed((yield from call(self._store.get, f"host/{entry.home}")))
        name = member.name if member is not None else f"with rank {entry.home}"
        void = Decision(why="failed", reason=f"host {name}, which was asked, did not go on")
        return (yield from call(self._store.compare_set, key, None, void.packed()))

    def _decide(self, number: int, entry: Entry, own: Answer) -> Steps[bytes]:
        until = (yield from call(self._local.now)) + self._times.bound
        members, unknown = yield from self._all_hosts(until)
        if unknown is not None:
            reason = (
                f"no word yet of rank {unknown}: it has passed no checkpoint, does not reach the job's store, or has "
                "another secret than this host"
            )
            decision = Decision(why="failed", reason=reason)
        else:
            decision = yield from self._ask_all(number, entry, own, members, until)
        return (yield from call(self._store.compare_set, f"target/{number}", None, decision.packed()))

    def _ask_all(
        self, number: int, entry: Entry, own: Answer, members: Sequence[Member], until: float
    ) -> Steps[Decision]:
        answers = {self._member: own}
        without, missing = [], []
        grace = (yield from call(self._local.now)) + min(0.2, self._times.bound / 10)
        for member in members:
            if member.first == self._member.first:
                continue
            key = f"low/{number}/{member.first}"
            raw = yield from call(self._store.get, key)
            if raw is None:
                left = grace - (yield from call(self._local.now))
                raw = (yield from call(self._store.wait, key, left)) if left > 0 else None
            if raw is None:
                missing.append(member)
            else:
                answers[member] = Answer.parsed(raw)
        for member in missing:
            peer = yield from self._hear(member)
            if peer.ended:
                answers[member] = Answer(why="ended")
                continue
            left = until - (yield from call(self._local.now))
            gone = peer.silent >= self._times.gone and entry.kind in _BESIDE
            raw = yield from call(self._store.wait, f"low/{number}/{member.first}", 0.0 if gone else max(left, 0.0))
            if raw is not None:
                answers[member] = Answer.parsed(raw)
            elif gone:
                without.append(member)
            else:
                self._hosts.clear()  # another may have taken its place since
                names = f"host {member.name} (ranks {_spans(member.ranks)})"
                return Decision(why="failed", reason=f"{names} did not answer in {self._times.bound:g} s")
        return decide(entry.kind, answers, without)

    def _forget(self, number: int, mine: bool) -> Steps[None]:
        """Removes from the store what nobody will ask for any more."""
        if number < 1:
            return
        first = self._member.first
        yield from call(self._store.delete, f"done/{number}/{first}")
        if number in self._voted:
            self._voted.discard(number)
            for phase in range(PHASES):
                yield from call(self._store.delete, f"verdict/{number}/{phase}")
        if mine:
            # The log keeps its place, so that its end can be found.
            yield from call(self._store.set, f"log/{number}", b"{}")
            yield from call(self._store.delete, f"target/{number}")

    # --- what its ranks vote on ---

    def _vote(self) -> Steps[None]:
        """Brings together what the ranks of all hosts say of a reload."""
        assert self._note is not None
        for number, ident, seq in self._note.open:
            votes = yield from call(self._local.votes, seq, ident)
            if votes is None:
                continue
            ballot = self._ballots.setdefault(number, _Ballot())
            if number in self._own:
                self._voted.add(number)
            for phase, (here, settled) in enumerate(votes):
                if VOTE_NO in (here, settled):
                    yield from call(self._store.compare_set, f"verdict/{number}/{phase}", None, b"no")
                    ballot.over = True
                elif here and phase not in ballot.said:
                    yield from call(self._store.set, f"vote/{number}/{phase}/{self._member.first}", b"yes")
                    ballot.said.add(phase)
                    ballot.pause, ballot.due = _VOTE_PAUSE, None
                if not here or (not settled and not (yield from self._settle_vote(number, seq, phase, ballot))):
                    break
                ballot.over = ballot.over or phase + 1 == PHASES

    def _settle_vote(self, number: int, seq: int, phase: int, ballot: _Ballot) -> Steps[bool]:
        """Hands on what all hosts have agreed on. Whether that is known."""
        now = yield from call(self._local.now)
        if ballot.due is not None and now < ballot.due:
            return False
        key = f"verdict/{number}/{phase}"
        raw = yield from call(self._store.get, key)
        if raw is None and (yield from self._counts(number, ballot)):
            verdict = yield from self._tally(number, phase, ballot)
            if verdict is not None:
                raw = yield from call(self._store.compare_set, key, None, verdict)
        if raw is None:
            ballot.pause = min(_VOTE_PAUSE_MOST, 1.3 * ballot.pause)
            ballot.due = now + ballot.pause
            return False
        ballot.due = None
        yield from call(self._local.commit_vote, seq, phase, _VERDICTS.get(raw, VOTE_NO))
        return True

    def _counts(self, number: int, ballot: _Ballot) -> Steps[bool]:
        """Whether it is for this host to count what all have said."""
        if number in self._own:
            return True
        if ballot.home is None:
            entry = Entry.parsed((yield from call(self._store.get, f"log/{number}")) or b"")
            ballot.home = self._member.first if entry is None else entry.home
        if ballot.home == self._member.first:
            return True
        home = Member.parsed((yield from call(self._store.get, f"host/{ballot.home}")))
        if home is None:
            return True
        peer = yield from self._hear(home)
        return peer.ended or peer.silent >= self._times.gone

    def _tally(self, number: int, phase: int, ballot: _Ballot) -> Steps[bytes | None]:
        """What all hosts have said of a phase; None while one has not."""
        members, unknown = yield from self._all_hosts()
        if unknown is not None:
            return None
        for member in members:
            if (member.first, phase) in ballot.yes:
                continue
            if (yield from call(self._store.get, f"vote/{number}/{phase}/{member.first}")) is not None:
                ballot.yes.add((member.first, phase))
                continue
            peer = yield from self._hear(member)
            if not peer.ended:
                return b"no" if peer.silent >= self._times.gone else None
        return b"yes"

    # --- what became of it ---

    def _report(self, ended: bool = False) -> Steps[None]:
        """Tells what became of the requests on this host."""
        assert self._note is not None
        left = []
        for number, ident, seq in self._note.open:
            done = yield from call(self._local.outcome, seq, ident)
            if done is None and ended:
                done = Done("lost")
            if done is not None and number not in self._told:
                yield from call(self._store.set, f"done/{number}/{self._member.first}", done.packed())
                self._told.add(number)
                if (own := self._own.get(number)) is not None:
                    # The others act at the same step, so they say so soon: after a stop the store may end right then.
                    own.pause, own.due = _GATHER_PAUSE, 0.0
            # New code that has come to wait somewhere counts as applied, and may be voted down still.
            ballot = self._ballots.get(number)
            voting = ballot is not None and not ballot.over and not ended
            if done is None or (done.outcome in ("applied", "failed") and voting):
                left.append((number, ident, seq))
                continue
            self._told.discard(number)
            if ballot is not None:
                del self._ballots[number]
                for phase in range(PHASES):
                    yield from call(self._store.delete, f"vote/{number}/{phase}/{self._member.first}")
        if len(left) < len(self._note.open):
            note = replace(self._note, open=tuple(left))
            yield from call(self._local.save, note)
            self._note = note

    def _gather(self) -> Steps[None]:
        """Finds out what became of this host's requests on all hosts, and tells their senders."""
        if not self._own:
            return
        now = yield from call(self._local.now)
        members: list[Member] | None = None
        for number, own in list(self._own.items()):
            if now < own.due:
                continue
            if members is None:
                members, unknown = yield from self._all_hosts()
                if unknown is not None:
                    return  # somebody takes a place right now
            silent = []
            waiting = False
            for member in members:
                if member.first in own.done or member.first in own.without:
                    continue
                raw = yield from call(self._store.get, f"done/{number}/{member.first}")
                if raw is not None:
                    own.done[member.first] = Done.parsed(raw)
                    continue
                if member.first == self._member.first or own.pause < 0.5:
                    waiting = True
                    break
                peer = yield from self._hear(member)
                if peer.ended:
                    own.done[member.first] = Done("lost")
                elif peer.silent < self._times.gone:
                    waiting = True
                    break
                else:
                    silent.append(member)
            if waiting:
                own.pause = min(0.5, 1.5 * own.pause)
                own.due = now + own.pause
                continue
            found = {member: own.done[member.first] for member in members if member.first in own.done}
            yield from call(self._local.tell, own.ident, combine(own.target, found, silent))
            del self._own[number]

    # --- what all can see ---

    def _ranks(self) -> Steps[list[dict[str, Any]]]:
        return (yield from call(self._local.ranks))

    def _state(self, ranks: Sequence[Mapping[str, Any]], ended: bool) -> bytes:
        said: dict[str, Any] = {"count": self._count, "ranks": list(ranks)}
        if ended:
            said["ended"] = True
        return json.dumps(said, separators=(",", ":")).encode()

    def _beat(self) -> Steps[None]:
        """Tells what this host's ranks do, and reads what the others tell if somebody here wants to know."""
        now = yield from call(self._local.now)
        looked = yield from call(self._local.watched)
        if looked and now >= self._watch_due:
            self._watch_due = now + self._times.watched
            yield from call(self._store.set, "watched", f"{self._member.first}-{now}".encode())
            members, unknown = yield from self._all_hosts()
            peers = []
            for member in members:
                if member.first != self._member.first:
                    peers.append((yield from self._hear(member)))
            missing = "" if unknown is None else f"no word yet of rank {unknown}"
            yield from call(self._local.show, peers, missing)
            self._hosts.clear()  # read anew, since others may have taken a place
        if now < self._beat_due:
            return
        watched = yield from call(self._store.get, "watched")
        if watched != self._watched:
            self._watched, self._watched_until = watched, now + 2 * self._times.beat
        self._count += 1
        state = self._state((yield from self._ranks()), False)
        yield from call(self._store.set, f"state/{self._member.first}", state)
        self._beat_due = now + (self._times.watched if now < self._watched_until else self._times.beat)

    def _rest(self) -> Steps[float]:
        now = yield from call(self._local.now)
        due = [self._beat_due, *(own.due for own in self._own.values())]
        due += [ballot.due for ballot in self._ballots.values() if ballot.due is not None]
        if (yield from call(self._local.watched)):
            due.append(self._watch_due)
        return max(0.0, min(due) - now)


def _spans(ranks: Sequence[int]) -> str:
    """As people write them: 0-3, 8."""
    parts: list[list[int]] = []
    for rank in sorted(ranks):
        if parts and rank == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], rank]
        else:
            parts.append([rank])
    return ", ".join("-".join(str(end) for end in part) for part in parts)
