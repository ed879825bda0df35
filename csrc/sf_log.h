/* The log of a run: appending a request, deciding the step at which it is applied, and when all ranks are done with it.
 *
 * Turns. A sender holds the log's lock (a record lock on the log's bytes; the kernel frees it when the sender dies)
 * from before it writes an entry until the entry is decided. So an entry without a target has a sender that is alive
 * and holds the lock, or one that died. A process that finds the lock free knows that the sender died, and makes the
 * entry void.
 *
 * Deciding. A process that meets an undecided entry sets every rank's word, then reads every rank's step, then swaps
 * the target from none to a step that no rank has passed. Every rank stores its step before it loads its word, all of
 * it seq_cst: so a rank that was read at step k sees its word at checkpoint k + 1 at the latest, and passes the target
 * later. With one rank there is nothing to agree on, and no such order: it may have passed the target by a few steps,
 * and applies the entry at the next checkpoint at which it sees its word. See sf_count_in_turn() in sf_worker.h.
 */
#ifndef SF_LOG_H
#define SF_LOG_H

#include "sf_segment.h"
#include "sf_state.h"

struct sf_request {
    uint32_t kind;
    uint64_t id;
    uint64_t arg;
    int64_t duration_ns;
    /* Not 0: the step at which it is applied, instead of one that is decided. Used by a rank that replays a journal and
     * appends each entry at its step. Raised to the target of the entry before, if that is later. */
    uint64_t target;
    /* Not 0: append only if this is the sequence number of the pause in force. So a timed resume never ends a later
     * pause than the one that it belongs to. */
    uint64_t only_if_park_seq;
    uint32_t ranks; /* see sf_entry.ranks */
    /* Not 0: other hosts have a say in the target. The caller commits it: see sf_commit(). */
    int elsewhere;
    char sender[SF_SENDER_MAX];
    char mail[SF_MAIL_MAX];
};

enum sf_verdict {
    SF_APPENDED,
    SF_NOTHING_TO_DO, /* the log's state is what was asked for; seq: the entry that made it so, 0 if none */
    SF_REFUSED_STOPPING,
    SF_REFUSED_ENDED /* no rank is alive */
};

struct sf_receipt {
    enum sf_verdict verdict;
    uint64_t seq;
    uint64_t target;
    uint32_t stuck_rank; /* with -SF_EFULL: the rank that has applied the least */
};

/* Appends a request, wakes every rank and decides the target. Waits for the log's lock for up to timeout_ns. Any thread
 * of any process of the run's owner may call it, but no signal handler. 0, -errno, or an SF_E error. */
int sf_append(struct sf_segment *segment, const struct sf_request *request, int64_t timeout_ns,
              struct sf_receipt *receipt);

#define SF_NO_RANK UINT32_MAX

/* For a rank that meets an entry without a target: decides it if its sender is alive, makes it void if not. `standing`:
 * the rank is at a counted checkpoint and has not applied the entry, so that it can still act at this step. 0 or
 * -errno. */
int sf_decide_or_void(struct sf_segment *segment, uint64_t seq, uint32_t rank, int standing);

/* For a process that waits for the outcome of an entry: makes it void if it has no target and its sender is dead. 0 or
 * -errno. */
int sf_void_orphan(struct sf_segment *segment, uint64_t seq);

/* Commits the target, or SF_TARGET_VOID, of an entry that other hosts have a say in. Returns the target that the entry
 * has: another one if another process was first. */
uint64_t sf_commit(struct sf_segment *segment, uint64_t seq, uint64_t target);

/* Locks the log. A descriptor for sf_log_unlock(), -SF_EBUSY when the time is up, or another error. */
int sf_log_lock(struct sf_segment *segment, int64_t timeout_ns);
void sf_log_unlock(struct sf_segment *segment, int fd);

/* Makes the last entry void if it is undecided. The caller holds the log's lock, so the sender has died. */
void sf_log_void_last(struct sf_segment *segment, uint64_t tail);

/* Whether the slot has a rank, or one is taking it, as its state says; the process may have died. Callers ask slot by
 * slot: `empty`, 0 at first, remembers that the slots below it are known to have had no rank. */
int sf_slot_taken(const struct sf_segment *segment, uint32_t slot, uint32_t *empty);

/* --- when all ranks are done with an entry --- */

/* Whether every living rank, except the one in slot `self`, is done with entry seq. */
int sf_all_done(const struct sf_segment *segment, uint64_t seq, uint32_t self);

/* The slot of the only rank that an entry is for; SF_NO_RANK if it is for all, or that rank is not on this host. */
uint32_t sf_only_slot(const struct sf_segment *segment, const struct sf_entry *entry);

/* For a process that waits for the outcome of an entry: sets it if all living ranks are done with the entry and those
 * that were not have died. 1 if the outcome is set, by this call or before; 0 if not; -ESRCH if every rank that had to
 * do it has died, so that it stays open for ever. */
int sf_conclude(struct sf_segment *segment, uint64_t seq);

/* Whether a living process holds the slot, so that the others wait for it. Notes when it was first seen dead. */
int sf_rank_lives(const struct sf_segment *segment, uint32_t slot);

/* Whether a sender has the log's lock: 1, 0, or -errno. */
int sf_log_busy(int fd);

/* Wakes the processes that wait for a change of the run. */
void sf_announce(struct sf_segment *segment);

#endif
