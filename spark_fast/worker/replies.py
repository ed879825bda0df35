"""This worker's answers to requests, of which it keeps the newest."""

from collections import deque
from pathlib import Path

from spark_fast.runfiles import mailbox
from spark_fast.runfiles.mailbox import Reply
from spark_fast.worker import session

__all__ = ["write"]

_KEPT = 128
"""Replies of this process that are kept: as many as the log has entries."""
_SWEEP = 64
"""After how many replies this process removes old replies of others: of ranks before a restart, or of other hosts."""

_own: deque[int] = deque()
_written = 0


def write(folder: Path, ident: int, reply: Reply) -> None:
    """Answer the request `ident`, in the place of the oldest answer that the log has forgotten.

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
