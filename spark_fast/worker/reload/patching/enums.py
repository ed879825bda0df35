"""Keeps the identity of an enum's members when the enum is defined again."""

from collections.abc import Callable
from enum import EnumMeta, Flag
from typing import Any

from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["adopt_members", "name_composites"]

_LISTS = ("_member_names_", "_unhashable_values_", "_hashable_values_", "_unhashable_values_map_")
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made by a class statement


def adopt_members(
    log: UndoLog, old: EnumMeta, new: EnumMeta, refuse: Callable[[str], Exception]
) -> tuple[dict[int, object], dict[str, object]]:
    """Give old members the content of the new members of the same names; move all other new members to the old class.

    Return the replacement of each new member, by the new member's id, and the class attributes that list the members.

    refuse: makes the error to raise, from a reason.
    """
    stands: dict[int, object] = {}
    for member in [*new._member_map_.values(), *new._value2member_map_.values()]:
        if id(member) in stands:
            continue
        kept = old._member_map_.get(member._name_) if member._name_ is not None else None
        if kept is None or kept._name_ != member._name_:
            log.set_class(member, old)
            kept = member
        elif not _same_data(kept, member, new):
            raise refuse(
                f"the value of {kept._name_} changed from {kept._value_!r} to {member._value_!r}, and it is part of "
                f"an immutable {_data_type(new).__name__}"
            )
        attributes = dict(vars(member))
        if "__objclass__" in attributes:
            attributes["__objclass__"] = old
        if issubclass(new, Flag) and "_inverted_" in vars(kept):
            attributes["_inverted_"] = None  # the enum computes this attribute at its next use
        log.set_items(vars(kept), attributes)
        stands[id(member)] = kept
    values = {value: stands[id(member)] for value, member in new._value2member_map_.items()}
    if issubclass(new, Flag):
        # Combinations of flags that were made at run time stay.
        named = {id(member) for member in old._member_map_.values()}
        mask: int = getattr(new, "_flag_mask_", 0)
        for value, member in old._value2member_map_.items():
            if id(member) not in named and value not in values and not value & ~mask:
                log.set_items(vars(member), {"_inverted_": None} if "_inverted_" in vars(member) else {})
                values[value] = member
    lists: dict[str, object] = {name: vars(new)[name] for name in _LISTS if name in vars(new)}
    lists["_member_map_"] = {name: stands[id(member)] for name, member in new._member_map_.items()}
    lists["_value2member_map_"] = values
    return stands, lists


def name_composites(log: UndoLog, cls: EnumMeta) -> None:
    """Name the combinations of flags by the present names of their members. Call it when the class is complete."""
    if not issubclass(cls, Flag):
        return
    named = {id(member) for member in cls._member_map_.values()}
    for member in list(cls._value2member_map_.values()):
        if id(member) not in named and member._value_:
            parts: Any = cls._iter_member_(member._value_)  # type: ignore[attr-defined]
            log.set_items(vars(member), {"_name_": "|".join(part._name_ for part in parts) or None})


def _data_type(cls: EnumMeta) -> type:
    found: type = getattr(cls, "_member_type_", object)
    return found


def _same_data(old: Any, new: Any, cls: EnumMeta) -> bool:
    data: Any = _data_type(cls)
    builtin: type = data
    while builtin.__flags__ & _HEAP_TYPE and builtin.__base__ is not None:
        builtin = builtin.__base__
    if builtin is object:
        return True  # all their data is in their namespaces
    return type(old._value_) is type(new._value_) and old._value_ == new._value_ and bool(data.__eq__(old, new))
