"""Replaces references to an object that a reload made and discarded by references to the object that stays."""

import functools
import sys
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from types import (
    AsyncGeneratorType,
    BuiltinMethodType,
    CellType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    GenericAlias,
    MemberDescriptorType,
    MethodType,
    UnionType,
)
from typing import Any

from spark_fast.worker.reload.patching.functions import LruCache, attributes_of
from spark_fast.worker.reload.patching.referrers import contents, referrers
from spark_fast.worker.reload.patching.undo import UndoLog

__all__ = ["Discarded", "replace_references"]

_MOST_ROUNDS = 8  # a tuple in a tuple in a partial is three
_GENERATORS = (GeneratorType, CoroutineType, AsyncGeneratorType)
_KEPT_IN_CACHES = "_lru_list_elem"


class Discarded:
    """The objects that a reload has made and discarded, each with the object that stays in its place.

    The lists are separate, since a list of pairs would count as a holder of discarded objects, and be changed.
    """

    def __init__(self) -> None:
        self.gone: list[Any] = []
        self.stays: list[Any] = []
        self.labels: list[str] = []

    def __bool__(self) -> bool:
        return bool(self.gone)

    def add(self, gone: object, stays: object, label: str) -> None:
        """Add a discarded object and the one that stays. label: file, line and name, for people."""
        self.gone.append(gone)
        self.stays.append(stays)
        self.labels.append(label)


def replace_references(discarded: Discarded, ours: Iterable[object] = ()) -> list[str]:
    """Make each holder of a discarded object hold the one that stays. Return a sentence for each holder that can't.

    ours: the objects by which the patch itself holds discarded objects.

    Immutable holders (tuples, frozensets, bound methods, weak references) are replaced by new ones, and then their own
    holders are changed. A rollback does not undo this, since it is right in any case. Costs a pass over all objects for
    each level of immutable holders.
    """
    return _Replacement(discarded, ours).run()


class _Replacement:
    def __init__(self, discarded: Discarded, ours: Iterable[object]) -> None:
        self._sought = discarded.gone
        self._stands = {id(gone): stays for gone, stays in zip(discarded.gone, discarded.stays, strict=True)}
        self._labels = {id(gone): label for gone, label in zip(discarded.gone, discarded.labels, strict=True)}
        self._kept = list(discarded.gone)  # keeping the objects keeps their ids unique
        self._fresh: list[Any] = []
        self._ours = {id(thing) for thing in (discarded.gone, self._kept, self._fresh, self._stands, *ours)}
        self._log = UndoLog()
        self._namespaces: list[dict[Any, Any]] = []
        self._ours.add(id(self._namespaces))
        self._warnings: list[str] = []

    def run(self) -> list[str]:
        for _ in range(_MOST_ROUNDS):
            for gone in list(self._sought):
                self._seek_weak_references(gone)
            for holder in referrers(self._sought):
                if id(holder) not in self._ours and not isinstance(holder, FrameType):
                    self._visit(holder)
            self._visit_namespaces()
            sought, self._sought = self._sought, self._fresh[:]
            self._ours.add(id(self._sought))
            self._kept += self._sought
            self._fresh.clear()
            del sought
            if not self._sought:
                break
        return list(dict.fromkeys(self._warnings))

    def _stand(self, thing: Any) -> Any:
        return self._stands.get(id(thing), thing)

    # --- holders ---

    def _visit(self, holder: Any) -> None:
        kind = type(holder)
        if isinstance(holder, type):
            self._in_class(holder)
        elif isinstance(holder, dict) and "__module__" in holder and "__doc__" in holder:
            self._namespaces.append(holder)  # it may be a class's namespace, and a class's attributes are cached
            return
        elif (type(holder) is dict and _is_of_python(holder)) or isinstance(holder, LruCache):
            return
        elif isinstance(holder, CellType):
            holder.cell_contents = self._stand(holder.cell_contents)
        elif isinstance(holder, _GENERATORS):
            self._warn(holder, _named(holder))
            return
        elif (remake := _remaker(kind)) is not None:
            self._remake(holder, remake)
            return
        elif isinstance(holder, FunctionType):
            self._in_function(holder)
        else:
            self._in_object(holder)
        if not isinstance(holder, type) and any(id(part) in self._stands for part in contents(holder)):
            self._warn_of_object(holder)

    def _in_object(self, holder: Any) -> None:
        if isinstance(holder, dict):
            self._in_dict(holder)
        elif isinstance(holder, (list, deque)):
            self._in_sequence(holder)
        elif isinstance(holder, set):
            for gone in [thing for thing in list(set.__iter__(holder)) if id(thing) in self._stands]:
                set.discard(holder, gone)
                set.add(holder, self._stand(gone))
        elif isinstance(holder, functools.partial):
            partial: Any = functools.partial
            function, args, keywords, attributes = partial.__reduce__(holder)[2]
            state = self._stand(function), self._stand(args), self._stand(keywords), attributes
            partial.__setstate__(holder, state)
        if id(type(holder)) in self._stands:
            try:
                self._log.set_class(holder, self._stand(type(holder)))
            except TypeError as error:
                self._warn(type(holder), f"an instance that was made meanwhile, and can't be changed ({error}),")
        self._in_dict(attributes_of(holder))
        self._in_slots(holder)

    def _in_slots(self, holder: Any) -> None:
        for cls in type(holder).__mro__:
            for slot in list(vars(cls).values()):
                if not isinstance(slot, MemberDescriptorType):
                    continue
                try:
                    value = slot.__get__(holder, cls)
                    if id(value) in self._stands:
                        slot.__set__(holder, self._stand(value))
                except (AttributeError, TypeError):  # an empty slot, or a read-only one of C, which contents() finds
                    continue

    def _in_sequence(self, holder: "list[Any] | deque[Any]") -> None:
        kept = [thing for thing in list(holder) if id(thing) not in self._stands]
        for index in range(len(holder) - 1, -1, -1):
            if id(holder[index]) not in self._stands:
                continue
            stays = self._stand(holder[index])
            if any(_are_same(stays, thing) for thing in kept):
                del holder[index]  # the list already holds the one that stays
            else:
                holder[index] = stays

    def _in_dict(self, holder: dict[Any, Any]) -> None:
        # By the methods of dict: a registry's own may refuse to set an item twice.
        kind: Any = OrderedDict if isinstance(holder, OrderedDict) else dict
        items = list(kind.items(holder))
        for key, value in items:
            if id(value) in self._stands:
                kind.__setitem__(holder, key, self._stand(value))
        first = next((index for index, (key, _) in enumerate(items) if id(key) in self._stands), len(items))
        for key, _ in items[first:]:  # the order stays
            value, stays = kind.pop(holder, key), self._stand(key)
            if type(value) is weakref.KeyedRef and stays is not key:
                if stays in holder or value() is None:
                    continue  # a cache that has a value for the object that stays
                value = weakref.KeyedRef(value(), value.__callback__, stays)
            kind.__setitem__(holder, stays, value)

    def _in_function(self, holder: FunctionType) -> None:
        if id(holder.__defaults__) in self._stands:
            holder.__defaults__ = self._stand(holder.__defaults__)
        if id(getattr(holder, "__type_params__", None)) in self._stands:
            holder.__type_params__ = self._stand(holder.__type_params__)  # type: ignore[attr-defined]
        if sys.version_info < (3, 14):
            self._in_dict(holder.__annotations__)  # a tuple until their first use

    def _in_class(self, holder: type) -> None:
        if id(holder) in self._stands:
            return
        if any(id(base) in self._stands for base in holder.__bases__):
            self._log.set_bases(holder, tuple(map(self._stand, holder.__bases__)))
        if id(type(holder)) in self._stands:
            self._log.set_class(holder, self._stand(type(holder)))

    def _visit_namespaces(self) -> None:
        if not self._namespaces:
            return
        owners = [holder for holder in referrers(self._namespaces) if isinstance(holder, type)]
        for namespace in self._namespaces:
            if not any(self._in_namespace(owner, namespace) for owner in owners):
                self._in_dict(namespace)
        self._namespaces.clear()

    def _in_namespace(self, owner: type, namespace: dict[Any, Any]) -> bool:
        """Replace in a class, if this is its namespace. Return whether it is, which only the contents show."""
        if len(vars(owner)) != len(namespace) or any(
            vars(owner).get(name) is not value for name, value in namespace.items()
        ):
            return False
        for name, value in list(namespace.items()):
            if id(value) in self._stands and id(owner) not in self._stands:
                self._log.set_attribute(owner, name, self._stand(value))
        return True

    # --- immutable holders ---

    def _remake(self, holder: Any, remake: "Callable[[Callable[[Any], Any], Any], Any]") -> None:
        if isinstance(holder, tuple) and holder and isinstance(holder[0], type) and holder[0].__mro__ is holder:
            return
        if type(holder) is BuiltinMethodType and not hasattr(self._stand(holder.__self__), holder.__name__):
            return
        made = remake(self._stand, holder)
        if made is not None:
            self._replace_too(holder, made)

    def _replace_too(self, gone: Any, stays: Any) -> None:
        inner = next((id(part) for part in contents(gone) if id(part) in self._labels), 0)
        self._stands[id(gone)] = stays
        self._labels[id(gone)] = self._labels.get(inner, "")
        self._fresh.append(gone)

    def _seek_weak_references(self, gone: Any) -> None:
        if not isinstance(gone, (type, FunctionType)):
            return
        stays = self._stand(gone)
        for reference in weakref.getweakrefs(gone):
            kind = type(reference)
            # The bases of a class hold such a reference to it. If no other object does, it is left alone.
            plain = kind is weakref.ref and reference.__callback__ is None
            ours = len(gone.__bases__) if plain and isinstance(gone, type) else 0
            if sys.getrefcount(reference) <= ours + 3:
                continue
            if kind is weakref.ref:
                made: Any = weakref.ref(stays, reference.__callback__)
            elif kind is weakref.KeyedRef:
                made = weakref.KeyedRef(stays, reference.__callback__, reference.key)
            else:
                self._warn(gone, f"a weak reference of the type {kind.__qualname__}")
                continue
            self._labels[id(reference)] = self._labels.get(id(gone), "")
            self._stands[id(reference)] = made
            self._kept.append(reference)
            self._fresh.append(reference)

    # --- warnings ---

    def _warn_of_object(self, holder: Any) -> None:
        if id(getattr(holder, "__objclass__", None)) in self._stands:
            return  # the holder is a descriptor of the discarded class
        gone = next(part for part in contents(holder) if id(part) in self._stands)
        self._warn(gone, f"an object of the type {type(holder).__qualname__}")

    def _warn(self, gone: Any, holder: str) -> None:
        if isinstance(gone, _GENERATORS):
            gone = next((part for part in contents(gone) if id(part) in self._labels), None)
        label = self._labels.get(id(gone), "")
        self._warnings.append(
            f"{label}: {holder} holds the copy of it that this reload made and discarded, and will keep its present "
            "code; make that object anew"
        )


def _is_of_python(holder: dict[Any, Any]) -> bool:
    """Return whether this is a dict of Python itself: a class's subclasses, by address, or a function's cache.

    A discarded object does no harm in either.
    """
    return any(
        (type(value) is weakref.ref and key == id(value())) or type(value).__qualname__ == _KEPT_IN_CACHES
        for key, value in list(holder.items())
    )


def _remaker(kind: type) -> "Callable[[Callable[[Any], Any], Any], Any] | None":
    if issubclass(kind, tuple):
        return _remade_tuple
    if issubclass(kind, frozenset):
        return _remade_frozenset
    return _REMAKERS.get(kind)


def _remade_tuple(stand: Callable[[Any], Any], holder: Any) -> Any:
    made: Any = tuple.__new__(type(holder), map(stand, tuple.__iter__(holder)))
    attributes_of(made).update(attributes_of(holder))
    return made


def _remade_frozenset(stand: Callable[[Any], Any], holder: Any) -> Any:
    made: Any = frozenset.__new__(type(holder), map(stand, frozenset.__iter__(holder)))
    attributes_of(made).update(attributes_of(holder))
    return made


def _remade_union(stand: Callable[[Any], Any], holder: Any) -> Any:
    return functools.reduce(lambda one, other: one | other, map(stand, holder.__args__))


_REMAKERS: dict[type, Callable[[Callable[[Any], Any], Any], Any]] = {
    MethodType: lambda stand, holder: MethodType(stand(holder.__func__), stand(holder.__self__)),
    BuiltinMethodType: lambda stand, holder: getattr(stand(holder.__self__), holder.__name__),
    GenericAlias: lambda stand, holder: GenericAlias(stand(holder.__origin__), tuple(map(stand, holder.__args__))),
    UnionType: _remade_union,
    property: lambda stand, holder: property(
        stand(holder.fget), stand(holder.fset), stand(holder.fdel), holder.__doc__
    ),
    staticmethod: lambda stand, holder: staticmethod(stand(holder.__func__)),
    classmethod: lambda stand, holder: classmethod(stand(holder.__func__)),
}


def _are_same(one: object, other: object) -> bool:
    if type(one) is tuple and type(other) is tuple:
        return len(one) == len(other) and all(map(_are_same, one, other))
    return one is other or (type(one) is type(other) and type(one) in (str, int, float, bytes) and one == other)


def _named(generator: Any) -> str:
    code = next(getattr(generator, name) for name in ("gi_code", "cr_code", "ag_code") if hasattr(generator, name))
    return f"the suspended generator {code.co_qualname}() of {code.co_filename}:{code.co_firstlineno}"
