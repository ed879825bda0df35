"""An exception that would end the script pauses the worker instead, with everything in memory."""

import contextlib
import json
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.errors import SparkRequestError
from spark_fast.request import sender_name
from spark_fast.runfiles import journal, run_error
from spark_fast.worker.state import loops
from tests.process.test_cli import cli
from tests.support.child import Child, until
from tests.support.reloading import Edited

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]


def _with_note(error: Exception, note: str) -> Exception:
    error.add_note(note)
    return error


LATE = """
import json, time
import spark_fast as spark

model = spark.persist("model", lambda: {"w": 0})

def say(*words):
    print(json.dumps(words), flush=True)

def save():
    say("saved", model["w"])
    return model["w"]

calls = []

def finish(epoch):
    calls.append(epoch)
    return epoch

spark.expose(save=save)
for epoch in spark.track(range(40), key="epoch"):
    for batch in spark.track((number for number in range(5)), key="batch"):
        model["w"] += 1
        say(epoch, batch)
        time.sleep(0.002)
    say(epoch, "end", finish(epoch))
"""


LATER = "return epoch if len(calls) < 3 else unheard_of"
"""Fails long after the trial of this edit, wherever in an epoch that begins."""


def parked(training: Edited) -> client.Run:
    """The run, once it is paused after an error."""
    run = training.run()
    until(lambda: run.error is not None and run.status == "paused", training.err)
    return run


def break_late(training: Edited) -> client.Run:
    """Has the end of an epoch fail, long after the trial of that edit, and waits for the pause."""
    training.says(7)
    training.edit("return epoch", LATER)
    training.reloaded()
    return parked(training)


def items(said: list[list[object]]) -> list[tuple[object, object]]:
    """Epoch and batch of each line, without those of functions that were called."""
    return [(line[0], line[1]) for line in said if line[0] != "saved"]


def everything(epochs: int) -> list[tuple[object, object]]:
    return [(epoch, batch) for epoch in range(epochs) for batch in [0, 1, 2, 3, 4, "end"]]


# --- it is parked, and says why ---


def test_a_late_error_of_new_code_pauses_the_run_and_says_why(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE) as training:
        run = break_late(training)
        assert run.error is not None
        assert run.error.type == "NameError"
        assert run.error.message == "NameError: name 'unheard_of' is not defined"
        assert 'train.py", line 17, in finish' in run.error.traceback
        assert run.error.step == run.step - 1
        assert run.as_dict()["error"]["message"] == run.error.message
        assert "paused after an error, with everything in memory: NameError" in training.err
        assert run.requests[-1].sender.startswith("an error: NameError: name 'unheard_of'")


def test_the_journal_has_the_error_with_its_traceback(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE, SPARK_FAST_JOURNAL=str(tmp_path / "journal.jsonl")) as training:
        break_late(training)
        until(lambda: any("error" in line for line in journal.read(tmp_path / "journal.jsonl").lines))
        found = next(line for line in journal.read(tmp_path / "journal.jsonl").lines if "error" in line)
        assert found["error"] == "NameError: name 'unheard_of' is not defined"
        assert "in finish" in found["traceback"]


def test_the_first_error_of_a_run_that_nothing_was_asked_of_is_in_its_journal(tmp_path: Path) -> None:
    env = {"SPARK_FAST_JOURNAL": str(tmp_path / "journal.jsonl"), "SPARK_FAST_ON_ERROR": "park"}
    with Edited(tmp_path, LATE.replace("return epoch", "return unheard_of"), **env) as training:
        parked(training)
        found = [line for line in journal.read(tmp_path / "journal.jsonl").lines if "error" in line]
        assert [line["error"] for line in found] == ["NameError: name 'unheard_of' is not defined"]


# --- what can be done then ---


def test_mended_code_goes_on_with_the_same_model_and_loses_no_item(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE) as training:
        run = break_late(training)
        training.edit(LATER, "return epoch + 1000")
        training.reloaded()
        assert run.error is None
        training.edit("range(40)", "range(40)  # so that the next version differs")
        said = training.over()
        assert items(said) == everything(40)
        assert said[-1] == [39, "end", 1039]


def test_an_inner_loop_that_had_ended_keeps_its_sums_and_its_count(tmp_path: Path) -> None:
    code = """
    import json
    import spark_fast as spark

    for epoch in spark.track(range(3), key="epoch"):
        loop = spark.track(range(5), key="batch")
        for batch in loop:
            loop.kept["sum"] = loop.kept.get("sum", 0) + batch
        again = spark.track(range(epoch), key="batch")
        for batch in again:
            again.kept["seen"] = batch
        print(json.dumps([epoch, loop.kept["sum"], loop.done, loop.index, again.kept, again.done]), flush=True)
        assert epoch != 1
    """
    with Edited(tmp_path, code, SPARK_FAST_ON_ERROR="park") as training:
        parked(training)
        training.edit("    assert epoch != 1\n", "")
        training.reloaded()
        said = training.over()
        assert said[1] == said[2] == [1, 10, 5, 4, {"seen": 0}, 1]
        assert said[3] == [2, 10, 5, 4, {"seen": 1}, 2]


def test_an_older_version_goes_on(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE) as training:
        break_late(training)
        training.reloaded(to=1)
        assert items(training.over()) == everything(40)


def test_a_resume_runs_the_same_code_again_from_its_places(tmp_path: Path) -> None:
    code = LATE.replace("return epoch", 'return open(f"{__file__}.{epoch}").read() if epoch == 3 else epoch')
    with Edited(tmp_path, code, SPARK_FAST_ON_ERROR="park") as training:
        run = parked(training)
        assert run.error is not None and run.error.type == "FileNotFoundError" and run.error.can_resume
        run.resume(wait=False)
        until(lambda: len([each for each in run.requests if each.kind == "pause"]) == 2, training.err)
        (training.project / "train.py.3").write_text("there")
        parked(training)
        run.resume(wait=False)
        assert items(training.over()) == everything(40)
        assert run.error is None


def test_the_body_that_failed_is_run_once_more_for_its_item(tmp_path: Path) -> None:
    code = LATE.replace("time.sleep(0.002)", 'time.sleep(0.002 if (epoch, batch) != (2, 3) else "no number")')
    with Edited(tmp_path, code, SPARK_FAST_ON_ERROR="park") as training:
        parked(training)
        training.edit('"no number"', "0")
        training.reloaded()
        said = items(training.over())
        assert said.count((2, 3)) == 2
        said.remove((2, 3))
        assert said == everything(40)


def test_an_exposed_function_can_save_while_the_run_is_paused(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE) as training:
        run = break_late(training)
        weights = run.call("save", spark_timeout=30)
        assert weights % 5 == 0
        assert ["saved", weights] in training.said
        assert run.status == "paused"


def test_loops_of_a_called_function_do_not_touch_the_places_of_the_script(tmp_path: Path) -> None:
    code = LATE.replace(
        'say("saved", model["w"])',
        'say("saved", len([*spark.track(range(3), key="batch")]), len([*spark.track("ab", key="epoch")]))',
    )
    with Edited(tmp_path, code) as training:
        run = break_late(training)
        run.call("save", spark_timeout=30)
        assert training.said[-1] == ["saved", 3, 2]
        training.edit(LATER, "return epoch")
        training.reloaded()
        assert items(training.over()) == everything(40)


def test_code_that_does_not_mend_it_leaves_the_run_paused(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE) as training:
        run = break_late(training)
        training.edit("for batch in", "1 / 0\n    for batch in")
        fate = training.reload().fate
        assert fate.state == "failed"
        assert "the run stays paused after its error" in fate.reason
        assert parked(training).error.message == "NameError: name 'unheard_of' is not defined"  # type: ignore[union-attr]
        training.edit("1 / 0\n    for batch in", "for batch in")
        training.edit(LATER, "return epoch")
        training.reloaded()
        assert run.error is None
        assert items(training.over()) == everything(40)


# --- a stop reaches code that saves ---


def test_a_stop_runs_the_on_stop_functions_and_ends_as_the_error_would_have(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE.replace("spark.expose(save=save)", "spark.on_stop(save)")) as training:
        run = break_late(training)
        run.stop(timeout=30)
        said = training.over(1)
        assert said[-1][0] == "saved"
        assert [line[0] for line in said].count("saved") == 1
        assert run.status == "failed"
        assert run.error is not None and run.error.type == "NameError"
        assert training.err.rstrip().endswith("NameError: name 'unheard_of' is not defined")


def test_the_command_line_names_the_error_and_the_commands_that_help(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE) as training:
        break_late(training)
        shown = cli("status", "test").stdout.splitlines()
        remedies = [line for line in shown if line.startswith("  spark-fast ")]
        assert [line.split()[1] for line in remedies] == ["reload", "call", "resume", "stop"]
        assert all(line in training.err.splitlines() for line in remedies)
        assert len({re.search(r"\S {2,}\S", line).end() for line in remedies}) == 1, "columns"  # type: ignore[union-attr]
        done = cli("stop", "test")
        assert done.returncode == 1
        assert (
            "run test has failed: NameError: name 'unheard_of' is not defined; 'spark-fast status test'" in done.stderr
        )
        assert cli("status", "test").stdout.startswith("test has failed at step ")
        assert "version 1: start, " in (diff := cli("versions", "test", "--diff").stdout)
        assert f"by {sender_name().rpartition(' ')[0]} {training.process.pid}\n" in diff


def test_ctrl_c_runs_the_on_stop_functions(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE.replace("spark.expose(save=save)", "spark.on_stop(save)")) as training:
        break_late(training)
        training.process.send_signal(signal.SIGINT)
        assert training.over(1)[-1][0] == "saved"


def test_a_time_limit_stops_the_run(tmp_path: Path) -> None:
    code = LATE.replace("spark.expose(save=save)", "spark.on_stop(save)")
    with Edited(tmp_path, code, SPARK_FAST_ERROR_TIMEOUT="300ms") as training:
        training.says(7)
        training.edit("return epoch", LATER)
        training.reloaded()
        assert training.over(1)[-1][0] == "saved"
        assert client.attach("test").status == "failed"


def test_status_says_that_a_time_limit_stops_the_run_and_that_a_timed_pause_lets_it_go_on(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE, SPARK_FAST_ERROR_TIMEOUT="1h") as training:
        break_late(training)
        shown = cli("status", "test").stdout
        assert "stops    by itself in 59m" in shown
        assert "goes on" not in shown
        assert cli("pause", "test", "--resume-after", "1h").returncode == 0
        shown = cli("status", "test").stdout
        assert "goes on  by itself in 59m" in shown
        assert "stops " not in shown


SPARK_RUN = """
import json
import spark_fast as spark

model = {"w": 0}

def finish(epoch):
    return epoch

def main():
    for epoch in spark.track(range(10**6), key="epoch"):
        model["w"] += 1
        print(json.dumps([epoch, finish(epoch) if epoch % 100 == 99 else 0]), flush=True)

try:
    spark.run(main)
except spark.SparkStopError as stop:
    print(json.dumps(["handler", model["w"], type(stop.__cause__).__name__]), flush=True)
"""


def test_a_stop_raises_in_the_handler_around_spark_run(tmp_path: Path) -> None:
    code = SPARK_RUN.replace("return epoch", "return unheard_of")
    with Child(tmp_path / "plain", code, SPARK_FAST_ON_ERROR="park") as child:
        run = child.run()
        until(lambda: run.status == "paused" and run.error is not None, child.err)
        run.stop(timeout=30)
        assert child.ended() == 0, child.err
        assert json.loads(child.out.splitlines()[-1])[0::2] == ["handler", "NameError"]


STOPPED = """
import spark_fast as spark

@spark.on_stop
def save():
    print("saved", flush=True)

@spark.on_stop
def also():
    for _ in spark.track(range(2)):
        print("also", flush=True)

for _ in spark.track(range(10**9)):
    pass
"""


@pytest.mark.parametrize("plain", [True, False])
def test_on_stop_runs_once_when_a_stop_leaves_the_script(tmp_path: Path, plain: bool) -> None:
    child = Child(tmp_path, STOPPED) if plain else Edited(tmp_path, STOPPED)
    with child:
        run = child.run()
        run.stop(timeout=30)
        assert child.ended() == (1 if plain else 0), child.err
        assert child.out.splitlines() == ["saved", "also", "also"]
        assert run.status == "stopped"


IN_THREADS = STOPPED.replace(
    """for _ in spark.track(range(10**9)):
    pass
""",
    """import sys, threading
def train():
    for _ in spark.track(range(10**9)):
        pass
threads = [threading.Thread(target=train, daemon="daemon" in sys.argv) for _ in range(2)]
for thread in threads:
    thread.start()
if "ends" not in sys.argv:
    for thread in threads:
        thread.join()
""",
)
"""Trains in threads, which the script waits for, or the interpreter."""


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("how", ["joins", "daemon", "ends"])
def test_on_stop_runs_when_a_stop_leaves_threads_and_the_script_ends(tmp_path: Path, how: str, plain: bool) -> None:
    child = (
        Child(tmp_path, IN_THREADS, how)
        if plain
        else Edited(tmp_path, IN_THREADS, str(tmp_path / "project" / "train.py"), how)
    )
    with child:
        run = child.run()
        run.stop(timeout=30)
        assert child.ended() == 0, child.err
        assert child.out.splitlines() == ["saved", "also", "also"]
        assert run.status == "stopped"
        assert "Traceback" not in child.err
        assert child.err.count("stopped at step") == 1


@pytest.mark.parametrize("how", ["joins", "ends"])
def test_an_on_stop_function_that_raises_after_threads_were_stopped_fails_the_run(tmp_path: Path, how: str) -> None:
    code = IN_THREADS.replace('print("saved", flush=True)', "1 / 0")
    with Edited(tmp_path, code, str(tmp_path / "project" / "train.py"), how) as training:
        run = training.run()
        run.stop(timeout=30)
        # Of threads that outlive the script: 1 only if the stop came before its last line had run.
        assert training.ended() in ((1,) if how == "joins" else (0, 1))
        assert training.out.splitlines() == ["also", "also"]
        assert run.status == "failed"


def test_an_error_of_a_thread_is_printed_as_ever(tmp_path: Path) -> None:
    code = """
    import threading
    import spark_fast as spark
    def train():
        spark.checkpoint()
        1 / 0
    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0
        assert "Exception in thread" in child.err
        assert "ZeroDivisionError" in child.err


def test_an_on_stop_function_that_raises_is_told_and_the_others_run(tmp_path: Path) -> None:
    with Edited(tmp_path, STOPPED.replace('print("saved", flush=True)', "1 / 0")) as training:
        run = training.run()
        run.stop(timeout=30)
        assert training.ended() == 1
        assert "the on_stop function save raised" in training.err
        assert training.out.splitlines() == ["also", "also"]
        assert run.status == "failed"


# --- when an error ends the process ---


def test_a_plain_job_ends_with_its_own_exit_status_and_says_why_it_failed(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE.replace("return epoch", "return unheard_of")) as training:
        training.over(1)
        run = client.attach("test")
        assert run.status == "failed"
        assert run.error is not None and run.error.message == "NameError: name 'unheard_of' is not defined"


def test_a_script_without_the_runner_says_why_it_failed(tmp_path: Path) -> None:
    with Child(tmp_path, LATE.replace("return epoch", "return unheard_of")) as child:
        assert child.ended() == 1
        run = client.attach("test")
        assert run.status == "failed"
        assert run.error is not None and "NameError: name 'unheard_of' is not defined" in run.error.traceback


@pytest.mark.unit
@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("CUDA error: assert\nCompile with TORCH_USE_CUDA_DSA"), "RuntimeError: CUDA error: assert"),
        (_with_note(ValueError("broken"), "in batch 7"), "ValueError: broken"),
        (SyntaxError("invalid syntax", ("train.py", 1, 3, "x = =", 1, 4)), "SyntaxError: invalid syntax"),
        (client.SparkTimeoutError("too late\nby far"), "spark_fast.errors.SparkTimeoutError: too late"),
        (KeyError("loss"), "KeyError: 'loss'"),
        (ExceptionGroup("two", [ValueError("a"), ValueError("b")]), "ExceptionGroup: two (2 sub-exceptions)"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_the_message_of_an_error_is_its_class_and_the_first_line_of_what_it_says(
    error: Exception, message: str
) -> None:
    assert run_error.describe(error, "", step=0, rank=0, time=0.0, can_resume=False).message == message


def test_an_exit_status_is_kept_as_the_reason(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE.replace("return epoch", "raise SystemExit(7)"), SPARK_FAST_ON_ERROR="park") as training:
        training.over(7)
        error = client.attach("test").error
        assert error is not None and error.message == "SystemExit: 7"


def test_exit_can_be_chosen_for_the_time_after_a_reload(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE, SPARK_FAST_ON_ERROR="exit") as training:
        training.says(7)
        training.edit("return epoch", LATER)
        training.reloaded()
        training.over(1)
        assert client.attach("test").status == "failed"


def test_a_run_that_has_nothing_to_go_on_with_is_not_resumed_into_a_new_training(tmp_path: Path) -> None:
    code = """
        import json
        import spark_fast as spark
        for number in spark.track(range(100)):
            print(json.dumps(number), flush=True)
            if number == 5:
                raise ValueError("five")
        """
    with Edited(tmp_path, code, SPARK_FAST_ON_ERROR="park") as training:
        run = parked(training)
        assert run.error is not None and not run.error.can_resume
        for ask in (run.resume, lambda: run.advance(3)):
            with pytest.raises(SparkRequestError, match=r"was refused: it is paused after an error, none of its loops"):
                ask()
        assert run.resume(wait=False).fate.state == "refused"
        done = cli("resume", "test")
        assert done.returncode == 1
        assert "its code would start the training over. Stop it, or mend the code" in done.stderr
        parked(training)
        assert training.said == [0, 1, 2, 3, 4, 5]
        run.stop(timeout=30)
        training.over(1)


def test_a_run_whose_control_is_lost_saves_and_ends_with_its_error(tmp_path: Path) -> None:
    with Edited(
        tmp_path, LATE.replace("spark.expose(save=save)", "spark.on_stop(save)"), SPARK_FAST_ON_ERROR="park"
    ) as training:
        training.says(7)
        training.edit("return epoch", LATER)
        training.reloaded()
        run = parked(training)
        (run.folder / "control").unlink()
        assert training.over(1)[-1][0] == "saved"
        assert training.err.rstrip().endswith("NameError: name 'unheard_of' is not defined")


def test_a_run_that_is_killed_while_it_is_paused_still_says_why(tmp_path: Path) -> None:
    with Edited(tmp_path, LATE) as training:
        run = break_late(training)
        training.process.kill()
        training.process.wait()
        assert run.status == "lost"
        assert run.error is not None and run.error.type == "NameError"


def test_a_replay_pauses_after_the_error_and_mends_it(tmp_path: Path) -> None:
    place = tmp_path / "journal.jsonl"
    code = LATE.replace("return epoch", "return unheard_of if epoch == 2 else epoch")
    with Edited(tmp_path, code, SPARK_FAST_JOURNAL=str(place), SPARK_FAST_ON_ERROR="park") as training:
        parked(training)
        training.edit("return unheard_of if epoch == 2 else epoch", "return epoch")
        training.reloaded()
        said = training.over()
    (tmp_path / "again").mkdir()
    with Edited(tmp_path / "again", code, SPARK_FAST_RUNNER=json.dumps({"replay": str(place)})) as again:
        assert again.over() == said


# --- where neither new nor old code can go on ---


def test_a_module_that_can_be_executed_only_once_is_put_back_as_it_was(tmp_path: Path) -> None:
    helper = (
        "import os\nTAG = 'old'\n"
        "if 'SEEN' in os.environ:\n    raise RuntimeError('only once')\nos.environ['SEEN'] = '1'\n"
    )
    code = LATE.replace("import json, time", "import json, time, helper")
    with Edited(tmp_path, code, modules={"helper.py": helper}) as training:
        training.says(7)
        training.edit("'old'", "'new'", "helper.py")
        assert training.reload().fate.state == "failed"
        # The old module was put back as it was, so the old code runs on.
        client.attach("test").wait("running", timeout=30)
        training.edit("if 'SEEN' in os.environ:\n    raise RuntimeError('only once')\n", "", "helper.py")
        training.reloaded()
        assert items(training.over()) == everything(40)


def test_undoing_that_fails_leaves_the_run_paused(tmp_path: Path) -> None:
    code = (
        LATE
        + """
"""
    )
    broken = """
import spark_fast.worker.reload.transaction as transaction
def undo(self):
    raise OSError("undo")
transaction.Transaction.undo = undo
raise ValueError("new code")
"""
    with Edited(tmp_path, code) as training:
        training.says(7)
        training.edit("def finish", broken + "\ndef finish")
        fate = training.reload().fate
        assert fate.state == "failed"
        assert "could not be taken back whole" in fate.reason
        run = parked(training)
        assert run.error is not None and run.error.message == "OSError: undo"
        assert run.call("save", spark_timeout=30) > 0


# --- the places of loops that an exception unwinds ---


def unwind(error: type[BaseException]) -> None:
    for _ in places_of("outer"):
        for _ in places_of("inner"):
            raise error("x")


def places_of(key: str) -> object:
    import spark_fast as spark

    return spark.track(range(3), key=key)


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch) -> "list[bool]":
    """Has loops of this thread wait for what an exception comes to; what was said of that."""
    monkeypatch.setenv("SPARK_FAST", "0")
    said: list[bool] = []
    loops.keep_after_errors(said.append)
    yield said  # type: ignore[misc]
    loops.keep_after_errors(None)


@pytest.mark.unit
def test_loops_wait_for_what_becomes_of_their_exception(keeping: list[bool]) -> None:
    with pytest.raises(ValueError, match="x"):
        unwind(ValueError)
    assert loops.kept() == ["inner", "outer"]
    assert keeping[-1] is True
    loops.forget_unwound()  # nothing handles the exception any more
    assert loops.kept() == []
    assert keeping[-1] is False


@pytest.mark.unit
def test_loops_wait_while_a_handler_runs(keeping: list[bool]) -> None:
    try:
        unwind(ValueError)
    except ValueError:
        loops.forget_unwound()
        assert loops.kept() == ["inner", "outer"]
    loops.forget_unwound()
    assert loops.kept() == []


@pytest.mark.unit
def test_an_error_in_a_handler_ends_the_script_with_the_loops_of_the_first(keeping: list[bool]) -> None:
    try:
        try:
            unwind(ValueError)
        except ValueError:
            raise KeyError("y") from None
    except KeyError as error:
        aside = loops.set_aside(threading.get_ident(), error)
    assert sorted(place.key for place in aside) == ["inner", "outer"]
    assert loops.kept() == []


@pytest.mark.unit
def test_loops_of_an_exception_that_was_caught_are_not_kept_for_a_later_one(keeping: list[bool]) -> None:
    with contextlib.suppress(ValueError):
        unwind(ValueError)
    try:
        raise ValueError("another")
    except ValueError as error:
        aside = loops.set_aside(threading.get_ident(), error)
    assert aside == []
    assert loops.kept() == []


@pytest.mark.unit
def test_a_handler_that_begins_the_loop_again_begins_it_anew(keeping: list[bool]) -> None:
    try:
        unwind(ValueError)
    except ValueError:
        assert list(places_of("inner")) == [0, 1, 2]  # type: ignore[call-overload]


@pytest.mark.unit
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_keeps_no_place(keeping: list[bool], error: type[BaseException]) -> None:
    with pytest.raises(error):
        unwind(error)
    assert loops.kept() == []


@pytest.mark.unit
def test_break_and_return_keep_no_place(keeping: list[bool]) -> None:
    for _ in places_of("outer"):
        for _ in places_of("inner"):
            break
        assert loops.kept() == ["outer"]
        break
    assert loops.kept() == []


def raising(key: str) -> None:
    """Goes through a loop whose iterator is a generator that raises."""
    import spark_fast as spark

    def numbers() -> Iterator[int]:
        yield 0
        raise ValueError("in the iterator")

    for _ in spark.track(numbers(), key=key):
        pass


@pytest.mark.unit
def test_a_generator_that_raised_is_begun_anew(keeping: list[bool]) -> None:
    try:
        raising("numbers")
    except ValueError as error:
        aside = loops.set_aside(threading.get_ident(), error)
    assert [place.key for place in aside] == ["numbers"]
    assert loops.begin_anew(aside, new_code=False) == ["numbers"]
    loops.bring_back(aside)
    loops.unwind(threading.get_ident())
    loops.abandon(threading.get_ident())
    try:
        assert list(places_of("numbers")) == [0, 1, 2]
    finally:
        loops.settle()


GENERATOR = """
import json, time
import spark_fast as spark
model = spark.persist("model", dict)
def numbers():
    for number in range(10):
        if number == 5 and not open(__file__ + ".go", "a+").seek(0, 2):
            raise OSError("the file server is gone")
        yield number
for epoch in spark.track(range(2), key="epoch"):
    for number in spark.track(numbers(), key="number"):
        print(json.dumps([epoch, number]), flush=True)
"""


def test_a_loop_over_a_generator_that_raised_begins_anew_and_that_is_said(tmp_path: Path) -> None:
    with Edited(tmp_path, GENERATOR, SPARK_FAST_ON_ERROR="park") as training:
        run = parked(training)
        (training.project / "train.py.go").write_text("it is back")
        run.resume(wait=False)
        said = training.over()
        assert said == [[0, number] for number in (0, 1, 2, 3, 4, *range(10))] + [[1, number] for number in range(10)]
        assert "the loop with the key 'number' begins at its first item again" in training.err


LOADER = """
import json, time, torch
import spark_fast as spark
import data
model = spark.persist("model", dict)
def main():
    loader = torch.utils.data.DataLoader(data.Numbers(), batch_size=2, num_workers=1)
    for epoch in spark.track(range(2), key="epoch"):
        for batch in spark.track(loader, key="batch"):
            print(json.dumps([epoch, batch.tolist()]), flush=True)
            time.sleep(0.01)
main()
"""
DATA = """
import torch
class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 20
    def __getitem__(self, index):
        return torch.tensor(index if index < 14 else unheard_of)
"""


@pytest.mark.tier("test")
def test_the_worker_processes_of_a_loader_that_raised_are_replaced_by_those_of_mended_code(tmp_path: Path) -> None:
    with Edited(tmp_path, LOADER, modules={"data.py": DATA}, SPARK_FAST_ON_ERROR="park") as training:
        parked(training)
        training.edit("unheard_of", "index", "data.py")
        request = training.reloaded()
        assert any(
            "the loop with the key 'batch' begins at its first item again" in each for each in request.fate.warnings
        )
        said = training.over()
        assert {tuple(batch) for epoch, batch in said if epoch == 0} == {(at, at + 1) for at in range(0, 20, 2)}
        assert [batch for epoch, batch in said if epoch == 1] == [[at, at + 1] for at in range(0, 20, 2)]
