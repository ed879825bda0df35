"""Processes that a training spawns run the code that runs in the training, whatever is on disk."""

import os
from pathlib import Path

import pytest

from tests.reloading import Edited

METHODS = ["spawn", "forkserver", "preloaded"]
"""`preloaded` is a fork server that executes the main script before it forks, as in the releases of CPython in which
that works: elsewhere the server is not told the script's path, for a slip of the keyword."""

WORKERS = """
import json, multiprocessing, sys, time
from multiprocessing import spawn
import spark_fast as spark
import helper

class Item:
    def value(self):
        return "class 1"

def work(queue, item):
    queue.put(["script 1", helper.word(), item.value()])

def told(name, plain=getattr(spawn.get_preparation_data, "plain_test", spawn.get_preparation_data)):
    data = plain(name)
    return data | {"main_path": data["init_main_from_path"]}

def run(context, target, *args):
    queue = context.SimpleQueue()
    process = context.Process(target=target, args=(queue, *args))
    process.start()
    process.join()
    print(json.dumps([process.exitcode, None if queue.empty() else queue.get()]), flush=True)

def context():
    if sys.argv[1] == "preloaded":
        told.plain_test = told.__defaults__[0]
        spawn.get_preparation_data = told
    return multiprocessing.get_context("spawn" if sys.argv[1] == "spawn" else "forkserver")

def main():
    ways = context()
    for epoch in spark.track(range(10**6), key="epoch"):
        run(ways, work, Item())

if __name__ == "__main__":
    main()
"""
HELPER = 'def word():\n    return "helper 1"\n'
OLD = [0, ["script 1", "helper 1", "class 1"]]
NEW = [0, ["script 2", "helper 2", "class 2"]]
BROKEN = "def broken(:\n"


class Spawning(Edited):
    """A training that starts a process in each epoch, and says its exit status and what it put into its queue."""

    def __init__(self, folder: Path, method: str, code: str = WORKERS, *args: str, **modules: str) -> None:
        path = os.pathsep.join([str(folder / "project"), os.environ.get("PYTHONPATH", "")])
        target = args or (str(folder / "project" / "train.py"),)
        files = {"helper.py": HELPER} | {f"{name}.py": source for name, source in modules.items()}
        super().__init__(folder, code, *target, method, modules=files, PYTHONPATH=path)

    def next(self, count: int = 2) -> list[object]:
        """What the next epochs say, the one that has begun left out."""
        return self.says(1 + count, len(self.said))[1:]

    def break_all(self) -> None:
        """Neither file on disk compiles any more."""
        for path in self.project.glob("*.py"):
            path.write_text(BROKEN + path.read_text())

    def mend_all(self) -> None:
        """Undoes that, with other values."""
        for path in self.project.glob("*.py"):
            path.write_text(path.read_text().replace(BROKEN, "").replace(' 1"', ' 2"'))


@pytest.mark.parametrize("method", METHODS)
def test_files_that_do_not_compile_any_more_break_no_process_that_is_spawned(tmp_path: Path, method: str) -> None:
    with Spawning(tmp_path, method) as training:
        assert training.says(1) == [OLD]
        training.break_all()
        assert training.next() == [OLD, OLD]
        assert "warning" not in training.err


@pytest.mark.parametrize("method", METHODS)
def test_after_a_reload_the_next_processes_run_the_new_code(tmp_path: Path, method: str) -> None:
    with Spawning(tmp_path, method) as training:
        assert training.says(1) == [OLD]
        training.break_all()
        training.mend_all()
        training.reloaded()
        assert training.next() == [NEW, NEW]
        training.break_all()
        assert training.next() == [NEW, NEW]
        training.mend_all()
        training.edit("helper 2", "helper 3", "helper.py")  # the script stays
        training.reloaded()
        assert training.next() == [[0, ["script 2", "helper 3", "class 2"]]] * 2
