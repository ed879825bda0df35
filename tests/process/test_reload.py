"""The code of a running training is replaced: what goes on, what is taken back, and that nothing is lost."""

import itertools
import json
import signal
import textwrap
import time
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import ALL, Child, outcome, until
from tests.support.reloading import Edited

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

SAY = """
import json, os, time
import spark_fast as spark

said = 0

def say(*words):
    global said
    print(json.dumps(words), flush=True)
    said += 1
    if said > 40 and not os.path.exists(os.environ["TEST_MAY_END"]):
        time.sleep(0.05)
"""
"""Says what it does, and goes on slowly until its test waits for its end, which else comes first on a busy machine."""

NESTED = (
    SAY
    + """
class Net:
    def forward(self, epoch, batch):
        return "old"

net = spark.persist("net", Net)
for epoch in spark.track(range(3), key="epoch"):
    for batch in spark.track((number for number in range(40)), key="batch"):
        say(epoch, batch, net.forward(epoch, batch), type(net) is Net)
        time.sleep(0.002)
    say(epoch, "end", "", True)
"""
)

ONE = (
    SAY
    + """
def step(number):
    return "old"

for number in spark.track(range(200), key="number"):
    say(number, step(number))
    time.sleep(0.002)
"""
)


def numbers(lines: list[list[object]]) -> list[object]:
    return [line[0] for line in lines]


# --- it goes on with the new code, from the same place ---


def test_the_new_code_runs_on_the_very_next_item_with_the_same_objects(tmp_path: Path) -> None:
    with Edited(tmp_path, NESTED) as training:
        training.says(50)  # in the middle of the second epoch
        training.edit('"old"', '"new"')
        training.reloaded()
        said = training.over()
        assert [line[:2] for line in said] == [[epoch, batch] for epoch in range(3) for batch in [*range(40), "end"]]
        steps = [line for line in said if line[1] != "end"]
        words = [line[2] for line in steps]
        assert words == sorted(words, reverse=True), "old ones first, then new ones"
        assert set(words) == {"old", "new"}
        assert all(line[3] for line in steps), "type(net) is Net"


def test_loops_that_run_beside_each_other_stay_in_step(tmp_path: Path) -> None:
    code = """
    for one, other in zip(spark.track(range(400), key="one"), spark.track(range(400), key="other")):
        say(one, other)
        time.sleep(0.002)
    """
    with Edited(tmp_path, SAY + textwrap.dedent(code)) as training:
        for count in range(1, 6):
            training.says(10 * count)
            training.edit("for one", f"# edit {count}\nfor one")
            training.reloaded()
        assert training.over() == [[number, number] for number in range(400)]


def test_many_reloads_lose_no_item_and_give_none_twice(tmp_path: Path) -> None:
    with Edited(tmp_path, NESTED.replace("range(3)", "range(9)")) as training:
        for count in range(1, 20):
            training.says(5 * count)
            training.edit("class Net", f"# edit {count}\nclass Net")
            training.reloaded()
        said = training.over()
        assert [line[:2] for line in said] == [[epoch, batch] for epoch in range(9) for batch in [*range(40), "end"]]


def test_an_inner_loop_that_had_ended_is_passed_over_and_begins_afresh_with_the_next_item(tmp_path: Path) -> None:
    code = (
        SAY
        + """
for epoch in spark.track("ab", key="epoch"):
    for batch in spark.track(range(3), key="batch"):
        say(epoch, batch)
    for test in spark.track(range(100), key="test"):
        say(epoch, "test", test)
        time.sleep(0.002)
    say(epoch, "end")
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(10)
        training.edit('"end"', '"the end"')
        training.reloaded()
        said = training.over()
        first = [["a", batch] for batch in range(3)] + [["a", "test", test] for test in range(100)]
        second = [["b", *line[1:]] for line in first]
        assert said == [*first, ["a", "the end"], *second, ["b", "the end"]]


def test_an_item_whose_body_was_left_by_a_checkpoint_within_it_comes_once_more(tmp_path: Path) -> None:
    code = (
        SAY
        + """
for number in spark.track(range(300), key="number"):
    time.sleep(0.002)
    spark.checkpoint()
    say(number)
"""
    )
    with Edited(tmp_path, code) as training:
        for count in range(1, 6):
            training.says(8 * count)
            training.edit("import json", f"# {count}\nimport json")
            training.reloaded()
        assert numbers(training.over()) == list(range(300))


@pytest.mark.parametrize(
    "iterable",
    [
        "enumerate(range(300))",
        "zip(range(300), itertools.count())",
        "map(lambda n: (n, n), range(300))",
        "numbers()",
        "[(n, n) for n in range(300)]",
        "itertools.islice(numbers(), 300)",
        "counted(loader)",
    ],
)
def test_any_iterable_goes_on_with_its_very_next_item(tmp_path: Path, iterable: str) -> None:
    code = """
    import itertools

    def numbers():
        for n in range(300):
            yield n, n

    class Loader:
        def __iter__(self):
            self.numbers = iter(range(300))  # begun over whenever somebody asks
            return self

        def __next__(self):
            return next(self.numbers)

    def counted(items):
        yield from enumerate(items)

    loader = spark.persist("loader", Loader)
    """
    loop = f"for a, b in spark.track({iterable}, key='n'):\n    say(a, b)\n    time.sleep(0.002)\n"
    with Edited(tmp_path, SAY + textwrap.dedent(code) + loop) as training:
        for count in range(1, 6):
            training.says(10 * count)
            training.edit("import itertools", f"import itertools  # {count}")
            training.reloaded()
        assert training.over() == [[n, n] for n in range(300)]


def test_a_generator_that_passes_checkpoints_itself_is_begun_anew_and_what_stands_in_it_goes_on(tmp_path: Path) -> None:
    code = (
        SAY
        + """
def batches():
    for epoch in spark.track(range(3), key="epoch"):
        for batch in spark.track(range(20), key="batch"):
            yield epoch, batch

for epoch, batch in spark.track(batches(), key="outer"):
    say(epoch, batch)
    time.sleep(0.002)
"""
    )
    with Edited(tmp_path, code) as training:
        for count in range(1, 6):
            training.says(8 * count)
            training.edit("def batches", f"# {count}\ndef batches")
            training.reloaded()
        assert training.over() == [[epoch, batch] for epoch in range(3) for batch in range(20)]


def test_a_loop_that_is_broken_out_of_forgets_its_place(tmp_path: Path) -> None:
    code = (
        SAY
        + """
for epoch in range(20):
    for number in spark.track(range(100), key="number"):
        if number == 5:
            break
        say(epoch, number)
        time.sleep(0.002)
"""
    )
    with Edited(tmp_path, code) as training:
        said = training.over()
        assert said == [[epoch, number] for epoch in range(20) for number in range(5)]


def test_loops_of_two_keys_live_at_once_and_two_of_one_key_are_an_error(tmp_path: Path) -> None:
    code = (
        SAY
        + """
for a in spark.track("ab", key="a"):
    for b in spark.track("cd", key="b"):
        say(a + b)
try:
    for a in spark.track("ab", key="a"):
        for b in spark.track("cd", key="a"):
            say("never")
except RuntimeError as error:
    say(str(error))
for a in spark.track("x", key="a"):
    say(a)
"""
    )
    with Edited(tmp_path, code) as training:
        said = [line[0] for line in training.over()]
        assert said[:4] == ["ac", "ad", "bc", "bd"]
        assert "have the key 'a'" in said[4]
        assert said[5:] == ["x"]


def test_progress_and_time_left_go_on_where_they_were(tmp_path: Path) -> None:
    with Edited(tmp_path, NESTED.replace("range(3)", "range(100)")) as training:
        training.says(60)
        run = training.run()
        training.edit('"old"', '"new"')
        training.reloaded()
        progress = run.progress
        assert progress is not None
        assert progress.loops[0] == (1, 100)
        assert progress.loops[1][0] > 15
        assert progress.fraction is not None and progress.seconds_left is not None
        assert progress.seconds_left < 100 * 40 * 0.5


def test_progress_shows_no_loop_of_the_code_before(tmp_path: Path) -> None:
    code = """
    import json, time
    import spark_fast as spark

    epochs = spark.track(range(100), key="epoch")
    for epoch in epochs:
        loop = spark.track(range(100_000), key="batch")
        for batch in loop:
            print(json.dumps("old"), flush=True)
            time.sleep(0.002)
    """
    with Edited(tmp_path, code) as training:
        training.says(60)
        run = training.run()
        for old, new in itertools.pairwise(["old", "first", "second"]):
            training.edit(f'"{old}"', f'"{new}"')
            training.reloaded()
            until(lambda new=new: new in training.said)
            run.pause(timeout=30)  # never between two epochs: the inner loop is long
            progress = run.progress
            assert progress is not None
            assert [total for _, total in progress.loops] == [100, 100_000]
            run.resume(timeout=30)


def test_a_paused_training_takes_new_code_and_stays_paused(tmp_path: Path) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says(5)
        run = training.run()
        run.pause(timeout=30)
        before = len(training.said)
        training.edit('"old"', '"new"')
        training.reloaded()
        assert run.wait("paused", timeout=30) == "paused"
        assert len(training.said) == before
        run.resume(timeout=30)
        assert training.says(1, before)[0] == [before, "new"]


def test_a_paused_training_that_refuses_new_code_is_still_paused(tmp_path: Path) -> None:
    code = ONE.replace("def step", "class Point:\n    __slots__ = ('x',)\n\ndef step")
    with Edited(tmp_path, code) as training:
        training.says(5)
        run = training.run()
        run.pause(resume_after=3600, timeout=30)
        ends = run.resumes
        assert ends is not None
        training.edit("('x',)", "('x', 'y')")
        assert training.reload().fate.state == "refused"
        assert run.wait("paused", timeout=30) == "paused"
        assert run.resumes is not None and abs(run.resumes - ends) < 1, "its time goes on"
        run.resume(timeout=30)
        goes_on(training)


def test_a_refusal_is_no_end_of_a_pause_for_another_thread_either(tmp_path: Path) -> None:
    begin = """
    import threading

    class Point:
        __slots__ = ("x",)

    def beside():
        while True:
            spark.checkpoint()
            time.sleep(0.001)

    spark.persist("beside", lambda: threading.Thread(target=beside, daemon=True)).start()

    def step"""
    # The other thread comes to its checkpoints more often, parks first, and speaks for the worker.
    code = ONE.replace("def step", textwrap.dedent(begin).lstrip()).replace("0.002", "0.2")
    with Edited(tmp_path, code) as training:
        training.says(2)
        run = training.run()
        run.pause(timeout=30)
        training.edit('("x",)', '("x", "y")')
        assert training.reload().fate.state == "refused"
        assert run.wait("paused", timeout=10) == "paused"


def test_new_code_does_not_begin_a_timed_pause_anew(tmp_path: Path) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says()
        run = training.run()
        run.pause(resume_after=3600, timeout=30)
        ends = run.resumes
        assert ends is not None
        until(lambda: time.time() > ends - 3598)
        training.edit('"old"', '"new"')
        training.reloaded()
        run.wait("paused", timeout=30)
        assert run.resumes is not None and abs(run.resumes - ends) < 1


def test_code_that_fails_after_the_pause_that_it_began_with_is_still_taken_back(tmp_path: Path) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says(5)
        run = training.run()
        run.pause(timeout=30)
        before = len(training.said)
        training.edit('return "old"', "return undefined")
        training.reloaded()  # it runs, as far as anybody can tell
        run.resume(timeout=30)
        assert training.says(3, before)[:3] == [[before + each, "old"] for each in range(3)]
        assert "NameError: name 'undefined' is not defined" in training.err
        assert run.version == 1


def test_code_can_be_pushed_and_taken_back(tmp_path: Path) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says(5)
        run = training.run()
        training.reloaded(code=training.source().replace("old", "pushed"))
        count = len(training.said)
        assert training.says(1, count)[0][1] == "pushed"
        assert "pushed" not in training.source()
        # Nothing has changed on disk since, so that what was pushed stays.
        assert training.reload().fate.reason.startswith("nothing to do")
        training.reloaded(to=1)
        count = len(training.said)
        assert training.says(1, count)[0][1] == "old"
        assert [version.note for version in run.versions] == ["start", "pushed", "back to 1"]
        assert run.version == 3


# --- modules ---

MODULES = {
    "helper.py": "WORD = 'old'\ndef word(number):\n    return WORD\n",
    "middle.py": "from helper import WORD, word\nTWICE = WORD * 2\n"
    "class Base:\n    def name(self):\n        return TWICE\n",
    "other.py": "import time\nBEGAN = time.monotonic_ns()\n",
}
IMPORTING = (
    SAY
    + """
import middle, other
from helper import word
from middle import Base, word as also

class Model(Base):
    def name(self):
        return "my " + super().name()

model = spark.persist("model", Model)
base = spark.persist("base", Base)
kept = spark.persist("function", lambda: word)
for number in spark.track(range(1000), key="number"):
    say(number, word(number), also(number), middle.TWICE, model.name(), base.name(), kept(number), other.BEGAN)
    time.sleep(0.002)
"""
)


def test_modules_that_changed_and_those_that_imported_them_are_executed_in_order(tmp_path: Path) -> None:
    with Edited(tmp_path, IMPORTING, modules=MODULES) as training:
        began = training.says(3)[0][-1]
        training.edit("'old'", "'new'", "helper.py")
        training.reloaded()
        count = len(training.said)
        line = training.says(1, count)[0]
        assert line[1:-1] == ["new", "new", "newnew", "my newnew", "newnew", "new"]
        assert line[-1] == began, "other.py, which imports nothing that changed, was left alone"
        # The base class alone, in the middle.
        training.edit("return TWICE", "return TWICE + '!'", "middle.py")
        training.reloaded()
        count = len(training.said)
        assert training.says(1, count)[0][4:6] == ["my newnew!", "newnew!"]


@pytest.mark.tier("test")
def test_a_thread_that_unpickles_while_new_code_fails_notices_nothing(tmp_path: Path) -> None:
    helper = """
    import time

    class Sample:
        def __init__(self, number):
            self.number = number

    def work(number):
        time.sleep(0.004)
        return Sample(number)
    """
    code = """
    import multiprocessing
    import helper

    pool = spark.persist("pool", lambda: multiprocessing.get_context("fork").Pool(1))
    for sample in spark.track(spark.persist("samples", lambda: pool.imap(helper.work, range(10**6))), key="sample"):
        say(sample.number, type(sample) is helper.Sample)
    """
    with Edited(tmp_path, SAY + textwrap.dedent(code), modules={"helper.py": helper}) as training:
        training.says(5)
        training.edit("import time", "import time\ntime.sleep(0.3)\n1 / 0", "helper.py")
        assert training.reload().fate.state == "failed"
        training.says(200, after=len(training.said))  # more than what the pool's thread has taken from its pipe
        said = training.said
        assert [number for number, same in said if same] == list(range(len(said)))


def test_modules_are_executed_before_those_that_the_edit_makes_import_them(tmp_path: Path) -> None:
    modules = {
        "pkg/__init__.py": "",
        "pkg/first.py": "from pkg.base import V\nW = V\n",
        "pkg/base.py": "V = 'old'\n",
        "pkg/second.py": "from . import base\nX = base.V\n",
    }
    code = """
    import pkg.first, pkg.second

    for number in spark.track(range(1000), key="number"):
        say(number, pkg.first.W, pkg.second.X)
        time.sleep(0.002)
    """
    with Edited(tmp_path, SAY + textwrap.dedent(code), modules=modules) as training:
        training.says(3)
        training.edit("'old'", "'new'", "pkg/base.py")
        training.edit("W = V", "from .second import X\nW = V, X", "pkg/first.py")
        training.reloaded()
        assert training.says(1, after=len(training.said))[0][1:] == [["new", "new"], "new"]
        training.edit("X = base.V", "X = 1 / 0", "pkg/second.py")
        training.edit(
            "from .second import X", "try:\n    from .second import X\nexcept Exception:\n    X = 1", "pkg/first.py"
        )
        assert training.reload().fate.state == "failed"
        assert training.says(1, after=len(training.said))[0][1:] == [["new", "new"], "new"]


def test_a_file_that_the_edit_brings_is_of_the_version_and_not_of_the_disk(tmp_path: Path) -> None:
    with Edited(tmp_path, IMPORTING, modules=MODULES) as training:
        training.says(3)
        training.write("fresh.py", "WORD = 'fresh'\n")
        training.edit("WORD = 'old'", "from fresh import WORD", "helper.py")
        run = training.run()
        run.pause(timeout=30)
        request = run.reload(wait=False)
        training.write("fresh.py", "WORD = 'too late'\n")
        assert request.wait(30).state == "applied", training.err
        count = len(training.said)
        run.resume(timeout=30)
        assert training.says(1, count)[0][1] == "fresh"


def test_a_name_that_the_new_source_lacks_is_gone(tmp_path: Path) -> None:
    code = SAY + (
        "import helper\nfor n in spark.track(range(500), key='n'):\n"
        "    say(sorted(vars(helper).keys() & {'WORD', 'word', 'NEW'}))\n    time.sleep(0.002)\n"
    )
    with Edited(tmp_path, code, modules=MODULES) as training:
        assert training.says(1)[0] == [["WORD", "word"]]
        training.write("helper.py", "NEW = 1\n")
        training.reloaded()
        count = len(training.said)
        assert training.says(1, count)[0] == [["NEW"]]


def test_a_package_run_with_m_is_reloaded_with_its_relative_imports(tmp_path: Path) -> None:
    modules = {
        "package/__init__.py": "",
        "package/words.py": "WORD = 'old'\n",
        "package/train.py": SAY
        + "from .words import WORD\nfor n in spark.track(range(500), key='n'):\n"
        + "    say(n, WORD, __package__)\n    time.sleep(0.002)\n",
    }
    with Edited(tmp_path, "", "-m", "package.train", modules=modules, inside=True) as training:
        assert training.says(3)[0] == [0, "old", "package"]
        training.edit("'old'", "'new'", "package/words.py")
        training.reloaded()
        count = len(training.said)
        assert training.says(1, count)[0] == [count, "new", "package"]


# --- a broken edit never kills a run ---


def goes_on(training: Edited, word: str = "old") -> None:
    """Asserts that items come in their order, none left out, with the code that says this word."""
    count = len(training.said)
    for line in training.says(3, count):
        assert line[1] == word
    said = training.said
    assert numbers(said) == list(range(len(said)))


def test_a_syntax_error_comes_back_at_once_and_the_worker_hears_nothing(tmp_path: Path) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says(3)
        training.edit('return "old"', 'return "old')
        fate = training.reload().fate
        assert fate.state == "refused"
        assert "train.py" in fate.reason and "SyntaxError: unterminated string literal" in fate.reason
        assert training.run().requests == []
        goes_on(training)
        training.edit('return "old', 'return "new"')
        training.reloaded()
        goes_on(training, "new")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("def step", "import no_such_module\ndef step", "No module named 'no_such_module'"),
        ("def step", "1 / 0\ndef step", "ZeroDivisionError"),
        ("def step", "raise SystemExit(3)\ndef step", "SystemExit: 3"),
        ("for number", "step(1, 2, 3)\nfor number", "TypeError: step() takes"),
        ('return "old"', "return undefined", "NameError: name 'undefined'"),
        ("for number", "spark.persist('x', lambda: 1 / 0)\nfor number", "ZeroDivisionError"),
        ('range(200), key="number"', 'range(200), key=""', "key is a name"),
    ],
    ids=["import", "top level", "exit", "before the loop", "first step", "initializer", "track"],
)
def test_code_that_fails_before_it_has_come_round_once_is_taken_back(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says(5)
        training.edit(old, new)
        fate = training.reload().fate
        assert fate.state == "failed", training.err
        assert fate.reason.splitlines()[0] == "version 2 of the code failed; version 1 runs on"
        assert says in fate.reason
        assert f'File "{training.project}/train.py", line ' in fate.reason
        assert "spark_fast/" not in fate.reason
        assert says in training.err, "the person at the terminal is told, too"
        goes_on(training)
        run = training.run()
        assert run.version == 1
        assert run.status == "running"
        # What failed is tried again only when it is asked for again; then with the mended source.
        training.edit(new, old)
        training.edit('"old"', '"new"')
        training.reloaded()
        goes_on(training, "new")


def test_an_outer_loop_whose_inner_loop_is_at_its_end_proves_nothing(tmp_path: Path) -> None:
    code = (
        SAY
        + """
for epoch in spark.track(range(10), key="epoch"):
    for number in spark.track(range(5), key="number"):
        say(epoch * 5 + number, "old")
"""
    )
    with Edited(tmp_path, "import time; time.sleep(0.5)\n" + code) as training:
        # Parked at the checkpoint behind the last item of the first epoch: 1 of the outer loop, 6 of the inner.
        run = until(lambda: next(iter(client.runs()), None))
        run.pause(at_step=7, timeout=30)
        assert len(training.said) == 5
        training.edit('say(epoch * 5 + number, "old")', 'say(undefined, "new")')
        request = run.reload(wait=False)
        run.resume(timeout=30)
        request.wait(30)
        assert [line[0] for line in training.over()] == list(range(50))
        assert "NameError" in training.err


def test_a_module_that_fails_to_import_puts_all_others_back(tmp_path: Path) -> None:
    with Edited(tmp_path, IMPORTING, modules=MODULES) as training:
        training.says(3)
        training.edit("'old'", "'new'", "helper.py")
        training.edit("class Base", "import fresh\nraise ValueError('half way')\nclass Base", "middle.py")
        training.write("fresh.py", "")
        fate = training.reload().fate
        assert fate.state == "failed"
        assert f'File "{training.project}/middle.py", line 4' in fate.reason
        assert "ValueError: half way" in fate.reason
        assert "importlib" not in fate.reason
        count = len(training.said)
        assert training.says(1, count)[0][1:-1] == ["old", "old", "oldold", "my oldold", "oldold", "old"]


def test_what_failed_code_had_persisted_is_forgotten(tmp_path: Path) -> None:
    code = SAY + (
        "spark.persist('kept', lambda: 1)\nfor n in spark.track(range(500), key='n'):\n"
        "    say(n, spark.has_persisted('more'), spark.has_persisted('kept'))\n    time.sleep(0.002)\n"
    )
    with Edited(tmp_path, code) as training:
        training.says(3)
        training.edit("for n", "spark.persist('more', lambda: 1)\nspark.clear_persisted('kept')\n1 / 0\nfor n")
        assert training.reload().fate.state == "failed"
        count = len(training.said)
        assert training.says(1, count)[0][1:] == [False, True]


def test_code_that_cannot_be_run_a_second_time_costs_nothing_but_a_pause(tmp_path: Path) -> None:
    code = (
        SAY
        + """
import sys
if hasattr(sys, "once"):
    raise RuntimeError("this can be done only once")
sys.once = True
values = spark.persist("values", list)
for number in spark.track(range(200), key="number"):
    values.append(number)
    say(number, "old", len(values))
    time.sleep(0.002)
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(5)
        training.edit('"old"', '"new"')
        fate = training.reload().fate
        assert fate.state == "failed"
        assert "only once" in fate.reason
        run = training.run()
        assert run.wait("paused", timeout=30) == "paused"
        assert "is paused after an error, with everything in memory" in training.err
        training.edit('if hasattr(sys, "once"):', "if False:")
        training.reloaded()
        run.resume(timeout=30)
        count = len(training.said)
        assert training.says(1, count)[0] == [count, "new", count + 1]


def test_a_stranded_run_can_be_stopped(tmp_path: Path) -> None:
    code = SAY + (
        "import sys\nassert not hasattr(sys, 'once')\nsys.once = True\n"
        "for n in spark.track(range(500), key='n'):\n    say(n)\n    time.sleep(0.002)\n"
    )
    with Edited(tmp_path, code) as training:
        training.says(3)
        training.edit("say(n)", "say(n, n)")
        assert training.reload().fate.state == "failed"
        training.run().wait("paused", timeout=30)
        training.run().stop(timeout=30)
        assert training.ended() == 1  # as its error would have ended it
        assert client.attach("test").status == "failed"


# --- how the loop is left ---


def test_a_reload_that_the_code_swallows_is_raised_again_until_the_loop_is_left(tmp_path: Path) -> None:
    code = (
        SAY
        + """
while True:
    try:
        for number in spark.track(range(100000), key="number"):
            say(number, "old")
            try:
                spark.checkpoint()
            except:
                say("swallowed", "old")
            time.sleep(0.002)
    finally:
        say("left", "old")
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(5)
        training.edit('"old"', '"new"')
        training.reloaded()
        count = len(training.said)
        assert training.says(1, count)[0][1] == "new"
        assert training.said.count(["left", "old"]) == 1


def test_an_exception_on_the_way_out_does_not_keep_the_new_code_away(tmp_path: Path) -> None:
    code = (
        SAY
        + """
def loop():
    for number in spark.track(range(200), key="number"):
        say(number, "old")
        time.sleep(0.002)

try:
    loop()
finally:
    raise ValueError("on the way out")
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(5)
        training.edit('"old"', '"new"')
        training.reloaded()
        goes_on(training, "new")
        assert "leaving the loop for a reload raised" in training.err


def test_arguments_and_working_directory_are_as_at_the_start(tmp_path: Path) -> None:
    code = (
        SAY
        + """
import os, sys
word = sys.argv.pop()
os.makedirs("inner", exist_ok=True)
os.chdir("inner")
for number in spark.track(range(200), key="number"):
    say(number, word, os.path.basename(os.getcwd()), sys.argv)
    time.sleep(0.002)
"""
    )
    (tmp_path / "project").mkdir()
    script = str(tmp_path / "project" / "train.py")
    (tmp_path / "project").rmdir()
    with Edited(tmp_path, code, script, "--lr", "old", inside=True) as training:
        training.says(3)
        training.edit("import os, sys", "import os, sys  # edited")
        training.reloaded()
        count = len(training.said)
        assert training.says(1, count)[0] == [count, "old", "inner", [script, "--lr"]]


def test_only_the_thread_that_runs_the_script_is_left(tmp_path: Path) -> None:
    code = (
        SAY
        + """
import threading
count = 0
def beside():
    global count
    try:
        while True:
            spark.checkpoint()
            count += 1
            time.sleep(0.001)
    except BaseException as error:
        say("thread", repr(error))
spark.persist("thread", lambda: threading.Thread(target=beside, daemon=True)).name
thread = spark.persist("started", lambda: [spark.persist("thread", lambda: None).start()])
for number in spark.track(range(500), key="number"):
    say(number, "old", count)
    time.sleep(0.005)
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(5)
        training.edit('"old"', '"new"')
        training.reloaded()
        count = len(training.said)
        lines = training.says(20, count)
        assert all(line[1] == "new" for line in lines)
        assert lines[-1][2] > lines[0][2], "the other thread passes its checkpoints"


def test_a_thread_that_is_parked_while_another_has_yet_to_come_to_its_reload_uses_no_cpu(tmp_path: Path) -> None:
    code = (
        SAY
        + """
import threading
def beside():
    while True:
        spark.checkpoint()
        time.sleep(0.001)
spark.persist("thread", lambda: threading.Thread(target=beside, daemon=True).start())
for number in spark.track(range(1000), key="number"):
    say(number, "old")
    time.sleep(2 if number == 5 else 0.002)
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(6)
        run = training.run()
        run.pause(wait=False)
        training.edit('"old"', '"new"')
        before = training.cpu_time()
        training.reloaded()
        assert training.cpu_time() - before < 1.0
        run.resume(timeout=30)
        assert training.says(1, 6)[0] == [6, "new"]


def test_an_asyncio_loop_is_left_and_run_again(tmp_path: Path) -> None:
    code = (
        SAY
        + """
import asyncio
async def main():
    for number in spark.persist("numbers", lambda: iter(range(500))):
        say(number, "old")
        await asyncio.sleep(0.002)
        await spark.checkpoint_async()
asyncio.run(main())
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(5)
        training.edit('"old"', '"new"')
        training.reloaded()
        goes_on(training, "new")


def test_two_reloads_in_a_row_both_come_to_a_fate(tmp_path: Path) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says(5)
        run = training.run()
        requests = [
            run.reload(training.source().replace("old", word), wait=False) for word in ("one", "two", "undefined()")
        ]
        assert [request.wait(30).state for request in requests] == ["applied"] * 3
        broken = run.reload(training.source().replace('return "old"', "return undefined"), wait=False)
        good = run.reload(training.source().replace("old", "good"), wait=False)
        assert (broken.wait(30).state, good.wait(30).state) in (("failed", "applied"), ("applied", "applied"))
        goes_on_with = training.says(1, len(training.said))[0][1]
        assert goes_on_with == "good"


def test_a_stop_behind_a_reload_stops_the_new_code(tmp_path: Path) -> None:
    with Edited(tmp_path, ONE) as training:
        training.says(3)
        run = training.run()
        run.pause(timeout=30)
        reload = run.reload(training.source().replace("old", "new"), wait=False)
        stop = run.stop(wait=False)
        assert reload.wait(30).state == "applied"
        assert stop.wait(30).state == "applied"
        assert training.ended() == 0
        assert run.status == "stopped"


# --- where nobody would run the new code ---


def test_under_plain_python_a_reload_is_refused_and_the_loop_goes_on(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        fate = outcome(run.reload, timeout=30).fate
        assert fate.state == "refused"
        assert "spark-fast run" in fate.reason
        assert run.requests == []
        child.steps_on(run)


# --- a function, without the command ---

FUNCTION = (
    SAY
    + """
def step(number):
    return "old"

def main(begin, end):
    for number in spark.track(range(begin, end), key="number"):
        say(number, step(number))
        time.sleep(0.002)
    return "done"

if __name__ == "__main__":
    say("begins")
    print(json.dumps([spark.run(main, 0, end=200)]), flush=True)
    say("ends")
"""
)


def test_a_function_is_run_again_with_the_new_code(tmp_path: Path) -> None:
    with Child(tmp_path, FUNCTION) as child:
        run = child.run()
        until(lambda: child.out.count("\n") > 5)
        child.script.write_text(FUNCTION.replace("old", "new").replace("end=200", "end=300"))
        request = run.reload(timeout=30)
        assert request.fate.state == "applied", request.fate.reason
        assert child.ended() == 0
        said = [json.loads(line) for line in child.out.splitlines()]
        assert said.count(["begins"]) == 2
        steps = [line for line in said if len(line) == 2]
        assert numbers(steps) == list(range(200)), "the same iterator, to its end"
        assert {line[1] for line in steps} == {"old", "new"}
        assert said[-2:] == [["done"], ["ends"]]
        assert run.status == "finished"


def test_a_script_that_has_a_second_name_for_multiprocessing_is_executed_once_for_a_reload(tmp_path: Path) -> None:
    code = FUNCTION.replace("import json", "import multiprocessing\nimport helper\nimport json")
    (tmp_path / "helper.py").write_text("word = 'old'\n")
    with Child(tmp_path, code.replace('return "old"', "return helper.word")) as child:
        run = child.run()
        (tmp_path / "helper.py").write_text("word = 'new'\n")
        assert run.reload(timeout=30).fate.state == "applied"
        assert child.ended() == 0
        said = [json.loads(line) for line in child.out.splitlines()]
        assert said.count(["begins"]) == 2
        assert said.count(["ends"]) == 1
        assert {line[1] for line in said if len(line) == 2} == {"old", "new"}


def test_a_script_that_comes_to_its_function_no_more_is_taken_back_or_runs_once(tmp_path: Path) -> None:
    with Child(tmp_path, FUNCTION) as child:
        run = child.run()
        child.script.write_text(FUNCTION.replace("spark.run(main, 0, end=200)", "7"))
        fate = outcome(run.reload, timeout=30).fate
        assert fate.state == "failed"
        assert "does not come to spark.run() any more" in fate.reason
        # A plain call: its loop goes on, and comes round.
        child.script.write_text(FUNCTION.replace("spark.run(main, 0, end=200)", "main(0, 200)"))
        assert run.reload(timeout=30).fate.state == "applied"
        assert child.ended() == 0
        said = [json.loads(line) for line in child.out.splitlines()]
        assert numbers([line for line in said if len(line) == 2]) == list(range(200))


def test_in_another_thread_than_the_main_one_modules_are_reloaded_and_the_script_is_not_begun_anew(
    tmp_path: Path,
) -> None:
    code = (
        SAY
        + """
import threading
import helper
def loop():
    for number in spark.track(range(300), key="number"):
        say(number, helper.word(0))
        time.sleep(0.002)
if __name__ == "__main__":
    thread = threading.Thread(target=spark.run, args=(loop,))
    thread.start()
    thread.join()
    say("ends")
"""
    )
    (tmp_path / "helper.py").write_text(MODULES["helper.py"])
    with Child(tmp_path, code) as child:
        until(lambda: child.out.count("\n") > 5, child.err)
        (tmp_path / "helper.py").write_text(MODULES["helper.py"].replace("old", "new"))
        child.script.write_text(code + "\n1 / 0\n")
        request = child.run().reload(timeout=30)
        assert (request.fate.state, request.version) == ("applied", 2), request.fate.reason
        assert child.ended() == 0, child.err
        said = [json.loads(line) for line in child.out.splitlines()]
        assert said.pop() == ["ends"]
        assert numbers(said) == list(range(300))
        assert {line[1] for line in said} == {"old", "new"}


def test_after_its_function_a_script_can_be_reloaded_no_more(tmp_path: Path) -> None:
    code = (
        FUNCTION.replace("end=200", "end=5")
        + "    while True:\n        spark.checkpoint()\n        time.sleep(0.001)\n"
    )
    with Child(tmp_path, code) as child:
        until(lambda: "ends" in child.out, child.err)
        run = child.run()
        fate = outcome(run.reload, code.replace("old", "new"), timeout=30).fate
        assert fate.state == "refused"
        child.steps_on(run)


# --- killed ---


@pytest.mark.parametrize("moment", ["turn:folded", "turn:applied"])
def test_a_worker_killed_in_a_reload_is_lost_and_its_sender_is_told(tmp_path: Path, moment: str) -> None:
    with Edited(tmp_path, f"import spark_fast._core as core\ncore.arm_point({moment!r})\n{ONE}") as training:
        training.says(3)
        training.edit('"old"', '"new"')
        fate = training.reload().fate
        assert fate.state == "lost"
        assert training.ended() == -signal.SIGKILL


# --- memory ---


@pytest.mark.tier("test")
@pytest.mark.timeout(300)
def test_many_reloads_leave_no_more_objects_than_ten(tmp_path: Path) -> None:
    modules = {
        f"part{number}.py": f"import helper\nclass Part{number}(helper.Base):\n"
        f"    def word(self):\n        return 'old'\ndef make():\n    return Part{number}()\n"
        for number in range(19)
    }
    modules["helper.py"] = "class Base:\n    pass\nWORD = 'old'\n"
    imports = "".join(f"import part{number}\n" for number in range(19))
    code = (
        SAY
        + imports
        + """
import gc, os, sys
parts = spark.persist("parts", lambda: [part0.make(), part18.make()])
look = spark.persist("look", lambda: sys.argv[1])
for number in spark.track(range(10**9), key="number"):
    if os.path.exists(look):
        os.unlink(look)
        gc.collect()
        say(number, parts[0].word(), len(gc.get_objects()))
    time.sleep(0.0005)
"""
    )
    look = tmp_path / "look"
    script = str(tmp_path / "project" / "train.py")
    with Edited(tmp_path, code, script, str(look), modules=modules) as training:
        run = training.run()

        def objects() -> int:
            count = len(training.said)
            look.touch()
            return int(training.says(1, count)[0][2])

        def reload(count: int) -> None:
            training.write("helper.py", f"class Base:\n    pass\nWORD = {count}\n")
            request = run.reload(timeout=30)
            assert request.fate.state == "applied", request.fate.reason

        for count in range(10):
            reload(count)
        few = objects()
        for count in range(10, 1000 if ALL else 250):
            reload(count)
        assert objects() <= few + 50


def test_ctrl_c_on_the_way_out_ends_the_run_and_not_the_wait_for_new_code(tmp_path: Path) -> None:
    code = (
        SAY
        + """
try:
    for number in spark.track(range(1000), key="number"):
        say(number)
        time.sleep(0.002)
finally:
    say("leaving")
    raise KeyboardInterrupt
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(3)
        request = training.run().reload(code.replace("1000", "2000"), wait=False)
        assert training.ended() == 130
        assert training.said[-1] == ["leaving"]
        assert request.fate.state == "lost"


def test_what_is_imported_on_the_way_out_of_code_that_is_taken_back_stays(tmp_path: Path) -> None:
    code = (
        SAY
        + """
import sys
try:
    for number in spark.track(range(200), key="number"):
        say(number, "old", "late" in sys.modules)
        time.sleep(0.002)
finally:
    import late
    late.count += 1
"""
    )
    with Edited(tmp_path, code, modules={"late.py": "count = 0\n"}) as training:
        training.says(3)
        training.edit('"old"', "undefined")
        assert training.reload().fate.state == "failed"
        count = len(training.said)
        assert training.says(1, count)[0] == [count, "old", True]
        # Executed once only: the second leaving counts on.
        training.edit("undefined", '"new"')
        training.edit("late.count += 1", "late.count += 1; say('count', late.count)")
        training.reloaded()
        training.over()
        assert training.said[-1][0] == "count" and training.said[-1][1] >= 3


@pytest.mark.parametrize(
    ("old", "new", "reason", "seen"),
    [
        ('__slots__ = ("x",)', '__slots__ = ("x", "y")', "__slots__", "before"),
        ("class Point:", "class Point(dict):", "base", "before"),
        ("LOW = 1", "LOW = 7", "LOW", "when it runs"),
    ],
    ids=["slots", "base", "enum"],
)
def test_what_cannot_be_changed_in_place_is_refused_if_possible_before_the_loop_is_left(
    tmp_path: Path, old: str, new: str, reason: str, seen: str
) -> None:
    code = (
        SAY
        + """
import enum

class Point:
    __slots__ = ("x",)

class Level(enum.IntEnum):
    LOW = 1

point = spark.persist("point", Point)
level = spark.persist("level", lambda: Level.LOW)
try:
    for number in spark.track(range(500), key="number"):
        say(number, "old", type(point) is Point, level is Level.LOW)
        time.sleep(0.002)
finally:
    say("left")
"""
    )
    with Edited(tmp_path, code) as training:
        training.says(3)
        training.edit(old, new)
        training.edit('"old"', '"new"')
        fate = training.reload().fate
        assert fate.state == ("refused" if seen == "before" else "failed"), fate
        assert "train.py" in fate.reason and reason in fate.reason
        count = len(training.said)
        assert training.says(2, count)[1][1:] == ["old", True, True]
        assert (["left"] in training.said) is (seen != "before")
        training.edit(new, old)
        training.reloaded()
        count = len(training.said)
        assert training.says(2, count)[1][1:] == ["new", True, True]


ALL_KINDS = (
    SAY
    + """
import abc, copy, dataclasses, enum, functools, pickle

class Meta(type):
    def __call__(cls, *args):
        made = super().__call__(*args)
        made.made_by = "old"
        return made

class Base(abc.ABC):
    @abc.abstractmethod
    def word(self): ...

    def hello(self):
        return "old base"

class Model(Base):
    def word(self):
        return "old"

    def hello(self):
        return super().hello() + " old"

    @property
    def prop(self):
        return "old"

    @staticmethod
    def static():
        return "old"

    @classmethod
    def made(cls):
        return cls.__name__ + " old"

@dataclasses.dataclass
class Config:
    rate: float = 1.0

    def word(self):
        return "old"

@dataclasses.dataclass(slots=True)
class Slotted:
    rate: float = 1.0

    def word(self):
        return "old"

class Colour(enum.Enum):
    RED = "old"

    def word(self):
        return "old " + self.value

class Strange(metaclass=Meta):
    def word(self):
        return "old"

def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args)
    return wrapper

@decorated
def wrapped():
    return "old"

def make():
    model = persisted["model"]
    return lambda: model.word()

persisted = spark.persist("all", lambda: {
    "model": Model(), "config": Config(), "slotted": Slotted(), "colour": Colour.RED, "strange": Strange(),
    "wrapped": wrapped, "partial": functools.partial(wrapped),
})
persisted.setdefault("bound", persisted["model"].hello)
persisted.setdefault("closure", make())
for number in spark.track(range(10**6), key="number"):
    p = persisted
    kinds = (Model, Config, Slotted, Colour, Strange)
    names = ("model", "config", "slotted", "colour", "strange")
    say(
        [p["model"].word(), p["model"].hello(), p["model"].prop, p["model"].static(), p["model"].made()],
        [p["config"].word(), p["slotted"].word(), p["colour"].word(), p["strange"].word()],
        [p["wrapped"](), p["partial"](), p["bound"](), p["closure"]()],
        all(type(p[name]) is kind for name, kind in zip(names, kinds)),
        all(type(pickle.loads(pickle.dumps(p[name]))) is kind for name, kind in zip(names, kinds)),
        all(type(copy.deepcopy(p[name])) is kind for name, kind in zip(names, kinds)),
        p["colour"] is Colour.RED and p["wrapped"] is wrapped and p["config"] == Config(),
        isinstance(p["model"], Base) and issubclass(Model, Base),
    )
    time.sleep(0.002)
"""
)


def test_objects_of_every_kind_run_the_new_code_of_the_script_and_keep_their_identity(tmp_path: Path) -> None:
    with Edited(tmp_path, ALL_KINDS) as training:
        assert training.says(1)[0][3:] == [True] * 5
        training.edit("old", "new")
        training.reloaded()
        count = len(training.said)
        words, kinds, functions, *flags = training.says(1, count)[0]
        assert words == ["new", "new base new", "new", "new", "Model new"]
        assert kinds == ["new", "new", "new new", "new"]
        assert functions == ["new", "new", "new base new", "new"]
        assert flags == [True] * 5
        training.edit('return "new"', 'raise ValueError("broken")')
        assert training.reload().fate.state == "failed"
        count = len(training.said)
        assert training.says(1, count)[0] == [words, kinds, functions, *flags], "all is as it was"


def test_a_hook_runs_once_however_often_the_code_was_replaced(tmp_path: Path) -> None:
    code = """
    @spark.on_pause
    def pause():
        say("pause")

    for number in spark.track(range(10**9), key="number"):
        say(number)
        time.sleep(0.002)
    """
    with Edited(tmp_path, SAY + textwrap.dedent(code)) as training:
        training.says(1)
        for count in range(3):
            training.edit("for number", f"# edit {count}\nfor number")
            training.reloaded()
        training.edit("    say(number)", "    spark.on_pause(lambda: say('new'))\n    1 / 0")
        assert training.reload().fate.state == "failed"
        client.attach("test").pause(timeout=10)
        assert [line for line in training.said if isinstance(line[0], str)] == [["pause"]]
