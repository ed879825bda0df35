"""A small network learns which arm of a spiral a point lies on, in several processes at once: PyTorch's
DistributedDataParallel on CPUs.

    torchrun --nproc-per-node=2 ddp.py --steps 2000 --out weights.pt

All ranks are one run: `spark-fast pause`, `resume`, `set lr=0.02` and `stop` act on each of them at the same step.
`spark-fast call evaluate` has all of them look, each at its share of the points, how well the network does.
Edit this file and type `spark-fast reload`: the next batch runs the new code, everywhere. A SIGTERM to any rank, or to
torchrun, stops them all; rank 0 then saves what was learned so far.
"""

import argparse
import math
import time
from collections.abc import Iterator
from itertools import count, islice

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import spark_fast as spark

ARMS = 3

Batch = tuple[torch.Tensor, ...]


def spirals(points: int, seed: int) -> TensorDataset:
    """Return points of the plane, each with the arm that it lies on. A seed gives always the same ones."""
    random = torch.Generator().manual_seed(seed)
    arm = torch.randint(ARMS, (points,), generator=random)
    radius = torch.rand(points, generator=random)
    angle = 4 * radius + arm * (2 * math.pi / ARMS) + 0.1 * torch.randn(points, generator=random)
    return TensorDataset(torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1), arm)


def new_model(seed: int) -> DistributedDataParallel:
    """Return the network, the same on all ranks."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, ARMS))
    return DistributedDataParallel(net)


def batches(loader: "DataLoader[Batch]", sampler: "DistributedSampler[Batch]") -> Iterator[Batch]:
    """Yield this rank's share of the data in batches without end, in a new order for each epoch."""
    for epoch in count():
        sampler.set_epoch(epoch)
        yield from loader


def main(args: argparse.Namespace) -> None:
    """Train, report now and then, and save the network at the end, or when the run is stopped."""
    # persist() makes an object once. After a reload this function runs again, and gets the same objects.
    spark.persist("group", lambda: dist.init_process_group("gloo"))
    rank, ranks = dist.get_rank(), dist.get_world_size()
    train, test = spark.persist("data", lambda: (spirals(4096, args.seed), spirals(1024, args.seed + 1)))
    model = spark.persist("model", lambda: new_model(args.seed))
    optimizer = spark.persist("optimizer", lambda: torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9))

    def set_lr(lr: float) -> None:
        for group in optimizer.param_groups:
            group["lr"] = lr

    def evaluate() -> dict[str, float]:
        """Return the share of the test points that the network places rightly. All ranks call it, each for its part."""
        points, arms = (tensor[rank::ranks] for tensor in test.tensors)
        with torch.no_grad():
            right = (model.module(points).argmax(dim=1) == arms).sum()
        counted = torch.tensor([right, len(arms)], dtype=torch.int64)
        dist.all_reduce(counted)
        return {"points": int(counted[1]), "accuracy": float(counted[0] / counted[1])}

    def save() -> None:
        if rank == 0 or "{rank}" in args.out:
            torch.save(model.module.state_dict(), args.out.replace("{rank}", str(rank)))

    # Values and a function for other processes to see, set and call.
    state = spark.expose(
        lr=spark.value(args.lr, min=0, max=1, step=0.001, doc="The learning rate.", on_set=set_lr),
        loss=spark.value(0.0, readonly=True, doc="The mean cross-entropy of this rank's last batch."),
        evaluate=spark.function(evaluate, ranks="all"),
    )
    sampler: DistributedSampler[Batch] = DistributedSampler(train, seed=args.seed)
    loader = DataLoader(train, batch_size=args.batch_size, sampler=sampler)
    numbered = enumerate(islice(batches(loader, sampler), args.steps), start=1)
    try:
        # Before each batch, track() passes a checkpoint. There all ranks wait while the run is paused, and there new
        # code begins to run. The key lets the loop go on where it was.
        for step, (points, arms) in spark.track(numbered, total=args.steps, key="batch"):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(points), arms)
            loss.backward()
            optimizer.step()
            state.loss = loss
            if rank == 0 and (step % args.report_every == 0 or step == args.steps):
                print(f"step {step}/{args.steps}  loss {loss.item():.4f}", flush=True)
            time.sleep(args.delay)
    except spark.SparkStopError as stop:
        # Not raised again: a rank that ends with an error has torchrun end the others, which may be saving still.
        save()
        print(f"rank {rank}: {stop}", flush=True)
    else:
        save()
        result = evaluate()
        if rank == 0:
            print(f"finished: {result['accuracy']:.1%} of {result['points']} points are placed rightly", flush=True)
    # No rank leaves before all have saved: torchrun ends all ranks when one of them fails as it exits.
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A small network learns in several processes.")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32, help="of each rank")
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="PATH", default="weights.pt", help="a {rank} in it: each rank saves its own")
    parser.add_argument("--report-every", type=int, metavar="STEPS", default=200)
    parser.add_argument("--delay", type=float, metavar="SECONDS", default=0, help="slows each step down, to watch it")
    # torchrun hands a signal on to all its ranks, and kills those that have not ended 30 seconds later.
    spark.configure(stop_signals=("SIGTERM", "SIGINT"), stop_deadline=30)
    spark.run(main, parser.parse_args())
