"""The core figures, for pytest-benchmark: `pytest bench --benchmark-only`. One round is a batch of CALLS steps."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.idle import check_counts, core_cases
from bench.measure import Case
from spark_fast._core import worker

CALLS = 20_000


@pytest.mark.parametrize("case", core_cases(), ids=lambda case: case.name)
def test_step(benchmark: BenchmarkFixture, case: Case) -> None:
    """Time a batch of each case. The nanoseconds of a step are its time divided by CALLS."""
    check_counts()
    number = max(1, CALLS // case.steps)
    benchmark.extra_info["steps"] = number * case.steps
    case.before()
    before = worker.step()
    benchmark(case.timer.timeit, number)
    counted = worker.step() - before
    if case.name.startswith(("checkpoint", "track")):
        assert counted >= number * case.steps
    else:
        assert counted == 0
