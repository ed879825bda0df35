"""The documentation: its links lead somewhere, the files that it names exist, and README's first block runs."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import spark_fast
from spark_fast import client, errors
from tests.support.child import until

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
WIDTH = 100
GENERATED = {"benchmarks.md"}

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_STEP = re.compile(r"\| `([\w/.]+/[\w/.]+)` \| `(?:\w+\.)?(\w+)\(\)`")
"""A row of a table with a file and a function that it has."""
_PATH = re.compile(r"`((?:csrc|spark_fast|tests|bench|docs|examples)/[\w./]*)`")


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What `page#…` may name: each heading, as GitHub and MkDocs write it."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_relative_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in _LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{_name(page)} links to {link}, and there is no such file"
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), f"{_name(page)} links to {link}, and there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    missing = [path for path in _PATH.findall(prose(page)) if not (ROOT / path).exists()]
    assert not missing, f"{_name(page)} names files that do not exist: {missing}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_each_function_beside_a_file_stands_in_that_file(page: Path) -> None:
    for path, function in _STEP.findall(prose(page)):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"\b{function}\(", source), f"{_name(page)}: {path} has no {function}()"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in GENERATED], ids=_name)
def test_prose_wraps(page: Path) -> None:
    text = re.sub(r"<!-- figures.*?end of figures -->", "", prose(page), flags=re.DOTALL)
    long = [line for line in text.splitlines() if len(line) > WIDTH and not line.lstrip().startswith(("|", "!["))]
    assert not long, f"{_name(page)} has lines of more than {WIDTH} columns: {long}"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_the_python_of_a_page_compiles(page: Path) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        compile(block, _name(page), "exec")


@pytest.mark.parametrize("module", [spark_fast, client], ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name(module: ModuleType) -> None:
    reference = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    # `::: spark_fast.errors` brings the exceptions; the second and third name are aliases.
    elsewhere = {"__version__", "controller", "Used", *errors.__all__}
    missing = [
        name for name in module.__all__ if name not in elsewhere and not re.search(rf"\b{name}$", reference, re.M)
    ]
    assert not missing


def test_the_site_shows_every_page() -> None:
    shown = set(re.findall(r": ([\w.]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert shown == {"index.md" if page.name == "README.md" else page.name for page in PAGES}


@pytest.mark.process
def test_the_first_block_of_the_readme_runs_as_pasted(home: Path, tmp_path: Path) -> None:
    block = re.search(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    install, script = block[1].split("\n", 1)
    assert install.startswith("pip install .")
    start, commands = script.split("sleep 2\n")
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "SPARK_FAST_QUIET": "1"}

    def bash(text: str) -> "subprocess.CompletedProcess[str]":
        command = ["bash", "-euc", text]
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
        )

    started = bash(start.replace(" &\n", " >train.log 2>&1 &\n"))
    assert started.returncode == 0, started.stderr
    # In the place of the two seconds, which are enough for a reader.
    until(lambda: any(run.id == "demo" and run.step > 0 for run in client.runs()), "a step of the training")
    done = bash(commands)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    patterns = [
        r"run demo is paused at step \d+ .*",
        r"run demo has lr = 0\.001 since step \d+ .*",
        r"run demo goes on at step \d+ .*",
        r"NAME +VALUE .*",
        r"lr +0\.001 .*",
        r"loss .*",
        r"run demo raised SparkStopError at step \d+ .*",
        r"run demo is stopped at step \d+",
    ]
    assert len(said) == len(patterns), done.stdout
    for line, pattern in zip(said, patterns, strict=True):
        assert re.fullmatch(pattern, line), line
