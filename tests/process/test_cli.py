"""The command line, with real processes."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spark_fast import client
from spark_fast.cli import app, fast_parse, requests
from spark_fast.cli.run_options import OPTIONS, Order
from spark_fast.client import FateState, SparkStatus
from spark_fast.worker.runner.options import RunnerOptions
from tests.support.child import DEADLINE, kill, until

pytestmark = pytest.mark.process

LOOP = """
import sys, time
import spark_fast as spark
for _ in spark.track(range(1_000_000)):
    time.sleep(0.002)
"""
FAR = "1000000"

Start = Callable[..., "subprocess.Popen[str]"]


def cli(*words: str, env: dict[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "spark_fast", *words],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
    )


def one_line(text: str) -> bool:
    return text.count("\n") == 1 and "Traceback" not in text


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command line, or a script under it; what it started is ended with the test."""
    processes: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "spark_fast", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        kill(process)
        process.communicate()


@pytest.fixture
def loop(tmp_path: Path) -> str:
    """A script that passes a checkpoint each two milliseconds, for ever."""
    path = tmp_path / "loop.py"
    path.write_text(LOOP)
    return str(path)


def live(name: str) -> client.Run:
    """The run of this name, once it trains."""

    def there() -> bool:
        try:
            return client.attach(name).step > 2
        except client.NoSuchRunError:
            return False

    until(there)
    return client.attach(name)


# --- start ---


def test_all_that_follows_the_script_is_the_scripts(tmp_path: Path) -> None:
    script = tmp_path / "show.py"
    script.write_text("import sys; print(sys.argv[1:])")
    words = ["--lr", "1", "--help", "-m", "x", "--name", "y", "--", "z"]
    done = cli("run", "--name", "shown", str(script), *words)
    assert done.stdout == f"{words}\n"
    assert client.attach("shown").command == [str(script), *words]


def test_all_that_follows_the_module_is_the_modules(tmp_path: Path) -> None:
    (tmp_path / "shown.py").write_text("import sys; print(__name__, sys.argv[1:])")
    done = cli("run", "-m", "shown", "--help", "-m", env={"PYTHONPATH": _path(tmp_path)})
    assert done.stdout == "__main__ ['--help', '-m']\n"


def _path(first: Path) -> str:
    return os.pathsep.join([str(first), *filter(None, [os.environ.get("PYTHONPATH")])])


def test_run_exits_as_the_script_does(tmp_path: Path) -> None:
    script = tmp_path / "exits.py"
    script.write_text("import sys; sys.exit(int(sys.argv[1]))")
    assert [cli("run", str(script), status).returncode for status in ("0", "7")] == [0, 7]


def test_run_without_a_script_is_wrong_usage() -> None:
    assert cli("run").returncode == 2


# --- look ---


def test_ps_of_no_runs_says_what_to_type() -> None:
    done = cli("ps")
    assert (done.returncode, done.stderr) == (0, "")
    assert "spark-fast run script.py" in done.stdout
    assert json.loads(cli("ps", "--json").stdout) == []


def test_ps_lists_runs_with_what_they_do(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop, "--lr", "0.1")
    start("run", "--name", "two", loop)
    live("one")
    live("two").pause(timeout=DEADLINE)
    lines = cli("ps").stdout.splitlines()
    assert lines[0].split() == ["RUN", "STATUS", "STEP", "STEPS/S", "PROGRESS", "LEFT", "AGE", "PID", "COMMAND"]
    rows = {line.split()[0]: line.split() for line in lines[1:]}
    assert rows["one"][1] == "running"
    assert rows["one"][-3:] == ["loop.py", "--lr", "0.1"]
    assert rows["two"][1] == "paused"


def test_ps_json_has_the_attributes_of_each_run(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    run = live("one")
    run.pause(timeout=DEADLINE)
    (found,) = json.loads(cli("ps", "--json").stdout)
    assert found == json.loads(json.dumps(run.as_dict())) | {"progress": found["progress"]}


def test_ps_leaves_out_what_ended_over_a_day_ago(home: Path, tmp_path: Path) -> None:
    script = tmp_path / "short.py"
    script.write_text("import spark_fast; spark_fast.checkpoint()")
    cli("run", "--name", "old", str(script))
    assert "old" in cli("ps").stdout
    about = home / "old" / "run.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"started": time.time() - 200_000}))
    assert "old" in cli("ps").stdout, "it began long ago, but has only just ended"
    ended = client.attach("old").ended
    assert ended is not None
    control = home / "old" / "control"
    at = control.read_bytes().rindex(round(ended * 1e9).to_bytes(8, "little")[3:]) - 3  # less what rounding loses
    with control.open("r+b") as file:
        file.seek(at)
        file.write(round((ended - 100_000) * 1e9).to_bytes(8, "little"))
    done = cli("ps")
    assert "ps --all" in done.stdout
    assert "finished" not in done.stdout
    assert "finished" in cli("ps", "--all").stdout


def test_a_list_of_a_thousand_runs_opens_as_many_files_for_each_as_a_short_one(home: Path, tmp_path: Path) -> None:
    opened = 0
    looking = False

    def note(event: str, _: object) -> None:
        nonlocal opened
        opened += looking and event in ("open", "os.listdir", "os.scandir")

    sys.addaudithook(note)  # there is no way to remove it

    def opened_by_a_list_of(runs: int) -> int:
        nonlocal opened, looking
        opened, looking = 0, True
        assert len(client.runs()) == runs
        looking = False
        return opened

    script = tmp_path / "short.py"
    script.write_text("import spark_fast; spark_fast.checkpoint()")
    cli("run", "--name", "run-0", str(script))
    control, about = (home / "run-0" / "control").read_bytes(), json.loads((home / "run-0" / "run.json").read_text())
    for number in range(1, 1000):
        if number == 10:
            of_ten = opened_by_a_list_of(10)
        folder = home / f"run-{number}"
        folder.mkdir(mode=0o700)
        (folder / "control").write_bytes(control)
        (folder / "run.json").write_text(json.dumps(about | {"id": folder.name}))
    assert opened_by_a_list_of(1000) <= 100 * of_ten
    assert len(json.loads(cli("ps", "--json").stdout)) == 1000


def test_commands_are_shown_as_they_are_and_steer_nothing(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop, "[red]x[/red]", "\x1b[2J", "two\nlines")
    live("one")
    for command in ("ps", "status"):
        shown = cli(command, env={"FORCE_COLOR": "1", "COLUMNS": "400"}).stdout
        assert "[red]x[/red]" in shown
        assert "\x1b[2J" not in shown
        assert "\\x1b[2J" in shown


def test_colour_is_for_terminals_that_want_it(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    live("one")
    assert "\x1b" not in cli("ps").stdout
    assert "\x1b[32m" in cli("ps", env={"FORCE_COLOR": "1", "TERM": "xterm"}).stdout


def test_output_of_a_terminal_that_knows_only_ascii_is_no_error(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop, "é")
    live("one")
    for command in ("ps", "status", "top"):
        assert cli(command, env={"PYTHONIOENCODING": "ascii"}).returncode == 0


def test_status_shows_the_last_requests_and_their_fates(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    live("one")
    assert cli("pause", "--resume-after", "1h").returncode == 0
    shown = cli("status").stdout
    step = client.attach("one").step
    assert f"one is paused at step {step}" in shown
    assert "goes on   by itself in 59m" in shown
    assert f"applied at step {step}" in shown
    found = json.loads(cli("status", "--json").stdout)
    assert [request["kind"] for request in found["requests"]] == ["pause"]
    assert found["requests"][0]["fate"] == {"state": "applied", "step": step, "by": None, "reason": "", "warnings": []}


def test_top_prints_once_where_there_is_no_terminal(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    live("one")
    done = cli("top")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "one" in done.stdout


# --- start ---


@pytest.mark.parametrize(
    "words",
    [
        "train.py",
        "-m package.train --lr 1",
        "--name one --name two train.py --name three -m --help",
        "--name=one --watch train.py",
        "--reload-dir a --reload-dir=b --journal j --replay=r -m --watch x -- y",
        "--name --watch train.py",
        "--journal= a",
        "--journal OFF --journal-limit 64MiB --stop-deadline 1m30s --on-error park --error-timeout=0.5 --ui train.py x",
        "--on-error later train.py",
        "--on-error later --on-error exit train.py",
        "--stop-deadline 0 train.py",
        "--error-timeout 1x train.py",
        "-- train.py",
        "--help",
        "-x train.py",
        "-mx train.py",
        "--watch=yes train.py",
        "--name",
        "--name one",
        "-m",
        "",
        "-",
    ],
)
def test_what_is_read_without_typer_is_what_typer_reads(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Order] = []
    monkeypatch.setattr("spark_fast.cli.supervisor.supervise", lambda order: read.append(order) or 0)
    quick_one = fast_parse.read(["run", *words.split()])
    CliRunner().invoke(app.build(app.COMMANDS), ["run", *words.split()])
    if quick_one is not None:
        assert read == [quick_one]


def test_only_run_is_read_without_typer_and_it_loads_none() -> None:
    assert fast_parse.read(["pause", "one"]) is None
    assert fast_parse.read([]) is None
    code = (
        "import sys; from spark_fast.cli import fast_parse as quick; print(quick.read(['run', 'x']).target); "
        "print({'typer', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "x\nset()\n"


def test_the_documented_commands_are_those_of_the_command_line() -> None:
    table = (Path(__file__).parents[2] / "docs" / "cli.md").read_text().partition("## Commands")[2].split("\n**")[0]
    assert set(re.findall(r"^\| `([a-z]+)", table, re.MULTILINE)) == set(app.COMMANDS)


def test_the_documented_options_of_run_are_those_of_the_command_line() -> None:
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    table = text.partition("### run")[2].partition("### ps")[0].replace("\\|", "|")
    documented = re.findall(r"^\| `(--[a-z-]+)(?: ([^`]+))?` \|", table, re.MULTILINE)
    options = [option for option in OPTIONS.values() if option.flag != "-m"]  # which stands among the commands
    assert sorted(documented) == sorted((option.flag, option.metavar) for option in options)


def test_the_worker_takes_each_option_that_the_supervisor_hands_on() -> None:
    order = Order("train.py", [], on_error="park", watch=True)
    assert order.for_worker()["on_error"] == "park"
    assert set(order.for_worker()) < {field.name for field in dataclasses.fields(RunnerOptions)}


def test_a_command_loads_the_module_of_its_group_alone() -> None:
    code = (
        "import sys; sys.argv[1:] = ['gc', '--help']; from spark_fast.cli import app\n"
        "try: app.main()\n"
        "except SystemExit: pass\n"
        "print(sorted(name for name in sys.modules if name.startswith('spark_fast.cli.commands.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    group = "'spark_fast.cli.commands.housekeeping', 'spark_fast.cli.commands.parameters'"
    assert done.stdout.splitlines()[-1] == f"[{group}]"


# --- ask ---


def test_requests_do_what_they_say_and_exit_with_0(start: Start, loop: str) -> None:
    process = start("run", "--name", "one", loop)
    run = live("one")
    assert cli("pause").returncode == 0
    assert run.status is SparkStatus.PAUSED
    step = run.step
    done = cli("advance", "7")
    assert (done.returncode, run.status, run.step) == (0, SparkStatus.PAUSED, step + 7)
    assert str(step + 7) in done.stdout
    assert cli("advance", "one", "3").returncode == 0
    assert run.step == step + 10
    assert cli("resume").returncode == 0
    until(lambda: run.step > step + 10)
    assert cli("pause", "one", "--at-step", str(run.step + 500), "--timeout", "1m").returncode == 0
    assert cli("stop", "one").returncode == 0
    assert process.wait(DEADLINE) == 0
    assert client.attach("one").status is SparkStatus.STOPPED


def test_a_request_as_json_has_its_id_and_its_fate(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    run = live("one")
    found = json.loads(cli("pause", "--json").stdout)
    assert {"id", "kind", "run", "fate"} <= set(found)
    assert (found["kind"], found["run"]) == ("pause", "one")
    assert found["id"] == run.requests[-1].id
    assert found["fate"] == {"state": "applied", "step": run.step, "by": None, "reason": "", "warnings": []}


def test_a_request_that_is_not_waited_for_returns_at_once(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    run = live("one")
    done = cli("pause", "--at-step", FAR, "--no-wait")
    assert done.returncode == 0
    assert "spark-fast status one" in done.stdout
    assert run.requests[-1].fate.state is FateState.ASKED


def test_stop_waits_for_the_end_of_the_process(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "saves.py"
    script.write_text(
        "import sys, time, spark_fast as spark\n"
        "try:\n"
        "    while True: spark.checkpoint(); time.sleep(0.002)\n"
        "finally:\n"
        "    time.sleep(0.5); open(sys.argv[1], 'w').close()\n"
    )
    start("run", "--name", "one", str(script), str(tmp_path / "saved"))
    live("one")
    assert cli("stop").returncode == 0
    assert (tmp_path / "saved").exists()


def test_a_stop_in_which_the_script_fails_is_no_success(start: Start, tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text(
        "import time, spark_fast as spark\n"
        "try:\n"
        "    while True: spark.checkpoint(); time.sleep(0.002)\n"
        "finally:\n"
        "    open('/nowhere/model', 'w')\n"
    )
    start("run", "--name", "one", str(script))
    live("one")
    done = cli("stop")
    assert done.returncode == 1
    assert one_line(done.stderr)
    assert "failed" in done.stderr


def test_a_pause_that_a_resume_supersedes_exits_with_1_and_names_it(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    run = live("one")
    pause = start("pause", "--at-step", FAR)
    until(lambda: run.requests)
    resume = json.loads(cli("resume", "--json").stdout)
    _, errors = pause.communicate(timeout=DEADLINE)
    assert pause.returncode == 1
    assert one_line(errors)
    assert f"superseded by a later resume ({resume['id']}" in errors


def test_a_request_of_an_ended_run_is_refused_with_1(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    live("one")
    cli("stop")
    done = cli("pause", "one", "--json")
    assert done.returncode == 1
    assert one_line(done.stderr)
    assert json.loads(done.stdout)["fate"]["state"] == "refused"


def test_wrong_usage_exits_with_2(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    live("one")
    for words in (
        ["nothing"],
        ["pause", "--timeout", "soon"],
        ["pause", "--resume-after", "0"],
        ["pause", "--at-step", "0"],
        ["advance"],
        ["advance", "many"],
        ["advance", "one", "0"],
        ["advance", "one", "2", "3"],
        ["ps", "--nothing"],
    ):
        assert cli(*words).returncode == 2, words
    assert not client.attach("one").requests


def test_no_such_run_exits_with_3_and_lists_the_live_ones(start: Start, loop: str) -> None:
    done = cli("pause")
    assert (done.returncode, one_line(done.stderr)) == (3, True)
    start("run", "--name", "one", loop)
    live("one")
    done = cli("pause", "two")
    assert (done.returncode, one_line(done.stderr)) == (3, True)
    assert "one" in done.stderr
    start("run", "--name", "another", loop)
    live("another")
    done = cli("pause")
    assert (done.returncode, one_line(done.stderr)) == (3, True)
    assert "one" in done.stderr
    assert "another" in done.stderr


def test_a_request_that_takes_too_long_exits_with_4_and_stands(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    run = live("one")
    done = cli("pause", "--at-step", FAR, "--timeout", "200ms", "--json")
    assert done.returncode == 4
    assert one_line(done.stderr)
    assert "spark-fast resume one" in done.stderr
    assert json.loads(done.stdout)["fate"]["state"] == "asked"
    assert run.requests[-1].fate.state is FateState.ASKED


def test_a_worker_that_dies_is_told_to_who_waits_with_5(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    run = live("one")
    pause = start("pause", "--at-step", FAR)
    until(lambda: run.requests)
    os.kill(run.ranks[0].pid, signal.SIGKILL)
    _, errors = pause.communicate(timeout=DEADLINE)
    assert pause.returncode == 5
    assert one_line(errors)
    done = cli("pause", "one")
    assert (done.returncode, one_line(done.stderr)) == (5, True)


def test_ctrl_c_leaves_the_request_and_says_so(start: Start, loop: str) -> None:
    start("run", "--name", "one", loop)
    run = live("one")
    pause = start("pause", "--at-step", FAR)
    until(lambda: run.requests)
    pause.send_signal(signal.SIGINT)
    _, errors = pause.communicate(timeout=DEADLINE)
    assert pause.returncode == 130
    assert one_line(errors)
    assert run.requests[-1].fate.state is FateState.ASKED


def test_ctrl_c_while_the_request_is_sent_says_that_it_may_stand(
    start: Start, loop: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start("run", "--name", "one", loop)
    run = live("one")

    def interrupted() -> client.Request:
        run.pause(wait=False, at_step=int(FAR))
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as left:
        requests.ask(run, interrupted, requests.Patience(True, None, 0.0), as_json=False)
    assert left.value.exit_code == 130
    said = capsys.readouterr().err
    assert one_line(said) and "`spark-fast status one` shows whether it was asked" in said


def test_a_folder_that_others_may_read_is_refused_in_one_line(home: Path) -> None:
    home.mkdir()
    home.chmod(0o755)
    for words in (["ps"], ["pause"], ["gc"], ["ps", "--json"]):
        done = cli(*words)
        assert (done.returncode, one_line(done.stderr)) == (1, True)
        assert f"chmod 700 {home}" in done.stderr


# --- the rest ---


def test_gc_removes_dead_runs_and_no_others(start: Start, loop: str, home: Path) -> None:
    assert cli("gc").stdout == "nothing to remove\n"
    start("run", "--name", "one", loop)
    dead = start("run", "--name", "two", loop)
    live("one")
    live("two")
    kill(dead)
    dead.communicate(timeout=DEADLINE)
    assert json.loads(cli("gc", "--json").stdout) == ["two"]
    assert not (home / "two").exists()
    assert client.attach("one").status is SparkStatus.RUNNING


def test_live_runs_complete_the_name(start: Start, loop: str) -> None:
    start("run", "--name", "brave-otter", loop)
    live("brave-otter")
    for line in ("spark-fast pause br", "spark-fast advance br", "spark-fast status "):
        words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        assert cli(env={"_SPARK_FAST_COMPLETE": "complete_bash", **words}).stdout.split() == ["brave-otter"], line


def test_completion_is_installed_for_a_shell(tmp_path: Path) -> None:
    # The shell is named, instead of found among the parents of the test.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    assert "_SPARK_FAST_COMPLETE" in cli("--show-completion", "bash", env=named).stdout
    assert cli("--install-completion", "bash", env=named).returncode == 0
    assert "spark-fast" in (tmp_path / ".bashrc").read_text()


def test_help_says_what_the_exit_statuses_mean() -> None:
    shown = " ".join(cli("--help").stdout.split())
    assert "0 done · 1 refused" in shown
    assert "5 worker lost" in shown


def test_the_package_of_the_command_line_costs_nothing_until_it_is_run() -> None:
    code = "import sys, spark_fast.cli; sys.exit('typer' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=DEADLINE).returncode == 0
