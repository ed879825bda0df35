"""Reloads of a run of several ranks: all run the new code from the same step on, or none does."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.client import Request
from tests.support.child import outcome, until
from tests.support.ranks import LOCKSTEP, LOOP, Ranks, by_number, standing

pytestmark = pytest.mark.ranks

ROUNDS = int(os.environ.get("SPARK_FAST_TEST_ROUNDS", "25"))
"""Reloads and other requests, one after the other. A long hunt: SPARK_FAST_TEST_ROUNDS=500."""
VOTE_POINTS = ["vote:given", "vote:counted", "turn:folded", "turn:applied", "done:told"]


def _reload(run: client.Run, where: str, code: str, source: str = LOOP, *, wait: bool = True) -> Request:
    assert where in source
    return outcome(run.reload, source.replace(where, code), wait=wait, timeout=30 if wait else None)


def _over(job: Ranks, run: client.Run, *ranks: int) -> None:
    """Stops it, and asserts that each step stood for the same item in all ranks."""
    run.resume(timeout=10)
    stop = run.stop(timeout=10)
    assert stop.fate.state == "applied", stop.fate
    assert job.ended(*ranks) == [0] * (len(ranks) or job.count), job.errs
    job.assert_same(*ranks)


def test_new_code_runs_in_all_ranks_from_the_same_step_on(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3, how="runner") as job:
        run = job.run()
        for number in range(5):
            assert _reload(run, "lr=state.lr", f"lr=state.lr + {number + 1}000").fate.state == "applied"
            run.advance(3, timeout=10)
            run.resume(timeout=10)
        _over(job, run)
        told = [int(line["lr"]) // 1000 for line in job.steps(0).values()]
        assert sorted(told) == told, "with the first item of the new code none of the old comes any more"
        assert set(told) == set(range(6))


@pytest.mark.parametrize("bad", ["", "1/0", "if os.environ['RANK'] == '1': 1/0"], ids=["good", "bad", "bad in one"])
def test_ranks_that_are_reloaded_while_they_are_parked_stay_there_and_advance_by_what_is_asked(
    tmp_path: Path, bad: str
) -> None:
    with Ranks(tmp_path, 3, how="runner") as job:
        run = job.run()
        for number in range(3):
            run.pause(timeout=10)
            for again in range(number + 1):
                before = standing(run)
                request = _reload(run, "#TOP", f"{bad} # {number} {again}")
                assert request.fate.state == ("failed" if bad else "applied")
                until(lambda: {rank.status for rank in run.ranks} == {"paused"}, job.errs)
                assert standing(run) == before
                told = [len(job.told(rank)) for rank in range(3)]
                assert run.advance(2, timeout=10).fate.state == "applied"
                assert standing(run) == {step + 2 for step in before}
                assert [len(job.told(rank)) for rank in range(3)] == [count + 2 for count in told]
            run.resume(timeout=10)
        _over(job, run)


BAD = {
    "at the top, in one": ("#TOP", "if os.environ['RANK'] == '1': 1/0"),
    "at the top, in all": ("#TOP", "1/0"),
    "in the body, in one": ("#BODY", "1/(rank - 1)"),
    "in the body, in all": ("#BODY", "1/0"),
    "at an import, in one": ("#TOP", "import broken_in_1"),
    "no syntax for this rank": ("#TOP", "if os.environ['RANK'] == '2': compile('(', '', 'exec')"),
    "ends in one": ("#BODY", "if rank == 1: raise SystemExit(3)"),
    "ends well in two, in none of them before the third has failed": (
        "#BODY",
        "if rank == 1: 1/0\n        break",
    ),
}


@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
def test_what_one_rank_can_not_run_is_taken_back_in_all(tmp_path: Path, parked: bool) -> None:
    with Ranks(tmp_path, 3, how="runner") as job:
        (job.folder / "broken_in_1.py").write_text("import os\nif os.environ['RANK'] == '1': 1/0\n")
        run = job.run()
        for bad, (where, code) in BAD.items():
            if parked:
                run.pause(timeout=10)
            request = _reload(run, where, code)
            # Parked, it has come as far as it can: what stands in the body shows when it goes on.
            assert request.fate.state == ("applied" if parked and where == "#BODY" else "failed"), (bad, job.errs)
            run.resume(timeout=10)
            run.set("lr", 7.0, timeout=10)
            assert _reload(run, "#BODY", f"pass # {bad}").fate.state == "applied"
        _over(job, run)
        assert [line["lr"] for line in job.steps(2).values()][-1] == 7.0


def test_code_that_one_rank_can_not_read_is_refused_by_all_and_none_leaves_its_loop(tmp_path: Path) -> None:
    code = LOOP.replace(
        "#TOP",
        """
from spark_fast.runfiles.versions import Store
from spark_fast.errors import StoreError
if os.environ["RANK"] == "1":
    def source(self, digest):
        raise StoreError("here", "no such disk")
    Store.source = source
""",
    )
    with Ranks(tmp_path, 3, code, how="runner") as job:
        run = job.run()
        request = _reload(run, "#BODY", "pass", code)
        assert request.fate.state == "refused"
        assert "rank 1: " in request.fate.reason
        assert "no such disk" in request.fate.reason
        assert run.version == 1
        _over(job, run)
        assert all(len(job.told(rank)) == len(job.steps(rank)) + 1 for rank in range(3))


def test_a_rank_that_nobody_runs_again_refuses_a_reload_for_all(tmp_path: Path) -> None:
    """The others have a host, and would go: it says so, and they need not wait for it."""
    with Ranks(tmp_path, 2, how="runner", start=False) as job:
        job.start(0)
        job.run(ranks=1)
        plain = Ranks(tmp_path, 2, start=False)
        with plain:
            plain.start(1)
            run = job.run(ranks=2)
            assert _reload(run, "#BODY", "pass").fate.state == "refused"
            assert run.pause(timeout=10).fate.state == "applied"
            assert len(standing(run)) == 1


@pytest.mark.parametrize("bad", [False, True], ids=["good", "bad"])
def test_a_rank_killed_while_they_vote_is_not_waited_for(tmp_path: Path, bad: bool) -> None:
    with Ranks(tmp_path, 3, how="runner") as job:
        run = job.run()
        for point in VOTE_POINTS:
            run.request_call("arm", [point], ranks=1, wait=False)
            for number in range(100):  # the votes are counted by whoever comes last
                code = f"{'1/0' if bad else 'pass'} # {point} {number}"
                request = _reload(run, "#BODY", code, wait=False)
                fate = request.wait(15)
                assert fate.state in (("failed", "refused") if bad else ("applied", "failed", "refused")), fate
                if job.processes[1].poll() is not None:
                    break
            assert job.ended(1) == [-signal.SIGKILL], point
            assert by_number(run)[1].status == "lost"
            assert by_number(run)[1].since > 0
            assert run.set("lr", 3.0, timeout=10).fate.state == "applied"
            assert _reload(run, "#BODY", f"pass # {point}").fate.state == "applied"
            job.start(1)
            until(lambda: by_number(run)[1].status == "running", job.errs)
        _over(job, run, 0, 2)


@pytest.mark.parametrize("when", ["prepares", "executes"])
def test_a_rank_that_hangs_is_waited_for_and_past_all_patience_the_reload_is_off(tmp_path: Path, when: str) -> None:
    slow = """
from spark_fast.runfiles.versions import Store
import work
if not hasattr(Store, "plain"):
    Store.plain = Store.source
def source(self, digest):
    if rank == 1 and os.environ["WHEN"] == "prepares" and not os.path.exists("late"):
        os.mkdir("late")
        time.sleep(3)
    return self.plain(digest)
Store.source = source
"""
    code = LOCKSTEP.replace("state = ", f"{slow}state = ")
    with Ranks(tmp_path, 3, code, how="runner", start=False, WHEN=when, PATIENCE="1", TOGETHER="3") as job:
        work = job.folder / "work.py"
        work.write_text("")
        for rank in range(3):
            job.start(rank)
        run = job.run()
        hang = "import os, time\nif os.environ['RANK'] == '1': os.path.exists('late') or time.sleep(3)\n"
        work.write_text(hang if when == "executes" else "# changed")
        request = outcome(run.reload, timeout=30)
        assert request.fate.state == "failed", request.fate
        assert "another rank can't execute it" in job.err(0) or when == "prepares"
        assert run.set("lr", 3.0, timeout=10).fate.state == "applied"
        work.write_text("# another")
        again = run.reload(timeout=30)
        assert again.fate.state == "applied", (again.fate, job.errs)
        _over(job, run)


def test_a_module_that_one_rank_can_not_execute_is_put_back_in_all(tmp_path: Path) -> None:
    code = LOOP.replace("#TOP", "import work").replace("lr=state.lr", "lr=work.number")
    with Ranks(tmp_path, 3, code, how="runner", start=False, TOGETHER="3") as job:
        work = job.folder / "work.py"
        work.write_text("number = 0\n")
        for rank in range(3):
            job.start(rank)
        run = job.run()
        for number in range(1, 5):
            work.write_text(f"import os\nnumber = {-number}\nif os.environ['RANK'] == '{number % 3}': 1/0\n")
            assert outcome(run.reload, timeout=30).fate.state == "failed"
            work.write_text(f"number = {number}\n")
            assert run.reload(timeout=30).fate.state == "applied"
            run.advance(2, timeout=10)
            run.resume(timeout=10)
        _over(job, run)
        assert {line["lr"] for line in job.told(0) if "lr" in line} == set(range(5))


def test_reloads_that_come_at_once_and_mail_between_them_are_done_in_turn(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3, how="runner") as job:
        run = job.run()
        asked = []
        for number in range(6):
            asked.append(_reload(run, "#BODY", "pass" if number % 3 else "1/(rank - 1)", wait=False))
            asked.append(run.set("lr", float(number), wait=False))
            asked.append(run.request_call("note", [number], ranks="all", wait=False))
        fates = [request.wait(30).state for request in asked]
        assert fates[1::3] == fates[2::3] == ["applied"] * 6
        assert fates[-3] == "applied"
        _over(job, run)
        assert all(set(job.noted(rank)) == set(range(6)) for rank in range(3))


def test_a_stop_while_they_vote_stops_all_at_one_step(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3, how="runner") as job:
        run = job.run()
        request = _reload(run, "#TOP", "time.sleep(int(os.environ['RANK']) * 0.2)", wait=False)
        stop = run.stop(timeout=10)
        assert stop.fate.state == "applied"
        assert job.ended() == [0, 0, 0], job.errs
        assert len(job.stops()) == 1, job.errs
        assert request.wait(5).final


@pytest.mark.parametrize(("count", "seed"), [(2, 1), (3, 2)])
def test_each_step_stands_for_the_same_item_in_all_ranks_whatever_is_reloaded(
    tmp_path: Path, count: int, seed: int
) -> None:
    chance = random.Random(seed)
    log: list[str] = []
    with Ranks(tmp_path, count, how="runner", LONGEST="0.002") as job:
        run = job.run()
        for number in range(ROUNDS):
            rank = chance.randrange(count)
            what = chance.choice(
                ["good", "body", "top", "body of all", "top of all", "pause", "set", "advance", "both"]
            )
            if what == "good":
                found = _reload(run, "#TOP", f"# {number}").fate
                assert found.state == "applied", (log, found, job.errs)
            elif what in ("body", "body of all"):
                divisor = f"(rank - {rank})" if what == "body" else 0
                found = _reload(run, "#BODY", f"1/{divisor}  # {number}").fate
                assert found.state == "failed", (log, found, job.errs)
            elif what in ("top", "top of all"):
                divisor = f"(int(os.environ['RANK']) - {rank})" if what == "top" else 0
                found = _reload(run, "#TOP", f"1/{divisor}  # {number}").fate
                assert found.state == "failed", (log, found, job.errs)
            elif what == "pause":
                found = outcome(run.pause, timeout=20).fate
                assert standing(run) == {found.step}, (log, found, job.errs)
                run.resume(timeout=20)
            elif what == "set":
                found = outcome(run.set, "lr", float(number), timeout=20).fate
                assert found.state == "applied", (log, found, job.errs)
            elif what == "advance":
                found = outcome(run.advance, 2, timeout=20).fate
                assert standing(run) == {found.step}, (log, found, job.errs)
                bad = _reload(run, "#BODY", f"1/(rank - {rank})  # {number}", wait=False)
                run.resume(timeout=20)
                assert bad.wait(20).final
            else:
                first = _reload(run, "#BODY", f"1/(rank - {rank})  # {number}", wait=False)
                found = run.set("lr", float(number), wait=False).wait(20)
                assert first.wait(20).state == "failed", (log, first.fate, job.errs)
            log.append(f"{what}: {found}")
            time.sleep(chance.random() * 0.02)
        _over(job, run)
