"""Lets a reload execute code a second time although the code registers things with libraries.

Some functions of libraries may be called only once in a process, or add an entry with each call. Such functions are
exchanged while a reload executes code and has it on probation. An entry that the executing thread then registers takes
the place of the one that it registered before. In other threads, and at all other times, the functions do what they
always do.
"""

import inspect
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from spark_fast import stderr
from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["Exchange", "Keep", "Repetition", "Repetitions", "exchange", "keep_default"]

Exchange = Callable[[ModuleType, "Repetitions"], Callable[[], object]]
"""Exchanges functions of a library; returns the function that puts them back."""
Keep = Callable[[ModuleType, UndoLog], None]
"""Adds to the undo log a step that takes back what new code changes in a library."""


class Repetition:
    """The repeated registrations of one reload. Call begin(), and in the end keep() or undo().

    names: the names of the modules that are executed again.
    sources: their sources that ran before.

    Attributes:
        thread: the thread that executes the modules.
        warnings: a sentence for each entry that is registered twice.
        log: the steps that undo() takes back.
        at_end: the functions that keep() calls.
    """

    def __init__(self, owner: "Repetitions", names: Iterable[str], sources: Iterable[bytes]) -> None:
        self.names = set(names)
        self.thread = threading.get_ident()
        self.warnings: list[str] = []
        self.log = UndoLog()
        self.at_end: list[Callable[[], object]] = []
        self._owner = owner
        self._seen: list[object] = []
        self._sources = list(sources)

    def begin(self) -> None:
        """Exchange the functions: from now on, this thread registers its entries again."""
        self._owner.add(self)

    def keep(self) -> None:
        """Keep what the new code has registered."""
        self.log.clear()
        for tidy_up in self.at_end:
            tidy_up()
        self._end()

    def undo(self) -> None:
        """Put back what was registered before the new code."""
        try:
            self.log.undo()
        finally:
            self._end()

    def _end(self) -> None:
        if self._owner.remove(self):
            self._seen.clear()
            self.at_end.clear()

    def is_new(self, key: object) -> bool:
        """Return whether this is the first call with this key. Remember the key."""
        if key in self._seen:
            return False
        self._seen.append(key)
        return True

    def has_seen(self, key: object) -> bool:
        """Return whether is_new() was called with this key."""
        return key in self._seen

    def mentions(self, word: bytes) -> bool:
        """Return whether the old code contains this word."""
        return any(word in source for source in self._sources)


class Repetitions:
    """The reloads whose code is being executed or on probation, and the functions that are exchanged for that time.

    exchanges: exchange functions of libraries, by the name of the module.
    keeps: prepare to take back changes in libraries, by the name of the module.
    """

    def __init__(self, exchanges: Mapping[str, Exchange], keeps: Mapping[str, Keep]) -> None:
        self._exchanges = exchanges
        self._keeps = keeps
        self._begun: list[Repetition] = []
        self._exchanged: dict[str, Callable[[], object]] = {}

    @property
    def current(self) -> Repetition | None:
        """The last reload that has begun, if this thread executes its code; else None."""
        found = self._begun[-1] if self._begun else None
        return found if found is not None and found.thread == threading.get_ident() else None

    def add(self, repetition: Repetition) -> None:
        """Exchange the functions of all libraries that are loaded."""
        self._begun.append(repetition)
        for name in [name for name in (*self._exchanges, *self._keeps) if name in sys.modules]:
            try:
                if name in self._exchanges and name not in self._exchanged:
                    self._exchanged[name] = self._exchanges[name](sys.modules[name], self)
                if name in self._keeps:
                    self._keeps[name](sys.modules[name], repetition.log)
            except Exception as error:  # an unknown version of the library; the code may not need the exchange
                stderr.warn(f"{name} can't be told that code runs a second time: {type(error).__name__}: {error}")

    def remove(self, repetition: Repetition) -> bool:
        """End a repetition; put the functions back after the last one. Return whether it had begun."""
        if repetition not in self._begun:
            return False
        self._begun.remove(repetition)
        if not self._begun:
            while self._exchanged:
                self._exchanged.popitem()[1]()
        return True


def exchange(owner: Any, name: str, make: Callable[[Any], Any]) -> Callable[[], object]:
    """Replace an attribute by the result of `make`. Return the function that puts the attribute back."""
    had = inspect.getattr_static(owner, name)
    made = make(had)
    setattr(owner, name, made)

    def put_back() -> None:
        if inspect.getattr_static(owner, name) is made:
            setattr(owner, name, had)

    return put_back


def keep_default(function: Any, name: str, value: object) -> Callable[[], object]:
    """Give a keyword of a function another default. Return the function that puts it back."""
    function = inspect.unwrap(function)
    had = function.__kwdefaults__[name]
    function.__kwdefaults__[name] = value

    def put_back() -> None:
        function.__kwdefaults__[name] = had

    return put_back
