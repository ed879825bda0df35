"""Whatever becomes of the run, its host or the user's own objects: the training goes on, and can be stopped well."""

import fcntl
import os
import resource
import shutil
import signal
import socket
import textwrap
import threading
import time
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.hosts import store
from tests.support.child import Child, until
from tests.support.reloading import Edited

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

SAVES = """
import time
import spark_fast as spark
from spark_fast.worker import process
process._REMOTE = 0.5
try:
    while True:
        spark.checkpoint()
        print("step", flush=True)
        time.sleep(0.001)
except spark.SparkStopError as stop:
    print(f"saved: {stop}", flush=True)
"""
TERM = {"SPARK_FAST_STOP_SIGNALS": "SIGTERM"}


def saves_at_a_signal(child: Child) -> None:
    """It stops at its next checkpoint, where it can save."""
    until(lambda: "step" in child.out, child.err)
    os.kill(child.pid, signal.SIGTERM)
    assert child.ended() == 0, child.err
    assert child.out.splitlines()[-1].startswith("saved: stopped at step "), child.out
    assert "asked by SIGTERM" in child.out


# --- a signal that asks for a stop ---


def test_a_signal_stops_a_process_whose_run_could_not_be_made(tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    with Child(tmp_path, SAVES, SPARK_FAST_HOME=str(tmp_path / "no folder"), **TERM) as child:
        saves_at_a_signal(child)
        assert "can't be controlled" in child.err


def test_a_signal_stops_a_process_whose_folder_was_removed(tmp_path: Path) -> None:
    with Child(tmp_path, SAVES, **TERM) as child:
        shutil.rmtree(child.run().folder)
        saves_at_a_signal(child)


@pytest.mark.parametrize("counted", [True, False])
def test_a_signal_stops_a_parked_process_that_has_no_descriptor_left(tmp_path: Path, counted: bool) -> None:
    code = SAVES.replace("try:", "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\ntry:", 1)
    code = code.replace("import time", "import time\nimport spark_fast.worker.signals\nspark_fast.checkpoint()")
    if not counted:  # it parks in code of its own, and saves at the next checkpoint that counts
        code = code.replace("time.sleep(0.001)", "time.sleep(0.2); spark.checkpoint(collective=False)")
    with Child(tmp_path, code.replace("import time", "import time, spark_fast", 1), **TERM) as child:
        until(lambda: "step" in child.out, child.err)
        assert child.run().pause(timeout=10).fate.state == "applied"
        saves_at_a_signal(child)


def test_a_process_that_has_no_descriptor_for_its_run_goes_on(tmp_path: Path) -> None:
    code = """
    import resource
    import spark_fast as spark
    spark.expose
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
    for _ in range(3):
        spark.checkpoint()
    print("trained", flush=True)
    """
    with Child(tmp_path, code, **TERM) as child:
        assert child.ended() == 0, child.err
        assert child.out == "trained\n"
        assert "can't be controlled" in child.err


def of_two_hosts(**env: str) -> dict[str, str]:
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    return place | TERM | {"MASTER_ADDR": "", "MASTER_PORT": ""} | env


def test_a_signal_stops_a_rank_whose_job_has_no_store(tmp_path: Path) -> None:
    with Child(tmp_path, SAVES, **of_two_hosts(SPARK_FAST_JOB="mine")) as child:
        saves_at_a_signal(child)
        assert "the job has no store" in child.err


def test_a_signal_stops_a_rank_whose_jobs_store_says_nothing(tmp_path: Path) -> None:
    with Child(tmp_path, SAVES, **of_two_hosts(SPARK_FAST_JOB="mine", SPARK_FAST_STORE="tcp://127.0.0.1:1")) as child:
        saves_at_a_signal(child)
        assert "this process stops alone" in child.err


def test_descriptors_that_run_out_once_the_run_is_made_do_not_end_the_training(tmp_path: Path) -> None:
    code = """
    import resource
    import spark_fast as spark
    from spark_fast.worker.lifecycle import join
    make = join.make_run
    def made(*words, **options):
        run = make(*words, **options)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        return run
    join.make_run = made
    for _ in range(3):
        spark.checkpoint()
    print("went on")
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "went on\n"
        assert "Traceback" not in child.err


@pytest.mark.parametrize("logged", [True, False], ids=["in the log", "nowhere"])
def test_a_stop_that_all_hosts_were_asked_for_is_left_to_the_log_once_it_is_there(tmp_path: Path, logged: bool) -> None:
    code = f"""
    import spark_fast as spark
    from spark_fast.runfiles import run_folder
    from spark_fast._core import worker
    from spark_fast.request import Kind
    from spark_fast.worker import process
    spark.checkpoint()
    ident = run_folder.new_id()
    if {logged}:
        worker.append(Kind.PAUSE, ident, arg=10**6)
    process.current.local_stop.expect(ident, "me", 0.0)
    try:
        for _ in range(3):
            spark.checkpoint()
    except spark.SparkStopError:
        print("stopped alone")
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == ("" if logged else "stopped alone\n")


def test_a_fork_of_a_process_that_stops_alone_goes_on(tmp_path: Path) -> None:
    code = """
    import os, signal, sys
    import spark_fast as spark
    spark.checkpoint()
    signal.raise_signal(signal.SIGTERM)
    pid = os.fork()
    if pid == 0:
        spark.checkpoint()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    try:
        spark.checkpoint()
    except spark.SparkStopError:
        print("saved")
    """
    (tmp_path / "no folder").touch()
    with Child(tmp_path, code, SPARK_FAST_HOME=str(tmp_path / "no folder"), **TERM) as child:
        assert child.ended() == 0, child.err
        assert child.out == "saved\n"


# --- the run's folder ---


def test_a_live_runs_folder_is_locked_against_cleaners(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        fd = os.open(child.run().folder, os.O_RDONLY)

        def taken() -> bool:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as systemd-tmpfiles tries it
            except BlockingIOError:
                return True
            fcntl.flock(fd, fcntl.LOCK_UN)
            return False

        try:
            until(taken, "the worker has locked it")  # just after the run is there to be seen
            child.process.kill()
            child.ended()
            assert not taken()
        finally:
            os.close(fd)


def test_a_controller_whose_run_is_gone_is_refused(tmp_path: Path) -> None:
    code = """
    import shutil
    import spark_fast as spark
    from spark_fast.worker import session
    spark.checkpoint()
    controller = spark.create_controller()
    shutil.rmtree(session.folder())
    print(controller.pause().state, controller.stop().state, flush=True)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "refused refused\n"


def test_a_controller_of_any_rank_has_that_ranks_status(tmp_path: Path) -> None:
    code = "import spark_fast as spark\nspark.checkpoint()\nprint(spark.create_controller().status)\n"
    ranks = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "SPARK_FAST_JOB": "mine"}
    with Child(tmp_path, code, **ranks) as child:
        assert child.ended() == 0, child.err
        assert child.out == "running\n"


# --- the user's own objects ---


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_dict_that_is_json_no_more_costs_no_control(tmp_path: Path, when: str) -> None:
    code = """
    import time
    import spark_fast as spark
    card = {"layers": 12}
    spark.expose(card=card, lr=0.1)
    """
    spoilt = "card['device'] = object()\n"
    again = "spark.checkpoint()\n" + spoilt + "spark.expose(card=card, lr=0.1)\n" if when == "after" else spoilt
    loop = "while True:\n    spark.checkpoint()\n    time.sleep(0.001)\n"
    if when == "after":
        again = again.replace("spark.expose(card=card, lr=0.1)", "spark.expose(card={'layers': 13}, lr=0.1)")
    with Child(tmp_path, textwrap.dedent(code) + again + loop) as child:
        run = child.run()
        assert run.set("lr", 0.2, timeout=10).fate.state == "applied"
        if when == "before":
            until(lambda: "the exposed value card can't be shown" in child.err, child.err)


def test_new_code_that_fails_is_taken_back_though_a_value_is_json_no_more(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    card = spark.persist("card", lambda: {"layers": 12})
    state = spark.expose(card=card)
    spoil = spark.persist("spoil", lambda: card.update(device=object()))
    for number in spark.track(range(10**9), key="number"):
        time.sleep(0.001)
        # there
    """
    with Edited(tmp_path, code) as training:
        run = training.run()
        training.edit("# there", "state.card = {}; raise ValueError")
        assert training.reload().fate.state == "failed"
        training.steps_on(run)
        assert run.status == "running"


def test_new_code_whose_exception_can_not_say_what_it_is_is_taken_back(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError
    for number in spark.track(range(10**9), key="number"):
        time.sleep(0.001)
        # there
    """
    with Edited(tmp_path, code) as training:
        run = training.run()
        training.edit("# there", "raise Mute")
        assert training.reload().fate.state == "failed"
        training.steps_on(run)


def test_a_function_and_a_hook_in_which_a_task_is_cancelled_end_no_training(tmp_path: Path) -> None:
    code = """
    import asyncio, time
    import spark_fast as spark
    def cancelled():
        raise asyncio.CancelledError
    spark.expose(cancelled=cancelled)
    spark.on_pause(cancelled)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        with pytest.raises(client.SparkCallError, match="CancelledError"):
            run.call("cancelled", spark_timeout=10)
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.resume(timeout=10).fate.state == "applied"
        child.steps_on(run)


def test_track_takes_whatever_a_bare_loop_takes(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    class Unsized(list):
        def __len__(self):
            raise NotImplementedError
    class Odd(list):
        def __len__(self):
            return -1
    for source in (Unsized([1]), Odd([1]), range(10**20)):
        for item in spark.track(source):
            break
    print("looped")
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "looped\n"


# --- the process ---


def test_a_task_is_resumed_where_no_thread_is_to_be_had(tmp_path: Path) -> None:
    code = """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor
    import spark_fast as spark
    async def main():
        executor = ThreadPoolExecutor(1)
        asyncio.get_running_loop().set_default_executor(executor)
        executor.shutdown()
        while True:
            await spark.checkpoint_async()
            await asyncio.sleep(0.001)
    asyncio.run(main())
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.resume(timeout=10).fate.state == "applied"
        child.steps_on(run)


@pytest.mark.parametrize("module", ["spark_fast.worker.slow_path.checkpoint", "spark_fast.worker.state.track"])
def test_a_library_that_can_not_be_loaded_any_more_costs_the_control_alone(tmp_path: Path, module: str) -> None:
    code = f"""
    import sys
    import spark_fast as spark
    class Gone:
        def find_spec(self, name, path=None, target=None):
            if name == {module!r}:
                raise ImportError("no such file")
    sys.meta_path.insert(0, Gone())
    for _ in range(3):
        spark.checkpoint()
    print("trained")
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "trained\n"
        assert child.err.count("can't be controlled") == 1


def test_an_interval_that_is_too_long_is_ignored_with_a_warning(tmp_path: Path) -> None:
    code = "import spark_fast as spark\nspark.checkpoint()\nspark.checkpoint()\n"
    with Child(tmp_path, code, SPARK_FAST_YIELD_INTERVAL="1e10") as child:
        assert child.ended() == 0, child.err
        assert "SPARK_FAST_YIELD_INTERVAL='1e10' is ignored" in child.err


def test_the_environment_says_how_often_other_tasks_run(tmp_path: Path) -> None:
    code = """
    import asyncio
    import spark_fast as spark
    async def other():
        global count
        while True:
            count += 1
            await asyncio.sleep(0)
    async def main():
        task = asyncio.create_task(other())
        for _ in range(100):
            await spark.checkpoint_async()
    count = 0
    asyncio.run(main())
    print(count)
    """
    with Child(tmp_path, code, SPARK_FAST_ASYNC_YIELD_INTERVAL="0") as child:
        assert child.ended() == 0, child.err
        assert 90 <= int(child.out) <= 110


def test_a_sender_whose_name_is_no_text_is_heard(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    spark.checkpoint()
    print(spark.create_controller().stop().state)
    """
    with Child(tmp_path, code, LOGNAME="\udcff", USER="\udcff") as child:
        assert child.ended() == 0, child.err
        assert child.out == "asked\n"


def test_a_store_whose_library_is_not_there_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    from spark_fast.hosts import torch_store

    def absent(name: str) -> None:
        raise ImportError(f"no module named {name}")

    monkeypatch.setattr(torch_store, "import_module", absent)
    threads = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A server of another version than the relay's own client speaks: it closes the connection.
        server = threading.Thread(target=lambda: listener.accept()[0].close())
        server.start()
        port = listener.getsockname()[1]
        with pytest.raises(store.StoreGoneError, match=r"PyTorch's client: .*no module named torch\.distributed"):
            store.open_store(f"tcp://127.0.0.1:{port}", 10.0)
        server.join(10.0)
    assert threading.active_count() == threads, "no thread is left of a client that can't be had"


UNTIL_TOLD = """
import os, time
import spark_fast as spark
while True:
    spark.checkpoint()
    if os.path.exists(__file__ + ".go"):
        raise ValueError("a fault of the script")
    time.sleep(0.001)
"""


def _may_open(child: Child, limit: int | None) -> None:
    """Let a process that has made its run have so many files open, as many as ever for None."""
    if limit is not None:
        child.steps_on(child.run())
    _, hard = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (hard if limit is None else limit, hard))


def test_a_timed_pause_ends_as_soon_as_a_file_can_be_opened_and_says_so_once(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        _may_open(child, 3)
        assert run.pause(resume_after=0.1, timeout=30).fate.state == "applied"
        until(lambda: "the timed pause can't be ended yet" in child.err, child.err)
        time.sleep(1.5)  # the time over which it is tried again, and nothing more may be said
        assert run.status == "paused"
        _may_open(child, None)
        child.steps_on(run)
        assert child.err.count("the timed pause can't be ended yet") == 1
        assert "Traceback" not in child.err


def test_a_script_that_fails_where_no_file_can_be_opened_is_failed_and_not_lost(tmp_path: Path) -> None:
    with Child(tmp_path, UNTIL_TOLD) as child:
        run = child.run()
        _may_open(child, 3)
        child.go()
        assert child.ended() == 1
        assert run.status == "failed"
        assert "a fault of the script" in child.err
        assert "Exception ignored" not in child.err


KEEPS = """
import os, time
import spark_fast as spark
spark.persist("model", list)
for item in spark.track(range(10**9), key="item"):
    if os.path.exists(os.environ["GO"]):
        raise ValueError("a fault of the script")
    time.sleep(0.001)
"""


def test_a_script_that_fails_where_no_file_can_be_opened_waits_and_is_paused_later(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Edited(tmp_path, KEEPS, GO=str(go), SPARK_FAST_ON_ERROR="park") as training:
        run = training.run()
        _may_open(training, 3)
        go.touch()
        until(lambda: "is paused as soon as a file can be opened" in training.err, training.err)
        time.sleep(1.5)  # the time over which it is tried again, and the code does not run
        assert training.err.count("a fault of the script") == 2, "the message and the traceback of one error"
        assert run.status == "running"
        _may_open(training, None)
        until(lambda: run.status == "paused", training.err)
        go.unlink()
        assert run.resume(timeout=30).fate.state == "applied"
        training.steps_on(run)


def test_a_signal_stops_a_script_that_failed_where_no_file_can_be_opened(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with Edited(tmp_path, KEEPS, GO=str(go), SPARK_FAST_ON_ERROR="park") as training:
        training.run()
        _may_open(training, 3)
        go.touch()
        until(lambda: "is paused as soon as a file can be opened" in training.err, training.err)
        os.kill(training.pid, signal.SIGTERM)
        assert training.ended() == 1, training.err
        assert "ValueError: a fault of the script" in training.err.splitlines()
