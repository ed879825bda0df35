"""Trainings in the workers of Ray Train, and in plain actors of Ray.

    from spark_fast.integrations import ray as spark_ray

    def train(config):                        # what is given to TorchTrainer
        spark_ray.run(learn, config)          # its ranks are one run, called as the experiment is

A worker process of Ray lives on when its function has returned, and is killed some time later, so that nothing tells
how the run ended. run() does; who calls configure() alone has a run that is `lost` at its end.
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
    """Tells spark_fast where this worker stands in its job. Before the first checkpoint, in each worker.

    In a worker of Ray Train nothing needs to be said: rank, world size, local rank and the experiment's name, which
    becomes the run's, are Ray Train's. The workers that Ray Train starts again after a failure have the run's name
    again. Where neither Ray Train nor anybody else says a rank, the process is a run of its own.

    All ranks of a job of several nodes wait for each other here. So they do where one started the actors oneself,
    since only then it is known which of them share a node; but not where `local_rank` and `local_world_size` are given
    too and say that all are on one.

    Args:
        rank, world_size: which of how many actors of one job this is, for actors that one started oneself.
        job: what tells this job from others that the same driver has at the same time; None if there is one only.
        timeout: how many seconds to wait for the others. If they don't come in time, a warning says so, and this
            worker is a run of its own.
        others: as for `spark_fast.configure()`.

    Raises:
        ValueError: a value makes no sense.
        RuntimeError: it comes too late, the run has begun.
    """
    global _configured
    context = _train_context() if rank is None and world_size is None else None
    if context is not None:
        rank, world_size = context.get_world_rank(), context.get_world_size()
        job = job or context.get_experiment_name()
        others.setdefault("local_rank", context.get_local_rank())
        others.setdefault("local_world_size", context.get_local_world_size())
        # By addresses Ray Train tells nodes apart, of which two may be on one host.
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
    """Calls `fn(*args, **kwargs)` as a worker of the run, again after each reload of the code, and publishes how that
    ended: `finished`, `stopped` or `failed`. Returns what it returned.

    Calls configure() if nobody has. A stop that `fn` lets through is swallowed, and None returned: to Ray an exception
    is a failure, upon which it would start all workers again. A stop that is to be told from the end has `fn` catch
    SparkStopError and report.

    Only what is imported from the project's folders can be reloaded. What the driver's own script holds, Ray sends to
    its workers as it was.

    One run in the life of a process; what it raises is what `fn` raises.
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
    """Adds to what is configured where the rank stands among those of its node, and where the job's nodes meet; if that
    can't be told, that it is a run of its own."""
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
    """Ray Train's context; None in a process that is none of its workers."""
    train = sys.modules.get("ray.train")  # its workers have imported it; elsewhere that would take a second
    if train is None:
        return None
    try:
        return train.get_context()
    except RuntimeError:
        return None


def _job_on(node: str, job: str | None) -> str:
    """What the ranks on a node have in common, and no others."""
    about = ray.get_runtime_context()
    return ":".join(("Ray", about.gcs_address, about.get_job_id(), job or "", node))


def _title() -> list[str] | None:
    """What the process is called by Ray, as `ray::Trainer`. Its command line says nothing of what it runs."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            title = file.read().split(b"\0")[0].decode(errors="replace").strip()
    except OSError:
        return None
    return [title] if title.startswith("ray::") else None


def _roots() -> list[str]:
    """The folders that hold the project's code: Ray puts the driver's, and those of the runtime environment, among the
    folders from which its workers import."""
    ours = os.path.dirname(os.path.abspath(ray.__file__))
    library = os.path.dirname(os.path.abspath(os.__file__))
    found = [os.path.abspath(each or ".") for each in sys.path]
    return [each for each in found if os.path.isdir(each) and not is_under(each, ours) and not is_under(each, library)]
