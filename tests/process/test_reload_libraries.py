"""Reloads of real trainings whose classes are made by libraries: each goes on, with the new code or with the old."""

from pathlib import Path

import pytest

from tests.support.reloading import Edited

pytestmark = pytest.mark.process

LOOP = """
for i in spark.track(range(10**6), key="i"):
    print(json.dumps(look()), flush=True)
    time.sleep(0.005)
"""


def test_a_module_of_ctypes_structures_is_reloaded_and_other_fields_are_refused(tmp_path: Path) -> None:
    shapes = """
        import ctypes
        class Point(ctypes.Structure):
            _fields_ = [("x", ctypes.c_int)]
            def double(self): return self.x * 2
        TAG = "old"
    """
    script = """
import json, time
import spark_fast as spark
import shapes
point = spark.persist("point", lambda: shapes.Point(3))
def look(): return [shapes.TAG, point.double(), type(point) is shapes.Point]
"""
    with Edited(tmp_path, script + LOOP, modules={"shapes.py": shapes}) as training:
        assert training.says()[0] == ["old", 6, True]
        training.edit('"old"', '"new"', "shapes.py")
        training.edit("self.x * 2", "self.x * 5", "shapes.py")
        training.reloaded()
        assert training.says(2, len(training.said))[-1] == ["new", 15, True]
        training.edit("ctypes.c_int", "ctypes.c_long", "shapes.py")
        training.edit('"new"', '"newer"', "shapes.py")
        fate = training.reload().fate
        assert fate.state == "refused" and "shapes.py:3: class Point" in fate.reason, fate
        assert training.says(2, len(training.said))[-1] == ["new", 15, True]


def test_nested_pydantic_models_and_what_the_script_makes_by_calls_are_reloaded(tmp_path: Path) -> None:
    script = """
import json, pickle, time
from collections import namedtuple
from enum import Enum
from pydantic import BaseModel
import spark_fast as spark
class Part(BaseModel):
    rate: float = 0.1
class Config(BaseModel):
    part: Part = Part()
    parts: list[Part] = []
Row = namedtuple("Row", "x y")
Mode = Enum("Mode", "TRAIN EVAL")
kept = spark.persist("kept", lambda: [Config(), Row(1, 2), Mode.TRAIN])
def look():
    made = Config.model_validate({"parts": [{"rate": 1}]})
    copied = pickle.loads(pickle.dumps(kept))
    same = type(made) is Config and type(made.parts[0]) is Part is type(copied[0].part)
    same = same and isinstance(kept[1], Row) and kept[2] is Mode.TRAIN is copied[2]
    return ["old", same, sorted(made.parts[0].model_dump())]
"""
    with Edited(tmp_path, script + LOOP) as training:
        assert training.says()[0] == ["old", True, ["rate"]]
        training.edit('"old"', '"new"')
        training.reloaded()
        assert training.says(2, len(training.said))[-1] == ["new", True, ["rate"]]
        training.edit("rate: float = 0.1", "rate: float = 0.1\n    decay: int = 3")
        fate = training.reloaded().fate
        assert fate.warnings[:1] == ("`Part` (train.py:6): objects that were made before have no `decay`",)
        assert [warning.partition(":")[2].partition("(")[0] for warning in fate.warnings[1:]] == ["14: persist"]
        assert training.says(2, len(training.said))[-1] == ["new", True, ["decay", "rate"]]
        training.edit("decay: int = 3", "decay: int = 4")
        training.edit("return [", "raise ValueError\n    return [")
        assert training.reload().fate.state == "failed"
        assert training.says(2, len(training.said))[-1] == ["new", True, ["decay", "rate"]]


def test_a_script_with_sqlalchemy_models_is_reloaded_and_other_columns_are_refused(tmp_path: Path) -> None:
    script = """
import json, time
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
import spark_fast as spark
class Base(DeclarativeBase): pass
class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)
    loss: Mapped[float] = mapped_column(default=0.5)
    def double(self): return self.loss * 2
engine = spark.persist("engine", lambda: create_engine("sqlite://"))
Base.metadata.create_all(engine)
session = spark.persist("session", lambda: Session(engine))
def look():
    session.add(Row())
    session.commit()
    return ["old", {row.double() for row in session.query(Row)}.pop()]
"""
    with Edited(tmp_path, script + LOOP) as training:
        assert training.says()[0] == ["old", 1.0]
        training.edit('"old"', '"new"')
        training.edit("self.loss * 2", "self.loss * 6")
        training.reloaded()
        assert training.says(2, len(training.said))[-1] == ["new", 3.0]
        training.edit("default=0.5", "default=0.25")
        fate = training.reload().fate
        assert fate.state == "refused" and "train.py:9: class Row" in fate.reason, fate
        assert training.says(2, len(training.said))[-1] == ["new", 3.0]
