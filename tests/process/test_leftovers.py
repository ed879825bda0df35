"""What new code does not reach: renamed and removed classes, persisted values, modules that replaced themselves."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from spark_fast.worker.reload.leftovers import factory_warnings, object_warnings
from spark_fast.worker.reload.patching import Patch
from tests.process.test_reload import SAY
from tests.support.reloading import Edited as Training
from tests.unit.test_patching import Edited

pytestmark = pytest.mark.process

NET = """
class Base: pass
class Net:
    def __init__(self):
        self.w = 0
    class Part:
        def word(self): return "old part"
    def word(self): return "old"
    @classmethod
    def made(cls): return cls()
    def name(self): return super(Net, self).__str__() and type(self).__name__
net = Net()
held = net.word, Net.Part(), Net.made
"""


def test_a_class_that_is_renamed_stays_the_same_object_with_the_new_name() -> None:
    edited = Edited(NET)
    net, (bound, part, made), old = edited.module.net, edited.module.held, edited.module.Net
    edited.replace("Net", "Network", '"old', '"new')
    assert edited.module.Network is old is type(net)
    assert (old.__name__, old.__qualname__, old.Part.__qualname__) == ("Network", "Network", "Network.Part")
    assert [net.word(), bound(), part.word(), net.name()] == ["new", "new", "new part", "Network"]
    assert type(made()) is old
    assert type(pickle.loads(pickle.dumps(net))) is old
    assert not hasattr(edited.module, "Net")


def test_a_rename_that_is_undone_leaves_the_old_name() -> None:
    edited = Edited(NET)
    net, old = edited.module.net, edited.module.Net
    patch = Patch()
    with pytest.raises(ZeroDivisionError):
        edited.run(patch, NET.replace("Net", "Network").replace('"old', '"new') + "1/0")
    patch.undo()
    assert (old.__qualname__, old.Part.__qualname__, old.word.__qualname__) == ("Net", "Net.Part", "Net.word")
    assert old.word.__code__.co_qualname == "Net.word"
    assert type(pickle.loads(pickle.dumps(net))) is old
    assert net.word() == "old"
    edited.replace('"old', '"newer')
    assert net.word() == "newer"


@pytest.mark.parametrize(
    "edits",
    [
        ("Net", "Network", "self.w = 0", "self.weight = 0"),
        ("Net", "Network", "class Network:", "class Network(Base):"),
        ("Net", "Network", "def name", "def names"),
        ("Net", "Network", "w = 0", "w = 0\n    rate = 1"),
    ],
    ids=["other attributes", "other bases", "other methods", "another attribute of the class"],
)
def test_a_class_that_may_be_another_one_does_not_take_the_place_of_one_that_is_gone(edits: tuple[str, ...]) -> None:
    edited = Edited(NET)
    net = edited.module.net
    edited.replace(*edits)
    assert type(net).__name__ == "Net"
    assert net.word() == "old"


def test_two_classes_of_one_shape_are_not_told_apart() -> None:
    source = "class {}:\n    def word(self): return 1\nclass {}:\n    def word(self): return 2\n"
    edited = Edited(source.format("A", "B"))
    one, other = edited.module.A(), edited.module.B()
    edited.edit(source.format("C", "D").replace("return", "return -"))
    assert [one.word(), other.word(), type(one).__name__, type(other).__name__] == [1, 2, "A", "B"]


def test_objects_of_a_class_that_is_gone_are_counted_with_the_place_and_the_key() -> None:
    edited = Edited("class Gone: pass\nclass Unused: pass\nclass Stays: pass\n")
    objects = [edited.module.Gone() for _ in range(2)]
    patch = Patch()
    edited.run(patch, "class Stays: pass\n")
    found = object_warnings(patch.removed_classes(), {"net": objects[0], "other": 1})
    patch.undo()
    assert len(found) == 1
    file = f"{edited.module.__name__}.py"
    assert found[0].startswith(f"{file}:1: class Gone is gone from the new code; 2 objects of it keep its old methods")
    assert "persisted as 'net'" in found[0]


MAKING = """
import other
from other import helper, Base
class Net(Base):
    rate = 1
    def __init__(self): self.w = 0
    def forward(self): return 0
def make(): return Net()
spark.persist("called", make)
spark.persist("lambda", lambda: Net())
persist(key="keywords", initializer=make)
spark.persist("class", Net)
spark.persist("module", other.helper)
spark.persist("imported", lambda: helper(3))
spark.persist(name, lambda: 1)
"""
FILES = {"train": "train.py", "other": "other.py"}
OTHER = """
class Base: pass
def helper(x=1): return deeper()
def deeper(): return 1
"""


@pytest.mark.parametrize(
    ("module", "old", "new", "keys"),
    [
        ("train", "lambda: Net()", "lambda: Net().half()", "lambda"),
        ("train", "return Net()", "return Net().half()", "called keywords"),
        ("train", "self.w = 0", "self.w = 1", "called lambda keywords class"),
        ("train", "return 0", "return 1", ""),
        ("train", "rate = 1", "rate = 2", ""),
        ("train", "spark.persist(name", "# a comment\nspark.persist(name", ""),
        ("other", "x=1", "x=2", "module imported"),
        ("other", "return 1", "return 2", "module imported"),
        ("train", 'persist("class", Net)', 'persist("other", Net)', ""),
    ],
)
def test_a_persisted_value_whose_factory_changed_is_told(module: str, old: str, new: str, keys: str) -> None:
    before = {"train": MAKING, "other": OTHER}
    assert old in before[module]
    after = before | {module: before[module].replace(old, new)}
    kept: dict[str, Any] = {key: object() for key in "called lambda keywords class module imported".split()}
    told = factory_warnings(before, after, kept, dict(kept), {}, FILES)
    assert all(each.startswith("train.py:") for each in told)
    assert {key for key in kept for each in told if f": persist({key!r}) keeps" in each} == set(keys.split())
    assert len(told) == len(keys.split())
    assert factory_warnings(before, after, kept, {}, {}, FILES) == [], "it was made anew"


TRAINING = (
    SAY
    + """
class Net:
    def __init__(self):
        self.w = 1
    def step(self): return self.w

def make():
    return Net()

net = spark.persist("net", make)
for number in spark.track(range(10**6), key="number"):
    say(net.step(), type(net).__name__)
    time.sleep(0.002)
"""
)


def warnings(training: Training) -> tuple[str, ...]:
    """What a reload warns of, but for the count of what `say` has said."""
    return tuple(each for each in training.reloaded().fate.warnings if "`said`" not in each)


def test_the_fate_of_a_reload_tells_what_stays_old(tmp_path: Path) -> None:
    with Training(tmp_path, TRAINING) as training:
        training.says(1)
        assert warnings(training) == ()
        training.edit("Net()", "Net() if True else None")
        (warning,) = warnings(training)
        assert "persist('net') keeps the value" in warning
        assert "make in train.py changed" in warning
        training.edit("Net", "Network")
        assert warnings(training) == ()
        assert training.says(1, len(training.said))[0][1] == "Network"
        training.edit("class Network:", "class Other:")
        training.edit("Network()", "Other()")
        training.edit("self.w", "self.weight")
        told = warnings(training)
        assert len(told) == 2, told
        line = 1 + training.source().split("\n").index("class Other:")
        assert f"train.py:{line}: class Network is gone" in told[0]
        assert "1 object of it keeps its old methods (persisted as 'net')" in told[0]
        assert "clear_persisted" in told[0]
        assert "persist('net') keeps" in told[1]
        assert told[0] in training.err


def test_objects_that_the_new_code_has_made_anew_are_not_told(tmp_path: Path) -> None:
    code = TRAINING.replace('net = spark.persist("net", make)', "net = make()")
    with Training(tmp_path, code) as training:
        training.says(1)
        training.edit("class Net:", "class Other:")
        training.edit("Net()", "Other()")
        training.edit("self.w", "self.weight")
        (warning,) = warnings(training)
        assert "`net` is made anew when the code runs again" in warning  # and nothing of its old class


REPLACED = {
    "an object": """
        import sys
        class Cfg:
            word = "old"
        sys.modules[__name__] = Cfg()
        """,
    "an object, from a package": """
        import sys
        class Cfg:
            word = "old"
        sys.modules[__name__] = Cfg()
        """,
    "another module": """
        import sys, types
        class Lazy(types.ModuleType):
            def __getattr__(self, name):
                if name == "word":
                    return "old"
                raise AttributeError(name)
        sys.modules[__name__] = Lazy(__name__)
        """,
    "a module of another class": """
        import sys, types
        class Lazy(types.ModuleType):
            @property
            def word(self): return "old"
        sys.modules[__name__].__class__ = Lazy
        """,
}


@pytest.mark.parametrize("kind", REPLACED)
def test_a_module_that_replaces_itself_is_executed_anew(tmp_path: Path, kind: str) -> None:
    name, statement, path = "cfg.py", "import cfg", "cfg"
    if "package" in kind:
        name, statement, path = "pkg/cfg.py", "from pkg import cfg", "pkg.cfg"
    code = f"""{statement}
import sys
for number in spark.track(range(10**6), key="number"):
    say(cfg.word, sys.modules[{path!r}] is cfg)
    time.sleep(0.002)
"""
    modules = {name: REPLACED[kind]} | ({"pkg/__init__.py": ""} if "/" in name else {})
    with Training(tmp_path, SAY + code, modules=modules) as training:
        assert training.says(1)[0] == ["old", True]
        training.edit('"old"', '"new"', name)
        training.reloaded()
        assert training.says(2, len(training.said))[1] == ["new", True]
        training.edit('"new"', '"broken"', name)
        training.edit("say(cfg", "1/0; say(cfg")
        assert training.reload().fate.state == "failed"
        assert training.says(2, len(training.said))[1] == ["new", True]


def test_a_module_that_is_no_longer_in_sys_modules_is_refused_with_the_reason(tmp_path: Path) -> None:
    code = """
import sys
import cfg
sys.modules.pop("cfg", None)
for number in spark.track(range(10**6), key="number"):
    say(cfg.word)
    time.sleep(0.002)
"""
    with Training(tmp_path, SAY + code, modules={"cfg.py": 'word = "old"\n'}) as training:
        training.says(1)
        training.edit('"old"', '"new"', "cfg.py")
        fate = training.reload().fate
        assert fate.state == "refused"
        assert "cfg was removed from sys.modules" in fate.reason
        training.says(2, len(training.said))


def test_a_script_that_puts_an_object_in_its_place_is_refused_with_the_reason(tmp_path: Path) -> None:
    code = """
import sys
main = sys.modules["__main__"]
sys.modules["__main__"] = {}
for number in spark.track(range(10**6), key="number"):
    say("old")
    time.sleep(0.002)
"""
    with Training(tmp_path, SAY + code) as training:
        training.says(1)
        training.edit('"old"', '"new"')
        fate = training.reload().fate
        assert fate.state == "refused"
        assert "sys.modules" in fate.reason
        training.says(2, len(training.said))
