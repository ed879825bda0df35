"""What `--json` prints is JSON that every parser takes, whatever the run's numbers are."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spark_fast.runfiles.json_text import to_json
from tests.process.test_cli import cli
from tests.support.child import Child, until

pytestmark = pytest.mark.process

NOT_FINITE = """
import time
import spark_fast as spark

def evaluate():
    return {"loss": float("nan"), "all": [1.5, float("-inf")]}

def keep(value):
    pass

state = spark.expose(loss=0.0, rate=spark.value(0.1, on_set=keep), nested={"a": [1.0]}, evaluate=evaluate)
while True:
    spark.checkpoint()
    state.loss = float("nan")
    state.nested = {"a": [float("inf")]}
    time.sleep(0.001)
"""


def strict(text: str) -> Any:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON: {text}")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.unit
@pytest.mark.parametrize("indent", [None, 2])
def test_numbers_that_json_lacks_are_null_at_every_depth(indent: int | None) -> None:
    value = {"a": math.nan, "b": [math.inf, (1, -math.inf)], "c": {"d": {"e": math.nan}}, "f": 0.5, "g": "NaN"}
    expected = {"a": None, "b": [None, [1, None]], "c": {"d": {"e": None}}, "f": 0.5, "g": "NaN"}
    assert strict(to_json(value, indent=indent)) == expected


@pytest.mark.unit
def test_what_json_can_not_express_is_an_error() -> None:
    with pytest.raises(TypeError):
        to_json({"a": object()})
    with pytest.raises(TypeError):
        to_json({"a": object(), "b": math.nan})


@pytest.mark.unit
@pytest.mark.parametrize("indent", [None, 2])
def test_what_could_steer_a_terminal_is_an_escape_also_where_other_signs_are_not(indent: int | None) -> None:
    value = {"näme": "über\x1b[31m\x9b31m\u202e\x7f\ud800\U000e0001\n", "π": [1.5, None]}
    text = to_json(value, indent=indent, ascii_only=False)
    assert all(sign.isprintable() or sign == "\n" for sign in text)
    assert "näme" in text and "über" in text and "π" in text
    assert json.loads(text) == value


def test_every_command_prints_null_for_nan(tmp_path: Path) -> None:
    with Child(tmp_path, NOT_FINITE) as child:
        run = child.run()
        until(lambda: math.isnan(run.values["loss"].value))
        shown = strict(cli("get", "test", "--json").stdout)
        assert shown["loss"]["value"] is None
        assert shown["nested"]["value"] == {"a": [None]}
        until(lambda: len(run.history("loss")) > 1)
        course = strict(cli("get", "test", "loss", "--history", "--json").stdout)
        assert course["loss"]["last"][-1] is None
        expected = {"loss": None, "all": [1.5, None]}
        assert strict(cli("call", "test", "evaluate").stdout) == expected
        assert strict(cli("call", "test", "evaluate", "--json").stdout)["result"] == expected
        requests = strict(cli("status", "test", "--json").stdout)["requests"]
        assert [request["result"] for request in requests] == [expected, expected]
        strict(cli("ps", "--json").stdout)
        strict(cli("journal", "test", "--json").stdout)
        command = [sys.executable, "-m", "spark_fast", "watch", "test", "loss", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
            assert watching.stdout is not None
            values = [strict(watching.stdout.readline())["value"] for _ in range(2)]
            watching.kill()
        assert values[-1] is None
