"""The options of the runner."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["RunnerOptions"]


@dataclass(frozen=True)
class RunnerOptions:
    """The options of `spark-fast run`, without the script and its arguments.

    Attributes:
        name: the run id; None for SPARK_FAST_RUN, or a random one.
        reload_dirs: folders whose modules count as the project's code, beside those of the script and the working
            directory.
        journal: the file to write the journal to, None for the usual place.
        replay: the journal to replay, if one is.
        supervisor: the process id of the supervisor, None if there is none.
        safe_path: whether the script's folder is kept off the search path, as by Python's option -P; None: as this
            interpreter was started.
        watched: whether new code is reloaded as it is saved: then what a reload needs is loaded before the script
            begins.
        announce: a descriptor to which the run id is written, as one line, as soon as there is a run; then it is
            closed. None for no such line.
        journal_limit, stop_deadline, on_error, error_timeout: see configure(); None for its values.
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
