"""How the ranks of a job find each other on one host, and who is no rank of it."""

import os
import signal
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import Child, until
from tests.support.ranks import LOOP, Ranks, by_number, standing

pytestmark = pytest.mark.ranks

JOIN_POINTS = [
    "claim:folder", "claim:about", "create:opened", "create:filled", "create:renamed", "attach:filled", "attach:done",
    "join:locked", "join:filled", "join:seated", "join:done",
]  # fmt: skip


def _obeys(run: client.Run) -> None:
    assert run.pause(timeout=10).fate.state == "applied"
    assert len(standing(run)) == 1, run.ranks
    assert run.resume(timeout=10).fate.state == "applied"


def _status(run: client.Run, rank: int) -> str:
    return next((each.status for each in run.ranks if each.rank == rank), "not there")


def test_all_ranks_of_a_job_share_a_run_and_two_jobs_beside_each_other_have_two(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3, job=1) as one, Ranks(tmp_path, 2, job=2) as two:
        first, second = one.run(), two.run()
        assert {run.id for run in client.runs()} == {first.id, second.id}
        assert first.id != second.id
        _obeys(first)
        _obeys(second)
        assert [first.pause(timeout=10).fate.state, second.status] == ["applied", "running"]


@pytest.mark.parametrize("how", ["plain", "runner", "supervised"])
def test_a_name_that_all_ranks_are_given_is_the_runs(tmp_path: Path, how: str) -> None:
    options, env = (("--name", "ours"), {}) if how == "supervised" else ((), {"SPARK_FAST_RUN": "ours"})
    with Ranks(tmp_path, 2, LOOP, *options, how=how, **env) as job:
        run = job.run()
        assert run.id == "ours"
        _obeys(run)


def test_a_name_of_another_jobs_run_is_numbered_alike_in_all_ranks(tmp_path: Path) -> None:
    with Ranks(tmp_path, 2, job=1, SPARK_FAST_RUN="ours") as one, Ranks(tmp_path, 2, job=2, start=False) as two:
        one.run()
        code = LOOP.replace("#TOP", "spark.configure(run='ours')")
        two.script.write_text(code)
        two.start(0)
        two.start(1)
        assert two.run().id == "ours-2"
        _obeys(two.run())


def test_a_rank_that_comes_late_counts_from_0_and_does_what_was_asked_meanwhile_at_the_same_steps(
    tmp_path: Path,
) -> None:
    with Ranks(tmp_path, 2, start=False) as job:
        job.start(1)
        run = job.run(ranks=1)
        step = run.step
        until(lambda: run.step > step + 3, "it has joined, and holds no lock")
        job.processes[1].send_signal(signal.SIGSTOP)
        job.start(0)
        until(lambda: len(run.ranks) == 2)
        request = run.pause(wait=False)
        job.processes[1].send_signal(signal.SIGCONT)
        assert request.wait(10).state == "applied"
        assert len(standing(run)) == 1
        run.resume(timeout=10)
        run.set("lr", 0.5, timeout=10)
        run.stop(timeout=10)
        job.ended()
        assert [line["lr"] for line in job.assert_same().values()][-1] == 0.5
        assert len(job.stops()) == 1


def test_a_rank_that_is_killed_and_started_again_takes_its_slot_where_the_others_are(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3) as job:
        run = job.run()
        for generation in (2, 3):
            run.pause(timeout=10)
            at = standing(run)
            job.kill(1)
            assert by_number(run)[1].status == "lost"
            job.start(1)
            until(lambda: _status(run, 1) == "paused", job.errs)
            assert standing(run) == at
            assert _generation(run, 1) == generation
            run.resume(timeout=10)
            _obeys(run)
        assert len(client.runs()) == 1


def _generation(run: client.Run, slot: int) -> int:
    from spark_fast import _core

    with (run.folder / "control").open("rb") as control:
        found: int = _core.read_slot(control.fileno(), slot)["generation"]
        return found


def test_a_job_that_is_started_again_while_it_stops_is_a_new_run_that_begins_at_0(tmp_path: Path) -> None:
    slow = LOOP.replace("    tell(stopped=stop.step)", "    time.sleep(0.3 + rank)")
    with Ranks(tmp_path, 2, slow) as job:
        old = job.run()
        old.stop(timeout=10)
        job.start(0)
        job.start(1)
        run = until(lambda: next((run for run in client.runs() if run.status == "running"), None), job.errs)
        run = job.run()
        assert run.id == old.id
        assert run.started > old.started
        _obeys(run)
        run.stop(timeout=10)
        assert job.ended() == [0, 0]
        assert {_generation(run, 0), _generation(run, 1)} == {1}


def test_ranks_that_a_launcher_has_started_again_wait_for_the_end_of_those_before_them(tmp_path: Path) -> None:
    """Else some would begin at the step of one that is slow to die, and the rest where these are by then."""
    elastic = {"TORCHELASTIC_RUN_ID": "7", "GROUP_RANK": "0"}
    with Ranks(tmp_path, 3, **elastic, TORCHELASTIC_RESTART_COUNT="0") as job:
        old = job.run()
        slow = job.processes[1]
        job.kill(0)
        job.kill(2)
        job.told_in = job.folder / "again"
        for rank in range(3):
            job.start(rank, TORCHELASTIC_RESTART_COUNT="1")
        until(lambda: all((job.folder / f"again.{rank}").exists() for rank in range(3)), job.errs)
        assert [rank.status for rank in old.ranks] == ["lost", "running", "lost"]
        slow.kill()
        slow.wait()
        run = job.run()
        assert (run.id, len(client.runs())) == (old.id, 1)
        run.stop(timeout=10)
        job.ended()
        assert job.assert_same()[1]["item"] == 0


def test_a_process_that_a_rank_starts_is_a_run_of_its_own_and_disturbs_nothing(tmp_path: Path) -> None:
    code = LOOP.replace("#TOP", "import subprocess, sys").replace(
        "#BODY",
        """if item == 2 and rank == 1:
            loop = "import time, spark_fast as spark; from spark_fast.worker.lifecycle import join; join._SEAT = 1e9\\n"
            loop += "while True: spark.checkpoint(); time.sleep(0.01)"
            child = subprocess.Popen(["sh", "-c", '"$1" -c "$2"; true', "sh", sys.executable, loop])""",
    )
    with Ranks(tmp_path, 2, code) as job:
        until(lambda: len(client.runs(ended=False)) == 2, job.errs)
        run = next(run for run in client.runs() if run.world_size == 2)
        inner = next(run for run in client.runs() if run.world_size == 1)
        assert "rank 1 of this job is there already" in job.err(1)
        assert len(inner.ranks) == 1
        _obeys(run)
        assert inner.pause(timeout=10).fate.state == "applied"
        assert run.status == "running"
        inner.stop(timeout=10)
        _obeys(run)


def test_a_process_with_the_environment_of_a_rank_that_did_not_start_it_waits_for_the_rank_to_end(
    tmp_path: Path,
) -> None:
    """As when a launcher starts a rank again whose old process is slow to die."""
    code = LOOP.replace(
        "#TOP",
        """from spark_fast.worker.lifecycle import join
plain = join._started_by_its_rank
def look(control):
    found = plain(control)
    tell(found=found)
    return found
join._started_by_its_rank = look
""",
    )
    with Ranks(tmp_path, 2, code) as job:
        run = job.run()
        old = job.processes[1]
        job.told_in = job.folder / "again"
        job.start(1, TOGETHER="0")
        until(lambda: len(job.told(1)) > 1, job.errs)
        assert not any(line["found"] for line in job.told(1))
        old.kill()
        old.wait()
        until(lambda: _status(run, 1) == "running" and by_number(run)[1].pid == job.processes[1].pid, job.errs)
        assert len(client.runs()) == 1


def test_children_that_a_rank_forks_are_no_ranks_and_outlive_it_unnoticed(tmp_path: Path) -> None:
    code = LOOP.replace(
        "#BODY",
        """if item == 2 and os.fork() == 0:
            for _ in range(5000):
                spark.checkpoint()
                time.sleep(0.01)
            os._exit(0)""",
    )
    with Ranks(tmp_path, 2, code) as job:
        run = job.run()
        until(lambda: run.step > 5)
        children = job.pids - {process.pid for process in job.processes.values()}
        try:
            assert len(children) == 2
            _obeys(run)
            job.processes[1].kill()
            job.ended(1)
            until(lambda: _status(run, 1) == "lost")  # a child that has not come to run yet still has all that it had
            job.start(1)
            until(lambda: _status(run, 1) == "running", job.errs)
            _obeys(run)
            assert len(client.runs()) == 1
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)


def test_ranks_that_are_turned_off_are_runs_of_their_own(tmp_path: Path) -> None:
    with Ranks(tmp_path, 2, SPARK_FAST_RANKS="off"):
        until(lambda: sum(run.status == "running" for run in client.runs()) == 2)
        assert [run.world_size for run in client.runs()] == [1, 1]
        for run in client.runs():
            _obeys(run)


@pytest.mark.parametrize("point", JOIN_POINTS)
def test_a_rank_killed_while_it_joins_leaves_nothing_that_stands_in_the_way_of_the_others(
    tmp_path: Path, point: str
) -> None:
    code = LOOP.replace("#TOP", 'if os.environ.get("POINT"): _core.arm_point(os.environ["POINT"])')
    with Ranks(tmp_path, 3, code, start=False) as job:
        if point.startswith("join"):
            job.start(0)
            job.run(ranks=1)
        job.start(1, POINT=point)
        assert job.ended(1) == [-signal.SIGKILL]
        if not point.startswith("join"):
            job.start(0)
        job.start(2)
        until(lambda: len({rank.pid for run in client.runs() for rank in run.ranks if rank.status == "running"}) == 2)
        assert len(client.runs()) == 1
        run = client.runs()[0]
        _obeys(run)
        job.start(1)
        until(lambda: _status(run, 1) == "running", job.errs)
        _obeys(run)
        assert "can't be controlled" not in job.errs


def test_a_process_that_is_no_rank_is_left_alone_by_a_job_of_its_name(tmp_path: Path) -> None:
    with Child(tmp_path, name="ours") as child, Ranks(tmp_path, 2, start=False, SPARK_FAST_RUN="ours") as job:
        alone = child.run("ours")
        job.start(0)
        job.start(1)
        assert job.run().id == "ours-2"
        _obeys(job.run())
        child.steps_on(alone)
