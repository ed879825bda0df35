"""What relays tell each other, as JSON in the store, and what a relay leaves for its senders and for the next relay.

A value may be damaged, or put there by anybody who reaches the store. So each field is checked where it is parsed, and
one that makes no sense is treated as absent.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spark_fast.plain_text import replaced
from spark_fast.request import Kind
from spark_fast.status import SparkStatus

__all__ = [
    "PHASES",
    "STEP_MAX",
    "VOID",
    "VOTE_NO",
    "VOTE_YES",
    "Answer",
    "Appended",
    "Ask",
    "Decision",
    "Done",
    "Entry",
    "Fate",
    "GroupAnswer",
    "Member",
    "Note",
    "Peer",
    "as_object",
    "ranks_said",
    "whole",
]

VOID = (1 << 64) - 2
"""SF_TARGET_VOID of csrc/sf_layout.h."""
STEP_MAX = 1 << 62
"""SF_STEP_MAX of that file."""
RANKS_MAX = (1 << 32) - 1
"""The most that the log's field for ranks takes."""
PHASES = 3
"""SF_PHASE_END of that file."""
VOTE_YES, VOTE_NO = 1, 2
"""SF_VOTE_YES, SF_VOTE_NO of that file."""


_RANK_NUMBER = re.compile("0|[1-9][0-9]{0,8}")


def _packed(found: Any) -> bytes:
    said = {key: value for key, value in asdict(found).items() if value not in (None, "", [], ())}
    return json.dumps(said, separators=(",", ":")).encode()


def as_object(raw: bytes | None) -> dict[str, Any]:
    """Return the JSON object; an empty one if the text holds none."""
    try:
        found = json.loads(raw or b"null")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def whole(found: Any, most: int = STEP_MAX) -> int | None:
    """Return the number if it is a whole one from 0 to `most`; else None."""
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= most else None


def _text(found: Any, most: int = 4096) -> str:
    return found[:most] if isinstance(found, str) else ""


def _words(found: Any) -> str:
    """Return a text for people: characters that could steer a terminal are replaced."""
    return replaced(_text(found), keep="\n\t")


def _name(found: Any) -> str:
    """Return the text for log files: characters that could steer a terminal or have no encoding are replaced."""
    return replaced(_text(found, 256))


@dataclass(frozen=True)
class Member:
    """A host of the job.

    Attributes:
        node: an id drawn when the run's folder was made: a host that comes back has the same, a host that takes its
            place
            has another.
        name: for people.
        ranks: the ranks that run there.
        world_size: of the whole job.
        generation: how often an elastic launcher has started the job.
    """

    node: str
    name: str
    ranks: tuple[int, ...]
    world_size: int
    generation: int = 0

    @property
    def first(self) -> int:
        """The host's lowest rank, which identifies it in the store."""
        return self.ranks[0]

    def packed(self) -> bytes:
        return _packed(self)

    @classmethod
    def parsed(cls, raw: bytes | None) -> "Member | None":
        found = as_object(raw)
        size = whole(found.get("world_size"), 1 << 32)
        ranks = found.get("ranks")
        if not size or not isinstance(ranks, list) or not ranks:
            return None
        numbers = tuple(sorted({rank for rank in ranks if whole(rank, size - 1) is not None}))
        if len(numbers) != len(ranks):
            return None
        return cls(
            _text(found.get("node")), _name(found.get("name")), numbers, size, whole(found.get("generation")) or 0
        )


_RANK = ("rank", "status", "step", "pid")


def ranks_said(found: Any, member: Member) -> list[dict[str, Any]]:
    """Return what a host says of its ranks, without what makes no sense: clients show it unchecked."""
    said = []
    for each in found if isinstance(found, list) else ():
        rank = {key: each.get(key) for key in _RANK} if isinstance(each, dict) else {}
        numbers = [whole(rank.get(key)) for key in ("rank", "step", "pid")]
        known = rank.get("status") in list(SparkStatus)
        if None not in numbers and known and rank["rank"] in member.ranks:
            said.append(rank)
    return said


@dataclass(frozen=True)
class Entry:
    """A request, as it stands in the job's log.

    Attributes:
        id: 16 hexadecimal digits.
        kind, arg, duration, sender, ranks: as in an entry of a host's own log.
        mail: what the request carries, if that is short.
        letter: what the request carries otherwise; for a reload, the new code.
        only_if: the id of a pause: the request counts only while that pause is in force.
        home: the lowest rank of the asked host.
        group: how many ranks the hosts of a group have together: see `answers`; 0 if there are no groups.
    """

    id: str
    kind: int
    arg: int = 0
    duration: float = 0.0
    sender: str = ""
    ranks: int = 0
    mail: str = ""
    letter: dict[str, Any] | None = None
    only_if: str = ""
    home: int = 0
    group: int = 0

    def packed(self) -> bytes:
        return _packed(self)

    @classmethod
    def parsed(cls, raw: bytes | None) -> "Entry | None":
        """Return None if the entry makes no sense: then no host applies it."""
        return cls.found(as_object(raw))

    @classmethod
    def id_in(cls, raw: bytes) -> str:
        """Return the id of a request in the job's log; an empty text if the request makes no sense."""
        entry = cls.parsed(raw)
        return "" if entry is None else entry.id

    @classmethod
    def found(cls, found: Any) -> "Entry | None":
        """Parse an entry from a value that was read from JSON, as parsed() does."""
        if not isinstance(found, dict):
            return None
        ident, kind = _text(found.get("id")), whole(found.get("kind"), max(Kind))
        duration, letter = found.get("duration", 0.0), found.get("letter")
        most = {"arg": STEP_MAX, "ranks": RANKS_MAX, "home": STEP_MAX, "group": STEP_MAX}
        numbers = [whole(found.get(name, 0), limit) for name, limit in most.items()]
        fine = (
            _is_id(ident)
            and kind
            and None not in numbers
            and isinstance(duration, (int, float))
            and 0 <= duration < 4e9
            and (letter is None or isinstance(letter, dict))
        )
        if not fine:
            return None
        arg, ranks, home, group = (number or 0 for number in numbers)
        sender, mail, only_if = _name(found.get("sender")), _text(found.get("mail")), _text(found.get("only_if"))
        return cls(ident, kind or 0, arg, float(duration), sender, ranks, mail, letter, only_if, home, group)


def _is_id(text: str) -> bool:
    return len(text) == 16 and all(sign in "0123456789abcdef" for sign in text)


@dataclass(frozen=True)
class Answer:
    """What a host answers to a request.

    Attributes:
        low: the earliest step at which the host's ranks can act; None if they take no part.
        park: the step at which an earlier request parks the ranks; None if none does.
        why: if low is None: "nothing", there is nothing to do there; "stopping", "ended", or "failed".
        reason: of a failure, for people.
        same: the id of the earlier stop, if the request is a stop that was asked for already.
    """

    low: int | None = None
    park: int | None = None
    why: str = ""
    reason: str = ""
    same: str = ""

    def packed(self) -> bytes:
        return _packed(self)

    @classmethod
    def parsed(cls, raw: bytes) -> "Answer":
        return cls.found(as_object(raw))

    @classmethod
    def found(cls, found: Any) -> "Answer":
        """Parse an answer from a value that was read from JSON, as parsed() does."""
        found = found if isinstance(found, dict) else {}
        low = whole(found.get("low"))
        why = _text(found.get("why"))
        if low is None and why not in ("nothing", "stopping", "ended"):
            why = "failed"
        reason = _words(found.get("reason")) or ("" if why != "failed" else "what it says makes no sense")
        return cls(low, whole(found.get("park")), why, reason, _text(found.get("same")))


@dataclass(frozen=True)
class GroupAnswer:
    """What the hosts of a group answer to a request.

    Attributes:
        hosts: how many hosts have answered; 0 if that is not known.
        answers: those of their answers that count, by the lowest ranks of the hosts.
    """

    hosts: int
    answers: Mapping[int, Answer]

    def packed(self) -> bytes:
        answers = {str(first): json.loads(answer.packed()) for first, answer in self.answers.items()}
        return json.dumps({"hosts": self.hosts, "answers": answers}, separators=(",", ":")).encode()

    @classmethod
    def parsed(cls, raw: bytes | None) -> "GroupAnswer":
        found = as_object(raw)
        hosts, answers = whole(found.get("hosts")), found.get("answers")
        if not hosts or not isinstance(answers, dict) or not answers:
            return cls(0, {})
        if not all(first.isdecimal() and len(first) < 20 for first in answers):
            return cls(0, {})
        return cls(hosts, {int(first): Answer.found(answer) for first, answer in answers.items()})


@dataclass(frozen=True)
class Decision:
    """What the hosts have decided about a request.

    Attributes:
        target: the step at which to act; None if the request is void.
        why: if it is void: "nothing", "stopping", "ended" or "failed".
        reason: for people.
        same: as in Answer.
        without: the hosts that were left out, by their lowest ranks.
    """

    target: int | None = None
    why: str = ""
    reason: str = ""
    same: str = ""
    without: tuple[int, ...] = ()

    def packed(self) -> bytes:
        return _packed(self)

    @classmethod
    def parsed(cls, raw: bytes) -> "Decision":
        found = as_object(raw)
        target = whole(found.get("target"))
        without = found.get("without", [])
        if not isinstance(without, list) or None in [whole(each) for each in without]:
            without = []
        why = _text(found.get("why")) or ("failed" if target is None else "")
        return cls(target, why, _words(found.get("reason")), _text(found.get("same")), tuple(without))


@dataclass(frozen=True)
class Done:
    """What became of a request on one host.

    Attributes:
        outcome: "applied", "failed", "superseded", "late", "lost", or "nothing" if the host had no part in it.
        step: the step at which the host acted.
        by: the id of the request that superseded this one.
        replies: the replies of the host's ranks, by rank: the fields of a mailbox.Reply.
    """

    outcome: str
    step: int | None = None
    by: str = ""
    replies: dict[str, Any] | None = None

    def packed(self) -> bytes:
        return _packed(self)

    @classmethod
    def parsed(cls, raw: bytes) -> "Done":
        found = as_object(raw)
        outcome, replies = _text(found.get("outcome")), found.get("replies")
        if outcome not in ("applied", "failed", "superseded", "late", "nothing"):
            outcome = "lost"
        if not isinstance(replies, dict) or not all(_RANK_NUMBER.fullmatch(rank) for rank in replies):
            replies = None
        return cls(outcome, whole(found.get("step")), _text(found.get("by")), replies)


@dataclass(frozen=True)
class Fate:
    """What became of a request in the whole job, as its sender is told.

    Attributes:
        state: "applied", "failed", "superseded", "refused" or "lost"; "nothing" if there was nothing to do, "same" if a
            stop was asked for already.
        step, by, replies: as in Done.
        reason: for people.
    """

    state: str
    step: int | None = None
    by: str = ""
    reason: str = ""
    replies: dict[str, Any] | None = None


@dataclass(frozen=True)
class Peer:
    """What another host says of itself.

    Attributes:
        member: the host.
        count: a number that grows while the host's relay lives.
        ranks: what a client shows, for each of the host's ranks.
        ended: whether none of its ranks lives.
        silent: seconds since the count last grew.
    """

    member: Member
    count: int
    ranks: Sequence[Mapping[str, Any]]
    ended: bool
    silent: float


@dataclass(frozen=True)
class Ask:
    """A request that a sender on this host has left for the relay.

    Attributes:
        entry: the request.
        age: seconds since it was left.
        number: its number in the job's log, once that is known.
        tried: whether it may stand in the job's log although its number is not known.
    """

    entry: Entry
    age: float
    number: int | None = None
    tried: bool = False


@dataclass(frozen=True)
class Appended:
    """A request's entry in the host's own log.

    Attributes:
        seq: its number there; 0 if the host has no part in it.
        answer: the host's answer to the request.
    """

    seq: int
    answer: Answer


@dataclass(frozen=True)
class Note:
    """What a relay leaves for the next relay of its host.

    Attributes:
        store: the value of the store's key `job`.
        next: the number of the first request that is not settled here.
        open: number, id and seq of each request that is settled but not done.
    """

    store: str = ""
    next: int = 0
    open: tuple[tuple[int, str, int], ...] = ()
