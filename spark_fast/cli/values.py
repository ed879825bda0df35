"""The commands for what a run exposes: `get`, `set`, `call` and `watch`."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from spark_fast import client
from spark_fast.cli import render, requests
from spark_fast.cli.exits import Exit, leave, say
from spark_fast.cli.render import Cell, Column
from spark_fast.cli.requests import Patience
from spark_fast.client import AmbiguousRunError, FateState, NoSuchRunError, Request, Run, SparkTimeoutError, Value
from spark_fast.client.deadline import Deadline
from spark_fast.client.starting import await_exposed
from spark_fast.plain_text import printable
from spark_fast.runfiles.json_text import to_json
from spark_fast.runfiles.schema import unknown

__all__ = ["call", "get", "set_values", "watch"]

_COLUMNS = (Column("NAME"), Column("VALUE"), Column("LIMITS", drop=1), Column("STEP", right=True, drop=2))


def _attach(run: str | None) -> tuple[Run, str | None]:
    """Return the run that the first word of a command names, and None.

    Where the word names no run, return the only live run and the word, which then names one of its values.
    """
    if run is None:
        return client.attach(None), None
    try:
        return client.attach(run, exact=True), None
    except NoSuchRunError:
        live = client.runs(ended=False)
    if len(live) == 1 and run in live[0].values:
        return live[0], run
    try:
        return client.attach(run), None  # the beginning of an id
    except AmbiguousRunError:
        raise
    except NoSuchRunError:
        if len(live) != 1:
            raise
        return live[0], run


def _refuse_unknown(run: Run, wanted: Sequence[str]) -> None:
    """Raises typer.Exit if the run has no value of one of these names."""
    await_exposed(run._board, wanted, "value", Deadline(None))
    values = run.values
    missing = [name for name in wanted if name not in values]
    if missing:
        raise leave(Exit.REFUSED, f"run {run.id}: {unknown(missing[0], 'value', list(values))}")


# --- get ---


def get(run: str | None, names: Sequence[str], *, history: bool, as_json: bool) -> None:
    """Print the values of a run, all or those in `names`."""
    found, word = _attach(run)
    wanted = [word, *names] if word is not None else list(names)
    _refuse_unknown(found, wanted)
    values = found.values
    if history:
        _print_history(found, wanted, as_json=as_json)
    elif as_json:
        shown = {name: _dict(value) for name, value in values.items() if not wanted or name in wanted}
        print(to_json(shown, indent=2))
    elif wanted:
        for name in wanted:
            print(_plain(values[name].value) if len(wanted) == 1 else f"{printable(name)}={_plain(values[name].value)}")
    else:
        _print_all(found, list(values.values()))


def _dict(value: Value) -> dict[str, Any]:
    return {name: each for name, each in vars(value).items() if name != "name"}


def _plain(value: object) -> str:
    return printable(value) if isinstance(value, str) else printable(json.dumps(value, ensure_ascii=False))


def _print_all(run: Run, values: Sequence[Value]) -> None:
    functions = run.functions
    if not values and not functions:
        print(f"run {run.id} exposes nothing: call spark.expose(lr=0.1, …) in its script")
        return
    console = render.console()
    if values:
        rows: list[list[Cell]] = [
            [
                (printable(value.name), "bold"),
                (_shortened(_plain(value.value)), ""),
                (_limits(value), "dim"),
                (str(value.step), "dim"),
            ]
            for value in values
        ]
        console.print(render.layout(_COLUMNS, rows, console.width))
    for name, function in functions.items():
        doc = function.doc.split("\n")[0]
        shown = f"{name}{function.signature}" + ("   on all ranks" if function.ranks == "all" else "")
        console.print(printable(shown + (f"   {doc}" if doc else "")), style="dim", soft_wrap=True)


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"


def _limits(value: Value) -> str:
    words = []
    if value.readonly:
        words.append("read only")
    if value.choices is not None:
        words.append(_shortened("one of " + ", ".join(_plain(each) for each in value.choices)))
    if value.min is not None or value.max is not None:
        low = "" if value.min is None else f"{value.min:g}"
        words.append(f"{low}…" + ("" if value.max is None else f"{value.max:g}"))
    if value.unit:
        words.append(printable(value.unit))
    return " ".join(words)


def _print_history(run: Run, names: Sequence[str], *, as_json: bool) -> None:
    if not names:
        raise leave(Exit.USAGE, "say of which values: spark-fast get RUN NAME --history")
    found = {name: run.history(name) for name in names}
    if as_json:
        print(to_json({name: vars(history) for name, history in found.items()}))
        return
    print("name\tstep\ttime\tlast\tlow\thigh\tmean")
    for name, history in found.items():
        for row in zip(*vars(history).values(), strict=True):
            print(printable(name), *row, sep="\t")


# --- set ---


def set_values(run: str | None, words: Sequence[str], patience: Patience, *, as_json: bool) -> None:
    """Set values of a run at one step, all or none, and print the outcome."""
    if run is not None and "=" in run:
        words = [run, *words]
        run = None
    pairs = [word.partition("=") for word in words]
    if not pairs or not all(name and equals for name, equals, _ in pairs):
        raise leave(Exit.USAGE, "say what to set: spark-fast set [RUN] lr=0.1")
    found = client.attach(run)
    if patience.wait:  # the type of a value says how its text is read
        await_exposed(found._board, [name for name, _, _ in pairs], "value", patience.deadline)
    values = found.values
    parsed = {name: _parsed(text, values[name].type if name in values else "json") for name, _, text in pairs}
    said = ", ".join(f"{printable(name)} = {_plain(given)}" for name, given in parsed.items())
    requests.ask(found, lambda: _set(found, parsed, patience), patience, as_json=as_json, what=said)


def _set(run: Run, values: Mapping[str, object], patience: Patience) -> Request:
    return next(iter(run.set(values, wait=False, timeout=patience.left()).values()))


def _parsed(text: str, kind: str) -> object:
    if kind == "text":
        return text
    word = {"true": "true", "false": "false", "none": "null"}.get(text.lower(), text)
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        pass
    number = _number(text) if kind in ("number", "integer") else None
    return text if number is None else number  # where the value is no text, the run refuses this one and says why


def _number(text: str) -> int | float | None:
    """Return a number that Python can read, and JSON may not: .3, 1., +5, 1_000, inf. None if it is none."""
    for parse in (int, float):
        try:
            return parse(text)
        except ValueError:
            continue
    return None


# --- call ---


def call(
    run: str | None, words: Sequence[str], patience: Patience, *, ranks: int | Literal["all"] | None, as_json: bool
) -> None:
    """Call a function of a run, and print its result; that of all ranks as an object by rank."""
    rest = [*([run] if run is not None else []), *words]
    arguments = rest.pop() if len(rest) > 1 and rest[-1][:1] in ("{", "[") else "{}"
    if not 1 <= len(rest) <= 2:
        raise leave(Exit.USAGE, """say what to call: spark-fast call [RUN] evaluate '{"split": "test"}'""")
    name = rest.pop()
    try:
        given = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise leave(Exit.USAGE, f"the arguments are no JSON: {error}") from None
    args, kwargs = (given, {}) if isinstance(given, list) else ([], given)
    found = _attach_for_call(rest[0] if rest else None, name)
    if patience.wait:
        await_exposed(found._board, [name], "function", patience.deadline)
    request = found.request_call(name, args, kwargs, wait=False, timeout=patience.left(), ranks=ranks)
    if as_json or not patience.wait:
        requests.ask(found, lambda: request, patience, as_json=as_json)
        return
    _print_result(found, request, patience)


def _attach_for_call(run: str | None, word: str) -> Run:
    """Return the named run. Raise typer.Exit if it is a function's name, and `word` its argument."""
    try:
        return client.attach(run)
    except NoSuchRunError as error:
        live = client.runs(ended=False)
        if isinstance(error, AmbiguousRunError) or len(live) != 1 or run not in live[0].functions:
            raise
    usage = """an object, '{"split": "test"}', or an array, '["test"]'"""
    raise leave(Exit.USAGE, f"the arguments of {printable(run or '')} are {usage}, not {printable(word)}")


def _print_result(run: Run, request: Request, patience: Patience) -> None:
    try:
        fate = request._wait(patience.deadline)
    except SparkTimeoutError as error:
        raise leave(Exit.TIMED_OUT, f"{error}{requests.because(run, 'overdue')}") from None
    except KeyboardInterrupt:
        raise leave(Exit.INTERRUPTED, f"no longer waiting; the call of run {run.id} stands: {request.fate}") from None
    for line in request.output.splitlines():
        print(printable(line.expandtabs()), file=sys.stderr)
    if fate.state is FateState.APPLIED:
        print(to_json(request.result, ascii_only=False))
        return
    reason, _, more = fate.reason.partition("\n")
    status = Exit.LOST if fate.state is FateState.LOST else Exit.REFUSED
    raise leave(status, f"the call was {fate.state}: {reason}" if fate.state is not FateState.FAILED else reason, more)


# --- watch ---


def watch(run: str | None, names: Sequence[str], *, as_json: bool) -> None:
    """Print the values of a run, and each change, until the run ends or the user presses Ctrl-C."""
    found, word = _attach(run)
    wanted = [word, *names] if word is not None else list(names)
    _refuse_unknown(found, wanted)
    try:
        for change in found.watch(interval=0.1):
            if wanted and change.name not in wanted:
                continue
            if as_json:
                print(to_json(vars(change)), flush=True)
            else:
                clock = time.strftime("%H:%M:%S", time.localtime(change.time)) if change.time else "--:--:--"
                print(f"{clock}  step {change.step}  {printable(change.name)} = {_plain(change.value)}", flush=True)
    except KeyboardInterrupt:
        raise leave(Exit.INTERRUPTED, f"run {found.id} is {found.status}") from None
    say(f"run {found.id} is {found.status} at step {found.step}")
