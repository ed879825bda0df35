"""Processes that a training spawns run the code that runs in the training, whatever is on disk."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from spark_fast import client
from tests.support.child import DEADLINE, Child, until
from tests.support.reloading import Edited

pytestmark = pytest.mark.process

METHODS = ["spawn", "forkserver", "preloaded"]
"""`preloaded` is a fork server that executes the main script before it forks, as in the releases of CPython in which
that works: elsewhere the server is not told the script's path, for a slip of the keyword."""

HEAD = """
import json, multiprocessing, sys, time
from multiprocessing import spawn
import spark_fast as spark
import helper

def told(name):
    data = spawn.before(name)
    return data | {"main_path": data["init_main_from_path"]}

def run(context, target, *args):
    queue = context.SimpleQueue()
    process = context.Process(target=target, args=(queue, *args))
    process.start()
    process.join()
    print(json.dumps([process.exitcode, None if queue.empty() else queue.get()]), flush=True)

def context():
    if sys.argv[1] == "preloaded" and not hasattr(spawn, "before"):
        spawn.before, spawn.get_preparation_data = spawn.get_preparation_data, told
    return multiprocessing.get_context("spawn" if sys.argv[1] == "spawn" else "forkserver")

def epochs(*args):
    ways = context()
    for epoch in spark.track(range(10**6), key="epoch"):
        run(ways, work, *args)
"""

WORKERS = (
    HEAD
    + """
class Item:
    def value(self):
        return "class 1"

def work(queue, item):
    queue.put(["script 1", helper.word(), item.value()])

if __name__ == "__main__":
    epochs(Item())
"""
)
HELPER = 'def word():\n    return "helper 1"\n'
OLD = [0, ["script 1", "helper 1", "class 1"]]
NEW = [0, ["script 2", "helper 2", "class 2"]]
BROKEN = "def broken(:\n"


class Spawning(Edited):
    """A training that starts a process in each epoch, and says its exit status and what it put into its queue.

    args: what is run, instead of `train.py`.
    """

    def __init__(
        self,
        folder: Path,
        method: str,
        code: str = WORKERS,
        *args: str,
        modules: dict[str, str] | None = None,
        inside: bool = False,
    ) -> None:
        # The fork server of some releases is not told the path.
        self.path = os.pathsep.join([str(folder / "project"), str(folder), os.environ.get("PYTHONPATH", "")])
        target = args or (str(folder / "project" / "train.py"),)
        files = {"helper.py": HELPER} | (modules or {})
        super().__init__(
            folder,
            code,
            *target,
            method,
            modules=files,
            inside=inside,
            PYTHONPATH=self.path,
            PYTHONDONTWRITEBYTECODE="",
        )

    def next(self, count: int = 2) -> list[object]:
        """What the next epochs say, the one that has begun left out."""
        return self.says(1 + count, len(self.said))[1:]

    def break_all(self) -> None:
        """Neither file on disk compiles any more."""
        for path in self.project.rglob("*.py"):
            path.write_text(BROKEN + path.read_text())

    def mend_all(self) -> None:
        """Undoes that, with other values."""
        for path in self.project.rglob("*.py"):
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


def test_processes_run_what_ran_before_when_a_reload_was_taken_back(tmp_path: Path) -> None:
    with Spawning(tmp_path, "spawn") as training:
        assert training.says(1) == [OLD]
        training.edit('"helper 1"', '"helper 2"', "helper.py")
        training.edit("def epochs(*args):\n", "def epochs(*args):\n    undefined\n")
        assert training.reload().fate.state == "failed"
        assert training.next() == [OLD, OLD]


def test_what_other_threads_spawn_while_new_code_is_imported_runs_what_ran_before(tmp_path: Path) -> None:
    code = """
    import threading

    def work(queue):
        queue.put(helper.word())

    def spawning(ways):
        while True:
            run(ways, work)

    if __name__ == "__main__":
        if not spark.has_persisted("thread"):
            spark.persist("thread", lambda: threading.Thread(target=spawning, args=(context(),), daemon=True)).start()
        for epoch in spark.track(range(10**6), key="epoch"):
            time.sleep(0.002)
    """
    new = """
    import os, sys, time
    if "--multiprocessing-fork" not in sys.orig_argv:
        open(__file__ + ".begun", "w").close()
        while not os.path.exists(__file__ + ".go"):
            time.sleep(0.002)
    raise ValueError
    """
    with Spawning(tmp_path, "spawn", HEAD + textwrap.dedent(code)) as training:
        assert training.says(1) == [[0, "helper 1"]]
        training.write("helper.py", new)
        request = client.attach("test").reload(wait=False)
        until((training.project / "helper.py.begun").exists, training.err)
        assert training.next() == [[0, "helper 1"]] * 2
        (training.project / "helper.py.go").touch()
        assert request.wait(DEADLINE).state == "failed"
        assert training.next() == [[0, "helper 1"]] * 2


def test_a_file_that_was_removed_or_has_become_a_package_is_run_as_it_was(tmp_path: Path) -> None:
    with Spawning(tmp_path, "spawn") as training:
        assert training.says(1) == [OLD]
        (training.project / "train.py").unlink()
        (training.project / "helper.py").unlink()
        assert training.next() == [OLD, OLD]
        training.write("helper/__init__.py", "from helper.words import word")
        assert training.next() == [OLD, OLD]


@pytest.mark.parametrize("method", METHODS)
def test_what_a_spawned_process_spawns_runs_the_same_code(tmp_path: Path, method: str) -> None:
    code = """
    def below(queue):
        queue.put(["script 1", helper.word()])

    def work(queue):
        process = context().Process(target=below, args=(queue,))
        process.start()
        process.join()
        sys.exit(process.exitcode)

    if __name__ == "__main__":
        epochs()
    """
    with Spawning(tmp_path, method, HEAD + textwrap.dedent(code)) as training:
        assert training.says(1) == [[0, ["script 1", "helper 1"]]]
        training.break_all()
        assert training.next() == [[0, ["script 1", "helper 1"]]] * 2


def test_what_a_forked_process_spawns_runs_what_ran_when_it_was_forked(tmp_path: Path) -> None:
    code = """
    def below(queue):
        queue.put(["script 1", helper.word()])

    def work(queue, go):
        while not os.path.exists(go):
            time.sleep(0.002)
        process = multiprocessing.get_context("spawn").Process(target=below, args=(queue,))
        process.start()
        process.join()

    if __name__ == "__main__":
        for epoch in spark.track(range(10**6), key="epoch"):
            if epoch == 0:
                queue = multiprocessing.get_context("spawn").SimpleQueue()  # which the fork may have, too
                forked = multiprocessing.get_context("fork").Process(target=work, args=(queue, sys.argv[2]))
                forked.start()
                print(json.dumps("forked"), flush=True)
            if epoch > 0 and not queue.empty():
                print(json.dumps(queue.get()), flush=True)
            time.sleep(0.002)
    """
    go = tmp_path / "go"
    target = [str(tmp_path / "project" / "train.py"), "spawn"]
    with Spawning(tmp_path, str(go), HEAD + "import os\n" + textwrap.dedent(code), *target) as training:
        training.says(1)
        training.break_all()
        go.touch()
        assert training.says(1, 1) == [["script 1", "helper 1"]]


SELF = (
    HEAD
    + """
class Item:
    pass

def about(module):
    spec = module.__spec__
    return [getattr(module, f"__{name}__", "none") for name in ("name", "file", "cached", "package", "doc")] + [
        spec and [spec.name, spec.origin, spec.cached, spec.has_location, spec.submodule_search_locations]
    ]

def work(queue):
    main = sys.modules[work.__module__]
    same = [main is sys.modules["__main__"], main.Item is Item, sorted(name for name in vars(main))]
    queue.put([about(main), about(helper), about(sys.modules["helper"]), sys.argv, AT_START, sys.path, same])

AT_START = list(sys.argv), __name__

def back(queue):
    queue.put(Item())

if __name__ == "__main__":
    ways = context()
    for epoch in spark.track(range(2), key="epoch"):
        run(ways, work)
    queue = ways.SimpleQueue()
    process = ways.Process(target=back, args=(queue,))
    process.start()
    print(json.dumps(type(queue.get()) is Item), flush=True)
    process.join()
"""
)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [["train.py"], ["-m", "train"]], ids=["script", "module"])
def test_spawned_processes_find_everything_as_without_us(tmp_path: Path, target: list[str], method: str) -> None:
    if method == "preloaded" and "-m" in target:
        method = "forkserver"  # the server is only ever told of scripts
    with Spawning(tmp_path, method, SELF, *target, inside=True) as training:
        ours = training.over()
    plain = subprocess.run(
        [sys.executable, *target, method],
        cwd=training.project,
        env=os.environ | {"PYTHONPATH": training.path, "SPARK_FAST": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    lines = [json.loads(line) for line in plain.stdout.splitlines()]
    assert len(lines) == 3
    assert lines[2] is True
    assert ours == lines


@pytest.mark.parametrize("target", ["package.train", "package"])
def test_the_processes_of_a_module_that_runs_as_the_script_do_the_same(tmp_path: Path, target: str) -> None:
    code = WORKERS.replace("import helper", "from package import helper")
    if target == "package":
        # multiprocessing executes no __main__.py: what is to be found in other processes stands elsewhere.
        code = code.replace('if __name__ == "__main__":', "def start():")
    main = "from package import train\ntrain.start()\n"
    modules = {"__init__.py": "", "__main__.py": main, "helper.py": HELPER, "train.py": code}
    modules = {f"package/{name}": source for name, source in modules.items()}
    with Spawning(tmp_path, "spawn", "", "-m", target, modules=modules, inside=True) as training:
        assert training.says(1) == [OLD]
        training.break_all()
        assert training.next() == [OLD, OLD]
        training.mend_all()
        training.reloaded()
        assert training.next() == [NEW, NEW]


def test_the_processes_of_a_function_that_spark_run_runs_do_the_same(tmp_path: Path) -> None:
    helper = tmp_path / "helper.py"
    helper.write_text(HELPER)
    code = WORKERS.replace("    epochs(Item())", "    spark.run(epochs, Item())")
    with Child(tmp_path, code, "spawn") as child:

        def following(count: int) -> list[object]:
            before = child.out.count("\n")
            until(lambda: child.out.count("\n") > before + count, child.err)
            return [json.loads(line) for line in child.out.split("\n")[:-1]][before + 1 :][:count]

        assert following(1) == [OLD]
        helper.write_text(BROKEN)
        child.script.write_text(BROKEN)
        assert following(2) == [OLD, OLD]
        helper.write_text(HELPER.replace(' 1"', ' 2"'))
        child.script.write_text(code.replace(' 1"', ' 2"'))
        assert child.run().reload(timeout=DEADLINE).fate.state == "applied", child.err
        assert following(2) == [NEW, NEW]


def test_a_script_that_a_fork_server_executed_before_the_run_is_not_executed_once_more(tmp_path: Path) -> None:
    (tmp_path / "helper.py").write_text(HELPER)
    code = WORKERS.replace("class Item", "print('executed', file=sys.stderr, flush=True)\n\nclass Item")
    code = code.replace("    epochs(Item())", "    run(context(), work, Item())\n    spark.run(epochs, Item())")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with Child(tmp_path, code, "preloaded", PYTHONPATH=path) as child:
        until(lambda: child.out.count("\n") > 3, child.err)
        assert child.err.count("executed") == 2, "by the training and by the server"
        child.script.write_text(code.replace("script 1", "script 2"))
        assert child.run().reload(timeout=DEADLINE).fate.state == "applied", child.err
        until(lambda: "script 2" in child.out, child.err)


def test_a_spawned_process_that_is_a_run_of_its_own_begins_with_what_runs_in_it(tmp_path: Path) -> None:
    code = """
    def below(queue):
        queue.put(["script 1", helper.word()])

    def inner(queue):
        process = context().Process(target=below, args=(queue,))
        process.start()
        process.join()
        sys.exit(process.exitcode)

    def work(queue):
        spark.run(inner, queue)

    if __name__ == "__main__":
        epochs()
    """
    with Spawning(tmp_path, "spawn", HEAD + textwrap.dedent(code)) as training:
        assert training.says(1) == [[0, ["script 1", "helper 1"]]]
        training.break_all()
        assert training.next() == [[0, ["script 1", "helper 1"]]] * 2
        assert "warning: this run can't" not in training.err


def test_tracebacks_of_a_spawned_process_show_the_lines_that_run(tmp_path: Path) -> None:
    code = WORKERS.replace("helper.word()", "helper.word(item.nothing)")
    with Spawning(tmp_path, "spawn", code) as training:
        assert training.says(1) == [[1, None]]
        training.edit('    queue.put(["script 1"', "    # another line\n    queue.put([1, 2, 3")
        until(lambda: training.next() and training.err)
        lines = training.err.rstrip().splitlines()
        assert f'File "{training.project / "train.py"}", line' in training.err
        assert any('queue.put(["script 1", helper.word(item.nothing)' in line for line in lines[-5:])
        assert "another line" not in training.err


def test_without_the_run_folder_processes_read_the_files_on_disk(tmp_path: Path) -> None:
    with Spawning(tmp_path, "spawn") as training:
        assert training.says(1) == [OLD]
        # Renamed first: the worker may be adding a file to it.
        shutil.rmtree((tmp_path / "home" / "test").rename(tmp_path / "removed"))
        training.mend_all()
        training.write("helper.py", "# of another size: bytecode\n" + training.source("helper.py"))
        assert training.next() == [NEW, NEW]
        assert training.err.count("read the code from disk") == 1


def test_a_source_that_was_lost_is_read_from_disk(tmp_path: Path) -> None:
    with Spawning(tmp_path, "spawn") as training:
        assert training.says(1) == [OLD]
        shutil.rmtree(tmp_path / "home" / "test" / "code" / "blobs")
        training.mend_all()
        training.write("helper.py", "# of another size: bytecode\n" + training.source("helper.py"))
        assert training.next() == [NEW, NEW]
        assert "the source that runs can't be read" in training.err


def test_bytecode_on_disk_is_that_of_the_file_on_disk(tmp_path: Path) -> None:
    with Spawning(tmp_path, "spawn") as training:
        assert training.says(1) == [OLD]
        before = os.stat(training.project / "helper.py")
        training.edit("helper 1", "helper 2", "helper.py")
        assert training.next() == [OLD, OLD]
        os.utime(training.project / "helper.py", ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
        assert training.next() == [OLD, OLD]
        (cached,) = (training.project / "__pycache__").glob("helper.*")
        assert b"helper 1" in cached.read_bytes(), "of the state before the edit: it is not taken for the new one"
        found = subprocess.run(
            [sys.executable, "-c", "import helper; print(helper.word())"],
            cwd=training.project,
            capture_output=True,
            text=True,
            check=True,
        )
        assert found.stdout == "helper 2\n"
        assert training.next() == [OLD, OLD]


def test_a_module_that_a_fork_server_has_imported_before_is_executed_anew_after_a_reload(tmp_path: Path) -> None:
    code = WORKERS.replace(
        "    epochs(Item())", '    multiprocessing.set_forkserver_preload(["helper"])\n    epochs(Item())'
    )
    with Spawning(tmp_path, "forkserver", code) as training:
        assert training.says(1) == [OLD]
        training.mend_all()
        assert training.next() == [OLD, OLD]
        training.reloaded()
        assert training.next() == [NEW, NEW]


LOADER = """
import json, sys
import torch
import spark_fast as spark
import helper

class Images(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return index, "script 1", helper.word()

if __name__ == "__main__":
    loader = spark.persist("loader", lambda: torch.utils.data.DataLoader(
        Images(), batch_size=None, num_workers=1, multiprocessing_context=sys.argv[1]))
    for epoch in spark.track(range(10**6), key="epoch"):
        print(json.dumps([list(words) for words in spark.track(loader, key="batch")]), flush=True)
"""


@pytest.mark.timeout(200)
@pytest.mark.tier("all")  # each worker process imports torch
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_the_workers_of_a_data_loader_outlive_broken_files_and_run_new_code(tmp_path: Path, method: str) -> None:
    def batches(version: int) -> list[object]:
        return [[index, f"script {version}", f"helper {version}"] for index in range(2)]

    with Spawning(tmp_path, method, LOADER) as training:
        assert training.says(1, deadline=60) == [batches(1)]
        training.break_all()
        assert training.says(3, len(training.said), deadline=60)[1:] == [batches(1), batches(1)]
        training.mend_all()
        training.reloaded(timeout=60)
        assert training.says(4, len(training.said), deadline=60)[2:] == [batches(2), batches(2)]
