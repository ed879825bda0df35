"""Removes classes from registries that refuse a second class of the same name."""

from typing import Any

from spark_fast.worker.reload.patching.referrers import referrers
from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["Registries", "discard"]


class Registries:
    """Takes a class out of the dicts that register classes, until it is made again.

    A dict counts as a registry if all its values can be called, and it is not a namespace.

    Attributes:
        members: the classes that may be registered. Complete it before the first call of leave().
    """

    def __init__(self, log: UndoLog) -> None:
        self.members: list[type] = []
        self._log = log
        self._found: list[dict[Any, Any]] | None = None
        self._left: dict[type, list[tuple[dict[Any, Any], Any]]] = {}

    def leave(self, cls: type) -> None:
        """Take a class out of the registries, before its statement is executed again.

        The first call for a member costs a pass over all objects.
        """
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
        """Put a class that was made again back into the registries in which it is missing."""
        for holder, key in self._left.pop(cls, ()):
            holder.setdefault(key, cls)


def discard(holder: object, classes: list[type], log: UndoLog) -> None:
    """Take the classes out of a dict, a list or a set."""
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
