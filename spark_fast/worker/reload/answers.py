"""Tells the sender of a reload that the new code runs, or why it does not."""

import traceback
from collections.abc import Sequence
from typing import Any

from spark_fast import stderr
from spark_fast._core import worker
from spark_fast.errors import SparkError, SparkInterrupt, is_stop
from spark_fast.runfiles import mailbox
from spark_fast.worker import replies, session
from spark_fast.worker.reload.vote import ElsewhereError

__all__ = ["answer", "elsewhere_error", "publish_applied", "reason_of", "speaks_against"]


def speaks_against(error: BaseException) -> bool:
    """Return whether an exception shows that the code failed. An exit, an interrupt or a stop does not."""
    quits = isinstance(error, SystemExit) and error.code in (None, 0)
    interrupted = isinstance(error, (SparkInterrupt, KeyboardInterrupt)) or is_stop(error)
    return elsewhere_error(error) is not None or not (quits or interrupted)


def elsewhere_error(error: BaseException) -> ElsewhereError | None:
    """Return the failure of another rank that this error, or its cause, is; None if it is none."""
    found = error if isinstance(error, ElsewhereError) else error.__cause__
    return found if isinstance(found, ElsewhereError) else None


def answer(entry: dict[str, Any], step: int, state: str, reason: str, trace: str = "") -> None:
    """Tell the sender why its reload was refused or has failed.

    If the reason can't be written, a warning says so, and only the outcome is published.

    entry: the request, as the log has it.
    state: "refused" or "failed".
    trace: the traceback of the new code, if it has failed.
    """
    if state == "refused":
        stderr.warn(f"a reload was refused: {reason}")
    folder = session.folder()
    if folder is not None:
        try:
            replies.write(folder, entry["id"], mailbox.Reply(state, reason, trace))
        except (OSError, SparkError) as error:
            stderr.warn(f"could not write down for the sender why its reload failed: {error}")
    worker.publish_outcome(entry["seq"], step, failed=True)


def publish_applied(entry: dict[str, Any], step: int, warnings: Sequence[str]) -> None:
    """Tell the sender of a reload that the new code runs.

    warnings: a sentence for each object that stays as the old code made it.
    """
    folder = session.folder()
    for warning in warnings:
        stderr.warn(f"after a reload: {warning}")
    if warnings and folder is not None:
        reply = mailbox.Reply("done", step=step, warnings=tuple(dict.fromkeys(warnings)))
        try:
            replies.write(folder, entry["id"], reply)
        except (OSError, SparkError) as error:
            stderr.warn(f"could not write down the warnings of a reload for its sender: {error}")
    worker.publish_outcome(entry["seq"], step, failed=False)


def reason_of(error: BaseException) -> str:
    """Return the message of an error, for people."""
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error)).strip()
    try:
        return str(error)
    except Exception:  # the __str__ of the user's class raised
        return type(error).__name__
