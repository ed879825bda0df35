"""The demo: one process trains, this one steers it, shows what happens, and checks that all of it is as promised."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from rich.text import Text

from spark_fast import client
from spark_fast.cli import exits, extras, render, ui_server
from spark_fast.cli.demo_training import PATIENCE, SCRIPT, BrokenPromiseError, Training, check, train
from spark_fast.cli.exits import Exit
from spark_fast.cli.formatting import duration, latency
from spark_fast.client import Fate, FateState, Request, Run, SparkError, SparkStatus
from spark_fast.own_process import own_command
from spark_fast.status import ENDED

__all__ = ["hold", "tell"]

_PARKED = 1.0
"""Seconds for which the demo watches the parked training."""
_IDLE_SHARE = 0.02
"""The share of one CPU that a parked training may use: once a second it looks whether its control file is there."""
_LEARNED = 0.92
"""The accuracy at which the training is edited."""
_SAVED = 0.9
"""The least accuracy of the saved model: a few more steps can make it a little worse."""

# What is edited: an import, with a typing error, and the result of evaluate().
_IMPORT, _TYPING_ERROR = "import numpy as np\n", "import numpy as\n"
_RESULT, _NEW_RESULT = '"accuracy": accuracy(model, x, y)}', '"accuracy": accuracy(model, x, y), "new": True}'


class _Story:
    """Prints lines, each with the seconds since the start."""

    def __init__(self) -> None:
        self._console = render.console()
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self._began

    def line(self, what: str, text: str, style: str = "bold") -> None:
        line = Text.assemble((f"{self.elapsed:6.2f} s  ", "dim"), (f"{what:<9}", style), f" {text}")
        self._console.print(line, soft_wrap=True)

    def plain(self, text: str = "", style: str = "") -> None:
        """Print a line without the time."""
        self._console.print(Text(text, style), soft_wrap=True)


def tell() -> Exit:
    """Run the demo. Return `Exit.DONE` only if all of it happened as promised."""
    return _play(_steer, ["--epochs", "200", "--lr", "0.05", "--delay", "0.01", "--report-every", "40"])


def hold(*, page: bool = False) -> Exit:
    """Start the training, print what to type in another terminal, and stay until the training ends.

    page: whether to serve the web page, too.
    """
    arguments = ["--epochs", "2000", "--lr", "0.01", "--delay", "0.05", "--report-every", "20"]
    return _play(_attend, arguments, page=page)


def _play(act: Callable[[_Story, Training], None], arguments: list[str], *, page: bool = False) -> Exit:
    if extras.missing("demo", "the demo") or (page and extras.missing("ui", "the page")):
        return Exit.REFUSED
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    story = _Story()
    try:
        with ExitStack() as stack:
            if page:
                stack.enter_context(closing(ui_server.Page()))
            act(story, stack.enter_context(train(arguments, lambda line: story.line("training", line, "cyan"))))
    except KeyboardInterrupt:
        exits.say("interrupted; the training was ended")
        return Exit.INTERRUPTED
    except (BrokenPromiseError, SparkError, OSError, ImportError, subprocess.TimeoutExpired) as error:
        story.line("FAILED", str(error), "bold red")
        return Exit.REFUSED
    return Exit.DONE


def _steer(story: _Story, training: Training) -> None:
    story.line("start", f"spark-fast run --name {training.name} {SCRIPT}")
    run = training.attach()
    training.until(lambda: run.step >= 20, "the training trains")
    _pause_and_advance(story, run)
    _set(story, run)
    promise = f"it learns to read {_LEARNED:.0%} of the images"
    training.until(lambda: run.values["accuracy"].value >= _LEARNED, promise)
    _edit(story, run, training)
    _stop(story, run, training)
    story.line("done", f"all as promised, in {story.elapsed:.1f} s", "bold green")


def _applied(request: Request) -> tuple[Fate, str]:
    """Wait until a request is applied. Return its fate, and how long it took."""
    fate = request.wait(PATIENCE)
    took = latency(time.time() - request.asked)
    check(fate.state is FateState.APPLIED and not fate.reason, f"the {request.kind} is applied: {fate}")
    return fate, took


def _evaluate(run: Run) -> dict[str, float]:
    request = run.request_call("evaluate", wait=False)
    _applied(request)
    result: dict[str, float] = request.result
    return result


def _pause_and_advance(story: _Story, run: Run) -> None:
    fate, took = _applied(run.pause(wait=False))
    step = run.step
    story.line("pause", f"parked at step {step}, {took} after it was asked")

    clock = ~run.ranks[0].pid << 3 | 2  # as clock_getcpuclockid(3): the CPU time of all threads of the worker
    cpu, began = time.clock_gettime(clock), time.monotonic()
    while (watched := time.monotonic() - began) < _PARKED:
        check(run.status is SparkStatus.PAUSED and run.step == fate.step, f"it stays parked at step {fate.step}: {run}")
        time.sleep(0.05)
    used = time.clock_gettime(clock) - cpu
    check(used <= _IDLE_SHARE * watched, f"it uses no CPU while it is parked: {latency(used)} in {latency(watched)}")
    story.line("parked", f"for {watched:.1f} s at step {run.step}; CPU time used: {latency(used)}")
    story.line("call", f"evaluate() where it is parked: {_evaluate(run)['accuracy']:.1%} of test images")

    _, took = _applied(run.advance(10, wait=False))
    check(run.step == step + 10, f"it did 10 steps exactly: {run.step - step}")
    story.line("advance", f"10 steps in {took}: parked at step {run.step}")
    _, took = _applied(run.resume(wait=False))
    story.line("resume", f"running again {took} after it was asked")


def _set(story: _Story, run: Run) -> None:
    fate = run.set("lr", 7, wait=False).wait(PATIENCE)
    check(fate.state is FateState.REFUSED, f"a value beyond its limits is refused: {fate}")
    story.line("refused", f"lr=7: {fate.reason}", "bold yellow")
    fate, took = _applied(run.set("lr", 0.1, wait=False))
    check(run.values["lr"].value == 0.1, f"the value is set: {run.values['lr']}")
    story.line("set", f"lr=0.1 since step {fate.step}, {took} after it was asked")


def _edit(story: _Story, run: Run, training: Training) -> None:
    training.edit(_IMPORT, _TYPING_ERROR)
    story.line("edit", f"{SCRIPT}, with a typing error: {_TYPING_ERROR.strip()}")
    fate = run.reload(wait=False).wait(PATIENCE)
    refused = fate.state is FateState.REFUSED and "SyntaxError" in fate.reason
    check(refused, f"code that does not compile is refused: {fate}")
    story.line("refused", f"a SyntaxError: the old code goes on, at step {run.step}", "bold yellow")

    training.edit(_TYPING_ERROR, _IMPORT)
    training.edit(_RESULT, _NEW_RESULT)
    story.line("edit", f"{SCRIPT}: evaluate() says that it is new")
    before, done = _evaluate(run)["accuracy"], _batches_done(run)
    _, took = _applied(run.reload(wait=False))
    now = _evaluate(run)
    check("new" in now, f"the new code runs: evaluate() returns {now}")
    check(now["accuracy"] > before - 0.15, f"the model stays: it read {before:.1%}, now {now['accuracy']:.1%}")
    check(_batches_done(run) >= done, f"the loop stays: it had done {done} batches, now {_batches_done(run)}")
    story.line("reload", f"new code after {took}, the same model and loop: {now['accuracy']:.1%}")


def _batches_done(run: Run) -> int:
    progress = run.progress
    return progress.loops[0][0] if progress is not None else 0


def _stop(story: _Story, run: Run, training: Training) -> None:
    fate, took = _applied(run.stop(wait=False))
    status = training.process.wait(PATIENCE)
    check(status == 0 and run.status is SparkStatus.STOPPED, f"a stopped training ends with status 0: {status}, {run}")
    story.line("stop", f"left its loop at step {fate.step}, {took} after it was asked")
    saved = training.saved_accuracy()
    check(saved >= _SAVED, f"the saved model reads {_SAVED:.0%} of the images: {saved:.1%}")
    story.line("loaded", f"the saved model reads {saved:.1%} of test images")


def _attend(story: _Story, training: Training) -> None:
    run = training.attach()
    story.plain(f"{SCRIPT} trains as run {run.id}. In another terminal, type:\n", "bold")
    for line in _preparations():
        story.plain(f"    {line}")
    name = "" if len(client.runs(ended=False)) == 1 else f" {run.id}"
    for command, effect in (
        ("ps", "lists the runs"),
        ("top", "watches them"),
        (f"status{name}", "shows all there is to know of it"),
        (f"pause{name}", "parks it at its next step"),
        (f"advance{name} 10", "lets it do 10 steps, and parks it again"),
        (f"resume{name}", "lets it go on"),
        (f"pause{name} --resume-after 10s", "parks it for 10 seconds"),
        (f"get{name}", "shows what it exposes"),
        (f"set{name} lr=0.002", "sets its learning rate"),
        (f"call{name} evaluate", "measures how well it reads"),
        (f"watch{name} accuracy", "prints the accuracy as it changes"),
        (f"reload{name}", "lets it go on with what you edited"),
        (f"versions{name} --diff", "shows what you edited"),
        (f"stop{name}", "stops it; it saves its model"),
    ):
        story.plain(f"    spark-fast {command:<{24 + len(name)}}  {effect}")
    story.plain("\nIt runs a copy that is yours to edit, its report line, say, or train_step():")
    story.plain(f"    {training.script}\nCtrl-C here stops it, too.\n")
    _follow(story, run)
    status = training.process.wait(PATIENCE)
    check(status == 0, f"the training ends with status 0: {status}")
    story.line("loaded", f"the saved model: it reads {training.saved_accuracy():.1%} of the test images")
    story.line("done", f"after {duration(story.elapsed)}", "bold green")


def _follow(story: _Story, run: Run) -> None:
    """Print each status of the run, until it ends. The first Ctrl-C stops it, the second ends it at once."""
    before, stopping = run.status, False
    while before not in ENDED:
        try:
            before = run.wait([status for status in SparkStatus if status is not before])
            story.line(str(before), f"at step {run.step}", render.STYLES[before])
        except KeyboardInterrupt:
            if stopping:
                raise
            stopping = True
            run.stop(wait=False)
            story.line("Ctrl-C", "asked it to stop; once more ends it at once")


def _preparations() -> list[str]:
    """Return what to type first in the other terminal, which may be in no virtual environment."""
    lines = []
    if home := os.environ.get("SPARK_FAST_HOME"):
        lines.append(f"export SPARK_FAST_HOME={shlex.quote(home)}")
    called, found = sys.argv[0], shutil.which("spark-fast")
    if Path(called).name == "__main__.py":
        lines.append(f"alias spark-fast={shlex.quote(shlex.join(own_command()))}")
    elif found is None or not os.path.exists(called) or not os.path.samefile(found, called):
        lines.append(f"alias spark-fast={shlex.quote(shlex.quote(os.path.abspath(called)))}")
    return lines
