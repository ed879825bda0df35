"""The web page's server in a process of its own, which ends with this one, even if this one is killed."""

import subprocess
from typing import IO

from spark_fast.own_process import own_command

__all__ = ["Page"]

_PATIENCE = 5.0


class Page:
    """The server. It prints its address, and ends when close() or the end of this process closes its standard input.

    output: where it prints.
    """

    def __init__(self, output: IO[str] | None = None) -> None:
        command = own_command("ui", "--beside")
        # A session of its own: Ctrl-C is for the training, and the page shows how that ends.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, start_new_session=True)

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
