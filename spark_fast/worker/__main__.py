"""The worker's process: its supervisor starts it as `python -m spark_fast.worker run [-m] script.py args…`.

The supervisor passes its other options in one environment variable. It is removed before the script could see it or
pass it on. Without the variable the script runs, too, but without a supervisor.
"""

import json
import os
import signal
import sys

from spark_fast.worker.runner import script
from spark_fast.worker.runner.options import RunnerOptions

TOLD = "SPARK_FAST_RUNNER"


def main() -> int:
    """Run the script; return the exit status."""
    told = json.loads(os.environ.pop(TOLD, "{}"))
    # Signals are blocked until here, so that none is lost while the interpreter starts.
    if "mask" in told:
        signal.pthread_sigmask(signal.SIG_SETMASK, told["mask"])
    command, *words = sys.argv[1:] or [""]
    module = words[:1] == ["-m"]
    if module:
        del words[0]
    if command != "run" or not words:
        print("usage: python -m spark_fast.worker run [-m] SCRIPT|MODULE [ARGS]…", file=sys.stderr)
        return script.USAGE
    options = RunnerOptions(
        name=told.get("name"),
        reload_dirs=tuple(told.get("reload_dirs", ())),
        journal=told.get("journal"),
        replay=told.get("replay"),
        supervisor=told.get("supervisor"),
        safe_path=told.get("safe_path"),
        watched=told.get("watched", False),
        announce=told.get("announce"),
        journal_limit=told.get("journal_limit"),
        stop_deadline=told.get("stop_deadline"),
        on_error=told.get("on_error"),
        error_timeout=told.get("error_timeout"),
    )
    start = script.run_module if module else script.run_script
    return start(words[0], words[1:], options=options)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:  # before there was a script to interrupt
        sys.exit(script.INTERRUPTED)
