"""Random edits of a running training, good and broken ones, between pauses and advances.

    python -m tests.random_edits --seconds 3600 --seed 1

The training has keyed loops, one within the other, and objects of many kinds of classes, held in many ways. After each
edit, no item of the loops was lost or came twice, and all objects run the code that they should. Every class is the one
that its module names, and what is pickled comes back as an object of it.
"""

import argparse
import random
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from spark_fast import client
from spark_fast.client import SparkError
from tests.support.child import until
from tests.support.reloading import Edited

INNER = 7

LIBRARY = """
import collections, functools, types, weakref

class Slot:
    __slots__ = ("held",)

pairs, partials, weak, references = {}, {}, weakref.WeakValueDictionary(), {}
queue, slot, frozen, handlers = collections.deque(), Slot(), {}, []

class Registered:
    def __init_subclass__(cls):
        pairs["held"] = (cls, {"rate": 1})
        partials["held"] = functools.partial(cls)
        weak["held"] = cls
        references["held"] = weakref.ref(cls)
        frozen["held"] = frozenset([cls])
        queue.append(cls)
        slot.held = cls

def on(function):
    handlers.append(function)
    return function

def held():
    found = [pairs["held"][0], partials["held"].func, weak["held"], references["held"]()]
    return [*found, *frozen["held"], *queue, slot.held]
"""

PARTS = """
import abc, collections, dataclasses, enum, functools
import library
# {comment}

class Meta(type):
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.made = True
        return made

class {plain}:
    def __init__(self): self.count = 0
    def word(self): return "{word}"
    def bound(self): return "{word}"
    {method}

class Registered(library.Registered):
    def word(self): return "{word}"
    @library.on
    def handle(self): return "{word}"

@dataclasses.dataclass
class Data:
    rate: float = 1.0
    def word(self): return "{word}"

@dataclasses.dataclass(slots=True)
class Slotted:
    rate: float = 1.0
    def word(self): return "{word}"

class Sloppy:
    __slots__ = ("a",{slot})
    def word(self): return "{word}"

class Colour(enum.Enum):
    RED = 1
    def word(self): return "{word}"

class Abstract(abc.ABC):
    @abc.abstractmethod
    def word(self): ...

class Concrete(Abstract{base}):
    def word(self): return super().__str__() and "{word}"

class Strange(metaclass=Meta):
    def word(self): return "{word}"

class Outer:
    class Inner:
        def word(self): return "{word}"
    def word(self): return self.Inner().word()

class Failed(RuntimeError):
    def word(self): return "{word}"

def decorated(function):
    @functools.wraps(function)
    def wrapper(*args): return function(*args)
    return wrapper

{decorator}
def function(): return "{word}"

def make():
    def closure(): return "{word}"
    return closure

@functools.lru_cache
def cached(): return "{word}"
{broken}
kinds = dict(plain={plain}, registered=Registered, data=Data, slotted=Slotted, sloppy=Sloppy, concrete=Concrete,
             strange=Strange, inner=Outer.Inner, outer=Outer, failed=Failed)
"""

TRAIN = """
import functools, gc, json, pickle, time
import spark_fast as spark
import library, parts
{helper}
objects = spark.persist("objects", lambda: {{name: kind() for name, kind in parts.kinds.items()}})
colour = spark.persist("colour", lambda: parts.Colour.RED)
callables = spark.persist("callables", lambda: [
    parts.function, functools.partial(parts.function), objects["plain"].bound, parts.make(), parts.cached,
    lambda: "{word}"
])
if {freeze}:
    spark.persist("frozen", lambda: (gc.collect(), gc.freeze()))

def look(outer, inner):
    words = [each.word() for each in objects.values()] + [each() for each in callables]
    words += [colour.word(), library.handlers[0](objects["registered"]), "{word}"]
    flags = {{
        "types": all(type(each) is parts.kinds[name] for name, each in objects.items()),
        "pickle": all(type(pickle.loads(pickle.dumps(each))) is parts.kinds[name] for name, each in objects.items()),
        "enum": colour is parts.Colour.RED,
        "registry": all(each is parts.Registered for each in library.held()) and len(library.queue) == 1,
        "handlers": library.handlers == [parts.Registered.handle],
        "instances": isinstance(objects["concrete"], parts.Abstract),
    }}
    return words, [name for name, holds in flags.items() if not holds]

for outer in spark.track(range(10**9), key="outer"):
    for inner in spark.track(range({inner}), key="inner"):
        words, wrong = look(outer, inner)
        time.sleep({pace})
        {fails}
        print(json.dumps([outer, inner, sorted(set(words)), wrong]), flush=True)
"""


@dataclass
class Code:
    """What the files hold. What breaks them stands in the fields whose names are in BROKEN."""

    word: str = "w0"
    comment: str = ""
    plain: str = "Plain"
    method: str = "pass"
    decorator: str = ""
    helper: str = ""
    slot: str = ""
    base: str = ""
    broken: str = ""
    fails: str = ""
    files: dict[str, str] = field(default_factory=dict)

    def parts(self) -> str:
        names = ("word", "comment", "plain", "method", "decorator", "slot", "base", "broken")
        return PARTS.format(**{name: getattr(self, name) for name in names})

    def train(self, freeze: bool, pace: float) -> str:
        return TRAIN.format(word=self.word, helper=self.helper, fails=self.fails, freeze=freeze, pace=pace, inner=INNER)


class Edits:
    """A training, its code, and what is to be true of it.

    folder: for its files.
    freeze: whether the training calls gc.freeze() once its objects are there.
    """

    def __init__(self, folder: Path, seed: int, *, freeze: bool, pace: float = 0.002) -> None:
        self.random = random.Random(seed)
        self.code = Code()
        self.applied = self.number = 0
        self._freeze, self._pace = freeze, pace
        modules = {"library.py": LIBRARY, "parts.py": self.code.parts()}
        self.training = Edited(folder, self.code.train(freeze, pace), modules=modules)

    def step(self) -> str:
        """One random edit, with what else is asked for around it, and all checks. Returns what it did."""
        run = client.attach("test")
        paused = self.random.random() < 0.4
        if paused:
            run.pause(timeout=60)
            if self.random.random() < 0.5:
                run.advance(self.random.randint(1, 2 * INNER), timeout=60)
        name = self.random.choice(list(GOOD) * 2 + list(BROKEN))
        good = name in GOOD
        self.number += 1
        code = (GOOD if good else BROKEN)[name](self.code, self.number, self.random)
        self._write(code)
        try:
            fate = self.training.reload(timeout=60).fate
            state, reason = str(fate.state), fate.reason
        except SparkError as error:
            state, reason = "refused", str(error)
        # Code that parks before its loop has come round counts as applied. If it fails then, it is taken back too.
        late = paused and name in FAILS_IN_THE_LOOP
        assert late or (state == "applied") is good, (name, state, reason, self.training.err[-3000:])
        if good:
            self.code = code
            self.applied += 1
        self._write(self.code)
        if paused:
            run.resume(timeout=60)
        self.check(name)
        return name

    def _write(self, code: Code) -> None:
        for path, text in code.files.items():
            self.training.write(path, text)
        self.training.write("parts.py", code.parts())
        self.training.write("train.py", code.train(self._freeze, self._pace))

    def check(self, what: str) -> None:
        """Looks at all that the training has said since it began."""
        count = len(self.training.said)
        self.training.says(3, count, 60)
        said: list[Any] = self.training.said
        items = [(outer, inner) for outer, inner, _, _ in said]
        expected = [divmod(number, INNER) for number in range(len(items))]
        assert items == expected, (what, next((a, b) for a, b in zip(items, expected, strict=True) if a != b))
        assert said[-1][2:] == [[self.code.word], []], (what, said[-1], self.training.err[-3000:])


def _new_word(code: Code, number: int, _: random.Random) -> Code:
    return replace(code, word=f"w{number}")


def _new_file(code: Code, number: int, _: random.Random) -> Code:
    files = {f"helper{number}.py": f'value = "{number}"\n'}
    return replace(code, word=f"w{number}", helper=f"from helper{number} import value", files=files)


GOOD: dict[str, Any] = {
    "word": _new_word,
    "comment": lambda code, number, _: replace(code, comment="\n# moved" * (number % 5)),
    "method": lambda code, number, _: replace(code, word=f"w{number}", method=f"def more{number}(self): return 1"),
    "decorator": lambda code, number, _: replace(
        code, word=f"w{number}", decorator="" if code.decorator else "@decorated"
    ),
    "rename": lambda code, number, _: replace(code, plain=f"Plain{number}"),
    "rename and word": lambda code, number, _: replace(code, plain=f"Plain{number}", word=f"w{number}"),
    "file": _new_file,
}
BROKEN: dict[str, Any] = {
    "syntax": lambda code, number, _: replace(code, word=f"w{number}", broken="def broken(:"),
    "import": lambda code, number, _: replace(code, word=f"w{number}", broken="raise ValueError('import')"),
    "method that fails": lambda code, number, _: replace(code, word=f'w" + 1 / 0 + "{number}'),
    "loop": lambda code, number, _: replace(code, word=f"w{number}", fails="raise ValueError('loop')"),
    "slots": lambda code, number, _: replace(code, word=f"w{number}", slot=' "b"'),
    "base": lambda code, number, _: replace(code, word=f"w{number}", base=", dict"),
    "exit": lambda code, number, _: replace(code, word=f"w{number}", broken="raise SystemExit(3)"),
}
FAILS_IN_THE_LOOP = {"method that fails", "loop"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    seed = arguments.seed
    done = 0
    while time.monotonic() < end:
        with tempfile.TemporaryDirectory() as folder:
            edits = Edits(Path(folder), seed, freeze=seed % 2 == 1)
            with edits.training:
                until(lambda edits=edits: edits.training.out, edits.training.err)
                for _ in range(200):
                    name = edits.step()
                    done += 1
                    if time.monotonic() > end:
                        break
                print(f"seed {seed}: {edits.applied} of {edits.number} edits applied, the last: {name}", flush=True)
        seed += 1
    print(f"{done} edits, nothing lost", flush=True)


if __name__ == "__main__":
    main()
