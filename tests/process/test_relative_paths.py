"""Paths that are given relatively are those of the folder in which the program was started, wherever it goes later."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.runfiles import journal
from tests.support.child import Child, until

pytestmark = pytest.mark.process

MOVES = """
import os, subprocess, sys, time
from pathlib import Path
import spark_fast as spark
Path("elsewhere").mkdir(exist_ok=True)
os.chdir("elsewhere")
spark.checkpoint()
show = 'import os, spark_fast; print(os.environ["SPARK_FAST_HOME"], os.environ["SPARK_FAST_JOURNAL"])'
print(subprocess.run([sys.executable, "-c", show], capture_output=True, text=True).stdout, end="", flush=True)
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""


def moving(tmp_path: Path, *args: str, code: str = MOVES) -> Child:
    return Child(tmp_path, code, *args, cwd=tmp_path, SPARK_FAST_HOME="home", SPARK_FAST_JOURNAL="kept.jsonl")


@pytest.mark.parametrize("supervised", [False, True])
def test_a_training_that_leaves_its_folder_is_found_in_the_home_that_it_was_given(
    tmp_path: Path, supervised: bool
) -> None:
    script = tmp_path / "moves.py"
    script.write_text(MOVES)
    with moving(tmp_path, *(["-m", "spark_fast", "run", str(script)] if supervised else [])) as child:
        run = child.run()
        assert run.folder == tmp_path / "home" / "test"
        run.pause(timeout=30)
        run.resume(timeout=30)
        assert journal.of_folder(run.folder) == tmp_path / "kept.jsonl"
        assert len(journal.read(tmp_path / "kept.jsonl").requests) == 2
        assert not (tmp_path / "elsewhere" / "home").exists()
        until(lambda: child.out)
        assert child.out.split() == [str(tmp_path / "home"), str(tmp_path / "kept.jsonl")]


def test_a_home_that_the_script_sets_itself_is_that_of_its_first_use(tmp_path: Path) -> None:
    code = """
    import os
    import spark_fast as spark
    from spark_fast import client
    os.environ["SPARK_FAST_HOME"] = "later"
    spark.configure(journal="also.jsonl")
    spark.checkpoint()
    os.chdir("/")
    print(client.attach().folder)
    spark.create_controller().pause()
    spark.create_controller().resume()
    spark.checkpoint()
    """
    with Child(tmp_path, code, cwd=tmp_path) as child:
        assert child.ended() == 0, child.err
        assert child.out.split() == [str(tmp_path / "later" / "test")]
        assert len(journal.read(tmp_path / "also.jsonl").requests) == 2


def test_what_is_no_path_stays_as_it_is(tmp_path: Path) -> None:
    code = (
        "import os, json, spark_fast; print(json.dumps([os.environ[f'SPARK_FAST_{n}'] for n in ('HOME', 'JOURNAL')]))"
    )
    for home, kept, expected in (
        ("/a/b", "Off", ["/a/b", "Off"]),
        ("", "", ["", ""]),
        ("a/../b", "0", [str(tmp_path / "b"), "0"]),
    ):
        environ = os.environ | {"SPARK_FAST_HOME": home, "SPARK_FAST_JOURNAL": kept}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout) == expected


def test_importing_it_in_a_folder_that_is_gone_works(tmp_path: Path) -> None:
    code = "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); import spark_fast"
    environ = os.environ | {"SPARK_FAST_HOME": "home"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_command_in_another_folder_finds_the_run_by_the_line_that_it_prints(tmp_path: Path) -> None:
    with moving(tmp_path) as child:
        child.run()
        until(lambda: f"SPARK_FAST_HOME={tmp_path / 'home'} spark-fast pause test" in child.err)
        assert client.attach("test").status.live


def test_the_file_of_the_secret_is_that_of_the_folder_in_which_the_program_was_started(tmp_path: Path) -> None:
    show = 'import os, spark_fast; print(os.environ["SPARK_FAST_SECRET_FILE"])'
    env = os.environ | {"SPARK_FAST_SECRET_FILE": "secret"}
    shown = subprocess.run(
        [sys.executable, "-c", show], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True
    )
    assert shown.stdout == f"{tmp_path / 'secret'}\n"
