"""What the protocol of a relay needs: calls that its driver carries out, the host that it serves, and times."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from spark_fast.hosts.messages import Appended, Ask, Done, Entry, Fate, Note, Peer

__all__ = ["Call", "Local", "Steps", "Times", "call"]

_Result = TypeVar("_Result")


class Call(NamedTuple):
    """A call that the driver makes, `function(*arguments)`, and whose result it sends back."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


Steps = Generator[Call, Any, _Result]
"""A generator that yields calls and is sent their results. StoreGoneError may be thrown in at any call."""


def call(function: Callable[..., _Result], *arguments: Any) -> Steps[_Result]:
    """Make one call. Use it with `yield from`, so that its result has a type."""
    result: _Result = yield Call(function, arguments)
    return result


@dataclass(frozen=True)
class Times:
    """All in seconds.

    Attributes:
        bound: how long the hosts have to answer, before a request is void.
        beat: time between two states that a host publishes while no controller looks at the job.
        watched: the same while one does.
        gone: silence after which a host is left out.
    """

    bound: float = 5.0
    beat: float = 5.0
    watched: float = 1.0
    gone: float = 20.0

    @property
    def takeover(self) -> float:
        """Seconds without a decision after which any host voids the request."""
        return 1.5 * self.bound

    @property
    def patience(self) -> float:
        """Seconds that a rank waits for a decision: none comes later, unless a link is broken."""
        return 2 * self.bound


class Local(Protocol):
    """The host: its log, its senders' requests, its ranks. Calls take microseconds."""

    def load(self) -> Note:
        """Return the note that the relay before has saved."""

    def save(self, note: Note) -> None:
        """Save the note."""

    def asks(self) -> list[Ask]:
        """Return the open requests of this host's senders, oldest first."""

    def mark(self, ident: str, number: int | None) -> None:
        """Save that the request may stand in the job's log, and its number if that is known."""

    def tell(self, ident: str, fate: Fate) -> None:
        """Write the fate for the sender, and remove the request. Do nothing if that was done before."""

    def find(self, ident: str) -> Appended | None:
        """Return the request's entry in the host's log; None if it was not appended."""

    def append(self, entry: Entry) -> Appended:
        """Append a request, as one whose target the hosts decide."""

    def commit(self, seq: int, target: int) -> int:
        """Hand the target, or VOID, to the ranks. Return the target of the entry: VOID if they have given up."""

    def votes(self, seq: int, ident: str) -> list[tuple[int, int]] | None:
        """Return, for each phase of a reload, the vote of this host's ranks and the verdict of all: VOTE_YES, VOTE_NO,
        or 0 while it is open. Return None if the entry is no reload."""

    def commit_vote(self, seq: int, phase: int, verdict: int) -> int:
        """Hand the verdict to the ranks. Return the verdict of the entry: another one if they have given up."""

    def outcome(self, seq: int, ident: str) -> Done | None:
        """Return the outcome of an entry with a target; None while it is open."""

    def ranks(self) -> list[dict[str, Any]]:
        """Return the states of the host's ranks."""

    def alive(self) -> bool:
        """Return whether a rank of this host lives."""

    def watched(self) -> bool:
        """Return whether a controller on this host looks at the whole job."""

    def show(self, peers: Sequence[Peer], missing: str) -> None:
        """Write what is known of the other hosts for controllers.

        missing: the ranks that have not been heard of, as text for people.
        """

    def now(self) -> float:
        """Return the seconds of a monotonic clock."""
