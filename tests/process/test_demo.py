"""The demo, as its reader runs it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from spark_fast import client
from spark_fast.client import Run, SparkStatus
from tests.support.child import until

pytestmark = pytest.mark.process

DEADLINE = 90.0


def start(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "spark_fast", "demo", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def training() -> Run:
    """The run that the demo started, once it trains."""
    until(lambda: any(run.step > 2 for run in client.runs()), deadline=DEADLINE)
    (run,) = client.runs()
    return run


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, for the demos alone."""
    path = tmp_path / "scratch"
    path.mkdir()
    monkeypatch.setenv("TMPDIR", str(path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return path


def test_all_that_the_demo_promises_happens(scratch: Path) -> None:
    demo = start()
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0, story
    what = [word for line in story.splitlines() if (word := line.split()[2]) != "training"]
    steered = "start pause parked call advance resume refused set"
    assert what == f"{steered} edit refused edit reload stop loaded done".split(), story
    assert re.search(r"training +step \d+/\d+ +loss [\d.]+ +accuracy [\d.]+", story), "the training's own lines"
    assert re.search(r"call +evaluate\(\) where it is parked: [\d.]+% of test images", story)
    assert re.search(r"refused +lr=7: lr is at most 1, not 7\n.* set +lr=0\.1 since step \d+", story)
    assert re.search(r"refused +a SyntaxError: the old code goes on, at step \d+", story)
    assert re.search(r"reload +new code after .*, the same model and loop: [\d.]+%", story)
    parked, advanced = re.search(r"parked at step (\d+),", story), re.search(r"10 steps in .*step (\d+)", story)
    assert parked
    assert advanced
    assert int(advanced[1]) == int(parked[1]) + 10
    reads = re.search(r"reads ([\d.]+)% of test images", story)
    assert reads
    assert float(reads[1]) >= 90
    steering = [line for line in story.splitlines() if " training " not in line]
    assert max(map(len, steering)) <= 80
    (run,) = client.runs()
    assert run.status is SparkStatus.STOPPED
    assert not list(scratch.iterdir())


@pytest.mark.tier("all")
def test_the_demo_fails_if_its_training_dies() -> None:
    demo = start()
    os.kill(training().ranks[0].pid, signal.SIGKILL)
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 1, story
    assert "FAILED" in story
    assert "Traceback" not in story


@pytest.mark.tier("all")
def test_the_demo_fails_if_somebody_else_lets_the_training_go_on() -> None:
    demo = start()
    run = training()
    run.wait("paused", timeout=DEADLINE)
    run.resume(timeout=DEADLINE)
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 1, story
    assert "FAILED" in story
    until(lambda: not run.status.live)


@pytest.mark.tier("all")
def test_the_demo_fails_if_its_training_does_not_take_new_code() -> None:
    demo = start()
    run = training()
    # As on a disk that is full: what a reload brings can't be written.
    (run.folder / "code" / "versions").chmod(0o755)
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 1, story
    assert "FAILED" in story
    assert "Traceback" not in story
    until(lambda: not run.status.live)


@pytest.mark.tier("all")
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('spark.persist("model", lambda: new_model(rng))', "new_model(rng)", "the model stays"),
        ('key="batches"', 'key="others"', "the loop stays"),
    ],
    ids=["model", "loop"],
)
def test_the_demo_fails_if_its_training_begins_anew_with_the_new_code(
    old: str, new: str, said: str, scratch: Path
) -> None:
    demo = start()
    run = training()
    (script,) = scratch.glob("*/digits.py")
    source = script.read_text()
    assert old in source
    script.write_text(source.replace(old, new))  # part of what the demo's own edit brings
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 1, story
    assert "refused   a SyntaxError" in story  # the edit before it, which is taken back, does no harm
    assert f"FAILED    not so: {said}" in story
    until(lambda: not run.status.live)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_ends_its_training(number: signal.Signals, scratch: Path) -> None:
    demo = start()
    run = training()
    demo.send_signal(number)
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 128 + number, story
    assert "Traceback" not in story
    assert not run.status.live
    assert not list(scratch.iterdir())


def test_a_demo_ends_a_training_that_does_not_end_by_itself() -> None:
    demo = start()
    run = training()
    os.kill(run.ranks[0].pid, signal.SIGSTOP)
    demo.send_signal(signal.SIGTERM)
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 128 + signal.SIGTERM, story
    until(lambda: not run.status.live)


@pytest.mark.parametrize("words", [(), ("--hold",)], ids=["demo", "hold"])
def test_a_demo_whose_supervisor_is_killed_leaves_no_training_behind(words: tuple[str, ...]) -> None:
    demo = start(*words)
    run = training()
    worker = psutil.Process(run.ranks[0].pid)
    if words:
        run.pause(timeout=DEADLINE)  # it prints nothing any more, and so does not learn that nobody reads it
    os.kill(worker.ppid(), signal.SIGKILL)
    if words:
        demo.send_signal(signal.SIGTERM)
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == (128 + signal.SIGTERM if words else 1), story
    assert not re.search("^Traceback", story, re.MULTILINE), "but for what the training said"
    until(lambda: not worker.is_running())


def test_a_demo_that_is_killed_leaves_no_training_behind() -> None:
    demo = start()
    run = training()
    demo.kill()
    demo.communicate(timeout=DEADLINE)
    until(lambda: not run.status.live)


def test_without_its_libraries_the_demo_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['sklearn'] = None  # not to be found\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    demo = start()
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 1
    assert story.count("\n") == 1
    assert "the demo needs scikit-learn" in story and "-m pip install 'scikit-learn>=1.3'" in story
    assert not client.runs()


def test_a_held_demo_is_steered_by_hand_and_ends_with_its_training() -> None:
    demo = start("--hold")
    run = training()
    run.pause(timeout=DEADLINE)
    step = run.step
    assert demo.stdout is not None
    lines = []
    for line in demo.stdout:  # it looks at the run now and then, and may miss a pause that is over by then
        lines.append(line)
        if f"paused    at step {step}" in line:
            break
    run.advance(10, timeout=DEADLINE)
    assert run.step == step + 10
    run.stop(timeout=DEADLINE)
    story = "".join([*lines, *demo.stdout])
    assert demo.wait(DEADLINE) == 0, story
    demo.stdout.close()
    for command in ("ps", "status", "pause", "advance 10", "resume", "reload", "versions --diff", "stop"):
        assert f"spark-fast {command}" in story
    assert f"paused    at step {step}" in story
    assert "the saved model" in story


def test_ctrl_c_stops_a_held_demo() -> None:
    demo = start("--hold")
    run = training()
    demo.send_signal(signal.SIGINT)
    story, _ = demo.communicate(timeout=DEADLINE)
    assert demo.returncode == 0, story
    assert run.status is SparkStatus.STOPPED
    assert "the saved model" in story


def test_the_example_learns_without_anybody_steering_it(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "digits.py"
    saved = tmp_path / "model.npz"
    done = subprocess.run(
        [sys.executable, str(script), "--epochs", "10", "--save", str(saved)],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    assert saved.exists()
    last = re.findall(r"accuracy ([\d.]+)", done.stdout)[-1]
    assert float(last) > 0.85
