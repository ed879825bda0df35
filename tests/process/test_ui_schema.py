"""The web server keeps to its own description, whatever it is sent: schemathesis over it, with all its checks."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import Child, until
from tests.support.ui_support import EXPOSING, Served, served

pytestmark = [pytest.mark.process, pytest.mark.tier("all")]  # needs schemathesis

# What a description can't say: which values a run takes, which arguments a function, and what compiles.
CONFIG = """
base-url = "{base}"
[parameters]
"path.run" = "{run}"
"path.number" = 1
"path.ident" = "{ident}"
"query.name" = "loss"
[[operations]]
include-path-regex = "/(values|calls|reload)"
parameters = {{ "path.name" = "{name}" }}
checks.positive_data_acceptance.expected-statuses = ["202", "401", "403", "404", "409", "422"]
"""
LAST = "/(stop|reset|reload)$"
"""What may end the run, or replace it."""


@pytest.fixture
def server(home: Path) -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture
def training(server: Served, tmp_path: Path) -> Iterator[client.Run]:
    script = tmp_path / "train.py"
    script.write_text(EXPOSING)
    with Child(tmp_path, "", "-m", "spark_fast", "run", str(script)) as child:
        run = child.run()
        until(lambda: run.version == 1)
        yield run


def _check(server: Served, tmp_path: Path, run: client.Run, name: str, *options: str) -> str:
    """What schemathesis says when it has found nothing. It is told of a request, of a value or a function."""
    config = tmp_path / "schemathesis.toml"
    ident = run.resume(timeout=20).id if run.pause(timeout=20) else ""
    config.write_text(CONFIG.format(base=server.base, run=run.id, ident=ident, name=name))
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run"),
        *(f"{server.base}/api/openapi.json", "--header", f"Authorization: Bearer {server.keys.token}"),
        *("--checks", "all", "--max-examples", "20", "--seed", "1", "--request-timeout", "30", "--no-color"),
        *("--exclude-path", "/api/stream"),  # an answer without an end
        *options,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", ["lr", "evaluate"])
def test_the_server_keeps_to_its_description(server: Served, training: client.Run, tmp_path: Path, name: str) -> None:
    said = _check(server, tmp_path, training, name, "--exclude-path-regex", LAST)
    assert "14 selected" in said, said
    assert training.status in ("running", "paused", "pausing")
    assert {request.kind for request in training.requests} >= {"pause", "resume", "advance"}


@pytest.mark.timeout(400)
def test_it_does_so_for_what_may_end_a_run(server: Served, training: client.Run, tmp_path: Path) -> None:
    said = _check(server, tmp_path, training, "lr", "--include-path-regex", LAST)
    assert "3 selected" in said, said
