"""The addresses at which the server listens, and the one that it prints.

A name can have several addresses. A browser may try one at which this server does not listen, but another user's does.
So the server looks the name up once, listens at all of its addresses, and prints a number.
"""

import errno
import ipaddress
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

__all__ = ["PORT", "Address", "is_loopback", "listen", "resolve", "shown"]

PORT = 8265
_PORTS = 20
"""How many ports are tried, from PORT on, where none was asked for."""
_ATTEMPTS = 20
"""How often a port is drawn that is free at all addresses."""
_BACKLOG = 2048
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
"""This machine does not have the address: one of IPv6, say, that /etc/hosts names all the same."""
_OUTSIDE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
"""Addresses for documentation. The kernel tells from which of ours it would send there; nothing is sent."""


class Address(NamedTuple):
    """A numeric address, as bind() takes it; the port is set later."""

    family: int
    where: tuple[Any, ...]


def resolve(host: str) -> list[Address]:
    """Return the addresses of a name, or the address itself. Raises OSError for an unknown name."""
    found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(Address(family, where) for family, _, _, _, where in found))


def is_loopback(addresses: Sequence[Address]) -> bool:
    """Return whether only this machine can reach a server that listens there."""
    return all(ipaddress.ip_address(str(each.where[0]).split("%")[0]).is_loopback for each in addresses)


def listen(addresses: Sequence[Address], port: int | None) -> list[socket.socket]:
    """Return sockets that listen on all addresses, at one port.

    port: 0 for any that is free; None for PORT, or one of those after it.

    Raises OSError.
    """
    if port == 0:
        return _listen_anywhere(addresses)
    if port is not None:
        return _listen_at(addresses, port)
    for each in range(PORT, PORT + _PORTS):
        with suppress(OSError):  # the port is taken; any other error comes again below
            return _listen_at(addresses, each)
    return _listen_anywhere(addresses)


def _listen_anywhere(addresses: Sequence[Address]) -> list[socket.socket]:
    for _ in range(_ATTEMPTS - 1):
        try:
            return _listen_at(addresses, 0)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # the port drawn for the first address is taken at another
                raise
    return _listen_at(addresses, 0)


def _listen_at(addresses: Sequence[Address], port: int) -> list[socket.socket]:
    listening: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, where in addresses:
            try:
                listening.append(_listen_on(family, (where[0], port, *where[2:])))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
            else:
                port = listening[0].getsockname()[1]
        if not listening and absent is not None:
            raise absent
    except OSError:
        for each in listening:
            each.close()
        raise
    return listening


def _listen_on(family: int, where: tuple[Any, ...]) -> socket.socket:
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(_BACKLOG)  # from now on no other process can bind this port
    except OSError:
        found.close()
        raise
    return found


def shown(host: str, listener: socket.socket, *, secure: bool) -> str:
    """Return the start of an address that leads to this socket.

    secure: whether the server proves itself by a certificate. That names a host, so the address has the name then.
    """
    bound, port = listener.getsockname()[:2]
    name = str(bound)
    wildcard = ipaddress.ip_address(name.split("%")[0]).is_unspecified
    if secure:
        name = socket.gethostname() if wildcard else host
    elif wildcard:
        name = _own_address(listener)
    return f"{'https' if secure else 'http'}://{f'[{name}]' if ':' in name else name}:{port}"


def _own_address(listener: socket.socket) -> str:
    """Return an address of this machine at which a socket bound to the wildcard address can be reached."""
    families = [socket.AF_INET] if listener.family == socket.AF_INET else [socket.AF_INET6]
    if listener.family == socket.AF_INET6 and not listener.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        families.append(socket.AF_INET)
    for family in families:
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:  # there may be no way out
            probe.connect((_OUTSIDE[family], 9))
            return str(probe.getsockname()[0])
    return "127.0.0.1" if families[-1] == socket.AF_INET else "::1"
