"""What the command line says of a run of several ranks, with real processes."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from spark_fast import client
from spark_fast.cli import ranks
from spark_fast.client import Rank, SparkStatus
from spark_fast.client.send import ask
from spark_fast.request import Kind
from spark_fast.status import ranges, trouble_of
from tests.process.test_cli import cli
from tests.support.child import DEADLINE, LOOP, Child, until
from tests.support.job import RANKS, Job

pytestmark = pytest.mark.ranks


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with Job(tmp_path / "job") as found:
        found.run()
        yield found


def status_of(*words: str) -> list[str]:
    """What `status` says, line by line."""
    done = cli("status", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return [line.rstrip() for line in done.stdout.splitlines()]


def table(lines: list[str], heading: str = "RANK") -> list[list[str]]:
    """The rows below the line that begins with this heading."""
    at = next(number for number, line in enumerate(lines) if line.split()[:1] == [heading])
    below = lines[at + 1 :]
    return [line.split() for line in below[: below.index("") if "" in below else None]]


# --- what is there ---


def test_ps_says_how_many_ranks_there_are_where_a_run_has_several(job: Job, tmp_path: Path) -> None:
    with Child(tmp_path / "alone", LOOP, name="alone") as child:
        child.run("alone")
        heads, *rows = (line.split() for line in cli("ps").stdout.splitlines())
        assert heads[:4] == ["RUN", "STATUS", "RANKS", "STEP"]
        assert {row[0]: row[2] for row in rows} == {"job": "3", "alone": "1"}
        job.kill(2)
        heads, *rows = (line.split() for line in cli("top").stdout.splitlines())
        assert {row[0]: row[2] for row in rows} == {"job": "2/3", "alone": "1"}


def test_ps_has_no_column_for_ranks_where_each_run_is_one_process(tmp_path: Path) -> None:
    with Child(tmp_path / "alone", LOOP, name="alone") as child:
        child.run("alone")
        assert "RANKS" not in cli("ps").stdout


def test_status_lists_each_rank_with_its_step_and_how_long_it_does_what_it_does(job: Job) -> None:
    assert client.attach("job").pause(timeout=DEADLINE).fate.state == "applied"
    paused = time.monotonic()
    step = str(client.attach("job").step)
    until(lambda: time.monotonic() > paused + 2, "two seconds of a pause")
    lines = status_of()
    assert lines[0] == f"job is paused at step {step}"
    assert any(line.split() == "ranks 3 of 3 are there".split() for line in lines)
    rows = table(lines)
    assert [[row[0], row[1], row[3], row[4]] for row in rows] == [
        [str(rank), "paused", step, str(job.ranks[rank].pid)] for rank in range(3)
    ]
    assert all(2 <= int(row[2].removesuffix("s")) < 30 for row in rows)


def test_ranks_that_have_not_come_yet_are_named(tmp_path: Path) -> None:
    with Job(tmp_path / "job", absent=(1,)) as job:
        job.run()
        assert any(line.endswith("2 of 3 are there; rank 1 has not come yet") for line in status_of())


def test_ranks_of_other_hosts_are_told_from_those_that_are_missing(tmp_path: Path) -> None:
    with Job(tmp_path / "job", size=2, world_size=8) as job:
        job.run()
        assert any(line.endswith("2 of 2 are there; the job has 8, 6 of them on other hosts") for line in status_of())
        found = json.loads(cli("status", "--json").stdout)
        assert (found["world_size"], found["local_world_size"]) == (8, 2)


def test_ranks_of_other_hosts_are_counted_where_they_are_known() -> None:
    found = [replace(rank, host=f"node{rank.rank // 2}") for rank in many(8)]
    assert ranks.present(found, 2, 8) == "8 of 8 are there, on 4 hosts"
    assert ranks.present(found[:7], 2, 8) == "7 of 8 are there, on 4 hosts; rank 7 has not been heard of"
    assert ranks.present(found[:2], 2, 8) == "2 of 2 are there; the job has 8, 6 of them on other hosts"
    # Hosts of one name, as several agents on one machine are.
    assert ranks.present(many(8), 2, 8) == "8 of 8 are there"


# --- what is wrong ---


def test_a_rank_that_was_killed_is_lost_and_the_run_is_what_the_others_are(job: Job) -> None:
    run = client.attach("job")
    job.kill(1)
    died = time.time()
    # Whoever looks first learns when that was.
    assert client.attach("job").ranks[1].since >= died
    lines = status_of()
    assert lines[0].startswith("job is running at step ")
    lost = next(rank for rank in run.ranks if rank.rank == 1)
    assert lost.since < died + DEADLINE
    clock = time.strftime("%H:%M:%S", time.localtime(lost.since))
    assert lines[1] == f"  rank 1 is lost since {clock}, last seen at step {lost.step}"
    assert [row[1] for row in table(lines)] == ["running", "lost", "running"]
    assert any(line.split() == "ranks 2 of 3 are there".split() for line in lines)
    until(lambda: run.step > lost.step + 3, "steps of the others")
    assert run.pause(timeout=DEADLINE).fate.state == "applied"
    assert status_of()[0] == f"job is paused at step {run.step}"
    assert cli("resume").returncode == 0


def test_a_rank_that_hangs_is_named_with_the_age_of_what_it_has_not_come_to(job: Job) -> None:
    job.hang(2)
    try:
        done = cli("pause", "--timeout", "3")
        assert done.returncode == 4
        assert re.search(r"\(rank 2 has not come to a request that was asked [23]s ago, and others have: ", done.stderr)
        assert "the pause stands; 'spark-fast resume job' calls it off" in done.stderr
        lines = status_of()
        assert lines[0].startswith("job is pausing at step ")
        assert lines[1].startswith("  rank 2 has not come to a request that was asked ")
        assert lines[1].endswith(" ago, and others have: it hangs, or its step takes long")
        assert [row[1] for row in table(lines)] == ["paused", "paused", "running"]
    finally:
        job.ranks[2].process.send_signal(signal.SIGCONT)
    until(lambda: status_of()[0].startswith("job is paused"), "the pause")
    assert not any("rank 2" in line for line in status_of())


def test_a_rank_that_is_far_behind_is_named(job: Job) -> None:
    run = client.attach("job")
    job.hang(0)
    until(lambda: max(rank.behind for rank in run.ranks) > 2000, "a lead of two thousand steps")
    found = next(line for line in status_of() if line.startswith("  rank 0 is "))
    assert found.endswith(" steps behind")
    assert int(found.split()[3]) > 2000


def test_a_rank_that_failed_is_named(tmp_path: Path) -> None:
    code = """
import os, time
import spark_fast as spark
for step in range(1_000_000):
    spark.checkpoint()
    if os.environ["RANK"] == "1" and os.path.exists(__file__ + ".go"):
        raise ValueError("no data")
    time.sleep(0.002)
"""
    with Job(tmp_path / "job", code) as job:
        run = job.run()
        job.ranks[1].go()
        job.ranks[1].ended()
        step = next(rank.step for rank in run.ranks if rank.rank == 1)
        lines = status_of()
        assert lines[0].startswith("job is running at step ")
        assert lines[1].startswith("  rank 1 has failed at ") and lines[1].endswith(f", at step {step}")


def test_a_stop_with_a_deadline_says_how_much_time_is_left(tmp_path: Path) -> None:
    with Job(tmp_path / "job", SAVING="30") as job:
        run = job.run()
        ask(run._connection, Kind.STOP, False, DEADLINE, duration=90.0)
        by = run.stop_by
        assert by is not None
        found = next(line for line in status_of() if line.split()[:2] == ["stops", "by"])
        clock = time.strftime("%H:%M:%S", time.localtime(by))
        assert found.split()[2] == f"{clock},"
        assert found.split()[-1] == "left" and found.split()[-2].startswith("1m")


def test_a_stop_after_which_a_rank_is_lost_says_which(tmp_path: Path) -> None:
    with Job(tmp_path / "job", STEP="0.005") as job:
        job.run()
        job.kill(2)
        done = cli("stop", "--timeout", "20")
        assert done.returncode == 5
        assert "spark-fast: run job is lost (rank 2 is lost since " in done.stderr
        assert json.loads(cli("ps", "--json").stdout)[0]["ranks"][0]["status"] == "stopped"


# --- many of them ---


def many(count: int) -> list[Rank]:
    """So many ranks that run."""
    return [Rank(number, SparkStatus.RUNNING, 812, 1000 + number, "node1", since=1000.0) for number in range(count)]


def rows_of(groups: list[ranks.Group]) -> list[tuple[str, str, str, str]]:
    return [(group.ranks, str(group.first.status), group.steps, group.since) for group in groups]


def test_of_many_ranks_those_that_are_alike_share_a_line() -> None:
    found = many(64)
    assert rows_of(ranks.grouped(found, 10.0, 1060.0)) == [("0-63", "running", "812", "1m00s")]
    found[7] = replace(found[7], step=813, since=1030.0)
    found[9] = replace(found[9], status=SparkStatus.LOST, step=700, since=1059.0)
    found[11] = replace(found[11], step=500, behind=313)
    assert rows_of(ranks.grouped(found, 10.0, 1060.0)) == [
        ("0-8, 10, 12-63", "running", "812–813", "30s–1m00s"),
        ("9", "lost", "700", "1s"),
        ("11", "running", "500", "1m00s"),
    ]
    assert len(ranks.grouped(found, 10.0, 1060.0, each=True)) == 64
    assert len(ranks.grouped(found[:16], 10.0, 1060.0)) == 16


def test_status_lists_each_of_many_ranks_only_when_it_is_asked_to(tmp_path: Path) -> None:
    quick = {"SPARK_FAST_JOURNAL": "off", "STEP": "0.05"}
    with Job(tmp_path / "job", size=17, **quick) as job:
        run = job.run()
        run.pause(timeout=DEADLINE)
        assert [row[:2] for row in table(status_of())] == [["0-16", "paused"]]
        assert "17 processes" in "\n".join(status_of())
        assert [row[0] for row in table(status_of("--all"))] == [str(rank) for rank in range(17)]
        assert len(json.loads(cli("status", "--json").stdout)["ranks"]) == 17


def test_what_is_wrong_with_many_ranks_is_one_sentence() -> None:
    found = many(64)
    for number in range(8, 16):
        found[number] = replace(found[number], status=SparkStatus.LOST, step=700 + number, since=1000.0 + number)
    found[20] = replace(found[20], overdue=14.2)
    found[21] = replace(found[21], overdue=3.0)
    now = 1100.0
    first, last = (time.strftime("%H:%M:%S", time.localtime(1000.0 + number)) for number in (8, 15))
    assert ranks.concerns(found, 10.0, now) == [
        f"ranks 8-15 are lost since {first}–{last}, last seen at steps 708–715",
        "rank 20 has not come to a request that was asked 14s ago, and others have: it hangs, or its step takes long",
        "rank 21 has not come to a request that was asked 3s ago, and others have: it hangs, or its step takes long",
    ]
    for number in range(20, 25):
        found[number] = replace(found[number], overdue=14.2)
    assert ranks.concerns(found, 10.0, now, only=["overdue"]) == [
        "ranks 20-24 have not come to a request that was asked 14s ago, and others have: "
        "they hang, or their steps take long"
    ]


def test_ranks_that_are_not_heard_are_said_to_be_so() -> None:
    found = many(4)
    for number in (2, 3):
        found[number] = replace(found[number], status=SparkStatus.UNHEARD, step=700, host="node2", since=1000.0)
    assert ranks.present(found, 2, 4) == "2 of 4 are there, on 2 hosts; ranks 2-3 are not heard"
    at = time.strftime("%H:%M:%S", time.localtime(1000.0))
    assert ranks.concerns(found[:3], None, 1100.0) == [
        f"rank 2 has not been heard since {at} (node2), last seen at step 700"
    ]
    ended = [replace(rank, status=SparkStatus.STOPPED) for rank in found[:2]] + found[2:]
    assert ranks.present(ended, 2, 4) == "0 of 4 are there, on 2 hosts; ranks 2-3 are not heard"


def test_a_rank_is_behind_if_it_is_so_by_more_than_a_second_and_ten_steps() -> None:
    rank = many(1)[0]
    behind = {
        (steps, speed): trouble_of(replace(rank, behind=steps), speed)
        for steps in (10, 11, 400)
        for speed in (1.0, 500.0)
    }
    assert {key for key, trouble in behind.items() if trouble == "behind"} == {(11, 1.0), (400, 1.0)}
    assert trouble_of(replace(rank, behind=11), None) == "behind"
    assert trouble_of(replace(rank, behind=100, stride=10), 1.0) == ""  # ten checkpoints
    assert trouble_of(replace(rank, behind=101, stride=10), 1.0) == "behind"
    assert trouble_of(replace(rank, overdue=1.0, behind=400), 1.0) == "overdue"


def test_numbers_of_ranks_are_ranges() -> None:
    assert ranges([3]) == "3"
    assert ranges([5, 0, 1, 2, 7, 8]) == "0-2, 5, 7-8"
    assert ranges(range(0, 60, 2)) == "0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22 and 18 more"


# --- what is asked of them ---


def test_a_call_is_of_rank_0_or_another_or_all(job: Job) -> None:
    assert json.loads(cli("call", "evaluate").stdout) == {"rank": 0, "split": "test"}
    done = cli("call", "job", "evaluate", '{"split": "val"}', "--ranks", "2")
    assert json.loads(done.stdout) == {"rank": 2, "split": "val"}
    assert done.stderr == "rank 2 evaluates val\n"
    done = cli("call", "evaluate", "--ranks", "all")
    assert json.loads(done.stdout) == {str(rank): {"rank": rank, "split": "test"} for rank in range(3)}
    assert done.stderr == "".join(f"rank {rank} evaluates test\n" for rank in range(3))
    found = json.loads(cli("call", "evaluate", "--ranks", "all", "--json").stdout)
    assert found["ranks"] == "all" and list(found["result"]) == ["0", "1", "2"]


def test_a_call_is_of_all_ranks_where_the_script_says_so_and_the_caller_nothing(job: Job) -> None:
    done = cli("call", "gather")
    assert json.loads(done.stdout) == {str(rank): {"rank": rank, "split": "test"} for rank in range(3)}
    assert json.loads(cli("call", "gather", "--ranks", "1").stdout) == {"rank": 1, "split": "test"}
    assert json.loads(cli("call", "gather", "--ranks", "0").stdout) == {"rank": 0, "split": "test"}
    assert "gather(split: str = 'test')   on all ranks   How good this rank is." in cli("get").stdout


def test_a_call_that_fails_says_in_which_ranks(job: Job) -> None:
    done = cli("call", "broken", "--ranks", "all")
    assert done.returncode == 1
    assert done.stderr.startswith("spark-fast: rank 1: ValueError: no data for 1\nTraceback ")
    assert any("failed at step" in line and "rank 1: ValueError: no data for 1" in line for line in status_of())


def test_a_call_of_a_rank_that_is_not_there_is_refused(job: Job) -> None:
    job.kill(1)
    done = cli("call", "evaluate", "--ranks", "1")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "rank 1 is not there; there are 0, 2" in done.stderr
    assert cli("call", "evaluate", "--ranks", "some").returncode == 2


# --- what a job of several ranks can't be asked for, and what is done once ---


def supervised(folder: Path, *options: str, size: int = 3, world_size: int | None = None) -> Job:
    """A job whose launcher starts `spark-fast run` in each rank."""
    path = folder / "train.py"
    path.write_text(RANKS)
    return Job(folder / "job", "", "-m", "spark_fast", "run", *options, str(path), size=size, world_size=world_size)


def test_a_reset_is_refused_since_only_the_launcher_starts_ranks_afresh(tmp_path: Path) -> None:
    with supervised(tmp_path) as job:
        run = job.run()
        done = cli("reset")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "run 'job' can't be reset: a launcher has started its 3 ranks" in done.stderr
        assert "'spark-fast stop job'" in done.stderr
        with pytest.raises(client.ResetError):
            client.reset_worker("job", timeout=DEADLINE)
        assert run.requests == []
        job.ranks[0].steps_on(run)


@pytest.mark.parametrize(("here", "everywhere"), [(3, 3), (1, 2)])
def test_a_journal_is_replayed_in_no_job_of_several_ranks(tmp_path: Path, here: int, everywhere: int) -> None:
    journal = tmp_path / "journal.jsonl"
    script = tmp_path / "train.py"
    script.write_text(RANKS)
    with Child(tmp_path, "", "-m", "spark_fast", "run", "--journal", str(journal), str(script), RANK="0") as child:
        child.run().stop(timeout=DEADLINE)
        assert child.ended() == 0
    with supervised(tmp_path, "--replay", str(journal), size=here, world_size=everywhere) as job:
        for child in job.ranks.values():
            assert child.ended() == 1
            assert f"the journal {journal} can't be replayed: this process is one of several ranks" in child.err
            assert "Traceback" not in child.err


def test_one_supervisor_of_a_job_watches_its_files_and_serves_its_page(tmp_path: Path) -> None:
    with supervised(tmp_path, "--watch", "--ui") as job:
        run = job.run()
        address = "the page that shows and steers your runs"
        until(lambda: address in job.ranks[0].err, "the address of the page")
        until(lambda: run.version == 1, "its code")
        script = tmp_path / "train.py"
        script.write_text(RANKS.replace("lr=0.1", "lr=0.2"))
        until(lambda: "reload" in job.ranks[0].err, "the reload")
        until(lambda: run.values["lr"].value == 0.2, "the new code")
        assert [request.kind for request in run.requests] == ["reload"]
        for rank in (1, 2):
            assert "reload" not in job.ranks[rank].err and address not in job.ranks[rank].err
            assert not any("--beside" in each.cmdline() for each in psutil.Process(job.ranks[rank].pid).children())


def test_a_supervisor_says_which_rank_was_killed(tmp_path: Path) -> None:
    with supervised(tmp_path) as job:
        run = job.run()
        worker = run.ranks[2].pid
        run.pause(timeout=DEADLINE)
        os.kill(worker, signal.SIGKILL)
        assert job.ranks[2].ended() == 137
        step = run.step
        assert f"the worker of run job (rank 2) was killed by SIGKILL at step {step}" in job.ranks[2].err
        assert run.status == "paused"
