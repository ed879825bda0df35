"""The lock of the continuous integration holds what the lists of packages ask for, and is what .ci/run installs."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.audit import pins

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "tests" / "requirements-ci.lock").read_text()


def _wanted() -> list[Requirement]:
    """All that the lists of packages and pyproject.toml name, but for the benchmarks' peers."""
    lines = [line for path in (ROOT / "tests").glob("requirements*.txt") for line in path.read_text().splitlines()]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines += project["build-system"]["requires"] + project["project"]["dependencies"]
    lines += [line for extra in project["project"]["optional-dependencies"].values() for line in extra]
    bare = [line.split("#")[0].strip() for line in lines]
    return [Requirement(line) for line in bare if line and not line.startswith("--")]


def test_the_lock_satisfies_every_list_of_packages() -> None:
    locked = {canonicalize_name(name): Version(version) for name, version in (pin.split("==") for pin in pins(LOCK))}
    wanted = _wanted()
    assert {"torch", "ray", "ruff", "typer"} <= {each.name for each in wanted}
    wrong = [
        f"{each}: {locked.get(canonicalize_name(each.name))}"
        for each in wanted
        if (version := locked.get(canonicalize_name(each.name))) is None or version not in each.specifier
    ]
    assert not wrong, f"run `make lock`: {wrong}"


def test_each_locked_package_has_hashes_and_no_address() -> None:
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK)
    packages = [entry for entry in entries if "==" in entry.split("\n")[0]]
    assert len(packages) == len(pins(LOCK)) > 100
    assert [entry.split("\n")[0] for entry in packages if "--hash=sha256:" not in entry] == []
    assert "://" not in LOCK
    assert "--index" not in LOCK
    assert "--find-links" not in LOCK


def test_the_continuous_integration_installs_the_lock_and_audits_it() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert 'make --keep-going LOCKED=1 "$target"' in script
    assert re.search(r"^for target in .*\baudit\b.*; do$", script, re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert "--require-hashes --requirement $(LOCK)" in makefile
    assert "$(if $(LOCKED),--no-index)" in makefile
