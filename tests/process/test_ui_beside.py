"""The web page beside a training, and beside the demo: it is there as long as they are."""

import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from tests.support.child import LOOP, Child, kill, until

pytestmark = pytest.mark.process

ADDRESS = re.compile(r"spark-fast: the page that shows and steers your runs: (http://127\.0\.0\.1:\d+)/#token=(\S+)")


def served(address: str, token: str) -> str:
    request = urllib.request.Request(f"{address}/api/runs", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def is_gone(address: str) -> bool:
    try:
        urllib.request.urlopen(address, timeout=1)
    except urllib.error.HTTPError:
        return False
    except OSError:
        return True
    return False


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_run_has_its_page_for_as_long_as_its_supervisor_lives(tmp_path: Path, end: signal.Signals) -> None:
    script = tmp_path / "train.py"
    script.write_text(LOOP)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with Child(tmp_path, "", "-m", "spark_fast", "run", "--ui", str(script), TMPDIR=str(scratch)) as child:
        run = child.run()
        found = until(lambda: ADDRESS.search(child.err), child.err)
        # The list may be a quarter of a second old.
        until(lambda: f'"id":"{run.id}"' in served(*found.groups()).replace(" ", ""), "the page lists the run")
        pages = [each for each in psutil.Process(child.pid).children(recursive=True) if "--beside" in each.cmdline()]
        assert len(pages) == 1
        child.process.send_signal(end)
        child.ended()
        until(lambda: is_gone(found[1]))
        until(lambda: not pages[0].is_running())
        assert list(scratch.iterdir()) == []  # it leaves nothing behind


def test_without_its_packages_the_page_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['uvicorn'] = None  # not to be found\n")
    script = tmp_path / "train.py"
    script.write_text("print('it ran')\n")
    for words in (["run", "--ui", str(script)], ["ui"], ["demo", "--hold", "--ui"]):
        done = subprocess.run(
            [sys.executable, "-m", "spark_fast", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr == f"spark-fast: the page needs uvicorn: {sys.executable} -m pip install 'uvicorn>=0.34'\n"
        assert done.stdout == ""


def test_the_demo_prints_the_address_of_its_page() -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "spark_fast", "demo", "--hold", "--ui"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert demo.stdout is not None
        lines = []
        end = time.monotonic() + 60
        while not (found := ADDRESS.match(lines[-1] if lines else "")):
            assert time.monotonic() < end
            lines.append(demo.stdout.readline())
        until(lambda: '"demo-' in served(found[1], found[2]))
        demo.send_signal(signal.SIGINT)
        story, _ = demo.communicate(timeout=60)
        assert demo.returncode == 0, story
        until(lambda: is_gone(found[1]))
    finally:
        kill(demo)


def test_a_page_beside_nothing_that_ends_with_its_input_is_no_run_s_matter(tmp_path: Path) -> None:
    page = subprocess.Popen(
        [sys.executable, "-m", "spark_fast", "ui", "--beside", "--port", "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        with Child(tmp_path) as child:
            run = child.run()
            assert page.stdin is not None
            assert page.stdout is not None
            assert ADDRESS.match(page.stdout.readline())
            page.stdin.close()
            assert page.wait(20) in (0, -signal.SIGTERM)
            page.stdout.close()
            child.steps_on(run)
    finally:
        kill(page)
