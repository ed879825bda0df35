"""From a resume to the loop running again, for pytest-benchmark, beside the wake of a bare futex."""

from pytest_benchmark.fixture import BenchmarkFixture

from bench import wake
from bench.measure import median


def test_wake(benchmark: BenchmarkFixture) -> None:
    """Report the medians that a round finds; the time of the round itself is of no interest."""
    found = benchmark.pedantic(wake.measure, args=(30,), rounds=1)  # type: ignore[no-untyped-call]
    benchmark.extra_info["resume_ns"] = median(found.spark)
    benchmark.extra_info["futex_ns"] = median(found.futex)
    benchmark.extra_info["ratio"] = found.ratio
