"""One rank of a job whose idle step is measured: `python -m bench.rank ROUNDS`, under the environment of a launcher.

Every rank runs the same cases in the same order; rank 0 prints the figures, one line of JSON.
"""

import json
import logging
import os
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from timeit import Timer
from typing import Any, Literal

from bench.peers import made_up_master
from bench.twins import twin

OURS = "spark.checkpoint()"
EMPTY = "an empty loop"
YIELD = "an empty method, GIL released"


@dataclass(frozen=True)
class Ask:
    """What a training calls each step to hear whether it is to stop.

    Attributes:
        name: what is called.
        version: of what it belongs to.
        statement, names: the call.
        same: whether all ranks get the same answer at the same step: always, the first time ("once"), or not.
        waits: whether it waits for other processes. What does not is timed by its CPU time: there may be more ranks
            than CPUs.
        calls: in one batch.
        note: how it was set up.
    """

    name: str
    version: str
    statement: str
    names: dict[str, object]
    same: Literal["yes", "once", "no"]
    waits: bool
    calls: int
    note: str


def _ours() -> Iterator[Ask]:
    import spark_fast as spark

    names: dict[str, object] = {"spark": spark, "empty": twin.Empty().empty_nogil}
    yield Ask(EMPTY, "", "pass", {}, "yes", False, 20_000, "")
    yield Ask(YIELD, "", "empty()", names, "no", False, 20_000, "the twin: tells nothing, and shares nothing")
    yield Ask(OURS, f"spark_fast {version('spark-fast')}", OURS, names, "yes", False, 20_000, "everything can be asked")


def _flag() -> Iterator[Ask]:
    import torch
    import torch.distributed as dist

    flag = torch.zeros(1)

    def reduced() -> bool:
        flag.zero_()
        dist.all_reduce(flag)
        return bool(flag.item())

    yield Ask("a flag, all-reduced", f"torch {version('torch')}", "ask()", {"ask": reduced}, "yes", True, 50, "gloo")


def _store() -> Iterator[Ask]:
    import torch.distributed as dist

    store = dist.distributed_c10d._get_default_store()
    names: dict[str, object] = {"store": store, "key": ["stop"]}
    note = "one server for all; two ranks may see the key at different steps"
    yield Ask("a look into the store", f"torch {version('torch')}", "store.check(key)", names, "no", True, 50, note)


def _lightning() -> Iterator[Ask]:
    import lightning

    trainer = lightning.Trainer(
        accelerator="cpu", strategy="ddp", devices=int(os.environ["WORLD_SIZE"]), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loop = trainer.fit_loop.epoch_loop
    names: dict[str, object] = {"loop": loop}
    statement = "loop._broadcast_sigterm_tensor()"
    note = "what its training loop does before each batch; gloo; tells of SIGTERM at rank 0 only"
    yield Ask("Lightning's broadcast", version("lightning"), statement, names, "yes", True, 50, note)


def _accelerate() -> Iterator[Ask]:
    from accelerate import Accelerator

    names: dict[str, object] = {"accelerator": Accelerator(cpu=True)}
    statement = "accelerator.check_trigger()"
    assert eval(statement, names) is False
    yield Ask("Accelerate's check_trigger", version("accelerate"), statement, names, "yes", True, 50, "gloo")


def _determined(stack: ExitStack) -> Callable[[], Iterator[Ask]]:
    def asks() -> Iterator[Ask]:
        from determined import core

        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        made: Any = core  # it does not say what it exports
        between = made.DistributedContext(
            rank=rank, size=size, local_rank=rank, local_size=size, cross_rank=0, cross_size=1,
            pub_port=int(os.environ["BENCH_PORT"]), pull_port=int(os.environ["BENCH_PORT"]) + 1,
        )  # fmt: skip
        stack.callback(between.close)
        modes: list[tuple[Any, str, Literal["yes", "no"]]] = [
            (made.PreemptMode.WorkersAskChief, "the chief tells the others", "yes"),
            (made.PreemptMode.WorkersAskMaster, "each for itself; two ranks may hear of it at different steps", "no"),
        ]
        for mode, what, same in modes:
            preempt = stack.enter_context(made.PreemptContext(made_up_master(stack), "bench", between, mode))
            names: dict[str, object] = {"preempt": preempt}
            name = f"Determined's should_preempt, {mode.name}"
            waits = mode is made.PreemptMode.WorkersAskChief
            yield Ask(name, version("determined"), "preempt.should_preempt()", names, same, waits, 50, what)

    return asks


def _jax() -> Iterator[Ask]:
    import jax
    from jax.experimental import multihost_utils

    jax.config.update("jax_platforms", "cpu")
    jax.distributed.initialize(
        f"127.0.0.1:{int(os.environ['BENCH_PORT']) + 2}", int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    )
    names: dict[str, object] = {"reached": multihost_utils.reached_preemption_sync_point, "step": 0}
    statement = "reached(step)"
    assert eval(statement, names) is False
    note = "tells of one preemption, by SIGTERM, and of nothing after it"
    yield Ask("JAX's reached_preemption_sync_point", version("jax"), statement, names, "once", False, 5000, note)


def measure(rounds: int) -> dict[str, Any]:
    """ns a call of each case in each round; and what each is."""
    import jax
    import torch.distributed as dist

    import spark_fast as spark
    from spark_fast import _core
    from spark_fast._core import worker

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    spark.checkpoint()
    dist.init_process_group("gloo")
    with ExitStack() as stack:
        kinds = (_ours, _flag, _store, _lightning, _accelerate, _determined(stack), _jax)
        asks = [ask for kind in kinds for ask in kind()]
        clocks = {True: time.perf_counter, False: time.process_time}
        timers = {ask.name: Timer(ask.statement, globals=ask.names, timer=clocks[ask.waits]) for ask in asks}
        order = random.Random(1)
        found: dict[str, list[float]] = {ask.name: [] for ask in asks}
        for _ in range(rounds):
            for ask in order.sample(asks, len(asks)):
                dist.barrier()
                before = worker.step()
                found[ask.name].append(timers[ask.name].timeit(ask.calls) * 1e9 / ask.calls)
                assert ask.name != OURS or worker.step() == before + ask.calls, "each call counts one step"
            control = _core.read_view(worker.fileno())
        assert control["slot_count"] == int(os.environ["WORLD_SIZE"]), "they share one run"
        dist.barrier()
    jax.distributed.shutdown()
    dist.destroy_process_group()
    about = [[ask.name, ask.version, ask.same, ask.note] for ask in asks]
    return {"rank": int(os.environ["RANK"]), "found": found, "about": about}


if __name__ == "__main__":
    figures = measure(int(sys.argv[1]))
    if figures["rank"] == 0:
        print(json.dumps(figures), flush=True)
