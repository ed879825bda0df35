"""A job of one host under random requests, kills and faults."""

import os
import random
import resource
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from spark_fast import client
from tests.campaign import checks, faults
from tests.campaign.disk import SmallDisk
from tests.campaign.jobs import JOBS, Job, bystander
from tests.campaign.senders import PATIENCE, Page, Sender, answers_of
from tests.campaign.tally import Tally
from tests.support.child import until

if TYPE_CHECKING:
    from tests.support.served import Served

__all__ = ["OneHost", "page_of"]

_SENDERS = 3
_DISK = 8 << 20
"""Bytes of a small disk: more than two runs and their code versions take."""
_LIMITS = {"no room for files": (resource.RLIMIT_FSIZE, 0), "no descriptors": (resource.RLIMIT_NOFILE, 8)}
_FAULTS = {
    "none": 30,
    "kill sender": 20,
    "suspend rank": 8,
    "suspend sender": 8,
    "limit": 4,
    "fill disk": 6,
    "kill rank": 3,
    "kill supervisor": 1,
}
_ENDS = {"stop": 6, "damage": 2, "take away": 2, "kill all": 2}


class OneHost:
    """One job, from its start to the checks after its end.

    wrong: what does not hold, a line each.
    """

    def __init__(
        self, kind: str, folder: Path, seed: int, tally: Tally, *, with_page: bool = False, mounts: bool = False
    ) -> None:
        self.kind, self.folder, self.tally = kind, folder, tally
        self.chance = random.Random(seed)
        self.wrong: list[str] = []
        self._with_page = with_page
        self._senders: list[Sender] = []
        self._made = 0
        self._suspended, self._limits = faults.Suspended(), faults.Limits()
        self._usages: dict[int, list[tuple[int, int]]] = {}
        self._no_room_since = float("inf")
        self._victim: int | None = None
        self._lost_supervisor = False
        self._page: Page | None = None
        self._told: dict[int, list[dict[str, Any]]] = {}
        self._limited = dict(_LIMITS)
        if self.chance.random() < 0.7:  # a journal without room is not checked any further
            del self._limited["no room for files"]
        self._disk: SmallDisk | None = None
        self._has_small_disk = mounts and self.chance.random() < 0.3

    def live(self, seconds: float) -> None:
        """Start the job, attack it for so many seconds, end it, and check what must hold."""
        os.environ["SPARK_FAST_HOME"] = str(self.folder / "home")
        os.environ["XDG_STATE_HOME"] = str(self.folder / "state")
        with ExitStack() as stack:
            if self._has_small_disk:
                self._disk = stack.enter_context(SmallDisk(self.folder / "home", _DISK))
            job = stack.enter_context(JOBS[self.kind](self.folder))
            beside = stack.enter_context(bystander(self.folder))
            run, other = job.run(), beside.run("bystander")
            if job.can_lose_rank:
                self._victim = self.chance.randrange(1, job.count)
            if self._with_page:
                from tests.support.served import Served  # which needs what only `make test-all` installs

                with Served(self.folder) as served:
                    self._page = page_of(served)
                    self._attack(job, run, seconds)
            else:
                self._attack(job, run, seconds)
            [end] = self.chance.choices(list(_ENDS), list(_ENDS.values()))
            self._end(end, job, run)
            self._check(job, run, stopped=end in ("stop", "damage") and not self.wrong)
            beside.steps_on(other)
            self._is("nothing of another run is touched", [] if not other.requests else [f"{other.requests}"])

    # --- the attack ---

    def _attack(self, job: Job, run: client.Run, seconds: float) -> None:
        try:
            end = time.monotonic() + seconds
            next_reading = 0.0
            while time.monotonic() < end:
                if not pids_of(run):
                    self._is("the job lives under attack", [f"it is {run}: {job.err()[-3000:]}"])
                    return
                while len(self._senders) < _SENDERS:
                    self._send(job, run)
                names = [name for name in _FAULTS if self._can(name, job)]
                [name] = self.chance.choices(names, [_FAULTS[each] for each in names])
                self._do(name, job, run)
                if time.monotonic() >= next_reading:
                    next_reading = time.monotonic() + 0.5
                    self._read_usage(run)
                time.sleep(self.chance.random() * 0.3)
                self._suspended.wake()
                self._limits.lift()
                if self._disk is not None:
                    self._disk.free()
        finally:
            if self._disk is not None:
                self._disk.free(at_once=True)
            self._suspended.wake(all_of_them=True)
            self._limits.lift(all_of_them=True)
            for sender in self._senders:
                sender.kill()
            self._senders.clear()

    def _send(self, job: Job, run: client.Run) -> None:
        self._made += 1
        channels = {"api": 8, "cli": 1} | ({"page": 4} if self._page else {})
        [channel] = self.chance.choices(list(channels), list(channels.values()))
        limit = 24 if channel == "api" and self.chance.random() < 0.05 else None
        self._count("fault", "sender with few descriptors", limit is not None)
        self._senders.append(
            Sender(
                self.folder / f"sender{self._made}.jsonl",
                run.id,
                self._made,
                self.chance.getrandbits(32),
                channel,
                home=os.environ["SPARK_FAST_HOME"],
                page=self._page,
                reloads=job.reloads,
                limit=limit,
            )
        )

    def _can(self, name: str, job: Job) -> bool:
        return {
            "kill rank": self._victim is not None,
            "fill disk": self._disk is not None,
            "kill supervisor": self.kind == "supervised" and not self._lost_supervisor,
        }.get(name, True)

    def _do(self, name: str, job: Job, run: client.Run) -> None:
        if name == "kill sender":
            self._senders.pop(self.chance.randrange(len(self._senders))).kill()
            self._count("kill", "controllers")
        elif name == "suspend sender":
            self._suspended.suspend(self.chance.choice(self._senders).pid, self.chance.random())
            self._count("fault", "controller suspended")
        elif name == "suspend rank":
            self._suspended.suspend(self._rank_of(run), self.chance.random())
            self._count("fault", "rank suspended")
        elif name == "limit":
            what = self.chance.choice(list(self._limited))
            number, limit = self._limited[what]
            if number == resource.RLIMIT_FSIZE:
                self._no_room_since = min(self._no_room_since, time.monotonic())
            self._limits.lower(self._rank_of(run), number, limit, 0.2 + self.chance.random())
            self._count("fault", what)
        elif name == "fill disk":
            assert self._disk is not None
            self._disk.fill(self.chance.random())
            self._count("fault", "disk full")
        elif name == "kill rank":
            self._kill_and_start(job, run)
        elif name == "kill supervisor":
            self._lost_supervisor = True
            faults.kill([process.pid for process in job.launchers()])
            self._count("kill", "supervisors")

    def _rank_of(self, run: client.Run) -> int:
        """Return the process of a random rank: one that lives, where any does."""
        return self.chance.choice(pids_of(run) or [rank.pid for rank in run.ranks])

    def _kill_and_start(self, job: Job, run: client.Run) -> None:
        assert self._victim is not None
        alive = {rank.rank: rank.pid for rank in run.ranks if rank.status.live}
        if self._victim in alive:
            faults.kill([alive[self._victim]])
            self._count("kill", "ranks")
        else:
            self._count("fault", "rank started again", job.start(self._victim))

    def _read_usage(self, run: client.Run) -> None:
        for pid in pids_of(run):
            reading = faults.usage(pid)
            if reading is not None:
                self._usages.setdefault(pid, []).append(reading)

    # --- the end ---

    def _end(self, end: str, job: Job, run: client.Run) -> None:
        if end == "kill all":
            self._kill_all(job, run)
            return
        if self._victim is not None:
            # A rank that comes to its first checkpoint after the stop of the others begins a job of its own.
            until(
                lambda: {process.pid for process in job.launchers()} <= set(pids_of(run)),
                "a rank that was started again takes part",
                PATIENCE,
            )
        if not self._obeys(run):
            return
        if end == "take away":
            # What is told after that has steps that count from 0 again.
            self._told = {rank: job.told(rank) for rank in range(job.count)}
            what = faults.truncate(run.folder, self.chance)
            self._count("fault", what)
            self._goes_on(job, f"after: {what}")
            return
        if end == "damage":
            for _ in range(3):
                what = faults.damage(run.folder, self.chance)
                self._count("fault", "files damaged", what is not None)
                self._goes_on(job, f"after: {what}")
        self._stop(job, run)

    def _obeys(self, run: client.Run) -> bool:
        """Ask the run for one of each, as the only controller."""
        wrong: list[str] = []

        def ask(what: str, make: Callable[[], client.Request]) -> None:
            fate = make().wait(PATIENCE)
            if fate.state != "applied":
                wrong.append(f"a run that is left alone answers {what} with: {fate}")

        try:
            ask("pause", lambda: run.pause(wait=False))
            standing = {rank.step for rank in run.ranks if rank.status.live}
            if len(standing) != 1:
                wrong.append(f"the ranks of a paused run stand at the steps {standing}")
            ask("advance", lambda: run.advance(2, wait=False))
            ask("call", lambda: run.request_call("note", [1], ranks="all", wait=False))
            ask("resume", lambda: run.resume(wait=False))
            step = run.step
            until(lambda: run.step > step + 2, f"the loop goes on after a resume: {run}", PATIENCE)
        except (client.SparkError, AssertionError) as error:
            faults.dump(pids_of(run))
            wrong.append(f"a run that is left alone does not obey: {type(error).__name__}: {error}; {run.ranks}")
        self._is("a run that is left alone obeys", wrong)
        return not wrong

    def _goes_on(self, job: Job, what: str) -> None:
        """Its loop goes on, whatever has become of its files."""
        alive = [rank for rank in range(job.count) if rank != self._victim]
        before = {rank: len(job.told(rank)) for rank in alive}
        wrong = []
        try:
            until(lambda: all(len(job.told(rank)) > before[rank] + 3 for rank in alive), "", PATIENCE)
        except AssertionError:
            wrong.append(f"the loop stands still {what}: {before}")
        self._is("the loop goes on without its files", wrong)

    def _stop(self, job: Job, run: client.Run) -> None:
        processes = [psutil.Process(pid) for pid in pids_of(run)] + job.launchers()
        try:
            fate = run.stop(wait=False).wait(PATIENCE)
        except client.SparkError as error:
            self.wrong.append(f"a stop is answered with {type(error).__name__}: {error}")
            return
        if fate.state != "applied":
            self.wrong.append(f"a stop is answered with: {fate}")
        _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
        self._is("processes end after a stop", [f"process {process.pid} has not ended" for process in alive])

    def _kill_all(self, job: Job, run: client.Run) -> None:
        pids = pids_of(run)
        faults.kill(pids)
        self._count("kill", "ranks", len(pids))
        try:
            until(lambda: not run.status.live, "the run is over", PATIENCE)
            fate = run.pause(wait=False).wait(PATIENCE)
            wrong = [] if fate.state in ("refused", "lost") else [f"a run of dead ranks answers a pause with: {fate}"]
        except (client.SparkError, AssertionError) as error:
            wrong = [f"a run of dead ranks: {type(error).__name__}: {error}; {run.ranks}"]
        self._is("requests to dead ranks are answered", wrong)

    # --- the checks ---

    def _check(self, job: Job, run: client.Run, *, stopped: bool) -> None:
        answers = list(answers_of(self.folder))
        for answer in answers:
            self._count("request", answer.channel)
            self._count("answer", answer.short)
        whole = [rank for rank in range(job.count) if rank != self._victim]
        told = {rank: self._told.get(rank) or job.told(rank) for rank in whole}
        self._is("no request hangs, no client crashes", checks.crashes(answers))
        self._is("no item is lost or comes twice", checks.items(told, by_step=job.by_step))
        if not job.reloads:
            self._is(
                "no item is lost or comes twice", checks.items({rank: job.told(rank) for rank in whole}, by_step=False)
            )
        if job.by_step:
            self._is("values are in force from their step on", checks.answered(told, answers))
        if job.count > 1:
            self._is("all ranks agree at each step", checks.agreement(told))
        self._is("a call is made once", checks.calls_of(told, answers, whole))
        path = next(iter((self.folder / "state" / "spark_fast").glob(f"{run.id}-*.jsonl")), None)
        self._is(
            "each applied request stands in the journal",
            checks.journaled(path, answers, self._no_room_since, slack=0 if job.by_step else 2),
        )
        self._is("descriptors and memory do not grow", checks.growth(self._usages))
        said = job.err()
        fatal = [word for word in ("Fatal Python error", "SystemError", "Segmentation fault") if word in said]
        if job.exits:
            self._is("no process crashes", [f"{fatal}: {said[-3000:]}"] if fatal else [])
        if stopped:
            missing = [rank for rank in whole if not any("stopped" in line for line in told[rank])]
            self._is("a stop reaches all ranks", [f"rank {rank} was not told to stop" for rank in missing])
        errors = "".join(path.read_text() for path in self.folder.glob("sender*.err"))
        self._is("senders say nothing", [f"a sender said: {errors[-3000:]}"] if errors else [])

    def _is(self, what: str, wrong: list[str]) -> None:
        self.wrong += [f"{what}: {each}" for each in wrong]
        self.tally.counts[f"check: {what}"] += not wrong

    def _count(self, group: str, name: str, number: int = 1) -> None:
        if number:
            self.tally.counts[f"{group}: {name}"] += number


def pids_of(run: client.Run) -> list[int]:
    """Return the processes of a run's living ranks."""
    return [rank.pid for rank in run.ranks if rank.status.live and rank.pid > 1]  # 0 would be this process's group


def page_of(served: "Served") -> Page:
    """Return where a server's page is."""
    token = served.address.partition("token=")[2]
    return Page(f"http://127.0.0.1:{served.port}", token)
