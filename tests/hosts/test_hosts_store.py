"""The stores in which hosts meet: what every one of them must do."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from spark_fast.hosts.requests import store_address
from spark_fast.hosts.store import SCHEMES, Store, StoreGoneError, open_store, parse_address
from tests.support.child import until
from tests.support.hosts_real import Server, store

pytestmark = pytest.mark.hosts


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with store() as found:
        yield found


@pytest.fixture
def table(server: Server) -> Iterator[Store]:
    with closing(open_store(f"{server.address}/{time.monotonic_ns()}", 5.0)) as found:
        yield found


def test_what_is_not_there_is_none_and_is_not_waited_for(server: Server) -> None:
    with closing(open_store(f"{server.address}/{time.monotonic_ns()}", 600.0)) as table:
        assert table.get("nothing") is None


def test_what_is_put_is_read_and_removed(table: Store) -> None:
    table.set("a", b"\x00\xff one")
    assert table.get("a") == b"\x00\xff one"
    table.delete("a")
    assert table.get("a") is None


def test_a_swap_happens_only_from_what_was_expected_and_tells_what_stands_there(table: Store) -> None:
    assert table.compare_set("a", None, b"1") == b"1"
    assert table.compare_set("a", None, b"2") == b"1"
    assert table.compare_set("a", b"1", b"3") == b"3"
    assert table.compare_set("a", b"1", b"4") == b"3"
    assert table.get("a") == b"3"


def test_of_many_swaps_one_wins(server: Server) -> None:
    prefix = f"{server.address}/{time.monotonic_ns()}"
    tables = [open_store(prefix, 10.0) for _ in range(4)]
    for key in range(50):
        found: list[bytes] = []
        threads = [
            threading.Thread(target=lambda n, t: found.append(t.compare_set(f"k{key}", None, b"%d" % n)), args=each)  # noqa: B023
            for each in enumerate(tables)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1 and len(found) == 4
    for each in tables:
        each.close()


def test_waiting_ends_with_the_value_or_with_the_time(server: Server, table: Store) -> None:
    began = time.monotonic()
    assert table.wait("a", 0.2) is None
    assert time.monotonic() - began > 0.19
    address = server.address + "/other"
    with closing(open_store(address, 5.0)) as other, closing(open_store(address, 5.0)) as writer:
        timer = threading.Timer(0.1, writer.set, ("b", b"x"))
        timer.start()
        assert other.wait("b", 20.0) == b"x"
        assert other.wait("b", 0.0) == b"x", "what is there is there at once"
        timer.join()


def test_waiting_is_not_ended_by_those_who_look_for_the_same(server: Server) -> None:
    with closing(open_store(server.address + "/w", 5.0)) as one, closing(open_store(server.address + "/w", 5.0)) as two:
        found: list[bytes | None] = []
        waiting = threading.Thread(target=lambda: found.append(one.wait("c", 20.0)))
        waiting.start()
        for _ in range(20):
            assert two.get("c") is None
            time.sleep(0.01)
        assert waiting.is_alive() and not found
        two.set("c", b"here")
        waiting.join(20)
        assert found == [b"here"]


def is_stopped(pid: int) -> bool:
    """Whether each thread of a process is stopped: a signal does not stop them at once."""
    stats = [(each / "stat").read_text() for each in Path(f"/proc/{pid}/task").iterdir()]
    return all(stat.rpartition(") ")[2].startswith("T") for stat in stats)


def test_a_store_that_does_not_answer_is_gone_in_time() -> None:
    with store() as server:
        table = open_store(server.address, 1.0)
        table.set("a", b"1")
        os.kill(server.process.pid, signal.SIGSTOP)
        until(lambda: is_stopped(server.process.pid), "the server to be stopped")
        with pytest.raises(StoreGoneError, match="has not answered"):
            table.get("a")
        with pytest.raises(StoreGoneError):
            table.get("a")
        os.kill(server.process.pid, signal.SIGCONT)
        with closing(open_store(server.address, 20.0)) as again:
            assert again.get("a") == b"1"


def test_a_store_that_ends_is_gone() -> None:
    with store() as server:
        table = open_store(server.address, 5.0)
        server.kill()
        with pytest.raises(StoreGoneError):
            table.get("a")
        with pytest.raises(StoreGoneError):
            open_store(server.address, 1.0)


def test_an_address_says_which_store_it_is() -> None:
    assert parse_address("tcp://a:1/p") == ("tcp", "a:1/p")
    for bad in ("", "a:1", "http://a"):
        with pytest.raises(ValueError, match="no address of a store"):
            parse_address(bad)
    assert set(SCHEMES) == {"tcp", "ray"}


TORCHRUN = {"MASTER_ADDR": "a", "MASTER_PORT": "7", "TORCHELASTIC_RUN_ID": "x"}
AGENTS_STORE = TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.mark.parametrize(
    ("environ", "first", "again"),
    [
        ({"MASTER_ADDR": "a", "MASTER_PORT": "7"}, "tcp://a:7/spark_fast.job.0", "tcp://a:7/spark_fast.job.1"),
        # Each agent counts for itself.
        (TORCHRUN, "tcp://a:7/spark_fast.x.7", "tcp://a:7/spark_fast.x.7"),
        (AGENTS_STORE, "tcp://a:7/spark_fast.x.0", "tcp://a:7/spark_fast.x.1"),
        ({"SPARK_FAST_STORE": "tcp://b:1"}, "tcp://b:1/spark_fast", "tcp://b:1/spark_fast.1"),
        (TORCHRUN | {"SPARK_FAST_STORE": "tcp://b:1/p"}, "tcp://b:1/p.7", "tcp://b:1/p.7"),
        ({"MASTER_ADDR": "a"}, "", ""),
    ],
)
def test_the_hosts_of_a_start_meet_in_one_place_and_those_of_the_next_in_another(
    environ: dict[str, str], first: str, again: str
) -> None:
    assert (store_address(environ, 0), store_address(environ, 1)) == (first, again)
