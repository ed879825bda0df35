"""The rank of this process in its job, from its launcher or from `configure()`."""

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from spark_fast import stderr
from spark_fast.launchers import LAUNCHERS, Environment, Launcher, RankInfo, checked, job_of_parent, read

if TYPE_CHECKING:
    from spark_fast.worker.options import Options

__all__ = ["LAUNCHERS", "Launcher", "RankInfo", "find", "place"]


def find(environ: Environment = os.environ, parent: str | None = None) -> RankInfo | None:
    """Return the rank that the launcher gives, as read(). If it is invalid, warn and return None."""
    try:
        return read(environ, parent)
    except ValueError as error:
        _warn(error)
        return None


def place(options: "Options") -> RankInfo | None:
    """Return the rank, from configure() and, for what it leaves out, from the launcher; None for a single process."""
    if not options.ranks:
        return None
    if options.world_size == 1:
        return None
    found = find()
    rank, local_rank = options.rank, options.local_rank
    world_size, local_world_size = options.world_size, options.local_world_size
    if found is None and rank is None and world_size is None:
        return None
    name, job = "configure()", options.job
    if found is not None:
        job = job or found.job
        if rank in (None, found.rank) and world_size in (None, found.world_size):
            name, rank, world_size = found.launcher, found.rank, found.world_size
            local_rank = found.local_rank if local_rank is None else local_rank
            local_world_size = found.local_world_size if local_world_size is None else local_world_size
    try:
        if rank is None or world_size is None:
            raise ValueError("configure() needs both rank and world_size where no launcher says them")
        job = job or job_of_parent(name, "SPARK_FAST_RANK", os.environ)
        generation = found.generation if found is not None else 0
        where = checked(name, rank, world_size, local_rank, local_world_size, job, generation)
        return replace(where, everywhere=options.job or (found.everywhere if found is not None else ""))
    except ValueError as error:
        _warn(error)
        return None


def _warn(error: ValueError) -> None:
    stderr.warn(f"which rank this process is can't be told: {error}. It is a run of its own")
