"""Tensors and numbers of other libraries that are exposed: what they show, and that nobody waits for them."""

import math
from pathlib import Path

from tests.support import Child, until

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
