"""Cells of a notebook that are run again, and interactive sessions."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import DEADLINE

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
    return [json.loads(line) for line in lines]


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
