"""How the hosts of a job agree on the step of a request. This does no input or output: `relay` does that.

Each host has one relay, and all have one store. Keys, where r is a host's lowest rank and n counts the requests:

    job            drawn by the first relay that comes: identifies the store
    host/<r>       a host of the job: JSON of a Member
    log/<n>        the request: JSON of an Entry. From the swap that puts it there on, it exists
    low/<n>/<r>    the earliest step that the host can take it at, or why it can't: JSON of an Answer
    lows/<n>/<g>   the answers of a group of hosts, put there by its lead: see `answers`
    target/<n>     the decision, once and for all: JSON of a Decision
    done/<n>/<r>   the outcome on the host: JSON of a Done
    vote/<n>/<p>/<r>   the host's ranks have come through phase p of a reload
    verdict/<n>/<p>    whether all hosts' have, once and for all: yes or no
    state/<r>      the host's ranks, and a count that grows while its relay lives
    watched        changes while a controller on any host looks at the whole job

Every relay takes the requests in their order. It appends the request to its host's own log, as one of which the target
comes from elsewhere: from then on none of its ranks passes the step `low`, which it tells. The relay whose host was
asked waits for all lows and decides the largest, or that there is no such step. If it does not decide in time, any
other relay voids the request. A host acts at the decided step. If its ranks have not waited for that step, the host
does not act at all, and says that the decision came too late. Safety rests on nothing else: also a host that was not
waited for can't act at a wrong step, since no step below its own `low` is ever committed to it.

Ranks vote on a reload, phase by phase: see csrc/sf_layout.h. The ranks of a host count their own votes. One no is the
verdict of all hosts. After a yes the ranks wait for the verdict, which the relay brings. The verdict is yes once every
host that has not ended has voted yes. The relay of the asked host counts the votes, or any other if that host is gone.

A relay may be killed between any two calls. All that the next one has to know is in the store, the host's log, or the
note.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from spark_fast.hosts.answers import Answers, ranks_of_group
from spark_fast.hosts.gathering import Gathering, learned
from spark_fast.hosts.messages import VOID, Answer, Ask, Decision, Done, Entry, Fate, Member, Note, as_object, whole
from spark_fast.hosts.roster import Roster
from spark_fast.hosts.steps import Call, Local, Steps, Times, call
from spark_fast.hosts.store import Store, StoreGoneError
from spark_fast.hosts.votes import Votes
from spark_fast.request import Kind

__all__ = ["Call", "Local", "Relay", "Steps", "Times"]

_KEPT = 128
"""Requests whose outcomes and decisions the store keeps: as many as a host's log holds."""
_RING = 128
_SAVE = 0.005
"""Seconds for which a note may wait while a request is open: writing it would hold the request up."""


class Relay:
    """One host's relay.

    Call turn() again and again: at once when something has come, or after the seconds that it returns.

    member: this host.
    """

    def __init__(self, store: Store, local: Local, member: Member, times: Times) -> None:
        self._store = store
        self._local = local
        self._member = member
        self._times = times
        self._roster = Roster(store, local, member)
        self._answers = Answers(store, local, member, times, self._roster)
        self._gathering = Gathering(store, local, member, times, self._roster)
        self._votes = Votes(store, local, member, times, self._roster)
        self._note: Note | None = None
        self._saved: Note | None = None
        self._numbers: dict[str, int] = {}  # the numbers of this host's requests, by id
        self._unmarked: dict[str, int] = {}  # those whose numbers are not saved yet
        self._sent = 0  # the last request of this host
        self._begun = 0  # the last request that the relay before this one may have appended to the host's log
        self._told: set[int] = set()
        self._save_due: float | None = None
        self._count = 0
        self._beat_due = 0.0
        self._looked = False
        self._watch_due = 0.0
        self._watched: bytes | None = None
        self._watched_until = 0.0

    @property
    def next_key(self) -> str | None:
        """The key of the next request of the job; None before the first turn."""
        return None if self._note is None else f"log/{self._note.next}"

    @property
    def awaited(self) -> tuple[str, ...]:
        """The keys for which an open vote or request waits: it goes on once all are there. Empty if none is open."""
        return self._votes.awaited or self._gathering.awaited

    def turn(self, news: Mapping[str, bytes] | None = None, *, look: bool = True, asked: bool = True) -> Steps[float]:
        """Do what there is to do. Return the seconds until the next turn, if nothing comes before.

        news: what stands at next_key or at the keys of `awaited`, where the driver has read it.
        look: whether to look for the next request also if there is no news of it.
        asked: whether a sender or a controller of this host may have left something since the last turn.
        """
        news = dict(news or {})
        if self._note is None:
            yield from self._join()
        if asked:
            yield from self._send(news)
            self._looked = yield from call(self._local.watched)
        yield from self._follow(news, look)
        yield from self._vote(news)
        yield from self._report()
        for number, first, done in learned(news):
            self._gathering.learn(number, first, done)
        yield from self._gathering.look()
        rest = yield from self._beat()
        return min(rest, (yield from self._save_later()))

    def move(self, store: Store) -> None:
        """Use another store from now on, or another connection to the same one."""
        self._store = store
        for part in (self._roster, self._answers, self._gathering, self._votes):
            part.move(store)
        self._note = self._saved = self._save_due = None
        self._numbers.clear()
        self._unmarked.clear()
        self._sent = 0
        self._told.clear()
        self._beat_due = 0.0

    def hurry(self, *, tell: bool) -> None:
        """Let the next turn read the states of the other hosts at once, if a controller looks at them.

        tell: whether it also publishes the state of this host's ranks.
        """
        self._watch_due = 0.0
        if tell:
            self._beat_due = 0.0

    def leave(self) -> Steps[None]:
        """Tell the others that no rank lives here, and answer the requests that they sent before they could know it."""
        if self._note is None:
            return
        yield from self._report(ended=True)
        yield from self._gathering.look()
        yield from self._publish_state(ended=True)
        yield from call(self._store.get, "job")  # a put may be on its way still; what is answered was taken
        # The host that is asked puts its request into the log, then reads this. So either it finds that this host has
        # ended, or this host finds the request. Else the other host would wait in vain, and fail the request.
        yield from self._follow({}, True)
        yield from self._save()
        yield from call(self._store.get, "job")  # as above

    def refuse(self, reason: str, since: float, *, over: bool = False) -> Steps[None]:
        """Tell the senders of this host what is known, since the store can't be reached.

        since: for how many seconds it could not be reached.
        over: whether no rank of this host lives: then no relay waits for the store any longer.
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
        """Return the step at which all living ranks of this host have applied a request; None if they have not."""
        appended = yield from call(self._local.find, entry.id)
        if appended is None or not appended.seq:
            return None
        done = yield from call(self._local.outcome, appended.seq, entry.id)
        return done.step if done is not None and done.outcome == "applied" else None

    # --- the start ---

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
            begun = max(1, tail)  # it may have had a note that is lost
        else:
            begun = note.next
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
        self._note = self._saved = note
        self._begun = begun

    def _save_later(self) -> Steps[float]:
        """Save the note; while a request is open, some milliseconds later. Return the seconds until then."""
        assert self._note is not None
        if self._note == self._saved and not self._unmarked:
            return self._times.beat
        now = yield from call(self._local.now)
        if self._save_due is None:
            self._save_due = now + _SAVE
        if now < self._save_due and (self._note.open or self._gathering):
            return self._save_due - now
        yield from self._save()
        return self._times.beat

    def _save(self) -> Steps[None]:
        """Save what the next relay of this host has to know.

        Without that, the next relay does the last request again, which changes nothing. So this need not hold up a
        request, but has to come before the next one.
        """
        if self._note is not None and self._note != self._saved:
            yield from call(self._local.save, self._note)
            self._saved = self._note
        for ident, number in self._unmarked.items():
            if number in self._gathering:
                yield from call(self._local.mark, ident, number)
        self._unmarked.clear()
        self._save_due = None

    def _find_tail(self) -> Steps[int]:
        """Return the number of the last request in the job's log."""
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

    # --- what this host's senders have left ---

    def _send(self, news: dict[str, bytes]) -> Steps[None]:
        """Put the requests of this host's senders into the job's log."""
        for ask in (yield from call(self._local.asks)):
            number = self._numbers.get(ask.entry.id, ask.number)
            if number is None:
                yield from self._put(ask, news)
            else:
                yield from self._take_up(ask, number)

    def _put(self, ask: Ask, news: dict[str, bytes]) -> Steps[None]:
        assert self._note is not None
        entry = replace(ask.entry, home=self._member.first, group=ranks_of_group(self._member))
        if ask.tried:  # it may have been settled since
            raw, number = yield from self._search(entry.id, self._note.next - _RING, 2 * _RING)
        else:  # it is not there, but this tells whether the store is, before a mark says that it may be
            raw, number = yield from self._search(entry.id, self._note.next, 1)
        if raw is None:
            if ask.age >= self._times.bound:
                reason = f"it could not be sent for {ask.age:.0f} s"
                yield from call(self._local.tell, entry.id, Fate("refused", reason=reason))
                return
            yield from call(self._local.mark, entry.id, None)
            while True:
                raw = yield from call(self._store.compare_set, f"log/{number}", None, entry.packed())
                if Entry.id_in(raw) == entry.id:
                    break
                number += 1
            news[f"log/{number}"] = raw
        self._numbers[entry.id] = self._unmarked[entry.id] = number
        self._sent = max(self._sent, number)

    def _search(self, ident: str, start: int, count: int) -> Steps[tuple[bytes | None, int]]:
        """Search the job's log for a request, from a number on. Return it and its number, or None and the number
        behind the last one.

        count: how many to read at once.
        """
        number = max(1, start)
        while True:
            keys = [f"log/{each}" for each in range(number, number + count)]
            for raw in (yield from call(self._store.get_many, keys)):
                if raw is None or Entry.id_in(raw) == ident:
                    return raw, number
                number += 1

    def _take_up(self, ask: Ask, number: int) -> Steps[None]:
        """Find out what became of a request whose number is known, once it is settled here."""
        assert self._note is not None
        if number in self._gathering or number >= self._note.next:
            return
        log, raw = yield from call(self._store.get_many, [f"log/{number}", f"target/{number}"])
        # The relay before this one has noted the number. By now another user may have put another request there.
        if raw is None or log is None or Entry.id_in(log) != ask.entry.id:
            if ask.age > self._times.patience:
                unknown = "the job's store no longer holds what was decided of it"
                yield from call(self._local.tell, ask.entry.id, Fate("lost", reason=unknown))
            return
        yield from self._settled(number, ask.entry.id, Decision.parsed(raw))

    def _settled(self, number: int, ident: str, decision: Decision, asked: Sequence[int] = ()) -> Steps[None]:
        """Gather the outcomes of a request that has a target, or tell its sender why there is none.

        asked: the lowest ranks of the hosts that have just answered.
        """
        if decision.target is not None:
            yield from self._gathering.begin(number, ident, decision, asked)
            return
        fates = {
            "nothing": Fate("same", by=decision.same) if decision.same else Fate("nothing"),
            "stopping": Fate("refused", reason="the run is stopping"),
            "ended": Fate("refused", reason="the run has ended"),
        }
        yield from call(self._local.tell, ident, fates.get(decision.why, Fate("refused", reason=decision.reason)))

    # --- the job's log ---

    def _follow(self, news: dict[str, bytes], look: bool) -> Steps[None]:
        """Take the requests of the job's log in their order, and have each decided and handed to the ranks."""
        assert self._note is not None
        while True:
            number = self._note.next
            key, target = f"log/{number}", None
            raw = news.get(key)
            if raw is None or number <= self._begun:  # it may be decided already, and the news does not tell that
                if raw is None and not look and number > self._sent:
                    return
                raw, target = yield from call(self._store.get_many, [key, f"target/{number}"])
            if raw is None:
                return
            yield from self._save()
            entry = Entry.parsed(raw)
            seq = 0
            if entry is not None:
                seq = yield from self._settle(number, entry, target)
            open_ = (*self._note.open, (number, entry.id, seq)) if entry is not None and seq else self._note.open
            self._note = replace(self._note, next=number + 1, open=open_)
            if entry is not None:
                yield from self._forget(number, entry.home == self._member.first)

    def _settle(self, number: int, entry: Entry, raw: bytes | None) -> Steps[int]:
        """Have a request decided, and hand the decision to the ranks. Return its number in the host's own log, 0 if the
        host has no part in it.

        raw: the decision, if it is known.
        """
        mine, first = entry.home == self._member.first, self._member.first
        appended = (yield from call(self._local.find, entry.id)) if number <= self._begun else None
        if appended is None and (raw is None or Decision.parsed(raw).target is not None):
            appended = yield from call(self._local.append, entry)
        asked = raw is None
        if raw is None:
            assert appended is not None
            if mine:
                raw = yield from self._decide(number, entry, appended.answer)
            else:
                yield from call(self._store.set, f"low/{number}/{first}", appended.answer.packed())
                yield from self._answers.gather(number, entry, appended.answer)
                raw = yield from self._await(number, entry)
        decision = Decision.parsed(raw)
        late = False
        if appended is not None and appended.seq:
            # Never below the step from which on the ranks have waited: they may be past it. Nor, where the others have
            # decided without this host, beyond the one at which they park: they would never come to it.
            low, park, target = appended.answer.low, appended.answer.park, decision.target
            late = target is not None and (low is None or target < low or (park is not None and park < target))
            wanted = VOID if target is None or late else target
            stands = yield from call(self._local.commit, appended.seq, wanted)
            late = late or (target is not None and stands != target)
        if mine:
            hosts, _ = yield from self._roster.all()
            yield from self._settled(number, entry.id, decision, [host.first for host in hosts] if asked else [])
        if decision.target is not None and (appended is None or not appended.seq or late):
            done = Done("late" if late else "nothing")
            if entry.kind == Kind.RELOAD and not (appended is not None and appended.answer.why == "ended"):
                # The others are not to run what this host does not.
                yield from call(self._store.compare_set, f"verdict/{number}/0", None, b"no")
            yield from self._tell(number, done)
        return appended.seq if appended is not None and decision.target is not None and not late else 0

    def _await(self, number: int, entry: Entry) -> Steps[bytes]:
        """Wait for the decision of the asked host. Void the request if none comes."""
        key = f"target/{number}"
        raw = yield from call(self._store.wait, key, self._times.takeover)
        if raw is not None:
            return raw
        member = yield from self._roster.at(entry.home)
        name = member.name if member is not None else f"with rank {entry.home}"
        void = Decision(why="failed", reason=f"host {name}, which was asked, did not go on")
        return (yield from call(self._store.compare_set, key, None, void.packed()))

    def _decide(self, number: int, entry: Entry, own: Answer) -> Steps[bytes]:
        decision = yield from self._answers.ask(number, entry, own)
        return (yield from call(self._store.compare_set, f"target/{number}", None, decision.packed()))

    def _forget(self, number: int, mine: bool) -> Steps[None]:
        """Remove from the store the keys that no relay reads any more, now that a request is decided."""
        first = self._member.first
        gone = [] if mine else [f"low/{number}/{first}", *self._answers.forget(number)]
        number -= _KEPT
        if number > 0:
            gone += [f"done/{number}/{first}", *self._votes.forget(number)]
            if mine:
                # The log keeps its place, so that its end can be found.
                yield from call(self._store.set, f"log/{number}", b"{}")
                gone.append(f"target/{number}")
        if gone:
            yield from call(self._store.delete, *gone)

    # --- outcomes ---

    def _vote(self, news: Mapping[str, bytes]) -> Steps[None]:
        """Bring together the votes of all hosts on open reloads."""
        assert self._note is not None
        if any(key.startswith(("vote/", "verdict/")) for key in news):
            self._votes.wake()
        for number, ident, seq in self._note.open:
            yield from self._votes.bring(number, ident, seq, number in self._gathering)

    def _report(self, ended: bool = False) -> Steps[None]:
        """Publish the outcomes of requests on this host."""
        assert self._note is not None
        left = []
        for number, ident, seq in self._note.open:
            done = yield from call(self._local.outcome, seq, ident)
            if done is None and ended:
                done = Done("lost")
            if done is not None and number not in self._told:
                yield from self._tell(number, done)
                self._told.add(number)
            # New code that has come to wait somewhere counts as applied, and may be voted down still.
            voting = self._votes.is_open(number) and not ended
            if done is None or (done.outcome in ("applied", "failed") and voting):
                left.append((number, ident, seq))
                continue
            self._told.discard(number)
            yield from self._votes.close(number)
        self._note = replace(self._note, open=tuple(left))

    def _tell(self, number: int, done: Done) -> Steps[None]:
        yield from call(self._store.set, f"done/{number}/{self._member.first}", done.packed())
        self._gathering.learn(number, self._member.first, done)

    # --- what all can see ---

    def _publish_state(self, *, ended: bool = False) -> Steps[None]:
        self._count += 1
        said: dict[str, Any] = {"count": self._count, "ranks": list((yield from call(self._local.ranks)))}
        if ended:
            said["ended"] = True
        state = json.dumps(said, separators=(",", ":")).encode()
        yield from call(self._store.set, f"state/{self._member.first}", state)

    def _beat(self) -> Steps[float]:
        """Publish the state of this host's ranks; if a controller here looks at the whole job, read the others'.

        Return the seconds until the next turn.
        """
        now = yield from call(self._local.now)
        if self._looked and now >= self._watch_due:
            self._watch_due = now + self._times.watched
            yield from call(self._store.set, "watched", f"{self._member.first}-{now}".encode())
            self._roster.forget()  # others may have taken a place
            members, unknown = yield from self._roster.all()
            peers = yield from self._roster.hear(member for member in members if member.first != self._member.first)
            missing = "" if unknown is None else f"no word yet of rank {unknown}"
            yield from call(self._local.show, peers, missing)
        if now >= self._beat_due:
            watched = yield from call(self._store.get, "watched")
            if watched != self._watched:
                self._watched, self._watched_until = watched, now + 2 * self._times.beat
            yield from self._publish_state()
            self._beat_due = now + (self._times.watched if now < self._watched_until else self._times.beat)
        due = min([self._beat_due, *self._gathering.dues, *self._votes.dues])
        if self._looked:
            due = min(due, self._watch_due)
        return max(0.0, due - (yield from call(self._local.now)))
