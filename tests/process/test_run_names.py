"""Which run, value or function a word names, and what is said where it names none."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.client import AmbiguousRunError, NoSuchRunError
from tests.process.test_cli import cli
from tests.support.child import LOOP, Child

pytestmark = pytest.mark.process

EXPOSED = """
import time
import spark_fast as spark
spark.expose(lr=0.1, loss=0.5, evaluate=lambda split="train": split)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


@pytest.fixture
def otter(tmp_path: Path) -> Iterator[Child]:
    with Child(tmp_path, EXPOSED, name="brave-otter") as child:
        child.run("brave-otter")
        yield child


@pytest.fixture
def three(tmp_path: Path) -> Iterator[None]:
    """The live runs exp-1, exp-10 and other."""
    with ExitStack() as stack:
        for name in ("exp-1", "exp-10", "other"):
            stack.enter_context(Child(tmp_path, LOOP, name=name)).run(name)
        yield


def ended(tmp_path: Path, name: str) -> None:
    with Child(tmp_path, "import spark_fast; spark_fast.checkpoint()", name=name) as child:
        assert child.ended() == 0


# --- runs ---


def test_the_runs_that_ended_last_are_named_where_none_is_live(tmp_path: Path) -> None:
    done = cli("status")
    assert done.returncode == 3
    assert "no run is live; a run begins with the first spark.checkpoint() of a script" in done.stderr
    for name in ("one", "two", "three", "four"):
        ended(tmp_path, name)
    for command in ("status", "journal", "stop"):
        done = cli(command)
        assert done.returncode == 3
        assert "no run is live; to see one that has ended, name it: four, three, two" in done.stderr
    with pytest.raises(NoSuchRunError) as caught:
        client.attach()
    assert caught.value.ended == ["four", "three", "two"]
    assert copy.copy(caught.value).ended == caught.value.ended


def test_the_beginning_of_a_name_is_enough_where_only_one_run_has_it(three: None) -> None:
    assert client.attach("o").id == "other"
    assert client.attach("exp-10").id == "exp-10"
    assert client.attach("exp-1").id == "exp-1"
    with pytest.raises(AmbiguousRunError, match=r"2 runs begin with 'exp', name one of them: exp-1, exp-10") as caught:
        client.attach("exp")
    assert (caught.value.run, caught.value.candidates) == ("exp", ["exp-1", "exp-10"])
    with pytest.raises(NoSuchRunError, match=r"no run 'exp-11'; live: exp-1, exp-10, other"):
        client.attach("exp-11")
    for name in ("", ".", "../exp-1", "EXP-1", "exp-1/"):
        with pytest.raises(NoSuchRunError):
            client.attach(name)


def test_a_program_can_ask_for_the_whole_name(three: None) -> None:
    with pytest.raises(NoSuchRunError):
        client.attach("oth", exact=True)
    assert client.attach("other", exact=True).id == "other"
    assert not client.is_worker_initialized("oth")
    assert client.is_worker_initialized("other")


def test_a_copy_of_a_run_that_is_gone_is_not_another_run(tmp_path: Path) -> None:
    ended(tmp_path, "exp-1")
    run = client.attach("exp-1")
    with Child(tmp_path, LOOP, name="exp-10") as child:
        child.run("exp-10")
        client.remove_ended()
        assert client.attach("exp-1").id == "exp-10"
        with pytest.raises(NoSuchRunError):
            copy.copy(run)


def test_a_live_run_is_meant_before_one_that_has_ended(tmp_path: Path) -> None:
    ended(tmp_path, "exp-1")
    assert client.attach("exp").id == "exp-1"
    ended(tmp_path, "exp-2")
    with pytest.raises(AmbiguousRunError):
        client.attach("exp")
    with Child(tmp_path, LOOP, name="exp-3") as child:
        child.run("exp-3")
        assert client.attach("exp").id == "exp-3"
        assert client.attach("exp-1").id == "exp-1"


def test_every_command_takes_the_beginning_of_a_name(otter: Child) -> None:
    for command in (
        ["status", "brave"],
        ["pause", "brave"],
        ["get", "brave"],
        ["get", "brave", "lr"],
        ["set", "brave", "lr=0.3"],
        ["call", "brave", "evaluate"],
        ["advance", "brave", "2"],
        ["resume", "brave"],
        ["versions", "brave"],
        ["journal", "brave"],
        ["stop", "brave"],
    ):
        done = cli(*command)
        assert done.returncode == 0, (command, done.stderr)


def test_a_command_that_could_mean_several_runs_lists_them(three: None) -> None:
    for words in ("status exp", "stop exp", "get exp", "call exp evaluate", "journal exp"):
        done = cli(*words.split())
        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr == "spark-fast: 2 runs begin with 'exp', name one of them: exp-1, exp-10\n"
    assert {run.id for run in client.runs(ended=False)} == {"exp-1", "exp-10", "other"}


def test_the_journal_of_a_removed_run_is_shown_before_that_of_another_whose_name_begins_so(tmp_path: Path) -> None:
    for name in ("exp-1", "exp-10"):
        with Child(tmp_path, LOOP, name=name) as child:
            child.run(name).stop()
            child.ended()
        if name == "exp-1":
            client.remove_ended()
    assert client.attach("exp-1").id == "exp-10"
    assert cli("journal", "exp-1").stdout.startswith("run exp-1:")
    assert cli("journal", "exp").stdout.startswith("run exp-10:")


# --- values and functions ---


@pytest.mark.parametrize("words", ["get lrr", "get brave-otter lrr", "watch lrr", "watch brave lrr"])
def test_a_value_that_is_not_there_is_refused_with_the_one_that_may_be_meant(otter: Child, words: str) -> None:
    done = cli(*words.split())
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "spark-fast: run brave-otter: no exposed value is called 'lrr' (did you mean 'lr'?); there are: loss, lr\n"
    )


@pytest.mark.parametrize("words", [["set", "lrr=1"], ["set", "brave", "lrr=1"]])
def test_setting_a_value_that_is_not_there_is_refused_likewise(otter: Child, words: list[str]) -> None:
    done = cli(*words)
    assert done.returncode == 1
    assert "no exposed value is called 'lrr' (did you mean 'lr'?); there are: loss, lr\n" in done.stderr


@pytest.mark.parametrize("words", [["call", "evaluat"], ["call", "brave", "evaluat"], ["call", "evaluat", "{}"]])
def test_calling_a_function_that_is_not_there_is_refused_likewise(otter: Child, words: list[str]) -> None:
    done = cli(*words)
    assert done.returncode == 1
    assert "no exposed function is called 'evaluat' (did you mean 'evaluate'?)" in done.stderr


def test_an_argument_that_is_no_json_is_not_taken_for_a_function_of_another_run(otter: Child) -> None:
    done = cli("call", "evaluate", "test")
    assert done.returncode == 2
    assert done.stderr.startswith("spark-fast: the arguments of evaluate are an object")
    assert cli("call", "nothing", "test").returncode == 3


def test_a_value_that_is_called_as_a_run_begins_is_the_value(tmp_path: Path) -> None:
    with Child(tmp_path, EXPOSED, name="lr-search") as child:
        child.run("lr-search")
        assert cli("get", "lr").stdout == "0.1\n"
        assert cli("get", "lr-s", "lr").stdout == "0.1\n"


def test_a_word_that_names_nothing_where_several_runs_live_is_no_run(three: None) -> None:
    done = cli("get", "lrr")
    assert (done.returncode, done.stderr) == (3, "spark-fast: no run 'lrr'; live: exp-1, exp-10, other\n")
