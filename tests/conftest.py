"""Each test has a home of runs of its own, and ends the processes that it started."""

import signal
from pathlib import Path

import pytest

# Where the tests run as a background job, Ctrl-C is ignored, and what is ignored is inherited by every child. What is
# handled is not: children then begin as they would in a terminal.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs, for this process and for those that it starts. Not made yet."""
    path = tmp_path / "home"
    monkeypatch.setenv("SPARK_FAST_HOME", str(path))
    for name in ("SPARK_FAST", "SPARK_FAST_RUN", "SPARK_FAST_QUIET", "SPARK_FAST_YIELD_INTERVAL"):
        monkeypatch.delenv(name, raising=False)
    return path
