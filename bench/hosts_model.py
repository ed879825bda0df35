"""How long the ranks of many hosts stand still for a request: relays' own code in a model of a network and a store.

The store is one thread, which does one request after the other; what each takes was measured. All other times are
those of the network and of the hosts, each of which works at the same time as the others.
"""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from spark_fast.hosts.messages import Appended, Entry
from spark_fast.hosts.store import StoreGoneError
from spark_fast.request import Kind
from tests.support.hosts_sim import SimClient, SimHost, SimJob

__all__ = ["Costs", "StandStill", "stand_still"]


@dataclass(frozen=True)
class Costs:
    """Seconds.

    Attributes:
        answered, put: of the store's thread, for a request with an answer, and for one without.
        woken: of the store's thread, for the end of a wait.
        key: of the store's thread, for each further key of a request.
        trip: from a host to the store and back, without what the store takes.
        value: of a relay, for each value that it reads.
        wake: until a host's relay runs after it was told of something.
        local: of the relay, for a call that is none to the store.
    """

    answered: float
    put: float
    woken: float
    key: float
    value: float = 8e-6
    trip: float = 100e-6
    wake: float = 200e-6
    local: float = 30e-6


@dataclass(frozen=True)
class StandStill:
    """One request to so many hosts.

    Attributes:
        hosts: how many.
        stands: the longest time in which ranks of a host may stand still: from its answer to what was decided.
        asked_stands: the same of the asked host.
        told: from asking until the sender is told.
        store: of that, how long the store's thread worked.
    """

    hosts: int
    stands: float
    asked_stands: float
    told: float
    store: float


@dataclass
class _Waiting:
    """A wait of a host at the store that has not ended."""

    keys: Sequence[str]
    ends: Callable[[], None]
    over: bool = False


class _Host(SimHost):
    """A host that records when it has answered, and when it learned of the decision."""

    def __init__(self, job: "_Job", index: int, numbers: Sequence[int]) -> None:
        super().__init__(job, index, numbers)
        self.answered = self.committed = 0.0
        self.listens: tuple[tuple[str, ...], tuple[str, ...]] = (), ()
        self.news: dict[str, bytes] = {}
        self.busy = False
        self.again = False
        self.look = True

    def append(self, entry: Entry) -> Appended:
        place = super().append(entry)
        self.answered = self.job.time
        return place

    def commit(self, seq: int, target: int) -> int:
        self.committed = self.job.time
        return super().commit(seq, target)


@dataclass
class _Server:
    """The store's thread."""

    free: float = 0.0
    worked: float = 0.0
    waiting: dict[str, list[_Waiting]] = field(default_factory=dict)


class _Job(SimJob):
    """The job. Each of its hosts does one thing after another, in its own time."""

    def __init__(self, hosts: int, costs: Costs) -> None:
        super().__init__(1, hosts, 1, step_every=0.005)
        self.costs = costs
        self.server = _Server()
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.number = 0
        self.timed = [_Host(self, host.index, host.member.ranks) for host in self.hosts]
        self.hosts = list(self.timed)

    def at(self, time: float, what: Callable[[], None]) -> None:
        self.number += 1
        heapq.heappush(self.events, (time, self.number, what))

    def run_events(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        while self.events and self.events[0][0] < until and not done():
            self.time, _, what = heapq.heappop(self.events)
            what()
            for index in sorted(self.rank_stirred):
                for rank in self.hosts[index].ranks_:
                    self._turn(self.hosts[index], rank)
                if self.hosts[index].stirred:
                    self.wake(self.timed[index])
            self.rank_stirred.clear()

    def step(self) -> None:
        self._all_ranks()
        for host in self.timed:
            if host.stirred:
                self.wake(host)
        self.at(self.time + self.step_every, self.step)

    # --- the store ---

    def serve(self, seconds: float) -> float:
        """Have the store's thread work for so long, once it is free. Return the time at which it is done."""
        self.server.free = max(self.server.free, self.time) + seconds
        self.server.worked += seconds
        return self.server.free

    def changed(self, key: str) -> None:
        """Ends waits for a key that is there now."""
        for waiting in self.server.waiting.pop(key, []):
            if not waiting.over and all(each in self.store.values for each in waiting.keys):
                waiting.over = True
                self.at(self.serve(self.costs.woken) + self.costs.trip / 2, waiting.ends)

    def request(self, method: str, arguments: tuple[Any, ...], answer: Callable[[Any], None]) -> None:
        """Handle a request that arrives at the store."""
        client = SimClient(self.store)
        if method in ("wait", "wait_many"):
            keys = [arguments[0]] if method == "wait" else list(arguments[0])

            def read() -> None:
                self.at(self.time + self.costs.trip / 2, lambda: self.request("get_many", (keys,), found))

            def found(values: list[bytes | None]) -> None:
                answer(values[0] if method == "wait" else values)

            self.serve(self.costs.put + self.costs.key * (len(keys) - 1))
            if all(key in self.store.values for key in keys):
                self.at(self.serve(self.costs.woken) + self.costs.trip / 2, read)
            else:
                waiting = _Waiting(keys, read)
                for key in keys:
                    if key not in self.store.values:
                        self.server.waiting.setdefault(key, []).append(waiting)
                self.at(self.time + 30.0, self.timed_out)
            return
        more = self.costs.key * (len(arguments[0]) - 1) if method == "get_many" else 0.0
        if method == "delete":  # each key is a request with an answer, for which the relay does not wait
            more = self.costs.answered * (len(arguments) - 1)
        took = self.serve((self.costs.put if method == "set" else self.costs.answered) + more)
        result = getattr(client, method)(*arguments)
        if method in ("set", "compare_set"):
            self.changed(arguments[0])
        if method not in ("set", "delete"):
            reads = self.costs.value * (len(result) if method == "get_many" else 1)
            self.at(took + self.costs.trip / 2 + reads, lambda: answer(result))

    def timed_out(self) -> None:
        raise StoreGoneError("no wait takes that long here")

    # --- a relay ---

    def wake(self, host: _Host) -> None:
        if host.busy:
            host.again = True
            return
        host.busy, host.again = True, False
        self.at(self.time + self.costs.wake, lambda: self.begin(host))

    def begin(self, host: _Host) -> None:
        if host.relay is None:
            from spark_fast.hosts.protocol import Relay

            host.relay = Relay(SimClient(self.store), host, host.member, self.times)
        host.stirred = False
        news, host.news = host.news, {}
        host.steps = host.relay.turn(news, look=host.look)
        host.look = False
        self.advance(host, None)

    def advance(self, host: _Host, answer: Any) -> None:
        assert host.steps is not None
        try:
            function, arguments = host.steps.send(answer)
        except StopIteration as end:
            self.rest(host, end.value)
            return
        if not isinstance(getattr(function, "__self__", None), SimClient):
            result = function(*arguments)
            self.at(self.time + self.costs.local, lambda: self.advance(host, result))
            return
        method = function.__name__
        arrives = self.time + self.costs.trip / 2
        self.at(arrives, lambda: self.request(method, arguments, lambda found: self.advance(host, found)))
        if method in ("set", "delete"):
            self.at(self.time, lambda: self.advance(host, None))

    def rest(self, host: _Host, seconds: float) -> None:
        assert host.relay is not None
        host.busy, host.steps = False, None
        key = host.relay.next_key
        wanted = ((key,) if key else ()), host.relay.awaited
        before, host.listens = host.listens, wanted
        for keys, heard in zip(wanted, before, strict=True):
            if keys and keys != heard:
                self.at(self.time + self.costs.trip / 2, lambda keys=keys: self.listen(host, keys))  # type: ignore[misc]
        if host.again or host.news:
            self.wake(host)
        else:
            self.at(self.time + max(seconds, 0.001), lambda: None if host.busy else self.wake(host))

    def listen(self, host: _Host, keys: tuple[str, ...]) -> None:
        def told(values: list[bytes | None]) -> None:
            host.news.update({key: raw for key, raw in zip(keys, values, strict=True) if raw is not None})
            self.wake(host)

        self.request("wait_many", (keys,), told)


def stand_still(count: int, costs: Costs) -> StandStill:
    """Ask so many hosts for a value to be set."""
    job = _Job(count, costs)
    for host in job.timed:
        job.at(0.001 * host.index, lambda host=host: job.wake(host))  # type: ignore[misc]
    start = 2.0 + 0.002 * count
    job.at(0.0, job.step)
    job.run_events(start)
    job.time = start
    asked = job.timed[count // 2]
    for _ in range(2):  # until the first request the hosts do not know each other
        start, worked = job.time, job.server.worked
        ident = job.ask(asked, Kind.SET)
        job.wake(asked)
        job.run_events(start + 20.0, lambda: ident in asked.fates)  # noqa: B023
        assert asked.fates[ident][0].state == "applied"
        job.run_events(job.time + 1.0)
    stands = [host.committed - host.answered for host in job.timed]
    told = asked.fates[ident][1] - start
    return StandStill(count, max(stands), stands[asked.index], told, job.server.worked - worked)
