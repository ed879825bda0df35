"""The outermost loops with a key that have ended, which code that runs again passes over.

A script trains, and then saves. If saving fails, fixed code is to save and not to train a second time. So an outermost
loop that has ended is passed over when the script runs again, as is a loop that has ended within an item of its outer
loop. This holds only if the script comes to the loop once: a loop within a loop without a key begins anew, and so does
one in code whose source can't be read. The functions are called with the lock of loops.py held.
"""

import ast
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from spark_fast.project.sources import decode

__all__ = [
    "begin",
    "begun",
    "ended",
    "find",
    "forget",
    "left",
    "pass_over",
    "passes",
    "places",
    "restore",
    "snapshot",
    "was_left",
]

_WORKER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_RELOADER = os.path.join(_WORKER, "reload", "reloader.py")
_CALLERS = frozenset(os.path.join(_WORKER, name) for name in ("slow_path/dispatch.py", "state/hooks.py"))
"""Files that call functions of the script in the middle of a checkpoint."""
_PACKAGE = os.path.dirname(_WORKER) + os.sep
_ASYNCIO = os.path.join(os.path.dirname(os.path.abspath(os.__file__)), "asyncio") + os.sep
_ENDED_MAX = 1000
"""Loops that are remembered: bounds the memory of a script that makes up a key for each loop."""
_LOOPS = (ast.For, ast.AsyncFor, ast.While)

_Stack = tuple[tuple[str, str, int], ...]
_Showed = tuple[int, dict[str, Any]]


@dataclass
class _Ended:
    """A loop that has ended.

    stack: file, function and line of the frames that it began in, the innermost first.
    showed: its items and its `kept`.
    once: whether the script comes to it only once; None if that is not known yet.
    """

    stack: _Stack
    showed: _Showed
    times: int = 1
    once: bool | None = None


_recording = False
_begun: dict[str, _Stack] = {}
_ended: dict[str, _Ended] = {}
_passed: set[str] = set()


def begin() -> None:
    """Note that a script begins that can be run again."""
    global _recording
    _recording = True
    forget()


def forget() -> None:
    """Forget all loops, so that none is passed over."""
    _begun.clear()
    _ended.clear()
    _passed.clear()


def snapshot() -> dict[str, _Ended]:
    """Return the loops that have ended, for restore()."""
    return {key: replace(each) for key, each in _ended.items()}


def restore(found: dict[str, _Ended]) -> None:
    """Put back a snapshot: the code that has run since is rolled back."""
    forget()
    _ended.update(found)


def begun(key: str) -> None:
    """Note that an outermost loop begins. Costs about a tenth of a microsecond for each frame on the stack."""
    if not _recording:
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
    _begun[key] = tuple(found)


def ended(key: str, showed: _Showed) -> None:
    """Note that an outermost loop has come to its end, or was left by a `break`. showed: its items and its `kept`."""
    stack = _begun.pop(key, None)
    if stack is None:
        return
    known = _ended.get(key)
    if known is None and len(_ended) >= _ENDED_MAX:
        del _ended[next(iter(_ended))]
    _ended[key] = _Ended(stack, showed, 1 if known is None else known.times + 1)


def left(key: str) -> None:
    """Note that an exception has left an outermost loop. A later run of the script does not pass it over."""
    stack = _begun.pop(key, None)
    if stack is not None and key not in _ended and len(_ended) < _ENDED_MAX:
        _ended[key] = _Ended(stack, (0, {}), times=0, once=False)


def was_left(key: str) -> bool:
    """Return whether the loop ended by an exception, and in no other way."""
    return key in _ended and _ended[key].times == 0


def find(sources: Mapping[str, bytes], living: list[str]) -> tuple[list[str], list[str]]:
    """Return the keys of loops that have ended: those to pass over, and those that begin anew.

    sources: the sources that run, by path.
    living: the keys of the loops that go on.
    """
    trees: dict[str, ast.Module | None] = {}
    for each in _ended.values():
        if each.once is None:
            each.once = each.times == 1 and _is_met_once(each.stack, sources, trees)
    gone = [key for key in _ended if key not in living]
    return [key for key in gone if _ended[key].once], [key for key in gone if not _ended[key].once]


def places(keys: Iterable[str]) -> list[tuple[str, str, int]]:
    """Return file, function and line of these loops."""
    return [_ended[key].stack[0] for key in keys if _ended[key].stack]


def pass_over(keys: list[str]) -> None:
    """Have these loops passed over, each once: the script is about to run again."""
    _begun.clear()
    _passed.clear()
    _passed.update(keys)


def passes(key: str) -> _Showed | None:
    """Return the items and the `kept` of the outermost loop that begins now if it is passed over, else None."""
    if key not in _passed:
        return None
    _passed.remove(key)
    return _ended[key].showed


def _is_met_once(stack: _Stack, sources: Mapping[str, bytes], trees: dict[str, ast.Module | None]) -> bool:
    for number, (path, _, line) in enumerate(stack):
        if path not in trees:
            trees[path] = _parsed(path, sources)
        tree = trees[path]
        if tree is None:
            return False
        inside = [node for node in ast.walk(tree) if isinstance(node, _LOOPS) and _repeats(node, line)]
        # The innermost line is that of the loop itself, whose body may be on that line too.
        if len(inside) > (number == 0 and any(node.lineno == line for node in inside)):
            return False
    return True


def _repeats(loop: ast.For | ast.AsyncFor | ast.While, line: int) -> bool:
    """Return whether the loop repeats this line."""
    first = loop.lineno if isinstance(loop, ast.While) else loop.body[0].lineno
    return first <= line <= (loop.body[-1].end_lineno or line)


def _parsed(path: str, sources: Mapping[str, bytes]) -> ast.Module | None:
    try:
        if path in sources:
            return ast.parse(decode(sources[path]))
        with open(path, "rb") as file:  # of a library that calls the project's code
            return ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return None
