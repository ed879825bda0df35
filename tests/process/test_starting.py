"""What is asked of a run before its script has begun: it waits, for a limited time, for what it names."""

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client
from spark_fast.client import SparkCallError, SparkSetError, SparkTimeoutError, starting
from spark_fast.client.connection import Connection
from spark_fast.runfiles import run_folder
from tests.support.child import DEADLINE, Child, until
from tests.support.ranks import LOOP, Ranks

pytestmark = pytest.mark.process

WAITS = """
import time
from pathlib import Path
import spark_fast as spark

def gate(name):
    while not Path(f"{__file__}.{name}").exists():
        time.sleep(0.001)
"""

SCRIPT = f"""
{WAITS}
gate("go")
def double(number):
    return 2 * number
state = spark.expose(lr=0.1, mode="a", double=double)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""
"""Under `spark-fast run` it is a run before its first line."""

LATE = f"""
{WAITS}
spark.checkpoint()
gate("go")
state = spark.expose(lr=0.1, mode="a", double=lambda number: 2 * number)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""
"""It has passed a checkpoint before it exposes anything."""

RUNS = f"""
{WAITS}
from spark_fast.worker import process
process.attach()
gate("go")
def main():
    for _ in spark.track(range(10**9), key="item"):
        time.sleep(0.001)
spark.run(main)
"""
"""It is a run before anything runs its code again."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "PATIENCE", DEADLINE)  # however slow the machine is


def there(name: str = "test") -> client.Run:
    """The run, whatever it has done."""

    def look() -> client.Run | None:
        try:
            return client.attach(name)
        except client.NoSuchRunError:
            return None

    return until(look)


def meanwhile(ask: Callable[[], Any]) -> "Future[Any]":
    """Asks in a thread."""
    found: Future[Any] = Future()

    def run() -> None:
        try:
            found.set_result(ask())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found


class Script(Child):
    """A script under `spark-fast run`."""

    def __init__(self, folder: Path, code: str = SCRIPT) -> None:
        folder.mkdir(exist_ok=True)
        script = folder / "train.py"
        script.write_text(code)
        super().__init__(folder, "", "-m", "spark_fast", "run", str(script))
        self.script = script


ASKS: dict[str, Callable[[client.Run], Any]] = {
    "set": lambda run: run.set("lr", 0.5).fate.state,
    "several": lambda run: run.set(lr=0.5, mode="b")["lr"].fate.state,
    "call": lambda run: run.call("double", 4),
}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize("code", [SCRIPT, LATE], ids=["before the script", "before the first expose"])
def test_a_request_waits_for_what_a_starting_run_does_not_expose_yet(tmp_path: Path, code: str, ask: str) -> None:
    with Script(tmp_path) if code is SCRIPT else Child(tmp_path, code) as child:
        run = there()
        answer = meanwhile(lambda: ASKS[ask](run))
        until(lambda: code is SCRIPT or run.step == 1)
        child.go()
        assert answer.result(DEADLINE) == (8 if ask == "call" else "applied")


def test_a_request_that_waits_for_nothing_stands_in_the_log_until_the_first_checkpoint(tmp_path: Path) -> None:
    with Script(tmp_path) as child:
        run = there()
        asked = [
            run.set("lr", 0.5, wait=False),
            run.request_call("double", [4], wait=False),
            run.set("nothing", 1, wait=False),
            run.set("lr", "no number", wait=False),
        ]
        assert {str(each.fate) for each in asked} == {"asked (the run has passed no checkpoint yet)"}
        child.go()
        states = [each.wait(DEADLINE).state for each in asked]
        assert states == ["applied", "applied", "refused", "refused"]
        assert asked[1].result == 8
        assert "no exposed value is called 'nothing'" in asked[2].fate.reason
        assert run.values["lr"].value == 0.5


def test_the_waiting_is_bounded_and_then_the_request_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting, "PATIENCE", 0.05)
    with Script(tmp_path) as child:
        run = there()
        with pytest.raises(SparkTimeoutError, match=r"has not taken effect in 0\.2 s: the run is idle") as caught:
            run.set("lr", 0.5, timeout=0.2)
        assert isinstance(caught.value.request, client.Request)
        child.go()
        assert caught.value.request.wait(DEADLINE).state == "applied"


def test_what_is_not_exposed_is_refused_once_the_run_has_begun(tmp_path: Path) -> None:
    with Script(tmp_path) as child:
        run = there()
        value, function = meanwhile(lambda: run.set("nothing", 1)), meanwhile(lambda: run.call("nothing"))
        child.go()
        with pytest.raises(SparkSetError, match="no exposed value is called 'nothing'; there are: lr, mode"):
            value.result(DEADLINE)
        with pytest.raises(SparkCallError, match="no exposed function is called 'nothing'"):
            function.result(DEADLINE)


@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (("set", "test", "lr=.5", "mode=7"), "run test has lr = 0.5, mode = 7 since step"),
        (("call", "test", "double", "[4]"), "8\n"),
        (("get", "test", "lr"), "0.1\n"),
    ],
    ids=["set", "call", "get"],
)
def test_the_command_line_waits_too(tmp_path: Path, words: tuple[str, ...], shows: str) -> None:
    with Script(tmp_path) as child:
        run = there()
        command = [sys.executable, "-m", "spark_fast", *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as asking:
            until(lambda: asking.poll() is not None or run_folder.has_open(asking.pid, run._connection.control))
            child.go()
            out, err = asking.communicate(timeout=DEADLINE)
        assert out.startswith(shows), err


def test_a_reload_waits_for_the_code_of_a_run_that_is_starting(tmp_path: Path) -> None:
    with Child(tmp_path, RUNS) as child:
        run = there()
        answer = meanwhile(lambda: run.reload(child.script.read_text() + "\nlater = 1\n"))
        child.go()
        assert answer.result(DEADLINE).fate.state == "applied"


def test_a_reload_of_a_run_that_nobody_runs_again_is_refused_at_its_first_checkpoint(tmp_path: Path) -> None:
    with Child(tmp_path, RUNS.replace("spark.run(main)", "main()")) as child:
        run = there()
        answer = meanwhile(lambda: run.reload("pass"))
        child.go()
        with pytest.raises(client.SparkRequestError, match="was not started with `spark-fast run`"):
            answer.result(DEADLINE)


@pytest.mark.ranks
@pytest.mark.parametrize("ask", ["set", "call", "call all"])
def test_a_rank_that_is_there_first_keeps_a_request_for_the_rank_that_exposes(tmp_path: Path, ask: str) -> None:
    asks: dict[str, Callable[[client.Run], Any]] = {
        "set": lambda run: run.set("lr", 0.5).fate.state,
        "call": lambda run: run.call("note", 3),
        "call all": lambda run: run.call("note", 3, spark_ranks="all"),
    }
    with Ranks(tmp_path, 2, LOOP, start=False) as job:
        job.start(1)
        run = until(lambda: next(iter(client.runs()), None))
        until(lambda: run.ranks and any(each.rank == 1 and each.step > 0 for each in run.ranks))
        answer = meanwhile(lambda: asks[ask](run))
        job.start(0)
        wanted = {"set": "applied", "call": [0, 3], "call all": {0: [0, 3], 1: [1, 3]}}
        assert answer.result(DEADLINE) == wanted[ask]


@pytest.mark.ranks
def test_a_call_that_names_no_ranks_is_refused_while_nobody_has_said_who_calls_it(tmp_path: Path) -> None:
    with Ranks(tmp_path, 2, LOOP, start=False) as job:
        job.start(1)
        run = until(lambda: next(iter(client.runs()), None))
        until(lambda: any(each.rank == 1 and each.step > 0 for each in run.ranks))
        refused = run.request_call("note", [3], wait=False)
        assert "has not said yet which ranks call note()" in refused.fate.reason
        asked = run.request_call("note", [4], ranks="all", wait=False)
        job.start(0)
        assert asked.wait(DEADLINE).state == "applied"
        assert asked.result[1] == [1, 4]  # it is applied when all ranks that live then have done it


def test_a_run_that_has_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Script(tmp_path) as child:
        run = there()
        child.go()
        until(lambda: run.values)
        run.stop()
        child.ended()
    waits: list[float | None] = []
    until_of = Connection.wait_until

    def noting(run: Connection, done: Callable[[], bool], timeout: float | None) -> bool:
        waits.append(timeout)
        assert done()
        return until_of(run, done, timeout)

    monkeypatch.setattr(Connection, "wait_until", noting)
    with pytest.raises(SparkCallError, match="the run has ended"):
        run.call("double", 1)
    with pytest.raises(SparkSetError, match="the run has ended"):
        run.set("nothing", 1)
    assert waits
