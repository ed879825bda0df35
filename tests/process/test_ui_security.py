"""Only the owner: what the web server lets in, and what it does with what is hostile."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from spark_fast import client
from spark_fast.ui import security
from spark_fast.ui.addresses import is_loopback, resolve
from spark_fast.ui.security import BODY_MAX, CODE_BODY_MAX, Keys, hosts_of
from tests.support.child import Child
from tests.support.ui_support import EXPOSING, Served, served

pytestmark = pytest.mark.process

ROUTES = [
    ("GET", "/api/runs"),
    ("GET", "/api/runs/test"),
    ("GET", "/api/runs/test/history?name=lr"),
    ("GET", "/api/runs/test/journal"),
    ("GET", "/api/runs/test/versions"),
    ("GET", "/api/runs/test/requests/0123456789abcdef"),
    ("GET", "/api/stream"),
    ("GET", "/api/openapi.json"),
    ("GET", "/metrics"),
    ("GET", "/nothing"),
    ("POST", "/api/runs/test/pause"),
    ("POST", "/api/runs/test/resume"),
    ("POST", "/api/runs/test/stop"),
    ("POST", "/api/runs/test/advance"),
    ("POST", "/api/runs/test/reload"),
    ("POST", "/api/runs/test/reset"),
    ("PUT", "/api/runs/test/values/lr"),
    ("POST", "/api/runs/test/calls/evaluate"),
    ("POST", "/api/clean"),
    ("POST", "/"),
    ("OPTIONS", "/api/runs/test/pause"),
]
PUBLIC = [("GET", "/"), ("GET", "/static/app.js"), ("GET", "/static/plotly.min.js")]
"""The page's own files."""
BODIES = {"/api/runs/test/advance": {"steps": 1}, "/api/runs/test/values/lr": {"value": 0.9}}


@pytest.fixture
def server(home: Path) -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture
def other(home: Path) -> Iterator[Served]:
    with served() as found:
        yield found


@pytest.fixture
def training(home: Path, tmp_path: Path) -> Iterator[client.Run]:
    with Child(tmp_path, EXPOSING) as child:
        yield child.run()


def _unharmed(run: client.Run) -> None:
    assert run.requests == []
    assert run.values["lr"].value == 0.1
    assert run.status == "running"


# --- no token, a wrong one ---


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": "Basic TOKEN"},
        {"authorization": "TOKEN"},
        {"authorization": "Bearer TOKENx"},
        {"cookie": "spark_fast=TOKEN"},
        {"cookie": "token=TOKEN; authorization=TOKEN"},
        {"referer": "http://127.0.0.1/#token=TOKEN"},
        {"x-token": "TOKEN", "proxy-authorization": "Bearer TOKEN"},
    ],
)
def test_each_route_of_the_api_answers_401_without_the_token_and_changes_nothing(
    server: Served, training: client.Run, headers: dict[str, str]
) -> None:
    headers = {name: value.replace("TOKEN", server.keys.token) for name, value in headers.items()}
    with server.stranger(**headers) as stranger:
        for method, path in ROUTES:
            answer = stranger.request(method, path, json=BODIES.get(path))
            assert answer.status_code == 401, (method, path)
            assert "spark-fast ui" in answer.json()["error"]
            assert "set-cookie" not in answer.headers
    _unharmed(training)


def test_the_token_of_another_server_is_a_wrong_one(server: Served, other: Served) -> None:
    with server.stranger(authorization=f"Bearer {other.keys.token}") as stranger:
        assert stranger.get("/api/runs").status_code == 401


def test_two_tokens_in_one_request_are_none(server: Served) -> None:
    right, wrong = f"Bearer {server.keys.token}", "Bearer wrong"
    with server.stranger() as stranger:
        for headers in ([right, wrong], [wrong, right]):
            given = [("authorization", each) for each in headers]
            assert stranger.get("/api/runs", headers=given).status_code == 401


def test_no_byte_of_a_header_is_an_error_of_the_server(server: Served) -> None:
    for value in (b"Bearer \xff\xfe", b"Bearer " + b"\xc3\xa9" * 20, b"\x80"):
        with server.stranger() as stranger:
            assert stranger.get("/api/runs", headers=[(b"authorization", value)]).status_code == 401
            assert stranger.get("/api/runs", headers=[(b"cookie", value)]).status_code == 401


# --- the page, its token and no cookie ---


def test_the_page_s_own_files_need_no_token_and_hold_none(server: Served) -> None:
    with server.stranger() as stranger:
        for method, path in PUBLIC:
            answer = stranger.request(method, path)
            assert answer.status_code == 200, path
            assert server.keys.token not in answer.text
        assert stranger.get("/static/../api/runs").status_code != 200
        assert stranger.get("/static/%2e%2e/api/runs").status_code == 404


def test_no_answer_sets_a_cookie_whatever_was_asked(server: Served, training: client.Run) -> None:
    with server.stranger() as stranger:
        for client_of in (server.api, stranger):
            for path in ("/", f"/?token={server.keys.token}", "/api/runs", "/static/app.js", "/nothing"):
                assert "set-cookie" not in client_of.get(path).headers
        assert len(stranger.cookies) == 0


def test_a_token_in_a_query_opens_nothing(server: Served, training: client.Run) -> None:
    # A query is sent to the server, and stands in logs and in the browser's history.
    with server.stranger() as stranger:
        query = {"token": server.keys.token}
        assert stranger.get("/", params=query).text == stranger.get("/").text
        assert stranger.get("/api/runs", params=query).status_code == 401
        assert stranger.post("/api/runs/test/pause", params=query).status_code == 401
    _unharmed(training)


def test_each_server_has_a_token_of_its_own_that_can_not_be_guessed(server: Served, other: Served) -> None:
    assert len({server.keys.token, other.keys.token, Keys().token}) == 3
    assert all(len(each.token) >= 43 for each in (server.keys, other.keys))
    for bad in ("", "short", "x" * 42, "x" * 50 + "&", "x" * 200):
        with pytest.raises(ValueError, match="43 to 128"):
            Keys(bad)


def test_a_link_from_elsewhere_opens_the_page(server: Served) -> None:
    navigation = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    with server.stranger(**navigation) as browser:
        assert browser.get("/").status_code == 200
        assert browser.get("/api/runs").status_code == 403


# --- from elsewhere ---


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "https://127.0.0.1:PORT", "http://127.0.0.1:1", "http://localhost:PORT", "null", ""],
)
def test_a_page_from_elsewhere_gets_403_with_the_token_and_changes_nothing(
    server: Served, training: client.Run, origin: str
) -> None:
    origin = origin.replace("PORT", str(server.port))
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    with server.stranger(authorization=f"Bearer {server.keys.token}", origin=origin, **preflight) as browser:
        for method, path in [*ROUTES, *PUBLIC]:
            answer = browser.request(method, path, json=BODIES.get(path))
            assert answer.status_code == 403, (method, path)
            assert not {name for name in answer.headers if name.startswith("access-control")}
    _unharmed(training)


def test_the_own_page_is_let_in(server: Served, training: client.Run) -> None:
    own = {"origin": server.base, "sec-fetch-site": "same-origin"}
    with server.stranger(authorization=f"Bearer {server.keys.token}", **own) as browser:
        assert browser.post("/api/runs/test/pause").status_code == 202


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_what_a_browser_says_comes_from_elsewhere_gets_403(server: Served, training: client.Run, site: str) -> None:
    known = {"authorization": f"Bearer {server.keys.token}", "sec-fetch-site": site}
    with server.stranger(**known) as browser:
        for method, path in [*ROUTES, *PUBLIC]:
            assert browser.request(method, path, json=BODIES.get(path)).status_code == 403, (method, path)
        image = {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
        assert browser.get("/", headers=image).status_code == 403
        frame = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
        assert browser.get("/", headers=frame).status_code == 403
    _unharmed(training)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:PORT",
        "127.0.0.1.evil.example:PORT",
        "localhost.evil.example",
        "127.0.0.1:PORT@evil.example",
        "192.168.1.1:PORT",
        "",
        "localhost:PORT, evil.example",
        "[::1",
        "local host",
        "localhost:99999999",
    ],
)
def test_a_foreign_name_that_leads_here_gets_403_with_the_token(
    server: Served, training: client.Run, host: str
) -> None:
    host = host.replace("PORT", str(server.port))
    for method, path in [*ROUTES, *PUBLIC]:
        answer = server.api.request(method, path, json=BODIES.get(path), headers={"host": host})
        # What is no host at all is refused by the HTTP parser.
        assert answer.status_code in (403, 400), (method, path)
    _unharmed(training)


@pytest.mark.parametrize("host", ["127.0.0.1:PORT", "localhost:PORT", "LOCALHOST:1234", "[::1]:PORT", "127.0.0.1"])
def test_the_names_of_this_machine_are_its_own_behind_a_forwarded_port_too(server: Served, host: str) -> None:
    host = host.replace("PORT", str(server.port))
    assert server.api.get("/api/runs", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_two_hosts_in_one_request_are_refused(server: Served) -> None:
    own = f"127.0.0.1:{server.port}"
    request = (
        f"GET /api/runs HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\n"
        f"Authorization: Bearer {server.keys.token}\r\nConnection: close\r\n\r\n"
    )
    assert _raw(server, request.encode()).split()[1] in (b"400", b"403")


def test_the_hosts_are_those_of_the_address_that_is_listened_on() -> None:
    assert hosts_of(["127.0.0.1"]) == {"127.0.0.1", "localhost", "::1"}
    assert {"node7", "10.1.2.3"} <= hosts_of(["Node7", "10.1.2.3"])
    assert "*" in hosts_of(["0.0.0.0"])
    with served(host="0.0.0.0") as server:
        for host, status in {"10.1.2.3": 200, "[fe80::1]": 200, "evil.example": 403, socket.gethostname(): 200}.items():
            assert server.api.get("/api/runs", headers={"host": host}).status_code == status, host


def test_only_this_machine_reaches_a_loopback_address() -> None:
    assert is_loopback(resolve("127.0.0.1"))
    assert is_loopback(resolve("localhost"))
    assert is_loopback(resolve("::1"))
    assert not is_loopback(resolve("0.0.0.0"))
    assert not is_loopback(resolve("::"))
    assert not is_loopback(resolve("192.0.2.1"))
    assert not is_loopback([*resolve("127.0.0.1"), *resolve("192.0.2.1")])


# --- what goes out ---


@pytest.mark.parametrize(
    "path", ["/", "/api/runs", "/api/nothing", "/metrics", "/static/plotly.min.js", "/api/runs/test"]
)
@pytest.mark.parametrize("known", [True, False])
def test_each_answer_forbids_what_a_page_has_no_need_of(server: Served, path: str, known: bool) -> None:
    with server.stranger() as stranger:
        headers = (server.api if known else stranger).get(path).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == ("no-cache" if path in ("/", "/static/plotly.min.js") else "no-store")
    assert "server" not in headers


def test_script_in_names_and_values_is_text_in_json_and_never_a_page(
    server: Served, home: Path, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>"
    code = f"""
import sys, time
import spark_fast as spark
sys.argv = [{evil!r}]
def call():
    {evil!r}
    return {evil!r}
state = spark.expose({{ {evil!r}: {evil!r}, "call": call, "odd": "\\ud800 \\u2028" }})
while True:
    spark.checkpoint()
    time.sleep(0.001)
"""
    with Child(tmp_path, code) as child:
        child.run()
        answers = [
            server.api.get("/api/runs/test"),
            server.api.get(f"/api/runs/{evil}"),
            server.api.put(f"/api/runs/test/values/{evil}x", json={"value": evil}),
            server.api.put(f"/api/runs/test/values/{evil}", json={"value": 5}),
            server.api.post("/api/runs/test/calls/call", json={"timeout": 20}),
            server.api.post("/api/runs/test/pause", json={evil: evil}),
            server.api.get("/api/runs/test/history", params={"name": evil + "x"}),
            server.api.get("/api/runs/test/requests/" + evil),
        ]
        for answer in answers:
            assert answer.status_code < 500, answer.text
            assert answer.headers["content-type"] == "application/json"
            assert answer.headers["x-content-type-options"] == "nosniff"
            answer.json()
        values = {value["name"]: value["value"] for value in answers[0].json()["values"]}
        assert values[evil] == evil
        assert values["odd"] == "\ud800 \u2028"
        assert answers[4].json()["request"]["result"] == evil
        metrics = server.api.get("/metrics")
        assert metrics.headers["content-type"].startswith("text/plain")
        with server.stream("test") as stream:
            whole = stream.until(lambda name, data: name == "run" and data["full"])
            assert values[evil] in [value["value"] for value in whole["values"]]


# --- what is too much ---


@pytest.mark.parametrize(
    ("path", "limit"), [("pause", BODY_MAX), ("calls/evaluate", BODY_MAX), ("reload", CODE_BODY_MAX)]
)
def test_a_body_that_is_too_long_is_not_read(server: Served, training: client.Run, path: str, limit: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", f"/api/runs/test/{path}")
    connection.putheader("authorization", f"Bearer {server.keys.token}")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", str(limit + 1))
    connection.endheaders()
    answer = connection.getresponse()  # before a byte of it was sent
    assert answer.status == 413
    assert str(limit) in json.loads(answer.read())["error"]
    connection.close()
    _unharmed(training)


def test_a_body_that_does_not_say_how_long_it_is_is_read_no_further_than_allowed(
    server: Served, training: client.Run
) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"code": "'
        for _ in range(BODY_MAX // 1024 + 10):
            yield b"x" * 1024

    answer = server.api.post("/api/runs/test/pause", content=body(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    _unharmed(training)


def test_a_body_from_a_client_without_the_token_is_not_read(server: Served) -> None:
    for path, status in {"/api/runs/test/pause": b"401", "/": b"413", "/static/app.js": b"413"}.items():
        method = "POST" if path.startswith("/api") else "GET"
        for body in ("Content-Length: 1000000", "Transfer-Encoding: chunked"):
            # The answer comes before the body, which never comes, and the connection ends.
            if body.startswith("Transfer") and status == b"413":
                body += "\r\n\r\n1\r\nx\r\n"
            else:
                body += "\r\n\r\n"
            answer = _raw(server, f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{body}".encode())
            assert answer.split()[1] == status
            assert b"connection: close" in answer.lower()


def test_a_client_with_a_wrong_token_can_send_its_short_body_and_read_the_answer(server: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for _ in range(3):
        connection.putrequest("POST", "/api/runs/test/pause")
        connection.putheader("authorization", "Bearer wrong")
        connection.putheader("content-length", "1000")
        connection.endheaders()
        answer = connection.getresponse()
        assert answer.status == 401
        answer.read()
        assert connection.sock is not None  # it is the same connection, and stands
        connection.send(b"x" * 1000)
    connection.close()


def test_endless_headers_and_addresses_are_refused(server: Served) -> None:
    for request in (b"GET /" + b"a" * (1 << 20), b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20)):
        assert b"200" not in _raw(server, request).split(b"\r\n")[0]


# --- confusion ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/runs/test/pause"),
        ("GET", "/api/runs/test/stop"),
        ("PUT", "/api/runs/test/stop"),
        ("DELETE", "/api/runs/test"),
        ("PATCH", "/api/runs/test/values/lr"),
        ("POST", "/api/runs/test/values/lr"),
        ("GET", "/api/runs/test/values/lr"),
        ("GET", "/api/runs/test/calls/evaluate"),
        ("GET", "/api/clean"),
        ("POST", "/api/runs"),
        ("OPTIONS", "/api/runs/test/pause"),
        ("TRACE", "/api/runs"),
        ("HEAD", "/api/runs/test/stop"),
        ("POST", "/"),
    ],
)
def test_another_method_is_405_and_changes_nothing(
    server: Served, training: client.Run, method: str, path: str
) -> None:
    overrides = {"x-http-method-override": "POST", "x-method-override": "POST"}
    answer = server.api.request(method, path, headers=overrides)
    assert answer.status_code == 405
    assert not {name for name in answer.headers if name.startswith("access-control")}
    assert server.api.request(method, f"{path}?_method=POST", headers=overrides).status_code == 405
    _unharmed(training)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_what_a_form_could_send_is_no_json(server: Served, training: client.Run, kind: str) -> None:
    for path, body in {"pause": b'{"at_step": 5}', "advance": b'{"steps": 1}', "resume": b"a=b"}.items():
        answer = server.api.post(f"/api/runs/test/{path}", content=body, headers={"content-type": kind})
        assert answer.status_code in (415, 422), path
    _unharmed(training)


def test_no_socket_is_opened_to_the_server(server: Served) -> None:
    request = (
        f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert _raw(server, request.encode(), most=64).split()[1] == b"401"


def test_the_token_is_compared_in_a_time_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, key: bytes) -> bool:
        compared.append((given, key))
        return False

    monkeypatch.setattr(security.hmac, "compare_digest", compare)
    keys = Keys()
    # What it says is the answer: nothing else looks at the token.
    assert not keys.fits_token(keys.token)
    assert compared == [(keys.token.encode(), keys.token.encode())]


def _raw(server: Served, request: bytes, most: int = 1 << 16) -> bytes:
    """What comes back for these bytes, until the server ends the connection."""
    found = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            connection.sendall(request)
            while len(found) < most and (more := connection.recv(65536)):
                found += more
        except ConnectionError:  # it has ended it while more was being sent
            pass
    return found
