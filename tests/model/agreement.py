"""An exhaustive model of how ranks agree on the step of a request: csrc/sf_log.c and csrc/sf_apply.c, cut down to two
ranks, two senders with one request each, and a few steps.

Every access to shared memory is one move, and so are taking the lock, letting go of it, asking whether it is held, and
death. What a process does between two such accesses is part of a neighbouring move, and so is what nobody else can see:
a rank's reading of its own step, which only it writes, and its setting of PENDING in its own word, which only it reads.
The search goes through every interleaving. Its result is the number of states, or the first `ViolationError` with the
moves that lead to it.

Not in the model: the ring's end, stop and reload, timed pauses, checkpoints that do not count, memory weaker than
sequentially consistent (every access that the argument rests on is seq_cst in the C code).
"""

import gc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

NEVER = 99
NONE = -1
VOID = -2
PENDING = 1
HELD = 2

# A rank: where it stands, its step, its word, the step at which it parks, the tail that it read, the target that it is
# working out, and for each entry the step at which it applied it (0: not yet, or VOID).
PC, STEP, WORD, PARK, TAIL, CANDIDATE, FIRST, SECOND = range(8)
Rank = tuple[int, int, int, int, int, int, int, int]

# An entry: the sender that wrote it, its target, and park and target of the state before it.
Entry = tuple[int, int, int, int]

# A sender: where it stands, the target that it is working out.
Sender = tuple[int, int]

# tail, lock (0, or the number of the sender that holds it), the entries, the ranks, the senders
State = tuple[int, int, tuple[Entry, ...], tuple[Rank, Rank], tuple[Sender, Sender]]

# fmt: off
(BETWEEN, LOAD_WORD, READ_TAIL, LOAD_TARGET, ASK_LOCK, VOIDS, SET_0, WAKE_0, SET_1, WAKE_1, READ_0, READ_1, SWAP,
 LEVEL, CLEAR, READ_AGAIN, WAIT, ASLEEP, GONE, STORE_STEP) = range(20)
(S_LOCK, S_VOID, S_PUBLISH, S_SET_0, S_WAKE_0, S_SET_1, S_WAKE_1, S_READ_0, S_READ_1, S_SWAP, S_UNLOCK, S_DONE,
 S_DEAD) = range(13)
# fmt: on

PLACES = (
    "between checkpoints, loads the word, reads the tail, loads the target, asks for the lock, voids, sets word 0, "
    "wakes 0, sets word 1, wakes 1, reads step 0, reads step 1, swaps the target, sets its level, clears its word, "
    "reads the tail again, waits, sleeps for a slice, is dead, stores its step"
).split(", ")
SENDER_PLACES = (
    "locks, voids the last, publishes, sets word 0, wakes 0, sets word 1, wakes 1, reads step 0, reads step 1, "
    "swaps the target, unlocks, is done, is dead"
).split(", ")


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is asked, who may die, and how the code goes. The defaults are the C code; each change of a default is a
    variant that is tried."""

    kinds: tuple[str, str] = ("pause", "resume")  # of each sender's request: pause, resume or set
    parked: bool = False  # both ranks begin parked at step 1
    last_step: int = 3
    senders_die: int = 0
    ranks_die: int = 0

    own_step: bool = True  # a rank that helps can act where it stands; the design's text gives it the next step too
    others_next: int = 1  # what is added to another rank's step
    words_first: bool = True  # all words are set, then all steps are read
    in_turn: bool = False  # word 0, step 0, word 1, step 1
    set_again: bool = True  # clear_word() sets the word again if there is more
    set_ahead: bool = True  # a rank that goes on before a target sets its word
    tail_again: bool = True  # the tail is read again after the clearing
    step_first: bool = True  # the step is stored before the word is loaded
    park_clamp: bool = True  # nothing is aimed behind the step at which the ranks park
    order_clamp: bool = True  # nothing is aimed before the entry before it
    ask_lock: bool = True  # an entry is made void by a rank only if nobody holds the log's lock
    next_voids: bool = True  # a sender makes the last entry void if it was left undecided
    wakes: bool = True  # who sets the word of a parked rank wakes it


class ViolationError(Exception):
    def __init__(self, what: str, moves: list[str]) -> None:
        super().__init__("\n  ".join([what, *moves]))
        self.what = what
        self.moves = moves


class _BrokenError(Exception):
    pass


def _fold(kind: str, park: int, target: int) -> int:
    return {"pause": target, "resume": NEVER, "set": park}[kind]


def _signalled(protocol: Protocol, rank: Rank) -> tuple[Rank, bool]:
    """The word set; whether the one who set it has to wake."""
    return (*rank[:WORD], rank[WORD] | PENDING, *rank[PARK:]), bool(rank[WORD] & HELD) and protocol.wakes  # type: ignore[return-value]


def _woken(rank: Rank) -> Rank:
    return (READ_TAIL, *rank[1:]) if rank[PC] == ASLEEP else rank


def _clamped(protocol: Protocol, entry: Entry, target: int) -> int:
    if protocol.park_clamp and target > entry[2]:
        target = entry[2]
    if protocol.order_clamp and target < entry[3]:
        target = entry[3]
    return target


class Model:
    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        # The order in which a helper goes through words and steps, as places that follow each other.
        if protocol.in_turn:
            chain = [SET_0, READ_0, SET_1, READ_1, SWAP]
        elif protocol.words_first:
            chain = [SET_0, SET_1, READ_0, READ_1, SWAP]
        else:
            chain = [READ_0, READ_1, SET_0, SET_1, SWAP]
        self.help_begins = chain[0]
        self.after = dict(pairwise(chain))
        to_sender = {
            SET_0: S_SET_0,
            SET_1: S_SET_1,
            READ_0: S_READ_0,
            READ_1: S_READ_1,
            SWAP: S_SWAP,
        }
        self.send_begins = to_sender[chain[0]]
        self.sender_after = {to_sender[a]: to_sender[b] for a, b in self.after.items()}
        self.checkpoint_begins = BETWEEN if protocol.step_first else LOAD_WORD

    def first(self) -> State:
        if self.protocol.parked:
            rank: Rank = (ASLEEP, 1, HELD, 1, 0, 0, 0, 0)
        else:
            rank = (BETWEEN, 0, 0, NEVER, 0, 0, 0, 0)
        return 0, 0, (), (rank, rank), ((S_LOCK, 0), (S_LOCK, 0))

    def folded(self, entries: tuple[Entry, ...]) -> tuple[int, int]:
        """Park and target after all entries; the last is decided."""
        if not entries:
            return (1, 1) if self.protocol.parked else (NEVER, 0)
        sender, target, park, before = entries[-1]
        if target == VOID:
            return park, before
        return _fold(self.protocol.kinds[sender], park, target), max(before, target)

    # --- the moves of one rank ---

    def rank_moves(self, state: State, r: int) -> Iterator[State]:
        protocol = self.protocol
        tail, lock, entries, ranks, senders = state
        pc, step, word, park, seen, candidate, first, second = ranks[r]
        # A wait is cut in slices. They are needed where one who had set the word died before the wake, so only then the
        # model has them: in all other cases a wake has to come.
        if pc == ASLEEP and not (S_DEAD in (senders[0][0], senders[1][0]) or GONE in (ranks[0][PC], ranks[1][PC])):
            return
        if pc == GONE or (pc == BETWEEN and step == protocol.last_step):
            return
        applied = (first != 0) + (second != 0)

        def out(rank: tuple[int, ...], entries: tuple[Entry, ...] = entries, other: Rank | None = None) -> State:
            if other is None:
                other = ranks[1 - r]
            pair = (rank, other) if r == 0 else (other, rank)
            return tail, lock, entries, pair, senders  # type: ignore[return-value]

        def at(
            pc: int,
            step: int = step,
            word: int = word,
            park: int = park,
            seen: int = seen,
            candidate: int = candidate,
            first: int = first,
            second: int = second,
        ) -> Rank:
            return pc, step, word, park, seen, candidate, first, second

        def helping(pc: int, word: int, candidate: int) -> Rank:
            """At the next place of a helper that touches what others see."""
            while pc in (SET_0 + 2 * r, READ_0 + r):
                if pc == READ_0 + r:
                    candidate = max(candidate, step + (0 if protocol.own_step else 1))
                else:
                    word |= PENDING
                pc = self.after[pc]
            return at(pc, word=word, candidate=candidate)

        match pc:
            case 0 | 19:  # BETWEEN, STORE_STEP
                if pc == BETWEEN and not protocol.step_first:  # the variant: loads its word, and stores its step later
                    hit = word != 0 or step + 1 >= park
                    yield out(at(STORE_STEP, candidate=int(hit)))
                elif pc == STORE_STEP:
                    yield out(at(READ_TAIL if candidate else BETWEEN, step=step + 1, candidate=0))
                else:
                    yield out(at(LOAD_WORD, step=step + 1))
            case 1:  # LOAD_WORD
                yield out(at(READ_TAIL if word or step >= park else BETWEEN))
            case 2:  # READ_TAIL
                yield out(at(LOAD_TARGET if applied < tail else LEVEL, seen=tail))
            case 3:  # LOAD_TARGET
                target = entries[applied][1]
                if target == NONE:
                    yield out(at(ASK_LOCK))
                    return
                if target > step:
                    if park <= step:
                        raise _BrokenError(
                            f"rank {r} is parked at {step} and entry {applied + 1} lies ahead, at {target}"
                        )
                    yield out(at(BETWEEN, seen=0, word=word | PENDING if protocol.set_ahead else word))
                    return
                mine = VOID if target == VOID else step
                if target not in (VOID, step):
                    raise _BrokenError(f"rank {r} applies entry {applied + 1} at {step}, behind its target {target}")
                theirs = ranks[1 - r][FIRST + applied]
                if theirs not in (0, mine):
                    raise _BrokenError(f"entry {applied + 1}: one rank at {theirs}, the other at {mine}")
                if target != VOID:
                    park = _fold(protocol.kinds[entries[applied][0]], park, target)
                pc = LOAD_TARGET if applied + 1 < seen else LEVEL
                yield out(at(pc, park=park, first=mine) if applied == 0 else at(pc, park=park, second=mine))
            case 4:  # ASK_LOCK
                voids = lock == 0 or not protocol.ask_lock
                yield out(at(VOIDS) if voids else helping(self.help_begins, word, 0))
            case 5:  # VOIDS
                if entries[applied][1] == NONE and senders[entries[applied][0]][0] != S_DEAD:
                    raise _BrokenError(f"rank {r} makes entry {applied + 1} void, and its sender lives")
                yield out(at(LOAD_TARGET), self.swapped(entries, applied, VOID))
            case 6 | 8:  # SET_0, SET_1
                other, wake = _signalled(protocol, ranks[1 - r])
                yield out(at(pc + 1) if wake else helping(self.after[pc], word, candidate), other=other)
            case 7 | 9:  # WAKE_0, WAKE_1
                yield out(helping(self.after[pc - 1], word, candidate), other=_woken(ranks[1 - r]))
            case 10 | 11:  # READ_0, READ_1
                other = ranks[1 - r]
                next_step = 0 if other[PC] == GONE else other[STEP] + protocol.others_next
                yield out(helping(self.after[pc], word, max(candidate, next_step)))
            case 12:  # SWAP
                target = _clamped(protocol, entries[applied], candidate)
                yield out(at(LOAD_TARGET, candidate=0), self.swapped(entries, applied, target))
            case 13:  # LEVEL
                level = word | HELD if park <= step else word & ~HELD
                if level != word:
                    yield out(at(CLEAR, word=level))
                else:
                    yield out(at(READ_AGAIN, word=word & ~PENDING))
            case 14:  # CLEAR
                yield out(at(READ_AGAIN, word=word & ~PENDING))
            case 15:  # READ_AGAIN
                if tail != seen and protocol.tail_again:
                    yield out(at(READ_TAIL, seen=0, word=word | PENDING if protocol.set_again else word))
                else:
                    yield out(at(WAIT if park <= step else BETWEEN, seen=0))
            case 16:  # WAIT: the kernel looks at the word and puts to sleep in one move
                yield out(at(ASLEEP if word == HELD else READ_TAIL))
            case 17:  # ASLEEP
                yield out(at(READ_TAIL))

    def swapped(self, entries: tuple[Entry, ...], index: int, target: int) -> tuple[Entry, ...]:
        entry = entries[index]
        if entry[1] != NONE:
            return entries
        return (*entries[:index], (entry[0], target, entry[2], entry[3]), *entries[index + 1 :])

    # --- the moves of one sender ---

    def sender_moves(self, state: State, s: int) -> Iterator[State]:
        protocol = self.protocol
        tail, lock, entries, ranks, senders = state
        pc, candidate = senders[s]
        if pc in (S_DONE, S_DEAD) or (pc == S_LOCK and lock != 0):
            return

        def out(
            pc: int,
            candidate: int = candidate,
            *,
            tail: int = tail,
            lock: int = lock,
            entries: tuple[Entry, ...] = entries,
            ranks: tuple[Rank, Rank] = ranks,
        ) -> State:
            me = (pc, candidate)
            return tail, lock, entries, ranks, ((me, senders[1]) if s == 0 else (senders[0], me))

        if pc == S_LOCK:
            same = protocol.kinds[0] == protocol.kinds[1]  # then it does not matter who is first
            if not (s == 1 and same and senders[0][0] == S_LOCK):
                yield out(S_VOID, lock=s + 1)
            return
        if protocol.senders_die > (senders[0][0] == S_DEAD) + (senders[1][0] == S_DEAD):
            yield out(S_DEAD, 0, lock=0)
        match pc:
            case 1:  # S_VOID
                if entries and protocol.next_voids:
                    entries = self.swapped(entries, tail - 1, VOID)
                if entries and entries[-1][1] == NONE:  # the variant
                    park, target = entries[-1][2:]
                else:
                    park, target = self.folded(entries)
                nothing = protocol.kinds[s] == "resume" and park == NEVER
                yield out(S_UNLOCK if nothing else S_PUBLISH, entries=entries)
            case 2:  # S_PUBLISH
                if entries and entries[-1][1] == NONE:
                    park, target = entries[-1][2:]
                else:
                    park, target = self.folded(entries)
                yield out(self.send_begins, tail=tail + 1, entries=(*entries, (s, NONE, park, target)))
            case 3 | 5:  # S_SET_0, S_SET_1
                which = 0 if pc == S_SET_0 else 1
                rank, wake = _signalled(protocol, ranks[which])
                yield out(pc + 1 if wake else self.sender_after[pc], ranks=_with(ranks, which, rank))
            case 4 | 6:  # S_WAKE_0, S_WAKE_1
                which = 0 if pc == S_WAKE_0 else 1
                yield out(self.sender_after[pc - 1], ranks=_with(ranks, which, _woken(ranks[which])))
            case 7 | 8:  # S_READ_0, S_READ_1
                rank = ranks[pc - S_READ_0]
                next_step = 0 if rank[PC] == GONE else rank[STEP] + protocol.others_next
                yield out(self.sender_after[pc], max(candidate, next_step))
            case 9:  # S_SWAP
                target = _clamped(protocol, entries[-1], candidate)
                yield out(S_UNLOCK, 0, entries=self.swapped(entries, tail - 1, target))
            case 10:  # S_UNLOCK
                yield out(S_DONE, lock=0)

    # --- the whole ---

    def moves(self, state: State) -> Iterator[State]:
        ranks = state[3]
        yield from self.rank_moves(state, 0)
        yield from self.rank_moves(state, 1)
        yield from self.sender_moves(state, 0)
        yield from self.sender_moves(state, 1)
        if self.protocol.ranks_die > (ranks[0][PC] == GONE) + (ranks[1][PC] == GONE):
            for r in range(2):
                if ranks[r][PC] not in (GONE, BETWEEN):
                    gone = (GONE, ranks[r][STEP], 0, 0, 0, 0, ranks[r][FIRST], ranks[r][SECOND])
                    yield *state[:3], _with(ranks, r, gone), state[4]

    def told(self, before: State, after: State) -> str:
        """The move between two states, for people."""
        for s in range(2):
            if after in self.sender_moves(before, s):
                dies = after[4][s][0] == S_DEAD
                return f"sender {s} " + ("dies" if dies else SENDER_PLACES[before[4][s][0]])
        r = 0 if before[3][0] != after[3][0] and after in self.rank_moves(before, 0) else 1
        return f"rank {r} " + ("dies" if after[3][r][PC] == GONE else PLACES[before[3][r][PC]])

    def check_end(self, state: State) -> None:
        """Nobody can move: is everybody where he should be?"""
        _, _, entries, ranks, senders = state
        for s, sender in enumerate(senders):
            if sender[0] not in (S_DONE, S_DEAD):
                raise _BrokenError(f"sender {s} waits for ever")
        for r, rank in enumerate(ranks):
            applied = (rank[FIRST] != 0) + (rank[SECOND] != 0)
            due = [entry for entry in entries[applied:] if entry[1] != NONE]
            if rank[PC] == ASLEEP:
                if rank[PARK] > rank[STEP]:
                    raise _BrokenError(f"rank {r} sleeps, and nothing parks it")
                if due:
                    raise _BrokenError(f"rank {r} sleeps for ever, and entry {applied + 1} is decided")
            elif rank[PC] == BETWEEN:
                if due and VOID != due[0][1] <= rank[STEP]:
                    raise _BrokenError(f"rank {r} passed the target of entry {applied + 1} and never applied it")
                if due and due[0][1] != VOID and not rank[WORD] & PENDING:
                    raise _BrokenError(f"rank {r} runs with its word clear, and entry {applied + 1} is decided")
            elif rank[PC] != GONE:
                raise _BrokenError(f"rank {r} can't move: it {PLACES[rank[PC]]}")


def _with(ranks: tuple[Rank, Rank], r: int, rank: tuple[int, ...]) -> tuple[Rank, Rank]:
    return (rank, ranks[1]) if r == 0 else (ranks[0], rank)  # type: ignore[return-value]


def search(protocol: Protocol) -> int:
    """Every state that can be reached: how many. Raises the first violation, by a shortest way."""
    model = Model(protocol)
    gc.disable()  # millions of tuples, and no cycle among them
    try:
        first = model.first()
        came_from: dict[State, State | None] = {first: None}
        queue = deque([first])
        while queue:
            state = queue.popleft()
            try:
                stuck = True
                for after in model.moves(state):
                    if after not in came_from:
                        came_from[after] = state
                        queue.append(after)
                        stuck = False
                    elif stuck and after != state:
                        stuck = False
                if stuck:
                    model.check_end(state)
            except _BrokenError as broken:
                raise ViolationError(str(broken), _way(model, came_from, state)) from None
        return len(came_from)
    finally:
        gc.enable()


def _way(model: Model, came_from: dict[State, State | None], state: State) -> list[str]:
    moves: list[str] = []
    before = came_from[state]
    while before is not None:
        moves.append(model.told(before, state))
        state, before = before, came_from[before]
    return moves[::-1]


def states_without_end(protocol: Protocol) -> int:
    """States from which no end can be reached: in them somebody goes round for ever."""
    model = Model(protocol)
    before: dict[State, list[State]] = {model.first(): []}
    queue = deque(before)
    ends = []
    while queue:
        state = queue.popleft()
        ended = True
        for after in model.moves(state):
            if after not in before:
                before[after] = []
                queue.append(after)
            before[after].append(state)
            ended = ended and after == state
        if ended:
            ends.append(state)
    reached = set(ends)
    while ends:
        for state in before[ends.pop()]:
            if state not in reached:
                reached.add(state)
                ends.append(state)
    return len(before) - len(reached)
