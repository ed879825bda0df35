"""Code that is executed again tells libraries once more what they take once in a process."""

import atexit
import inspect
import logging
import multiprocessing
import signal
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast import client
from spark_fast.errors import ReloadRefusedError
from spark_fast.worker.reload import dynamo
from spark_fast.worker.reload.torch_operators import refuse_operators
from tests.support.child import DEADLINE
from tests.support.reloading import Edited as Training
from tests.support.scripts import REPETITIONS, Script
from tests.unit.test_patching import Edited

pytestmark = [pytest.mark.unit, pytest.mark.tier("test")]  # needs the libraries


@pytest.fixture(autouse=True)
def nothing_is_left_exchanged() -> Iterator[None]:
    before = logging.Logger.addHandler, atexit.register, multiprocessing.set_start_method.__func__.__defaults__
    yield
    now = logging.Logger.addHandler, atexit.register, multiprocessing.set_start_method.__func__.__defaults__
    assert now == before
    assert REPETITIONS.current is None


def test_a_flag_of_absl_keeps_its_value_and_takes_another_default() -> None:
    from absl import flags

    script = Script("""
        from absl import flags
        flags.DEFINE_integer("spark_kept", 1, "doc")
        flags.DEFINE_integer("spark_changed", 1, "doc")
        FLAGS = flags.FLAGS
        FLAGS.mark_as_parsed()
        """)
    script.module.FLAGS.spark_kept = 5
    script.again('"spark_changed", 1', '"spark_changed", 2')
    assert (script.module.FLAGS.spark_kept, script.module.FLAGS.spark_changed) == (5, 2)
    script.fail('"spark_changed", 2', '"spark_changed", 3')
    assert script.module.FLAGS.spark_changed == 2
    with pytest.raises(flags.DuplicateFlagError):
        script.again('flags.DEFINE_integer("spark_kept"', 'flags.DEFINE_integer("spark_changed"')
    with pytest.raises(flags.DuplicateFlagError):
        Script('from absl import flags\nflags.DEFINE_integer("spark_kept", 1, "doc")\n')


def test_a_metric_of_prometheus_counts_on() -> None:
    import prometheus_client

    script = Script("""
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        STEPS = Counter("spark_steps", "doc")
        SPLIT = Counter("spark_split", "doc", ["part"])
        TIMES = Histogram("spark_times", "doc", buckets=(1, 2))
        """)
    registry = prometheus_client.REGISTRY
    for _ in range(3):
        script.module.STEPS.inc()
        script.module.SPLIT.labels("a").inc()
        script.module.TIMES.observe(1)
        script.again("import", "import")
    assert registry.get_sample_value("spark_steps_total") == 3
    assert registry.get_sample_value("spark_split_total", {"part": "a"}) == 3
    assert registry.get_sample_value("spark_times_count") == 3
    script.fail("buckets=(1, 2)", "buckets=(1, 2, 3)")
    assert registry.get_sample_value("spark_times_count") == 3
    script.again("buckets=(1, 2)", "buckets=(1, 2, 3)")
    script.module.TIMES.observe(3)
    assert registry.get_sample_value("spark_times_bucket", {"le": "3.0"}) == 1
    with pytest.raises(ValueError, match="Duplicated"):
        script.again('"spark_split"', '"spark_steps"')


def test_gin_takes_a_configurable_and_its_configuration_once_more() -> None:
    import gin

    script = Script("""
        import gin
        @gin.configurable
        def rate(x=1): return ("old", x)
        @gin.configurable
        class Net:
            def __init__(self, y=1): self.y = y
            def word(self): return "old"
        gin.parse_config("rate.x = 5\\nNet.y = 7")
        gin.finalize()
        net = Net()
        """)
    net = script.module.net
    script.again('"old"', '"new"', "rate.x = 5", "rate.x = 6")
    assert script.module.rate() == ("new", 6)
    assert (net.word(), script.module.Net().y) == ("new", 7)
    assert isinstance(net, script.module.Net)
    assert gin.config_is_locked()
    with pytest.raises(RuntimeError, match="locked"):
        gin.parse_config("rate.x = 7")
    gin.clear_config()


def test_a_resolver_of_omegaconf_is_replaced_and_put_back() -> None:
    from omegaconf import OmegaConf

    script = Script("""
        from omegaconf import OmegaConf
        OmegaConf.register_new_resolver("spark_word", lambda: "old")
        """)
    found = OmegaConf.create({"word": "${spark_word:}"})
    script.again('"old"', '"new"')
    assert found.word == "new"
    script.fail('"new"', '"broken"')
    assert found.word == "new"
    with pytest.raises(ValueError, match="already registered"):
        OmegaConf.register_new_resolver("spark_word", lambda: "again")


def test_a_handler_of_logging_is_replaced_and_its_lines_come_once(tmp_path: Path) -> None:
    script = Script(f"""
        import logging, sys
        log = logging.getLogger("spark_edited")
        log.addHandler(logging.StreamHandler(sys.stdout))
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.addHandler(logging.FileHandler({str(tmp_path / "log")!r}))
        """)
    log = script.module.log
    first = list(log.handlers)
    for _ in range(3):
        script.again("import", "import")
        assert [type(each) for each in log.handlers] == [type(each) for each in first]
    assert not set(first) & set(log.handlers), "those of the new code stand"
    before = list(log.handlers)
    script.fail()
    assert log.handlers == before
    script.again("import", "import")
    log.addHandler(logging.StreamHandler(sys.stdout))
    assert len(log.handlers) == 4, "outside of a reload nothing is replaced"
    log.handlers[2].close()


ATEXIT = """
import atexit, json, time
import spark_fast as spark

@atexit.register
def save(word="decorated"): print(json.dumps(word), flush=True)
atexit.register(save, "given")
for number in spark.track(range(10**6), key="number"):
    print(json.dumps(number), flush=True)
    time.sleep(0.002)
"""


@pytest.mark.process
def test_a_function_is_registered_with_atexit_once_and_a_lambda_is_told(tmp_path: Path) -> None:
    with Training(tmp_path, ATEXIT) as training:
        training.says(1)
        for old, new in (("decorated", "new"), ("given", "also new")):
            training.edit(old, new)
            assert training.reloaded().fate.warnings == ()
        training.edit("for number", "atexit.register(lambda: None)\nfor number")
        (warning,) = training.reloaded().fate.warnings
        assert "train.py:7: a lambda was registered with atexit once more" in warning
        client.attach("test").stop(timeout=DEADLINE)
        assert [line for line in training.over() if isinstance(line, str)] == ["also new", "new"]


def test_the_start_method_of_multiprocessing_can_be_set_once_more() -> None:
    script = Script("""
        import multiprocessing
        def set_up(): multiprocessing.set_start_method("spawn")
        """)
    had = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        script.reload(script.source + "\nset_up()\n")
        assert multiprocessing.get_start_method() == "spawn"
        script.again('"spawn"', '"fork"')
        assert multiprocessing.get_start_method() == "fork"
        with pytest.raises(RuntimeError, match="already been set"):
            multiprocessing.set_start_method("spawn")
    finally:
        multiprocessing.set_start_method(had, force=True)


def test_a_signal_handler_that_calls_the_one_before_does_not_call_itself() -> None:
    calls: list[int] = []
    had = signal.signal(signal.SIGUSR1, lambda *_: calls.append(1))
    try:
        script = Script("""
            import signal
            previous = signal.getsignal(signal.SIGUSR1)
            count = 0
            def handler(number, frame):
                global count
                count += 1
                previous(number, frame)
            signal.signal(signal.SIGUSR1, handler)
            """)
        script.again("count += 1", "count += 10")
        signal.raise_signal(signal.SIGUSR1)
        assert (calls, script.module.count) == ([1], 10)
    finally:
        signal.signal(signal.SIGUSR1, had)


def test_a_function_of_a_library_that_was_wrapped_is_wrapped_once() -> None:
    library = Edited('def load(): return "original"\n')
    script = Script(f"""
        import {library.module.__name__} as library
        original = library.load
        alias = len
        def load(): return "old " + original()
        def other(): return 1
        library.load = load
        """)
    script.again("old", "new", "alias = len", "alias = other")
    assert library.module.load() == "new original"
    assert script.module.alias is script.module.other, "an assignment that was edited is done"


@pytest.mark.parametrize(
    "line",
    [
        'lib = torch.library.Library("spark_edited", "DEF")',
        'lib = Library("spark_edited", "FRAGMENT")',
        'given.define("g(Tensor x) -> Tensor")',
        'class Ops:\n    lib = torch.library.Library("spark_edited", "DEF")',
    ],
)
def test_operators_of_torch_that_would_be_defined_twice_are_refused(line: str) -> None:
    import torch

    given = torch.library.Library("spark_given", "FRAGMENT")
    module = types.ModuleType("edited")
    vars(module).update(torch=torch, given=given, Library=torch.library.Library)
    inside = f"def make():\n    {line.replace(chr(10), chr(10) + '    ')}\n"
    refuse_operators(inside.encode(), "/x/ops.py", module)
    with pytest.raises(ReloadRefusedError, match=r"ops.py:[12]: .* can be defined once in a process"):
        refuse_operators(line.encode(), "/x/ops.py", module)
    given._destroy()


def test_other_things_of_torch_can_be_done_once_more() -> None:
    import torch

    script = Script("""
        import torch
        torch.set_num_interop_threads(torch.get_num_interop_threads())
        @torch.library.custom_op("spark_edited::g", mutates_args=())
        def g(x: torch.Tensor) -> torch.Tensor: return x + 1
        @g.register_fake
        def _(x): return torch.empty_like(x)
        """)
    script.again("x + 1", "x + 2")
    assert torch.ops.spark_edited.g(torch.zeros(1)).item() == 2


@pytest.mark.tier("all")
def test_a_second_initialization_is_no_error_while_a_reload_executes_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    import torch

    calls: list[str] = []
    monkeypatch.setattr(torch.distributed, "init_process_group", calls.append)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(calls))
    script = Script("""
        import inspect, ray, torch
        torch.distributed.init_process_group("gloo")
        again = inspect.signature(inspect.unwrap(ray.init)).parameters["ignore_reinit_error"].default
        """)
    assert script.module.again is False
    script.again("import", "import")
    assert calls == ["gloo"]
    assert script.module.again is True
    assert inspect.signature(inspect.unwrap(ray.init)).parameters["ignore_reinit_error"].default is False
    torch.distributed.init_process_group("again")
    assert calls == ["gloo", "again"]


def test_a_version_of_a_library_that_is_not_known_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "absl.flags._flagvalues", types.ModuleType("absl.flags._flagvalues"))
    script = Script('word = "old"\n')
    script.again("old", "new")
    assert script.module.word == "new"
    assert "absl.flags._flagvalues can't be told" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is:DeprecationWarning")
def test_scripts_of_torch_jit_are_made_of_the_new_code() -> None:
    import torch

    script = Script("""
        import torch
        def f(x: torch.Tensor): return x + 1
        """)
    scripted: Any = torch.jit.script
    assert scripted(script.module.f)(torch.zeros(1)).item() == 1
    script.again("x + 1", "x + 2")
    dynamo.forget()
    assert scripted(script.module.f)(torch.zeros(1)).item() == 2


def test_jax_forgets_what_it_has_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    jax: Any = types.ModuleType("jax")
    calls: list[int] = []
    jax.clear_caches = lambda: calls.append(1)
    monkeypatch.setitem(sys.modules, "jax", jax)
    assert dynamo.is_in_use()
    dynamo.forget()
    assert calls == [1]


NUMBA = """
class Dispatcher:
    def __init__(self, py_func):
        self.py_func = py_func
        self.recompile()
    def recompile(self):
        self.machine_code = self.py_func.__code__
    def __call__(self, *args):
        return eval(self.machine_code, self.py_func.__globals__)
"""


def test_numba_compiles_anew_what_is_held_elsewhere() -> None:
    numba = Edited(NUMBA, "edited_numba")
    numba.module.Dispatcher.__module__ = "numba.core.registry"
    script = Script("""
        from edited_numba import Dispatcher
        @Dispatcher
        def f(): return "old"
        """)
    held = script.module.f
    script.again('"old"', '"new"')
    assert script.module.f() == "new"
    assert held() == "new"
