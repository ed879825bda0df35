"""A web server in the test's process, on a real socket, and its clients."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from spark_fast.ui.addresses import listen, resolve
from spark_fast.ui.security import Keys
from spark_fast.ui.serving import Options, make_server
from spark_fast.ui.state import State
from tests.support.child import DEADLINE, until

EXPOSING = """
import time
import spark_fast as spark

def evaluate(split: str = "test", *, batches: int = 1):
    "How good it is."
    print("evaluating", split)
    return {"split": split, "batches": batches}

def broken():
    raise ValueError("no data")

def long():
    return "x" * 100_000

def refuse_nine(value):
    if value == 9:
        raise ValueError("no nines")

state = spark.expose({
    "lr": spark.value(0.1, min=0, max=1, step=0.01, unit="1/step", doc="Learning rate."),
    "loss": 0.0,
    "text": "plain",
    "on": True,
    "optimizer": spark.value("adam", choices=["adam", "sgd"]),
    "card": {"layers": 12},
    "fixed": spark.value(3, readonly=True),
    "bad": float("nan"),
    "guarded": spark.value(1, on_set=refuse_nine),
    'odd "name" \\\\': 1.0,
    "evaluate": evaluate,
    "broken": broken,
    "long": long,
})
step = 0
while True:
    spark.checkpoint()
    step += 1
    state.loss = 1 / step
    state.bad = float("nan")
    time.sleep(0.001)
"""
"""Exposes a value of each type, and functions."""

FORGETFUL = """
import json, time
import spark_fast as spark
steps = 0
for number in range(10**6):
    spark.checkpoint()
    steps += 1
    print(json.dumps(["old", number, steps]), flush=True)
    time.sleep(0.002)
"""
"""Keeps nothing through a reload, which would start it over."""


class Served:
    """A running server, and a client with its token.

    Attributes:
        keys: the keys that let a request in.
        base: the address, without the token.
        api: a client with the token as a bearer.
        state: the server's state.
    """

    def __init__(self, options: Options) -> None:
        self.keys = Keys()
        self._listeners = listen(resolve(options.host), 0)
        self.port = self._listeners[0].getsockname()[1]
        self.base = f"http://127.0.0.1:{self.port}"
        self._started = threading.Event()
        self.server = make_server(options, self.keys, self._listeners, lambda _: self._started.set())
        self.state: State = self.server._state  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self.server.run)
        self.api = httpx.Client(base_url=self.base, headers={"authorization": f"Bearer {self.keys.token}"}, timeout=20)

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._started.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self.api.close()
        self.end()
        for each in self._listeners:
            each.close()

    def end(self) -> None:
        """End the server."""
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive()

    def stranger(self, **headers: str) -> httpx.Client:
        """Return a client without the token."""
        return httpx.Client(base_url=self.base, headers=headers, timeout=20)

    def get(self, path: str, **options: Any) -> Any:
        """Return the JSON of an answer; assert its status 200."""
        answer = self.api.get(path, **options)
        assert answer.status_code == 200, (answer.status_code, answer.text)
        return answer.json()

    def post(self, path: str, body: object = None) -> dict[str, Any]:
        """Post a request to the run; return the request."""
        answer = self.api.post(path) if body is None else self.api.post(path, json=body)
        assert answer.status_code == 202, (answer.status_code, answer.text)
        request: dict[str, Any] = answer.json()["request"]
        return request

    def post_clean(self) -> list[str]:
        """Remove ended runs; return their ids."""
        removed: list[str] = self.api.post("/api/clean").json()["removed"]
        return removed

    def fate(self, run: str, request: dict[str, Any]) -> dict[str, Any]:
        """Wait for the final fate of a request, and return it."""

        def look() -> dict[str, Any] | None:
            found = self.get(f"/api/runs/{run}/requests/{request['id']}", params={"wait": 5})["request"]["fate"]
            return found if found["final"] else None

        found = until(look, f"the fate of {request}")
        assert found is not None
        return found

    @contextmanager
    def stream(self, run: str | None = None, **headers: str) -> "Iterator[Stream]":
        """Yield the events that a page gets."""
        params = {} if run is None else {"run": run}
        with self.api.stream("GET", "/api/stream", params=params, headers=headers) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"].startswith("text/event-stream")
            yield Stream(answer)


class Stream:
    """The events of /api/stream."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()

    def next(self) -> tuple[str, str, Any]:
        """Return the next event: its name, its id and its data."""
        fields: dict[str, str] = {}
        for line in self._lines:
            if line == "" and "data" in fields:
                return fields["event"], fields["id"], json.loads(fields["data"])
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
        raise EOFError

    def until(self, wanted: Callable[[str, Any], bool]) -> Any:
        """Return the data of the first event for which wanted() is true."""
        end = time.monotonic() + DEADLINE
        while True:
            name, _, data = self.next()
            if wanted(name, data):
                return data
            assert time.monotonic() < end, f"not in {DEADLINE} s; the last was {data}"


@contextmanager
def served(**options: Any) -> Iterator[Served]:
    """Yield a server, and end it with the block."""
    with Served(Options(**options)) as server:
        yield server
