"""Stop means stop, and the code that saves runs: where SparkStopError is raised, where again, and where not."""

from pathlib import Path

import pytest

from tests.support.child import Child
from tests.support.job import Job

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

HEAD = """
import asyncio, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
import spark_fast as spark

def stop():
    assert spark.create_controller().stop() is not None

def validate(items=3):
    count = 0
    for _ in spark.track(range(items)):
        spark.checkpoint()
        count += 1
    return count

def train(steps=1000):
    for step in spark.track(range(steps)):
        if step == 5:
            stop()
    raise AssertionError("the stop was not raised")
"""


def outcome(tmp_path: Path, code: str, *args: str, **env: str) -> str:
    """What a script prints that ends well."""
    lines = "".join(line.removeprefix("    ") + "\n" for line in code.splitlines())
    with Child(tmp_path, HEAD + lines, *args, **env) as child:
        assert child.ended() == 0, child.out + child.err
        return child.out.strip()


SAVES = {
    "in the handler": """
    try:
        train()
    except spark.SparkStopError:
        print(validate())
    """,
    "after the handler": """
    try:
        train()
    except spark.SparkStopError:
        pass
    print(validate())
    """,
    "after a bare except": """
    try:
        train()
    except:
        pass
    print(validate())
    """,
    "in a finally block": """
    try:
        try:
            train()
        finally:
            print(validate())
    except spark.SparkStopError:
        pass
    """,
    "in a context manager": """
    from contextlib import contextmanager
    @contextmanager
    def saving():
        try:
            yield
        finally:
            print(validate())
    try:
        with saving():
            train()
    except spark.SparkStopError:
        pass
    """,
    "in the handler of an error of the saving": """
    try:
        train()
    except spark.SparkStopError:
        try:
            raise OSError("disk full")
        except OSError:
            print(validate())
    """,
    "by the function that the stop came in": """
    def train_in_validation():
        while True:
            stop()
            validate()
    try:
        train_in_validation()
    except spark.SparkStopError:
        validate()
    print(validate())
    """,
    "in a generator": """
    def batches():
        for item in spark.track(range(3)):
            yield item
    try:
        train()
    except spark.SparkStopError:
        pass
    print(len(list(batches())))
    """,
    "after a stop in a generator": """
    def batches():
        try:
            for item in spark.track(range(10)):
                if item == 5:
                    stop()
                yield item
        finally:
            validate()
    try:
        for _ in batches():
            pass
    except spark.SparkStopError:
        print(validate())
    """,
    "in threads of the handler": """
    try:
        train()
    except spark.SparkStopError:
        with ThreadPoolExecutor(2) as pool:
            print(*{future.result() for future in [pool.submit(validate) for _ in range(4)]})
    """,
    "by the thread that waits for the one that trains": """
    with ThreadPoolExecutor(1) as pool:
        try:
            pool.submit(train).result()
        except spark.SparkStopError:
            print(validate())
    """,
    "in tasks of the handler": """
    async def check():
        await spark.checkpoint_async()
        return validate()
    async def main():
        try:
            train()
        except spark.SparkStopError:
            print(*set(await asyncio.gather(check(), asyncio.create_task(check()), asyncio.to_thread(validate))))
    asyncio.run(main())
    """,
    "after the event loop of the task that trains": """
    async def main():
        for step in range(1000):
            await spark.checkpoint_async()
            if step == 5:
                stop()
    try:
        asyncio.run(main())
    except spark.SparkStopError:
        pass
    print(validate())
    """,
}


@pytest.mark.parametrize("how", SAVES)
def test_code_that_saves_passes_checkpoints(tmp_path: Path, how: str) -> None:
    assert outcome(tmp_path, SAVES[how]) == "3"


SWALLOWS = {
    "a bare except in the loop": """
    stop()
    raised = 0
    while raised < 3:
        try:
            spark.checkpoint()
            passed = True
        except:
            raised += 1
    print(raised, "passed" in globals())
    """,
    "a track that is asked again": """
    stop()
    raised = 0
    items = iter(spark.track(range(10)))
    while raised < 3:
        try:
            next(items)
        except BaseException:
            raised += 1
    print(raised, items.done > 0)
    """,
    "a function that the loop calls": """
    stop()
    raised = 0
    def step():
        global raised
        try:
            spark.checkpoint()
        except BaseException:
            raised += 1
    while raised < 3:
        step()
    print(raised, False)
    """,
    "a loop around a loop": """
    raised = 0
    def epoch():
        for _ in range(3):
            for _ in spark.track(range(3)):
                pass
    stop()
    while raised < 3:
        try:
            epoch()
        except BaseException:
            raised += 1
    print(raised, False)
    """,
    "threads that are started for each epoch": """
    raised = 0
    def epoch():
        global raised
        try:
            validate()
        except BaseException:
            raised += 1
    stop()
    while raised < 3:
        thread = threading.Thread(target=epoch)
        thread.start()
        thread.join()
    print(raised, False)
    """,
    "a task that goes on": """
    stop()
    raised = 0
    async def main():
        global raised
        while raised < 3:
            try:
                await spark.checkpoint_async()
            except BaseException:
                raised += 1
    asyncio.run(main())
    print(raised, False)
    """,
}


@pytest.mark.parametrize("how", SWALLOWS)
def test_code_that_swallows_a_stop_and_comes_back_is_raised_it_again(tmp_path: Path, how: str) -> None:
    assert outcome(tmp_path, SWALLOWS[how]) == "3 False"


def test_a_loop_around_code_that_swallows_the_stop_is_left_as_well(tmp_path: Path) -> None:
    code = """
    swallowed = passed = 0
    def step():
        global swallowed
        try:
            spark.checkpoint()
        except BaseException:
            swallowed += 1
    try:
        stop()
        while True:
            step()
            spark.checkpoint()
            passed += 1
    except spark.SparkStopError:
        print(swallowed, passed, validate())
    """
    # Swallowed once, the loop's own checkpoint passes, as one of the saving would. Swallowed twice, it raises.
    assert outcome(tmp_path, code) == "2 1 3"


@pytest.mark.parametrize("asynchronous", [False, True], ids=["plain", "asyncio"])
def test_a_stop_that_comes_in_a_called_function_or_a_hook_reaches_the_loop(tmp_path: Path, asynchronous: bool) -> None:
    code = """
    import json
    controller = spark.create_controller()
    what, swallows = sys.argv[1], sys.argv[2] == "swallows"
    def checks():
        stop()
        try:
            spark.checkpoint()
        except BaseException:
            if not swallows:
                raise
            validate()
    spark.expose(checks=spark.function(checks))
    if what == "hook":
        spark.on_resume(checks)
    raised = 0
    async def step():
        if sys.argv[3] == "True":
            await spark.checkpoint_async()
        else:
            spark.checkpoint()
    async def loop():
        global raised
        for _ in range(100000):
            try:
                await step()
            except spark.SparkStopError:
                raised += 1
                if raised == 3:
                    print(validate())
                    break
    spark.checkpoint()
    if what == "hook":
        controller.pause()
        threading.Timer(0.1, controller.resume).start()
    else:
        from spark_fast.client import attach
        attach("test").request_call("checks", wait=False)
    asyncio.run(loop())
    """
    for what in ("function", "hook"):
        for swallows in ("swallows", "lets it through"):
            folder = tmp_path / what / swallows
            folder.parent.mkdir(exist_ok=True)
            assert outcome(folder, code, what, swallows, str(asynchronous)) == "3", (what, swallows)


def test_each_fold_of_a_validation_saves_before_the_next_one_is_left(tmp_path: Path) -> None:
    code = """
    def fold(number):
        try:
            for step in spark.track(range(1000)):
                if (number, step) == (0, 5):
                    stop()
        except spark.SparkStopError:
            print(number, validate())
    for number in range(3):
        fold(number)
    """
    assert outcome(tmp_path, code) == "0 3\n1 3\n2 3"


def test_each_thread_and_each_task_is_raised_the_stop_once(tmp_path: Path) -> None:
    threads = """
    start = threading.Barrier(3)
    def work(number):
        start.wait()
        try:
            while True:
                spark.checkpoint()
        except spark.SparkStopError:
            print(number, validate())
    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for each in workers:
        each.start()
    start.wait()
    stop()
    for each in workers:
        each.join()
    """
    assert sorted(outcome(tmp_path, threads).splitlines()) == ["0 3", "1 3"]
    tasks = """
    async def work(number):
        try:
            while True:
                await spark.checkpoint_async()
                await asyncio.sleep(0)
        except spark.SparkStopError:
            print(number, validate())
    async def other():
        try:
            while True:
                spark.checkpoint()
                await asyncio.sleep(0)
        except spark.SparkStopError:
            print("other", validate())
    async def main():
        tasks = [asyncio.create_task(work(number)) for number in range(2)] + [asyncio.create_task(other())]
        await asyncio.sleep(0.01)
        stop()
        await asyncio.gather(*tasks)
    asyncio.run(main())
    """
    assert sorted(outcome(tmp_path, tasks).splitlines()) == ["0 3", "1 3", "other 3"]


WAITING = """
    import queue, time
    from concurrent.futures import wait
    from multiprocessing.pool import ThreadPool

    def main_waits():
        names, frame = [], sys._current_frames()[threading.main_thread().ident]
        own = frame.f_code.co_filename == __file__
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back
        return not own and "start" not in names

    def work(swallows=True):
        try:
            for step in spark.track(range(1000)):
                if step == 5:
                    while not main_waits():
                        time.sleep(0.001)
                    stop()
        except spark.SparkStopError:
            if not swallows:
                raise

    async def work_in_task():
        try:
            for step in range(1000):
                await spark.checkpoint_async()
                await asyncio.sleep(0)
                if step == 5:
                    stop()
        except spark.SparkStopError:
            pass

    def start(fn=work):
        thread = threading.Thread(target=fn)
        thread.start()
        return thread
    """


WAITS = {
    "a thread that is joined": "start().join()",
    "the end of an executor": """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work)
    """,
    "a future": "ThreadPoolExecutor(1).submit(work).result()",
    "a future that raises": """
    try:
        ThreadPoolExecutor(1).submit(work, swallows=False).result()
    except spark.SparkStopError:
        pass
    """,
    "several futures": "wait([ThreadPoolExecutor(1).submit(work)])",
    "the map of an executor": "list(ThreadPoolExecutor(1).map(work, [True]))",
    "the map of a pool of threads": "ThreadPool(1).map(work, [True])",
    "a function that joins": """
    def train():
        thread = start()
        thread.join()
    train()
    """,
    "a task": """
    async def main():
        await asyncio.create_task(work_in_task())
        print(validate())
    asyncio.run(main())
    sys.exit()
    """,
    "tasks that are gathered": """
    async def main():
        await asyncio.gather(work_in_task(), return_exceptions=True)
        for _ in range(3):
            await spark.checkpoint_async()
        print(3)
    asyncio.run(main())
    sys.exit()
    """,
    "a task group": """
    async def train():
        async with asyncio.TaskGroup() as group:
            group.create_task(work_in_task())
    async def main():
        await train()
        print(validate())
    asyncio.run(main())
    sys.exit()
    """,
    "tasks that are waited for": """
    async def main():
        await asyncio.wait([asyncio.create_task(work_in_task())])
        print(validate())
    asyncio.run(main())
    sys.exit()
    """,
    "a thread of a task": """
    async def main():
        await asyncio.to_thread(work)
        print(validate())
    asyncio.run(main())
    sys.exit()
    """,
}


@pytest.mark.parametrize("how", WAITS)
def test_code_that_waited_for_what_trains_is_not_raised_the_stop_behind_its_wait(tmp_path: Path, how: str) -> None:
    code = f"    {WAITS[how].strip()}\n    print(validate())"
    assert outcome(tmp_path, WAITING.rstrip() + "\n" + code) == "3"


COMES_BACK = {
    "a loop with a checkpoint before the wait": """
    for _ in spark.track(range(9)):
        start().join()
        print(validate())
    """,
    "a loop whose functions pass checkpoints before the wait": """
    def epoch():
        validate()
        start().join()
    while True:
        epoch()
        print(validate())
    """,
    "a loop that starts new threads": """
    while True:
        start().join()
        print(validate())
    """,
    "a loop that gives the same threads new work": """
    pool = ThreadPoolExecutor(1)
    while True:
        pool.submit(work).result()
        print(validate())
    """,
    "a loop with its own checkpoint behind the wait": """
    while True:
        start().join()
        print(validate())
        spark.checkpoint()
    """,
    "a loop that makes new tasks": """
    async def main():
        while True:
            await asyncio.gather(work_in_task())
            print(validate())
    asyncio.run(main())
    """,
}


@pytest.mark.parametrize("how", COMES_BACK)
def test_code_that_waited_for_what_trains_is_raised_the_stop_when_it_comes_back(tmp_path: Path, how: str) -> None:
    lines = "\n".join("    " + line for line in COMES_BACK[how].splitlines())
    code = f"{WAITING}\n    try:{lines}\n    except spark.SparkStopError:\n        print('left', validate())\n"
    assert outcome(tmp_path, code) == "3\nleft 3"


def test_code_that_waits_for_items_is_raised_the_stop(tmp_path: Path) -> None:
    code = """
    items = queue.Queue()
    def fill():
        work()
        while True:
            items.put(1)
            time.sleep(0.001)
    threading.Thread(target=fill, daemon=True).start()
    try:
        while True:
            items.get()
            spark.checkpoint()
    except spark.SparkStopError:
        print(validate())
    """
    assert outcome(tmp_path, WAITING + code) == "3"


def test_a_stop_that_this_process_alone_is_told_of_keeps_to_the_rule(tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    env = {"SPARK_FAST_HOME": str(tmp_path / "no folder"), "SPARK_FAST_STOP_SIGNALS": "SIGTERM"}
    code = """
    import signal
    spark.checkpoint()
    signal.raise_signal(signal.SIGTERM)
    for _ in range(2):
        try:
            validate()
        except spark.SparkStopError:
            print(validate())
    """
    assert outcome(tmp_path, code, **env) == "3\n3"


def test_a_checkpoint_of_one_rank_alone_raises_no_stop(tmp_path: Path) -> None:
    code = """
    stop()
    spark.checkpoint(collective=False)
    try:
        spark.checkpoint()
    except spark.SparkStopError:
        spark.checkpoint(collective=False)
        print(spark.pending())
    """
    assert outcome(tmp_path, code) == "True"


def test_all_ranks_validate_together_before_they_save(tmp_path: Path) -> None:
    code = """
    import os, time
    import spark_fast as spark
    from pathlib import Path
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])

    def meet(what):
        Path(__file__).with_name(f"{what}.{rank}").touch()
        while not all(Path(__file__).with_name(f"{what}.{each}").exists() for each in range(size)):
            time.sleep(0.0005)

    try:
        for step in spark.track(range(10**6)):
            time.sleep(0.001)
    except spark.SparkStopError as stop:
        for batch in spark.track(range(3)):
            meet(batch)
        print("saved", stop.step, flush=True)
    """
    with Job(tmp_path, code, size=3) as job:
        run = job.run()
        step = run.stop(timeout=10).fate.step
        assert [child.ended() for child in job.ranks.values()] == [0, 0, 0]
        assert [child.out for child in job.ranks.values()] == [f"saved {step}\n"] * 3
        assert run.status == "stopped"
