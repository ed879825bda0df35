"""Sets values and calls functions for controllers, on the thread that passes a checkpoint.

Mail is the content of a request, in the log's entry or in a file (runfiles/mailbox.py). The core hands out a request
with mail when its step has come. Later requests in the log wait until that request is delivered, or until the called
function passes a checkpoint of its own. The outcome is published last, so that a controller that sees the outcome finds
the reply.
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

from spark_fast import stderr
from spark_fast._core import worker
from spark_fast.errors import FolderRefusedError, SparkInterrupt, StoreError, is_stop
from spark_fast.request import Kind, format_id
from spark_fast.runfiles import mailbox
from spark_fast.runfiles.mailbox import Reply
from spark_fast.runfiles.schema import UnfitError, check_arguments, unknown
from spark_fast.worker import replies, session
from spark_fast.worker.journal import writer
from spark_fast.worker.session import Reason
from spark_fast.worker.state import registry

__all__ = ["Dispatcher", "dispatcher"]

_KEPT = 128
"""The most mails that are kept for other ranks: as many as the log has entries."""
_OUTPUT_MAX = 64 << 10

_BEGUN = Reply("begun")
_LEFT = Reply("failed", "it was left before it had ended")
_SET = Reply("done")
_BESIDE = "code that was asked for before is still running in another thread"


class Dispatcher:
    """The requests with mail that the core has handed out and that are being delivered."""

    def __init__(self) -> None:
        self._begun: list[int] = []
        """The deliveries in progress, by the numbers of their requests in the log, the outermost first. They nest: a
        value may be set at a checkpoint that a called function passes. Only one thread runs deliveries with code of the
        script; other threads set only values without an on_set. If a signal handler raises an exception after the core
        has handed out a request and before its delivery begins, the next checkpoint delivers the request."""
        self._inner = 0
        """How many checkpoints the outermost delivery has passed. They are no steps of the loop, and each takes the
        slow path."""
        self._running: list[str] = []
        """The name of the running function and the id of its call; empty if none runs."""
        self._shared: deque[int] = deque()
        """The ids of the mails that this rank keeps for the others, the oldest first."""

    def busy(self) -> bool:
        """Return whether a request is being delivered, or is about to be. Other requests with mail wait for it."""
        return bool(worker.handed)

    def mine(self) -> bool:
        """Return whether this thread delivers."""
        handed = worker.handed
        return bool(handed) and handed[0]["thread"] == threading.get_ident()

    def inside(self) -> bool:
        """Return whether this thread's checkpoints are passed by its delivery, a called function say."""
        return bool(self._begun) and self.mine()

    def depth(self) -> int:
        """Return how many deliveries this thread is in: they nest when a called function passes a checkpoint."""
        return len(self._begun) if self.mine() else 0

    def left_over(self) -> dict[str, Any] | None:
        """Return the request that the core has handed to this thread and whose delivery has not begun; None if none.

        Called with the session's lock held.
        """
        handed = worker.handed
        return handed[-1] if self.mine() and handed[-1]["seq"] not in self._begun else None

    def inner(self) -> int:
        """Return how many checkpoints this thread has passed in its delivery; 0 if it delivers nothing."""
        return self._inner if self.inside() else 0

    def pass_inner(self) -> int:
        """Count one more checkpoint in this thread's delivery; return the step at which the loop stands.

        Called with the session's lock held.
        """
        self._inner += 1
        return worker.uncount()

    def running_call(self) -> str | None:
        """Return the id of the call that this thread runs, None if it runs none."""
        return self._running[1] if self.inside() and self._running else None

    def stands_over(self, pause: int) -> bool:
        """Return whether this thread runs a function that was called while the worker was parked for this pause.

        If so, the thread must not park for the same pause again.
        """
        return self.inside() and any(entry["held"] == pause for entry in worker.handed)

    def deliver(self, entry: dict[str, Any], step: int) -> None:
        """Set the values or call the function that a request with mail names.

        An error goes to the sender, and the loop goes on. Only an exception that is meant for the loop is raised.
        """
        seq = entry["seq"]
        if seq in self._begun or entry not in worker.handed:
            return  # a signal handler has just passed a checkpoint, which delivered the request
        reply = _LEFT
        try:
            with session.current.lock:
                if not self._begun:
                    self._inner = 0
                self._begun.append(seq)
                session.current.watch.every(Reason.DELIVERY, True)
            try:
                reply = self._do(entry)
            except BaseException as error:
                if _comes_through(error):
                    raise
                # Raised by the user's code in an unexpected place, by the repr() of a default, say.
                reply = _failure(error)
            finally:
                _tell(entry, step, reply)
        finally:
            with session.current.lock:
                if seq in self._begun:
                    self._begun.remove(seq)
                session.current.watch.every(Reason.DELIVERY, bool(self._begun))

    def _do(self, entry: dict[str, Any]) -> Reply:
        folder = session.folder()
        if folder is None:
            return Reply("refused", "the run is not controlled any more")
        mail = entry["mail"]
        try:
            shared = session.has_local_peers() and not entry["ranks"] and not mailbox.stands_in_log(mail)
            content = mailbox.read_mail(folder, mail, keep=shared)
            if shared:
                self._keep(folder, entry["id"])
        except (StoreError, OSError) as error:
            return Reply("refused", f"what it carries can't be read: {error}")
        if entry["kind"] == Kind.SET:
            values = mailbox.values_of(content)
            if values is None:
                return Reply("refused", "what it carries is damaged")
            if not mailbox.stands_in_log(mail):  # the request's line in the journal has mail from the log
                writer.current.payload(format_id(entry["id"]), content)
            return self._set(values)
        name = content.get("name")
        if not isinstance(name, str):
            return Reply("refused", "what it carries is damaged")
        ident = format_id(entry["id"])
        writer.current.payload(ident, content)
        with suppress(OSError, FolderRefusedError):  # the sender needs this only once the log has dropped the request
            mailbox.write_reply(folder, entry["id"], _BEGUN, session.rank(), replace=False)
        try:
            return self._call(name, ident, content)
        finally:
            writer.current.returned(ident)

    def _set(self, values: Mapping[str, Any]) -> Reply:
        """Set values, all or none."""
        none = "; none of the values is set" if len(values) > 1 else ""
        for name in values:
            if not registry.current.is_value(name):
                return Reply("refused", unknown(name, "value", registry.current.listed("value")) + none)
            if registry.current.runs_code(name) and not self.mine():
                return Reply("refused", f"its on_set would have to wait, because {_BESIDE}{none}")
        # Without an on_set nothing is printed, so no output is captured: that saves most of the cost.
        output = _Output(sys.stdout) if any(map(registry.current.runs_code, values)) else None
        try:
            if output is None:
                registry.current.set_values(values)
            else:
                with output.taken():
                    registry.current.set_values(values)
        except UnfitError as error:
            return Reply("refused", str(error) + none)
        except registry.SetterError as failed:  # setting a value must not end the training
            if _comes_through(failed.error):
                raise failed.error from None
            reply = _failure(failed.error, "" if output is None else output.text)
            return replace(reply, reason=f"{failed.name}: {reply.reason}{none}") if none else reply
        return _SET if output is None else Reply("done", output=output.text)

    def _call(self, name: str, ident: str, content: dict[str, Any]) -> Reply:
        args, kwargs = content.get("args", []), content.get("kwargs", {})
        if not isinstance(args, list) or not isinstance(kwargs, dict):
            return Reply("refused", "what it carries is damaged")
        if name not in registry.current.listed("function"):
            return Reply("refused", unknown(name, "function", registry.current.listed("function")))
        fn, described = registry.current.function_of(name)
        try:
            check_arguments(name, described, args, kwargs)
        except UnfitError as error:
            return Reply("refused", str(error))
        if self._running:
            return Reply("refused", f"{self._running[0]}() is still running, and one function runs at a time")
        if not self.mine():
            return Reply("refused", f"it would have to wait, because {_BESIDE}")
        output = _Output(sys.stdout)
        self._running.extend((name, ident))
        try:
            with output.taken():
                result = fn(*args, **kwargs)
        except BaseException as error:  # a call must not end the training
            if _comes_through(error):
                raise
            return _failure(error, output.text)
        finally:
            self._running.clear()
        try:
            plain = json.loads(json.dumps(result, default=_plain))
            size = len(json.dumps(plain))
        except Exception as error:  # a tensor that can't be copied, a dict that another thread changes
            return Reply("failed", f"what {name}() returned is no JSON: {error}", output=output.text)
        if size > mailbox.RESULT_MAX:
            return Reply("failed", f"what {name}() returned has {size} bytes: at most {mailbox.RESULT_MAX} are sent")
        return Reply("done", result=plain, output=output.text)

    def _keep(self, folder: Path, ident: int) -> None:
        """Keep a mail until the log has dropped its request: no rank knows when the last rank has read it."""
        while len(self._shared) >= _KEPT:
            mailbox.discard_mail(folder, self._shared.popleft())
        self._shared.append(ident)


dispatcher = Dispatcher()
"""The dispatcher of this process. A process that is forked during a delivery never becomes a worker."""


def _plain(found: Any) -> Any:
    """Return an array or a tensor as lists and numbers."""
    listed = getattr(found, "tolist", None)
    if not callable(listed):
        raise TypeError(f"{type(found).__name__} can't be sent")
    return listed()


def _comes_through(error: BaseException) -> bool:
    """Return whether the error is meant for the loop and not for the function that happened to run: a stop, a reload,
    an interrupt, or a SystemExit that a signal handler raised."""
    if isinstance(error, (KeyboardInterrupt, SparkInterrupt)) or is_stop(error):
        return True
    if not isinstance(error, SystemExit):
        return False
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    codes = [getattr(getattr(each, "__func__", each), "__code__", None) for each in handlers]
    return any(frame.f_code in codes for frame, _line in traceback.walk_tb(error.__traceback__))


def _failure(error: BaseException, output: str = "") -> Reply:
    found = traceback.TracebackException.from_exception(error)
    found.__notes__ = None  # the notes would come after the line that is wanted
    reason = list(found.format_exception_only())[-1].strip()
    return Reply("failed", reason, stderr.as_printed(error), output=output)


def _tell(entry: dict[str, Any], step: int, reply: Reply) -> None:
    folder = session.folder()
    failed = reply.state != "done"
    told = False
    if failed:
        writer.current.failed(format_id(entry["id"]), reply.reason)
    try:
        if folder is not None and (failed or entry["kind"] == Kind.CALL or reply.output):
            replies.write(folder, entry["id"], replace(reply, step=step))
        told = True
    except (OSError, FolderRefusedError, ValueError, TypeError) as error:
        stderr.warn(f"the sender of a {Kind(entry['kind']).name.lower()} can't be answered: {error}")
        if folder is not None:
            mailbox.remove_reply(folder, entry["id"])  # the reply "begun"
    finally:
        with session.current.lock:
            # A call counts as failed if its result can't be sent.
            worker.publish_outcome(entry["seq"], step, failed=failed or not told)


class _Output:
    """Standard output while a function runs: passes everything on, and keeps a copy of what this thread prints."""

    def __init__(self, inner: TextIO | None) -> None:
        self._inner = inner
        self._thread = threading.get_ident()
        self._kept: list[str] = []
        self._room = _OUTPUT_MAX

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take the place of sys.stdout until the block ends."""
        sys.stdout = self
        try:
            yield
        finally:
            if sys.stdout is self:
                sys.stdout = self._inner

    @property
    def text(self) -> str:
        """The text that this thread has printed."""
        return "".join(self._kept) + ("" if self._room > 0 else "…\n")

    def write(self, text: str) -> int:
        # Passed on first: if the inner stream refuses the text (bytes, say), nothing was printed. It is None without a
        # console.
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
