"""How the workers of a Ray job find each other: in an actor, the meeting, that all of them call before they begin."""

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
"""The address of the job's store, and for each rank its node and its signature of that."""

_GRACE = 10.0
"""Seconds that a worker waits for others if it may belong to a new start of the job, or stand in for a worker that has
died. If others come, it is a new start."""
_ALIVE = 1.0
"""Seconds within which Ray tells that an actor is dead."""


@dataclass(eq=False)
class _Worker:
    """A worker that has come. who: an id that it keeps when Ray restarts it; handle: its actor, None for a task."""

    node: str
    who: str
    handle: Any
    signature: bytes = b""
    dead: bool = False


@dataclass(eq=False)
class _Start:
    """One start of the job. store: the address of its store, which no other start has."""

    store: str
    world_size: int
    workers: dict[int, _Worker] = field(default_factory=dict)
    whole: asyncio.Event = field(default_factory=asyncio.Event)

    def place(self) -> Place:
        workers = [self.workers[each] for each in range(self.world_size)]
        return self.store, [(worker.node, worker.signature) for worker in workers]

    def lives_without(self, rank: int) -> bool:
        """Return whether a worker of another rank lives. A task always counts as living, since it can't be asked."""
        return any(not worker.dead for each, worker in self.workers.items() if each != rank)

    def would_change(self, rank: int, node: str) -> bool:
        """Return whether any other rank would have new neighbours if this rank came back on that node."""
        theirs = {worker.node for each, worker in self.workers.items() if each != rank}
        before = self.workers[rank].node
        return node != before and bool(theirs & {node, before})


class Meeting(Lasting):
    """A named actor in which the workers of a job find out which of them share a node, and which store is theirs.

    A start of the job has one worker for each rank. A worker that comes when a start is complete may belong to the next
    one: Ray Train has started all of its workers again, or the driver runs the job once more. The worker belongs to the
    complete start if it is one of its actors, which Ray has restarted. It also does if its rank's worker is dead and
    others live, and no worker comes for another rank.
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
        """Wait until all workers have come. Return where they are, or a text that says why that can't be told."""
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
        """Return the start that is complete, if a worker of another rank in it lives; else None."""
        now = self._now
        if now is None or now.world_size != world_size:
            return None
        await asyncio.gather(*(self._look_at(each) for each in now.workers.values()))
        return now if now is self._now and now.lives_without(rank) else None

    async def _look_at(self, worker: _Worker) -> None:
        # _watch() looks only now and then, so it learns late that a worker has died which was in no call.
        if worker.handle is None or worker.dead:
            return
        try:
            await asyncio.wait_for(worker.handle.__ray_ready__.remote(), _ALIVE)
        except TimeoutError:
            return  # it is busy
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
    except SecretRefusedError:  # requests.start() reports it
        secret = None
    return None if secret is None else tag(secret, "meeting", name, str(world_size))


def signed(key: bytes | None, rank: int, node: str) -> bytes:
    """Return a worker's signature of the node that it is on; empty without a key."""
    return b"" if key is None else tag(key, "worker", str(rank), node)


def checked(found: Place, key: bytes | None, cluster: str) -> tuple[str, list[str]]:
    """Return the store's address, and the node of each rank.

    Raises TimeoutError, as if the others had not come, if the store is outside of this cluster or a signature is wrong.
    """
    store, workers = found
    if not store.startswith(f"{cluster}/{NAMESPACE}/store:"):
        raise TimeoutError(f"the meeting names a store outside of this cluster: {store!r:.200}")
    for rank, (node, signature) in enumerate(workers):
        if key is not None and not hmac.compare_digest(signature, signed(key, rank, node)):
            raise TimeoutError(f"rank {rank} has another secret than this worker, or none")
    return store, [node for node, _ in workers]


def meet(name: str, rank: int, world_size: int, timeout: float) -> tuple[str, list[str]]:
    """Wait for all workers. Return the address of this start's store, which no other start has, and each rank's node.

    Raises TimeoutError, RayError.

    name: the job's name, which no other job of the cluster has.
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
