"""Where the loops of a training go on after an error has paused it, however the error has come to the script."""

import textwrap
from pathlib import Path

import pytest

from tests.process.test_error_park import parked
from tests.support.reloading import Edited

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

BEGIN = """
import asyncio, concurrent.futures, gc, json, weakref
import spark_fast as spark

model = spark.persist("model", lambda: {})
FAILS = True

def say(*words):
    print(json.dumps(words), flush=True)

def work(epoch, batch):
    say(epoch, batch)
    if FAILS and (epoch, batch) == (2, 3):
        raise ERROR
"""

LOOPS = """
for epoch in spark.track(range(4), key="epoch"):
    for batch in spark.track(range(5), key="batch"):
        work(epoch, batch)
"""

ALL = [[epoch, batch] for epoch in range(4) for batch in range(5)]
ONCE_MORE = [*ALL[:14], *ALL[13:]]
"""The item whose body failed comes a second time."""


def mended(tmp_path: Path, script: str, error: str = 'ValueError("in a step")') -> tuple[list[list[object]], list[str]]:
    """What a script says that fails, is mended and goes on to its end, and the warnings of the reload."""
    code = BEGIN.replace("ERROR", error) + textwrap.dedent(script)
    with Edited(tmp_path, code, SPARK_FAST_ON_ERROR="park") as training:
        parked(training)
        training.edit("FAILS = True", "FAILS = False")
        fate = training.reloaded().fate
        return training.over(), list(fate.warnings)


AWAY = {
    "a task group beside another task": """
        async def other():
            for _ in spark.track(range(40), key="other"):
                await asyncio.sleep(0)
                await spark.checkpoint_async()

        async def train():
            for epoch in spark.track(range(4), key="epoch"):
                for batch in spark.track(range(5), key="batch"):
                    await asyncio.sleep(0)
                    work(epoch, batch)

        async def main():
            async with asyncio.TaskGroup() as group:
                group.create_task(train())
                group.create_task(other())

        asyncio.run(main())
        """,
    "gather() beside another task": """
        async def other():
            while True:
                await asyncio.sleep(0)
                await spark.checkpoint_async()

        async def train():
            for epoch in spark.track(range(4), key="epoch"):
                for batch in spark.track(range(5), key="batch"):
                    await asyncio.sleep(0)
                    work(epoch, batch)

        async def main():
            beside = asyncio.create_task(other())
            await asyncio.gather(train())

        asyncio.run(main())
        """,
    "an asynchronous generator": """
        async def batches():
            for batch in spark.track(range(5), key="batch"):
                await asyncio.sleep(0)
                yield batch

        async def main():
            for epoch in spark.track(range(4), key="epoch"):
                async for batch in batches():
                    work(epoch, batch)

        asyncio.run(main())
        """,
    "a thread's future": """
        def train():
            for epoch in spark.track(range(4), key="epoch"):
                for batch in spark.track(range(5), key="batch"):
                    work(epoch, batch)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(train).result()
        """,
    "asyncio.to_thread()": """
        def train():
            for epoch in spark.track(range(4), key="epoch"):
                for batch in spark.track(range(5), key="batch"):
                    work(epoch, batch)

        asyncio.run(asyncio.to_thread(train))
        """,
}


@pytest.mark.parametrize("way", AWAY)
def test_loops_go_on_where_an_error_left_them_that_comes_by(tmp_path: Path, way: str) -> None:
    said, _ = mended(tmp_path, AWAY[way])
    assert said == ONCE_MORE


def test_a_task_that_is_cancelled_since_another_failed_goes_on_where_it_was(tmp_path: Path) -> None:
    script = AWAY["a task group beside another task"].replace("for _ in spark", "for number in spark")
    script = script.replace('key="other"):\n', 'key="other"):\n                say("other", number)\n')
    said, _ = mended(tmp_path, script)
    numbers = [number for word, number in said if word == "other"]
    assert sorted(set(numbers)) == list(range(40))  # type: ignore[type-var]
    assert len(numbers) == 41  # the item that it was cancelled in comes once more


def test_loops_in_tasks_stand_in_the_loop_that_starts_them(tmp_path: Path) -> None:
    script = """
    async def train(epoch):
        for batch in spark.track(range(5), key="batch"):
            await asyncio.sleep(0)
            await spark.checkpoint_async()
            say(epoch, batch)

    async def main():
        for epoch in spark.track(range(4), key="epoch"):
            await asyncio.gather(train(epoch))
            if FAILS and epoch == 2:
                raise ValueError("in validation")

    asyncio.run(main())
    """
    said, _ = mended(tmp_path, script)
    assert said == ALL


def test_the_end_of_an_iterator_that_the_body_asks_is_an_error_like_others(tmp_path: Path) -> None:
    said, _ = mended(tmp_path, LOOPS, "StopIteration")
    assert said == ONCE_MORE


@pytest.mark.parametrize("method", ["__getattr__(self, name): return getattr(self.inner, name)",
                                    "__setattr__(self, name, value): raise RuntimeError('no')"])  # fmt: skip
def test_an_exception_with_attribute_methods_pauses_the_run(tmp_path: Path, method: str) -> None:
    said, _ = mended(tmp_path, f"class Odd(Exception):\n    def {method}\n{LOOPS}", "Odd()")
    assert said == ONCE_MORE


def test_what_the_failed_step_had_made_is_freed_though_the_error_was_raised_from_another(tmp_path: Path) -> None:
    script = """
    class Big:
        pass

    made = model.setdefault("made", [])

    def step(epoch, batch):
        big = Big()
        made.append(weakref.ref(big))
        try:
            work(epoch, batch)
        except ValueError as error:
            raise RuntimeError("in a step") from error

    def train(epoch):
        try:
            for batch in spark.track(range(5), key="batch"):
                step(epoch, batch)
                assert not any(each() for each in made)
        except RuntimeError as error:
            raise ExceptionGroup("in an epoch", [error]) from None

    for epoch in spark.track(range(4), key="epoch"):
        train(epoch)
    """
    said, _ = mended(tmp_path, script)
    assert said == ONCE_MORE


# --- loops that had ended ---

SAVE = 'if FAILS:\n    raise OSError("while saving")\n'
PASSED = "the loop with the key 'epoch' had ended, so it is passed over; give it another key to go through it again"

ENDED = {
    "script": LOOPS + SAVE,
    "function": f"def main():\n{textwrap.indent(LOOPS + SAVE, '    ')}\nmain()",
    "spark.run()": f"def main():\n{textwrap.indent(LOOPS + SAVE, '    ')}\nspark.run(main)",
    "coroutine": f"async def main():\n{textwrap.indent(LOOPS + SAVE, '    ')}\nasyncio.run(main())",
    "break": LOOPS.replace("range(4)", "range(100)") + "    if epoch == 3:\n        break\n" + SAVE,
}


@pytest.mark.parametrize("kind", ENDED)
def test_a_training_that_had_ended_is_not_done_again_when_saving_is_mended(tmp_path: Path, kind: str) -> None:
    said, warnings = mended(tmp_path, ENDED[kind].replace("work(", "say("))
    assert said == ALL
    assert warnings == [PASSED]


def test_a_phase_that_had_ended_is_not_done_again(tmp_path: Path) -> None:
    first = LOOPS.replace('epoch"', 'first"').replace('batch"', 'within"').replace("work(", "say(")
    said, _ = mended(tmp_path, first + LOOPS)
    assert said == ALL + ONCE_MORE


def test_a_loop_that_the_script_comes_to_again_and_again_is_gone_through_again(tmp_path: Path) -> None:
    script = """
    model.setdefault("epoch", 0)
    while model["epoch"] < 4:
        for batch in spark.track(range(5), key="batch"):
            say(model["epoch"], batch)
        model["epoch"] += 1
        if FAILS:
            raise OSError("while saving")
    """
    said, warnings = mended(tmp_path, script)
    assert said == ALL
    assert warnings == ["the loop with the key 'batch' had ended, and begins at its first item again"]


@pytest.mark.parametrize("within", [False, True])
def test_a_loop_that_is_passed_over_shows_what_it_had_kept(tmp_path: Path, within: bool) -> None:
    script = """
    loop = spark.track(range(5), key="batch")
    for batch in loop:
        loop.kept["sum"] = loop.kept.get("sum", 0) + batch
    if FAILS:
        raise OSError("while saving")
    say(loop.kept["sum"], loop.done, loop.index)
    """
    if within:
        script = f"for epoch in spark.track(range(1), key='epoch'):\n{script}"
    said, _ = mended(tmp_path, script)
    assert said == [[10, 5, 4]]


def test_a_training_that_had_ended_and_kept_nothing_stays_paused(tmp_path: Path) -> None:
    begin = BEGIN.replace("ERROR", "ValueError").replace('spark.persist("model", lambda: {})', "{}")
    with Edited(tmp_path, begin + LOOPS.replace("work(", "say(") + SAVE, SPARK_FAST_ON_ERROR="park") as training:
        parked(training)
        training.edit("FAILS = True", "FAILS = False")
        assert training.reload().fate.state == "refused"
        assert training.said == ALL


@pytest.mark.parametrize("function", [False, True])
def test_what_a_loop_has_filled_that_is_passed_over_is_named(tmp_path: Path, function: bool) -> None:
    script = """
sums = []
for batch in spark.track(range(5), key="epoch"):
    sums.append(batch)
    model["seen"] = batch
if FAILS:
    raise OSError("while saving")
say(len(sums))
"""
    if function:
        script = f"def main():\n{textwrap.indent(script, '    ')}\nmain()"
    said, warnings = mended(tmp_path, script)
    assert said == [[0]]
    line = 16 if function else 15
    assert warnings == [
        f"train.py:{line}: `sums` is made anew when the code runs again; spark.persist() keeps it",
        PASSED,
    ]


def test_an_exception_with_attribute_methods_that_a_reload_causes_ends_nothing(tmp_path: Path) -> None:
    script = """
    class Odd(Exception):
        def __getattr__(self, name):
            return getattr(self.inner, name)

    try:
        for epoch in spark.track(range(10**9), key="epoch"):
            say(epoch)
            if not FAILS:
                break
    finally:
        if FAILS:
            raise Odd
    """
    with Edited(tmp_path, BEGIN + textwrap.dedent(script)) as training:
        training.says(1)
        training.edit("FAILS = True", "FAILS = False")
        training.reloaded()
        training.over()
