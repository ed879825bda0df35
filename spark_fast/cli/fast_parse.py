"""The command line of `run`, read without typer.

Typer takes a tenth of a second to load, more with the packages that it then finds, and its memory would be held for as
long as the training runs. Typer still decides how `run` is called: this parser leaves to it each command line that is
wrong, or that asks for help.
"""

from typing import Any

from spark_fast.cli.run_options import OPTIONS, Order

__all__ = ["read"]

_FIELDS = {option.flag: name for name, option in OPTIONS.items()}


def read(words: list[str]) -> Order | None:
    """Return what `spark-fast WORDS` is to run; None if typer has to read it."""
    if words[:1] != ["run"]:
        return None
    rest = words[1:]
    values: dict[str, Any] = {}
    while rest and rest[0].startswith("-"):
        flag, equals, text = rest.pop(0).partition("=")
        if flag not in _FIELDS:
            return None
        name = _FIELDS[flag]
        option = OPTIONS[name]
        if not option.metavar:
            if equals:
                return None
            values[name] = True
            continue
        if not equals:
            if not rest:
                return None
            text = rest.pop(0)
        try:
            value = option.parse(text)
        except ValueError:
            return None
        values[name] = (*values.get(name, ()), value) if option.repeated else value
    return Order(rest[0], rest[1:], **values) if rest else None
