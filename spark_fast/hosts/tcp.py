"""A client, without PyTorch, of a `torch.distributed` job's store: a TCPStore, under torchrun that of its agent.

    tcp://<host>:<port>/<prefix>

PyTorch's server answers the requests of a connection in their order, so a client may send several at once. A request is
a byte for its kind, then its arguments. Numbers are little-endian, and a text or value follows its length. If a server
does not answer the greeting as expected, it is of another version, and PyTorch's own client is used for it.
"""

import ipaddress
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import suppress

from spark_fast.hosts.call_thread import CallThread
from spark_fast.hosts.store import Store, StoreGoneError, StoreSlowError, wait_for_values

__all__ = ["TcpStore", "UnknownProtocolError", "open_tcp_store"]

_VALIDATE, _SET, _COMPARE_SET, _GET, _WAIT, _DELETE, _MULTI_GET, _CANCEL_WAIT, _PING = map(
    bytes, ([0], [1], [2], [3], [6], [8], [10], [12], [13])
)
_MAGIC = 0x3C85F7CE
_READY, _CANCELED = b"\x00", b"\x01"
"""The server's answers to a wait: all keys are there; the wait is canceled."""
_DELETED_SIZE = 8
"""Bytes of the answer to a delete: how many keys were removed."""

_VALUE_MAX = 16 << 20
"""The most bytes of a value that is read: twice as many as the server takes."""
_KEYS_MAX = 10_000
"""The most keys in one request: the server takes some 130,000."""
_READ_SIZE = 1 << 16


class UnknownProtocolError(Exception):
    """The server speaks another protocol, or another version of it."""


def open_tcp_store(address: str, timeout: float) -> Store:
    """Connect to the store at an address.

    address: what follows `tcp://`.
    timeout: seconds that connecting may take, and each call.

    Raises StoreGoneError.
    """
    try:
        return TcpStore(address, timeout)
    except UnknownProtocolError as error:
        reason = str(error)
    from spark_fast.hosts.torch_store import TorchStore  # importing PyTorch takes seconds and 200 MB

    try:
        return TorchStore(address, timeout)
    except ImportError as error:
        raise StoreGoneError(f"the job's store needs PyTorch's client: {reason}; {error}") from None


class TcpStore:
    """See Store. Every call ends within `timeout` seconds; a wait, within those and its own timeout."""

    def __init__(self, address: str, timeout: float) -> None:
        place, _, prefix = address.partition("/")
        host, _, port = place.rpartition(":")
        self._prefix = f"/{prefix or 'spark_fast'}/"
        self._timeout = timeout
        self._received = bytearray()
        self._skipped = 0  # bytes of coming answers that no call reads
        self._socket: socket.socket | None = None
        end = time.monotonic() + timeout
        self._socket = _connected(host.strip("[]"), int(port), end)
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(self._socket, select.POLLIN)
        self._writable.register(self._socket, select.POLLOUT)
        self._greet(end)

    def _greet(self, end: float) -> None:
        """Raise UnknownProtocolError unless the server answers as expected."""
        nonce = os.urandom(4)
        key = self._key("nothing ever stands here")
        try:
            # A server that does not know this way to ask for a missing key closes the connection.
            self._send(_VALIDATE + struct.pack("<I", _MAGIC) + _PING + nonce + _GET + key, end)
            answer = self._take(4 + 8, end)
        except StoreGoneError as error:
            if isinstance(error, _ClosedError):
                raise UnknownProtocolError(str(error)) from None
            raise
        if answer != nonce + bytes(8):
            self.close()
            raise UnknownProtocolError(f"it answered {answer!r}")

    # --- the methods of a Store ---

    def get(self, key: str) -> bytes | None:
        end = self._end()
        self._send(_GET + self._key(key), end)
        return self._take_value(end) or None

    def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        end = self._end()
        found: list[bytes | None] = []
        for start in range(0, len(keys), _KEYS_MAX):
            part = keys[start : start + _KEYS_MAX]
            self._send(_MULTI_GET + self._keys(part), end)
            found += [self._take_value(end) or None for _ in part]
        return found

    def set(self, key: str, value: bytes) -> None:
        self._send(_SET + self._key(key) + _sized(value), self._end())

    def compare_set(self, key: str, expected: bytes | None, desired: bytes) -> bytes:
        end = self._end()
        self._send(_COMPARE_SET + self._key(key) + _sized(expected or b"") + _sized(desired), end)
        return self._take_value(end)

    def wait(self, key: str, timeout: float) -> bytes | None:
        return self.wait_many([key], timeout)[0]

    def wait_many(self, keys: Sequence[str], timeout: float) -> list[bytes | None]:
        def wait(end: float) -> None:
            for start in range(0, len(keys), _KEYS_MAX):
                self._wait(keys[start : start + _KEYS_MAX], end)

        return wait_for_values(wait, lambda: self.get_many(keys), timeout)

    def _wait(self, keys: Sequence[str], end: float) -> None:
        """Wait until all keys are there, or the time is over."""
        self._send(_WAIT + self._keys(keys), self._end())
        if self._has(self._skipped + 1, end):
            answer = self._take(1, end)
        else:
            latest = self._end()
            self._send(_CANCEL_WAIT, latest)
            answer = self._take(1, latest)
            if answer == _CANCELED:
                return
            if self._take(1, latest) != _CANCELED:  # the answer to the wait came first
                raise self._gone("it answered a wait with something else")
        if answer != _READY:
            raise self._gone("it answered a wait with something else")

    def delete(self, *keys: str) -> None:
        self._send(b"".join(_DELETE + self._key(key) for key in keys), self._end())
        self._skipped += _DELETED_SIZE * len(keys)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    # --- the connection ---

    def _end(self) -> float:
        return time.monotonic() + self._timeout

    def _key(self, key: str) -> bytes:
        return _sized((self._prefix + key).encode())

    def _keys(self, keys: Sequence[str]) -> bytes:
        return struct.pack("<Q", len(keys)) + b"".join(map(self._key, keys))

    def _gone(self, reason: str) -> "_ClosedError":
        self.close()
        return _ClosedError(f"the job's store can't be reached: {reason}")

    def _late(self) -> StoreSlowError:
        self.close()
        return StoreSlowError(f"the job's store has not answered for {self._timeout:.3g} s")

    def _send(self, request: bytes, end: float) -> None:
        if self._socket is None:
            raise StoreGoneError("the connection to the job's store is lost")
        left = memoryview(request)
        try:
            while True:
                with suppress(BlockingIOError):
                    left = left[self._socket.send(left) :]
                if not left:
                    return
                if not self._writable.poll(max(0.0, 1000 * (end - time.monotonic()))):
                    raise self._late()
        except OSError as error:
            raise self._gone(str(error)) from None

    def _has(self, size: int, end: float) -> bool:
        """Receive until `size` bytes are there. Return False if the time is over before."""
        while len(self._received) < size:
            if self._socket is None:
                raise StoreGoneError("the connection to the job's store is lost")
            try:
                more = self._socket.recv(_READ_SIZE)
            except BlockingIOError:
                if not self._readable.poll(max(0.0, 1000 * (end - time.monotonic()))):
                    return False
                continue
            except OSError as error:
                raise self._gone(str(error)) from None
            if not more:
                raise self._gone("it has closed the connection")
            self._received += more
        return True

    def _take(self, size: int, end: float) -> bytes:
        if not self._has(self._skipped + size, end):
            raise self._late()
        stop = self._skipped + size
        found = bytes(self._received[self._skipped : stop])
        del self._received[:stop]
        self._skipped = 0
        return found

    def _take_value(self, end: float) -> bytes:
        size = int.from_bytes(self._take(8, end), "little")
        if size > _VALUE_MAX:
            raise self._gone(f"it answered with a value of {size} bytes")
        return self._take(size, end)


class _ClosedError(StoreGoneError):
    """The server has closed the connection, or its answer makes no sense."""


def _sized(found: bytes) -> bytes:
    return struct.pack("<Q", len(found)) + found


def _connected(host: str, port: int, end: float) -> socket.socket:
    """Connect, trying each address of the host."""
    reason, slow = "its host has no address", False
    for family, kind, protocol, _, address in _addresses(host, port, end):
        try:
            found = socket.socket(family, kind, protocol)
        except OSError as error:
            reason = str(error)
            continue
        try:
            found.settimeout(max(0.001, end - time.monotonic()))
            found.connect(address)
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            found.setblocking(False)
        except OSError as error:
            found.close()
            reason = str(error)
            slow = isinstance(error, TimeoutError)
        else:
            return found
    raise (StoreSlowError if slow else StoreGoneError)(f"the job's store can't be reached: {reason}")


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...]]


def _addresses(host: str, port: int, end: float) -> Sequence[_Address]:
    """Look up the host's addresses. If a name server does not answer, give up at `end`."""

    def look() -> Sequence[_Address]:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]

    try:
        try:
            ipaddress.ip_address(host)
        except ValueError:
            thread = CallThread()
            try:
                return thread.run(look, max(0.001, end - time.monotonic()))
            finally:
                thread.close()
        return look()
    except OSError as error:
        raise StoreGoneError(f"the job's store can't be reached: {error}") from None
