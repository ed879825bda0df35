"""Two more kinds of jobs: one under bad inputs, and one whose code is edited."""

import os
import random
import time
from pathlib import Path

from spark_fast import client
from tests.campaign import inputs
from tests.campaign.jobs import Reloadable
from tests.campaign.one_host import page_of
from tests.campaign.senders import PATIENCE
from tests.campaign.tally import Tally
from tests.random_edits import Edits
from tests.support.child import until

__all__ = ["edits", "given_bad_inputs"]

_MOST_IN_A_ROW = 25
"""Bad inputs after which the run is asked to go on: some are good enough to park it."""


def given_bad_inputs(folder: Path, seed: int, seconds: float, tally: Tally) -> list[str]:
    """Give a run bad inputs through all channels for so many seconds; return what does not hold."""
    from tests.support.served import Served  # which needs what only `make test-all` installs

    os.environ["SPARK_FAST_HOME"] = str(folder / "home")
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    chance = random.Random(seed)
    wrong: list[str] = []
    with Reloadable(folder) as job, Served(folder) as served:
        run, page = job.run(), page_of(served)
        end = time.monotonic() + seconds
        number = 0
        while time.monotonic() < end:
            number += 1
            channel = chance.choice(["command line", "API", "mailbox", "page"])
            try:
                found = {
                    "command line": lambda: inputs.bad_cli(folder, run.id, chance),
                    "API": lambda: inputs.bad_api(run, chance),
                    "mailbox": lambda: inputs.bad_mail(run, chance),
                    "page": lambda: inputs.bad_page(page, run.id, chance),
                }[channel]()
            except OSError as error:  # of the page: no answer, or a broken connection
                found = f"{channel}: {type(error).__name__}: {error}"
            tally.counts[f"input: {channel}"] += 1
            if found is not None:
                wrong.append(found)
            if number % _MOST_IN_A_ROW == 0:
                wrong += _goes_on(run)
        wrong += _goes_on(run)
        fate = run.stop(wait=False).wait(PATIENCE)
        if fate.state != "applied":
            wrong.append(f"a stop after bad inputs is answered with: {fate}")
        if "Fatal Python error" in job.err():
            wrong.append(job.err()[-3000:])
    tally.counts["check: a run obeys after bad inputs"] += not wrong
    return wrong


def _goes_on(run: client.Run) -> list[str]:
    try:
        fate = run.resume(wait=False).wait(PATIENCE)
        step = run.step
        until(lambda: run.step > step, f"a step after bad inputs: {run}", PATIENCE)
    except (client.SparkError, AssertionError) as error:
        return [f"after bad inputs: {type(error).__name__}: {error}"]
    return [] if fate.state == "applied" else [f"a resume after bad inputs is answered with: {fate}"]


def edits(folder: Path, seed: int, seconds: float, tally: Tally) -> list[str]:
    """Edit a running training for so many seconds; return what does not hold."""
    os.environ["SPARK_FAST_HOME"] = str(folder / "home")
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    training = Edits(folder, seed, freeze=seed % 2 == 1)
    with training.training:
        try:
            until(lambda: training.training.out, training.training.err, PATIENCE)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                training.step()
                tally.counts["request: edits"] += 1
        except (AssertionError, client.SparkError) as error:
            return [f"edit {training.number}: {type(error).__name__}: {error}"]
    tally.counts["check: an edit loses no item and no class"] += 1
    return []
