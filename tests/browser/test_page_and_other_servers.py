"""What a real browser hands to other servers, and what pages of theirs can do to the server of the page."""

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from spark_fast.cli import web
from tests.support.child import Child, until
from tests.support.served import Served, opened
from tests.support.ui_support import EXPOSING

pytestmark = pytest.mark.browser


@pytest.fixture(autouse=True)
def pages(browser: Browser) -> Iterator[None]:
    """Closes the pages of a test with it."""
    yield
    for context in browser.contexts:
        context.close()


@contextmanager
def other_server(body: str = "<!doctype html>") -> "Iterator[tuple[str, list[str]]]":
    """Another user's server on this machine: its address, and all that it is sent."""
    received: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            received.append(f"{self.requestline}\n{self.headers}\n{self.rfile.read(length)!r}")
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_OPTIONS = do_GET  # noqa: N815 # the names that the library calls

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", received
        finally:
            server.shutdown()
            thread.join()


def token_of(served: Served) -> str:
    token = served.address.partition("#token=")[2]
    assert len(token) >= 43
    return token


def base_of(served: Served) -> str:
    return served.address.partition("/#")[0]


def runs_of(served: Served) -> Any:
    return httpx.get(f"{base_of(served)}/api/runs", headers={"authorization": f"Bearer {token_of(served)}"}).json()


def is_let_in(page: Page) -> None:
    """Wait until the page shows what its server says."""
    expect(page.locator("#connection")).to_have_text("live")
    expect(page.locator("#lost")).to_be_hidden()


# --- nothing of ours goes elsewhere ---


def test_another_server_on_this_machine_is_sent_no_credential(browser: Browser, served: Served) -> None:
    with other_server() as (address, received):
        page = opened(browser, served)
        is_let_in(page)
        context = page.context
        assert context.cookies() == []
        other = context.new_page()
        other.goto(address)
        # A link on our page that leads there, as an evil name of a run could be one.
        page.evaluate("address => { location.href = address + '/from-ours' }", address)
        page.wait_for_url("**/from-ours")
        assert any("from-ours" in each for each in received)
        for each in received:
            assert token_of(served) not in each
            assert "cookie" not in each.lower()
            assert "authorization" not in each.lower()
        # What that page can read of the browser's storage is its own.
        stored = "JSON.stringify([Object.entries(sessionStorage), Object.entries(localStorage), document.cookie])"
        assert token_of(served) not in other.evaluate(stored)
        assert token_of(served) not in page.evaluate(stored)
        # The channel between our tabs is out of its reach.
        ask = """() => new Promise(done => {
            const channel = new BroadcastChannel("spark-fast token");
            channel.onmessage = event => done(JSON.stringify(event.data));
            channel.postMessage({ wanted: true });
            setTimeout(() => done("nothing"), 1000);
        })"""
        is_let_in(opened(browser, served))
        assert other.evaluate(ask) == "nothing"


def test_many_cookies_of_another_server_change_nothing(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    is_let_in(page)
    with other_server("<script>for (let i = 0; i < 300; i++) document.cookie = `c${i}=x; path=/`</script>") as (
        address,
        _,
    ):
        other = page.context.new_page()
        other.goto(address)
        until(lambda: len(page.context.cookies()) > 100)  # the browser keeps them a moment later
    page.reload()
    is_let_in(page)


def test_a_page_from_elsewhere_can_neither_ask_nor_read(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path, EXPOSING) as child, other_server() as (address, _):
        run = child.run()
        own = opened(browser, served)
        is_let_in(own)
        evil = own.context.new_page()
        evil.goto(address)
        token = token_of(served)
        attempts = evil.evaluate(
            """async ([base, token]) => {
                const told = [];
                const json = { "Content-Type": "application/json" };
                const known = { ...json, Authorization: `Bearer ${token}` };
                for (const options of [
                    { mode: "no-cors" },
                    { mode: "no-cors", credentials: "include" },
                    { mode: "cors", headers: json },
                    { mode: "cors", headers: known },
                ]) {
                    try {
                        const asked = { method: "POST", body: "{}", ...options };
                        const answer = await fetch(`${base}/api/runs/test/pause`, asked);
                        told.push(answer.type === "opaque" ? "opaque" : await answer.text());
                    } catch (error) { told.push("refused"); }
                }
                try { told.push(await (await fetch(`${base}/static/app.js`)).text()); } catch { told.push("refused"); }
                return told;
            }""",
            [base_of(served), token],  # not even with the token
        )
        assert set(attempts) <= {"opaque", "refused"}, attempts
        with evil.expect_navigation():
            evil.evaluate(
                """base => {
                    const form = document.createElement("form");
                    form.method = "post";
                    form.enctype = "text/plain";
                    form.action = `${base}/api/runs/test/pause`;
                    const field = document.createElement("input");
                    [field.name, field.value] = ['{"at_step": 1, "x": "', '"}'];
                    form.append(field);
                    document.body.append(form);
                    form.submit();
                }""",
                base_of(served),
            )
        assert "error" in json.loads(evil.inner_text("body"))
        frame = own.context.new_page()
        frame.goto(address)
        embed = "base => { const f = document.createElement('iframe'); f.src = base; document.body.append(f); }"
        with frame.expect_response(f"{base_of(served)}/") as framed:
            frame.evaluate(embed, base_of(served))
        assert framed.value.status == 403
        assert run.requests == []
        assert run.status == "running"


# --- the token in the browser ---


def test_the_token_goes_from_the_address_and_stays_over_a_reload_of_the_page(browser: Browser, served: Served) -> None:
    page = opened(browser, served)
    is_let_in(page)
    assert token_of(served) not in page.url
    page.reload()
    is_let_in(page)
    assert page.evaluate("localStorage.length") == 0
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("history.length") <= 2  # the address with the token was replaced
    page.go_back()
    assert token_of(served) not in page.url


def test_an_address_can_name_a_run_beside_the_token(browser: Browser, served: Served) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{served.address}/runs/nobody")
    expect(page.get_by_text("There is no run nobody")).to_be_visible()
    assert page.url == f"{base_of(served)}/#/runs/nobody"


def test_the_file_that_opens_the_browser_leads_to_the_page(
    browser: Browser, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: list[str] = []
    monkeypatch.setattr(web.webbrowser, "open", lambda address: not files.append(address))
    web._open(served.address, tmp_path)
    page = browser.new_context().new_page()
    page.goto(files[0])
    page.wait_for_url(f"{base_of(served)}/#/")
    is_let_in(page)


def test_a_link_opens_in_another_tab(browser: Browser, served: Served, tmp_path: Path) -> None:
    with Child(tmp_path) as child:
        child.run()
        page = opened(browser, served)
        with page.context.expect_page() as found:
            page.get_by_role("link", name="test").click(modifiers=["Control"])
        is_let_in(found.value)
        expect(found.value.get_by_role("heading", name="test")).to_be_visible()
        by_hand = page.context.new_page()
        by_hand.goto(base_of(served))
        is_let_in(by_hand)


def test_a_page_without_the_token_says_what_to_do_and_takes_the_address(browser: Browser, served: Served) -> None:
    page = browser.new_context().new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(base_of(served))
    expect(page.get_by_role("alert").filter(has_text="Open the address that spark-fast ui printed")).to_be_visible()
    assert not [each for each in asked if "/api/" in each]
    field = page.get_by_label("Address or token")
    field.fill("http://127.0.0.1/")
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_text("It holds no token.")).to_be_visible()
    field.fill("x" * 43)
    page.get_by_role("button", name="Open").click()
    expect(page.locator("#lost-words")).to_contain_text("token")
    expect(field).to_be_visible()
    field.fill(served.address)
    field.press("Enter")
    is_let_in(page)
    page.reload()
    is_let_in(page)


def test_a_token_that_was_refused_is_sent_no_more_and_the_new_address_lets_all_tabs_in(
    browser: Browser, served: Served, tmp_path: Path
) -> None:
    page, second = opened(browser, served), None
    is_let_in(page)
    second = page.context.new_page()
    second.goto(base_of(served))
    is_let_in(second)
    port = served.port
    old = token_of(served)
    served.end()
    with Served(tmp_path / "ui", port) as another:
        for each in (page, second):
            expect(each.locator("#lost-words")).to_contain_text("does not know this page's token")
        sent: list[str] = []
        page.on("request", lambda request: sent.append(json.dumps(request.all_headers())))
        page.goto(another.address)  # only the fragment differs, so the page is not loaded anew
        for each in (page, second):
            is_let_in(each)
        assert sent
        assert not [each for each in sent if old in each]


def test_a_server_with_a_kept_token_lets_the_page_in_again(
    browser: Browser, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Served(tmp_path / "ui", 0, "--keep-token") as first:
        page = opened(browser, first)
        is_let_in(page)
        bookmark, port = first.address, first.port
        first.end()
        expect(page.locator("#lost-words")).to_contain_text("Lost the server")
    with Served(tmp_path / "ui", port, "--keep-token"):
        is_let_in(page)
        fresh = browser.new_context().new_page()
        fresh.goto(bookmark)
        is_let_in(fresh)
