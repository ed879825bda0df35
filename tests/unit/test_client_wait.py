"""The loop in which the client waits."""

from collections.abc import Callable

import pytest

from spark_fast.client import deadline
from spark_fast.client.deadline import Deadline, wait_until

pytestmark = pytest.mark.unit


class Clock:
    """A clock that sleeping moves, and what happened in which order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.events: list[str] = []
        monkeypatch.setattr(deadline, "monotonic", lambda: self.now)

    def arm(self) -> Callable[[float], object]:
        self.events.append("arm")
        return self.sleep

    def sleep(self, seconds: float) -> None:
        self.events.append(f"sleep {seconds:g}")
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_wait_until_arms_before_each_look_so_that_no_change_is_missed(clock: Clock) -> None:
    looks = iter([False, False, True])

    def done() -> bool:
        clock.events.append("look")
        return next(looks)

    assert wait_until(done, Deadline(None), interval=0.5, arm=clock.arm)
    assert clock.events == ["arm", "look", "sleep 0.5", "arm", "look", "sleep 0.5", "arm", "look"]


def test_wait_until_ends_at_its_deadline_with_a_last_look(clock: Clock) -> None:
    looks = 0

    def done() -> bool:
        nonlocal looks
        looks += 1
        return False

    assert not wait_until(done, Deadline(1.25), interval=0.5, arm=clock.arm)
    assert [event for event in clock.events if event != "arm"] == ["sleep 0.5", "sleep 0.5", "sleep 0.25"]
    assert (looks, clock.now) == (4, 101.25)


@pytest.mark.parametrize("found", [True, False])
def test_wait_until_looks_once_where_no_time_is_left(clock: Clock, found: bool) -> None:
    assert wait_until(lambda: found, Deadline(0), interval=0.5, arm=clock.arm) is found
    assert clock.events == ["arm"]


def test_a_deadline_limits_a_part_of_the_wait(clock: Clock) -> None:
    end = Deadline(2.0)
    assert end.within(0.5) == 0.5
    clock.now += 1.75
    assert (end.within(0.5), end.left()) == (0.25, 0.25)
    clock.now += 5
    assert (end.within(0.5), end.left()) == (0, 0)
    assert (Deadline(None).within(0.5), Deadline(None).left()) == (0.5, None)
