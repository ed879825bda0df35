"""Values that outlive a reload, in one process."""

import os
import threading
from collections.abc import Iterator

import pytest

import spark_fast as spark
from spark_fast.worker.state import persist

pytestmark = pytest.mark.unit


@pytest.fixture(autouse=True)
def nothing_persisted() -> Iterator[None]:
    spark.clear_all_persisted()
    yield
    spark.clear_all_persisted()


def test_the_initializer_runs_once_and_its_value_is_kept() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        return made[-1]

    first = spark.persist("key", make)
    assert spark.persist("key", make) is first
    assert len(made) == 1
    assert spark.has_persisted("key")
    assert not spark.has_persisted("other")


def test_none_is_a_value_like_any_other() -> None:
    assert spark.persist("key", lambda: None) is None
    assert spark.has_persisted("key")
    assert spark.persist("key", lambda: 1) is None
    assert spark.clear_persisted("key") is True
    assert spark.clear_persisted("key") is False
    assert spark.persist("key", lambda: 1) == 1


def test_an_initializer_that_raises_stores_nothing_and_the_next_call_runs_one_again() -> None:
    with pytest.raises(ZeroDivisionError):
        spark.persist("key", lambda: 1 / 0)
    assert not spark.has_persisted("key")
    assert spark.persist("key", lambda: 2) == 2


def test_threads_that_ask_for_one_key_run_one_initializer() -> None:
    entered, go_on = threading.Event(), threading.Event()
    made: list[int] = []

    def make() -> int:
        made.append(1)
        entered.set()
        assert go_on.wait(30)
        return 7

    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(spark.persist("key", make))) for _ in range(8)]
    threads[0].start()
    assert entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    assert spark.persist("other", lambda: 1) == 1, "other keys need not wait"
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert found == [7] * 8
    assert made == [1]


def test_threads_behind_an_initializer_that_raises_run_theirs_one_after_the_other() -> None:
    inside = 0
    most = 0
    lock = threading.Lock()
    barrier = threading.Barrier(6)

    def make() -> int:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        try:
            raise ValueError
        finally:
            with lock:
                inside -= 1

    def ask() -> None:
        barrier.wait(30)
        for _ in range(200):
            with pytest.raises(ValueError):
                spark.persist("key", make)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == 1
    assert not spark.has_persisted("key")


def test_an_initializer_may_persist_other_keys_but_not_its_own() -> None:
    assert spark.persist("outer", lambda: spark.persist("inner", lambda: 1) + 1) == 2
    with pytest.raises(RuntimeError, match="initializer of 'key' asks for 'key' itself"):
        spark.persist("key", lambda: spark.persist("key", lambda: 1))
    assert not spark.has_persisted("key")


def test_what_makes_the_value_must_be_a_function() -> None:
    with pytest.raises(TypeError, match="lambda: "):
        spark.persist("key", 3)  # type: ignore[arg-type]


def test_a_snapshot_brings_back_what_was_stored_and_nothing_else() -> None:
    spark.persist("a", lambda: 1)
    spark.persist("b", lambda: 2)
    before = persist.current.snapshot()
    spark.clear_persisted("a")
    spark.persist("c", lambda: 3)
    persist.current.restore(before)
    assert (spark.has_persisted("a"), spark.has_persisted("b"), spark.has_persisted("c")) == (True, True, False)


@pytest.mark.process
def test_a_child_forked_while_an_initializer_runs_in_another_thread_can_run_it() -> None:
    entered, go_on = threading.Event(), threading.Event()

    def make() -> int:
        entered.set()
        go_on.wait(30)
        return 1

    thread = threading.Thread(target=spark.persist, args=("key", make))
    thread.start()
    assert entered.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(spark.persist("key", lambda: 42))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    go_on.set()
    thread.join(30)
