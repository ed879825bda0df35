"""A job of several hosts in one thread: the relays' real protocol code with a simulated store, hosts and ranks.

Each call that a relay makes is one move, and so is each checkpoint of a rank. A seeded random generator picks which
moves next, when a link is cut, before or after a call got through, when it heals, and when a relay is killed. Time is
simulated, too. The ranks and the hosts' logs follow csrc/sf_log.c and csrc/sf_apply.c, reduced to the parts that
agreement needs.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from spark_fast.hosts.messages import (
    PHASES,
    VOID,
    Answer,
    Appended,
    Ask,
    Decision,
    Done,
    Entry,
    Fate,
    Member,
    Note,
    Peer,
)
from spark_fast.hosts.messages import VOTE_NO as NO
from spark_fast.hosts.messages import VOTE_YES as YES
from spark_fast.hosts.protocol import Relay, Steps, Times
from spark_fast.hosts.store import StoreGoneError
from spark_fast.request import Kind

NEVER = 1 << 64


class SimStore:
    """The store that all hosts share."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.calls = 0


class SimClient:
    """A host's connection to the store. The simulation carries out the waits, and calls waited() when one ends."""

    def __init__(self, store: SimStore) -> None:
        self.store = store

    def get(self, key: str) -> bytes | None:
        return self.store.values.get(key)

    def set(self, key: str, value: bytes) -> None:
        self.store.values[key] = value

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        assert expected != b""
        if self.store.values.get(key) == expected:
            self.store.values[key] = desired
        return self.store.values.get(key) or expected or b""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        return [self.store.values.get(key) for key in keys]

    def wait(self, key: str, timeout: float) -> bytes | None:
        raise AssertionError("the simulation waits")

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        raise AssertionError("the simulation waits")

    def waited(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the values that a wait for these keys has found."""
        return self.get_many(keys)

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.store.values.pop(key, None)

    def close(self) -> None:
        """Do nothing: the client holds nothing."""


@dataclass
class LogEntry:
    """An entry of a host's own log.

    low, target: the first step at which this host can apply it, and the decided step; None until known.
    said: the votes on a reload, by rank and phase.
    here, settled: SF_VERDICT_HERE and SF_VERDICT of each phase.
    """

    entry: Entry
    before: tuple[int, int, int, int]  # target, park, park_seq, stop_seq
    low: int | None = None
    target: int | None = None
    said: dict[tuple[int, int], int] = field(default_factory=dict)
    here: list[int] = field(default_factory=lambda: [0] * PHASES)
    settled: list[int] = field(default_factory=lambda: [0] * PHASES)


def fold(state: tuple[int, int, int, int], entry: Entry, seq: int, target: int) -> tuple[int, int, int, int]:
    """Do as sf_state_fold()."""
    last, park, park_seq, stop = state
    last = max(last, target)
    if entry.kind == Kind.PAUSE:
        park, park_seq = max(entry.arg, target), seq
    elif entry.kind == Kind.ADVANCE:
        park, park_seq = target + entry.arg, seq
    elif entry.kind in (Kind.RESUME, Kind.STOP):
        park, park_seq = NEVER, 0
        if entry.kind == Kind.STOP:
            stop = stop or seq
    return last, park, park_seq, stop


@dataclass
class SimRank:
    """A rank.

    applied: the step at which the rank applied each request.
    voting: the reload on which the rank votes, and the phase; None for none.
    verdicts: for each reload, whether the rank runs the new code.
    """

    number: int
    step: int = 0
    seq: int = 0
    state: tuple[int, int, int, int] = (0, NEVER, 0, 0)
    awaits: float | None = None
    longest: float = 0.0
    alive: bool = True
    applied: dict[str, int] = field(default_factory=dict)
    voting: tuple[LogEntry, int] | None = None
    verdicts: dict[str, int] = field(default_factory=dict)

    @property
    def parked(self) -> bool:
        return self.state[1] <= self.step and not self.state[3]


class SimHost:
    """A host, which is a Local, with its ranks and its relay."""

    def __init__(self, job: "SimJob", index: int, numbers: Sequence[int]) -> None:
        self.job = job
        self.index = index
        self.log: list[LogEntry] = []
        self.ranks_ = [SimRank(number) for number in numbers]
        self.member = Member(f"node{index}", f"h{index}", tuple(numbers), job.world_size)
        self.note = Note()
        self.left: dict[str, Ask] = {}
        self.asked: dict[str, float] = {}
        self.fates: dict[str, tuple[Fate, float]] = {}
        self.cut = False
        self.gone_since: float | None = None
        self.relay: Relay | None = None
        self.steps: Steps[Any] | None = None
        self.answer: Any = None
        self.client: SimClient | None = None
        self.waits: tuple[str | Sequence[str], float] | None = None
        self.look = True
        self.idle_until = 0.0
        self.dead_until = 0.0
        self.stirred = True

    # --- Local ---

    def load(self) -> Note:
        return self.note

    def save(self, note: Note) -> None:
        self.note = note

    def asks(self) -> list[Ask]:
        now = self.job.time
        return [replace(ask, age=now - self.asked[ask.entry.id]) for ask in self.left.values()]

    def mark(self, ident: str, number: int | None) -> None:
        if ident in self.left:
            self.left[ident] = replace(self.left[ident], tried=True, number=number)

    def tell(self, ident: str, fate: Fate) -> None:
        if self.left.pop(ident, None) is not None:
            self.fates[ident] = fate, self.job.time

    def find(self, ident: str) -> Appended | None:
        for seq in range(len(self.log), 0, -1):
            found = self.log[seq - 1]
            if found.entry.id != ident:
                continue
            if found.low is None:
                found.target = VOID
                return None
            if found.target == VOID:
                return Appended(seq, Answer(why="failed", reason="gave up"))
            park = found.before[1]
            return Appended(seq, Answer(found.low, park if park < NEVER else None))
        return None

    def append(self, entry: Entry) -> Appended:
        if self.log and self.log[-1].target is None:
            return Appended(0, Answer(why="failed", reason="busy"))
        state = (0, NEVER, 0, 0)
        if self.log:
            last = self.log[-1]
            state = last.before
            if last.target != VOID:
                assert last.target is not None
                state = fold(state, last.entry, len(self.log), last.target)
        if not self.alive():
            return Appended(0, Answer(why="ended"))
        if state[3]:
            return Appended(0, Answer(why="nothing" if entry.kind == Kind.STOP else "stopping"))
        if entry.kind == Kind.RESUME and not state[2]:
            return Appended(0, Answer(why="nothing"))
        found = LogEntry(entry, state)
        self.log.append(found)
        if not self.job.dies_within_append(self):
            self.settle(found)
        self.job.stir_ranks(self)
        return Appended(len(self.log), Answer(found.low, state[1] if state[1] < NEVER else None))

    def settle(self, found: LogEntry, standing: SimRank | None = None) -> None:
        """Do as decide() of sf_log.c."""
        if found.low is None:
            low = max((rank.step + (rank is not standing) for rank in self.ranks_ if rank.alive), default=0)
            found.low = max(min(low, found.before[1]), found.before[0])

    def commit(self, seq: int, target: int) -> int:
        found = self.log[seq - 1]
        if found.target is None:
            found.target = target
        self.job.stir_ranks(self)
        return found.target

    def votes(self, seq: int, ident: str) -> list[tuple[int, int]] | None:
        found = self.log[seq - 1]
        return list(zip(found.here, found.settled, strict=True)) if found.entry.kind == Kind.RELOAD else None

    def commit_vote(self, seq: int, phase: int, verdict: int) -> int:
        found = self.log[seq - 1]
        found.settled[phase] = found.settled[phase] or verdict
        self.job.stir_ranks(self)
        return found.settled[phase]

    def vote(self, rank: SimRank, said: int) -> None:
        """Do as sf_worker_vote() and sf_worker_agreed()."""
        assert rank.voting is not None
        found, phase = rank.voting
        found.said[rank.number, phase] = said
        all_said = [found.said.get((each.number, phase), 0) for each in self.ranks_ if each.alive]
        if not found.here[phase] and (NO in all_said or 0 not in all_said):
            found.here[phase] = max(all_said)
            found.settled[phase] = found.settled[phase] or (NO if NO in all_said else 0)
            self.stirred = True
        self.job.stir_ranks(self)

    def hear(self, rank: SimRank) -> None:
        """Let a rank act on the verdict of its vote, if there is one."""
        assert rank.voting is not None
        found, phase = rank.voting
        if found.settled[phase] == NO or (found.settled[phase] == YES and phase + 1 == PHASES):
            rank.verdicts[found.entry.id] = found.settled[phase]
            rank.voting = None
            self.stirred = True
        elif found.settled[phase] == YES:
            rank.voting = found, phase + 1

    def outcome(self, seq: int, ident: str) -> Done | None:
        found = self.log[seq - 1]
        assert found.entry.id == ident
        if all(rank.seq >= seq and rank.voting is None for rank in self.ranks_ if rank.alive):
            if found.entry.kind == Kind.RELOAD and NO in found.settled:
                return Done("failed", found.target)
            if not any(ident in rank.applied for rank in self.ranks_):
                return Done("lost")
            return Done("applied", found.target)
        return None

    def ranks(self) -> list[dict[str, Any]]:
        return [{"rank": rank.number, "step": rank.step} for rank in self.ranks_]

    def alive(self) -> bool:
        return any(rank.alive for rank in self.ranks_)

    def watched(self) -> bool:
        return False

    def show(self, peers: Sequence[Peer], missing: str) -> None:
        """Do nothing: no controller looks at this."""

    def now(self) -> float:
        return self.job.time


@dataclass(frozen=True)
class Chances:
    """The probabilities of the moves."""

    cut: float = 0.0
    heal: float = 0.0
    kill: float = 0.0
    ask: float = 0.0
    lost_answer: float = 0.5
    no: float = 0.0
    dies_within_append: float = 0.0


class SimJob:
    """The job. lockstep: keep each rank at most a step ahead of the others, as if they met in a collective."""

    def __init__(
        self,
        seed: int,
        hosts: int,
        ranks: int = 2,
        *,
        times: Times | None = None,
        chances: Chances | None = None,
        lockstep: bool = True,
        kinds: Sequence[Kind] = (Kind.PAUSE, Kind.RESUME, Kind.SET, Kind.ADVANCE),
        step_every: float = 0.01,
        latency: float = 0.0002,
        client: type[SimClient] = SimClient,
    ) -> None:
        self.random = random.Random(seed)
        self.time = 0.0
        self.world_size = hosts * ranks
        self.times = times or Times()
        self.chances = chances or Chances()
        self.lockstep = lockstep
        self.kinds = kinds
        self.step_every = step_every
        self.latency = latency
        self.store = SimStore()
        self.client = client
        self.asked = 0
        self.kills = 0
        self.cuts = 0
        self.hosts = [SimHost(self, index, range(index * ranks, (index + 1) * ranks)) for index in range(hosts)]
        self.next_step = step_every
        self.calm = False
        self.rank_stirred: set[int] = set()

    # --- events ---

    def ask(self, host: SimHost, kind: Kind, arg: int = 0, only_if: str = "") -> str:
        """Leave a request on a host, as a sender does; return its id."""
        self.asked += 1
        ident = f"{self.asked:016x}"
        host.left[ident] = Ask(Entry(ident, kind, arg, only_if=only_if), 0.0)
        host.asked[ident] = self.time
        host.stirred = True
        return ident

    def chance(self, probability: float) -> bool:
        return not self.calm and self.random.random() < probability

    def dies_within_append(self, host: SimHost) -> bool:
        if self.chance(self.chances.dies_within_append):
            self.kill(host)
            return True
        return False

    def kill(self, host: SimHost) -> None:
        """Kill the host's relay, and have it started again after a while."""
        self.kills += 1
        host.steps = host.relay = host.waits = None
        host.dead_until = self.time + self.times.bound * self.random.choice((0.01, 0.1, 0.7, 1.3, 4.0))

    def stir_ranks(self, host: SimHost) -> None:
        self.rank_stirred.add(host.index)

    # --- moves ---

    def run(self, seconds: float, done: Callable[[], bool] | None = None) -> None:
        """Let simulated time pass: this many seconds, or until done() is true."""
        end = self.time + seconds
        while self.time < end and not (done is not None and done()):
            ready = [host for host in self.hosts if self._ready(host)]
            if ready:
                # If many hosts can move, half of them do, in any order, before the next check of which can: else it
                # takes too long.
                for host in self.random.sample(ready, (len(ready) + 1) // 2 if len(ready) > 20 else 1):
                    self._misfortune(host)
                    self._move(host)
                    self.time += self.latency * self.random.random() / len(ready)
            else:
                self.time = max(self.time, min(self._next_time(), end))
            self._pass_time()

    def _next_time(self) -> float:
        times = [self.next_step]
        for host in self.hosts:
            if host.dead_until > self.time:
                times.append(host.dead_until)
            elif host.waits is not None:
                times.append(host.waits[1])
            elif host.steps is None:
                times.append(host.idle_until)
        return min(times) + 1e-6

    def _pass_time(self) -> None:
        while self.time >= self.next_step:
            self.next_step += self.step_every
            if self.chance(self.chances.ask):
                self.ask(self.random.choice(self.hosts), self.random.choice(self.kinds), self.random.randint(1, 20))
            for host in self.hosts:
                if host.cut and (self.calm or self.chance(self.chances.heal)):
                    host.cut = False
            self._all_ranks()
        for index in sorted(self.rank_stirred):
            for rank in self.hosts[index].ranks_:
                if rank.alive and (rank.parked or rank.awaits is not None or rank.voting is not None):
                    self._turn(self.hosts[index], rank)
        self.rank_stirred.clear()

    def _all_ranks(self) -> None:
        ranks = [(host, rank) for host in self.hosts for rank in host.ranks_ if rank.alive]
        slowest = min((rank.step for _, rank in ranks), default=0)
        self.random.shuffle(ranks)
        for host, rank in ranks:
            if rank.voting is not None:
                found, phase = rank.voting
                if (rank.number, phase) not in found.said and self.random.random() < 0.5:
                    host.vote(rank, NO if self.random.random() < self.chances.no else YES)
            elif rank.awaits is None and not rank.parked:
                if self.lockstep and rank.step > slowest:
                    continue
                if self.random.random() < 0.2:
                    continue
                rank.step += 1
            self._turn(host, rank)

    def _turn(self, host: SimHost, rank: SimRank) -> None:
        """Do as sf_apply_due(), and as the worker's Python when it has to wait."""
        if rank.voting is not None:
            host.hear(rank)
        while rank.seq < len(host.log) and rank.voting is None:
            found = host.log[rank.seq]
            if found.target is None:
                host.settle(found, rank)
                assert found.low is not None
                if rank.step < found.low:
                    break
                if rank.awaits is None:
                    rank.awaits = self.time
                if self.time - rank.awaits < self.times.patience:
                    return
                found.target = VOID  # give_up()
            if rank.awaits is not None:
                rank.longest = max(rank.longest, self.time - rank.awaits)
                rank.awaits = None
            assert found.target is not None
            if found.target != VOID:
                if found.target > rank.step:
                    break
                rank.state = fold(rank.state, found.entry, rank.seq + 1, found.target)
                assert found.entry.id not in rank.applied, f"{found.entry.id} is applied twice"
                rank.applied[found.entry.id] = rank.step
                host.stirred = True  # the rank has published something
                if rank.state[3]:
                    rank.alive = False
                if found.entry.kind == Kind.RELOAD:
                    rank.voting = found, 0
            rank.seq += 1
        rank.awaits = None

    def _ready(self, host: SimHost) -> bool:
        if host.dead_until > self.time:
            return False
        if host.waits is not None:
            keys, until = host.waits
            return host.cut or self._stand(keys) or self.time >= until
        if host.steps is not None:
            return True
        return host.stirred or self.time >= host.idle_until or bool(self._news(host))

    def _stand(self, keys: str | Sequence[str]) -> bool:
        return all(key in self.store.values for key in ([keys] if isinstance(keys, str) else keys))

    def _news(self, host: SimHost) -> dict[str, bytes]:
        """Return the news that the connections of a host's relay have found while they wait."""
        if host.relay is None or host.gone_since is not None or host.cut:
            return {}
        key = host.relay.next_key
        found = []
        for keys in ((key,) if key else (), host.relay.awaited):
            if self._stand(keys):
                found += keys
        return {key: self.store.values[key] for key in found}

    def _misfortune(self, host: SimHost) -> None:
        if self.chance(self.chances.cut) and not host.cut:
            host.cut = True
            self.cuts += 1
        if self.chance(self.chances.kill):
            self.kill(host)

    def _move(self, host: SimHost) -> None:
        if host.dead_until > self.time:
            return
        if host.steps is None:
            self._begin(host)
        assert host.steps is not None
        wait, host.waits = host.waits, None
        try:
            if wait is not None:
                if host.cut:
                    raise StoreGoneError("cut")
                assert host.client is not None
                keys = wait[0]
                found = host.client.waited([keys] if isinstance(keys, str) else keys)
                host.answer = found[0] if isinstance(keys, str) else found
            else:
                self._advance(host)
        except StoreGoneError as error:
            self._throw(host, error)

    def _begin(self, host: SimHost) -> None:
        client = host.client = self.client(self.store)
        if host.relay is None:
            host.relay = Relay(client, host, host.member, self.times)
            host.gone_since = None
            host.look = True
        look, host.look = host.look or not host.stirred, False
        host.stirred = False
        host.answer = None
        if host.gone_since is not None and not host.cut:
            host.relay.move(client)
            host.gone_since = None
            look = True
        if host.gone_since is not None:
            host.steps = self._refuse(host, host.relay)
        elif not host.alive():
            host.steps = self._leave(host, host.relay)
        else:
            news = self._news(host)
            if news:
                client.waited(list(news))
                self.store.calls += 1
            host.steps = host.relay.turn(news, look=look and not news)

    def _refuse(self, host: SimHost, relay: Relay) -> Steps[float]:
        assert host.gone_since is not None
        yield from relay.refuse("cut", self.time - host.gone_since)
        return 0.3

    def _leave(self, host: SimHost, relay: Relay) -> Steps[float]:
        yield from relay.turn()
        yield from relay.leave()
        return 1.0

    def _advance(self, host: SimHost, error: StoreGoneError | None = None) -> None:
        assert host.steps is not None
        try:
            step = host.steps.throw(error) if error is not None else host.steps.send(host.answer)
        except StopIteration as end:
            host.steps = None
            host.idle_until = self.time + end.value
            return
        host.answer = None
        function, arguments = step
        client = getattr(function, "__self__", None)
        if not isinstance(client, SimClient):
            host.answer = function(*arguments)
            return
        self.store.calls += 1
        if host.cut:
            raise StoreGoneError("cut")
        if function.__name__ in ("wait", "wait_many"):
            host.waits = arguments[0], self.time + arguments[1]
            return
        host.answer = function(*arguments)
        if self.chance(self.chances.cut):
            host.cut = True
            self.cuts += 1
            if self.random.random() < self.chances.lost_answer:
                raise StoreGoneError("its answer was lost")

    def _throw(self, host: SimHost, error: StoreGoneError) -> None:
        if host.steps is not None:
            try:
                host.steps.throw(error)
            except (StoreGoneError, StopIteration):
                pass
            else:
                raise AssertionError("a relay swallowed the loss of its store")
        host.steps = None
        if host.gone_since is None:
            host.gone_since = self.time
        host.idle_until = self.time + 0.3

    # --- invariants ---

    def check(self) -> None:
        """Assert that all ranks that applied a request did so at the decided step, and that no rank waited too long."""
        decided: dict[str, dict[str, Any]] = {}
        for key, raw in self.store.values.items():
            if key.startswith("log/"):
                entry = Entry.parsed(raw)
                if entry is not None:
                    found = self.store.values.get(f"target/{key[4:]}")
                    assert entry.id not in decided, f"{entry.id} stands twice in the log"
                    target = None if found is None else Decision.parsed(found).target
                    decided[entry.id] = {"target": target, "kind": entry.kind}
        for host in self.hosts:
            for rank in host.ranks_:
                assert rank.longest <= self.times.patience + 1.0, f"rank {rank.number} waited {rank.longest} s"
                for ident, step in rank.applied.items():
                    target = decided[ident]["target"]
                    assert step == target, f"rank {rank.number} did {ident} at {step}, decided was {target}"
        for host in self.hosts:
            for ident, (fate, _) in host.fates.items():
                self._check_fate(ident, fate, decided.get(ident))
        self._check_verdicts()

    def _check_verdicts(self) -> None:
        """Assert that all ranks that applied a reload run its code, or none does, and none if one host has dropped
        it."""
        everybody = [rank for host in self.hosts for rank in host.ranks_]
        for ident in {ident for rank in everybody for ident in rank.verdicts}:
            verdicts = {rank.number: rank.verdicts.get(ident) for rank in everybody}
            assert set(verdicts.values()) - {None} != {YES, NO}, f"{ident}: {verdicts}"
            if YES in verdicts.values():
                for host in self.hosts:
                    targets = [found.target for found in host.log if found.entry.id == ident]
                    assert VOID not in targets[-1:], f"{ident} is run, and not on host {host.index}"

    def _check_fate(self, ident: str, fate: Fate, decided: dict[str, Any] | None) -> None:
        did = {rank.number for host in self.hosts for rank in host.ranks_ if ident in rank.applied}
        if fate.state in ("refused", "nothing", "same"):
            assert not did, f"{ident} is {fate}, and ranks {did} did it"
        if fate.state == "applied":
            assert decided is not None and fate.step == decided["target"]
            assert did, f"{ident} is {fate}, and nobody did it"
            # For other kinds, some ranks may have had nothing to do.
            assert decided["kind"] != Kind.SET or len(did) == self.world_size, (
                f"{ident} is {fate}, and only {did} did it"
            )
        if fate.state == "failed" and (decided is None or decided["target"] is None):
            assert not did, f"{ident} is {fate}, and ranks {did} did it"
