"""A hint for options of `spark-fast run` that stand after the script, and so belong to the script."""

import os
import shlex

from spark_fast.cli.exits import say
from spark_fast.cli.run_options import OPTIONS, Order
from spark_fast.runfiles.names import OFF

__all__ = ["say_misplaced"]

_LONG = {option.flag: option for option in OPTIONS.values() if option.flag.startswith("--")}
"""The options whose place the hint checks: all but -m, which many scripts have."""


def say_misplaced(order: Order) -> None:
    """Tell the user of an argument of the script that is called as an option of `run`: it may be meant for `run`.

    The script gets it all the same, since it may have an option of this name. What stands after `--` is meant for the
    script. SPARK_FAST_QUIET=1 turns the message off.
    """
    own = list(order.arguments)
    if "--" in own:
        del own[own.index("--") :]
    option = next((name for word in own if (name := word.partition("=")[0]) in _LONG), None)
    if option is None or os.environ.get("SPARK_FAST_QUIET", "").lower() not in ("", *OFF):
        return
    script = shlex.quote(order.target)
    value = f" {_LONG[option].metavar}" if _LONG[option].metavar else ""
    remedy = f"spark-fast run {option}{value} {'-m ' if order.module else ''}{script} …"
    say(f"{option} stands after {script}, so it is an argument of {script}; if it is meant for the run: {remedy}")
