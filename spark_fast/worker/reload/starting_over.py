"""Whether a reload starts the training over, and what of it begins anew."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spark_fast._core import worker
from spark_fast.errors import CodeRefusedError
from spark_fast.worker import options
from spark_fast.worker.reload.error_park import ErrorPark
from spark_fast.worker.reload.modules import Project
from spark_fast.worker.state import ended_loops, loops, persist

if TYPE_CHECKING:
    from spark_fast.worker.reload.transaction import Transaction

__all__ = ["ended", "look"]


def look(
    transaction: "Transaction", project: Project, park: ErrorPark, roots: Sequence[str], *, thread: int, anew: bool
) -> None:
    """Adds warnings to the transaction for what it begins anew.

    roots: the folders below which paths are shown in short.
    thread: the one that runs the script.
    anew: whether the script is executed once more, and with it what it makes at its top level.

    Raises CodeRefusedError if the whole training would start over.
    """
    kept = persist.current.snapshot()
    in_loops = park.has_places or bool(loops.living(thread))
    if not in_loops and not kept and anew and worker.step() > options.current().stride:
        raise CodeRefusedError(
            "none of the loops that are running has a key, and nothing is persisted: the new code would start the "
            'training over. Give a loop a key, spark.track(…, key="batch"), and keep the model with '
            "spark.persist(); or start over on purpose with --restart"
        )
    from spark_fast.worker.reload import restarts  # it loads ast

    modules = list(project.modules.values())
    transaction.warnings += restarts.find(modules, kept.values(), roots, error=park.error)
    passed, begin_anew = ended(project, park)
    transaction.warnings += restarts.of_ended(passed, begin_anew, modules, kept.values(), roots)
    sources = {module.path: module.source for module in modules}
    after = {**sources, **transaction.sources}
    keys = [*loops.living(thread), *park.keys]
    transaction.warnings += restarts.lost_keys(keys, sources.values(), after.values())


def ended(project: Project, park: ErrorPark) -> tuple[list[str], list[str]]:
    """The keys of outermost loops that have ended: those that are passed over, and those that begin anew.

    A loop is passed over only if something is persisted: without it, there is nothing that the loop has trained.
    """
    sources = {module.path: module.source for module in list(project.modules.values())}
    passed, anew = ended_loops.find(sources, loops.kept() + park.keys)
    return (passed, anew) if persist.current.snapshot() else ([], [*passed, *anew])
