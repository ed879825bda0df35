"""The demo: one process trains, this one steers it and checks that all happens as promised."""

import importlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import NoReturn

from rich.text import Text

import spark_fast
from spark_fast import client
from spark_fast.cli import exits, extras, render, ui_server
from spark_fast.cli.exits import Exit
from spark_fast.cli.formatting import duration, latency
from spark_fast.client import Fate, FateState, NoSuchRunError, Run, SparkError, SparkStatus
from spark_fast.own_process import own_command
from spark_fast.status import ENDED

__all__ = ["hold", "tell"]

_SCRIPT = "digits.py"
_PATIENCE = 60.0
"""Seconds for any one thing to happen. On a machine that is not overloaded all of it takes ten."""
_LOOK = 1.2
"""Seconds for which the parked training is watched."""
_IDLE_SHARE = 0.02
"""The part of one CPU that a parked training may use: it looks once a second whether its control file is there."""
_STEPS = 10
_WIDTH = 60
"""Columns for what a line of the story says, on a terminal of 80."""
_GOOD = 0.9
_LEARNED = 0.92
"""Where it is stopped: so much that a step or two more or less leaves it good."""


class _DemoError(Exception):
    """Something did not happen as promised."""


def _check(holds: bool, promise: str) -> None:
    if not holds:
        raise _DemoError(promise)


# --- the training ---


@dataclass(frozen=True)
class _Report:
    """A line that the training printed."""

    step: int
    loss: str
    accuracy: float
    new_code: bool


_REPORT = re.compile(r"step (\d+)/\d+ +loss (\S+)( \(new code\))? +accuracy (\S+)")


class _Training:
    """The training: `spark-fast run`, with its worker. A context manager: neither process outlives it."""

    def __init__(self, name: str, model: Path, arguments: list[str], echo: Callable[[str], None] | None = None) -> None:
        self.name = name
        self.arguments = arguments
        self._echo = echo
        self._lines: list[str] = []
        self._reports: list[_Report] = []
        self._news = threading.Condition()
        # A copy, to be edited.
        self.script = model.with_name(_SCRIPT)
        shutil.copyfile(_find_script(), self.script)
        journal = str(model.with_name("journal.jsonl"))
        command = own_command("run", "--name", name, "--journal", journal)
        command += [str(self.script), *arguments, "--save", str(model)]
        # One thread is plenty for so small a network; a BLAS's helper threads spin for a while after each use.
        theirs = {key: value for key, value in os.environ.items() if key not in ("SPARK_FAST", "SPARK_FAST_RUN")}
        # A session of its own: Ctrl-C in this terminal is for this process, which then ends those two.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=theirs | {"SPARK_FAST_QUIET": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> "_Training":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(3)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        # A worker whose supervisor was killed is still there.
        with suppress(SparkError, ProcessLookupError):
            run = client.attach(self.name, exact=True)
            if run.status.live:
                os.kill(run.ranks[0].pid, signal.SIGKILL)
        self._reader.join(3)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                found = _REPORT.match(line)
                with self._news:
                    self._lines.append(line.rstrip())
                    if found:
                        self._reports.append(_Report(int(found[1]), found[2], float(found[4]), bool(found[3])))
                    self._news.notify_all()
                if self._echo is not None:
                    self._echo(line.rstrip())

    @property
    def last(self) -> _Report | None:
        """The last line that it printed."""
        with self._news:
            return self._reports[-1] if self._reports else None

    def said(self) -> list[str]:
        """All that it printed; complete once it has ended."""
        if self.process.poll() is not None:
            self._reader.join(3)
        with self._news:
            return list(self._lines)

    def edit(self, old: str, new: str) -> int:
        """Saves the script with a part of it replaced; the number of that line."""
        source = self.script.read_text(encoding="utf-8")
        _check(source.count(old) == 1, f"examples/{_SCRIPT} has {old!r} once: install spark-fast again")
        self.script.write_text(source.replace(old, new), encoding="utf-8")
        return source[: source.index(old)].count("\n") + 1

    @property
    def reports(self) -> list[_Report]:
        """All reports that it printed, in their order."""
        with self._news:
            return list(self._reports)

    def report(self, wanted: Callable[[_Report], bool], promise: str) -> _Report:
        """Waits until it prints such a line."""
        end = time.monotonic() + _PATIENCE
        with self._news:
            seen = 0
            while True:
                for report in self._reports[seen:]:
                    if wanted(report):
                        return report
                seen = len(self._reports)
                _check(time.monotonic() < end, promise)
                _check(self.process.poll() is None or self._reader.is_alive(), f"{promise}; its process has ended")
                self._news.wait(0.1)

    def attach(self) -> Run:
        """Waits until it is there to be controlled."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return client.attach(self.name, exact=True)
            except NoSuchRunError as error:
                _check(time.monotonic() < end, f"the training appears as a run: {error}")
            status = self.process.poll()
            _check(status is None, f"the training starts; it ended with status {status}")
            time.sleep(0.02)


def _cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process."""
    # What clock_getcpuclockid(3) makes of a process id: the nanoseconds of /proc/<pid>/stat's ticks.
    return time.clock_gettime(~pid << 3 | 2)


def _find_script() -> Path:
    """In an installed wheel it is part of the package, in a source tree it stands beside it."""
    package = Path(spark_fast.__file__).parent
    for folder in (package / "examples", package.parent / "examples"):
        if (folder / _SCRIPT).is_file():
            return folder / _SCRIPT
    raise _DemoError(f"the installation holds examples/{_SCRIPT}: install spark-fast again")


def _load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("spark_fast_demo_digits", _find_script())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _saved_accuracy(script: ModuleType, model: Path) -> float:
    """From the file alone: the share of the test images that the saved model reads rightly."""
    _check(model.is_file(), "the training saves its model when it is stopped")
    with importlib.import_module("numpy").load(model) as file:
        weights = dict(file)
    _, _, x_test, y_test = script.load_data()
    return float(script.accuracy(weights, x_test, y_test))


# --- the story ---


class _Story:
    """Lines of a timeline."""

    def __init__(self) -> None:
        self._console = render.console()
        self._began = time.monotonic()
        self._lock = threading.Lock()

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def line(self, what: str, text: str = "", style: str = "bold") -> None:
        """One line: when, what was asked or seen, what came of it."""
        line = Text.assemble((f"{self.elapsed:6.2f} s  ", "dim"), (f"{what:<9}", style), f" {text}")
        with self._lock:
            self._console.print(line, soft_wrap=True)

    def plain(self, text: str = "", style: str = "") -> None:
        """A line without the time."""
        with self._lock:
            self._console.print(Text(text, style), soft_wrap=True)


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextmanager
def _stage() -> Iterator[Path]:
    """A folder for the model; and signals that end this process end the training too."""
    wanted = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _terminate) for number in wanted}
    try:
        with tempfile.TemporaryDirectory(prefix="spark-fast-demo-") as folder:
            yield Path(folder) / "digits.npz"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _new_name() -> str:
    taken = {run.id for run in client.runs()}
    while (name := f"demo-{os.urandom(2).hex()}") in taken:
        pass
    return name


def tell() -> Exit:
    """Runs the demo and prints what happens. `Exit.DONE` only if all of it happened as promised."""
    if extras.missing("demo", "the demo"):
        return Exit.REFUSED
    story = _Story()
    training: _Training | None = None
    try:
        with _stage() as model:
            arguments = ["--epochs", "200", "--lr", "0.05", "--delay", "0.01", "--report-every", "1"]
            training = _Training(_new_name(), model, arguments)
            with training:
                _steer(story, training, model)
    except KeyboardInterrupt:
        exits.say("interrupted; the training was ended")
        return Exit.INTERRUPTED
    except (_DemoError, SparkError, OSError, ImportError) as error:
        story.line("FAILED", f"not so: {error}" if isinstance(error, _DemoError) else str(error), "bold red")
        for line in training.said()[-10:] if training is not None else []:
            story.plain(f"            the training said: {line}", "dim")
        return Exit.REFUSED
    return Exit.DONE


def _steer(story: _Story, training: _Training, model: Path) -> None:
    story.line("start", f"spark-fast run --name {training.name} {_SCRIPT} {' '.join(training.arguments[:2])} …")
    run = training.attach()
    first = training.report(lambda report: report.step >= 20, "the training trains")
    _check(run.status is SparkStatus.RUNNING, f"a run that trains is running, not {run.status}")
    story.line("training", f"process {run.ranks[0].pid}, step {first.step}: {_words(first)}")

    parked = _pause(story, run, training)
    _call(story, run, _report_at(training, parked - 1))
    _advance(story, run, training, parked)

    asked = time.monotonic()
    fate = run.resume(timeout=_PATIENCE).fate
    took = time.monotonic() - asked
    _check(fate.state is FateState.APPLIED, f"a resume is applied; this one is {fate}")
    after = run.step
    training.report(lambda report: report.step > after, "a resumed training goes on")
    story.line("resume", f"running again {latency(took)} after it was asked")
    script = _load_script()  # here, since it takes a second that would otherwise be spent waiting

    good = training.report(
        lambda report: report.accuracy >= _LEARNED and report.step >= after + 20,
        f"it learns to read {_LEARNED:.0%} of the images",
    )
    story.line("training", f"step {good.step}: {_words(good)}")

    _set(story, run)
    _call(story, run, None)
    _edit(story, run, training)

    last = _stop(story, run, training)
    _check(last.new_code, "the new code stays")
    _check_batches(training.reports)
    measured = _saved_accuracy(script, model)
    _check(
        abs(measured - last.accuracy) < 1e-3,
        f"the saved model reads {last.accuracy:.1%}, as when it was stopped: {measured:.1%}",
    )
    _check(measured >= _GOOD, f"the saved model reads {_GOOD:.0%} of the images: {measured:.1%}")
    story.line("loaded", f"{model.name}, saved after step {last.step}: reads {measured:.1%} of test images")
    story.line("done", f"all as promised, in {story.elapsed:.1f} s", "bold green")


def _words(report: _Report) -> str:
    return f"loss {report.loss}, accuracy {report.accuracy:.1%}"


def _pause(story: _Story, run: Run, training: _Training) -> int:
    asked = time.monotonic()
    fate = run.pause(timeout=_PATIENCE).fate
    took = time.monotonic() - asked
    _check(fate.state is FateState.APPLIED and fate.step is not None, f"a pause is applied; this one is {fate}")
    step = run.step
    _check(run.status is SparkStatus.PAUSED and fate.step == step, f"it is paused at step {fate.step}, not {run}")
    story.line("pause", f"parked at step {step}, {latency(took)} after it was asked")

    # What it printed before it parked may still be on its way.
    before = training.report(lambda report: report.step >= step - 1, "what it printed before it parked arrives")
    worker = run.ranks[0].pid
    cpu = _cpu_seconds(worker)
    began = time.monotonic()
    while (watched := time.monotonic() - began) < _LOOK:
        _check(run.status is SparkStatus.PAUSED, f"it stays paused: it is {run.status}")
        _check(run.step == step, f"its step stands still at {step}: it is {run.step}")
        time.sleep(0.05)
    used = _cpu_seconds(worker) - cpu
    last = training.last
    _check(last == before, f"its loss stands still at {before.loss}: it printed {last}")
    _check(used <= _IDLE_SHARE * watched, f"it uses no CPU while it is parked: {latency(used)} in {latency(watched)}")
    story.line("parked", f"for {watched:.1f} s: step {run.step}, loss {before.loss}; CPU time used: {latency(used)}")
    return step


def _advance(story: _Story, run: Run, training: _Training, parked: int) -> None:
    printed = training.last
    assert printed is not None
    asked = time.monotonic()
    fate = run.advance(_STEPS, timeout=_PATIENCE).fate
    took = time.monotonic() - asked
    _check(fate.state is FateState.APPLIED, f"an advance is applied; this one is {fate}")
    step = run.step
    _check(run.status is SparkStatus.PAUSED, f"it is parked again after {_STEPS} steps: it is {run.status}")
    _check(step == parked + _STEPS, f"it did {_STEPS} steps exactly: {step - parked}")
    now = training.report(lambda report: report.step >= printed.step + _STEPS, f"it trained for {_STEPS} steps")
    _check(training.last == now, f"it trained for {_STEPS} steps and no more: {training.last}")
    story.line("advance", f"{_STEPS} steps in {latency(took)}: parked at step {step}, loss {now.loss}")


def _report_at(training: _Training, step: int) -> _Report:
    return training.report(lambda report: report.step == step, f"it reports step {step}")


def _call(story: _Story, run: Run, now: _Report | None) -> None:
    """Calls a function. now: the last report, if the training is parked."""
    before = run.step
    asked = time.monotonic()
    request = run.request_call("evaluate", timeout=_PATIENCE)
    took = time.monotonic() - asked
    fate, result = request.fate, request.result
    _check(fate.state is FateState.APPLIED, f"a call is applied; this one is {fate}")
    if now is not None:
        _check(run.status is SparkStatus.PAUSED and run.step == before, f"a call leaves it parked at {before}: {run}")
        same = abs(result["accuracy"] - now.accuracy) < 1e-3
        _check(same, f"the call finds the accuracy of step {now.step}, {now.accuracy:.1%}: {result}")
    where = f"at step {fate.step}" if now is None else "where it is parked"
    story.line("call", f"evaluate() {where}, {latency(took)}: {result['accuracy']:.1%} of {result['images']} images")


def _set(story: _Story, run: Run) -> None:
    """Sets a value: one that does not fit, and one that does."""
    before = run.values["lr"].value
    fate = run.set("lr", 7, wait=False).wait(_PATIENCE)
    _check(fate.state is FateState.REFUSED, f"a value beyond its limits is refused; this one is {fate}")
    _check(run.values["lr"].value == before, f"a refused value stays {before}: {run.values['lr']}")
    story.line("refused", f"lr=7: {fate.reason}", "bold yellow")
    asked = time.monotonic()
    fate = run.set("lr", before / 2, timeout=_PATIENCE).fate
    took = time.monotonic() - asked
    _check(fate.state is FateState.APPLIED, f"a value that fits is set; this one is {fate}")
    now = run.values["lr"]
    _check(now.value == before / 2, f"the value is {before / 2}: {now}")
    story.line("set", f"lr={now.value} since step {fate.step}, {latency(took)} after it was asked")


# What is edited, and into what.
_IMPORT = "import numpy as np"
_NO_SYNTAX = "import numpy as"
_NO_MODULE = "import nunpy as np"
_RATE = "train_step(model, x, y, state.lr)"
_NEW_RATE = "train_step(model, x, y, state.lr / 2)"
_LOSS = "loss {loss:.4f}  accuracy"
_NEW_LOSS = "loss {loss:.4f} (new code)  accuracy"


def _edit(story: _Story, run: Run, training: _Training) -> None:
    """Edits the script: with a syntax error, with an exception at import, and well."""
    log = [request.id for request in run.requests]
    before, now = _edit_badly(story, run, training, _NO_SYNTAX, FateState.REFUSED, "SyntaxError")
    _check([request.id for request in run.requests] == log, "the training hears nothing of code that does not compile")
    _check_goes_on(training.reports, before, now)
    story.line("training", f"heard nothing of it; step {now.step}: {_words(now)}")

    before, now = _edit_badly(story, run, training, _NO_MODULE, FateState.FAILED, "ModuleNotFoundError")
    _check_goes_on(training.reports, before, now)
    story.line("training", f"its old code goes on; step {now.step}: {_words(now)}")

    training.edit(_LOSS, _NEW_LOSS)
    before, took, fate = _reload(story, run, training, _RATE, _NEW_RATE)
    _check(fate.state is FateState.APPLIED and not fate.reason, f"good code is applied; this one is {fate}")
    story.line("applied", f"in {latency(took)}: the next batch runs it")
    now = training.report(lambda report: report.new_code, "the new code prints its line")
    _check_goes_on(training.reports, before, now)
    story.line("training", f"the new code goes on; step {now.step}: {_words(now)}")


def _reload(story: _Story, run: Run, training: _Training, old: str, new: str) -> tuple[_Report, float, Fate]:
    """Edits the script and asks for a reload: the report before, the seconds that it took, and its fate."""
    before = training.last
    assert before is not None
    number = training.edit(old, new)
    story.line("edit", f"{_SCRIPT}, line {number}: {new}")
    asked = time.monotonic()
    fate = run.reload(wait=False).wait(_PATIENCE)
    return before, time.monotonic() - asked, fate


def _edit_badly(
    story: _Story, run: Run, training: _Training, new: str, expected: FateState, error: str
) -> tuple[_Report, _Report]:
    """An edit that fails, and is mended: the report before, and one of a step that began after it failed."""
    before, took, fate = _reload(story, run, training, _IMPORT, new)
    step = run.step
    training.edit(new, _IMPORT)
    _check(fate.state is expected and error in fate.reason, f"an edit with a {error} is {expected}; this one is {fate}")
    said = fate.reason.splitlines()[-1]
    story.line(str(expected), textwrap.shorten(f"in {latency(took)}: {said}", _WIDTH, placeholder=" …"), "bold yellow")
    return before, training.report(lambda report: report.step > step, "the old code trains on")


def _check_goes_on(reports: list[_Report], before: _Report, now: _Report) -> None:
    """It is the same model that trains on: a new one has the loss of the first step and reads a tenth of the images."""
    _check_batches(reports)
    _check(
        float(now.loss) < (float(before.loss) + float(reports[0].loss)) / 2 and now.accuracy > before.accuracy - 0.15,
        f"loss and accuracy go on: {_words(before)}, then {_words(now)}",
    )


def _check_batches(reports: list[_Report]) -> None:
    steps = [report.step for report in reports]
    _check(steps == list(range(1, len(steps) + 1)), "no batch is lost, and none comes twice")


def _stop(story: _Story, run: Run, training: _Training) -> _Report:
    asked = time.monotonic()
    fate = run.stop(timeout=_PATIENCE).fate
    left = time.monotonic() - asked
    _check(fate.state is FateState.APPLIED, f"a stop is applied; this one is {fate}")
    try:
        status = training.process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        raise _DemoError("a stopped training ends") from None
    ended = time.monotonic() - asked
    _check(status == 0, f"a stopped training ends with status 0: {status}")
    _check(run.status is SparkStatus.STOPPED, f"it is stopped: it is {run.status}")
    _check(any(line.startswith("stopped: saved") for line in training.said()), "it says that it saved its model")
    last = training.last
    assert last is not None
    story.line("stop", f"left its loop at step {fate.step} after {latency(left)}, ended after {latency(ended)}")
    return last


# --- by hand ---


def hold(*, page: bool = False) -> Exit:
    """Starts the training, prints what to type in another terminal, and stays until it ends.

    page: whether to serve the web page, too.
    """
    if extras.missing("demo", "the demo") or (page and extras.missing("ui", "the page")):
        return Exit.REFUSED
    story = _Story()
    try:
        with _stage() as model:
            arguments = ["--epochs", "2000", "--lr", "0.01", "--delay", "0.05", "--report-every", "20"]
            with (
                _page(page),
                _Training(_new_name(), model, arguments, echo=lambda line: story.line("training", line)) as training,
            ):
                return _attend(story, training, model)
    except KeyboardInterrupt:
        exits.say("interrupted; the training was ended")
        return Exit.INTERRUPTED
    except (_DemoError, SparkError, OSError, ImportError) as error:
        exits.say(f"not so: {error}" if isinstance(error, _DemoError) else str(error))
        return Exit.REFUSED


@contextmanager
def _page(wanted: bool) -> Iterator[None]:
    found = ui_server.Page() if wanted else None
    try:
        yield
    finally:
        if found is not None:
            found.close()


def _attend(story: _Story, training: _Training, model: Path) -> Exit:
    run = training.attach()
    story.plain(f"{_SCRIPT} trains as run {run.id}. In another terminal, type:", "bold")
    story.plain()
    for line in _preparations():
        story.plain(f"    {line}")
    # Short, where that will do.
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
        (f"call{name} evaluate", "has it look how well it reads"),
        (f"watch{name} accuracy", "prints the accuracy as it changes"),
        (f"reload{name}", "lets it go on with what you edited"),
        (f"versions{name} --diff", "shows what you edited"),
        (f"stop{name}", "stops it; it saves its model"),
    ):
        story.plain(f"    spark-fast {command:<{24 + len(name)}}  {effect}")
    story.plain()
    story.plain("It runs a copy that is yours to edit, its report line, say, or train_step():")
    story.plain(f"    {training.script}")
    story.plain("Ctrl-C here stops it, too.")
    story.plain()
    before: SparkStatus | None = None
    asked = False
    while True:
        try:
            status = _next_status(run, before)
            if before is not None:
                story.line(str(status), f"at step {run.step}", render.STYLES[status])
            before = status
            if status in ENDED:
                break
        except KeyboardInterrupt:
            if asked:
                raise
            asked = True
            run.stop(wait=False)
            story.line("Ctrl-C", "asked it to stop; once more ends it at once")
    ended = training.process.wait(_PATIENCE)
    if ended:
        raise _DemoError(f"the training ended by itself; its status is {ended}")
    measured = _saved_accuracy(_load_script(), model)
    story.line("loaded", f"the saved model: it reads {measured:.1%} of the test images")
    story.line("done", f"after {duration(story.elapsed)}", "bold green")
    return Exit.DONE


def _next_status(run: Run, before: SparkStatus | None) -> SparkStatus:
    """Waits until it is another one."""
    return run.wait([status for status in SparkStatus if status is not before])


def _preparations() -> list[str]:
    """What the reader's other terminal, which may be in no virtual environment, needs first."""
    lines = []
    if home := os.environ.get("SPARK_FAST_HOME"):
        lines.append(f"export SPARK_FAST_HOME={shlex.quote(home)}")
    called = sys.argv[0]
    found = shutil.which("spark-fast")
    if Path(called).name == "__main__.py":
        lines.append(f"alias spark-fast={shlex.quote(shlex.join(own_command()))}")
    elif found is None or not os.path.exists(called) or not os.path.samefile(found, called):
        lines.append(f"alias spark-fast={shlex.quote(shlex.quote(os.path.abspath(called)))}")
    return lines
