"""Requests from another process: what they do, and what their senders learn."""

import resource
import threading
import time
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import GATED, LOOP, Child, outcome, until

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

STEPS = """
import sys, time
import spark_fast as spark
for step in range(1, 10**9):
    spark.checkpoint()
    print(step, flush=True)
    time.sleep(0.001)
"""


def test_a_paused_loop_stands_still_and_uses_no_cpu_until_it_is_resumed(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        request = run.pause(timeout=10)
        assert request.fate.state == "applied"
        assert run.status == "paused"
        step, cpu = run.step, child.cpu_time()
        assert request.fate.step == step
        time.sleep(1.0)  # the time over which nothing may happen
        assert (run.step, run.status) == (step, "paused")
        assert child.cpu_time() - cpu < 0.1
        assert run.resume(timeout=10).fate.state == "applied"
        assert run.status == "running"
        child.steps_on(run)


def test_advance_runs_exactly_so_many_steps_and_parks_again(tmp_path: Path) -> None:
    with Child(tmp_path, STEPS) as child:
        run = child.run()
        run.pause(timeout=10)
        for steps in (1, 2, 10):
            before = run.step
            request = run.advance(steps, timeout=10)
            assert request.fate.state == "applied"
            assert request.fate.step == run.step == before + steps
            assert run.status == "paused"
        # The body of the step at which it is parked has not run.
        assert int(child.out.split()[-1]) == run.step - 1


def test_advance_of_a_running_loop_parks_it_after_so_many_steps(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        before = run.step
        request = run.advance(20, timeout=10)
        assert run.status == "paused"
        assert request.fate.step is not None and request.fate.step >= before + 20


def test_a_pause_at_a_step_parks_at_that_very_step(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        wanted = run.step + 300
        request = run.pause(at_step=wanted, wait=False)
        assert run.status == "running"
        assert request.fate.state == "asked"
        assert request.wait(timeout=20).step == run.step == wanted


def test_a_pause_at_a_step_that_is_over_parks_at_once(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        until(lambda: run.step > 5)
        assert run.pause(at_step=1, timeout=10).fate.state == "applied"


def test_a_timed_pause_ends_by_itself(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        began = time.time()
        run.pause(resume_after=0.5, timeout=10)
        assert run.wait("running", timeout=10) == "running"
        assert time.time() - began >= 0.5
        assert run.resumes is None
        assert [request.kind for request in run.requests] == ["pause", "resume"]
        child.steps_on(run)


def test_a_timed_pause_says_when_it_ends(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        began = time.time()
        run.pause(resume_after=3600, timeout=10)
        assert run.resumes is not None
        assert began + 3600 <= run.resumes <= time.time() + 3600


def test_a_timed_pause_that_another_pause_replaced_does_not_end_it(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        run.pause(resume_after=0.3, timeout=10)
        run.pause(timeout=10)
        assert run.resumes is None
        with pytest.raises(client.SparkTimeoutError):
            run.wait("running", timeout=1.0)
        assert run.status == "paused"


def test_stop_raises_at_the_next_checkpoint_and_the_run_ends_as_stopped(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    try:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    except spark.SparkStopError as stop:
        print(stop.request_id, stop.step, stop.sender, sep="|", flush=True)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        request = run.stop(timeout=10)
        assert child.ended() == 0
        ident, step, sender = child.out.strip().split("|")
        assert (ident, int(step)) == (request.id, request.fate.step)
        assert sender == request.sender
        assert "pid" in sender
        assert run.status == "stopped"


def test_a_stop_reaches_a_paused_loop_at_the_step_where_it_is_parked(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        parked = run.pause(timeout=10).fate.step
        assert run.stop(timeout=10).fate.step == parked
        child.ended()
        assert run.status == "stopped"


def test_a_loop_that_skips_bad_batches_is_stopped_all_the_same(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    while True:
        try:
            spark.checkpoint()
            time.sleep(0.001)
            raise ValueError("a bad batch")
        except Exception:
            continue
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        assert run.stop(timeout=10).fate.state == "applied"
        child.ended()
        assert run.wait("stopped", timeout=5) == "stopped"


def test_a_stop_is_a_level_that_every_later_checkpoint_raises(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    raised = 0
    while raised < 3:
        try:
            spark.checkpoint()
            time.sleep(0.001)
        except BaseException as error:
            assert isinstance(error, spark.SparkStopError)
            raised += 1
    print(raised)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        run.stop(timeout=10)
        assert child.ended() == 0
        assert child.out == "3\n"


def test_a_second_stop_shares_the_fate_of_the_first(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    try:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    except spark.SparkStopError:
        time.sleep(60)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        first = run.stop(timeout=10)
        assert run.status == "stopping"
        second = run.stop(timeout=10)
        assert (second.id, second.fate) == (first.id, first.fate)
        refused = outcome(run.pause, timeout=10)
        assert refused.fate.state == "refused"
        assert "stopping" in refused.fate.reason


def test_a_resume_of_a_running_loop_does_nothing_and_says_so(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        fate = outcome(run.resume, timeout=10).fate
        assert fate.state == "applied"
        assert "not paused" in fate.reason
        assert run.requests == []


def test_a_pause_that_was_resumed_before_its_step_is_superseded_and_its_sender_learns_by_what(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        pause = run.pause(wait=False)
        assert run.status == "pausing"
        assert pause.fate.state == "asked"
        resume = run.resume(wait=False)
        child.go()
        assert resume.wait(10).state == "applied"
        assert pause.wait(10).state == "superseded"
        assert pause.fate.by == resume.id
        child.steps_on(run)


def test_a_resume_calls_off_a_pause_that_was_set_for_later(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        pause = run.pause(at_step=run.step + 100, wait=False)
        resume = run.resume(timeout=10)
        assert pause.wait(10).by == resume.id
        until(lambda: run.step > 200)
        assert run.status == "running"


def test_a_request_that_is_not_applied_in_time_raises_and_still_stands(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    from pathlib import Path
    spark.checkpoint()
    while not Path(__file__ + ".go").exists():
        time.sleep(0.001)
    spark.checkpoint()
    spark.checkpoint()
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        with pytest.raises(client.SparkTimeoutError, match=r"not taken effect in 0\.2 s: .* at step 1") as caught:
            run.pause(timeout=0.2)
        assert run.status == "pausing"
        child.go()
        request = caught.value.request
        assert isinstance(request, client.Request)
        assert request.wait(10).state == "applied"


def test_a_pause_of_a_run_that_ends_before_it_is_lost(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    from pathlib import Path
    spark.checkpoint()
    while not Path(__file__ + ".go").exists():
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        request = run.pause(wait=False)
        child.go()
        fate = request.wait(10)
        assert fate.state == "lost"
        assert "finished" in fate.reason
        assert run.status == "finished"
        assert outcome(run.stop).fate.state == "refused"


def test_many_controllers_at_once_lose_no_request(tmp_path: Path) -> None:
    with Child(tmp_path, LOOP.replace("time.sleep(0.001)", "pass")) as child:
        child.run()
        requests: list[client.Request] = []
        errors: list[BaseException] = []

        def control(number: int) -> None:
            try:
                run = client.attach("test")
                for turn in range(15):
                    requests.append(run.pause(wait=False) if (turn + number) % 2 else run.resume(wait=False))
                    requests[-1].wait(20)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=control, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        run = client.attach("test")
        while any(thread.is_alive() for thread in threads):
            run.resume(wait=False)
            time.sleep(0.01)
        assert not errors
        assert {request.fate.state for request in requests} <= {"applied", "superseded"}
        assert len(requests) == 90
        run.resume(timeout=10)
        child.steps_on(run)


def test_the_log_tells_what_was_asked_by_whom_and_what_became_of_it(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        mine = [run.pause(timeout=10), run.advance(2, timeout=10), run.resume(timeout=10)]
        log = client.attach("test").requests
        assert [(each.id, each.kind, each.sender, each.fate) for each in log] == [
            (each.id, each.kind, each.sender, each.fate) for each in mine
        ]


def test_a_log_that_went_round_remembers_the_last_requests_and_forgets_the_first(tmp_path: Path) -> None:
    with Child(tmp_path, LOOP.replace("time.sleep(0.001)", "pass")) as child:
        run = child.run()
        first = run.pause(wait=False)
        for _ in range(100):
            run.pause(timeout=10)
            last = run.resume(timeout=10)
        assert first.fate.state == "lost"
        assert "requests came after it" in first.fate.reason
        assert run.requests[-1].id == last.id
        assert len(run.requests) == 128


def test_a_full_log_is_an_error_for_the_sender_and_no_harm_to_the_run(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        for _ in range(128):
            run.pause(wait=False)
        with pytest.raises(client.SegmentError, match=r"log is full.*rank 0.*step 1\b"):
            run.pause(wait=False)
        child.go()
        assert run.wait("paused", timeout=10) == "paused"
        assert run.resume(timeout=10).fate.state == "applied"
        child.steps_on(run)


def test_wrong_arguments_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        for ask in (
            lambda: run.advance(0),
            lambda: run.pause(at_step=0),
            lambda: run.pause(resume_after=-1),
            lambda: run.pause(resume_after=float("nan")),
            lambda: run.wait("asleep"),
        ):
            with pytest.raises(ValueError):
                ask()
        assert run.requests == []


CALLED = """
import time
import spark_fast as spark

def note():
    print("noted", flush=True)

spark.expose(note=note)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


def test_a_call_that_ran_without_an_answer_says_that_it_may_have_run(tmp_path: Path) -> None:
    with Child(tmp_path, CALLED) as child:
        run = child.run()
        until(lambda: "note" in run.functions, "the function is exposed")
        _, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, hard))
        request = outcome(run.request_call, "note", timeout=10)
        assert request.fate.state == "failed"
        assert "nor whether a called function has run" in request.fate.reason
        assert child.out == "noted\n"
