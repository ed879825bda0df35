"""Refuses a reload that would start the training over, and warns if parts of the training begin again."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spark_fast._core import worker
from spark_fast.errors import CodeRefusedError
from spark_fast.worker import options
from spark_fast.worker.reload.error_park import ErrorPark
from spark_fast.worker.reload.modules import Project
from spark_fast.worker.state import loops, persist

if TYPE_CHECKING:
    from spark_fast.worker.reload.transaction import Transaction

__all__ = ["check", "ended"]


def check(
    transaction: "Transaction", project: Project, park: ErrorPark, roots: Sequence[str], *, thread: int, anew: bool
) -> None:
    """Add a warning to the transaction for each part of the training that begins again.

    roots: the folders relative to which paths are shown.
    thread: the thread that runs the script.
    anew: whether the script is executed again, which makes its top-level objects anew.

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
    from spark_fast.worker.reload import restarts  # several modules, which only a reload needs

    modules = list(project.modules.values())
    transaction.warnings += restarts.find(modules, kept.values(), roots, error=park.error)
    passed, begin_again = ended(project, park)
    transaction.warnings += restarts.of_ended(loops.ended_loops, passed, begin_again, modules, kept.values(), roots)
    sources = {module.path: module.source for module in modules}
    after = {**sources, **transaction.sources}
    keys = [*loops.living(thread), *park.keys]
    transaction.warnings += restarts.lost_keys(keys, sources.values(), after.values())


def ended(project: Project, park: ErrorPark) -> tuple[list[str], list[str]]:
    """Return the keys of outermost loops that have ended: those that are passed over, and those that begin again.

    A loop is passed over only if a value is persisted. Without one, the result of the loop's training is lost.
    """
    sources = {module.path: module.source for module in list(project.modules.values())}
    passed, begin_again = loops.ended_loops.find(sources, loops.kept() + park.keys)
    return (passed, begin_again) if persist.current.snapshot() else ([], [*passed, *begin_again])
