"""Reloads as their senders see them: what reaches the worker, what does not, and what the command line says of it.

The workers here play a runner: they leave the loop when they are asked to, say that the new version runs, and loop
again. What a runner does with the code is tested elsewhere.
"""

import json
import os
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spark_fast import _core, client
from spark_fast.errors import CodeRefusedError
from spark_fast.request import Fate, FateState, Kind, version_mail, version_of
from spark_fast.runfiles import mailbox
from spark_fast.runfiles.versions import Store
from tests.support.child import DEADLINE, GATED, LOOP, Child, outcome, until

pytestmark = pytest.mark.process

RUNNER = """
import os, sys, threading, time
from pathlib import Path
import spark_fast as spark
from spark_fast import client
from spark_fast._core import worker
from spark_fast.runfiles.versions import Store
from spark_fast.request import format_id
from spark_fast.worker import session

class Reloader:
    thread = threading.get_ident()
    project = None

    def pass_checkpoint(self, done):
        pass

    def publish_applied(self):
        pass

    def begin_reload(self, entry, step):
        worker.publish_outcome(entry["seq"], step, failed=False)
        return spark.SparkReloadError(format_id(entry["id"]), step, entry["sender"])

session.current.reloader = Reloader()
train = Path(sys.argv[1])
spark.checkpoint()
run = client.attach("test")
store = Store(run.folder)
store.create(str(train), [str(train.parent)], [str(train.parent)])
store.record("__main__", str(train), train.read_bytes(), 0)
store.make_first("the worker")
while True:
    try:
        spark.checkpoint()
        time.sleep(0.001)
    except spark.SparkReloadError as reload:
        asked = next(each for each in run.requests if each.id == reload.request_id)
        store.set_current(asked.version)
        print(asked.version, flush=True)
"""


class Runner(Child):
    """A worker that plays a runner of `train.py`, which it never executes."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.train = folder / "train.py"
        self.write("rate = 1\n")
        super().__init__(folder, RUNNER, str(self.train))

    def write(self, text: str) -> None:
        self.train.write_text(text)
        os.utime(self.train, (1e9, 1e9))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with Runner(tmp_path / "project") as child:
        run = child.run()
        until(lambda: run.version == 1)
        yield child


def cli(*words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "spark_fast", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        input=stdin or "",
        env=os.environ | {"COLUMNS": "200"},
    )


# --- the client ---


def test_a_plain_worker_refuses_a_reload_and_hears_nothing_of_it(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        for request in (
            outcome(run.reload),
            outcome(run.reload, "x = 1\n"),
            outcome(run.reload, to=1),
            outcome(client.request_hot_reload, run="test"),
        ):
            assert request.fate.state == "refused"
            assert "run test was not started with `spark-fast run` or spark.run()" in request.fate.reason
        assert (run.requests, run.versions, run.version) == ([], [], None)
        child.steps_on(run)


def test_a_reload_brings_the_worker_a_version_of_what_changed_on_disk(runner: Runner) -> None:
    run = runner.run()
    runner.write("rate = 2\n")
    request = run.reload(timeout=10)
    assert (request.kind, request.version, request.fate.state) == ("reload", 2, "applied")
    assert request.fate.step is not None and request.fate.reason == ""
    until(lambda: run.version == 2)
    first, second = run.versions
    assert (first.note, second.note, second.sender) == ("start", "changed on disk", request.sender)
    assert Store(run.folder).source(second.files[str(runner.train)]) == b"rate = 2\n"
    view = _core.read_view(run._connection.control)
    entry = _core.read_entry(run._connection.control, view["tail"])
    assert entry is not None and (entry["mail"], entry["arg"]) == ("version-2", 0)
    assert [each.version for each in run.requests] == [2]
    runner.steps_on(run)


def test_a_reload_of_code_that_has_not_changed_has_nothing_to_do(runner: Runner) -> None:
    run = runner.run()
    for request in (run.reload(timeout=10), run.reload("rate = 1\n", timeout=10), run.reload(to=1, timeout=10)):
        assert request.fate.state == "applied"
        assert request.fate.reason == "nothing to do: the code has not changed"
        assert request.version is None
    assert (run.requests, len(run.versions)) == ([], 1)


def test_code_that_does_not_compile_never_reaches_the_worker(runner: Runner) -> None:
    run = runner.run()
    fate = outcome(run.reload, "rate = (\n", timeout=10).fate
    assert fate.state == "refused"
    assert fate.reason.startswith("train.py, line 1: SyntaxError: '(' was never closed\n")
    assert f'File "{runner.train}", line 1' in fate.reason
    assert "\n" not in str(fate) and str(fate) == "refused (train.py, line 1: SyntaxError: '(' was never closed)"
    runner.write("")
    assert outcome(run.reload, timeout=10).fate.state == "refused"
    assert outcome(run.reload, to=9, timeout=10).fate.reason == "can't go back to version 9: there is no version 9"
    assert (run.requests, len(run.versions)) == ([], 1)
    runner.steps_on(run)


def test_code_may_be_given_and_taken_back(runner: Runner) -> None:
    run = runner.run()
    assert client.request_hot_reload("rate = 5\n", run="test").version == 2
    until(lambda: run.version == 2)
    assert runner.train.read_text() == "rate = 1\n"
    assert run.reload(to=1, timeout=10).version == 3
    until(lambda: run.version == 3)
    assert [version.note for version in run.versions] == ["start", "pushed", "back to 1"]
    assert run.versions[0].files == run.versions[2].files


def test_a_reload_need_not_be_waited_for(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        store = Store(run.folder)
        store.create(str(child.script), [str(tmp_path)], [])
        store.record("__main__", str(child.script), child.script.read_bytes(), 0)
        store.make_first()
        request = run.reload("rate = 2\n", wait=False)
        assert (request.fate.state, request.version) == ("asked", 2)
        with pytest.raises(client.SparkTimeoutError, match="reload of run test has not taken effect"):
            run.reload("rate = 3\n", timeout=0.2)
        assert [each.version for each in run.requests] == [2, 3]


def test_a_run_that_ended_or_stops_refuses_a_reload_and_keeps_no_version_of_it(tmp_path: Path) -> None:
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
        store = Store(run.folder)
        store.create(str(child.script), [str(tmp_path)], [])
        store.record("__main__", str(child.script), child.script.read_bytes(), 0)
        store.make_first()
        run.stop(timeout=10)
        fate = outcome(run.reload, "rate = 2\n", timeout=10).fate
        assert (fate.state, fate.reason) == ("refused", "the run is stopping")
        assert len(run.versions) == 1
    until(lambda: not run.status.live)
    fate = outcome(run.reload, "rate = 2\n").fate
    assert (fate.state, fate.reason) == ("refused", "the run has ended: it is lost")
    assert len(run.versions) == 1


def test_a_full_log_keeps_no_version_either(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        store = Store(run.folder)
        store.create(str(child.script), [str(tmp_path)], [])
        store.record("__main__", str(child.script), child.script.read_bytes(), 0)
        store.make_first()
        for _ in range(128):
            run.pause(wait=False)
        with pytest.raises(client.SegmentError, match="log is full"):
            run.reload("rate = 2\n", wait=False)
        assert len(run.versions) == 1


def test_a_run_that_is_only_starting_says_so(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        Store(run.folder).create(str(child.script), [str(tmp_path)], [])
        assert "only starting" in outcome(run.reload).fate.reason


def test_a_store_that_is_damaged_is_an_error_that_names_the_file(runner: Runner) -> None:
    run = runner.run()
    path = run.folder / "code" / "versions" / "1.json"
    path.write_bytes(b"{")
    with pytest.raises(client.StoreError, match=str(path)):
        run.reload()
    assert run.requests == []
    runner.steps_on(run)


def test_a_version_that_finds_no_room_is_an_error_that_says_so(runner: Runner) -> None:
    run = runner.run()
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, room[1]))  # files of this process can't grow further
    try:
        with pytest.raises(client.StoreError, match="can't be kept: File too large"):
            run.reload("rate = 2\n" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert run.requests == []
    runner.steps_on(run)


def test_wrong_arguments_of_a_reload_are_refused_before_anything_is_made(runner: Runner) -> None:
    run = runner.run()
    with pytest.raises(ValueError, match="exclude each other"):
        run.reload("x = 1\n", to=1)
    with pytest.raises(ValueError, match="1 or more: 0"):
        run.reload(to=0)
    assert len(run.versions) == 1


def test_mail_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        with pytest.raises(ValueError, match="64 bytes: at most 63 are"):
            run._connection.segment().append(1, 1, mail="é" * 32)
        assert run.requests == []


def test_the_errors_pickle() -> None:
    for error in (client.StoreError("/x", "why"), CodeRefusedError("why\nmore")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.reason) == (type(error), str(error), error.reason)


@given(st.integers(1, 10**9 - 1))
def test_the_version_of_a_mail_is_the_one_that_was_put_there(number: int) -> None:
    assert version_of(version_mail(number)) == number


def test_other_mail_names_no_version() -> None:
    for mail in ("", "reset", "version-", "version-0", "version-x", "version-1\n", "version-9999999999", "aversion-1"):
        assert version_of(mail) is None


# --- what the worker says of a failure ---

TRACE = 'Traceback (most recent call last):\n  File "train.py", line 3\nZeroDivisionError: division by zero\n'


def failed(request: client.Request, monkeypatch: pytest.MonkeyPatch) -> Fate:
    """The fate of a request whose outcome in the log is that it failed, which a worker here never says."""
    read = _core.read_entry

    def entry(fd: int, seq: int) -> "dict[str, object] | None":
        found = read(fd, seq)
        return None if found is None else {**found, "outcome": 3, "value": 120}

    with monkeypatch.context() as patched:
        patched.setattr(_core, "read_entry", entry)
        return client.Request(
            request._connection, Kind.RELOAD, request._ident, request._seq, request.sender, request.asked
        ).fate


@pytest.mark.parametrize("state", ["failed", "refused"])
def test_a_fate_tells_what_the_worker_says_of_a_failure(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    run = runner.run()
    request = run.reload("rate = 2\n", timeout=10)
    fate = failed(request, monkeypatch)
    assert (fate.state, fate.step) == ("failed", 120)
    assert "the worker could not write its answer" in fate.reason
    mailbox.write_reply(run.folder, request._ident, mailbox.Reply(state, "division by zero", TRACE))
    fate = failed(request, monkeypatch)
    assert (fate.state, fate.step, fate.reason) == (state, 120, f"division by zero\n{TRACE}".rstrip())
    assert str(fate) == f"{state} at step 120 (division by zero)"
    assert fate.final
    assert {path.stat().st_mode & 0o077 for path in (run.folder / "replies").rglob("*")} == {0}


def test_word_that_a_call_has_begun_takes_no_answers_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    for state, replace, found in (("begun", False, "begun"), ("done", True, "done"), ("begun", False, "done")):
        mailbox.write_reply(tmp_path, 7, mailbox.Reply(state), replace=replace)
        reply = mailbox.read_reply(tmp_path, 7)
        assert reply is not None and reply.state == found
    assert [path.name for path in (tmp_path / "replies").iterdir()] == [f"{7:016x}.json"]


def test_a_reply_that_is_too_long_loses_its_middle(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    trace = "first\n" + "x" * (1 << 20) + "\nlast"
    mailbox.write_reply(tmp_path, 7, mailbox.Reply("failed", "why", trace))
    reply = mailbox.read_reply(tmp_path, 7)
    assert reply is not None
    assert reply.traceback.startswith("first\n") and reply.traceback.endswith("\nlast")
    assert "786443 characters are left out" in reply.traceback
    assert len(reply.traceback) < 1 << 19


@given(
    raw=st.binary(max_size=60)
    | st.text(max_size=60).map(str.encode)
    | st.dictionaries(
        st.sampled_from(["state", "reason", "traceback"]), st.sampled_from(["failed", "refused", None, 1, [], {}, "x"])
    ).map(lambda found: json.dumps(found).encode())
)
@settings(max_examples=200, deadline=None)
def test_a_hostile_reply_is_one_with_a_clear_reason(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    folder = tmp_path_factory.mktemp("hostile", numbered=True)
    (folder / "replies").mkdir(mode=0o700)
    (folder / "replies" / f"{7:016x}.json").write_bytes(raw)
    reply = mailbox.read_reply(folder, 7)
    assert reply is not None
    assert reply.state in ("failed", "refused")
    assert isinstance(reply.reason, str) and isinstance(reply.traceback, str)
    assert mailbox.read_reply(folder, 8) is None


def test_a_reply_that_is_no_file_or_too_large_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "replies").mkdir(mode=0o700)
    path = tmp_path / "replies" / f"{7:016x}.json"
    os.mkfifo(path)
    reply = mailbox.read_reply(tmp_path, 7)
    assert reply is not None and "no file of yours" in reply.reason
    path.unlink()
    path.symlink_to(__file__)
    reply = mailbox.read_reply(tmp_path, 7)
    assert reply is not None and "found a symbolic link" in reply.reason
    path.unlink()
    path.touch()
    os.truncate(path, 1 << 40)
    reply = mailbox.read_reply(tmp_path, 7)
    assert reply is not None and "at most" in reply.reason


# --- the command line ---


def test_reload_says_which_version_runs_since_when(runner: Runner) -> None:
    run = runner.run()
    runner.write("rate = 2\n")
    done = cli("reload", "test")
    assert done.returncode == 0, done.stderr
    step = run.requests[-1].fate.step
    assert done.stdout.startswith(f"run test runs version 2 since step {step} (after ")
    assert cli("reload").stdout == "run test: nothing to do: the code has not changed\n"
    runner.write("rate = 3\n")
    assert cli("reload", "--no-wait").returncode == 0
    until(lambda: run.version == 3)
    done = cli("reload", "--to", "1", "--json")
    found = json.loads(done.stdout)
    assert (found["kind"], found["version"], found["fate"]["state"]) == ("reload", 4, "applied")
    assert "reload 4" in cli("status").stdout


def test_reload_takes_code_from_a_file_and_from_standard_input(runner: Runner, tmp_path: Path) -> None:
    run = runner.run()
    (tmp_path / "new.py").write_bytes(b"# coding: latin-1\nname = '\xe9'\n")
    assert cli("reload", "--code", str(tmp_path / "new.py")).returncode == 0
    assert cli("reload", "--code", "-", stdin="rate = 7\n").returncode == 0
    store = Store(run.folder)
    sources = [store.source(version.files[str(runner.train)]) for version in run.versions]
    assert sources == [b"rate = 1\n", b"# coding: latin-1\nname = '\xe9'\n", b"rate = 7\n"]
    gone = cli("reload", "--code", str(tmp_path / "gone.py"))
    assert gone.returncode == 1 and "gone.py" in gone.stderr and "Traceback" not in gone.stderr
    assert cli("reload", "--code", "-", "--to", "1").returncode == 2


def test_reload_prints_the_whole_of_a_syntax_error(runner: Runner) -> None:
    done = cli("reload", "--code", "-", stdin="def f():\n\treturn (\n")
    assert (done.returncode, done.stdout) == (1, "")
    first, *rest = done.stderr.splitlines()
    assert first == ("spark-fast: reload of run test was refused: train.py, line 2: SyntaxError: '(' was never closed")
    place, line, mark, what = rest
    assert (place, what) == (f'  File "{runner.train}", line 2', "SyntaxError: '(' was never closed")
    assert line.strip() == "return (" and line.index("(") == mark.index("^")
    done = cli("reload", "--json", "--code", "-", stdin="\x1b[31m = 1\n")
    assert json.loads(done.stdout)["fate"]["state"] == "refused"
    assert done.returncode == 1 and "\x1b" not in done.stderr


def test_a_failure_is_told_with_its_whole_traceback(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import typer

    from spark_fast.cli.requests import Patience, ask

    run = runner.run()
    request = run.reload("rate = 2\n", timeout=10)
    request._fate = Fate(FateState.FAILED, step=120, reason=f"division by zero\n{TRACE}")
    with pytest.raises(typer.Exit) as caught:
        ask(run, lambda: request, Patience(True, 10.0, time.monotonic()), as_json=False)
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == f"spark-fast: reload of run test failed: division by zero\n{TRACE}"


def test_reload_that_is_not_done_in_time_exits_with_4(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        store = Store(run.folder)
        store.create(str(child.script), [str(tmp_path)], [])
        store.record("__main__", str(child.script), child.script.read_bytes(), 0)
        store.make_first()
        done = cli("reload", "--timeout", "300ms", "--code", "-", stdin="rate = 2\n")
        assert done.returncode == 4
        assert done.stderr.endswith("the reload stands\n")


def test_reload_of_a_plain_worker_is_refused(tmp_path: Path) -> None:
    with Child(tmp_path, LOOP) as child:
        child.run()
        done = cli("reload")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1 and "was not started with `spark-fast run`" in done.stderr
        listed = cli("versions")
        assert listed.returncode == 0 and "has no versions of its code" in listed.stdout
        assert cli("versions", "--json").stdout == "[]\n"


def test_versions_are_listed_with_a_star_at_the_one_that_runs(runner: Runner) -> None:
    run = runner.run()
    run.reload("rate = 5\n", timeout=10)
    until(lambda: run.version == 2)
    run.reload(to=1, timeout=10)
    until(lambda: run.version == 3)
    head, *rows = cli("versions").stdout.splitlines()
    assert head.split() == ["VERSION", "MADE", "NOTE", "BY", "CHANGED"]
    assert [row.split()[:2] for row in rows] == [["1", rows[0].split()[1]], ["2", rows[1].split()[1]], ["*", "3"]]
    for row, note, who in zip(rows, ("start", "pushed", "back to 1"), ("the worker", "pid", "pid"), strict=True):
        assert f"  {note}  " in row and who in row and row.endswith("train.py")


def test_versions_show_what_changed(runner: Runner) -> None:
    run = runner.run()
    run.reload("rate = 5\n", timeout=10)
    until(lambda: run.version == 2)
    run.reload("rate = 6\n", timeout=10)
    everything = cli("versions", "--diff", "test").stdout
    assert [line for line in everything.splitlines() if line[:5] in ("-rate", "+rate")] == [
        "-rate = 1",
        "+rate = 5",
        "-rate = 5",
        "+rate = 6",
    ]
    assert "--- train.py\tversion 1\n+++ train.py\tversion 2\n" in everything
    for words in (["--diff", "2"], ["2", "--diff"], ["test", "--diff", "2"], ["--diff", "2", "test"]):
        only = cli("versions", *words).stdout
        assert "+rate = 5" in only and "+rate = 6" not in only, words
    found = json.loads(cli("versions", "--diff", "3", "--json").stdout)
    assert [(each["number"], each["changed"]) for each in found] == [(3, [str(runner.train)])]
    assert "+rate = 6\n" in found[0]["diff"]
    missing = cli("versions", "--diff", "9")
    assert (missing.returncode, missing.stderr) == (1, "spark-fast: run test has no version 9\n")
    assert cli("versions", "test", "2").returncode == 2


def test_versions_as_json(runner: Runner) -> None:
    run = runner.run()
    run.reload("rate = 5\n", timeout=10)
    until(lambda: run.version == 2)
    first, second = json.loads(cli("versions", "--json").stdout)
    assert set(first) == {"number", "runs", "made", "sender", "note", "changed", "files"}
    assert [each["runs"] for each in (first, second)] == [False, True]
    assert second["files"] == dict(run.versions[1].files)


def test_versions_of_a_run_that_ended_are_still_listed(runner: Runner) -> None:
    run = runner.run()
    run.reload("rate = 5\n", timeout=10)
    runner.process.kill()
    until(lambda: not run.status.live)
    assert cli("versions", "test").stdout.count("\n") == 3
    assert cli("reload", "test").returncode == 5
