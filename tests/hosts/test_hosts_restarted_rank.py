"""A rank that is alone on its host, dies, and is started again while the ranks of other hosts go on."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.client import SparkTimeoutError
from spark_fast.status import Rank, SparkStatus, WorkerState, slowest, trouble_of
from tests.support.child import until
from tests.support.hosts_real import Host, Server, job, store

pytestmark = pytest.mark.hosts

NEVER = "1e6"
"""Seconds that a step takes of a rank that comes to no other checkpoint."""
LEAD = 300
"""Steps by which the other host's rank is ahead."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with store() as found:
        yield found


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> Callable[[Host], client.Run]:
    """The run as a client on that host has it."""

    def attach(host: Host) -> client.Run:
        monkeypatch.setenv("SPARK_FAST_HOME", str(host.home))
        return client.attach("job")

    return attach


def start_again(host: Host, other: Host, run: client.Run, step: str) -> None:
    """Start the rank of `host` again, and wait until both hosts are in the session that it has begun.

    run: as the other host has it. While somebody looks at the other hosts' ranks, the relay calls the store each second
        and not every five, and so finds the new session sooner.
    step: seconds that each of its steps takes.
    """
    before = other.joined_store()
    host.start_again(TEST_STEP=step)
    until(lambda: run.ranks and other.joined_store() not in ("", before), "the other host leaves the session", 60.0)
    until(lambda: host.joined_store() == other.joined_store(), "both are in one session", 60.0)


def status_of(host: Host) -> str:
    command = [sys.executable, "-m", "spark_fast", "status", "job"]
    env = os.environ | {"SPARK_FAST_HOME": str(host.home)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True).stdout


def test_a_rank_that_others_wait_for_is_named_with_the_steps_it_is_behind_until_it_has_caught_up(
    tmp_path: Path, server: Server, at_home: Callable[[Host], client.Run]
) -> None:
    with job(tmp_path, 2, server.address, SPARK_FAST_HOSTS_BOUND="100") as (back, other):
        until(lambda: other.step > LEAD, "a lead")
        run = at_home(other)
        start_again(back, other, run, NEVER)
        pause = run.pause(wait=False)
        until(lambda: other.slot()["state"] == WorkerState.PARKED, "the other rank waits at the pause", 60.0)
        behind = other.step - 1
        for host in (other, back):
            run = at_home(host)
            until(lambda: [rank.behind for rank in run.ranks] == [behind, 0], "both hosts tell how far")  # noqa: B023
            until(lambda: f"rank 0 is {behind} steps behind" in status_of(host), "status says so")  # noqa: B023
        run = at_home(other)
        with pytest.raises(SparkTimeoutError, match=f"is pausing, at step 1; rank 0 is {behind} steps behind"):
            pause.wait(timeout=0.1)

        # The other rank need not wait: a resume counts where it stands.
        run.resume(wait=False)
        until(lambda: other.step > behind + 1, "the other rank goes on")

        start_again(back, other, run, "0.0005")  # it counts faster than the other
        pause = at_home(back).pause(timeout=60)
        assert pause.fate.state is client.FateState.APPLIED
        assert back.step == other.step == pause.fate.step


def test_the_step_of_another_host_s_rank_may_be_seconds_old() -> None:
    rank = Rank(0, SparkStatus.RUNNING, 1, 1, "one", told=True)
    found = {
        (steps, speed): trouble_of(Rank(0, rank.status, 1, 1, "one", behind=steps, told=True), speed)
        for steps, speed in ((10, 1.0), (11, 1.0), (300, 100.0), (301, 100.0), (10, None), (11, None))
    }
    assert {key for key, trouble in found.items() if trouble == "behind"} == {(11, 1.0), (301, 100.0), (11, None)}


def test_a_message_names_the_rank_that_is_furthest_behind_if_that_is_more_than_a_few_checkpoints() -> None:
    def ranks(*behind: int) -> list[Rank]:
        return [Rank(number, SparkStatus.RUNNING, 1, 1, "one", behind=each) for number, each in enumerate(behind)]

    assert slowest([]) == slowest(ranks(0, 10)) == ""
    assert slowest(ranks(0, 11, 400)) == "rank 2 is 400 steps behind"
