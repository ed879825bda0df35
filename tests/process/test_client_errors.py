"""Each method of a client raises when what it asked for did not happen, and says why."""

import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client
from spark_fast.client import (
    FateState,
    ResetError,
    SparkCallError,
    SparkError,
    SparkReloadWarning,
    SparkRequestError,
    SparkSetError,
    SparkTimeoutError,
)
from tests.support.child import GATED, LOOP, Child
from tests.support.reloading import Edited

pytestmark = pytest.mark.process

EXPOSED = """
import time
import spark_fast as spark

def keep(value):
    if value == 0.5:
        raise ArithmeticError("not half")

def fail():
    print("before")
    raise KeyError("as asked")

state = spark.expose(
    lr=spark.value(0.1, min=0, max=1, on_set=keep), epochs=3, wait=1, fail=fail, double=lambda number: 2 * number
)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Child]:
    with Child(tmp_path, EXPOSED) as child:
        yield child


REQUESTS: dict[str, Callable[..., Any]] = {
    "pause": lambda run, **options: run.pause(**options),
    "resume": lambda run, **options: run.resume(**options),
    "stop": lambda run, **options: run.stop(**options),
    "advance": lambda run, **options: run.advance(3, **options),
    "reload": lambda run, **options: run.reload(**options),
    "set": lambda run, **options: run.set("lr", 0.2, **options),
    "call": lambda run, **options: run.request_call("double", [2], **options),
}
EACH = pytest.mark.parametrize("kind", REQUESTS)


@EACH
def test_a_request_to_a_run_that_has_ended_raises(training: Child, kind: str) -> None:
    run = training.run()
    training.process.kill()
    training.ended()
    with pytest.raises(SparkRequestError, match="the run has ended: it is lost") as caught:
        REQUESTS[kind](run)
    error = caught.value
    assert (error.kind, error.run, error.state, error.traceback) == (kind, "test", "refused", "")
    assert error.reason == "the run has ended: it is lost"
    assert isinstance(error.request, client.Request)
    assert error.request.fate.state is FateState.REFUSED


@pytest.mark.parametrize("kind", [kind for kind in REQUESTS if kind != "reload"])
def test_a_request_whose_worker_dies_first_raises(tmp_path: Path, kind: str) -> None:
    code = GATED.replace(
        "spark.checkpoint()\nwhile not",
        "spark.expose(lr=0.1, double=lambda number: 2 * number)\nspark.checkpoint()\nwhile not",
    )
    with Child(tmp_path, code) as child:
        run = child.run()
        if kind == "resume":
            run.pause(wait=False)
        os.kill(child.pid, signal.SIGSTOP)
        request = REQUESTS[kind](run, wait=False)
        assert request.raise_for_fate() is request  # nothing is known yet
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        assert request.wait().state is FateState.LOST
        with pytest.raises(SparkRequestError, match="the run ended before it") as caught:
            request.raise_for_fate()
        assert (caught.value.kind, caught.value.state) == (kind, "lost")


def test_a_value_that_is_refused_or_fails_raises(training: Child) -> None:
    run = training.run()
    with pytest.raises(SparkSetError, match=r"^lr is at most 1, not 5$") as caught:
        run.set("lr", 5)
    assert (caught.value.name, caught.value.run, caught.value.state) == ("lr", "test", "refused")
    assert isinstance(caught.value, ValueError)
    with pytest.raises(SparkSetError, match="ArithmeticError: not half") as caught:
        run.set("lr", 0.5)
    assert (caught.value.state, caught.value.reason) == ("failed", "ArithmeticError: not half")
    assert caught.value.traceback.startswith("Traceback")
    assert run.values["lr"].value == 0.1


def test_a_call_that_is_refused_or_fails_raises_with_what_it_printed(training: Child) -> None:
    run = training.run()
    with pytest.raises(SparkCallError, match="KeyError: 'as asked'") as caught:
        run.request_call("fail")
    assert (caught.value.function, caught.value.state, caught.value.output) == ("fail", "failed", "before\n")
    with pytest.raises(SparkCallError, match=r"the call of double\(\) was refused"):
        run.request_call("double")
    request = run.request_call("double", [4])
    assert (request.result, request.name) == (8, "double")


def test_a_request_that_is_not_waited_for_is_returned_whatever_its_fate_is(training: Child) -> None:
    run = training.run()
    assert run.set("lr", 5, wait=False).fate.state is FateState.REFUSED
    assert run.request_call("nothing", wait=False).fate.state is FateState.REFUSED
    assert run.reload(wait=False).fate.state is FateState.REFUSED
    failed = run.set("lr", 0.5, wait=False)
    assert failed.wait(30).state is FateState.FAILED
    with pytest.raises(SparkSetError, match="not half"):
        failed.raise_for_fate()


def test_a_request_that_a_later_one_superseded_raises_nothing(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        pause = run.pause(wait=False, at_step=10**9)
        resume = run.resume(wait=False)
        child.go()
        resume.wait(30)
        assert pause.wait(30).state is FateState.SUPERSEDED
        assert pause.raise_for_fate() is pause


def test_a_request_whose_sender_died_is_void_and_raises(training: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training.run()
    request = run.pause(wait=False)
    monkeypatch.setattr(request, "_fate", client.Fate(FateState.VOID, reason="its sender died while sending it"))
    with pytest.raises(SparkRequestError, match="the pause of run test is void: its sender died while sending it"):
        request.raise_for_fate()


def test_all_of_them_are_one_family_and_can_be_pickled(training: Child) -> None:
    run = training.run()
    errors = [
        SparkRequestError("pause", "test", "lost", "why", "Traceback", request=run.pause()),
        SparkSetError("lr", "test", "failed", "why", "Traceback", request=object()),
        SparkCallError("double", "test", "failed", "why", "Traceback", "printed"),
        ResetError("test", "why"),
    ]
    for error in errors:
        assert isinstance(error, SparkRequestError) and isinstance(error, SparkError)
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is type(error)
        assert vars(copied) == vars(error) | {"request": None}
        assert str(copied) == str(error)


def test_a_process_that_is_stopping_refuses_a_pause(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        run.stop(wait=False)
        with pytest.raises(SparkRequestError, match="the pause of run test was refused: the run is stopping"):
            run.pause()


# --- reloads ---

RELOADED = """
import json, time
import spark_fast as spark

class Point:
    __slots__ = ("x",)

point = spark.persist("point", Point)
for i in spark.track(range(10**6), key="i"):
    print(json.dumps("old"), flush=True)
    time.sleep(0.005)
"""


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    with Edited(tmp_path, RELOADED) as child:
        child.says(2)
        yield child


def test_code_that_does_not_compile_raises(edited: Edited) -> None:
    run = client.attach("test")
    for ask in (run.reload, lambda code: client.request_hot_reload(code, "test")):
        with pytest.raises(SparkRequestError, match="SyntaxError") as caught:
            ask("x = (\n")
        assert (caught.value.kind, caught.value.state) == ("reload", "refused")
    with pytest.raises(SparkRequestError, match="can't go back to version 9"):
        run.reload(to=9)


def test_code_that_raises_an_exception_raises_it_here_too(edited: Edited) -> None:
    edited.edit("import json, time", "import json, time, nothing_there")
    with pytest.raises(SparkRequestError, match="ModuleNotFoundError") as caught:
        client.attach("test").reload(timeout="30s")
    assert caught.value.state == "failed"
    assert caught.value.traceback.startswith("Traceback")
    edited.says(1, len(edited.said))


def test_a_reload_that_the_run_refuses_is_returned_with_a_warning_or_raised(edited: Edited) -> None:
    run = client.attach("test")
    edited.edit('("x",)', '("x", "y")')
    with pytest.warns(SparkReloadWarning, match="the run refused the new code: .*the old code goes on") as caught:
        request = run.reload(timeout="30s")
    assert request.fate.state is FateState.REFUSED
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(SparkRequestError, match=r"the reload of run test was refused: .*Point"):
            run.reload(timeout="30s", check=True)
        with pytest.raises(SparkRequestError, match=r"the reload of run test was refused: .*Point"):
            client.request_hot_reload(run="test")
    assert set(edited.said) == {"old"}


# --- durations, and the forms of set() ---


def test_durations_are_seconds_or_text(training: Child) -> None:
    run = training.run()
    paused = run.pause(resume_after="1h", timeout="30s")
    assert run.resumes is not None and 3500 < run.resumes - paused.asked < 3700
    run.resume(timeout=30)
    run.pause(resume_after="50ms")
    assert run.wait("running", "30s") == "running"
    run.advance(2, timeout="1m")
    run.resume(timeout="0.5m")
    assert run.call("double", 4, spark_timeout="30s") == 8
    run.set("lr", 0.25, timeout="30s")
    assert next(run.watch(interval="1ms")).name == "lr"
    assert client.remove_ended(timeout="30s") == []
    with pytest.raises(SparkTimeoutError, match=r"is not stopped after 0\.02 s"):
        run.wait("stopped", "20ms")
    with pytest.raises(SparkTimeoutError):
        run.pause(wait=False, at_step=10**9).wait("20ms")


@pytest.mark.parametrize("method", ["pause", "resume", "stop", "reload"])
@pytest.mark.parametrize(
    ("timeout", "error"), [("soon", ValueError), (float("nan"), ValueError), (True, ValueError), (object(), TypeError)]
)
def test_what_is_no_duration_is_refused_before_anything_is_asked(
    training: Child, method: str, timeout: Any, error: type[Exception]
) -> None:
    run = training.run()
    with pytest.raises(error, match=r"timeout: .* is no duration: give a number of seconds, or one with units"):
        getattr(run, method)(timeout=timeout)
    assert run.requests == []


@pytest.mark.parametrize("after", ["later", 0, "0s", -1, float("inf")])
def test_a_pause_that_would_not_end_by_itself_is_refused(training: Child, after: Any) -> None:
    run = training.run()
    with pytest.raises(ValueError, match="resume_after"):
        run.pause(resume_after=after)
    assert run.requests == []


def test_values_are_set_by_keyword_and_several_at_once(training: Child) -> None:
    run = training.run()
    assert run.set(lr=0.25).fate.state is FateState.APPLIED
    assert run.set("lr", 0.3).name == "lr"
    both = run.set(lr=0.75, epochs=4)
    assert {name: request.fate.state for name, request in both.items()} == {"lr": "applied", "epochs": "applied"}
    assert list(run.set({"lr": 0.125, "wait": 2})) == ["lr", "wait"]
    assert {name: value.value for name, value in run.values.items()} == {"lr": 0.125, "epochs": 4, "wait": 2}


def test_none_of_several_values_is_set_where_one_does_not_fit(training: Child) -> None:
    run = training.run()
    with pytest.raises(SparkSetError, match="lr is at most 1, not 7"):
        run.set(epochs=9, lr=7)
    refused = run.set({"epochs": 9, "lr": 7}, wait=False)
    assert {request.fate.state for request in refused.values()} == {"refused"}
    assert refused["epochs"].fate.reason == "lr is at most 1, not 7; none of the values is set"
    assert run.values["epochs"].value == 3
    assert run.requests == []


@pytest.mark.parametrize("args", [(), ("lr",), (1, 2), ("lr", 1, 2)])
def test_what_set_does_not_take_is_a_type_error(training: Child, args: tuple[Any, ...]) -> None:
    with pytest.raises(TypeError, match="say what to set"):
        training.run().set(*args)
    with pytest.raises(TypeError, match="lr is given twice"):
        training.run().set({"lr": 0.1}, lr=0.2)


WRONG: dict[str, tuple[Callable[[client.Run], object], type[Exception], str]] = {
    "advance by nothing": (lambda run: run.advance(0), ValueError, "1 or more"),
    "advance by more than any run has": (lambda run: run.advance(1 << 70), ValueError, "at most"),
    "advance by infinity": (lambda run: run.advance(float("inf")), TypeError, "float"),  # type: ignore[arg-type]
    "advance by half a step": (lambda run: run.advance(1.5), TypeError, "float"),  # type: ignore[arg-type]
    "pause at no step": (lambda run: run.pause(at_step=-1), ValueError, "1 or more"),
    "pause at a step beyond all": (lambda run: run.pause(at_step=1 << 70), ValueError, "at most"),
    "pause at NaN": (lambda run: run.pause(at_step=float("nan")), TypeError, "float"),  # type: ignore[arg-type]
    "reload a path": (lambda run: run.reload(Path("train.py")), TypeError, "str or bytes"),  # type: ignore[arg-type]
    "reload a list": (lambda run: run.reload([]), TypeError, "str or bytes"),  # type: ignore[arg-type]
    "reload to NaN": (lambda run: run.reload(to=float("nan")), TypeError, "float"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", WRONG)
def test_an_argument_that_makes_no_sense_is_named_and_nothing_is_asked(tmp_path: Path, what: str) -> None:
    ask, kind, words = WRONG[what]
    with Edited(tmp_path, LOOP) as training:
        run = training.run()
        with pytest.raises(kind, match=words):
            ask(run)
        assert run.requests == []
