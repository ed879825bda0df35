"""The objects that hold the state of a worker, without a run."""

import threading
from pathlib import Path

import pytest

from spark_fast import _core
from spark_fast.worker import session
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
    holds.wait()
    child = parent.after_fork()
    assert child.lock.acquire(blocking=False)
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
