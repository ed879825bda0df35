"""Requests to a run of a job of several hosts: they go to this host's relay. See spark_fast/hosts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from spark_fast import hosts
from spark_fast.errors import CodeRefusedError
from spark_fast.hosts import code
from spark_fast.hosts.peers import read_peers
from spark_fast.request import Fate, FateState, Kind, failure_of, is_restart, version_of
from spark_fast.runfiles import mailbox
from spark_fast.runfiles.versions import Store
from spark_fast.status import ENDED, Rank, SparkStatus

__all__ = ["ask", "fate", "have_ended", "peers", "wait", "why_not_here"]

_STATES = {
    "applied": FateState.APPLIED,
    "nothing": FateState.APPLIED,
    "same": FateState.APPLIED,
    "superseded": FateState.SUPERSEDED,
    "refused": FateState.REFUSED,
    "failed": FateState.FAILED,
}


def ask(
    folder: Path,
    kind: Kind,
    ident: int,
    sender: str,
    *,
    arg: int,
    duration: float,
    mail: str,
    ranks: "int | Literal['all']",
) -> Fate | None:
    """Leave the request for the relay; return its fate if it is known at once.

    Raises OSError, StoreError, FolderRefusedError.
    """
    letter = None
    if (version := version_of(mail)) is not None:
        store = Store(folder)
        try:
            letter = code.packed(store, store.version(version)) | {"restart": is_restart(mail)}
        except CodeRefusedError as error:
            return Fate(FateState.REFUSED, reason=error.reason)
    elif mail == mailbox.mail_name(ident):
        letter, mail = mailbox.read_mail(folder, mail), ""
    number = 0 if ranks == "all" else ranks + 1
    hosts.ask(folder, kind, ident, arg=arg, duration=duration, sender=sender, ranks=number, mail=mail, letter=letter)
    return None


def fate(folder: Path, ident: int, step: int) -> Fate:
    """Return the fate of a request on all hosts. step: the step of the run."""
    found = hosts.fate(folder, ident)
    if found is None:
        return Fate(FateState.ASKED)
    state = _STATES.get(found.state, FateState.LOST)
    if state is FateState.FAILED:
        said = failure_of(folder, ident, found.step or step)
        return said if said.reason else Fate(state, step=found.step, reason=found.reason)
    if found.state == "nothing":
        return Fate(state, step=step, reason="nothing to do: it was not paused")
    if found.state == "same":
        return Fate(state, step=step, reason="it was asked for already")
    return Fate(state, step=found.step, by=found.by or None, reason=found.reason)


def wait(folder: Path, ident: int, timeout: float | None) -> None:
    """Wait until the fate of a request is known, or for so many seconds."""
    hosts.wait(folder, ident, timeout)


def peers(folder: Path) -> list[Rank]:
    """Return the ranks of the other hosts."""
    return [
        Rank(rank["rank"], rank["status"], rank["step"], rank["pid"], rank["host"], since=rank["since"], told=True)
        for rank in read_peers(folder)
    ]


def have_ended(others: Sequence[Rank], count: int) -> bool:
    """Return whether all ranks of the other hosts are known to have ended. count: how many ranks these hosts have."""
    return sum(rank.status in ENDED for rank in others) >= count


def why_not_here(status: SparkStatus, others: Sequence[Rank], count: int) -> str:
    """Return why a host whose own ranks have all ended refuses a request.

    Args:
        status: the status of the run, as far as this host knows.
        others: the ranks of the other hosts, as far as they are known.
        count: how many ranks the other hosts have.
    """
    if have_ended(others, count):
        return f"the run has ended: it is {status}"
    hosts = sorted({rank.host for rank in others if rank.status.live})
    if hosts:
        return f"no rank of this host lives; ask on {', '.join(hosts[:3])}, where ranks of the job live"
    return "no rank of this host lives, and the job's other hosts are not heard; ask on one where ranks of the job live"
