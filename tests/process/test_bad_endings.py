"""Processes killed at any point, control files that somebody else destroyed: the training goes on, and nobody lies."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import spark_fast
from spark_fast import _core, client
from tests.support.child import GATED, LOOP, Child, outcome, until

pytestmark = pytest.mark.process

KILLED = -signal.SIGKILL

# --- the worker ---


@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
def test_a_killed_worker_is_lost_at_the_next_look_and_its_name_is_free_again(tmp_path: Path, parked: bool) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        if parked:
            run.pause(timeout=10)
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        assert run.status == "lost"
        assert client.attach("test").status == "lost"
        assert outcome(run.resume, timeout=5).fate.state == "refused"
    assert client.remove_ended() == ["test"]
    assert client.runs() == []
    with Child(tmp_path) as child:
        child.steps_on(child.run())


def test_the_name_of_a_dead_run_is_free_without_cleaning_up(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        child.run()
        child.process.kill()
        child.ended()
    with Child(tmp_path) as child:
        child.run()
        assert "living run" not in child.err


def test_a_sender_that_waits_is_told_when_the_worker_is_killed(tmp_path: Path) -> None:
    code = "import time\nimport spark_fast as spark\nspark.checkpoint()\ntime.sleep(600)\n"
    with Child(tmp_path, code) as child:
        request = child.run().pause(wait=False)
        os.kill(child.pid, signal.SIGKILL)
        fate = request.wait(timeout=5)
        assert fate.state == "lost"
        assert "lost" in fate.reason


ATTACH_POINTS = [
    "claim:folder", "claim:about", "create:opened", "create:filled", "create:renamed", "attach:filled", "attach:done",
]  # fmt: skip


@pytest.mark.parametrize("point", ATTACH_POINTS)
def test_a_worker_killed_while_attaching_leaves_nothing_that_stands_in_the_way(tmp_path: Path, point: str) -> None:
    code = f"""
    import spark_fast as spark
    from spark_fast import _core
    _core.arm_point({point!r})
    spark.checkpoint()
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == KILLED
    for run in client.runs():
        assert run.status == "lost"
    with Child(tmp_path) as child:
        run = child.run()
        assert run.pause(timeout=10).fate.state == "applied"
        assert client.remove_ended() == []
    assert client.remove_ended() == ["test"]


LOOP_KILLED_AT = """
import time
import spark_fast as spark
from spark_fast import _core
spark.checkpoint()
_core.arm_point({point!r})
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


@pytest.mark.parametrize("point", ["turn:folded", "turn:applied", "park:published", "park:waiting"])
def test_a_worker_killed_while_it_applies_a_pause_is_lost_and_the_sender_learns_what_came_of_it(
    tmp_path: Path, point: str
) -> None:
    with Child(tmp_path, LOOP_KILLED_AT.format(point=point)) as child:
        run = child.run()
        request = run.pause(wait=False)
        assert child.ended() == KILLED
        fate = request.wait(timeout=5)
        assert run.status == "lost"
        # It had told that it was parked only at the last of these points.
        assert fate.state == ("applied" if point == "park:waiting" else "lost")


@pytest.mark.parametrize("point", ["turn:met", "turn:settled"])
def test_a_worker_killed_while_it_decides_for_a_suspended_sender_is_lost_for_that_sender_too(
    tmp_path: Path, point: str
) -> None:
    with Child(tmp_path, LOOP_KILLED_AT.format(point=point)) as child, _suspended_sender(tmp_path) as sender:
        [run] = until(client.runs)
        assert child.ended() == KILLED
        os.kill(sender.pid, signal.SIGCONT)
        assert sender.ended() == 0
        assert sender.out.strip() == "lost"
        assert run.status == "lost"


def _suspended_sender(folder: Path, what: str = "pause", point: str = "decide:signalled") -> Child:
    """A sender that has published its request and stands still before it decides the target."""
    code = f"""
    import signal
    from spark_fast import _core, client
    from tests.support.child import until
    until(lambda: [run for run in client.runs() if run.step > 0])
    _core.arm_point({point!r}, signal.SIGSTOP)
    print(client.attach('test').{what}(wait=False).wait().state)
    """
    return Child(folder, code, name=None, PYTHONPATH=os.getcwd())


def test_a_loop_decides_the_request_of_a_suspended_sender_by_itself(tmp_path: Path) -> None:
    with Child(tmp_path) as child, _suspended_sender(tmp_path) as sender:
        run = child.run()
        assert run.wait("paused", timeout=10) == "paused"
        os.kill(sender.pid, signal.SIGCONT)
        assert sender.ended() == 0
        assert sender.out.strip() == "applied"


# --- the sender ---

APPEND_POINTS = [
    "append:opened", "append:locked", "append:voided", "append:written", "append:published", "decide:signalled",
    "append:decided", "append:unlocked",
]  # fmt: skip


def _sender_killed_at(tmp_path: Path, point: str, what: str) -> None:
    code = (
        f"from spark_fast import _core, client\nrun = client.attach('test')\n_core.arm_point({point!r})\nrun.{what}()"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, check=False)
    assert done.returncode == KILLED, done.stderr.decode()


@pytest.mark.parametrize("point", APPEND_POINTS)
@pytest.mark.parametrize("what", ["pause", "resume", "stop"])
def test_a_sender_killed_at_any_point_leaves_a_request_that_is_wholly_applied_or_not_at_all(
    tmp_path: Path, what: str, point: str
) -> None:
    before = what == "resume" or point == "append:voided"  # there has to be an entry before it
    with Child(tmp_path) as child:
        run = child.run()
        if before:
            run.pause(timeout=10)
        if before and what != "resume":
            run.resume(timeout=10)
        entries = len(run.requests)
        _sender_killed_at(tmp_path, point, what)
        added = run.requests[entries:]
        assert len(added) == (1 if point in APPEND_POINTS[4:] else 0)
        if what == "stop" and added and added[0].wait(5).state != "void":
            child.ended()
            assert run.wait("stopped", timeout=5) == "stopped"
            return
        # The next controller finds a run that obeys.
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.status == "paused"
        assert run.advance(2, timeout=10).fate.state == "applied"
        assert run.resume(timeout=10).fate.state == "applied"
        child.steps_on(run)
        if added:
            assert added[0].fate.state in ("void", "applied", "superseded")


def test_a_request_whose_sender_died_before_anybody_saw_it_is_void_however_late_it_is_seen(
    tmp_path: Path,
) -> None:
    with Child(tmp_path, GATED) as child:
        run = child.run()
        _sender_killed_at(tmp_path, "decide:signalled", "stop")
        with (run.folder / "control").open("rb") as control:

            def target() -> object:
                entry = _core.read_entry(control.fileno(), 1)
                return entry and entry["target"]

            assert target() == _core.TARGET_NONE
            assert run.status == "running"
            child.go()
            until(lambda: target() == _core.TARGET_VOID)
        assert run.requests[0].fate.state == "void"
        child.steps_on(run)


def test_whoever_asks_for_the_fate_of_a_dead_senders_request_learns_that_it_is_void(tmp_path: Path) -> None:
    code = "import time\nimport spark_fast as spark\nspark.checkpoint()\ntime.sleep(600)\n"
    with Child(tmp_path, code) as child:
        run = child.run()
        _sender_killed_at(tmp_path, "append:published", "pause")
        assert run.status == "running"
        assert run.requests[0].fate.state == "void"


def test_a_suspended_sender_holds_up_other_senders_for_a_bounded_time_and_the_loop_not_at_all(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        code = """
        import fcntl, os, struct, time
        from spark_fast import client
        fd = os.open(client.attach("test").folder / "control", os.O_RDWR)
        lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 4096, 100, 0)
        fcntl.fcntl(fd, 37, lock)  # F_OFD_SETLK, on the log
        print("locked", flush=True)
        time.sleep(600)
        """
        with Child(tmp_path, code, name=None) as holder:
            until(lambda: "locked" in holder.out, holder.err)
            with pytest.raises(client.SegmentError, match="another sender"):
                run.pause(timeout=0.3)
            child.steps_on(run)
        assert run.pause(timeout=10).fate.state == "applied"


# --- the control file ---


def _noise(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes((7 * number + 13) % 251 for number in range(size)))


def _zeros(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(bytes(size))


def _folder_removed(path: Path) -> None:
    shutil.rmtree(path.parent)


DAMAGE = {
    "deleted": Path.unlink,
    "folder removed": _folder_removed,
    "emptied": lambda path: os.truncate(path, 0),
    "cut in the header": lambda path: os.truncate(path, 100),
    "cut after the header": lambda path: os.truncate(path, 4096),
    "cut in the log": lambda path: os.truncate(path, 20000),
    "cut in the slot's page": lambda path: os.truncate(path, 34816 + 20),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "noise": _noise,
    "zeros": _zeros,
}


@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_control_file_costs_the_control_and_not_the_training(
    tmp_path: Path, damage: str, parked: bool
) -> None:
    code = """
    import faulthandler, time
    import spark_fast as spark
    from pathlib import Path
    while not Path(__file__ + ".end").exists():
        spark.checkpoint()
        Path(__file__ + ".steps").open("a").write(".")
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        steps = Path(f"{child.script}.steps")
        until(steps.exists)
        if parked:
            run.pause(timeout=10)
        DAMAGE[damage](run.folder / "control")
        size = steps.stat().st_size
        until(lambda: steps.stat().st_size > size + 20, child.err)
        if damage not in ("deleted", "folder removed"):
            assert run.status == "lost"
        Path(f"{child.script}.end").touch()
        assert child.ended() == 0
        warnings = [line for line in child.err.splitlines() if "warning" in line]
        assert len(warnings) == 1, child.err
        assert "lost" in warnings[0]


def test_a_cut_control_file_does_not_end_a_process_that_uses_faulthandler(tmp_path: Path) -> None:
    code = """
    import faulthandler, time
    import spark_fast as spark
    from pathlib import Path
    spark.checkpoint()
    faulthandler.enable()
    while not Path(__file__ + ".end").exists():
        spark.checkpoint()
        time.sleep(0.001)
    """
    with Child(tmp_path, code) as child:
        run = child.run()
        child.steps_on(run)
        os.truncate(run.folder / "control", 0)
        until(lambda: "control of run test is lost" in child.err, child.err)
        Path(f"{child.script}.end").touch()
        assert child.ended() == 0


def test_a_fault_that_is_not_ours_still_ends_the_process(tmp_path: Path) -> None:
    code = """
    import mmap, os
    import spark_fast as spark
    spark.checkpoint()
    fd = os.open(__file__ + ".map", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4096)
    view = mmap.mmap(fd, 4096)
    os.ftruncate(fd, 0)
    view[0]
    """
    with Child(tmp_path, code) as child:
        assert child.ended() == -signal.SIGBUS


def test_a_controller_survives_a_control_file_that_is_cut_under_it(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        run.pause(timeout=10)
        os.truncate(run.folder / "control", 0)
        assert run.status == "lost"
        assert outcome(run.resume, timeout=5).fate.state == "refused"
        with pytest.raises(client.SegmentError, match="control"):
            client.attach("test")


# --- at creation ---

UNCONTROLLED = """
import spark_fast as spark
for _ in range(1000):
    spark.checkpoint()
print(spark.create_controller().status, spark.create_controller().pause())
"""


def _uncontrolled(child: Child, why: str) -> None:
    assert child.ended() == 0
    assert child.out.startswith("idle refused")
    warnings = [line for line in child.err.splitlines() if "warning" in line]
    assert len(warnings) == 1, child.err
    assert "can't be controlled" in warnings[0]
    assert why in warnings[0]


def test_a_full_disk_at_the_start_means_a_warning_and_an_uncontrolled_run(tmp_path: Path, home: Path) -> None:
    home.mkdir(mode=0o700)
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n" + UNCONTROLLED
    with Child(tmp_path, code) as child:
        _uncontrolled(child, "File too large")
    assert os.listdir(home) == [".lock"]


def test_a_home_that_can_not_be_made_means_a_warning_and_an_uncontrolled_run(tmp_path: Path) -> None:
    with Child(tmp_path, UNCONTROLLED, SPARK_FAST_HOME="/proc/nowhere/home") as child:
        _uncontrolled(child, "/proc/nowhere/home")


def test_a_home_that_others_may_enter_is_refused_with_what_was_found_and_what_to_do(tmp_path: Path, home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    with Child(tmp_path, UNCONTROLLED) as child:
        _uncontrolled(child, f"mode 0755; others could read it or ask for things: chmod 700 {home}")
    with pytest.raises(client.FolderRefusedError, match="0755"):
        client.runs()


def test_a_link_in_the_place_of_the_home_is_refused(tmp_path: Path, home: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    home.symlink_to(tmp_path / "elsewhere")
    with Child(tmp_path, UNCONTROLLED) as child:
        _uncontrolled(child, "a symbolic link")
    with pytest.raises(client.FolderRefusedError, match="symbolic link"):
        client.attach("test")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_link_in_the_place_of_a_run_is_refused_and_not_followed(tmp_path: Path, home: Path) -> None:
    home.mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "elsewhere" / "precious").touch()
    (home / "test").symlink_to(tmp_path / "elsewhere")
    with Child(tmp_path, UNCONTROLLED) as child:
        _uncontrolled(child, "a symbolic link")
    with pytest.raises(client.FolderRefusedError, match="symbolic link"):
        client.attach("test")
    assert client.remove_ended() == []
    assert os.listdir(tmp_path / "elsewhere") == ["precious"]


def test_a_home_of_another_user_is_refused(tmp_path: Path, home: Path) -> None:
    """Needs no second account: this user is made to look like another one."""
    home.mkdir(mode=0o700)
    code = f"import os\nreal = os.geteuid()\nos.geteuid = lambda: real + 1\n{UNCONTROLLED}"
    with Child(tmp_path, code) as child:
        _uncontrolled(child, f"a folder of uid {os.geteuid()} with mode 0700")


def test_a_link_in_the_place_of_the_control_file_is_not_followed(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        control = run.folder / "control"
        control.rename(tmp_path / "moved")
        control.symlink_to(tmp_path / "moved")
        with pytest.raises(client.FolderRefusedError, match=f"{control}: found a symbolic link"):
            client.attach("test")
        assert client.runs() == []
        assert client.remove_ended() == []  # its worker lives, for all that can be told


# --- versions ---


def test_a_control_file_of_another_layout_is_an_error_that_names_both_versions(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        child.steps_on(run)  # in its first checkpoint it would notice, give up the control and go on without
        control = run.folder / "control"
        with control.open("r+b") as file:
            file.seek(8)
            file.write((77).to_bytes(4, "little"))
        message = rf"{control}: has layout 77, spark_fast .* has layout {_core.LAYOUT_VERSION}"
        with pytest.raises(client.LayoutError, match=message):
            client.attach("test")
        assert client.runs() == []
        assert client.remove_ended() == []  # its worker lives


def test_a_stale_binary_beside_newer_python_files_is_an_error_that_names_both_versions(tmp_path: Path) -> None:
    package = Path(_core.__file__).parent
    shutil.copytree(package, tmp_path / "spark_fast", ignore=shutil.ignore_patterns("__pycache__"))
    init = tmp_path / "spark_fast" / "__init__.py"
    init.write_text(init.read_text().replace(f'__version__ = "{spark_fast.__version__}"', '__version__ = "99.1"'))
    done = subprocess.run(
        [sys.executable, "-c", "import spark_fast"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "ImportError" in done.stderr
    assert f"is of version {_core.BUILD_VERSION} (layout {_core.LAYOUT_VERSION})" in done.stderr
    assert "are of version 99.1" in done.stderr


# --- names ---


def test_a_second_process_under_a_name_in_use_gets_another_name_and_says_so(tmp_path: Path) -> None:
    with Child(tmp_path) as first, Child(tmp_path, LOOP) as second:
        one = first.run()
        until(lambda: len(client.runs()) == 2)
        names = {run.id for run in client.runs()}
        assert names == {"test", "test-2"}
        told = "a living run is called 'test'; this one is called 'test-2'"
        until(lambda: told in first.err + second.err)
        one.pause(timeout=10)
        client.attach("test-2").pause(timeout=10)


def test_a_name_that_can_not_be_one_is_said_and_replaced(tmp_path: Path) -> None:
    with Child(tmp_path, SPARK_FAST_RUN="../evil") as child:
        until(lambda: len(client.runs()) == 1)
        assert "'../evil' can't be a name" in child.err
        child.steps_on(client.attach())


def test_removing_ended_runs_leaves_live_ones_alone(tmp_path: Path) -> None:
    with Child(tmp_path, name="dead") as dead, Child(tmp_path, name="live") as live:
        dead.run("dead")
        run = live.run("live")
        dead.process.kill()
        dead.ended()
        assert client.remove_ended() == ["dead"]
        assert [each.id for each in client.runs()] == ["live"]
        live.steps_on(run)


def test_a_run_of_another_machine_that_shares_the_folder_is_left_alone(tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        run = child.run()
        child.process.kill()
        child.ended()
    about = run.folder / "run.json"
    known = json.loads(about.read_text())
    # A container of this machine has another host name, and is this machine all the same.
    about.write_text(json.dumps(known | {"host": "container"}))
    assert client.attach("test").status == "lost"
    about.write_text(json.dumps(known | {"host": "node7", "boot": "another"}))
    with pytest.raises(client.SegmentError, match="a run of the machine node7: control it there"):
        client.attach("test")
    assert client.runs() == []
    assert client.remove_ended() == []
    with Child(tmp_path) as child:
        child.run("test-2")
