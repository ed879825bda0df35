"""Gives each test a kind, a tier and its own home of runs, and ends the processes that it leaves."""

import compileall
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import spark_fast
from spark_fast import client
from spark_fast.worker.lifecycle.launchers import LAUNCHERS
from tests.tiers import KINDS, REMEDY, TIERS, kind_of, tier_of, tiers_of_file

# If the tests run as a background job, or under nohup, these signals are ignored, and every child inherits that. It
# does not inherit handlers: with them, children begin as they would in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


def pytest_configure(config: pytest.Config) -> None:
    """Have children begin as they would outside the tests, and compile the package once for all of them."""
    for name in ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        os.environ.pop(name, None)
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(spark_fast.__file__).parent, quiet=1)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --tier."""
    words = "run the tests of this tier and no others; tests/tiers.py explains the tiers (default: all tests)"
    parser.addoption("--tier", choices=TIERS, help=words)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out modules without a test of the chosen tier: they may import packages that the tier does not install."""
    tier = config.getoption("tier")
    if tier is None or collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    return True if tier not in tiers_of_file(collection_path) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its only kind, by which `-m` selects, and leave out the tests of other tiers."""
    tier = config.getoption("tier")
    chosen, left_out = [], []
    for item in items:
        (chosen if tier in (None, tier_of(list(item.iter_markers()))) else left_out).append(item)
        kind = kind_of(item.iter_markers())
        if kind is not None and not any(mark.name in KINDS for mark in item.own_markers):
            item.add_marker(kind)
    for node in {parent for item in items for parent in item.listchain()[:-1]}:
        node.own_markers = [mark for mark in node.own_markers if mark.name not in KINDS]
    items[:] = chosen
    config.hook.pytest_deselected(items=left_out)


begun: list[str] = []
"""The audit events of the processes that this process has started in the current test."""


def _note_process(event: str, _: object) -> None:
    if event in ("os.fork", "os.forkpty", "os.posix_spawn", "os.system", "subprocess.Popen"):
        begun.append(event)


sys.addaudithook(_note_process)


@pytest.fixture(autouse=True)
def kind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that has no kind, and a unit test that starts a process."""
    found = kind_of(request.node.iter_markers())
    if found is None:
        pytest.fail(f"{request.node.nodeid}: {REMEDY}", pytrace=False)
    begun.clear()
    yield
    if found == "unit" and begun:
        pytest.fail(f"a unit test starts no process, and this one did: {', '.join(begun)}", pytrace=False)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the path of the folder of runs, for this process and its children. The folder is not made yet.

    Then end the workers that are left in it, since a worker whose supervisor was killed lives on.
    """
    path = tmp_path / "home"
    monkeypatch.setenv("SPARK_FAST_HOME", str(path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("SPARK_FAST_SECRET", "SPARK_FAST_SECRET_FILE", "SPARK_FAST_TRUST_NETWORK"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SPARK_FAST", "SPARK_FAST_RUN", "SPARK_FAST_QUIET", "SPARK_FAST_YIELD_INTERVAL", "SPARK_FAST_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    for launcher in LAUNCHERS:  # a launcher may have started the tests themselves
        monkeypatch.delenv(launcher.rank, raising=False)
    yield path
    monkeypatch.setenv("SPARK_FAST_HOME", str(path))
    with suppress(client.FolderRefusedError):
        for run in client.runs(ended=False):
            for rank in run.ranks:
                # A damaged control file may name any process as its worker.
                with suppress(psutil.Error, ValueError):
                    process = psutil.Process(rank.pid)
                    if process.environ().get("SPARK_FAST_HOME") == str(path):
                        process.kill()
