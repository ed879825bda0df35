"""The cost of an assignment to an exposed value, and of a read, beside the loggers that people use instead."""

from types import SimpleNamespace
from typing import Any

import spark_fast as spark
from bench.measure import Case, interleave
from bench.peers import EMPTY, open_loggers
from spark_fast import client
from spark_fast._core import worker

__all__ = ["ASSIGN", "ASSIGN_JSON", "ASSIGN_TENSOR", "PLAIN_ASSIGN", "PLAIN_READ", "READ", "assign"]

ASSIGN, READ = "state.loss = x", "state.lr"
ASSIGN_JSON, ASSIGN_TENSOR = "state.card = card", "state.grad = tensor"
PLAIN_ASSIGN, PLAIN_READ = "plain.loss = x", "plain.lr"
_CARD = {"layers": 12, "name": "small", "dropout": [0.1, 0.2]}


def _tensor() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch.tensor(0.5)


def assign(rounds: int, seconds: float) -> dict[str, Any]:
    """Return the ns of each case in each round, the peers, and those that are not available.

    To be called in a process that is the worker of no run yet.
    """
    tensor = _tensor()
    bindings = {"loss": 0.0, "lr": 1e-3, "card": {}} | ({} if tensor is None else {"grad": 0.0})
    state = spark.expose(bindings)
    spark.checkpoint()
    assert worker.attached()
    names = {"state": state, "plain": SimpleNamespace(loss=0.0, lr=1e-3), "x": 0.5, "card": _CARD, "tensor": tensor}
    statements = [ASSIGN, READ, ASSIGN_JSON, PLAIN_ASSIGN, PLAIN_READ] + ([] if tensor is None else [ASSIGN_TENSOR])
    with open_loggers() as (peers, absent):
        cases = [EMPTY, *(Case(statement, statement, names) for statement in statements)]
        found = interleave([*cases, *(peer.case for peer in peers)], rounds=rounds, seconds=seconds)
    assert worker.attached()
    values = client.attach().values
    assert values["loss"].value == 0.5 and values["card"].value == _CARD, "what was assigned is what others see"
    assert tensor is None or values["grad"].value == 0.5
    state.loss = 0.25
    assert client.attach().values["loss"].value == 0.25
    return {
        "rounds": found,
        "peers": [[peer.name, peer.version, peer.case.name, peer.note] for peer in peers],
        "absent": [[gone.name, gone.reason] for gone in absent],
    }
