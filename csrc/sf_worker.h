/* The worker's side: the one load that a step costs, and what happens when it is not zero.
 *
 * A process has one worker. Its slot pointer starts on a private page whose word says ATTACH, moves to the rank's slot
 * in the control segment, and moves to a quiet private page when control is switched off or lost, and in forked
 * children. So the fast path never asks whether it is attached. */
#ifndef SF_WORKER_H
#define SF_WORKER_H

#include "sf_clock.h"
#include "sf_journal.h"
#include "sf_log.h"

extern _Atomic(struct sf_slot *) sf_worker_slot;
extern _Atomic int sf_worker_several; /* ranks, here or elsewhere; set before the pointer moves to the slot */

/* --- the fast path --- */

/* First a checkpoint is counted, then its word is looked at; in between the caller may let go of the GIL. The pointer
 * changes only by hands that publish a whole page first, and a step that lands on the page left behind is carried over
 * or belongs to a run that is lost. */

/* Counts a checkpoint: its step. Any thread, at any time. */
static inline uint64_t
sf_count(void)
{
    struct sf_slot *slot = atomic_load_explicit(&sf_worker_slot, memory_order_acquire);
    uint64_t stride = atomic_load_explicit(&slot->stride, memory_order_relaxed);
    return atomic_fetch_add(&slot->step, stride) + stride; /* seq_cst, before the word: see sf_slot.step */
}

/* The same for callers that take turns, with each other and with who attaches, lets go or forks: those that hold the
 * GIL. So a load and a store do for an add, and no count is lost and no step comes twice.
 *
 * Several ranks need the add as a barrier all the same. One rank does not:
 *
 *   What can happen. The step is stored before the word is loaded, but a processor may hold the store back and load
 *   first: so for this checkpoint, and for the few whose stores it can hold. A helper that sets the word after the
 *   last of these loads, and reads the step before the first of these stores is seen, decides on a target that the
 *   rank has passed.
 *   What can't. The rank reads its own step in order, and what it publishes of itself (state, applied, outcomes) it
 *   stores with release behind it. Before it parks it goes through the seq_cst operations of sf_turn(): nobody reads
 *   an old step of a rank that is seen parked. The word is loaded anew at each checkpoint, and once set stays set
 *   until the rank has looked at the log: the entry is missed by a few checkpoints, and not for good.
 *   Why it does no harm. A target is where all ranks apply an entry together, and there is no other rank. This one
 *   applies each entry at the first step at or above its target at which it sees the word, in the order of the log,
 *   and its fate tells that step. A step to park at that lies behind is one to park at now. No target lies below that
 *   of the entry before, however old the step was that was read. */
static inline uint64_t
sf_count_in_turn(void)
{
    struct sf_slot *slot = atomic_load_explicit(&sf_worker_slot, memory_order_acquire);

    if (atomic_load_explicit(&sf_worker_several, memory_order_relaxed))
        return sf_count();
    uint64_t step = atomic_load_explicit(&slot->step, memory_order_relaxed) +
                    atomic_load_explicit(&slot->stride, memory_order_relaxed);
    atomic_store_explicit(&slot->step, step, memory_order_relaxed);
    return step;
}

/* Whether a checkpoint that was counted takes the slow path. Any thread, without the GIL. */
static inline int
sf_asked(uint64_t step)
{
    struct sf_slot *slot = atomic_load_explicit(&sf_worker_slot, memory_order_acquire);
    return (int)(atomic_load(&slot->word) != 0) | (step >= atomic_load_explicit(&slot->alarm, memory_order_relaxed));
}

/* Both, for a caller whose turn it is. */
static inline int
sf_pass(uint64_t *step)
{
    *step = sf_count_in_turn();
    return sf_asked(*step);
}

/* The same for a checkpoint that does not count: it holds if the next one that counts would. */
static inline int
sf_look(uint64_t *step)
{
    struct sf_slot *slot = atomic_load_explicit(&sf_worker_slot, memory_order_acquire);

    *step = atomic_load_explicit(&slot->step, memory_order_relaxed);
    uint64_t next = *step + atomic_load_explicit(&slot->stride, memory_order_relaxed);
    return atomic_load_explicit(&slot->word, memory_order_acquire) != 0 ||
           next >= atomic_load_explicit(&slot->alarm, memory_order_relaxed);
}

static inline int
sf_pending(void)
{
    struct sf_slot *slot = atomic_load_explicit(&sf_worker_slot, memory_order_relaxed);
    uint32_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);

    return (word & ~SF_WORD_ATTACH) != 0;
}

/* --- when to yield the GIL --- */

/* Reading a clock costs more than the whole checkpoint, so calls are counted, and the clock is read after as many of
 * them as are expected to take a quarter of the interval. Fields are touched by several threads without the GIL in
 * free-threaded builds: relaxed, a lost count does no harm. */
struct sf_yield {
    _Atomic int64_t interval_ns; /* 0: every call. INT64_MAX: never. */
    _Atomic int64_t left;        /* calls until the clock is read */
    _Atomic int64_t budget;      /* what `left` was set to */
    _Atomic int64_t looked_ns;
    _Atomic int64_t yielded_ns;
};

void sf_yield_set(struct sf_yield *yield, int64_t interval_ns);
int sf_yield_look(struct sf_yield *yield, int64_t now);

/* Whether this call is to yield. */
static inline int
sf_yield_due(struct sf_yield *yield)
{
    int64_t left = atomic_load_explicit(&yield->left, memory_order_relaxed) - 1;

    atomic_store_explicit(&yield->left, left, memory_order_relaxed);
    if (__builtin_expect(left > 0, 1))
        return 0;
    if (atomic_load_explicit(&yield->interval_ns, memory_order_relaxed) == 0)
        return 1; /* `left` stays at or below 0, so that every call comes here */
    return sf_yield_look(yield, 0);
}

/* --- life --- */

/* Installs the fork hook; a second call changes nothing. 0 or -errno. */
int sf_worker_setup(void);

/* Where it stands in its job, for the call that follows: its rank, of how many. And the steps that each of its
 * checkpoints counts. Without it, the slot's number, as many as there are slots, and 1. */
void sf_worker_place(uint32_t rank, uint32_t world_size, uint32_t stride);

/* Makes this process the worker in `slot` of a control file that it makes at `path`. The checkpoints passed before are
 * carried over. 0 or -errno; then nothing has changed. */
int sf_worker_attach(const char *path, uint32_t slot_count, uint32_t slot, uint64_t cookie);

/* The same in a control file that another rank has made. It comes to everything that the log holds, since its steps
 * count from 0 as those of the others do. But if somebody has had the slot before, or the others are far ahead, or the
 * log holds no longer what they began with, it begins at the step where they are, with what is due later. Waits up to
 * timeout_ns for its turn at the log. 0, -EADDRINUSE if a living process has the slot, -EINVAL if there is no such
 * slot, -SF_EBUSY, or another error; then nothing has changed. */
#define SF_JOIN_LEAD 1024u /* checkpoints that ranks which begin together may be ahead of the last one to come */
int sf_worker_join(const char *path, uint32_t slot, uint64_t cookie, int64_t timeout_ns);

/* From here on nothing controls this process: the slot pointer moves to the quiet page. Keeps the mapping, since other
 * threads may be looking at it, and lets go of the record lock. */
void sf_worker_quiet(void);

/* The loop has swallowed the stop that was raised, and goes on: the worker runs. No change if it is not stopping. */
void sf_worker_stop_swallowed(void);

/* Where nothing controls this process, its checkpoints take the slow path from here on: it is to stop by itself. */
void sf_worker_stop_alone(void);

int sf_worker_attached(void);
struct sf_segment *sf_worker_segment(void);
uint64_t sf_worker_step(void);
/* A checkpoint that was counted was none of the loop: a function passed it that was called from outside. The step of
 * the loop. Whoever read the step meanwhile has read one that is too high by one: see SF_TURN_INNER. */
uint64_t sf_worker_uncount(void);
/* The loop begins again from where it was at an earlier step. A rank that leaves its loop for a reload goes back to the
 * step before that of the reload, so that its first checkpoint of the new code counts it once more: nothing was done
 * behind it, and what stands in the log for that step, a park above all, holds there as before. */
void sf_worker_set_back(uint64_t step);

/* --- the slow path; callers take turns (the Python side holds a lock) --- */

enum sf_action {
    SF_GO,
    SF_HOLD,
    SF_RAISE_STOP,
    SF_RAISE_RELOAD,
    SF_DELIVER,
    SF_AWAIT /* other hosts have not said yet whether entry `seq` is due here */
};

struct sf_turn {
    enum sf_action action;
    uint64_t seq;     /* of the entry that asks for the action */
    int64_t park_for; /* SF_HOLD: ns to stay parked, 0 for until resumed */
    uint64_t held;    /* SF_DELIVER: the pause that is in force where the mail is delivered, 0 if none is */
    struct sf_entry_view entry;
};

/* What a turn may do: SF_TURN_COUNTED is not set at a checkpoint that does not count, which applies nothing and can
 * only hold. With SF_TURN_NO_RELOAD a reload, and all that stands behind it in the log, is left for a later turn; with
 * SF_TURN_NO_MAIL a value to set or a function to call. */
#define SF_TURN_COUNTED 1
#define SF_TURN_NO_RELOAD 2
#define SF_TURN_NO_MAIL 4
/* The checkpoint is one of a function that was called from outside, and was uncounted. The loop stands still meanwhile,
 * so what is asked for its next step is due here, at this one; and what was decided from a step too high by one. */
#define SF_TURN_INNER 8

/* Applies every entry whose step has come, and says what the loop has to do. 0, or an SF_E error: then control is
 * lost. */
int sf_turn(uint64_t step, int may, struct sf_turn *turn);

/* What came of entry seq, a reload or one with mail, that the caller was handed: it was done, or could not be. */
void sf_worker_tell(uint64_t seq, uint64_t step, int failed);

/* Votes on entry seq, which was applied. One rank is always of one mind. Returns what came of it so far, as
 * sf_agreed(). */
unsigned sf_worker_vote(uint64_t seq, enum sf_phase phase, int yes);
unsigned sf_worker_agreed(uint64_t seq, enum sf_phase phase, int give_up);

/* From this step on each checkpoint takes the slow path, whatever the log says; SF_NEVER ends it. */
void sf_worker_watch(uint64_t step);

/* Where what is applied is written down: see sf_journal.h. */
struct sf_journal *sf_worker_journal(void);

/* For who was parked at `step`, which was counted, and has been woken: applies a resume, if that is all that the log
 * holds. 1 if the loop goes on; 0 if sf_turn() is to find out, which goes on from wherever this has come to. */
int sf_worker_resume(uint64_t step);

/* How far this rank has come in the log, and how far that reaches. 0 and 0 if it is not attached. */
void sf_worker_in_the_log(uint64_t *applied, uint64_t *tail);

/* The worker is parked for entry seq, its hooks have run. */
void sf_worker_parked(uint64_t seq, uint64_t step, int64_t deadline_ns);

/* It waits no more, whatever the log says: a signal ended the wait. No change if it is not parked. */
void sf_worker_unparked(uint64_t step);

/* Waits until the word changes, for up to timeout_ns. 0, -ETIMEDOUT, -EINTR, or -EFAULT when the file is gone. */
int sf_worker_wait(int64_t timeout_ns);

/* The interpreter ends. 0, or what was wrong with the control file, of which nobody had heard yet. */
int sf_worker_end(uint32_t state);

/* --- progress of track() loops --- */

/* When a loop began: CLOCK_MONOTONIC, and what the worker had been parked in all by then. */
struct sf_since {
    int64_t began_ns, parked_ns;
};

/* A level, or -1 if none is free. `since`: of a loop that goes on after a reload; where began_ns is 0, it begins now
 * and this is filled in. */
int sf_level_enter(uint64_t total, struct sf_since *since);
void sf_level_leave(int level);

static inline void
sf_level_done(int level, uint64_t done)
{
    struct sf_slot *slot = atomic_load_explicit(&sf_worker_slot, memory_order_acquire);
    if (level >= 0)
        atomic_store_explicit(&slot->level[level].done, done, memory_order_relaxed);
}

#endif
