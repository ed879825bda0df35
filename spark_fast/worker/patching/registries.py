"""Registries that refuse a second class of a name, when a class that stands in them is made anew."""

import gc
from typing import Any

from spark_fast.worker.patching.undo import UndoLog

__all__ = ["Registries", "discard"]


class Registries:
    """Takes a class out of the dicts that register classes, until it is made anew.

    A dict is a registry if all its values can be called, and no namespace.
    """

    def __init__(self, log: UndoLog) -> None:
        self._log = log
        self._left: dict[type, list[tuple[dict[Any, Any], Any]]] = {}

    def leave(self, cls: type) -> None:
        """To be called before a class statement is executed again. Looks once at all objects."""
        for holder in gc.get_referrers(cls):
            if not isinstance(holder, dict) or not _is_registry(holder):
                continue
            keys = [key for key, value in list(holder.items()) if value is cls]
            if keys:
                self._log.keep_items(holder)
            for key in keys:
                del holder[key]
                self._left.setdefault(cls, []).append((holder, key))

    def come_back(self, cls: type) -> None:
        """To be called when it has been made. Where it was not registered anew, it is as before."""
        for holder, key in self._left.pop(cls, ()):
            holder.setdefault(key, cls)

    def forget(self) -> None:
        self._left.clear()


def discard(holder: object, classes: list[type], log: UndoLog) -> None:
    """Takes the classes out of a dict, a list or a set."""
    if type(holder) is dict:
        keys = [key for key, value in list(holder.items()) if any(value is cls for cls in classes)]
        if keys:
            log.keep_items(holder)
        for key in keys:
            del holder[key]
    elif type(holder) is list and any(value is cls for value in holder for cls in classes):
        had = list(holder)
        log.add(lambda: holder.__setitem__(slice(None), had))
        holder[:] = [value for value in had if not any(value is cls for cls in classes)]
    elif type(holder) is set and not holder.isdisjoint(classes):
        found = holder.intersection(classes)
        log.add(lambda: holder.update(found))
        holder -= found


def _is_registry(holder: dict[Any, Any]) -> bool:
    return not {"__module__", "__name__", "__builtins__"} & holder.keys() and all(map(callable, list(holder.values())))
