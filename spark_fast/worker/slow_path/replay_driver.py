"""Replays a journal: appends each of its requests to the log at the request's step."""

from typing import Any

from spark_fast import _core, stderr
from spark_fast._core import worker
from spark_fast.errors import SegmentError, SparkError
from spark_fast.request import Kind, format_id, is_restart, version_mail
from spark_fast.runfiles import mailbox, run_folder
from spark_fast.worker import session
from spark_fast.worker.journal.replay import Replay

__all__ = ["ReplayDriver", "start"]


def start(replay: Replay) -> None:
    """Have the requests of a journal applied at their steps. Called before the first checkpoint."""
    session.current.replay = ReplayDriver(replay)
    session.current.watch.at(replay.next_step)


class ReplayDriver:
    """A journal that is replayed, and those of its requests that are in the log."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._delivering: dict[str, str] = {}
        """For each request with mail (content) in the log: its id there, and its id in the journal."""

    def append_due(self, step: int, *, within: str | None, inner: int) -> None:
        """Append the requests whose step has come. Called with the session's lock held, before the log is applied.

        within: the id of the call that this thread runs, None if it runs none.
        inner: how many checkpoints that call has passed.
        """
        inside = self._delivering.get(within) if within is not None else None
        for line in self._replay.due(step, inside, inner, most=_room()):
            self._append(line, step)
        session.current.watch.at(self._replay.next_step)

    def _append(self, line: dict[str, Any], step: int) -> None:
        # If a reset ended the recorded process, only the reset's stop is replayed.
        mail = ""
        if line["kind"] == "reload":
            reloader = session.current.reloader
            if reloader is None:
                return
            version = reloader.add_version(self._replay.code_of(line), line["sender"])
            if version is None:
                return
            mail = version_mail(version, restart=is_restart(line["mail"]))
        ident = run_folder.new_id()
        try:
            if line["kind"] in ("set", "call"):
                folder = session.folder()
                content = self._replay.payload_of(line)
                if content is None or folder is None:
                    raise ValueError("the journal lacks its payload")
                mail = mailbox.send_mail(folder, ident, content)
                self._delivering[format_id(ident)] = line["id"]
            worker.append(
                Kind[line["kind"].upper()],
                ident,
                arg=line["arg"],
                duration=line["duration"],
                sender=f"the journal: {line['sender']}",
                mail=mail,
                target=step,
            )
        except (SparkError, OSError, ValueError) as error:
            stderr.warn(f"the {line['kind']} of step {line['step']} can't be replayed: {error}")
            self._replay.over(line["id"])

    def delivered(self, ident: int) -> None:
        """Record the delivery of a request with mail. Called with the session's lock held."""
        if (line := self._delivering.pop(format_id(ident), None)) is not None:
            self._replay.over(line)

    def left(self, step: int) -> str | None:
        """Return a sentence on the requests that a loop which ended at this step missed; None if it reached all."""
        return self._replay.left(step)


def _room() -> int:
    """Return how many requests may be appended now. Half of the log stays free for requests from outside.

    All requests that a run got while it was parked belong to one step, and may be more than the log holds.
    """
    try:
        tail: int = _core.read_view(worker.fileno())["tail"]
        applied: int = _core.read_slot(worker.fileno(), 0)["applied"]
        return _core.LOG_CAPACITY // 2 - (tail - applied)
    except (SegmentError, OSError):  # the log is applied next, and that reports the error
        return 0
