"""The mail of requests and the worker's replies: what the log has no room for.

    <run folder>/mail/<request id>.json       a value to set, or a call: written before the request is sent
    <run folder>/replies/<request id>.json    written by the worker before it publishes the outcome; of a call also
                                              before it begins, because the log may have forgotten it when it ends
    <run folder>/replies/<request id>.<rank>.json    the same, by each of several ranks

Short mail stands in the log itself and needs no file. A process that sees a request finds its mail, and one that sees
the outcome finds the reply. The worker removes mail that it has read, and keeps as many replies as the log has entries.
If a sender is killed before it sends the request, the next sender removes the mail, a minute later.
"""

import json
import os
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from spark_fast.errors import FolderRefusedError, StoreError
from spark_fast.runfiles import private_files
from spark_fast.runfiles.schema import check_depth, json_bytes

__all__ = [
    "MAIL_MAX",
    "RESULT_MAX",
    "Reply",
    "content_in_log",
    "discard_mail",
    "discard_stale_mail",
    "mail_name",
    "prune_replies",
    "read_mail",
    "read_replies",
    "read_reply",
    "remove_reply",
    "send_mail",
    "stands_in_log",
    "values_of",
    "write_mail",
    "write_reply",
]

MAIL_MAX = 1 << 20
"""The longest mail, in bytes."""
MAIL_MAX_IN_LOG = 64
"""SF_MAIL_MAX of csrc/sf_layout.h."""
RESULT_MAX = 2 << 20
"""The longest result of a call, in bytes."""
_STALE = 60.0
"""Seconds after which mail without a request is removed: a sender waits for its turn for five seconds at most."""
_LOOKED_AT = 256
"""How many files a search for stale mail looks at."""
_LEFT = re.compile(r"[0-9a-f]{16}\.json|\.[0-9a-f]{16}\.json\.[0-9]+\.[0-9a-f]{8}")
"""The names of mail, and of mail that is being written."""
_REPLY = re.compile(r"[0-9a-f]{16}(\.[0-9]{1,9})?\.json")
REPLIES_MAX = 256
"""How many requests replies are kept for, of all processes together."""
_MAIL = "mail"
_REPLIES = "replies"
_TEXT_MAX = 256 << 10
_REPLY_MAX = 8 << 20


@dataclass(frozen=True)
class Reply:
    """The worker's reply to a request.

    Attributes:
        state: "done"; "failed" if the worker tried and could not; "refused" if it did not try; "begun" if a call runs.
        reason: why, in one line.
        traceback: the whole traceback, as Python prints it; empty if there is none.
        result: the result of a call.
        output: the text that the code printed.
        step: the step at which it ended; 0 if it is not known.
        warnings: of a reload that was applied: what stays as the old code made it, one sentence each.
    """

    state: str
    reason: str = ""
    traceback: str = ""
    result: Any = None
    output: str = ""
    step: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The reason, and the traceback on the lines after it."""
        return f"{self.reason}\n{self.traceback.rstrip()}" if self.traceback else self.reason


# --- mail ---


def mail_name(ident: int) -> str:
    """Return the name of a request's mail, which the log carries."""
    return f"{ident:016x}"


def write_mail(folder: Path, ident: int, content: Mapping[str, Any]) -> None:
    """Write the mail of the request `ident` for the worker of the run in this folder.

    Raises ValueError if it is no JSON or too long, OSError, FolderRefusedError.
    """
    try:
        raw = json_bytes(content)
    except TypeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if len(raw) > MAIL_MAX:
        raise ValueError(f"it has {len(raw)} bytes: at most {MAIL_MAX} are taken")
    with private_files.opened(folder, _MAIL, create=True) as mail:
        private_files.write_whole(mail, _name(ident), raw)


def send_mail(folder: Path, ident: int, content: Mapping[str, Any]) -> str:
    """Return the text that the log is to carry for the request `ident`. Raises as write_mail() does.

    It is the content itself if there is room, as there is for a number and its name. Else the content is written as
    mail, and the text is the name of the mail.
    """
    try:
        raw = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from None
    if len(raw) < MAIL_MAX_IN_LOG:
        return raw
    write_mail(folder, ident, content)
    return mail_name(ident)


def read_mail(folder: Path, mail: str, *, keep: bool = False) -> dict[str, Any]:
    """Return the content of a request's mail, and remove the file.

    mail: the text that the log carries.
    keep: whether to leave the file, for other ranks to read.

    Raises StoreError if it can't be read, is not there, or is no mail; OSError.
    """
    if stands_in_log(mail):
        found = content_in_log(mail)
        if found is None:
            raise StoreError(str(folder / _MAIL), "it is damaged")
        return found
    shown = folder / _MAIL
    if re.fullmatch(r"[0-9a-f]{16}", mail) is None:
        raise StoreError(str(shown), f"{mail!r} can't be the name of mail")
    name = f"{mail}.json"
    try:
        with private_files.opened(folder, _MAIL) as letters:
            try:
                raw = private_files.read_whole(letters, name, MAIL_MAX, shown)
            finally:
                if not keep:
                    with suppress(FileNotFoundError, IsADirectoryError):
                        os.unlink(name, dir_fd=letters)
    except FileNotFoundError:
        raise StoreError(str(shown / name), "it is not there") from None
    except FolderRefusedError as error:
        raise StoreError(str(shown), str(error)) from None
    found = _parsed(raw)
    if found is None:
        raise StoreError(str(shown / name), "it is damaged")
    return found


def stands_in_log(mail: str) -> bool:
    """Return whether the text in the log is the content itself, and not the name of mail."""
    return mail.startswith("{")


def content_in_log(mail: str) -> dict[str, Any] | None:
    """Return the content that stands in the log; None if it is damaged. It is too short to be nested too deep."""
    try:
        found = json.loads(mail)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def values_of(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the values that a set brings, by name; None if the content is damaged."""
    if "values" not in content:
        name = content.get("name")
        return {name: content["value"]} if isinstance(name, str) and "value" in content else None
    found = content["values"]
    return found if isinstance(found, dict) and found else None


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
        check_depth(found, raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def discard_mail(folder: Path, ident: int) -> None:
    """Remove mail of a request that was not sent, or that every rank has read."""
    with suppress(OSError, FolderRefusedError), private_files.opened(folder, _MAIL) as mail:
        os.unlink(_name(ident), dir_fd=mail)


def discard_stale_mail(folder: Path, asked: Callable[[], Collection[str]]) -> None:
    """Remove the mail of senders that were killed before they sent the request, or that took more than a minute.

    If such a request is sent all the same, the worker refuses it, because its mail is gone.

    asked: returns the names of the mail that the log carries now. Called if there is any old mail.
    """
    with suppress(OSError, FolderRefusedError), private_files.opened(folder, _MAIL) as mail:
        before = time.time() - _STALE
        with os.scandir(mail) as entries:
            old = [
                entry.name
                for entry in islice(entries, _LOOKED_AT)
                if _LEFT.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_mtime < before
            ]
        if old:
            wanted = {f"{name}.json" for name in asked()}
            for name in old:
                if name not in wanted:
                    with suppress(FileNotFoundError, IsADirectoryError):  # another process has removed it
                        os.unlink(name, dir_fd=mail)


# --- replies ---


def write_reply(folder: Path, ident: int, reply: Reply, rank: int | None = None, *, replace: bool = True) -> None:
    """Write the reply to the request `ident` of the run in this folder.

    rank: the rank that replies, of several.
    replace: whether to replace a reply that is there.

    Raises OSError, FolderRefusedError if the folder can't be trusted, and ValueError or TypeError if the result is no
    JSON or longer than RESULT_MAX.
    """
    size = len(json_bytes(reply.result))
    if size > RESULT_MAX:
        raise ValueError(f"it has {size} bytes: at most {RESULT_MAX} are sent")
    raw = json_bytes(
        {
            "state": reply.state,
            "reason": _shortened(reply.reason),
            "traceback": _shortened(reply.traceback),
            "result": reply.result,
            "output": _shortened(reply.output),
            "step": reply.step,
            "warnings": [_shortened(each) for each in reply.warnings],
        }
    )
    with private_files.opened(folder, _REPLIES, create=True) as replies:
        private_files.write_whole(replies, _name(ident, rank), raw, replace=replace)


_OF_RANK = re.compile(r"\.([0-9]{1,9})\.json")
"""The end of the name of a rank's reply, after the request's id."""


def read_replies(folder: Path, ident: int) -> Mapping[int, Reply]:
    """Return the replies of several ranks to the request `ident`, by rank."""
    begins = f"{ident:016x}"
    try:
        with private_files.opened(folder, _REPLIES) as replies:
            names = [name for name in os.listdir(replies) if name.startswith(begins)]
    except (OSError, FolderRefusedError):
        return {}
    ranks = sorted(int(found[1]) for name in names if (found := _OF_RANK.fullmatch(name, len(begins))))
    found_replies = {rank: read_reply(folder, ident, rank) for rank in ranks}
    return {rank: reply for rank, reply in found_replies.items() if reply is not None}


def read_reply(folder: Path, ident: int, rank: int | None = None) -> Reply | None:
    """Return the reply to the request `ident`; None if there is none. If it can't be read, its reason says so."""
    try:
        with private_files.opened(folder, _REPLIES) as replies:
            raw = private_files.read_whole(replies, _name(ident, rank), _REPLY_MAX, folder / _REPLIES)
    except FileNotFoundError:
        return None
    except (StoreError, FolderRefusedError) as error:
        return Reply("failed", f"what the worker says of it can't be read: {error}")
    damaged = Reply("failed", "what the worker says of it is damaged")
    try:
        content = json.loads(raw)
        warnings = content.pop("warnings", [])
        found = Reply(**content, warnings=tuple(warnings))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return damaged
    texts = (found.reason, found.traceback, found.output, *found.warnings)
    if found.state not in ("done", "failed", "refused", "begun") or type(found.step) is not int:
        return damaged
    if not all(isinstance(text, str) for text in texts):
        return damaged
    return found


def remove_reply(folder: Path, ident: int, rank: int | None = None) -> None:
    """Remove the reply to a request that the log has forgotten."""
    with suppress(OSError, FolderRefusedError), private_files.opened(folder, _REPLIES) as replies:
        os.unlink(_name(ident, rank), dir_fd=replies)


def prune_replies(folder: Path) -> None:
    """Remove the oldest replies if more than REPLIES_MAX requests have one.

    They are those of ranks that were started again, and of other hosts. A reply stays if it says that a function runs.
    """
    with suppress(OSError, FolderRefusedError), private_files.opened(folder, _REPLIES) as replies:
        newest: dict[str, float] = {}
        with os.scandir(replies) as entries:
            for entry in entries:
                if _REPLY.fullmatch(entry.name):
                    ident = entry.name[:16]
                    newest[ident] = max(newest.get(ident, 0.0), entry.stat(follow_symlinks=False).st_mtime)
        if len(newest) <= REPLIES_MAX:
            return
        old = set(sorted(newest, key=lambda ident: newest[ident])[:-REPLIES_MAX])
        for name in os.listdir(replies):
            if _REPLY.fullmatch(name) and name[:16] in old:
                rank = name.split(".")[1]
                reply = read_reply(folder, int(name[:16], 16), int(rank) if rank.isdecimal() else None)
                if reply is None or reply.state != "begun":
                    with suppress(FileNotFoundError):  # another process has removed it
                        os.unlink(name, dir_fd=replies)


def _name(ident: int, rank: int | None = None) -> str:
    return f"{ident:016x}.json" if rank is None else f"{ident:016x}.{rank}.json"


def _shortened(text: str) -> str:
    if len(text) <= _TEXT_MAX:
        return text
    half = _TEXT_MAX // 2
    return f"{text[:half]}\n… {len(text) - 2 * half} characters are left out …\n{text[-half:]}"
