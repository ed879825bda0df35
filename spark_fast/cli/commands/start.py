"""Commands that start a training: `run` and `demo`."""

from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from spark_fast.cli.run_options import OPTIONS, Order, RunOption

__all__ = ["demo", "run"]


def run(**given: Any) -> None:
    """Run a script or a module under control.

    The first Ctrl-C or SIGTERM asks it to stop at its next checkpoint, the second interrupts it at once.
    """
    from spark_fast.cli.misplaced import say_misplaced
    from spark_fast.cli.supervisor import supervise

    target, arguments = given.pop("target"), given.pop("arguments") or []
    order = Order(target, arguments, **{name: _parsed(OPTIONS[name], value) for name, value in given.items()})
    say_misplaced(order)
    raise typer.Exit(supervise(order))


def _parsed(option: RunOption, given: Any) -> Any:
    try:
        if option.repeated:
            return tuple(map(option.parse, given or ()))
        return option.parse(given) if option.metavar and given is not None else given
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option.flag) from None


def _signature() -> Signature:
    """Return the signature from which typer makes the parser and the help of `run`."""
    target = typer.Argument(metavar="SCRIPT|MODULE", help="What to run.", show_default=False)
    rest = typer.Argument(None, metavar="ARGS", help="Its arguments: all that follows.")
    parameters = [
        Parameter("target", Parameter.KEYWORD_ONLY, annotation=str, default=target),
        Parameter("arguments", Parameter.KEYWORD_ONLY, annotation=list[str] | None, default=rest),
    ]
    for name, option in OPTIONS.items():
        kind = list[str] | None if option.repeated else str | None if option.metavar else bool
        default = None if option.metavar else False
        typed = typer.Option(default, option.flag, metavar=option.metavar or None, help=option.help)
        parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind, default=typed))
    return Signature(parameters)


run.__signature__ = _signature()  # type: ignore[attr-defined]


def demo(
    hold: Annotated[
        bool, typer.Option("--hold", help="Only start the training: you steer it, from another terminal.")
    ] = False,
    ui: Annotated[bool, typer.Option("--ui", help="With --hold: steer it in a browser, too.")] = False,
) -> None:
    """Train a small network, and pause, advance, resume and stop it from a second process."""
    from spark_fast.cli import demo as story

    if ui and not hold:
        raise typer.BadParameter("it is for --hold", param_hint="--ui")
    raise typer.Exit(int(story.hold(page=ui) if hold else story.tell()))
