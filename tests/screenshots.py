"""Makes the pictures of the web page in docs/images, from real runs: `make screenshots`."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

from spark_fast import client
from tests.support.child import kill, until
from tests.support.served import Served, launch, opened

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"

TRAINING = '''
import math
import random
import time

import spark_fast as spark


def evaluate(split: str = "test", limit: int = 500) -> dict:
    """The accuracy on a part of the data."""
    print(f"evaluating {limit} of {split}")
    return {"split": split, "accuracy": round(state.accuracy, 4)}


def save(path: str = "model.pt") -> None:
    """Writes the weights to a file."""


state = spark.expose(
    lr=spark.value(0.02, min=0, max=0.1, doc="Learning rate of the optimizer."),
    batch_size=spark.value(32, min=8, max=256, step=8),
    augment=True,
    schedule=spark.value("cosine", choices=["constant", "cosine", "linear"]),
    note="second try",
    loss=spark.value(0.0, readonly=True, doc="Cross-entropy of the last batch."),
    accuracy=spark.value(0.0, readonly=True),
    grad_norm=spark.value(0.0, readonly=True),
    samples_per_second=spark.value(0.0, readonly=True, unit="1/s"),
    evaluate=evaluate,
    save=save,
)
progress = spark.persist("progress", lambda: [0.0])
noise = random.Random(0)
for epoch in spark.track(range(60), key="epochs"):
    for batch in spark.track(range(1000), key="batches"):
        progress[0] += state.lr
        done = math.exp(-progress[0] / 200)
        state.loss = 0.12 + 2.2 * done * (1 + noise.gauss(0, 0.12))
        state.accuracy = 0.97 - 0.87 * done + noise.gauss(0, 0.01)
        state.grad_norm = abs(noise.gauss(1 + 3 * done, 0.3))
        state.samples_per_second = 5200 + noise.gauss(0, 180)
        time.sleep(PAUSE)
'''


class Runs:
    """The runs that are seen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, pause: float, script: str = "train.py", *args: str) -> client.Run:
        """Starts one, and waits for its first steps."""
        path = self._folder / script
        path.write_text(TRAINING.replace("PAUSE", str(pause)).lstrip("\n"))
        command = [sys.executable, "-m", "spark_fast", "run", "--name", name, str(path), *args]
        self._started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        return until(lambda: next((run for run in client.runs() if run.id == name and run.step > 0), None), name)

    def end(self) -> None:
        """Ends them all."""
        for process in self._started:
            kill(process)
            process.wait()


def prepare(runs: Runs) -> client.Run:
    """Several runs, of which the one that is returned has been steered for a while."""
    runs.start("quiet-plover", 0).stop(timeout=30)
    paused = runs.start("calm-heron", 0.002, "finetune.py", "--layers", "24")
    runs.start("mellow-ibis", 0.02, "train.py", "--lr", "0.1", "--data", "cifar 10")
    main = runs.start("brave-otter", 0.002)
    for step, ask in (
        (1500, lambda: main.set("lr", 0.05, timeout=30)),
        (3500, lambda: main.pause(timeout=30)),
        (0, lambda: main.set("schedule", "linear", timeout=30)),
        (0, lambda: main.resume(timeout=30)),
        (5500, lambda: main.reload(code(main).replace("0.12 + 2.2", "0.08 + 2.2"), timeout=30)),
        (7500, lambda: main.request_call("evaluate", ["test"], timeout=30)),
    ):
        until(lambda step=step: main.step >= step, f"step {step}", 120)
        request = ask()
        assert request.fate.state == "applied", request
    paused.pause(timeout=30)
    until(lambda: main.step >= 9000, "9,000 steps", 120)
    return main


def code(run: client.Run) -> str:
    """The script that it runs."""
    return Path(run.command[0]).read_text()


def take(browser: Browser, served: Served, main: client.Run) -> None:
    """The pictures."""
    page = opened(browser, served)
    expect(page.locator("tbody tr")).to_have_count(4)
    page.wait_for_timeout(20_000)  # so that the small curves have a past
    page.screenshot(path=IMAGES / "runs.png", clip={"x": 0, "y": 0, "width": 1400, "height": 520})
    page.locator("a.run-name", has_text=main.id).click()
    expect(page.locator(".plot .main-svg").first).to_be_visible()
    form = page.locator('[data-function="evaluate"]')
    form.get_by_role("button", name="Call").click()
    expect(form.locator(".call-result pre")).to_be_visible()
    page.locator('[data-plot="loss"]').get_by_label("Another value").select_option("accuracy")
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(3000)  # the plots are drawn once a second
    page.screenshot(path=IMAGES / "run.png")


def make() -> None:
    """Both pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    # What is seen of this machine is no name of its own.
    os.environ["LOGNAME"] = "kim"
    socket.gethostname = lambda: "node7"
    with tempfile.TemporaryDirectory(prefix="spark-fast-") as name:
        folder = Path(name)
        os.environ |= {"SPARK_FAST_HOME": str(folder / "runs"), "XDG_STATE_HOME": str(folder / "state")}
        (folder / "work").mkdir()
        runs = Runs(folder / "work")
        try:
            with sync_playwright() as playwright, Served(folder / "ui") as served:
                browser = launch(playwright)
                take(browser, served, prepare(runs))
                browser.close()
        finally:
            runs.end()


if __name__ == "__main__":
    make()
