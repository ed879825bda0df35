"""Each test has a home of runs of its own, and ends the processes that it started."""

import compileall
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import spark_fast
from spark_fast import client
from spark_fast.worker.launchers import LAUNCHERS

# Where the tests run as a background job, or under nohup, these signals are ignored, and what is ignored is inherited
# by every child. What is handled is not: children then begin as they would in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def pytest_configure(config: pytest.Config) -> None:
    """Compiles the package: where Python writes no bytecode, each child would do it again."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(spark_fast.__file__).parent, quiet=1)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of runs, for this process and for those that it starts. Not made yet.

    Workers that are left in it are ended: one whose supervisor was killed lives on.
    """
    path = tmp_path / "home"
    monkeypatch.setenv("SPARK_FAST_HOME", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("SPARK_FAST", "SPARK_FAST_RUN", "SPARK_FAST_QUIET", "SPARK_FAST_YIELD_INTERVAL", "SPARK_FAST_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    for launcher in LAUNCHERS:  # the tests may themselves be one of several tasks
        monkeypatch.delenv(launcher.rank, raising=False)
    yield path
    monkeypatch.setenv("SPARK_FAST_HOME", str(path))
    with suppress(client.FolderRefusedError):
        for run in client.runs(ended=False):
            for rank in run.ranks:
                # A damaged control file may name any process.
                with suppress(psutil.Error, ValueError):
                    process = psutil.Process(rank.pid)
                    if process.environ().get("SPARK_FAST_HOME") == str(path):
                        process.kill()
