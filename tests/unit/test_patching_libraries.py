"""New code in place of old where libraries make the classes: pydantic, SQLAlchemy, ctypes, msgspec, attrs."""

import copy
import pickle

import pytest

from spark_fast.errors import ReloadRefusedError
from tests.unit.test_patching import Edited, loaded_modules, refused  # noqa: F401

pytestmark = [pytest.mark.unit, pytest.mark.tier("test")]  # needs the libraries

MODELS = """
    from __future__ import annotations
    from typing import Generic, Optional, TypeVar
    from pydantic import BaseModel, computed_field, field_validator
    T = TypeVar("T")
    class Outer(BaseModel):
        inner: Inner
        many: list[Inner] = []
    class Inner(BaseModel):
        rate: float = 0.1
        then: Optional[Inner] = None
        @field_validator("rate")
        @classmethod
        def check(cls, value): return cls.grow(value)
        @classmethod
        def grow(cls, value): return value * 2
        @computed_field
        @property
        def twice(self) -> float: return self.rate * 2
    class Box(BaseModel, Generic[T]):
        held: T
    class Holder(BaseModel):
        box: Box[Inner]
    Outer.model_rebuild()
    TAG = "old"
"""


def test_pydantic_models_stay_after_an_unrelated_edit() -> None:
    edited = Edited(MODELS)
    m = edited.module
    models = [m.Outer, m.Inner, m.Box, m.Holder, m.Box[m.Inner]]
    outer = m.Outer.model_validate({"inner": {"rate": 1, "then": {}}})
    edited.replace('"old"', '"new"')
    assert [m.Outer, m.Inner, m.Box, m.Holder, m.Box[m.Inner]] == models
    again = m.Outer.model_validate({"inner": {"rate": 1, "then": {}}})
    assert again == outer and type(again.inner) is m.Inner is type(again.inner.then)
    assert pickle.loads(pickle.dumps(again)) == outer
    assert edited.warnings == []


def test_pydantic_models_with_other_methods_keep_their_schema() -> None:
    edited = Edited(MODELS)
    m = edited.module
    inner = m.Inner(rate=1)
    edited.replace("value * 2", "value * 3", "self.rate * 2", "self.rate * 5")
    assert m.Inner(rate=1).rate == 3 and inner.model_dump()["twice"] == 10
    assert type(m.Outer.model_validate({"inner": {"rate": 1}}).inner) is m.Inner
    schema = m.Inner.__pydantic_core_schema__
    edited.replace("return value * 3", "return value + 1")
    assert m.Inner(rate=1).rate == 2 and m.Inner.__pydantic_core_schema__ is schema
    assert edited.warnings == []


def test_pydantic_models_follow_their_fields_and_so_do_the_models_that_hold_them() -> None:
    edited = Edited(MODELS)
    m = edited.module
    models = [m.Outer, m.Inner, m.Box, m.Holder, m.Box[m.Inner]]
    old = m.Inner(rate=1)
    edited.replace("rate: float = 0.1", "rate: float = 0.1\n    decay: int = 3")
    assert [m.Outer, m.Inner, m.Box, m.Holder, m.Box[m.Inner]] == models
    assert edited.warnings == [
        f"`Inner` ({edited.module.__name__}.py:9): objects that were made before have no `decay`"
    ]
    made = m.Outer.model_validate({"inner": {"then": {"decay": "4"}}, "many": [{"decay": 5}]})
    assert (made.inner.decay, made.inner.then.decay, made.many[0].decay) == (3, 4, 5)
    assert type(made.inner) is type(made.inner.then) is type(made.many[0]) is m.Inner
    held = m.Holder.model_validate({"box": {"held": {"decay": 6}}})
    assert held.box.held.decay == 6 and type(held.box.held) is m.Inner and type(held.box) is m.Box[m.Inner]
    assert m.Inner(rate=1).rate == 2 and m.Inner(rate=1).model_dump()["twice"] == 4
    assert pickle.loads(pickle.dumps(made)) == made and isinstance(old, m.Inner)
    with pytest.raises(ValueError):
        m.Inner(decay="no number")
    assert "decay" in str(m.Inner.__signature__)
    assert "decay" in m.Outer.model_json_schema()["$defs"]["Inner"]["properties"]
    edited.replace("    decay: int = 3\n", "", "held: T", "held: list[T]")
    assert "decay" not in m.Outer.model_validate({"inner": {}}).inner.model_dump()
    held = m.Holder.model_validate({"box": {"held": [{}, {}]}})
    assert [type(each) for each in held.box.held] == [m.Inner, m.Inner]
    assert type(held.box) is m.Box[m.Inner] is models[-1]


def test_pydantic_models_are_put_back_by_undo() -> None:
    edited = Edited(MODELS)
    m = edited.module
    parameters = m.Box[m.Inner]
    before = [{name: id(value) for name, value in vars(each).items()} for each in (m.Outer, m.Inner, m.Box, parameters)]
    with pytest.raises(ZeroDivisionError):
        edited.replace(
            "rate: float = 0.1", "rate: float = 0.1\n    decay: int = 3", '"old"', "1 / 0", "held: T", "held: int"
        )
    after = [{name: id(value) for name, value in vars(each).items()} for each in (m.Outer, m.Inner, m.Box, parameters)]
    assert after == before
    made = m.Outer.model_validate({"inner": {"rate": 1, "then": {}}})
    assert type(made.inner.then) is m.Inner and "decay" not in made.inner.model_dump() and made.inner.rate == 2
    assert type(m.Holder.model_validate({"box": {"held": {}}}).box.held) is m.Inner


def test_pydantic_models_that_inherit_follow_the_fields_of_their_bases() -> None:
    edited = Edited("""
        from typing import ClassVar
        from pydantic import BaseModel, model_validator
        class Base(BaseModel):
            model_config = {"validate_default": True}
            a: int = 1
            @model_validator(mode="after")
            def check(self): return self
        class Child(Base):
            count: ClassVar[int] = 0
            b: int = 2
        class Grandchild(Child):
            model_config = {"extra": "forbid"}
    """)
    m = edited.module
    kinds = m.Base, m.Child, m.Grandchild
    m.Child.count = 4
    edited.replace('model_config = {"validate_default": True}', 'model_config = {"frozen": True}')
    assert (m.Child.count, m.Child().b, m.Grandchild.model_config) == (4, 2, {"frozen": True, "extra": "forbid"})
    with pytest.raises(ValueError, match="frozen"):
        m.Grandchild().b = 3
    edited.replace("a: int = 1", "a: float = 1.5")
    assert (m.Base, m.Child, m.Grandchild) == kinds
    assert (m.Base().a, m.Child().a, m.Grandchild(a=2.5).a, m.Grandchild().b) == (1.5, 1.5, 2.5, 2)
    assert type(m.Grandchild.model_validate({})) is m.Grandchild


def test_pydantic_dataclasses_follow_their_fields() -> None:
    edited = Edited("""
        from pydantic import TypeAdapter
        from pydantic.dataclasses import dataclass
        @dataclass
        class Point:
            x: int = 0
        TAG = 1
    """)
    m = edited.module
    point = m.Point
    edited.replace("TAG = 1", "TAG = 2")
    assert m.Point is point and type(m.TypeAdapter(m.Point).validate_python({"x": "3"})) is point
    edited.replace("x: int = 0", "x: int = 0\n    y: int = 5")
    made = m.TypeAdapter(m.Point).validate_python({"x": "3"})
    assert m.Point is point and type(made) is point and (made.x, made.y, m.Point("4").y) == (3, 5, 5)


SHAPES = """
    import ctypes
    SIZE = 3
    NAMES = {"a": 1}
    class Point(ctypes.Structure):
        _fields_ = [("x", ctypes.c_int), ("rest", ctypes.c_int * SIZE)]
        def double(self): return self.x * 2
        @property
        def half(self): return self.x / 2
    class Pair(ctypes.Structure):
        _fields_ = [("one", Point), ("other", Point)]
    class Either(ctypes.Union):
        _fields_ = [("i", ctypes.c_int), ("p", Point)]
    Five = ctypes.c_int * 5
    Called = type("Called", (ctypes.Structure,), {"_fields_": [("y", ctypes.c_int)]})
    TAG = "old"
"""


def test_ctypes_structures_stay_and_their_methods_follow() -> None:
    edited = Edited(SHAPES)
    m = edited.module
    kinds = m.Point, m.Pair, m.Either, m.Called
    point, pair = m.Point(4), m.Pair()
    edited.replace('"old"', '"new"')
    edited.replace("self.x * 2", "self.x * 3", "self.x / 2", "self.x / 4", "SIZE = 3", "SIZE = 3\nOTHER = 1")
    assert (m.Point, m.Pair, m.Either, m.Called) == kinds
    assert (point.double(), point.half, m.Point(5).double(), pair.one.double()) == (12, 1, 15, 0)
    pair.one = point
    assert isinstance(pair.one, m.Point) and edited.warnings == []
    edited.replace("    @property\n    def half(self): return self.x / 4\n", "    def more(self): return 1\n")
    assert point.more() == 1 and not hasattr(point, "half")
    with pytest.raises(ZeroDivisionError):
        edited.replace("self.x * 3", "self.x * 4", '"new"', "1 / 0", "def more", "def less")
    assert point.double() == 12 and point.more() == 1 and not hasattr(point, "less")


@pytest.mark.parametrize(
    ("words", "line", "reason"),
    [
        (('("x", ctypes.c_int)', '("x", ctypes.c_long)'), "6: class Point", "ctypes fixes the layout"),
        (("Pair(ctypes.Structure)", "Pair(ctypes.BigEndianStructure)"), "10: class Pair", "ctypes fixes"),
        (('    _fields_ = [("i"', '    _pack_ = 1\n    _fields_ = [("i"'), "13: class Either", "ctypes fixes"),
        (('("y", ctypes.c_int)', '("y", ctypes.c_long)'), "15: Called", "ctypes fixes"),
    ],
)
def test_other_fields_of_ctypes_structures_are_refused_before_anything_is_executed(
    words: tuple[str, ...], line: str, reason: str
) -> None:
    edited = Edited(SHAPES)
    with pytest.raises(ReloadRefusedError, match=reason) as caught:
        edited.preflight(*words)
    assert f"{edited.module.__name__}.py:{line}" in str(caught.value)
    error = refused(edited, *words)
    assert reason in str(error)


def test_a_ctypes_structure_whose_size_changed_elsewhere_is_refused_as_it_is_executed() -> None:
    edited = Edited(SHAPES)
    error = refused(edited, "SIZE = 3", "SIZE = 4")
    assert "it depends on `SIZE`, which changed" in str(error)


def test_a_class_that_cannot_be_made_anew_and_depends_on_what_was_made_anew_stays_with_a_warning() -> None:
    edited = Edited(SHAPES.replace("* SIZE", "* len(NAMES)"))
    point = edited.module.Point
    edited.replace('"old"', '"new"')
    assert edited.module.Point is point
    assert edited.warnings == [
        f"`Point` ({edited.module.__name__}.py:5) stays as it was: it depends on `NAMES`, which was made anew, and "
        "ctypes fixes the layout of its instances when it makes the class"
    ]


def test_msgspec_structs_stay_and_their_methods_follow() -> None:
    edited = Edited("""
        import msgspec
        class Row(msgspec.Struct, frozen=True):
            x: int
            y: list[int] = []
            def total(self): return self.x + sum(self.y)
        class Table(msgspec.Struct):
            rows: list[Row]
        TAG = "old"
    """)
    m = edited.module
    table, row = m.Table([m.Row(1, [2])]), m.Row
    edited.replace('"old"', '"new"', "self.x + sum", "self.x - sum")
    assert m.Row is row and table.rows[0].total() == -1
    decoded = m.msgspec.json.decode(m.msgspec.json.encode(table), type=m.Table)
    assert decoded == table and type(decoded.rows[0]) is row and pickle.loads(pickle.dumps(table)) == table
    for words in [("x: int", "x: float"), ("    y: list[int] = []\n", ""), ("frozen=True", "frozen=False")]:
        with pytest.raises(ReloadRefusedError, match="msgspec fixes the layout"):
            edited.preflight(*words)
        refused(edited, *words)
    assert m.msgspec.json.decode(b'{"rows": [{"x": 2}]}', type=m.Table).rows[0].total() == 2


TABLES = """
    import datetime
    from typing import Optional
    from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, create_engine
    from sqlalchemy.ext.hybrid import hybrid_property
    from sqlalchemy.orm import *
    engine = create_engine("sqlite://")
    Session = sessionmaker(engine)
    def now(): return 3
    class Named:
        name: Mapped[Optional[str]] = mapped_column(default=None)
        def shout(self): return self.name.upper()
    class Base(DeclarativeBase):
        def describe(self): return "old"
    class User(Named, Base):
        __tablename__ = "user"
        id: Mapped[int] = mapped_column(primary_key=True)
        since: Mapped[int] = mapped_column(default=now)
        posts: Mapped[list["Post"]] = relationship(back_populates="user")
        def count(self): return len(self.posts)
        @validates("name")
        def check(self, key, value): return value + "!"
        @hybrid_property
        def later(self): return self.since + 1
    class Post(Base):
        __tablename__ = "post"
        id: Mapped[int] = mapped_column(primary_key=True)
        user_id: Mapped[int] = mapped_column(ForeignKey("user.id"))
        user: Mapped[User] = relationship(back_populates="posts")
    Old = declarative_base()
    class Tag(Old):
        __tablename__ = "tag"
        id = Column(Integer, primary_key=True)
    metadata = MetaData()
    mapper_registry = registry(metadata=metadata)
    dogs = Table("dog", metadata, Column("id", Integer, primary_key=True), Column("name", String(9)))
    class Dog:
        def bark(self): return self.name
    mapper_registry.map_imperatively(Dog, dogs)
    @mapper_registry.mapped
    class Cat:
        __tablename__ = "cat"
        id = Column(Integer, primary_key=True)
        def meow(self): return "old"
"""


def test_sqlalchemy_models_stay_and_their_methods_follow() -> None:
    edited = Edited(TABLES)
    m = edited.module
    names = "Base User Post Old Tag metadata mapper_registry dogs Dog Cat".split()
    kinds = [getattr(m, name) for name in names]
    engine, session = m.engine, m.Session()
    for each in (m.Base.metadata, m.Old.metadata, m.metadata):
        each.create_all(engine)
    user = m.User(id=1, name="ann", posts=[m.Post(id=2)])
    dog, cat = m.Dog(id=1, name="rex"), m.Cat(id=1)
    session.add_all([user, dog, cat])
    session.commit()
    edited.replace(
        "return len(self.posts)", "return -len(self.posts)", "return self.name\n", "return self.name * 2\n",
        'def meow(self): return "old"', 'def meow(self): return "new"', 'value + "!"', 'value + "?"',
        "self.since + 1", "self.since + 2", "self.name.upper()", "self.name.title()", 'return "old"', 'return "newer"',
        "def now(): return 3", "def now(): return 4",
    )  # fmt: skip
    assert [getattr(m, name) for name in names] == kinds and edited.warnings == []
    assert (user.count(), dog.bark(), cat.meow(), user.later, user.shout()) == (-1, "rexrex", "new", 5, "Ann!")
    assert user.describe() == m.Post().describe() == "newer"
    user.name = "bob"
    assert user.name == "bob?"
    session.commit()
    assert session.query(m.User).filter(m.User.later == 5).one() is user
    assert session.query(m.Post).one().user is user and session.query(m.Dog).one() is dog
    assert pickle.loads(pickle.dumps(user)).id == 1
    session.close()
    engine.dispose()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("mapped_column(default=now)", "mapped_column(default=4)"), "18: class User"),
        (('"post"', '"post"\n        color: Mapped[int] = mapped_column()'), "27: class Post"),
        (("String(9)", "String(8)"), "36: dogs"),
        (("User(Named, Base)", "User(Base)"), "15: class User"),
        (('    @validates("name")\n', ""), "21: class User"),
    ],
)
def test_other_columns_of_sqlalchemy_models_are_refused_before_anything_is_executed(
    words: tuple[str, ...], line: str
) -> None:
    edited = Edited(TABLES)
    words = tuple(word.replace("        ", "    ") for word in words)
    with pytest.raises(ReloadRefusedError, match="SQLAlchemy maps it once") as caught:
        edited.preflight(*words)
    assert f".py:{line}" in str(caught.value)
    refused(edited, *words)


def test_a_mixin_that_changed_refuses_the_sqlalchemy_models_made_of_it() -> None:
    edited = Edited(TABLES)
    error = refused(edited, "mapped_column(default=None)", 'mapped_column(default="nobody")')
    assert "class User: it depends on `Named`, which changed, and SQLAlchemy maps it once" in str(error)
    assert edited.module.User(name="x").name == "x!"


def test_attrs_classes_with_and_without_slots_follow() -> None:
    edited = Edited("""
        import attrs
        from dataclasses import dataclass, field
        @attrs.define
        class Slotted:
            x: int = 1
            y: list = attrs.field(factory=list)
            made = 0
            def total(self): return self.x + len(self.y)
        @attrs.define(slots=False)
        class Open:
            x: int = attrs.field(default=1, validator=attrs.validators.instance_of(int))
            def total(self): return self.x
        @attrs.frozen
        class Child(Slotted):
            z: int = 3
            def total(self): return super().total() + self.z
        @dataclass(slots=True, frozen=True)
        class Data:
            x: int = 1
            y: list = field(default_factory=list)
            def total(self): return self.x
            def both(self): return (self.total(), __class__.__name__)
        TAG = "old"
    """)
    m = edited.module
    kinds = m.Slotted, m.Open, m.Child, m.Data
    things = [m.Slotted(2, [1]), m.Open(4), m.Child(5), m.Data(6)]
    m.Slotted.made = 7
    edited.replace('"old"', '"new"')
    assert (m.Slotted, m.Open, m.Child, m.Data) == kinds
    edited.replace("self.x + len", "self.x - len", "return self.x\n", "return -self.x\n", "() + self.z", "() - self.z")
    assert (m.Slotted, m.Open, m.Child, m.Data) == kinds and m.Slotted.made == 7
    assert [each.total() for each in things] == [1, -4, 2, -6] and things[3].both() == (-6, "Data")
    assert [m.Slotted(2, [1]).total(), m.Open().total(), m.Child().total(), m.Data(1).total()] == [1, -1, -2, -1]
    assert pickle.loads(pickle.dumps(things)) == things and m.Child().z == 3
    edited.replace("x: int = attrs.field(default=1", "w: int = 5\n    x: int = attrs.field(default=9")
    assert (m.Open().w, m.Open().total()) == (5, -9) and isinstance(things[1], m.Open)
    for words in [("made = 0", "w: int = 2\n    made = 0"), ("y: list = field(", "w: int = 3\n    y: list = field(")]:
        with pytest.raises(ReloadRefusedError, match="__slots__ changed"):
            edited.replace(*words)
    assert (m.Slotted, m.Open, m.Child, m.Data) == kinds and things[0].total() == 1


def test_classes_of_other_libraries_with_a_registry_stay_and_are_changed_with_a_warning() -> None:
    edited = Edited("""
        import marshmallow, peewee, traitlets
        db = peewee.SqliteDatabase(":memory:")
        class Item(marshmallow.Schema):
            x = marshmallow.fields.Int()
            def double(self): return 2
            @marshmallow.post_load
            def shift(self, data, **options): return data | {"shifted": 1}
        class Order(marshmallow.Schema):
            item = marshmallow.fields.Nested("Item")
        class Person(peewee.Model):
            name = peewee.CharField()
            def hello(self): return "old"
            class Meta:
                database = db
        class Config(traitlets.HasTraits):
            rate = traitlets.Float(0.1)
            def double(self): return self.rate * 2
        TAG = "old"
    """)
    m = edited.module
    names = "Item Order Person Config".split()
    kinds = [getattr(m, name) for name in names]
    item, config = m.Item(), m.Config(rate=0.5)
    edited.replace("return 2", "return 3", "rate * 2", "rate * 4", '"shifted": 1', '"shifted": 2')
    assert [getattr(m, name) for name in names] == kinds and (item.double(), config.double()) == (3, 2.0)
    assert m.Order().load({"item": {"x": "4"}}) == {"item": {"x": 4, "shifted": 2}}
    # The database was made anew, so that the model was, too.
    assert [warning.partition(" (")[0] for warning in edited.warnings] == ["`Person`"]
    assert m.Person._meta.database is m.db and m.Person(name="x").hello() == "old"
    edited.replace("x = marshmallow.fields.Int()", "x = marshmallow.fields.Int()\n    y = marshmallow.fields.Int()")
    assert [getattr(m, name) for name in names] == kinds
    assert m.Order().load({"item": {"x": "4", "y": "5"}}) == {"item": {"x": 4, "y": 5, "shifted": 2}}
    assert edited.warnings[:1] == [
        f"`Item` ({m.__name__}.py:4) changed in place: what `marshmallow.SchemaMeta` keeps elsewhere of its old "
        "fields stays"
    ]


def test_pydantic_models_may_refer_to_models_that_come_later() -> None:
    edited = Edited("""
        from typing import Annotated, Literal, Union
        from pydantic import BaseModel, Field, RootModel
        class Run(BaseModel):
            name: str = "x"
        class Cat(BaseModel):
            kind: Literal["cat"] = "cat"
        class Pet(RootModel[Annotated[Union[Cat, "Dog"], Field(discriminator="kind")]]):
            pass
        class Dog(BaseModel):
            kind: Literal["dog"] = "dog"
            owner: "Run | None" = None
        Pet.model_rebuild()
    """)
    m = edited.module
    kinds = m.Run, m.Cat, m.Pet, m.Dog
    edited.replace(
        'name: str = "x"', 'name: str = "x"\n    pets: "list[Pet]" = []\n    new: "New | None" = None',
        "Pet.model_rebuild()\n", "class New(BaseModel):\n    size: int = 3\n",
    )  # fmt: skip
    made = m.Run.model_validate(
        {"pets": [{"kind": "dog", "owner": {"new": {}}}, {"kind": "cat"}], "new": {"size": "4"}}
    )
    assert (m.Run, m.Cat, m.Pet, m.Dog) == kinds and type(made.new) is m.New
    assert [type(pet) for pet in made.pets] == [m.Pet, m.Pet] and [type(pet.root) for pet in made.pets] == [
        m.Dog,
        m.Cat,
    ]
    assert type(made.pets[0].root.owner) is m.Run and made.pets[0].root.owner.new.size == 3
    edited.replace(
        "size: int = 3",
        "size: int = 5",
        'kind: Literal["cat"] = "cat"',
        'kind: Literal["cat"] = "cat"\n    fur: int = 1',
    )
    made = m.Run.model_validate({"pets": [{"kind": "dog", "owner": {"new": {}}}, {"kind": "cat"}]})
    assert made.pets[0].root.owner.new.size == 5 and made.pets[1].root.fur == 1
    assert pickle.loads(pickle.dumps(made)) == made and copy.deepcopy(made) == made
