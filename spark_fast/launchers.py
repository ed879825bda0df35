"""The rank of this process in a job of several processes, from its launcher's environment variables.

Each supported launcher is a row of LAUNCHERS. With any other, the user calls `configure(rank=…, world_size=…)`.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from spark_fast.runfiles import names

__all__ = ["LAUNCHERS", "Launcher", "RankInfo", "ancestors", "checked", "job_of_parent", "leads", "read"]


@dataclass(frozen=True)
class RankInfo:
    """The rank of a process in its job, with the sizes of the job."""

    launcher: str
    """The source of the rank: a name of LAUNCHERS, or "configure()"."""
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    job: str
    """The name of the job. All its ranks on this host have it, and no other job that lives there."""
    generation: int = 0
    """How often an elastic launcher, or a scheduler, has started the job again."""
    everywhere: str = ""
    """A name of the job that is the same on all hosts; equal to `job` if there is none."""


Environment = Mapping[str, str]


@dataclass(frozen=True)
class Launcher:
    """The environment variables that a launcher sets for its processes. Of several, the first that is set counts.

    signs: variables that are set only if this launcher is the innermost one.
    job: sets of variables that together name the job; the first complete set counts.
    denied: returns whether the variables are set but do not apply to this process.
    """

    name: str
    rank: str
    world_size: str
    local_rank: tuple[str, ...] | Callable[[Environment], str]
    local_world_size: tuple[str, ...] | Callable[[Environment], str]
    job: tuple[tuple[str, ...], ...]
    restarts: tuple[str, ...] = ()
    signs: tuple[str, ...] = ()
    denied: Callable[[Environment], bool] = lambda environ: False


def _torchrun_local_rank(environ: Environment) -> str:
    """Return the local rank. It is not always LOCAL_RANK: with --virtual-local-rank that is 0 in each process."""
    texts = [environ.get(name, "") for name in ("RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "WORLD_SIZE")]
    if all(map(_NUMBER.fullmatch, texts)):
        rank, here, hosts, everywhere = map(int, texts)
        if here and here * hosts == everywhere:  # each host has equally many ranks, with consecutive numbers
            return str(rank % here)
    return environ.get("LOCAL_RANK", "")


def _tasks_here(environ: Environment) -> str:
    """Return the number of tasks on this node. Slurm writes `2(x3),1` for two tasks on each of three nodes and one on a
    fourth."""
    text, node = environ.get("SLURM_STEP_TASKS_PER_NODE", ""), environ.get("SLURM_NODEID", "")
    if not text or not node:
        return ""
    left = _number(node, "SLURM_NODEID")
    for part in text.split(","):
        found = re.fullmatch(r"(\d{1,9})(?:\(x(\d{1,9})\))?", part.strip(), re.ASCII)
        if found is None:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text!r} is not understood")
        left -= int(found[2] or 1)
        if left < 0:
            return found[1]
    raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text!r} has no node {node}")


def _no_srun(environ: Environment) -> bool:
    """Return whether this is the script of sbatch or the shell of salloc: a single process, for any number of tasks."""
    step = environ.get("SLURM_STEP_ID", "")
    # Numbers from 0xfffffff0 on are not steps of srun: 0xfffffffb is the script, 0xfffffffa the shell.
    return not _NUMBER.fullmatch(step) or int(step) >= 0xFFFFFFF0


_OF_A_HOST = ("GROUP_RANK", "SLURM_NODEID")
"""Variables that number the hosts of a job."""

_NUMBER = re.compile(r"\d{1,10}", re.ASCII)

# The innermost launcher first: srun starts torchrun, sbatch starts mpirun, Ray's workers live in a step of srun, and
# each passes its variables on to the processes below. Many programs set PyTorch's variables, and the script itself may
# set them last. Open MPI and MPICH start their daemons with srun, so Slurm's variables are set, too, but describe the
# daemons.
LAUNCHERS = (
    Launcher(
        "torchrun",
        rank="RANK",
        world_size="WORLD_SIZE",
        local_rank=_torchrun_local_rank,
        local_world_size=("LOCAL_WORLD_SIZE",),
        # GROUP_RANK numbers the agents: two agents on one host, each with a local rank 0, count as two hosts. The port
        # comes second, since it may change with a restart.
        job=(("TORCHELASTIC_RUN_ID", "GROUP_RANK"), ("MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")),
        restarts=("TORCHELASTIC_RESTART_COUNT",),
        signs=("TORCHELASTIC_RUN_ID",),
    ),
    Launcher(  # DeepSpeed, Accelerate, Ray Train, Lightning, and the user's own scripts
        "PyTorch's environment",
        rank="RANK",
        world_size="WORLD_SIZE",
        local_rank=("LOCAL_RANK",),
        local_world_size=("LOCAL_WORLD_SIZE", "LOCAL_SIZE"),
        job=(("MASTER_ADDR", "MASTER_PORT"),),
    ),
    Launcher(
        "Open MPI",
        rank="OMPI_COMM_WORLD_RANK",
        world_size="OMPI_COMM_WORLD_SIZE",
        local_rank=("OMPI_COMM_WORLD_LOCAL_RANK",),
        local_world_size=("OMPI_COMM_WORLD_LOCAL_SIZE",),
        job=(("PMIX_NAMESPACE",), ("OMPI_MCA_ess_base_jobid",)),
    ),
    Launcher(  # also Intel MPI, the only one of them that names the job
        "MPICH",
        rank="PMI_RANK",
        world_size="PMI_SIZE",
        local_rank=("MPI_LOCALRANKID",),
        local_world_size=("MPI_LOCALNRANKS",),
        job=(("I_MPI_HYDRA_UUID",),),
        signs=("MPI_LOCALRANKID",),  # srun --mpi=pmi2 sets the other variables, too
    ),
    Launcher(
        "Slurm",
        rank="SLURM_PROCID",
        world_size="SLURM_STEP_NUM_TASKS",  # SLURM_NTASKS is the number that sbatch was asked for
        local_rank=("SLURM_LOCALID",),
        local_world_size=_tasks_here,
        job=(("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NODEID"),),
        restarts=("SLURM_RESTART_COUNT",),
        signs=("SLURM_STEP_ID",),
        denied=_no_srun,
    ),
)


def read(environ: Environment = os.environ, parent: str | None = None) -> RankInfo | None:
    """Return the rank that the launcher gives this process; None without a known launcher, or for a single process.

    parent: a name for the process that started all ranks of this host, which names the job if no variable does; None to
        look for that process.

    Raises ValueError if the launcher's variables contradict each other.
    """
    rows = [row for row in LAUNCHERS if _speaks(row, environ)]
    return _read(rows, environ, parent) if rows else None


def leads(environ: Environment = os.environ) -> bool:
    """Return whether this process, or the worker that it starts, is rank 0 of its job or the only process.

    If the variables contradict each other, this process counts as the only one, and the worker warns.
    """
    if environ.get("SPARK_FAST_RANKS", "1").lower() in names.OFF or environ.get("SPARK_FAST_WORLD_SIZE") == "1":
        return True
    chosen = environ.get("SPARK_FAST_RANK")
    try:
        if chosen:
            return int(chosen) == 0
        found = read(environ)
    except ValueError:
        return True
    return found is None or found.rank == 0


def _speaks(row: Launcher, environ: Environment) -> bool:
    return all(environ.get(name) for name in (row.rank, row.world_size, *row.signs)) and not row.denied(environ)


def _read(rows: list[Launcher], environ: Environment, parent: str | None) -> RankInfo | None:
    row = rows[0]
    rank = _number(environ[row.rank], row.rank)
    world_size = _number(environ[row.world_size], row.world_size)
    if world_size == 1 and rank == 0:
        return None
    local_rank = local_world_size = None
    for each in rows:
        # A script under srun or mpirun may set only RANK and WORLD_SIZE for PyTorch. The outer launcher then gives the
        # local rank.
        if environ[each.rank] != environ[row.rank] or environ[each.world_size] != environ[row.world_size]:
            continue
        if local_rank is None:
            local_rank = _value(each, "the local rank", each.local_rank, environ)
        if local_world_size is None:
            local_world_size = _value(each, "the local world size", each.local_world_size, environ)
    restarts = _value(row, "the restart count", row.restarts, environ) or 0
    job = parent and f"{row.name}:{parent}"
    everywhere = ""
    for variables in row.job:
        values = [environ.get(name, "") for name in variables]
        if all(values) and values[0] != "none":  # torchrun names a job "none" if it has no name
            job = ":".join([row.name, *values])
            everywhere = ":".join([row.name, *(environ[each] for each in variables if each not in _OF_A_HOST)])
            break
    job = job or job_of_parent(row.name, row.rank, environ)
    place = checked(row.name, rank, world_size, local_rank, local_world_size, job, restarts)
    return replace(place, everywhere=everywhere)


def checked(
    name: str, rank: int, world_size: int, local_rank: int | None, local_world_size: int | None, job: str, restarts: int
) -> RankInfo:
    """Check the rank and return it. Without local numbers, all ranks count as being on this host.

    Raises ValueError if a number is out of range.
    """
    if local_rank is None:
        local_rank, local_world_size = rank, world_size
    elif local_world_size is None:
        local_world_size = world_size
    if not 0 <= rank < world_size:
        raise ValueError(f"{name} says rank {rank} of {world_size}")
    if not 0 <= local_rank < local_world_size <= world_size:
        raise ValueError(f"{name} says local rank {local_rank} of {local_world_size}, and {world_size} in all")
    return RankInfo(name, rank, world_size, local_rank, local_world_size, job, restarts)


def _value(
    row: Launcher, what: str, variables: tuple[str, ...] | Callable[[Environment], str], environ: Environment
) -> int | None:
    if callable(variables):
        text, what = variables(environ), f"{what} of {row.name}"
    else:
        what = next((name for name in variables if environ.get(name)), what)
        text = environ.get(what, "")
    return _number(text, what) if text else None


def _number(text: str, what: str) -> int:
    if not _NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{what}={text!r} is not a number")
    return int(text)


def job_of_parent(name: str, rank: str, environ: Environment) -> str:
    """Return a name of the job that is made from the process that started all ranks of this host.

    That process is the nearest ancestor that does not belong to one rank alone. A shell, a supervisor or `numactl`
    between the launcher and this process belongs to one rank.
    """
    mine = f"{rank}={environ.get(rank, '')}".encode()
    pid = os.getppid()
    while pid > 0:
        start = parent = 0
        try:
            parent, start = _parent_and_start(pid)
            with open(f"/proc/{pid}/environ", "rb") as file:
                within = mine in file.read().split(b"\0")
        except OSError:  # no /proc, or another user's process, which does not belong to this rank
            break
        if not within:
            break
        pid = parent
    if pid <= 0:
        raise ValueError(f"{name} does not name the job, and the process that started it is not to be seen from here")
    return f"{name}:{pid}:{start or ''}"


def ancestors() -> Iterator[int]:
    """Yield the ancestors of this process, the nearest first, as far as /proc shows them."""
    try:
        pid, youngest = _parent_and_start(os.getpid())
        while pid > 0:
            parent, start = _parent_and_start(pid)
            if start > youngest:
                return  # the parent has just ended, and another process has its id
            yield pid
            pid, youngest = parent, start
    except OSError:
        return


def _parent_and_start(pid: int) -> tuple[int, int]:
    """Return a process's parent and its own start, in ticks since the boot. Raises OSError if /proc lacks it."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        # After the name, which may hold anything: the state, the parent, …, and as the 22nd field the start.
        fields = file.read().rpartition(b")")[2].split()
    return int(fields[1]), int(fields[19])
