"""Random edits of random modules: after each, a module is what it would be if it had been executed afresh."""

import dataclasses
import random
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest

from spark_fast.worker.reload.patching import Patch
from tests.support.child import ALL
from tests.unit.test_patching import Edited, loaded_modules, snapshot  # noqa: F401

pytestmark = pytest.mark.unit

IMPORTS = "import dataclasses, enum\nfrom collections import namedtuple\nimport pydantic\n"

# N stands for the number of the statement, and V for a random value. Other words stand for what was defined before:
# DECORATOR for a function, BASE for a class or a metaclass, MODEL for a model, KNOWN for a class.
STATEMENTS = """
KN = V

DN = {'x': V}

def fN(x=V):
    return x + V

def fN(): return 0
def fN():
    return V

def dN(cls):
    cls.mark = V
    return cls

class MN(type):
    def __new__(meta, name, bases, space):
        return super().__new__(meta, name, bases, space | {'meta': V})

class CN:
    a = V
    def __init_subclass__(cls, **options):
        cls.sub = V
    def m(self): return V

DECORATOR
class CN(BASE):
    a = V
    t = (a, V)
    def m(self): return V
    class In:
        a = V
        def m(self): return V

@dataclasses.dataclass
class CN:
    v: int = V
    a = V
    w: list = dataclasses.field(default_factory=list)
    def m(self): return V

class PN(MODEL):
    vN: int = V
    def m(self): return V

class PN(pydantic.BaseModel):
    vN: int = V
    held: MODEL = pydantic.Field(default_factory=lambda: MODEL())
    def m(self): return V

NN = namedtuple('NN', 'a b', defaults=(V, V))

class EN(enum.Enum):
    A = (V, 0)
    B = (V, 1)

if V > 4:
    class CN:
        a = V
        def m(self): return V
else:
    class CN:
        a = V
        def m(self): return V

KNOWN.altered = V
""".strip("\n").split("\n\n")


def program(rng: random.Random) -> list[tuple[str, str]]:
    """Statements that use each other, and the name that each binds."""
    found: list[tuple[str, str]] = []

    def names(start: str) -> list[str]:
        return [name for name, _ in found if name.startswith(start)]

    def value(_: object) -> str:
        choices = [f"{rng.randint(0, 9)}", f"(lambda: {rng.randint(0, 9)})()"]
        choices += names("K") + [f"{name}['x']" for name in names("D")] + [f"{name}()" for name in names("f")]
        return rng.choice(choices + [f"{name}.a" for name in names("C")])

    for number in range(rng.randint(4, 12)):
        text = rng.choice(STATEMENTS)
        classes, models, decorators, metas = names("C"), names("P"), names("d"), names("M")
        if "KNOWN" in text and not classes:
            continue
        words = {
            "DECORATOR\n": f"@{rng.choice(decorators)}\n" if decorators and rng.random() < 0.5 else "",
            "BASE": rng.choice([*classes, *(f"metaclass={meta}" for meta in metas), ""]),
            "MODEL": rng.choice(models)
            if models
            else "pydantic.RootModel[int]"
            if "held" in text
            else "pydantic.BaseModel",
            "KNOWN": rng.choice(classes) if classes else "",
        }
        text = text.replace("MODEL()", "MODEL(1)") if not models else text
        for word, instead in words.items():
            text = text.replace(word, instead)
        text = re.sub(r"\b([A-Zdfv])N\b", rf"\g<1>{number}", text)
        text = re.sub(r"\bV\b", value, text)
        name = re.search(r"(?:def|class) (\w+)|^(\w+)(?= =)", text)
        found.append((name[1] or name[2] if name else "", text))
    return found


def joined(statements: list[str], imported: Sequence[str] = (), home: str = "") -> str:
    heading = f"from {home} import {', '.join(imported)}\n" if imported else ""
    return IMPORTS + heading + "\n".join(statements) + "\n"


def mutated(rng: random.Random, statements: list[str]) -> list[str]:
    """The same with another number somewhere, or with a line more."""
    made = list(statements)
    index = rng.randrange(len(made))
    digits = [match.start() for match in re.finditer(r"(?<![\w'])\d(?![\w'])", made[index])]
    if digits and rng.random() < 0.8:
        at = rng.choice(digits)
        made[index] = f"{made[index][:at]}{rng.randint(0, 9)}{made[index][at + 1 :]}"
    else:
        made[index] = f"# a note\n{made[index]}"
    return made


def afresh(name: str, source: str) -> Any:
    module = types.ModuleType(name)
    module.__file__ = f"/nowhere/{name}.py"
    sys.modules[name] = module
    exec(compile(source, module.__file__, "exec"), vars(module))
    return module


def seen(module: Any) -> dict[str, Any]:
    """What can be seen of the values in a module: of classes their attributes, and what an object of theirs does."""
    return {name: _look(value) for name, value in vars(module).items() if not name.startswith("__")}


def _look(value: Any) -> Any:
    if isinstance(value, type):
        found: dict[str, Any] = {
            name: _look(part) if isinstance(part, type) else part
            for name, part in vars(value).items()
            if isinstance(part, (int, str, tuple, type)) and not name.startswith("_")
        }
        found["bases"] = [base.__name__ for base in value.__mro__]
        if not hasattr(value, "__members__") and not issubclass(value, type):
            made = value()
            found["m"] = made.m() if hasattr(made, "m") else None
            if dataclasses.is_dataclass(value) or isinstance(made, tuple) or hasattr(value, "model_validate"):
                found["shown"] = repr(made)
            if hasattr(value, "model_validate"):
                assert type(value.model_validate({})) is value
        return found
    if isinstance(value, types.FunctionType):
        return value() if value.__name__.startswith("f") and value.__name__ != "field" else None
    return value if isinstance(value, (int, dict)) else type(value).__name__


@pytest.mark.parametrize("seed", range(300 if ALL else 40))
def test_a_module_after_an_edit_is_what_it_would_be_afresh(seed: int) -> None:
    rng = random.Random(seed)
    found = program(rng)
    cut = rng.randint(0, len(found) - 1)
    parts = [text for _, text in found[:cut]], [text for _, text in found[cut:]]
    imported = sorted({name for name, _ in found[:cut] if name})
    helper = Edited(joined(parts[0]), "edited_helper")
    user = Edited(joined(parts[1], imported, "edited_helper"), "edited_user")
    for _ in range(5):
        edited = (
            (mutated(rng, parts[0]), parts[1])
            if parts[0] and rng.random() < 0.5
            else (parts[0], mutated(rng, parts[1]))
        )
        sources = joined(edited[0]), joined(edited[1], imported, "edited_helper")
        fresh = [afresh("edited_fresh", sources[0])]
        fresh.append(afresh("edited_fresh_user", joined(edited[1], imported, "edited_fresh")))
        fails = rng.random() < 0.3
        before = snapshot(helper.module), snapshot(user.module)
        classes = {
            id(value) for each in (helper, user) for value in vars(each.module).values() if isinstance(value, type)
        }
        patch = Patch(keeps_unchanged=True)
        try:
            if sources[0] != helper.source:
                helper.run(patch, sources[0])
            user.run(patch, sources[1] + "1 / 0\n" * fails)
        except ZeroDivisionError:
            patch.undo()
            assert fails and (snapshot(helper.module), snapshot(user.module)) == before
            continue
        patch.commit()
        helper.source, user.source, parts = *sources, edited
        for module, expected in ((helper.module, fresh[0]), (user.module, fresh[1])):
            shown = (
                repr(seen(expected))
                .replace("edited_fresh_user", "edited_user")
                .replace("edited_fresh", "edited_helper")
            )
            assert repr(seen(module)) == shown, "\n".join(sources)
            now = {id(value) for value in vars(module).values() if isinstance(value, type)}
            assert now <= classes
