/* How ranks agree on the step of a request: csrc/sf_log.c, csrc/sf_apply.c and the counting in csrc/sf_worker.h, as a
 * model for SPIN. `make verify` searches it; tests/model/verify.py says with which sizes. Two ranks or three, and two
 * controllers. Ranks may come late, to a slot that had none or to that of one that died.
 *
 * One d_step is one access to shared memory (or: taking the log's lock, asking whether it is held, waking a sleeper,
 * dying), together with what the process then does alone. Nothing of another process happens in between, so every
 * interleaving of the accesses is searched. Accesses are merged only where an order of their own makes no difference:
 *
 *   - A rank sets PENDING in its own word, or reads its own step: nobody else reads that bit or writes that step.
 *   - A load that finds a decided target: a target never changes again, so it may as well be loaded a little earlier.
 *     A load that finds none is a move of its own, since one that comes later may find something.
 *   - The swap that decides an entry, and the unlocking behind it; locking, and publishing an entry behind a decided
 *     one. Only who found an entry without a target asks whether the lock is held; for an entry that is decided by then
 *     both answers stay possible, and neither changes it.
 *   - A word that is set when the step is stored is still set when it is loaded: only its rank clears it.
 *   - A controller that waits for its turn knows nothing yet. So it makes no difference which of the two comes next:
 *     they take turns, and if one is dead, the other asks for the rest.
 *
 * More cuts are argued where they are made: name_kind(), forget(), QUIET, and for some sizes "Coarser moves".
 *
 * Left out: the ring's end (an error to the sender, decided under the lock), timed pauses (a resume that a rank
 * appends as any controller does, under the same lock), checkpoints that do not count (they apply nothing), given
 * targets of a replay, hooks, outcomes and journal (published after the fact), functions that pass checkpoints
 * themselves, and memory weaker than sequentially consistent: every access that the argument rests on is seq_cst in
 * the C code. Also the wakes of a sender that finds that the one before it died in its turn: whoever sleeps may look
 * around at any time by then. A call goes the way of a set (SF_DELIVER). Runs end at step LAST: ranks stand still
 * between two checkpoints there. So every run of the model ends, and whoever stands somewhere else at its end waits for
 * ever. */

#ifndef RANKS
#define RANKS 2
#endif
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef LAST
#define LAST 2 /* steps */
#endif
#ifndef DEATHS
#define DEATHS 0 /* of ranks and controllers in all. With 1, every run sees one: those without are searched with 0. */
#endif
#ifndef PARKED
#define PARKED 0 /* 1: the ranks begin parked at step 1 */
#endif
#ifndef JOINS
#define JOINS 0 /* 1: the last rank attaches at any time, perhaps when the others are done */
#endif
#ifndef TAKES
#define TAKES 0 /* 1: a new rank takes the slot of one that died, at any time */
#endif
#ifndef KINDS
#define KINDS 127 /* of the requests: a bit for each */
#endif
#ifndef LOOKS
/* 1: a parked rank looks around at any time: once more before it waits, and after each slice. No run need end then. */
#define LOOKS 0
#endif
#ifndef COARSE
#define COARSE 0 /* 1: what a sender or a helper does is merged further: see below, "Coarser moves" */
#endif

#if COARSE && (JOINS || TAKES || LOOKS || DEATHS > 1)
#error "the coarser moves are argued for none of these"
#endif
#if TAKES && DEATHS != 1
#error "the rank that takes a slot lives"
#endif

#define CONTROLLERS 2

/* enum sf_kind */
#define PAUSE 0
#define PAUSE_AT 1 /* a pause with a step, here 2 */
#define RESUME 2
#define STOP 3
#define RELOAD 4
#define ADVANCE 5 /* by one step */
#define SET 6     /* and call */

#define NEVER 15 /* SF_NEVER */
#define NONE 14  /* SF_TARGET_NONE */
#define VOID 13  /* SF_TARGET_VOID */
#define SKIPPED 12
#define OPEN 7 /* nobody has read the kind of the entry yet */

/* --- shared memory --- */

/* sf_header, and the lock on the log's bytes: who holds it, counted from 1; ranks that join behind the controllers */
byte tail = 0;
byte lock = 0;

/* sf_entry: number n at [n - 1] */
byte kind[REQUESTS] = OPEN;
byte sender[REQUESTS];
byte target[REQUESTS] = NONE;
byte before_park[REQUESTS];
byte before_target[REQUESTS];

/* sf_slot */
byte step[RANKS] = PARKED;
bool pending[RANKS] = 0;  /* SF_WORD_PENDING */
bool held[RANKS] = PARKED; /* SF_WORD_HELD */
bool gone[RANKS] = 0;     /* dead or ended: sf_slot_taken() or sf_slot_alive() says no */
bool joined = !JOINS;     /* the last slot is taken */
#if TAKES
byte applied_of[RANKS] = 0; /* with applied_at, as one: look_at() reads them again if they have changed */
byte applied_at[RANKS] = 0;
#endif

/* The kernel's: who sleeps on his word. */
bool asleep[RANKS] = PARKED;

/* --- what only the model knows --- */

byte acted[REQUESTS] = 0; /* the step at which ranks applied the entry, or SKIPPED it as void */
byte asked = 0;           /* requests that a controller has begun with */
bool lost[CONTROLLERS] = 0;
byte deaths = 0;
byte takes = 0;
byte waking = 0; /* who is between his decision and the last of its wakes */
bool partly = 0; /* COARSE: the last entry's sender does not live to decide it */
byte passed[REQUESTS] = 0; /* ranks that have applied or skipped the entry, or are dead */
byte finishes = 0; /* the rank whose turn it is when all is decided: see QUIET */

#define JOINER (RANKS - 1)
#define TAKEN(r) (!gone[r] && (joined || (r) != JOINER))

/* Once the last request is decided and nobody can ask for more, no rank's doing concerns another: its words were set
 * before the decision, and nobody reads its step. So then the ranks finish one after the other, and what would be of no
 * effect (signals to those that have been signalled for this entry, deaths) is left out. */
#define QUIET (asked == REQUESTS && joined && waking == 0 && (tail == 0 || target[tail - 1] != NONE) && \
    (!COARSE || lock == 0) && (!TAKES || ((takes == TAKES || lost[0] || lost[1]) && lock <= CONTROLLERS)))

/* --- the variants: each leaves something out, or has it in another order --- */

#ifdef TARGET_MAX /* the largest step, not the one after it */
#define NEXT 0
#else
#define NEXT 1
#endif

#ifdef STEPS_FIRST /* steps are read before all words are set */
#define FIRST READ
#define SECOND SIGNAL
#else
#define FIRST SIGNAL
#define SECOND READ
#endif

#if defined(STEPS_FIRST) || defined(TARGET_STORED)
#define NO_USE(e) 0
#else
#define NO_USE(e) (target[e] != NONE)
#endif

#ifdef NO_SET_AGAIN /* clear_word() leaves the word clear when it finds more */
#define AGAIN 0
#else
#define AGAIN 1
#endif

#ifdef NO_SET_AHEAD /* a rank that goes on before a target leaves its word as it is */
#define AHEAD pending[me]
#else
#define AHEAD 1
#endif

#ifdef NO_WAKE
#define WAKES(r) 0
#else
#define WAKES(r) held[r]
#endif

#ifdef NO_LOCK_ASKED /* a rank voids whatever has no target */
#define BUSY 0
#else
#define BUSY (lock != 0)
#endif

#ifdef NO_SLICES /* a parked rank waits for its wake, however long */
#define LOOKS_AROUND 0
#elif LOOKS
#define LOOKS_AROUND 1
#else
/* Wakes have to do, where nobody died before one that he owed. A look that finds nothing changes nothing. */
#define LOOKS_AROUND (deaths > 0 && (pending[_pid] || tail > applied))
#endif

/* --- deciding: decide() in sf_log.c. For ranks and controllers: pc, i, most and parked are the process's own. --- */

mtype = {
    COUNT, LOOK, STORE, READ_TAIL, TAKE, NAME_KIND, LOAD_TARGET, ASK_LOCK, MAKE_VOID, SIGNAL, WAKE, READ, SWAP, LEVEL,
    CLEAR, RECHECK, WAIT, BACK, ENDED, DEAD, IDLE, VOID_LAST, APPEND, JOIN, JOINED, JOIN_VOIDS, CHECKED,
    READ_REST, DOOMED, NEXT_ENTRY, FRONT_STEP, FRONT_APPLIED, FRONT_VOIDS, PLACE, UNLOCK
}

inline skip_slots(me)
{
    do
    :: i < RANKS && (i == me || gone[i]) -> i++
    :: else -> break
    od
}

/* Goes to the next slot, from slot `from` on; behind the last of them, to what comes then. */
inline to_slot(me, from)
{
    i = from;
    skip_slots(me);
    if
    :: i == RANKS && pc == FIRST -> pc = SECOND; i = 0; skip_slots(me)
    :: else -> skip
    fi;
    if
    :: i == RANKS -> pc = SWAP; i = 0
    :: else -> skip
    fi
}

/* `standing`: the step at which the helper itself can act, 0 for a controller. */
inline begin_to_decide(me, standing)
{
    most = standing;
    pc = FIRST;
    to_slot(me, 0)
}

/* signal_ranks(): one read-modify-write for each */
inline signal(me)
{
    if
    :: TAKEN(i) -> pending[i] = 1; parked = parked || WAKES(i)
    :: else -> skip
    fi;
    to_slot(me, i + 1)
}

/* wake_ranks(). Who is not asleep now, and sleeps later, has seen the entry: its word was set before this. A wake would
 * have it look around and find nothing. */
inline to_sleeper(then)
{
    do
    :: i < RANKS && !asleep[i] -> i++
    :: else -> break
    od;
    if
    :: i == RANKS -> i = 0; waking--; pc = then
    :: else -> skip
    fi
}

inline begin_to_wake(then)
{
    i = 0;
    if
    :: parked -> waking++; pc = WAKE; to_sleeper(then)
    :: else -> pc = then
    fi;
    parked = 0
}

inline wake(then)
{
    asleep[i] = 0;
    to_sleeper(then)
}

/* For an entry e that is decided already, what is read matters to nobody, and the swap will change nothing. */
inline read_step(me, e)
{
    if
    :: NO_USE(e) -> pc = SWAP; i = 0; most = 0
    :: !NO_USE(e) ->
        if
        :: TAKEN(i) && step[i] + NEXT > most -> most = step[i] + NEXT
        :: else -> skip
        fi;
        to_slot(me, i + 1)
    fi
}

/* Coarser moves, so that three ranks and three requests can be searched. Each run has one of these that ends alike;
 * verify.py also compares all ends of the small sizes.
 *
 *   - All words are set with the publishing of the tail. A rank whose word is not set yet, and that has not read the
 *     tail either, counts checkpoints or falls asleep meanwhile. Nobody reads its step before its word is set, so it
 *     may as well have done that before the entry was published. One that has read the tail does not look at its word
 *     before it clears it. So the order in which a sender sets the words shows only if it dies before it decides.
 *     Whether it will, and how many words it will have set, is chosen when it publishes (DOOMED, `partly`). Helpers
 *     set all words then, in one move for the same reason.
 *   - If it lives, helpers set no words. A rank whose word is set again for an entry that it has seen looks around and
 *     finds nothing, or finds the next entry: then it has only looked at its word a little early. If it is parked and
 *     finds the next one, it decides as the sender would: on the step at which it is parked.
 *   - The steps are read at once. The largest grows by one at a time, so what was found by reading one after the other
 *     was so at some moment in between. But a rank that leads may die after the others were read and before it is
 *     itself read: so it may be read later (READ_REST), where that makes a difference.
 *   - The swap comes with the read: one that decides, right behind the read of the steps; one that finds a target, at
 *     its own time. Who found no target in between finds one now, where it found one in its swap before. If the sender
 *     lives until it decides, the lock is held for as long as there is no target, and to ask for it is no move either.
 *   - Wakes, and the unlocking, come with the swap that is the sender's. A rank need not go on when it is woken, and
 *     until the lock is free nobody else does anything that its going on might concern. Who is woken by a helper
 *     might as well be woken by the sender later, or looks around by itself, if that one died. The sender may die
 *     right behind its swap.
 */
#define OTHER(r, me) ((r) != me && TAKEN(r))

/* The highest that the others' steps and `least` allow for, as a target of entry e. */
#define HIGHER(a, b) ((a) > (b) -> (a) : (b))
#define NEXT_OF(r, me) (OTHER(r, me) -> step[r] + NEXT : 0)
#if RANKS > 2
#define THIRD_BUT(r, me) (r == 2 -> 0 : NEXT_OF(2, me))
#else
#define THIRD_BUT(r, me) 0
#endif
#define HIGHEST_BUT(r, me, least) \
    HIGHER(least, HIGHER((r == 0 -> 0 : NEXT_OF(0, me)), HIGHER((r == 1 -> 0 : NEXT_OF(1, me)), THIRD_BUT(r, me))))
/* Whether it makes a difference that rank r is read later, and perhaps not there any more. */
#define LATER_ONE(r, me, least, e) (deaths < DEATHS && target[e] == NONE && OTHER(r, me) && \
    step[r] + NEXT > HIGHEST_BUT(r, me, least) && \
    HIGHEST_BUT(r, me, least) < before_park[e] && step[r] + NEXT > before_target[e])

inline read_all(me, but)
{
    i = 0;
    do
    :: i < RANKS && OTHER(i, me) && i != but && step[i] + NEXT > most -> most = step[i] + NEXT; i++
    :: i < RANKS && !(OTHER(i, me) && i != but && step[i] + NEXT > most) -> i++
    :: else -> break
    od;
    i = 0
}

/* To the rank that is read later. */
inline read_but(me, standing, but)
{
    most = standing;
    read_all(me, but);
    i = but;
    pc = READ_REST
}

inline read_rest()
{
    if
    :: TAKEN(i) && step[i] + NEXT > most -> most = step[i] + NEXT
    :: else -> skip
    fi;
    i = 0
}

inline signal_first(n)
{
    i = 0;
    do
    :: i < n -> pending[i] = pending[i] || TAKEN(i); i++
    :: else -> break
    od;
    i = 0
}

inline wake_all()
{
    i = 0;
    do
    :: i < RANKS -> asleep[i] = asleep[i] && !WAKES(i); i++
    :: else -> break
    od;
    i = 0
}

/* The end of decide() for entry e, and its compare-and-swap. */
inline swap(e)
{
    parked = parked && !QUIET;
#ifndef NO_PARK_CLAMP
    if
    :: most > before_park[e] -> most = before_park[e]
    :: else -> skip
    fi;
#endif
#ifndef NO_ORDER_CLAMP
    if
    :: most < before_target[e] -> most = before_target[e]
    :: else -> skip
    fi;
#endif
#ifndef TARGET_STORED /* a store in place of the compare-and-swap */
    if
    :: target[e] == NONE -> target[e] = most
    :: else -> skip
    fi;
#else
    target[e] = most;
#endif
    assert(target[e] == VOID || target[e] >= before_target[e]); /* the order of the log is that of its targets */
    most = 0
}

/* make_void(): a compare-and-swap. While the lock is free, an entry without a target has a dead sender. */
inline make_void(e)
{
    if
    :: target[e] == NONE ->
        assert(lost[sender[e]]);
        assert(acted[e] == 0);
        target[e] = VOID
    :: else -> skip
    fi
}

/* sf_state_fold(): `park` after an entry of that kind, decided for step `at` */
inline fold(state, what, from)
{
    if
    :: what == PAUSE -> state = from
    :: what == PAUSE_AT -> state = (from > 2 -> from : 2)
    :: what == ADVANCE -> state = from + 1
    :: what == RESUME || what == STOP -> state = NEVER
    :: else -> skip
    fi
}

/* The kind of an entry is left open until somebody reads it: it is any kind that judge() lets through. */
#define MAY_BE(what) (KINDS & (1 << what))
inline name_kind(e)
{
    if
    :: MAY_BE(PAUSE) -> kind[e] = PAUSE
    :: MAY_BE(PAUSE_AT) -> kind[e] = PAUSE_AT
    :: MAY_BE(RESUME) && before_park[e] != NEVER -> kind[e] = RESUME
    :: MAY_BE(STOP) -> kind[e] = STOP
    :: MAY_BE(RELOAD) -> kind[e] = RELOAD
    :: MAY_BE(ADVANCE) -> kind[e] = ADVANCE
    :: MAY_BE(SET) -> kind[e] = SET
    fi
}

#ifdef ENDS /* each end is printed once: which requests there were, and what every rank did */
#define KEEPS 1
#define DID(r) did[r] = done
bool ended = 0;
byte did[RANKS] = 0;
inline print_end()
{
    ended = 1;
    printf("END %d", tail);
    i = 0;
    do
    :: i < tail -> printf(" | %d %d %d", kind[i], target[i], acted[i]); i++
    :: else -> break
    od;
    printf(" | %d %d %d", gone[0], did[0], step[0]);
    printf(" | %d %d %d", gone[1], did[1], step[1]);
#if RANKS > 2
    printf(" | %d %d %d", gone[2], did[2], step[2]);
#endif
    printf("\n");
    i = 0
}
#else
#define KEEPS TAKES
#define DID(r) skip
#endif

/* An entry that all ranks are past, with another behind it, is never read again: what it was makes no difference. */
inline forget(e)
{
    if
    :: passed[e] == RANKS && tail > e + 1 && !KEEPS ->
        target[e] = 0; kind[e] = 0; sender[e] = 0; acted[e] = 0; before_park[e] = 0; before_target[e] = 0
    :: else -> skip
    fi
}

/* --- a rank: one thread that passes checkpoints --- */

/* set_applied() in sf_apply.c. Who takes a slot sees the ranks apply one entry after the other. */
inline show_applied(me)
{
#if TAKES
    applied_of[me] = applied;
    applied_at[me] = step[me];
    pc = (pc == TAKE -> NEXT_ENTRY : pc)
#else
    skip
#endif
}

/* apply() in sf_apply.c, for entry [applied], whose step has come. */
inline apply(me)
{
    assert(acted[applied] == 0 || acted[applied] == step[me]); /* all ranks act on one step, or none does */
    assert(!(done & (1 << applied)));                          /* and once */
    acted[applied] = step[me];
    done = done | (1 << applied);
    DID(me);
    if
    :: target[applied] < step[me] -> fold(park, kind[applied], target[applied])
    :: else -> fold(park, kind[applied], step[me])
    fi;
    if
    :: kind[applied] == STOP -> stopped = 1
    :: kind[applied] == RELOAD -> pending[me] = 1; pc = BACK   /* SF_RAISE_RELOAD */
    :: kind[applied] == SET -> pending[me] = 1; pc = READ_TAIL /* SF_DELIVER: and then the next turn */
    :: else -> skip
    fi;
    passed[applied]++;
    forget(applied);
    applied++;
    show_applied(me)
}

/* The inner loop of sf_apply_due(), from entry [applied] on, as far as targets are decided. `quick`: this is
 * sf_worker_resume(), for which anything but a resume that is due is a matter for sf_apply_due(). */
inline take(me)
{
    do
    :: pc != TAKE -> break
    :: pc == TAKE && applied == seen -> pc = LEVEL
    :: pc == TAKE && applied < seen ->
        if
        :: target[applied] == NONE -> pc = LOAD_TARGET
        :: target[applied] == VOID && !quick ->
            assert(acted[applied] == 0 || acted[applied] == SKIPPED);
            acted[applied] = SKIPPED;
            passed[applied]++;
            forget(applied);
            applied++;
            show_applied(me)
#ifndef APPLIED_AT_ONCE /* whoever meets an entry applies it */
        :: target[applied] < VOID && target[applied] > step[me] && !quick ->
            assert(park > step[me]); /* a parked rank comes no further */
            pending[me] = AHEAD;
            pc = COUNT
        :: target[applied] <= step[me] && kind[applied] == OPEN -> pc = NAME_KIND
        :: target[applied] <= step[me] && kind[applied] != OPEN && (!quick || kind[applied] == RESUME) -> apply(me)
        :: quick && target[applied] != NONE && (target[applied] > step[me] ||
            (kind[applied] != RESUME && kind[applied] != OPEN)) -> pc = READ_TAIL
#else
        :: target[applied] < VOID && kind[applied] == OPEN -> pc = NAME_KIND
        :: target[applied] < VOID && kind[applied] != OPEN && (!quick || kind[applied] == RESUME) -> apply(me)
        :: quick && target[applied] != NONE && (target[applied] == VOID ||
            (kind[applied] != RESUME && kind[applied] != OPEN)) -> pc = READ_TAIL
#endif
        fi
    od;
    if
    :: pc != LOAD_TARGET && pc != NAME_KIND && pc != NEXT_ENTRY -> quick = 0
    :: else -> skip
    fi;
    if
    :: pc == COUNT || pc == BACK || pc == READ_TAIL -> seen = 0
    :: else -> skip
    fi
}

#if TAKES
/* A reload that the ranks were ready for. How they decide on it is the subject of votes.pml. */

inline to_next_front()
{
    do
    :: i < RANKS && (gone[i] || i == _pid) -> i++
    :: else -> break
    od;
    pc = (i == RANKS -> FRONT_VOIDS : FRONT_STEP);
    i = (i == RANKS -> 0 : i)
}

/* look_at(), once the step is `loaded` */
inline look_at(r)
{
    most = (loaded > most -> loaded : most);
    most = (applied_at[r] > most -> applied_at[r] : most);
    if
    :: applied_of[r] > applied || (applied_of[r] == applied && applied_at[r] < front_at) ->
        front_at = applied_at[r];
        applied = applied_of[r]
    :: else -> skip
    fi;
    loaded = 0
}

/* One rank in find_front(): what it has applied, and whether it lives. `lives`: somebody does. */
inline front_applied()
{
    if
    :: !gone[i] && (!lives || loaded > most || applied_at[i] > most || applied_of[i] > applied) ->
#ifndef TAKE_STEP_OF_DEAD /* one that lives and has passed no checkpoint yet is taken for none */
        lives = 1;
#else
        lives = lives || loaded > 0 || applied_of[i] > 0;
#endif
        look_at(i)
    :: else -> loaded = 0
    fi;
    i++;
    to_next_front()
}

/* Where those stood that have died or ended, if nobody lives: its own slot's last rank among them. */
inline front_of_the_dead()
{
    do
    :: !lives && i < RANKS && gone[i] -> loaded = step[i]; look_at(i); i++
    :: !lives && i < RANKS && !gone[i] -> i++
    :: else -> break
    od;
    i = 0;
    lives = 0
}

/* state_at() */
inline state_at(entry)
{
    stopped = 0;
    if
    :: entry < tail -> park = before_park[entry]
    :: entry == tail && tail == 0 -> park = (PARKED -> 1 : NEVER)
    :: entry == tail && tail > 0 ->
        park = before_park[tail - 1];
        if
        :: target[tail - 1] < VOID ->
            fold(park, kind[tail - 1], target[tail - 1]);
            stopped = kind[tail - 1] == STOP
        :: else -> skip
        fi
    fi
}

/* apply_passed(). `seen`: the last entry that is due where the furthest stands. */
inline move_on()
{
    seen = applied;
    loaded = front_at; /* due */
    do
    :: seen == tail || (target[seen] < VOID && (target[seen] > most || loaded > most)) -> break
    :: seen < tail && target[seen] == VOID -> seen++
    :: seen < tail && target[seen] < VOID && target[seen] <= most && loaded <= most ->
        loaded = (target[seen] > loaded -> target[seen] : loaded);
        front_at = loaded;
        seen++
    od
}

/* The end of find_start(), and sf_worker_join_locked(): all of the slot is as it should be before its lock is taken. */
inline sit_down(me)
{
    i = front_at;
    move_on();
    state_at(seen);
#ifndef TAKE_PARKED_AHEAD /* its first checkpoint is behind that at which the others are parked */
    if
    :: park <= most && !stopped && most > 0 -> most--; front_at = i
    :: else -> applied = seen
    fi;
#else
    applied = seen;
#endif
#ifdef TAKE_WHAT_IS_DUE /* what the furthest has not applied yet is taken for what is to come */
    applied = (applied_of[0] > applied_of[1] -> applied_of[0] : applied_of[1]);
#endif
    state_at(applied);
    applied_of[me] = applied;
    applied_at[me] = front_at;
    step[me] = most;
    pending[me] = 1;
    held[me] = 0;
    gone[me] = 0;
    seen = 0; i = 0; most = 0; loaded = 0; front_at = 0;
    pc = UNLOCK
}
#endif

/* Why a rank that stands still for ever may do so. */
inline check_end_of_rank(me)
{
    if
    :: pc == READ_TAIL && asleep[me] ->
        assert(park <= step[me] && !stopped); /* something parks it */
        assert(applied == tail);              /* and it has seen all there is */
        i = 0;
        do
        :: i < RANKS -> assert(!asleep[i] || step[i] == step[me]); i++ /* all are parked at one step */
        :: else -> break
        od;
        i = 0
    :: pc == COUNT ->
        assert(step[me] == LAST);
        assert(park > LAST);
        if
        :: applied < tail && target[applied] == NONE -> assert(deaths > 0) /* an orphan that nobody has met */
        :: applied < tail && target[applied] < VOID -> assert(target[applied] > LAST && pending[me])
        :: else -> skip
        fi
    :: pc == ENDED -> assert(stopped)
    :: pc == DEAD -> skip
    :: else -> assert(false) /* it waits for ever */
    fi
}

#define HELPS (AT(LOAD_TARGET) && !(partly && applied + 1 == tail))
#define AT(place) (pc == place && (!QUIET || finishes == _pid))
#define RESTS (asleep[_pid] -> !LOOKS_AROUND : gone[_pid] || (pc == COUNT && step[_pid] == LAST))

active [RANKS] proctype Rank()
{
    mtype pc = (JOINS && _pid == JOINER -> JOIN : (PARKED -> READ_TAIL : COUNT));
    byte park = (PARKED -> 1 : NEVER); /* worker.state */
    bool stopped = 0;
    byte applied = 0; /* worker.applied */
    byte seen = 0;    /* the tail that this turn goes by */
    byte done = 0;    /* the entries that it has applied */
    bool quick = PARKED;
    byte i = 0, most = 0;
    bool parked = 0;
#if TAKES
    byte loaded = 0, front_at = 0;
    bool lives = 0; /* somebody does */
#endif

end:
    do
    /* sf_count(), then sf_asked(). A word that is set stays so until the rank itself clears it. */
#ifndef STEP_LATE
    :: d_step {
        AT(COUNT) && step[_pid] < LAST ->
        step[_pid]++;
        pc = (pending[_pid] || held[_pid] || park <= step[_pid] -> READ_TAIL : LOOK)
    }
    :: d_step { AT(LOOK) -> pc = (pending[_pid] -> READ_TAIL : COUNT) }
#else /* the step is stored after the word is loaded */
    :: d_step {
        AT(COUNT) && step[_pid] < LAST ->
        most = pending[_pid] || held[_pid] || park <= step[_pid] + 1;
        pc = STORE
    }
    :: d_step { AT(STORE) -> step[_pid]++; pc = (most -> READ_TAIL : COUNT); most = 0 }
#endif

    /* sf_worker_set_back(): the new code begins, and comes to this step once more. */
    :: d_step { AT(BACK) -> step[_pid]--; pc = COUNT }

    :: atomic {
        if
        /* read_tail() */
        :: d_step {
            AT(READ_TAIL) && !asleep[_pid] ->
            seen = tail;
            if
            :: quick && seen != applied + 1 -> quick = 0; seen = 0 /* sf_apply_due() */
            :: else -> pc = TAKE
            fi
        }
        /* target_of() */
#if !COARSE
        :: d_step { AT(LOAD_TARGET) -> pc = (target[applied] == NONE -> ASK_LOCK : TAKE) }
#else
        :: d_step {
            AT(LOAD_TARGET) ->
            if
            :: target[applied] == NONE && partly && applied + 1 == tail -> pc = ASK_LOCK
            :: target[applied] == NONE && !(partly && applied + 1 == tail) ->
                assert(lock != 0);
                most = step[_pid];
                read_all(_pid, RANKS);
                swap(applied);
                pc = TAKE
            :: else -> pc = TAKE
            fi
        }
#if DEATHS
        :: d_step { HELPS && LATER_ONE(0, _pid, step[_pid], applied) -> read_but(_pid, step[_pid], 0) }
        :: d_step { HELPS && LATER_ONE(1, _pid, step[_pid], applied) -> read_but(_pid, step[_pid], 1) }
#if RANKS > 2
        :: d_step { HELPS && LATER_ONE(2, _pid, step[_pid], applied) -> read_but(_pid, step[_pid], 2) }
#endif
#endif
#endif
        /* sf_decide_or_void() */
        :: d_step {
            AT(ASK_LOCK) ->
            if
#if !COARSE
            :: BUSY -> pending[_pid] = 1; begin_to_decide(_pid, step[_pid])
#else
            :: BUSY ->
                signal_first(RANKS);
                pc = READ
#endif
            :: else -> pc = (target[applied] == NONE -> MAKE_VOID : TAKE)
            fi
        }
        :: d_step { AT(MAKE_VOID) -> make_void(applied); pc = TAKE }
#if TAKES
        :: d_step { AT(NEXT_ENTRY) -> pc = TAKE }
#endif
#if !COARSE
        :: d_step { AT(READ) -> read_step(_pid, applied) }
        :: d_step { AT(SWAP) -> swap(applied); begin_to_wake(TAKE) }
        :: d_step { pc == WAKE -> wake(TAKE) }
        :: d_step { AT(SIGNAL) && QUIET -> i = 0; most = 0; parked = 0; pc = TAKE }
#elif DEATHS
        :: d_step { AT(READ) -> most = step[_pid]; read_all(_pid, RANKS); swap(applied); pc = TAKE }
        :: d_step { AT(READ_REST) -> read_rest(); swap(applied); pc = TAKE }
#endif
        fi;
        do
        :: d_step { pc == TAKE -> take(_pid) }
        :: pc == NAME_KIND -> name_kind(applied); pc = TAKE
        :: pc != TAKE && pc != NAME_KIND -> break
        od
    }
#if !COARSE
    :: d_step { pc == SIGNAL && !QUIET -> signal(_pid) }
#endif
    /* clear_word() */
    :: d_step {
        AT(LEVEL) && held[_pid] != (park <= step[_pid] && !stopped) -> held[_pid] = !held[_pid]; pc = CLEAR
    }
    :: d_step {
        (AT(LEVEL) && held[_pid] == (park <= step[_pid] && !stopped)) || AT(CLEAR) ->
        pending[_pid] = 0;
        pc = RECHECK
    }
    :: d_step {
        AT(RECHECK) ->
#ifndef NO_RECHECK /* the tail is not read again */
        if
        :: tail != seen -> pending[_pid] = AGAIN; pc = READ_TAIL
        :: tail == seen && stopped -> gone[_pid] = 1; pc = ENDED /* SF_RAISE_STOP, and the loop ends */
        :: tail == seen && !stopped -> pc = (park <= step[_pid] -> WAIT : COUNT)
        fi;
#else
        if
        :: stopped -> gone[_pid] = 1; pc = ENDED
        :: else -> pc = (park <= step[_pid] -> WAIT : COUNT)
        fi;
#endif
        seen = 0
    }

    /* sf_worker_wait(): the kernel compares the word and puts to sleep in one move. Then sf_worker_resume(). */
    :: d_step {
        AT(WAIT) ->
#ifndef WAIT_BLIND /* the word is not compared */
        asleep[_pid] = !pending[_pid];
#else
        asleep[_pid] = 1;
#endif
        quick = 1;
        pc = READ_TAIL
    }
    :: d_step { pc == READ_TAIL && asleep[_pid] && LOOKS_AROUND -> asleep[_pid] = 0 }

#if JOINS
    /* sf_worker_join(), for a slot that had no rank: takes the lock, voids what is undecided, makes its slot taken with
     * its word set. It replays the log from its start. */
#ifndef JOIN_UNLOCKED
    :: d_step { AT(JOIN) && lock == 0 -> lock = CONTROLLERS + 1; pc = JOIN_VOIDS }
#else
    :: d_step { AT(JOIN) -> pc = JOIN_VOIDS }
#endif
    :: d_step {
        AT(JOIN_VOIDS) ->
#ifndef JOIN_VOIDS_NOTHING
        if
        :: tail > 0 -> make_void(tail - 1)
        :: else -> skip
        fi;
#endif
        pc = JOINED
    }
    :: d_step {
        AT(JOINED) ->
        joined = 1;
#ifndef JOIN_CLEAR /* its word is not set */
        pending[_pid] = 1;
#endif
        pc = UNLOCK
    }
    :: d_step { pc == UNLOCK -> lock = (lock == CONTROLLERS + 1 -> 0 : lock); pc = COUNT }
#endif

    :: d_step {
        deaths < DEATHS && !QUIET && pc != DEAD && pc != ENDED && pc != CHECKED ->
        deaths++;
        gone[_pid] = 1;
        waking = waking - (pc == WAKE);
        i = applied;
        do
        :: i < tail -> passed[i]++; forget(i); i++
        :: else -> break
        od;
        lock = (lock == CONTROLLERS + 1 && _pid == JOINER -> 0 : lock);
        step[_pid] = (TAKES -> step[_pid] : 0); pending[_pid] = 0; held[_pid] = 0; asleep[_pid] = 0;
        park = 0; stopped = 0; applied = 0; seen = 0; done = 0; quick = 0; i = 0; most = 0;
        parked = 0;
        pc = DEAD
    }
#if TAKES
    /* sf_worker_join(), with the lock in hand: find_front(), then sf_log_void_last(). A process that comes within its
     * first checkpoint is one that passes it at once. */
    :: d_step {
        pc == DEAD && takes < TAKES && lock == 0 ->
        takes++;
        lock = CONTROLLERS + 1;
        to_next_front()
    }
    :: d_step { pc == FRONT_STEP -> loaded = step[i]; pc = FRONT_APPLIED }
    :: d_step { pc == FRONT_APPLIED -> front_applied() }
    :: d_step {
        pc == FRONT_VOIDS ->
        front_of_the_dead();
        if
        :: tail > 0 -> make_void(tail - 1)
        :: else -> skip
        fi;
        pc = PLACE
    }
    :: atomic {
        pc == PLACE ->
        i = 0;
        do
        :: i < tail && kind[i] == OPEN && target[i] < VOID -> name_kind(i); i++
        :: i < tail && !(kind[i] == OPEN && target[i] < VOID) -> i++
        :: else -> break
        od;
        d_step { sit_down(_pid) }
    }
    :: d_step { pc == UNLOCK -> lock = 0; pc = COUNT }
    /* One may die while it writes where it has applied what. */
    :: d_step { pc == DEAD && takes < TAKES && applied_at[_pid] > 0 -> applied_at[_pid] = 0 }
#endif
    :: d_step { QUIET && finishes == _pid && RESTS -> finishes++ }
#ifdef ENDS
    :: d_step { timeout && !ended && _pid == 0 -> print_end() }
    :: d_step { timeout && ended && pc != CHECKED -> check_end_of_rank(_pid); pc = CHECKED }
#else
    :: d_step { timeout && pc != CHECKED -> check_end_of_rank(_pid); pc = CHECKED }
#endif
    od
}

/* --- a controller --- */

#define ID (_pid - RANKS)
#define DIES_SIGNALLING (pc == SIGNAL && deaths < DEATHS)
#if RANKS > 2
#define SLEEPER (asleep[0] || asleep[1] || asleep[2])
#else
#define SLEEPER (asleep[0] || asleep[1])
#endif
#define DIES_BEFORE_WAKES (pc == READ && deaths < DEATHS && SLEEPER)
inline doom()
{
    deaths++;
    partly = 1;
    pc = DOOMED
}

#ifdef NO_VOID_LAST /* a sender leaves the entry before its own as it is */
#define ORPHAN 0
#else
#define ORPHAN (tail > 0 && target[tail - 1] == NONE)
#endif

/* append_locked() and judge(): the last entry is decided. */
inline append()
{
    asked++;
    if
    :: tail > 0 ->
        park = before_park[tail - 1];
        after = before_target[tail - 1];
        if
        :: target[tail - 1] < VOID ->
            fold(park, kind[tail - 1], target[tail - 1]);
            after = target[tail - 1]
        :: else -> skip
        fi
    :: else -> park = (PARKED -> 1 : NEVER); after = PARKED
    fi;
    do
    :: i < RANKS && !TAKEN(i) -> i++
    :: else -> break
    od;
    if
    :: i == RANKS /* SF_REFUSED_ENDED */ ||
        (tail > 0 && kind[tail - 1] == STOP && target[tail - 1] != VOID) -> lock = 0; pc = IDLE; i = 0
    :: else ->
        sender[tail] = ID;
        before_park[tail] = park;
        before_target[tail] = after;
        i = 0;
        do
        :: i < RANKS -> passed[tail] = passed[tail] + gone[i]; i++
        :: else -> break
        od;
        tail++;
        if
        :: tail > 1 -> forget(tail - 2)
        :: else -> skip
        fi;
#if !COARSE
        begin_to_decide(RANKS, 0)
#else
        partly = 0;
        pc = SIGNAL
#endif
    fi;
    park = 0;
    after = 0
}

#define FREE (pc == IDLE && asked < REQUESTS && lock == 0 && (asked % CONTROLLERS == ID || lost[1 - ID]))

active [CONTROLLERS] proctype Controller()
{
    mtype pc = IDLE;
    byte i = 0, most = 0, park = 0, after = 0;
    bool parked = 0;

end:
    do
    /* sf_append(): locks, voids what the one before left undecided, publishes, decides, unlocks. */
    :: d_step { FREE && ORPHAN -> lock = ID + 1; pc = VOID_LAST }
    :: d_step { pc == VOID_LAST -> make_void(tail - 1); pc = APPEND }
    :: atomic {
        if
        :: d_step { FREE && !ORPHAN -> lock = ID + 1 }
        :: pc == APPEND
        fi;
        if
        :: tail > 0 && target[tail - 1] < VOID && kind[tail - 1] == OPEN -> name_kind(tail - 1)
        :: else -> skip
        fi;
        d_step { append() }
#if COARSE
        if
        :: d_step { pc == SIGNAL -> signal_first(RANKS); pc = READ }
        :: pc != SIGNAL
#if DEATHS
        :: d_step { DIES_SIGNALLING -> signal_first(0); doom() }
        :: d_step { DIES_SIGNALLING -> signal_first(1); doom() }
        :: d_step { DIES_SIGNALLING -> signal_first(2); doom() }
#if RANKS > 2
        :: d_step { DIES_SIGNALLING -> signal_first(3); doom() }
#endif
#endif
        fi
#endif
    }
    /* SF_NOTHING_TO_DO: no entry */
    :: d_step { FREE && !ORPHAN -> asked++ }
    :: d_step { pc == APPEND -> asked++; lock = 0; pc = IDLE }
#if !COARSE
    :: d_step { pc == SIGNAL && !QUIET -> signal(RANKS) }
    :: d_step { pc == READ -> read_step(RANKS, tail - 1) }
    :: d_step { pc == SWAP -> swap(tail - 1); begin_to_wake(IDLE); lock = (pc == IDLE -> 0 : lock) }
    :: d_step { pc == WAKE -> wake(IDLE); lock = (pc == IDLE -> 0 : lock) }
    :: d_step { pc == SIGNAL && QUIET -> i = 0; most = 0; parked = 0; lock = 0; pc = IDLE }
#else
    :: d_step { pc == READ -> read_all(RANKS, RANKS); swap(tail - 1); wake_all(); lock = 0; pc = IDLE }
#if DEATHS
    :: d_step {
        DIES_BEFORE_WAKES -> read_all(RANKS, RANKS); swap(tail - 1); deaths++; lost[ID] = 1; lock = 0; pc = DEAD
    }
    :: d_step { pc == READ && LATER_ONE(0, RANKS, 0, tail - 1) -> read_but(RANKS, 0, 0) }
    :: d_step { pc == READ && LATER_ONE(1, RANKS, 0, tail - 1) -> read_but(RANKS, 0, 1) }
#if RANKS > 2
    :: d_step { pc == READ && LATER_ONE(2, RANKS, 0, tail - 1) -> read_but(RANKS, 0, 2) }
#endif
    :: d_step { pc == READ_REST -> read_rest(); swap(tail - 1); wake_all(); lock = 0; pc = IDLE }
    :: d_step { pc == DOOMED -> lost[ID] = 1; lock = 0; pc = DEAD }
#endif
#endif

    :: d_step {
        deaths < DEATHS && !QUIET && pc != IDLE && pc != DEAD && pc != CHECKED && !COARSE ->
        deaths++;
        lost[ID] = 1;
        lock = 0;
        waking = waking - (pc == WAKE);
        i = 0; most = 0; parked = 0;
        pc = DEAD
    }
    :: d_step {
#ifdef ENDS
        ended &&
#endif
        timeout && pc != CHECKED ->
        assert(pc == DEAD || (pc == IDLE && asked == REQUESTS)); /* or it waits for ever */
        pc = CHECKED
    }
    od
}
