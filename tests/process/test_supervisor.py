"""`spark-fast run` and its child: whatever happens to one of the two, the other does what is right."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from spark_fast import _core, client
from spark_fast.runfiles import supervisors
from tests.support.child import DEADLINE, LOOP, Child, kill, outcome, until

pytestmark = pytest.mark.process

RUN = ("-m", "spark_fast", "run")

STUCK = """
import time
import spark_fast as spark
spark.checkpoint()
print("in a long step", flush=True)
while True:
    time.sleep(0.01)
"""

COUNTING = """
import time
import spark_fast as spark
while True:
    spark.checkpoint()
    print("step", flush=True)
    time.sleep(0.002)
"""


def worker_of(name: str = "test") -> int:
    """The process of the run's worker."""
    return client.attach(name).ranks[0].pid


class Script(Child):
    """A supervisor with its worker."""

    def __init__(
        self, folder: Path, code: str = LOOP, *args: str, flags: tuple[str, ...] = (), name: str | None = "test"
    ) -> None:
        folder.mkdir(exist_ok=True)
        script = folder / "train.py"
        script.write_text(code)
        named = ("--name", name) if name is not None else ()
        super().__init__(folder, "", *flags, *RUN, *named, str(script), *args, name=None)

    def said(self) -> list[str]:
        """The lines of the supervisor itself."""
        return [line for line in self.err.splitlines() if line.startswith("spark-fast: ")]


# --- one process of the two is killed ---


def test_a_worker_trains_on_and_is_controlled_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    with Script(tmp_path, COUNTING) as child:
        run = child.run()
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        assert run.pause(timeout=10).fate.state == "applied"
        printed = len(child.out)
        assert run.resume(timeout=10).fate.state == "applied"
        until(lambda: len(child.out) > printed)
        run.stop(timeout=10)
        assert run.wait("stopped", timeout=10) == "stopped"


def test_a_worker_that_is_killed_is_told_with_run_step_and_a_hint_at_memory(tmp_path: Path) -> None:
    with Script(tmp_path, LOOP, name=None) as child:
        until(lambda: any(run.step > 2 for run in client.runs()), child.err)
        (run,) = client.runs()
        os.kill(run.ranks[0].pid, signal.SIGKILL)
        assert child.ended() == 137
        (line,) = child.said()
        assert line.startswith(f"spark-fast: the worker of run {run.id} was killed by SIGKILL at step {run.step}; ")
        assert "memory" in line
        assert run.status == "lost"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGUSR1, signal.SIGRTMIN + 3])
def test_the_supervisor_ends_by_the_signal_that_ended_the_worker(tmp_path: Path, number: int) -> None:
    with Script(tmp_path) as child:
        run = child.run()
        os.kill(run.ranks[0].pid, number)
        assert child.ended() == -number
        name = "signal 37" if number > signal.SIGRTMIN else signal.Signals(number).name
        assert child.said() == [f"spark-fast: the worker of run test was killed by {name} at step {run.step}"]


def test_a_worker_that_nothing_controls_is_watched_over_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARK_FAST", "0")
    with Script(tmp_path, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n") as child:
        assert child.ended() == 137
        assert child.said()[0].startswith("spark-fast: the worker was killed by SIGKILL; ")
    with Script(tmp_path, "raise SystemExit(5)\n") as child:
        assert child.ended() == 5
        assert child.err == ""


# --- what the two share ---


def test_the_worker_has_what_it_would_have_without_a_supervisor(tmp_path: Path) -> None:
    code = """
import json, os, signal, sys
pipes = [fd for fd in map(int, os.listdir("/proc/self/fd")) if fd > 2 and os.path.exists(f"/proc/self/fd/{fd}")
         and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:")]
print(json.dumps({
    "input": input(),
    "inherited": os.read(int(sys.argv[1]), 100).decode(),
    "pipes": pipes,
    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "told": "SPARK_FAST_RUNNER" in os.environ,
    "group": os.getpgrp(),
    "folder": os.getcwd(),
    "optimize": sys.flags.optimize,
    "parent": os.getppid(),
}))
"""
    (tmp_path / "train.py").write_text(code)
    read, write = os.pipe()
    os.write(write, b"a word")
    os.close(write)
    process = subprocess.Popen(
        [sys.executable, "-O", *RUN, "train.py", str(read)],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[read],
    )
    os.close(read)
    out, _ = process.communicate("a line\n", timeout=DEADLINE)
    found = json.loads(out)
    assert found == {
        "input": "a line",
        "inherited": "a word",
        "pipes": [read],
        "mask": [],
        "told": False,
        "group": os.getpgrp(),
        "folder": str(tmp_path),
        "optimize": 1,
        "parent": process.pid,
    }


def test_the_worker_reads_well_in_a_list_of_processes_and_is_told_what_the_command_line_says(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    script = tmp_path / "train.py"
    script.write_text(LOOP)
    command = [str(script), "--journal", "x"]
    entry = {"path": str(script), "source": LOOP}
    head = {"journal": 1, "run": "test", "command": command, "version": "", "python": "", "entry": entry}
    (tmp_path / "r").write_text(json.dumps(head) + "\n")
    options = ["--name", "test", "--reload-dir", "lib", "--reload-dir", "/", "--journal", "j", "--replay", "r"]
    process = subprocess.Popen([sys.executable, *RUN, *options, *command], cwd=tmp_path)
    try:
        until(lambda: any(run.step > 0 for run in client.runs()))
        worker = psutil.Process(worker_of())
        words = worker.cmdline()
        assert words[words.index("-m") :] == ["-m", "spark_fast.worker", "run", str(script), "--journal", "x"]
        told = json.loads(worker.environ()["SPARK_FAST_RUNNER"])
        assert told["name"] == "test"
        assert told["reload_dirs"] == [str(folder), "/"]
        assert (told["journal"], told["replay"]) == (str(tmp_path / "j"), str(tmp_path / "r"))
        assert told["supervisor"] == process.pid
    finally:
        kill(process)
        process.wait()


def test_files_in_the_working_directory_do_not_take_the_place_of_the_standard_library(tmp_path: Path) -> None:
    for name in ("socket", "token", "queue", "journal", "tempfile"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "beside.py").write_text("x = 1\n")
    script = tmp_path / "scripts" / "train.py"
    script.write_text("import beside, socket, sys\nprint(sys.path[0], beside.x)\n")
    command = [str(Path(sys.executable).with_name("spark-fast")), "run", "scripts/train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == f"{script.parent} 1\n", done.stderr
    # As python -P would: the script's folder is no place to look.
    command = [sys.executable, "-P", "-m", "spark_fast", "run", "scripts/train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "No module named 'beside'" in done.stderr


def test_the_workers_command_runs_a_script_by_itself(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("import os\nprint(__name__, os.environ.get('SPARK_FAST_RUNNER'))\n")
    command = [sys.executable, "-m", "spark_fast.worker"]
    done = subprocess.run([*command, "run", str(tmp_path / "train.py")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "__main__ None\n"), done.stderr
    done = subprocess.run([*command, "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_an_idle_supervisor_uses_no_cpu(tmp_path: Path) -> None:
    with Script(tmp_path) as child:
        run = child.run()
        until(lambda: supervisors.has_supervisor("test"))
        used = child.cpu_time()
        time.sleep(2.0)  # the time over which nothing may happen
        assert child.cpu_time() - used <= 0.021
        assert run.status == "running"


def test_watching_without_its_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['watchfiles'] = None  # not to be found\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]).rstrip(":"))
    (tmp_path / "train.py").write_text("print('begun')\n")
    command = [sys.executable, *RUN, "--watch", str(tmp_path / "train.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"spark-fast: --watch needs watchfiles: {sys.executable} -m pip install 'watchfiles>=0.24'\n"


# --- signals ---


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGQUIT, signal.SIGINT])
def test_a_signal_that_is_sent_to_the_supervisor_reaches_the_worker(tmp_path: Path, number: signal.Signals) -> None:
    code = f"import signal\nsignal.signal({int(number)}, lambda *_: print('mine', flush=True))\n{STUCK}"
    with Script(tmp_path, code) as child:
        until(lambda: child.out, child.err)
        os.kill(child.pid, number)
        until(lambda: "mine" in child.out, child.err)
        assert child.process.poll() is None


def test_a_signal_that_comes_while_the_worker_starts_is_not_lost(tmp_path: Path) -> None:
    with Script(tmp_path, LOOP) as child:
        supervisor = psutil.Process(child.pid)
        until(supervisor.children)
        os.kill(child.pid, signal.SIGTERM)
        status = child.ended()
        # Its handlers stand before its first line; until then the signal has its default action.
        assert status in (0, -signal.SIGTERM), child.err


def test_a_sigterm_to_every_process_of_a_job_asks_once(tmp_path: Path) -> None:
    code = """
import time
import spark_fast as spark
try:
    while True:
        spark.checkpoint()
        time.sleep(0.001)
finally:
    time.sleep(0.5)
    print("saved", flush=True)
"""
    with Script(tmp_path, code) as child:
        run = child.run()
        worker = run.ranks[0].pid
        os.kill(worker, signal.SIGTERM)
        until(lambda: "once more" in child.err)
        os.kill(worker, signal.SIGTERM)
        os.kill(child.pid, signal.SIGTERM)
        assert child.ended() == 0, child.err
        assert child.out == "saved\n"
        assert child.err.count("once more") == 1
        assert run.status == "stopped"


def test_a_signal_that_was_ignored_at_the_start_stays_ignored_in_both(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LOOP)
    command = f"trap '' INT HUP; exec {sys.executable} -m spark_fast run --name test {tmp_path}/train.py"
    process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.DEVNULL)
    try:
        until(lambda: any(run.step > 0 for run in client.runs()))
        run = client.attach("test")
        for pid in (process.pid, run.ranks[0].pid):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("SigIgn:"):
                    ignored = int(line.split()[1], 16)
            for number in (signal.SIGINT, signal.SIGHUP):
                assert ignored >> (number - 1) & 1
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGHUP)
        step = run.step
        until(lambda: run.step > step + 10)
        assert not run.requests
    finally:
        kill(process)
        process.wait()


# --- at a terminal ---


class Shell:
    """A shell with job control, at a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self.terminal, side = pty.openpty()
        modes = termios.tcgetattr(side)
        modes[3] &= ~termios.ECHO
        termios.tcsetattr(side, termios.TCSANOW, modes)
        # The first terminal that the leader of a session opens is the one that controls it.
        self.process = subprocess.Popen(
            ["sh", "-c", 'exec sh -i <>"$0" >&0 2>&0', os.ttyname(side)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=os.environ | {"PS1": "ready$ ", "TERM": "dumb", "ENV": ""},
            start_new_session=True,
        )
        self.shown = ""
        self._side = side

    def type(self, text: str) -> None:
        self.shown = ""
        os.write(self.terminal, text.encode())

    def see(self, text: str) -> None:
        """Reads on until this is shown."""
        end = time.monotonic() + DEADLINE
        while text not in self.shown:
            if select.select([self.terminal], [], [], 0.1)[0]:
                self.shown += os.read(self.terminal, 65536).decode(errors="replace")
            assert time.monotonic() < end, f"no {text!r} in {self.shown!r}"

    def hang_up(self) -> None:
        """Closes the terminal."""
        for descriptor in (self.terminal, self._side):
            os.close(descriptor)
        self.terminal = self._side = -1

    def close(self) -> None:
        kill(self.process)
        self.process.wait()
        if self.terminal >= 0:
            self.hang_up()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A shell in the test's folder, with its prompt shown."""
    found = Shell(tmp_path)
    try:
        found.see("ready$ ")
        yield found
    finally:
        found.close()


def begin(shell: Shell, folder: Path, code: str = LOOP) -> client.Run:
    """Starts a training in the foreground of the shell."""
    (folder / "train.py").write_text(code)
    shell.type(f"{sys.executable} -m spark_fast run --name test train.py; echo status $?\n")
    until(lambda: any(run.step > 0 for run in client.runs()), shell.shown)
    return client.attach("test")


def test_ctrl_c_at_a_terminal_is_one_signal_and_the_second_interrupts(tmp_path: Path, shell: Shell) -> None:
    code = f"import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('mine', flush=True))\n{STUCK}"
    run = begin(shell, tmp_path, code)
    shell.type("\x03")
    shell.see("SIGINT: it will stop at the next checkpoint")
    # A copy, handed on, would have come before another signal that is handed on.
    os.kill(os.getpgid(run.ranks[0].pid), signal.SIGUSR1)
    shell.see("mine")
    assert "KeyboardInterrupt" not in shell.shown
    assert run.status == "stopping"
    shell.type("\x03")
    shell.see("status 130")
    assert "KeyboardInterrupt" in shell.shown


def test_ctrl_c_at_a_terminal_stops_a_loop_well(tmp_path: Path, shell: Shell) -> None:
    run = begin(shell, tmp_path)
    shell.type("\x03")
    shell.see("status 0")
    assert run.status == "stopped"


def test_ctrl_z_stands_still_and_fg_goes_on(tmp_path: Path, shell: Shell) -> None:
    run = begin(shell, tmp_path)
    supervisor, worker = (psutil.Process(pid) for pid in (os.getpgid(run.ranks[0].pid), run.ranks[0].pid))
    shell.type("\x1a")
    until(lambda: supervisor.status() == worker.status() == psutil.STATUS_STOPPED)
    step = run.step
    shell.see("ready$ ")
    time.sleep(0.6)  # longer than the supervisor waits between two looks
    assert run.step == step
    shell.type("fg\n")
    until(lambda: run.step > step + 3)
    until(lambda: supervisor.status() == psutil.STATUS_SLEEPING)
    shell.type("\x03")
    run.wait("stopped", timeout=DEADLINE)


def test_a_terminal_that_is_closed_ends_both(tmp_path: Path, shell: Shell) -> None:
    # In the place of the shell: the kernel then tells the supervisor alone, as the leader of its session.
    (tmp_path / "train.py").write_text(LOOP)
    shell.type(f"exec {sys.executable} -m spark_fast run --name test train.py\n")
    until(lambda: any(run.step > 0 for run in client.runs()))
    run = client.attach("test")
    assert psutil.Process(run.ranks[0].pid).ppid() == shell.process.pid
    shell.hang_up()
    until(lambda: not run.status.live)
    assert shell.process.wait(DEADLINE) == -signal.SIGHUP


# --- reset ---


def test_a_reset_gives_a_fresh_process_under_the_same_name(tmp_path: Path) -> None:
    code = "import sys\nprint('begins', sys.argv[1:], flush=True)\n" + LOOP
    with Script(tmp_path, code, "--lr", "1") as child:
        run = child.run()
        until(lambda: run.step > 20)
        old = run.ranks[0].pid
        fresh = client.reset_worker(timeout=20)
        assert (fresh.id, fresh.status.live) == ("test", True)
        assert fresh.step > 0
        assert fresh.ranks[0].pid not in (old, child.pid)
        assert run.status == "stopped"
        assert not fresh.requests
        assert child.out == "begins ['--lr', '1']\n" * 2
        assert child.said() == ["spark-fast: run test is reset: a fresh worker starts"]
        child.steps_on(fresh)
        again = client.reset_worker("test", timeout=20)
        assert again.ranks[0].pid != fresh.ranks[0].pid
        again.stop(timeout=10)
        assert child.ended() == 0


def test_a_worker_that_hangs_is_reset_when_its_grace_is_over(tmp_path: Path) -> None:
    code = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('last words', flush=True))\n" + STUCK
    with Script(tmp_path, code) as child:
        run = child.run()
        until(lambda: child.out)
        began = time.monotonic()
        fresh = client.reset_worker(grace=0.3, timeout=20)
        assert time.monotonic() - began > 0.3
        assert run.status == "lost"
        assert fresh.ranks[0].pid != run.ranks[0].pid
        assert child.out == "in a long step\nlast words\nin a long step\n"
        assert child.process.poll() is None


def test_a_parked_worker_and_one_that_fails_while_it_stops_are_reset(tmp_path: Path) -> None:
    code = LOOP.replace("\nwhile", "\ntry:\n  while").replace("\n    ", "\n    ") + "finally:\n    raise ValueError\n"
    with Script(tmp_path, code) as child:
        run = child.run()
        run.pause(timeout=10)
        fresh = client.reset_worker(timeout=20)
        assert run.status == "failed"
        child.steps_on(fresh)


def test_a_reset_without_a_supervisor_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    with Child(tmp_path / "plain") as child:
        run = child.run()
        with pytest.raises(client.ResetError, match="no supervisor"):
            client.reset_worker(timeout=10)
        child.steps_on(run)
        run.stop(timeout=10)
        child.ended()
    with pytest.raises(client.ResetError, match="it has ended"):
        client.reset_worker("test")
    with Script(tmp_path) as child:
        run = child.run()
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        with pytest.raises(client.ResetError, match="no supervisor"):
            client.reset_worker(timeout=10)
        child.steps_on(run)


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Runs the call in a thread; what it returns or raises is then in the list."""
    came: list[object] = []

    def run() -> None:
        try:
            came.append(call())
        except Exception as error:
            came.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, came


def test_who_interrupts_a_run_during_its_reset_calls_the_reset_off(tmp_path: Path) -> None:
    with Script(tmp_path, STUCK) as child:
        run = child.run()
        thread, came = in_thread(lambda: client.reset_worker(grace=60, timeout=20))
        until(lambda: run.status == "stopping")
        os.kill(child.pid, signal.SIGINT)
        until(lambda: "once more" in child.err)
        os.kill(child.pid, signal.SIGINT)
        assert child.ended() == 130
        assert child.said() == ["spark-fast: the reset of run test is called off: SIGINT came after it"]
        thread.join(DEADLINE)
        assert isinstance(came[0], client.ResetError)
        assert "started no fresh process" in str(came[0])


def test_a_stop_during_a_reset_and_a_reset_during_a_stop_are_refused(tmp_path: Path) -> None:
    with Script(tmp_path, STUCK) as child:
        run = child.run()
        thread, came = in_thread(lambda: client.reset_worker(grace=60, timeout=20))
        until(lambda: run.status == "stopping")
        fate = outcome(run.stop, timeout=10).fate
        assert fate.state == "refused"
        assert "reset is under way" in fate.reason
        with pytest.raises(client.SparkTimeoutError, match="The reset stands"):
            client.reset_worker(timeout=0.2)  # shares the fate of the first
        os.kill(run.ranks[0].pid, signal.SIGKILL)
        thread.join(DEADLINE)
        assert isinstance(came[0], client.Run), came
        assert came[0].ranks[0].pid == worker_of()
        run = came[0]
        run.stop(wait=False)
        with pytest.raises(client.ResetError, match="stop is under way"):
            client.reset_worker(timeout=10)


def test_a_reset_whose_time_is_up_stands(tmp_path: Path) -> None:
    with Script(tmp_path, STUCK) as child:
        run = child.run()
        with pytest.raises(client.SparkTimeoutError, match="The reset stands"):
            client.reset_worker(grace=1, timeout=0.2)
        until(lambda: any(found.ranks[0].pid != run.ranks[0].pid for found in client.runs(ended=False)))
        assert child.process.poll() is None


def test_a_script_that_does_not_start_again_ends_the_run(tmp_path: Path) -> None:
    with Script(tmp_path) as child:
        child.run()
        (tmp_path / "train.py").write_text("def f(:\n")
        with pytest.raises(client.ResetError, match="started no fresh process"):
            client.reset_worker(timeout=20)
        assert child.ended() == 1
        assert "SyntaxError" in child.err


def test_a_worker_is_initialized_from_its_first_checkpoint_to_its_end(tmp_path: Path) -> None:
    assert not client.is_worker_initialized()
    assert not client.is_worker_initialized("test")
    gate = tmp_path / "gate"
    code = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.01)\n{LOOP}"
    with Script(tmp_path, code) as child:
        until(lambda: client.runs(), child.err)
        assert not client.is_worker_initialized("test")
        gate.touch()
        until(lambda: client.is_worker_initialized("test"))
        assert client.is_worker_initialized()
        with Child(tmp_path / "other", name="other") as other:
            other.run("other")
            with pytest.raises(client.AmbiguousRunError):
                client.is_worker_initialized()
        client.attach("test").stop(timeout=10)
        child.ended()
        assert not client.is_worker_initialized("test")


def test_what_supervisors_leave_is_removed_with_the_runs_and_no_earlier(tmp_path: Path, home: Path) -> None:
    with Script(tmp_path) as child:
        run = child.run()
        until(lambda: supervisors.has_supervisor("test"))
        assert client.remove_ended() == []
        assert supervisors.has_supervisor("test")
        run.stop(timeout=10)
        child.ended()
        assert not supervisors.has_supervisor("test")
        assert client.remove_ended() == ["test"]
        assert [entry.name for entry in home.iterdir()] == [".lock"]


def test_reset_at_the_command_line(tmp_path: Path) -> None:
    def reset(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "spark_fast", "reset", *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL)

    assert reset().returncode == 3
    assert reset("--grace", "soon").returncode == 2
    with Script(tmp_path) as child:
        old = child.run().ranks[0].pid
        done = reset("--grace", "5s")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"run test has a fresh worker, process {worker_of()}: it is running (after ")
        assert worker_of() != old
        found = json.loads(reset("test", "--json").stdout)
        assert (found["id"], found["ranks"][0]["pid"]) == ("test", worker_of())
        os.kill(child.pid, signal.SIGKILL)
        child.ended()
        done = reset()
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        assert "no supervisor" in done.stderr


def test_a_request_whose_sender_died_before_it_was_certain_resets_nothing(tmp_path: Path) -> None:
    with Script(tmp_path, STUCK) as child:
        run = child.run()
        until(lambda: child.out)
        code = f"""
from spark_fast import _core
_core.arm_point("append:published")
segment = _core.Segment({str(run.folder / "control")!r})
segment.append(3, 7, duration=0.0, mail="reset")
"""
        assert subprocess.run([sys.executable, "-c", code], timeout=DEADLINE).returncode == -signal.SIGKILL
        with (run.folder / "control").open("rb") as control:
            entry = _core.read_entry(control.fileno(), 1)
        assert entry is not None
        assert entry["target"] == _core.TARGET_NONE
        time.sleep(1.2)  # two looks of the supervisor
        assert child.process.poll() is None
        assert "SIGTERM" not in child.err
        assert client.attach("test").ranks[0].pid == run.ranks[0].pid
