"""Writes this worker's answers to requests, and keeps the newest ones."""

from collections import deque
from pathlib import Path

from spark_fast.runfiles import mailbox
from spark_fast.runfiles.mailbox import Reply
from spark_fast.worker import session

__all__ = ["write"]

_KEPT = 128
"""The most replies of this process that are kept: as many as the log has entries."""
_SWEEP = 64
"""The number of replies after which this process removes old replies of others: of ranks before a restart, or of other
hosts."""

_own: deque[int] = deque()
_written = 0


def write(folder: Path, ident: int, reply: Reply) -> None:
    """Answer the request `ident`. Remove the oldest answers, whose requests the log has dropped.

    Raises as mailbox.write_reply().
    """
    global _written
    if _written % _SWEEP == 0:
        mailbox.prune_replies(folder)
    _written += 1
    while len(_own) >= _KEPT:
        mailbox.remove_reply(folder, _own.popleft(), session.rank())
    mailbox.write_reply(folder, ident, reply, session.rank())
    _own.append(ident)
