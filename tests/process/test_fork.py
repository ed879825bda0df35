"""Children of a worker are no workers, and their ends change nothing."""

import os
import signal
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import Child, until

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

FORKS = {
    "os.fork": "pid = os.fork()",
    "from C": "import ctypes; pid = ctypes.CDLL(None).fork()",
}

CHILD = """
import os, sys, time
import spark_fast as spark
from pathlib import Path
spark.checkpoint()
{fork}
if pid == 0:
    for _ in range(1000):
        spark.checkpoint()
    assert not spark.pending()
    assert spark.create_controller().status == "idle"
    print(spark.create_controller().pause(), flush=True)
    {end}
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


@pytest.mark.parametrize("end", ["sys.exit(0)", "raise ValueError", "os._exit(0)", "os.kill(os.getpid(), 9)"])
@pytest.mark.parametrize("fork", FORKS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_end_of_a_forked_child_changes_nothing(tmp_path: Path, fork: str, end: str) -> None:
    if fork == "from C" and end == "raise ValueError":
        end = "os.abort()"
    with Child(tmp_path, CHILD.format(fork=FORKS[fork], end=end)) as child:
        run = child.run()
        until(lambda: "refused" in child.out, child.err)
        before = run.step
        assert run.wait("running", timeout=5) == "running"
        child.steps_on(run)
        assert run.step < before + 900, "the child's checkpoints were counted"
        assert len(client.runs()) == 1
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.requests[0].kind == "pause"
        assert len(run.requests) == 1
        run.resume(timeout=10)
        child.steps_on(run)


@pytest.mark.parametrize("fork", FORKS)
def test_a_worker_that_dies_is_lost_though_its_forked_child_lives_on(tmp_path: Path, fork: str) -> None:
    code = CHILD.format(fork=FORKS[fork], end="print(os.getpid(), flush=True); time.sleep(600)")
    with Child(tmp_path, code) as child:
        run = child.run()
        orphan = int(until(lambda: child.out.count("\n") == 2 and child.out.split(), child.err)[-1])
        try:
            os.kill(child.pid, signal.SIGKILL)
            child.ended()
            os.kill(orphan, 0)  # it lives
            assert run.status == "lost"
            assert client.remove_ended() == ["test"]
        finally:
            os.kill(orphan, signal.SIGKILL)


@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
def test_a_child_forked_in_another_thread_while_requests_fly_holds_no_lock(tmp_path: Path, parked: bool) -> None:
    code = """
    import os, threading, time
    import spark_fast as spark
    def fork():
        while True:
            pid = os.fork()
            if pid == 0:
                time.sleep(0.02)
                os._exit(0)
            os.waitpid(pid, 0)
    spark.checkpoint()
    threading.Thread(target=fork, daemon=True).start()
    while True:
        spark.checkpoint()
        time.sleep(0.0001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        for _ in range(30):
            assert run.pause(timeout=10).fate.state == "applied"
            assert run.resume(timeout=10).fate.state == "applied"
        if parked:
            run.pause(timeout=10)
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        until(lambda: run.status == "lost")


def test_a_child_of_a_process_that_is_no_worker_yet_can_become_one(tmp_path: Path) -> None:
    code = """
    import os, time
    import spark_fast as spark
    if os.fork() == 0:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    os.wait()
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        assert run.ranks[0].pid != child.pid
        run.stop(timeout=10)
        assert child.ended() == 0
        assert run.status == "stopped"


MULTIPROCESSING = """
import multiprocessing, time
import spark_fast as spark

def work(calls):
    for _ in range(calls):
        spark.checkpoint()
    return calls

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    spark.checkpoint()
    with context.Pool(2) as pool:
        print(sum(pool.map(work, [{calls}] * 4)), flush=True)
        while True:
            spark.checkpoint()
            time.sleep(0.001)
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_the_processes_of_a_pool_make_no_run_unless_they_pass_checkpoints_themselves(
    tmp_path: Path, method: str
) -> None:
    with Child(tmp_path, MULTIPROCESSING.format(method=method, calls=0)) as child:
        run = child.run()
        until(lambda: child.out == "0\n", child.err)
        assert [each.id for each in client.runs()] == ["test"]
        assert run.pause(timeout=10).fate.state == "applied"


def test_spawned_processes_that_pass_checkpoints_are_runs_of_their_own(tmp_path: Path) -> None:
    with Child(tmp_path, MULTIPROCESSING.format(method="spawn", calls=5)) as child:
        child.run()
        until(lambda: child.out == "20\n", child.err)
        assert "test" in (names := {each.id for each in client.runs()})
        assert len(names) > 1
        assert names <= {"test", "test-2", "test-3"}


def test_forked_processes_of_a_worker_that_pass_checkpoints_are_not_counted(tmp_path: Path) -> None:
    with Child(tmp_path, MULTIPROCESSING.format(method="fork", calls=1000)) as child:
        run = child.run()
        until(lambda: child.out == "4000\n", child.err)
        assert run.step < 3000
        assert [each.id for each in client.runs()] == ["test"]


def test_a_controller_in_a_forked_child_works_beside_its_parents(tmp_path: Path) -> None:
    code = """
    import os
    from spark_fast import client
    run = client.attach("test")
    run.pause()
    pid = os.fork()
    for _ in range(50):
        run.pause(timeout=20)
        run.resume(timeout=20)
    if pid == 0:
        os._exit(0)
    print(os.waitpid(pid, 0)[1], flush=True)
    """
    with Child(tmp_path) as child:
        run = child.run()
        with Child(tmp_path, code, name=None) as parent:
            assert parent.ended(60) == 0, parent.err
            assert parent.out == "0\n"
        run.resume(timeout=10)
        child.steps_on(run)
