"""The audit fails for a vulnerability and for a failure of its own, and says when the service could not be asked."""

import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import audit

pytestmark = pytest.mark.unit

LOCK = "alpha==1.0 \\\n    --hash=sha256:00\nbeta==2.0+cpu \\\n    --hash=sha256:11\n# gamma==3\n"

Answer = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


def answers(**vulnerable: list[dict[str, Any]]) -> Answer:
    """A service that knows each package; some have vulnerabilities."""

    def run(packages: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        known = [each.split("==") for each in packages]
        found = [{"name": name, "version": version, "vulns": vulnerable.get(name, [])} for name, version in known]
        return subprocess.CompletedProcess([], 1 if vulnerable else 0, json.dumps({"dependencies": found}), "")

    return run


def knows_none(packages: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    found = [{"name": each.split("==")[0], "skip_reason": "not found"} for each in packages]
    return subprocess.CompletedProcess([], 0, json.dumps({"dependencies": found}), "No known vulnerabilities found")


def fails(stderr: str) -> Answer:
    return lambda _: subprocess.CompletedProcess([], 1, "", stderr)


HOLE = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.1"], "description": ""}


@pytest.fixture
def lock(tmp_path: Path) -> str:
    path = tmp_path / "lock"
    path.write_text(LOCK)
    return str(path)


def test_the_pins_of_a_lock_are_read_without_local_versions() -> None:
    assert audit.pins(LOCK) == ["alpha==1.0", "beta==2.0"]


def test_packages_without_vulnerabilities_pass(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([lock], answers()) == 0
    assert capsys.readouterr().out == "audited 2 packages, found 0 vulnerabilities\n"


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_vulnerability_fails_and_is_named(lock: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([lock], answers(**{name: [HOLE]})) == 1
    out = capsys.readouterr().out
    assert f"vulnerable: {name} " in out
    assert "PYSEC-1, fixed in 2.1" in out


@pytest.mark.parametrize("ident", ["PYSEC-1", "CVE-1"])
def test_an_accepted_vulnerability_passes_and_is_printed_with_the_reason(
    lock: str, ident: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(audit.ACCEPTED, ident, "used in tests only")
    assert audit.main([lock], answers(alpha=[HOLE])) == 0
    assert "accepted: used in tests only" in capsys.readouterr().out


@pytest.mark.parametrize(
    "stderr",
    [
        "Traceback\nrequests.exceptions.ConnectionError: no route\n",
        "Traceback\nrequests.exceptions.ReadTimeout: too late\n",
        "ERROR:pip_audit._cli:Could not connect to the service's feed\n",
    ],
)
def test_an_unreachable_service_passes_and_is_said(lock: str, stderr: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.main([lock], fails(stderr)) == 0
    assert "could not reach the advisory service" in capsys.readouterr().out


def test_a_service_that_knows_no_package_is_no_audit(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[Sequence[str]] = []

    def run(packages: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        asked.append(packages)
        return knows_none(packages)

    assert audit.main([lock], run) == 0
    assert "could not reach the advisory service" in capsys.readouterr().out
    assert asked == [["alpha==1.0"]], "a service without an answer is asked once"


def test_a_vulnerability_that_was_found_before_the_service_went_away_fails(lock: str) -> None:
    found, gone = answers(alpha=[HOLE]), fails("requests.exceptions.ConnectionError: gone")
    assert audit.main([lock], lambda packages: found(packages) if packages == ["alpha==1.0"] else gone(packages)) == 1


@pytest.mark.parametrize("stderr", ["", "Traceback\nTypeError: a fault of pip-audit\n"])
def test_any_other_failure_of_the_audit_is_an_error(lock: str, stderr: str) -> None:
    with pytest.raises(RuntimeError, match="pip-audit ended with status 1"):
        audit.main([lock], fails(stderr))
