"""The store of a Ray job, which is a named actor, and the relay of each node, which is a small actor on it.

    ray://<cluster>/<name space>/<name>

No process owns these actors: each outlives a rank that dies, and ends by itself when the job is over. If a relay's
actor has died, a command starts the relay as a process of its own, which connects to the cluster.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_fast.hosts.store import StoreGoneError

if TYPE_CHECKING:
    from spark_fast.hosts.state_files import HostPlace

__all__ = ["LOOK", "NAMESPACE", "Lasting", "RayStore"]

ray: Any = import_module("ray")

NAMESPACE = "spark_fast"

LEFT = 60.0
"""Seconds without workers and calls after which such an actor ends. A relay calls the store more often."""
LOOK = 5.0
"""Seconds between two checks whether a worker lives. If it dies while it is in a call, Ray tells that at once."""


class Lasting:
    """An actor that no process owns. All its calls take turns in one event loop.

    It ends by itself when no worker that it watches lives, and nobody has called it for `left` seconds.
    """

    def __init__(self, left: float = LEFT) -> None:
        self._left = left
        self._used = time.monotonic()
        self._held = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._start(self._end_when_left())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _watch(self, worker: Any) -> None:
        """Wait until the worker's process has died. An actor's handle of itself, given away, does not keep it alive."""
        self._held += 1
        with suppress(ray.exceptions.RayError):
            while True:
                await worker.__ray_ready__.remote()
                await asyncio.sleep(LOOK)
        self._held -= 1
        self._used = time.monotonic()

    async def _end_when_left(self) -> None:
        myself = ray.get_runtime_context().current_actor
        while self._held or time.monotonic() < self._used + self._left:
            await asyncio.sleep(min(LOOK, self._left / 4))
        ray.kill(myself)


class Table(Lasting):
    """The actor that is the store."""

    def __init__(self, workers: Sequence[Any] = (), left: float = LEFT) -> None:
        super().__init__(left)
        self._values: dict[str, bytes] = {}
        self._awaited: dict[str, asyncio.Event] = {}
        for worker in workers:
            self._start(self._watch_again(worker))

    async def _watch_again(self, worker: Any) -> None:
        """Watch the worker as _watch() does, also after Ray has restarted its actor."""
        while True:
            began = time.monotonic()
            await self._watch(worker)
            if time.monotonic() < began + LOOK / 2:
                return  # it was dead already
            await asyncio.sleep(LOOK)

    async def get(self, key: str) -> bytes | None:
        self._used = time.monotonic()
        return self._values.get(key)

    async def set(self, key: str, value: bytes) -> None:
        self._used = time.monotonic()
        self._values[key] = value
        self._tell(key)

    async def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        self._used = time.monotonic()
        found = self._values.get(key)
        if found != expected:
            return found if found is not None else expected or b""
        self._values[key] = desired
        self._tell(key)
        return desired

    async def wait(self, key: str, timeout: float) -> bytes | None:
        self._used = time.monotonic()
        if key not in self._values:
            event = self._awaited.setdefault(key, asyncio.Event())
            try:
                await asyncio.wait_for(event.wait(), timeout)
            except TimeoutError:
                return None
        return self._values.get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        self._used = time.monotonic()
        return [self._values.get(key) for key in keys]

    async def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        end = time.monotonic() + timeout
        for key in keys:
            await self.wait(key, max(0.0, end - time.monotonic()))
        return await self.get_many(keys)

    async def delete(self, *keys: str) -> None:
        self._used = time.monotonic()
        for key in keys:
            self._values.pop(key, None)

    def _tell(self, key: str) -> None:
        if (event := self._awaited.pop(key, None)) is not None:
            event.set()


class RelayActor:
    """The relay of a node, which elsewhere is a process of its own. The actor ends with the relay."""

    def __init__(self, folder: str) -> None:
        # Not in a method: the rank that makes the actor may die before it has called that.
        threading.Thread(target=self._run, args=(Path(folder),), name="spark_fast relay", daemon=True).start()

    def _run(self, folder: Path) -> None:
        from spark_fast.hosts import relay  # a worker that only makes the store does without it

        try:
            relay.main(folder)
        finally:
            ray.kill(ray.get_runtime_context().current_actor)


class RayStore:
    """See Store. address: what follows `ray://`; timeout: seconds that a call may take."""

    def __init__(self, address: str, timeout: float) -> None:
        cluster, namespace, name = _parts(address)
        self._timeout = timeout
        try:
            if not ray.is_initialized():
                ray.init(address=cluster, namespace=namespace, log_to_driver=False, configure_logging=False)
            self._actor = ray.get_actor(name, namespace)
        except (ValueError, ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise StoreGoneError(f"the job's store can't be reached: {_first_line(error)}") from None
        self.get("job")

    @staticmethod
    def serve(address: str, workers: Sequence[Any] = ()) -> None:
        """Make the store, unless it is there.

        workers: handles of the job's actors. The store lives as long as one of them lives, or somebody calls it.
        """
        _, namespace, name = _parts(address)
        if ray.is_initialized():
            options = {
                "name": name,
                "namespace": namespace,
                "get_if_exists": True,
                "lifetime": "detached",
                "max_restarts": -1,  # if its node dies, it is restarted, empty: the relays join again
                "max_concurrency": 100_000,
            }
            ray.remote(num_cpus=0)(Table).options(**options).remote(list(workers))

    @staticmethod
    def relay(folder: Path, place: "HostPlace") -> bool:
        """Start the relay of this node as an actor. Return whether that can be done here."""
        if not ray.is_initialized():
            return False
        scheduling: Any = import_module("ray.util.scheduling_strategies")
        node = ray.get_runtime_context().get_node_id()
        options = {
            "lifetime": "detached",  # it has to outlive this node's ranks, to tell the other hosts that they are dead
            "scheduling_strategy": scheduling.NodeAffinitySchedulingStrategy(node, soft=False),
            "runtime_env": {
                "env_vars": {"PYTHONPATH": place.path, "SPARK_FAST_HOME": str(folder.parent), "SPARK_FAST": "0"}
            },
        }
        ray.remote(num_cpus=0)(RelayActor).options(**options).remote(str(folder))
        return True

    def _call(self, method: str, *arguments: Any, timeout: float | None = None) -> Any:
        try:
            call = getattr(self._actor, method).remote(*arguments)
            return ray.get(call, timeout=timeout or self._timeout)
        except (ray.exceptions.RayError, TimeoutError, RuntimeError) as error:
            raise StoreGoneError(f"the job's store has not answered: {_first_line(error)}") from None

    def get(self, key: str) -> bytes | None:
        found: bytes | None = self._call("get", key)
        return found

    def set(self, key: str, value: bytes) -> None:
        self._call("set", key, value)

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        found: bytes = self._call("compare_set", key, expected, desired)
        return found

    def wait(self, key: str, timeout: float) -> bytes | None:
        found: bytes | None = self._call("wait", key, timeout, timeout=timeout + self._timeout)
        return found

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        found: list[bytes | None] = self._call("get_many", list(keys))
        return found

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        found: list[bytes | None] = self._call("wait_many", list(keys), timeout, timeout=timeout + self._timeout)
        return found

    def delete(self, *keys: str) -> None:
        self._call("delete", *keys)

    def close(self) -> None:
        """Do nothing: only a handle is held."""


def _parts(address: str) -> tuple[str, str, str]:
    """Return cluster, name space and name."""
    cluster, namespace, name = address.split("/", 2)
    return cluster, namespace, name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
