"""The first rank of a host has what a run has once: its values and its journal."""

from pathlib import Path

import pytest

from tests.support.child import until
from tests.support.ranks import Ranks, by_number

pytestmark = pytest.mark.ranks


def test_a_first_rank_that_comes_after_the_others_shows_its_values_with_the_run(tmp_path: Path) -> None:
    with Ranks(tmp_path, 2, start=False) as job:
        job.start(1)
        run = job.run(ranks=1)
        assert run.values == {}
        job.start(0)
        until(lambda: 0 in by_number(run))
        # From the moment at which it is there.
        assert run.set("lr", 0.5, timeout=10).fate.state == "applied"
        assert run.values["lr"].value == 0.5


def test_a_first_rank_that_comes_again_shows_its_values_again(tmp_path: Path) -> None:
    with Ranks(tmp_path, 2) as job:
        run = job.run()
        assert run.set("lr", 0.5, timeout=10).fate.state == "applied"
        job.kill(0)
        job.start(0)
        until(lambda: by_number(run)[0].status.live and by_number(run)[0].pid == job.processes[0].pid)
        until(lambda: run.values["lr"].value == 0.1)
        assert run.set("lr", 0.25, timeout=10).fate.state == "applied"
        assert run.values["lr"].value == 0.25
        assert "can't be shown" not in job.err(0)
