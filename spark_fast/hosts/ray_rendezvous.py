"""How the workers of a job of Ray find each other: an actor that all of them call before they begin."""

import asyncio
import hmac
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from spark_fast.hosts.ray import LOOK, NAMESPACE, Lasting, RayStore, ray
from spark_fast.hosts.secret import SecretRefusedError, find, tag

__all__ = ["checked", "meet", "signed"]

Place = tuple[str, list[tuple[str, bytes]]]
"""The address of the job's store; and of each rank its node, and how it has signed that."""

_GRACE = 10.0
"""Seconds that a worker which may belong to a new start of the job, or stand in for one that has died, waits for others
that would make it the former."""
_ALIVE = 1.0
"""Seconds in which Ray tells that an actor is dead."""


@dataclass(eq=False)
class _Worker:
    """A process that has come. who: the same for one that Ray starts again; handle: None if it is a task."""

    node: str
    who: str
    handle: Any
    signature: bytes = b""
    dead: bool = False


@dataclass(eq=False)
class _Start:
    """One start of the job. store: its address, which no other start has."""

    store: str
    world_size: int
    workers: dict[int, _Worker] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    def place(self) -> Place:
        workers = [self.workers[each] for each in range(self.world_size)]
        return self.store, [(worker.node, worker.signature) for worker in workers]

    def lives_without(self, rank: int) -> bool:
        """Whether another one is there still. Of a task that can't be told: it counts as there."""
        return any(not worker.dead for each, worker in self.workers.items() if each != rank)

    def would_change(self, rank: int, node: str) -> bool:
        """Whether others would have other neighbours than before, if this rank came back on that node."""
        theirs = {worker.node for each, worker in self.workers.items() if each != rank}
        before = self.workers[rank].node
        return node != before and bool(theirs & {node, before})


class Meeting(Lasting):
    """A named actor in which the workers of a job find out which of them share a node, and which store is theirs.

    A start of the job has one worker for each rank. Who comes when one is whole may belong to the next: Ray Train has
    started all of its workers again, or the driver runs the job once more. It belongs to this one if it is the same
    actor, which Ray has restarted; or if the worker before it is dead and others live, of which none comes as well.
    """

    def __init__(self, name: str, grace: float = _GRACE) -> None:
        super().__init__()
        self._name = name
        self._grace = grace
        self._now: _Start | None = None
        self._next: _Start | None = None

    async def come(
        self, rank: int, world_size: int, node: str, who: str, handle: Any, timeout: float, signature: bytes = b""
    ) -> Place | str:
        """Where all are, once all have come; else why that can't be told."""
        worker = _Worker(node, who, handle, signature)
        if handle is not None:
            self._start(self._wait_for_end(rank, worker))
        self._held += 1
        try:
            return await self._placed(rank, world_size, worker, timeout)
        finally:
            self._held -= 1
            self._used = time.monotonic()

    async def _placed(self, rank: int, world_size: int, worker: _Worker, timeout: float) -> Place | str:
        now = await self._that_goes_on_without(rank, world_size)
        if now is not None and now.workers[rank].who == worker.who:
            return self._put_back(now, rank, worker)
        start = self._next
        if start is None or start.world_size != world_size:
            store = f"{ray.get_runtime_context().gcs_address}/{NAMESPACE}/store:{self._name}:{uuid.uuid4().hex}"
            start = self._next = _Start(store, world_size)
        start.workers[rank] = worker
        if len(start.workers) == world_size:
            self._now, self._next = start, None
            if len({each.node for each in start.workers.values()}) > 1:
                RayStore.serve(start.store, [each.handle for each in start.workers.values() if each.handle is not None])
            start.whole.set()
        end = time.monotonic() + timeout
        while not start.whole.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(start.whole.wait(), min(self._grace, max(end - time.monotonic(), 0.0)))
                break
            now = await self._that_goes_on_without(rank, world_size)
            if start.whole.is_set():
                break
            stands_in = now is not None and now.workers[rank].dead and set(start.workers) == {rank}
            if stands_in or time.monotonic() >= end:
                if start.workers.get(rank) is worker:
                    del start.workers[rank]
                if stands_in and now is not None:
                    return self._put_back(now, rank, worker)
                return f"not all have come in {timeout:g} s"
        return start.place()

    async def _that_goes_on_without(self, rank: int, world_size: int) -> _Start | None:
        """The start that is whole, if some of its other workers live."""
        now = self._now
        if now is None or now.world_size != world_size:
            return None
        await asyncio.gather(*(self._look_at(each) for each in now.workers.values()))
        return now if now is self._now and now.lives_without(rank) else None

    async def _look_at(self, worker: _Worker) -> None:
        # Between two of its looks the watch does not see that one dies which is in no call.
        if worker.handle is None or worker.dead:
            return
        try:
            await asyncio.wait_for(worker.handle.__ray_ready__.remote(), _ALIVE)
        except TimeoutError:
            return  # it works
        except ray.exceptions.RayError:
            worker.dead = True

    def _put_back(self, now: _Start, rank: int, worker: _Worker) -> Place | str:
        if now.would_change(rank, worker.node):
            return "it is back on another node, and those that share one know of each other already"
        now.workers[rank] = worker
        return now.place()

    async def _wait_for_end(self, rank: int, worker: _Worker) -> None:
        await self._watch(worker.handle)
        worker.dead = True
        if self._next is not None and self._next.workers.get(rank) is worker:
            del self._next.workers[rank]


def _key(name: str, world_size: int) -> bytes | None:
    try:
        secret = find()
    except SecretRefusedError:  # start() tells of it
        secret = None
    return None if secret is None else tag(secret, "meeting", name, str(world_size))


def signed(key: bytes | None, rank: int, node: str) -> bytes:
    """How a worker signs on which node it is; empty without a key."""
    return b"" if key is None else tag(key, "worker", str(rank), node)


def checked(found: Place, key: bytes | None, cluster: str) -> tuple[str, list[str]]:
    """The store's address, and the node of each rank, if they are of this cluster and signed by its workers. Raises
    TimeoutError: the others are not found."""
    store, workers = found
    if not store.startswith(f"{cluster}/{NAMESPACE}/store:"):
        raise TimeoutError(f"the meeting names a store outside of this cluster: {store!r:.200}")
    for rank, (node, signature) in enumerate(workers):
        if key is not None and not hmac.compare_digest(signature, signed(key, rank, node)):
            raise TimeoutError(f"rank {rank} has another secret than this worker, or none")
    return store, [node for node, _ in workers]


def meet(name: str, rank: int, world_size: int, timeout: float) -> tuple[str, list[str]]:
    """The address of the job's store, which no other start of the job has, and the node of each rank. Waits for all of
    them; raises TimeoutError, RayError.

    name: of the job, in the whole cluster.
    """
    about = ray.get_runtime_context()
    handle = about.current_actor if about.get_actor_id() is not None else None
    who = about.get_actor_id() or about.get_task_id() or about.get_worker_id()
    options = {"name": name, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached"}
    meeting = ray.remote(num_cpus=0)(Meeting).options(**options, max_concurrency=100_000).remote(name)
    key, node = _key(name, world_size), about.get_node_id()
    call = meeting.come.remote(rank, world_size, node, who, handle, timeout, signed(key, rank, node))
    found: Place | str = ray.get(call, timeout=timeout + LOOK)
    if isinstance(found, str):
        raise TimeoutError(found)
    return checked(found, key, about.gcs_address)
