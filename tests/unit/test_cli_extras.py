"""What is said where a package is missing that a part of the command line needs."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from spark_fast.cli import extras
from tests.process.test_cli import cli

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def test_the_packages_are_those_of_the_project_file() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra: list(packages.values()) for extra, packages in extras.EXTRAS.items()} == declared


@pytest.mark.tier("test")  # needs the packages of all extras
@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_the_command_names_what_is_missing_and_works_in_any_folder(
    extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not extras.missing(extra, "it")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "executable", "/a folder/python")
    assert extras.missing(extra, "it")
    said = capsys.readouterr().err
    assert said.startswith("spark-fast: it needs ")
    packages = " ".join(f"'{package}'" for package in extras.EXTRAS[extra].values())
    assert said.endswith(f": '/a folder/python' -m pip install {packages}\n")


@pytest.mark.process
def test_no_help_and_no_message_names_an_extra_of_a_package_that_no_index_has() -> None:
    for command in ("run", "ui", "demo"):
        done = cli(command, "--help")
        assert done.returncode == 0
        assert "pip install" not in done.stdout
    found = subprocess.run(
        ["grep", "-rnE", r"spark-fast\[", "spark_fast", "docs", "README.md", "examples"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == ""
