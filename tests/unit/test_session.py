"""The objects that hold the state of a worker, without a run."""

import threading
from pathlib import Path

import pytest

from spark_fast import _core
from spark_fast.hosts.messages import Fate
from spark_fast.request import format_id
from spark_fast.worker import options, session
from spark_fast.worker.lifecycle import hosts as hosts_of_job
from spark_fast.worker.lifecycle import local_stop
from spark_fast.worker.lifecycle.local_stop import LocalStop
from spark_fast.worker.session import Life, Parent, Reason, Session, Watch

pytestmark = pytest.mark.unit

PARENT = Parent("test", 1, False, Path("control"))


class Core:
    """Notes the step from which on checkpoints take the slow path."""

    def __init__(self) -> None:
        self.watched: int | None = None

    def watch(self, step: int) -> None:
        self.watched = step


@pytest.fixture
def core(monkeypatch: pytest.MonkeyPatch) -> Core:
    core = Core()
    monkeypatch.setattr(session, "worker", core)
    monkeypatch.setattr(session, "current", Session())
    return core


def test_every_checkpoint_is_watched_while_there_is_a_reason(core: Core) -> None:
    watch = Watch()
    watch.at(7)
    assert core.watched == 7
    watch.every(Reason.DELIVERY, True)
    watch.every(Reason.LOCAL_STOP, True)
    watch.every(Reason.DELIVERY, False)
    assert core.watched == 0
    watch.every(Reason.LOCAL_STOP, False)
    assert core.watched == 7
    watch.at(None)
    assert core.watched == _core.NEVER


def test_a_reason_that_comes_while_the_next_step_is_published_is_not_lost(core: Core) -> None:
    """As when a finalizer runs in between, which notes that an exception has unwound loops."""
    watch = Watch()
    plain = core.watch

    def interrupted(step: int) -> None:
        core.watch = plain  # type: ignore[method-assign]
        watch.every(Reason.LOOPS_UNWOUND, True)
        plain(step)

    core.watch = interrupted  # type: ignore[method-assign]
    watch.at(None)
    assert core.watched == 0


def test_a_forked_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    parent = Session()
    holds, release = threading.Event(), threading.Event()

    def hold() -> None:
        with parent.lock:
            holds.set()
            release.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        holds.wait()
        assert parent.after_fork().lock.acquire(blocking=False)
    finally:
        release.set()
        thread.join()


def test_a_child_of_a_worker_is_undecided_and_knows_its_parent(core: Core) -> None:
    parent = Session()
    parent.life, parent.run, parent.folder = Life.ATTACHED, "test", Path("folder")
    parent.passed = parent.stop_raised = True
    parent.watch.every(Reason.RELOAD_ON_TRIAL, True)
    parent.watch.every(Reason.LOOPS_UNWOUND, True)
    child = parent.after_fork()
    child.become_new(PARENT)
    assert (child.life, child.run, child.folder) == (Life.NEW, None, None)
    assert child.parent is PARENT and not child.passed and not child.stop_raised
    child.watch.every(Reason.LOOPS_UNWOUND, False)
    assert core.watched == _core.NEVER
    assert parent.run == "test" and parent.passed


def test_a_child_of_a_process_that_is_no_worker_yet_keeps_its_own_parent() -> None:
    first = Session()
    first.become_new(PARENT)
    assert first.after_fork().parent is PARENT


class Hosts:
    """The answers of the other hosts, and the log, to a stop that they were asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusal: str | None = None
        self.logged = False
        self.now = 100.0
        monkeypatch.setattr(local_stop, "refusal", lambda ident: self.refusal)
        monkeypatch.setattr(local_stop.session, "is_in_the_log", lambda ident: self.logged)
        monkeypatch.setattr(local_stop, "worker", self)
        monkeypatch.setattr(local_stop.time, "monotonic", lambda: self.now)

    def stop_alone(self) -> None:
        """The core's part."""


@pytest.fixture
def hosts(monkeypatch: pytest.MonkeyPatch, core: Core) -> Hosts:
    return Hosts(monkeypatch)


def test_a_stop_that_the_hosts_refuse_stops_this_process_alone(hosts: Hosts) -> None:
    stop = LocalStop()
    stop.expect(7, "me", 20.0)
    assert stop.pending() is None
    hosts.refusal = "another host is gone"
    assert stop.pending() is None  # it has just looked
    hosts.now += 1
    pending = stop.pending()
    assert pending is not None and pending[1] == "me"


def test_a_stop_that_the_hosts_do_not_answer_in_time_stops_this_process_alone(hosts: Hosts) -> None:
    stop = LocalStop()
    stop.expect(7, "me", 20.0)
    hosts.now += 19
    assert stop.pending() is None
    hosts.now += 2
    assert stop.pending() is not None


def test_a_stop_that_is_in_the_log_is_left_to_the_log(hosts: Hosts, core: Core) -> None:
    stop = LocalStop()
    stop.expect(7, "me", 20.0)
    assert core.watched == 0
    hosts.now, hosts.logged = hosts.now + 21, True
    assert stop.pending() is None
    hosts.logged = False
    hosts.now += 100
    assert stop.pending() is None


def test_options_of_the_beginning_are_frozen_until_a_fork(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "_current", options.Options())
    monkeypatch.setattr(options, "_frozen", False)
    monkeypatch.setattr(options, "worker", Ignoring())
    options.freeze()
    with pytest.raises(RuntimeError, match="the run has begun"):
        options.configure(run="other")
    options.configure(quiet=True)
    options.thaw()
    options.configure(run="other")
    assert options.current().run == "other" and options.current().quiet


class Ignoring:
    """A core that takes every option."""

    def set_yield_interval(self, seconds: float | None) -> None:
        pass

    def set_async_yield_interval(self, seconds: float) -> None:
        pass


def test_a_stop_that_another_rank_asked_for_first_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "current", Session())
    session.current.folder = Path("run")
    fate = Fate("same", by=format_id(5))
    monkeypatch.setattr("spark_fast.hosts.fate", lambda folder, ident: fate)
    monkeypatch.setattr(session, "is_in_the_log", lambda ident: ident == 5)
    assert hosts_of_job.refusal(7) is None
    assert hosts_of_job.is_decided(7)
    monkeypatch.setattr(session, "is_in_the_log", lambda ident: False)
    assert not hosts_of_job.is_decided(7)  # it stops alone when the time is up: the other hosts may be gone
