"""What is saved is reloaded: the watcher, on real files, with a run that only notes what it is asked."""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from spark_fast.cli import watching
from spark_fast.client import Fate, FateState, SparkStatus
from tests.support.child import until

pytestmark = [pytest.mark.unit, pytest.mark.tier("test")]  # needs watchfiles

APPLIED = Fate(FateState.APPLIED, step=7)


@dataclass
class FakeRun:
    """A run whose reloads end as `fates` says, the last one from then on."""

    folder: Path
    fates: list[Fate | Exception] = field(default_factory=lambda: [APPLIED])
    asked: list[float] = field(default_factory=list)
    status: SparkStatus = SparkStatus.RUNNING

    def reload(self, *, wait: bool) -> SimpleNamespace:
        assert not wait
        self.asked.append(time.time())
        fate = self.fates.pop(0) if len(self.fates) > 1 else self.fates[0]
        if isinstance(fate, Exception):
            raise fate
        return SimpleNamespace(wait=lambda: fate)

    def loads(self, *paths: Path) -> None:
        """Notes that it has loaded these."""
        (self.folder / "code").mkdir(mode=0o700, exist_ok=True)
        with (self.folder / "code" / "loaded.jsonl").open("a") as file:
            for path in paths:
                loaded = {"module": path.stem, "path": str(path), "digest": "0" * 64, "version": 1}
                file.write(json.dumps(loaded) + "\n")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a script that was there before."""
    folder = tmp_path / "project"
    folder.mkdir()
    old(folder / "train.py")
    return folder


def old(path: Path) -> Path:
    path.write_text("x = 1\n")
    os.utime(path, (1e9, 1e9))
    return path


@pytest.fixture
def run(tmp_path: Path) -> Iterator[FakeRun]:
    """A run; the watchers of it are gone when the test ends."""
    (tmp_path / "run").mkdir(mode=0o700)
    found = FakeRun(tmp_path / "run")
    yield found
    found.folder = None  # type: ignore[assignment]  # which breaks the watcher at its next look
    until(lambda: not watchers())


def watchers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "watch"]


def watch(run: FakeRun, script: Path | None, *more: Path) -> watching.Watcher:
    """Starts a watcher, and waits until it watches."""
    watcher = watching.Watcher(str(script) if script is not None else None, map(str, more))
    watcher.start(lambda: run)
    return watcher


def save(path: Path, run: FakeRun, what: str = "") -> float:
    """Saves the file until the run is asked to reload; the seconds that it took the last time."""
    before = len(run.asked)
    path.write_text(f"x = {time.time()}\n")
    saved = time.time()
    until(lambda: len(run.asked) > before, what)
    return run.asked[-1] - saved


def told(capfd: pytest.CaptureFixture[str], count: int) -> list[str]:
    """So many lines of what is said, or more, once they are there."""
    said = ""

    def enough() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return said.count("\n") >= count

    until(enough)
    return said.splitlines()


def test_a_saved_file_is_reloaded_and_it_is_said_where_and_how_fast(
    project: Path, run: FakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    watch(run, project / "train.py")
    save(project / "train.py", run)
    said = until(lambda: capfd.readouterr().err)
    assert said.startswith("spark-fast: reloaded train.py at step 7, ")
    assert said.endswith(" ms after it was saved\n")
    for _ in range(20):
        save(project / "train.py", run)
    assert len(run.asked) == 21


def test_a_file_that_an_editor_replaces_is_one_change(project: Path, run: FakeRun) -> None:
    watch(run, project / "train.py")
    save(project / "train.py", run)
    new = project / "train.py.new"
    new.write_text("x = 3\n")
    new.rename(project / "train.py")
    until(lambda: len(run.asked) == 2)
    save(project / "train.py", run)
    assert len(run.asked) == 3


def test_what_is_no_code_and_what_lies_below_reloads_nothing(
    project: Path, run: FakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    (project / "below").mkdir()
    watch(run, project / "train.py")
    save(project / "train.py", run)
    (project / "notes.txt").write_text("x")
    (project / ".train.py.swp").write_text("x")
    (project / "below" / "other.py").write_text("x = 1\n")
    save(project / "train.py", run)
    assert len(run.asked) == 2
    said = told(capfd, 2)
    assert all(line.startswith("spark-fast: reloaded train.py at step 7") for line in said), said


def test_a_file_that_is_empty_for_a_moment_waits_for_its_text(project: Path, run: FakeRun) -> None:
    watch(run, project / "train.py")
    save(project / "train.py", run)
    began = time.time()
    (project / "train.py").write_text("")
    until(lambda: len(run.asked) == 2)
    assert run.asked[-1] - began > 0.1  # not until nothing more had come for a while


def test_a_file_that_is_removed_between_two_looks_ends_no_watcher(
    project: Path, run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = project / "train.py"
    exists = os.path.exists

    def exists_no_more(path: str) -> bool:
        there = exists(path)
        if path == str(script):
            script.unlink(missing_ok=True)
        return there

    watch(run, script)
    save(script, run)
    monkeypatch.setattr(os.path, "exists", exists_no_more)
    script.write_text("x = 2\n")
    until(lambda: len(run.asked) > 1 or not watchers())
    monkeypatch.undo()
    assert watchers()
    save(script, run)


def test_folders_of_modules_that_are_loaded_later_are_watched(project: Path, run: FakeRun, tmp_path: Path) -> None:
    folders = [tmp_path / "lib", tmp_path / "more"]
    for folder in folders:
        folder.mkdir()
    helper, other = old(folders[0] / "helper.py"), old(folders[1] / "other.py")
    watch(run, project / "train.py", folders[1])
    save(project / "train.py", run)
    save(other, run)
    run.loads(project / "train.py", helper)
    # Saved while nobody watches its folder yet, it is seen at the next look.
    save(helper, run)
    fast = until(lambda: (taken := save(helper, run)) < 0.1 and taken)
    assert fast < 0.1


def test_a_file_that_changed_while_the_worker_started_is_seen(project: Path, run: FakeRun) -> None:
    watcher = watching.Watcher(str(project / "train.py"))
    helper = old(project / "helper.py")
    run.loads(project / "train.py", helper)
    (project / "train.py").write_text("x = 2\n")
    watcher.start(lambda: run)
    until(lambda: len(run.asked) == 1)


def test_a_torn_last_line_is_one_that_is_still_being_written(project: Path, run: FakeRun, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    helper = old(tmp_path / "lib" / "helper.py")
    run.loads(helper)
    with (run.folder / "code" / "loaded.jsonl").open("a") as file:
        file.write('{"module": "oth')
    watch(run, None)
    save(helper, run)
    save(helper, run)


@pytest.mark.parametrize(
    ("fate", "first", "rest"),
    [
        (
            Fate(FateState.REFUSED, reason="SyntaxError: broken\n  File x\x1b[2J"),
            "train.py: the reload was refused: SyntaxError: broken",
            ["  File x\\x1b[2J"],
        ),
        (
            Fate(FateState.FAILED, step=7, reason="ValueError: broken\nTraceback:\n  File x"),
            "train.py: the reload failed: ValueError: broken",
            [],  # the worker has said that already
        ),
        (
            Fate(FateState.REFUSED, reason="it does not compile"),
            "train.py: the reload was refused: it does not compile",
            [],
        ),
        (Fate(FateState.VOID), "train.py: the reload was void: no reason was given", []),
        (OSError("no space"), "train.py: the reload could not be asked for: no space", []),
    ],
    ids=["syntax", "failed", "refused", "void", "error"],
)
def test_a_reload_that_fails_is_told_once_and_the_next_one_comes(
    project: Path, run: FakeRun, capfd: pytest.CaptureFixture[str], fate: Fate | Exception, first: str, rest: list[str]
) -> None:
    run.fates = [fate, APPLIED]
    watch(run, project / "train.py")
    save(project / "train.py", run)
    assert told(capfd, 1 + len(rest)) == [f"spark-fast: {first}", *rest]
    save(project / "train.py", run)


def test_nothing_is_said_where_nothing_was_to_do_or_the_run_has_ended(
    project: Path, run: FakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run.fates = [Fate(FateState.APPLIED, step=7, reason="nothing to do: the code has not changed")]
    watch(run, project / "train.py")
    save(project / "train.py", run)
    run.fates = [Fate(FateState.REFUSED, reason="the run has ended")]
    run.status = SparkStatus.FINISHED
    save(project / "train.py", run)
    run.fates = [APPLIED]
    save(project / "train.py", run)
    (said,) = told(capfd, 1)
    assert said.startswith("spark-fast: reloaded train.py at step 7")


def test_a_watcher_that_breaks_says_so_once_and_ends(
    project: Path, run: FakeRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run.loads(project / "train.py")
    (run.folder / "code" / "loaded.jsonl").write_text("nonsense\n")
    watch(run, project / "train.py")
    said = until(lambda: capfd.readouterr().err)
    assert said.startswith("spark-fast: watching has ended: StoreError: ")
    assert said.endswith("the run goes on\n")
    until(lambda: not watchers())


def test_an_idle_watcher_uses_little_cpu(project: Path, run: FakeRun) -> None:
    watch(run, project / "train.py")
    save(project / "train.py", run)
    used = time.process_time()
    time.sleep(2)  # the time over which nothing may happen
    assert time.process_time() - used < 0.1  # other watchers of these tests among it
