"""The agreement between hosts: the relays' own code, on simulated links, ranks and stores. See hosts_sim."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from spark_fast.hosts import answers
from spark_fast.hosts.answers import decisive
from spark_fast.hosts.decision import decide
from spark_fast.hosts.messages import STEP_MAX, VOID, Answer, Appended, Decision, Entry, GroupAnswer, Member, Note
from spark_fast.hosts.protocol import Times
from spark_fast.request import Kind
from tests.support.child import ALL
from tests.support.hosts_sim import NEVER, NO, YES, Chances, SimClient, SimHost, SimJob, SimRank

pytestmark = pytest.mark.unit

ROUGH = Chances(cut=0.003, heal=0.02, kill=0.003, ask=0.02, dies_within_append=0.05)
CUT = Chances(cut=0.01, heal=0.01, ask=0.02)
KILLED = Chances(kill=0.006, ask=0.02, dies_within_append=0.1)
QUICK = Times(bound=1.0, beat=1.0, gone=4.0)

RUNNING = (Kind.PAUSE, Kind.RESUME, Kind.SET, Kind.ADVANCE)


def schedule(seed: int, chances: Chances, hosts: int | None = None, seconds: float = 8.0) -> SimJob:
    """A job whose links and relays are in trouble for a while, and then no more."""
    job = SimJob(seed, hosts or 2 + seed % 2, 1 + seed % 3, times=QUICK, chances=chances, lockstep=seed % 4 < 2)
    job.run(seconds)
    job.check()
    job.calm = True
    job.run(12.0)
    job.check()
    return job


def reloads(seed: int, chances: Chances) -> SimJob:
    """The same with reloads among the requests, to which some rank says no now and then."""
    kinds = (Kind.RELOAD, Kind.RELOAD, Kind.PAUSE, Kind.RESUME, Kind.SET)
    job = SimJob(
        seed,
        2 + seed % 2,
        1 + seed % 3,
        times=QUICK,
        chances=replace(chances, no=0.05),
        lockstep=seed % 4 < 2,
        kinds=kinds,
    )
    job.run(8.0)
    job.check()
    job.calm = True
    job.run(5.0)
    go_on(job)
    job.run(10.0)
    job.check()
    return job


def go_on(job: SimJob) -> None:
    """Resumes what is parked: there others, that met it in each step, come to nothing that was asked."""
    ident = job.ask(job.hosts[0], Kind.RESUME)
    job.run(10.0, lambda: ident in job.hosts[0].fates)
    job.run(5.0)


@pytest.mark.tier("test")
@pytest.mark.parametrize("chances", [ROUGH, CUT, KILLED], ids=["all", "links", "relays"])
@pytest.mark.parametrize("block", range(5 if ALL else 2))
def test_no_two_hosts_act_on_different_steps_whatever_is_cut_or_killed(chances: Chances, block: int) -> None:
    asked = troubles = acted = 0
    for seed in range(block * 40, block * 40 + 40):
        job = schedule(seed, chances)
        asked += job.asked
        troubles += job.kills + job.cuts
        acted += len({ident for host in job.hosts for rank in host.ranks_ for ident in rank.applied})
        if any(host.left for host in job.hosts):
            go_on(job)
        left = [ident for host in job.hosts for ident in host.left]
        assert not left, f"seed {seed}: nobody was ever told of {left}"
    assert asked > 250 and troubles > 100 and acted > asked / 10, "the schedules were too quiet, or too rough"


@pytest.mark.tier("test")
@pytest.mark.parametrize("chances", [ROUGH, CUT, KILLED], ids=["all", "links", "relays"])
@pytest.mark.parametrize("block", range(3 if ALL else 1))
def test_all_hosts_run_new_code_or_none_does_whatever_is_cut_or_killed(chances: Chances, block: int) -> None:
    run = refused = 0
    for seed in range(block * 40, block * 40 + 40):
        job = reloads(seed, chances)
        everybody = [rank for host in job.hosts for rank in host.ranks_]
        verdicts = {ident: verdict for rank in everybody for ident, verdict in rank.verdicts.items()}
        run += sum(verdict == YES for verdict in verdicts.values())
        refused += sum(verdict == NO for verdict in verdicts.values())
        assert not [rank.number for rank in everybody if rank.voting is not None], f"seed {seed}: they wait for ever"
        left = [ident for host in job.hosts for ident in host.left]
        assert not left, f"seed {seed}: nobody was ever told of {left}"
    assert run > 20 and refused > 20, "the schedules were too quiet, or too rough"


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts form groups from four hosts on."""
    monkeypatch.setattr(answers, "_GROUPS_FROM", 4)


@pytest.mark.tier("test")
@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("chances", [ROUGH, CUT, KILLED], ids=["all", "links", "relays"])
def test_no_two_hosts_of_groups_act_on_different_steps_whatever_is_cut_or_killed(chances: Chances) -> None:
    asked = acted = 0
    for seed in range(15):
        job = schedule(seed, chances, 4 + seed % 5)
        asked += job.asked
        acted += len({ident for host in job.hosts for rank in host.ranks_ for ident in rank.applied})
        if any(host.left for host in job.hosts):
            go_on(job)
        left = [ident for host in job.hosts for ident in host.left]
        assert not left, f"seed {seed}: nobody was ever told of {left}"
    assert asked > 100 and acted > asked / 10, "the schedules were too quiet, or too rough"


def in_groups() -> SimJob:
    """Nine hosts in three groups, whose relays have joined."""
    job = SimJob(15, 9, 2, times=QUICK, lockstep=False)
    job.run(1.0)
    return job


@pytest.mark.usefixtures("small_groups")
def test_the_lead_of_each_other_group_tells_what_its_hosts_answer() -> None:
    job = in_groups()
    read: list[str] = []
    asked = job.hosts[4]
    ident = job.ask(asked, Kind.SET)

    def look() -> bool:
        wait = asked.waits
        read.extend(wait[0] if wait is not None and not isinstance(wait[0], str) else [])
        return ident in asked.fates

    job.run(10.0, look)
    assert asked.fates[ident][0].state == "applied"
    assert {key for key in read if key.startswith("low")} == {"low/1/6", "low/1/10", "lows/1/0", "lows/1/2"}
    assert not [key for key in job.store.values if key.startswith(("low/", "lows/"))], "they have served"
    job.check()


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("dead", [0, 1, 3])
def test_a_group_without_its_lead_or_another_of_its_hosts_is_heard_nevertheless(dead: int) -> None:
    job = in_groups()
    late = job.hosts[dead]
    late.dead_until = job.time + 0.5
    late.steps = late.relay = None
    ident = job.ask(job.hosts[4], Kind.SET)
    job.run(10.0, lambda: ident in job.hosts[4].fates)
    assert job.hosts[4].fates[ident][0].state == "applied"
    job.check()


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(
    "raw",
    [
        b"x",
        b"{}",
        b'{"hosts":9,"answers":{"0":{"low":0}}}',
        b'{"hosts":3,"answers":{"x":{}}}',
        b'{"hosts":3,"answers":{"5":{"low":0}}}',
        b'{"hosts":3,"answers":[]}',
    ],
)
def test_what_a_lead_says_that_makes_no_sense_is_read_from_its_hosts(raw: bytes) -> None:
    job = in_groups()
    job.store.values["lows/1/0"] = raw
    job.hosts[0].dead_until = job.time + 0.5  # the lead does not write over it
    job.hosts[0].steps = job.hosts[0].relay = None
    ident = job.ask(job.hosts[4], Kind.SET)
    job.run(10.0, lambda: ident in job.hosts[4].fates)
    assert job.hosts[4].fates[ident][0].state == "applied"
    job.check()


@pytest.mark.parametrize("seed", range(20))
def test_after_any_trouble_the_hosts_obey_what_is_asked_next(seed: int) -> None:
    job = schedule(seed, ROUGH)
    assert_obeys(job, Kind.RESUME, Kind.SET)
    assert not any(rank.parked for each in job.hosts for rank in each.ranks_)
    assert_obeys(job, Kind.STOP)
    assert not any(each.alive() for each in job.hosts)
    job.check()


def assert_obeys(job: SimJob, *kinds: Kind) -> None:
    """All hosts do what one is asked now that nothing is in trouble."""
    host = job.hosts[job.asked % len(job.hosts)]
    for kind in kinds:
        ident = job.ask(host, kind)
        job.run(40.0, lambda ident=ident: ident in host.fates)  # the one furthest behind has to get there first
        assert host.fates[ident][0].state in ("applied", "nothing")


@pytest.mark.tier("test")
@pytest.mark.parametrize("chances", [Chances(), Chances(cut=0.00002, heal=0.02, kill=0.00002)], ids=["calm", "rough"])
def test_a_thousand_hosts_act_on_one_step(chances: Chances) -> None:
    job = SimJob(1, 1000, 1, times=QUICK, chances=chances)
    job.run(0.5)
    states = []
    for kind in (Kind.PAUSE, Kind.SET, Kind.RESUME):
        ident = job.ask(job.hosts[700], kind)
        job.run(15.0, lambda ident=ident: ident in job.hosts[700].fates)
        states.append(job.hosts[700].fates[ident][0].state)
    job.check()
    assert chances.cut or states == ["applied"] * 3
    steps = {rank.applied.get("0000000000000001") for host in job.hosts for rank in host.ranks_}
    assert chances.cut or len(steps) == 1


def test_a_host_that_is_cut_off_fails_the_request_by_name_in_time_and_the_others_go_on() -> None:
    job = SimJob(5, 3, 2, lockstep=False)
    job.run(1.0)
    job.hosts[2].cut = True
    began = job.time
    ident = job.ask(job.hosts[0], Kind.PAUSE)
    job.run(20.0, lambda: ident in job.hosts[0].fates)
    fate, told = job.hosts[0].fates[ident]
    assert (fate.state, fate.reason) == ("refused", "host h2 (ranks 4-5) did not answer in 5 s")
    assert told - began < job.times.bound + 0.5
    steps = [rank.step for host in job.hosts for rank in host.ranks_]
    job.run(1.0)
    assert all(rank.step > step for rank, step in zip((r for h in job.hosts for r in h.ranks_), steps, strict=True))


def test_a_host_without_a_store_refuses_and_its_ranks_go_on() -> None:
    job = SimJob(6, 2, 1, lockstep=False)
    job.run(1.0)
    job.hosts[1].cut = True
    ident = job.ask(job.hosts[1], Kind.PAUSE)
    began = job.time
    job.run(20.0, lambda: ident in job.hosts[1].fates)
    fate, told = job.hosts[1].fates[ident]
    assert (fate.state, fate.reason) == ("refused", "cut") and told - began < job.times.bound + 1
    step = job.hosts[1].ranks_[0].step
    job.run(1.0)
    assert job.hosts[1].ranks_[0].step > step
    job.check()


def test_a_request_that_all_have_done_is_told_at_once_however_long_their_step_took() -> None:
    for seed in range(5):
        job = SimJob(seed, 2, 1, step_every=3.0)
        job.run(20.0)
        ident = job.ask(job.hosts[0], Kind.SET)
        job.run(60.0, lambda: all(ident in host.ranks_[0].applied for host in job.hosts))  # noqa: B023
        did = job.time
        job.run(60.0, lambda: ident in job.hosts[0].fates)  # noqa: B023
        fate, told = job.hosts[0].fates[ident]
        assert fate.state == "applied"
        assert told - did < 0.05, "simulated seconds: the store may end with the job"


def test_a_relay_that_is_to_hurry_tells_and_reads_before_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[int] = []
    monkeypatch.setattr(SimHost, "watched", lambda host: host.index == 0)
    monkeypatch.setattr(SimHost, "show", lambda host, peers, missing: shown.append(len(peers)))
    job = SimJob(16, 2, 1, times=Times(beat=1000.0, watched=1000.0))
    job.run(1.0)
    host = job.hosts[0]
    assert host.relay is not None

    def told() -> int:
        return int(json.loads(job.store.values["state/0"])["count"])

    for tell in (False, True):
        reads, before = len(shown), told()
        host.relay.hurry(tell=tell)
        host.stirred = True
        job.run(0.1)
        assert (len(shown), told()) == (reads + 1, before + tell)


@pytest.mark.parametrize(("kind", "state", "after"), [(Kind.STOP, "applied", 0.5), (Kind.PAUSE, "lost", 15.0)])
def test_where_the_store_is_gone_a_host_tells_what_its_own_ranks_did(kind: Kind, state: str, after: float) -> None:
    job = SimJob(15, 2, 1, lockstep=False)
    job.run(1.0)
    job.hosts[1].ranks_[0].step -= 10_000  # it does not come to it
    ident = job.ask(job.hosts[0], kind)
    own = job.hosts[0].ranks_[0]
    job.run(20.0, lambda: ident in own.applied)
    for host in job.hosts:
        host.cut = True
    cut = job.time
    job.run(60.0, lambda: ident in job.hosts[0].fates)
    fate, told = job.hosts[0].fates[ident]
    assert fate.state == state and told - cut < after
    if kind == Kind.STOP:
        assert fate.step == own.applied[ident] and "on this host; of the others nothing was heard" in fate.reason
    else:
        assert f"this host acted at step {own.applied[ident]}" in fate.reason
    job.check()


def test_a_host_that_comes_back_acts_if_it_can_and_else_is_told_that_it_came_too_late() -> None:
    outcomes = set()
    for lockstep in (True, False):
        job = SimJob(7, 2, 1, lockstep=lockstep)
        job.run(1.0)
        other = job.hosts[1]
        # It is cut off when it has said what it can do, and before it hears what was decided.
        ident = job.ask(job.hosts[0], Kind.PAUSE)
        job.run(5.0, lambda: "low/1/1" in job.store.values)  # noqa: B023
        other.cut = True
        job.run(2.0)
        assert "target/1" in job.store.values and other.log[0].target is None, "it waits"
        job.run(15.0 if not lockstep else 3.0)
        other.cut = False
        job.run(10.0, lambda: ident in job.hosts[0].fates)  # noqa: B023
        outcomes.add((lockstep, job.hosts[0].fates[ident][0].state, ident in other.ranks_[0].applied))
        job.check()
    assert outcomes == {(True, "applied", True), (False, "failed", False)}


def test_what_the_asked_host_leaves_undecided_is_void_before_any_rank_gives_up() -> None:
    job = SimJob(13, 3, 1, times=QUICK, lockstep=False)
    job.run(1.0)
    job.ask(job.hosts[0], Kind.PAUSE)
    job.run(5.0, lambda: "low/1/1" in job.store.values)
    job.kill(job.hosts[0])
    job.hosts[0].dead_until = 1000.0
    job.run(10.0)
    decision = Decision.parsed(job.store.values["target/1"])
    assert (decision.target, decision.reason) == (None, "host h0, which was asked, did not go on")
    for host in job.hosts[1:]:
        assert host.log[0].target == VOID and host.ranks_[0].longest < QUICK.takeover + 0.1 < QUICK.patience
    job.check()


@pytest.mark.parametrize("moves", range(24))
def test_a_relay_that_starts_again_after_any_move_goes_on_at_once(moves: int) -> None:
    job = SimJob(17, 3, 1, times=QUICK, lockstep=False)
    job.run(1.0)
    asked = job.hosts[0]
    ident = job.ask(asked, Kind.PAUSE)
    for _ in range(moves):
        job._move(asked)
        for other in job.hosts[1:]:
            if job._ready(other):
                job._move(other)
    job.kill(asked)
    asked.dead_until = 0.0
    began = job.time
    job.run(20.0, lambda: ident in asked.fates)
    fate, told = asked.fates[ident]
    assert fate.state == "applied" and told - began < 0.5, "it waits for what it could read"


def test_a_relay_without_its_note_appends_nothing_twice() -> None:
    job = SimJob(18, 2, 1, times=QUICK, lockstep=False)
    job.run(1.0)
    asked, other = job.hosts
    for kind in (Kind.PAUSE, Kind.SET):  # the paused ranks stand at the step of the set
        ident = job.ask(asked, kind)
        job.run(5.0, lambda: ident in asked.fates)  # noqa: B023
        assert asked.fates[ident][0].state == "applied"
    job.kill(other)
    other.note, other.dead_until = Note(), 0.0
    ident = job.ask(asked, Kind.RESUME)
    job.run(5.0, lambda: ident in asked.fates)
    assert asked.fates[ident][0].state == "applied"
    assert [found.entry.kind for found in other.log] == [Kind.PAUSE, Kind.SET, Kind.RESUME]
    job.check()


def acted_after_a_delay(moves: int) -> int:
    """The asked host's relay is suspended so many moves after all have answered, and goes on when the others have
    voided the request. How many hosts act on it."""
    job = SimJob(14, 3, 1, times=QUICK, lockstep=False)
    job.run(1.0)
    job.ask(job.hosts[0], Kind.PAUSE)
    job.run(5.0, lambda: all(f"low/1/{host}" in job.store.values for host in (1, 2)))
    for _ in range(moves):
        job._move(job.hosts[0])
    job.hosts[0].dead_until = job.time + 1.2 * QUICK.takeover
    job.run(5.0)
    return sum(bool(host.ranks_[0].applied) for host in job.hosts)


def test_a_decision_that_comes_after_the_others_have_voided_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {acted_after_a_delay(moves) for moves in range(16)} == {0, 3}
    monkeypatch.setattr(SimClient, "compare_set", put)
    assert {acted_after_a_delay(moves) for moves in range(16)} & {1, 2}, "this is what the swap is for"


@pytest.mark.parametrize("moves", range(16))
def test_a_request_that_comes_while_the_relay_of_a_host_without_ranks_ends_is_done_by_the_others(moves: int) -> None:
    job = SimJob(18, 2, 1, times=QUICK, lockstep=False)
    job.run(1.0)
    asked, ending = job.hosts
    ending.ranks_[0].alive = False
    ending.steps = ending.waits = None
    job._begin(ending)  # its last turn, and its last word
    for _ in range(moves):
        if ending.steps is not None:
            job._move(ending)
    ident = job.ask(asked, Kind.PAUSE)
    ending.dead_until = job.time + QUICK.bound / 2  # suspended, until the asked host has found no last word and waits
    job.run(5.0, lambda: job.time > ending.dead_until and ending.steps is None)
    ending.dead_until = NEVER  # it has ended, and no other one is started
    job.run(5.0, lambda: ident in asked.fates)
    assert asked.fates[ident][0].state == "applied", asked.fates
    job.check()


def test_a_host_that_starts_late_takes_part_from_the_first_request_on() -> None:
    job = SimJob(8, 2, 1)
    job.hosts[1].dead_until = 3.0  # its relay
    job.run(1.0)
    ident = job.ask(job.hosts[0], Kind.PAUSE)
    job.run(10.0, lambda: ident in job.hosts[0].fates)
    assert job.hosts[0].fates[ident][0].state == "applied"
    job.check()


def test_ranks_of_which_nobody_has_heard_make_a_request_fail() -> None:
    job = SimJob(9, 2, 1, lockstep=False)
    job.hosts[1].dead_until = 1000.0
    job.run(1.0)
    ident = job.ask(job.hosts[0], Kind.PAUSE)
    job.run(10.0, lambda: ident in job.hosts[0].fates)
    fate = job.hosts[0].fates[ident][0]
    assert fate.state == "refused" and "no word yet of rank 1" in fate.reason


def test_a_host_that_was_silent_for_long_is_left_out_of_a_pause_and_never_of_a_value() -> None:
    job = SimJob(10, 2, 1, times=QUICK, lockstep=False)
    job.run(1.0)
    job.hosts[1].dead_until = 1000.0
    states = []
    for kind in (Kind.PAUSE, Kind.PAUSE, Kind.SET):
        ident = job.ask(job.hosts[0], kind)
        job.run(10.0, lambda ident=ident: ident in job.hosts[0].fates)
        states.append(job.hosts[0].fates[ident][0].state)
        job.run(6.0)
    assert states == ["refused", "applied", "refused"]
    job.hosts[1].dead_until = 0.0
    job.run(10.0)
    job.check()


def test_a_timed_resume_that_every_host_asks_for_happens_once() -> None:
    job = SimJob(11, 3, 1)
    job.run(1.0)
    pause = job.ask(job.hosts[0], Kind.PAUSE)
    job.run(5.0, lambda: pause in job.hosts[0].fates)
    resumes = [(host, job.ask(host, Kind.RESUME, only_if=pause)) for host in job.hosts]
    job.run(5.0, lambda: all(ident in host.fates for host, ident in resumes))
    assert sorted(host.fates[ident][0].state for host, ident in resumes) == ["applied", "nothing", "nothing"]
    job.check()


def test_what_was_said_long_ago_is_forgotten_by_the_store() -> None:
    job = SimJob(12, 2, 1, step_every=0.001)
    job.run(0.1)
    for _ in range(600):
        ident = job.ask(job.hosts[0], Kind.SET)
        job.run(5.0, lambda ident=ident: ident in job.hosts[0].fates)
    assert len([key for key in job.store.values if key.startswith(("low/", "done/", "target/"))]) < 3 * 132
    assert sum(len(raw) for key, raw in job.store.values.items() if key.startswith("log/")) < 132 * 200 + 600 * 2


# --- the simulation finds what it is there to find ---


def lowest(kind: int, answers: dict[Member, Answer], without: Any = ()) -> Decision:
    found = decide(kind, answers, without)
    lows = [answer.low for answer in answers.values() if answer.low is not None]
    return found if found.target is None else Decision(min(lows))


def commit_anything(self: SimHost, ident: str) -> Appended | None:
    found = FIND(self, ident)
    return found and Appended(found.seq, Answer(0))


def append_anything(self: SimHost, entry: Entry) -> Appended:
    found = APPEND(self, entry)
    return Appended(found.seq, Answer(0)) if found.seq else found


def act_anyway(self: SimJob, host: SimHost, rank: SimRank) -> None:
    for found in host.log[rank.seq :]:
        if found.target is None and rank.awaits is not None and self.time - rank.awaits >= self.times.patience:
            found.target = found.low
    TURN(self, host, rank)


def put(self: SimClient, key: str, expected: bytes | None, desired: bytes) -> bytes:
    if not key.startswith("target/"):
        return SWAP(self, key, expected, desired)
    self.set(key, desired)
    return desired


def forgetful(self: SimHost, ident: str, number: int | None) -> None:
    """A relay that leaves no mark of what it sends."""


FIND, APPEND, TURN, SWAP = SimHost.find, SimHost.append, SimJob._turn, SimClient.compare_set

BROKEN: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "the smallest step is decided": lambda patch: patch.setattr(answers, "decide", lowest),
    "a target below the host's own is committed": lambda patch: (
        patch.setattr(SimHost, "find", commit_anything),
        patch.setattr(SimHost, "append", append_anything),
    )[0],
    "a rank that has waited for long acts where it is": lambda patch: patch.setattr(SimJob, "_turn", act_anyway),
    "what is sent leaves no mark": lambda patch: patch.setattr(SimHost, "mark", forgetful),
    "a relay does not look whether it has appended": lambda patch: patch.setattr(SimHost, "find", lambda *_: None),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_protocol_that_leaves_out_a_precaution_is_caught(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    BROKEN[broken](monkeypatch)
    for seed in range(400):
        try:
            job = schedule(seed, (ROUGH, CUT, KILLED)[seed % 3])
            assert not any(host.left for host in job.hosts)
            assert_obeys(job, Kind.RESUME, Kind.SET)
        except AssertionError:
            return
    pytest.fail(f"400 schedules did not show that {broken}")


# --- what is said ---


def member(name: str, *ranks: int) -> Member:
    return Member(name, name, ranks, 4)


A, B, C = member("a", 0), member("b", 1), member("c", 2)


@pytest.mark.parametrize(
    ("kind", "answers", "decision"),
    [
        (Kind.PAUSE, {A: Answer(5), B: Answer(9)}, Decision(9)),
        (Kind.SET, {A: Answer(7, 7), B: Answer(7, 7)}, Decision(7)),
        (Kind.PAUSE, {A: Answer(5), B: Answer(why="ended")}, Decision(5)),
        (Kind.PAUSE, {A: Answer(why="ended"), B: Answer(why="ended")}, Decision(why="ended")),
        (Kind.SET, {A: Answer(why="stopping"), B: Answer(why="ended")}, Decision(why="stopping")),
        (Kind.STOP, {A: Answer(why="nothing", same="x"), B: Answer(why="ended")}, Decision(why="nothing", same="x")),
        (Kind.RESUME, {A: Answer(why="nothing"), B: Answer(4, 4)}, Decision(4)),
        (Kind.RESUME, {A: Answer(9), B: Answer(4, 4)}, Decision(4)),
        (
            Kind.SET,
            {A: Answer(9), B: Answer(4, 4)},
            Decision(
                why="failed", reason="the ranks of b are to park at step 4, and others are past it; resume them first"
            ),
        ),
        (
            Kind.SET,
            {A: Answer(why="failed", reason="no"), B: Answer(4)},
            Decision(why="failed", reason="host a: no"),
        ),
    ],
)
def test_what_the_hosts_say_makes_a_decision(kind: Kind, answers: dict[Member, Answer], decision: Decision) -> None:
    assert decide(kind, answers) == decision


def test_the_answers_that_count_decide_as_all_of_them_do() -> None:
    source = random.Random(3)

    def answer() -> Answer:
        why = source.choice(("", "", "", "", "nothing", "stopping", "ended") + ("failed",) * (source.random() < 0.1))
        if why:
            return Answer(why=why, reason="r" if why == "failed" else "")
        return Answer(source.randrange(6), source.choice((None, None, source.randrange(8))))

    outcomes = set()
    for _ in range(3000):
        hosts = [member(str(rank), rank) for rank in range(6)]
        odd = source.choice((None, Answer(why=source.choice(("nothing", "stopping", "ended")))))
        all_of_them = {host: odd if odd is not None and source.random() < 0.9 else answer() for host in hosts}
        groups = [{host: all_of_them[host] for host in hosts[start : start + 3]} for start in (0, 3)]
        few = decisive(groups[0]) | decisive(groups[1])
        kind = source.choice((Kind.PAUSE, Kind.RESUME, Kind.SET, Kind.STOP))
        one, other = decide(kind, all_of_them), decide(kind, few)
        assert (one.target, one.why) == (other.target, other.why), (kind, all_of_them, few)
        assert len(few) <= 4
        outcomes.add(one.why)
    assert outcomes == {"", "nothing", "stopping", "ended", "failed"}


def test_what_is_packed_is_what_is_parsed() -> None:
    entry = Entry("00000000000000ff", Kind.CALL, 3, 1.5, "me", 2, "", {"call": "f"}, "00000000000000fe", 4)
    assert Entry.parsed(entry.packed()) == entry
    assert Entry.parsed(replace(entry, group=16).packed()) == replace(entry, group=16)
    assert Member.parsed(A.packed()) == A
    group = GroupAnswer(3, {0: Answer(3, 4), 8: Answer(2, 2)})
    assert GroupAnswer.parsed(group.packed()) == group
    for answer in (Answer(3), Answer(0, 0), Answer(why="failed", reason="r"), Answer(why="nothing", same="x")):
        assert Answer.parsed(answer.packed()) == answer
    for decision in (Decision(0), Decision(4, without=(2,)), Decision(why="failed", reason="r")):
        assert Decision.parsed(decision.packed()) == decision


@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b"{", b"\xff", b'{"id":"x","kind":1}', b'{"id":"00000000000000ff","kind":99}',
     b'{"id":"00000000000000ff","kind":true}', b'{"id":"00000000000000ff","kind":1,"arg":-1}',
     b'{"id":"00000000000000ff","kind":1,"duration":"x"}', b'{"id":"00000000000000ff","kind":1,"letter":[]}',
     b"[" * 100000],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_nobody_s(raw: bytes) -> None:
    assert Entry.parsed(raw) is None
    assert Member.parsed(raw) is None
    assert Answer.parsed(raw).why == "failed"
    assert Decision.parsed(raw).target is None
    assert VOID > STEP_MAX
