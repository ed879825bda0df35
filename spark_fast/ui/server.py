"""The app: what each address answers."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from spark_fast import __version__
from spark_fast.errors import SparkError
from spark_fast.ui import api, assets, streaming
from spark_fast.ui.security import Guard, Keys, hosts_of
from spark_fast.ui.state import State
from spark_fast.ui.threads import BusyError

__all__ = ["make_app"]


def make_app(keys: Keys, *, host: str = "127.0.0.1", secure: bool = False) -> tuple[ASGIApp, State]:
    """The app behind its guard, and what it keeps.

    host: the name or address that the server is bound to.
    secure: whether connections are encrypted.
    """
    state = State()
    app = FastAPI(
        title="spark-fast",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=state.lifespan,
        redirect_slashes=False,
    )
    app.state.spark = state
    app.include_router(api.router)
    app.include_router(streaming.router)
    app.include_router(assets.router)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _told_invalid)
    app.add_exception_handler(BusyError, _told_busy)
    app.add_exception_handler(SparkError, _told_unusable)
    app.add_exception_handler(OSError, _told_unusable)
    return Guard(app, keys=keys, hosts=hosts_of(host), secure=secure), state


async def _told(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _told_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    told = [
        f"{'.'.join(str(part) for part in each['loc'][1:]) or each['loc'][0]}: {each['msg']}" for each in error.errors()
    ]
    return JSONResponse({"error": "; ".join(told)}, 422)


async def _told_busy(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 503, {"retry-after": "5"})


async def _told_unusable(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 503)
