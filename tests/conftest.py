"""Each test has a home of runs of its own, and ends the processes that it started."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of runs, for this process and for those that it starts. Not made yet."""
    path = tmp_path / "home"
    monkeypatch.setenv("SPARK_FAST_HOME", str(path))
    for name in ("SPARK_FAST", "SPARK_FAST_RUN", "SPARK_FAST_QUIET", "SPARK_FAST_YIELD_INTERVAL"):
        monkeypatch.delenv(name, raising=False)
    return path
