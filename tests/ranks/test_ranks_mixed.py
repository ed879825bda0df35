"""A job whose ranks are not all alike."""

from pathlib import Path

import pytest

from tests.support.child import outcome
from tests.support.ranks import LOCKSTEP, Ranks, standing

pytestmark = pytest.mark.ranks

SCRIPT = """
import os, time
import spark_fast as spark

def main():
    try:
        for _ in spark.track(range(10**9), key="batch"):
            time.sleep(0.001)
    except spark.SparkStopError:
        pass

if os.environ["RANK"] == "0":
    spark.run(main)
else:
    main()
"""


def test_a_reload_that_one_rank_can_not_follow_is_refused_in_all(tmp_path: Path) -> None:
    with Ranks(tmp_path, 2, SCRIPT) as job:
        run = job.run()
        fate = outcome(run.reload, SCRIPT + "# changed\n", timeout=30).fate
        assert fate.state == "refused"
        assert fate.reason.startswith("rank 1: this process can't leave its loop")
        assert run.pause(timeout=10).fate.state == "applied"
        assert len(standing(run)) == 1
        run.resume(timeout=10)
        assert run.stop(timeout=10).fate.state == "applied"
        assert job.ended() == [0, 0]


def test_a_hook_that_passes_checkpoints_in_one_rank_leaves_the_steps_of_the_ranks_together(tmp_path: Path) -> None:
    code = LOCKSTEP.replace(
        "#TOP",
        """#TOP
def save():
    for _ in range(7 if rank == 0 else 0):
        spark.checkpoint()
spark.on_pause(save)
spark.on_resume(save)
""",
    )
    with Ranks(tmp_path, 2, code) as job:
        run = job.run()
        for _ in range(3):
            assert run.pause(timeout=20).fate.state == "applied"
            assert len({rank.step for rank in run.ranks}) == 1
            assert run.advance(2, timeout=20).fate.state == "applied"
            assert len({rank.step for rank in run.ranks}) == 1
            run.resume(timeout=20)
        assert run.stop(timeout=20).fate.state == "applied"
        job.ended()
        job.assert_same(0, 1)
