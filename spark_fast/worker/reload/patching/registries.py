"""Registries that refuse a second class of a name, when a class that stands in them is made anew."""

from typing import Any

from spark_fast.worker.reload.patching.referrers import referrers
from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["Registries", "discard"]


class Registries:
    """Takes a class out of the dicts that register classes, until it is made anew.

    A dict is a registry if all its values can be called, and no namespace.

    Attributes:
        members: the classes that may stand in registries. Complete before the first of them leaves.
    """

    def __init__(self, log: UndoLog) -> None:
        self.members: list[type] = []
        self._log = log
        self._found: list[dict[Any, Any]] | None = None
        self._left: dict[type, list[tuple[dict[Any, Any], Any]]] = {}

    def leave(self, cls: type) -> None:
        """To be called before a class statement is executed again. The first member's call looks at all objects."""
        if not any(cls is member for member in self.members):
            return
        if self._found is None:
            holders = referrers(self.members)
            self._found = [holder for holder in holders if isinstance(holder, dict) and _is_registry(holder)]
        for holder in self._found:
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
