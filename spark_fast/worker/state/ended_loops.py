"""Remembers the outermost loops with a key that have ended, so that code that runs again passes them over.

A script trains, and then saves. If saving fails, the corrected code must save, but not train a second time. So an
outermost loop that has ended is passed over when the script runs again, like an inner loop that has ended within an
item of its outer loop. This is right only if the script comes to the loop once. So the loop begins again if it stands
in a loop without a key, or in code whose source can't be read.
"""

import ast
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from spark_fast.project.sources import decode

__all__ = ["EndedLoops"]

_WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_RELOADER = os.path.join(_WORKER, "reload", "reloader.py")
_CALLERS = frozenset(os.path.join(_WORKER, name) for name in ("slow_path/dispatch.py", "state/hooks.py"))
"""The files of this package that call functions of the script during a checkpoint."""
_PACKAGE = os.path.dirname(_WORKER) + os.sep
_ASYNCIO = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "asyncio") + os.sep
_ENDED_MAX = 1000
"""The most loops to remember, so that a script that makes a new key for each loop does not fill the memory."""
_LOOPS = (ast.For, ast.AsyncFor, ast.While)

_Stack = tuple[tuple[str, str, int], ...]
_Showed = tuple[int, dict[str, Any]]


@dataclass
class _Ended:
    """A loop that has ended.

    stack: file, function and line of the frames in which the loop began, the innermost first.
    showed: the number of the loop's items, and its `kept`.
    times: how often the loop has ended.
    once: whether the script comes to the loop only once; None if not checked yet.
    """

    stack: _Stack
    showed: _Showed
    times: int = 1
    once: bool | None = None


class EndedLoops:
    """The outermost loops with a key that have ended.

    loops.py calls the methods with its lock held.
    """

    def __init__(self) -> None:
        self._recording = False
        self._begun: dict[str, _Stack] = {}
        self._ended: dict[str, _Ended] = {}
        self._passed: set[str] = set()

    def begin(self) -> None:
        """Begin to record, as a script starts that may run again."""
        self._recording = True
        self.forget()

    def forget(self) -> None:
        """Forget all loops, so that each runs again from its first item."""
        self._begun.clear()
        self._ended.clear()
        self._passed.clear()

    def snapshot(self) -> dict[str, _Ended]:
        """Return the loops that have ended, for restore()."""
        return {key: replace(each) for key, each in self._ended.items()}

    def restore(self, taken: dict[str, _Ended]) -> None:
        """Put back the loops of a snapshot, as the code that ran since is rolled back."""
        self.forget()
        self._ended.update(taken)

    # --- called by loops.py ---

    def begun(self, key: str) -> None:
        """Note that an outermost loop begins. Costs about a tenth of a microsecond for each frame on the stack."""
        if not self._recording:
            return
        found = []
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            path = frame.f_code.co_filename
            if path in _CALLERS:
                return
            if path == _RELOADER:
                break
            if not path.startswith((_PACKAGE, _ASYNCIO)):
                found.append((path, frame.f_code.co_name, frame.f_lineno))
            frame = frame.f_back
        self._begun[key] = tuple(found)

    def ended(self, key: str, showed: _Showed) -> None:
        """Note that an outermost loop came to its end, or was left by a `break`.

        showed: the number of the loop's items, and its `kept`.
        """
        stack = self._begun.pop(key, None)
        if stack is None:
            return
        known = self._ended.get(key)
        if known is None and len(self._ended) >= _ENDED_MAX:
            del self._ended[next(iter(self._ended))]
        self._ended[key] = _Ended(stack, showed, 1 if known is None else known.times + 1)

    def left(self, key: str) -> None:
        """Note that an exception left an outermost loop, so that a later run of the script does not pass it over."""
        stack = self._begun.pop(key, None)
        if stack is not None and key not in self._ended and len(self._ended) < _ENDED_MAX:
            self._ended[key] = _Ended(stack, (0, {}), times=0, once=False)

    def passes(self, key: str) -> _Showed | None:
        """Return the number of items and the `kept` of the loop that begins now, if it must be passed over."""
        if key not in self._passed:
            return None
        self._passed.remove(key)
        return self._ended[key].showed

    # --- called by a reload ---

    def was_left(self, key: str) -> bool:
        """Return whether only exceptions have ended the loop."""
        return key in self._ended and self._ended[key].times == 0

    def find(self, sources: Mapping[str, bytes], living: list[str]) -> tuple[list[str], list[str]]:
        """Return the keys of the ended loops to pass over, and of those that begin again.

        sources: the running sources, by path.
        living: the keys of the loops that go on.
        """
        trees: dict[str, ast.Module | None] = {}
        for each in self._ended.values():
            if each.once is None:
                each.once = each.times == 1 and _runs_once(each.stack, sources, trees)
        gone = [key for key in self._ended if key not in living]
        return [key for key in gone if self._ended[key].once], [key for key in gone if not self._ended[key].once]

    def places(self, keys: Iterable[str]) -> list[tuple[str, str, int]]:
        """Return the file, function and line where each of these loops began."""
        return [self._ended[key].stack[0] for key in keys if self._ended[key].stack]

    def pass_over(self, keys: list[str]) -> None:
        """Pass over each of these loops once in the next run of the script."""
        self._begun.clear()
        self._passed.clear()
        self._passed.update(keys)


def _runs_once(stack: _Stack, sources: Mapping[str, bytes], trees: dict[str, ast.Module | None]) -> bool:
    """Return whether no line of the stack stands in a loop, judging by the sources."""
    for number, (path, _, line) in enumerate(stack):
        if path not in trees:
            trees[path] = _parsed(path, sources)
        tree = trees[path]
        if tree is None:
            return False
        inside = [node for node in ast.walk(tree) if isinstance(node, _LOOPS) and _repeats(node, line)]
        # The innermost line is the head of the loop itself, whose body may be on the same line.
        if len(inside) > (number == 0 and any(node.lineno == line for node in inside)):
            return False
    return True


def _repeats(loop: ast.For | ast.AsyncFor | ast.While, line: int) -> bool:
    """Return whether the loop runs this line for each item."""
    first = loop.lineno if isinstance(loop, ast.While) else loop.body[0].lineno
    return first <= line <= (loop.body[-1].end_lineno or line)


def _parsed(path: str, sources: Mapping[str, bytes]) -> ast.Module | None:
    try:
        if path in sources:
            return ast.parse(decode(sources[path]))
        with open(path, "rb") as file:  # a library that calls the project's code
            return ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return None
