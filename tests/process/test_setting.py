"""Several values that are set by one request, numbers as people type them, and what a time limit that is up says."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client
from spark_fast.cli.values import _parsed
from spark_fast.client import SparkSetError, SparkTimeoutError, exposures
from spark_fast.runfiles import journal
from tests.support.child import GATED, Child, until

pytestmark = pytest.mark.process

TRAINING = """
import time
import spark_fast as spark

optimizer = {"lr": 0.1, "momentum": 0.9}

def set_lr(value):
    optimizer["lr"] = value

def set_momentum(value):
    if value == 0.5:
        raise ArithmeticError("not half")
    optimizer["momentum"] = value

def used():
    return optimizer

state = spark.expose(
    lr=spark.value(0.1, min=0, max=1, on_set=set_lr),
    momentum=spark.value(0.9, on_set=set_momentum),
    epochs=3, wide="x", used=used, seen=[],
)
seen = []
while True:
    pair = [state.lr, state.epochs]
    if seen[-1:] != [pair]:
        seen.append(pair)
        state.seen = list(seen)
    spark.checkpoint()
    time.sleep(0.0002)
"""


HELD = GATED.replace("spark.checkpoint()", "spark.expose(lr=0.1, wd=0.2, f=len)\nspark.checkpoint()", 1)


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Child]:
    with Child(tmp_path, TRAINING) as child:
        yield child


def cli(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "spark_fast", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def shown(run: client.Run, *names: str) -> dict[str, Any]:
    values = run.values
    return {name: values[name].value for name in names}


# --- several values are one request ---


def test_several_values_are_set_at_one_step_by_one_request(training: Child) -> None:
    run = training.run()
    for number in range(20):
        requests = run.set({"lr": number / 100, "epochs": number})
        assert list(requests) == ["lr", "epochs"]
        assert requests["lr"] is requests["epochs"]
    assert len(run.requests) == 20
    until(lambda: run.values["seen"].value[-1] == [0.19, 19])
    assert [pair for pair in run.values["seen"].value if pair != [0.1, 3]] == [[n / 100, n] for n in range(20)]


def test_the_command_line_sets_several_values_by_one_request(training: Child) -> None:
    run = training.run()
    done = cli("set", "test", "lr=.25", "epochs=7")
    assert (done.returncode, done.stderr) == (0, "")
    assert "run test has lr = 0.25, epochs = 7 since step" in done.stdout
    assert len(run.requests) == 1
    assert "lr = 0.25, epochs = 7" in cli("journal", "test").stdout


def test_a_setter_that_raises_leaves_all_values_as_they_were(training: Child) -> None:
    run = training.run()
    with pytest.raises(
        SparkSetError, match=r"^momentum: ArithmeticError: not half; none of the values is set"
    ) as caught:
        run.set(lr=0.7, momentum=0.5, epochs=8)
    assert (caught.value.state, caught.value.name) == ("failed", "lr, momentum, epochs")
    assert shown(run, "lr", "momentum", "epochs") == {"lr": 0.1, "momentum": 0.9, "epochs": 3}
    assert run.call("used") == {"lr": 0.1, "momentum": 0.9}


def test_one_of_several_values_that_does_not_fit_is_named_and_none_is_asked_for(training: Child) -> None:
    run = training.run()
    with pytest.raises(
        SparkSetError, match=r"^epochs is a whole number, not \"many\"; none of the values is set$"
    ) as caught:
        run.set(lr=0.7, epochs="many")
    assert (caught.value.state, caught.value.name) == ("refused", "epochs")
    assert run.requests == []


@pytest.mark.parametrize("wrong", [{"epochs": "many"}, {"nothing": 1}])
def test_the_worker_refuses_all_of_several_values_where_one_does_not_fit(
    training: Child, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object]
) -> None:
    run = training.run()
    monkeypatch.setattr(exposures, "unfit", lambda *_: "")
    with pytest.raises(SparkSetError, match="none of the values is set") as caught:
        run.set({"lr": 0.7, **wrong})
    assert caught.value.state == "refused"
    assert shown(run, "lr", "epochs") == {"lr": 0.1, "epochs": 3}
    assert run.call("used")["lr"] == 0.1


def test_several_values_that_need_a_file_are_one_request_too(training: Child) -> None:
    run = training.run()
    run.set(wide="y" * 200, epochs=4)
    assert shown(run, "wide", "epochs") == {"wide": "y" * 200, "epochs": 4}
    path = journal.of_folder(run.folder)
    assert path is not None
    payloads = [line["payload"] for line in journal.read(path).lines if "payload" in line]
    assert payloads == [{"values": {"wide": "y" * 200, "epochs": 4}}]


# --- numbers ---


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (".3", 0.3),
        ("1.", 1.0),
        ("+.5", 0.5),
        ("-.3e-4", -0.3e-4),
        ("1e-3", 1e-3),
        ("+5", 5),
        ("1_000", 1000),
        ("007", 7),
        ("inf", float("inf")),
        ("-1", -1),
    ],
)
def test_a_number_may_be_typed_as_python_takes_it(text: str, number: float) -> None:
    assert _parsed(text, "number") == number
    assert _parsed(text, "integer") == number
    assert _parsed(text, "text") == text


@pytest.mark.parametrize("text", ["inf", "1_000", ".3", "many"])
def test_what_is_no_json_stays_text_where_no_number_is_wanted(text: str) -> None:
    assert _parsed(text, "json") == text


def test_a_number_that_is_not_finite_is_refused_as_one(training: Child) -> None:
    training.run()
    refused = cli("set", "test", "lr=inf")
    assert (refused.returncode, refused.stderr) == (
        1,
        "spark-fast: set of run test was refused: lr is a finite number, not Infinity\n",
    )


# --- the time limit ---


@pytest.mark.parametrize("what", ["pause", "advance", "set", "set several", "call"])
def test_a_time_limit_that_is_up_is_told_as_it_was_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def slow_name() -> str:
        time.sleep(0.05)  # a part of the limit is used up before the waiting begins
        return "a slow sender"

    monkeypatch.setattr(client.send, "sender_name", slow_name)
    with Child(tmp_path, HELD) as child:
        run = child.run()
        asks = {
            "pause": lambda: run.pause(timeout=0.25),
            "advance": lambda: run.advance(3, timeout="250ms"),
            "set": lambda: run.set("lr", 0.5, timeout=0.25),
            "set several": lambda: run.set(lr=0.5, wd=0.5, timeout=0.25),
            "call": lambda: run.call("f", [1], spark_timeout=0.25),
        }
        with pytest.raises(SparkTimeoutError, match=r"has not taken effect in 0\.25 s: the run is"):
            asks[what]()


def test_a_call_that_the_command_line_no_longer_waits_for_names_the_time_asked(tmp_path: Path) -> None:
    with Child(tmp_path, HELD) as child:
        child.run()
        late = cli("call", "test", "f", "[[1]]", "--timeout", "1.234")
        assert late.returncode == 4
        assert "has not taken effect in 1.234 s" in late.stderr
