"""Requests to the other hosts of the job, and their answers."""

from typing import TYPE_CHECKING

from spark_fast import stderr
from spark_fast.errors import SparkError
from spark_fast.runfiles import run_folder
from spark_fast.worker import session

if TYPE_CHECKING:
    from spark_fast.hosts.messages import Fate

__all__ = ["ask_hosts", "is_decided", "meet_hosts", "refusal", "ring_hosts"]

# The functions import `spark_fast.hosts`, since only a job of several hosts needs it.


def meet_hosts() -> None:
    """Connect this host with the others of the job, if there are any. Only the first rank of each host does this."""
    place, folder = session.current.place, session.current.folder
    if not session.has_remote_peers() or not session.first_here() or place is None or folder is None:
        return
    from spark_fast import hosts

    try:
        unused = hosts.start(folder, place)
    except Exception as error:  # may be an exception type of the store, which is Ray's, say
        stderr.warn(f"this host can't be controlled with the others of its job: {error}")
        return
    if unused:
        stderr.warn(f"the hosts of this job have no secret, since {unused}")


def ask_hosts(kind: int, *, sender: str, duration: float = 0.0, only_if: str = "") -> tuple[int, str | None]:
    """Send a request to all hosts of the job, without waiting for any of them.

    Returns the request's id, and the reason if the request was refused at once, else None. Raises OSError, SparkError.
    """
    from spark_fast import hosts

    ident = run_folder.new_id()
    folder = session.current.folder
    if folder is None:
        return ident, "nothing controls this process"
    return ident, hosts.ask(folder, kind, ident, sender=sender, duration=duration, only_if=only_if)


def refusal(ident: int) -> str | None:
    """Return why the hosts did not apply a request; None if they did or may still do so."""
    fate = _fate(ident)
    # "same": another stop was asked for first, and stands for this one.
    if fate is None or fate.state in ("asked", "applied", "superseded", "same"):
        return None
    if fate.state == "lost" and session.is_in_the_log(ident):
        return None  # only the answer is lost
    return fate.reason or fate.state


def is_decided(ident: int) -> bool:
    """Return whether the log has a stop that all hosts were asked for, or the earlier one that stands for it."""
    if session.is_in_the_log(ident):
        return True
    fate = _fate(ident)
    try:
        return fate is not None and fate.state == "same" and session.is_in_the_log(int(fate.by, 16))
    except ValueError:  # the other host names no request
        return False


def _fate(ident: int) -> "Fate | None":
    """Return the hosts' answer to a request; None if there is none yet, or if it can't be read."""
    from spark_fast import hosts

    folder = session.current.folder
    try:
        return hosts.fate(folder, ident) if folder is not None else None
    except (OSError, SparkError):  # no descriptor is left, say: the caller checks again
        return None


def ring_hosts() -> None:
    """Start this host's relay again if it died, in a job of several hosts."""
    folder = session.current.folder
    if not session.has_remote_peers() or folder is None:
        return
    from spark_fast import hosts

    try:
        hosts.ring(folder)
    except Exception as error:
        stderr.warn(f"what the other hosts say can't be heard: {error}")
