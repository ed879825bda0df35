"""Values that are read and set, and functions that are called, from outside, in a training that runs."""

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spark_fast import _core, client
from spark_fast.client import FateState, SparkCallError, SparkTimeoutError, exposures, rate_limit, starting
from spark_fast.client.send import ask
from spark_fast.errors import SegmentError
from spark_fast.request import Kind
from spark_fast.runfiles import journal, mailbox
from tests.process.test_reload_supervised import Supervised
from tests.support.child import DEADLINE, Child, outcome, until
from tests.support.reloading import Edited

pytestmark = pytest.mark.process

TRAINING = """
import time
import spark_fast as spark

groups = [{"lr": 0.1}]

def set_lr(value):
    "Hands it to the optimizer."
    if value == 0.5:
        raise ArithmeticError("not half")
    print("lr is", value)
    groups[0]["lr"] = value

def evaluate(split: str = "train", *, batches: int = 3):
    "Evaluates the model."
    for _ in spark.track(range(batches)):
        pass
    print("evaluated", split, flush=True)
    return {"split": split, "lr": groups[0]["lr"], "step": step}

def fail(kind="ValueError"):
    print("before")
    raise {"ValueError": ValueError, "SystemExit": SystemExit}[kind]("as asked")

def weird():
    return object()

def numbers():
    import numpy
    return {"a": numpy.float32(0.5), "b": numpy.arange(3)}

def forever():
    while True:
        spark.checkpoint()
        time.sleep(0.001)

def big():
    return "x" * (3 << 20)

state = spark.expose(
    lr=spark.value(0.1, min=0, max=1, step=0.01, unit="1/step", doc="The rate.", on_set=set_lr),
    epochs=3, debug=False, name="first", card={"layers": [12, 3]}, loss=0.0,
    mode=spark.value("a", choices=["a", "b"]), best=spark.value(0.0, readonly=True),
    evaluate=evaluate, fail=fail, weird=weird, numbers=numbers, forever=forever, big=big,
)
step = 0
while True:
    spark.checkpoint()
    step += 1
    state.loss = 1 / step
    time.sleep(0.001)
"""


@pytest.fixture
def training(tmp_path: Path) -> Any:
    with Child(tmp_path, TRAINING) as child:
        yield child


# --- values ---


def test_what_is_exposed_is_seen_with_its_limits(training: Child) -> None:
    values = training.run().values
    assert list(values) == ["lr", "epochs", "debug", "name", "card", "loss", "mode", "best"]
    lr = values["lr"]
    assert (lr.value, lr.type, lr.min, lr.max, lr.step_size) == (0.1, "number", 0, 1, 0.01)
    assert (lr.unit, lr.doc, lr.readonly) == ("1/step", "The rate.", False)
    assert {name: (value.value, value.type) for name, value in values.items() if name not in ("lr", "loss")} == {
        "epochs": (3, "integer"),
        "debug": (False, "boolean"),
        "name": ("first", "text"),
        "card": ({"layers": [12, 3]}, "json"),
        "mode": ("a", "text"),
        "best": (0.0, "number"),
    }
    assert values["mode"].choices == ["a", "b"]
    assert values["best"].readonly


def test_an_assignment_shows_up_outside_with_its_step_and_time(training: Child) -> None:
    run = training.run()
    loss = until(lambda: value if (value := run.values["loss"]).step > 3 else None)
    assert loss.value == 1 / loss.step
    assert abs(loss.time - time.time()) < 60
    version = run.board_version()
    until(lambda: run.board_version() > version)


def test_a_value_that_is_set_shows_up_at_a_checkpoint_and_its_setter_runs(training: Child) -> None:
    run = training.run()
    request = run.set("lr", 0.25)
    assert request.fate.state == "applied"
    assert request.fate.step is not None
    assert request.output == "lr is 0.25\n"
    assert run.values["lr"].value == 0.25
    assert run.call("evaluate")["lr"] == 0.25


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("lr", 1, 1.0),
        ("lr", 0, 0.0),
        ("epochs", 7, 7),
        ("epochs", 7.0, 7),
        ("debug", True, True),
        ("name", "déjà <script>", "déjà <script>"),
        ("card", [1, {"a": None}], [1, {"a": None}]),
        ("card", "text", "text"),
        ("mode", "b", "b"),
    ],
)
def test_a_value_that_fits_is_taken(training: Child, name: str, value: object, fits: object) -> None:
    run = training.run()
    assert run.set(name, value).fate.state == "applied"
    found = run.values[name].value
    assert found == fits
    assert type(found) is type(fits)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("lr", 1.5, "lr is at most 1 1/step, not 1.5"),
        ("lr", -0.1, "lr is at least 0 1/step, not -0.1"),
        ("lr", math.nan, "lr is a finite number, not NaN"),
        ("lr", 10**400, "finite"),
        ("lr", True, "lr is a number, not true"),
        ("lr", "0.1", 'lr is a number, not "0.1"'),
        ("epochs", 2.5, "epochs is a whole number, not 2.5"),
        ("debug", 1, "debug is true or false, not 1"),
        ("name", None, "name is a text, not null"),
        ("card", {1, 2}, "card is JSON"),
        ("mode", "c", 'mode is one of "a", "b", not "c"'),
        ("best", 1.0, "best is for reading only"),
        ("nothing", 1.0, "no exposed value is called 'nothing'; there are: best, card, debug"),
        ("evaluate", 1.0, "no exposed value is called 'evaluate'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_the_worker_hears_nothing_of_it(
    training: Child, name: str, value: object, why: str
) -> None:
    run = training.run()
    before = len(run.requests)
    fate = outcome(run.set, name, value).fate
    assert fate.state == "refused"
    assert why in fate.reason
    assert fate.step is None
    assert len(run.requests) == before


def test_the_worker_refuses_it_again(training: Child) -> None:
    run = training.run()
    for content, why in (
        ({"name": "lr", "value": 7}, "at most 1"),
        ({"name": "lr"}, "damaged"),
        ({"name": 3, "value": 7}, "damaged"),
        ({"name": "gone", "value": 7}, "no exposed value is called 'gone'"),
        ({"value": 7}, "damaged"),
    ):
        request = send(run, Kind.SET, content)
        assert request.wait(30).state == "refused"
        assert why in request.fate.reason
        assert request.fate.step is not None
    assert run.values["lr"].value == 0.1
    training.steps_on(run)


def send(run: client.Run, kind: Kind, content: dict[str, Any], mail: str | None = None) -> client.Request:
    """A request of somebody who checks nothing."""
    ident = int.from_bytes(os.urandom(7), "big")
    mailbox.write_mail(run.folder, ident, content)
    return ask(run._connection, kind, False, None, mail=mailbox.mail_name(ident) if mail is None else mail, ident=ident)


def test_a_setter_that_raises_leaves_the_value_and_its_sender_gets_the_traceback(training: Child) -> None:
    run = training.run()
    request = outcome(run.set, "lr", 0.5)
    assert request.fate.state == "failed"
    first, *rest = request.fate.reason.splitlines()
    assert first == "ArithmeticError: not half"
    assert any("in set_lr" in line for line in rest)
    assert "spark_fast" not in request.fate.reason
    assert run.values["lr"].value == 0.1
    assert run.call("evaluate")["lr"] == 0.1
    training.steps_on(run)


def test_a_value_that_is_set_while_parked_is_there_in_the_first_step_after_it(tmp_path: Path) -> None:
    code = """
    import json, time, spark_fast as spark
    state = spark.expose(lr=1)
    for step in spark.track(range(10**9)):
        print(json.dumps([step, state.lr]), flush=True)
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        for lr in range(2, 12):
            run.pause()
            assert run.set("lr", lr).fate.step == run.step
            assert run.status == "paused"
            lines = len(child.out.splitlines())
            run.resume()
            until(lambda: len(child.out.splitlines()) > lines)  # noqa: B023
            step, seen = json.loads(child.out.splitlines()[lines])
            assert (seen, step) == (lr, lines)


def test_what_the_script_assigns_may_be_of_another_type_and_the_limits_follow(tmp_path: Path) -> None:
    code = """
    import time, spark_fast as spark
    state = spark.expose(loss=0, note=None, flag=True, huge=1)
    spark.checkpoint()
    state.loss = 0.5
    state.note = 3
    state.flag = "on"
    state.huge = 1 << 70
    state.huge = -5
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        until(lambda: run.step > 2)
        assert {name: (value.value, value.type) for name, value in run.values.items()} == {
            "loss": (0.5, "number"),
            "note": (3, "integer"),
            "flag": ("on", "text"),
            "huge": (-5, "integer"),
        }
        assert run.set("loss", 0.25).fate.state == "applied"
        assert outcome(run.set, "flag", True).fate.state == "refused"
        assert {0.0, 0.5, 0.25} == set(run.history("loss").last)


def test_a_history_covers_the_whole_run_however_long(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    state = spark.expose(loss=0.0, name="x")
    for step in range(1, 200_001):
        spark.checkpoint()
        state.loss = step * 0.5
    print("done", flush=True)
    spark.checkpoint()
    import time
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        until(lambda: child.out)
        found = run.history("loss")
        assert 512 <= len(found) <= 1025
        assert found.steps[0] <= 1
        assert (found.steps[-1], found.last[-1]) == (200_000, 100_000)
        assert all(low <= mean <= high for low, mean, high in zip(found.low, found.mean, found.high, strict=True))
        assert found.steps == sorted(found.steps)
        assert found.times == sorted(found.times)
        assert len(run.history("name")) == 0
        with pytest.raises(LookupError, match="called 'nothing'; there are: loss, name"):
            run.history("nothing")


def test_watching_yields_all_values_then_those_that_change_and_ends_with_the_run(training: Child) -> None:
    run = training.run()
    seen: list[client.Change] = []

    def watch() -> None:
        seen.extend(run.watch(interval=0.01))

    watcher = threading.Thread(target=watch)
    watcher.start()
    until(lambda: len(seen) > 12)
    assert {change.name for change in seen[:8]} == set(run.values)
    assert {change.name for change in seen[8:]} == {"loss"}
    run.set("epochs", 9)
    until(lambda: any(change.name == "epochs" and change.value == 9 for change in seen))
    run.stop()
    watcher.join(30)
    assert not watcher.is_alive()


def test_a_run_that_exposes_nothing_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "PATIENCE", 0.0)  # it counts as starting no longer
    with Child(tmp_path) as child:
        run = child.run()
        assert run.values == {}
        assert run.functions == {}
        assert run.board_version() == 0
        run.touch()
        assert "this run exposes no value" in outcome(run.set, "lr", 1).fate.reason
        with pytest.raises(SparkCallError, match="this run exposes no function"):
            run.call("evaluate")


def test_an_ended_run_keeps_its_values_and_takes_none(training: Child) -> None:
    run = training.run()
    run.set("epochs", 5)
    run.stop()
    run.wait("stopped", 30)
    assert run.values["epochs"].value == 5
    assert "the run has ended" in outcome(run.set, "epochs", 6).fate.reason
    with pytest.raises(SparkCallError, match="the run has ended"):
        run.call("evaluate")


# --- functions ---


def test_a_function_is_described_by_its_signature(training: Child) -> None:
    functions = training.run().functions
    assert list(functions) == ["evaluate", "fail", "weird", "numbers", "forever", "big"]
    found = functions["evaluate"]
    assert found.doc == "Evaluates the model."
    assert found.signature == "(split: str = 'train', *, batches: int = 3)"
    first, second = found.parameters
    assert (first.name, first.kind, first.required, first.default) == ("split", "positional_or_keyword", False, "train")
    assert (second.name, second.kind, second.annotation) == ("batches", "keyword", "int")


def test_a_call_returns_and_what_it_printed_comes_back_too(training: Child) -> None:
    run = training.run()
    request = run.request_call("evaluate", ["test"], {"batches": 50})
    assert request.fate.state == "applied"
    assert request.output == "evaluated test\n"
    assert request.result["split"] == "test"
    assert run.call("evaluate", split="val")["split"] == "val"
    until(lambda: "evaluated val" in training.out, "what it prints goes where it always goes")


def test_checkpoints_within_a_call_are_no_steps_of_the_loop(training: Child) -> None:
    run = training.run()
    run.pause()
    before = run.step
    assert run.call("evaluate", batches=1000)["split"] == "train"
    assert (run.step, run.status) == (before, "paused")
    run.resume()
    until(lambda: run.step > before)
    assert run.call("evaluate")["step"] <= run.step


def test_a_call_works_while_parked_and_the_run_stays_parked(training: Child) -> None:
    run = training.run()
    run.pause()
    step = run.step
    for _ in range(3):
        assert run.request_call("evaluate").fate.step == step
        assert run.status == "paused"
    run.resume()
    training.steps_on(run)


def test_an_exception_comes_back_and_does_not_reach_the_loop(training: Child) -> None:
    run = training.run()
    with pytest.raises(SparkCallError) as caught:
        run.call("fail")
    error = caught.value
    assert (error.function, error.state, error.reason) == ("fail", "failed", "ValueError: as asked")
    assert 'raise {"ValueError"' in error.traceback
    assert error.output == "before\n"
    with pytest.raises(SparkCallError, match="SystemExit"):
        run.call("fail", "SystemExit")
    training.steps_on(run)


@pytest.mark.parametrize(
    ("args", "kwargs", "why"),
    [
        ((1, 2), {}, "takes 1 positional arguments, not 2"),
        ((1,), {"split": 2}, "is given 'split' twice"),
        ((), {"nope": 2}, "has no parameter 'nope'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    training: Child, args: tuple[Any, ...], kwargs: dict[str, Any], why: str
) -> None:
    run = training.run()
    request = outcome(run.request_call, "evaluate", args, kwargs)
    assert request.fate.state == "refused"
    assert why in request.fate.reason
    assert run.requests == []
    request = send(run, Kind.CALL, {"name": "evaluate", "args": list(args), "kwargs": kwargs})
    assert request.wait(30).state == "refused"
    assert why in request.fate.reason


def test_what_was_not_exposed_can_not_be_called(training: Child) -> None:
    run = training.run()
    for name in ("set_lr", "state", "lr", "__import__", "os.system", "evaluate.__call__"):
        assert outcome(run.request_call, name, ["x"]).fate.state == "refused"
        request = send(run, Kind.CALL, {"name": name, "args": ["x"], "kwargs": {}})
        assert request.wait(30).state == "refused"
    training.steps_on(run)


def test_results_are_json_arrays_as_lists_and_the_rest_fails(training: Child) -> None:
    run = training.run()
    assert run.call("numbers") == {"a": 0.5, "b": [0, 1, 2]}
    with pytest.raises(SparkCallError, match="what weird\\(\\) returned is no JSON: object can't be sent"):
        run.call("weird")
    with pytest.raises(SparkCallError, match="at most 2097152 are sent"):
        run.call("big")
    with pytest.raises(SparkCallError, match="can't be sent: it has"):
        run.call("evaluate", "x" * (2 << 20))
    with pytest.raises(SparkCallError, match="no JSON"):
        run.call("evaluate", object())
    training.steps_on(run)


def test_a_call_has_a_time_limit_on_the_side_of_its_sender_and_a_stop_ends_it(training: Child) -> None:
    run = training.run()
    request = run.request_call("forever", wait=False)
    with pytest.raises(client.SparkTimeoutError):
        request.wait(0.3)
    assert request.fate.state == FateState.ASKED
    with pytest.raises(SparkCallError, match="forever\\(\\) is still running, and one function runs at a time"):
        run.call("evaluate")
    run.stop()
    assert training.ended() == 1
    assert request.fate.state == "failed"
    assert "left before it had ended" in request.fate.reason


def test_a_pause_that_comes_while_a_function_runs_parks_there(training: Child) -> None:
    run = training.run()
    run.request_call("forever", wait=False)
    for number in range(3):
        run.pause(timeout=30)
        assert run.status == "paused"
        assert run.set("epochs", number, timeout=30).fate.state == "applied"
        run.resume(timeout=30)
        assert run.status == "running"
        assert run.values["epochs"].value == number


def test_what_is_asked_together_in_the_middle_of_a_step_holds_up_nothing(tmp_path: Path) -> None:
    code = """
    import time, spark_fast as spark
    from pathlib import Path
    def evaluate():
        for _ in spark.track(range(100)):
            pass
        return state.lr
    state = spark.expose(lr=0.1, evaluate=evaluate)
    spark.checkpoint()
    while not Path(__file__ + ".go").exists():
        time.sleep(0.001)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        requests = [
            run.pause(wait=False),
            run.request_call("evaluate", wait=False),
            run.set("lr", 0.2, wait=False),
            run.resume(wait=False),
            run.request_call("evaluate", wait=False),
        ]
        child.go()
        fates = [request.wait(30) for request in requests]
        assert [fate.state for fate in fates[1:4]] == ["applied"] * 3
        assert requests[1].result in (0.1, 0.2)
        child.steps_on(run)
        assert run.status == "running"


WAITING = """
import resource
import time
import spark_fast as spark
from pathlib import Path

def wait(passing, fails=False, full=False):
    spark.checkpoint()
    while not Path(__file__ + ".go").exists():
        if passing:
            spark.checkpoint()
        time.sleep(0.001)
    print("over")
    if fails:
        raise ValueError("as asked")
    if full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    return 7

spark.expose(wait=wait, other=0)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


def _begun(run: client.Run, *args: object) -> client.Request:
    """A call that runs, while more than the log has room for was asked."""
    request = run.request_call("wait", args, wait=False)
    until(lambda: (run.folder / "replies" / f"{request.id}.json").exists(), "it is called")
    for number in range(_core.LOG_CAPACITY):
        ask(run._connection, Kind.PAUSE if number % 2 == 0 else Kind.RESUME, False, 30)
        if args[0]:
            until(
                lambda: _core.read_slot(run._connection.control, 0)["applied"] == run._connection.view()["tail"],
                "it is applied",
            )
    assert request.id not in [known.id for known in run.requests]
    return request


@pytest.mark.parametrize("passing", [False, True])
def test_a_call_that_the_log_has_forgotten_while_it_ran_still_has_its_fate(tmp_path: Path, passing: bool) -> None:
    with Child(tmp_path, WAITING) as child:
        run = child.run()
        request = _begun(run, passing)
        assert request.fate.state == "asked" and not request.fate.final
        child.go()
        fate = request.wait(DEADLINE)
        assert (fate.state, request.result, request.output) == ("applied", 7, "over\n")
        assert fate.step is not None and 0 < fate.step <= run.step


def test_a_call_that_fails_when_the_log_has_forgotten_it_tells_why(tmp_path: Path) -> None:
    with Child(tmp_path, WAITING) as child:
        request = _begun(child.run(), False, True)
        child.go()
        fate = request.wait(DEADLINE)
        assert fate.state == "failed" and fate.step
        assert fate.reason.startswith("ValueError: as asked\nTraceback")


def test_a_call_that_the_log_has_forgotten_is_lost_with_its_worker(tmp_path: Path) -> None:
    with Child(tmp_path, WAITING) as child:
        request = _begun(child.run(), False)
        child.process.kill()
        child.process.wait()
        fate = request.wait(DEADLINE)
        assert (fate.state, fate.reason) == ("lost", "the run ended before it (lost)")
        assert request.result is None


def test_a_call_that_can_not_be_answered_is_not_waited_for_when_the_log_has_forgotten_it(tmp_path: Path) -> None:
    with Child(tmp_path, WAITING) as child:
        run = child.run()
        request = _begun(run, False, False, True)
        child.go()
        assert request.wait(DEADLINE).state == "lost"
        child.steps_on(run)


def test_a_worker_that_is_killed_in_a_call_leaves_it_lost(training: Child) -> None:
    run = training.run()
    request = run.request_call("forever", wait=False)
    until(lambda: _core.read_slot(run._connection.control, 0)["applied"] == 1, "it is called")
    training.process.kill()
    training.process.wait()
    assert request.wait(30).state == "lost"
    assert request.result is None


def test_mail_is_gone_when_it_was_read_and_replies_are_pruned(training: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "RATE", 1e6)  # what a sender may ask is not what this is about
    run = training.run()
    for number in range(150):
        run.request_call("evaluate", [str(number) * 100], {"batches": 0})
    assert list((run.folder / "mail").iterdir()) == []
    assert len(list((run.folder / "replies").iterdir())) == 128


def test_what_is_short_stands_in_the_log_and_needs_no_file(training: Child) -> None:
    run = training.run()
    run.set("lr", 0.25)
    run.set("name", "é" * 5)
    assert run.call("evaluate")["lr"] == 0.25
    assert not (run.folder / "mail").exists()
    run.set("name", "é" * 50)
    assert (run.folder / "mail").exists()
    assert run.values["name"].value == "é" * 50


def test_what_was_set_and_stood_in_the_log_is_written_down_once_and_read_with_its_value(training: Child) -> None:
    run = training.run()
    short, long = run.set("lr", 0.25), run.set("name", "é" * 50)
    broken = ask(run._connection, Kind.SET, True, 30, mail='{"name":1}')
    path = journal.of_folder(run.folder)
    assert path is not None
    lines = [json.loads(line) for line in path.read_bytes().splitlines()[1:]]
    assert [line.get("kind") or next(iter(line)) for line in lines] == ["set", "set", "payload", "set", "failed"]
    found = journal.read(path)
    assert [line["id"] for line in found.lines if "id" in line] == [short.id, short.id, long.id, long.id, broken.id]
    assert found.lines[-1]["failed"] == broken.id
    assert [line["payload"] for line in found.lines if "payload" in line] == [
        {"name": "lr", "value": 0.25},
        {"name": "name", "value": "é" * 50},
    ]


WITH_A_GATE = """
import time
import spark_fast as spark
from pathlib import Path
state = spark.expose(name="", other="")
spark.checkpoint()
while not Path(__file__ + ".go").exists():
    time.sleep(0.001)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""

KILLED_BEFORE_IT_ASKED = """
from spark_fast import _core, client
_core.arm_point("append:locked")
client.attach().set("name", "x" * 100)
"""


def test_mail_of_a_sender_that_was_killed_before_it_asked_is_removed_by_one_that_comes_later(tmp_path: Path) -> None:
    def aged(path: Path) -> str:
        os.utime(path, (time.time() - 100, time.time() - 100))
        return path.name

    with Child(tmp_path, WITH_A_GATE) as child:
        run = child.run()
        folder = run.folder / "mail"
        for _ in range(2):
            killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_IT_ASKED], check=False, timeout=DEADLINE)
            assert killed.returncode == -signal.SIGKILL
        old, fresh = folder.iterdir()
        aged(old)
        half = folder / ".0123456789abcdef.json.123.01234567"  # killed as it wrote
        half.touch()
        aged(half)
        foreign, inside = folder / "0123456789abcdef.txt", folder / "0123456789abcdef.json"
        foreign.touch()
        inside.mkdir()
        asked = run.set("name", "y" * 100, wait=False)
        kept = {fresh.name, f"{asked.id}.json", aged(foreign), aged(inside)}
        aged(folder / f"{asked.id}.json")  # the worker has not come to it for long
        last = run.set("other", "z" * 100, wait=False)
        assert {path.name for path in folder.iterdir()} == kept | {f"{last.id}.json"}
        child.go()
        assert [request.wait(DEADLINE).state for request in (asked, last)] == ["applied", "applied"]


def test_a_log_that_can_not_be_read_lets_no_mail_be_removed(training: Child, monkeypatch: pytest.MonkeyPatch) -> None:
    run = training.run()
    run.set("name", "x" * 100)
    left = run.folder / "mail" / "0123456789abcdef.json"
    left.touch()
    os.utime(left, (1, 1))

    def damaged(fd: int, seq: int) -> None:
        raise SegmentError("it is damaged", "control")

    with monkeypatch.context() as patch:
        patch.setattr(_core, "read_entry", damaged)
        run.set("name", "y" * 100, wait=False)
    assert left.exists()
    run.set("name", "z" * 100)
    assert not left.exists()


@pytest.mark.parametrize("mail", ["{", "{}", "{1}", '{"name": 1}', '{"name":"evaluate","args":1}'])
def test_what_stands_in_the_log_and_is_none_is_refused(training: Child, mail: str) -> None:
    run = training.run()
    request = ask(run._connection, Kind.CALL, True, 30, mail=mail)
    assert request.fate.state == "refused"
    assert "what it carries" in request.fate.reason
    training.steps_on(run)


@pytest.mark.parametrize("mail", ["", "../x", "0123456789abcdef", "0123456789ABCDEF", "version-1", "/etc/passwd"])
def test_mail_that_is_none_is_refused_and_the_loop_goes_on(training: Child, mail: str) -> None:
    run = training.run()
    request = ask(run._connection, Kind.CALL, True, 30, mail=mail)
    assert request.fate.state == "refused"
    assert "what it carries can't be read" in request.fate.reason
    training.steps_on(run)


def test_a_share_is_so_many_at_once_and_so_many_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(rate_limit, "monotonic", lambda: now)
    mine = rate_limit.TokenBucket()
    for _ in range(rate_limit.BURST):
        assert mine.wait() == 0
        mine.take()
    for _ in range(5):
        assert mine.wait() == pytest.approx(1 / rate_limit.RATE)
        now += mine.wait() + 1e-9
        mine.take()
    now += 3.5 / rate_limit.RATE
    assert mine.wait() == 0
    for _ in range(3):
        mine.take()
    assert not mine.full
    # Several that wait stand in a line.
    assert [mine.wait() for _ in range(3) if mine.take() is None] == pytest.approx(  # type: ignore[func-returns-value]
        [1.5 / rate_limit.RATE, 2.5 / rate_limit.RATE, 3.5 / rate_limit.RATE]
    )
    now += (rate_limit.BURST + 4) / rate_limit.RATE
    assert mine.full and mine.wait() == 0


FLOODING = """
import sys
from spark_fast import client
run = client.attach()
for number in range(1000):
    run.set("epochs", number, wait=False)
    if number == 70:
        print("flooding", flush=True)
"""


def test_a_sender_that_asks_without_a_pause_waits_for_its_turn_and_others_are_served(
    training: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = training.run()
    waits: list[float] = []
    monkeypatch.setattr(exposures, "time", SimpleNamespace(**vars(time) | {"sleep": waits.append}))
    with subprocess.Popen([sys.executable, "-c", FLOODING], stdout=subprocess.PIPE) as flood:
        try:
            assert flood.stdout is not None and flood.stdout.readline() == b"flooding\n"
            began, before = time.monotonic(), run._connection.view()["tail"]
            for number in range(20):
                assert run.set("name", str(number)).fate.state == "applied"
            by_both = run._connection.view()["tail"] - before
            took = time.monotonic() - began
            assert flood.poll() is None
        finally:
            flood.kill()
    assert not waits  # none of them was behind what the other process asks
    assert by_both - 20 <= took * rate_limit.RATE + 2


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that this process would have slept until its turn. Its clock stands still, and it sleeps for none."""
    now, waited = rate_limit.monotonic(), list[float]()
    monkeypatch.setattr(rate_limit, "monotonic", lambda: now)
    monkeypatch.setattr(exposures, "time", SimpleNamespace(**vars(time) | {"sleep": waited.append}))
    return waited


def test_a_script_that_sets_in_a_loop_waits_within_its_timeout_and_is_not_refused(
    training: Child, waits: list[float]
) -> None:
    run = training.run()
    for number in range(rate_limit.BURST):
        run.set("epochs", number, wait=False)
    before = run.requests
    with pytest.raises(SparkTimeoutError, match="nothing was asked"):
        run.set("epochs", 1000, wait=False, timeout=0)
    assert len(run.requests) == len(before)
    assert waits == [0]
    assert [run.set("epochs", number, timeout=10).fate.state for number in range(10)] == ["applied"] * 10
    assert waits[1:] == pytest.approx([number / rate_limit.RATE for number in range(1, 11)])
    assert run.values["epochs"].value == 9


def test_threads_of_a_sender_share_and_a_forked_child_is_a_sender_of_its_own(
    training: Child, waits: list[float]
) -> None:
    run = training.run()
    for number in range(rate_limit.BURST):
        run.set("epochs", number, wait=False)
    threads = [threading.Thread(target=run.set, args=("epochs", number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(waits) == pytest.approx([number / rate_limit.RATE for number in range(1, 7)])
    with exposures._lock:
        child = os.fork()
        if child == 0:
            try:
                os._exit(int(run.set("epochs", 7, wait=False, timeout=0).fate.final))
            finally:
                os._exit(9)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) in (0, 1)
    until(lambda: run.values["epochs"].value == 7)


# --- journal and replay ---


def test_what_was_set_and_called_stands_in_the_journal_and_is_replayed(tmp_path: Path) -> None:
    code = """
    import json, time, sys
    import spark_fast as spark

    def double(times):
        state.lr = state.lr * 2 ** times
        for _ in range(times):
            spark.checkpoint()
        return state.lr

    def broken(value):
        raise ValueError(value)

    state = spark.expose(lr=1.0, twice=spark.value(0, on_set=broken), double=double)
    total = 0.0
    for step in spark.track(range(300), key="step"):
        total += state.lr * step
        print(json.dumps([step, state.lr, total]), flush=True)
        time.sleep(float(sys.argv[1]))
    """
    (tmp_path / "steered").mkdir()
    path = tmp_path / "the.jsonl"
    with Supervised(
        tmp_path / "steered",
        code,
        str(tmp_path / "steered" / "project" / "train.py"),
        "0.002",
        options=("--journal", str(path)),
    ) as training:
        run = training.run()
        training.says(3)
        run.set("lr", 3.0)
        training.says(6)
        run.call("double", 2)
        run.pause()
        run.call("double", times=1)
        run.set("lr", 5)
        run.resume()
        outcome(run.set, "twice", 5)
        expected = training.over()
    found = journal.read(path)
    assert [line["kind"] for line in found.requests] == ["set", "call", "pause", "call", "set", "resume", "set"]
    payloads = [line["payload"] for line in found.lines if "payload" in line]
    assert payloads[0] == {"name": "lr", "value": 3.0}
    assert payloads[1] == {"name": "double", "args": [2], "kwargs": {}}
    assert len(payloads) == 5
    assert len({line[1] for line in expected}) > 3
    (tmp_path / "again").mkdir()
    with Supervised(
        tmp_path / "again",
        code,
        str(tmp_path / "again" / "project" / "train.py"),
        "0.002",
        options=("--replay", str(path), "--journal", "off"),
    ) as training:
        assert training.over() == expected


# --- reloads ---

RELOADED = """
import json, time
import spark_fast as spark

def evaluate():
    return "old"

def gone():
    return 1

state = spark.expose(lr=0.1, kept=1, leaves=2.0, evaluate=evaluate, gone=gone)
for step in spark.track(range(10**9), key="step"):
    print(json.dumps([step, state.lr, state.kept]), flush=True)
    time.sleep(0.002)
"""


def test_values_live_on_through_a_reload_and_functions_are_the_new_ones(tmp_path: Path) -> None:
    with Edited(tmp_path, RELOADED) as training:
        run = training.run()
        run.set("lr", 0.7)
        run.set("kept", 5)
        training.edit('"old"', '"new"')
        training.edit("kept=1, leaves=2.0", "kept=9, more=3.0")
        training.edit(", gone=gone", "")
        training.reloaded()
        until(lambda: "leaves" not in run.values)
        assert run.call("evaluate") == "new"
        values = run.values
        assert values["lr"].value == 0.7  # the code says what it said
        assert values["kept"].value == 9  # another initial value is one that was meant
        assert values["more"].value == 3.0
        assert list(run.functions) == ["evaluate"]
        training.edit("more=3.0", "leaves=2.5")
        training.reloaded()
        until(lambda: "more" not in run.values)
        assert run.values["leaves"].value == 2.5


def test_new_code_that_fails_leaves_no_value_and_no_function_behind(tmp_path: Path) -> None:
    with Edited(tmp_path, RELOADED) as training:
        run = training.run()
        run.set("lr", 0.7)
        training.edit('"old"', '"new"')
        training.edit("lr=0.1, kept=1", "lr=0.3, wrong=1, kept=1")
        training.edit("for step", "state.kept = 77\n1 / 0\nfor step")
        assert training.reload().fate.state == "failed"
        values = run.values
        assert list(values) == ["lr", "kept", "leaves"]
        assert (values["lr"].value, values["kept"].value) == (0.7, 1)
        assert run.call("evaluate") == "old"
        assert run.call("gone") == 1


def test_a_hundred_reloads_that_add_and_drop_values_use_no_more_of_the_board(tmp_path: Path) -> None:
    with Edited(tmp_path, RELOADED) as training:
        run = training.run()
        size = 0
        for count in range(20):
            old, new = ("leaves=2.0", "other=2.0") if count % 2 == 0 else ("other=2.0", "leaves=2.0")
            training.edit(old, new)
            training.reloaded()
            until(lambda: new.split("=")[0] in run.values and old.split("=")[0] not in run.values)  # noqa: B023
            if count == 1:
                size = (run.folder / "board").stat().st_size
        assert (run.folder / "board").stat().st_size == size


# --- in one process ---


def in_process(tmp_path: Path, code: str, **env: str) -> str:
    with Child(tmp_path, code, **env) as child:
        assert child.ended() == 0, child.err
        return child.out


def test_the_state_object_works_without_control(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    state = spark.expose({"learning rate": 2}, lr=0.1, f=print)
    spark.checkpoint()
    state.lr = 0.5
    state["learning rate"] = 3
    assert (state.lr, state["lr"], state["learning rate"]) == (0.5, 0.5, 3)
    assert list(state) == ["learning rate", "lr"] and len(state) == 2 and "lr" in state
    assert repr(state) == "<State: learning rate=3, lr=0.5>"
    assert spark.expose(more=1) is state
    print(state.more)
    """
    assert in_process(tmp_path, code, SPARK_FAST="0") == "1\n"
    assert in_process(tmp_path, code) == "1\n"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("spark.expose(x=object())", "TypeError: x: a value that is exposed is a number, a bool, a str or JSON"),
        ("spark.expose({'': 1})", "ValueError: the name of an exposed value is a str of 1 to 64 printable"),
        ("spark.expose({'a' * 65: 1})", "ValueError: the name"),
        ("spark.expose({'a\\n': 1})", "ValueError: the name"),
        ("spark.expose(__class__=1)", "ValueError: an exposed value can't be called '__class__'"),
        ("spark.expose(lr=spark.value(2, max=1))", "the initial value is at most 1, not 2"),
        ("spark.value(1, min=2, max=1)", "min is 2, and max is 1"),
        ("spark.value('a', min=1)", "min, max and step are for numbers"),
        ("spark.value(1, step=0)", "step is more than 0"),
        ("spark.value('a', choices=['b'])", 'the initial value is one of "b"'),
        ("spark.value('a', choices=['a', 1])", "each of choices is a text, not 1"),
        (
            "spark.expose(lr=1).nothing = 1",
            "AttributeError: 'nothing' is not exposed: spark.expose(nothing=…) comes first",
        ),
        ("spark.expose(f=print).f = 1", "AttributeError: 'f' is an exposed function, and no value"),
        ("del spark.expose(lr=1).lr", "AttributeError: what is exposed stays: 'lr'"),
        ("spark.expose(lr=1).lr = object()", "TypeError: lr: a value that is exposed"),
        ("spark.expose(lr=1)['x']", "KeyError: 'x'"),
        ("async def f(): pass\nspark.expose(f=f)", "TypeError: f: a function that is awaited can't be called"),
        (
            "async def f(): pass\nspark.expose(f=spark.function(f, ranks='all'))",
            "TypeError: f: a function that is awaited can't be called",
        ),
        ("spark.function(3)", "TypeError: it is no function: 3"),
        ("spark.function(spark.value(3))", "TypeError: it is no function"),
        ("spark.function(spark.function(print))", "TypeError: it is no function"),
        ("spark.function(print, ranks=1)", 'ValueError: ranks is 0 or "all": 1'),
        ("spark.function(print, ranks=False)", "ValueError: ranks is 0"),
    ],
)
def test_what_can_not_be_exposed_says_so_at_once(tmp_path: Path, line: str, error: str) -> None:
    with Child(tmp_path, f"import spark_fast as spark\n{line}\n") as child:
        assert child.ended() == 1
        assert error in child.err


def test_more_values_than_the_board_has_cells_are_not_shown_and_do_no_harm(tmp_path: Path) -> None:
    code = """
    import time, spark_fast as spark
    state = spark.expose({f"v{number}": number for number in range(300)})
    while True:
        spark.checkpoint()
        state.v299 += 1
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        assert len(run.values) == 300
        assert run.values["v255"].value == 255
        assert run.values["v299"].value is None
        assert child.err.count("can't be shown") == 1
        child.steps_on(run)


def test_a_forked_child_changes_nothing_that_its_parent_shows(tmp_path: Path) -> None:
    code = """
    import os, time, spark_fast as spark
    state = spark.expose(loss=1.0, name="parent")
    spark.checkpoint()
    pid = os.fork()
    if pid == 0:
        state.loss = 99.0
        state.name = "child"
        assert (state.loss, state.name) == (99.0, "child")
        spark.expose(mine=1)
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        until(lambda: run.step > 1)
        assert {name: value.value for name, value in run.values.items()} == {"loss": 1.0, "name": "parent"}


def test_threads_that_assign_and_a_sender_that_sets_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = """
    import threading, time, spark_fast as spark
    state = spark.expose(a=0, b=0.0, c="")
    def assign():
        for number in range(10**9):
            state.a = number
            state.b = number / 2
            state.c = str(number)
    for _ in range(3):
        threading.Thread(target=assign, daemon=True).start()
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        for number in range(40):
            assert run.set("c", f"set {number}").fate.state == "applied"
            assert isinstance(run.values["c"].value, str)
        child.steps_on(run)


def test_threads_that_share_a_run_read_one_board_and_never_another_file(training: Child) -> None:
    names = set(training.run().values)
    errors: list[BaseException] = []

    def look(run: client.Run, start: threading.Barrier) -> None:
        start.wait(DEADLINE)
        try:
            assert set(run.values) == names
        except BaseException as error:
            errors.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            run, start = client.attach("test"), threading.Barrier(8)
            threads = [threading.Thread(target=look, args=(run, start)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(DEADLINE)
    finally:
        sys.setswitchinterval(interval)
    assert errors == []


def test_a_board_that_is_removed_or_cut_short_costs_nothing_but_the_display(training: Child) -> None:
    run = training.run()
    board = run.folder / "board"
    os.truncate(board, 0)
    training.steps_on(run, 50)
    with pytest.raises((client.SegmentError, client.StoreError, OSError)):
        client.attach("test").values
    assert run.call("evaluate")["split"] == "train"
    board.unlink()
    training.steps_on(run, 50)
    assert client.attach("test").values == {}


# --- use() and the command line ---


def test_a_script_is_started_and_used_as_an_object(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(TRAINING))
    used = client.use(str(script), name="used")
    run = used.controller
    try:
        assert used.lr == 0.1
        used.lr = 0.2
        assert used.lr == 0.2
        assert used.evaluate("test", batches=2)["lr"] == 0.2
        assert used.evaluate.__doc__ == "Evaluates the model."
        assert {"lr", "evaluate", "controller"} <= set(dir(used))
        with pytest.raises(client.SparkSetError, match="lr is at most 1"):
            used.lr = 2
        with pytest.raises(client.SparkSetError, match="not half") as caught:
            used.lr = 0.5
        assert "in set_lr" in caught.value.traceback
        with pytest.raises(SparkCallError, match="as asked"):
            used.fail()
        with pytest.raises(AttributeError, match="exposes no 'nothing'"):
            used.nothing
        with pytest.raises(AttributeError, match="exposes no value 'evaluate'"):
            used.evaluate = 1
        used["lr"] = 0.3
        assert used["lr"] == used.lr == 0.3
        assert used["evaluate"]("test")["lr"] == 0.3
        used["lr"] = 0.2
        for what in (lambda: used["nothing"], lambda: used.__setitem__("evaluate", 1)):
            with pytest.raises(KeyError, match="exposes no"):
                what()
        used.controller.pause()
        again = client.use("used")
        assert again.lr == 0.2
        assert repr(again) == f"<RunProxy {run!r}>"
        with pytest.raises(client.SparkError, match="a living run is called 'used'"):
            client.use(str(script), name="used")
    finally:
        run.stop()
        run.wait("stopped", 30)
    with pytest.raises(client.NoSuchRunError):
        client.use("used")


def test_a_script_that_comes_to_nothing_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    with pytest.raises(FileNotFoundError):
        client.use(str(script))
    script.write_text("import time\ntime.sleep(60)\n")
    with pytest.raises(client.SparkTimeoutError, match="has passed no checkpoint in 0"):
        client.use(str(script), timeout=0.5)


def cli(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "spark_fast", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_line_gets_sets_and_calls(training: Child) -> None:
    run = training.run()
    shown = cli("get")
    assert shown.returncode == 0
    assert any(line.split()[:4] == ["lr", "0.1", "0…1", "1/step"] for line in shown.stdout.splitlines()), shown.stdout
    assert "evaluate(split: str = 'train', *, batches: int = 3)   Evaluates the model." in shown.stdout
    done = cli("set", "test", "lr=0.25", "name=a=b", "debug=True", 'card={"a": 1}')
    assert done.returncode == 0, done.stderr
    assert 'run test has lr = 0.25, name = a=b, debug = true, card = {"a": 1} since step' in done.stdout
    assert {name: run.values[name].value for name in ("lr", "name", "debug", "card")} == {
        "lr": 0.25,
        "name": "a=b",
        "debug": True,
        "card": {"a": 1},
    }
    assert cli("get", "lr").stdout == "0.25\n"
    assert cli("get", "test", "lr", "debug").stdout == "lr=0.25\ndebug=true\n"
    assert json.loads(cli("get", "--json", "test").stdout)["lr"]["max"] == 1
    refused = cli("set", "lr=7")
    assert (refused.returncode, refused.stderr) == (
        1,
        "spark-fast: set of run test was refused: lr is at most 1 1/step, not 7\n",
    )
    assert cli("set", "lr").returncode == 2
    called = cli("call", "evaluate", '{"split": "test"}')
    assert (called.returncode, called.stderr) == (0, "evaluated test\n")
    assert json.loads(called.stdout)["split"] == "test"
    assert json.loads(cli("call", "test", "evaluate", '["val"]').stdout)["split"] == "val"
    failed = cli("call", "fail")
    assert failed.returncode == 1
    assert failed.stderr.startswith("before\nspark-fast: ValueError: as asked\nTraceback")
    assert json.loads(cli("call", "evaluate", "--json").stdout)["result"]["split"] == "train"
    assert cli("call", "evaluate", "{").returncode == 2
    assert cli("call").returncode == 2
    assert cli("get", "nothing").returncode == 1
    table = cli("get", "test", "loss", "--history").stdout.splitlines()
    assert table[0] == "name\tstep\ttime\tlast\tlow\thigh\tmean"
    assert table[1].startswith("loss\t")
    text = cli("journal").stdout
    assert "lr = 0.25" in text
    assert 'evaluate("val")' in text


def test_where_one_of_several_values_does_not_fit_none_is_set(training: Child) -> None:
    run = training.run()
    for words in (("lr=0.25", "nothing=1"), ("lr=0.25", "epochs=many"), ("best=1", "lr=0.25")):
        refused = cli("set", "test", *words)
        assert refused.returncode == 1
        assert "was refused" in refused.stderr
    assert run.values["lr"].value == 0.1
    assert run.requests == []


def test_a_function_that_has_not_ended_is_said_to_run(training: Child) -> None:
    run = training.run()
    late = cli("call", "forever", "--timeout", "1", "--json")
    assert late.returncode == 4
    assert json.loads(late.stdout)["fate"]["reason"] == "it is running"
    assert "the function has begun and not ended: it is running" in late.stderr
    (request,) = run.requests
    assert str(request.fate) == "asked (it is running)"
    with pytest.raises(SparkTimeoutError, match=r"call of run test has not ended in 0\.2 s: it is running, at step"):
        request.wait(0.2)
    assert "it is running" in cli("status", "test").stdout
    later = run.set("epochs", 4, wait=False)
    assert later.fate.reason == ""


def test_what_failed_is_said_so_in_the_journal(training: Child) -> None:
    run = training.run()
    assert outcome(run.set, "lr", 0.5).fate.state == "failed"
    with pytest.raises(SparkCallError):
        run.call("fail")
    assert run.set("lr", 0.25).fate.state == "applied"
    path = journal.of_folder(run.folder)
    assert path is not None
    failed = [line["reason"] for line in journal.read(path).lines if "failed" in line]
    assert failed == ["ArithmeticError: not half", "ValueError: as asked"]
    shown = cli("journal").stdout
    assert "failed: ArithmeticError: not half" in shown
    assert shown.count("failed: ") == 2
    assert "taken back" not in shown


def test_the_command_line_watches_until_the_run_ends(training: Child) -> None:
    run = training.run()
    command = [sys.executable, "-m", "spark_fast", "watch", "test", "epochs", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["value"] == 3
        run.set("epochs", 9)
        assert json.loads(watching.stdout.readline())["value"] == 9
        run.stop()
        assert watching.wait(30) == 0
