"""A run of one rank that has not come to what was asked of it: what is said of that."""

import json
import re
import time
from pathlib import Path

import pytest

from spark_fast import _core, client
from spark_fast.cli import ranks
from tests.process.test_cli import cli
from tests.support.child import GATED, Child, until

pytestmark = pytest.mark.process

BUSY = """
import time
import spark_fast as spark
from pathlib import Path

def evaluate():
    while not Path(__file__ + ".go").exists():
        time.sleep(0.001)

spark.expose(evaluate=evaluate, lr=0.1)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""

LATE = r"no checkpoint for \d+s: it hangs, or its step takes long"


def overdue(run: client.Run) -> None:
    until(lambda: run.ranks[0].overdue >= 1, "the rank is overdue")


def test_a_step_that_takes_long_is_said_where_something_waits_for_it(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        assert run.ranks[0].overdue == 0
        assert "no checkpoint" not in cli("status", "test").stdout
        request = run.pause(wait=False)
        overdue(run)
        lines = cli("status", "test").stdout.splitlines()
        assert re.fullmatch(f"  {LATE}", lines[1]), lines
        (rank,) = json.loads(cli("status", "test", "--json").stdout)["ranks"]
        assert rank["trouble"] == "overdue" and rank["overdue"] >= 1
        late = cli("resume", "test", "--timeout", "0.1")
        assert late.returncode == 4
        assert re.search(rf"is pausing at step 1 \({LATE}\)|is running at step 1 \({LATE}\)", late.stderr), late.stderr
        child.go()
        request.wait(30)
        until(lambda: run.ranks[0].overdue == 0)
        assert "no checkpoint" not in cli("status", "test").stdout


def test_a_function_that_is_being_called_is_no_step_that_takes_long(tmp_path: Path) -> None:
    with Child(tmp_path, BUSY) as child:
        run = child.run()
        call = run.request_call("evaluate", wait=False)
        until(lambda: call.fate.running)
        run.set("lr", 0.2, wait=False)
        overdue(run)
        shown = cli("status", "test").stdout
        assert re.search(r"\n  what was asked \d+s ago waits for the end of a function that is being called\n", shown)
        assert "it hangs" not in shown
        child.go()
        call.wait(30)


def test_a_paused_run_is_not_overdue(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        request = run.pause()
        until(lambda: client.attach("test").ranks[0].since + 1.5 < time.time())
        assert run.ranks[0].overdue == 0
        assert request.fate.state == "applied"


def test_a_request_whose_sender_died_before_the_rank_heard_of_it_is_not_waited_for(tmp_path: Path) -> None:
    sender = """
    import os, signal
    from spark_fast import _core, client
    run = client.attach("test")
    _core.arm_point("append:published", signal.SIGKILL)
    run.pause()
    """
    with Child(tmp_path, GATED) as child:
        run = child.run()
        with Child(tmp_path, sender, name=None) as killed:
            assert killed.ended() == -9
        asked = run.requests[-1].asked
        until(lambda: time.time() > asked + 1.5)
        assert run.ranks[0].overdue == 0
        assert _core.read_view(run._connection.control)["tail"] == 1


def test_a_first_step_that_takes_long_is_said_although_nothing_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        assert ranks.lateness(run) == ""
        monkeypatch.setattr(ranks, "_LONG_STEP", 1.0)
        until(lambda: re.fullmatch(LATE, ranks.lateness(run)), "the first step is long")
        child.go()
        child.steps_on(run)
        assert (run.in_first_step, ranks.lateness(run)) == (0, "")
        run.pause()
        assert (run.in_first_step, ranks.lateness(run)) == (0, "")
