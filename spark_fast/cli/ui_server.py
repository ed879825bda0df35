"""The web page's server beside something else: a process of its own that ends with this one, however that ends."""

import subprocess
from typing import IO

from spark_fast.own_process import own_command

__all__ = ["Page"]

_PATIENCE = 5.0


class Page:
    """The server. It prints its address, and ends when the pipe to it is closed: by close(), or by our death.

    output: where it prints.
    """

    def __init__(self, output: IO[str] | None = None) -> None:
        command = own_command("ui", "--beside")
        # A session of its own: Ctrl-C is for the training, of which the page is to show the end.
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, start_new_session=True)

    def close(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
