/* The worker: the loop's side of a run.
 *
 * How to read the worker: a step of the loop costs one load of a word, the fast path below. While the word is not zero,
 * the checkpoint takes the slow path: sf_apply.h. How a process becomes a worker of a run that another rank has made,
 * sf_join.c.
 *
 * A process has one worker, `sf_process_worker`. Tests make more of them. A worker counts its checkpoints on a page,
 * which has the layout of a slot:
 *   - at first on the attach page, a private one, whose word says ATTACH;
 *   - once it is attached on the rank's slot in the control segment;
 *   - on the detached page, a private one with a clear word, when control is switched off or lost, and in forked
 *     children.
 * So the fast path never asks whether the worker is attached. */
#ifndef SF_WORKER_H
#define SF_WORKER_H

#include "sf_clock.h"
#include "sf_journal.h"
#include "sf_segment.h"
#include "sf_state.h"

/* What the fast path reads of a worker. For the process worker both addresses are constants of the code. */
struct sf_counter {
    _Atomic(struct sf_slot *) *page;
    _Atomic int *has_peers; /* the job has more ranks, on this host or others; set before `page` moves to the slot */
};

extern _Atomic(struct sf_slot *) sf_process_page;
extern _Atomic int sf_process_has_peers;
static const struct sf_counter sf_process_counter = {&sf_process_page, &sf_process_has_peers};

/* All that the slow path knows of a worker, in the worker's own memory. It publishes a copy in the segment for others,
 * and never trusts that copy, which any process of the user can damage. */
struct sf_worker {
    struct sf_counter counter;
    struct sf_slot *attach_page, *detached_page;
    _Atomic(struct sf_slot *) slot; /* its slot in the segment; NULL if not attached */
    uint32_t number;                /* of its slot */
    uint32_t rank, world_size;      /* world_size 0: sf_worker_place() was not called */
    uint32_t stride;                /* steps that a checkpoint counts */
    uint64_t cookie;
    uint64_t applied; /* it has applied entries 1..applied of the log */
    uint64_t watch;   /* from this step on its own Python code wants the slow path */
    struct sf_state state;
    struct sf_journal journal;
    struct sf_segment segment;
};

#define SF_ATTACH_PAGE {.word = SF_WORD_ATTACH, .stride = 1, .alarm = SF_NEVER}
#define SF_DETACHED_PAGE {.word = 0, .stride = 1, .alarm = SF_NEVER}

extern struct sf_worker sf_process_worker;

/* --- the fast path --- */

/* A checkpoint is first counted, then its word is loaded; in between the caller may release the GIL. A worker moves
 * to another page only when that page is complete. A step that is counted on the page left behind is carried over, or
 * belongs to a run that is lost. */

/* Counts a checkpoint and returns its step. Any thread may call it at any time. */
static inline uint64_t
sf_count(struct sf_counter counter)
{
    struct sf_slot *slot = atomic_load_explicit(counter.page, memory_order_acquire);
    uint64_t stride = atomic_load_explicit(&slot->stride, memory_order_relaxed);
    return atomic_fetch_add(&slot->step, stride) + stride; /* seq_cst, before the word: see sf_slot.step */
}

/* The same for callers that hold the GIL, and so take turns with each other and with the code that attaches, detaches
 * or forks. A load and a store do for an add: no count is lost and no step comes twice.
 *
 * Several ranks need the add as a barrier all the same. One rank does not:
 *
 *   What can happen. The step is stored before the word is loaded, but a processor may hold the store back and load
 *   first: so for this checkpoint, and for the few whose stores it can hold. A helper that sets the word after the
 *   last of these loads, and reads the step before the first of these stores is visible, decides on a target that the
 *   rank has passed.
 *   What can't. The rank reads its own step in order, and what it publishes of itself (state, applied, outcomes) it
 *   stores with release behind it. Before it parks it goes through the seq_cst operations of sf_apply_due(): no other
 *   process reads an old step of a rank that it sees parked. The word is loaded anew at each checkpoint, and once set
 *   stays set until the rank has looked at the log: a rank sees the entry a few checkpoints late, but it sees it.
 *   Why it does no harm. A target is where all ranks apply an entry together, and there is no other rank. This one
 *   applies each entry at the first step at or above its target at which it sees the word, in the order of the log,
 *   and the entry's outcome names that step. A step to park at that lies behind is one to park at now. No target is
 *   smaller than that of the entry before, however old the step was that was read. */
static inline uint64_t
sf_count_in_turn(struct sf_counter counter)
{
    struct sf_slot *slot = atomic_load_explicit(counter.page, memory_order_acquire);

    if (atomic_load_explicit(counter.has_peers, memory_order_relaxed))
        return sf_count(counter);
    uint64_t step = atomic_load_explicit(&slot->step, memory_order_relaxed) +
                    atomic_load_explicit(&slot->stride, memory_order_relaxed);
    atomic_store_explicit(&slot->step, step, memory_order_relaxed);
    return step;
}

/* Whether a checkpoint that was counted takes the slow path. Any thread, without the GIL. */
static inline int
sf_asked(struct sf_counter counter, uint64_t step)
{
    struct sf_slot *slot = atomic_load_explicit(counter.page, memory_order_acquire);
    return (int)(atomic_load(&slot->word) != 0) | (step >= atomic_load_explicit(&slot->alarm, memory_order_relaxed));
}

/* Both, for a caller that holds the GIL. */
static inline int
sf_pass(struct sf_counter counter, uint64_t *step)
{
    *step = sf_count_in_turn(counter);
    return sf_asked(counter, *step);
}

/* Whether a checkpoint that does not count takes the slow path: it does if the next one that counts would. */
static inline int
sf_look(struct sf_counter counter, uint64_t *step)
{
    struct sf_slot *slot = atomic_load_explicit(counter.page, memory_order_acquire);

    *step = atomic_load_explicit(&slot->step, memory_order_relaxed);
    uint64_t next = *step + atomic_load_explicit(&slot->stride, memory_order_relaxed);
    return atomic_load_explicit(&slot->word, memory_order_acquire) != 0 ||
           next >= atomic_load_explicit(&slot->alarm, memory_order_relaxed);
}

/* Whether a request waits for this worker. */
static inline int
sf_pending(struct sf_counter counter)
{
    struct sf_slot *slot = atomic_load_explicit(counter.page, memory_order_relaxed);
    uint32_t word = atomic_load_explicit(&slot->word, memory_order_relaxed);

    return (word & ~SF_WORD_ATTACH) != 0;
}

/* The step that was counted last. */
static inline uint64_t
sf_step(struct sf_counter counter)
{
    return atomic_load_explicit(&atomic_load(counter.page)->step, memory_order_relaxed);
}

/* --- life --- */

/* Installs the fork hook of the process worker; a second call changes nothing. 0 or -errno. */
int sf_worker_setup(void);

/* Sets the worker's rank, the number of ranks of its job and the steps that each of its checkpoints counts. Call it
 * before the worker attaches or joins. Without it the rank is the slot's number, the job has as many ranks as the
 * file has slots, and a checkpoint counts one step. */
void sf_worker_place(struct sf_worker *worker, uint32_t rank, uint32_t world_size, uint32_t stride);

/* Makes a control file at `path` and takes slot `slot` of it. The checkpoints passed before are carried over. 0 or
 * -errno; then nothing has changed. */
int sf_worker_attach(struct sf_worker *worker, const char *path, uint32_t slot_count, uint32_t slot, uint64_t cookie);

/* Takes a slot of a control file that another rank has made.
 *
 * The worker applies the whole log, since its steps count from 0 as those of the other ranks do. But it begins at the
 * step where the others are, and applies only what is due later, if the slot had a worker before, if the others are
 * more than SF_JOIN_LEAD checkpoints ahead, or if the log no longer holds its first entries.
 *
 * Waits up to timeout_ns for the log's lock. 0, -EADDRINUSE if a living process has the slot, -EINVAL if there is no
 * such slot, -SF_EBUSY, or another error; then nothing has changed. */
#define SF_JOIN_LEAD 1024u /* checkpoints that ranks which start together may be ahead of the last one to join */
int sf_worker_join(struct sf_worker *worker, const char *path, uint32_t slot, uint64_t cookie, int64_t timeout_ns);

/* Ends the control of this process: the worker moves to the detached page and releases the record lock on its slot. The
 * mapping stays, since other threads may be reading it. */
void sf_worker_detach(struct sf_worker *worker);

/* In a forked child of a worker: its next checkpoint is the first of a process that is no worker yet. No change in a
 * worker. */
void sf_worker_begin_anew(struct sf_worker *worker);

/* The interpreter ends: publishes `state` and detaches. 0, or the error of the control file, which may have been
 * damaged since the last checkpoint. */
int sf_worker_end(struct sf_worker *worker, uint32_t state);

int sf_worker_attached(struct sf_worker *worker);
/* NULL if the worker is not attached. */
struct sf_segment *sf_worker_segment(struct sf_worker *worker);
/* Where the worker records what it applies: see sf_journal.h. */
struct sf_journal *sf_worker_journal(struct sf_worker *worker);

/* Takes back the last count, of a checkpoint in a function that was called from outside: it is no step of the loop.
 * Returns the loop's step. A process that reads the step in between reads one too high by one: see SF_DUE_INNER. */
uint64_t sf_worker_uncount(struct sf_worker *worker);

/* Sets the step back to an earlier one. A rank that leaves its loop for a reload goes back to the step before that of
 * the reload, so that the first checkpoint of the new code counts the same step again. Entries of the log for that
 * step, a pause above all, apply there as before. */
void sf_worker_set_back(struct sf_worker *worker, uint64_t step);

/* From this step on each checkpoint takes the slow path, whatever the log says; SF_NEVER ends it. */
void sf_worker_watch(struct sf_worker *worker, uint64_t step);

/* From here on the checkpoints of a detached process take the slow path: it is to stop by itself. */
void sf_worker_stop_alone(struct sf_worker *worker);

/* --- progress of track() loops, of the process worker --- */

/* When a loop began, CLOCK_MONOTONIC, and how long the worker had been parked in all by then. */
struct sf_since {
    int64_t began_ns, parked_ns;
};

/* Takes a level, or returns -1 if none is free. `since`: of a loop that continues after a reload; if its began_ns is 0,
 * the loop begins now, and `since` is filled in. */
int sf_level_enter(uint64_t total, struct sf_since *since);
void sf_level_leave(int level);

static inline void
sf_level_done(int level, uint64_t done)
{
    struct sf_slot *slot = atomic_load_explicit(&sf_process_page, memory_order_acquire);
    if (level >= 0)
        atomic_store_explicit(&slot->level[level].done, done, memory_order_relaxed);
}

#endif
