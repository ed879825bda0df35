"""The exception that ended a run, or after which it is paused.

    <run folder>/errors/<slot>.json      one for each rank of this host that has such an exception

The rank writes the file before it parks or ends, and removes it when its code runs again.
"""

import json
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from spark_fast.errors import FolderRefusedError, StoreError
from spark_fast.runfiles import private_files

__all__ = ["FOLDER", "RunError", "clear", "describe", "read", "remedies", "write"]

FOLDER = "errors"
"""The folder of these files, in the run folder."""
_TEXT_MAX = 64 << 10
"""The longest traceback that is kept whole, in characters; of a longer one, half from each end."""
_FILE_MAX = 1 << 20


def remedies(run: str) -> list[str]:
    """Return the commands for a run that is paused after an error, each on a line with what it does."""
    commands = {
        f"spark-fast reload {run}": "runs the mended code (--watch: saving does); --to N goes back to version N",
        f"spark-fast call {run} NAME": "calls an exposed function, to save the model",
        f"spark-fast resume {run}": "runs the same code again, from where its loops with a key are",
        f"spark-fast stop {run}": "runs the on_stop functions, then ends the process with the error",
    }
    width = max(map(len, commands))
    return [f"  {command:{width}}  {effect}" for command, effect in commands.items()]


@dataclass(frozen=True)
class RunError:
    """An exception that ended a run, or after which it is paused.

    Attributes:
        type: the name of its class.
        message: its class and the first line of its message, as in `NameError: name 'loss' is not defined`.
        traceback: the whole traceback, as Python prints it.
        step: the checkpoints that the rank had passed.
        rank: the number of the rank in its job.
        time: when, in seconds since the epoch.
        can_resume: whether the run is paused and its code can run again without starting the training over.
    """

    type: str
    message: str
    traceback: str
    step: int
    rank: int
    time: float
    can_resume: bool = False


def describe(error: BaseException, printed: str, *, step: int, rank: int, time: float, can_resume: bool) -> RunError:
    """Return the record of an exception. printed: its traceback."""
    try:
        lines = "".join(traceback.format_exception_only(error)).strip().splitlines()
    except Exception:  # the exception's own __str__ raised
        lines = []
    kind = type(error)
    # A syntax error has its file and line above this line. Notes and the rest of a long message stand below it.
    names = (kind.__qualname__, f"{kind.__module__}.{kind.__qualname__}")
    message = next((line for line in lines if line.startswith(names)), lines[-1] if lines else kind.__name__)
    if len(printed) > _TEXT_MAX:
        half = _TEXT_MAX // 2
        printed = f"{printed[:half]}\n… {len(printed) - 2 * half} characters are left out …\n{printed[-half:]}"
    return RunError(kind.__name__, message[:_TEXT_MAX], printed, step, rank, time, can_resume)


def write(folder: Path, slot: int, error: RunError) -> None:
    """Write the error of one rank. Raises OSError, FolderRefusedError."""
    raw = json.dumps(asdict(error)).encode()
    with private_files.opened(folder, FOLDER, create=True) as errors:
        private_files.write_whole(errors, f"{slot}.json", raw)


def clear(folder: Path, slot: int) -> None:
    """Remove the error of one rank, if there is one. Raises OSError, FolderRefusedError."""
    with suppress(FileNotFoundError), private_files.opened(folder, FOLDER) as errors:
        os.unlink(f"{slot}.json", dir_fd=errors)


def read(folder: Path) -> list[RunError]:
    """Return the errors of this host's ranks, the oldest first. A file that can't be used is left out."""
    try:
        return sorted(_each(folder), key=lambda error: (error.time, error.rank))
    except (OSError, FolderRefusedError):
        return []


def _each(folder: Path) -> Iterator[RunError]:
    with private_files.opened(folder, FOLDER) as errors:
        for name in os.listdir(errors):
            if re.fullmatch(r"[0-9]{1,9}\.json", name):
                with suppress(FileNotFoundError, StoreError, ValueError, TypeError, RecursionError):
                    yield _checked(json.loads(private_files.read_whole(errors, name, _FILE_MAX, folder / FOLDER)))


def _checked(found: object) -> RunError:
    """Return the record in parsed JSON. Raises TypeError if it is none."""
    if not isinstance(found, dict):
        raise TypeError("not an object")
    error = RunError(**found)
    texts = (error.type, error.message, error.traceback)
    numbers = (error.step, error.rank)
    if not all(isinstance(text, str) for text in texts) or not all(type(number) is int for number in numbers):
        raise TypeError("a field of another type")
    if type(error.can_resume) is not bool:
        raise TypeError("can_resume is no boolean")
    if not isinstance(error.time, (int, float)):
        raise TypeError("a time that is no number")
    return error
