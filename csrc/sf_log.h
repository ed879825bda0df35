/* The log of a run: appending a request, deciding the step at which it is applied, folding it into the run's state.
 *
 * Turns. A sender holds the log's lock (a record lock on the log's bytes; the kernel frees it when the sender dies)
 * from before it writes an entry until the entry is decided. So an entry without a target has a sender that is alive
 * and holds the lock, or one that died; whoever finds the lock free knows that it died and makes the entry void.
 *
 * Deciding. Whoever meets an undecided entry sets every rank's word, then reads every rank's step, then swaps the
 * target from none to a step that no rank has passed. Every rank stores its step before it loads its word, all of it
 * seq_cst: so a rank that was read at step k sees its word at checkpoint k + 1 at the latest, and comes by the target.
 * With one rank there is nothing to agree on, and no such order: it may have passed the target by a few steps, and
 * applies the entry at the next checkpoint at which it sees its word. See sf_count_in_turn() in sf_worker.h.
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
    /* Not 0: the step at which it is applied, instead of one that is decided. For a rank that repeats a journal: it
     * appends what is due where it stands. No earlier than the entries before it. */
    uint64_t target;
    /* Not 0: append only if this is the sequence number of the pause in force. So a timed resume never ends a later
     * pause than the one that it belongs to. */
    uint64_t only_if_park_seq;
    uint32_t ranks; /* see sf_entry.ranks */
    /* Not 0: other hosts have a say in the target. The caller finds it out and commits it: see sf_commit(). */
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

/* Appends a request, wakes every rank and sees to it that a target is decided. Waits for its turn for up to timeout_ns;
 * any thread of any process of the run's owner may call it, not a signal handler. 0, -errno, or an SF_E error. */
int sf_append(struct sf_segment *segment, const struct sf_request *request, int64_t timeout_ns,
              struct sf_receipt *receipt);

/* For a rank that meets an entry without a target: helps to decide it if its sender is alive, voids it if not.
 * `standing` says that the rank is at a counted checkpoint and has applied nothing of this entry, so that it can still
 * act at the step where it is. 0 or -errno. */
#define SF_NO_RANK UINT32_MAX
int sf_decide_or_void(struct sf_segment *segment, uint64_t seq, uint32_t rank, int standing);

/* For those who wait for the fate of an entry: voids it if it has no target and its sender is dead. 0 or -errno. */
int sf_void_orphan(struct sf_segment *segment, uint64_t seq);

/* Commits the target of an entry that other hosts have a say in, or SF_TARGET_VOID. The target that it has: another
 * one, if somebody was first. */
uint64_t sf_commit(struct sf_segment *segment, uint64_t seq, uint64_t target);

/* Turns at the log: a descriptor to let go of it with, -SF_EBUSY when the time is up, or another error. */
int sf_log_lock(struct sf_segment *segment, int64_t timeout_ns);
void sf_log_unlock(struct sf_segment *segment, int fd);

/* With the log's lock in hand: the last entry, if it is undecided, had a sender that died. */
void sf_log_void_last(struct sf_segment *segment, uint64_t tail);

/* Whether a rank is, or is about to be, in this slot: seen from its state, whatever became of its process. For who asks
 * slot by slot: those below `empty`, 0 at first, are known to have had no rank. */
int sf_slot_taken(const struct sf_segment *segment, uint32_t slot, uint32_t *empty);

/* --- what the ranks of a run have to know of each other beyond the target --- */

/* Whether every rank that lives, but for the one in slot `self`, has done what entry seq asks for. */
int sf_all_done(const struct sf_segment *segment, uint64_t seq, uint32_t self);

/* The slot of the rank that alone is to do what an entry asks for; SF_NO_RANK if all are, or it has none on this host.
 */
uint32_t sf_only_slot(const struct sf_segment *segment, const struct sf_entry *entry);

/* For those who wait for the fate of an entry: tells what came of it, if the ranks that live are done with it, and
 * those that were not have died since. 1 if it is told, by this call or before; 0 if not; -ESRCH if all who were there
 * to do it have died, and nobody will. */
int sf_conclude(struct sf_segment *segment, uint64_t seq);

/* Whether a living process holds the slot, so that the others wait for it. Notes when it was first seen dead. */
int sf_rank_lives(const struct sf_segment *segment, uint32_t slot);

/* Whether a sender has the log's lock: 1, 0, or -errno. */
int sf_log_busy(int fd);

/* Tells those who watch the run that something was published. */
void sf_announce(struct sf_segment *segment);

#endif
