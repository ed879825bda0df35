"""Pages and scripts that ask a run for more than the server has: each waits for its turn, and none for another's."""

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from spark_fast.client import rate_limit
from spark_fast.client.rate_limit import BURST, RATE
from spark_fast.ui import fair_queue
from spark_fast.ui.fair_queue import FairQueue
from spark_fast.ui.threads import BusyError
from tests.support.child import Child
from tests.support.ui_support import EXPOSING, served

pytestmark = pytest.mark.process


Result = TypeVar("Result")
Run = Callable[[Coroutine[Any, Any, Result]], Result]


class _Clock(selectors.SelectSelector):
    """A selector that waits for nothing: its clock goes on by the time that the event loop would have waited."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits, and no timer is left"
        self.now += max(timeout, 1e-6)
        return super().select(0)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run[Any]:
    """Runs a coroutine in an event loop with a simulated clock, by which the shares are measured, too."""
    clock = _Clock()

    def loop() -> asyncio.AbstractEventLoop:
        made = asyncio.SelectorEventLoop(clock)
        monkeypatch.setattr(made, "time", lambda: clock.now)
        return made

    def run(work: Coroutine[Any, Any, Result]) -> Result:
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(work)

    monkeypatch.setattr(rate_limit, "monotonic", lambda: clock.now)
    return run


async def _used_up() -> FairQueue:
    found = FairQueue()
    for _ in range(BURST):
        await asyncio.wait_for(found.take("test", "one"), 0.1)
    return found


def test_what_one_client_has_waiting_another_is_not_behind_of(run: Run[Any]) -> None:
    async def scenario() -> tuple[list[str], float]:
        found = await _used_up()
        order: list[str] = []

        async def take(client: str) -> None:
            await found.take("test", client)
            order.append(client)

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*[take("greedy") for _ in range(6)], *[take("page") for _ in range(2)], take("script"))
        return order, asyncio.get_running_loop().time() - began

    order, took = run(scenario())
    assert order == ["greedy", "page", "script", "greedy", "page", *["greedy"] * 4]
    assert took == pytest.approx(9 / RATE, abs=0.001)


def test_another_run_has_turns_of_its_own(run: Run[Any]) -> None:
    async def scenario() -> None:
        found = await _used_up()
        await asyncio.wait_for(found.take("another", "one"), 0.5 / RATE)
        gone = [asyncio.ensure_future(found.take("test", "one")) for _ in range(fair_queue._WAITING_OF_CLIENT)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in gone)
        for each in gone:
            each.cancel()
        # Whoever has gone takes nobody's turn.
        await asyncio.wait_for(found.take("test", "two"), fair_queue._WAITING_OF_CLIENT / 2 / RATE)

    run(scenario())


def test_a_client_with_too_much_waiting_is_told_so_and_another_waits_as_ever(run: Run[Any]) -> None:
    async def scenario() -> None:
        found = await _used_up()
        waiting = [asyncio.ensure_future(found.take("test", "greedy")) for _ in range(fair_queue._WAITING_OF_CLIENT)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await found.take("test", "greedy")
        await asyncio.wait_for(found.take("test", "page"), 10 / RATE)
        found.close()
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(end, BusyError) for end in ends) >= fair_queue._WAITING_OF_CLIENT - 10

    run(scenario())


def test_lines_of_runs_that_are_gone_are_forgotten(run: Run[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "_RUNS", 3)

    async def scenario() -> None:
        found = await _used_up()
        for number in range(20):
            await found.take(f"run-{number}", "one")
            await asyncio.sleep(1.1 / RATE)
        assert len(found._lines) <= 4
        assert "test" in found._lines  # it has not all of its share back

    run(scenario())


def test_a_script_that_floods_through_the_server_waits_and_pages_are_served(home: Path, tmp_path: Path) -> None:
    with served() as server, Child(tmp_path, EXPOSING) as child:
        run = child.run()
        over = threading.Event()
        answers: list[tuple[int, str]] = []

        def flood() -> None:
            with server.stranger(authorization=f"Bearer {server.keys.token}") as script:
                while not over.is_set():
                    answer = script.put("/api/runs/test/values/guarded", json={"value": 1})
                    answers.append((answer.status_code, "" if answer.is_success else answer.text))

        floods = [threading.Thread(target=flood) for _ in range(6)]
        began, before = time.monotonic(), run._connection.view()["tail"]
        for each in floods:
            each.start()
        try:
            for number in range(5):
                # What holds up the floods takes no thread that others need.
                assert server.fate("test", server.post("/api/runs/test/pause"))["state"] in ("applied", "superseded")
                assert server.fate("test", server.post("/api/runs/test/resume"))["state"] == "applied"
                answer = server.api.put("/api/runs/test/values/lr", json={"value": number / 10})
                assert answer.status_code == 202, answer.text
            asked = run._connection.view()["tail"] - before
            took = time.monotonic() - began
        finally:
            over.set()
            for each in floods:
                each.join()
    assert set(answers) == {(202, "")}
    assert asked - 10 <= BURST + took * RATE + 2
