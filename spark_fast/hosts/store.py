"""Where the hosts of a job meet: a table of keys and values that the job has anyway, and that every host reaches.

What is kept there is in `protocol`; this file says what a store must be able to do, and which there are. Another one is
a class with these methods and a row of SCHEMES.
"""

from importlib import import_module
from typing import Protocol

__all__ = ["SCHEMES", "Store", "StoreGoneError", "open_store", "parse_address"]


class StoreGoneError(Exception):
    """The store can't be reached, or did not answer in time. Whether what was sent got there is not known."""


class Store(Protocol):
    """A table that all hosts share. Every method takes a bounded time and raises StoreGoneError when that is over.

    One thread uses it at a time. Once it has raised StoreGoneError it may raise it for good: who goes on opens another.
    """

    def get(self, key: str) -> bytes | None:
        """What stands there; None if nothing does. Never waits for it."""

    def set(self, key: str, value: bytes) -> None:
        """Puts it there, whatever stood there. It may be lost if the store is gone by then; the next call tells."""

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        """Puts `desired` there if what stands there is `expected` (None: nothing). What stands there then. No value is
        empty."""

    def wait(self, key: str, timeout: float) -> bytes | None:
        """What stands there, as soon as something does; None if nothing does after so many seconds."""

    def delete(self, key: str) -> None:
        """Removes it."""

    def close(self) -> None:
        """Lets go of the connection. No other call follows."""


SCHEMES = {
    "tcp": ("spark_fast.hosts.tcp", "TcpStore"),
    "ray": ("spark_fast.integrations.ray", "RayStore"),
}
"""The store that an address begins with: the module and class, which takes the rest of the address and a number of
seconds, that each of its calls may take."""


def parse_address(address: str) -> tuple[str, str]:
    """Scheme and rest. ValueError if no store is known by that scheme."""
    scheme, sign, rest = address.partition("://")
    if not sign or scheme not in SCHEMES:
        known = ", ".join(f"{name}://…" for name in SCHEMES)
        raise ValueError(f"{address!r} is no address of a store: {known}")
    return scheme, rest


def open_store(address: str, timeout: float) -> Store:
    """Connects to the store at this address. Raises StoreGoneError if that takes longer than `timeout` seconds."""
    scheme, rest = parse_address(address)
    module, name = SCHEMES[scheme]
    try:
        found = getattr(import_module(module), name)
    except ImportError as error:
        raise StoreGoneError(f"{address} needs a package that is not installed: {error}") from None
    store: Store = found(rest, timeout)
    return store
