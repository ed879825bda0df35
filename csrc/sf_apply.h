/* The slow path of a checkpoint: applies the entries of the log that are due, and says what the loop has to do.
 *
 * Callers take turns: the Python side holds a lock. */
#ifndef SF_APPLY_H
#define SF_APPLY_H

#include "sf_view.h"
#include "sf_worker.h"

enum sf_action {
    SF_GO,
    SF_HOLD,
    SF_RAISE_STOP,
    SF_RAISE_RELOAD,
    SF_DELIVER,
    SF_AWAIT /* other hosts have not said yet whether entry `seq` is due here */
};

struct sf_due {
    enum sf_action action;
    uint64_t seq;     /* of the entry that asks for the action */
    int64_t park_for; /* SF_HOLD: ns to stay parked, 0 for until resumed */
    uint64_t held;    /* SF_DELIVER: the pause that is in force where the mail is delivered, 0 if none is */
    struct sf_entry_view entry;
};

/* What sf_apply_due() may do. Without SF_DUE_COUNTED the checkpoint does not count: it applies nothing and can only
 * hold. With SF_DUE_NO_RELOAD a reload, and every entry behind it in the log, is left for a later call; with
 * SF_DUE_NO_MAIL a value to set or a function to call. */
#define SF_DUE_COUNTED 1
#define SF_DUE_NO_RELOAD 2
#define SF_DUE_NO_MAIL 4
/* The checkpoint is one of a function that was called from outside, and its count was taken back. The loop stands still
 * meanwhile, so an entry for the loop's next step is due here; so is one whose target is too high by one. */
#define SF_DUE_INNER 8

/* Applies every entry whose step has come, up to the first that needs the caller. 0, or an SF_E error: then control is
 * lost. */
int sf_apply_due(struct sf_worker *worker, uint64_t step, int may, struct sf_due *due);

/* Publishes the outcome of entry seq, a reload or one with mail that the caller has handled. */
void sf_worker_publish_outcome(struct sf_worker *worker, uint64_t seq, uint64_t step, int failed);

/* Gives this rank's vote on entry seq, which it has applied. An only rank agrees with itself. Returns the verdict so
 * far, as sf_agreed() does. */
unsigned sf_worker_vote(struct sf_worker *worker, uint64_t seq, enum sf_phase phase, int yes);
unsigned sf_worker_agreed(struct sf_worker *worker, uint64_t seq, enum sf_phase phase, int give_up);

/* The number of the entry that this rank applied last, and that of the log's last entry. 0 and 0 if not attached. */
void sf_worker_in_the_log(struct sf_worker *worker, uint64_t *applied, uint64_t *tail);

/* --- parking --- */

/* Publishes that the worker is parked for entry seq; its hooks have run. */
void sf_worker_parked(struct sf_worker *worker, uint64_t seq, uint64_t step, int64_t deadline_ns);

/* Publishes that the worker no longer waits, whatever the log says: a signal ended the wait. No change if it is not
 * parked. */
void sf_worker_unparked(struct sf_worker *worker, uint64_t step);

/* Waits until the word changes, for up to timeout_ns. 0, -ETIMEDOUT, -EINTR, or -EFAULT when the file is gone. */
int sf_worker_wait(struct sf_worker *worker, int64_t timeout_ns);

/* For a worker that was parked at `step`, which was counted, and has been woken: applies a resume, if the log holds
 * nothing else that is new. 1 if the loop goes on; 0 if the caller must call sf_apply_due(), which continues from
 * whatever this call has done. */
int sf_worker_resume(struct sf_worker *worker, uint64_t step);

/* The loop has swallowed the stop that was raised, and goes on: publishes that the worker runs. No change if it is not
 * stopping. */
void sf_worker_stop_swallowed(struct sf_worker *worker);

#endif
