"""Who may talk to the server: the owner of the runs, from a page of this server or with its token. All others change
nothing and learn nothing.

A request passes if its Host names this server (else a foreign name was made to lead here: DNS rebinding), its Origin,
if it has one, is this server (else a page from elsewhere sends it), and it carries the token, or the cookie that the
token was exchanged for.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Mapping
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from spark_fast.json_text import to_json

__all__ = ["BODY_MAX", "CODE_BODY_MAX", "Guard", "Keys", "answer", "hosts_of"]

BODY_MAX = 2 << 20
"""Bytes of a request. What a run takes of it is less, and the run says so."""
CODE_BODY_MAX = 40 << 20
"""Of a request that brings code: twice what is taken as a source, since JSON escapes some of it."""

_BODY_PATIENCE = 30.0
"""Seconds in which a body is to come."""

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "frame-ancestors 'none'",
        "base-uri 'none'",
        "form-action 'self'",
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
_GO_ON = '<!doctype html><title>spark-fast</title><meta http-equiv="refresh" content="0;url=/">'


class Keys:
    """What lets a request in.

    Attributes:
        token: for whoever has it as a bearer, and for the first request of a browser.
        cookie_name, cookie: what the browser has from then on. The name differs from server to server: a browser keeps
            the cookies of all ports of a host together.
    """

    def __init__(self) -> None:
        self.token = secrets.token_urlsafe(32)
        self.cookie = secrets.token_urlsafe(32)
        self.cookie_name = "spark_fast_" + hashlib.sha256(self.token.encode()).hexdigest()[:12]

    def fits_token(self, given: str) -> bool:
        """Whether it is the token; takes as long for one that nearly is."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.token.encode())

    def fits_cookie(self, given: str) -> bool:
        """Whether it is the cookie's value, likewise."""
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.cookie.encode())


def hosts_of(bound: str) -> frozenset[str]:
    """The names and addresses under which a server that is bound to this one may be asked for.

    Any port will do: a port that is forwarded by SSH may be another one. With the wildcard address, "*" stands for all
    addresses: no foreign name leads to a page whose own address is a number.
    """
    names = set(_LOOPBACK)
    if bound in _WILDCARD:
        names |= {"*", socket.gethostname().lower(), socket.getfqdn().lower()}
    else:
        names.add(bound.lower())
    return frozenset(names)


class Guard:
    """Stands before the app: lets in what may come in, and puts the same headers on all that goes out.

    secure: whether the connection is encrypted, so that the cookie is for such ones only.
    """

    def __init__(self, app: ASGIApp, *, keys: Keys, hosts: frozenset[str], secure: bool) -> None:
        self._app = app
        self._keys = keys
        self._hosts = hosts
        self._scheme = "https" if secure else "http"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the server's start and end."""
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
        reply = self._refuse(scope, headers) or self._exchange(scope) or self._identify(scope, headers)
        if reply is not None:
            await reply(scope, receive, send_guarded)
            return
        limit = CODE_BODY_MAX if scope["path"].endswith("/reload") else BODY_MAX
        body = await _read_body(receive, headers, limit)
        if isinstance(body, Response):
            await body(scope, receive, send_guarded)
            return
        await self._app(scope, _replay(body, receive), send_guarded)

    def _refuse(self, scope: Scope, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        found = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
        if found is None or not self._is_ours(found["name"].strip("[]").lower()):
            return answer(403, "this server does not go by the name in the Host header")
        own = f"{self._scheme}://{hosts[0]}".lower()
        if any(origin.lower() != own for origin in headers.getlist("origin")):
            return answer(403, "a page from elsewhere may ask for nothing here")
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and not _opens_page(scope, headers):
            return answer(403, "a page from elsewhere may ask for nothing here")
        return None

    def _is_ours(self, name: str) -> bool:
        if name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return "*" in self._hosts

    def _exchange(self, scope: Scope) -> Response | None:
        """The cookie for the token, where the address holds it."""
        if scope["method"] != "GET" or scope["path"] != "/":
            return None
        given = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get("token")
        if given is None:
            return None
        if len(given) != 1 or not self._keys.fits_token(given[0]):
            return answer(401, f"this is not the token of this server: {_NEED_TOKEN}")
        reply = RedirectResponse("/", status_code=303)
        reply.set_cookie(
            self._keys.cookie_name,
            self._keys.cookie,
            path="/",
            httponly=True,
            samesite="strict",
            secure=self._scheme == "https",
        )
        return reply

    def _identify(self, scope: Scope, headers: Headers) -> Response | None:
        authorization = headers.get("authorization")
        if authorization is not None:
            kind, _, given = authorization.partition(" ")
            if kind.lower() == "bearer" and self._keys.fits_token(given.strip()):
                return None
            return answer(401, _NEED_TOKEN, {"www-authenticate": "Bearer"})
        if any(self._keys.fits_cookie(given) for given in _cookies(headers, self._keys.cookie_name)):
            return None
        if _opens_page(scope, headers) and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            # A strict cookie does not come along with a link from elsewhere, nor through its redirections; it does when
            # a page of this server goes on to the same address.
            return HTMLResponse(_GO_ON, 401)
        return answer(401, _NEED_TOKEN, {"www-authenticate": "Bearer"})


def _opens_page(scope: Scope, headers: Headers) -> bool:
    """Whether a browser goes to the page itself: it does not hand what it gets to a page from elsewhere."""
    return (
        scope["method"] == "GET"
        and scope["path"] == "/"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


def _cookies(headers: Headers, name: str) -> list[str]:
    found = []
    for line in headers.getlist("cookie"):
        for pair in line.split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                found.append(value)
    return found


async def _read_body(receive: Receive, headers: Headers, limit: int) -> bytes | Response:
    """All of the body, or why it is not taken."""
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
    """Hands on what was read, then what comes after it: that the client has gone."""
    waiting = [body]

    async def receive_again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return receive_again


def answer(status: int, error: str, headers: Mapping[str, str] | None = None) -> Response:
    """What is said when something is wrong."""
    return Response(to_json({"error": error}), status, dict(headers or {}), media_type="application/json")
