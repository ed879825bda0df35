"""Attack real jobs for some hours: `python -m tests.campaign --hours 8 --seed 1`; see docs/reliability.md."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import psutil

from tests.campaign.disk import own_mounts
from tests.campaign.jobs import JOBS
from tests.campaign.one_host import OneHost
from tests.campaign.others import edits, given_bad_inputs
from tests.campaign.tally import Finding, Tally, write
from tests.campaign.two_hosts import TwoHosts

__all__ = ["KINDS", "campaign", "main"]

KINDS = (*JOBS, "hosts", "inputs", "edits")
"""The jobs, in the order in which a campaign runs them."""

REPORT = Path(__file__).parents[2] / "docs" / "reliability.md"

_PAGE_EACH = 3
"""One of so many jobs of one host is also asked through the page."""


def campaign(
    seed: int,
    seconds: float,
    *,
    kinds: Sequence[str] = KINDS,
    each: float = 20.0,
    only: int | None = None,
    mounts: bool = False,
) -> Tally:
    """Run one job after the other until the time is over; return the counts and findings.

    seed: the same one gives the same jobs and the same plan of faults. What happens at which instant differs.
    kinds: which jobs, in turn.
    each: seconds for which a job is attacked.
    only: the number of the one job to run.
    mounts: whether this process may mount small disks.

    An interrupt ends the campaign after the current job is ended, and the tally has what was done.
    """
    tally = Tally(seed)
    began = time.monotonic()
    number = 0 if only is None else only
    try:
        while time.monotonic() - began < seconds:
            run_job(number, kinds[number % len(kinds)], each, tally, mounts=mounts)
            number += 1
            if only is not None:
                break
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        tally.seconds = time.monotonic() - began
    return tally


def run_job(number: int, kind: str, seconds: float, tally: Tally, *, mounts: bool = False) -> None:
    """Run one job of a campaign and add what it did and found to the tally."""
    folder = Path(tempfile.mkdtemp(prefix=f"campaign-{number}-"))
    environment = dict(os.environ)
    try:
        wrong = _live(number, kind, seconds, folder, tally, mounts=mounts)
    except Exception:
        wrong = [f"the job could not be run to its end: {traceback.format_exc()}"]
    finally:
        os.environ.clear()
        os.environ.update(environment)
        _end_children(folder)
    tally.counts["jobs"] += 1
    tally.counts[f"job: {kind}"] += 1
    name = f"job {number} ({kind}), seed {tally.seed}"
    for what in wrong:
        tally.findings.append(Finding(name, what, str(folder)))
        print(f"FINDING in {name}, files in {folder}: {what}", flush=True)
    if not wrong:
        shutil.rmtree(folder)
    total = tally.sum("request: ")
    print(f"{name}: {len(wrong)} findings; so far {total:,} requests, {tally.sum('kill: '):,} kills", flush=True)


def _live(number: int, kind: str, seconds: float, folder: Path, tally: Tally, *, mounts: bool) -> list[str]:
    seed = tally.seed * 1_000_003 + number
    if kind == "hosts":
        hosts = TwoHosts(folder, seed, tally)
        hosts.live(seconds)
        return hosts.wrong
    if kind == "inputs":
        return given_bad_inputs(folder, seed, seconds, tally)
    if kind == "edits":
        return edits(folder, seed, seconds, tally)
    job = OneHost(kind, folder, seed, tally, with_page=number % _PAGE_EACH == 0, mounts=mounts)
    job.live(seconds)
    return job.wrong


def _end_children(folder: Path) -> None:
    """End what a job has left: workers whose launcher was killed, relays, commands of killed senders."""
    for process in psutil.process_iter():
        try:
            mine = str(folder) in process.environ().get("SPARK_FAST_HOME", "")
        except psutil.Error:
            continue
        if mine and process.pid != os.getpid():
            os.kill(process.pid, signal.SIGKILL)


def main(words: Sequence[str] | None = None) -> int:
    """Run a campaign, print its summary, write it into the report; return the exit status, 1 for findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--hours", type=float, default=1.0, help="how long to go on (default: 1)")
    parser.add_argument("--seed", type=int, default=1, help="what the jobs and the faults are drawn from (default: 1)")
    parser.add_argument("--each", type=float, default=20.0, help="seconds for which a job is attacked (default: 20)")
    parser.add_argument("--jobs", default=",".join(KINDS), help="which jobs, with commas between (default: all)")
    parser.add_argument("--only", type=int, help="run the job of this number alone, as a finding names it")
    parser.add_argument("--report", type=Path, help=f"where the figures go (default: {REPORT.name}; -: nowhere)")
    arguments = parser.parse_args(words)
    kinds = arguments.jobs.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"there are no jobs {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    # A shell's background job ignores interrupts, and a batch system sends SIGTERM: here both end a campaign well.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    tally = campaign(
        arguments.seed,
        arguments.hours * 3600,
        kinds=kinds,
        each=arguments.each,
        only=arguments.only,
        mounts=own_mounts(),
    )
    print(tally.summary())
    report = arguments.report or (REPORT if arguments.only is None else None)
    if report is not None and str(report) != "-":
        write(report, tally)
    return 1 if tally.findings else 0


if __name__ == "__main__":
    sys.exit(main())
