"""A small network learns which arm of a spiral a point lies on, in several workers of Ray Train at once.

    python ray_ddp.py --steps 2000 --name spirals

All workers are one run, called as the experiment is: `spark-fast pause spirals`, `resume`, `set lr=0.02` and `stop` act
on each of them at the same step. `spark-fast call evaluate` has all of them look, each at its share of the
points, how well the network does. After a stop the training has a last checkpoint and counts as finished; started once
more under the same name, it goes on from there. A worker that dies has Ray Train start all of them again from the last
checkpoint, as the same run.
"""

import argparse
import math
import os
import tempfile
import time
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

import spark_fast as spark
from spark_fast.integrations import ray as spark_ray

ARMS = 3


def spirals(points: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return points of the plane, each with the arm that it lies on. A seed gives always the same ones."""
    random = torch.Generator().manual_seed(seed)
    arm = torch.randint(ARMS, (points,), generator=random)
    radius = torch.rand(points, generator=random)
    angle = 4 * radius + arm * (2 * math.pi / ARMS) + 0.1 * torch.randn(points, generator=random)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm


def learn(config: dict[str, Any]) -> None:
    """Train in each worker, and report with a checkpoint now and then, at the end, and when the run is stopped."""
    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    points, arms = spirals(4096, seed=0)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, ARMS))
    model = prepare_model(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=0.9)
    done = 0
    if checkpoint := ray.train.get_checkpoint():  # of the workers before these
        with checkpoint.as_directory() as folder:
            saved = torch.load(os.path.join(folder, "state.pt"))
        net.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        done = saved["step"]

    def set_lr(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    def evaluate() -> dict[str, float]:
        """Return the share of the test points that the network places rightly. All ranks call it, each for its part."""
        points, arms = (tensor[rank::ranks] for tensor in spirals(1024, seed=1))
        with torch.no_grad():
            right = (net(points).argmax(dim=1) == arms).sum()
        counted = torch.tensor([right, len(arms)], dtype=torch.int64)
        dist.all_reduce(counted)
        return {"points": int(counted[1]), "accuracy": float(counted[0] / counted[1])}

    def report(stopped: bool = False) -> None:
        """Report from all ranks at the same step.

        Ray Train waits for each, so no rank ends before the checkpoint of the first one is kept.
        """
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                saved = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "step": done}
                torch.save(saved, os.path.join(folder, "state.pt"))
                checkpoint = Checkpoint.from_directory(folder)
            ray.train.report({"step": done, "loss": float(state.loss), "stopped": stopped}, checkpoint=checkpoint)

    # Values and a function for other processes to see, set and call.
    state = spark.expose(
        lr=spark.value(optimizer.param_groups[0]["lr"], min=0, max=1, step=0.001, doc="Learning rate.", on_set=set_lr),
        loss=spark.value(0.0, readonly=True, doc="The mean cross-entropy of this rank's last batch."),
        evaluate=spark.function(evaluate, ranks="all"),
    )
    try:
        # Before each step, track() passes a checkpoint, at which all ranks wait while the run is paused.
        for step in spark.track(range(done, config["steps"]), total=config["steps"]):
            random = torch.Generator().manual_seed(step * ranks + rank)
            batch = torch.randint(len(arms), (config["batch_size"],), generator=random)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(points[batch]), arms[batch])
            loss.backward()
            optimizer.step()
            state.loss, done = loss, step + 1
            if done % config["report_every"] == 0:
                report()
            time.sleep(config["delay"])
    except spark.SparkStopError as stop:
        # Not raised again: Ray Train would count it as a failure, and start all workers anew.
        print(f"rank {rank}: {stop}", flush=True)
        report(stopped=True)
    else:
        report()


def train(config: dict[str, Any]) -> None:
    """Train in one worker of Ray Train. run() makes all workers one run, and reports how it ended."""
    spark_ray.run(learn, config)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small network learns in several workers of Ray Train.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32, help="of each worker")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--report-every", type=int, metavar="STEPS", default=500)
    parser.add_argument("--delay", type=float, metavar="SECONDS", default=0, help="slows each step down, to watch it")
    parser.add_argument("--name", default="spirals", help="of the experiment, and of the run")
    parser.add_argument("--storage", metavar="PATH", default=None, help="where checkpoints are kept")
    args = parser.parse_args()
    result = TorchTrainer(
        train,
        train_loop_config=vars(args),
        scaling_config=ScalingConfig(num_workers=args.workers),
        run_config=RunConfig(
            name=args.name,
            storage_path=args.storage and os.path.abspath(args.storage),
            failure_config=FailureConfig(max_failures=1),
        ),
    ).fit()
    print(f"{result.metrics}, kept in {result.checkpoint.path}")
