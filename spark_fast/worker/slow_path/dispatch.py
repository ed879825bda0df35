"""Values that are set and functions that are called from outside, on the thread that passes a checkpoint.

The core hands out a request with mail when its step has come; what stands behind it in the log waits until it was
delivered, or until the function that was called passes a checkpoint of its own. What came of it is published last, so
that whoever sees the outcome finds the reply.
"""

import json
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from spark_fast._core import worker
from spark_fast.errors import FolderRefusedError, SparkInterrupt, StoreError, is_stop
from spark_fast.request import Kind, format_id
from spark_fast.runfiles import mailbox
from spark_fast.runfiles.mailbox import Reply
from spark_fast.runfiles.schema import UnfitError, check_arguments, unknown
from spark_fast.worker import replies, session, stderr
from spark_fast.worker.journal import writer
from spark_fast.worker.session import Reason
from spark_fast.worker.state import registry

__all__ = [
    "busy",
    "deliver",
    "depth",
    "inner",
    "inside",
    "left_over",
    "mine",
    "pass_inner",
    "running_call",
    "stands_over",
]

_KEPT = 128
"""Mail that is kept for other ranks: as much as the log has entries."""
_OUTPUT_MAX = 64 << 10

_begun: list[int] = []
"""The deliveries that have begun and not ended, by the sequence numbers of their requests, the outermost first: a
function that passes checkpoints may be set a value there. All that run code of the script's are of one thread: another
thread sets only values that have no on_set. What was handed out by the core and has not begun, since a signal handler
has raised an exception in between, is delivered at the next checkpoint."""
_inner = 0
"""Checkpoints that were passed in the outermost delivery, which are no steps of the loop. All take the slow path."""
_running: list[str] = []
"""The function that runs, if one does, and the id of its call."""
_shared: deque[int] = deque()
_BEGUN = Reply("begun")
_LEFT = Reply("failed", "it was left before it had ended")
_SET = Reply("done")
_BESIDE = "code that was asked for before is still running in another thread"


def busy() -> bool:
    """Whether something is being delivered, or about to be: what else there is waits."""
    return bool(worker.handed)


def mine() -> bool:
    """Whether it is this thread that delivers."""
    handed = worker.handed
    return bool(handed) and handed[0]["thread"] == threading.get_ident()


def inside() -> bool:
    """Whether this thread passes checkpoints of a function that was called."""
    return bool(_begun) and mine()


def depth() -> int:
    """How many deliveries this thread is in: one within a function that another has called, say."""
    return len(_begun) if mine() else 0


def left_over() -> dict[str, Any] | None:
    """What was handed to this thread, and has not begun. Called with the session's lock held."""
    handed = worker.handed
    return handed[-1] if mine() and handed[-1]["seq"] not in _begun else None


def inner() -> int:
    """How many checkpoints this thread has passed in what it delivers; 0 if it delivers nothing."""
    return _inner if inside() else 0


def pass_inner() -> int:
    """This thread has passed one more: the step at which the loop stands. Called with the session's lock held."""
    global _inner
    _inner += 1
    return worker.uncount()


def running_call() -> str | None:
    """The id of the call that this thread runs, None if it runs none."""
    return _running[1] if inside() and _running else None


def stands_over(pause: int) -> bool:
    """Whether this thread runs a function that was called while the worker was parked for this pause: it does not park
    for it a second time."""
    return inside() and any(entry["held"] == pause for entry in worker.handed)


def deliver(entry: dict[str, Any], step: int) -> None:
    """Does what a request with mail asks for. Whatever is wrong with it, its sender is told and the loop goes on; only
    what ends or leaves the loop comes through."""
    global _inner
    seq = entry["seq"]
    if seq in _begun or entry not in worker.handed:
        return  # a signal handler that has passed a checkpoint just now has seen to it
    reply = _LEFT
    try:
        with session.current.lock:
            if not _begun:
                _inner = 0
            _begun.append(seq)
            session.current.watch.every(Reason.DELIVERY, True)
        try:
            reply = _do(entry)
        except BaseException as error:
            if _comes_through(error):
                raise
            # Of the user's code, in a place where nobody thinks of it: a default's repr(), say.
            reply = _failure(error)
        finally:
            _tell(entry, step, reply)
    finally:
        with session.current.lock:
            if seq in _begun:
                _begun.remove(seq)
            session.current.watch.every(Reason.DELIVERY, bool(_begun))


def _do(entry: dict[str, Any]) -> Reply:
    folder = session.folder()
    if folder is None:
        return Reply("refused", "the run is not controlled any more")
    mail = entry["mail"]
    try:
        shared = session.has_local_peers() and not entry["ranks"] and not mailbox.stands_in_log(mail)
        content = mailbox.read_mail(folder, mail, keep=shared)
        if shared:
            _keep(folder, entry["id"])
    except (StoreError, OSError) as error:
        return Reply("refused", f"what it carries can't be read: {error}")
    if entry["kind"] == Kind.SET:
        values = mailbox.values_of(content)
        if values is None:
            return Reply("refused", "what it carries is damaged")
        if not mailbox.stands_in_log(mail):  # what does stands in the line of the request too
            writer.payload(format_id(entry["id"]), content)
        return _set(values)
    name = content.get("name")
    if not isinstance(name, str):
        return Reply("refused", "what it carries is damaged")
    ident = format_id(entry["id"])
    writer.payload(ident, content)
    with suppress(OSError, FolderRefusedError):  # it only tells its sender more, once the log has forgotten it
        mailbox.write_reply(folder, entry["id"], _BEGUN, session.rank(), replace=False)
    try:
        return _call(name, ident, content)
    finally:
        writer.returned(ident)


def _set(values: Mapping[str, Any]) -> Reply:
    """Set values, all or none."""
    none = "; none of the values is set" if len(values) > 1 else ""
    for name in values:
        if not registry.is_value(name):
            return Reply("refused", unknown(name, "value", registry.listed("value")) + none)
        if registry.runs_code(name) and not mine():
            return Reply("refused", f"its on_set would have to wait, because {_BESIDE}{none}")
    # Without code of the script's nothing is printed, and most of what this costs is saved.
    output = _Output(sys.stdout) if any(map(registry.runs_code, values)) else None
    try:
        if output is None:
            registry.set_values(values)
        else:
            with output.taken():
                registry.set_values(values)
    except UnfitError as error:
        return Reply("refused", str(error) + none)
    except registry.SetterError as failed:  # a value that was set ends no training
        if _comes_through(failed.error):
            raise failed.error from None
        reply = _failure(failed.error, "" if output is None else output.text)
        return replace(reply, reason=f"{failed.name}: {reply.reason}{none}") if none else reply
    return _SET if output is None else Reply("done", output=output.text)


def _call(name: str, ident: str, content: dict[str, Any]) -> Reply:
    args, kwargs = content.get("args", []), content.get("kwargs", {})
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        return Reply("refused", "what it carries is damaged")
    if name not in registry.listed("function"):
        return Reply("refused", unknown(name, "function", registry.listed("function")))
    fn, described = registry.function_of(name)
    try:
        check_arguments(name, described, args, kwargs)
    except UnfitError as error:
        return Reply("refused", str(error))
    if _running:
        return Reply("refused", f"{_running[0]}() is still running, and one function runs at a time")
    if not mine():
        return Reply("refused", f"it would have to wait, because {_BESIDE}")
    output = _Output(sys.stdout)
    _running.extend((name, ident))
    try:
        with output.taken():
            result = fn(*args, **kwargs)
    except BaseException as error:  # a function that was asked for ends no training
        if _comes_through(error):
            raise
        return _failure(error, output.text)
    finally:
        _running.clear()
    try:
        plain = json.loads(json.dumps(result, default=_plain))
        size = len(json.dumps(plain))
    except Exception as error:  # a tensor that can't be copied, a dict that another thread changes
        return Reply("failed", f"what {name}() returned is no JSON: {error}", output=output.text)
    if size > mailbox.RESULT_MAX:
        return Reply("failed", f"what {name}() returned has {size} bytes: at most {mailbox.RESULT_MAX} are sent")
    return Reply("done", result=plain, output=output.text)


def _plain(found: Any) -> Any:
    """Arrays and tensors as lists and numbers."""
    listed = getattr(found, "tolist", None)
    if not callable(listed):
        raise TypeError(f"{type(found).__name__} can't be sent")
    return listed()


def _comes_through(error: BaseException) -> bool:
    """Whether it ends or leaves the loop, and the function was only what ran just then: a stop, a reload, an interrupt,
    and the end of the process, if a signal handler asked for it."""
    if isinstance(error, (KeyboardInterrupt, SparkInterrupt)) or is_stop(error):
        return True
    if not isinstance(error, SystemExit):
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = [getattr(getattr(each, "__func__", each), "__code__", None) for each in handlers]
    return any(frame.f_code in codes for frame, _line in traceback.walk_tb(error.__traceback__))


def _failure(error: BaseException, output: str = "") -> Reply:
    found = traceback.TracebackException.from_exception(error)
    found.__notes__ = None  # they would stand after it
    reason = list(found.format_exception_only())[-1].strip()
    return Reply("failed", reason, stderr.as_printed(error), output=output)


def _tell(entry: dict[str, Any], step: int, reply: Reply) -> None:
    folder = session.folder()
    failed = reply.state != "done"
    told = False
    if failed:
        writer.failed(format_id(entry["id"]), reply.reason)
    try:
        if folder is not None and (failed or entry["kind"] == Kind.CALL or reply.output):
            replies.write(folder, entry["id"], replace(reply, step=step))
        told = True
    except (OSError, FolderRefusedError, ValueError, TypeError) as error:
        stderr.warn(f"the sender of a {Kind(entry['kind']).name.lower()} can't be answered: {error}")
        if folder is not None:
            mailbox.remove_reply(folder, entry["id"])  # that it has begun
    finally:
        with session.current.lock:
            # Without its result, a call is not what it was asked for.
            worker.tell(entry["seq"], step, failed=failed or not told)


def _keep(folder: Path, ident: int) -> None:
    """Mail of which nobody knows when the last rank has read it, until the log has forgotten it."""
    while len(_shared) >= _KEPT:
        mailbox.discard_mail(folder, _shared.popleft())
    _shared.append(ident)


class _Output:
    """Standard output while a function runs: what this thread prints goes where it always goes, and is kept."""

    def __init__(self, inner: TextIO | None) -> None:
        self._inner = inner
        self._thread = threading.get_ident()
        self._kept: list[str] = []
        self._room = _OUTPUT_MAX

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Takes the place of sys.stdout."""
        sys.stdout = self
        try:
            yield
        finally:
            if sys.stdout is self:
                sys.stdout = self._inner

    @property
    def text(self) -> str:
        """What was printed."""
        return "".join(self._kept) + ("" if self._room > 0 else "…\n")

    def write(self, text: str) -> int:
        # First there: what it does not take, bytes say, was not printed. A process without a console has none.
        count = len(text) if self._inner is None else self._inner.write(text)
        if threading.get_ident() == self._thread and self._room > 0:
            self._kept.append(text[: self._room])
            self._room -= len(text)
        return count

    def flush(self) -> None:
        if self._inner is not None:
            self._inner.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)
