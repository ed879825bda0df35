"""A stop of an asyncio training: in tasks, in task groups, and in groups that nothing of ours has made."""

import pickle
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.errors import SparkStopError, SparkStopGroupError, first_stop, is_stop
from tests.process.test_runner import Script
from tests.support.child import Child
from tests.support.reloading import Edited

pytestmark = pytest.mark.process

HEAD = """
import asyncio
import spark_fast as spark

async def train(wait=spark.checkpoint_async):
    for step in range(10**6):
        await wait()
        if step == 5:
            spark.create_controller().stop()
        await asyncio.sleep(0)

async def plain():
    spark.checkpoint()

async def ends_badly():
    try:
        await asyncio.sleep(3600)
    finally:
        raise OSError("disk full")
"""

TASKS = {
    "a coroutine": "async def main(): await train()",
    "a task": "async def main(): await asyncio.create_task(train())",
    "gather": "async def main(): await asyncio.gather(train(), train())",
    "a task group": """
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(train())
        group.create_task(train(plain))
""",
    "the body of a task group": """
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(3600))
        await train()
""",
    "a task group in a task group": """
async def inner():
    async with asyncio.TaskGroup() as group:
        group.create_task(train())
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(inner())
        group.create_task(train())
""",
    "anyio": """
import anyio
async def main():
    async with anyio.create_task_group() as outer:
        async with anyio.create_task_group() as group:
            group.start_soon(train)
            group.start_soon(train)
        raise AssertionError("no stop came")
""",
}
CATCHES = {
    "except": """
try:
    asyncio.run(main())
except spark.SparkStopError as stop:
    assert stop.step > 5 and stop.sender and stop.request_id, vars(stop)
    for _ in spark.track(range(3)):
        spark.checkpoint()
    print("saved")
    raise
""",
    "except*": """
try:
    asyncio.run(main())
except* spark.SparkStopError:
    for _ in spark.track(range(3)):
        spark.checkpoint()
    print("saved")
    raise
""",
    "not at all": """
asyncio.run(main())
""",
}


@pytest.mark.parametrize("catch", CATCHES)
@pytest.mark.parametrize("how", TASKS)
def test_a_stop_in_a_task_reaches_its_handler_and_ends_the_run_well(tmp_path: Path, how: str, catch: str) -> None:
    with Script(tmp_path, HEAD + TASKS[how] + CATCHES[catch]) as script:
        assert script.ended() == 0, script.err
        assert script.out == ("" if catch == "not at all" else "saved\n"), script.err
        assert client.attach("test").status == "stopped"
        assert "Traceback" not in script.err
        assert "spark_fast: stopped at step" in script.err


@pytest.mark.parametrize("how", ["a task group", "a task group in a task group"])
def test_under_plain_python_it_ends_with_one_line(tmp_path: Path, how: str) -> None:
    with Child(tmp_path, HEAD + TASKS[how] + CATCHES["except*"]) as child:
        assert child.ended() == 1
        assert child.out == "saved\n", child.err
        assert client.attach("test").status == "stopped"
        assert "Traceback" not in child.err
        assert child.err.splitlines()[-1].startswith("spark_fast: stopped at step")


@pytest.mark.parametrize("runner", [True, False], ids=["run", "python"])
def test_an_error_beside_the_stop_is_not_lost(tmp_path: Path, runner: bool) -> None:
    code = f"""{HEAD}
async def main():
    async with asyncio.TaskGroup() as group:
        group.create_task(ends_badly())
        group.create_task(train())
try:
    asyncio.run(main())
except* spark.SparkStopError:
    print("saved")
"""
    with (Script if runner else Child)(tmp_path, code) as child:
        assert child.ended() == 1
        assert child.out == "saved\n", child.err
        assert client.attach("test").status == "failed"
        assert "OSError: disk full" in child.err


@pytest.mark.parametrize("runner", [True, False], ids=["run", "python"])
def test_a_group_of_nothing_but_stops_of_any_library_counts_as_one(tmp_path: Path, runner: bool) -> None:
    code = f"""{HEAD}
try:
    asyncio.run(train())
except spark.SparkStopError as stop:
    raise BaseExceptionGroup("of another library", [BaseExceptionGroup("its own", [stop]), stop]) from None
"""
    with (Script if runner else Child)(tmp_path, code) as child:
        assert child.ended() == (0 if runner else 1)
        assert client.attach("test").status == "stopped"
        assert "Traceback" not in child.err
        assert child.err.splitlines()[-1].startswith("spark_fast: stopped at step")


def test_a_reload_leaves_a_task_group_without_a_warning(tmp_path: Path) -> None:
    code = """
    import asyncio, json
    import spark_fast as spark
    def word():
        return "old"
    async def train():
        for number in spark.track(range(10**6), key="number"):
            print(json.dumps([number, word()]), flush=True)
            await asyncio.sleep(0.002)
    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(train())
    asyncio.run(main())
    """
    with Edited(tmp_path, code) as training:
        training.says(5)
        training.edit('"old"', '"new"')
        training.reloaded()
        said = training.says(5, after=len(training.said))
        assert [line[1] for line in said] == ["new"] * len(said)
        assert [line[0] for line in training.said] == list(range(len(training.said)))
        assert "warning" not in training.err


def stop(step: int = 7) -> SparkStopError:
    return SparkStopError("0123456789abcdef", step, "someone@somewhere, pid 1")


def test_a_group_of_stops_is_told_from_one_with_an_error_in_it() -> None:
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [stop(1), stop(2)]), stop(3)])
    assert is_stop(stop())
    assert is_stop(nested)
    assert first_stop(nested).step == 1
    assert not is_stop(None)
    assert not is_stop(ValueError())
    assert not is_stop(BaseExceptionGroup("mixed", [stop(), BaseExceptionGroup("inner", [stop(), OSError()])]))


def test_a_stop_group_is_a_group_and_a_stop_and_can_be_pickled_and_split() -> None:
    group = SparkStopGroupError("tasks", [stop(1), SparkStopGroupError("inner", [stop(2)])])
    copy = pickle.loads(pickle.dumps(group))
    assert isinstance(copy, SparkStopError)
    assert (copy.step, copy.sender, str(copy)) == (1, group.sender, str(group))
    matched, rest = group.split(lambda error: isinstance(error, SparkStopError) and error.step == 2)
    assert rest is not None
    assert matched is not None
    assert type(matched) is type(rest) is SparkStopGroupError
    assert first_stop(matched).step == 2
