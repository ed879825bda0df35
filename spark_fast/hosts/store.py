"""Where the hosts of a job meet: a table of keys and values that the job has anyway, and that every host reaches.

What is kept there is in `protocol`; this file says what a store must be able to do, and which there are. Another one is
a class with these methods and a row of SCHEMES. Its class may have two functions more: `serve(rest)`, which makes the
store, and `relay(folder, place)`, which starts a relay and says whether it could.
"""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from spark_fast.hosts.state_files import HostPlace

__all__ = [
    "SCHEMES",
    "OneByOne",
    "Store",
    "StoreGoneError",
    "StoreSlowError",
    "open_store",
    "parse_address",
    "serve_store",
    "start_relay",
]


class StoreGoneError(Exception):
    """The store can't be reached, or did not answer in time. Whether what was sent got there is not known."""


class StoreSlowError(StoreGoneError):
    """The store did not answer in time. It may be there: it, or this machine, has much to do."""


class Store(Protocol):
    """A table that all hosts share. Every method takes a bounded time and raises StoreGoneError when that is over.

    One thread uses it at a time. Once it has raised StoreGoneError it may raise it for good: who goes on opens another.
    """

    def get(self, key: str) -> bytes | None:
        """What stands there; None if nothing does. Never waits for it."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return what stands at each key, as get() does. The values need not be of one moment."""

    def set(self, key: str, value: bytes) -> None:
        """Puts it there, whatever stood there. It may be lost if the store is gone by then; the next call tells."""

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        """Puts `desired` there if what stands there is `expected` (None: nothing). What stands there then. No value is
        empty."""

    def wait(self, key: str, timeout: float) -> bytes | None:
        """What stands there, as soon as something does; None if nothing does after so many seconds."""

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        """Return what stands at each key, as soon as something stands at all of them, or after so many seconds."""

    def delete(self, *keys: str) -> None:
        """Remove what stands there. As set(), it may be lost."""

    def close(self) -> None:
        """Lets go of the connection. No other call follows."""


class OneByOne:
    """The methods for several keys of a store that has none of its own: a call for each key."""

    def get(self, key: str) -> bytes | None:
        raise NotImplementedError

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See Store."""
        return [self.get(key) for key in keys]


SCHEMES = {
    "tcp": ("spark_fast.hosts.tcp", "open_tcp_store"),
    "ray": ("spark_fast.hosts.ray", "RayStore"),
}
"""The store that an address begins with: the module, and the class or function that opens it. Its arguments are the
rest of the address, and the seconds that each call may take."""


def parse_address(address: str) -> tuple[str, str]:
    """Scheme and rest. ValueError if no store is known by that scheme."""
    scheme, sign, rest = address.partition("://")
    if not sign or scheme not in SCHEMES:
        known = ", ".join(f"{name}://…" for name in SCHEMES)
        raise ValueError(f"{address!r} is no address of a store: {known}")
    return scheme, rest


def open_store(address: str, timeout: float) -> Store:
    """Connects to the store at this address. Raises StoreGoneError if that takes longer than `timeout` seconds."""
    try:
        found, rest = _found(address)
        store: Store = found(rest, timeout)
    except (ImportError, ValueError) as error:
        raise StoreGoneError(str(error)) from None
    return store


def serve_store(address: str) -> None:
    """Makes the store, if it is one that the job has to make: called by its rank 0."""
    found, rest = _found(address)
    if hasattr(found, "serve"):
        found.serve(rest)


def start_relay(address: str, folder: Path, place: "HostPlace") -> bool:
    """Starts the relay of a run folder where the store has its own way to do so. Whether it was."""
    found, _ = _found(address)
    return bool(found.relay(folder, place)) if hasattr(found, "relay") else False


def _found(address: str) -> tuple[Any, str]:
    scheme, rest = parse_address(address)
    module, name = SCHEMES[scheme]
    return getattr(import_module(module), name), rest
