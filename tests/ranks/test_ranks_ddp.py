"""Jobs of several ranks, steered at random moments: all ranks act at one step, and the weights come out the same."""

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from textwrap import indent

import pytest
import torch

from spark_fast import client
from spark_fast.client.snapshot import status_of_ranks
from tests.support.child import ALL, Child, in_turn, outcome, until
from tests.support.torchrun import EXAMPLE, HEAD, START, Ranks, Torchrun, joined, step_of

pytestmark = pytest.mark.ranks

Weights = dict[str, torch.Tensor]

TIMEOUT = 60.0
"""Seconds that a request may take on a machine that does much else."""
ENDLESS = ("--steps", "100000000")
LR = 0.05  # of the example


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def applied(request: client.Request) -> int:
    """Of a request that is to succeed: the step at which it took effect."""
    assert request.fate.state == "applied", request
    assert request.fate.step is not None
    return request.fate.step


def parked_at(run: client.Run) -> int:
    """Pauses it; the step at which all its ranks then stand."""
    step = applied(run.pause(timeout=TIMEOUT))
    assert step_of(run) == step
    return step


@pytest.fixture(params=[2, pytest.param(4, marks=pytest.mark.tier("all"))], ids=["2 ranks", "4 ranks"])
def ranks(request: pytest.FixtureRequest) -> int:
    return request.param


def learned_by_itself(folder: Path, ranks: int, steps: int, code: str | None = None) -> Weights:
    """What the example, or the training made of it, learns in so many steps if nobody touches it."""
    with Torchrun(folder / "by itself", ranks, "--steps", str(steps), code=code, SPARK_FAST="0") as job:
        assert job.ended() == 0, job.err
        first, *others = job.learned()
    assert all(same(first, other) for other in others)
    return first


def stopped_after(job: Torchrun, run: client.Run) -> tuple[int, Weights]:
    """Stops it; how many batches it has had, and what it has learned from them: the same on all ranks."""
    parked_at(run)
    progress = run.progress
    assert progress is not None
    applied(run.stop(timeout=TIMEOUT))
    assert job.ended() == 0, job.err
    stopped_at_one_step(job, run)
    return progress.loops[0][0], job.learned()[0]


def stopped_at_one_step(job: Torchrun, run: client.Run) -> None:
    """Asserts that all ranks have met the stop at one step, and saved what is the same everywhere."""
    stops = until(lambda: found if len(found := job.stops()) == job.ranks else {}, f"{job.ranks} stops: {job.out}")
    assert set(stops) == set(range(job.ranks))
    assert len(set(stops.values())) == 1, stops
    assert run.wait("stopped", timeout=TIMEOUT) == "stopped"
    assert {rank.step for rank in run.ranks} == set(stops.values())
    first, *others = job.learned()
    assert all(same(first, other) for other in others)


class Driver:
    """Asks for all that can be asked, at moments drawn from a seed, and looks where the ranks stand."""

    def __init__(self, job: Torchrun, seed: int) -> None:
        self.job = job
        self.run = job.run()
        self.random = random.Random(seed)
        self.asked = dict.fromkeys(("pause", "resume", "advance", "set", "call", "reload"), 0)

    def ask(self, count: int) -> None:
        """Asks so many times."""
        while sum(self.asked.values()) < count:
            self.job.check()
            if self.random.random() < 0.6:
                self._parked()
            else:
                self.ask_for(self.random.choice(("set", "call", "reload")))
            time.sleep(self.random.uniform(0, 0.01))

    def _parked(self) -> None:
        """Pauses it, asks for more where it stands, and has it go on."""
        self.asked["pause"] += 1
        parked_at(self.run)
        for _ in range(self.random.randrange(3)):
            what = self.random.choice(("advance", "advance", "set", "call"))
            before = step_of(self.run)
            self.ask_for(what)
            assert step_of(self.run) == before + (self.steps if what == "advance" else 0)
        self.asked["resume"] += 1
        applied(self.run.resume(timeout=TIMEOUT))

    def ask_for(self, what: str) -> None:
        """Asks for this, and looks what came of it."""
        self.asked[what] += 1
        if what == "advance":
            self.steps = self.random.randint(1, 5)
            applied(self.run.advance(self.steps, timeout=TIMEOUT))
        elif what == "set":
            applied(self.run.set("lr", LR, timeout=TIMEOUT))
        elif what == "call":
            results = self.run.call("evaluate", spark_ranks="all", spark_timeout=TIMEOUT)
            assert results == dict.fromkeys(range(self.job.ranks), results[0])
            assert results[0]["points"] == 1024
        else:
            applied(self.run.reload(f"{self.job.code}\n# edit {self.asked[what]}\n", timeout=TIMEOUT))


@pytest.mark.timeout(600)
@pytest.mark.tier("all")
def test_what_is_asked_at_random_moments_takes_effect_at_one_step_everywhere_and_changes_no_weight(
    tmp_path: Path, ranks: int
) -> None:
    with Torchrun(tmp_path / "disturbed", ranks, *ENDLESS) as job:
        driver = Driver(job, seed=ranks)
        driver.ask(400 if ALL else 200)
        assert all(driver.asked.values()), driver.asked
        steps, weights = stopped_after(job, driver.run)
    assert same(weights, learned_by_itself(tmp_path, ranks, steps))


@pytest.mark.tier("all")
@pytest.mark.timeout(400)
def test_a_value_is_set_before_the_same_batch_everywhere(tmp_path: Path) -> None:
    # A rank that stepped once with another rate than the others would have other weights from there on.
    rates: dict[int, float] = {}
    with Torchrun(tmp_path / "steered", 2, *ENDLESS) as job:
        run = job.run()
        source = random.Random(0)
        while len(rates) < (100 if ALL else 40):
            rate = round(source.uniform(0.01, 0.1), 4)
            rates[applied(run.set("lr", rate, timeout=TIMEOUT))] = rate
            time.sleep(source.uniform(0, 0.02))
        steps, weights = stopped_after(job, run)
    # The same rates, written into the training itself.
    at = "            optimizer.zero_grad()\n"
    assert at in job.code
    code = job.code.replace(at, f"            set_lr({rates}[step]) if step in {rates} else None\n{at}")
    assert same(weights, learned_by_itself(tmp_path, 2, steps, code))


@pytest.mark.tier("all")
@pytest.mark.timeout(600)
def test_two_controllers_at_once_change_no_weight(tmp_path: Path) -> None:
    asked = 200 if ALL else 80
    with Torchrun(tmp_path / "disturbed", 2, *ENDLESS) as job, ThreadPoolExecutor(1) as pool:
        one, other = Driver(job, seed=1), Driver(job, seed=2)

        def set_and_call() -> None:
            for _ in range(asked // 2):
                other.ask_for(other.random.choice(("set", "call")))
                time.sleep(other.random.uniform(0, 0.02))

        second = pool.submit(set_and_call)
        one.ask(asked)
        second.result()
        steps, weights = stopped_after(job, one.run)
    assert same(weights, learned_by_itself(tmp_path, 2, steps))


# --- the end ---


@pytest.mark.timeout(400)
def test_a_stop_is_met_at_one_step_by_all_ranks_and_torchrun_ends_well(tmp_path: Path, ranks: int) -> None:
    with Torchrun(tmp_path, ranks, *ENDLESS) as job:
        run = job.run()
        time.sleep(random.Random(ranks).uniform(0, 0.2))
        step = applied(run.stop(timeout=TIMEOUT))
        assert job.ended() == 0, job.err
        stopped_at_one_step(job, run)
        assert set(job.stops().values()) == {step}


@pytest.mark.timeout(400)
@pytest.mark.tier("all")
@pytest.mark.parametrize("parked", [False, True], ids=["running", "parked"])
def test_a_signal_to_one_rank_stops_all_at_one_step(tmp_path: Path, parked: bool) -> None:
    with Torchrun(tmp_path, 2, *ENDLESS) as job:
        run = job.run()
        if parked:
            run.pause(timeout=TIMEOUT)
        os.kill(run.ranks[1].pid, signal.SIGTERM)
        assert job.ended() == 0, job.err
        stopped_at_one_step(job, run)


@pytest.mark.tier("all")
@pytest.mark.timeout(400)
def test_a_signal_to_torchrun_stops_all_at_one_step_and_they_have_time_to_save(tmp_path: Path) -> None:
    with Torchrun(tmp_path, 2, *ENDLESS) as job:
        run = job.run()
        job.process.send_signal(signal.SIGTERM)
        stopped_at_one_step(job, run)
        job.ended()


@pytest.mark.timeout(400)
def test_new_code_that_fails_on_one_rank_is_taken_back_on_all(tmp_path: Path) -> None:
    with Torchrun(tmp_path, 2, *ENDLESS) as job:
        run = job.run()
        broken = job.code.replace('"points": int(counted[1])', '"points": 0')
        fault = "    if rank == 1:\n        raise ValueError('not on this rank')\n\n"
        broken = broken.replace("    def set_lr(", f"{fault}    def set_lr(")
        request = outcome(run.reload, broken, timeout=TIMEOUT)
        assert request.fate.state == "failed"
        assert "not on this rank" in (request.fate.reason or "") + job.err
        assert run.version == 1
        results = run.call("evaluate", spark_ranks="all", spark_timeout=TIMEOUT)
        assert [results[rank]["points"] for rank in range(2)] == [1024, 1024]
        parked_at(run)
        applied(run.reload(f"{job.code}\n# mended\n", timeout=TIMEOUT))
        applied(run.resume(timeout=TIMEOUT))
        applied(run.stop(timeout=TIMEOUT))
        assert job.ended() == 0, job.err
        stopped_at_one_step(job, run)


SLOW_SAVE = """
import atexit, os, time
import torch

RANK, FOLDER = int(os.environ["RANK"]), os.environ["TEST_FOLDER"]
ANOTHER_LEFT = os.path.join(FOLDER, "left0")

def save(*args, save=torch.save):
    end = time.monotonic() + 3.0
    while RANK == 1 and time.monotonic() < end and not os.path.exists(ANOTHER_LEFT):
        time.sleep(0.01)
    save(*args)
    open(os.path.join(FOLDER, "early" if os.path.exists(ANOTHER_LEFT) else f"saved{RANK}"), "w").close()

torch.save = save
atexit.register(lambda: open(os.path.join(FOLDER, f"left{RANK}"), "w").close())
"""
"""The second rank takes long to save, and writes down whether the first has left meanwhile."""


@pytest.mark.timeout(400)
def test_no_rank_of_the_example_leaves_before_all_have_saved(tmp_path: Path) -> None:
    with Torchrun(tmp_path, 2, *ENDLESS, code=SLOW_SAVE + EXAMPLE.read_text(), TEST_FOLDER=str(tmp_path)) as job:
        job.run().stop(timeout=TIMEOUT)
        assert job.ended() == 0, job.err
    assert {path.name for path in tmp_path.iterdir() if path.name[:4] in ("save", "earl", "left")} == {
        "saved0", "saved1", "left0", "left1",
    }  # fmt: skip


# --- ranks that come, go and stand still ---


@pytest.mark.parametrize(
    ("ranks", "run"),
    [
        ("paused paused", "paused"),
        ("paused pausing", "pausing"),
        ("running paused", "pausing"),
        ("running pausing", "pausing"),
        ("paused stopping", "stopping"),
        ("running reloading", "reloading"),
        ("lost paused", "paused"),
        ("finished running", "running"),
        ("finished lost", "lost"),
        ("running unheard", "running"),
        ("stopped unheard", "stopped"),
        ("stopped failed", "failed"),
    ],
)
def test_a_run_is_paused_when_all_its_living_ranks_are(ranks: str, run: str) -> None:
    found = [client.Rank(rank, client.SparkStatus(status), 1, 1, "host") for rank, status in enumerate(ranks.split())]
    assert status_of_ranks(found) == run


@pytest.mark.tier("all")
@pytest.mark.timeout(400)
def test_ranks_that_torchrun_starts_again_are_one_run_again(tmp_path: Path) -> None:
    # The store that torchrun shares with its workers still holds where the dead ones listened, which ends the new ones.
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with Torchrun(tmp_path, 2, *ENDLESS, options=["--max-restarts=1"], **own_store) as job:
        pids = {rank.pid for rank in job.run().ranks}
        os.kill(max(pids), signal.SIGKILL)
        run = until(
            lambda: found if (found := job.run()) and not pids & {rank.pid for rank in found.ranks} else None,
            "two new ranks",
            START,
        )
        before = parked_at(run)
        applied(run.advance(3, timeout=TIMEOUT))
        assert step_of(run) == before + 3
        applied(run.resume(timeout=TIMEOUT))
        applied(run.stop(timeout=TIMEOUT))
        assert job.ended() == 0, job.err
        stopped_at_one_step(job, run)


def test_a_rank_that_joins_late_comes_to_stand_where_the_others_do(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3, LOOP, late=1) as job:
        run = job.run()
        until(lambda: run.step > 100)
        parked_at(run)
        job.start()
        run = job.run()
        until(lambda: {str(rank.status) for rank in run.ranks} == {"paused"}, "the third parks, too")
        applied(run.resume(timeout=TIMEOUT))
        obeyed(run, 3)


def test_a_rank_that_is_started_again_late_acts_at_the_same_step_and_is_late_only_from_then_on(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    elastic = {"TORCHELASTIC_RUN_ID": "7", "GROUP_RANK": "0", "TORCHELASTIC_RESTART_COUNT": "1"}
    with Ranks(tmp_path, 3, LOOP, late=1, **elastic) as job:
        run = job.run()
        until(lambda: run.step > 1)
        asked = run.pause(timeout=TIMEOUT).asked
        step = step_of(run)
        until(lambda: time.time() > asked + 1.0, "the pause is old enough to be called late for")
        job.env["GATE"] = str(gate)
        job.start()
        late = until(
            lambda: found[2] if len(found := run.ranks) == 3 and found[2].overdue else None, "it is in its step"
        )
        assert late.overdue <= time.time() - late.since < time.time() - asked
        gate.touch()
        until(lambda: {str(rank.status) for rank in run.ranks} == {"paused"}, "it parks, too")
        assert step_of(run) == step
        applied(run.resume(timeout=TIMEOUT))
        obeyed(run, 3)


def test_a_rank_that_stands_still_holds_up_a_pause_and_comes_to_stand_where_the_others_do(tmp_path: Path) -> None:
    with Ranks(tmp_path, 3, LOOP) as job:
        run = job.run()
        os.kill(job.children[1].pid, signal.SIGSTOP)
        with pytest.raises(client.SparkTimeoutError):
            run.pause(timeout=0.5)
        until(lambda: {str(run.ranks[rank].status) for rank in (0, 2)} == {"paused"}, "the others park")
        still = run.ranks[1]
        assert str(still.status) != "paused"
        assert still.behind > 0
        assert until(lambda: run.ranks[1].overdue) >= 1
        assert run.ranks[0].overdue == run.ranks[2].overdue == 0
        assert run.ranks[0].step == run.ranks[2].step > run.ranks[1].step
        os.kill(job.children[1].pid, signal.SIGCONT)
        run.wait("paused", timeout=TIMEOUT)
        step_of(run)
        applied(run.resume(timeout=TIMEOUT))
        obeyed(run, 3)


# --- killed at any point ---

LOOP = """
point, victim = os.environ.get("POINT"), int(os.environ.get("VICTIM", -1))
spark.expose(lr=0.1, twice=lambda number: 2 * number)
spark.checkpoint()
if RANK == victim:
    _core.arm_point(point)
elif gate := os.environ.get("GATE"):
    while not os.path.exists(gate):
        time.sleep(0.001)
while True:
    spark.checkpoint()
    time.sleep(0.0005)
"""


def obeyed(run: client.Run, ranks: int, count: int = 3) -> None:
    """Asserts that so many ranks act as one on all that is asked, and ends them."""
    for _ in range(count):
        before = parked_at(run)
        assert sum(rank.status.live for rank in run.ranks) == ranks
        applied(run.advance(3, timeout=TIMEOUT))
        assert step_of(run) == before + 3
        applied(run.set("lr", 0.2, timeout=TIMEOUT))
        results = run.call("twice", 21, spark_ranks="all", spark_timeout=TIMEOUT)
        assert results == {rank.rank: 42 for rank in run.ranks if rank.status.live}
        applied(run.resume(timeout=TIMEOUT))
    applied(run.stop(timeout=TIMEOUT))


ASKED_AND_KILLED_AT = [
    ("pause", "turn:folded"), ("pause", "turn:applied"), ("pause", "park:published"), ("pause", "park:waiting"),
    ("set", "turn:folded"), ("set", "turn:applied"), ("set", "done:told"), ("call", "turn:applied"),
    ("call", "done:told"), ("advance", "done:told"), ("advance", "park:waiting"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "point", "victim"), in_turn(ASKED_AND_KILLED_AT, [0, 1, 2]))
def test_a_rank_killed_while_it_applies_a_request_leaves_the_others_in_agreement(
    tmp_path: Path, what: str, point: str, victim: int
) -> None:
    with Ranks(tmp_path, 3, LOOP, POINT=point, VICTIM=str(victim)) as job:
        run = job.run()
        if what == "call":
            request = run.request_call("twice", [21], timeout=TIMEOUT, ranks="all")
            assert [request.result.get(rank) for rank in range(3) if rank != victim] == [42, 42], request
        elif what == "set":
            request = run.set("lr", 0.3, timeout=TIMEOUT)
        elif what == "advance":
            request = run.advance(3, timeout=TIMEOUT)
        else:
            request = run.pause(timeout=TIMEOUT)
        applied(request)
        if what in ("set", "call"):
            parked_at(run)
        left_without(job, run, victim)


@pytest.mark.parametrize(("point", "victim"), in_turn(["turn:met", "turn:settled"], [0, 2]))
def test_a_rank_killed_while_it_decides_for_a_suspended_sender_leaves_the_others_in_agreement(
    tmp_path: Path, point: str, victim: int
) -> None:
    gate = tmp_path / "gate"
    with Ranks(tmp_path, 3, LOOP, POINT=point, VICTIM=str(victim), GATE=str(gate)) as job:
        run = job.run()
        with suspended_sender(tmp_path) as sender:
            assert job.children[victim].ended() == -signal.SIGKILL
            gate.touch()
            run.wait("paused", timeout=TIMEOUT)  # the others decide, or keep what the dead one has decided
            step_of(run)
            os.kill(sender.pid, signal.SIGCONT)
            assert sender.ended() == 0, sender.err
            assert sender.out.strip() == "applied"
        left_without(job, run, victim)


def suspended_sender(folder: Path) -> Child:
    """One that has published its request and stands still before it decides the target."""
    code = """
    import signal
    from spark_fast import _core, client
    run = client.attach("job")
    _core.arm_point("decide:signalled", signal.SIGSTOP)
    print(run.pause(wait=False).wait().state)
    """
    return Child(folder, code, name=None)


def left_without(job: Ranks, run: client.Run, victim: int) -> None:
    """Asserts that the paused run goes on without this rank, as one, and ends it."""
    assert job.children[victim].ended() == -signal.SIGKILL
    assert str(run.ranks[victim].status) == "lost"
    assert run.ranks[victim].since > 0
    step_of(run)
    applied(run.resume(timeout=TIMEOUT))
    obeyed(run, len(job.children) - 1)
    others = [child for rank, child in enumerate(job.children) if rank != victim]
    assert {child.ended() for child in others} == {1}
    assert all("Traceback" not in child.err for child in others), job.err


RELOADABLE = """
import itertools
victim = int(os.environ["VICTIM"])

def main():
    spark.expose(lr=0.1, twice=lambda number: 2 * number)
    for step in spark.track(itertools.count(), key="steps"):
        time.sleep(0.0005)

if __name__ == "__main__":
    spark.run(main)
"""


@pytest.mark.parametrize("victim", [0, 1] if ALL else [0])
@pytest.mark.parametrize(("phase", "point"), in_turn(["ready", "executed", "proved"], ["vote:given", "vote:counted"]))
def test_a_rank_killed_while_all_vote_on_new_code_leaves_the_others_with_it(
    tmp_path: Path, point: str, phase: str, victim: int
) -> None:
    # Each rank votes before the loop is left, when the code was executed, and when its loop has come round. The victim
    # is the last to do so, to be the one that counts what all have said.
    late = f"if RANK == victim:\n    time.sleep(0.3)\n    _core.arm_point({point!r})\n"
    begin = RELOADABLE.replace("time.sleep(0.0005)", "time.sleep(0.002 if RANK == victim else 0.0005)")
    at_the_top = ("def main", f"{late}\ndef main")
    with Ranks(tmp_path, 3, begin.replace(*at_the_top) if phase == "ready" else begin, VICTIM=str(victim)) as job:
        run = job.run()
        new = HEAD + RELOADABLE
        if phase == "executed":
            new = new.replace(*at_the_top)
        if phase == "proved":
            new = new.replace("        time.sleep", indent(late, " " * 8) + "        time.sleep")
        # Another rank that the last vote wakes may come to count it first.
        for number in range(2, 100):
            applied(run.reload(f"{new}\n# version {number}\n", timeout=TIMEOUT))
            assert run.version == number
            if job.children[victim].process.poll() is not None:
                break
        before = parked_at(run)
        applied(run.advance(3, timeout=TIMEOUT))
        assert step_of(run) == before + 3
        left_without(job, run, victim)


ATTACH_POINTS = [
    "claim:folder", "claim:about", "create:opened", "create:filled", "create:renamed", "attach:filled", "attach:done",
    "join:locked", "join:seated", "join:done",
]  # fmt: skip


@pytest.mark.parametrize(("point", "victim"), in_turn(ATTACH_POINTS, [0, 1]))
def test_a_rank_killed_while_it_joins_leaves_the_others_one_run(tmp_path: Path, point: str, victim: int) -> None:
    passed = tmp_path / "passed"
    note = f"if RANK == {victim}:\n    open({str(passed)!r}, 'w').close()\n"
    loop = LOOP.replace("if RANK == victim", f"{note}if RANK == victim", 1)
    code = f"if RANK == {victim}:\n    _core.arm_point({point!r})\n{loop}"
    with Ranks(tmp_path, 3, code) as job:
        killed = job.children[victim].process
        # The second to come to a run passes by some of the points. It is safe once it has passed a checkpoint.
        run = until(
            lambda: joined(3, "job") if passed.exists() else joined(2, "job") if killed.poll() is not None else None,
            "a run",
        )
        assert killed.poll() in (None, -signal.SIGKILL), job.err
        ranks = 3 if killed.poll() is None else 2
        before = parked_at(run)
        assert sum(rank.status.live for rank in run.ranks) == ranks
        applied(run.advance(3, timeout=TIMEOUT))
        assert step_of(run) == before + 3
        if victim != 0 or ranks == 3:  # values and functions are those that the first rank exposes
            obeyed(run, ranks, count=1)
        else:
            applied(run.stop(timeout=TIMEOUT))


APPEND_POINTS = [
    "append:opened", "append:locked", "append:written", "append:published", "decide:signalled", "append:decided",
    "append:unlocked",
]  # fmt: skip


@pytest.mark.parametrize(("point", "what"), in_turn(APPEND_POINTS, ["pause", "stop", "set"]))
def test_a_sender_killed_at_any_point_leaves_all_ranks_with_its_request_or_none(
    tmp_path: Path, point: str, what: str
) -> None:
    with Ranks(tmp_path, 3, LOOP) as job:
        run = job.run()
        ask = {"pause": "run.pause()", "stop": "run.stop()", "set": "run.set('lr', 0.3)"}[what]
        code = f"from spark_fast import _core, client\nrun = client.attach('job')\n_core.arm_point({point!r})\n{ask}"
        done = subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr.decode()
        left = run.requests
        assert len(left) == (point in APPEND_POINTS[3:])
        if left:
            fate = left[0].wait(TIMEOUT)
            assert fate.state in ("void", "applied")
            if what == "stop" and fate.state == "applied":
                assert {child.ended() for child in job.children} == {1}
                assert len({rank.step for rank in run.ranks}) == 1
                return
        obeyed(run, 3, count=1)
