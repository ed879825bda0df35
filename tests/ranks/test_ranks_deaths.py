"""Ranks and senders that are killed at any point: the others decide, nobody hangs, and each request has a fate."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.client import Request
from tests.process.test_bad_endings import APPEND_POINTS
from tests.support.child import Child, until
from tests.support.ranks import LOOP, Ranks, by_number, standing

pytestmark = pytest.mark.ranks

KILLED = -signal.SIGKILL
MET = ["turn:met", "turn:settled", "decide:signalled"]
POINTS = [
    *MET,
    "turn:folded", "turn:applied", "done:told", "park:published",
    "park:waiting",
]  # fmt: skip
SOON = 30.0
"""Seconds within which a request has its fate, whichever process dies, on a machine that does much else."""


def _fate(request: Request) -> str:
    return str(request.wait(SOON).state)


def _obeys(run: client.Run) -> None:
    assert _fate(run.pause(wait=False)) == "applied"
    assert len(standing(run)) == 1, run.ranks
    assert _fate(run.advance(2, wait=False)) == "applied"
    assert len(standing(run)) == 1, run.ranks
    assert _fate(run.set("lr", 0.25, wait=False)) == "applied"
    assert _fate(run.resume(wait=False)) == "applied"


def _suspended_sender(folder: Path, name: str) -> Child:
    """One that stands still before it decides on its pause, so that the ranks have to."""
    code = f"""
    import signal
    from spark_fast import _core, client
    run = client.attach({name!r})
    _core.arm_point("decide:signalled", signal.SIGSTOP)
    print(run.pause(wait=False).wait(20).state)
    """
    return Child(folder, code, name=None)


def test_a_rank_killed_at_any_point_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3) as job:
        run = job.run()
        for point in POINTS:
            began = time.time()
            run.call("arm", point, spark_ranks=1, spark_timeout=10)
            asked = []
            if point in MET:
                # The others stand still, so that it is the one that finds a request of which nobody has said when.
                for rank in (0, 2):
                    job.processes[rank].send_signal(signal.SIGSTOP)
                with _suspended_sender(tmp_path, run.id) as sender:
                    assert job.ended(1) == [KILLED], point
                    for process in (job.processes[0], job.processes[2], sender.process):
                        process.send_signal(signal.SIGCONT)
                    assert sender.ended() == 0
                    assert sender.out == "applied\n"
            else:
                asked += [
                    run.pause(wait=False),
                    run.set("lr", 0.5, wait=False),
                    run.request_call("note", [1], ranks="all", wait=False),
                ]
                assert job.ended(1) == [KILLED], point
            fates = [_fate(request) for request in asked]
            assert fates in ([], ["applied"] * 3), (point, asked)
            assert run.status == "paused"
            lost = by_number(run)[1]
            assert lost.status == "lost"
            assert began <= lost.since <= time.time()
            assert standing(run) == {by_number(run)[0].step}
            run.resume(timeout=10)
            _obeys(run)
            job.start(1)
            until(lambda: by_number(run)[1].status == "running", job.errs)
            _obeys(run)
        assert _fate(run.stop(wait=False)) == "applied"
        job.ended()
        job.assert_same(0, 2)
        assert len(job.stops()) == 1


@pytest.mark.parametrize("what", ["pause", "set", "call", "stop"])
def test_senders_killed_at_any_point_leave_requests_that_all_ranks_do_or_none(tmp_path: Path, what: str) -> None:
    asks = {
        "pause": "run.pause()",
        "set": "run.set('lr', 0.75)",
        "call": "run.request_call('note', [7], ranks='all')",
        "stop": "run.stop()",
    }
    points = [point for point in APPEND_POINTS if what != "stop" or APPEND_POINTS.index(point) < 4]
    with Ranks(tmp_path, 3) as job:
        run = job.run()
        _obeys(run)
        for point in points:
            code = f"""
from spark_fast import _core, client
run = client.attach({run.id!r})
_core.arm_point({point!r})
{asks[what]}
"""
            tail = run._connection.view()["tail"]
            done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, check=False)
            assert done.returncode == KILLED, done.stderr.decode()
            added = (
                run.requests[tail - run._connection.view()["tail"] :] if run._connection.view()["tail"] > tail else []
            )
            assert len(added) == (1 if APPEND_POINTS.index(point) >= 4 else 0), point
            _obeys(run)
            assert [request.fate.state in ("void", "applied", "superseded") for request in added] == [True] * len(added)
        assert _fate(run.stop(wait=False)) == "applied"
        job.ended()
        job.assert_same()
        assert len(job.stops()) == 1


def test_ranks_that_die_one_after_the_other_under_way_leave_the_last_one_under_control(tmp_path: Path) -> None:
    with Ranks(tmp_path, 4) as job:
        run = job.run()
        wrong: list[object] = []
        ends: dict[int, int] = {}
        over = threading.Event()

        def ask() -> None:
            number = 0
            while not over.is_set():
                number += 1
                for request in (
                    run.pause(wait=False),
                    run.request_call("note", [number], ranks="all", wait=False),
                    run.set("lr", float(number), wait=False),
                    run.resume(wait=False),
                ):
                    if request.wait(SOON).state not in ("applied", "superseded"):
                        wrong.append(request)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            for rank in (0, 2, 1):
                step = by_number(run)[3].step
                until(lambda: by_number(run)[3].step > step + 5)  # noqa: B023
                job.kill(rank)
                ends[rank] = min(standing(run))
        finally:
            over.set()
            asking.join()
        assert not wrong
        _obeys(run)
        assert _fate(run.stop(wait=False)) == "applied"
        job.ended()
        # What it did beyond the others, it did alone: what they were asked for since, it never heard of.
        for rank, last in ends.items():
            job.assert_same(rank, 3, last=last)


def test_a_request_that_waits_for_a_rank_that_dies_has_its_fate_from_the_others(tmp_path: Path) -> None:
    code = LOOP.replace("#BODY", "while rank == 1 and os.path.exists('hang'): time.sleep(0.01)")
    with Ranks(tmp_path, 3, code) as job:
        run = job.run()
        (job.folder / "hang").touch()
        until(lambda: run.step and by_number(run)[1].behind > 3)
        asked = [run.set("lr", 0.5, wait=False), run.request_call("note", [1], ranks="all", wait=False)]
        only = run.request_call("note", [2], ranks=1, wait=False)
        asked.append(run.pause(wait=False))
        until(lambda: [by_number(run)[rank].status for rank in (0, 2)] == ["paused", "paused"])
        assert [request.fate.state for request in asked] == ["asked"] * 3
        job.kill(1)
        assert [_fate(request) for request in asked] == ["applied"] * 3
        assert asked[1].result == {0: [0, 1], 2: [2, 1]}
        assert _fate(only) == "lost"
        job.start(1)
        until(lambda: by_number(run)[1].status == "paused", job.errs)
        assert [each.fate.state for each in run.requests if each.id == only.id] == ["lost"]
        assert run.call("note", 3, spark_ranks=1, spark_timeout=SOON) == [1, 3]


def test_all_killed_at_once_is_a_lost_run_whose_name_is_free(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3) as job:
        run = job.run()
        for process in job.processes.values():
            process.kill()
        job.ended()
        assert run.status == "lost"
        assert _fate(run.pause(wait=False)) == "refused"
        for rank in range(3):
            job.start(rank)
        again = job.run()
        assert again.id == run.id
        assert by_number(again)[0].step < by_number(run)[0].step + 1000
        _obeys(again)
