"""A request to a run, as its sender and other controllers see it."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from spark_fast.client.connection import REMOTE, Connection
from spark_fast.client.deadline import Deadline
from spark_fast.client.snapshot import status_of_ranks, step_of_ranks
from spark_fast.durations import Duration, seconds_of
from spark_fast.errors import SegmentError, SparkCallError, SparkRequestError, SparkSetError, SparkTimeoutError
from spark_fast.request import Fate, FateState, Kind, format_id, sender_name, version_of
from spark_fast.runfiles import run_folder
from spark_fast.status import slowest

if TYPE_CHECKING:
    from spark_fast.runfiles.mailbox import Reply

__all__ = ["Request", "requests_in_log", "unsent"]

_KINDS = {int(kind): kind for kind in Kind}


class Request:
    """One request to a run.

    Attributes:
        id: its id, which the log, the exception that it raises and the request that supersedes it name.
        kind: `pause`, `resume`, `stop`, `reload`, `advance`, `set` or `call`.
        sender: who sent it, for people.
        asked: when it was sent, in seconds since the epoch.
        version: of a reload: the number of the code version that it brings; else None.
        ranks: the number of the rank that it is for, or `all`.
        name: of a value that this process set or a function that it called, of several values all names; empty for all
            else.
    """

    def __init__(
        self,
        connection: Connection,
        kind: Kind,
        ident: int,
        seq: int,
        sender: str,
        asked: float,
        fate: Fate | None = None,
        *,
        mail: str = "",
        ranks: "int | Literal['all']" = "all",
        name: str = "",
    ) -> None:
        self._connection = connection
        self._ident = ident
        self._seq = seq
        self._fate = fate
        self.kind = kind.name.lower()
        self.id = format_id(ident)
        self.sender = sender
        self.asked = asked
        self.version = version_of(mail) if kind is Kind.RELOAD else None
        self.ranks = ranks
        self.name = name
        self._replies: Mapping[int | None, Reply] | None = None

    @property
    def fate(self) -> Fate:
        """The fate of the request, now."""
        if self._fate is None:
            found = self._connection.fate(self._seq, self._ident)
            if not found.final:
                return found
            self._fate = found
        return self._fate

    @property
    def result(self) -> Any:
        """What the function returned, of a call that was applied; of a call by all ranks, a dict of that by rank. None
        before, and for all other requests."""
        replies = self._answered()
        if self.ranks == "all" and self.fate.final:
            return {rank or 0: reply.result for rank, reply in replies.items()}
        return next((reply.result for reply in replies.values()), None)

    @property
    def output(self) -> str:
        """What the code printed while a function was called or a value was set, rank by rank. Empty before, and for all
        other requests."""
        return "".join(reply.output for reply in self._answered().values())

    def _answered(self) -> "Mapping[int | None, Reply]":
        """The replies by rank; that of a run of one rank under None."""
        if self._replies is None and self.kind in ("set", "call") and self._seq and self.fate.final:
            from spark_fast.runfiles.mailbox import read_replies, read_reply  # a pause needs no mailbox

            alone = read_reply(self._connection.folder, self._ident)
            if alone is not None:
                self._replies = {None: alone}
            else:
                self._replies = dict(read_replies(self._connection.folder, self._ident).items())
        return self._replies or {}

    def wait(self, timeout: Duration | None = None) -> Fate:
        """Wait until the fate is final and return it. `raise_for_fate()` raises an error if the request failed.

        timeout: seconds, or text such as "90s", to wait at most; None for as long as it takes.

        Raises SparkTimeoutError when the time is up; the request stands.
        """
        return self._wait(Deadline(seconds_of(timeout, "timeout")))

    def _wait(self, deadline: Deadline) -> Fate:
        """wait(), as a part of a longer wait."""
        left = deadline.left()
        if self._seq == REMOTE and not self.fate.final:
            from spark_fast.client import multihost  # only a job of several hosts loads it, which takes some time

            multihost.wait(self._connection.folder, self._ident, left)
            left = 0.0
        if not self._connection.wait_until(lambda: self.fate.final, left):
            fate, ranks = self.fate, self._connection.ranks
            status, late = status_of_ranks(ranks), slowest(ranks)
            ends, now = ("ended", fate.reason) if fate.running else ("taken effect", f"the run is {status}")
            raise SparkTimeoutError(
                f"{self.kind} of run {self._connection.id} has not {ends} in {deadline.seconds or 0:g} s: {now}, at "
                f"step {step_of_ranks(ranks)}{f'; {late}' if late else ''}. The request stands.",
                self,
            )
        return self.fate

    def raise_for_fate(self) -> "Request":
        """Return the request, unless it did not take effect: its fate is `refused`, `failed`, `void` or `lost`.

        One that has no final fate yet, or that a later request superseded, is returned.

        Raises SparkSetError for a value, SparkCallError for a call, SparkRequestError, their base, for all else.
        """
        fate = self.fate
        if fate.state not in (FateState.REFUSED, FateState.FAILED, FateState.VOID, FateState.LOST):
            return self
        raise self._error(fate)

    def _error(self, fate: Fate) -> SparkRequestError:
        reason, _, trace = fate.reason.partition("\n")
        run, state = self._connection.id, str(fate.state)
        if self.kind == "set":
            return SparkSetError(self.name, run, state, reason, trace, request=self)
        if self.kind == "call":
            return SparkCallError(self.name, run, state, reason, trace, self.output, request=self)
        return SparkRequestError(self.kind, run, state, reason, trace, request=self)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.id} of {self._connection.id}: {self.fate}>"


def unsent(connection: Connection, kind: Kind, fate: Fate, *, name: str = "", asked: float | None = None) -> Request:
    """Return a request that is not sent, because its fate is known: the run can't take it, or has nothing to do.

    name: of the value or function.
    asked: when the user asked, in seconds since the epoch; None for now.
    """
    when = time.time() if asked is None else asked
    return Request(connection, kind, run_folder.new_id(), 0, sender_name(), when, fate, name=name)


def requests_in_log(connection: Connection) -> list[Request]:
    """Return the requests that the log still holds, oldest first; none if the control file is damaged or gone."""
    try:
        return [
            Request(
                connection,
                _KINDS[entry["kind"]],
                entry["id"],
                entry["seq"],
                entry["sender"],
                entry["asked"],
                mail=entry["mail"],
                ranks=entry["ranks"] - 1 if entry["ranks"] else "all",
            )
            for entry in connection.entries()
            if entry["kind"] in _KINDS
        ]
    except SegmentError:
        return []
