"""What can go wrong while a value is set or a function called, and must not reach the training."""

import textwrap
from pathlib import Path
from typing import Any

import psutil
import pytest

from spark_fast import _core, client
from spark_fast.client import SparkCallError, rate_limit
from spark_fast.request import Kind
from spark_fast.runfiles import journal
from spark_fast.worker.journal.replay import Replay
from tests.process.test_exposing import send
from tests.process.test_reload_supervised import Supervised
from tests.support.child import DEADLINE, Child, outcome, until
from tests.support.reloading import Edited

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

TRAINING = """
import sys, time
import spark_fast as spark

class Unsent:
    def tolist(self):
        raise RuntimeError("it is on a device that is lost")

class Unshown:
    def __repr__(self):
        raise RuntimeError("no repr")

def unsent():
    return Unsent()

def prints_bytes():
    print("before")
    try:
        sys.stdout.write(b"bytes")
    except TypeError:
        print("refused")

def noted():
    error = ValueError("as asked")
    error.add_note("a note")
    raise error

def odd(default=Unshown()):
    return 1

def ends(value):
    sys.exit(3)

state = spark.expose(
    unsent=unsent, prints_bytes=prints_bytes, noted=noted, odd=odd, ending=spark.value(1, on_set=ends)
)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


@pytest.fixture
def training(tmp_path: Path) -> Any:
    with Child(tmp_path, TRAINING) as child:
        yield child


def test_a_result_whose_tolist_raises_is_the_callers_concern(training: Child) -> None:
    run = training.run()
    with pytest.raises(SparkCallError, match="it is on a device that is lost"):
        run.call("unsent", spark_timeout=30)
    training.steps_on(run)


def test_what_standard_output_does_not_take_is_no_output(training: Child) -> None:
    run = training.run()
    assert run.request_call("prints_bytes", timeout=30).output == "before\nrefused\n"
    training.steps_on(run)


def test_an_exit_in_a_setter_ends_no_training(training: Child) -> None:
    run = training.run()
    fate = outcome(run.set, "ending", 2, timeout=30).fate
    assert (fate.state, fate.reason.splitlines()[0]) == ("failed", "SystemExit: 3")
    assert run.values["ending"].value == 1
    training.steps_on(run)


def test_the_reason_is_the_exception_and_not_its_notes(training: Child) -> None:
    with pytest.raises(SparkCallError) as caught:
        training.run().call("noted", spark_timeout=30)
    assert caught.value.reason == "ValueError: as asked"
    assert "a note" in caught.value.traceback


def test_a_default_that_can_not_be_shown_hides_the_signature_and_nothing_else(training: Child) -> None:
    run = training.run()
    assert run.functions["odd"].signature == "(*args, **kwargs)"
    assert run.call("odd", spark_timeout=30) == 1
    training.steps_on(run)


def test_a_process_without_standard_output_prints_nowhere(tmp_path: Path) -> None:
    code = """
    import sys, time
    import spark_fast as spark
    sys.stdout = None
    def say():
        print("said", flush=True)
    spark.expose(say=say)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        assert child.run().request_call("say", timeout=30).output == "said\n"


PARKED = """
import threading, time
import spark_fast as spark

hooks = []
spark.on_pause(lambda: hooks.append("pause"))
spark.on_resume(lambda: hooks.append("resume"))

def goes_on():
    while not state.over:
        spark.checkpoint()
        time.sleep(0.001)
    return hooks

def joins():
    thread = threading.Thread(target=spark.checkpoint)
    thread.start()
    thread.join()
    return threading.active_count()

state = spark.expose(goes_on=goes_on, joins=joins, over=False, get_hooks=lambda: hooks)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


def test_a_function_that_was_called_while_parked_is_resumed_and_parks_again(tmp_path: Path) -> None:
    with Child(tmp_path, PARKED) as child:
        run = child.run()
        run.pause()
        call = run.request_call("goes_on", wait=False)
        for _ in range(3):
            run.resume(timeout=30)
            assert run.status == "running"
            assert run.pause(timeout=30).fate.state == "applied"
            assert run.status == "paused"
        run.set("over", True, timeout=30)
        run.resume(timeout=30)
        assert call.wait(30).state == "applied"
        assert call.result == ["pause"]  # the loop has been parked all the time
        child.steps_on(run)
        run.pause(timeout=30)
        assert run.call("get_hooks") == ["pause", "resume", "pause"]


def test_a_function_that_was_called_while_parked_may_wait_for_a_thread_that_passes_a_checkpoint(tmp_path: Path) -> None:
    with Child(tmp_path, PARKED) as child:
        run = child.run()
        run.pause()
        call = run.request_call("joins", wait=False)
        until(lambda: _core.read_slot(run._connection.control, 0)["applied"] == 2, "it is called")
        run.resume(timeout=30)
        assert call.wait(30).state == "applied"
        child.steps_on(run)


INNER = """
import sys, time
import spark_fast as spark

def evaluate(batches, rest=0.0):
    for number in range(batches):
        spark.checkpoint()
        state.seen = number
    time.sleep(rest)
    return state.seen

state = spark.expose(evaluate=evaluate, seen=0)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


def test_what_is_asked_after_the_last_checkpoint_of_a_call_is_due_at_the_next_of_the_loop(tmp_path: Path) -> None:
    with Child(tmp_path, INNER) as child:
        run = child.run()
        call = run.request_call("evaluate", [5000, 0.5], wait=False)
        until(lambda: run.values["seen"].value == 4999, "it has passed its last")
        pause = run.pause(timeout=30)
        call.wait(30)
        assert call.fate.step is not None and pause.fate.step is not None
        assert pause.fate.step <= call.fate.step + 2
        run.resume(timeout=30)
        child.steps_on(run)


def test_the_steps_that_a_pause_or_an_advance_waits_for_are_the_loops(tmp_path: Path) -> None:
    with Child(tmp_path, INNER) as child:
        run = child.run()
        run.pause(timeout=30)
        step = run.step
        run.pause(at_step=step + 200, wait=False)
        assert run.call("evaluate", 3000, spark_timeout=30) == 2999
        run.wait("paused", 30)
        assert run.step == step + 200
        advance = run.advance(100, wait=False)
        call = run.request_call("evaluate", [3000], timeout=30)
        advance.wait(30)
        assert (call.result, run.step, advance.fate.step) == (2999, step + 300, step + 300)


def test_what_a_call_assigns_is_of_the_step_at_which_it_runs(tmp_path: Path) -> None:
    with Child(tmp_path, INNER) as child:
        run = child.run()
        for _ in range(3):
            step = run.request_call("evaluate", [1000], timeout=30).fate.step
            assert run.values["seen"].step == step
        steps = run.history("seen").steps
        assert steps == sorted(steps)


def test_what_was_applied_while_a_function_ran_is_replayed_at_the_same_checkpoint_of_it(tmp_path: Path) -> None:
    code = """
    import json, sys, time
    import spark_fast as spark

    def evaluate(batches):
        seen = []
        for _ in range(batches):
            spark.checkpoint()
            state.seen = len(seen)
            seen.append(state.lr)
            time.sleep(float(sys.argv[1]))
        print(json.dumps(["within", seen]), flush=True)

    state = spark.expose(evaluate=evaluate, lr=0, seen=0)
    for step in spark.track(range(400)):
        print(json.dumps([step, state.lr]), flush=True)
        time.sleep(float(sys.argv[1]))
    """
    (tmp_path / "steered").mkdir()
    path = tmp_path / "the.jsonl"
    script = "project/train.py"
    with Supervised(
        tmp_path / "steered", code, str(tmp_path / "steered" / script), "0.002", options=("--journal", str(path))
    ) as training:
        run = training.run()
        training.says(3)
        call = run.request_call("evaluate", [200], wait=False)
        for lr in (1, 2):
            until(lambda: run.values["seen"].value > 20 * lr)  # noqa: B023
            run.set("lr", lr)
        until(lambda: run.values["seen"].value > 60)
        run.pause()
        run.set("lr", 3)
        run.resume()
        call.wait(30)
        run.set("lr", 4)
        expected = training.over()
    within = next(line[1] for line in expected if line[0] == "within")
    assert set(within) == {0, 1, 2, 3}
    (tmp_path / "again").mkdir()
    with Supervised(
        tmp_path / "again",
        code,
        str(tmp_path / "again" / script),
        "0.002",
        options=("--replay", str(path), "--journal", "off"),
    ) as training:
        assert training.over() == expected


def test_mail_without_sense_does_not_cost_the_journal(tmp_path: Path) -> None:
    with Child(tmp_path, INNER) as child:
        run = child.run()
        for kind, content in (
            (Kind.SET, {"name": 3, "value": 7}),
            (Kind.CALL, {"name": None, "args": []}),
            (Kind.SET, {"name": "seen", "value": 7, "args": []}),
            (Kind.CALL, {"name": "evaluate", "kwargs": {"batches": 3}}),
        ):
            assert send(run, kind, content).wait(30).final
        run.set("seen", 5)
        path = journal.of_folder(run.folder)
        assert path is not None
        found = journal.read(path)
        assert [line["payload"] for line in found.lines if "payload" in line] == [
            {"name": "seen", "value": 7, "args": []},
            {"name": "evaluate", "kwargs": {"batches": 3}},
            {"name": "seen", "value": 5},
        ]
        assert all(line.get("within") is None for line in Replay(found).due(1 << 60))


def test_more_than_the_log_holds_is_replayed_at_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "RATE", 1e6)  # what a sender may ask is not what this is about
    code = """
    import json, sys, time
    import spark_fast as spark
    seen = []
    state = spark.expose(lr=spark.value(0, on_set=seen.append))
    for step in spark.track(range(100)):
        if len(seen) > 190 and seen[-1] is not None:
            print(json.dumps([step, seen]), flush=True)
            seen.append(None)
        time.sleep(float(sys.argv[1]))
    """
    (tmp_path / "steered").mkdir()
    path = tmp_path / "the.jsonl"
    script = "project/train.py"
    with Supervised(
        tmp_path / "steered", code, str(tmp_path / "steered" / script), "0.01", options=("--journal", str(path))
    ) as training:
        run = training.run()
        run.pause()
        for lr in range(200):
            run.set("lr", lr, wait=lr % 50 == 0)
        run.resume()
        expected = training.over()
    assert expected[0][1] == list(range(200))
    (tmp_path / "again").mkdir()
    with Supervised(
        tmp_path / "again",
        code,
        str(tmp_path / "again" / script),
        "0.01",
        options=("--replay", str(path), "--journal", "off"),
    ) as training:
        assert training.over() == expected


INTERRUPTED = """
import time
import spark_fast as spark
from spark_fast.runfiles import mailbox
from spark_fast.worker.slow_path.dispatch import dispatcher

def interrupted(where, name):
    inner = getattr(where, name)
    def once(*args, **kwargs):
        setattr(where, name, inner)
        raise KeyboardInterrupt
    setattr(where, name, once)

def before():
    interrupted(dispatcher, "deliver")

def answering():
    interrupted(mailbox, "write_reply")

def within():
    raise KeyboardInterrupt

def within_setter(value):
    raise KeyboardInterrupt

state = spark.expose(
    before=before, answering=answering, within=within, lr=1, bad=spark.value(1, on_set=within_setter), caught=0
)
while True:
    try:
        spark.checkpoint()
        time.sleep(0.001)
    except KeyboardInterrupt:
        state.caught += 1
"""


def test_an_interrupt_at_any_moment_leaves_a_fate_and_a_run_that_goes_on(tmp_path: Path) -> None:
    with Child(tmp_path, INTERRUPTED) as child:
        run = child.run()
        run.call("before", spark_timeout=30)
        assert run.set("lr", 2, timeout=30).fate.state == "applied"
        assert (run.values["lr"].value, run.values["caught"].value) == (2, 1)
        assert outcome(run.request_call, "answering", timeout=30).fate.state == "failed"
        fate = outcome(run.request_call, "within", timeout=30).fate
        assert (fate.state, fate.reason) == ("failed", "it was left before it had ended")
        assert outcome(run.set, "bad", 2, timeout=30).fate.state == "failed"
        until(lambda: run.values["caught"].value == 4)
        assert run.values["bad"].value == 1
        step = run.step
        run.advance(20, timeout=30)
        assert step < run.step < step + 1000
        assert run.set("lr", 3, timeout=30).fate.state == "applied"
        run.resume(timeout=30)
        child.steps_on(run)


def test_a_signal_that_ends_the_process_does_so_while_a_function_runs(tmp_path: Path) -> None:
    code = """
    import signal, sys, time
    import spark_fast as spark
    def on_term(number, frame):
        sys.exit(5)
    signal.signal(signal.SIGTERM, on_term)
    def waits():
        state.waits = True
        time.sleep(60)
    state = spark.expose(call=waits, waits=False)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        call = run.request_call("call", wait=False)
        until(lambda: run.values["waits"].value)
        child.process.terminate()
        assert child.ended() == 5
        assert (call.wait(30).state, call.fate.reason) == ("failed", "it was left before it had ended")


def test_a_function_that_forks_returns_in_the_parent_alone(tmp_path: Path) -> None:
    code = """
    import os, time
    import spark_fast as spark
    main = os.getpid()
    def forks():
        return os.fork()
    state = spark.expose(forks=forks, name="x")
    while True:
        spark.checkpoint()
        if os.getpid() != main:
            state.name = "child"
            spark.checkpoint()
            os._exit(0)
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        pid = run.call("forks", spark_timeout=30)
        until(lambda: psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
        child.steps_on(run)
        path = journal.of_folder(run.folder)
        assert path is not None
        assert len([line for line in journal.read(path).lines if "returned" in line]) == 1
        assert run.values["name"].value == "x"
        assert "warning" not in child.err


def test_what_was_set_while_new_code_was_on_trial_stays_set_when_that_fails(tmp_path: Path) -> None:
    code = """
    import json, time
    from pathlib import Path
    import spark_fast as spark
    state = spark.expose(lr=0.1, kept=1)
    for step in spark.track(range(10**9), key="step"):
        print(json.dumps([step, state.lr, state.kept]), flush=True)
        time.sleep(0.002)
    """
    with Edited(tmp_path, code) as training:
        run = training.run()
        run.pause()
        training.edit("kept=1", "kept=5, fresh=1")
        training.edit("time.sleep(0.002)", "raise RuntimeError('new')")
        reload = run.reload(wait=False)
        setting = run.set("lr", 0.7, wait=False)
        run.resume(wait=False)
        assert reload.wait(30).state == "failed"
        assert setting.wait(30).state == "applied"
        until(lambda: list(run.values) == ["lr", "kept"])
        assert (run.values["lr"].value, run.values["kept"].value) == (0.7, 1)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("spark.value(1, min='0')", "TypeError: min is a number: '0'"),
        ("spark.value(1, max=True)", "TypeError: max is a number: True"),
        ("spark.value(1, unit=None)", "TypeError: unit and doc are texts: None, ''"),
        ("spark.value(1, doc=3)", "TypeError: unit and doc are texts: '', 3"),
    ],
)
def test_limits_that_nobody_could_read_are_refused_at_once(tmp_path: Path, line: str, error: str) -> None:
    with Child(tmp_path, f"import spark_fast as spark\nspark.expose(x={line})\n") as child:
        assert child.ended() == 1
        assert error in child.err


@pytest.mark.tier("test")  # needs NumPy
def test_limits_of_other_libraries_and_values_that_are_not_known_yet_are_taken(tmp_path: Path) -> None:
    code = """
    import math, time
    import numpy
    import spark_fast as spark
    spark.expose(
        best=spark.value(math.inf, min=0), lr=spark.value(0.5, max=numpy.float32(1), step=numpy.float64(0.1)),
        shape=spark.value((1, 2), choices=[(1, 2), (3, 4)], readonly=numpy.bool_(False)),
    )
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        values = run.values
        assert (values["best"].value, values["lr"].max, values["shape"].choices) == (
            float("inf"),
            1.0,
            [[1, 2], [3, 4]],
        )
        assert run.set("best", 0.5, timeout=30).fate.state == "applied"
        assert run.set("shape", [3, 4], timeout=30).fate.state == "applied"
        assert outcome(run.set, "lr", 2).fate.state == "refused"


def test_a_script_that_is_used_has_its_values_when_it_is_handed_out(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import time
        import spark_fast as spark
        from spark_fast.worker.state import registry as exposing
        describe = exposing.current._describe
        def slowly():
            time.sleep(1)
            describe()
        exposing.current._describe = slowly
        spark.expose(lr=0.5)
        while True:
            spark.checkpoint()
            time.sleep(0.001)
        """)
    )
    used = client.use(str(script), name="used", timeout=60)
    try:
        assert used.lr == 0.5
    finally:
        used.controller.stop()
        used.controller.wait("stopped", 30)


BESIDE = """
import threading, time
import spark_fast as spark
from pathlib import Path

gate = Path(__file__ + ".go")

def waits():
    while not gate.exists():
        time.sleep(0.001)

def quick():
    pass

def set_slow(value):
    waits()

state = spark.expose(
    waits=waits, quick=quick, lr=0.1, slow=spark.value(1, on_set=set_slow), guarded=spark.value(1, on_set=print),
)

def beside():
    while True:
        spark.checkpoint()
        time.sleep(0.001)

while not gate.exists():
    spark.checkpoint()
    if not threading.active_count() > 1:
        threading.Thread(target=beside, daemon=True).start()
    time.sleep(0.001)
threading.Event().wait()
"""
"""Two threads pass checkpoints: while one runs a function, the other goes on."""

WAIT = "code that was asked for before is still running in another thread"


@pytest.mark.parametrize("busy", ["waits", "slow"])
@pytest.mark.parametrize("behind", ["pause", "advance"])
@pytest.mark.parametrize(
    ("what", "state", "reason"),
    [
        ("lr", "applied", ""),
        ("guarded", "refused", f"its on_set would have to wait, because {WAIT}"),
        ("quick", "refused", None),
    ],
)
def test_what_waits_for_a_function_of_another_thread_holds_up_no_pause(
    tmp_path: Path, busy: str, behind: str, what: str, state: str, reason: str | None
) -> None:
    with Child(tmp_path, BESIDE) as child:
        run = child.run()
        first = run.set("slow", 2, wait=False) if busy == "slow" else run.request_call("waits", wait=False)
        until(lambda: first.fate.running or (busy == "slow" and run._connection.slots()[0]["applied"] > 0))
        between = run.request_call(what, wait=False) if what == "quick" else run.set(what, 3, wait=False)
        later = run.pause(timeout=DEADLINE) if behind == "pause" else run.advance(3, timeout=DEADLINE)
        assert later.fate.state == "applied"
        assert not first.fate.final
        assert between.fate.state == state
        if reason is None:
            reason = (
                "waits() is still running, and one function runs at a time"
                if busy == "waits"
                else f"it would have to wait, because {WAIT}"
            )
        assert between.fate.reason == reason
        assert run.values["lr"].value == (3.0 if what == "lr" else 0.1)
        child.go()
        assert first.wait(DEADLINE).state == "applied"
