/* What the tests of the core share: a worker's loop as spark_fast/worker/slow_path/checkpoint.py runs it, and a sender.
 */
#ifndef CORE_H
#define CORE_H

#include "harness.h"
#include "sf_lock.h"
#include "sf_point.h"
#include "sf_segment.h"
#include "sf_wait.h"
#include "sf_apply.h"
#include "sf_log.h"
#include "sf_vote.h"
#include "sf_yield.h"

/* The worker that most tests use. */
#define WORKER (&sf_process_worker)

#define LOG_BYTES SF_LOG_OFFSET, (SF_SLOTS_OFFSET - SF_LOG_OFFSET)
#define SLOT_BYTES(rank) SF_SLOTS_OFFSET + (uint64_t)(rank) * sizeof(struct sf_slot), sizeof(struct sf_slot)
#define ENTRY_OFFSET(seq) (SF_LOG_OFFSET + ((seq) - 1) % SF_LOG_CAPACITY * sizeof(struct sf_entry))

/* Makes this process the worker of rank 0 of a new control file in the test's folder: its path. */
const char *attach(void);
struct sf_segment open_segment(const char *path);

/* Appends; fails the test unless the verdict is SF_APPENDED. */
struct sf_receipt ask(struct sf_segment *segment, uint32_t kind, uint64_t argument);
struct sf_receipt ask_for(struct sf_segment *segment, const struct sf_request *request);
struct sf_request request_of(uint32_t kind, uint64_t argument);

/* One checkpoint that does not wait: GO if the fast path let it through. Publishes a park, as Python does. */
struct sf_due checkpoint(void);
/* The slow path once more at the same step, as a parked worker runs it after a wake. */
struct sf_due look_again(void);
uint64_t steps_passed(void);
/* Passes checkpoints that nothing is asked at, up to and with number `step`. */
void run_to(uint64_t step);

/* A progress level of a loop that begins now. */
int enter_level(uint64_t total);

/* One whole checkpoint, that waits as long as it is asked to: SF_GO, SF_RAISE_STOP, SF_RAISE_RELOAD or an error. */
int checkpoint_waiting(int64_t slice_ns);

struct sf_entry_view entry_of(const char *path, uint64_t seq);
struct sf_slot_view slot_of(const char *path);
struct sf_view view_of(const char *path);
unsigned outcome_of(const char *path, uint64_t seq);

/* --- several ranks: processes that do one thing after the other, as the test asks them to --- */

struct rank {
    pid_t pid;
    _Atomic uint32_t asked, answered; /* futexes */
    long (*what)(struct rank *self, uint64_t argument);
    uint64_t argument;
    long answer;
    uint64_t step;     /* of the checkpoint that it passed last */
    struct sf_due due; /* the result of that checkpoint */
    char path[256];
};

/* A process that is no rank yet. */
struct rank *rank_begin(void);
/* Has it do something: what that returned, or RANK_DIED. In two parts, for what goes on meanwhile. */
#define RANK_DIED (-100000)
long rank_do(struct rank *rank, long (*what)(struct rank *self, uint64_t argument), uint64_t argument);
void rank_ask(struct rank *rank, long (*what)(struct rank *self, uint64_t argument), uint64_t argument);
long rank_answer(struct rank *rank);
void rank_kill(struct rank *rank);
/* Waits until it stands still at a point that was armed with SIGSTOP. */
void rank_stopped(struct rank *rank);

/* Things to do. What applies requests returns an action or an error, and delivers no mail. */
long do_attach(struct rank *self, uint64_t slot_count); /* in slot 0 */
long do_join(struct rank *self, uint64_t slot);         /* waits for its turn for as long as it must */
long do_join_now(struct rank *self, uint64_t slot);
long do_set_back(struct rank *self, uint64_t step);
long do_stride(struct rank *self, uint64_t stride); /* before it attaches or joins */
long do_pass(struct rank *self, uint64_t may);      /* a counted checkpoint; `may` beyond that */
long do_look(struct rank *self, uint64_t unused);   /* one that does not count */
long do_again(struct rank *self, uint64_t may);     /* the last counted one once more */
long do_look_again(struct rank *self, uint64_t unused);
long do_park(struct rank *self, uint64_t seq);
long do_unpark(struct rank *self, uint64_t unused);
long do_tell(struct rank *self, uint64_t seq);
long do_tell_failed(struct rank *self, uint64_t seq);
long do_end(struct rank *self, uint64_t state);

/* It passes checkpoints at which nothing is due, up to and with number `step`. */
void rank_run_to(struct rank *rank, uint64_t step);
struct sf_slot_view slot_at(const char *path, uint32_t slot);
/* Fails unless the entry has this outcome. The macros take the path from the variable `path`. */
void check_fate(const char *path, uint64_t seq, unsigned outcome, uint64_t value);

#define APPLIED_AT(seq, step) check_fate(path, seq, SF_OUTCOME_APPLIED, step)
#define SUPERSEDED_BY(seq, other) check_fate(path, seq, SF_OUTCOME_SUPERSEDED, other)
#define OPEN(seq) check_fate(path, seq, SF_OUTCOME_OPEN, seq)

/* Has it killed, or stopped, at a named point. */
void rank_arm(struct rank *rank, const char *point, int signal_number);

#define DOES(rank, what, argument, result) CHECK_EQ(rank_do(rank, what, argument), result)
#define PASSES(rank, action) DOES(rank, do_pass, 0, action)

/* A process that appends one request and is killed at a named point. */
void send_and_die(const char *path, const char *point, uint32_t kind, uint64_t argument);

#endif
