"""Accepting connections such that clients without the token can't keep the owner of the token out.

Anybody on the machine can connect to the server. Three bounds hold for what they send before they show the token: the
head of a request has to come within a deadline, an encrypted connection has to be agreed on within a deadline, and the
number of such connections is limited. At the limit the oldest of them is closed, so a new client always has its turn.
"""

import asyncio
import errno
import ipaddress
import logging
import resource
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from spark_fast.ui.security import SHOWS_TOKEN

__all__ = ["HANDSHAKE_SECONDS", "HEAD_SECONDS", "Connection", "Listening", "Unauthenticated", "limit_by_files"]

HEAD_SECONDS = 10.0
"""Within this time the head of a request has to come, from its first byte or from the start of the connection. Within
this time the rest of a body has to come, too, once its request was answered without it."""
HANDSHAKE_SECONDS = 10.0
"""Within this time the two sides have to agree on a TLS connection."""

_UNAUTHENTICATED_MAX = 128
_FILES_SHARE = 4
"""Unauthenticated connections take at most one in so many of the files that the process may open."""
_PAUSE_SECONDS = 0.5
"""Between two attempts to accept a connection when the process has no descriptor left."""

_log = logging.getLogger("uvicorn.error")


def limit_by_files() -> int:
    """Return how many unauthenticated connections there may be."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return _UNAUTHENTICATED_MAX
    return max(1, min(_UNAUTHENTICATED_MAX, files // _FILES_SHARE))


def _origin(address: str) -> str:
    """Return what stands for all the addresses that a client at this one can connect from.

    Any user of this machine can use each of its loopback addresses. A machine with IPv6 can use most addresses of its
    network. A client with many addresses must not look like many clients.
    """
    found = ipaddress.ip_address(address.split("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback:
        return "this machine"
    return str(found) if found.version == 4 else str(ipaddress.ip_network((int(found), 64), strict=False))


class Unauthenticated:
    """The connections whose clients have not shown the token, by where they come from.

    limit: how many there may be.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._close: dict[str, dict[object, Callable[[], None]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, address: str, connection: object, close: Callable[[], None]) -> None:
        """Count a connection; at the limit close the oldest one of the origin that has most."""
        origin = _origin(address)
        if self._count >= self._limit:
            most = max(self._close, key=lambda each: len(self._close[each]))
            oldest, close_oldest = next(iter(self._close[most].items()))
            self._remove(most, oldest)
            close_oldest()
        self._close.setdefault(origin, {})[connection] = close
        self._count += 1

    def remove(self, address: str, connection: object) -> None:
        """Count a connection no more: its client has shown the token, or it has ended."""
        self._remove(_origin(address), connection)

    def _remove(self, origin: str, connection: object) -> None:
        of_origin = self._close.get(origin, {})
        if of_origin.pop(connection, None) is not None:
            self._count -= 1
        if not of_origin:
            self._close.pop(origin, None)


class Connection(H11Protocol):
    """One connection. It ends if the head of a request does not come in time.

    leave: is called when the client has shown the token, and when the connection has ended.
    """

    def __init__(self, *, leave: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self.leave = leave
        self._head_timer: asyncio.TimerHandle | None = None
        app = self.app

        async def app_of_connection(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[SHOWS_TOKEN] = leave
            await app(scope, receive, send)

        self.app = app_of_connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_timer()
        self.leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came. The deadline stands until the head is whole, however many pieces it comes in."""
        super().data_received(data)
        self._watch_head()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or end the connection if an answer was begun before: of a refused body, say."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            if self.cycle is not None and not self.cycle.response_complete:
                self.cycle.disconnected = True  # the app's own answer is no longer sent
                self.cycle.message_event.set()
            super().send_400_response(msg)
        else:
            self.close_now()

    def close_now(self) -> None:
        """End the connection without waiting for its client."""
        if self.transport is not None:
            self.transport.abort()

    def _watch_head(self) -> None:
        if not self._owes_us() or self.transport.is_closing():
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._head_timer = None
        # The head may have come with the end of the request before it, and not by data_received().
        if self._owes_us():
            self.close_now()

    def _owes_us(self) -> bool:
        """Return whether the client has to send something before the server does."""
        theirs, ours = self.conn.their_state, self.conn.our_state
        return theirs is h11.IDLE or (theirs is h11.SEND_BODY and ours is h11.DONE)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Listening:
    """Accepts connections at the sockets of a server.

    make: makes a connection; it is called with `leave`.
    tls: the context for encrypted connections, or None.
    """

    def __init__(
        self, make: Callable[..., Connection], tls: ssl.SSLContext | None, unauthenticated: Unauthenticated
    ) -> None:
        self._make = make
        self._tls = tls
        self._unauthenticated = unauthenticated
        self._accepting: list[asyncio.Task[None]] = []
        self._beginning: set[asyncio.Task[bool]] = set()

    def start(self, listeners: list[socket.socket]) -> None:
        """Begin to accept. The sockets listen already."""
        self._accepting = [asyncio.create_task(self._accept(each)) for each in listeners]

    def stop(self) -> None:
        """Accept no more. Connections that have begun stay."""
        for task in [*self._accepting, *self._beginning]:
            task.cancel()

    async def _accept(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno != errno.ECONNABORTED:  # then the client has gone, which happens
                    _log.warning("no connection can be accepted: %s", error.strerror)
                    await asyncio.sleep(_PAUSE_SECONDS)
                continue
            self._begin(connection, str(address[0]))
            # sock_accept() does not let others run while connections are waiting.
            await asyncio.sleep(0)

    def _begin(self, accepted: socket.socket, address: str) -> None:
        key = object()
        connection = self._make(leave=partial(self._unauthenticated.remove, address, key))
        task = asyncio.create_task(self._connect(accepted, connection))
        self._beginning.add(task)

        def close() -> None:
            task.cancel()  # has no effect once the connection has begun
            connection.close_now()

        def ended(task: asyncio.Task[bool]) -> None:
            self._beginning.discard(task)
            begun = False
            try:
                begun = not task.cancelled() and task.result()
            finally:
                if not begun:
                    connection.leave()
                    accepted.close()

        task.add_done_callback(ended)
        self._unauthenticated.add(address, key, close)

    async def _connect(self, accepted: socket.socket, connection: Connection) -> bool:
        """Return whether the connection has begun: its client may have gone, speak no TLS or be too slow."""
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=None if self._tls is None else HANDSHAKE_SECONDS,
            )
        except OSError:
            return False
        return True
