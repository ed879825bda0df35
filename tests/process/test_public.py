"""The package as a whole: its names, their documentation, what importing it costs, and its wheel."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from enum import Enum
from pathlib import Path

import pytest

import spark_fast
from spark_fast import client, status, worker

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("module", [spark_fast, worker, client], ids=lambda module: module.__name__)
def test_every_public_name_exists_and_is_documented(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        value = getattr(module, name)
        if name == "__version__":
            continue
        assert inspect.getdoc(value), name
        if inspect.isclass(value) and not issubclass(value, (Enum, BaseException)):
            for attribute, member in vars(value).items():
                if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
                    assert inspect.getdoc(member), f"{name}.{attribute}"


def test_what_the_package_hands_on_is_what_the_worker_has() -> None:
    for name in set(spark_fast.__all__) & set(worker.__all__):
        assert getattr(spark_fast, name) == getattr(worker, name)
    assert set(worker.__all__) - {"SparkInterrupt"} <= set(spark_fast.__all__)
    assert set(spark_fast.__all__) <= set(dir(spark_fast))
    with pytest.raises(AttributeError, match="no attribute 'chekpoint'"):
        spark_fast.chekpoint


def test_every_status_says_in_the_source_what_the_worker_did() -> None:
    lines = inspect.getsource(status.SparkStatus).splitlines()
    for member in status.SparkStatus:
        index = next(number for number, line in enumerate(lines) if line.strip() == f'{member.name} = "{member}"')
        assert lines[index + 1].strip().startswith('"""'), member


def test_worker_and_client_never_import_each_other() -> None:
    for package, other in (("worker", "client"), ("client", "worker")):
        code = (
            f"import sys, spark_fast.{package}; print([m for m in sys.modules if m.startswith('spark_fast.{other}')])"
        )
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_it_loads_nothing_outside_the_standard_library(tmp_path: Path) -> None:
    code = """
import json, sys
before = set(sys.modules)
import spark_fast
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout)) - {"spark_fast", "cython_runtime"}  # the latter is no file
    loaded = {name for name in loaded if not name.startswith("_cython_")}
    assert loaded <= sys.stdlib_module_names
    # And of it no more than the import of json loads.
    heavy = {"asyncio", "typing", "dataclasses", "inspect", "socket", "tempfile", "subprocess", "enum", "re"}
    assert not loaded & heavy


def test_a_training_that_uses_it_loads_neither_asyncio_nor_the_command_line(home: Path) -> None:
    code = "import sys, spark_fast; spark_fast.checkpoint(); print({'asyncio', 'typer', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from the files that belong to the project, not in place."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_symlink() or (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.timeout(400)
def test_the_wheel_carries_what_it_needs_and_no_source_of_the_core(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    suffixes = {Path(name).suffix for name in names}
    assert not suffixes & {".pyx", ".pxd", ".pxi", ".c", ".h"}, names
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {f"spark_fast/_core{suffix}", "spark_fast/_core.pyi", "spark_fast/py.typed"} <= names
    assert "spark_fast/examples/digits.py" in names
    page = {path.name for path in (ROOT / "spark_fast" / "ui" / "static").iterdir()}
    assert {f"spark_fast/ui/static/{name}" for name in page} <= names
    assert "index.html" in page
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"spark_fast"}


@pytest.mark.timeout(400)
def test_the_wheel_works_when_installed_alone(wheel: Path, tmp_path: Path) -> None:
    # Alone: neither the source tree nor anything that the package depends on.
    where = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(where)
    code = """
import spark_fast as spark
from spark_fast import client
for _ in spark.track(range(10)):
    pass
controller = spark.create_controller()
controller.stop()
try:
    spark.checkpoint()
except spark.SparkStopError:
    print(client.attach().status, spark.__file__)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(where)!r})\n{code}"],
        cwd=tmp_path,
        env=os.environ | {"SPARK_FAST_QUIET": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == f"stopping {where}/spark_fast/__init__.py\n", done.stderr
