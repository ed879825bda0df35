"""The runner's options."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["RunnerOptions"]


@dataclass(frozen=True)
class RunnerOptions:
    """The options of `spark-fast run`, without the script and its arguments.

    Attributes:
        name: the run id; None for SPARK_FAST_RUN, or a random one.
        reload_dirs: further folders whose modules count as the project's code. The script's folder and the working
            directory always do.
        journal: the journal's file; None for the usual place.
        replay: the journal to replay; None for none.
        supervisor: the process id of the supervisor; None if there is none.
        safe_path: whether the script's folder is kept off the search path, as by Python's option -P; None: as this
            interpreter was started.
        watched: whether code is reloaded when it is saved. If so, the modules that a reload needs are loaded before the
            script begins.
        announce: a descriptor to which the run id is written, as one line, as soon as the run exists, and which is then
            closed; None for no such line.
        journal_limit, stop_deadline, on_error, error_timeout: see configure(), whose values hold for None.
    """

    name: str | None = None
    reload_dirs: tuple[str, ...] = ()
    journal: str | None = None
    replay: str | None = None
    supervisor: int | None = None
    safe_path: bool | None = None
    watched: bool = False
    announce: int | None = None
    journal_limit: str | None = None
    stop_deadline: float | None = None
    on_error: Literal["park", "exit"] | None = None
    error_timeout: float | None = None
