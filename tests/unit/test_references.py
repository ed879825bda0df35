"""What a hook or a decorator has put away is, after a reload, the class or the function that lives on."""

import ast
import gc
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest

from spark_fast._core import frozen_referrers
from spark_fast.worker.reload.patching import Patch
from tests.unit.test_patching import Edited

pytestmark = pytest.mark.unit

LIBRARY = """
import collections, functools, threading, types, weakref
from dataclasses import dataclass

class Slot:
    __slots__ = ("held",)

@dataclass(frozen=True, slots=True)
class Frozen:
    held: type

class Point(collections.namedtuple("Point", "held other")):
    pass

class Strict(dict):
    def __setitem__(self, key, value):
        if key in self:
            raise KeyError(f"{key} twice")
        super().__setitem__(key, value)

class Local(threading.local):
    pass

def closing(cls):
    return lambda: cls

def defaulting(cls):
    def function(one=cls, *, other=cls): return one, other
    return function

def annotating(cls):
    def function(one: cls) -> cls: pass
    return function

def removed(reference):
    pass

held = {}
weak_values = weakref.WeakValueDictionary()
weak_keys = weakref.WeakKeyDictionary()
weak_set = weakref.WeakSet()
queue = collections.deque()
slot = Slot()
strict = Strict()
local = Local()
ordered = collections.OrderedDict(first=1)
nested = []

def put_away(cls):
    held.update(
        tuple=(cls, 1),
        named=Point(cls, 2),
        deep=[{"x": (1, (cls, frozenset([cls, 3])))}],
        frozenset=frozenset([cls]),
        partial=functools.partial(cls),
        argument=functools.partial(print, cls, key=cls),
        default=defaulting(cls),
        annotated=annotating(cls),
        closure=closing(cls),
        bound=cls.made,
        builtin=cls.mro,
        reference=weakref.ref(cls),
        called_back=weakref.ref(cls, removed),
        frozen=Frozen(cls),
        proxy=types.MappingProxyType({"held": cls}),
        simple=types.SimpleNamespace(held=cls),
        generic=list[cls],
        union=cls | None,
        static=staticmethod(cls),
        key={cls: 1},
        pair_key={(cls, 1): 2},
        chain=collections.ChainMap({"held": cls}),
    )
    weak_values["held"] = cls
    weak_keys[cls] = 1
    weak_set.add(cls)
    queue.append(cls)
    slot.held = cls
    dict.__setitem__(strict, "held", cls)
    local.held = cls
    ordered[cls] = 2
    ordered["last"] = 3

class Base:
    def __init_subclass__(cls):
        put_away(cls)
    @classmethod
    def made(cls): return cls
"""

PARTS = """
from {library} import Base
class Net(Base):
    def word(self): return "old"
"""

HOLDERS = {
    "tuple": "held['tuple'][0]",
    "namedtuple": "held['named'].held",
    "tuple in tuple": "held['deep'][0]['x'][1][0]",
    "frozenset in tuple": "next(x for x in held['deep'][0]['x'][1][1] if x != 3)",
    "frozenset": "next(iter(held['frozenset']))",
    "partial": "held['partial'].func",
    "argument of a partial": "held['argument'].args[0]",
    "keyword of a partial": "held['argument'].keywords['key']",
    "default": "held['default']()[0]",
    "keyword default": "held['default']()[1]",
    "annotation": "held['annotated'].__annotations__['one']",
    "cell": "held['closure']()",
    "bound method": "held['bound']()",
    "method of a builtin": "held['builtin']()[0]",
    "weak reference": "held['reference']()",
    "weak reference with a callback": "held['called_back']()",
    "callback of a weak reference": "held['called_back'].__callback__ is removed and held['called_back']()",
    "frozen dataclass with slots": "held['frozen'].held",
    "mappingproxy": "held['proxy']['held']",
    "namespace": "held['simple'].held",
    "generic alias": "held['generic'].__args__[0]",
    "union": "held['union'].__args__[0]",
    "static method": "held['static'].__func__",
    "key": "next(iter(held['key']))",
    "tuple as a key": "next(iter(held['pair_key']))[0]",
    "ChainMap": "held['chain']['held']",
    "WeakValueDictionary": "weak_values['held']",
    "WeakKeyDictionary": "next(iter(weak_keys))",
    "WeakSet": "next(iter(weak_set))",
    "deque": "queue[-1]",
    "slot": "slot.held",
    "dict that refuses": "strict['held']",
    "thread-local": "local.held",
    "OrderedDict, in its order": "list(ordered)[1]",
}


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
def test_a_holder_has_the_class_that_lives(holder: str, frozen: bool, thawed: None) -> None:
    library = Edited(LIBRARY)
    edited = Edited(PARTS.format(library=library.module.__name__))
    net = edited.module.Net
    if frozen:
        gc.freeze()
    edited.replace('"old"', '"new"')
    assert edited.module.Net is net
    assert eval(HOLDERS[holder], vars(library.module)) is net
    assert net().word() == "new"


def test_nothing_is_held_twice_and_the_order_stays() -> None:
    library = Edited(LIBRARY)
    edited = Edited(PARTS.format(library=library.module.__name__))
    for word in ("new", "newer", "newest"):
        edited.edit(PARTS.format(library=library.module.__name__).replace("old", word))
        gc.collect()
        assert len(library.module.weak_set) == len(library.module.weak_keys) == len(library.module.weak_values) == 1
        assert list(library.module.queue) == [edited.module.Net]
        assert list(library.module.ordered) == ["first", edited.module.Net, "last"]
        assert library.module.Base.__subclasses__() == [edited.module.Net]


def test_a_holder_has_the_class_that_lives_also_when_the_reload_is_undone() -> None:
    library = Edited(LIBRARY)
    edited = Edited(PARTS.format(library=library.module.__name__))
    net = edited.module.Net
    patch = Patch()
    with pytest.raises(ZeroDivisionError):
        edited.run(patch, edited.source.replace("old", "new") + "\n1/0")
    patch.undo()
    wrong = [name for name, found in HOLDERS.items() if eval(found, vars(library.module)) is not net]
    assert wrong == []
    assert net().word() == "old"


def test_code_below_a_class_finds_the_class_that_lives_in_a_registry() -> None:
    library = Edited("""
        REGISTRY = {}
        class Base:
            def __init_subclass__(cls): REGISTRY[cls.__name__] = cls
        """)
    edited = Edited(f"""
        from {library.module.__name__} import Base, REGISTRY
        class One(Base):
            def word(self): return "old"
        class Two(Base): pass
        seen = REGISTRY["One"], REGISTRY["Two"]
        def make(): return REGISTRY["One"]()
        """)
    one, two = edited.module.seen
    edited.replace('"old"', '"new"')
    assert edited.module.seen == (one, two)
    assert edited.module.make().word() == "new"


def test_a_cache_with_weak_values_keeps_its_value_for_the_class_that_lives() -> None:
    library = Edited("""
        import weakref
        class Value: pass
        cache, named = weakref.WeakValueDictionary(), weakref.WeakValueDictionary()
        values = []
        class Base:
            def __init_subclass__(cls):
                values.append(Value())
                cache[cls, 1] = values[-1]
                named[cls.__name__] = cls
        """)
    edited = Edited(f"""
        from {library.module.__name__} import Base
        class Net(Base):
            def word(self): return "old"
        """)
    value = library.module.values[0]
    edited.replace("old", "new")
    assert library.module.cache[edited.module.Net, 1] is value
    assert len(library.module.cache) == 1
    assert library.module.named["Net"] is edited.module.Net
    library.module.values.clear()
    del value
    assert len(library.module.cache) == 0


def test_a_property_that_something_has_put_away_has_the_method_of_the_class_that_lives() -> None:
    library = Edited("""
        properties = []
        def on(function):
            properties.append(property(function))
            return function
        """)
    edited = Edited(f"""
        from {library.module.__name__} import on
        class Net:
            @on
            def word(self): return "old"
        """)
    word = edited.module.Net.word
    edited.replace("old", "new")
    assert [each.fget for each in library.module.properties] == [word, word]
    assert library.module.properties[0].fget(None) == "new"


def test_a_method_that_a_decorator_has_put_away_is_the_one_of_the_class_that_lives() -> None:
    library = Edited("""
        HANDLERS, NAMED = [], {}
        def on(function):
            HANDLERS.append(function)
            NAMED.setdefault(function.__name__, (function, 1))
            return function
        """)
    edited = Edited(f"""
        from {library.module.__name__} import on
        class Net:
            @on
            def step(self): return "old"
            @staticmethod
            @on
            def fixed(): return "old"
        """)
    step, fixed = edited.module.Net.step, edited.module.Net.fixed
    for word in ('"new"', '"newer"'):
        edited.replace('"old"' if word == '"new"' else '"new"', word)
        assert [step, fixed] == library.module.HANDLERS
        assert library.module.NAMED["step"][0] is edited.module.Net.step is step
        assert [library.module.HANDLERS[0](None), library.module.HANDLERS[1]()] == [word.strip('"')] * 2


UNREACHABLE = """
import contextvars, weakref
variable = contextvars.ContextVar("variable")
generators = []

class Reference(weakref.ref):
    __slots__ = ("more",)

references = []

def generate(cls):
    yield cls
    yield cls

class Generating:
    def __init_subclass__(cls):
        generators.append(generate(cls))
        next(generators[-1])

class Contextual:
    def __init_subclass__(cls):
        variable.set(cls)

class Referring:
    def __init_subclass__(cls):
        references.append(Reference(cls))
"""


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ("Generating", "the suspended generator generate() of"),
        ("Contextual", "an object of the type"),
        ("Referring", "a weak reference of the type Reference"),
    ],
)
def test_what_cannot_be_followed_is_told_with_its_file_and_line(base: str, words: str) -> None:
    library = Edited(UNREACHABLE)
    edited = Edited(f"""
        from {library.module.__name__} import {base}
        class Net({base}):
            def word(self): return "old"
        """)
    patch = Patch()
    edited.run(patch, edited.source.replace("old", "new"))
    patch.commit()
    assert len(patch.warnings) == 1, patch.warnings
    assert words in patch.warnings[0]
    assert patch.warnings[0].startswith(f"{edited.module.__name__}.py:3: Net: ")


def test_what_can_be_followed_brings_no_warning() -> None:
    library = Edited(LIBRARY)
    edited = Edited(PARTS.format(library=library.module.__name__))
    patch = Patch()
    edited.run(patch, edited.source.replace("old", "new"))
    patch.commit()
    assert patch.warnings == []


def test_closures_and_lambdas_that_were_frozen_run_the_new_code(thawed: None) -> None:
    edited = Edited("""
        def make():
            def step(): return "old"
            return step
        kept = [lambda: "old", lambda: [lambda: "old"]]
        """)
    step, first, second = edited.module.make(), edited.module.kept[0], edited.module.kept[1]()[0]
    gc.freeze()
    edited.replace('"old"', '"new"')
    assert [step(), first(), second()] == ["new"] * 3


def test_what_was_frozen_stays_frozen_and_nothing_else_is(thawed: None) -> None:
    class Held:
        pass

    before: list[Any] = [Held]
    gc.collect()
    gc.freeze()
    frozen = gc.get_freeze_count()
    after = {"held": Held}
    circle = types.SimpleNamespace()
    circle.itself = circle
    ident = id(circle)
    assert not any(holder is before for holder in gc.get_referrers(Held)), "it is hidden"
    found = frozen_referrers((Held,))
    assert any(holder is before for holder in found)
    assert any(holder is after for holder in found)
    assert gc.get_freeze_count() == frozen
    assert gc.isenabled()
    del circle
    gc.collect()
    assert ident not in {id(thing) for thing in gc.get_objects()}, "it can be collected"


def test_definitions_stay_on_their_lines() -> None:
    source = "from x import y\nclass A: pass\nclass B: pass\nvalue = 1\nclass C: pass\n"
    edited = Edited("class A: pass\n")
    patch = Patch()
    patch.begin_module(edited.module, edited.source, source)
    tree = patch.transform(ast.parse(source), edited.module)
    assert [node.lineno for node in tree.body] == [1, 2, 3, 3, 4, 5]
    patch.undo()
    assert sys.modules[edited.module.__name__] is edited.module
