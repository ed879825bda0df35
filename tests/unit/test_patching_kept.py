"""Definitions that an edit left alone stay as they are; attributes that were set at run time keep their values."""

import inspect
import pickle
import traceback

import pytest

from tests.unit.test_patching import Edited, loaded_modules, refused, snapshot  # noqa: F401

pytestmark = pytest.mark.unit

CALLS = """
    import dataclasses, enum, typing
    from collections import namedtuple
    from enum import Enum, IntEnum
    Transition = namedtuple("Transition", ("state", "action"), defaults=(0,))
    Mode = Enum("Mode", "TRAIN EVAL")
    Level = IntEnum("Level", {"LOW": 1, "HIGH": 2})
    Row = typing.NamedTuple("Row", [("x", int), ("y", int)])
    Made = type("Made", (), {"rate": 1, "step": lambda self: self.rate})
    Data = dataclasses.make_dataclass("Data", [("x", int), ("y", int, 3)])
    Options: type = typing.TypedDict("Options", {"lr": float})
    UserId = typing.NewType("UserId", int)
    T = typing.TypeVar("T")
    P = typing.ParamSpec("P")
    class Box(typing.Generic[T]):
        def get(self) -> T: ...
    TAG = "old"
"""
CALLED = "Transition Mode Level Row Made Data Options UserId T P Box".split()


def test_classes_and_types_made_by_calls_are_the_same_after_an_unrelated_edit() -> None:
    edited = Edited(CALLS)
    m = edited.module
    before = [getattr(m, name) for name in CALLED]
    things = [m.Transition(1, 2), m.Mode.TRAIN, m.Level.HIGH, m.Row(1, 2)]
    made = m.Made()
    m.Made.rate = 5
    edited.replace('TAG = "old"', '"moved"\nTAG = "new"')
    edited.replace("import dataclasses, enum, typing", "import dataclasses, typing")
    assert all(getattr(m, name) is value for name, value in zip(CALLED, before, strict=True))
    assert pickle.loads(pickle.dumps(things)) == things and m.Mode.TRAIN is things[1]
    assert made.step() == 5 and m.Box[int] == m.Box[int] and edited.warnings == []


def test_classes_made_by_calls_follow_a_change_of_the_call() -> None:
    edited = Edited(CALLS)
    m = edited.module
    before = [getattr(m, name) for name in CALLED]
    transition, mode, row, made = m.Transition(1), m.Mode.TRAIN, m.Row(1, 2), m.Made()
    edited.replace(
        '("state", "action"), defaults=(0,)', '("state", "action", "reward"), defaults=(0, 7)',
        '"TRAIN EVAL"', '"TRAIN EVAL TEST"', '("x", int), ("y", int)]', '("y", int), ("x", int)]',
        "lambda self: self.rate", "lambda self: -self.rate", '"rate": 1', '"rate": 4',
        '("y", int, 3)', '("y", int, 4)',
    )  # fmt: skip
    assert all(getattr(m, name) is value for name, value in zip(CALLED[:7], before[:7], strict=True))
    assert (m.Transition(1).reward, transition.action) == (7, 0) and isinstance(transition, m.Transition)
    assert m.Mode.TRAIN is mode and m.Mode.TEST.value == 3 and len(m.Mode) == 3
    assert (row.y, row.x, made.step(), m.Data(1).y) == (1, 2, -4, 4)
    assert pickle.loads(pickle.dumps([m.Transition(1), mode, row])) == [m.Transition(1), mode, row]


def test_a_call_that_gives_a_class_of_another_name_is_told() -> None:
    edited = Edited("""
        def make(n): return type(f"Made{n}", (), {"n": n})
        One = make(1)
    """)
    one = edited.module.One
    edited.replace("make(1)", "make(2)")
    assert edited.module.One is not one and edited.module.One.n == 2
    assert edited.warnings == [
        f"`One` ({edited.module.__name__}.py:3) is another class now, as a call made it: objects of the old one stay so"
    ]


def test_a_call_that_reads_what_changed_is_made_again() -> None:
    edited = Edited("""
        from collections import namedtuple
        FIELDS = ["a", "b"]
        def fields(): return [*FIELDS, "z"]
        One = namedtuple("One", FIELDS)
        Two = namedtuple("Two", fields())
    """)
    one, two = edited.module.One, edited.module.Two
    edited.replace('"b"]', '"b", "c"]')
    assert edited.module.One is one and edited.module.Two is two
    assert one._fields == ("a", "b", "c") and two._fields == ("a", "b", "c", "z")


STATE = """
    import threading
    START = 0
    class Cache(dict):
        def size(self): return len(self)
    def first(): return START
    class Settings:
        _only = None
        next_id = 0
        rate = 0.1
        cache = {}
        own = Cache()
        lock = threading.Lock()
        begin = first()
        __hidden = 1
        if START == 0:
            flag = False
        def __new__(cls):
            if cls._only is None:
                cls._only = super().__new__(cls)
            return cls._only
        @classmethod
        def hide(cls, value): cls.__hidden = value
        @classmethod
        def hidden(cls): return cls.__hidden
        def tag(self): return "old"
"""


@pytest.mark.parametrize(
    "words", [("START = 0", "START = 0\nOTHER = 1"), ('"old"', '"new"'), ("def first(): ", "def first():\n    ")]
)
def test_class_attributes_that_were_set_at_run_time_keep_their_values(words: tuple[str, str]) -> None:
    edited = Edited(STATE)
    m = edited.module
    s = m.Settings
    only = s()
    s.next_id, s.rate, s.flag, s.added, s.begin = 7, 0.7, True, "here", 9
    s.hide(5)
    s.cache["a"] = s.own["b"] = 1
    held = s.cache, s.own, s.lock
    edited.replace(*words)
    assert m.Settings is s and s() is only
    assert (s.next_id, s.rate, s.flag, s.added, s.begin, s.hidden()) == (7, 0.7, True, "here", 9, 5)
    assert (s.cache, s.own, s.lock) == held and s.cache is held[0] and s.own is held[1] and s.own.size() == 1
    assert only.tag() == words[1].strip('"') if "old" in words[0] else "old"


def test_class_attributes_follow_when_their_line_or_what_it_reads_changes() -> None:
    edited = Edited(STATE)
    s = edited.module.Settings
    s.next_id, s.rate, s.begin = 7, 0.7, 9
    s.own["b"] = 1
    edited.replace("rate = 0.1", "rate = 0.2")
    assert (s.rate, s.next_id) == (0.2, 7)
    edited.replace("return START", "return START + 3")
    assert (s.begin, s.next_id) == (3, 7)
    s.begin = 9
    edited.replace("START = 0", "START = 0.0")
    assert (s.begin, s.next_id) == (3.0, 7)
    edited.replace("return len(self)", "return -len(self)")
    assert s.own.size() == -1
    with pytest.raises(ZeroDivisionError):
        edited.replace("rate = 0.2", "rate = 0.3", 'tag(self): return "old"', "tag(self): return 1\n1 / 0")
    assert (s.rate, s.next_id) == (0.2, 7) and s().tag() == "old"


def test_attributes_of_dataclasses_keep_their_values_and_their_defaults() -> None:
    edited = Edited("""
        from dataclasses import dataclass, field
        from typing import ClassVar
        @dataclass
        class Row:
            x: int = field(default=1, repr=False)
            y: list = field(default_factory=list)
            made: ClassVar[int] = 0
            def total(self): return self.x
    """)
    row = edited.module.Row
    row.made = 5
    edited.replace("return self.x", "return -self.x", "y: list", "z: int = 4\n    y: list")
    assert row.made == 5 and row().total() == -1 and row().y == [] and row(2, 3).z == 3 and "x=" not in repr(row())


def test_an_unchanged_class_is_executed_again_if_what_made_it_changed() -> None:
    edited = Edited("""
        import dataclasses
        MARKS = {"mark": 1}
        def helper(): return MARKS["mark"]
        def marked(cls):
            cls.mark = helper()
            return cls
        class Meta(type):
            def __new__(meta, name, bases, space):
                return super().__new__(meta, name, bases, space | {"meta": 1})
        class Field:
            def __set_name__(self, owner, name): owner.field = 1
        class Base:
            def __init_subclass__(cls): cls.sub = 1
            def step(self): return 1
        @marked
        class Marked: pass
        class Made(metaclass=Meta): pass
        class Fielded:
            one = Field()
        class Child(Base):
            @classmethod
            def name(cls): return cls.__name__
        @dataclasses.dataclass
        class Parent:
            x: int = 1
        @dataclasses.dataclass
        class Heir(Parent):
            y: int = 2
    """)
    m = edited.module
    kinds = [m.Marked, m.Made, m.Fielded, m.Child, m.Heir]
    one = m.Fielded.one
    edited.replace("def step(self): return 1", "def step(self): return 2")
    assert m.Child().step() == 2 and m.Fielded.one is one
    edited.replace(
        '"mark": 1', '"mark": 2', '"meta": 1', '"meta": 2', "owner.field = 1", "owner.field = 2", "cls.sub = 1",
        "cls.sub = 2", "x: int = 1", "x: int = 5",
    )  # fmt: skip
    assert [m.Marked, m.Made, m.Fielded, m.Child, m.Heir] == kinds
    assert (m.Marked.mark, m.Made.meta, m.Fielded.field, m.Child.sub, m.Heir().x) == (2, 2, 2, 2, 5)


def test_registries_that_refuse_a_second_class_of_a_name_are_not_asked_again() -> None:
    edited = Edited("""
        class Base:
            kinds = {}
            def __init_subclass__(cls):
                if cls.__name__ in Base.kinds: raise KeyError(cls.__name__)
                Base.kinds[cls.__name__] = cls
        class One(Base):
            rate = 1
            def step(self): return "old"
        class Two(One):
            pass
        TAG = "old"
    """)
    m = edited.module
    kinds = {"One": m.One, "Two": m.Two}
    one = m.One()
    edited.replace('TAG = "old"', 'TAG = "new"')
    assert m.Base.kinds == kinds
    edited.replace('return "old"', 'return "new"')
    assert m.Base.kinds == kinds and one.step() == m.Two().step() == "new"
    edited.replace("rate = 1", "rate = 2")
    assert m.Base.kinds == kinds and one.rate == 2 and m.Base.kinds["One"] is m.One
    with pytest.raises(ZeroDivisionError):
        edited.replace("rate = 2", "rate = 3", 'TAG = "new"', "1 / 0")
    assert m.Base.kinds == kinds and m.Base.kinds["One"] is m.One and one.rate == 2
    assert list(m.Base.kinds) == ["One", "Two"]


def test_methods_of_kept_classes_have_the_new_lines() -> None:
    edited = Edited("""
        import functools
        def logged(function):
            @functools.wraps(function)
            def wrapper(*args): return function(*args)
            return wrapper
        class Model:
            @logged
            def fail(self):
                raise ValueError
            @property
            def rate(self): return (lambda: 1 / 0)()
            class Part:
                def fail(self): raise KeyError
    """)
    m = edited.module
    model, fail, source = m.Model(), m.Model.fail, inspect.getsource(m.Model.fail.__wrapped__)
    edited.replace("import functools", "import functools\n\n# moved\n")
    edited.replace("    @property", "    # moved, too\n    @property")
    assert m.Model.fail is fail and inspect.getsource(m.Model.fail.__wrapped__) == source
    for call, words in (
        (model.fail, "raise ValueError"),
        (lambda: model.rate, "def rate(self): return (lambda: 1 / 0)()"),
        (m.Model.Part().fail, "def fail(self): raise KeyError"),
    ):
        with pytest.raises(Exception) as caught:
            call()
        assert traceback.extract_tb(caught.value.__traceback__)[-1].line == words
    before = snapshot(m)
    with pytest.raises(ZeroDivisionError):
        edited.replace("# moved", "# moved\n# and moved", "class Model", "1 / 0\nclass Model")
    assert snapshot(m) == before


def test_kept_classes_are_as_they_were_after_undo() -> None:
    edited = Edited(STATE + CALLS)
    m = edited.module
    m.Settings.next_id = 3
    m.Settings()
    before = snapshot(m)
    with pytest.raises(ZeroDivisionError):
        edited.replace("START = 0", "\n\nSTART = 1", '"old"\n', '"new"\n1 / 0\n')
    assert snapshot(m) == before and m.Settings.next_id == 3


def test_definitions_under_a_condition_follow_it() -> None:
    edited = Edited("""
        FAST = True
        if FAST:
            class Model:
                def step(self): return "fast"
            def run(): return "fast"
        else:
            class Model:
                def step(self): return "slow"
            def run(): return "slow"
        if not FAST:
            def walk(): return "slow"
        else:
            from os import getpid as walk
    """)
    m = edited.module
    model, run = m.Model(), m.run
    edited.replace("FAST = True", "FAST = False")
    assert isinstance(model, m.Model) and model.step() == "slow" and run() == "slow" and m.walk() == "slow"


def test_functions_that_a_source_defines_more_than_once_are_followed() -> None:
    edited = Edited("""
        from functools import singledispatch
        from typing import overload
        @overload
        def load(path: str) -> str: ...
        @overload
        def load(path: bytes) -> bytes: ...
        def load(path): return "old"
        def twice(): return 1
        def twice(): return "old"
        for _ in range(2):
            def looped(): return "old"
        @singledispatch
        def show(value): return "old"
        @show.register
        def _(value: int): return "old int"
        @show.register
        def _(value: str): return "old str"
        class Path:
            @overload
            def open(self, mode: str) -> str: ...
            @overload
            def open(self, mode: bytes) -> bytes: ...
            def open(self, mode): return "old"
            @property
            def name(self): return "old"
            @name.setter
            def name(self, value): self.value = "old" + value
        class Repeated:
            pass
        class Repeated:
            def step(self): return "old"
    """)
    m = edited.module
    held = [m.load, m.twice, m.looped, m.show, m.Path().open]
    path, repeated = m.Path(), m.Repeated()
    edited.edit(edited.source.replace("old", "new"))
    assert [held[0](1), held[1](), held[2](), held[3](1.0), held[3](1), held[3]("s"), held[4](1)] == [
        "new", "new", "new", "new", "new int", "new str", "new",
    ]  # fmt: skip
    assert held[:4] == [m.load, m.twice, m.looped, m.show]
    path.name = "x"
    assert (path.name, path.value, repeated.step(), type(repeated) is m.Repeated) == ("new", "newx", "new", True)


def test_protocols_abstract_classes_and_what_registered_with_them_stay() -> None:
    edited = Edited("""
        import abc
        from typing import Protocol, runtime_checkable
        @runtime_checkable
        class Steps(Protocol):
            def step(self) -> int: ...
        class Loader(abc.ABC):
            @abc.abstractmethod
            def load(self): ...
            def name(self): return "old"
        class File(Loader):
            def load(self): return 1
        class Virtual: pass
        Loader.register(Virtual)
    """)
    m = edited.module

    @m.Loader.register
    class Elsewhere: ...

    file = m.File()
    edited.replace('"old"', '"new"')
    assert isinstance(m.Virtual(), m.Loader) and isinstance(Elsewhere(), m.Loader) and file.name() == "new"
    edited.replace("def load(self): ...", "def load(self): ...\n    @abc.abstractmethod\n    def more(self): ...")
    with pytest.raises(TypeError):
        m.File()
    assert isinstance(Elsewhere(), m.Loader)


def test_a_notebooks_cell_makes_its_classes_anew() -> None:
    from spark_fast.worker.reload.patching import Patch

    edited = Edited("class A:\n    rate = 1\n")
    a = edited.module.A
    a.rate = 5
    patch = Patch()
    edited.run(patch, edited.source)
    patch.commit()
    assert edited.module.A is a and a.rate == 1


def test_classes_that_the_module_alters_below_them_are_altered_once() -> None:
    edited = Edited("""
        import functools
        def counted(function):
            @functools.wraps(function)
            def wrapper(*args): return function(*args) + 1
            return wrapper
        def patch(cls): cls.jump = counted(cls.jump)
        class Walker:
            count = 0
            starts = 0
            def step(self): return 10
            def jump(self): return 20
        Walker.step = counted(Walker.step)
        Walker.count += 1
        patch(Walker)
        class Net:
            def run(self): return 30
        Raw = Net
        Net = functools.partial(Net)
        TAG = "old"
    """)
    m = edited.module
    walker, raw = m.Walker(), m.Raw
    m.Walker.starts = 4
    for old, new in (('"old"', '"new"'), ("return 10", "return 11")):
        edited.replace(old, new)
        assert m.Raw is raw and m.Net.func is raw and m.Net().run() == 30
        assert (m.Walker.count, m.Walker.starts, walker.jump()) == (1, 4, 21)
    assert walker.step() == 12


def test_a_dependency_is_followed_through_many_functions() -> None:
    chain = "".join(f"def step{number}(): return step{number + 1}()\n" for number in range(3000))
    source = f"{chain}def step3000(): return 1\nclass Model:\n    value = step0() if False else 0\n    rate = 1\n"
    edited = Edited(source + "TAG = 1\n")
    model = edited.module.Model
    model.rate = 5
    edited.replace("TAG = 1", "TAG = 2")
    assert edited.module.Model is model and model.rate == 5


def test_attributes_that_hold_functions_keep_what_was_added_to_them() -> None:
    edited = Edited("""
        def on_start(): return "old"
        class Bus:
            handlers = {"start": on_start}
            results = [each() for each in (on_start,)]
            def emit(self): return [each() for each in self.handlers.values()]
    """)
    bus = edited.module.Bus
    bus.handlers["stop"] = lambda: "stopped"
    edited.replace('"old"', '"new"')
    assert bus().emit() == ["new", "stopped"] and bus.results == ["new"]


def test_the_source_of_a_kept_class_that_moved_is_found() -> None:
    edited = Edited("""
        class First: pass
        class Model:
            rate = 1
            class Part:
                size = 2
    """)
    m = edited.module
    edited.replace("class First: pass", "# moved\n# twice\nclass First: pass")
    assert inspect.getsource(m.Model).startswith("class Model:\n    rate = 1\n")
    assert inspect.getsource(m.Model.Part) == "    class Part:\n        size = 2\n"


def test_the_annotation_of_a_call_that_is_not_made_again_stays() -> None:
    edited = Edited("""
        import typing
        UserId: typing.Any = typing.NewType("UserId", int)
        TAG = 1
    """)
    edited.replace("TAG = 1", "TAG = 2")
    assert inspect.get_annotations(edited.module) == {"UserId": edited.module.typing.Any}


def test_removed_classes_leave_the_registries_that_stay() -> None:
    edited = Edited("""
        class Base:
            named = {}
            every = []
            kinds = set()
            def __init_subclass__(cls):
                Base.named[cls.__name__] = cls
                Base.every.append(cls)
                Base.kinds.add(cls)
        class One(Base): pass
        class Two(Base): pass
        class Three(Base): pass
    """)
    base, kinds = edited.module.Base, dict(edited.module.Base.named)
    one, two, three = kinds.values()
    with pytest.raises(ZeroDivisionError):
        edited.replace("class Two(Base): pass\nclass Three(Base): pass", "\n\n1 / 0")
    assert list(base.named.items()) == list(kinds.items()) and base.every == [one, two, three]
    assert base.kinds == {one, two, three}
    edited.replace("class Two(Base): pass\n", "")
    assert edited.module.Base is base and base.named == {"One": one, "Three": three}
    assert base.every == [one, three] and base.kinds == {one, three}


def test_attributes_that_read_others_of_the_class_follow_them() -> None:
    edited = Edited("""
        SIZE = {"x": 1}
        class Model:
            size = SIZE["x"]
            shape = (size, 2)
            other = 3
            total = sum(shape)
    """)
    model = edited.module.Model
    model.other = 5
    edited.replace('"x": 1', '"x": 4')
    assert (model.size, model.shape, model.total, model.other) == (4, (4, 2), 6, 5)


def test_what_reads_a_class_under_a_condition_follows_the_condition() -> None:
    edited = Edited("""
        from collections import namedtuple
        FAST = 1
        if FAST > 4:
            class Speed:
                value = 5
        else:
            class Speed:
                value = 6
        Row = namedtuple("Row", "x", defaults=(Speed.value,))
        class Reader:
            value = Speed.value
        class Heir(Speed):
            double = Speed.value * 2
    """)
    m = edited.module
    for old, new, value in (("FAST = 1", "FAST = 7", 5), ("FAST > 4", "FAST > 8", 6)):
        edited.replace(old, new)
        assert (m.Speed.value, m.Row().x, m.Reader.value, m.Heir.double) == (value, value, value, value * 2)


def test_what_the_module_and_its_decorators_set_on_classes_is_undone() -> None:
    edited = Edited("""
        import math
        def marked(cls):
            cls.mark = MARK
            return cls
        MARK = 1
        class Plain:
            def step(self): return 1
        Plain.mark = MARK
        def patch(cls): cls.step = lambda self: MARK
        patch(Plain)
        @marked
        class Marked: pass
    """)
    m = edited.module
    before = snapshot(m)
    with pytest.raises(ZeroDivisionError):
        edited.replace("MARK = 1", "MARK = 2", "class Marked: pass", "class Marked: pass\n1 / 0")
    assert snapshot(m) == before and (m.Plain.mark, m.Marked.mark, m.Plain().step()) == (1, 1, 1)


def test_methods_of_other_modules_are_wrapped_once() -> None:
    helper = Edited("class Walker:\n    def step(self): return 10\n", "edited_walker")
    user = Edited("""
        import functools
        import edited_walker
        from edited_walker import Walker
        def counted(function):
            @functools.wraps(function)
            def wrapper(*args): return function(*args) + 1
            return wrapper
        edited_walker.Walker.step = counted(edited_walker.Walker.step)
        TAG = 1
    """)
    walker = helper.module.Walker()
    user.replace("TAG = 1", "TAG = 2")
    assert walker.step() == 11
    user.replace("+ 1", "+ 2")
    assert walker.step() == 12
    with pytest.raises(ZeroDivisionError):
        user.replace("+ 2", "+ 3", "TAG = 2", "1 / 0")
    assert walker.step() == 12
