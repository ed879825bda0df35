"""Every file of the package's own is opened by the functions that refuse what another user may have put there.

The lists name what else is opened, and why that is not a file of ours.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import spark_fast
from spark_fast.runfiles import descriptors

pytestmark = pytest.mark.unit

PACKAGE = Path(spark_fast.__file__).parent
ROOT = PACKAGE.parent

SOURCE = "a source of the user's project, or a script that the package ships"
SYSTEM = "a file of the system"
WRAPPED = "makes a file object of a descriptor that is open already"
NAMED = "a file that the user names, and that is read without being trusted"
FRESH = "in a folder that this process has just made under a random name"

ALLOWED = {
    "cli/code.py": {"open(path)": SOURCE},
    "cli/demo_training.py": {"self.script.read_text()": FRESH, "self.script.write_text()": FRESH},
    "cli/streams.py": {"os.open(os.devnull)": SYSTEM, "open(number)": WRAPPED},
    "cli/web.py": {"file.write_text()": FRESH},
    "client/changes.py": {"open_file(path)": SOURCE, "open(fd)": WRAPPED},
    "runfiles/descriptors.py": {
        "os.open(path)": "the one call",
        "open_file(path)": "the functions that check what they opened",
    },
    "hosts/code.py": {"open(path)": SOURCE},
    "hosts/secret.py": {
        "open(fd)": WRAPPED,
        "open_file(path.parent)": "the folder of the secret, which is checked by itself",
    },
    "hosts/relay.py": {"Path('/proc/self/oom_score_adj').write_text()": SYSTEM},
    "integrations/ray.py": {"open('/proc/self/cmdline')": SYSTEM},
    "runfiles/journal.py": {"open(fd)": WRAPPED, "open_file(path)": NAMED},
    "launchers.py": {"open(f'/proc/{pid}/environ')": SYSTEM, "open(f'/proc/{pid}/stat')": SYSTEM},
    "runfiles/private_files.py": {"open(fd)": WRAPPED},
    "runfiles/run_folder.py": {"open('/proc/sys/kernel/random/boot_id')": SYSTEM},
    "runfiles/safe_paths.py": {
        "open_file('/')": SYSTEM,
        "open_file(name)": "a folder on the way to ours, which is looked at once it is open",
    },
    "project/spawned.py": {"open(path)": SOURCE},
    "ui/assets.py": {"file.read_bytes()": SOURCE},
    "ui/memory.py": {"open(f'/proc/{pid}/statm')": SYSTEM},
    "worker/reload/modules.py": {"open(path)": SOURCE},
    "worker/state/ended_loops.py": {"open(path)": SOURCE},
    "worker/journal/replay.py": {
        "open_file(path)": SOURCE,
        "open(open_file(path, os.O_RDONLY | os.O_NONBLOCK))": WRAPPED,
    },
    "worker/runner/script.py": {"open(descriptor)": WRAPPED},
}

_METHODS = ("open", "read_text", "read_bytes", "write_text", "write_bytes")
_OTHERS = ("webbrowser.open", "reloader.open", "session.open", "self._access.open")
"""Methods of the same name that open no file."""


def _opened(source: str) -> Iterator[str]:
    """The calls in a source that open a file, with their first argument where that is the file."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        first = ast.unparse(node.args[0]) if node.args else ""
        if name in ("open", "io.open", "os.open", "os.fdopen", "open_file"):
            yield f"{name}({first})"
        elif isinstance(node.func, ast.Attribute) and node.func.attr in _METHODS and name not in _OTHERS:
            yield f"{name}()"


def test_nothing_else_in_the_package_opens_a_file() -> None:
    found = {
        str(path.relative_to(PACKAGE)): calls
        for path in PACKAGE.rglob("*.py")
        if not path.is_relative_to(PACKAGE / "examples") and (calls := set(_opened(path.read_text())))
    }
    listed = {path: set(calls) for path, calls in ALLOWED.items()}
    assert found == listed, "use descriptors.open_own(), or add to the list what is not a file of ours"


def test_nothing_else_in_the_core_opens_a_file() -> None:
    calls = re.compile(r"\b(open|openat|creat|fopen|sf_open)\(")
    found = {
        path.name: sorted({match[1] for line in path.read_text().splitlines() for match in calls.finditer(_code(line))})
        for path in sorted((ROOT / "csrc").glob("*.c"))
    }
    assert {name: names for name, names in found.items() if names} == {"sf_open.c": ["open", "sf_open"]}


def _code(line: str) -> str:
    return "" if line.lstrip().startswith(("*", "/*")) else line


def test_every_process_of_ours_is_kept_from_importing_what_lies_in_the_working_directory() -> None:
    """Python looks into the working directory first when it runs `-m` or `-c`, unless it is given -P."""
    without = {
        f"{path.relative_to(PACKAGE)}: {ast.unparse(node)}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List)
        and {"-m", "-c"} & (words := {each.value for each in node.elts if isinstance(each, ast.Constant)})
        and any(ast.unparse(each) in ("sys.executable", "place.python") for each in node.elts)
        and "-P" not in words
    }
    assert without == {
        # What a person is told to type, and what is told to one whose environment lacks a package.
        "cli/extras.py: [sys.executable, '-m', 'pip', 'install', *lacking]",
        # -P stands among the flags.
        "cli/supervisor.py: [sys.executable, *flags, '-m', 'spark_fast.worker', 'run', *module, order.target, "
        "*order.arguments]",
    }


def test_a_file_that_is_replaced_while_it_is_opened_is_read_as_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, successor = tmp_path / "said.json", tmp_path / "said.json.new"
    path.write_text("old")
    successor.write_text("new")
    opening = descriptors.open_file

    def replace_once(name: Path, flags: int, mode: int, *, dir_fd: int | None = None) -> int:
        fd = opening(name, flags, mode, dir_fd=dir_fd)
        if successor.exists():
            successor.rename(path)
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "open_file", replace_once)
        fd = descriptors.open_own(path, os.O_RDONLY)
    assert os.read(fd, 10) == b"new"
    os.close(fd)


def test_a_file_that_is_removed_while_it_is_opened_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "said.json"
    path.write_text("old")
    opening = descriptors.open_file

    def remove(name: Path, flags: int, mode: int, *, dir_fd: int | None = None) -> int:
        fd = opening(name, flags, mode, dir_fd=dir_fd)
        path.unlink()
        return fd

    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "open_file", remove)
        with pytest.raises(FileNotFoundError):
            descriptors.open_own(path, os.O_RDONLY)
