"""What `spark-fast run` says where there is nothing to run, or where an option stands in the wrong place."""

import subprocess
import sys
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import DEADLINE

pytestmark = pytest.mark.process

FILES = {
    "empty/__init__.py": "",
    "lacks/__init__.py": "import nothing_there\n",
    "lacks/inner.py": "",
    "script.py": "import sys; print(sys.argv[1:])\n",
    "importing.py": "import nothing_there\n",
    "folder/readme": "",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "project" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "project"


def python(project: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *words], cwd=project, capture_output=True, text=True, timeout=DEADLINE, check=False
    )


def run(project: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return python(project, "-m", "spark_fast", "run", *words)


@pytest.mark.parametrize("module", ["nosuch", "nosuch.inner", "empty", "empty.inner", "folder", "sys", "script.py"])
def test_a_module_that_can_not_be_run_is_told_as_python_tells_it(project: Path, module: str) -> None:
    expected, done = python(project, "-m", module), run(project, "-m", module)
    assert expected.returncode == done.returncode == 1
    said = expected.stderr.removeprefix(f"{sys.executable}: ")
    assert done.stderr.splitlines(keepends=True)[-1] == f"spark_fast: {said}"
    assert "Traceback" not in done.stderr
    (found,) = client.runs()
    assert found.status == "failed"


@pytest.mark.parametrize("module", ["importing", "importing.inner", "lacks", "lacks.inner"])
def test_an_import_that_fails_in_the_module_itself_has_the_traceback_of_the_user(project: Path, module: str) -> None:
    done = run(project, "-m", module)
    assert done.returncode == 1
    assert done.stderr.endswith("    import nothing_there\nModuleNotFoundError: No module named 'nothing_there'\n")
    assert "runpy" not in done.stderr and "spark_fast/" not in done.stderr


def test_a_folder_without_a_main_is_told_as_python_tells_it(project: Path) -> None:
    done = run(project, "folder")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("spark_fast: can't find '__main__' module in 'folder'\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (["script.py", "--watch"], "spark-fast run --watch script.py …"),
        (["script.py", "--lr", "0.1", "--ui"], "spark-fast run --ui script.py …"),
        (["script.py", "--name=digits"], "spark-fast run --name NAME script.py …"),
        (["-m", "script", "--journal", "off"], "spark-fast run --journal PATH -m script …"),
        (["script.py", "--error-timeout=5m"], "spark-fast run --error-timeout DURATION script.py …"),
        (["--stop-deadline", "5s", "script.py", "--replay", "x"], "spark-fast run --replay FILE script.py …"),
    ],
)
def test_an_option_after_the_script_goes_to_the_script_and_the_remedy_is_said(
    project: Path, words: list[str], remedy: str
) -> None:
    done = run(project, *words)
    assert done.returncode == 0
    target = words.index("script.py" if "script.py" in words else "script")
    assert done.stdout == f"{words[target + 1 :]}\n"
    assert done.stderr.count("spark-fast: --") == 1
    assert done.stderr.splitlines()[0].endswith(f"if it is meant for the run: {remedy}")


@pytest.mark.parametrize("words", [["script.py"], ["script.py", "--watched", "-m"], ["script.py", "--", "--watch"]])
def test_nothing_is_said_of_arguments_that_are_the_scripts_alone(project: Path, words: list[str]) -> None:
    done = run(project, *words)
    assert done.stdout == f"{words[1:]}\n"
    assert "meant for the run" not in done.stderr


def test_who_wants_quiet_hears_nothing_of_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_FAST_QUIET", "1")
    done = run(project, "script.py", "--watch")
    assert (done.stdout, done.stderr) == ("['--watch']\n", "")
