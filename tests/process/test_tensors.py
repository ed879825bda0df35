"""Tensors and numbers of other libraries that are exposed: what they show, and that nobody waits for them."""

import math
import sys
from pathlib import Path

import pytest

from spark_fast import _core
from spark_fast.worker.state import tensors
from tests.support.child import Child, until

pytestmark = pytest.mark.process

NUMBERS = """
import enum, time
import numpy, torch
import spark_fast as spark

class Phase(enum.IntEnum):
    WARM = 2

state = spark.expose(loss=0.0, epoch=0, flag=False, phase=0, mean=0.0, gone=1.0, big=0, count=0)
step = 0
while True:
    spark.checkpoint()
    step += 1
    state.loss = numpy.float64(0.5)
    state.epoch = numpy.int64(3)
    state.flag = numpy.bool_(True)
    state.phase = Phase.WARM
    state.mean = torch.tensor(0.25, requires_grad=True) * 2
    state.gone = numpy.float64("nan")
    state.big = numpy.uint64(2**64 - 1)
    state.count = torch.tensor([[step]])
    time.sleep(0.001)
"""


def test_numbers_of_other_libraries_are_shown_as_what_they_are(tmp_path: Path) -> None:
    with Child(tmp_path, NUMBERS) as child:
        run = child.run()
        until(lambda: run.step > 10)
        found = {name: value.value for name, value in run.values.items()}
        assert math.isnan(found.pop("gone"))
        count = found.pop("count")
        assert type(count) is int and count > 1
        wanted = {"loss": 0.5, "epoch": 3, "flag": True, "phase": 2, "mean": 0.5, "big": 2.0**64}
        assert {name: (type(value), value) for name, value in found.items()} == {
            name: (type(value), value) for name, value in wanted.items()
        }
        assert len(run.history("loss")) > 3
        assert run.history("loss").last[-1] == 0.5


def test_what_a_tensor_was_computed_from_is_not_kept(tmp_path: Path) -> None:
    code = """
    import gc, weakref
    import torch
    import spark_fast as spark

    def computed():
        x = torch.ones(1000, requires_grad=True)
        kept.append(weakref.ref(x))
        return (x * 2).sum()

    kept = []
    state = spark.expose(loss=computed(), mean=spark.value(computed()))
    gc.collect()
    print([each() for each in kept])
    spark.checkpoint()
    state.loss = computed()
    gc.collect()
    print([each() for each in kept], state.loss.requires_grad)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "[None, None]\n[None, None, None] False\n"


def test_a_tensor_of_several_elements_is_refused_at_once_and_costs_no_control(tmp_path: Path) -> None:
    code = """
    import time, torch
    import spark_fast as spark
    state = spark.expose(loss=0.0)
    for made in (torch.zeros(3), spark.value(torch.zeros(2, 2))):
        try:
            spark.expose(many=made)
        except TypeError as error:
            print(error, flush=True)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        assert list(child.run().values) == ["loss"]
        assert child.out == (
            "many: a tensor that is exposed has one element, not 3\n"
            "many: a tensor that is exposed has one element, not 4\n"
        )


# --- an accelerator that there is not: what the worker asks of torch is written down ---


class Device:
    """An accelerator whose copies come when they are told to."""

    type = "cuda"

    def __init__(self, index: int) -> None:
        self.index = index


class Tensor:
    """A number on an accelerator. Reading it there would wait for all that is queued: no test may come to it."""

    dtype = "float32"

    def __init__(self, number: float, device: Device) -> None:
        self.number = number
        self.device = device

    def detach(self) -> "Tensor":
        return self

    def numel(self) -> int:
        return 1

    def reshape(self, shape: tuple[int, ...]) -> "Tensor":
        assert shape == ()
        return self

    def item(self) -> float:
        raise AssertionError("the training waits for its accelerator")

    __float__ = tolist = cpu = item


class Host:
    """A number in pinned memory."""

    def __init__(self, log: list[str], shape: tuple[int, ...], dtype: str, pin_memory: bool) -> None:
        assert (shape, dtype, pin_memory) == ((), "float32", True)
        self.log = log
        self.number = math.nan
        self.coming: Tensor | None = None

    def copy_(self, tensor: Tensor, non_blocking: bool) -> None:
        assert non_blocking
        self.log.append(f"copy {tensor.number}")
        self.coming = tensor

    def item(self) -> float:
        assert self.coming is not None
        return self.coming.number


class Torch:
    """As much of torch as is used."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.done = False
        torch = self

        class Event:
            def __init__(self, device: str) -> None:
                assert device == "cuda"

            def record(self, stream: str) -> None:
                torch.log.append(f"record {stream}")

            def query(self) -> bool:
                return torch.done

            def synchronize(self) -> None:
                raise AssertionError("the training waits for its accelerator")

            wait = synchronize

        class Accelerator:
            @staticmethod
            def current_stream(device: Device) -> str:
                return f"stream of {device.index}"

        self.Event = Event
        self.accelerator = Accelerator

    def empty(self, shape: tuple[int, ...], *, dtype: str, pin_memory: bool) -> Host:
        return Host(self.log, shape, dtype, pin_memory)


class Shown:
    """An exposed value whose tensor lies on an accelerator; the clock, the watchers and the board are the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.torch = Torch()
        self.now = 1000.0
        self.watched = False
        self.board: list[float] = []
        monkeypatch.setitem(sys.modules, "torch", self.torch)  # type: ignore[arg-type]
        monkeypatch.setattr(tensors, "_copies", {})
        monkeypatch.setattr(tensors, "_given_up", set())
        monkeypatch.setattr(tensors.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(tensors, "_core", self)
        self.value = _core.Exposed("loss", None)
        self.value.index = 0

    def board_watched(self, within: float) -> bool:
        assert within == 3.0
        return self.watched

    def board_put_number(self, index: int, number: float) -> None:
        assert index == 0
        self.board.append(number)

    def assign(self, number: float, device: Device) -> None:
        tensors.assign(self.value, Tensor(number, device))

    def copies(self) -> int:
        return sum(line.startswith("copy") for line in self.torch.log)


def test_nothing_on_an_accelerator_is_copied_while_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch)
    for step in range(1000):
        shown.now += 0.1
        shown.assign(step, Device(0))
    assert (shown.torch.log, shown.board) == ([], [])


def test_four_copies_a_second_are_made_and_none_while_one_is_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch)
    shown.watched = shown.torch.done = True
    device = Device(0)
    for step in range(10_000):  # ten seconds
        shown.now += 0.001
        shown.assign(step, device)
    assert 39 <= shown.copies() <= 41
    assert shown.board == sorted(shown.board)
    assert len(shown.board) == shown.copies() - (shown.board[-1] != float(shown.torch.log[-2].split()[1]))
    shown.torch.done = False
    before = shown.copies()
    for step in range(10_000):
        shown.now += 0.001
        shown.assign(step, device)
    assert shown.copies() <= before + 1
    shown.torch.done = True
    shown.assign(1, device)
    assert shown.copies() == before + 2


def test_a_number_is_taken_when_its_event_says_that_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch)
    shown.watched = True
    device = Device(0)
    shown.assign(1.5, device)
    assert shown.torch.log == ["copy 1.5", "record stream of 0"]
    shown.now += 10
    shown.assign(2.5, device)
    assert (shown.board, shown.copies()) == ([], 1)
    shown.torch.done = True
    shown.watched = False
    shown.assign(3.5, device)
    assert (shown.board, shown.copies()) == ([1.5], 1)


def test_the_event_stands_in_the_stream_of_the_tensors_device(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Shown(monkeypatch)
    shown.watched = shown.torch.done = True
    first, second = Device(0), Device(1)
    for device in (first, second, second):
        shown.now += 1
        shown.assign(1.0, device)
    assert shown.torch.log[1::2] == ["record stream of 0", "record stream of 1", "record stream of 1"]


def test_an_accelerator_that_can_not_do_it_is_said_once_and_the_training_goes_on(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = Shown(monkeypatch)
    shown.watched = True
    monkeypatch.setattr(shown.torch, "Event", lambda device: 1 / 0)
    for _ in range(3):
        shown.now += 1
        shown.assign(1.0, Device(0))
    assert capfd.readouterr().err.count("the exposed tensor loss can't be shown") == 1


def test_torch_has_what_is_used_of_it() -> None:
    import torch

    assert callable(torch.accelerator.current_stream)
    assert {"record", "query"} <= set(dir(torch.Event))
    assert isinstance(torch.Event("cpu"), torch.Event)
    with pytest.raises(TypeError):
        torch.empty((), dtype=torch.float32, no_such_argument=True)
    if torch.accelerator.is_available():
        assert torch.empty((), dtype=torch.float32, pin_memory=True).is_pinned()
        return
    # It knows the argument, and what it says of it without an accelerator is each build's own.
    with pytest.raises(RuntimeError):
        torch.empty((), dtype=torch.float32, pin_memory=True)
