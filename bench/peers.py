"""What people use instead, each as its users call it, once per step."""

import io
import logging
import mmap
import multiprocessing
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.measure import Case

__all__ = ["EMPTY", "Absent", "Peer", "made_up_master", "open_loggers", "open_peers"]

ITEMS = 10_000
EMPTY = Case("an empty loop", "pass", {})


@dataclass(frozen=True)
class Peer:
    """One row of the table.

    Attributes:
        name: what is called.
        version: of what it belongs to.
        case: the statement.
        twin: the case without it: what its cost is counted beyond.
        note: how it was set up.
    """

    name: str
    version: str
    case: Case
    twin: Case
    note: str


@dataclass(frozen=True)
class Absent:
    """A peer that is not available here."""

    name: str
    reason: str


def _standard(name: str, statement: str, names: dict[str, object], note: str) -> Peer:
    return Peer(name, f"Python {sys.version.split()[0]}", Case(name, statement, names), EMPTY, note)


def _flags(stack: ExitStack) -> Iterator[Peer]:
    event = threading.Event()
    yield _standard("threading.Event.is_set", "event.is_set()", {"event": event}, "seen by this process only")

    shared = multiprocessing.Event()
    yield _standard("multiprocessing.Event.is_set", "event.is_set()", {"event": shared}, "")

    value = multiprocessing.Value("b", 0)
    yield _standard("multiprocessing.Value.value", "flag.value", {"flag": value}, "with its lock, the default")

    raw = multiprocessing.RawValue("b", 0)
    yield _standard("multiprocessing.RawValue.value", "flag.value", {"flag": raw}, "")

    memory = shared_memory.SharedMemory(create=True, size=1)
    stack.callback(memory.unlink)
    stack.callback(memory.close)
    yield _standard("SharedMemory.buf[0]", "memory.buf[0]", {"memory": memory}, "")

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
    with (folder / "flag").open("w+b") as file:
        file.write(bytes(1))
        file.flush()
        mapped = mmap.mmap(file.fileno(), 1)
    stack.callback(mapped.close)
    yield _standard("mmap[0]", "mapped[0]", {"mapped": mapped}, "of a file")

    path = str(folder / "pause")
    yield _standard("os.path.exists", "os.path.exists(path)", {"os": os, "path": path}, "the flag file is not there")


def _tqdm(stack: ExitStack) -> Iterator[Peer]:
    from tqdm import tqdm  # type: ignore[import-untyped]

    file = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - the stack closes it
    names = {"tqdm": tqdm, "items": range(ITEMS), "file": file}
    loop = Case("tqdm", "for _ in tqdm(items, file=file): pass", names, steps=ITEMS)
    bare = Case("a bare loop", "for _ in items: pass", names, steps=ITEMS)
    yield Peer("tqdm's loop", version("tqdm"), loop, bare, "its bar goes to the null device")


def _reloading(stack: ExitStack) -> Iterator[Peer]:
    from bench.peer_reloading import loop, taken

    loop(3)
    assert taken == [0, 1, 2], "its loop takes the steps"
    case = Case("reloading", "loop(20)", {"loop": loop}, steps=20)
    yield Peer("reloading's loop", version("reloading"), case, EMPTY, "in a file of 14 lines, which it reads each step")


class _Master:
    """Answers as Determined's master without a request does: at once at first, then after the long poll."""

    def __init__(self) -> None:
        self.asked = 0
        self.gone = threading.Event()

    def get(self, *_: object, **__: object) -> Any:
        self.asked += 1
        if self.asked > 1:
            self.gone.wait()
        return SimpleNamespace(json=lambda: {"preempt": False})


def made_up_master(stack: ExitStack) -> _Master:
    """Start a master for Determined that ends with the stack."""
    master = _Master()
    stack.callback(master.gone.set)
    return master


def _determined(stack: ExitStack) -> Iterator[Peer]:
    from determined import core

    master = made_up_master(stack)
    made: Any = core  # it does not say what it exports
    preempt = made.PreemptContext(master, "bench", made.DummyDistributedContext())
    stack.enter_context(preempt)
    assert preempt.should_preempt() is False and master.asked > 0
    names = {"core_context": SimpleNamespace(preempt=preempt)}
    case = Case("should_preempt", "core_context.preempt.should_preempt()", names)
    note = "one rank, its watching thread at work; the master's answers are made up"
    yield Peer("Determined's should_preempt", version("determined"), case, EMPTY, note)


def _transformers(stack: ExitStack) -> Iterator[Peer]:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import ProgressCallback

    class Watch(TrainerCallback):
        flag = False
        steps = 0

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
            self.steps += 1
            if self.flag:
                control.should_training_stop = True
            return control

    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            return {"loss": ((self.layer(x) - labels) ** 2).mean()}

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
    data = [{"x": torch.zeros(1), "labels": torch.zeros(1)}] * 4
    arguments = TrainingArguments(
        folder, max_steps=3, report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True
    )
    watch = Watch()
    trainer = Trainer(Line(), arguments, train_dataset=data, callbacks=[watch])
    trainer.pop_callback(ProgressCallback)
    trainer.train()
    assert watch.steps == 3, "the trainer calls the callback at each step"

    handler = trainer.callback_handler
    all_callbacks = list(handler.callbacks)
    others = [each for each in all_callbacks if each is not watch]
    names = {"handler": handler, "args": trainer.args, "state": trainer.state, "control": trainer.control}
    statement = "handler.on_step_end(args, state, control)"

    def use(callbacks: list[Any]) -> Callable[[], None]:
        return lambda: setattr(handler, "callbacks", callbacks)

    with_it = Case("Trainer", statement, names, before=use(all_callbacks))
    without = Case("Trainer without", statement, names, before=use(others))
    note = "what one on_step_end adds to the trainer's own call of its callbacks"
    yield Peer("Hugging Face Trainer's callback", version("transformers"), with_it, without, note)


def _lightning(stack: ExitStack) -> Iterator[Peer]:
    import lightning
    import torch
    from lightning.pytorch.trainer.call import _call_callback_hooks

    class Watch(lightning.Callback):
        flag = False
        steps = 0

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.steps += 1
            if self.flag:
                trainer.should_stop = True

    class Line(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            return self.layer(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    watch = Watch()
    trainer = lightning.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    data: Any = torch.zeros(4, 1)
    trainer.fit(Line(), torch.utils.data.DataLoader(data))
    assert watch.steps == 3, "the trainer calls the callback at each step"

    all_callbacks = list(trainer.callbacks)  # type: ignore[attr-defined]
    others = [each for each in all_callbacks if each is not watch]
    names = {"call": _call_callback_hooks, "trainer": trainer, "batch": torch.zeros(1, 1)}
    statement = "call(trainer, 'on_train_batch_end', None, batch, 0)"

    def use(callbacks: list[Any]) -> Callable[[], None]:
        return lambda: setattr(trainer, "callbacks", callbacks)

    with_it = Case("Lightning", statement, names, before=use(all_callbacks))
    without = Case("Lightning without", statement, names, before=use(others))
    note = "what one on_train_batch_end adds to the trainer's own call of its callbacks"
    yield Peer("Lightning's callback", version("lightning"), with_it, without, note)


def _tensorboard(stack: ExitStack) -> Iterator[Peer]:
    from torch.utils.tensorboard import SummaryWriter

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
    made: Any = SummaryWriter  # torch declares no types for it
    writer = made(folder)
    stack.callback(writer.close)
    writer.add_scalar("loss", 0.5, 1)
    writer.flush()
    assert any(path.stat().st_size for path in Path(folder).iterdir()), "it writes"
    case = Case("add_scalar", "writer.add_scalar('loss', x, step)", {"writer": writer, "x": 0.5, "step": 1})
    yield Peer("TensorBoard's add_scalar", version("tensorboard"), case, EMPTY, "torch's SummaryWriter")


def _wandb(stack: ExitStack) -> Iterator[Peer]:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
    # It writes into this folder only, and sends nothing.
    os.environ |= {f"WANDB_{name}_DIR": folder for name in ("CACHE", "CONFIG", "DATA", "ARTIFACT")}
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    import wandb

    run = wandb.init(mode="offline", project="bench", dir=folder, settings=wandb.Settings(silent=True, console="off"))
    stack.callback(run.finish)
    assert run.offline
    case = Case("wandb.log", "wandb.log({'loss': x})", {"wandb": wandb, "x": 0.5})
    note = "offline; its service catches up between the batches"
    yield Peer("W&B's log", version("wandb"), case, EMPTY, note)


_Makers = list[tuple[str, Callable[[ExitStack], Iterator[Peer]]]]

_MAKERS: _Makers = [
    ("standard library", _flags),
    ("tqdm", _tqdm),
    ("reloading", _reloading),
    ("determined", _determined),
    ("transformers", _transformers),
    ("lightning", _lightning),
]
_LOGGERS: _Makers = [("tensorboard", _tensorboard), ("wandb", _wandb)]


@contextmanager
def open_peers(makers: _Makers = _MAKERS) -> Iterator[tuple[list[Peer], list[Absent]]]:
    """Open all peers of a step, and return those that are not available here, too."""
    peers: list[Peer] = []
    absent: list[Absent] = []
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("lightning.pytorch", "transformers"):
            logging.getLogger(name).setLevel(logging.ERROR)
        for package, make in makers:
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    peers.extend(make(stack))
            except Exception as error:
                absent.append(Absent(f"{package} {_version(package)}".rstrip(), f"{type(error).__name__}: {error}"))
        yield peers, absent


def open_loggers() -> AbstractContextManager[tuple[list[Peer], list[Absent]]]:
    """Open the loggers that people use to show a number, in the same way."""
    return open_peers(_LOGGERS)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
