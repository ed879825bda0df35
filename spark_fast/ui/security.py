"""Access for the owner of the runs alone, who has the token. Other users change nothing and learn nothing.

A request passes if it meets three conditions. Its Host header names this server: another name may point here by DNS
rebinding. Its Origin header, if there is one, is this server: otherwise a foreign page has sent it. It carries the
token as a bearer. The page's own files are the same everywhere, and need no token.

There is no cookie. A browser sends the cookies of a host to every port of that host, so another user's server on the
same machine would receive it. A header that the page's script sets goes to this server alone.
"""

import asyncio
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable, Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spark_fast.runfiles.json_text import to_json

__all__ = ["BODY_MAX", "CODE_BODY_MAX", "Guard", "Keys", "answer", "hosts_of"]

BODY_MAX = 2 << 20
"""The most bytes of a request's body. A run takes less, and refuses more itself."""
CODE_BODY_MAX = 40 << 20
"""The same for a request that brings code: twice the limit of a source, since JSON escapes some characters."""

_DISCARDED_MAX = 64 << 10
"""Bytes of the body of a refused request that are read and thrown away."""

_BODY_PATIENCE = 30.0
"""Seconds in which the whole body has to come."""

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
)

_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_WILDCARD = frozenset({"0.0.0.0", "::"})  # noqa: S104 # compared with, not bound to

_NEED_TOKEN = "open the address that 'spark-fast ui' printed: it holds the token that is needed here"  # noqa: S105

TOKEN = re.compile(r"[A-Za-z0-9_-]{43,128}")
"""What a token looks like. It goes into an address, so it needs no quoting."""
SHOWS_TOKEN = "spark_fast.shows_token"  # noqa: S105
"""The extension of a scope by which the guard tells the connection that its client has the token."""


class Keys:
    """What lets a request in.

    Attributes:
        token: 256 random bits, unless one is given.

    Raises ValueError if the given token is none.
    """

    def __init__(self, token: str | None = None) -> None:
        if token is not None and not TOKEN.fullmatch(token):
            raise ValueError("a token has 43 to 128 letters, digits, - or _")
        self.token = secrets.token_urlsafe(32) if token is None else token

    def fits_token(self, given: str) -> bool:
        """Return whether this is the token, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode())


def hosts_of(names: Iterable[str]) -> frozenset[str]:
    """Return the names and addresses that the Host header may have, for a server bound to these.

    Any port will do: a port that is forwarded by SSH may be another one. With the wildcard address, "*" stands for all
    addresses: no foreign name leads to a page whose own address is a number.
    """
    found = set(_LOOPBACK)
    for name in names:
        if name in _WILDCARD:
            found |= {"*", socket.gethostname().lower(), socket.getfqdn().lower()}
        else:
            found.add(name.lower())
    return frozenset(found)


class Guard:
    """Stands before the app: passes on the requests that are allowed, and puts the same headers on all answers.

    secure: whether the connection is encrypted.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, hosts: frozenset[str], secure: bool) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._scheme = "https" if secure else "http"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or the server's start and end."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        headers = Headers(scope=scope)
        reply = self._refuse(scope, headers) or self._identify(scope, headers)
        if reply is not None:
            await reply(scope, receive, send_guarded)
            return
        limit = CODE_BODY_MAX if scope["path"].endswith("/reload") else BODY_MAX
        body = await _read_body(receive, headers, 0 if _is_public(scope) else limit)
        if isinstance(body, Response):
            await body(scope, receive, send_guarded)
            return
        await self._app(scope, _replay(body, receive), send_guarded)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or not self._is_ours(found["name"].strip("[]").lower()):
            return _turn_away(headers, 403, "this server does not go by the name in the Host header")
        own = f"{self._scheme}://{hosts[0]}".lower()
        if any(origin.lower() != own for origin in headers.getlist("origin")):
            return _turn_away(headers, 403, "a page from elsewhere may ask for nothing here")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and not _opens_page(scope, headers):
            return _turn_away(headers, 403, "a page from elsewhere may ask for nothing here")
        return None

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return "*" in self._hosts

    def _identify(self, scope: Scope, headers: Headers) -> Response | None:
        given = headers.getlist("authorization")
        if len(given) == 1:
            kind, _, token = given[0].partition(" ")
            if kind.lower() == "bearer" and self._keys.fits_token(token.strip()):
                shows_token = scope.get("extensions", {}).get(SHOWS_TOKEN)
                if shows_token is not None:
                    shows_token()
                return None
        if _is_public(scope):
            return None
        return _turn_away(headers, 401, _NEED_TOKEN, {"www-authenticate": "Bearer"})


def _is_public(scope: Scope) -> bool:
    """Return whether this is one of the page's own files, which hold nothing of anyone."""
    path: str = scope["path"]
    return scope["method"] == "GET" and (path == "/" or path.startswith("/static/"))


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """Return whether a browser opens the page itself, so that no foreign page can read the answer."""
    return (
        scope["method"] == "GET"
        and scope["path"] == "/"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


async def _read_body(receive: Receive, headers: Headers, limit: int) -> bytes | Response:
    """Return the whole body, or the answer that refuses it."""
    too_long = answer(413, f"at most {limit} bytes are taken here", {"connection": "close"})
    announced = headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit:
        return too_long
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_PATIENCE):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > limit:
                    return too_long
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        return answer(408, "the body has not come", {"connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body, and then what comes after it: that the client has gone."""
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again


def answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer for an error."""
    return Response(to_json({"error": error}), status, dict(headers or {}), media_type="application/json")


def _turn_away(asked: Headers, status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    """Refuse a request. Its connection ends, unless its body is short: then the client can read the answer at ease.

    asked: the headers of the request.
    """
    length = asked.get("content-length", "0")
    is_short = "transfer-encoding" not in asked and length.isdecimal() and int(length) <= _DISCARDED_MAX
    return answer(status, error, {**({} if is_short else {"connection": "close"}), **(headers or {})})
