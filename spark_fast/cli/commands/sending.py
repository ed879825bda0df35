"""What the commands that send a request have in common."""

from typing import TYPE_CHECKING

from spark_fast.cli.commands.parameters import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from spark_fast.cli.requests import Patience
    from spark_fast.client import Request, Run

__all__ = ["patience_of", "send"]


def patience_of(wait: bool, timeout: str | None) -> "Patience":
    """Return how long a command waits, by its options `--wait` and `--timeout`. The time runs from now on."""
    from spark_fast.cli.requests import Patience
    from spark_fast.status import monotonic

    return Patience(wait, seconds(timeout, "--timeout"), monotonic())


def send(
    run: str | None,
    make: "Callable[[Run, Patience], Request]",
    *,
    wait: bool,
    timeout: str | None,
    as_json: bool,
    grace: float | None = None,
) -> None:
    """Attach to a run, make a request of it, and print its outcome.

    make: sends the request, without waiting for its outcome.
    grace: see requests.ask().

    Raises typer.Exit, unless the request was applied.
    """
    from spark_fast import client
    from spark_fast.cli.requests import ask

    patience = patience_of(wait, timeout)
    found = client.attach(run)
    ask(found, lambda: make(found, patience), patience, as_json=as_json, grace=grace)
