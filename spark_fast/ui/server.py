"""The app: its routes, its answers to errors, and its description."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from spark_fast import __version__
from spark_fast.errors import SparkError
from spark_fast.ui import api, assets, metrics, streaming
from spark_fast.ui.security import Guard, Keys, answer, hosts_of
from spark_fast.ui.state import State
from spark_fast.ui.threads import BusyError

__all__ = ["make_app"]


def make_app(keys: Keys, *, hosts: Iterable[str] = (), secure: bool = False) -> tuple[ASGIApp, State]:
    """Return the app behind its guard, and its state.

    hosts: the names and addresses that the server is bound to.
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
    for each in (api, streaming, metrics, assets):
        app.include_router(each.router)
    app.add_exception_handler(HTTPException, _answer_refused)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(BusyError, _answer_busy)
    app.add_exception_handler(SparkError, _answer_unusable)
    app.add_exception_handler(OSError, _answer_unusable)
    app.add_exception_handler(Exception, _answer_broken)
    _describe(app)
    return Guard(app, keys=keys, hosts=hosts_of(hosts), secure=secure), state


def _describe(app: FastAPI) -> None:
    """Add to the description of the API the token that the guard asks for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            found = get_openapi(title=app.title, version=app.version, routes=app.routes)
            found.setdefault("components", {})["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"bearer": []}]
            app.openapi_schema = found
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign] # this is how FastAPI has it done


async def _answer_refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return answer(error.status_code, str(error.detail), error.headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = []
    for each in error.errors():
        where = ".".join(str(part) for part in each["loc"][1:]) or str(each["loc"][0])
        found.append(f"{where}: {each['msg']}")
    return answer(422, "; ".join(found))


async def _answer_busy(request: Request, error: Exception) -> Response:
    return answer(503, str(error), {"retry-after": "5"})


async def _answer_unusable(request: Request, error: Exception) -> Response:
    return answer(503, str(error))


async def _answer_broken(request: Request, error: Exception) -> Response:
    # The server goes on; what happened is written to its standard error.
    return answer(500, f"the server failed: {type(error).__name__}")
