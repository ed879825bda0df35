"""What `stop` and `status` say of a run that does not end, and how a grace ends it."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client
from spark_fast.client import ending
from tests.process.test_supervisor import Script
from tests.support.child import Child, until
from tests.support.job import Job

pytestmark = pytest.mark.process

SWALLOWS = """
import time
import spark_fast as spark
from pathlib import Path
while True:
    try:
        spark.checkpoint()
    except:
        if Path(__file__ + ".go").exists():
            raise
    time.sleep(0.001)
"""

SAVES_LONG = """
import time
import spark_fast as spark
try:
    while True:
        spark.checkpoint()
        time.sleep(0.001)
except spark.SparkStopError:
    for _ in spark.track(range(10**6)):
        time.sleep(0.001)
"""

HANGS = """
import signal, sys, time
import spark_fast as spark
spark.checkpoint()
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("hangs", flush=True)
while True:
    time.sleep(0.01)
"""


def cli(*args: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "spark_fast", *args], capture_output=True, text=True, timeout=60)


# --- what is said ---


def test_a_loop_that_swallows_the_stop_is_said_to_go_on(tmp_path: Path) -> None:
    with Child(tmp_path, SWALLOWS) as child:
        run = child.run()
        stop = cli("stop", "test", "--timeout", "2s")
        raised = run.stop_step
        assert stop.returncode == 4
        assert f"run test raised SparkStopError at step {raised}" in stop.stdout
        assert f"raised SparkStopError at step {raised}, and the loop went on: it is at step" in stop.stderr
        assert "left its loop" not in stop.stdout + stop.stderr
        status = cli("status", "test").stdout
        assert "is stopping at step" in status
        assert f"its loop swallowed the stop that was raised at step {raised}, and goes on" in status
        assert run.swallowed_stop == raised
        with pytest.raises(client.SparkTimeoutError, match=f"swallowed the stop that was raised at step {raised}"):
            run.wait("stopped", timeout=0.1)
        child.go()
        child.ended()
        assert (run.status, run.swallowed_stop) == ("stopped", None)


def test_a_run_that_takes_long_to_save_is_not_said_to_have_swallowed_the_stop(tmp_path: Path) -> None:
    with Child(tmp_path, SAVES_LONG) as child:
        run = child.run()
        raised = run.stop(timeout=10).fate.step
        assert raised is not None
        until(lambda: run.step > raised + 10, "checkpoints of the handler")
        stop = cli("stop", "test", "--timeout", "1s")
        assert stop.returncode == 4
        assert f"it raised SparkStopError at step {raised}, and its process has not ended yet" in stop.stderr
        assert "went on" not in stop.stderr
        assert f"SparkStopError was raised at step {raised}" in cli("status", "test").stdout
        assert (run.stop_step, run.swallowed_stop) == (raised, None)


def test_one_rank_of_several_that_swallows_the_stop_is_noticed(tmp_path: Path) -> None:
    code = SWALLOWS.replace(
        "except:", "except BaseException:\n        if __import__('os').environ['RANK'] == '0': break"
    )
    with Job(tmp_path, code, size=2) as job:
        run = job.run()
        step = run.stop(timeout=10).fate.step
        until(lambda: run.swallowed_stop == step, str(run.swallowed_stop))
        assert job.ranks[0].ended() == 0


# --- a grace ---


@pytest.fixture
def innocent() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has nothing to do with any run."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(("args", "number"), [((), signal.SIGTERM), (("deaf",), signal.SIGKILL)])
def test_a_process_that_hangs_is_ended_when_its_grace_is_over(
    tmp_path: Path, args: tuple[str, ...], number: signal.Signals
) -> None:
    with Child(tmp_path, HANGS, *args) as child:
        until(lambda: child.out, child.err)
        stop = cli("stop", "test", "--grace", "300ms")
        assert child.ended() == -number
        assert stop.returncode == 5
        assert f"run test did not end in 0.3 s: it got {number.name}" in stop.stderr
        assert "run test: it had not ended 0.3 s after the stop, so it was killed" in stop.stderr


def test_a_grace_ends_a_run_that_was_asked_to_stop_before(tmp_path: Path) -> None:
    with Child(tmp_path, SWALLOWS) as child:
        run = child.run()
        first = run.stop(timeout=10)
        again = run.stop(grace=0.1, timeout=20)
        assert child.ended() == -signal.SIGTERM
        assert (again.id, run.status) == (first.id, "lost")


def test_a_process_that_ends_in_its_grace_gets_no_signal(tmp_path: Path) -> None:
    code = """
    import signal, time
    import spark_fast as spark
    signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM", flush=True))
    try:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    except spark.SparkStopError:
        print("saved", flush=True)
    """
    with Child(tmp_path, code) as child:
        child.run()
        stop = cli("stop", "test", "--grace", "60s")
        assert (stop.returncode, child.ended(), child.out) == (0, 0, "saved\n")
        assert "run test is stopped" in stop.stdout


def test_all_ranks_on_this_host_are_ended(tmp_path: Path) -> None:
    with Job(tmp_path, SWALLOWS, size=2) as job:
        run = job.run()
        run.stop(grace=0.1, timeout=20)
        assert [child.ended() for child in job.ranks.values()] == [-signal.SIGTERM] * 2


@pytest.mark.parametrize("waits", [True, False])
def test_the_supervisor_ends_it_whether_the_command_waits_or_not(tmp_path: Path, waits: bool) -> None:
    with Script(tmp_path, HANGS) as child:
        until(lambda: child.out, child.err)
        until(lambda: _has_supervisor("test"))
        stop = cli("stop", "test", "--grace", "300ms", *(() if waits else ("--no-wait",)))
        child.ended()
        assert stop.returncode == (5 if waits else 0)
        assert "it got" not in stop.stderr, "the command signalled it, beside the supervisor"
        said = child.said()
        assert "run test did not end in the 0.3 s that it was given: it gets SIGTERM" in said[-2]
        assert "since it had not ended in time" in said[-1]
        assert client.attach("test").status == "lost"


def test_the_supervisor_does_not_blame_memory_for_a_grace_that_was_given_later(tmp_path: Path) -> None:
    with Script(tmp_path, SWALLOWS) as child:
        run = child.run()
        run.stop(timeout=10)
        assert cli("stop", "test", "--grace", "100ms").returncode == 5
        assert child.ended() == 137
        assert "was killed by SIGKILL" in child.said()[-1]
        assert "after it was asked to stop: 'stop --grace' kills a process" in child.said()[-1]
        assert "memory" not in child.err


def _has_supervisor(run: str) -> bool:
    from spark_fast.runfiles import supervisors

    return supervisors.has_supervisor(run)


def test_without_a_supervisor_a_grace_needs_a_command_that_waits(tmp_path: Path) -> None:
    with Child(tmp_path, HANGS) as child:
        run = child.run()
        stop = cli("stop", "test", "--grace", "1s", "--no-wait")
        assert stop.returncode == 1
        assert "run test has no supervisor that could end it after 1 s" in stop.stderr
        assert run.requests == []
        assert cli("stop", "test", "--grace", "soon").returncode == 2
        with pytest.raises(ValueError, match="grace is a number of seconds"):
            run.stop(grace=-1)


def test_a_process_that_was_given_a_dead_workers_number_is_never_signalled(
    tmp_path: Path, innocent: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    with Child(tmp_path, HANGS) as child:
        run = child.run()
        slots = run._connection.slots

        def misled() -> list[dict[str, Any]]:
            return [slot | {"pid": innocent.pid} for slot in slots()]

        monkeypatch.setattr(run._connection, "slots", misled)
        with pytest.raises(client.SparkTimeoutError, match="no process here can be found"):
            ending.end_after(run._connection, 0.0)
        assert innocent.poll() is None
        os.kill(child.pid, 0)
