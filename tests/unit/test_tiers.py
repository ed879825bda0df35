"""Every test has a kind, and the tiers and their system packages are what the Makefile takes them for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import system
from tests.tiers import KINDS, REMEDY, TIERS, kind_of, tier_of, tiers_of_file

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]


def _marks(*names: str, tier: str | None = None) -> list[pytest.Mark]:
    found = [getattr(pytest.mark, name).mark for name in names]
    return found if tier is None else [*found, pytest.mark.tier(tier).mark]


def test_the_closest_kind_wins_and_says_the_tier_unless_a_tier_is_named() -> None:
    assert kind_of(_marks("unit", "process")) == "unit"
    assert kind_of(_marks("timeout")) is None
    assert tier_of(_marks("unit", "process")) == "fast"
    assert tier_of(_marks("process", "unit")) == "test"
    assert tier_of(_marks("process", tier="fast")) == "fast"
    assert tier_of(_marks("hosts", tier="all")) == "all"
    assert tier_of([]) == TIERS[0], "a test without a kind is run after each change, and fails"


def test_each_kind_and_each_tier_is_known_to_pytest_and_to_the_makefile(pytestconfig: pytest.Config) -> None:
    registered = {line.split(":")[0].split("(")[0] for line in pytestconfig.getini("markers")}
    assert {*KINDS, "tier"} <= registered
    assert set(KINDS.values()) <= set(TIERS)
    makefile = (ROOT / "Makefile").read_text()
    for tier in TIERS:
        assert f"$(PYTEST) --tier {tier}\n" in makefile


SOURCES = {
    "pytestmark = pytest.mark.browser\ndef test_one(): ...": {"all"},
    "pytestmark = [pytest.mark.process, pytest.mark.tier('fast'), pytest.mark.timeout(9)]\ndef test_one(): ...": {
        "fast"
    },
    "pytestmark = pytest.mark.unit\ndef test_one(): ...\n@pytest.mark.process\ndef test_two(): ...": {"fast", "test"},
    "pytestmark = pytest.mark.unit\n@other([pytest.param(4, marks=pytest.mark.tier('all'))])\ndef test_one(): ...": {
        "fast",
        "all",
    },
    "import nothing_like_this\ndef test_one(): ...": {"fast"},
}


@pytest.mark.parametrize("source", SOURCES)
def test_the_tiers_of_a_file_are_read_from_its_source(tmp_path: Path, source: str) -> None:
    path = tmp_path / "test_some.py"
    path.write_text(source)
    assert tiers_of_file(path) == SOURCES[source]


class Suite:
    """A folder of tests that has this project's conftest.py."""

    def __init__(self, folder: Path, **modules: str) -> None:
        self.folder = folder
        (folder / "tests").mkdir()
        for name in ("tests/__init__.py", "tests/conftest.py", "tests/tiers.py", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        for name, source in modules.items():
            (folder / "tests" / f"test_{name}.py").write_text("import os, pytest\n" + source)

    def run(self, *words: str) -> str:
        """Run pytest with these words; return what it prints."""
        command = [sys.executable, "-m", "pytest", "tests", "-vv", *words]
        environ = os.environ | {"COLUMNS": "1000"}
        return subprocess.run(command, cwd=self.folder, env=environ, capture_output=True, text=True, check=False).stdout


MIXED = """
pytestmark = pytest.mark.process
@pytest.mark.unit
def test_unit(): ...
def test_process(): ...
@pytest.mark.tier("all")
def test_long(): ...
"""


@pytest.mark.process
@pytest.mark.tier("fast")
def test_a_test_without_a_kind_fails_as_does_a_unit_test_that_starts_a_process(tmp_path: Path) -> None:
    starting = "pytestmark = pytest.mark.unit\ndef test_one(): os.system('true')\n"
    said = Suite(tmp_path, new="def test_one(): ...\n", starting=starting).run("--tier", "fast")
    assert f"tests/test_new.py::test_one: {REMEDY}" in said
    assert "a unit test starts no process, and this one did: os.system" in said
    assert "1 passed, 2 errors" in said


@pytest.mark.process
@pytest.mark.tier("fast")
def test_a_tier_runs_its_own_tests_and_imports_no_module_of_another(tmp_path: Path) -> None:
    other = "import nothing_like_this\npytestmark = pytest.mark.browser\ndef test_page(): ...\n"
    suite = Suite(tmp_path, mixed=MIXED, other=other)
    for tier, name in (("fast", "test_unit"), ("test", "test_process")):
        said = suite.run("--tier", tier)
        assert f"::{name} PASSED" in said and "1 passed, 2 deselected" in said
    assert "No module named 'nothing_like_this'" in suite.run("--tier", "all")


@pytest.mark.process
@pytest.mark.tier("fast")
def test_a_mark_selects_the_tests_of_one_kind(tmp_path: Path) -> None:
    said = Suite(tmp_path, mixed=MIXED).run("-m", "process")
    assert "::test_unit" not in said and "2 passed, 1 deselected" in said


def test_a_system_package_is_missing_where_none_of_its_commands_is_there() -> None:
    assert system.missing(lambda word: f"/bin/{word}") == []
    assert system.missing(lambda word: None if word == "spin" else f"/bin/{word}") == ["spin"]
    assert system.missing(lambda word: None if word.startswith("chrom") else f"/bin/{word}") == []
    assert system.missing(lambda word: None if "chrom" in word else f"/bin/{word}") == ["chromium"]


def test_where_packages_may_not_be_installed_the_command_that_does_it_is_said() -> None:
    said = system.install(["spin", "clang"], root=False, apt=True)
    assert "`sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends spin clang`" in said
    assert "spin, clang" in system.install(["spin", "clang"], root=True, apt=False)
    assert "sudo make test-all" in system.install([], root=False, apt=True)
    assert system.install([], root=True, apt=True) == ""
