"""What the sender of a reload is told: that the new code runs, or why it does not."""

import traceback
from collections.abc import Sequence
from typing import Any

from spark_fast._core import worker
from spark_fast.errors import SparkError, SparkInterrupt, is_stop
from spark_fast.runfiles import mailbox
from spark_fast.worker import replies, session, stderr
from spark_fast.worker.reload.vote import ElsewhereError

__all__ = ["answer", "elsewhere_error", "publish_applied", "reason_of", "speaks_against"]


def speaks_against(error: BaseException) -> bool:
    """Whether the code failed, and was not just ended."""
    quits = isinstance(error, SystemExit) and error.code in (None, 0)
    interrupted = isinstance(error, (SparkInterrupt, KeyboardInterrupt)) or is_stop(error)
    return elsewhere_error(error) is not None or not (quits or interrupted)


def elsewhere_error(error: BaseException) -> ElsewhereError | None:
    """The fault of another rank that this error stands for, if it does."""
    found = error if isinstance(error, ElsewhereError) else error.__cause__
    return found if isinstance(found, ElsewhereError) else None


def answer(entry: dict[str, Any], step: int, state: str, reason: str, trace: str = "") -> None:
    """Tells the sender of a reload why it came to nothing. The fate is published whatever happens to the words."""
    if state == "refused":
        stderr.warn(f"a reload was refused: {reason}")
    folder = session.folder()
    if folder is not None:
        try:
            replies.write(folder, entry["id"], mailbox.Reply(state, reason, trace))
        except (OSError, SparkError) as error:
            stderr.warn(f"the sender of a reload can't be told why it came to nothing: {error}")
    worker.tell(entry["seq"], step, failed=True)


def publish_applied(entry: dict[str, Any], step: int, warnings: Sequence[str]) -> None:
    """Tells the sender of a reload that the new code runs, and what stays as the old code made it."""
    folder = session.folder()
    for warning in warnings:
        stderr.warn(f"after a reload: {warning}")
    if warnings and folder is not None:
        reply = mailbox.Reply("done", step=step, warnings=tuple(dict.fromkeys(warnings)))
        try:
            replies.write(folder, entry["id"], reply)
        except (OSError, SparkError) as error:
            stderr.warn(f"the sender of a reload can't be told of its warnings: {error}")
    worker.tell(entry["seq"], step, failed=False)


def reason_of(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return "".join(traceback.format_exception_only(error)).strip()
    try:
        return str(error)
    except Exception:  # of the user's own class
        return type(error).__name__
