"""What training code meets: checkpoints, tracked loops, hooks, options, threads, signals, asyncio."""

import os
import pickle
import signal
import time
from pathlib import Path

import psutil
import pytest

from spark_fast import client
from spark_fast.client.send import ask
from spark_fast.errors import SparkInterrupt, SparkReloadError, SparkStopError
from spark_fast.request import Kind
from tests.support.child import GATED, Child, until

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

# --- the first call ---


def test_the_first_checkpoint_makes_the_run_and_says_how_to_control_it(tmp_path: Path, home: Path) -> None:
    with Child(tmp_path, name=None) as child:
        run = until(lambda: client.attach() if client.runs() else None)
        line = until(lambda: child.err.strip())
        assert line.count("\n") == 0
        assert f"SPARK_FAST_HOME={home} spark-fast pause {run.id}" in line
        assert run.command == [str(child.script)]
        assert run.started <= time.time()
        assert run.ended is None
        assert [(rank.rank, rank.pid) for rank in run.ranks] == [(0, child.pid)]


def test_quiet_says_nothing(tmp_path: Path) -> None:
    with Child(tmp_path, SPARK_FAST_QUIET="1") as child:
        child.steps_on(child.run())
        assert child.err == ""


def test_switched_off_it_makes_no_run_and_the_loop_runs(tmp_path: Path, home: Path) -> None:
    code = """
    import spark_fast as spark
    for _ in spark.track(range(1000)):
        spark.checkpoint()
    print(spark.pending(), spark.create_controller().status)
    """
    with Child(tmp_path, code, SPARK_FAST="0") as child:
        assert child.ended() == 0
        assert (child.out, child.err) == ("False idle\n", "")
    assert not home.exists()


def test_options_in_the_environment_that_make_no_sense_are_said_and_ignored(tmp_path: Path) -> None:
    with Child(tmp_path, SPARK_FAST_YIELD_INTERVAL="soon", SPARK_FAST_ASYNC_YIELD_INTERVAL="-1") as child:
        child.steps_on(child.run())
        assert "SPARK_FAST_YIELD_INTERVAL='soon'" in child.err
        assert "SPARK_FAST_ASYNC_YIELD_INTERVAL='-1'" in child.err


def test_how_often_the_gil_is_yielded_may_have_a_unit(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    from spark_fast.worker import options
    found = options.current()
    print(found.yield_interval, found.async_yield_interval)
    """
    with Child(tmp_path, code, SPARK_FAST_YIELD_INTERVAL="1ms", SPARK_FAST_ASYNC_YIELD_INTERVAL="1e-2") as child:
        assert child.ended() == 0
        assert (child.out, child.err) == ("0.001 0.01\n", "")


def test_configure_names_the_run_and_comes_too_late_after_the_first_checkpoint(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    for wrong in ({"yield_interval": -1}, {"async_yield_interval": float("nan")}, {"run": "no name"}):
        try:
            spark.configure(**wrong)
        except ValueError as error:
            print("refused", error)
    spark.configure(run="named", yield_interval=None, quiet=True)
    spark.checkpoint()
    print(spark.create_controller().run)
    try:
        spark.configure(run="other")
    except RuntimeError as error:
        print(error)
    """
    with Child(tmp_path, code, name=None) as child:
        assert child.ended() == 0, child.err
        lines = child.out.splitlines()
        assert [line.split()[0] for line in lines[:3]] == ["refused"] * 3
        assert lines[3] == "named"
        assert "before the first checkpoint" in lines[4]


def test_the_first_checkpoint_removes_what_makes_attributes_of_the_package_slow(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    assert "__getattr__" in vars(spark) and "track" not in vars(spark)
    spark.checkpoint()
    assert "__getattr__" not in vars(spark)
    assert set(spark.__all__) <= set(vars(spark))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err


def test_pending_is_true_from_the_request_to_the_checkpoint(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    assert not spark.pending()
    spark.checkpoint()
    assert not spark.pending()
    print("idle", flush=True)
    while not spark.pending():
        time.sleep(0.001)
    try:
        spark.checkpoint()
    except spark.SparkStopError:
        print(spark.pending())
    """
    with Child(tmp_path, code) as child:
        until(lambda: child.out or child.process.poll() is not None)
        child.run().stop(wait=False)
        assert child.ended() == 0, child.err
        assert child.out == "idle\nTrue\n"


# --- how it ends ---


@pytest.mark.parametrize(
    ("code", "status", "exit_status"),
    [
        ("", "finished", 0),
        ("raise SystemExit(3)", "finished", 3),
        ("raise ValueError('broken')", "failed", 1),
        ("import os; os._exit(0)", "lost", 0),
    ],
    ids=["by itself", "sys.exit", "with an exception", "without a word"],
)
def test_a_run_that_ended_says_how(tmp_path: Path, code: str, status: str, exit_status: int) -> None:
    with Child(tmp_path, f"import spark_fast as spark\nspark.checkpoint()\n{code}\n") as child:
        assert child.ended() == exit_status
        run = client.attach("test")
        assert run.status == status
        assert run.steps_per_second is None
        assert (run.ended is None) == (status == "lost")
        assert ("Traceback" in child.err) == (status == "failed")
        assert client.runs(ended=False) == []


def test_a_stop_that_nobody_catches_ends_the_script_with_one_line(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        request = child.run().stop(timeout=10)
        assert child.ended() == 1
        assert "Traceback" not in child.err
        assert child.err.splitlines()[-1].startswith(f"spark_fast: stopped at step {request.fate.step}, asked by ")


def test_an_error_while_saving_after_a_stop_is_a_failure_and_shows_its_traceback(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    try:
        while True:
            spark.checkpoint()
            time.sleep(0.001)
    except spark.SparkStopError:
        raise OSError("disk full")
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        run.stop(timeout=10)
        assert child.ended() == 1
        assert "OSError: disk full" in child.err
        assert run.status == "failed"


def test_a_run_before_its_first_checkpoint_is_idle(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    print(spark.create_controller().resume(), flush=True)
    time.sleep(600)
    """
    with Child(tmp_path, code) as child:
        until(lambda: child.out, child.err)
        run = client.attach("test")
        assert (run.status, run.step) == ("idle", 0)
        assert run.pause(wait=False).fate.state == "asked"
        assert run.status == "pausing"


# --- the interrupts ---


@pytest.mark.parametrize("kind", [SparkStopError, SparkReloadError])
def test_interrupts_pickle_and_are_no_exceptions_that_a_loop_would_swallow(kind: type[SparkInterrupt]) -> None:
    error = kind("0123456789abcdef", 42, "someone@somewhere, pid 1")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.request_id, copy.step, copy.sender) == ("0123456789abcdef", 42, "someone@somewhere, pid 1")
    assert not isinstance(error, Exception)
    assert "at step 42, asked by someone@somewhere, pid 1" in str(error)


def test_a_reload_that_nobody_would_run_again_is_refused_and_the_loop_goes_on(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        request = ask(run._connection, Kind.RELOAD, True, 10)
        assert request.fate.state == "refused"
        assert "start it with 'spark-fast run' or spark.run()" in request.fate.reason
        assert "a reload was refused" in child.err
        child.steps_on(run)
        assert run.status == "running"


def test_what_follows_a_refused_reload_in_the_log_is_applied(tmp_path: Path) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        requests = [ask(run._connection, Kind.RELOAD, False, None), run.pause(wait=False)]
        child.go()
        assert [request.wait(10).state for request in requests] == ["refused", "applied"]
        assert run.status == "paused"


# --- signals ---


def test_ctrl_c_leaves_a_parked_checkpoint_at_once_and_the_pause_stands(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    spark.on_resume(lambda: print("hook", flush=True))
    while True:
        try:
            spark.checkpoint()
        except KeyboardInterrupt:
            print(spark.create_controller().status, flush=True)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        run.pause(timeout=10)
        os.kill(child.pid, signal.SIGINT)
        until(lambda: child.out.endswith("pausing\n"), child.err)
        assert child.out == "hook\npausing\n"
        assert run.wait("paused", timeout=10) == "paused"
        run.resume(timeout=10)
        child.steps_on(run)


def test_other_signal_handlers_run_while_it_is_parked(tmp_path: Path) -> None:
    code = """
    import signal
    import spark_fast as spark
    signal.signal(signal.SIGUSR1, lambda *_: print("got it", flush=True))
    while True:
        spark.checkpoint()
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        step = run.pause(timeout=10).fate.step
        os.kill(child.pid, signal.SIGUSR1)
        until(lambda: child.out == "got it\n")
        assert (run.status, run.step) == ("paused", step)


# --- threads ---


def test_checkpoints_in_several_threads_are_all_parked_resumed_and_stopped(tmp_path: Path) -> None:
    code = """
    import threading, time
    import spark_fast as spark
    steps = [0] * 4
    stopped = []
    spark.on_pause(lambda: print("pause", flush=True))
    def loop(number):
        try:
            while True:
                spark.checkpoint()
                steps[number] += 1
                time.sleep(0.0005)
        except spark.SparkStopError:
            stopped.append(number)
    threads = [threading.Thread(target=loop, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        print(*steps, flush=True)
        time.sleep(0.02)
    print("stopped", *sorted(stopped), flush=True)
    """

    def steps(child: Child) -> list[int]:
        lines = [line for line in child.out.splitlines() if line.count(" ") == 3]
        return [int(word) for word in lines[-1].split()] if lines else [0]

    with Child(tmp_path, code) as child:
        run = child.run()
        for _ in range(5):
            run.pause(timeout=10)
            until(lambda: len(steps(child)) == 4 and len(set(child.out.splitlines()[-5:])) == 1, "all threads parked")
            before = steps(child)
            assert run.resume(timeout=10).fate.state == "applied"
            until(lambda before=before: all(now > then for now, then in zip(steps(child), before, strict=True)))
        assert child.out.split("\n").count("pause") == 5
        run.stop(timeout=10)
        assert child.ended() == 0
        assert child.out.splitlines()[-1] == "stopped 0 1 2 3"


def test_a_second_thread_runs_at_every_step_of_a_tight_loop_by_default(tmp_path: Path) -> None:
    code = """
    import threading
    import spark_fast as spark
    spark.checkpoint()
    turns = 0
    def other():
        global turns
        while True:
            turns += 1
    threading.Thread(target=other, daemon=True).start()
    for _ in range(20):
        spark.checkpoint()
    print(turns > 0)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0
        assert child.out == "True\n"


# --- hooks ---


def test_a_checkpoint_in_a_hook_is_no_step_of_the_loop(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    @spark.on_pause
    def save():
        for _ in range(10):
            spark.checkpoint()
        print("saved", flush=True)
    asked = False
    @spark.on_resume
    def load():
        global asked
        if not asked:
            spark.create_controller().pause()
        asked = True
        for _ in range(10):
            spark.checkpoint()
        print("loaded", flush=True)
    bodies = 0
    while True:
        spark.checkpoint()
        bodies += 1
        print(bodies, flush=True)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        parked = run.pause(timeout=20).fate.step
        assert (run.status, run.step) == ("paused", parked)
        assert child.out.endswith("saved\n")
        before = child.out.count("\n")
        run.resume(wait=False)
        # It comes to the pause that the hook has asked for at the loop's next checkpoint.
        until(lambda: run.status == "paused" and run.step == parked + 1, child.err)
        assert child.out.splitlines()[before:] == ["loaded", str(parked), "saved"]
        assert run.advance(3, timeout=20).fate.state == "applied"
        assert run.step == parked + 4


def test_hooks_run_around_the_pause_and_paused_means_that_they_are_done(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    from pathlib import Path
    @spark.on_pause
    def first():
        print("first", spark.create_controller().status, flush=True)
        while not Path(__file__ + ".go").exists():
            time.sleep(0.001)
    @spark.on_pause
    def broken():
        raise ValueError("a broken hook")
    spark.on_resume(lambda: print("last to resume", flush=True))
    spark.on_resume(lambda: print("resume", flush=True))
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        request = run.pause(wait=False)
        until(lambda: "first" in child.out)
        assert child.out == "first pausing\n"
        assert run.status == "pausing"
        child.go()
        assert request.wait(10).state == "applied"
        assert run.status == "paused"
        assert "ValueError: a broken hook" in child.err
        run.resume(timeout=10)
        child.steps_on(run)
        assert child.out == "first pausing\nresume\nlast to resume\n"


# --- the controller inside ---


def test_the_controller_inside_the_process_is_one_object_and_obeys_like_those_outside(tmp_path: Path) -> None:
    code = """
    import threading, time
    import spark_fast as spark
    controller = spark.create_controller()
    assert controller is spark.controller() is spark.create_controller()
    print(controller.status, controller.run)
    controller.checkpoint()
    print(controller.status, controller.run)
    print(controller.resume())
    print(controller.pause())
    print(controller.status)
    def later():
        while controller.status != "paused":
            time.sleep(0.001)
        print(controller.status)
        answer.append(controller.resume())
    answer = []
    thread = threading.Thread(target=later)
    thread.start()
    spark.checkpoint()
    thread.join()
    print(*answer)
    print(controller.status)
    print(controller.stop())
    try:
        spark.checkpoint()
    except spark.SparkStopError:
        print(controller.status, controller.pause())
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out.splitlines() == [
            "idle None",
            "running test",
            "applied at step 1 (nothing to do)",
            "asked",
            "pausing",
            "paused",
            "asked",
            "running",
            "asked",
            "stopping refused (the run is stopping)",
        ]


def test_a_controller_in_the_worker_that_opens_and_closes_the_run_leaves_it_alive(tmp_path: Path) -> None:
    code = """
    import gc, time
    import spark_fast as spark
    from spark_fast import client
    spark.checkpoint()
    for _ in range(3):
        run = client.attach()
        run.resume()
        run.pause(wait=False)
        run.resume(wait=False)
        del run
        gc.collect()
        open(client.attach().folder / "control").close()
    print("done", flush=True)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        until(lambda: child.out == "done\n", child.err)
        assert run.status == "running"
        assert run.pause(timeout=10).fate.state == "applied"


# --- checkpoints that do not count ---


def test_a_checkpoint_of_one_rank_only_parks_but_neither_counts_nor_stops(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    from pathlib import Path
    spark.checkpoint()
    print("evaluating", flush=True)
    while not Path(__file__ + ".go").exists():
        spark.checkpoint(collective=False)
        time.sleep(0.001)
    print("evaluated", flush=True)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        assert run.pause(timeout=10).fate.state == "applied"
        assert (run.status, run.step) == ("paused", 1)
        resume = run.resume(wait=False)
        assert run.wait("running", timeout=10) == "running"
        assert run.step == 1
        stop = run.stop(wait=False)
        child.go()
        assert stop.wait(10).state == "applied"
        assert resume.fate.state == "applied"
        assert child.ended() == 1
        assert child.out == "evaluating\nevaluated\n"


# --- track ---


def test_track_shows_how_far_nested_loops_are_and_how_long_they_will_take(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    for epoch in spark.track(range(4)):
        for batch in spark.track((number for number in range(10)), total=10):
            time.sleep(0.02)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        until(lambda: run.progress and run.progress.loops[0][0] == 2)
        run.pause(timeout=10)
        progress = run.progress
        assert progress is not None
        (outer, outer_total), (inner, inner_total) = progress.loops
        assert (outer, outer_total, inner_total) == (2, 4, 10)
        assert progress.fraction == pytest.approx((2 + inner / 10) / 4)
        assert progress.seconds_left is not None and 0.1 < progress.seconds_left < 30
        left = progress.seconds_left
        time.sleep(0.5)  # the time that must not count
        assert run.progress.seconds_left == pytest.approx(left, abs=0.1)
        run.resume(timeout=10)
        assert child.ended() == 0
        assert run.progress is None


def test_track_gives_what_the_iterable_gives_and_knows_its_length(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    assert list(spark.track([3, 1, 2])) == [3, 1, 2]
    assert len(spark.track("abcd")) == 4
    loop = spark.track([1, 2])
    assert (list(loop), list(loop)) == ([1, 2], [1, 2])
    assert spark.track([]).total == 0
    generator = spark.track(number for number in range(3))
    assert generator.total is None
    try:
        len(generator)
    except TypeError:
        pass
    else:
        raise AssertionError
    assert list(generator) == [0, 1, 2]
    def broken():
        yield 1
        raise LookupError("in the iterable")
    try:
        for item in spark.track(broken()):
            assert item == 1
    except LookupError:
        pass
    for wrong in (lambda: iter(spark.track(5)), lambda: spark.track([], total=-1)):
        try:
            wrong()
        except (TypeError, ValueError):
            continue
        raise AssertionError
    for depth in range(20):
        for item in spark.track(range(10)):
            if item == 3:
                break
    from spark_fast import client
    print(client.attach("test").progress)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "None\n"


def test_an_item_that_a_stop_came_before_is_not_lost(tmp_path: Path) -> None:
    code = """
    import time
    import spark_fast as spark
    seen = []
    items = spark.track(iter(range(10**9)))
    try:
        for item in items:
            seen.append(item)
            time.sleep(0.001)
    except spark.SparkStopError:
        assert items.done == len(seen)
        print(seen == list(range(len(seen))))
    """
    with Child(tmp_path, code) as child:
        child.run().stop(timeout=10)
        assert child.ended() == 0, child.err
        assert child.out == "True\n"


# --- asyncio ---


def test_a_parked_asyncio_loop_runs_its_other_tasks(tmp_path: Path) -> None:
    code = """
    import asyncio
    import spark_fast as spark
    ticks = 0
    async def other():
        global ticks
        while True:
            ticks += 1
            print(ticks, flush=True)
            await asyncio.sleep(0.01)
    async def main():
        task = asyncio.create_task(other())
        try:
            while True:
                await spark.checkpoint_async()
        finally:
            task.cancel()
    asyncio.run(main())
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        # In a tight loop the other tasks have their turns too.
        until(lambda: len(child.out.split()) > 3)
        step = run.pause(timeout=10).fate.step
        ticks = len(child.out.split())
        until(lambda: len(child.out.split()) > ticks + 20)
        assert (run.status, run.step) == ("paused", step)
        run.resume(timeout=10)
        child.steps_on(run)
        run.stop(timeout=10)
        assert child.ended() == 1
        assert "stopped at step" in child.err.splitlines()[-1]


def test_an_idle_asyncio_checkpoint_takes_no_trip_through_the_event_loop(tmp_path: Path) -> None:
    code = """
    import asyncio
    import spark_fast as spark
    async def main(interval):
        spark.configure(async_yield_interval=interval)
        trips = 0
        async def other():
            nonlocal trips
            while True:
                trips += 1
                await asyncio.sleep(0)
        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        before = trips
        for _ in range(100):
            await spark.checkpoint_async()
        task.cancel()
        print(trips - before)
    asyncio.run(main(1000.0))
    asyncio.run(main(0.0))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        none, every = (int(word) for word in child.out.split())
        assert none == 0
        assert every == 100


def test_a_cancelled_task_leaves_its_parked_checkpoint(tmp_path: Path) -> None:
    code = """
    import asyncio
    import spark_fast as spark
    async def loop():
        while True:
            await spark.checkpoint_async()
    async def main():
        task = asyncio.create_task(loop())
        while spark.create_controller().status != "paused":
            await asyncio.sleep(0.001)
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            print(spark.create_controller().status, flush=True)
    asyncio.run(main())
    """
    with Child(tmp_path, code) as child:
        child.run().pause(timeout=10)
        assert child.ended() == 0, child.err
        assert child.out == "pausing\n"


# --- what it costs ---


def test_a_parked_worker_wakes_at_most_once_a_second(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        run.pause(timeout=10)
        process = psutil.Process(child.pid)

        def wakes() -> int:
            return process.num_ctx_switches().voluntary

        before, cpu, began = wakes(), child.cpu_time(), time.monotonic()
        time.sleep(3.5)  # the time over which it may wake so often
        # Some more are for what publishing the park still had to do.
        assert wakes() - before <= time.monotonic() - began + 4
        assert child.cpu_time() - cpu < 0.1


def test_an_idle_checkpoint_makes_no_system_call_and_no_allocation(tmp_path: Path) -> None:
    code = """
    import sys, tracemalloc
    import spark_fast as spark
    spark.checkpoint()
    def switches():
        return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("voluntary_ctxt_switches"))
    checkpoint = spark.checkpoint
    for _ in range(1000):
        checkpoint()
    before, waits = sys.getallocatedblocks(), switches()
    for _ in range(100000):
        checkpoint()
    print(sys.getallocatedblocks() - before, int(switches()) - int(waits))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        blocks, waits = (int(word) for word in child.out.split())
        assert blocks < 50
        assert waits < 20
