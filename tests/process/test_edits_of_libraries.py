"""Edits of code whose classes and functions libraries have made."""

import gc
from pathlib import Path

import pytest

from tests.support.reloading import Edited as Training
from tests.support.scripts import Script

pytestmark = [pytest.mark.process, pytest.mark.tier("test")]  # needs the libraries

# --- classes and functions that libraries make ---

EDITS: dict[str, tuple[str, str]] = {
    "attrs": (
        """
        import attrs
        @attrs.define
        class Net:
            w: int = 1
            def word(self): return "old"
        held = Net()
        """,
        "held.word() == 'new' and type(held) is Net and held == Net() and attrs.evolve(held, w=2).w == 2",
    ),
    "attrs without slots, frozen": (
        """
        import attrs
        @attrs.frozen(slots=False)
        class Net:
            w: int = 1
            def word(self): return "old"
        held = Net()
        """,
        "held.word() == 'new' and type(held) is Net and held == Net()",
    ),
    "msgspec": (
        """
        import msgspec
        class Net(msgspec.Struct):
            w: int = 1
            def word(self): return "old"
        held = Net(w=3)
        """,
        "held.word() == 'new' and msgspec.json.decode(msgspec.json.encode(held), type=type(held)) == held",
    ),
    "dataclass with slots, in a registry": (
        """
        import dataclasses
        @dataclasses.dataclass(slots=True)
        class Net:
            w: int = 1
            def word(self): return "old"
        held = Net()
        table = {Net: (held, [Net])}
        """,
        "held.word() == 'new' and type(held) is Net and table[Net][1][0] is Net and held == Net()",
    ),
    "a torch module with hooks": (
        """
        import torch
        def hook(module, args, output): return output + 1
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(1, 1)
                self.register_forward_hook(hook)
            def forward(self, x): return self.layer(x) * 0
            def word(self): return "old"
        if "held" not in globals():
            held = Net()
        """,
        "held.word() == 'new' and type(held) is Net and held(torch.zeros(1)).item() == 1 "
        "and len(list(held.parameters())) == 2",
    ),
    "an autograd function of torch": (
        """
        import torch
        class Double(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x * 2
            @staticmethod
            def backward(ctx, grad): return grad * 2
            word = staticmethod(lambda: "old")
        held = Double.apply
        x = torch.ones(1, requires_grad=True)
        held(x).backward()
        """,
        "Double.word() == 'new' and held(x).item() == 2 and x.grad.item() == 2",
    ),
    "a dataset and a sampler of torch": (
        """
        import torch
        class Data(torch.utils.data.Dataset):
            def __len__(self): return 3
            def __getitem__(self, index): return "old"
        if "held" not in globals():
            held = torch.utils.data.DataLoader(Data(), batch_size=3)
        """,
        "next(iter(held)) == ['new'] * 3 and type(held.dataset) is Data",
    ),
    "an optimizer that registers a step": (
        """
        import torch
        class Plain(torch.optim.SGD):
            def step(self, closure=None): return "old"
        if "held" not in globals():
            held = Plain([torch.zeros(1, requires_grad=True)], lr=1.0)
            schedule = torch.optim.lr_scheduler.StepLR(held, 1)
        """,
        "held.step() == 'new' and schedule.optimizer is held and isinstance(held, Plain)",
    ),
    "a structured configuration of omegaconf": (
        """
        import dataclasses
        from omegaconf import OmegaConf
        @dataclasses.dataclass
        class Config:
            rate: float = 1.0
            def word(self): return "old"
        held = OmegaConf.structured(Config)
        """,
        "OmegaConf.to_object(held).word() == 'new' and type(OmegaConf.to_object(held)) is Config",
    ),
    "a configuration of hydra": (
        """
        import dataclasses
        from hydra.core.config_store import ConfigStore
        @dataclasses.dataclass
        class Config:
            word: str = "old"
        ConfigStore.instance().store(name="spark_edited", node=Config)
        """,
        "ConfigStore.instance().load('spark_edited.yaml').node.word == 'new'",
    ),
    "a group of click": (
        """
        import click
        @click.group()
        def cli(): pass
        @cli.command()
        @click.option("--rate", default=1)
        def train(rate): return "old", rate
        """,
        "cli(['train', '--rate', '3'], standalone_mode=False) == ('new', 3) and list(cli.commands) == ['train']",
    ),
    "an LRU cache": (
        """
        import functools
        @functools.lru_cache(maxsize=3)
        def word(x): return "old"
        held = word
        word(1)
        """,
        "held(1) == word(1) == 'new'",
    ),
    "a cached property that has its value": (
        """
        import functools
        class Net:
            @functools.cached_property
            def slow(self): return "computed"
            def word(self): return "old"
        if "held" not in globals():
            held = Net()
            held.slow = "computed"
        """,
        "held.word() == 'new' and held.slow == 'computed'",
    ),
    "a single dispatch": (
        """
        import functools
        @functools.singledispatch
        def word(x): return "old"
        @word.register
        def _(x: int): return "old int"
        """,
        "word('') == 'new' and word(1) == 'new int'",
    ),
    "a context manager": (
        """
        import contextlib
        @contextlib.contextmanager
        def word(): yield "old"
        held = word
        """,
        "word().__enter__() == 'new' and held().__enter__() == 'new'",
    ),
    "a thread-local with defaults": (
        """
        import threading
        class Local(threading.local):
            w = 1
            def word(self): return "old"
        if "held" not in globals():
            held = Local()
            held.x = 3
        """,
        "held.word() == 'new' and held.x == 3 and type(held) is Local",
    ),
    "an abstract base with a virtual subclass": (
        """
        import abc
        class Base(abc.ABC):
            @abc.abstractmethod
            def word(self): ...
        class Child(Base):
            def word(self): return "old"
        Base.register(int)
        held = Child()
        """,
        "held.word() == 'new' and isinstance(held, Base) and isinstance(3, Base)",
    ),
    "a protocol that is checked": (
        """
        from typing import Protocol, runtime_checkable
        @runtime_checkable
        class Speaks(Protocol):
            def word(self): ...
        class Net:
            def word(self): return "old"
        held = Net()
        """,
        "held.word() == 'new' and isinstance(held, Speaks) and not isinstance(3, Speaks)",
    ),
    "a generic class": (
        """
        from typing import Generic, TypeVar
        T = TypeVar("T")
        class Box(Generic[T]):
            def word(self): return "old"
        held = Box[int]()
        """,
        "held.word() == 'new' and isinstance(held, Box) and Box[str]().word() == 'new'",
    ),
    "an exception that handlers wait for": (
        """
        import pickle
        class Failed(RuntimeError):
            def word(self): return "old"
        held = Failed("x")
        """,
        "held.word() == 'new' and isinstance(held, Failed) and type(pickle.loads(pickle.dumps(held))) is Failed",
    ),
    "a counter in a class": (
        """
        import collections
        class Count(collections.Counter):
            def word(self): return "old"
        if "held" not in globals():
            held = Count("aab")
        """,
        "held.word() == 'new' and held['a'] == 2 and type(held) is Count",
    ),
    "a plugin that a base collects, with its options": (
        """
        plugins = {}
        class Plugin:
            def __init_subclass__(cls, *, name, **options):
                super().__init_subclass__()
                plugins[name] = (cls, options, cls.__name__)
        class Net(Plugin, name="net", rate=1):
            def word(self): return "old"
        held = plugins["net"][0]()
        """,
        "held.word() == 'new' and plugins['net'][0] is Net is type(held)",
    ),
    "a descriptor that knows its owner": (
        """
        class Field:
            fields = []
            def __set_name__(self, owner, name): self.owner = owner; Field.fields.append((owner, name))
            def __get__(self, instance, owner): return "old"
        class Net:
            word = Field()
        held = Net()
        """,
        "held.word == 'new' and vars(Net)['word'].owner is Net and all(owner is Net for owner, _ in Field.fields)",
    ),
    "a pydantic dataclass": (
        """
        import pydantic.dataclasses
        @pydantic.dataclasses.dataclass
        class Config:
            rate: float = 1.0
            def word(self): return "old"
        held = Config()
        """,
        "held.word() == 'new' and type(held) is Config and held == Config(rate='1')",
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_of_what_a_library_has_made(kind: str) -> None:
    source, holds = EDITS[kind]
    script = Script(source)
    held = getattr(script.module, "held", None)
    for old, new in (("old", "new"), ("new", "old"), ("old", "new")):
        script.again(old, new)
        if held is not None and "globals()" not in source and isinstance(held, type(script.module.held)):
            script.module.held = held  # as if persisted
        expected = holds if new == "new" else holds.replace("'new", "'old")
        assert eval(expected, vars(script.module)), (kind, new)
    script.fail("new", "broken")
    assert eval(holds, vars(script.module)), "after a reload that was undone"
    gc.collect()


# --- whole trainings ---

ABSL = """
from absl import app, flags
import json, time
import spark_fast as spark
FLAGS = flags.FLAGS
flags.DEFINE_float("lr", 1.0, "the rate")

def main(argv):
    for number in spark.track(range(10**6), key="number"):
        print(json.dumps(["old", FLAGS.lr, number]), flush=True)
        time.sleep(0.002)

if __name__ == "__main__":
    app.run(main)
"""

HYDRA = """
import dataclasses, json, time
import hydra
from hydra.core.config_store import ConfigStore
import spark_fast as spark

@dataclasses.dataclass
class Config:
    lr: float = 1.0

ConfigStore.instance().store(name="config", node=Config)

@hydra.main(version_base=None, config_name="config", config_path=None)
def main(config):
    for number in spark.track(range(10**6), key="number"):
        print(json.dumps(["old", config.lr, number]), flush=True)
        time.sleep(0.002)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("code", [ABSL, HYDRA], ids=["absl", "hydra"])
def test_a_training_under_another_library_takes_new_code(tmp_path: Path, code: str) -> None:
    with Training(tmp_path, code, inside=True) as training:
        assert training.says(1)[0][:2] == ["old", 1.0]
        training.edit('["old"', '["new"')
        training.edit("1.0", "2.0")
        training.reloaded()
        training.edit('["new"', '[1 / 0, "broken"')
        assert training.reload().fate.state == "failed"
        said = training.says(2, len(training.said))
        assert said[1][:2] == ["new", 2.0]
        numbers = [line[2] for line in training.said]
        assert numbers == list(range(len(numbers)))
