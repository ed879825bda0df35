"""The routes below /api, but for the stream."""

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from spark_fast import client, journal, names
from spark_fast.client import FateState, Request, Run, SparkStatus
from spark_fast.client.diffs import diff
from spark_fast.client.reset import ask_reset
from spark_fast.code_versions import Store, Version
from spark_fast.errors import ResetError
from spark_fast.project_files import relative
from spark_fast.sources import decode
from spark_fast.status import monotonic
from spark_fast.ui.detail import Parts
from spark_fast.ui.state import Server, State
from spark_fast.ui.views import request_view, to_json

__all__ = ["router"]

router = APIRouter(prefix="/api")


def _json(content: object, status: int = 200) -> Response:
    return Response(to_json(content), status, media_type="application/json")


def _there(server: State, name: str) -> Run:
    found = server.sent.run(name) if names.valid(name) else None
    if found is None:
        raise HTTPException(404, f"there is no run {name}")
    return found


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


# --- look ---


@router.get("/runs")
async def runs(server: Server) -> Response:
    """All runs, live or ended."""
    return _json({"runs": await server.poller.summaries(), "error": server.poller.error})


@router.get("/runs/{run}")
async def run(server: Server, run: str) -> Response:
    """One run in full."""
    summary = await server.poller.summary(run)

    def look() -> dict[str, Any]:
        return Parts(_there(server, run)).look()

    found = await server.threads.read(look)
    extra = {name: (summary or {}).get(name) for name in ("memory", "since_checkpoint")}
    return _json(found | extra)


# --- ask ---


async def _ask(server: State, name: str, send: Callable[[Run], Request]) -> Response:
    def ask() -> tuple[Request, dict[str, Any], bool]:
        run = _there(server, name)
        request = send(run)
        server.sent.keep(request)
        over = not run.status.live or run.status is SparkStatus.STOPPING
        return request, request_view(request), over

    try:
        request, view, over = await server.threads.ask(name, ask)
    except (ValueError, OverflowError) as error:
        raise HTTPException(422, str(error)) from None
    server.poller.hurry()
    if request.fate.state is FateState.REFUSED:
        return _json({"error": request.fate.reason, "request": view}, 409 if over else 422)
    return _json({"request": view}, 202)


_STEPS_MAX = (1 << 62) - 1


class Pause(_Body):
    """What a pause may say."""

    at_step: Annotated[int | None, Field(ge=1, le=_STEPS_MAX)] = None
    resume_after: Annotated[float | None, Field(gt=0, lt=4e9, allow_inf_nan=False)] = None


class Advance(_Body):
    """What an advance says."""

    steps: Annotated[int, Field(ge=1, le=_STEPS_MAX)]


class Nothing(_Body):
    """A request that says nothing more."""


class Reload(_Body):
    """What a reload may say."""

    code: str | None = None
    to: Annotated[int | None, Field(ge=1, lt=10**9)] = None


class Reset(_Body):
    """What a reset may say."""

    grace: Annotated[float, Field(ge=0, lt=4e9, allow_inf_nan=False)] = 30.0


@router.post("/runs/{run}/pause", status_code=202)
async def pause(server: Server, run: str, body: Pause | None = None) -> Response:
    """Asks a run to park at its next checkpoint, or at a step."""
    said = body or Pause()
    return await _ask(
        server,
        run,
        lambda found: found.pause(wait=False, at_step=said.at_step, resume_after=said.resume_after),
    )


@router.post("/runs/{run}/resume", status_code=202)
async def resume(server: Server, run: str, body: Nothing | None = None) -> Response:
    """Asks a paused run to go on."""
    return await _ask(server, run, lambda found: found.resume(wait=False))


@router.post("/runs/{run}/stop", status_code=202)
async def stop(server: Server, run: str, body: Nothing | None = None) -> Response:
    """Asks a run to stop."""
    return await _ask(server, run, lambda found: found.stop(wait=False))


@router.post("/runs/{run}/advance", status_code=202)
async def advance(server: Server, run: str, body: Advance) -> Response:
    """Asks a run to do so many more steps, and to park."""
    return await _ask(server, run, lambda found: found.advance(body.steps, wait=False))


@router.post("/runs/{run}/reload", status_code=202)
async def reload(server: Server, run: str, body: Reload | None = None) -> Response:
    """Asks a run to go on with new code."""
    said = body or Reload()
    if said.code is not None and said.to is not None:
        raise HTTPException(422, "code and to exclude each other")
    return await _ask(server, run, lambda found: found.reload(said.code, to=said.to, wait=False))


@router.post("/runs/{run}/reset", status_code=202)
async def reset(server: Server, run: str, body: Reset | None = None) -> Response:
    """Asks for a fresh process in the place of the run's."""
    grace = (body or Reset()).grace
    try:
        return await _ask(server, run, lambda found: ask_reset(found, grace=grace))
    except ResetError as error:
        raise HTTPException(409, str(error)) from None


@router.get("/runs/{run}/requests/{ident}")
async def request(
    server: Server, run: str, ident: str, wait: Annotated[float, Query(ge=0, le=30, allow_inf_nan=False)] = 0.0
) -> Response:
    """What became of a request; with `wait`, waits so many seconds for its fate to be final."""

    def find() -> tuple[Request | None, dict[str, Any] | None]:
        _there(server, run)
        found = server.sent.request(run, ident)
        return found, None if found is None else request_view(found)

    end = monotonic() + wait
    found, view = await server.threads.read(find)
    if found is None or view is None:
        raise HTTPException(404, f"run {run} knows of no request {ident}")
    while not view["fate"]["final"] and not server.closing and (left := end - monotonic()) > 0:
        await asyncio.sleep(min(0.05, left))
        view = await server.threads.read(lambda: request_view(found))
    return _json({"request": view})


# --- journal, versions ---


@router.get("/runs/{run}/journal")
async def journal_of(server: Server, run: str) -> Response:
    """What was applied to a run, at which step."""

    def look() -> dict[str, Any]:
        path = journal.of_folder(_there(server, run).folder)
        if path is None or not path.exists():
            return {"path": None if path is None else str(path), "lines": [], "torn": False}
        found = journal.read(path)
        return {"path": str(path), "lines": [found.header, *found.lines], "torn": found.torn}

    return _json(await server.threads.read(look))


@router.get("/runs/{run}/versions")
async def versions(server: Server, run: str) -> Response:
    """The versions of a run's code, oldest first."""

    def look() -> dict[str, Any]:
        found = _there(server, run)
        store = Store(found.folder)
        all_of_them = store.versions()
        before = [None, *all_of_them]
        return {
            "current": found.version,
            "versions": [_version_view(store, old, new) for old, new in zip(before, all_of_them, strict=False)],
        }

    return _json(await server.threads.read(look))


def _roots(store: Store) -> tuple[str, ...]:
    try:
        return store.about().roots
    except FileNotFoundError:
        return ()


def _version_view(store: Store, old: Version | None, new: Version) -> dict[str, Any]:
    roots = _roots(store)
    return {
        "number": new.number,
        "made": new.made,
        "sender": new.sender,
        "note": new.note,
        "changed": [relative(path, roots) for path in store.changed(old, new)],
    }


@router.get("/runs/{run}/versions/{number}")
async def version(server: Server, run: str, number: int) -> Response:
    """One version: its files, and what changed from the one before."""

    def look() -> dict[str, Any]:
        store = Store(_there(server, run).folder)
        known = {each.number: each for each in store.versions()}
        if number not in known:
            raise HTTPException(404, f"run {run} has no version {number}")
        new, old = known[number], known.get(number - 1)
        roots = _roots(store)
        try:
            entry = store.about().entry
        except FileNotFoundError:
            entry = None
        files = [
            {
                "path": path,
                "shown": relative(path, roots),
                "entry": path == entry,
                "source": decode(store.source(digest)),
            }
            for path, digest in sorted(store.with_loaded(new).files.items())
        ]
        return _version_view(store, old, new) | {
            "files": files,
            "diff": "" if old is None else diff(store, old, new),
        }

    return _json(await server.threads.read(look))


# --- the rest ---


@router.post("/clean")
async def clean(server: Server, body: Nothing | None = None) -> Response:
    """Removes what ended runs left."""
    removed = await server.threads.ask("", client.remove_ended)
    server.poller.hurry()
    return _json({"removed": removed})
