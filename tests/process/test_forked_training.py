"""Trainings in processes that a script forks or has multiprocessing start: how they end, and under `spark-fast run`."""

import os
import signal
from pathlib import Path

import pytest

from spark_fast import client
from tests.process.test_supervisor import Script
from tests.support.child import Child, until

pytestmark = pytest.mark.process

METHODS = ("fork", "spawn", "forkserver")

# --- how they end ---

ENDS = """
import multiprocessing, os, sys, threading, time
import spark_fast as spark

def returns():
    for _ in spark.track(range(5)):
        pass

def raises():
    spark.checkpoint()
    raise ValueError("broken")

def leaves():
    spark.checkpoint()
    sys.exit(3)

def vanishes():
    spark.checkpoint()
    os._exit(0)

def stop():
    spark.create_controller().stop()
    spark.checkpoint()

def saves():
    try:
        stop()
    except spark.SparkStopError:
        pass

def saves_badly():
    try:
        stop()
    except spark.SparkStopError:
        raise OSError("disk full")

def save():
    print("saved", flush=True)

def hooked():
    spark.on_stop(save)
    stop()

def hooked_thread():
    spark.checkpoint()
    spark.on_stop(save)
    thread = threading.Thread(target=stop)
    thread.start()
    thread.join()

def bad_hook():
    spark.on_stop(lambda: save() or 1 / 0)
    stop()

if __name__ == "__main__":
    process = multiprocessing.get_context(sys.argv[1]).Process(target=globals()[sys.argv[2]])
    process.start()
    process.join()
    print(process.exitcode)
"""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("end", "status", "exit_code", "words"),
    [
        ("returns", "finished", 0, ""),
        ("raises", "failed", 1, "ValueError: broken"),
        ("leaves", "failed", 3, ""),
        ("vanishes", "lost", 0, ""),
        ("stop", "stopped", 1, "spark_fast: stopped at step 1, asked by"),
        ("saves", "stopped", 0, ""),
        ("saves_badly", "failed", 1, "OSError: disk full"),
    ],
)
def test_a_process_of_multiprocessing_says_how_it_ended(
    tmp_path: Path, method: str, end: str, status: str, exit_code: int, words: str
) -> None:
    with Child(tmp_path, ENDS, method, end) as child:
        assert child.ended() == 0, child.err
        assert child.out == f"{exit_code}\n", child.err
        assert client.attach("test").status == status
        assert words in child.err
        assert ("Traceback" in child.err) == (status == "failed" and end != "leaves")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("end", "status"), [("hooked", "stopped"), ("hooked_thread", "stopped"), ("bad_hook", "failed")]
)
def test_a_process_of_multiprocessing_runs_its_on_stop_functions(
    tmp_path: Path, method: str, end: str, status: str
) -> None:
    with Child(tmp_path, ENDS, method, end) as child:
        assert child.ended() == 0, child.err
        assert child.out.startswith("saved\n"), child.err
        assert client.attach("test").status == status


def test_the_processes_of_an_executor_say_how_they_ended(tmp_path: Path) -> None:
    code = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    import spark_fast as spark

    def work(number):
        for _ in spark.track(range(5)):
            pass
        return number

    if __name__ == "__main__":
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
            print(*pool.map(work, range(3)))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "0 1 2\n"
        assert client.attach("test").status == "finished"


@pytest.mark.parametrize("end", ["returns", "raises"])
def test_the_processes_that_torch_spawns_say_how_they_ended(tmp_path: Path, end: str) -> None:
    code = """
    import sys
    import spark_fast as spark

    def returns(rank):
        spark.checkpoint()

    def raises(rank):
        spark.checkpoint()
        raise ValueError("broken")

    if __name__ == "__main__":
        from torch.multiprocessing import spawn
        spawn(globals()[sys.argv[1]])
    """
    with Child(tmp_path, code, end) as child:
        assert child.ended(60) == (0 if end == "returns" else 1), child.err
        assert client.attach("test").status == ("finished" if end == "returns" else "failed")


def test_a_process_that_was_forked_by_hand_and_vanishes_is_lost(tmp_path: Path) -> None:
    code = """
    import os
    import spark_fast as spark
    pid = os.fork()
    if pid == 0:
        spark.checkpoint()
        os._exit(0)
    os.waitpid(pid, 0)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert client.attach("test").status == "lost"


# --- under `spark-fast run` ---

TRAINS = """
import multiprocessing, os, sys, time
import spark_fast as spark

def work():
    state = spark.expose(lr=0.1)
    try:
        while True:
            spark.checkpoint()
            print("step", state.lr, flush=True)
            time.sleep(0.002)
    except spark.SparkStopError:
        print("saved", flush=True)
"""
FORKS = {
    "multiprocessing": """
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join()
""",
    "os.fork": """
pid = os.fork()
if pid == 0:
    work()
    sys.exit()
os.waitpid(pid, 0)
""",
}


@pytest.mark.parametrize("how", FORKS)
def test_a_training_in_a_forked_child_is_a_run_of_its_own_that_answers_to_its_parents_name(
    tmp_path: Path, how: str
) -> None:
    with Script(tmp_path, TRAINS + FORKS[how]) as child:
        until(lambda: "step" in child.out, child.err)
        assert "this process was forked from the worker of run test, and is run test-2" in child.err
        for name in ("test", "test-2", None):
            run = client.attach(name)
            assert (run.id, run.status.live) == ("test-2", True)
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.status == "paused"
        run.set("lr", 0.5)
        run.resume(timeout=10)
        until(lambda: "step 0.5" in child.out)
        with pytest.raises(client.SparkRequestError, match="was refused"):
            run.reload("import spark_fast", timeout=10)
        client.attach("test").stop(timeout=10)
        assert child.ended() == 0, child.err
        assert child.out.endswith("saved\n")
        assert run.status == "stopped"
        assert client.attach("test").status == "finished"
        assert "warning" not in child.err.replace("warning: a reload was refused", "")


@pytest.mark.parametrize("how", FORKS)
def test_a_signal_to_the_supervisor_stops_the_training_in_a_forked_child(tmp_path: Path, how: str) -> None:
    with Script(tmp_path, TRAINS + FORKS[how]) as child:
        until(lambda: "step" in child.out, child.err)
        os.kill(child.pid, signal.SIGTERM)
        assert child.ended() == 0, child.err
        assert child.out.endswith("saved\n")
        assert client.attach("test-2").status == "stopped"


@pytest.mark.parametrize("by", ["name", "signal"])
def test_a_stop_of_the_parent_stops_one_training_after_the_other(tmp_path: Path, by: str) -> None:
    code = TRAINS + FORKS["multiprocessing"] * 3
    with Script(tmp_path, code) as child:
        until(lambda: "step" in child.out, child.err)
        if by == "name":
            client.attach("test").stop(timeout=10)
        else:
            os.kill(child.pid, signal.SIGTERM)
        assert child.ended() == 0, child.err
        assert child.out.count("saved\n") == 3
        first, _, rest = child.out.partition("saved\n")
        assert first.count("step") > 0
        assert "step" not in rest


def test_two_trainings_of_one_parent_are_told_apart(tmp_path: Path) -> None:
    code = TRAINS + FORKS["multiprocessing"].replace("process.join()", FORKS["multiprocessing"])
    with Script(tmp_path, code) as child:
        until(lambda: len(client.runs(ended=False)) == 3, child.err)
        with pytest.raises(client.AmbiguousRunError, match=r"2 runs are live, name one of them: test-[23], test-[23]"):
            client.attach("test")
        for name in ("test-2", "test-3"):
            client.attach(name).stop(timeout=10)
        assert child.ended() == 0, child.err


def test_a_run_whose_parent_is_gone_does_not_answer_to_the_name_of_another(tmp_path: Path) -> None:
    with Script(tmp_path, TRAINS + FORKS["os.fork"]) as child:
        until(lambda: "step" in child.out, child.err)
        parent = next(run for run in client.runs() if run.id == "test").ranks[0].pid
        os.kill(parent, signal.SIGKILL)
        child.ended()
        idle = """
        import time
        import spark_fast as spark
        spark.create_controller().resume()
        print("idle", flush=True)
        time.sleep(600)
        """
        with Child(tmp_path, idle) as other:
            until(lambda: other.out, other.err)
            assert client.attach("test").id == "test"
            assert client.attach("test-2").status == "running"


def test_a_process_that_serves_an_idle_worker_makes_no_run(tmp_path: Path) -> None:
    code = """
import multiprocessing, time
import spark_fast as spark
def serve(queue):
    for item in spark.track(range(3)):
        queue.put(item)
    queue.put(spark.create_controller().status)
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=serve, args=(queue,), daemon=True)
process.start()
print(*[queue.get() for _ in range(4)], flush=True)
process.join()
for _ in spark.track(range(3)):
    pass
"""
    with Script(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "0 1 2 idle\n"
        assert [(run.id, run.status, run.step) for run in client.runs()] == [("test", "finished", 4)]
        assert child.err.count("\n") == 1, child.err


@pytest.mark.parametrize("daemon", [False, True])
def test_a_training_that_is_forked_from_a_loop_is_said_to_be_uncontrolled(tmp_path: Path, daemon: bool) -> None:
    code = f"""
    import multiprocessing
    import spark_fast as spark
    def work():
        for _ in range(100):
            spark.checkpoint()
    for trial in spark.track(range(2)):
        process = multiprocessing.get_context("fork").Process(target=work, daemon={daemon})
        process.start()
        process.join()
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        said = [line for line in child.err.splitlines() if "nothing controls this process" in line]
        assert len(said) == (0 if daemon else 2), child.err
        assert all("forked from the worker of run test" in line and "'spawn'" in line for line in said)
        assert [(run.id, run.status, run.step) for run in client.runs()] == [("test", "finished", 3)]


def test_neither_a_signal_nor_a_request_makes_a_run_of_a_helper_that_was_forked(tmp_path: Path) -> None:
    code = """
import os, signal, time
import spark_fast as spark
pid = os.fork()
if pid == 0:
    signal.raise_signal(signal.SIGTERM)
    print(spark.create_controller().pause(), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
for _ in spark.track(range(3)):
    pass
"""
    with Script(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "refused (nothing controls this process)\n"
        assert [run.id for run in client.runs()] == ["test"]
