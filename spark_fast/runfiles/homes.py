"""The folders of runs: that of `$SPARK_FAST_HOME`, or one of two that worker and client try in the same order.

Without the variable, the first place is `/tmp/spark-fast-<uid>`. It is not the user's runtime directory or shared
memory, which are emptied at logout. It is not $TMPDIR, which batch systems set for each job, because the user's shell
would then look elsewhere than the job. Any user can make a folder of this name first. Then the worker makes runs in the
second place, `~/.local/state/spark-fast`. A client reads both places.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from spark_fast.errors import FolderRefusedError
from spark_fast.runfiles.descriptors import is_short
from spark_fast.runfiles.safe_paths import open_private, own_state_folder

__all__ = ["Home", "opened_homes", "places", "refused_places"]


@dataclass(frozen=True)
class Home:
    """An open folder of runs.

    Attributes:
        path: its path.
        fd: a descriptor of it.
        refused: why the places before it in the list can't be used.
    """

    path: Path
    fd: int
    refused: tuple[Exception, ...] = ()


def places() -> list[Path]:
    """Return the folders that may hold this user's runs, the first choice first. They need not exist."""
    chosen = os.environ.get("SPARK_FAST_HOME")
    if chosen and not os.path.isabs(chosen):  # it was set after the package was imported
        chosen = os.environ["SPARK_FAST_HOME"] = os.path.abspath(chosen)
    if chosen:
        return [Path(chosen)]
    second = own_state_folder()
    first = Path("/tmp") / f"spark-fast-{os.geteuid()}"
    return [first] if second is None else [first, second]


@contextmanager
def opened_homes(*, create: bool = False) -> Iterator[list[Home]]:
    """Open all places that can be trusted.

    create: whether to make the first place that can be used, if it is not there.

    Yields those that exist, the first choice first; with `create` at least one. Raises FolderRefusedError, which says
    what to do, or OSError if no place can be used: the error of the first.
    """
    with ExitStack() as stack:
        found: list[Home] = []
        refused: list[Exception] = []
        for number, place in enumerate(places()):
            try:
                fd = open_private(place, make=create and not found, make_parents=create and not found and number > 0)
            except FileNotFoundError as error:
                if create and not found:
                    refused.append(error)
            except (FolderRefusedError, OSError) as error:
                if is_short(error):
                    raise  # it says nothing of the place
                refused.append(error)
            else:
                stack.callback(os.close, fd)
                found.append(Home(place, fd, tuple(refused)))
        if len(refused) == number + 1:
            raise refused[0]
        yield found


def refused_places() -> list[Exception]:
    """Return why the places before that of a new run can't be used; empty if it would be in the first.

    Raises OSError for want of descriptors or memory.
    """
    found: list[Exception] = []
    for place in places():
        try:
            os.close(open_private(place))
            break
        except FileNotFoundError:  # it can be made
            break
        except (FolderRefusedError, OSError) as error:
            if is_short(error):
                raise
            found.append(error)
    return found
