"""Reloads under the supervisor: what is saved is reloaded, and a reset begins with nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from spark_fast import client
from tests.process.test_reload import NESTED, ONE
from tests.support.child import until
from tests.support.reloading import Edited

pytestmark = pytest.mark.process

LONG = ONE.replace("range(200)", "range(100000)")


class Supervised(Edited):
    """The same under `spark-fast run`, and its options."""

    module = "spark_fast"

    def saved(self, old: str, new: str, name: str = "train.py") -> None:
        """Edits a file as editors do: a new one takes its place."""
        path = self.project / name
        source = path.read_text()
        assert old in source
        fresh = path.with_suffix(".tmp")
        fresh.write_text(source.replace(old, new))
        fresh.replace(path)


def test_what_is_saved_is_reloaded(tmp_path: Path) -> None:
    with Supervised(tmp_path, LONG, options=("--watch",)) as training:
        training.says(3)
        training.saved('"old"', '"new"')
        until(lambda: training.said[-1][1] == "new", training.err)
        until(lambda: "spark-fast: reloaded train.py at step" in training.err)
        said = training.said
        assert [line[0] for line in said] == list(range(len(said)))


@pytest.mark.parametrize("options", [("--watch",), ()], ids=["watched", "not"])
def test_who_is_watched_waits_for_no_import_at_the_first_edit(tmp_path: Path, options: tuple[str, ...]) -> None:
    code = 'import json, sys\nprint(json.dumps("spark_fast.worker.reload.transaction" in sys.modules))\n'
    with Supervised(tmp_path, code, options=options) as training:
        assert training.over() == [bool(options)]


def test_a_module_in_a_reload_dir_is_watched_and_reloaded(tmp_path: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    (more / "helper.py").write_text("def word():\n    return 'old'\n")
    code = f"import sys\nsys.path.append({str(more)!r})\nimport helper\n" + LONG.replace(
        'return "old"', "return helper.word()"
    )
    with Supervised(tmp_path, code, options=("--watch", "--reload-dir", str(more))) as training:
        training.says(3)
        (more / "helper.py").write_text("def word():\n    return 'new'\n")
        until(lambda: training.said[-1][1] == "new", training.err)


def test_a_broken_save_is_told_and_the_next_good_one_is_taken(tmp_path: Path) -> None:
    with Supervised(tmp_path, LONG, options=("--watch",)) as training:
        training.says(3)
        training.saved('return "old"', 'return "old')
        until(lambda: "SyntaxError" in training.err)
        training.saved('return "old', "return undefined #")
        until(lambda: "NameError" in training.err)
        count = len(training.said)
        assert training.says(3, count)[0] == [count, "old"]
        assert training.err.count("NameError: name 'undefined' is not defined") == 1, "the worker says it, and only it"
        training.saved("return undefined #", 'return "new"')
        until(lambda: training.said[-1][1] == "new", training.err)


def test_a_reset_begins_with_nothing_persisted_and_with_what_is_on_disk(tmp_path: Path) -> None:
    with Supervised(tmp_path, NESTED) as training:
        training.says(50)
        run = training.run()
        training.reloaded(code=training.source().replace('"old"', '"pushed"'))
        before = run.ranks[0].pid
        fresh = client.reset_worker("test", timeout=60)
        assert fresh.ranks[0].pid != before
        assert client.is_worker_initialized("test")
        assert fresh.version == 1
        begun = next(at for at, line in enumerate(training.said) if at > 50 and line[:2] == [0, 0])
        assert training.said[begun][2] == "old"
        training.edit('"old"', '"new"')
        training.reloaded()
        count = len(training.said)
        assert training.says(1, count)[0][2] == "new"


def test_a_replay_and_a_journal_are_handed_on(tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    with Supervised(tmp_path, ONE, options=("--journal", str(kept))) as training:
        training.says(3)
        training.run().stop(timeout=30)
        training.ended()
        said = training.said
    command = ["run", "--replay", str(kept), "--journal", "off", str(training.project / "train.py")]
    done = subprocess.run(
        [sys.executable, "-m", "spark_fast", *command],
        cwd=training.project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (training.project / "off").exists()
    assert [json.loads(line) for line in done.stdout.splitlines()] == said
