"""Takes traces and compares them with the expected ones."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.traces.scenarios import HEAD, PLAIN, RELOADING, RELOADS

__all__ = ["NAMES", "expected", "take", "write"]

HERE = Path(__file__).parent
EXPECTED = HERE / "expected"
NAMES = [*PLAIN, *RELOADS]
SECONDS = 60

_VARYING = (
    (re.compile(rf'  File "{re.escape(str(HERE))}.*\n(?:    .*\n)+'), ""),  # frames of record.py
    (re.compile(r"^ +[~^]+\n", re.MULTILINE), ""),  # which a later Python draws under more lines
    (re.compile(r"\b[0-9a-f]{16}\b"), "<id>"),
    (re.compile(r"\bpid \d+"), "pid <n>"),
    (re.compile(r"\S+@\S+(?=, pid)"), "<user>"),
    (re.compile(r"0x[0-9a-f]+"), "<address>"),
    (re.compile(r"line \d+"), "line <n>"),
    (re.compile(r"\b\d+\.\d+ m?s\b"), "<seconds>"),
)
_TIMES = ("asked", "at", "time", "duration", "took", "seconds", "pid", "parked")


def take(name: str, folder: Path) -> str:
    """The trace of a scenario, which runs in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    code, how = (HEAD + PLAIN[name], "plain") if name in PLAIN else (RELOADING + RELOADS[name], "runner")
    script, log, journal = folder / "script.py", folder / "log", folder / "journal"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, str(HERE / "record.py"), str(log), how, str(script)],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("SPARK_FAST")}
        | {
            "SPARK_FAST_HOME": str(folder / "home"),
            "SPARK_FAST_RUN": "trace",
            "SPARK_FAST_JOURNAL": str(journal),
            "PYTHONPATH": str(HERE.parents[1]),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    child = Path(f"{log}.child")
    parts = {
        "exit status": f"{done.returncode}\n",
        "calls": log.read_text() if log.exists() else "",
        "calls of the child": child.read_text() if child.exists() else "",
        "journal": _journal(journal),
        "output": done.stdout,
        "errors": done.stderr,
    }
    text = "".join(f"== {title}\n{_plain(part, folder)}" for title, part in parts.items() if part)
    return text if text.endswith("\n") else text + "\n"


def _journal(path: Path) -> str:
    """The journal's lines, without times and ids; of its first line the names alone."""
    if not path.exists():
        return ""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [" ".join(sorted(lines[0]))] if lines else []
    for line in lines[1:]:
        kept.append(json.dumps({key: "<n>" if key in _TIMES or key == "id" else value for key, value in line.items()}))
    return "\n".join(kept) + "\n"


def _plain(text: str, folder: Path) -> str:
    text = text.replace(str(folder), "<folder>")
    for varying, word in _VARYING:
        text = varying.sub(word, text)
    return text


def _file(name: str) -> Path:
    return EXPECTED / f"{re.sub('[^a-z]+', '_', name)}.txt"


def expected(name: str) -> str:
    """The trace that a scenario is to have."""
    return _file(name).read_text()


def write(name: str, trace: str) -> None:
    """Makes this the trace that the scenario is to have."""
    EXPECTED.mkdir(exist_ok=True)
    _file(name).write_text(trace)
