"""What a worker answers to a request, beyond what the log has room for: `<run folder>/replies/<request id>.json`.

The worker writes it before it publishes the outcome, so whoever sees the outcome finds it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from spark_fast import private_files
from spark_fast.errors import FolderRefusedError, StoreError

__all__ = ["Reply", "read_reply", "write_reply"]

_REPLIES = "replies"
_TEXT_MAX = 256 << 10
_REPLY_MAX = 4 << 20


@dataclass(frozen=True)
class Reply:
    """Why a worker did not do what it was asked.

    Attributes:
        state: "failed", it tried and could not; or "refused", it did not try.
        reason: why, in one line.
        traceback: the whole of it, as Python prints it; empty where there is none.
    """

    state: str
    reason: str
    traceback: str = ""

    @property
    def text(self) -> str:
        """The reason, and the traceback on the lines after it."""
        return f"{self.reason}\n{self.traceback.rstrip()}" if self.traceback else self.reason


def write_reply(folder: Path, ident: int, reply: Mapping[str, str]) -> None:
    """Answers the request `ident` of the run in this folder: "state", "reason" and "traceback", as in a Reply.

    Raises OSError, or FolderRefusedError if the folder can't be trusted.
    """
    texts = {name: _shortened(reply.get(name, "")) for name in ("state", "reason", "traceback")}
    with private_files.opened(folder, _REPLIES, create=True) as replies:
        private_files.write_whole(replies, _name(ident), json.dumps(texts).encode())


def read_reply(folder: Path, ident: int) -> Reply | None:
    """The answer to the request `ident`; None if there is none. One that can't be read says so in its reason."""
    try:
        with private_files.opened(folder, _REPLIES) as replies:
            raw = private_files.read_whole(replies, _name(ident), _REPLY_MAX, folder / _REPLIES)
    except FileNotFoundError:
        return None
    except (StoreError, FolderRefusedError) as error:
        return Reply("failed", f"what the worker says of it can't be read: {error}")
    try:
        found = json.loads(raw)
        state, reason, trace = found["state"], found["reason"], found["traceback"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Reply("failed", "what the worker says of it is damaged")
    if state not in ("failed", "refused") or not isinstance(reason, str) or not isinstance(trace, str):
        return Reply("failed", "what the worker says of it is damaged")
    return Reply(state, reason, trace)


def _name(ident: int) -> str:
    return f"{ident:016x}.json"


def _shortened(text: str) -> str:
    if len(text) <= _TEXT_MAX:
        return text
    half = _TEXT_MAX // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters are left out …\n{text[-half:]}"
