"""Processes that were started with closed standard streams: no file of ours takes the place of one."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.runfiles import journal
from tests.support.child import DEADLINE, kill, until

pytestmark = pytest.mark.process

CLOSED = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"]

TRAINING = """
import errno, json, os, sys, time
from pathlib import Path
import spark_fast as spark

def numbers():
    print("printed")
    os.system(":")
    return [number for number in range(3) if is_open(number)]

def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True

at_start = [number for number in range(3) if is_open(number)]
state = spark.expose(lr=0.1, numbers=numbers)
version = "old"
seen = set()
try:
    for i in spark.track(range(10**9), key="i"):
        print(i, flush=True)
        seen |= {number for number in range(3) if is_open(number)}
        state.lr = state.lr
        time.sleep(0.002)
finally:
    Path("ended.json").write_text(json.dumps([at_start, sorted(seen), version]))
"""


@contextmanager
def started(folder: Path, how: str, closed: str) -> Iterator["subprocess.Popen[bytes]"]:
    (folder / "train.py").write_text(TRAINING)
    command = f"exec {shlex.quote(sys.executable)} {how} {closed}"
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        cwd=folder,
        env=os.environ | {"SPARK_FAST_RUN": "test"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        kill(process)
        process.wait()


def running(process: "subprocess.Popen[bytes]") -> client.Run:
    def look() -> client.Run | None:
        assert process.poll() is None, process.returncode
        try:
            run = client.attach("test", exact=True)
        except client.NoSuchRunError:
            return None
        return run if run.step > 3 else None

    return until(look)


def steered(run: client.Run) -> None:
    """Asks for all that makes the worker open files."""
    run.pause(timeout=30)
    run.set("lr", 0.5, timeout=30)
    run.resume(timeout=30)
    assert run.values["lr"].value == 0.5
    run.call("numbers", spark_timeout=30)
    path = journal.of_folder(run.folder)
    assert path is not None
    assert [line["kind"] for line in journal.read(path).requests] == ["pause", "set", "resume", "call"]


@pytest.mark.parametrize("closed", CLOSED)
def test_no_descriptor_of_a_plain_training_is_a_standard_stream(tmp_path: Path, closed: str) -> None:
    with started(tmp_path, "train.py", closed) as process:
        run = running(process)
        steered(run)
        run.stop(timeout=30)
        assert process.wait(DEADLINE) == 1
        assert run.status == "stopped"
    at_start, seen, _ = json.loads((tmp_path / "ended.json").read_text())
    assert seen == at_start
    assert at_start == sorted({0, 1, 2} - set(_numbers(closed)))


@pytest.mark.parametrize("closed", CLOSED)
def test_a_script_under_a_supervisor_has_the_null_device_in_their_place(tmp_path: Path, closed: str) -> None:
    with started(tmp_path, "-m spark_fast run train.py", closed) as process:
        run = running(process)
        worker = Path(f"/proc/{run.ranks[0].pid}/fd")
        assert {os.readlink(worker / str(number)) for number in _numbers(closed)} == {"/dev/null"}
        steered(run)
        script = tmp_path / "train.py"
        script.write_text(TRAINING.replace('"old"', '"new"'))
        run.reload(timeout=30)
        run.stop(timeout=30)
        assert process.wait(DEADLINE) == 0
    assert json.loads((tmp_path / "ended.json").read_text()) == [[0, 1, 2], [0, 1, 2], "new"]


def _numbers(closed: str) -> list[int]:
    """The descriptors that a shell closes so."""
    return [{"<": 0, ">": 1, "2": 2}[word[0]] for word in closed.split()]


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_works_without_its_streams(tmp_path: Path, closed: str) -> None:
    with started(tmp_path, "train.py", "") as process:
        run = running(process)
        for words in ("ps", "status test", "get", "pause test", "set lr=0.25", "ps --json", "top", "resume test"):
            command = f"{shlex.quote(sys.executable)} -m spark_fast {words} {closed}"
            done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
            assert done.returncode == 0, (words, done.stderr)
            assert done.stderr == ""
        assert run.values["lr"].value == 0.25
        assert run.status == "running"


def test_what_opens_files_leaves_the_numbers_of_standard_streams_alone(tmp_path: Path) -> None:
    code = """
import json, os, sys
from spark_fast.runfiles.descriptors import open_file
out = os.dup(1)
for number in range(3):
    os.close(number)
found = [open_file(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT), open_file(sys.argv[1], os.O_RDONLY)]
found.append(open_file("file", os.O_RDONLY, dir_fd=found[1]))
flags = [os.get_inheritable(each) for each in found]
os.write(found[0], b"whole")
content = os.read(found[2], 9).decode()
left = [number for number in range(3) if os.path.exists(f"/proc/self/fd/{number}")]
os.write(out, json.dumps([min(found) > 2, flags, content, left]).encode())
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, check=True)
    assert json.loads(done.stdout) == [True, [False] * 3, "whole", []]


@pytest.mark.unit
def test_each_file_is_opened_by_the_one_function_of_its_language() -> None:
    root = Path(__file__).parents[2]
    python = {path for path in (root / "spark_fast").rglob("*.py") if re.search(r"\bos\.open\(", path.read_text())}
    assert {path.name for path in python} == {"descriptors.py", "streams.py"}
    core = {path for path in (root / "csrc").glob("*.c") if re.search(r"[^\w](open|openat|creat)\(", path.read_text())}
    assert {path.name for path in core} == {"sf_open.c"}
