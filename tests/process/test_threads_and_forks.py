"""What other threads, signal handlers, forks and a lack of descriptors may do in the middle of it."""

import errno
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from spark_fast import client, stderr
from spark_fast.runfiles import homes, private_files, run_folder
from spark_fast.ui import polling, request_cache
from spark_fast.worker.state.persist import Persisted
from tests.support.child import DEADLINE, LOOP, Child, until
from tests.support.reloading import Edited

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

EXPOSING = LOOP.replace("while", "spark.expose(lr=0.5)\nwhile", 1)


@contextmanager
def home_locked() -> Iterator[None]:
    """Somebody makes or removes runs: those that want to must wait."""
    with homes.opened_homes(create=True) as found, run_folder.locked_home(found[0], DEADLINE):
        yield


def sleeps(pid: int) -> bool:
    """Whether the main thread waits for something."""
    return bool(psutil.Process(pid).status() == psutil.STATUS_SLEEPING)


def waits_for_home(pid: int) -> bool:
    """Whether it waits until home_locked() is over."""
    files = [Path(file.path).name for file in psutil.Process(pid).open_files()]
    return run_folder.HOME_LOCK in files and sleeps(pid)


@contextmanager
def no_descriptor_for(name: str) -> Iterator[None]:
    """Within it, there is none left for files of this name."""
    real = os.open

    def short(path: Any, *args: Any, **options: Any) -> int:
        if path == name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), name)
        return real(path, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", short)
        yield


def controls(folder: Path, code: str) -> None:
    """Runs a controller of EXPOSING, which is to end well and without a word."""
    with Child(folder, EXPOSING) as child:
        child.run()
        with Child(folder, code, name=None) as controller:
            assert controller.ended() == 0, controller.err
            assert not controller.err


# --- threads, while code is replaced ---

PREFETCH = """
import threading, time
import spark_fast as spark

kept = spark.persist("kept", dict)

def prefetch():
    stop = threading.Event()
    def fill():
        while not stop.is_set():
            spark.checkpoint()
            time.sleep(0.001)
        spark.checkpoint()
    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        while True:
            yield
    finally:
        stop.set()
        thread.join()
"""

LEFT = {
    "by a function": """
        def train():
            batches = prefetch()
            for _ in batches:
                spark.checkpoint()
                time.sleep(0.001)
        train()
        """,
    "by the script": """
        batches = prefetch()
        for _ in batches:
            spark.checkpoint()
            time.sleep(0.001)
        """,
}


@pytest.mark.parametrize("loop", LEFT)
def test_a_reload_leaves_a_generator_that_joins_a_thread_which_passes_checkpoints(tmp_path: Path, loop: str) -> None:
    with Edited(tmp_path, PREFETCH + textwrap.dedent(LEFT[loop])) as training:
        run = training.run()
        for count in range(4):
            training.steps_on(run)
            training.edit("import threading", f"# edit {count}\nimport threading")
            training.reloaded()
        training.steps_on(run)


def test_a_loop_is_left_whose_iterator_joins_a_thread_that_leaves_a_loop_of_its_own(tmp_path: Path) -> None:
    code = """
    import itertools, threading
    import spark_fast as spark
    class Batches:
        def __iter__(self):
            began, stop = threading.Event(), threading.Event()
            def fill():
                for _ in spark.track(itertools.count(), key="fill"):
                    began.set()
                    if stop.is_set():
                        break
            thread = threading.Thread(target=fill, daemon=True)
            thread.start()
            began.wait()
            try:
                while True:
                    yield
            finally:
                stop.set()
                thread.join()
    for _ in spark.track(Batches(), key="batch"):
        break
    print("left")
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "left\n"


JOINED = """
import threading, time
import spark_fast as spark
from spark_fast.worker.slow_path import checkpoint as slow_path
slow_path._PATIENCE = 0.5
def loop():
    while True:
        spark.checkpoint()
        time.sleep(0.001)
thread = threading.Thread(target=loop)
thread.start()
"""
"""The script's thread passes no checkpoint: it waits for the one that does, or has ended."""


def test_a_reload_that_the_scripts_thread_does_not_come_for_holds_up_no_resume(tmp_path: Path) -> None:
    with Edited(tmp_path, JOINED + "thread.join()") as training:
        run = training.run()
        assert run.pause(timeout=10).fate.state == "applied"
        training.edit("import threading", "# edited\nimport threading")
        reload = training.reload(wait=False)
        assert run.resume(timeout=10).fate.state == "applied"
        training.steps_on(run)
        assert reload.fate.state == "refused"
        assert "the thread that runs the script passed no checkpoint" in (reload.fate.reason or "")


def test_a_reload_that_the_scripts_thread_does_not_come_for_holds_up_no_stop(tmp_path: Path) -> None:
    code = JOINED.replace("= 0.5", "= 10.0**9") + "thread.join()"
    with Edited(tmp_path, code) as training:
        run = training.run()
        training.edit("import threading", "# edited\nimport threading")
        reload = training.reload(wait=False)
        training.steps_on(run)
        assert reload.fate.state == "asked"
        assert run.stop(timeout=10).fate.state == "applied"
        assert training.ended() == 0, training.err
        assert reload.fate.state == "refused"


def test_threads_that_outlive_the_script_refuse_reloads(tmp_path: Path) -> None:
    with Edited(tmp_path, JOINED.replace("= 0.5", "= 10.0**9")) as training:
        run = training.run()
        training.steps_on(run)
        training.edit("import threading", "# edited\nimport threading")
        fate = training.reload(timeout=10).fate
        assert fate.state == "refused" and "this process can't leave its loop" in (fate.reason or "")
        assert run.pause(timeout=10).fate.state == "applied"


TRAINER = """
class Trainer:
    def __init__(self):
        self.stop, self.comes = stop, comes = threading.Event(), threading.Event()
        def work():
            while not stop.is_set():
                comes.set()
                spark.checkpoint(collective=False)
        self.thread = threading.Thread(target=work, daemon=True)
        self.thread.start()
    def evaluate(self):
        return 1
    def __del__(self):
        self.comes.clear()
        self.comes.wait()
        self.stop.set()
        self.thread.join()
trainer = Trainer()
spark.expose(evaluate=trainer.evaluate)
"""


def test_what_failed_code_has_exposed_may_join_a_thread_that_passes_checkpoints_as_it_goes(tmp_path: Path) -> None:
    code = """
    import threading, time
    import spark_fast as spark
    spark.expose(lr=0.1)
    # here
    for number in spark.track(range(10**9), key="number"):
        time.sleep(0.001)
        # there
    """
    with Edited(tmp_path, code) as training:
        run = training.run()
        training.steps_on(run)
        training.edit("# here", TRAINER)
        training.edit("# there", "raise ValueError")
        assert training.reload().fate.state == "failed"
        training.steps_on(run)


def test_an_item_goes_where_no_lock_is_held(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    from spark_fast.worker.state import loops as places
    class Item:
        def __del__(self):
            print(places._lock._is_owned(), flush=True)
    def items():
        yield Item()
        yield None
    loop = iter(spark.track(items(), key="item"))
    next(loop)
    del loop
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "False\n"


def test_what_another_thread_persists_while_it_is_put_back_does_no_harm() -> None:
    class Key(str):
        def __hash__(self) -> int:
            persisted._values.setdefault(f"another {len(persisted._values)}", 0)
            return super().__hash__()

    persisted = Persisted()
    persisted._values[Key("model")] = 0
    persisted.restore({"optim": 1})
    assert persisted.get("optim", int) == 1 and not persisted.has("model")


def test_a_value_that_is_forgotten_as_it_is_made_is_returned_all_the_same() -> None:
    class Forgetful(dict[str, object]):
        def __setitem__(self, key: str, value: object) -> None:
            pass

    persisted = Persisted()
    persisted._values = Forgetful()
    assert persisted.get("model", lambda: "made") == "made"


def test_a_task_whose_executor_is_busy_for_good_is_resumed(tmp_path: Path) -> None:
    code = """
    import asyncio, queue
    from concurrent.futures import ThreadPoolExecutor
    import spark_fast as spark
    batches = queue.Queue(1)
    def produce():
        while True:
            batches.put(0)
    async def main():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        producing = asyncio.create_task(asyncio.to_thread(produce))
        while True:
            await spark.checkpoint_async()
            await asyncio.sleep(0.001)
            if not batches.empty():
                batches.get()
    asyncio.run(main())
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        child.steps_on(run)
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.resume(timeout=10).fate.state == "applied"
        child.steps_on(run)


@pytest.mark.parametrize("space", ["vars(helper)", "sys.modules"])
def test_new_code_is_taken_back_while_other_threads_bind_names_and_import(tmp_path: Path, space: str) -> None:
    # What another thread may do in the middle of a look at all names happens here when a certain one is looked up.
    code = f"""
    import sys, types
    import helper
    import spark_fast as spark

    class Name(str):
        def __hash__(self):
            if {space}.pop("coming_and_going", None) is None:
                {space}["coming_and_going"] = types.ModuleType("coming_and_going")
            return super().__hash__()

    {space}[Name("late")] = types.ModuleType("late")
    for _ in spark.track(range(10**9), key="number"):
        helper.work()
    """
    with Edited(tmp_path, code, modules={"helper.py": "import time\ndef work():\n    time.sleep(0.001)\n"}) as training:
        run = training.run()
        training.edit("time.sleep(0.001)", "1 / 0", "helper.py")
        request = training.reload()
        assert request.fate.state == "failed"
        assert "ZeroDivisionError" in request.fate.reason
        training.edit("1 / 0", "time.sleep(0.002)", "helper.py")
        training.reloaded()
        training.steps_on(run)


def test_a_value_that_is_assigned_while_new_code_is_taken_back_is_there_throughout(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    from spark_fast.worker.state import registry as exposing
    state = spark.expose(loss=0.0)
    spark.checkpoint()

    class Assigning(dict):
        def __iter__(self):
            return super().__iter__()
        def keys(self):
            state.loss = 1.0
            return super().keys()
        def items(self):
            state.loss = 1.0
            return super().items()

    when, values, *names = exposing.current.snapshot()
    spark.expose(more=1.0)
    exposing.current.restore((when, values, *map(Assigning, names)))
    print(exposing.current.listed("value"))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "['loss']\n"


def test_a_value_that_is_assigned_while_new_code_drops_it_is_assigned_to_nobody(tmp_path: Path) -> None:
    code = """
    import spark_fast as spark
    from spark_fast.worker.state import registry as exposing
    state = spark.expose(card={"layers": 1})
    spark.checkpoint()

    class Dropped(dict):
        def items(self):
            exposing.current.expect_again(["__main__"])
            exposing.current.commit()
            return super().items()

    state.card = Dropped(layers=2)
    print(exposing.current.listed("value"))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "[]\n"


def test_of_two_threads_that_change_what_is_exposed_the_last_to_describe_it_is_believed(tmp_path: Path) -> None:
    code = """
    import threading, time
    import spark_fast as spark
    from spark_fast.worker.state import registry as exposing
    state = spark.expose(loss=0.0)
    spark.checkpoint()
    write, began, overtaken = exposing.write, threading.Event(), threading.Event()

    def slow(descriptor, exposures):
        if threading.current_thread() is not threading.main_thread():
            began.set()
            overtaken.wait(0.5)
        write(descriptor, exposures)

    exposing.write = slow
    thread = threading.Thread(target=setattr, args=(state, "loss", "none yet"))
    thread.start()
    began.wait()
    spark.expose(more=1.0)
    overtaken.set()
    thread.join()
    print("described", flush=True)
    while True:
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        until(lambda: child.out == "described\n", child.err)
        assert sorted(run.values) == ["loss", "more"]
        assert run.values["loss"].value == "none yet"


def test_a_controller_and_a_checkpoint_in_two_threads_make_the_run_together(tmp_path: Path) -> None:
    code = """
    import os, threading
    import spark_fast as spark
    from spark_fast.worker import process
    controller = spark.create_controller()
    attach, attach_lock = process.attach, process.attach_lock
    comes, holds = threading.Event(), threading.Event()

    class Noted:
        def __enter__(self):
            attach_lock.acquire()
            if threading.current_thread() is threading.main_thread():
                holds.set()

        def __exit__(self, *_):
            attach_lock.release()

    def noted(**options):
        if threading.current_thread() is not threading.main_thread():
            comes.set()
            holds.wait()
        return attach(**options)

    process.attach, process.attach_lock = noted, Noted()
    thread = threading.Thread(target=spark.checkpoint)
    thread.start()
    comes.wait()
    print(controller.resume().state, flush=True)
    thread.join()
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "applied\n"


def test_a_signal_handler_may_pass_the_first_checkpoint_in_the_middle_of_an_expose(tmp_path: Path) -> None:
    code = """
    import signal, threading
    import spark_fast as spark
    from spark_fast import _core
    from spark_fast.worker.state import registry as exposing; from spark_fast.worker import process
    expose, connect, attach_lock = exposing.current._expose_value, exposing.current.connect, _core.attach_lock
    main = threading.main_thread()
    asks = threading.Event()

    class Noted:
        def acquire(self):
            if threading.current_thread() is not main and not attach_lock._is_owned() and main_holds():
                asks.set()
            attach_lock.acquire()

        def release(self):
            attach_lock.release()

        def __enter__(self):
            self.acquire()

        def __exit__(self, *_):
            self.release()

    def main_holds():
        if attach_lock.acquire(blocking=False):
            attach_lock.release()
            return False
        return True

    def connecting(place):
        if threading.current_thread() is not main:
            asks.set()
        connect(place)

    def interrupted(*exposed):
        thread.start()
        asks.wait()
        signal.raise_signal(signal.SIGUSR1)
        expose(*exposed)

    exposing.current._expose_value, exposing.current.connect = interrupted, connecting
    exposing.attach_lock = process.attach_lock = _core.attach_lock = Noted()
    signal.signal(signal.SIGUSR1, lambda *_: spark.checkpoint())
    thread = threading.Thread(target=spark.checkpoint)
    spark.expose(answer=42)
    thread.join()
    print("exposed", flush=True)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "exposed\n"


# --- signals ---


def test_after_an_interrupt_of_the_first_checkpoint_a_forked_child_has_all_its_descriptors(tmp_path: Path) -> None:
    code = """
    import os, sys
    import spark_fast as spark
    try:
        spark.checkpoint()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    files = [open(os.devnull) for _ in range(6)]
    pid = os.fork()
    if pid == 0:
        for file in files:
            os.fstat(file.fileno())
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    with Child(tmp_path, code) as child:
        with home_locked():
            until(lambda: waits_for_home(child.pid), child.err)
            os.kill(child.pid, signal.SIGINT)
        assert child.ended() == 0, child.err
        assert child.out == "interrupted\n"


@pytest.mark.parametrize("module", ["spark_fast.worker.slow_path.checkpoint", "spark_fast.worker.slow_path.dispatch"])
@pytest.mark.parametrize("use", ["spark.checkpoint()", "spark.on_pause"])
def test_a_signal_handler_may_pass_a_checkpoint_while_the_first_one_is_imported(
    tmp_path: Path, module: str, use: str
) -> None:
    code = f"""
    import signal, sys
    import spark_fast as spark
    class Signalling:
        def find_spec(self, name, path=None, target=None):
            if name == {module!r}:
                signal.raise_signal(signal.SIGUSR1)
    sys.meta_path.insert(0, Signalling())
    signal.signal(signal.SIGUSR1, lambda *_: (spark.checkpoint(), print("handled", flush=True)))
    {use}
    spark.checkpoint()
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "handled\n"
        assert client.attach("test").status == "finished"


def test_a_signal_handler_may_pass_a_checkpoint_while_the_first_one_makes_the_run(tmp_path: Path) -> None:
    code = """
    import signal
    import spark_fast as spark
    from spark_fast.worker.lifecycle import join
    controller = spark.create_controller()
    make = join.make_run
    def interrupted(*args, **options):
        signal.raise_signal(signal.SIGUSR1)
        return make(*args, **options)
    join.make_run = interrupted
    signal.signal(signal.SIGUSR1, lambda *_: (spark.checkpoint(), print(controller.stop().state, flush=True)))
    spark.checkpoint()
    spark.checkpoint()
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "refused\n"
        assert [run.id for run in client.runs()] == ["test"]
        assert client.attach("test").step == 3


def test_what_is_to_be_said_while_standard_error_is_written_to_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    class Busy:
        def write(self, text: str) -> None:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    monkeypatch.setattr(sys, "stderr", Busy())
    stderr.say("here")
    assert capfd.readouterr().err == "spark_fast: here\n"


def test_a_signal_handler_may_persist_in_the_middle_of_a_persist(tmp_path: Path) -> None:
    code = """
    import itertools, signal
    import spark_fast as spark
    numbers = itertools.count()

    class Interrupted(str):
        def __hash__(self):
            signal.raise_signal(signal.SIGUSR1)
            return super().__hash__()

    signal.signal(signal.SIGUSR1, lambda *_: spark.persist(f"handler's {next(numbers)}", dict))
    spark.persist(Interrupted("model"), dict)
    print(next(numbers) > 2)
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err
        assert child.out == "True\n"


def test_an_interrupt_while_a_folder_is_opened_closes_no_file_of_another_thread(tmp_path: Path) -> None:
    with open(os.devnull) as other, pytest.MonkeyPatch.context() as patch:
        taken: list[int] = []

        class Interrupted:
            """os, as this module alone sees it: other threads of the tests close files, too."""

            def __getattr__(self, name: str) -> Any:
                return getattr(os, name)

            def close(self, fd: int) -> None:
                os.close(fd)
                if not taken:
                    taken.append(os.dup2(other.fileno(), fd))
                    raise KeyboardInterrupt

        patch.setattr(private_files, "os", Interrupted())
        with pytest.raises(KeyboardInterrupt), private_files.opened(tmp_path, "inner", create=True):
            pass
    os.fstat(taken[0])
    os.close(taken[0])


# --- forks ---


def test_a_child_that_is_forked_while_another_thread_makes_the_run_comes_through_its_checkpoints(
    tmp_path: Path,
) -> None:
    code = """
    import os, sys, threading, time
    import spark_fast as spark
    from pathlib import Path
    thread = threading.Thread(target=spark.checkpoint)
    thread.start()
    while not Path(__file__ + ".go").exists():
        time.sleep(0.001)
    print("forks", flush=True)
    pid = os.fork()
    if pid == 0:
        spark.checkpoint()
        spark.checkpoint()
        os._exit(0)
    thread.join()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    with Child(tmp_path, code) as child:
        with home_locked():
            until(lambda: waits_for_home(child.pid), child.err)
            child.go()
            until(lambda: child.out == "forks\n" and sleeps(child.pid), child.err)
        assert child.ended() == 0, child.err
        assert "test" in [run.id for run in client.runs()]


@pytest.mark.parametrize(
    "module",
    ["spark_fast.worker.slow_path.checkpoint", "spark_fast.worker.state.registry", "spark_fast.worker.state.tensors"],
)
@pytest.mark.parametrize("use", ["spark.checkpoint()", "spark.expose"])
def test_a_child_that_is_forked_while_another_thread_imports_for_its_checkpoint_comes_through_its_own(
    tmp_path: Path, module: str, use: str
) -> None:
    code = f"""
    import os, sys, threading
    import spark_fast as spark
    importing, forked = threading.Event(), threading.Event()

    class Slow:
        def find_spec(self, name, path=None, target=None):
            if name == {module!r}:
                importing.set()
                forked.wait(0.5)

    sys.modules.pop({module!r}, None)
    sys.meta_path.insert(0, Slow())
    thread = threading.Thread(target=lambda: {use})
    thread.start()
    importing.wait()
    pid = os.fork()
    if pid == 0:
        spark.checkpoint()
        os._exit(0)
    forked.set()
    thread.join()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err


def test_a_child_that_is_forked_while_another_thread_writes_to_standard_error_passes_its_checkpoint(
    tmp_path: Path,
) -> None:
    code = """
    import io, os, sys, threading
    import spark_fast as spark
    writing, forked = threading.Event(), threading.Event()

    class Slow(io.RawIOBase):
        def writable(self):
            return True
        def write(self, content):
            writing.set()
            forked.wait()
            return len(content)

    sys.stderr = io.TextIOWrapper(io.BufferedWriter(Slow()), line_buffering=True)
    thread = threading.Thread(target=print, args=("a line",), kwargs={"file": sys.stderr})
    thread.start()
    writing.wait()
    pid = os.fork()
    if pid == 0:
        spark.checkpoint()
        os._exit(0)
    forked.set()
    thread.join()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == 0, child.err


# --- descriptors ---


def _claim() -> None:
    with run_folder.claim("test", ["python"], "0"):
        pass


@pytest.mark.parametrize("look", [client.remove_ended, _claim], ids=["gc", "a new run"])
def test_a_living_run_that_cannot_be_looked_at_for_want_of_descriptors_keeps_its_folder(
    tmp_path: Path, home: Path, look: Callable[[], object]
) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        files = sorted(os.listdir(home / "test"))
        with no_descriptor_for(run_folder.CONTROL), suppress(OSError):
            look()
        assert sorted(os.listdir(home / "test")) == files
        assert client.remove_ended() == []
        assert client.attach("test").pause(timeout=10).fate.state == "applied"
        assert run.status == "paused"


def test_the_server_shows_a_run_that_it_could_not_open_for_want_of_descriptors_once_it_can(
    tmp_path: Path, home: Path
) -> None:
    with Child(tmp_path) as child:
        child.run()
        until(lambda: polling._signature(str(home / "test")), "a folder that was not changed just now")
        folders = polling._Folders()
        with no_descriptor_for(run_folder.CONTROL):
            folders.look()
        assert not folders.seen
        folders.look()
        assert list(folders.seen) == ["test"]


def test_runs_that_the_server_lets_go_of_are_not_kept_open_by_requests_that_it_remembers(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_cache, "_RUNS", 1)
    memory = request_cache.RequestCache()
    with Child(tmp_path, EXPOSING) as child:
        child.run()
        shutil.copytree(home / "test", home / "other")
        run = memory.run("test")
        assert run is not None
        request = run.pause(timeout=10)
        assert run.values["lr"].value == 0.5
        memory.keep(request, None)
        assert memory.run("other") is not None
        assert run._connection._segment is None
        assert run._board._file is None
        assert memory.request("test", request.id) is request
        assert request.fate.state == "applied"
        assert run.values["lr"].value == 0.5
        assert run.resume(timeout=10).fate.state == "applied"


COPIES = pytest.mark.parametrize(
    "copied",
    ["copy.copy({})", "copy.deepcopy({})", "pickle.loads(pickle.dumps({}))"],
    ids=["copy", "deepcopy", "pickle"],
)


@COPIES
def test_a_copy_of_a_run_is_as_good_as_the_original_and_leaves_it_usable(tmp_path: Path, copied: str) -> None:
    code = f"""
    import copy, gc, pickle
    from spark_fast import client
    run = client.attach("test")
    for _ in range(2):
        other = {copied.format("run")}
        assert other.pause(timeout=10).fate.state == "applied"
        assert other.values["lr"].value == 0.5
        assert (other.id, other.status, other.step) == (run.id, "paused", run.step)
        del other
        gc.collect()
        assert run.status == "paused"
        assert run.values["lr"].value == 0.5
        assert run.resume(timeout=10).fate.state == "applied"
    """
    controls(tmp_path, code)


@COPIES
def test_a_copy_of_what_use_returned_is_as_good_as_the_original_and_leaves_it_usable(
    tmp_path: Path, copied: str
) -> None:
    code = f"""
    import copy, gc, pickle
    from spark_fast import client
    used = client.use("test")
    for lr in (0.25, 0.125):
        other = {copied.format("used")}
        other.lr = lr
        assert used.lr == lr
        del other
        gc.collect()
        used.lr = 0.5
        assert used.lr == 0.5
    """
    controls(tmp_path, code)
