"""A host as its relay sees it: its control file, and the requests that senders have left in its run folder.

fate    what became of a request in the whole job: what its sender is told
mail    what a request carries, as an entry of the host's own log has it
letter  what a request carries if that is too long for mail: it travels in the job's store
"""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from spark_fast import _core
from spark_fast._core import Segment
from spark_fast.errors import SegmentError, SparkError
from spark_fast.hosts import state_files
from spark_fast.hosts.code import unpacked
from spark_fast.hosts.messages import PHASES, STEP_MAX, VOID, Answer, Appended, Ask, Done, Entry, Fate, Note, Peer
from spark_fast.hosts.secret import NONE, allowed, refusal
from spark_fast.request import FateState, Kind, Verdict, fate_of, version_mail
from spark_fast.runfiles import mailbox
from spark_fast.runfiles.run_folder import CONTROL
from spark_fast.runfiles.versions import Store
from spark_fast.status import ENDED, WorkerState, status_of

__all__ = ["RunFolder"]

_KEPT = 256
"""Fates that the run folder keeps: twice as many as the log has entries."""
_TURN = 2.0
_CARRYING = (Kind.RELOAD, Kind.SET, Kind.CALL)
"""The requests whose mail other hosts take over. The mail of a stop has a supervisor end or restart its worker. Only a
host's own senders may ask for that, since hosts without a secret act on a stop of any user who reaches the store."""
_NO_PAUSE = 1 << 62


class RunFolder:
    """See steps.Local. Raises SegmentError, OSError or FolderRefusedError when the run folder can't be used any more.

    Attributes:
        protection: how the hosts protect their values in the store: a kind of secret.Protection.
        unused: why the host does not use the secret that it has; empty if it does, or has none.
    """

    def __init__(self, folder: Path, protection: str = NONE) -> None:
        self.protection = protection
        self.unused = ""
        self._folder = folder
        self._shown = folder / state_files.HOSTS
        self.segment = Segment(folder / CONTROL)
        self._told = 0
        self._others_live = False

    @property
    def _control(self) -> int:
        return self.segment.fileno()

    # --- notes ---

    def load(self) -> Note:
        with state_files.opened(self._folder, create=True) as fd:
            found = state_files.read_object(fd, state_files.NOTE, self._shown) or {}
        try:
            return Note(str(found["store"]), int(found["next"]), tuple((n, str(i), s) for n, i, s in found["open"]))
        except (KeyError, TypeError, ValueError):
            return Note()

    def save(self, note: Note) -> None:
        with state_files.opened(self._folder) as fd:
            state_files.overwrite_object(fd, state_files.NOTE, asdict(note))

    # --- senders ---

    def asks(self) -> list[Ask]:
        found = []
        with state_files.opened(self._folder, state_files.ASK, create=True) as asks:
            for name in os.listdir(asks):
                if name.startswith("."):
                    continue
                left = state_files.read_object(asks, name, self._shown / state_files.ASK) or {}
                entry = Entry.found(left.get("entry"))
                if entry is None or f"{entry.id}.json" != name:
                    with suppress(OSError):
                        os.unlink(name, dir_fd=asks)
                    continue
                asked, number = left.get("asked"), left.get("number")
                age = time.monotonic() - asked if isinstance(asked, float) else 1e9
                # A negative age: the request was left before the machine was started again.
                ask = Ask(entry, age if age >= 0 else 1e9, number if isinstance(number, int) else None, "tried" in left)
                found.append(ask)
        return sorted(found, key=lambda ask: -ask.age)

    def mark(self, ident: str, number: int | None) -> None:
        with state_files.opened(self._folder, state_files.ASK) as asks:
            left = state_files.read_object(asks, f"{ident}.json", self._shown / state_files.ASK)
            if left is not None:
                left["tried"] = True
                if number is not None:
                    left["number"] = number
                state_files.overwrite_object(asks, f"{ident}.json", left)

    def tell(self, ident: str, fate: Fate) -> None:
        self._keep_replies(ident, fate.replies or {})
        with state_files.opened(self._folder, state_files.FATES, create=True) as fates:
            state_files.write_object(fates, f"{ident}.json", asdict(replace(fate, replies=None)))
            self._told += 1
            if self._told % _KEPT == 1:
                self._forget_fates(fates)
                mailbox.prune_replies(self._folder)
        with state_files.opened(self._folder, state_files.ASK, create=True) as asks, suppress(FileNotFoundError):
            os.unlink(f"{ident}.json", dir_fd=asks)

    def _keep_replies(self, ident: str, replies: Mapping[str, Any]) -> None:
        """Write the replies of the other hosts' ranks where the sender finds those of this host's ranks."""
        here = {slot["rank"] for slot in self._slots()}
        number = int(ident, 16)
        for rank, said in replies.items():
            if int(rank) in here and len(here) > 1:
                continue
            with suppress(TypeError, ValueError):  # that host has sent nonsense
                mailbox.write_reply(self._folder, number, mailbox.Reply(**said), int(rank))
        if len(replies) > 1:
            mailbox.remove_reply(self._folder, number)  # this host's only rank: its reply is now with the others

    def _forget_fates(self, fates: int) -> None:
        names = sorted(os.listdir(fates), key=lambda name: os.stat(name, dir_fd=fates).st_mtime)
        for name in names[:-_KEPT]:
            os.unlink(name, dir_fd=fates)

    # --- the log ---

    def find(self, ident: str) -> Appended | None:
        tail = _core.read_view(self._control)["tail"]
        for seq in range(tail, max(0, tail - _core.LOG_CAPACITY), -1):
            entry = _core.read_entry(self._control, seq)
            if entry is None or f"{entry['id']:016x}" != ident:
                continue
            if entry["low"] > STEP_MAX or entry["low"] == 0:
                # The relay that appended it was killed before it learned how far the ranks are. It had told nobody.
                self.segment.commit(seq, VOID)
                return None
            if entry["target"] == VOID:
                return Appended(seq, Answer(why="failed", reason="its ranks have waited for too long and went on"))
            with state_files.opened(self._folder) as fd:
                begun = state_files.read_object(fd, state_files.APPENDING, self._shown) or {}
            park = begun.get("park") if begun.get("id") == ident else None
            return Appended(seq, Answer(entry["low"], park if isinstance(park, int) else None))
        return None

    def append(self, entry: Entry) -> Appended:
        if not allowed(entry.kind, self.protection):
            return Appended(0, Answer(why="failed", reason=refusal(entry.kind, self.unused)))
        view = _core.read_view(self._control)
        park = view["park"] if view["park"] <= STEP_MAX else None
        with state_files.opened(self._folder, create=True) as fd:
            state_files.overwrite_object(fd, state_files.APPENDING, {"id": entry.id, "park": park})
        _core.point("relay:noted")
        only_if = 0
        if entry.only_if:
            only_if = self._seq_of(entry.only_if) or _NO_PAUSE
        try:
            verdict, seq, _ = self.segment.append(
                entry.kind,
                int(entry.id, 16),
                arg=entry.arg,
                duration=entry.duration,
                sender=entry.sender,
                mail=self._mail(entry),
                only_if_park_seq=only_if,
                ranks=entry.ranks,
                elsewhere=True,
                timeout=_TURN,
            )
        except (SparkError, OSError, ValueError) as error:
            self.segment.check()  # if the file is gone, that is the error to raise
            return Appended(0, Answer(why="failed", reason=str(error)))
        if verdict == Verdict.REFUSED_ENDED:
            return Appended(0, Answer(why="ended"))
        if verdict == Verdict.REFUSED_STOPPING:
            return Appended(0, Answer(why="stopping"))
        if verdict == Verdict.NOTHING_TO_DO:
            same = _core.read_entry(self._control, seq) if seq else None
            return Appended(0, Answer(why="nothing", same="" if same is None else f"{same['id']:016x}"))
        found = _core.read_entry(self._control, seq)
        if found is None or found["low"] > STEP_MAX:
            raise SegmentError("an entry that was just made is not there", str(self._folder / CONTROL))
        return Appended(seq, Answer(found["low"], park))

    def _seq_of(self, ident: str) -> int | None:
        tail = _core.read_view(self._control)["tail"]
        for seq in range(tail, max(0, tail - _core.LOG_CAPACITY), -1):
            entry = _core.read_entry(self._control, seq)
            if entry is not None and f"{entry['id']:016x}" == ident:
                return seq
        return None

    def _mail(self, entry: Entry) -> str:
        if entry.kind not in _CARRYING:
            return ""
        if entry.letter is None:
            return entry.mail
        if entry.kind == Kind.RELOAD:
            place = state_files.read_place(self._folder)
            if place is not None and place.first == entry.home:
                return entry.mail  # the version was made here
            number = unpacked(Store(self._folder), entry.letter, entry.sender).number
            return version_mail(number, restart=entry.letter.get("restart") is True)
        mailbox.write_mail(self._folder, int(entry.id, 16), entry.letter)
        return mailbox.mail_name(int(entry.id, 16))

    def commit(self, seq: int, target: int) -> int:
        return self.segment.commit(seq, target)

    def votes(self, seq: int, ident: str) -> list[tuple[int, int]] | None:
        entry = _core.read_entry(self._control, seq)
        if entry is None or f"{entry['id']:016x}" != ident or entry["kind"] != Kind.RELOAD:
            return None
        # SF_VERDICT_HERE and SF_VERDICT of csrc/sf_layout.h
        return [(entry["agreed"] >> (16 + 2 * at) & 3, entry["agreed"] >> (8 + 2 * at) & 3) for at in range(PHASES)]

    def commit_vote(self, seq: int, phase: int, verdict: int) -> int:
        return self.segment.commit_vote(seq, phase, verdict)

    def outcome(self, seq: int, ident: str) -> Done | None:
        slots = self._slots()
        alive = any(_lives(slot) for slot in slots)  # before the fate is read: what was published before a death counts
        number = int(ident, 16)
        fate = fate_of(self._control, seq, number, folder=self._folder, alive=alive, ended="ended")
        if not fate.final and len(slots) > 1 and self.segment.conclude(seq):
            fate = fate_of(self._control, seq, number, folder=self._folder, alive=alive, ended="ended")
        if not fate.final:
            return None
        if fate.state is FateState.SUPERSEDED:
            return Done("superseded", by=fate.by or "")
        if fate.state not in (FateState.APPLIED, FateState.FAILED, FateState.REFUSED):
            return Done("lost")
        outcome = "applied" if fate.state is FateState.APPLIED else "failed"
        return Done(outcome, fate.step, replies=self._replies(number))

    def _replies(self, number: int) -> dict[str, Any] | None:
        found = {str(rank): asdict(reply) for rank, reply in mailbox.read_replies(self._folder, number).items()}
        alone = mailbox.read_reply(self._folder, number)
        if alone is not None:  # the reply of this host's only rank
            found[str(_core.read_slot(self._control, 0)["rank"])] = asdict(alone)
        return found or None

    # --- the ranks ---

    def _slots(self) -> list[dict[str, Any]]:
        return [_core.read_slot(self._control, slot) for slot in range(_core.read_view(self._control)["slot_count"])]

    def ranks(self) -> list[dict[str, Any]]:
        view = _core.read_view(self._control)
        return [
            {"rank": slot["rank"], "status": str(status_of(view, slot)), "step": slot["step"], "pid": slot["pid"]}
            for slot in self._slots()
            if slot["state"] != WorkerState.NONE
        ]

    def numbers(self, place: state_files.HostPlace) -> tuple[int, ...] | None:
        """Return the ranks of this host; None until all of them have joined."""
        found = sorted({slot["rank"] for slot in self._slots() if slot["state"] != WorkerState.NONE})
        return tuple(found) if len(found) >= place.count else None

    def alive(self) -> bool:
        return any(_lives(slot) for slot in self._slots())

    def watched(self) -> bool:
        with state_files.opened(self._folder, create=True) as fd:
            return state_files.watched(fd)

    def show(self, peers: Sequence[Peer], missing: str) -> None:
        with state_files.opened(self._folder) as fd:
            before = state_files.read_object(fd, state_files.PEERS, self._shown) or {}
            now = time.monotonic()
            heard = _heard_before(before)
            found = [
                {
                    "name": peer.member.name,
                    "node": peer.member.node,
                    "numbers": list(peer.member.ranks),
                    "ranks": list(peer.ranks),
                    "ended": peer.ended,
                    "count": peer.count,
                    # When this count was first heard: that stays the same, also when another relay reads the count.
                    "heard": heard.get((peer.member.node, peer.count), time.time() - peer.silent),
                    "silent": peer.silent,
                }
                for peer in peers
            ]
            known = {number for peer in peers for number in peer.member.ranks}
            found += _not_back(before, known | {slot["rank"] for slot in self._slots()}, now)
            state_files.write_object(fd, state_files.PEERS, {"missing": missing, "hosts": found, "read": now})
        self._others_live = any(_may_live(peer) for peer in peers)

    def awaits_others(self) -> bool:
        """Return whether a controller on this host looks at the whole job, and ranks of other hosts may live."""
        return self._others_live and self.watched()

    def show_unreachable(self) -> None:
        """Record that the other hosts can't be heard, because the store can't be reached. show() takes that back."""
        with state_files.opened(self._folder, create=True) as fd:
            said = state_files.read_object(fd, state_files.PEERS, self._shown)
            if said is not None and said.get("unreachable") is not True:
                state_files.write_object(fd, state_files.PEERS, said | {"unreachable": True})

    def now(self) -> float:
        return time.monotonic()


def _heard_before(said: Mapping[str, Any]) -> dict[tuple[object, object], float]:
    """Return when each host was first heard with its count, in seconds since the epoch, by its node and the count."""
    found: dict[tuple[object, object], float] = {}
    for host in said.get("hosts", []):
        with suppress(KeyError, TypeError, ValueError):
            found[str(host["node"]), int(host["count"])] = float(host["heard"])
    return found


def _not_back(said: Mapping[str, Any], known: set[int], now: float) -> list[dict[str, Any]]:
    """Return the recorded hosts whose ranks the store does not know: it may be a new store."""
    found = []
    for host in said.get("hosts", []):
        with suppress(KeyError, TypeError, ValueError):
            if known.isdisjoint(host["numbers"]):
                found.append(host | {"silent": float(host["silent"]) + max(0.0, now - float(said["read"]))})
    return found


def _may_live(peer: Peer) -> bool:
    return not peer.ended and not all(rank.get("status") in ENDED for rank in peer.ranks)


def _lives(slot: dict[str, Any]) -> bool:
    return bool(slot["alive"]) and slot["state"] < WorkerState.STOPPED
