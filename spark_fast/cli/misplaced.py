"""Options of `spark-fast run` that stand after the script, where they belong to the script."""

import os
import shlex

from spark_fast.cli.exits import say
from spark_fast.cli.supervisor import Order
from spark_fast.runfiles.names import OFF

__all__ = ["say_misplaced"]

_OPTIONS = {
    "--watch": "",
    "--ui": "",
    "--name": " NAME",
    "--reload-dir": " DIR",
    "--journal": " PATH",
    "--replay": " FILE",
    "--journal-limit": " SIZE",
    "--stop-deadline": " DURATION",
}
"""The options of `run`, and what follows them."""


def say_misplaced(order: Order) -> None:
    """Say which argument of the script is called as an option of `run` is: it may have been meant for `run`.

    It goes to the script all the same, which may have an option of this name. What stands after `--` is surely meant
    for the script, and with SPARK_FAST_QUIET=1 nothing is said.
    """
    own = list(order.arguments)
    if "--" in own:
        del own[own.index("--") :]
    option = next((name for word in own if (name := word.partition("=")[0]) in _OPTIONS), None)
    if option is None or os.environ.get("SPARK_FAST_QUIET", "").lower() not in ("", *OFF):
        return
    script = shlex.quote(order.target)
    remedy = f"spark-fast run {option}{_OPTIONS[option]} {'-m ' if order.module else ''}{script} …"
    say(f"{option} stands after {script}, so it is an argument of {script}; if it is meant for the run: {remedy}")
