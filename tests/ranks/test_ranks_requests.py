"""What is asked of a run of several ranks: each of them does it, once, at the same step as the others."""

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client
from spark_fast.client import Request
from tests.support.child import ALL, outcome, until
from tests.support.job import Job
from tests.support.ranks import LOCKSTEP, LOOP, Ranks, by_number, standing

pytestmark = pytest.mark.ranks

MOMENTS = int(os.environ.get("SPARK_FAST_TEST_MOMENTS", "60"))
"""Requests at random moments, of each sender. A long hunt: SPARK_FAST_TEST_MOMENTS=2000."""


def _done(request: Request) -> int:
    fate = request.wait(20)
    assert fate.state == "applied", fate
    assert fate.step is not None
    return fate.step


class Asker:
    """Asks for what comes to its mind, and keeps what became of it.

    alone: whether nobody else asks: then all ranks stand at the step where a pause said they do.
    """

    def __init__(self, run: client.Run, seed: int, ranks: int, *, alone: bool) -> None:
        self.run = run
        self.random = random.Random(seed)
        self.ranks = ranks
        self.alone = alone
        self.noted: list[tuple[int | str, int]] = []
        self.numbers = iter(range(seed * 1_000_000, (seed + 1) * 1_000_000))
        self.fates: list[str] = []

    def ask(self) -> None:
        what = self.random.choice(["pause", "resume", "advance", "set", "call", "timed", "later", "burst"])
        self.fates.append(f"{what}: {getattr(self, what)()}")

    def pause(self) -> Any:
        request = self.run.pause(timeout=20)
        if self.alone:
            assert request.fate.state == "applied"
            assert standing(self.run) == {request.fate.step}
        self.run.resume(timeout=20)
        return request.fate

    def resume(self) -> Any:
        return outcome(self.run.resume, timeout=20).fate

    def advance(self) -> Any:
        steps = self.random.randrange(1, 4)
        request = self.run.advance(steps, timeout=20) if self.alone else self.run.advance(steps, wait=False)
        if self.alone:
            assert request.fate.state == "applied"
            assert standing(self.run) == {request.fate.step}
        self.run.resume(timeout=20)
        return request.fate

    def set(self) -> Any:
        return outcome(self.run.set, "lr", self.random.random(), timeout=20).fate

    def call(self) -> Any:
        ranks = self.random.choice(["all", *range(self.ranks)])
        number = next(self.numbers)
        request = self.run.request_call("note", [number], ranks=ranks, timeout=20)
        if request.fate.state == "applied":
            self.noted.append((ranks, number))
            wanted = {rank: [rank, number] for rank in range(self.ranks)} if ranks == "all" else [ranks, number]
            assert request.result == wanted
        return request.fate

    def timed(self) -> Any:
        fate = outcome(self.run.pause, timeout=20, resume_after=0.02).fate
        if self.alone:
            # Superseded where one rank has parked and its time was over before another came to it.
            assert fate.state in ("applied", "superseded")
            until(lambda: self.run.status == "running")
        return fate

    def later(self) -> Any:
        request = self.run.pause(wait=False, at_step=self.run.step + self.random.randrange(1, 9))
        if self.alone and self.random.random() < 0.5:
            assert request.wait(20).state == "applied"
            assert standing(self.run) == {request.fate.step}
        self.run.resume(timeout=20)
        return request.fate

    def burst(self) -> Any:
        asked = [
            self.run.pause(wait=False),
            self.run.set("lr", self.random.random(), wait=False),
            self.run.request_call("note", [number := next(self.numbers)], ranks="all", wait=False),
            self.run.resume(wait=False),
        ]
        fates = [request.wait(20) for request in asked]
        if fates[2].state == "applied":
            self.noted.append(("all", number))
        return fates


def _ask_at_random(job: Ranks, senders: int, moments: int, seed: int = 0) -> None:
    run = job.run()
    askers = [Asker(run, seed * 100 + number, job.count, alone=senders == 1) for number in range(senders)]
    failed: list[BaseException] = []

    def ask(asker: Asker) -> None:
        try:
            for _ in range(moments):
                asker.ask()
                time.sleep(asker.random.random() * 0.01)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(asker,)) for asker in askers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    run.resume(timeout=20)
    fates = "\n".join(fate for asker in askers for fate in asker.fates)
    assert "failed" not in fates, fates
    assert "lost" not in fates, fates
    stop = _done(run.stop(wait=False))
    assert job.ended() == [0] * job.count, job.errs
    assert job.stops() == {stop}
    job.assert_same(calls=False)
    for rank in range(job.count):
        asked = [number for asker in askers for ranks, number in asker.noted if ranks in ("all", rank)]
        assert sorted(job.noted(rank).elements()) == sorted(asked)


@pytest.mark.parametrize(("count", "senders"), [(2, 1), (3, 3), (8, 2)])
def test_ranks_tell_the_same_of_all_that_was_asked_at_random_moments(tmp_path: Path, count: int, senders: int) -> None:
    code = LOOP.replace("tell(stopped=stop.step)", "tell(stopped=stop.step, calls=calls)")
    with Ranks(tmp_path, count, code) as job:
        _ask_at_random(job, senders, MOMENTS * 2 // count, seed=count)


def test_ranks_that_wait_for_each_other_in_each_step_obey(tmp_path: Path) -> None:
    """As those of a training do in each backward pass. Whoever acted a step earlier would leave the others waiting."""
    code = LOCKSTEP.replace("tell(stopped=stop.step)", "tell(stopped=stop.step, calls=calls)")
    with Ranks(tmp_path, 3, code) as job:
        _ask_at_random(job, 2, MOMENTS)


@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
def test_functions_that_all_ranks_call_may_wait_for_each_other(tmp_path: Path, parked: bool) -> None:
    code = LOCKSTEP.replace(
        "state = spark.expose(",
        """
def gather(name: str, times: int):
    for number in range(times):
        meet(f"{name}.{number}")
        spark.checkpoint()
    return name
state = spark.expose(gather=gather, """,
    )
    with Ranks(tmp_path, 3, code) as job:
        run = job.run()
        if parked:
            run.pause(timeout=10)
        for name in ("one", "two", "three"):
            before = standing(run)
            found = run.call("gather", name, 5, spark_ranks="all", spark_timeout=10)
            assert found == {0: name, 1: name, 2: name}
            assert not parked or standing(run) == before
        run.stop(timeout=10)
        assert job.ended() == [0, 0, 0]
        job.assert_same(calls=False)


def test_a_function_says_itself_that_all_ranks_call_it_where_its_caller_says_nothing(tmp_path: Path) -> None:
    code = LOCKSTEP.replace(
        "state = spark.expose(",
        """
def gather(name: str):
    if name != "alone":
        meet(name)
    return rank
state = spark.expose(gather=spark.function(gather, ranks="all"), other=spark.function(gather), """,
    )
    with Ranks(tmp_path, 3, code) as job:
        run = job.run()
        assert {name: each.ranks for name, each in run.functions.items()} == {
            "gather": "all",
            "other": 0,
            "note": 0,
            "arm": 0,
        }
        assert run.call("gather", "one", spark_timeout=10) == {0: 0, 1: 1, 2: 2}
        assert client.use(run.id).gather("two") == {0: 0, 1: 1, 2: 2}
        request = run.request_call("gather", ["three"], timeout=10)
        assert (request.ranks, request.result) == ("all", {0: 0, 1: 1, 2: 2})
        assert run.call("gather", "alone", spark_ranks=1, spark_timeout=10) == 1
        assert run.call("gather", "alone", spark_ranks=0, spark_timeout=10) == 0
        assert run.call("other", "alone", spark_timeout=10) == 0
        assert run.call("other", "four", spark_ranks="all", spark_timeout=10) == {0: 0, 1: 1, 2: 2}


def test_checkpoints_in_a_function_that_one_rank_calls_are_no_steps_of_the_loop(tmp_path: Path) -> None:
    code = LOOP.replace(
        "state = spark.expose(",
        """
def inspect(times: int):
    for _ in range(times):
        spark.checkpoint()
        time.sleep(0.001)
    return times
state = spark.expose(inspect=inspect, """,
    )
    with Ranks(tmp_path, 2, code) as job:
        run = job.run()
        for number in range(5):
            request = run.request_call("inspect", [100], ranks=number % 2, wait=False)
            run.set("lr", float(number), timeout=10)
            assert run.pause(timeout=10).fate.state == "applied"
            assert len(standing(run)) == 1
            assert request.wait(10).state == "applied"
            assert run.call("inspect", 10, spark_ranks=1, spark_timeout=10) == 10
            assert len(standing(run)) == 1
            run.resume(timeout=10)
        run.stop(timeout=10)
        assert job.ended() == [0, 0]
        job.assert_same()


def test_ranks_that_count_in_tens_act_at_the_same_ten(tmp_path: Path) -> None:
    code = LOOP.replace("#TOP", "spark.configure(stride=10)")
    with Ranks(tmp_path, 3, code) as job:
        run = job.run()
        for number in range(20):
            assert _done(run.set("lr", float(number), wait=False)) % 10 == 0
            assert _done(run.pause(wait=False)) % 10 == 0
            assert len(standing(run)) == 1
            assert _done(run.advance(number + 1, wait=False)) % 10 == 0
            assert len(standing(run)) == 1
            run.resume(timeout=10)
        run.stop(timeout=10)
        assert job.ended() == [0, 0, 0]
        steps = job.assert_same()
        assert {step % 10 for step in steps} == {0}


def test_a_checkpoint_of_one_rank_alone_can_park_and_does_not_count(tmp_path: Path) -> None:
    code = LOOP.replace(
        "#BODY",
        """if rank == 0:
            for _ in range(item % 5):
                spark.checkpoint(collective=False)
                time.sleep(0.001)""",
    )
    with Ranks(tmp_path, 2, code) as job:
        run = job.run()
        for number in range(20):
            run.set("lr", float(number), timeout=10)
            _done(run.pause(wait=False))
            assert max(standing(run)) - min(standing(run)) <= 1, "parked in it, rank 0 has not passed its next"
            run.set("lr", float(-number), timeout=10)
            assert len(standing(run)) == 1, "to do what all do it goes there"
            run.resume(timeout=10)
        stop = _done(run.stop(wait=False))
        assert job.ended() == [0, 0]
        assert job.stops() == {stop}
        job.assert_same()


@pytest.mark.parametrize("first", [0, 1], ids=["first", "last"])
def test_a_pause_is_applied_whether_the_rank_that_parks_alone_is_the_first_or_the_last(
    tmp_path: Path, first: int
) -> None:
    code = LOCKSTEP.replace(
        "#BODY",
        """if rank != int(os.environ["FIRST"]):
            time.sleep(0.2)
        if rank == 0:
            spark.checkpoint(collective=False)""",
    )
    with Ranks(tmp_path, 2, code, FIRST=str(first)) as job:
        run = job.run()
        for _ in range(3):
            at = _done(run.pause(wait=False))
            assert max(standing(run)) == at
            run.resume(timeout=10)


@pytest.mark.parametrize("to", [[0], [2], [0, 1, 2]], ids=str)
def test_a_signal_to_any_rank_is_one_stop_of_all(tmp_path: Path, to: list[int]) -> None:
    with Ranks(tmp_path, 3, how="supervised") as job:
        run = job.run()
        for rank in to:
            job.processes[rank].send_signal(signal.SIGTERM)
        job.ended()
        assert len(job.stops()) == 1, job.errs
        assert run.status == "stopped"
        assert [request.kind for request in run.requests] == ["stop"]
        job.assert_same()


def test_a_rank_that_hangs_is_named_and_catches_up(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3) as job:
        run = job.run()
        job.processes[1].send_signal(signal.SIGSTOP)
        request = run.set("lr", 0.5, wait=False)
        pause = run.pause(wait=False)
        until(lambda: by_number(run)[1].overdue > 0 == by_number(run)[0].overdue == by_number(run)[2].overdue)
        assert (request.fate.state, pause.fate.state, run.status) == ("asked", "asked", "pausing")
        job.processes[1].send_signal(signal.SIGCONT)
        assert _done(request) <= _done(pause)
        assert standing(run) == {pause.fate.step}
        run.resume(timeout=10)
        run.stop(timeout=10)
        job.ended()
        job.assert_same()


def test_neither_memory_nor_descriptors_grow_with_requests(tmp_path: Path) -> None:
    import psutil

    with Ranks(tmp_path, 2, LONGEST="0.0002") as job:
        run = job.run()
        workers = [psutil.Process(process.pid) for process in job.processes.values()]

        def sizes() -> list[tuple[int, int, int]]:
            files = sum(len(names) for _, _, names in os.walk(run.folder))
            return [(worker.memory_info().rss, worker.num_fds(), files) for worker in workers]

        def ask(times: int) -> None:
            for number in range(times):
                run.pause(timeout=10)
                run.call("note", number, spark_ranks="all", spark_timeout=10)
                if number % 4 == 0:
                    run.set("lr", float(number), timeout=10)
                    # What it carries lies in a file, and is refused.
                    refused = outcome(run.request_call, "note", [number, "x" * 100], ranks="all", timeout=10)
                    assert refused.fate.state == "refused"
                    run.call("note", number, spark_ranks=1, spark_timeout=10)
                run.resume(timeout=10)

        ask(140)  # as many as are remembered
        before = sizes()
        ask(max(250 if ALL else 100, MOMENTS))
        for (memory, descriptors, files), (more, opened, made) in zip(before, sizes(), strict=True):
            assert more < memory + (1 << 20)
            assert opened <= descriptors
            assert made <= files + 4


# --- the end after a stop ---

SAVING = """
import os, time
import spark_fast as spark
from pathlib import Path
rank = int(os.environ["RANK"])
try:
    while True:
        spark.checkpoint()
        time.sleep(0.001)
except spark.SparkStopError:
    while rank == 0 and not Path(__file__ + ".go").exists():
        time.sleep(0.001)
    print("saved", flush=True)
    raise
"""


def test_ranks_that_let_a_stop_through_end_together_once_the_last_has_saved(tmp_path: Path) -> None:
    # A launcher ends the others when one has ended with an error.
    with Job(tmp_path, SAVING, size=3) as job:
        run = job.run()
        run.stop(timeout=10)
        for rank in (1, 2):
            until(lambda rank=rank: "waits for rank 0, at most 60 s" in job.ranks[rank].err)
        assert [str(rank.status) for rank in run.ranks] == ["stopping", "stopped", "stopped"]
        assert all(child.process.poll() is None for child in job.ranks.values())
        job.ranks[0].go()
        assert [child.ended() for child in job.ranks.values()] == [1, 1, 1]
        assert [child.out for child in job.ranks.values()] == ["saved\n"] * 3
        assert run.status == "stopped"


def test_a_stopped_rank_waits_for_the_others_no_longer_than_it_may(tmp_path: Path) -> None:
    with Job(tmp_path, SAVING, size=2, SPARK_FAST_STOP_DEADLINE="1s") as job:
        job.run().stop(timeout=10)
        assert job.ranks[1].ended() == 1
        assert job.ranks[0].process.poll() is None


def test_a_stopped_rank_does_not_wait_for_long_for_one_that_hangs(tmp_path: Path) -> None:
    with Job(tmp_path, SAVING, size=2) as job:
        run = job.run()
        job.hang(0)
        run.stop(wait=False)
        assert job.ranks[1].ended(20) == 1
