"""The page's own files, and the plotting library out of its package."""

import gzip
import hashlib
from collections.abc import AsyncIterator
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

__all__ = ["router"]

router = APIRouter(include_in_schema=False)

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
_TYPES |= {".svg": "image/svg+xml", ".png": "image/png", ".json": "application/json"}
_PLOTS = "plotly.min.js"
_CHUNK = 64 << 10
"""Bytes that are handed on at a time: a client that reads slowly has no more than this in the server's memory."""


@router.get("/")
async def index(request: Request) -> Response:
    """The page."""
    return _answer(request, "index.html")


@router.get("/static/{name}")
async def static(request: Request, name: str) -> Response:
    """One of its files. There are no folders."""
    return _answer(request, name)


def _answer(request: Request, name: str) -> Response:
    file = _find(name)
    if file is None:
        raise HTTPException(404, "there is no such file")
    plain, packed, tag = _content(name) if name == _PLOTS else _pack(file.read_bytes())
    headers = {"etag": tag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = plain
    if packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        body = packed
        headers["content-encoding"] = "gzip"
    headers["content-length"] = str(len(body))
    return StreamingResponse(_pieces(body), media_type=_TYPES[file.name[file.name.rindex(".") :]], headers=headers)


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _CHUNK):
        yield body[start : start + _CHUNK]


def _find(name: str) -> Traversable | None:
    if name == _PLOTS:
        return resources.files("plotly") / "package_data" / _PLOTS
    for file in (resources.files("spark_fast.ui") / "static").iterdir():
        if file.name == name and file.is_file() and name[name.rfind(".") :] in _TYPES:
            return file
    return None


@cache
def _content(name: str) -> tuple[bytes, bytes | None, str]:
    file = _find(name)
    assert file is not None
    return _pack(file.read_bytes())


@lru_cache(maxsize=64)  # any client may ask for a file, as often as it likes
def _pack(plain: bytes) -> tuple[bytes, bytes | None, str]:
    tag = f'"{hashlib.sha256(plain).hexdigest()[:32]}"'
    return plain, gzip.compress(plain, 6, mtime=0) if len(plain) > 1000 else None, tag
