"""A run as a dict, for JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spark_fast.client.connection import Connection
from spark_fast.client.snapshot import Snapshot, status_of_ranks, step_of_ranks
from spark_fast.status import Progress, Rank, trouble_of

if TYPE_CHECKING:
    from spark_fast.runfiles.run_error import RunError

__all__ = ["summarize"]


def summarize(
    connection: Connection,
    snapshot: Snapshot | None,
    ranks: list[Rank],
    error: "RunError | None",
    speed: float | None,
    now: float,
) -> dict[str, Any]:
    """Return what `spark-fast status --json` prints of a run."""
    info = connection.info
    return {
        "id": info.id,
        "status": str(status_of_ranks(ranks)),
        "error": None if error is None else asdict(error),
        "step": step_of_ranks(ranks),
        "steps_per_second": speed,
        "progress": None if snapshot is None else _progress(snapshot.progress(now)),
        "started": info.started,
        "ended": None if snapshot is None else snapshot.ended(),
        "command": list(info.command),
        "folder": str(connection.folder),
        "resumes": None if snapshot is None else snapshot.resumes(),
        "stop_by": None if snapshot is None else snapshot.stop_by(),
        "swallowed_stop": None if snapshot is None else snapshot.swallowed_stop(),
        "world_size": info.world_size,
        "local_world_size": 1 if snapshot is None else len(snapshot.slots),
        "ranks": [_rank(rank, speed) for rank in ranks],
    }


def _progress(progress: Progress | None) -> dict[str, Any] | None:
    if progress is None:
        return None
    return {"loops": progress.loops, "fraction": progress.fraction, "seconds_left": progress.seconds_left}


def _rank(rank: Rank, speed: float | None) -> dict[str, Any]:
    return {
        "rank": rank.rank,
        "status": str(rank.status),
        "step": rank.step,
        "pid": rank.pid,
        "host": rank.host,
        "since": rank.since,
        "behind": rank.behind,
        "overdue": float(int(rank.overdue)),
        "trouble": trouble_of(rank, speed),
    }
