"""A stop that this process raises alone, because it can't ask through the run's log or the other hosts."""

import time

from spark_fast import stderr
from spark_fast._core import worker
from spark_fast.request import format_id
from spark_fast.runfiles import run_folder
from spark_fast.worker import session
from spark_fast.worker.lifecycle.hosts import is_decided, refusal
from spark_fast.worker.session import Reason

__all__ = ["LocalStop"]

_LOOK = 0.1
"""Seconds between two checks of the state of a stop that the hosts were asked for."""


class LocalStop:
    """The stop of this process alone, and the stop that the hosts were asked for and have not answered yet."""

    def __init__(self) -> None:
        self._raised: tuple[str, str] | None = None
        """The id and the sender of the stop that this process raises alone."""
        self._asked: tuple[int, str, float] | None = None
        """The stop that a signal asked all hosts for: its id, its sender, and the end of the wait for it."""
        self._looked = 0.0

    def stop(self, sender: str) -> None:
        """Have this process's next checkpoint raise SparkStopError.

        Takes no lock, so that Python's signal handlers may call it.
        """
        self._raised = format_id(run_folder.new_id()), sender
        worker.stop_alone()
        self._watch()

    def expect(self, ident: int, sender: str, seconds: float) -> None:
        """Stop alone if the hosts refuse this stop, which they were asked for, or don't answer within this time."""
        self._asked = ident, sender, time.monotonic() + seconds
        self._watch()

    def pending(self) -> tuple[str, str] | None:
        """Return the id and the sender of the stop that this process must raise alone; None if there is none.

        Checks the hosts' answer to a stop that they were asked for.
        """
        if self._asked is not None and self._raised is None:
            ident, sender, until = self._asked
            now = time.monotonic()
            if now - self._looked > _LOOK:
                self._looked = now
                why = refusal(ident)
                if why is None and now > until:
                    if is_decided(ident):
                        self._asked = None  # the log decides at which step
                        self._watch()
                        return None
                    why = "the other hosts have said nothing"
                if why is not None:
                    self._asked = None
                    told, _, _ = why.partition("\n")  # what follows could look like messages of this process
                    stderr.warn(f"the job can't be stopped together ({told}): this process stops alone")
                    self.stop(sender)
        return self._raised

    def _watch(self) -> None:
        session.current.watch.every(Reason.LOCAL_STOP, self._raised is not None or self._asked is not None)
