"""What a journal hands out when it is applied again, and to which scripts it belongs."""

import platform
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_fast import __version__
from spark_fast.errors import ReplayRefusedError
from spark_fast.runfiles.journal import Journal
from spark_fast.runfiles.versions import digest_of
from spark_fast.worker.journal.replay import Replay

pytestmark = pytest.mark.unit

SOURCE = "import helper\nlr = 0.1\n"


def request(kind: str, step: int, ident: str = "1", rank: int = 0, **more: Any) -> dict[str, Any]:
    line = {"rank": rank, "step": step, "time": 1.0, "kind": kind, "id": ident, "sender": "ada"}
    return line | {"arg": 0, "duration": 0.0, "mail": ""} | more


def journal_of(folder: Path, *lines: dict[str, Any], **header: Any) -> Journal:
    head = {
        "journal": 1,
        "run": "test",
        "command": ["train.py", "--lr", "1"],
        "directory": str(folder),
        "version": __version__,
        "python": platform.python_version(),
        "entry": {"path": str(folder / "train.py"), "source": SOURCE},
    }
    return Journal(Path("the.jsonl"), head | header, list(lines), torn=False)


def check(journal: Journal, folder: Path, source: str = SOURCE, command: list[str] | None = None) -> Replay:
    replay = Replay(journal)
    replay.check(str(folder / "train.py"), source.encode(), command or journal.header["command"])
    return replay


# --- what is handed out ---


def test_each_request_is_handed_out_once_in_order_when_its_step_has_come(tmp_path: Path) -> None:
    lines = [request("pause", 5, "a"), request("resume", 5, "b"), request("stop", 9, "c")]
    replay = Replay(journal_of(tmp_path, *lines))
    assert (replay.next_step, replay.due(4)) == (5, [])
    assert replay.due(5) == lines[:2]
    assert (replay.due(5), replay.next_step) == ([], 9)
    assert replay.due(100) == lines[2:]
    assert (replay.next_step, replay.left(100)) == (None, None)


@given(st.lists(st.integers(0, 50)), st.lists(st.integers(0, 60)))
def test_whatever_the_steps_at_which_it_is_asked_all_come_in_order_and_none_early(
    steps: list[int], looks: list[int]
) -> None:
    lines = [request("resume", step, str(number)) for number, step in enumerate(sorted(steps))]
    replay = Replay(journal_of(Path("/x"), *lines))
    found: list[dict[str, Any]] = []
    for look in sorted(looks):
        fresh = replay.due(look)
        assert all(line["step"] <= look for line in fresh)
        found += fresh
        assert replay.next_step is None or replay.next_step > look
    assert found + replay.due(60) == lines


def test_what_came_after_a_call_or_while_it_ran_comes_there_again(tmp_path: Path) -> None:
    lines = [
        request("call", 5, "a"),
        {"payload": {"name": "f", "args": []}, "id": "a"},
        {**request("pause", 5, "b"), "inner": 3},
        {**request("set", 5, "c"), "inner": 3},
        {**request("resume", 5, "d"), "inner": 3},
        {**request("pause", 5, "e"), "inner": 7},
        {"returned": "a"},
        request("call", 5, "f"),
        request("resume", 5, "g"),
    ]

    def ids(step: int, within: str | None = None, inner: int = 0) -> list[str]:
        return [line["id"] for line in replay.due(step, within, inner)]

    replay = Replay(journal_of(tmp_path, *lines))
    assert ids(5) == ["a"]
    assert ids(5) == []  # it is about to be called
    assert ids(5, "a", 2) == []
    assert ids(5, "a", 3) == ["b", "c"]
    assert ids(5, "a", 4) == []  # its setter passes checkpoints
    replay.over("c")
    assert ids(5, "a", 4) == ["d"]
    replay.over("a")
    assert ids(5) == ["f"]
    replay.over("f")
    assert ids(5) == ["g"]


def test_requests_of_other_ranks_and_reloads_that_brought_no_code_are_left_out(tmp_path: Path) -> None:
    lines = [request("pause", 1, "a", rank=1), request("reload", 2, "b"), request("stop", 3, "c")]
    assert [line["id"] for line in Replay(journal_of(tmp_path, *lines)).due(9)] == ["c"]
    assert [line["id"] for line in Replay(journal_of(tmp_path, *lines), rank=1).due(9)] == ["a"]


def test_what_was_never_reached_is_said_with_the_first_of_it(tmp_path: Path) -> None:
    replay = Replay(journal_of(tmp_path, request("pause", 500), request("resume", 500), request("stop", 900)))
    said = replay.left(300)
    assert said is not None
    assert said.startswith("3 requests were not replayed: the loop ended at step 300")
    assert "a pause, was applied at step 500" in said
    replay.due(500)
    assert (replay.left(600) or "").startswith("1 request was not replayed")


# --- what fits ---


def test_a_journal_of_this_script_and_command_fits(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    helper = tmp_path / "helper.py"
    helper.write_bytes(b"X = 1\n")
    check(journal_of(tmp_path, {"modules": {str(helper): digest_of(b"X = 1\n")}}), tmp_path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("source", "command", "says"),
    [
        (SOURCE.replace("0.1", "0.2"), None, r"train.py differs .* at line 2: there 'lr = 0.1', now 'lr = 0.2'"),
        (SOURCE + "more\n", None, r"at line 3: there '', now 'more'"),
        (SOURCE, ["train.py", "--lr", "2"], r"argument 2 was '1', and is now '2'"),
        (SOURCE, ["train.py", "--lr"], r"argument 2 was '1', and is now nothing"),
        (SOURCE, ["other.py", "--lr", "1"], r"argument 0 was 'train.py', and is now 'other.py'"),
    ],
)
def test_the_first_difference_is_named(tmp_path: Path, source: str, command: list[str] | None, says: str) -> None:
    with pytest.raises(ReplayRefusedError, match=says):
        check(journal_of(tmp_path), tmp_path, source, command)


def test_a_script_that_nobody_can_run_again_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReplayRefusedError, match="can't be run again"):
        check(journal_of(tmp_path, entry=None), tmp_path)


def test_modules_are_looked_for_beside_the_script_where_it_is_now(tmp_path: Path) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    for folder, content in ((then, b"X = 1\n"), (now, b"X = 2\n")):
        (folder / "lib").mkdir(parents=True)
        (folder / "lib" / "helper.py").write_bytes(content)
    line = {"modules": {str(then / "lib" / "helper.py"): digest_of(b"X = 1\n")}}
    with pytest.raises(ReplayRefusedError, match=f"{now}/lib/helper.py differs from the one that was imported then"):
        check(journal_of(then, line), now)
    (now / "lib" / "helper.py").write_bytes(b"X = 1\n")
    check(journal_of(then, line), now)
    (now / "lib" / "helper.py").unlink()
    with pytest.raises(ReplayRefusedError, match=f"{now}/lib/helper.py can't be read: No such file"):
        check(journal_of(then, line), now)


def test_the_modules_of_a_module_are_looked_for_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    (now / "lib").mkdir(parents=True)
    (now / "lib" / "helper.py").write_bytes(b"X = 1\n")
    monkeypatch.chdir(now)
    line = {"modules": {str(then / "lib" / "helper.py"): digest_of(b"X = 1\n")}}
    entry = {"path": str(then / "pkg" / "train.py"), "source": SOURCE}
    check(journal_of(then, line, command=["-m", "pkg.train"], entry=entry), now / "pkg")


def test_a_module_that_a_reload_had_changed_before_it_was_noted_is_the_journals_own(tmp_path: Path) -> None:
    helper = str(tmp_path / "helper.py")
    lines = [{"code": 2, "id": "1", "files": {helper: "X = 2\n"}}, {"modules": {helper: digest_of(b"X = 2\n")}}]
    check(journal_of(tmp_path, *lines), tmp_path)


def test_the_code_of_a_reload_is_put_where_the_files_are_now(tmp_path: Path) -> None:
    then, now = tmp_path / "then", tmp_path / "now"
    files = {str(then / "train.py"): "a\n", str(then / "lib" / "helper.py"): "b\n", "/elsewhere.py": "c\n"}
    replay = check(journal_of(then, request("reload", 3), {"code": 2, "id": "1", "files": files}), now)
    (line,) = replay.due(3)
    assert replay.code_of(line) == {
        str(now / "train.py"): b"a\n",
        str(now / "lib" / "helper.py"): b"b\n",
        "/elsewhere.py": b"c\n",
    }


@pytest.mark.parametrize("header", [{"python": "3.0.1"}, {"version": "0.0.1"}, {"python": None}])
def test_other_versions_are_a_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], header: dict[str, str]
) -> None:
    check(journal_of(tmp_path, **header), tmp_path)
    said = capfd.readouterr().err
    assert "it may come out differently" in said
    assert said.count("\n") == 1


def test_another_release_of_the_same_python_is_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    python = ".".join(platform.python_version_tuple()[:2]) + ".99"
    check(journal_of(tmp_path, python=python), tmp_path)
    assert capfd.readouterr().err == ""
