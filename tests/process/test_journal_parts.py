"""A journal that has grown: it has several files, which are read as one, and a limit."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.client.send import ask
from spark_fast.request import Kind
from spark_fast.runfiles import journal, journal_parts
from spark_fast.sizes import parse_size, size_text
from spark_fast.worker import options
from tests.support.child import DEADLINE, Child, until

pytestmark = pytest.mark.process

TRAINING = """
import sys, time
import spark_fast as spark

print("begun", file=sys.stderr)
state = spark.expose(add=1)
total = 0
for step in spark.track(range(10**9)):
    total = (total * 31 + state.add) % 1000003
    if state.add == 0:
        break
    time.sleep(0.0002)
print(step, total)
"""


def trained(folder: Path, *words: str, code: str = TRAINING, **env: str) -> Child:
    folder.mkdir(exist_ok=True)
    script = folder / "train.py"
    script.write_text(code)
    return Child(folder, "", "-m", "spark_fast", "run", *words, str(script), **env)


def steer(run: client.Run, count: int) -> None:
    """Sets `add` so many times, without a sender's share."""
    for number in range(count, 0, -1):
        request = ask(run._connection, Kind.SET, False, DEADLINE, mail=json.dumps({"name": "add", "value": number}))
        if number % 50 == 1:
            assert request.wait(DEADLINE).state == "applied"


def finish(run: client.Run, child: Child) -> str:
    run.set("add", 0)
    assert child.ended() == 0, child.err
    return child.out


def set_to(found: journal.Journal) -> list[int]:
    return [line["payload"]["value"] for line in found.lines if "payload" in line]


def files_of(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}*"))


def cli(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "spark_fast", *words], capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def test_a_journal_in_parts_is_read_shown_and_replayed_as_one(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    with trained(tmp_path, "--journal", str(path), SPARK_FAST_JOURNAL_LIMIT="512KiB") as child:
        run = child.run()
        steer(run, 400)
        assert set_to(journal.read(path)) == list(range(400, 0, -1))
        said = finish(run, child)
        assert "limit" not in child.err
    assert len(files_of(path)) >= 2
    found = journal.read(path)
    assert set_to(found) == list(range(400, -1, -1))
    assert (found.dropped, found.loss, found.torn) == (0, None, False)
    shown = cli("journal", str(path))
    assert shown.stdout.count(" add = ") == 401
    assert shown.stderr == ""
    with trained(tmp_path, "--replay", str(path), "--journal", "off") as again:
        assert again.ended() == 0, again.err
        assert again.out == said
        assert "not whole" not in again.err


def test_a_journal_keeps_below_its_limit_and_says_what_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    limit = 64 << 10
    with trained(tmp_path, "--journal", str(path), SPARK_FAST_JOURNAL_LIMIT="64KiB") as child:
        run = child.run()
        for _ in range(6):
            steer(run, 100)
            assert sum(each.stat().st_size for each in files_of(path)) <= limit + 1024
        assert len(files_of(path)) <= journal_parts.COUNT
        finish(run, child)
        assert child.err.count("has reached its limit of 64 KiB: its oldest part is dropped") == 1
    found = journal.read(path)
    assert found.dropped > 0
    kept = set_to(found)
    assert kept == [*(list(range(100, 0, -1)) * 6), 0][-len(kept) :]
    assert len(kept) > 100
    parts = f"its first {found.dropped} parts are" if found.dropped > 1 else "its first part is"
    loss = f"{parts} not there any more, because a journal has a limit; it begins at step {found.requests[0]['step']}"
    assert found.loss == loss
    assert f"this is not the whole journal: {loss}" in cli("journal", str(path)).stderr
    assert json.loads(cli("journal", "--json", str(path)).stdout)[0]["part"] == found.dropped + 1
    with trained(tmp_path, "--replay", str(path), "--journal", "off") as again:
        assert again.ended() == 0, again.err
        said, begun = (again.err.index(text) for text in (f"{path} is replayed, but it is not whole: {loss}", "begun"))
        assert said < begun


KILLED = """
import os, signal
from spark_fast.worker.journal import writer as journaling
put_aside = journaling.journal_parts.put_aside

def killed(path):
    put_aside(path)
    os.kill(os.getpid(), signal.SIGKILL)

journaling.journal_parts.put_aside = killed
"""


def test_a_worker_that_is_killed_between_two_parts_leaves_all_that_it_applied(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    told: list[int] = []
    with trained(tmp_path, "--journal", str(path), code=KILLED + TRAINING, SPARK_FAST_JOURNAL_LIMIT="64KiB") as child:
        run = child.run()
        number = 0
        while run.status.live:
            number += 1
            request = ask(run._connection, Kind.SET, False, DEADLINE, mail=json.dumps({"name": "add", "value": number}))
            if request.wait(DEADLINE).state == "applied":
                told.append(number)
        child.ended()
    assert not path.exists()
    assert set_to(journal.read(path))[: len(told)] == told
    assert f" add = {told[-1]} " in cli("journal", str(path)).stdout


def test_a_journal_that_can_not_be_parted_is_one_warning_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    code = """
from spark_fast.worker.journal import writer as journaling

def refused(path):
    raise PermissionError(1, "no")

journaling.journal_parts.put_aside = refused
"""
    with trained(tmp_path, "--journal", str(path), code=code + TRAINING, SPARK_FAST_JOURNAL_LIMIT="64KiB") as child:
        run = child.run()
        steer(run, 100)
        finish(run, child)
        assert child.err.count("can't be kept below its limit") == 1
    assert set_to(journal.read(path)) == list(range(100, -1, -1))


def test_runs_that_share_a_file_do_not_share_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    for count in (150, 120, 1):
        with trained(tmp_path, "--journal", str(path), SPARK_FAST_JOURNAL_LIMIT="256KiB") as child:
            run = child.run()
            steer(run, count)
            finish(run, child)
        found = journal.read(path)
        assert set_to(found) == list(range(count, -1, -1))
        assert found.dropped == 0


def test_what_a_reload_and_a_call_bring_is_found_in_whatever_part_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    with trained(tmp_path, "--journal", str(path), SPARK_FAST_JOURNAL_LIMIT="64KiB") as child:
        run = child.run()
        for number in range(6):
            run.reload(TRAINING + f"# {'x' * 9000} {number}\n", restart=True)
        run.stop()
        child.ended()
    found = journal.read(path)
    brought = [line["id"] for line in found.lines if "files" in line]
    reloads = [line["id"] for line in found.requests if line["kind"] == "reload"]
    assert len(reloads) >= 2
    assert brought[-len(reloads) :] == reloads


# --- the files ---


def part(path: Path, number: int, *, run: str = "r", at: int = 0, before: int = 0, started: float = 1.0) -> None:
    header = journal.first_line(run, ["train.py"], started, None, part=at or 1, before=before)
    path.write_bytes(header + json.dumps({"number": number}).encode() + b"\n")


def numbers(path: Path) -> list[int]:
    return [line["number"] for line in journal.read(path).lines]


@pytest.mark.unit
def test_parts_are_followed_back_to_the_first_that_is_there(tmp_path: Path) -> None:
    base = tmp_path / "j"
    part(tmp_path / "j.4", 1)
    part(tmp_path / "j.7", 2, at=2, before=4)
    part(base, 3, at=3, before=7)
    assert numbers(base) == [1, 2, 3]
    assert numbers(tmp_path / "j.7") == [1, 2]
    base.unlink()
    assert numbers(base) == [1, 2]
    part(base, 3, at=3, before=7)
    (tmp_path / "j.4").unlink()
    assert (numbers(base), journal.read(base).dropped) == ([2, 3], 1)
    part(tmp_path / "j.4", 1, run="another")
    assert numbers(base) == [2, 3]
    part(tmp_path / "j.4", 1, started=2.0)
    assert numbers(base) == [2, 3]
    part(tmp_path / "j.4", 1, at=5, before=4)  # no circle, and no other place in the journal
    assert numbers(base) == [2, 3]
    part(base, 9)
    assert (numbers(base), journal.read(base).dropped) == ([9], 0)


@pytest.mark.unit
@pytest.mark.parametrize("wrong", [{"part": 1}, {"part": "2"}, {"part": 2}, {"part": 2, "before": -1}])
def test_a_header_that_names_no_part_is_damaged(tmp_path: Path, wrong: dict[str, object]) -> None:
    path = tmp_path / "j"
    header = json.loads(journal.first_line("r", ["train.py"], 1.0, None)) | wrong
    path.write_text(json.dumps(header) + "\n")
    with pytest.raises(journal.JournalError, match="line 1 is damaged"):
        journal.read(path)


@pytest.mark.unit
def test_the_oldest_parts_are_dropped_and_no_other_file(tmp_path: Path) -> None:
    base = tmp_path / "j"
    others = [tmp_path / name for name in ("j", "j.x", "j.01", "jj.1", "j.1.2")]
    for path in others:
        path.write_bytes(b"x" * 1000)
    for number in (1, 2, 10):
        journal_parts.path_of(base, number).write_bytes(b"x" * 100)
    assert journal_parts.drop_oldest(base, 250) == 1
    assert [number for number in (1, 2, 10) if journal_parts.path_of(base, number).exists()] == [2, 10]
    assert all(path.exists() for path in others)
    assert journal_parts.put_aside(base) == 11
    assert not base.exists()
    assert journal_parts.newest(base) == journal_parts.path_of(base, 11)


@pytest.mark.unit
def test_the_newest_journal_of_a_run_is_found_also_between_two_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    os.mkdir(journal.folder(), 0o700)
    for name in ("r-20260101T000000-7.jsonl", "r-20260102T000000-8.jsonl.3", "r-20260103T000000-9.jsonl.x"):
        (journal.folder() / name).touch()
    assert journal.find("r") == journal.folder() / "r-20260102T000000-8.jsonl"


# --- the limit ---


@pytest.mark.unit
@pytest.mark.parametrize(
    ("text", "size"), [("65536", 65536), ("64KiB", 65536), ("64 kb", 64000), ("1.5M", 1500000), ("2gi", 2 << 30)]
)
def test_a_size_is_read_with_its_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.unit
def test_what_is_no_size_is_refused() -> None:
    for text in ("", "many", "-1", "1T", "MiB"):
        with pytest.raises(ValueError, match="is no size"):
            parse_size(text)
    with pytest.raises(ValueError, match="journal_limit is a size of 64KiB or more"):
        options.configure(journal_limit="1KiB")
    assert [size_text(size) for size in (100, 64 << 10, 64 << 20, 3 << 29)] == [
        "100 bytes",
        "64 KiB",
        "64 MiB",
        "1.5 GiB",
    ]


def test_the_limit_is_an_option_of_run(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    with trained(tmp_path, "--journal", str(path), "--journal-limit", "64KiB") as child:
        run = child.run()
        steer(run, 100)
        finish(run, child)
    assert len(files_of(path)) > 1
    with trained(tmp_path, "--journal-limit", "many") as child:
        assert child.ended() == 2
        assert "'many' is no size" in child.err


def test_a_limit_may_be_turned_off(tmp_path: Path) -> None:
    path = tmp_path / "steered.jsonl"
    with trained(tmp_path, "--journal", str(path), SPARK_FAST_JOURNAL_LIMIT="off") as child:
        run = child.run()
        steer(run, 150)
        finish(run, child)
    assert files_of(path) == [path]
    until(lambda: path.stat().st_size > (64 << 10) // journal_parts.COUNT)
