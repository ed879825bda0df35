"""Replaces the items of a dict while other threads read it."""

from typing import Any

__all__ = ["replace_items"]


def replace_items(mapping: dict[Any, Any], items: dict[Any, Any]) -> None:
    """Make the mapping hold just these items. A key that is in both is never missing during the change."""
    mapping.update(items)  # in one step, for threads that read it now
    # A list, and pop() with a default: other threads add and remove names, too.
    for key in [key for key in list(mapping) if key not in items]:
        mapping.pop(key, None)
