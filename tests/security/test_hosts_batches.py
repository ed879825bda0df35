"""Signed values cost no further call to the store, however many are read or waited for at once."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from spark_fast.hosts.authentic import UnsignedStore
from spark_fast.hosts.store import Store, StoreGoneError
from tests.security.memory_store import MemoryStore
from tests.security.test_hosts_signed_values import OTHER, REQUEST, Host, Job
from tests.support.child import until

pytestmark = [pytest.mark.unit, pytest.mark.tier("fast")]


class Counting(MemoryStore):
    """Keeps which methods were called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name in vars(Store):
            self.calls.append(name)
        return super().__getattribute__(name)


@pytest.fixture
def raw() -> Counting:
    return Counting()


@pytest.fixture
def both(tmp_path: Path, raw: Counting) -> Iterator[tuple[Host, Host]]:
    """Two hosts that have met, and have put a request into the log."""
    job = Job(tmp_path)
    job.raw = raw
    leader, other = job.host(0), job.host(1)
    assert leader.join() == other.join()
    leader.store.compare_set("log/1", None, REQUEST)
    yield leader, other
    for host in job.hosts:
        host.entrance.close()


def calls(raw: Counting, action: Callable[[], object]) -> list[str]:
    """The calls to the store by which something is done. The leader's door waits for other hosts meanwhile."""
    raw.calls.clear()
    action()
    return [name for name in raw.calls if name != "wait"]


def test_several_signed_values_take_one_call(both: tuple[Host, Host], raw: Counting) -> None:
    one, two = (host.store for host in both)
    one.set("target/1", b"6")
    one.set("low/1/0", b"7")
    two.compare_set("host/1", None, b"two")
    keys = ["target/1", "low/1/0"]
    # The request that they are about is read with them, and so is the session.
    assert calls(raw, lambda: two.get_many(keys)) == ["get_many"]
    assert two.get_many(keys) == [b"6", b"7"]
    assert calls(raw, lambda: two.get_many(["log/2", "target/2"])) == ["get_many"]
    assert calls(raw, lambda: two.wait_many(keys, 60.0)) == ["wait_many"]
    assert calls(raw, lambda: two.set("low/1/1", b"7")) == ["set"]
    assert calls(raw, lambda: two.compare_set("log/2", None, OTHER)) == ["compare_set"]
    assert calls(raw, lambda: two.set("state/1", b"{}")) == ["get_many", "set"]
    assert calls(raw, lambda: two.delete(*keys)) == ["delete"]


def test_several_unsigned_values_take_one_call(raw: Counting) -> None:
    store = UnsignedStore(raw, "the remedy")
    assert calls(raw, lambda: store.get_many(["log/2", "target/2"])) == ["get_many"]
    assert calls(raw, lambda: store.wait_many(["log/2"], 0.01)) == ["wait_many"]
    assert calls(raw, lambda: store.delete("low/1/0", "low/1/1")) == ["delete"]
    raw.set("session", b"of others")
    with pytest.raises(StoreGoneError, match="this one has none: the remedy"):
        store.get_many(["log/1", "log/2"])


@pytest.mark.parametrize("keys", [["log/2"], ["log/2", "target/2"], ["log/1", "log/2"]], ids=lambda keys: keys[-1])
def test_no_log_of_a_session_that_is_over_has_an_end(both: tuple[Host, Host], keys: list[str]) -> None:
    one, two = both
    assert two.store.get_many(keys)[-1] is None
    one.entrance.renew(one.raw)
    assert two.store.get("log/1") == REQUEST
    with pytest.raises(StoreGoneError, match="meet anew"):
        two.store.get_many(keys)


def test_a_wait_that_outlives_its_session_takes_no_value_for_a_foreign_one(
    both: tuple[Host, Host], raw: Counting
) -> None:
    one, _ = both
    found: list[str] = []

    def wait() -> None:
        try:
            one.store.wait_many(["log/2"], 60.0)
        except StoreGoneError as error:
            found.append(str(error))

    raw.calls.clear()
    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: "wait_many" in raw.calls, "it waits", 10.0)
    one.entrance.renew(one.raw, "log/2")
    waiting.join(60.0)
    assert found == ["the hosts of the job meet anew"]
    assert one.refusals.count == 0
