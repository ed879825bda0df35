"""The client of a TCPStore that does without PyTorch: what the server may answer, and when PyTorch's client is used."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import pytest

from spark_fast.hosts.store import Store, StoreGoneError, StoreSlowError, open_store
from spark_fast.hosts.tcp import TcpStore
from spark_fast.hosts.torch_store import TorchStore
from tests.support.hosts_real import Server, store

pytestmark = pytest.mark.hosts

GREETING = 5 + 5
"""Bytes of the greeting before its last request: the check of the version, and a ping with its number."""


@contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that greets as expected, and then answers as told. Its address."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            greeting = b""
            while len(greeting) <= GREETING:
                greeting += connection.recv(1000)
            connection.sendall(greeting[6:10] + bytes(8))
            answer(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}/p"
        thread.join(30)
        assert not thread.is_alive()


def replies(*parts: bytes) -> Callable[[socket.socket], None]:
    """Answers a request with these parts, one after the other, and waits until the client has closed."""

    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        for part in parts:
            connection.sendall(part)
        connection.settimeout(20)
        while connection.recv(1000):
            pass

    return answer


def sized(value: bytes) -> bytes:
    return len(value).to_bytes(8, "little") + value


def test_an_answer_in_pieces_is_one_value() -> None:
    pieces = [bytes([each]) for each in sized(b"value")]
    with serving(replies(*pieces)) as address, closing(TcpStore(address, 10.0)) as table:
        assert table.get("a") == b"value"


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ([b"\xff" * 8], "a value of 18446744073709551615 bytes"),
        ([(1 << 25).to_bytes(8, "little")], "a value of 33554432 bytes"),
    ],
)
def test_a_length_beyond_any_value_is_a_lost_store_and_no_memory_is_taken(answers: Sequence[bytes], said: str) -> None:
    with serving(replies(*answers)) as address:
        table = TcpStore(address, 10.0)
        with pytest.raises(StoreGoneError, match=said):
            table.get("a")
        with pytest.raises(StoreGoneError, match="is lost"):
            table.get("a")


def test_a_wrong_answer_to_a_wait_is_a_lost_store() -> None:
    with serving(replies(b"\x07")) as address:
        table = TcpStore(address, 10.0)
        with pytest.raises(StoreGoneError, match="answered a wait with something else"):
            table.wait("a", 10.0)


def test_a_server_that_closes_in_an_answer_is_a_lost_store() -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(sized(b"value")[:-1])

    with serving(answer) as address:
        table = TcpStore(address, 10.0)
        with pytest.raises(StoreGoneError, match="closed the connection"):
            table.get("a")


def test_what_does_not_listen_is_a_lost_store() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StoreGoneError, match="refused"):
        open_store(f"tcp://127.0.0.1:{port}/p", 5.0)
    with pytest.raises(StoreGoneError):
        open_store("tcp://no-such-host.invalid:1/p", 5.0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda table: table.get("a"),
        lambda table: table.get_many(["a", "b"]),
        lambda table: table.compare_set("a", None, b"1"),
        lambda table: table.wait("a", 0.01),
        lambda table: table.wait_many(["a", "b"], 0.01),
    ],
    ids=["get", "get_many", "compare_set", "wait", "wait_many"],
)
def test_a_server_that_does_not_answer_in_time_is_slow_and_not_gone(ask: Callable[[Store], object]) -> None:
    with serving(replies()) as address:
        table = TcpStore(address, 0.5)
        with pytest.raises(StoreSlowError, match=r"has not answered for 0\.5 s"):
            ask(table)
        with pytest.raises(StoreGoneError, match="is lost") as lost:
            ask(table)
        assert not isinstance(lost.value, StoreSlowError)


def test_a_server_that_does_not_greet_in_time_is_slow_and_not_gone() -> None:
    # The kernel connects, and no process answers.
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(StoreSlowError, match="has not answered"):
        TcpStore(f"127.0.0.1:{listener.getsockname()[1]}/p", 0.2)


def test_a_server_that_takes_no_connection_in_time_is_slow_and_not_gone() -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # more than it has room for
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        with pytest.raises(StoreSlowError, match="timed out"):
            TcpStore(f"127.0.0.1:{listener.getsockname()[1]}/p", 0.2)


def test_a_server_that_is_gone_is_not_slow() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(StoreGoneError, match="refused") as gone:
        TcpStore(f"127.0.0.1:{port}/p", 5.0)
    assert not isinstance(gone.value, StoreSlowError)


OLD_SERVER = """
import sys, time
from datetime import timedelta
from torch.distributed import TCPStore
store = TCPStore("127.0.0.1", 0, None, True, timedelta(seconds=30), wait_for_workers=False, use_libuv=False)
print(store.port, flush=True)
time.sleep(1e6)
"""


def test_a_server_that_knows_less_is_used_by_pytorch_s_own_client() -> None:
    with subprocess.Popen([sys.executable, "-c", OLD_SERVER], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            address = f"tcp://127.0.0.1:{int(server.stdout.readline())}/p"
            with closing(open_store(address, 20.0)) as table:
                assert isinstance(table, TorchStore)
                assert table.get_many(["a", "b"]) == [None, None]
                table.set("a", b"1")
                table.set("b", b"2")
                assert table.wait_many(["a", "b"], 10.0) == [b"1", b"2"]
                table.delete("a", "b")
                assert table.get_many(["a", "b"]) == [None, None]
        finally:
            server.kill()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with store() as found:
        yield found


def test_both_clients_mean_the_same_keys(server: Server) -> None:
    place = f"{server.address.removeprefix('tcp://')}/{time.monotonic_ns()}"
    with closing(TcpStore(place, 10.0)) as one, closing(TorchStore(place, 10.0)) as other:
        one.set("a", b"1")
        assert one.get("a") == b"1"  # the server answers in order, so it has taken the value
        assert other.get("a") == b"1"
        assert other.compare_set("b", None, b"2") == b"2"
        assert one.get_many(["a", "b", "c"]) == [b"1", b"2", None]
        assert one.compare_set("b", b"2", b"3") == b"3"
        other.delete("a")
        assert one.get("a") is None


@pytest.mark.parametrize("kind", [TcpStore, TorchStore])
def test_an_empty_value_is_not_asked_for_again_and_again(
    server: Server, kind: Callable[[str, float], Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever reaches the store can write one. Each wait for its key ends at once."""
    store = kind(f"{server.address.removeprefix('tcp://')}/{time.monotonic_ns()}", 10.0)
    asked = 0
    get_many = store.get_many

    def counted(keys: Sequence[str]) -> list[bytes | None]:
        nonlocal asked
        asked += 1
        return get_many(keys)

    monkeypatch.setattr(store, "get_many", counted)
    with closing(store):
        store.set("empty", b"")
        assert store.wait_many(["empty"], 1.0) in ([None], [b""])
    assert asked < 40


def test_large_values_and_thousands_of_keys_pass(server: Server) -> None:
    place = f"{server.address.removeprefix('tcp://')}/{time.monotonic_ns()}"
    with closing(TcpStore(place, 30.0)) as table:
        large = bytes(range(256)) * (6 << 12)  # 6 MB
        table.set("large", large)
        assert table.get("large") == large
        keys = [f"key/{number}" for number in range(12_000)]
        for key in keys:
            table.set(key, key.encode())
        assert table.wait_many(keys, 20.0) == [key.encode() for key in keys]
        table.delete(*keys)
        assert table.get_many(keys) == [None] * len(keys)


def test_a_relay_s_client_does_not_import_pytorch(server: Server) -> None:
    code = f"""
import sys
from spark_fast.hosts import relay
from spark_fast.hosts.store import open_store
store = open_store({server.address!r}, 20.0)
assert store.compare_set("x", None, b"1") == b"1"
print([name for name in ("torch", "numpy", "asyncio") if name in sys.modules])
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
