"""A small network learns to tell the digits of a sum, in several workers of Ray Train.

    python ray_train.py --workers 2 --steps 2000 --out weights.pt

All workers are one run, on whichever nodes they are: `spark-fast pause`, `resume`, `set lr=0.02` and `stop` act on each
of them at the same step. Type them on any machine that has a worker.
"""

import argparse
import time
from typing import Any

import ray.train
import torch
from ray.train import ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

import spark_fast as spark
from spark_fast.integrations import ray as spark_ray


def train(config: dict[str, Any]) -> None:
    """What each worker does."""
    spark_ray.setup()
    context = ray.train.get_context()
    rank = context.get_world_rank()
    torch.manual_seed(config["seed"])
    model = prepare_model(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1)))
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"])
    random = torch.Generator().manual_seed(config["seed"] + 1 + rank)

    def set_lr(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    state = spark.expose(
        lr=spark.value(config["lr"], min=0, max=1, doc="The learning rate.", on_set=set_lr),
        loss=spark.value(0.0, readonly=True, doc="The mean squared error of this worker's last batch."),
    )
    stopped = None
    try:
        for step in spark.track(range(config["steps"])):
            numbers = torch.rand(64, 8, generator=random)
            loss = nn.functional.mse_loss(model(numbers), numbers.sum(dim=1, keepdim=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            state.loss = loss
            if rank == 0 and step % 100 == 0:
                print(f"step {step}  loss {loss.item():.4f}", flush=True)
            time.sleep(config["delay"])
    except spark.SparkStopError as stop:
        stopped = stop.step  # not raised again: to Ray it would be a worker that has failed
    plain = getattr(model, "module", model)
    torch.save(plain.state_dict(), config["out"].replace("{rank}", str(rank)))
    print(f"rank {rank}: {'finished' if stopped is None else f'stopped at step {stopped}'}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small network learns in several workers of Ray.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--delay", type=float, metavar="SECONDS", default=0, help="slows each step down, to watch it")
    parser.add_argument("--out", metavar="PATH", default="weights.pt", help="a {rank} in it: each worker saves its own")
    args = parser.parse_args()
    TorchTrainer(train, train_loop_config=vars(args), scaling_config=ScalingConfig(num_workers=args.workers)).fit()
