"""Journals as text for people, and as JSON."""

import json
import os
import time
from collections.abc import Container, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from spark_fast import client
from spark_fast.cli import render
from spark_fast.cli.exits import Exit, leave, say
from spark_fast.cli.formatting import command_line, exact_duration
from spark_fast.cli.render import Cell, Column
from spark_fast.errors import NoSuchRunError
from spark_fast.plain_text import printable
from spark_fast.request import RESET
from spark_fast.runfiles import journal, journal_parts, names
from spark_fast.runfiles.journal import Journal
from spark_fast.runfiles.json_text import to_json

__all__ = ["show"]

_COLUMNS = (
    Column("TIME"),
    Column("STEP", right=True),
    Column("WHAT"),
    Column("BY", drop=1),
    Column("ID", drop=2),
)


def show(which: str | None, *, as_json: bool) -> None:
    """Print the journal of a run, or of a file. Raise JournalError or NoSuchRunError."""
    path = _locate(which)
    if path is None or journal_parts.newest(path) is None:
        if as_json:
            print("[]")
            return
        raise leave(Exit.DONE, "nothing was written down: nothing was asked of the run, or it keeps no journal")
    found = journal.read(path)
    if as_json:
        print(to_json([found.header, *found.lines], indent=2))
    else:
        _print(found)
    if found.loss is not None:
        say(f"this is not the whole journal: {found.loss}")
    if found.torn:
        say("the last line is not whole, and was left out: its writer was killed, or the disk was full")


def _locate(which: str | None) -> Path | None:
    if which is not None and (os.sep in which or which.endswith(".jsonl") or not names.valid(which)):
        return Path(which)
    if which is None:
        return _of_run(client.attach(None))
    with suppress(NoSuchRunError):
        return _of_run(client.attach(which, exact=True))
    # A removed run may have left a journal. Its full name goes before another run's that only begins with it.
    return journal.find(which) or _of_run(client.attach(which))


def _of_run(run: client.Run) -> Path | None:
    """Return the path of a run's journal; None as long as it is empty."""
    path = journal.of_folder(run.folder)
    return path if path is not None and journal.is_begun(path) else None


def _print(found: Journal) -> None:
    console = render.console()
    header = found.header
    console.print(f"run {printable(str(header['run']))}: {command_line(header['command'])}", soft_wrap=True)
    console.print(f"  {printable(str(found.path))}", style="dim", soft_wrap=True)
    reloads = {line["id"] for line in found.lines if line.get("kind") == "reload"}
    rows = [row for line in found.lines if (row := _row(line, reloads)) is not None]
    console.print(render.layout(_COLUMNS, rows, console.width))


def _row(line: Mapping[str, Any], reloads: Container[str]) -> list[Cell] | None:
    """Return the cells of a line. reloads: the ids of the requests that brought code."""
    if "kind" in line:
        return [
            (_clock(line["time"]), "dim"),
            (str(line["step"]), ""),
            (_request(line), ""),
            (printable(line["sender"]), "dim"),
            (printable(line["id"]), "dim"),
        ]
    if "failed" in line:
        reason = line["reason"].split("\n")[0]
        return [
            ("", ""),
            ("", ""),
            (f"  {'taken back' if line['failed'] in reloads else 'failed'}: {printable(reason)}", "red"),
            ("", ""),
            (printable(line["failed"]), "dim"),
        ]
    if "error" in line:
        return [
            (_clock(line["time"]), "dim"),
            (str(line["step"]), ""),
            (f"error: {printable(line['error'])}", "red"),
            ("", ""),
            ("", ""),
        ]
    if "files" in line:
        files = ", ".join(sorted(os.path.basename(path) for path in line["files"])) or "nothing that changed"
        return [("", ""), ("", ""), (f"  {printable(files)}", "dim"), ("", ""), ("", "")]
    if "payload" in line:
        return [("", ""), ("", ""), (f"  {_payload(line['payload'])}", "dim"), ("", ""), ("", "")]
    if "end" in line:
        return [
            (_clock(line["time"]), "dim"),
            (str(line["step"]), ""),
            (printable(line["end"]), "bold"),
            ("", ""),
            ("", ""),
        ]
    return None


def _request(line: Mapping[str, Any]) -> str:
    if line["kind"] == "stop" and line["mail"] == RESET:
        return "stop for a reset"
    words = [line["kind"]]
    if line["kind"] == "advance":
        words.append(str(line["arg"]))
    elif line["kind"] == "pause" and line["arg"]:
        words.append(f"at step {line['arg']}")
    elif line["kind"] == "reload" and line["mail"]:
        words.append(printable(line["mail"]).removeprefix("version-"))
    if line["duration"] and line["kind"] == "pause":
        words.append(f"for {exact_duration(line['duration'])}")
    return " ".join(words)


def _payload(content: Mapping[str, Any]) -> str:
    if isinstance(content.get("values"), dict):
        each = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in content["values"].items()]
        text = ", ".join(each)
    elif "value" in content:
        text = f"{content['name']} = {json.dumps(content['value'], ensure_ascii=False)}"
    else:
        given = [json.dumps(each, ensure_ascii=False) for each in content.get("args") or []]
        named = content.get("kwargs") or {}
        given += [f"{name}={json.dumps(each, ensure_ascii=False)}" for name, each in named.items()]
        text = f"{content['name']}({', '.join(given)})"
    return printable(text if len(text) <= 120 else f"{text[:119]}…")


def _clock(when: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
    except (OverflowError, ValueError, OSError):
        return "?"
