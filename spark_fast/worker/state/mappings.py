"""Mappings that other threads read while they are changed."""

from typing import Any

__all__ = ["replace_items"]


def replace_items(mapping: dict[Any, Any], items: dict[Any, Any]) -> None:
    """Make the mapping hold just these items. An item that stays is never missing in between."""
    mapping.update(items)  # at once, for threads that look at it meanwhile
    # A list, and no look that fails: those threads bind and unbind names, too.
    for key in [key for key in list(mapping) if key not in items]:
        mapping.pop(key, None)
