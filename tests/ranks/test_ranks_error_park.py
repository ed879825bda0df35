"""An error of all ranks pauses them at one step; an error of one keeps that one alive for a while."""

from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import until
from tests.support.ranks import LOCKSTEP, Ranks, by_number, standing

pytestmark = pytest.mark.ranks

LATER = "count.append(0)\n        if len(count) > 8 and rank in FAILING: raise KeyError('late')"


def break_late(job: Ranks, failing: str) -> client.Run:
    """Has these ranks fail, some steps after the trial of that edit."""
    run = job.run()
    source = LOCKSTEP.replace("#TOP\ndef", f"count = []\nFAILING = {failing}\ndef").replace("#BODY", LATER)
    assert run.reload(source, timeout=30).fate.state == "applied"
    return run


def test_an_error_of_all_ranks_pauses_them_at_one_step_and_mended_code_goes_on(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3, LOCKSTEP, how="runner") as job:
        run = break_late(job, "(0, 1, 2)")
        until(lambda: {rank.status for rank in run.ranks} == {"paused"}, job.errs)
        assert len(standing(run)) == 1
        assert run.error is not None and run.error.message == "KeyError: 'late'"
        assert run.reload(LOCKSTEP + "\n# mended\n", timeout=30).fate.state == "applied"
        until(lambda: {rank.status for rank in run.ranks} == {"running"}, job.errs)
        assert run.error is None
        run.stop(timeout=10)
        assert job.ended() == [0, 0, 0], job.errs
        told = [{step: line["item"] for step, line in job.steps(rank).items()} for rank in range(3)]
        assert told[0] == told[1] == told[2]
        items = list(told[0].values())
        again = [item for item in items if items.count(item) == 2]
        assert len(again) == 2, "the item whose body failed came once more"
        assert sorted({*items}) == list(range(max(items) + 1))


def test_a_rank_that_fails_alone_can_save_before_it_ends(tmp_path: Path) -> None:
    with Ranks(tmp_path, 2, LOCKSTEP, how="runner", SPARK_FAST_ERROR_TIMEOUT="3s") as job:
        run = break_late(job, "(1,)")
        until(lambda: by_number(run)[1].status == "paused", job.errs)
        assert run.error is not None and run.error.rank == 1
        assert run.call("note", 7, spark_ranks=1, spark_timeout=30) == [1, 7]
        assert job.ended(1) == [1], job.errs
        assert "KeyError: 'late'" in job.err(1)
