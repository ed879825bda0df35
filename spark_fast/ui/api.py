"""The routes below /api, except the stream."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, HTTPException, Path, Query
from fastapi.responses import Response

from spark_fast import client
from spark_fast.client import FateState, Request, Run, SparkStatus
from spark_fast.client.diffs import diff
from spark_fast.client.reset import ask_reset
from spark_fast.client.starting import is_before_first_checkpoint
from spark_fast.errors import ResetError
from spark_fast.project.files import relative
from spark_fast.project.sources import decode
from spark_fast.runfiles import journal, names
from spark_fast.runfiles.json_text import to_json
from spark_fast.runfiles.schema import unknown
from spark_fast.runfiles.versions import Store, Version
from spark_fast.status import monotonic
from spark_fast.ui import models
from spark_fast.ui.detail import Parts
from spark_fast.ui.state import Client, Server, State
from spark_fast.ui.views import history_view

__all__ = ["ERRORS", "router"]

_Found = TypeVar("_Found")

ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": models.Error, "description": "No token, or a wrong one"},
    403: {"model": models.Error, "description": "The Host or the Origin header is not that of this server"},
    503: {"model": models.Error, "description": "A file of the run can't be used, or too many requests wait already"},
}
_OF_A_RUN: dict[int | str, dict[str, Any]] = {
    404: {"model": models.Error, "description": "There is no such run, or it has nothing of this name"}
}
_INVALID: dict[int | str, dict[str, Any]] = {422: {"model": models.Refused, "description": "A value does not fit"}}
_ASKING: dict[int | str, dict[str, Any]] = {
    **_OF_A_RUN,
    **_INVALID,
    409: {"model": models.Refused, "description": "The state of the run does not allow it: it has ended, for example"},
    400: {"model": models.Error, "description": "The body can't be read as JSON"},
    413: {"model": models.Error, "description": "The body is too long"},
}

router = APIRouter(prefix="/api", responses=ERRORS)

_MOMENT = 0.05
"""Seconds between two looks at the fate that a client waits for."""
_WAITERS = 100
"""How many clients may wait at a time. Others get the fate as it is."""


def _json(content: object, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def _there(server: State, name: str) -> Run:
    found = server.cache.run(name) if names.valid(name) else None
    if found is None:
        raise HTTPException(404, f"there is no run {name}")
    return found


# --- look ---


@router.get("/runs", response_model=models.Runs)
async def runs(server: Server) -> Response:
    """List all runs, live or ended, in the order in which they started."""
    return _json({"runs": await server.poller.summaries(), "error": server.poller.error})


@router.get("/runs/{run}", response_model=models.Detail, responses=_OF_A_RUN)
async def run(server: Server, run: str) -> Response:
    """Show one run in full."""
    summary = await server.poller.summary(run) or {}
    found = await server.threads.read(lambda: Parts(_there(server, run), server.cache).look())
    return _json(found | {name: summary.get(name) for name in ("memory", "since_checkpoint")})


@router.get("/runs/{run}/history", response_model=models.Histories, responses=_OF_A_RUN | _INVALID)
async def history(server: Server, run: str, name: Annotated[list[str], Query(min_length=1)]) -> Response:
    """Return the histories of values over the whole run, each of some thousand points at most."""

    def look() -> str:
        found = _there(server, run)
        try:
            courses = {each: history_view(found.history(each)) for each in dict.fromkeys(name)}
        except LookupError as error:
            raise HTTPException(404, str(error.args[0])) from None
        return to_json({"history": courses})

    return Response(await server.threads.read(look), media_type="application/json")


# --- ask ---


async def _ask(
    server: State,
    name: str,
    send: Callable[[Run], Request],
    *,
    what: str | None = None,
    wait: float = 0.0,
    of: str | None = None,
) -> Response:
    """Send a request to a run, and answer with it.

    what: the name of the value that it sets, or of the function that it calls.
    of: the client, where it has to wait for its turn.
    """

    def ask() -> tuple[Request, dict[str, Any], bool]:
        run = _there(server, name)
        request = send(run)
        server.cache.keep(request, what)
        over = not run.status.live or run.status is SparkStatus.STOPPING
        over = over or (request.kind == "reload" and not Store(run.folder).reloadable)
        return request, server.cache.view(request), over

    if of is not None:
        await server.queue.take(name, of)
    try:
        request, view, over = await server.threads.ask(name, ask)
    except (ValueError, TypeError, OverflowError) as error:
        raise HTTPException(422, str(error)) from None
    server.poller.hurry()
    if view["fate"]["state"] == FateState.REFUSED:
        return _json({"error": view["fate"]["reason"], "request": view}, 409 if over else 422)
    return _json({"request": await _waited(server, request, view, wait)}, 202)


async def _waited(server: State, request: Request, view: dict[str, Any], wait: float) -> dict[str, Any]:
    """Return the request once its fate is final, or the time is up."""
    if view["fate"]["final"] or server.waiters >= _WAITERS:
        return view
    end = monotonic() + wait
    server.waiters += 1
    try:
        while not view["fate"]["final"] and not server.closing and (left := end - monotonic()) > 0:
            await asyncio.sleep(min(_MOMENT, left))
            view = await server.threads.read(lambda: server.cache.view(request))
    finally:
        server.waiters -= 1
    return view


@router.post("/runs/{run}/pause", status_code=202, response_model=models.Asked, responses=_ASKING)
async def pause(server: Server, run: str, body: models.Pause | None = None) -> Response:
    """Ask a run to park at its next checkpoint, or at a step."""
    said = body or models.Pause()
    return await _ask(
        server,
        run,
        lambda found: found.pause(wait=False, at_step=said.at_step, resume_after=said.resume_after),
    )


@router.post("/runs/{run}/resume", status_code=202, response_model=models.Asked, responses=_ASKING)
async def resume(server: Server, run: str, body: models.Nothing | None = None) -> Response:
    """Ask a paused run to go on, and cancel a pause that is set for later."""
    return await _ask(server, run, lambda found: found.resume(wait=False))


@router.post("/runs/{run}/stop", status_code=202, response_model=models.Asked, responses=_ASKING)
async def stop(server: Server, run: str, body: models.Nothing | None = None) -> Response:
    """Ask a run to stop at its next checkpoint."""
    return await _ask(server, run, lambda found: found.stop(wait=False))


@router.post("/runs/{run}/advance", status_code=202, response_model=models.Asked, responses=_ASKING)
async def advance(server: Server, run: str, body: models.Advance) -> Response:
    """Ask a run to do some more steps, and to park again."""
    return await _ask(server, run, lambda found: found.advance(body.steps, wait=False))


@router.post("/runs/{run}/reload", status_code=202, response_model=models.Asked, responses=_ASKING)
async def reload(server: Server, run: str, body: models.Reload | None = None) -> Response:
    """Ask a run to go on with new code. Code that does not compile is refused."""
    said = body or models.Reload()
    return await _ask(server, run, lambda found: found.reload(said.code, to=said.to, restart=said.restart, wait=False))


@router.post("/runs/{run}/reset", status_code=202, response_model=models.Asked, responses=_ASKING)
async def reset(server: Server, run: str, body: models.Reset | None = None) -> Response:
    """Ask for a fresh process in the place of the run's. The request that is returned is the stop of the old one."""
    grace = (body or models.Reset()).grace
    try:
        return await _ask(server, run, lambda found: ask_reset(found._connection, grace=grace))
    except ResetError as error:
        raise HTTPException(409, str(error)) from None


@router.put("/runs/{run}/values", status_code=202, response_model=models.Asked, responses=_ASKING)
async def set_values(server: Server, of: Client, run: str, body: models.SetValues) -> Response:
    """Ask a run to take several new values at its next checkpoint, all at one step, or none."""

    def send(found: Run) -> Request:
        there = found.values
        for name in body.values:
            if name not in there and not is_before_first_checkpoint(found._connection):
                raise HTTPException(404, unknown(name, "value", list(there)))
        return next(iter(found.set(body.values, wait=False).values()))

    return await _ask(server, run, send, what=", ".join(body.values), of=of)


@router.put("/runs/{run}/values/{name:path}", status_code=202, response_model=models.Asked, responses=_ASKING)
async def set_value(server: Server, of: Client, run: str, name: str, body: models.SetValue) -> Response:
    """Ask a run to take a new value at its next checkpoint."""

    def send(found: Run) -> Request:
        if name not in found.values and not is_before_first_checkpoint(found._connection):
            raise HTTPException(404, unknown(name, "value", list(found.values)))
        return found.set(name, body.value, wait=False)

    return await _ask(server, run, send, what=name, of=of)


@router.post("/runs/{run}/calls/{name:path}", status_code=202, response_model=models.Asked, responses=_ASKING)
async def call(server: Server, of: Client, run: str, name: str, body: models.Call | None = None) -> Response:
    """Ask a run to call a function at its next checkpoint. The request holds the result once its fate is final."""
    said = body or models.Call()

    def send(found: Run) -> Request:
        if name not in found.functions and not is_before_first_checkpoint(found._connection):
            raise HTTPException(404, unknown(name, "function", list(found.functions)))
        return found.request_call(name, said.args, said.kwargs, wait=False, ranks=said.ranks)

    return await _ask(server, run, send, what=name, wait=said.timeout, of=of)


@router.get("/runs/{run}/requests/{ident}", response_model=models.Asked, responses=_OF_A_RUN | _INVALID)
async def request(
    server: Server,
    run: str,
    ident: Annotated[str, Path(description="The request's id.")],
    wait: Annotated[
        float, Query(ge=0, le=30, allow_inf_nan=False, description="Seconds to wait for its fate to be final.")
    ] = 0.0,
) -> Response:
    """Show a request, with its fate."""

    def find() -> tuple[Request, dict[str, Any]]:
        _there(server, run)
        found = server.cache.request(run, ident)
        if found is None:
            raise HTTPException(404, f"run {run} knows of no request {ident}")
        return found, server.cache.view(found)

    found, view = await server.threads.read(find)
    return _json({"request": await _waited(server, found, view, wait)})


# --- journal, versions ---


@router.get("/runs/{run}/journal", response_model=models.Journal, responses=_OF_A_RUN)
async def journal_of(server: Server, run: str) -> Response:
    """List the requests that were applied to a run, each with its step."""

    def look() -> dict[str, Any]:
        path = journal.of_folder(_there(server, run).folder)
        if path is None or not journal.is_begun(path):
            return {"path": None if path is None else str(path), "lines": [], "torn": False, "loss": None}
        found = journal.read(path)
        lines = [found.header, *found.lines]
        return {"path": str(path), "lines": lines, "torn": found.torn, "loss": found.loss}

    return _json(await server.threads.read(look))


@router.get("/runs/{run}/versions", response_model=models.Versions, responses=_OF_A_RUN)
async def versions(server: Server, run: str) -> Response:
    """List the versions of a run's code, oldest first."""

    def look() -> dict[str, Any]:
        found = _there(server, run)
        store = Store(found.folder)
        known = store.versions()
        return {
            "current": found.version,
            "versions": [_version_view(store, old, new) for old, new in zip([None, *known], known, strict=False)],
        }

    return _json(await server.threads.read(look))


@router.get("/runs/{run}/versions/{number}", response_model=models.Code, responses=_OF_A_RUN | _INVALID)
async def version(server: Server, run: str, number: Annotated[int, Path(ge=1, lt=10**9)]) -> Response:
    """Show one version: its files, and how it differs from the one before."""

    def look() -> dict[str, Any]:
        store = Store(_there(server, run).folder)
        known = store.versions()
        at = next((at for at, each in enumerate(known) if each.number == number), None)
        if at is None:
            raise HTTPException(404, f"run {run} has no version {number}")
        old, new = known[at - 1] if at else None, known[at]
        entry, roots = _entry_and_roots(store)
        files = [
            {
                "path": path,
                "shown": relative(path, roots),
                "entry": path == entry,
                "source": decode(store.source(digest)),
            }
            for path, digest in sorted(store.with_loaded(new).files.items())
        ]
        changes = "" if old is None else diff(store, old, new)
        return _version_view(store, old, new) | {"files": files, "diff": changes}

    return _json(await server.threads.read(look))


def _version_view(store: Store, old: Version | None, new: Version) -> dict[str, Any]:
    _, roots = _entry_and_roots(store)
    return {
        "number": new.number,
        "made": new.made,
        "sender": new.sender,
        "note": new.note,
        "changed": [relative(path, roots) for path in store.changed(old, new)],
    }


def _entry_and_roots(store: Store) -> tuple[str | None, tuple[str, ...]]:
    try:
        about = store.about()
    except FileNotFoundError:  # the run has ended, or can't be reloaded any more
        return None, ()
    return about.entry, about.roots


# --- the rest ---


@router.post("/clean", response_model=models.Cleaned, responses=_INVALID | {400: _ASKING[400], 413: _ASKING[413]})
async def clean(server: Server, body: models.Nothing | None = None) -> Response:
    """Remove what ended runs left."""
    removed = await server.threads.ask("", client.remove_ended)
    server.poller.hurry()
    return _json({"removed": removed})
