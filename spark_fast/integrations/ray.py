"""Jobs of Ray: an actor as the store in which hosts meet, and one small actor for each node as its relay.

In each worker of Ray Train, or of plain Ray, before its first checkpoint:

    from spark_fast.integrations import ray as spark_ray

    spark_ray.setup()                              # in Ray Train
    spark_ray.setup(rank=rank, world_size=4)       # in actors or tasks of your own

From there on it is as under any other launcher. The store's actor lives as long as rank 0 does.
"""

import asyncio
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spark_fast.hosts.store import StoreGoneError

if TYPE_CHECKING:
    from spark_fast.hosts.folder import HostPlace

__all__ = ["RayStore", "setup"]

_MEET = 120.0
"""Seconds that a worker waits for the others of its job."""

_kept: list[Any] = []
"""Handles of actors that live as long as this process."""


class _Table:
    """The store: an actor, all of whose calls take their turn in one event loop."""

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._awaited: dict[str, asyncio.Event] = {}

    async def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    async def set(self, key: str, value: bytes) -> None:
        self._values[key] = value
        self._tell(key)

    async def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        found = self._values.get(key)
        if found != expected:
            return found if found is not None else expected or b""
        self._values[key] = desired
        self._tell(key)
        return desired

    async def wait(self, key: str, timeout: float) -> bytes | None:
        if key not in self._values:
            event = self._awaited.setdefault(key, asyncio.Event())
            try:
                await asyncio.wait_for(event.wait(), timeout)
            except TimeoutError:
                return None
        return self._values.get(key)

    async def delete(self, key: str) -> None:
        self._values.pop(key, None)

    def _tell(self, key: str) -> None:
        if (event := self._awaited.pop(key, None)) is not None:
            event.set()


class _Relay:
    """The relay of a node: an actor that runs what a process of its own would run elsewhere."""

    def run(self, folder: str) -> None:
        from spark_fast.hosts import relay

        relay.main(Path(folder))
        ray.actor.exit_actor()


def _parts(address: str) -> tuple[str, str, str]:
    """Cluster, name space and name."""
    cluster, namespace, name = address.split("/", 2)
    return cluster, namespace, name


def _table(namespace: str, name: str) -> Any:
    """The store's actor, made if it is not there: by the process that it is to live with."""
    options = {"name": name, "namespace": namespace, "get_if_exists": True, "num_cpus": 0, "max_concurrency": 100_000}
    return ray.remote(_Table).options(**options).remote()


class RayStore:
    """See Store. address: what follows `ray://`; timeout: seconds that a call may take."""

    def __init__(self, address: str, timeout: float) -> None:
        cluster, namespace, name = _parts(address)
        self._timeout = timeout
        try:
            if not ray.is_initialized():
                # A relay that was started again by a command, outside of the cluster's own processes.
                ray.init(address=cluster, namespace=namespace, log_to_driver=False, configure_logging=False)
            self._actor = ray.get_actor(name, namespace)
        except (ValueError, ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            raise StoreGoneError(f"the job's store can't be reached: {_first_line(error)}") from None
        self.get("job")

    @staticmethod
    def serve(address: str) -> None:
        """Makes the store, to live as long as this process: called by rank 0."""
        _, namespace, name = _parts(address)
        if ray.is_initialized():
            _kept.append(_table(namespace, name))

    @staticmethod
    def relay(folder: Path, place: "HostPlace") -> bool:
        """Starts the relay of this node as an actor. Whether that can be done here."""
        if not ray.is_initialized():
            return False
        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        variables = {"PYTHONPATH": place.path, "SPARK_FAST_HOME": str(folder.parent), "SPARK_FAST": "0"}
        options = {"num_cpus": 0, "scheduling_strategy": here, "runtime_env": {"env_vars": variables}}
        actor = ray.remote(_Relay).options(**options).remote()
        _kept.append((actor, actor.run.remote(str(folder))))
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

    def delete(self, key: str) -> None:
        self._call("delete", key)

    def close(self) -> None:
        """Nothing is held but a handle."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]


def setup(
    rank: int | None = None, world_size: int | None = None, *, name: str = "spark_fast", timeout: float = _MEET
) -> None:
    """Makes this worker a rank of its job. Before its first checkpoint; every worker of the job calls it.

    Args:
        rank, world_size: which of how many workers this is; not needed in Ray Train.
        name: of the job, if several run in one Ray job.
        timeout: seconds to wait for the other workers.

    Raises TimeoutError if they do not come, RuntimeError outside of Ray, ValueError if no rank is given there.
    """
    if not ray.is_initialized():
        raise RuntimeError("this process is no worker of Ray")
    if rank is None or world_size is None:
        rank, world_size = _train_rank()
    context = ray.get_runtime_context()
    job = f"{context.get_job_id()}.{re.sub(r'[^A-Za-z0-9_.-]', '_', name)}"
    if world_size > 1:
        local_rank, local_world_size = _meet(rank, world_size, context.namespace, job, context.get_node_id(), timeout)
        os.environ.setdefault("SPARK_FAST_STORE", f"ray://{context.gcs_address}/{context.namespace}/spark_fast.{job}")
        import spark_fast

        spark_fast.configure(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            local_world_size=local_world_size,
            job=f"ray:{job}",
        )


def _train_rank() -> tuple[int, int]:
    try:
        from ray import train

        context = train.get_context()
        return int(context.get_world_rank()), int(context.get_world_size())
    except (ImportError, RuntimeError) as error:
        raise ValueError(f"rank and world_size are needed outside of Ray Train: {_first_line(error)}") from None


def _meet(rank: int, world_size: int, namespace: str, job: str, node: str, timeout: float) -> tuple[int, int]:
    """Which of how many workers of this node this one is."""
    end = time.monotonic() + timeout
    store = f"spark_fast.{job}"
    if rank == 0:
        _kept.append(_table(namespace, store))
    while True:
        try:
            actor = ray.get_actor(store, namespace)
            ray.get(actor.set.remote(f"node/{rank}", node.encode()), timeout=10.0)
            nodes = []
            for each in range(world_size):
                left = max(0.0, end - time.monotonic())
                found = ray.get(actor.wait.remote(f"node/{each}", left), timeout=left + 10.0)
                if found is None:
                    raise TimeoutError(f"rank {each} of {world_size} has not come in {timeout:.0f} s")
                nodes.append(found.decode())
            mine = [each for each in range(world_size) if nodes[each] == node]
            return mine.index(rank), len(mine)
        except (ValueError, ray.exceptions.RayError) as error:
            if time.monotonic() > end:
                raise TimeoutError(f"rank 0 of {world_size} has not come in {timeout:.0f} s: {error}") from None
            time.sleep(0.1)  # rank 0 makes the actor when it comes
