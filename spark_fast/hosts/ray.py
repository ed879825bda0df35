"""The store of a job of Ray: a named actor; and as the relay of a node, a small actor on it.

    ray://<cluster>/<name space>/<name>

The store is made by rank 0, and lives as long as that. Each relay is made by the first rank of its node. One that a
command has to start, where its actor has died, is a process of its own that connects to the cluster.
"""

import asyncio
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_fast.hosts.store import StoreGoneError

if TYPE_CHECKING:
    from spark_fast.hosts.folder import HostPlace

__all__ = ["NAMESPACE", "RayStore"]

ray: Any = import_module("ray")

NAMESPACE = "spark_fast"

_kept: list[Any] = []
"""Handles of actors that live as long as this process."""


class Table:
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


class RelayActor:
    """The relay of a node: runs in an actor what is a process of its own elsewhere."""

    def run(self, folder: str) -> None:
        from spark_fast.hosts import relay

        relay.main(Path(folder))
        ray.actor.exit_actor()


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
    def serve(address: str) -> None:
        """Makes the store, to live as long as this process: called by rank 0."""
        _, namespace, name = _parts(address)
        if ray.is_initialized():
            options = {"name": name, "namespace": namespace, "get_if_exists": True, "max_concurrency": 100_000}
            _kept.append(ray.remote(num_cpus=0)(Table).options(**options).remote())

    @staticmethod
    def relay(folder: Path, place: "HostPlace") -> bool:
        """Starts the relay of this node as an actor. Whether that can be done here."""
        if not ray.is_initialized():
            return False
        scheduling: Any = import_module("ray.util.scheduling_strategies")
        node = ray.get_runtime_context().get_node_id()
        options = {
            "scheduling_strategy": scheduling.NodeAffinitySchedulingStrategy(node, soft=False),
            "runtime_env": {
                "env_vars": {"PYTHONPATH": place.path, "SPARK_FAST_HOME": str(folder.parent), "SPARK_FAST": "0"}
            },
        }
        actor = ray.remote(num_cpus=0)(RelayActor).options(**options).remote()
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


def _parts(address: str) -> tuple[str, str, str]:
    """Cluster, name space and name."""
    cluster, namespace, name = address.split("/", 2)
    return cluster, namespace, name


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [repr(error)])[0]
