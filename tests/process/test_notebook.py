"""Cells of a notebook that are run again, and interactive sessions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.child import DEADLINE

pytestmark = pytest.mark.process

NOTEBOOK = """
import json, sys
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
for cell in json.load(sys.stdin):
    done = shell.run_cell(cell, store_history=True)
    error = done.error_before_exec or done.error_in_exec
    if error is not None:
        print(json.dumps(["error", repr(error)]), flush=True)
"""


def cells(folder: Path, *sources: str) -> list[Any]:
    """Runs the cells of a notebook in turn; the JSON lines that they print."""
    return cells_and_errors(folder, *sources)[0]


def cells_and_errors(folder: Path, *sources: str) -> tuple[list[Any], str]:
    """The same, and what stands on standard error."""
    done = subprocess.run(
        [sys.executable, "-c", NOTEBOOK],
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=folder,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert lines, done.stdout + done.stderr
    return [json.loads(line) for line in lines], done.stderr


NET = """
class Net:
    def forward(self):
        return "{word}"

def step(net):
    return net.forward() + "{word}"
"""

BEGIN = """
import json, pickle
import spark_fast as spark
net = spark.persist("net", Net)
kept = spark.persist("step", lambda: step)
"""

LOOK = """
again = pickle.loads(pickle.dumps(net))
print(json.dumps([net.forward(), kept(net), type(net) is Net, type(again) is Net, kept is step]))
"""


def test_a_cell_that_is_run_again_changes_what_lives_on(tmp_path: Path) -> None:
    one, two, three = (NET.format(word=word) for word in ("one", "two", "three"))
    assert cells(tmp_path, one, BEGIN, LOOK, two, LOOK, three, BEGIN, LOOK) == [
        ["one", "oneone", True, True, True],
        ["two", "twotwo", True, True, True],
        ["three", "threethree", True, True, True],
    ]


def test_a_cell_that_fails_half_way_leaves_the_session_in_order(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        NET.format(word="one"),
        BEGIN,
        NET.format(word="two") + "\n1 / 0",
        LOOK,
        "x = await __import__('asyncio').sleep(0, 'awaited')\nprint(json.dumps([x]))",
        NET.format(word="three"),
        LOOK,
    )
    assert found == [
        ["error", "ZeroDivisionError('division by zero')"],
        ["two", "twotwo", True, True, True],
        ["awaited"],
        ["three", "threethree", True, True, True],
    ]


def test_loops_and_functions_work_in_a_notebook(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text("def word():\n    return 'old'\n")
    found = cells(
        tmp_path,
        """
import json, pathlib
import helper
import spark_fast as spark
from spark_fast import client
said = []
def main():
    for n in spark.track(range(6), key="n"):
        said.append((n, helper.word()))
        if n == 2 and helper.word() == "old":
            pathlib.Path("helper.py").write_text("def word():\\n    return 'new'\\n")
            client.attach().reload(wait=False)
    return "done"
print(json.dumps([spark.run(main)]))
print(json.dumps(said))
""",
        "print(json.dumps([spark.run(main), len(said)]))",
    )
    assert found == [["done"], [[0, "old"], [1, "old"], [2, "old"], [3, "new"], [4, "new"], [5, "new"]], ["done", 12]]


def test_an_interactive_interpreter_can_persist_track_and_run(tmp_path: Path) -> None:
    typed = """
import spark_fast as spark
def main():
    return [n for n in spark.track(spark.persist("items", lambda: [1, 2, 3]), key="n")]

print(spark.run(main), spark.run(main))
"""
    done = subprocess.run(
        [sys.executable, "-i", "-q"],
        input=typed,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        cwd=tmp_path,
        check=True,
    )
    assert done.stdout == "[1, 2, 3] [1, 2, 3]\n", done.stderr
    assert "Traceback" not in done.stderr


CHANGED_LAYOUTS = {
    "slots": ("class Net:\n    __slots__ = ('a',)\n", "class Net:\n    __slots__ = ('a', 'b')\n"),
    "slots that come": ("class Net:\n", "class Net:\n    __slots__ = ()\n"),
    "a base": ("class Net:\n", "class Net(dict):\n"),
    "a dataclass with slots": (
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass Net:\n    a: int = 1\n",
        "from dataclasses import dataclass\n@dataclass(slots=True)\nclass Net:\n    a: int = 1\n    b: int = 2\n",
    ),
    "an enum's values": (
        "import enum\nclass Net(enum.IntEnum):\n    A = 1\n",
        "import enum\nclass Net(enum.IntEnum):\n    A = 2\n",
    ),
}


@pytest.mark.parametrize("kind", CHANGED_LAYOUTS)
def test_a_class_that_changes_its_layout_is_a_new_class_and_the_session_is_told(tmp_path: Path, kind: str) -> None:
    old, new = CHANGED_LAYOUTS[kind]
    bare = "dataclass" in old  # which breaks super() by itself
    word = f"    def word(self): return {'' if bare else 'super().__repr__() and '}{{!r}}\n"
    make = "Net.A" if "Enum" in old else "Net()"
    begin = f"import json, pickle, spark_fast as spark\nnet = spark.persist('net', lambda: {make})"
    look = (
        f"other = {make}\n"
        "again = pickle.loads(pickle.dumps(other))\n"
        "print(json.dumps([net.word(), other.word(), type(net) is Net, type(again) is Net]))"
    )
    found, told = cells_and_errors(
        tmp_path,
        old + word.format("old"),
        begin,
        look,
        new + word.format("new") + "after = 1",
        look,
        new + word.format("newer"),
        "print(json.dumps([after]))",
        look,
    )
    assert found == [
        ["old", "old", True, True],
        ["old", "new", False, True],
        [1],
        ["old", "newer", False, True],
    ]
    assert told.count("class Net") == 1, told
    assert "objects of the old class keep its methods" in told
