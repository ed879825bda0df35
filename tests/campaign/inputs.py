"""Bad inputs for the command line, the Python API, the mailbox and the page, and what may come of them."""

import json
import os
import random
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from spark_fast import client
from spark_fast.cli import app, main
from tests.campaign.senders import Page

__all__ = ["bad_api", "bad_cli", "bad_mail", "bad_page"]

_WORDS = "ps status pause resume advance get set call watch reload versions journal gc".split()
_OPTIONS = "--json --no-wait --history --all --diff --to --at-step --resume-after --ranks --code".split()
_TEXTS = [
    *"- -- = lr lr= =1 lr=1e999 lr=nan lr=[ nosuch=1 note [ {} 0 -1 1e9 99999999999999999999 1h -1h 1x nan inf".split(),
    *"../../etc / %s all 1.5 None [1,2] train.py /dev/null NaN".split(),
    *["", " ", '{"a":1}', '{"number": 1}', "\x00", "\x1b[2J", "\udcff", "ä" * 300, "job\n", "a" * 5000],
]
_EXITS = {0, 1, 2, 3, 4, 5, 130}
_VALUES: list[Any] = [
    *[None, True, -1, 0, 1 << 70, 1.5, float("nan"), float("inf"), -0.0, 1e-320],
    *["", "x", "\ud800", "1h", b"x", "a" * 100_000],
    *[[], [[]], {}, {"a": 1}, object(), set(), ("a",), [None] * 10_000],
]

app.build(app.COMMANDS)  # loads the modules of all commands here, once, and not in each forked process


def bad_cli(folder: Path, run: str, chance: random.Random) -> str | None:
    """Give the command line random words, in a forked process; return what was wrong with what it did, else None."""
    words = [chance.choice(_WORDS)]
    if chance.random() < 0.7:
        words.append(run)
    words += [chance.choice(_OPTIONS if chance.random() < 0.3 else _TEXTS) for _ in range(chance.randint(0, 4))]
    words = [word for word in words if "\x00" not in word]  # no command line can hold one
    if words[0] not in ("ps", "status", "get", "versions", "journal", "gc"):
        words += ["--timeout", "0.2"]
    if words[0] == "watch":
        words[0] = "get"  # it does not end by itself
    path = folder / "bad.cli"
    pid = os.fork()
    if pid == 0:
        _run_cli(path, words)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    said = path.read_text(errors="replace")
    if code in _EXITS and "Traceback (most recent call last)" not in said:
        return None
    return f"spark-fast {words!r} ended with {code}: {said[-3000:]}"


def _run_cli(path: Path, words: list[str]) -> None:
    try:
        fd = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115
        sys.argv = ["spark-fast", *words]
        code: object = main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)  # type: ignore[possibly-undefined]


def bad_api(run: client.Run, chance: random.Random) -> str | None:
    """Call a method of a run with random arguments; return what was wrong with what it did, else None."""
    one, two = chance.choice(_VALUES), chance.choice(_VALUES)
    asks: dict[str, Callable[[], object]] = {
        "set name": lambda: run.set(one, two, wait=False),
        "set value": lambda: run.set("lr", one, wait=False),
        "call name": lambda: run.request_call(one, [], wait=False),
        "call arguments": lambda: run.request_call("note", one, two, wait=False),
        "advance": lambda: run.advance(one, wait=False),
        "pause at": lambda: run.pause(at_step=one, wait=False),
        "pause for": lambda: run.pause(resume_after=one, wait=False),
        "timeout": lambda: run.resume(timeout=one),
        "history": lambda: run.history(one),
        "attach": lambda: client.attach(one),
        "reload": lambda: run.reload(one, wait=False),
        "reload to": lambda: run.reload(to=one, wait=False),
        "ranks": lambda: run.request_call("note", [1], ranks=one, wait=False),
        "wait": lambda: run.wait(one, 0.01),
    }
    name = chance.choice(list(asks))
    if name in ("pause for", "pause at") and isinstance(one, float | int) and one > 0:
        return None  # it is a good input, and parks the run for long
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asks[name]()
    except (client.SparkError, TypeError, ValueError, LookupError):
        return None
    except Exception:
        return f"API, {name}, {one!r:.200}, {two!r:.200}: {traceback.format_exc()}"
    return None


def bad_mail(run: client.Run, chance: random.Random) -> str | None:
    """Leave a file of random content in the mailbox; return what was done that should not be, else None."""
    folder = run.folder / "mail"
    folder.mkdir(mode=0o700, exist_ok=True)
    content = chance.choice(
        [chance.randbytes(chance.randint(0, 300)), json.dumps(chance.choice(_TEXTS)).encode(), b"[" * 5000]
    )
    name = chance.choice([f"{chance.getrandbits(64):016x}.json", f".{chance.getrandbits(32):x}", "a" * 200])
    path = folder / name
    if not path.exists():
        path.write_bytes(content)
    return None


def bad_page(page: Page, run: str, chance: random.Random) -> str | None:
    """Send the page's server a random request; return what was wrong with its answer, else None."""
    parts = [
        "api",
        "runs",
        run,
        "values",
        "lr",
        "calls",
        "note",
        "requests",
        "%00",
        "..",
        "x" * 3000,
        "stream",
        "pause",
        "journal",
        "%ff",
    ]
    path = "/" + "/".join(chance.choice(parts) for _ in range(chance.randint(1, 5)))
    if "stream" in path or path.endswith("/pause"):
        path = "/api/runs"
    method = chance.choice(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    body = chance.choice(
        [b"", b"{", b"[]", b"null", b'{"value": NaN}', b'{"args": 1}', chance.randbytes(50), b"[" * 2000]
    )
    keys = page if chance.random() < 0.8 else Page(page.address, chance.choice(["", "x", page.token[:-1]]))
    status, answer = keys.ask(method, path, body, 30)
    if keys is not page and path.startswith("/api") and status not in (400, 401, 403, 404, 405):
        return f"{method} {path} without the token: {status} {answer[:300]!r}"
    return f"{method} {path} {body!r}: {status} {answer[:1000]!r}" if status >= 500 and status != 503 else None
