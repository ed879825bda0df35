"""Runs the server in this process, until a signal ends it."""

import ipaddress
import resource
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from spark_fast.ui.security import Keys
from spark_fast.ui.server import make_app
from spark_fast.ui.state import State

__all__ = ["PORT", "Options", "is_loopback", "listen", "make_server", "serve"]

PORT = 8265
_PORTS = 20
"""How many ports are tried, from PORT on, where none was asked for."""
_GRACE = 2
"""Seconds that requests under way have when the server ends."""


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


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine can reach a server that listens there. Raises OSError for an unknown name."""
    found = {str(each[4][0]) for each in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)}
    return all(ipaddress.ip_address(address.split("%")[0]).is_loopback for address in found)


def listen(host: str, port: int | None) -> socket.socket:
    """A socket that is bound there. Raises OSError."""
    if port is not None:
        return _bind(host, port)
    for each in range(PORT, PORT + _PORTS):
        with suppress(OSError):  # taken; what else may be wrong is met again below
            return _bind(host, each)
    return _bind(host, 0)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    found = socket.socket(family, kind, protocol)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError:
        found.close()
        raise
    return found


class _Server(uvicorn.Server):
    """Ends the streams first: it waits for the end of all requests."""

    def __init__(self, config: uvicorn.Config, state: State, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._state = state
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._state.close()
        await super().shutdown(sockets)


def serve(options: Options, started: Callable[[str], None]) -> None:
    """Serves until SIGINT or SIGTERM comes.

    started: is called with the address, which holds the token, once it can be opened.

    Raises OSError if it can't listen there.
    """
    _allow_files()
    with listen(options.host, options.port) as listener:
        make_server(options, Keys(), listener, started).run([listener])


def make_server(
    options: Options, keys: Keys, listener: socket.socket, started: Callable[[str], None]
) -> uvicorn.Server:
    """The server, to be run with this socket. As serve(). Raises OSError if the certificate can't be used."""
    secure = options.certificate is not None
    app, state = make_app(keys, host=options.host, secure=secure)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would hold the token
        server_header=False,
        ws="none",
        proxy_headers=False,
        timeout_graceful_shutdown=_GRACE,
        ssl_certfile=None if options.certificate is None else str(options.certificate),
        ssl_keyfile=None if options.key is None else str(options.key),
    )
    config.load()
    port = listener.getsockname()[1]
    address = f"{'https' if secure else 'http'}://{_shown(options.host)}:{port}/?token={keys.token}"
    return _Server(config, state, lambda: started(address))


def _shown(host: str) -> str:
    """The host as it stands in an address that leads here."""
    if host in ("0.0.0.0", "::"):  # noqa: S104
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _allow_files() -> None:
    """As many open files as the system lets us have: each run is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
