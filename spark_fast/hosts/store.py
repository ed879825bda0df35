"""Where the hosts of a job meet: a table of keys and values that the job has anyway, and that every host reaches.

`protocol` says what the hosts keep there. This file says what a store must be able to do, and which stores there are.
To
add one, write a class with these methods, and a row in SCHEMES. The class may have two more functions: `serve(rest)`
makes the store; `relay(folder, place)` starts a relay, and returns whether it could.
"""

import time
from collections.abc import Callable, Sequence
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
    "wait_for_values",
]


_REST_LEAST, _REST_MOST = 0.001, 0.05
"""Seconds between two waits for keys that the store says are there, although one has no value. Each rest is twice as
long as the one before."""


class StoreGoneError(Exception):
    """The store can't be reached, or did not answer in time. It may have carried out the call."""


class StoreSlowError(StoreGoneError):
    """The store did not answer in time. It may only be slow: it, or this machine, may be busy."""


class Store(Protocol):
    """A table that all hosts share. Every method takes a bounded time, and raises StoreGoneError when that is over.

    One thread uses it at a time. After a StoreGoneError every call may raise one: to go on, open another store.
    """

    def get(self, key: str) -> bytes | None:
        """Return the value of a key; None if it has none. Never waits for one."""

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the value of each key, as get() does. The values need not be of one moment."""

    def set(self, key: str, value: bytes) -> None:
        """Set the value of a key. The value may be lost if the store is gone; then the next call raises."""

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        """Set a key to `desired` if its value is `expected` (None: it has none). Return its value after that.

        No value is empty.
        """

    def wait(self, key: str, timeout: float) -> bytes | None:
        """Return the value of a key as soon as it has one; None if it has none after `timeout` seconds."""

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        """Return the value of each key, as soon as all have one, or after `timeout` seconds."""

    def delete(self, *keys: str) -> None:
        """Remove keys. That may be lost, as with set()."""

    def close(self) -> None:
        """Close the connection. No other call follows."""


class OneByOne:
    """The get_many() of a store that has none of its own: it makes a call for each key."""

    def get(self, key: str) -> bytes | None:
        raise NotImplementedError

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """See Store."""
        return [self.get(key) for key in keys]


def wait_for_values(
    wait: Callable[[float], object], read: Callable[[], list[bytes | None]], timeout: float
) -> list[bytes | None]:
    """Return what a store reads, as soon as all values are there, or after `timeout` seconds.

    A store may say that keys are there and have no value for one: a swap of another client that changes nothing wakes
    those that wait, and an empty value does so for ever.

    wait: waits until the store says that the keys are there, or until a time of the monotonic clock.
    """
    end = time.monotonic() + timeout
    rest = _REST_LEAST
    while True:
        wait(end)
        found = read()
        left = end - time.monotonic()
        if None not in found or left <= 0:
            return found
        time.sleep(min(rest, left))
        rest = min(2 * rest, _REST_MOST)


SCHEMES = {
    "tcp": ("spark_fast.hosts.tcp", "open_tcp_store"),
    "ray": ("spark_fast.hosts.ray", "RayStore"),
}
"""For each scheme of an address: the module, and the class or function there that opens the store. It takes the rest of
the address, and the seconds that each call may take."""


def parse_address(address: str) -> tuple[str, str]:
    """Return the scheme and the rest of an address. Raises ValueError if no store has that scheme."""
    scheme, sign, rest = address.partition("://")
    if not sign or scheme not in SCHEMES:
        known = ", ".join(f"{name}://…" for name in SCHEMES)
        raise ValueError(f"{address!r} is no address of a store: {known}")
    return scheme, rest


def open_store(address: str, timeout: float) -> Store:
    """Connect to the store at this address. Raises StoreGoneError unless that is done in `timeout` seconds."""
    try:
        found, rest = _found(address)
        store: Store = found(rest, timeout)
    except (ImportError, ValueError) as error:
        raise StoreGoneError(str(error)) from None
    return store


def serve_store(address: str) -> None:
    """Make the store, if it is one that the job has to make. The job's rank 0 calls this."""
    found, rest = _found(address)
    if hasattr(found, "serve"):
        found.serve(rest)


def start_relay(address: str, folder: Path, place: "HostPlace") -> bool:
    """Start the relay of a run folder, if the store has its own way to do so. Return whether it was started."""
    found, _ = _found(address)
    return bool(found.relay(folder, place)) if hasattr(found, "relay") else False


def _found(address: str) -> tuple[Any, str]:
    scheme, rest = parse_address(address)
    module, name = SCHEMES[scheme]
    return getattr(import_module(module), name), rest
