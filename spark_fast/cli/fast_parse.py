"""The command line of `run`, read without typer.

Typer takes a tenth of a second to load, more with the packages that it then finds, and the memory of all that would be
held for as long as the training runs. It still has the say on how `run` is called: whatever is not plainly right, or
asks for help, is left to it.
"""

from spark_fast.cli.supervisor import Order, order

__all__ = ["read"]

_WITH_VALUE = ("--name", "--reload-dir", "--journal", "--replay", "--on-error")


def read(words: list[str]) -> Order | None:
    """What `spark-fast WORDS` is to run; None if it is for typer to say."""
    if words[:1] != ["run"]:
        return None
    rest = words[1:]
    values: dict[str, list[str]] = {option: [] for option in _WITH_VALUE}
    flags = set()
    while rest and rest[0].startswith("-"):
        option, equals, value = rest.pop(0).partition("=")
        if option in ("-m", "--watch", "--ui") and not equals:
            flags.add(option)
        elif option not in _WITH_VALUE:
            return None
        elif equals:
            values[option].append(value)
        elif rest:
            values[option].append(rest.pop(0))
        else:
            return None
    if not rest:
        return None
    if any(value not in ("park", "exit") for value in values["--on-error"]):
        return None
    last = {option: found[-1] if found else None for option, found in values.items()}
    return order(
        rest[0],
        rest[1:],
        module="-m" in flags,
        watch="--watch" in flags,
        name=last["--name"],
        reload_dirs=values["--reload-dir"],
        journal=last["--journal"],
        replay=last["--replay"],
        page="--ui" in flags,
        on_error=last["--on-error"],
    )
