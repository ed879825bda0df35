"""Statements timed in batches. The batches of all cases take turns, so that other load falls on all of them alike."""

import random
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from timeit import Timer

__all__ = ["Case", "interleave", "median", "net", "ratio"]

median = statistics.median


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Case:
    """One statement to measure.

    Attributes:
        name: what the figure is called.
        statement: the code, run in a function of its own, so that no other case's types are in its inline caches.
        names: the globals of that function.
        setup: code that runs first in that function: what it assigns is local.
        steps: training steps that one execution stands for.
        before: called before each batch.
    """

    name: str
    statement: str
    names: Mapping[str, object]
    setup: str = "pass"
    steps: int = 1
    before: Callable[[], object] = _nothing
    timer: Timer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "timer", Timer(self.statement, self.setup, globals=dict(self.names)))

    def batch(self, number: int) -> float:
        """Run the statement `number` times. Return the ns of a step."""
        self.before()
        return self.timer.timeit(number) * 1e9 / number / self.steps

    def number(self, seconds: float) -> int:
        """Return how many executions take about `seconds`."""
        number = 1
        while True:
            took = self.batch(number) * number * self.steps / 1e9
            if took >= seconds:
                return number
            number = max(number + 1, int(number * min(10.0, seconds / max(took, 1e-9))))


def interleave(cases: Sequence[Case], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Return the ns of a step of each case in each round: one batch of each, of about `seconds`, in random order."""
    order = random.Random(1)
    numbers = {case.name: case.number(seconds) for case in cases}
    found: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case in order.sample(cases, len(cases)):
            found[case.name].append(case.batch(numbers[case.name]))
    return found


def net(figures: Iterable[float], twin: Iterable[float]) -> list[float]:
    """Return the difference of a figure and its twin's in each round."""
    return [figure - base for figure, base in zip(figures, twin, strict=True)]


def ratio(figures: Iterable[float], twin: Iterable[float]) -> float:
    """Return the median of the ratios of all rounds."""
    return median(figure / base for figure, base in zip(figures, twin, strict=True))
