"""Trainings in the workers of Ray Train, and in plain actors of Ray.

    from spark_fast.integrations import ray as spark_ray

    def train(config):                        # the function for TorchTrainer
        spark_ray.run(learn, config)          # its ranks are one run, with the experiment's name

Ray lets a worker process live on after its function has returned, and kills it some time later. So the process itself
does not show how the run ended. run() publishes that. If you only call configure(), the run is `lost` at its end.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

from spark_fast import stderr
from spark_fast.errors import first_stop, is_stop
from spark_fast.project.files import is_under
from spark_fast.runfiles import names
from spark_fast.worker import options, session
from spark_fast.worker.lifecycle.exit import end, state_after
from spark_fast.worker.runner import function

try:
    ray: Any = import_module("ray")
except ImportError as missing:
    raise ImportError("spark_fast.integrations.ray needs Ray, which is not here: pip install 'ray[train]'") from missing

from spark_fast.hosts.ray_rendezvous import meet

__all__ = ["configure", "run"]

Args = ParamSpec("Args")
Result = TypeVar("Result")

_configured = False


def configure(
    *,
    rank: int | None = None,
    world_size: int | None = None,
    job: str | None = None,
    timeout: float = 300.0,
    **others: Any,
) -> None:
    """Tell spark_fast where this worker stands in its job. Call it in each worker, before the first checkpoint.

    A worker of Ray Train needs no arguments: rank, world size and local rank come from Ray Train, and the run gets the
    experiment's name. Workers that Ray Train restarts after a failure get the same name. If neither you nor Ray Train
    nor a launcher gives a rank, the process is a run of its own.

    All ranks of a job of several nodes wait for each other here. So do all ranks if you started the actors yourself,
    since only then do they know which of them share a node. They don't if you also give `local_rank` and
    `local_world_size`, and these say that all ranks are on one node.

    Args:
        rank, world_size: this actor's rank, and how many actors the job has, for actors that you started yourself.
        job: a name that tells this job from others of the same driver at the same time; None if there is only one.
        timeout: seconds to wait for the other ranks. If they don't come in time, this worker warns, and is a run of its
            own.
        others: as for `spark_fast.configure()`.

    Raises:
        ValueError: an argument makes no sense.
        RuntimeError: the run has already begun.
    """
    global _configured
    context = _train_context() if rank is None and world_size is None else None
    if context is not None:
        rank, world_size = context.get_world_rank(), context.get_world_size()
        job = job or context.get_experiment_name()
        others.setdefault("local_rank", context.get_local_rank())
        others.setdefault("local_world_size", context.get_local_world_size())
        # Ray Train tells nodes apart by their addresses. Two nodes may be on one host.
        others.setdefault("job", _job_on(ray.util.get_node_ip_address(), job))
        if "run" not in others and options.current().run is None and names.valid(job or ""):
            others["run"] = job
    if rank is not None and world_size is not None and world_size > 1:
        _find_others(rank, world_size, job, timeout, others)
        others.setdefault("job", _job_on(ray.get_runtime_context().get_node_id(), job))
    if session.current.command is None:
        session.current.command = _title()
    options.configure(rank=rank, world_size=world_size, **others)
    _configured = True


def run(fn: Callable[Args, Result], *args: Args.args, **kwargs: Args.kwargs) -> Result | None:
    """Call `fn(*args, **kwargs)` as a worker of the run, again after each reload of the code. Return its result.

    Publishes how the run ended: `finished`, `stopped` or `failed`. Calls configure() if you have not. If `fn` lets a
    stop through, run() swallows it and returns None: Ray takes an exception for a failure, and would start all workers
    again. To tell a stop from a normal end, catch SparkStopError in `fn` and report it.

    Only code that is imported from the project's folders can be reloaded. Ray sends its workers the code of the
    driver's own script as it was.

    A process can call run() once. Raises what `fn` raises.
    """
    if not _configured:
        configure()
    failed: BaseException | None = None
    try:
        return function.run_hosted(_roots(), None, fn, args, kwargs)
    except BaseException as error:
        if is_stop(error):
            stderr.say(str(first_stop(error)))
            return None
        failed = error
        raise
    finally:
        end(state_after(failed))


def _find_others(rank: int, world_size: int, job: str | None, timeout: float, others: dict[str, Any]) -> None:
    """Add to `others` where the rank stands on its node, and set SPARK_FAST_STORE to where the job's nodes meet.

    If that can't be found out, make the rank a run of its own.
    """
    count = others.get("local_world_size") if others.get("local_rank") is not None else None
    if count is not None and count >= world_size:
        return
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {world_size}")
    about = ray.get_runtime_context()
    name = f"{about.get_job_id()}:{job or ''}"
    if count is None or not os.environ.get("SPARK_FAST_STORE"):
        try:
            store, nodes = meet(name, rank, world_size, timeout)
        except (ray.exceptions.RayError, TimeoutError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            stderr.warn(
                f"where the other workers are can't be told, for rank {rank} of {world_size}: {reason}. It is a run of "
                "its own"
            )
            others["ranks"] = False
            return
        if count is None:
            same = [each for each, node in enumerate(nodes) if node == about.get_node_id()]
            count = len(same)
            others |= {"local_rank": same.index(rank), "local_world_size": count}
        if count < world_size:
            os.environ.setdefault("SPARK_FAST_STORE", f"ray://{store}")
    if count < world_size and "run" not in others and options.current().run is None:
        others["run"] = names.of_job(name, 1)  # the same on each node


def _train_context() -> Any:
    """Return Ray Train's context; None if this process is none of its workers."""
    train = sys.modules.get("ray.train")  # its workers have imported it; elsewhere the import would take a second
    if train is None:
        return None
    try:
        return train.get_context()
    except RuntimeError:
        return None


def _job_on(node: str, job: str | None) -> str:
    """Return a name that the ranks of a job on one node have in common, and no others."""
    about = ray.get_runtime_context()
    return ":".join(("Ray", about.gcs_address, about.get_job_id(), job or "", node))


def _title() -> list[str] | None:
    """Return the name that Ray gives the process, such as `ray::Trainer`, since its command line tells nothing."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            title = file.read().split(b"\0")[0].decode(errors="replace").strip()
    except OSError:
        return None
    return [title] if title.startswith("ray::") else None


def _roots() -> list[str]:
    """Return the folders that hold the project's code: of those from which Ray's workers import, all but Ray's and
    Python's.

    Ray puts the driver's folders there, and those of the runtime environment.
    """
    ours = os.path.dirname(os.path.abspath(ray.__file__))
    library = os.path.dirname(os.path.abspath(os.__file__))
    found = [os.path.abspath(each or ".") for each in sys.path]
    return [each for each in found if os.path.isdir(each) and not is_under(each, ours) and not is_under(each, library)]
