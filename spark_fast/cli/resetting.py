"""`spark-fast reset`: replaces a run's process by a fresh one."""

from spark_fast import client
from spark_fast.cli.exits import Exit, leave
from spark_fast.cli.formatting import latency
from spark_fast.runfiles.json_text import to_json
from spark_fast.status import SparkStatus, monotonic

__all__ = ["reset"]


def reset(run: str | None, *, grace: float, timeout: float | None, as_json: bool) -> None:
    """Replace the process of a run, wait for its fresh worker, and print its status.

    Raises typer.Exit with a status of `Exit` if the fresh worker has failed or is lost, or on Ctrl-C.
    """
    began = monotonic()
    try:
        fresh = client.reset_worker(run, grace=grace, timeout=timeout)
    except KeyboardInterrupt:
        raise leave(Exit.INTERRUPTED, "no longer waiting; the reset stands") from None
    took = monotonic() - began
    status = fresh.status
    if as_json:
        print(to_json(fresh.as_dict(), indent=2))
    if status in (SparkStatus.FAILED, SparkStatus.LOST):
        raise leave(Exit.REFUSED, f"run {fresh.id} was reset, and its fresh worker is {status}: see its own output")
    if not as_json:
        (rank, *_) = fresh.ranks
        print(f"run {fresh.id} has a fresh worker, process {rank.pid}: it is {status} (after {latency(took)})")
