"""`spark-fast run`: a script under a run, with signals that ask before they interrupt."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from spark_fast import client
from tests.support.child import Child, until

pytestmark = [pytest.mark.process, pytest.mark.tier("fast")]

RUN = ("-m", "spark_fast", "run")


class Script(Child):
    """A child that runs its script under the runner."""

    def __init__(self, folder: Path, code: str, *args: str, options: tuple[str, ...] = ("--name", "test")) -> None:
        folder.mkdir(exist_ok=True)
        script = folder / "train.py"
        script.write_text(code)
        super().__init__(folder, "", *RUN, *options, str(script), *args, name=None)


LOOP = """
import time
import spark_fast as spark
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""

STUCK = """
import time
from pathlib import Path
import spark_fast as spark
spark.checkpoint()
print("in a long step", flush=True)
while True:
    time.sleep(0.01)
"""


STUCK_IN_C = """
import time
import spark_fast as spark
spark.checkpoint()
print("in a long step", flush=True)
while not spark.pending():
    time.sleep(0.001)
sum(range(10**13))
"""
"""No handler written in Python runs in it once a stop is asked for."""


def test_a_script_sees_what_it_would_see_under_plain_python(tmp_path: Path) -> None:
    code = """
import pickle, sys
import beside
class Model:
    pass
print(__name__, sys.argv[1:], sys.argv[0] == __file__, sys.path[0], beside.x)
print(type(pickle.loads(pickle.dumps(Model()))).__module__, sys.modules["__main__"].Model is Model)
"""
    (tmp_path / "beside.py").write_text("x = 5\n")
    with Script(tmp_path, code, "--lr", "1", "--help") as child:
        assert child.ended() == 0, child.err
        assert child.out.splitlines() == [
            f"__main__ ['--lr', '1', '--help'] True {tmp_path} 5",
            "__main__ True",
        ]
        run = client.attach("test")
        assert run.status == "finished"
        assert run.command == [str(tmp_path / "train.py"), "--lr", "1", "--help"]


def test_a_module_runs_as_under_python_m(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "package" / "train.py").write_text("import sys\nprint(__name__, __package__, sys.argv[1:])\n")
    command = [sys.executable, *RUN, "--name", "test", "-m", "package.train", "--epochs", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "__main__ package ['--epochs', '3']\n"), done.stderr
    assert client.attach("test").status == "finished"


def test_the_run_is_there_before_the_first_line_and_idle_until_the_first_checkpoint(tmp_path: Path) -> None:
    with Script(tmp_path, "import time\nprint('begun', flush=True)\ntime.sleep(600)\n") as child:
        until(lambda: child.out == "begun\n", child.err)
        assert client.attach("test").status == "idle"


def test_a_stop_from_outside_ends_the_script_with_one_line_and_success(tmp_path: Path) -> None:
    with Script(tmp_path, LOOP) as child:
        run = child.run()
        run.stop(timeout=10)
        assert child.ended() == 0
        assert "Traceback" not in child.err
        assert child.err.splitlines()[-1].startswith("spark_fast: stopped at step")
        assert run.status == "stopped"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
def test_the_first_signal_asks_for_a_stop_and_says_so(tmp_path: Path, number: signal.Signals, parked: bool) -> None:
    with Script(tmp_path, LOOP) as child:
        run = child.run()
        if parked:
            run.pause(timeout=10)
        os.kill(child.pid, number)
        assert child.ended() == 0
        said = [line for line in child.err.splitlines() if line.startswith("spark_fast: ")]
        assert (
            said[1] == f"spark_fast: {number.name}: it will stop at the next checkpoint; once more interrupts at once"
        )
        assert said[2].startswith("spark_fast: stopped at step")
        assert run.status == "stopped"
        assert f"pid {run.ranks[0].pid}" in run.requests[-1].sender


def test_the_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    with Script(tmp_path, STUCK) as child:
        until(lambda: child.out, child.err)
        os.kill(child.pid, signal.SIGINT)
        until(lambda: "once more" in child.err)
        assert child.process.poll() is None
        os.kill(child.pid, signal.SIGINT)
        assert child.ended() == 130
        assert child.err.splitlines()[-1] == "KeyboardInterrupt"
        assert "runner.py" not in child.err
        assert client.attach("test").status == "failed"


def test_the_second_sigterm_ends_even_a_script_that_no_python_handler_reaches(tmp_path: Path) -> None:
    with Script(tmp_path, STUCK_IN_C) as child:
        until(lambda: child.out, child.err)
        worker = client.attach("test").ranks[0].pid
        os.kill(child.pid, signal.SIGTERM)
        until(lambda: "once more" in child.err)

        def ended() -> bool:
            if child.process.poll() is not None:
                return True
            os.kill(child.pid, signal.SIGTERM)  # within a second it counts as the first
            return False

        until(ended, child.err)
        assert child.ended() == -signal.SIGTERM
        assert not psutil.pid_exists(worker)
        assert child.err.splitlines()[-1] == "spark-fast: the worker of run test was killed by SIGTERM at step 1"
        assert client.attach("test").status == "lost"


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    code = "import signal\nprint(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)\n"
    (tmp_path / "train.py").write_text(code)
    command = ["sh", "-c", f"trap '' INT; {sys.executable} -m spark_fast run {tmp_path}/train.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "True\n", done.stderr


def test_a_handler_of_the_script_has_the_last_word(tmp_path: Path) -> None:
    code = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True))\n" + STUCK
    with Script(tmp_path, code) as child:
        until(lambda: child.out, child.err)
        os.kill(child.pid, signal.SIGTERM)
        until(lambda: "mine" in child.out)


@pytest.mark.parametrize(
    ("code", "exit_status", "status", "said"),
    [
        ("raise SystemExit", 0, "finished", ""),
        ("raise SystemExit(7)", 7, "failed", ""),
        ("raise SystemExit('no data')", 1, "failed", "no data"),
        ("def f():\n    raise ValueError('broken')\nf()", 1, "failed", "ValueError: broken"),
        ("def f(:", 1, None, "SyntaxError"),
    ],
    ids=["exit", "exit 7", "exit with words", "exception", "syntax error"],
)
def test_the_exit_status_is_the_scripts_own(
    tmp_path: Path, code: str, exit_status: int, status: str | None, said: str
) -> None:
    with Script(tmp_path, code) as child:
        assert child.ended() == exit_status
        assert said in child.err
        assert "runner.py" not in child.err
        if status is None:
            assert client.runs() == []
        else:
            assert client.attach("test").status == status


def test_a_script_that_is_not_there_makes_no_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *RUN, str(tmp_path / "no.py")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "no.py: No such file" in done.stderr
    assert client.runs() == []


def test_a_name_that_a_living_run_has_is_refused(tmp_path: Path) -> None:
    with Script(tmp_path, LOOP) as child:
        child.run()
        (tmp_path / "second.py").write_text("print('started')\n")
        done = subprocess.run(
            [sys.executable, *RUN, "--name", "test", str(tmp_path / "second.py")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert "a living run is called 'test'" in done.stderr
        assert done.stdout == ""


def test_threads_that_outlive_the_script_are_still_controlled(tmp_path: Path) -> None:
    body = LOOP.replace("\n", "\n    ")
    code = f"import threading\ndef loop():\n    {body}\nthreading.Thread(target=loop).start()\n"
    with Script(tmp_path, code) as child:
        run = child.run()
        assert run.pause(timeout=10).fate.state == "applied"
        assert run.resume(timeout=10).fate.state == "applied"
        child.steps_on(run)
