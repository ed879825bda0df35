"""The kinds of requests, and their fates: whether and how a request took effect."""

import os
import re
import socket
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spark_fast import _core
from spark_fast.status import ranges

if TYPE_CHECKING:
    from spark_fast.runfiles.mailbox import Reply

__all__ = [
    "AFTER_ERROR",
    "GRACE",
    "RESET",
    "Fate",
    "FateState",
    "Kind",
    "Verdict",
    "failure_of",
    "fate_of",
    "format_id",
    "is_restart",
    "sender_name",
    "version_mail",
    "version_of",
]


class Kind(IntEnum):
    """enum sf_kind of csrc/sf_layout.h."""

    PAUSE = 1
    RESUME = 2
    STOP = 3
    RELOAD = 4
    ADVANCE = 5
    SET = 6
    CALL = 7


RESET = "reset"
"""The mail (content) of a stop after which the supervisor starts a fresh worker. The stop's duration is the time that
the old worker has to end."""

AFTER_ERROR = "an error: "
"""The beginning of the sender's name in a pause that a worker makes by itself after an error."""
GRACE = "grace"
"""The mail of a stop after which the supervisor ends the worker. The stop's duration is the time that the worker has to
end by itself."""


class Verdict(IntEnum):
    """enum sf_verdict of csrc/sf_log.h."""

    APPENDED = 0
    NOTHING_TO_DO = 1
    REFUSED_STOPPING = 2
    REFUSED_ENDED = 3


class FateState(StrEnum):
    """The state of a request."""

    ASKED = "asked"
    """It is in the log, and no worker has applied it yet."""
    APPLIED = "applied"
    """It took effect at a step: a pause when the worker parked, an advance when it parked again."""
    SUPERSEDED = "superseded"
    """A later request took its place before it took effect."""
    REFUSED = "refused"
    """It never entered the log, or the worker did not try; the reason says why."""
    FAILED = "failed"
    """A worker tried to apply it and failed; the reason says why."""
    VOID = "void"
    """Its sender died while sending it, so no worker will ever apply it."""
    LOST = "lost"
    """The run ended before applying it, or the fate is no longer known."""


@dataclass(frozen=True)
class Fate:
    """The fate of a request.

    Attributes:
        state: one of FateState.
        step: the step at which the request was applied, else None.
        by: the id of the request that superseded it, else None.
        reason: why, for people; empty if the state says enough. If code failed, the lines after the first are the
            traceback.
        warnings: for an applied reload, a sentence for each object that stays as the old code made it, with file and
            line if known. Empty for all other requests.
    """

    state: FateState
    step: int | None = None
    by: str | None = None
    reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def final(self) -> bool:
        """Whether the fate can't change any more."""
        return self.state is not FateState.ASKED

    @property
    def running(self) -> bool:
        """Whether the request is a call whose function is running."""
        return self.state is FateState.ASKED and self.reason.startswith(RUNNING)

    def __str__(self) -> str:
        words = [str(self.state)]
        if self.step is not None:
            words.append(f"at step {self.step}")
        if self.by is not None:
            words.append(f"by {self.by}")
        if self.reason:
            words.append(f"({self.reason.splitlines()[0]})")
        return " ".join(words)


def format_id(ident: int) -> str:
    """Return a request id as people see it."""
    return f"{ident:016x}"


_RESTART = " restart"


def version_mail(number: int, *, restart: bool = False) -> str:
    """Return a reload's mail, which names the version. restart: whether to start the training over."""
    return f"version-{number}{_RESTART if restart else ''}"


def version_of(mail: str) -> int | None:
    """Return the number of the version in a reload's mail; None if there is none."""
    found = re.fullmatch(rf"version-([1-9][0-9]{{0,8}})(?:{_RESTART})?", mail)
    return int(found[1]) if found else None


def is_restart(mail: str) -> bool:
    """Return whether a reload's mail says to start the training over."""
    return version_of(mail) is not None and mail.endswith(_RESTART)


_named: tuple[int, str] = (0, "")


def sender_name() -> str:
    """Return the name of this process as a sender, for people. It is found once per process, since that is slow."""
    global _named
    if _named[0] != os.getpid():
        _named = os.getpid(), _find_name()
    return _named[1]


def _find_name() -> str:
    try:
        import getpass

        user = getpass.getuser()
    except (KeyError, OSError):  # the uid has no name, as in a container, or no file can be opened
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}, pid {os.getpid()}"


UNDECIDED = "no step decided yet"
"""The reason in the fate of a request whose step is undecided, which stays so if the sender is dead."""
RUNNING = "it is running"
"""The reason in the fate of a call whose function is running. In a run of several ranks, the ranks' numbers follow."""

_NO_REPLY = (
    "the worker could not write its answer, so this can't say why, nor whether a called function has run: see the "
    "training's standard error"
)
"""The reason in the fate of a request that failed without a reply: the disk was full, or no file could be opened."""

_APPLIED, _SUPERSEDED, _FAILED = 1, 2, 3


def fate_of(control: int, seq: int, ident: int, *, folder: Path, alive: bool, ended: str) -> Fate:
    """Read the fate of entry `seq` from the control file.

    ident: the id that the entry must have.
    folder: the run folder, which holds the worker's replies.
    alive: whether a rank of the run lives, read before this call.
    ended: how the run ended, for the reason, if it has ended.
    """
    entry: dict[str, Any] | None = _core.read_entry(control, seq)
    if entry is None or entry["id"] != ident:
        return _forgotten(folder, ident, alive, ended)
    if entry["outcome"] == _APPLIED:
        return Fate(FateState.APPLIED, step=entry["value"], warnings=_warnings_of(folder, entry))
    if entry["outcome"] == _SUPERSEDED:
        by = _core.read_entry(control, entry["value"])
        return Fate(FateState.SUPERSEDED, by=format_id(by["id"]) if by is not None else None)
    if entry["outcome"] == _FAILED:
        return failure_of(folder, ident, entry["value"])
    if entry["target"] == _core.TARGET_VOID:
        return Fate(FateState.VOID, reason="its sender died while sending it")
    if entry["target"] == _core.TARGET_NONE and alive:
        return Fate(FateState.ASKED, reason=UNDECIDED)
    if not alive:
        return Fate(FateState.LOST, reason=f"the run ended before it ({ended})")
    return Fate(FateState.ASKED, reason=_running(folder, ident) if entry["kind"] == Kind.CALL else "")


def _running(folder: Path, ident: int) -> str:
    """Return a reason that names the ranks in which the function is running; empty if it has not begun."""
    from spark_fast.runfiles.mailbox import read_replies, read_reply

    if (reply := read_reply(folder, ident)) is not None:
        return RUNNING if reply.state == "begun" else ""
    ranks = sorted(rank for rank, each in read_replies(folder, ident).items() if each.state == "begun")
    return f"{RUNNING} in rank{'s' if len(ranks) > 1 else ''} {ranges(ranks)}" if ranks else ""


def _forgotten(folder: Path, ident: int, alive: bool, ended: str) -> Fate:
    """Return the fate, from the worker's reply, of a request that the log has dropped."""
    reply, text = _reply_of(folder, ident)
    if reply is None:
        return Fate(FateState.LOST, reason=f"more than {_core.LOG_CAPACITY} requests came after it")
    if reply.state == "begun":
        return (
            Fate(FateState.ASKED, reason=RUNNING)
            if alive
            else Fate(FateState.LOST, reason=f"the run ended before it ({ended})")
        )
    if reply.state == "done":
        return Fate(FateState.APPLIED, step=reply.step, warnings=reply.warnings)
    return Fate(FateState.REFUSED if reply.state == "refused" else FateState.FAILED, step=reply.step, reason=text)


def _warnings_of(folder: Path, entry: dict[str, Any]) -> tuple[str, ...]:
    """Return the warnings of all ranks about a reload that was applied, each sentence once."""
    if entry["kind"] != Kind.RELOAD:
        return ()
    from spark_fast.runfiles.mailbox import read_replies, read_reply

    alone = read_reply(folder, entry["id"])
    found = [alone] if alone is not None else read_replies(folder, entry["id"]).values()
    return tuple(dict.fromkeys(warning for reply in found for warning in reply.warnings))


def failure_of(folder: Path, ident: int, step: int) -> Fate:
    """Return the fate of a request that a worker could not apply, with the reason in its reply."""
    reply, text = _reply_of(folder, ident)
    if reply is None:
        return Fate(FateState.FAILED, step=step, reason=_NO_REPLY)
    return Fate(FateState.REFUSED if reply.state == "refused" else FateState.FAILED, step=step, reason=text)


def _reply_of(folder: Path, ident: int) -> "tuple[Reply | None, str]":
    """Return the reply, and its reason with the traceback.

    Of several ranks' replies, this is the one of the first rank that failed, since the reasons are mostly the same;
    else of a rank whose function is running; else any.
    """
    from spark_fast.runfiles.mailbox import read_replies, read_reply  # rarely needed

    reply = read_reply(folder, ident)
    if reply is not None:
        return reply, reply.text
    replies = read_replies(folder, ident)
    bad = sorted(rank for rank, each in replies.items() if each.state in ("failed", "refused"))
    if bad:
        reply = replies[bad[0]]
        return reply, f"rank{'s' if len(bad) > 1 else ''} {ranges(bad)}: {reply.text}"
    open_ones = [each for each in replies.values() if each.state == "begun"]
    return next(iter(open_ones or replies.values()), None), ""
