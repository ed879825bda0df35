"""What the protocol of a relay needs: calls that its driver carries out, the host that it serves, and times."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from spark_fast.hosts.messages import Appended, Ask, Done, Entry, Fate, Note, Peer

__all__ = ["Call", "Local", "Steps", "Times", "call"]

_Result = TypeVar("_Result")


class Call(NamedTuple):
    """One thing that is done outside: `function(*arguments)`, the result of which is sent back."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


Steps = Generator[Call, Any, _Result]
"""Calls one after the other, and what comes of them. StoreGoneError may be thrown in at any of them."""


def call(function: Callable[..., _Result], *arguments: Any) -> Steps[_Result]:
    """One call. For `yield from`, so that what it returns has a type."""
    result: _Result = yield Call(function, arguments)
    return result


@dataclass(frozen=True)
class Times:
    """All in seconds.

    Attributes:
        bound: how long the hosts have to answer, before a request is void.
        beat: between two words of a host that nobody watches.
        watched: the same while somebody does.
        gone: silence after which a host is left out.
    """

    bound: float = 5.0
    beat: float = 5.0
    watched: float = 1.0
    gone: float = 20.0

    @property
    def takeover(self) -> float:
        """After so long without a decision any host voids the request."""
        return 1.5 * self.bound

    @property
    def patience(self) -> float:
        """So long a rank waits for a decision: none comes later than that, but by a broken link."""
        return 2 * self.bound


class Local(Protocol):
    """The host: its log, what its senders have left, its ranks. Calls take microseconds."""

    def load(self) -> Note:
        """What the relay before has noted."""

    def save(self, note: Note) -> None:
        """Keeps it."""

    def asks(self) -> list[Ask]:
        """What senders have left, oldest first, and no fate was written for."""

    def mark(self, ident: str, number: int | None) -> None:
        """Keeps that the request may stand in the job's log, and where."""

    def tell(self, ident: str, fate: Fate) -> None:
        """Leaves the fate for the sender, and forgets what it had left. Nothing if that was done before."""

    def find(self, ident: str) -> Appended | None:
        """Where a request stands in the host's log; None if it was not appended."""

    def append(self, entry: Entry) -> Appended:
        """Appends it, as one of which the target comes from elsewhere."""

    def commit(self, seq: int, target: int) -> int:
        """Hands the target, or VOID, to the ranks. The one that the entry has: VOID if they have given up."""

    def votes(self, seq: int, ident: str) -> list[tuple[int, int]] | None:
        """Of an entry that is a reload: for each phase what this host's ranks say, and what all do, VOTE_YES or
        VOTE_NO, or 0 while it is open. None of any other."""

    def commit_vote(self, seq: int, phase: int, verdict: int) -> int:
        """Hands the verdict to the ranks. The one that the entry has: another if they have given up."""

    def outcome(self, seq: int, ident: str) -> Done | None:
        """What became of an entry with a target; None as long as that is open."""

    def ranks(self) -> list[dict[str, Any]]:
        """What the host's ranks are doing."""

    def alive(self) -> bool:
        """Whether one of them lives."""

    def watched(self) -> bool:
        """Whether somebody on this host looks at the whole job."""

    def show(self, peers: Sequence[Peer], missing: str) -> None:
        """Lays out what is known of the others. missing: which ranks nobody has heard of, for people."""

    def now(self) -> float:
        """Seconds, of a clock that does not jump."""
