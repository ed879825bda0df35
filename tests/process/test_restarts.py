"""A reload never starts a training over in silence: what begins anew is refused or said, with file and line."""

import collections
import json
import textwrap
from pathlib import Path
from typing import Any

import pytest

import spark_fast as spark
from spark_fast import client
from spark_fast.worker.reload.positions import Position
from spark_fast.worker.reload.restarts import losses
from tests.support.child import until
from tests.support.reloading import Edited

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]


class Net:
    """A class of the project."""


def found(source: str, kept: tuple[object, ...] = (), function: str = "<module>", **names: Any) -> list[str]:
    """What is lost of a script that stands at its line `HERE`; the sentences up to the first `;`."""
    source = textwrap.dedent(source).lstrip("\n")
    line = next(number for number, text in enumerate(source.splitlines(), 1) if "HERE" in text)
    position = Position("/project/train.py", function, line, False, names.get)
    sources = {"/project/train.py": source.encode()}
    told = losses([position], sources, kept, ["tests"], ["/project"], "/project/train.py")
    return [each.partition(";")[0] for each in told]


NO_KEY = "this loop has no key, so it begins at its first item again"


# --- loops ---


@pytest.mark.unit
def test_a_loop_without_a_key_around_one_with_a_key_is_named() -> None:
    source = """
        for epoch in range(100):
            for batch in spark.track(loader, key="batch"):
                step(batch)  # HERE
        """
    assert found(source) == [f"train.py:1: {NO_KEY}"]


@pytest.mark.unit
def test_loops_with_a_key_are_not_named() -> None:
    source = """
        for epoch in spark.track(range(100), key="epoch"):
            loop = spark.track(loader, key="batch")
            for batch in loop:
                step(batch)  # HERE
        """
    assert found(source, loop=spark.track(range(3), key="batch")) == []


@pytest.mark.unit
def test_track_without_a_key_is_a_loop_without_a_key() -> None:
    source = """
        for epoch in spark.track(range(100), key="epoch"):
            for batch in spark.track(loader, key=None):
                step(batch)  # HERE
        """
    assert found(source) == [f"train.py:2: {NO_KEY}"]


@pytest.mark.unit
def test_enumerate_around_a_loop_with_a_key_is_named() -> None:
    source = """
        for number, batch in enumerate(spark.track(loader, key="batch")):
            step(batch)  # HERE
        """
    assert found(source) == ["train.py:1: enumerate() around a loop with a key counts from its start again"]


@pytest.mark.unit
def test_enumerate_within_the_key_goes_on() -> None:
    source = """
        for number, batch in spark.track(enumerate(loader), key="batch"):
            step(batch)  # HERE
        """
    assert found(source) == []


@pytest.mark.unit
def test_a_progress_bar_around_a_loop_with_a_key_goes_on() -> None:
    assert found("for batch in tqdm(spark.track(loader, key='batch'), desc='x'):\n    step(batch)  # HERE\n") == []


@pytest.mark.unit
def test_what_stands_beside_a_loop_with_a_key_in_a_zip_is_named() -> None:
    source = "for batch, seed in zip(spark.track(loader, key='batch'), seeds):\n    step(batch)  # HERE\n"
    assert found(source) == ["train.py:1: zip() begins what stands beside the loop with a key anew"]


@pytest.mark.unit
def test_a_loop_that_is_not_running_is_not_named() -> None:
    source = """
        for warm in range(10):
            warm_up(warm)
        for batch in spark.track(loader, key="batch"):
            step(batch)  # HERE
        else:
            for rest in range(3):
                finish(rest)
        """
    assert found(source) == []


@pytest.mark.unit
def test_a_generator_with_a_key_keeps_the_loop_over_it() -> None:
    source = textwrap.dedent(
        """
        def batches():
            for batch in spark.track(loader, key="batch"):
                yield batch
        def main():
            for batch in batches():
                step(batch)
        """
    )
    positions = [
        Position("/project/train.py", "main", 6, False, {}.get),
        Position("/project/train.py", "batches", 3, True, {}.get),
    ]
    assert losses(positions, {"/project/train.py": source.encode()}, (), (), ["/project"]) == []


@pytest.mark.unit
def test_every_frame_on_the_stack_is_looked_at() -> None:
    source = textwrap.dedent(
        """
        def fit():
            n = 0
            for batch in spark.track(loader, key="batch"):
                n += 1
        for fold in range(5):
            fit()
        """
    )
    positions = [
        Position("/project/train.py", "<module>", 7, False, {}.get),
        Position("/project/train.py", "fit", 4, False, {"n": 3}.get),
    ]
    told = losses(positions, {"/project/train.py": source.encode()}, (), (), ["/project"])
    assert [each.split(": ")[0] for each in told] == ["train.py:6", "train.py:3"]
    assert "`n` is set again" in told[1]


# --- names that the code sets before a loop ---


def counted(name: str, line: int) -> str:
    return f"train.py:{line}: `{name}` is set again when the code runs again, though the loop counts on with it"


def made(name: str, line: int) -> str:
    return f"train.py:{line}: `{name}` is made anew when the code runs again"


@pytest.mark.unit
def test_a_count_before_a_loop_is_named() -> None:
    source = """
        n = 0
        best = float("inf")
        for batch in spark.track(loader, key="batch"):
            n += 1  # HERE
            best = min(best, n)
        """
    assert found(source, n=3, best=0.5) == [counted("n", 1), counted("best", 2)]


@pytest.mark.unit
def test_a_sum_of_an_epoch_is_named_while_its_inner_loop_runs() -> None:
    source = """
        for epoch in spark.track(range(100), key="epoch"):
            total = 0.0
            for batch in spark.track(loader, key="batch"):
                total += step(batch)  # HERE
        """
    assert found(source, total=1.5) == [counted("total", 2)]


@pytest.mark.unit
def test_what_each_item_sets_afresh_is_not_named() -> None:
    source = """
        loss = None
        for batch in spark.track(loader, key="batch"):
            loss = step(batch)  # HERE
            loss = loss * 2
        """
    assert found(source, loss=2.0) == []


@pytest.mark.unit
def test_objects_that_the_loop_works_with_are_named_if_they_hold_state() -> None:
    source = """
        model = Net()
        losses = []
        limit = 10
        config = dict(lr=1)
        for batch in spark.track(loader, key="batch"):
            losses.append(model(batch))  # HERE
            print(limit, config)
        """
    assert found(source, model=Net(), losses=[1], limit=10, config={"lr": 1}) == [made("model", 1), made("losses", 2)]


@pytest.mark.unit
def test_persisted_objects_are_not_named() -> None:
    model, memory = Net(), collections.deque([1])
    source = """
        model = spark.persist("model", Net)
        memory = make_memory()
        state = spark.expose(lr=1e-3)
        for batch in spark.track(loader, key="batch"):
            memory.append(model(batch))  # HERE
            state.lr *= 0.5
        """
    assert found(source, (memory,), model=model, memory=memory, state=object()) == []


@pytest.mark.unit
def test_an_iterator_that_the_loop_takes_items_from_is_named() -> None:
    source = """
        items = iter(loader)
        while True:
            batch = next(items)  # HERE
        """
    assert found(source, items=iter([1, 2])) == [made("items", 1)]


@pytest.mark.unit
def test_a_number_that_is_equal_to_a_persisted_one_is_named() -> None:
    source = """
        n = 0
        for batch in spark.track(loader, key="batch"):
            n += 1  # HERE
        """
    assert found(source, kept=(1, {"seed": 1}), n=1) == [counted("n", 1)]


@pytest.mark.unit
def test_what_a_with_statement_makes_is_named() -> None:
    source = """
        with opened() as (rows, name):
            for batch in spark.track(loader, key="batch"):
                rows.append(batch)  # HERE
        """
    assert found(source, rows=[], name="") == [made("rows", 1)]


@pytest.mark.unit
def test_the_arguments_of_a_function_are_named_unless_they_are_persisted() -> None:
    source = """
        def train(model, optim, losses):
            for batch in spark.track(loader, key="batch"):
                losses.append(model(batch))  # HERE
                optim.step()
        """
    model, optim = Net(), Net()
    assert found(source, function="train", kept=({"optim": optim},), model=model, optim=optim, losses=[]) == [
        made("model", 1),
        made("losses", 1),
    ]


@pytest.mark.unit
def test_the_object_whose_method_counts_in_it_is_named_unless_it_is_persisted() -> None:
    source = """
        class Trainer:
            def fit(self):
                for batch in spark.track(loader, key="batch"):
                    self.step += 1  # HERE
        """
    trainer = Net()
    assert found(source, function="fit", self=trainer) == [made("self", 2)]
    assert found(source, function="fit", kept=(trainer,), self=trainer) == []


@pytest.mark.unit
def test_what_the_script_sets_at_its_top_level_is_named_in_its_functions() -> None:
    source = """
        model = Net()
        other = spark.persist("other", Net)
        step, batch = 0, None

        def train():
            global step
            for batch in spark.track(loader, key="batch"):
                step += 1  # HERE
                model(other(batch))
        """
    model, other = Net(), Net()
    names = {"model": model, "other": other, "step": 3, "batch": model}
    assert found(source, function="train", kept=(other,), **names) == [made("model", 1), counted("step", 3)]


@pytest.mark.unit
def test_an_object_is_named_once_however_many_frames_have_it() -> None:
    source = """
        def fit(net):
            for batch in spark.track(loader, key="batch"):
                net(batch)

        model = Net()
        for epoch in spark.track(range(9), key="epoch"):
            model.train()
            fit(model)
        """
    model = Net()
    positions = [
        Position("/project/train.py", "<module>", 8, False, {"model": model}.get),
        Position("/project/train.py", "fit", 3, False, {"net": model}.get),
    ]
    source = textwrap.dedent(source).lstrip("\n")
    told = losses(positions, {"/project/train.py": source.encode()}, (), ["tests"], ["/project"], "/project/train.py")
    assert [each.partition(";")[0] for each in told] == [made("model", 5)]


COUNTED = "`n` is set again when the code runs again, though the loop counts on with it"


@pytest.mark.unit
def test_a_count_in_a_variable_of_the_function_around_is_named() -> None:
    source = """
        def main():
            n = 0
            def train():
                nonlocal n
                for batch in spark.track(loader, key="batch"):
                    n += 1  # HERE
            train()
        """
    assert found(source, function="train", n=5) == [f"train.py:2: {COUNTED}"]


@pytest.mark.unit
@pytest.mark.parametrize("call", ["count(batch)", "done(batch)", "outer.hook = done", "short(batch)"])
def test_a_count_in_a_function_that_the_loop_calls_is_named(call: str) -> None:
    source = f"""
        def main():
            n = 0
            def count(batch):
                nonlocal n
                n += 1
            def done(batch):
                count(batch)
            short = lambda batch: done(batch)
            for batch in spark.track(loader, key="batch"):
                {call}  # HERE
        """
    assert found(source, function="main", n=5) == [f"train.py:2: {COUNTED}"]


@pytest.mark.unit
def test_a_count_of_the_script_in_a_function_that_the_loop_calls_is_named() -> None:
    source = """
        n = 0
        losses = []
        def count(batch):
            global n
            n += 1
        class Trainer:
            def step(self, batch):
                losses.append(batch)
        trainer = spark.persist("trainer", Trainer)
        for batch in spark.track(loader, key="batch"):
            count(batch)
            trainer.step(batch)  # HERE
        """
    assert found(source, n=5, losses=[1]) == [
        f"train.py:1: {COUNTED}",
        "train.py:2: `losses` is made anew when the code runs again",
    ]


@pytest.mark.unit
def test_a_variable_of_another_function_with_the_same_name_is_not_named() -> None:
    source = """
        n = 0
        def count(batch):
            n = 0
            n += 1
            def inner():
                nonlocal n
                n += 1
            inner()
        def unused():
            global n
            n += 1
        def main():
            m = 0
            def apart(m):
                m += 1
            for batch in spark.track(loader, key="batch"):
                count(batch)
                apart(n)  # HERE
        """
    assert found(source, function="main", n=5, m=5) == []


@pytest.mark.unit
def test_a_count_around_a_function_that_is_persisted_is_not_named() -> None:
    source = """
        def make():
            n = 0
            def train():
                nonlocal n
                for batch in spark.track(loader, key="batch"):
                    n += 1  # HERE
            return train
        train = spark.persist("train", make)
        """
    names: dict[str, Any] = {}
    exec(compile("def train():\n    pass\n", "/project/train.py", "exec"), names)
    assert found(source, kept=(names["train"],), function="train", n=5) == []


@pytest.mark.unit
@pytest.mark.parametrize(
    "body",
    [
        "if batch > n: n = batch",
        "n, last = n + batch, n",
        "while (n := n + 1) % 7: pass",
        "try: n = batch + n\n                except ValueError: pass",
        "print(n); n = batch",
        "if batch: n = 0\n                n += batch",
    ],
)
def test_what_one_item_hands_to_the_next_is_named(body: str) -> None:
    source = f"""
            n = 0
            for batch in spark.track(loader, key="batch"):
                {body}
                step(batch)  # HERE
        """
    assert f"train.py:1: {COUNTED}" in found(source, n=5)


@pytest.mark.unit
@pytest.mark.parametrize(
    "body",
    [
        "n = batch; print(n)",
        "n = batch; n += 1",
        "with opened() as n: print(n)",
        "n = [n for n in batch]; print(n)",
        "print([n for n in batch])",
        "if batch: n = 0\n                else: n = 1\n                n += batch",
        "try: n = batch\n                except ValueError: n = 0\n                print(n)",
        "for n in batch: print(n)",
    ],
)
def test_what_each_item_sets_before_it_reads_is_not_named(body: str) -> None:
    source = f"""
            n = 0
            for batch in spark.track(loader, key="batch"):
                {body}
                step(batch)  # HERE
        """
    assert found(source, n=5) == []


@pytest.mark.unit
def test_settings_that_the_loop_reads_are_not_named() -> None:
    source = """
        config = load()
        for batch in spark.track(loader, key="batch"):
            step(config.get("lr"), *config.items())  # HERE
        """
    assert found(source, config={"lr": 1}) == []


@pytest.mark.unit
def test_a_loop_over_a_generator_of_the_project_that_has_a_key_is_not_named() -> None:
    source = """
        def batches():
            for batch in spark.track(loader, key="batch"):
                yield batch

        def plain():
            yield 1

        for batch in batches():
            for other in plain():
                spark.checkpoint()  # HERE
        """
    names: dict[str, Any] = {}
    code = textwrap.dedent(source).lstrip("\n").partition("for batch in batches")[0]
    exec(compile(code, "/project/train.py", "exec"), names)
    assert found(source, batches=names["batches"], plain=names["plain"]) == [f"train.py:9: {NO_KEY}"]


@pytest.mark.unit
def test_functions_modules_and_classes_are_not_named() -> None:
    source = """
        loss_of = json.dumps
        kind = dict
        for batch in spark.track(loader, key="batch"):
            loss_of(kind(batch))  # HERE
        """
    assert found(source, loss_of=json.dumps, kind=dict) == []


# --- a real reload ---

BARE = """
import json, time
import spark_fast as spark
w = 0
for epoch in spark.track(range(50)):
    for number in spark.track(range(30)):
        w += 1
        print(json.dumps(["old", epoch, number, w]), flush=True)
        time.sleep(0.002)
"""


def refused(training: Edited) -> str:
    fate = training.reload().fate
    assert fate.state == "refused", fate
    return fate.reason


def test_a_script_that_keeps_nothing_is_not_reloaded(tmp_path: Path) -> None:
    with Edited(tmp_path, BARE) as training:
        count = len(training.says(40))
        training.edit('"old"', '"new"')
        reason = refused(training)
        assert 'key="batch"' in reason
        assert "spark.persist()" in reason
        assert "--restart" in reason
        for line in training.says(20, count):
            assert line[0] == "old"
            assert line[3] == line[1] * 30 + line[2] + 1  # nothing began anew


def test_a_bare_checkpoint_loop_is_not_reloaded(tmp_path: Path) -> None:
    code = "import json\nimport spark_fast as spark\nn = 0\nwhile True:\n    spark.checkpoint()\n    n += 1\n"
    with Edited(tmp_path, code + "    print(json.dumps(n), flush=True)\n") as training:
        training.says(5)
        training.edit("n += 1", "n += 2")
        assert "--restart" in refused(training)


def test_a_script_starts_over_where_that_is_what_is_asked_for(tmp_path: Path) -> None:
    with Edited(tmp_path, BARE) as training:
        training.says(40)
        training.edit('"old"', '"new"')
        training.reloaded(restart=True)
        until(lambda: ["new", 0, 0, 1] in training.said, training.err)


KEYED = """
import json, time
import spark_fast as spark
values = spark.persist("values", list)
for number in spark.track(range(10**6), key="number"):
    values.append(number)
    print(json.dumps(["old", number, len(values)]), flush=True)
    time.sleep(0.002)
"""


def test_a_restart_forgets_what_is_persisted_and_where_the_loops_are(tmp_path: Path) -> None:
    with Edited(tmp_path, KEYED) as training:
        training.says(10)
        training.edit('"old"', '"new"')
        training.reloaded(restart=True)
        until(lambda: ["new", 0, 1] in training.said, training.err)


def test_a_restart_needs_no_edit(tmp_path: Path) -> None:
    with Edited(tmp_path, KEYED) as training:
        training.says(10)
        training.reloaded(restart=True)
        until(lambda: training.said.count(["old", 0, 1]) == 2, training.err)


def test_a_restart_that_fails_is_taken_back_with_what_it_forgot(tmp_path: Path) -> None:
    with Edited(tmp_path, KEYED) as training:
        training.says(10)
        training.edit("values.append", "1 / 0; values.append")
        count = len(training.said)
        assert training.reload(restart=True).fate.state == "failed"
        said = training.says(20, count)
        assert [line[2] for line in training.said] == [line[1] + 1 for line in training.said]
        assert said[-1][1] >= 20


def test_the_answer_names_what_begins_anew(tmp_path: Path) -> None:
    code = """
        import json, time
        import spark_fast as spark
        n = 0
        values = spark.persist("values", list)
        for epoch in range(1000):
            for number in spark.track(range(30), key="number"):
                n += 1
                print(json.dumps(["old", epoch, number, n]), flush=True)
                time.sleep(0.002)
        """
    with Edited(tmp_path, code) as training:
        training.says(5)
        training.edit('"old"', '"new"')
        request = training.reloaded()
        told = [each.partition(";")[0] for each in request.fate.warnings]
        assert told == [f"train.py:5: {NO_KEY}", counted("n", 3)]
        until(lambda: "train.py:5" in training.err, training.err)
        assert client.attach("test").requests[-1].fate.warnings == request.fate.warnings


@pytest.mark.parametrize("parked", [False, True])
def test_the_answer_names_the_key_of_a_loop_that_the_edit_removes_or_renames(tmp_path: Path, parked: bool) -> None:
    code = """
        import json, time
        import spark_fast as spark
        model = spark.persist("model", dict)
        for epoch in spark.track(range(100), key="epoch"):
            for item in spark.track(range(100), key=f"item"):
                print(json.dumps(item), flush=True)
                time.sleep(0.002)
                if item == 20: failing
        """
    env = {"SPARK_FAST_ON_ERROR": "park"}
    with Edited(tmp_path, code if parked else code.replace("if item == 20: failing", ""), **env) as training:
        training.says(10)
        if parked:
            until(lambda: training.run().error is not None)
        training.edit("failing" if parked else "json.dumps(item)", "None" if parked else "json.dumps([item])")
        assert not any("has the key" in each for each in training.reloaded().fate.warnings)
        training.edit('key="epoch"', 'key="epochs"')
        told = [each for each in training.reloaded().fate.warnings if "has the key" in each]
        assert [each.partition(",")[0] for each in told] == ["no loop of the new code has the key 'epoch'"]


def test_the_index_and_the_sums_of_a_loop_go_on(tmp_path: Path) -> None:
    code = """
        import json, time
        import spark_fast as spark
        loop = spark.track((item for item in range(200)), key="item")
        for item in loop:
            loop.kept["sum"] = loop.kept.get("sum", 0) + item
            print(json.dumps(["old", item, loop.index, loop.kept["sum"]]), flush=True)
            time.sleep(0.002)
        print(json.dumps(["end", loop.index, loop.kept["sum"], loop.done]), flush=True)
        """
    with Edited(tmp_path, code) as training:
        training.says(10)
        training.edit('"old"', '"new"')
        request = training.reloaded()
        assert request.fate.warnings == ()
        said = training.over()
        assert said[-1] == ["end", 199, sum(range(200)), 200]
        assert [line[2] for line in said[:-1]] == list(range(200))


@pytest.mark.unit
@pytest.mark.parametrize("key", [None, "item"])
def test_the_index_of_a_loop_counts_its_items(monkeypatch: pytest.MonkeyPatch, key: str | None) -> None:
    monkeypatch.setenv("SPARK_FAST", "0")
    loop = spark.track("abc", key=key)
    assert loop.index == -1
    assert [(loop.index, item) for item in loop] == [(0, "a"), (1, "b"), (2, "c")]
    assert loop.index == 2
    assert [loop.index for _ in loop] == [0, 1, 2]


CAUGHT = """
import json, time
import spark_fast as spark

model = spark.persist("model", dict)

def say(*words):
    print(json.dumps(words), flush=True)

class Early(Exception):
    pass

def items():
    for item in spark.track(range(100), key="first"):
        yield item

FIRST
for item in spark.track(range(10**6), key="second"):
    say("second", item)
    time.sleep(0.002)
"""

LEFT = {
    "an exception": """
try:
    for item in spark.track(range(100), key="first"):
        if item == 3:
            raise Early
except Early:
    say("caught")
""",
    "a generator that is closed": """
for item in items():
    if item == 3:
        break
say("caught")
""",
    "an exception, and once more to its end": """
for last in (3, 200):
    try:
        for item in spark.track(range(100), key="first"):
            if item == last:
                raise Early
    except Early:
        say("caught")
""",
}


@pytest.mark.parametrize("how", LEFT)
def test_the_answer_names_a_loop_that_had_ended_and_that_begins_anew(tmp_path: Path, how: str) -> None:
    with Edited(tmp_path, CAUGHT.replace("FIRST", LEFT[how])) as training:
        assert training.says(3)[0] == ["caught"]
        training.edit("0.002", "0.003")
        told = [each for each in training.reloaded().fate.warnings if "'first'" in each]
        (sentence,) = told
        began = {
            "an exception": ("an exception ended the loop with the key 'first', so it begins at its first item again",),
            # Some versions of Python close a generator without an exception.
            "a generator that is closed": (
                "an exception ended the loop",
                "the loop with the key 'first' had ended, so",
            ),
            "an exception, and once more to its end": (
                "the loop with the key 'first' had ended, and begins at its first",
            ),
        }
        assert sentence.startswith(began[how])


def test_of_many_loops_that_had_ended_and_that_begin_anew_some_are_named(tmp_path: Path) -> None:
    first = """
for number in range(5):
    for item in spark.track(range(2), key=f"first {number}"):
        pass
"""
    with Edited(tmp_path, CAUGHT.replace("FIRST", first)) as training:
        training.says(2)
        training.edit("0.002", "0.003")
        assert [each for each in training.reloaded().fate.warnings if "first" in each] == [
            "the loops with the keys 'first 0', 'first 1', 'first 2' and 2 more had ended, "
            "and begin at their first items again"
        ]


def test_a_loop_that_an_exception_ended_and_that_then_came_to_its_end_is_passed_over(tmp_path: Path) -> None:
    first = """
def first(last):
    for item in spark.track(range(5), key="first"):
        say("first", item)
        if item == last:
            raise Early
try:
    first(3)
except Early:
    first(200)
"""
    with Edited(tmp_path, CAUGHT.replace("FIRST", first)) as training:
        before = len(training.says(11))
        training.edit("0.002", "0.003")
        told = [each for each in training.reloaded().fate.warnings if "'first'" in each]
        assert told == [
            "the loop with the key 'first' had ended, so it is passed over; give it another key to go through it again"
        ]
        assert all(line[0] == "second" for line in training.says(3, after=before))
