"""The journal of what was applied, and the same applied again."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_fast import client
from spark_fast.cli import journals
from spark_fast.errors import JournalError, ReplayRefusedError
from spark_fast.runfiles import journal
from spark_fast.worker.journal.replay import Replay
from tests.support.child import DEADLINE, LOOP, Child, until
from tests.support.reloading import Edited

pytestmark = pytest.mark.process


def cli(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "spark_fast", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=os.environ | {"COLUMNS": "200"},
    )


def written() -> journal.Journal:
    """The only journal that there is."""
    (path,) = journal.folder().glob("*.jsonl")
    return journal.read(path)


# --- what stands in it ---


def test_each_applied_request_stands_there_with_step_sender_and_arguments(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        requests = [
            run.pause(timeout=10),
            run.advance(5, timeout=10),
            run.resume(timeout=10),
            run.pause(at_step=run.step + 50, resume_after=0.05, timeout=10),
        ]
        until(lambda: run.status == "running")
        requests.append(run.stop(timeout=10))
        child.ended()
        found = written()
        lines = found.requests
        assert [line["kind"] for line in lines] == ["pause", "advance", "resume", "pause", "resume", "stop"]
        del lines[4]  # of the pause's own timer
        assert [line["id"] for line in lines] == [request.id for request in requests]
        assert {line["sender"] for line in lines} == {requests[0].sender}
        parked = requests[0].fate.step
        assert [line["step"] for line in lines[:3]] == [parked, parked, parked + 5 if parked else None]
        assert (lines[1]["arg"], lines[3]["duration"]) == (5, 0.05)
        assert found.header["run"] == "test"
        assert found.header["command"] == run.command
        assert found.lines[-1]["end"] == "stopped"
        assert found.lines[-1]["step"] == run.step
        assert stat_mode(found.path) == 0o600 and stat_mode(found.path.parent) == 0o700


def stat_mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_run_that_nobody_asked_for_anything_leaves_no_journal(tmp_path: Path) -> None:
    with Child(tmp_path, "import spark_fast as spark\nfor _ in spark.track(range(9)): pass\n") as child:
        assert child.ended() == 0
    assert not list(tmp_path.rglob("*.jsonl"))
    done = cli("journal", "test")
    assert done.returncode == 0
    assert "nothing was asked of the run" in done.stderr


@pytest.mark.parametrize("kind", ["pause", "resume", "stop"])
def test_what_was_applied_stands_there_when_the_worker_is_killed_the_next_moment(tmp_path: Path, kind: str) -> None:
    code = """
    import time
    import spark_fast as spark
    try:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    except spark.SparkStopError:
        time.sleep(600)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        if kind == "resume":
            run.pause(timeout=10)
        request = getattr(run, kind)(timeout=10)
        os.kill(child.pid, signal.SIGKILL)
        assert written().requests[-1]["id"] == request.id


def test_a_journal_can_be_put_elsewhere_or_turned_off(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    with Child(tmp_path, SPARK_FAST_JOURNAL=str(path)) as child:
        child.run().pause(timeout=10)
        assert [line["kind"] for line in journal.read(path).requests] == ["pause"]
        child.process.kill()
    with Child(tmp_path, SPARK_FAST_JOURNAL="off") as child:
        child.run().pause(timeout=10)
    assert not journal.folder().exists()


def test_a_journal_that_was_asked_for_by_name_is_there_from_the_start_and_empty_until_something_is_asked(
    tmp_path: Path,
) -> None:
    path = tmp_path / "mine.jsonl"
    with Child(tmp_path, SPARK_FAST_JOURNAL=str(path)) as child:
        run = child.run()
        assert (path.read_bytes(), stat_mode(path)) == (b"", 0o600)
        done = cli("journal", "test")
        assert (done.returncode, "nothing was asked of the run" in done.stderr) == (0, True)
        run.pause(timeout=10)
        assert [line["kind"] for line in journal.read(path).requests] == ["pause"]


def test_a_journal_that_cannot_be_written_is_one_warning_and_the_requests_are_applied(tmp_path: Path) -> None:
    with Child(tmp_path, SPARK_FAST_JOURNAL=str(tmp_path / "no" / "journal")) as child:
        run = child.run()
        run.pause(timeout=10)
        run.resume(timeout=10)
        run.pause(timeout=10)
        assert child.err.count("no journal is kept: ") == 1
        assert "No such file or directory" in child.err
        assert run.status == "paused"


def test_of_runs_that_share_a_file_the_last_one_is_read_also_after_one_that_was_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(HEAD + LINE + LINE[:50])
    with Child(tmp_path, SPARK_FAST_JOURNAL=str(path)) as child:
        stop = child.run().stop(timeout=10)
        child.ended()
    found = journal.read(path)
    assert (found.header["run"], [line["id"] for line in found.requests]) == ("test", [stop.id])
    assert path.read_bytes().startswith(HEAD + LINE + LINE[:50] + b"\n")


@pytest.mark.parametrize("what", ["script", "link", "pipe"])
def test_what_is_there_and_is_no_journal_is_left_alone(tmp_path: Path, what: str) -> None:
    path, script = tmp_path / what, tmp_path / "train.py"
    script.write_text("print('mine')\n")
    if what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(script) if what == "link" else script.rename(path)
    with Child(tmp_path, SPARK_FAST_JOURNAL=str(path)) as child:
        child.run().pause(timeout=10)
        assert child.err.count("no journal is kept: ") == 1
    if what != "pipe":
        assert path.read_text() == "print('mine')\n"


def test_a_folder_of_journals_that_others_may_enter_is_refused(tmp_path: Path) -> None:
    journal.folder().mkdir(parents=True)
    journal.folder().chmod(0o770)
    with Child(tmp_path) as child:
        child.run().pause(timeout=10)
        assert "no journal is kept: refused" in child.err
    assert not os.listdir(journal.folder())


def test_a_request_before_the_script_is_found_stands_in_the_same_journal(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text(
        """
import spark_fast as spark
from pathlib import Path
while not Path(__file__ + ".go").exists():
    spark.checkpoint()
"""
    )
    (tmp_path / "package" / "script.py").write_text("print('begun', flush=True)\n" + LOOP)
    words = ("-m", "spark_fast.worker", "run", "-m", "package.script")
    with Child(tmp_path, "", *words, cwd=tmp_path) as child:
        run = child.run()
        run.pause(timeout=10)
        run.resume(timeout=10)
        (tmp_path / "package" / "__init__.py.go").touch()
        until(lambda: child.out, child.err)
        run.stop(timeout=10)
        child.ended()
    path = written().path
    assert path.read_text().count('"journal"') == 1
    assert [line["kind"] for line in written().requests] == ["pause", "resume", "stop"]


def test_a_line_that_finds_no_room_leaves_nothing_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "full.jsonl"
    path.write_bytes(HEAD)
    code = f"""
    import resource
    from spark_fast.runfiles import journal
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({len(HEAD) + 10}, before[1]))
    try:
        journal.append({str(path)!r}, {{"failed": "0", "reason": "more than there is room for"}})
    except OSError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        print(error)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert "no room for a line" in child.out
    assert path.read_bytes() == HEAD


def test_the_command_shows_it_of_live_ended_and_removed_runs_and_of_files(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        run.pause(resume_after=3600.25, timeout=10)
        run.advance(3, timeout=10)
        shown = cli("journal")
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.splitlines()[0].startswith("run test: ")
        assert "pause for 1h00m00.25s " in shown.stdout
        assert "advance 3" in shown.stdout
        found = json.loads(cli("journal", "--json").stdout)
        assert [line.get("kind") for line in found] == [None, "pause", "advance"]
        child.process.kill()
    until(lambda: not run.status.live)
    assert cli("journal", "test").stdout.splitlines()[1:] == shown.stdout.splitlines()[1:]
    client.remove_ended()
    assert cli("journal", "test").stdout.splitlines()[1:] == shown.stdout.splitlines()[1:]
    assert cli("journal", str(written().path)).returncode == 0
    assert cli("journal", "other").returncode == 3


# --- damaged files ---


HEAD = b'{"journal": 1, "run": "x", "command": ["a.py"], "entry": null}\n'
LINE = (
    b'{"rank": 0, "step": 1, "time": 1.5, "kind": "pause", "id": "0", "sender": "", "arg": 0, '
    b'"duration": 0.0, "mail": ""}\n'
)


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    for cut in range(1, len(LINE)):
        path.write_bytes(HEAD + LINE + LINE[:cut])
        found = journal.read(path)
        assert (len(found.requests), found.torn) == (1, True)
    done = cli("journal", str(path))
    assert done.returncode == 0
    assert "the last line is not whole" in done.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (HEAD[:-1], "its first line is not whole"),
        (b"{}\n", "line 1: it is no journal"),
        (HEAD.replace(b": 1", b": 2"), "it is of version 2, spark_fast 0.1.0 reads version 1"),
        (HEAD + b"noise\n" + LINE, "line 2 is damaged"),
        (HEAD + LINE + LINE.replace(b"pause", b"launch"), "line 3 is damaged"),
        (HEAD + LINE.replace(b'"step": 1', b'"step": -1'), "line 2 is damaged"),
        (HEAD + LINE.replace(b'"step": 1', b'"step": true'), "line 2 is damaged"),
        (HEAD.replace(b'["a.py"]', b'"a.py"'), "line 1 is damaged"),
        (HEAD.replace(b'"a.py"', b"1"), "line 1 is damaged"),
        (HEAD.replace(b"null", b'{"path": "/a.py"}'), "line 1 is damaged"),
        (HEAD + b'{"end": "stopped", "step": 1, "time": "now"}\n', "line 2 is damaged"),
        (HEAD + b'{"end": "stopped", "step": 1.5, "time": 1}\n', "line 2 is damaged"),
        (HEAD + b'{"failed": "0", "reason": 1}\n', "line 2 is damaged"),
        (HEAD + b'{"code": 2, "id": "0", "files": {"/a.py": null}}\n', "line 2 is damaged"),
        (HEAD + b'{"code": 2, "id": 0, "files": {}}\n', "line 2 is damaged"),
        (HEAD + b'{"modules": ["/a.py"]}\n', "line 2 is damaged"),
        (HEAD + LINE + b"noise\n" + HEAD + LINE + b"noise\n", "line 6 is damaged"),
    ],
)
def test_a_damaged_journal_is_an_error_that_names_the_line(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_bytes(content)
    with pytest.raises(JournalError) as caught:
        journal.read(path)
    assert caught.value.reason == says
    done = cli("journal", str(path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)


@given(st.binary(max_size=200), st.integers(0, len(HEAD + LINE)), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_no_content_makes_reading_crash(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int, gone: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.jsonl"
    whole = HEAD + LINE
    path.write_bytes(whole[:at] + noise + whole[at + gone :])
    try:
        journal.read(path)
    except JournalError as error:
        assert error.reason


VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
WHOLE = st.sampled_from(
    [
        json.loads(LINE),
        json.loads(LINE) | {"kind": "reload", "mail": "version-2"},
        {"code": 2, "id": "0", "files": {"/a.py": "source"}},
        {"failed": "0", "reason": "it broke"},
        {"modules": {"/b.py": "0"}},
        {"end": "stopped", "step": 3, "time": 2.0},
        json.loads(HEAD) | {"entry": {"path": "/x/a.py", "source": ""}},
    ]
)


@given(WHOLE, st.data())
@settings(max_examples=300, deadline=None)
def test_whatever_stands_in_a_line_it_is_an_error_or_can_be_shown_and_replayed(
    tmp_path_factory: pytest.TempPathFactory, line: dict[str, Any], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(line)))
    path = tmp_path_factory.getbasetemp() / "line.jsonl"
    lines = [json.loads(HEAD), json.loads(LINE), line | {name: data.draw(VALUE)}]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    try:
        found = journal.read(path)
    except JournalError as error:
        assert "line 3" in error.reason or "version" in error.reason
        return
    with contextlib.redirect_stdout(io.StringIO()):
        journals.show(str(path), as_json=False)
        journals.show(str(path), as_json=True)
    replay = Replay(found)
    for request in replay.due(1 << 62):
        assert request["kind"] == "reload" or request["step"] >= 0
    with contextlib.suppress(ReplayRefusedError):
        replay.check("/x/a.py", b"", found.header["command"])


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in ((tmp_path / "pipe", "it is no file"), (tmp_path / "no", "No such file or directory")):
        with pytest.raises(JournalError, match=says):
            journal.read(path)


# --- replay ---

TRAINING = """
import json, sys, time
import spark_fast as spark

RATE = 3

def step(weights, number):
    return (weights * 31 + number * RATE) % 2**61

weights = spark.persist("weights", lambda: [1])
try:
    for epoch in spark.track(range(3), key="epoch"):
        for number in spark.track(range(100), key="number"):
            weights[0] = step(weights[0], number)
            print(json.dumps([epoch, number, weights[0]]), flush=True)
            time.sleep(float(sys.argv[1]))
finally:
    print(json.dumps(["left", weights[0]]), flush=True)
"""


def steered(folder: Path, *, stop: bool = True) -> tuple[list[Any], Path]:
    """A training that is paused, advanced, reloaded twice, once in vain, and stopped; what it said, and its journal."""
    (folder / "first").mkdir(parents=True)
    script = str(folder / "first" / "project" / "train.py")
    with Edited(folder / "first", TRAINING, script, "0.003") as training:
        training.says(20)
        run = training.run()
        run.pause(timeout=30)
        run.advance(7, timeout=30)
        run.resume(timeout=30)
        training.says(45)
        training.edit("RATE = 3", "RATE = 5")
        training.reloaded()
        training.edit("RATE = 5", "RATE = undefined")
        assert training.reload().fate.state == "failed"
        training.edit("RATE = undefined", "RATE = 7")
        training.says(130)
        run.pause(timeout=30)
        reload = run.reload(wait=False)
        run.resume(timeout=30)
        assert reload.wait(30).state == "applied"
        if stop:
            training.says(150)
            run.stop(timeout=30)
        training.ended()
        return training.said, written().path


def replayed(folder: Path, path: Path, code: str = TRAINING, *words: str) -> Edited:
    (folder / "project").mkdir(parents=True)
    (folder / "project" / "train.py").write_text(code.lstrip("\n"))
    command = (
        "run",
        "--journal",
        str(folder / "new.jsonl"),
        "--replay",
        str(path),
        str(folder / "project" / "train.py"),
    )
    child = Child(folder, "", "-m", "spark_fast", *command, *(words or ("0.003",)), name=None)
    return child  # type: ignore[return-value]


@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "to its end"])
def test_a_training_steered_by_hand_comes_to_the_same_bits_when_it_is_replayed(tmp_path: Path, stop: bool) -> None:
    said, path = steered(tmp_path, stop=stop)
    with replayed(tmp_path / "second", path) as child:
        assert child.ended() == 0, child.err
        assert [json.loads(line) for line in child.out.splitlines()] == said
        assert "not replayed" not in child.err
    again = journal.read(tmp_path / "second" / "new.jsonl")
    then = journal.read(path)
    kinds = ("step", "kind", "arg")
    assert [[line[name] for name in kinds] for line in again.requests] == [
        [line[name] for name in kinds] for line in then.requests
    ]
    assert [line["reason"] for line in again.lines if "failed" in line] == ["name 'undefined' is not defined"]


def test_another_training_than_the_steered_one_ends_elsewhere(tmp_path: Path) -> None:
    said, _path = steered(tmp_path)
    (tmp_path / "plain").mkdir()
    script = str(tmp_path / "plain" / "project" / "train.py")
    with Edited(tmp_path / "plain", TRAINING, script, "0") as training:
        training.ended()
        assert training.said[len(said) - 2] != said[-2], "the reloads have changed something"


@pytest.mark.parametrize(
    ("code", "words", "says"),
    [
        (
            TRAINING.replace("RATE = 3", "RATE = 4"),
            (),
            "train.py differs from the journal's, first at line 4: there 'RATE = 3', now 'RATE = 4'",
        ),
        (TRAINING, ("0.002",), "argument 1 was '0.003', and is now '0.002'"),
        (TRAINING, ("0.003", "more"), "argument 2 was nothing, and is now 'more'"),
    ],
    ids=["script", "argument", "more arguments"],
)
def test_a_journal_that_does_not_fit_is_refused_with_the_first_difference(
    tmp_path: Path, code: str, words: tuple[str, ...], says: str
) -> None:
    _said, path = steered(tmp_path)
    with replayed(tmp_path / "second", path, code, *words) as child:
        assert child.ended() == 1
        assert child.out == ""
        assert f"can't be replayed: {says}" in child.err
        assert "Traceback" not in child.err


def test_a_module_that_changed_since_is_a_difference(tmp_path: Path) -> None:
    code = "import helper\n" + LOOP
    with Edited(tmp_path, code, modules={"helper.py": "X = 1\n"}) as training:
        run = training.run()
        run.pause(timeout=30)
        run.stop(timeout=30)
        training.ended()
        path = written().path
        training.write("helper.py", "X = 2\n")
        done = cli("run", "--replay", str(path), str(training.project / "train.py"))
        assert done.returncode == 1
        assert f"{training.project}/helper.py differs from the one that was imported then" in done.stderr


def test_requests_that_the_loop_never_came_to_are_said_at_the_end(tmp_path: Path) -> None:
    code = """
    import sys, time
    import spark_fast as spark
    for n in spark.track(range(int(open(sys.argv[1]).read()))):
        time.sleep(0.002)
    """
    count = tmp_path / "count"
    count.write_text("100000")
    script = str(tmp_path / "project" / "train.py")
    with Edited(tmp_path, code, script, str(count)) as training:
        run = training.run()
        until(lambda: run.step > 50)
        run.pause(timeout=30)
        run.stop(timeout=30)
        training.ended()
        count.write_text("10")
        done = cli("run", "--replay", str(written().path), script, str(count))
        assert done.returncode == 0
        assert "2 requests were not replayed: the loop ended at step 11" in done.stderr


def test_a_reset_is_replayed_as_the_stop_that_it_was_for_its_process(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(LOOP)
    with Child(tmp_path / "first", "", "-m", "spark_fast", "run", str(script)) as child:
        run = child.run()
        client.reset_worker("test", timeout=30)
        (path,) = journal.folder().glob("*.jsonl")
        assert "stop for a reset" in cli("journal", str(path)).stdout
        client.attach("test").stop(timeout=30)
        child.ended()
    done = cli("run", "--replay", str(path), str(script))
    assert done.returncode == 0
    assert done.stderr.count(f"stopped at step {run.requests[0].fate.step or run.step}") == 1
    assert "is reset" not in done.stderr


def test_a_module_that_was_run_by_its_name_is_replayed_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "train.py").write_text(LOOP)
    target = ("-m", "package.train", "--lr", "1")
    with Child(tmp_path, "", "-m", "spark_fast.worker", "run", *target, cwd=tmp_path) as child:
        stop = child.run().stop(timeout=30)
        child.ended()
    path = written().path
    assert written().header["command"] == list(target)
    with Child(tmp_path, "", "-m", "spark_fast.worker", "run", *target, cwd=tmp_path, **runner(path)) as child:
        assert child.ended() == 0, child.err
        assert f"stopped at step {stop.fate.step}, asked by the journal" in child.err


def test_a_training_that_moved_is_replayed_with_the_code_that_its_reloads_brought(tmp_path: Path) -> None:
    code = """
    import time
    import helper
    import spark_fast as spark
    for number in spark.track(range(10000), key="number"):
        print(helper.f(), flush=True)
        time.sleep(0.002)
    """
    with Edited(tmp_path, code, modules={"helper.py": "def f(): return 1\n"}) as training:
        training.says(5)
        training.edit("return 1", "return 2", "helper.py")
        training.reloaded()
        training.says(5, after=len(training.said))
        training.run().stop(timeout=30)
        training.ended()
        said = training.said
        path = written().path
    assert 1 in said and 2 in said
    training.edit("return 2", "return 1", "helper.py")
    training.project.rename(tmp_path / "moved")
    script = str(tmp_path / "moved" / "train.py")
    with Child(tmp_path, "", "-m", "spark_fast.worker", "run", script, **runner(path)) as child:
        assert child.ended() == 0, child.err
        assert [json.loads(line) for line in child.out.splitlines()] == said


def runner(path: Path) -> dict[str, str]:
    """The environment of a worker that replays."""
    return {"SPARK_FAST_RUNNER": json.dumps({"replay": str(path)})}


def test_what_is_no_journal_is_refused_before_the_script_begins(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('begun')\n")
    done = cli("run", "--replay", str(tmp_path / "no.jsonl"), str(tmp_path / "train.py"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "No such file or directory" in done.stderr
