"""Replaces the items of a dict that other threads read meanwhile."""

from typing import Any

__all__ = ["replace_items"]


def replace_items(mapping: dict[Any, Any], items: dict[Any, Any]) -> None:
    """Make the mapping hold just these items. A key that is in both is never missing meanwhile."""
    mapping.update(items)  # in one step, for threads that read it meanwhile
    # A list, and pop() with a default: other threads add and remove names, too.
    for key in [key for key in list(mapping) if key not in items]:
        mapping.pop(key, None)
