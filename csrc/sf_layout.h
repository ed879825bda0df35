/* The control segment: what lies where in the file `control` of a run folder.
 *
 * One process (the worker) makes the file; any number of processes of the same user map it. Everything in it is
 * of fixed width, every offset is asserted below, and SF_LAYOUT_VERSION is raised whenever layout or meaning change.
 *
 *   0      header     one page
 *   4096   log        SF_LOG_CAPACITY entries
 *   ...    slots      one per rank
 *
 * Layout versions
 *   1  first
 *   2  requests to set a value and to call a function
 *   3  several ranks: what each has done of an entry, votes, strides, entries of which the target comes from elsewhere
 */
#ifndef SF_LAYOUT_H
#define SF_LAYOUT_H

#include <assert.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define SF_MAGIC UINT64_C(0x3154464b52415053) /* "SPARKFT1", read as a little-endian number */
#define SF_LAYOUT_VERSION 3u

#define SF_PAGE 4096u
#define SF_LOG_CAPACITY 128u /* a power of two */
#define SF_LOG_SPARE 16u     /* of which values and calls leave so many to the other kinds */
#define SF_LEVELS 4          /* nested track() loops that are shown */
#define SF_SENDER_MAX 64
#define SF_MAIL_MAX 64
#define SF_SLOTS_MAX 65536u

#define SF_NEVER UINT64_MAX             /* a step that no loop reaches */
#define SF_STEP_MAX (UINT64_C(1) << 62) /* no honest step, target or argument is larger */
#define SF_TARGET_NONE UINT64_MAX       /* not decided yet */
#define SF_TARGET_VOID (UINT64_MAX - 1) /* decided: never to be applied */

/* Bits of sf_slot.word. The loop takes the slow path while any of them is set. */
#define SF_WORD_PENDING 1u /* the log holds something that this rank has not applied. Set by senders and helpers. */
#define SF_WORD_HELD 2u    /* this rank is parked. Set and cleared by the rank itself. */
#define SF_WORD_STOPPED 4u /* this rank is to stop: every checkpoint raises. Set by the rank itself. */
#define SF_WORD_ATTACH 8u  /* only on the private page of a process that is no worker yet */

enum sf_kind {
    SF_PAUSE = 1, /* arg: the step to park at, 0 for now. duration: ns to stay parked, 0 for until resumed. */
    SF_RESUME = 2,
    SF_STOP = 3,
    SF_RELOAD = 4,
    SF_ADVANCE = 5, /* arg: steps to run before parking */
    SF_SET = 6,     /* mail: the value and its name */
    SF_CALL = 7,    /* mail: the function's name and its arguments */
    SF_KIND_END = 8
};

/* The worker's state, after what it did last. Only the worker writes it.
 *
 *   state        event                                   next
 *   IDLE         first checkpoint passed                 RUNNING
 *   RUNNING      parked at a checkpoint, hooks are done  PARKED
 *   PARKED       a resume or an advance is applied       RUNNING
 *   RUNNING      a stop is applied (also from PARKED)    STOPPING
 *   STOPPING     the loop swallows the stop, goes on      RUNNING
 *   RUNNING      a reload is applied (also from PARKED)  RELOADING
 *   RELOADING    a checkpoint passed                     RUNNING
 *   any          the interpreter ends: after a stop      STOPPED
 *                              with no error             FINISHED
 *                              with an uncaught error    FAILED
 *   any          killed                                  stays; the record lock on the slot is gone
 */
enum sf_worker_state {
    SF_STATE_NONE = 0,
    SF_STATE_IDLE = 1,
    SF_STATE_RUNNING = 2,
    SF_STATE_PARKED = 3,
    SF_STATE_STOPPING = 4,
    SF_STATE_RELOADING = 5,
    SF_STATE_STOPPED = 6,
    SF_STATE_FINISHED = 7,
    SF_STATE_FAILED = 8,
    SF_STATE_END = 9
};

/* The state of a run after a prefix of its log: nothing but the fold of that prefix. */
struct sf_state {
    uint64_t target;     /* of the last entry: the next one's is no smaller */
    uint64_t park;       /* the step at which ranks park, SF_NEVER if they run */
    uint64_t park_seq;   /* sequence number of the entry that asked for it, 0 if none */
    uint64_t stop_seq;   /* sequence number of the stop, 0 if none */
    uint64_t reload_seq; /* sequence number of the last reload, 0 if none */
    int64_t park_for;    /* ns to stay parked, 0 for until resumed */
};

/* How an entry ended, beyond its target. Begins as SF_OUTCOME_OPEN with the entry's own sequence number, so that a
 * late compare-and-swap can never hit an entry that has taken its place in the ring. */
#define SF_OUTCOME_OPEN 0u
#define SF_OUTCOME_APPLIED 1u    /* value: the step */
#define SF_OUTCOME_SUPERSEDED 2u /* value: the sequence number of the entry that took its place */
#define SF_OUTCOME_FAILED 3u     /* value: the step */
#define SF_OUTCOME(code, value) (((uint64_t)(code) << 62) | ((uint64_t)(value) & (SF_STEP_MAX - 1)))
#define SF_OUTCOME_CODE(outcome) ((unsigned)((outcome) >> 62))
#define SF_OUTCOME_VALUE(outcome) ((outcome) & (SF_STEP_MAX - 1))

#define SF_RANKS_ALL 0u
#define SF_ENTRY_FAILED 1u /* a bit of sf_entry.agreed */

/* What ranks vote on, in this order, before they go on together with a reload. A rank that votes on a phase has voted
 * yes on those before it. */
enum sf_phase { SF_PHASE_READY, SF_PHASE_EXECUTED, SF_PHASE_PROVED, SF_PHASE_END };
#define SF_VOTE_YES 1u
#define SF_VOTE_NO 2u
#define SF_VOTE_OVER 3u /* needs the entry no longer; voted yes, or joined later */
#define SF_VOTE(seq, phase, said) (((uint64_t)(seq) << 4) | ((uint64_t)(phase) << 2) | (said))
#define SF_VOTE_SEQ(vote) ((vote) >> 4)
#define SF_VOTE_PHASE(vote) ((unsigned)((vote) >> 2) & 3u)
#define SF_VOTE_SAID(vote) ((unsigned)(vote) & 3u)
#define SF_VERDICT(phase) (8u + 2u * (unsigned)(phase))       /* the verdict's place in sf_entry.agreed */
#define SF_VERDICT_HERE(phase) (16u + 2u * (unsigned)(phase)) /* the place of the verdict of this host alone */

/* One request. The sender writes it while it holds the log's lock, before it publishes the tail; afterwards only
 * `target` and `outcome` change, once each, by compare-and-swap. */
struct sf_entry {
    _Atomic uint64_t number;  /* sequence number, from 1; entry n lies at (n - 1) % SF_LOG_CAPACITY. 0: being written */
    _Atomic uint64_t target;  /* decided by the first swap of any helper, seq_cst; pairs with every rank's load */
    _Atomic uint64_t outcome; /* swapped by ranks with release; read by senders with acquire */
    uint64_t id;
    uint32_t kind;
    int32_t sender_pid;
    uint64_t arg;
    int64_t duration_ns;
    int64_t asked_ns; /* CLOCK_REALTIME */
    struct sf_state before;
    uint32_t ranks; /* SF_SET, SF_CALL: SF_RANKS_ALL, or the rank that does it, plus one; the others skip it */
    /* Bit 0: a rank has failed at it. From SF_VERDICT on two bits for each vote, SF_VOTE_YES or SF_VOTE_NO once it is
     * decided, by compare-and-swap; from SF_VERDICT_HERE on the verdict of this host's ranks, if other hosts have a
     * say in it. */
    _Atomic uint32_t agreed;
    /* 0: the target is decided here. Else other hosts have a say in it, and this is the earliest step that this host
     * can take: SF_TARGET_NONE until it is known, then swapped once. From that step on a rank waits for the target. */
    _Atomic uint64_t low;
    char sender[SF_SENDER_MAX]; /* the name of the sender, for people to read; ends with a zero byte */
    char mail[SF_MAIL_MAX];     /* name of a file in mail/, or empty */
};

struct sf_header {
    _Atomic uint64_t magic; /* stored last, with release; every reader loads it with acquire */
    uint32_t layout_version;
    uint32_t header_size;
    uint32_t entry_size;
    uint32_t log_capacity;
    uint32_t slot_size;
    uint32_t slot_count;
    uint64_t log_offset;
    uint64_t slots_offset;
    uint64_t file_size;
    int64_t created_ns;  /* CLOCK_REALTIME */
    uint32_t world_size; /* ranks of the whole job; slot_count of them run on this host */

    /* Entries 1..tail exist. Stored seq_cst by the sender that holds the log's lock: the store is the moment from
     * which a request exists. Pairs with the loads of clear_word() in sf_apply.c. */
    alignas(128) _Atomic uint64_t tail;
    _Atomic int32_t lock_pid; /* the process that is appending, or died while it was; else 0 */

    /* A futex that waiting processes sleep on. A worker raises it with release after each change that it publishes. */
    alignas(128) _Atomic uint32_t changes;
};

struct sf_level {
    _Atomic uint64_t total;    /* items, 0 if not known */
    _Atomic uint64_t done;     /* items that the loop body has finished */
    _Atomic int64_t began_ns;  /* CLOCK_MONOTONIC, 0: this level is free */
    _Atomic int64_t parked_ns; /* sf_slot.parked_ns when the loop began */
};

/* One rank. Only its worker writes it, but for `word`. Two ranks never share a line or a prefetched pair of lines. */
struct sf_slot {
    /* Read by the worker on each step, raised by others with a seq_cst read-modify-write; a futex. */
    alignas(128) _Atomic uint32_t word;
    _Atomic uint32_t stride; /* steps that a checkpoint counts, 1 or more; set by the worker before it attaches */
    /* Checkpoints passed. Of several ranks each raises its own seq_cst *before* it loads `word`, and helpers load it
     * seq_cst *after* they have set `word`: so either the worker sees the word at step k, or the helper reads k or
     * more. The only rank of a run stores it relaxed, and a helper may read less: see sf_count_in_turn(). */
    _Atomic uint64_t step;
    /* The step at which the worker itself wants the slow path. Written and read by the worker, relaxed. Zero (a page
     * laid over a lost file) takes the slow path at once. */
    _Atomic uint64_t alarm;
    /* The pause that the rank is parked for at a checkpoint that does not count, without having applied it; else 0.
     * Seq_cst, as `done`. */
    _Atomic uint64_t held;
    /* The step at which it applied entry `applied`, for ranks that join; SF_NEVER while the two are being written. */
    _Atomic uint64_t applied_at;
    /* CLOCK_REALTIME at which another process first saw that this one has died without an end state; else 0. */
    _Atomic int64_t lost_ns;

    alignas(128) _Atomic uint32_t state; /* enum sf_worker_state; release by the worker, acquire by watchers */
    _Atomic int32_t pid;                 /* in the worker's own namespace; for people, never a proof of life */
    _Atomic uint64_t cookie;             /* drawn by the worker at attach: whether the slot is still its own */
    _Atomic uint64_t applied;            /* entries 1..applied are done; release by the worker, acquire by senders */
    _Atomic uint64_t seen;               /* the tail when the worker last looked */
    _Atomic int64_t attached_ns;         /* CLOCK_REALTIME */
    _Atomic int64_t state_ns;            /* CLOCK_REALTIME of the last change of state */
    /* A step and the CLOCK_MONOTONIC time at which it was the newest: for the mean speed since the worker last
     * began to run. mark_ns is 0 while the pair is being written. */
    _Atomic uint64_t mark_step;
    _Atomic int64_t mark_ns;
    _Atomic int64_t parked_ns;   /* time spent parked in all, CLOCK_MONOTONIC */
    _Atomic int64_t park_ns;     /* CLOCK_MONOTONIC at which the present park began, 0 while not parked */
    _Atomic uint64_t wakes;      /* times that a park was interrupted to look around */
    _Atomic int64_t deadline_ns; /* CLOCK_REALTIME at which a timed pause ends by itself, 0 if never */
    /* One bit for each place in the log: the rank has done what the entry asks for, or had nothing to do. Cleared by
     * the rank before it publishes that the entry is applied, set seq_cst when it is done: of two ranks that are done
     * at the same time, at least one sees both bits. */
    _Atomic uint64_t done[SF_LOG_CAPACITY / 64];
    _Atomic uint64_t vote;       /* SF_VOTE() of this rank's last vote; seq_cst, as `done` */
    _Atomic uint32_t rank;       /* in the whole job */
    _Atomic uint32_t generation; /* how many workers have had this slot, this one included */

    alignas(128) struct sf_level level[SF_LEVELS];
};

static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && ATOMIC_INT_LOCK_FREE == 2,
              "processes can't share a lock inside an atomic");
static_assert((SF_LOG_CAPACITY & (SF_LOG_CAPACITY - 1)) == 0, "indices wrap by masking");
static_assert(sizeof(struct sf_state) == 48, "layout 3");
static_assert(sizeof(struct sf_entry) == 256, "layout 3");
static_assert(offsetof(struct sf_entry, before) == 64, "layout 3");
static_assert(sizeof(struct sf_header) <= SF_PAGE, "layout 3");
static_assert(offsetof(struct sf_header, tail) == 128, "layout 3");
static_assert(offsetof(struct sf_header, changes) == 256, "layout 3");
static_assert(offsetof(struct sf_slot, step) == 8, "layout 3");
static_assert(offsetof(struct sf_slot, alarm) == 16, "layout 3");
static_assert(offsetof(struct sf_slot, held) == 24, "layout 3");
static_assert(offsetof(struct sf_slot, applied_at) == 32, "layout 3");
static_assert(offsetof(struct sf_slot, state) == 128, "layout 3");
static_assert(offsetof(struct sf_slot, mark_ns) == offsetof(struct sf_slot, mark_step) + 8, "read as a pair");
static_assert(offsetof(struct sf_slot, level) == 256, "layout 3");
static_assert(sizeof(struct sf_slot) == 384, "layout 3");
static_assert(SF_PHASE_END <= 4, "a vote has two bits for its phase");

#define SF_LOG_OFFSET ((uint64_t)SF_PAGE)
#define SF_SLOTS_OFFSET (SF_LOG_OFFSET + SF_LOG_CAPACITY * (uint64_t)sizeof(struct sf_entry))
static_assert(SF_SLOTS_OFFSET % 128 == 0, "slots keep their alignment");
#define SF_FILE_SIZE(slots) (SF_SLOTS_OFFSET + (uint64_t)(slots) * sizeof(struct sf_slot))

#endif
