"""Metrics in the text format of Prometheus."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from spark_fast.client import Run
from spark_fast.errors import SparkError
from spark_fast.status import SparkStatus
from spark_fast.ui.api import ERRORS
from spark_fast.ui.polling import RANKS_MAX
from spark_fast.ui.state import Server

__all__ = ["router"]

router = APIRouter(responses=ERRORS)

_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_OF_RUN: dict[str, tuple[str, str]] = {
    "step": ("counter", "Checkpoints that the live rank that is furthest behind has passed."),
    "steps_per_second": ("gauge", "The speed now."),
    "started": ("gauge", "When the run began, in seconds since the epoch."),
    "memory": ("gauge", "Bytes that rank 0 has in memory."),
    "since_checkpoint": ("gauge", "Seconds for which the step is the same, as far as this server has seen it."),
}
_NAMES = {
    "step": "spark_fast_steps_total",
    "started": "spark_fast_start_time_seconds",
    "memory": "spark_fast_resident_memory_bytes",
    "since_checkpoint": "spark_fast_since_checkpoint_seconds",
}


@router.get(
    "/metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics"}},
)
async def metrics(server: Server) -> Response:
    """Return the live runs, their speed, and the numbers that they expose."""
    summaries = [each for each in await server.poller.summaries() if SparkStatus(each["status"]).live]
    values = await server.threads.read(lambda: [*_values(server.cache.run, summaries)])
    several = [each for each in summaries if each["world_size"] > 1 or each["local_world_size"] > 1]
    ages = {each["id"]: server.poller.since_checkpoints(each["id"]) for each in several}
    lines = [*_lines(summaries, values), *_lines_of_jobs(several), *_lines_of_ranks(several, ages), ""]
    return Response("\n".join(lines), media_type=_TYPE)


def _values(
    find: Callable[[str], Run | None], summaries: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, str, float]]:
    """Yield run, name and value of each exposed number."""
    for summary in summaries:
        try:
            run = find(summary["id"])
            values = run.values if run is not None else {}
            for value in values.values():
                if isinstance(value.value, (bool, int, float)):
                    yield summary["id"], value.name, float(value.value)
        except (SparkError, OSError):  # the run has just ended; the next collection leaves it out
            continue


def _lines(summaries: list[dict[str, Any]], values: list[tuple[str, str, float]]) -> Iterator[str]:
    yield from _head("spark_fast_run_status", "gauge", "1 for the status that the run has.")
    for each in summaries:
        yield _sample("spark_fast_run_status", {"run": each["id"], "status": each["status"]}, 1)
    for key, (kind, text) in _OF_RUN.items():
        name = _NAMES.get(key, f"spark_fast_{key}")
        yield from _head(name, kind, text)
        for each in summaries:
            if each[key] is not None:
                yield _sample(name, {"run": each["id"]}, each[key])
    yield from _head("spark_fast_progress_ratio", "gauge", "The part of the outermost track() loop that is done.")
    for each in summaries:
        if each["progress"] is not None and each["progress"]["fraction"] is not None:
            yield _sample("spark_fast_progress_ratio", {"run": each["id"]}, each["progress"]["fraction"])
    yield from _head("spark_fast_value", "gauge", "A number that the run exposes.")
    for run, name, value in values:
        yield _sample("spark_fast_value", {"run": run, "name": name}, value)


def _lines_of_jobs(several: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the metrics of a whole job, whatever the number of its ranks."""
    metrics: dict[str, tuple[str, Callable[[dict[str, Any]], float | None]]] = {
        "world_size": ("Ranks that the job has, on all hosts.", lambda each: each["world_size"]),
        "alive": ("Ranks that live.", lambda each: each["present"]["live"]),
        "unheard": (
            "Ranks of hosts that are not heard: whether they live is not known.",
            lambda each: sum(rank["status"] == SparkStatus.UNHEARD for rank in each["ranks"]),
        ),
        "overdue": (
            "Ranks that have not come to a request, though others have or there are no others.",
            lambda each: sum(rank["overdue"] > 0 for rank in each["ranks"]),
        ),
        "step_min": (
            "The lowest step of a live rank.",
            lambda each: min(_steps(each), default=None),
        ),
        "step_max": ("The highest step of a live rank.", lambda each: max(_steps(each), default=None)),
    }
    for key, (text, of) in metrics.items():
        name = f"spark_fast_ranks_{key}"
        yield from _head(name, "gauge", text)
        for each in several:
            if (value := of(each)) is not None:
                yield _sample(name, {"run": each["id"]}, value)


def _steps(summary: Mapping[str, Any]) -> list[int]:
    return [rank["step"] for rank in summary["ranks"] if SparkStatus(rank["status"]).live]


def _lines_of_ranks(several: list[dict[str, Any]], ages: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """Yield the metrics of each rank whose host is heard, for runs of RANKS_MAX ranks at most."""
    metrics: dict[str, tuple[str, Callable[[str, dict[str, Any]], float | None]]] = {
        "alive": ("1 for a rank that lives.", lambda _, rank: int(SparkStatus(rank["status"]).live)),
        "step": ("Checkpoints passed by a rank.", lambda _, rank: rank["step"]),
        "since_checkpoint_seconds": (
            "Seconds for which the step of a living rank is the same, as far as this server has seen it.",
            lambda run, rank: ages[run].get(rank["rank"]) if SparkStatus(rank["status"]).live else None,
        ),
    }
    for key, (text, of) in metrics.items():
        name = f"spark_fast_rank_{key}"
        yield from _head(name, "gauge", text)
        for each in several:
            for rank in each["ranks"] if len(each["ranks"]) <= RANKS_MAX else ():
                if rank["status"] != SparkStatus.UNHEARD and (value := of(each["id"], rank)) is not None:
                    yield _sample(name, {"run": each["id"], "rank": str(rank["rank"])}, value)


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{{{inside}}} {_number(value)}"


def _escaped(text: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
