"""Runs the server in this process, until a signal ends it."""

import logging
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import uvicorn

from spark_fast.ui.addresses import PORT, Address, listen, shown
from spark_fast.ui.connections import Connection, Listening, Unauthenticated, limit_by_files
from spark_fast.ui.security import Keys
from spark_fast.ui.server import make_app
from spark_fast.ui.state import State
from spark_fast.ui.throttle import Throttle

__all__ = ["PORT", "Options", "make_server", "serve"]

_GRACE = 2
"""Seconds that the requests in progress have when the server ends."""
_LOGS = ("uvicorn.error", "asyncio")
"""The loggers of messages that clients cause."""


@dataclass(frozen=True)
class Options:
    """Where to listen, and how.

    Attributes:
        host: a name or an address.
        port: 0 for any that is free; None for PORT, or one of those after it.
        certificate, key: the files for TLS, or None for neither.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    certificate: Path | None = None
    key: Path | None = None


class _Server(uvicorn.Server):
    """Accepts connections itself, and ends the streams first: uvicorn waits for the end of all requests."""

    def __init__(
        self, config: uvicorn.Config, state: State, listeners: Sequence[socket.socket], started: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.unauthenticated = Unauthenticated(limit_by_files())
        self._state = state
        self._listeners = list(listeners)
        self._started = started
        self._throttle = Throttle()
        self._listening: Listening | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])
        if not self.started:
            return
        for name in _LOGS:
            logging.getLogger(name).addFilter(self._throttle)
        make = partial(Connection, config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
        self._listening = Listening(make, self.config.ssl, self.unauthenticated)
        self._listening.start(self._listeners)
        self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        assert self._listening is not None
        self._listening.stop()
        self._state.close()
        await super().shutdown(self._listeners)
        for name in _LOGS:
            logging.getLogger(name).removeFilter(self._throttle)


def serve(options: Options, addresses: Sequence[Address], keys: Keys, started: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM comes.

    addresses: those of the host. It is looked up once, so that the server listens at the addresses that were checked.
    started: called with the address of the page, which holds the token, once a browser can open it.

    Raises OSError if it can't listen there.
    """
    _allow_files()
    with ExitStack() as stack:
        listeners = [stack.enter_context(each) for each in listen(addresses, options.port)]
        make_server(options, keys, listeners, started).run()


def make_server(
    options: Options, keys: Keys, listeners: Sequence[socket.socket], started: Callable[[str], None]
) -> uvicorn.Server:
    """Return the server, to be run with these sockets; see serve(). Raise OSError if the certificate can't be used."""
    secure = options.certificate is not None
    bound = [str(each.getsockname()[0]) for each in listeners]
    app, state = make_app(keys, hosts=[options.host, *bound], secure=secure)
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http="h11",  # httptools takes a head of any length
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
        ssl_certfile=None if options.certificate is None else str(options.certificate),
        ssl_keyfile=None if options.key is None else str(options.key),
    )
    config.load()
    address = f"{shown(options.host, listeners[0], secure=secure)}/#token={keys.token}"
    return _Server(config, state, listeners, lambda: started(address))


def _allow_files() -> None:
    """Raise the limit of open files as far as the system allows: each run takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
