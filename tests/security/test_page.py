"""Attacks on the web page's server by other users of the machine, and by pages of theirs in the owner's browser."""

import logging
import resource
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import trustme

from spark_fast.ui import addresses, connections
from spark_fast.ui.connections import Unauthenticated
from spark_fast.ui.serving import Options
from spark_fast.ui.throttle import Throttle
from tests.support.child import DEADLINE, until
from tests.support.ui_support import Served, served

pytestmark = pytest.mark.process

HALF = b"GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
"""A head that is not whole."""
LIMIT = 16


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(connections, "_UNAUTHENTICATED_MAX", LIMIT)
    with served() as found:
        yield found


def _connect(server: Served, stack: ExitStack, sent: bytes = HALF, source: str = "127.0.0.1") -> socket.socket:
    place = "127.0.0.1", server.port
    found = stack.enter_context(socket.create_connection(place, timeout=DEADLINE, source_address=(source, 0)))
    if sent:
        found.sendall(sent)
    return found


def _is_closed(connection: socket.socket) -> bool:
    """Wait until the server ends this connection, or fail."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


# --- half-open connections ---


@pytest.mark.parametrize("sent", [b"", HALF], ids=["silent", "half a head"])
def test_connections_without_the_token_do_not_keep_its_owner_out(server: Served, sent: bytes) -> None:
    with ExitStack() as stack:
        first = _connect(server, stack, sent)
        for _ in range(3 * LIMIT):
            _connect(server, stack, sent)
        assert server.get("/api/runs")["runs"] == []
        assert httpx.get(server.base).status_code == 200
        assert len(server.server.unauthenticated) <= LIMIT
        # The oldest one made room.
        assert _is_closed(first)


def test_connections_from_many_addresses_of_this_machine_do_not_keep_the_page_from_loading(server: Served) -> None:
    """Each user of the machine can connect from any address that begins with 127."""
    whole = b"GET /static/app.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with ExitStack() as stack:
        others = deque(_connect(server, stack, source=f"127.0.9.{number}") for number in range(1, LIMIT + 1))
        # A browser opens several connections at once and keeps them.
        browser = [_connect(server, stack, b"") for _ in range(6)]
        for number in range(3):  # a client that was closed comes again
            assert _is_closed(others.popleft())
            others.append(_connect(server, stack, source=f"127.0.8.{number + 1}"))
        for connection in browser:
            connection.sendall(whole)
            assert connection.recv(64).startswith(b"HTTP/1.1 200 ")


def test_the_owner_gets_in_during_a_flood_of_connections(home: Path) -> None:
    over = threading.Event()

    def flood(port: int) -> None:
        held: deque[socket.socket] = deque()
        while not over.is_set():
            held.append(socket.create_connection(("127.0.0.1", port), timeout=DEADLINE))
            with suppress(ConnectionError):  # it was closed for a later one
                held[-1].sendall(HALF)
            if len(held) > 300:
                held.popleft().close()
        for each in held:
            each.close()

    with served() as server:
        thread = threading.Thread(target=flood, args=(server.port,))
        thread.start()
        try:
            until(lambda: len(server.server.unauthenticated) >= 100, "the flood")
            for _ in range(6):
                known = {"authorization": f"Bearer {server.keys.token}", "connection": "close"}
                assert httpx.get(f"{server.base}/api/runs", headers=known, timeout=DEADLINE).status_code == 200
        finally:
            over.set()
            thread.join()


def test_a_client_that_has_shown_the_token_is_never_closed_for_others(server: Served) -> None:
    with server.stream() as stream, ExitStack() as stack:
        stream.next()
        flooding = [_connect(server, stack) for _ in range(2 * LIMIT)]
        assert _is_closed(flooding[0])
        server.state.poller.feed.publish('{"runs":[],"gone":["x"],"full":false,"error":null}')
        assert stream.until(lambda _, data: data["gone"] == ["x"])


def test_what_comes_byte_by_byte_comes_too_late(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    whole = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with ExitStack() as stack:
        refused = b"POST /api/runs/x/pause HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 60000\r\n\r\n"
        for begun in (HALF, b"", whole + HALF, b"\r\n", refused):
            connection = _connect(server, stack, begun)
            connection.settimeout(0.05)

            def drips(connection: socket.socket = connection) -> bool:
                """Send one more byte; return whether the server has ended the connection."""
                try:
                    connection.sendall(b"x")
                    while connection.recv(65536):
                        pass
                except TimeoutError:
                    return False
                except ConnectionError:
                    pass
                return True

            until(drips, f"the end of a connection that began with {begun!r}")


def test_a_head_without_an_end_is_refused(server: Served) -> None:
    with ExitStack() as stack:
        connection = _connect(server, stack)
        with pytest.raises(ConnectionError):
            for _ in range(64):
                connection.sendall(b"a" * (1 << 20))


def test_who_reads_nothing_costs_no_memory(server: Served) -> None:
    with ExitStack() as stack:
        connection = _connect(server, stack, b"GET /static/plotly.min.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert connection.recv(8) == b"HTTP/1.1"
        (held,) = server.server.server_state.connections
        # The kernel's buffers are full when something waits in the server.
        until(lambda: held.transport.get_write_buffer_size() > 0, "an answer that waits")
        assert held.transport.get_write_buffer_size() <= 4 * (64 << 10)


def test_clients_that_never_agree_on_tls_do_not_keep_the_owner_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "_UNAUTHENTICATED_MAX", LIMIT)
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(chain, append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Served(Options(certificate=chain, key=key)) as server, ExitStack() as stack:
        first = _connect(server, stack, b"\x16\x03\x01")
        for _ in range(3 * LIMIT):
            _connect(server, stack, b"\x16\x03\x01")
        _connect(server, stack, b"this is no TLS at all\r\n\r\n")
        owner = httpx.Client(
            verify=trusting, headers={"authorization": f"Bearer {server.keys.token}"}, timeout=DEADLINE
        )
        with owner:
            assert owner.get(f"https://127.0.0.1:{server.port}/api/runs").status_code == 200
        assert _is_closed(first)
        assert len(server.server.unauthenticated) <= LIMIT


def test_a_client_that_never_agrees_on_tls_has_a_deadline(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.5)
    certificate = trustme.CA().issue_cert("127.0.0.1")
    pem = tmp_path / "all.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    with Served(Options(certificate=pem, key=pem)) as server, ExitStack() as stack:
        assert _is_closed(_connect(server, stack, b"\x16\x03\x01"))
        until(lambda: len(server.server.unauthenticated) == 0)


def test_connections_that_end_are_counted_no_more(server: Served) -> None:
    with ExitStack() as stack:
        for sent in (b"", HALF, b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            _connect(server, stack, sent)
        until(lambda: len(server.server.unauthenticated) > 0)
    until(lambda: len(server.server.unauthenticated) == 0)
    assert server.get("/api/runs")["runs"] == []  # its connection is counted no more either
    assert len(server.server.unauthenticated) == 0


def test_bad_requests_fill_no_log(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), ExitStack() as stack:
        for _ in range(40):
            assert _connect(server, stack, b"\0\r\n\r\n").recv(64).startswith(b"HTTP/1.1 400")
    lines = [record for record in caplog.records if "Invalid HTTP request" in record.getMessage()]
    assert 1 <= len(lines) <= 5


def test_nonsense_after_an_answer_is_no_error_of_the_server(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    head = b"POST /api/runs/x/pause HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    with ExitStack() as stack:
        connection = _connect(server, stack, head)
        found = connection.recv(65536)
        assert found.startswith(b"HTTP/1.1 401")
        with suppress(ConnectionError):
            connection.sendall(b"no chunk\r\n")
        connections_at_once = [_connect(server, stack, head + b"no chunk\r\n") for _ in range(5)]
        for each in connections_at_once:
            with suppress(ConnectionError):
                while each.recv(65536):
                    pass
    until(lambda: len(server.server.unauthenticated) == 0)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- a name that leads to more than one address ---


def _both(monkeypatch: pytest.MonkeyPatch) -> list[addresses.Address]:
    """A name that leads to both loopback addresses, as localhost does on many machines."""
    four, six = ("127.0.0.1", 0), ("::1", 0, 0, 0)

    def look_up(*_: object, **__: object) -> list[tuple[object, ...]]:
        found = [(socket.AF_INET6, six), (socket.AF_INET, four), (socket.AF_INET, four)]
        return [(family, socket.SOCK_STREAM, 6, "", where) for family, where in found]

    monkeypatch.setattr(addresses.socket, "getaddrinfo", look_up)
    return addresses.resolve("localhost")


def test_no_other_user_can_listen_where_the_name_of_the_page_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    where = _both(monkeypatch)
    listening = addresses.listen(where, 0)
    with ExitStack() as stack:
        for each in listening:
            stack.enter_context(each)
        port = listening[0].getsockname()[1]
        assert [each.getsockname()[:2] for each in listening] == [("::1", port), ("127.0.0.1", port)]
        for each in where:
            with pytest.raises(OSError, match="in use"):
                addresses.listen([each], port)


def test_a_port_that_another_user_has_at_one_of_the_addresses_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        where = _both(monkeypatch)
        with pytest.raises(OSError, match="in use"):
            addresses.listen(where, port)
        monkeypatch.setattr(addresses, "PORT", port)
        for each in addresses.listen(where, None):
            assert each.getsockname()[1] != port
            each.close()


def test_an_address_that_this_machine_does_not_have_is_left_out() -> None:
    where = [addresses.Address(socket.AF_INET, ("192.0.2.1", 0)), *addresses.resolve("127.0.0.1")]
    (found,) = addresses.listen(where, 0)
    with found:
        assert found.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OSError, match="assign"):
        addresses.listen(where[:1], 0)


@pytest.mark.parametrize(
    ("bound", "host", "shown"),
    [
        ("127.0.0.1", "localhost", "http://127.0.0.1:"),
        ("::1", "localhost", "http://[::1]:"),
        ("::1", "ip6-localhost", "http://[::1]:"),
    ],
)
def test_the_printed_address_is_the_number_that_is_listened_on(bound: str, host: str, shown: str) -> None:
    (listener,) = addresses.listen(addresses.resolve(bound), 0)
    with listener:
        port = listener.getsockname()[1]
        assert addresses.shown(host, listener, secure=False) == f"{shown}{port}"
        # Its certificate proves a server with TLS, and names a host.
        assert addresses.shown(host, listener, secure=True) == f"https://{host}:{port}"


@pytest.mark.parametrize("wildcard", ["0.0.0.0", "::"])
def test_the_printed_address_of_a_wildcard_is_one_of_this_machine(wildcard: str) -> None:
    (listener,) = addresses.listen(addresses.resolve(wildcard), 0)
    with listener:
        shown = httpx.URL(addresses.shown(wildcard, listener, secure=False))
        with socket.create_connection((shown.host, shown.port or 0), timeout=DEADLINE):
            pass
        assert shown.host not in ("0.0.0.0", "::", socket.gethostname())


# --- the parts ---


@pytest.mark.parametrize(
    ("files", "limit"), [(resource.RLIM_INFINITY, 128), (1 << 20, 128), (1024, 128), (256, 64), (8, 2), (1, 1)]
)
def test_unauthenticated_connections_leave_most_files_to_the_runs(
    monkeypatch: pytest.MonkeyPatch, files: int, limit: int
) -> None:
    monkeypatch.setattr(connections.resource, "getrlimit", lambda _: (files, files))
    assert connections.limit_by_files() == limit


def test_the_address_with_the_most_connections_makes_room() -> None:
    closed: list[str] = []
    few = "192.0.2.1"
    there = Unauthenticated(3)
    for name in ("few", "many1", "many2", "other"):
        there.add(few if name in ("few", "other") else "192.0.2.2", name, lambda name=name: closed.append(name))
    assert closed == ["many1"]
    there.remove(few, "few")
    there.remove(few, "few")
    assert len(there) == 2
    there.add(few, "again", lambda: closed.append("again"))
    there.add(few, "more", lambda: closed.append("more"))
    assert closed == ["many1", "other"]


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1", "127.7.7.7", "::1", "::ffff:127.0.0.9"),
        ("2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:0:9::", "2001:db8::2"),
        ("fe80::1%eth0", "fe80::2%eth0", "fe80::3", "fe80::4"),
    ],
    ids=["this machine", "one network", "one link"],
)
def test_addresses_that_one_client_can_choose_among_count_as_one(addresses: tuple[str, ...]) -> None:
    closed: list[int] = []
    there = Unauthenticated(4)
    there.add("192.0.2.1", 0, lambda: closed.append(0))
    for number, address in enumerate(addresses, 1):
        there.add(address, number, lambda number=number: closed.append(number))
    there.add("192.0.2.2", 5, lambda: closed.append(5))
    assert closed == [1, 2]
    for number, address in enumerate(addresses, 1):
        there.remove(address, number)
    assert len(there) == 2


def test_log_lines_of_a_kind_are_few_and_the_rest_is_counted() -> None:
    now = [0.0]
    throttle = Throttle(most=2, seconds=60, clock=lambda: now[0])

    def says(text: str, *args: object) -> str | None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, text, args, None)
        return record.getMessage() if throttle.filter(record) else None

    assert [says("bad %s", each) for each in range(5)] == ["bad 0", "bad 1", None, None, None]
    assert says("other") == "other"
    now[0] = 60.0
    assert says("bad %s", 9) == "bad 9 (3 more such lines were left out)"
    assert [says("bad %s", each) for each in range(2)] == ["bad 0", None]
    for each in range(1000):
        says(f"kind {each}")
    assert len(throttle._counted) <= 257
