"""Controllers of the campaign: forked processes that send random requests and write down each question and answer."""

import errno
import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from spark_fast import client
from tests.campaign import faults
from tests.campaign.scripts import LOOP

__all__ = ["PATIENCE", "Answer", "Page", "Sender", "answers_of"]

PATIENCE = 90.0
"""Seconds after which a request without a fate counts as a hang: on a busy machine, with processes that are suspended
for up to a second at a time."""

_RANGE = 1_000_000
"""The numbers that a sender sets and calls with: those from its own number times this."""

_WEIGHTS = {
    "set": 30,
    "resume": 30,
    "call all": 12,
    "pause": 10,
    "read": 8,
    "advance": 8,
    "call one": 4,
    "timed pause": 4,
    "pause at": 3,
    "call broken": 2,
    "jump": 1,
}
_RELOADS = {"reload": 2, "reload broken": 1}

_EXITS = {0, 1, 2, 3, 4, 5, 130}


@dataclass(frozen=True)
class Page:
    """Where the web page is, and its token."""

    address: str
    token: str

    def ask(self, method: str, path: str, body: object = None, timeout: float = PATIENCE) -> tuple[int, bytes]:
        """Send a request with the token; return the status and the body of the answer, whatever the status is."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        content = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data=content, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


@dataclass
class Answer:
    """One request of a sender.

    Attributes:
        kind: what was asked, one of the keys of the weights above.
        number: what was set or called with.
        state: the fate; "unknown" if the sender was killed before it had one; "error" for an exception that a client
            may raise; "crash" for any other; "hang" if there was none in PATIENCE seconds.
        asked: when, in seconds of the monotonic clock; answered likewise, or infinity.
    """

    channel: str
    kind: str
    number: int
    asked: float
    state: str = "unknown"
    id: str = ""
    step: int | None = None
    reason: str = ""
    answered: float = float("inf")

    @property
    def short(self) -> str:
        """The state; of an error also its type, or the status of the page's answer."""
        if self.state != "error":
            return self.state
        return f"{self.state} ({self.reason.split()[0].rstrip(':')})"

    @property
    def nothing_done(self) -> bool:
        """Whether it counts as applied because there was nothing to do."""
        return self.reason.startswith("nothing to do")


class Sender:
    """A controller in a process and a session of its own.

    channel: "api", "cli" or "page".
    limit: how many files it may have open; None for no limit of its own.
    home: its home of runs.
    """

    def __init__(
        self,
        path: Path,
        run: str,
        number: int,
        seed: int,
        channel: str,
        *,
        home: str,
        page: Page | None = None,
        reloads: bool = False,
        limit: int | None = None,
        only: tuple[str, ...] = (),
    ) -> None:
        self.path, self.channel, self.number = path, channel, number
        campaign = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            _serve(campaign, path, run, number, seed, channel, home, page, reloads, limit, only)

    def signal(self, number: int) -> None:
        """Send a signal to it and to the commands that it runs."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it and the commands that it runs, and wait for its end."""
        self.signal(signal.SIGKILL)
        os.waitpid(self.pid, 0)


def answers_of(folder: Path) -> Iterator[Answer]:
    """Read what all senders of a job have written down."""
    for path in sorted(folder.glob("sender*.jsonl")):
        found: dict[int, Answer] = {}
        for line in path.read_bytes().split(b"\n")[:-1]:
            fields = json.loads(line)
            number = fields.pop("n")
            if number in found:
                for name, value in fields.items():
                    setattr(found[number], name, value)
            else:
                found[number] = Answer(**fields)
        yield from found.values()


def _serve(
    campaign: int,
    path: Path,
    run_id: str,
    number: int,
    seed: int,
    channel: str,
    home: str,
    page: Page | None,
    reloads: bool,
    limit: int | None,
    only: tuple[str, ...],
) -> NoReturn:
    """Send requests until this process or the campaign is killed."""
    try:
        os.setsid()
        os.environ["SPARK_FAST_HOME"] = home
        out = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        err = os.open(path.with_suffix(".err"), os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        os.dup2(err, 2)
        faulthandler.register(signal.SIGUSR2, file=2, all_threads=True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        chance = random.Random(seed)
        weights = _WEIGHTS | (_RELOADS if reloads else {})
        if only:
            weights = {name: weights[name] for name in only}
        ask = {"api": _ask_api, "cli": _ask_cli, "page": _ask_page}[channel]
        count = number * _RANGE
        run: client.Run | None = None
        while os.getppid() == campaign:
            count += 1
            [kind] = chance.choices(list(weights), list(weights.values()))
            question = {"channel": channel, "kind": kind, "number": count, "asked": time.monotonic()}
            os.write(out, json.dumps({"n": count, **question}).encode() + b"\n")
            try:
                run = run or client.attach(run_id, exact=True)
                answer = ask(run, kind, count, chance, page)
            except client.SparkTimeoutError as error:
                answer = {"state": "hang", "reason": str(error)}
                if run is not None and not only:  # the workers of several hosts take no such signal
                    faults.dump([rank.pid for rank in run.ranks if rank.status.live])
            except client.SparkError as error:
                answer = {"state": "error", "reason": f"{type(error).__name__}: {error}"}
                if isinstance(error, client.NoSuchRunError):
                    time.sleep(0.1)
            except OSError as error:
                short = limit is not None and error.errno == errno.EMFILE
                answer = {"state": "error" if short else "crash", "reason": traceback.format_exc()}
            except Exception:
                answer = {"state": "crash", "reason": traceback.format_exc()}
            answer |= {"n": count, "answered": time.monotonic()}
            os.write(out, json.dumps(answer).encode() + b"\n")
            time.sleep(chance.random() * 0.03)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _told(request: client.Request) -> dict[str, Any]:
    fate = request.wait(PATIENCE)
    return {"id": request.id, "state": str(fate.state), "step": fate.step, "reason": fate.reason}


def _ask_api(run: client.Run, kind: str, number: int, chance: random.Random, _: Page | None) -> dict[str, Any]:
    asks: dict[str, Callable[[], client.Request]] = {
        "set": lambda: run.set("lr", float(number), wait=False),
        "resume": lambda: run.resume(wait=False),
        "pause": lambda: run.pause(wait=False),
        "timed pause": lambda: run.pause(wait=False, resume_after=0.01 + chance.random() / 4),
        "pause at": lambda: run.pause(wait=False, at_step=max(1, run.step + chance.randint(-2, 20))),
        "advance": lambda: run.advance(chance.randint(1, 8), wait=False),
        "call all": lambda: run.request_call("note", [number], ranks="all", wait=False),
        "call one": lambda: run.request_call("note", [number], ranks=0, wait=False),
        "call broken": lambda: run.request_call("broken", [number], wait=False),
        "jump": lambda: run.request_call("jump", [chance.uniform(-7200, 7200)], ranks="all", wait=False),
        "reload": lambda: run.reload(f"{LOOP}# version {number}\n", wait=False),
        "reload broken": lambda: run.reload(LOOP.replace("#BEFORE", f"raise ValueError({number})"), wait=False),
    }
    if kind == "read":
        for each in (run.as_dict, lambda: run.values, lambda: run.requests, lambda: run.history("lr"), client.runs):
            each()
        return {"state": "read"}
    return _told(asks[kind]())


def _ask_cli(run: client.Run, kind: str, number: int, chance: random.Random, _: Page | None) -> dict[str, Any]:
    call = ["call", run.id, "note", f"[{number}]"]
    words = {
        "set": ["set", run.id, f"lr={number}"],
        "resume": ["resume", run.id],
        "pause": ["pause", run.id],
        "timed pause": ["pause", run.id, "--resume-after", "0.1"],
        "pause at": ["pause", run.id, "--at-step", str(max(1, run.step + chance.randint(-2, 20)))],
        "advance": ["advance", run.id, str(chance.randint(1, 8))],
        "call all": [*call, "--ranks", "all"],
        "call one": [*call, "--ranks", "0"],
        "call broken": ["call", run.id, "broken", f"[{number}]"],
    }.get(kind, ["status", run.id])
    waits = [] if words[0] == "status" else ["--timeout", f"{PATIENCE:g}"]
    command = [sys.executable, "-m", "spark_fast", *words, *waits, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2 * PATIENCE, stdin=subprocess.DEVNULL)
    said = f"{' '.join(words)}: status {done.returncode}: {done.stderr or done.stdout}"
    if done.returncode not in _EXITS or ("Traceback" in done.stderr and kind != "call broken"):
        return {"state": "crash", "reason": said}
    if done.returncode == 4:
        return {"state": "hang", "reason": said}
    try:
        found = json.loads(done.stdout)
    except ValueError:
        return {"state": "crash" if done.returncode == 0 else "error", "reason": said}
    if "fate" not in found:
        return {"state": "read"}
    fate = found["fate"]
    return {"id": found["id"], "state": fate["state"], "step": fate["step"], "reason": fate["reason"]}


def _ask_page(run: client.Run, kind: str, number: int, chance: random.Random, page: Page | None) -> dict[str, Any]:
    assert page is not None
    calls = f"/api/runs/{run.id}/calls/note"
    method, path, body = {
        "set": ("PUT", f"/api/runs/{run.id}/values/lr", {"value": number}),
        "resume": ("POST", f"/api/runs/{run.id}/resume", {}),
        "pause": ("POST", f"/api/runs/{run.id}/pause", {}),
        "timed pause": ("POST", f"/api/runs/{run.id}/pause", {"resume_after": 0.1}),
        "pause at": ("POST", f"/api/runs/{run.id}/pause", {"at_step": max(1, run.step + chance.randint(-2, 20))}),
        "advance": ("POST", f"/api/runs/{run.id}/advance", {"steps": chance.randint(1, 8)}),
        "call all": ("POST", calls, {"args": [number], "ranks": "all"}),
        "call one": ("POST", calls, {"args": [number], "ranks": 0}),
        "call broken": ("POST", f"/api/runs/{run.id}/calls/broken", {"args": [number]}),
    }.get(kind, ("GET", f"/api/runs/{run.id}", None))
    status, answer = page.ask(method, path, body)
    if status >= 500 and status != 503:
        return {"state": "crash", "reason": f"{method} {path}: {status} {answer[:2000]!r}"}
    found = json.loads(answer)
    if method == "GET" or status >= 400:
        return {"state": "read" if status == 200 else "error", "reason": f"{status} {answer[:300]!r}"}
    request = found["request"]
    end = time.monotonic() + PATIENCE
    while not request["fate"]["final"]:
        if time.monotonic() > end:
            return {"state": "hang", "id": request["id"], "reason": f"{path} has no fate: {request}"}
        status, answer = page.ask("GET", f"/api/runs/{run.id}/requests/{request['id']}?wait=20")
        if status != 200:
            return {"state": "error", "id": request["id"], "reason": f"{status} {answer[:300]!r}"}
        found = json.loads(answer)
        request = found.get("request", found)
    fate = request["fate"]
    return {"id": request["id"], "state": fate["state"], "step": fate["step"], "reason": fate["reason"] or ""}
