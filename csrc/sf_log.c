#include "sf_log.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sf_clock.h"
#include "sf_lock.h"
#include "sf_point.h"
#include "sf_wait.h"

/* The thread sanitizer knows no fences. Only other processes read what this one orders, with pread. */
#ifdef __SANITIZE_THREAD__
#define SF_STORE_FENCE() ((void)0)
#else
#define SF_STORE_FENCE() atomic_thread_fence(memory_order_release)
#endif

#define LOG_LOCK SF_LOG_OFFSET, (SF_SLOTS_OFFSET - SF_LOG_OFFSET)

void
sf_announce(struct sf_segment *segment)
{
    atomic_fetch_add_explicit(&segment->header->changes, 1, memory_order_release);
    sf_wake(&segment->header->changes);
}

/* A worker that is still attaching counts: it sees the request at its first checkpoint. The system call costs more than
 * all the rest, so one call covers all neighbouring slots that have had no worker. */
int
sf_slot_taken(const struct sf_segment *segment, uint32_t slot, uint32_t *empty)
{
    uint32_t state = atomic_load(&segment->slots[slot].state), end = slot + 1;

    if (state != SF_STATE_NONE)
        return state < SF_STATE_STOPPED;
    if (slot < *empty)
        return 0;
    while (end < segment->slot_count && atomic_load(&segment->slots[end].state) == SF_STATE_NONE)
        end++;
    while (sf_slots_held(segment->fd, slot, end) != 0) {
        if (end == slot + 1)
            return 1;
        end = slot + (end - slot) / 2;
    }
    *empty = end;
    return 0;
}

/* Makes every rank take its slow path. Seq_cst, before the caller's reads of the steps. Returns whether a rank is
 * parked. */
static int
signal_ranks(struct sf_segment *segment)
{
    uint32_t empty = 0;
    int parked = 0;

    for (uint32_t r = 0; r < segment->slot_count; r++) {
        if (sf_slot_taken(segment, r, &empty))
            parked |= (atomic_fetch_or(&segment->slots[r].word, SF_WORD_PENDING) & SF_WORD_HELD) != 0;
    }
    return parked;
}

/* Wakes the parked ranks. A rank that parks a moment later finds the word changed and does not begin to wait. */
static void
wake_ranks(struct sf_segment *segment)
{
    for (uint32_t r = 0; r < segment->slot_count; r++) {
        if (atomic_load(&segment->slots[r].word) & SF_WORD_HELD)
            sf_wake(&segment->slots[r].word);
    }
}

/* Decides the target of an entry. Wakes the parked ranks only afterwards: before, they would all help to decide it. */
static void
decide(struct sf_segment *segment, uint64_t seq, uint32_t rank, int standing)
{
    struct sf_entry *entry = sf_entry_at(segment, seq);
    uint64_t target = 0;
    uint32_t empty = 0;
    int parked = signal_ranks(segment);

    SF_POINT("decide:signalled");
    for (uint32_t r = 0; r < segment->slot_count; r++) {
        struct sf_slot *slot = &segment->slots[r];

        if (!sf_slot_taken(segment, r, &empty))
            continue;
        /* A rank that helps can still act at the checkpoint where it is; the others can act at their next. */
        uint64_t next = atomic_load(&slot->step) + (r == rank && standing ? 0 : atomic_load(&slot->stride));
        if (next > SF_STEP_MAX || next <= target)
            continue;
        /* A dead rank does not harm the agreement, but its step might put the target far ahead of the others. The
         * system call costs more than all the rest, so it is made only where the answer matters. */
        if (segment->slot_count == 1 || r == rank || sf_slot_alive(segment->fd, r) != 0)
            target = next;
    }
    /* Ranks that park as the entries before this one say pass no later step; they apply this one there. */
    if (target > entry->before.park)
        target = entry->before.park;
    if (target < entry->before.target)
        target = entry->before.target;

    uint64_t none = SF_TARGET_NONE;
    if (atomic_load(&entry->low) == 0)
        atomic_compare_exchange_strong(&entry->target, &none, target);
    else
        atomic_compare_exchange_strong(&entry->low, &none, target);
    SF_POINT("decide:decided");
    if (parked)
        wake_ranks(segment);
}

uint64_t
sf_commit(struct sf_segment *segment, uint64_t seq, uint64_t target)
{
    struct sf_entry *entry = sf_entry_at(segment, seq);
    uint64_t none = SF_TARGET_NONE;

    if (!atomic_compare_exchange_strong(&entry->target, &none, target))
        return none;
    SF_POINT("commit:target");
    if (signal_ranks(segment))
        wake_ranks(segment);
    sf_announce(segment);
    return target;
}

int
sf_log_busy(int fd)
{
    return sf_lock_held(fd, LOG_LOCK);
}

/* Makes an undecided entry void, unless other hosts have a say in it: they may still decide it. */
static void
make_void(struct sf_entry *entry)
{
    uint64_t none = SF_TARGET_NONE;
    if (atomic_load(&entry->low) == 0)
        atomic_compare_exchange_strong(&entry->target, &none, SF_TARGET_VOID);
}

void
sf_log_void_last(struct sf_segment *segment, uint64_t tail)
{
    if (tail > 0)
        make_void(sf_entry_at(segment, tail));
}

int
sf_decide_or_void(struct sf_segment *segment, uint64_t seq, uint32_t rank, int standing)
{
    int busy = atomic_load(&sf_entry_at(segment, seq)->low) != 0 ? 1 : sf_log_busy(segment->fd);

    if (busy < 0)
        return busy;
    if (busy)
        decide(segment, seq, rank, standing);
    else
        make_void(sf_entry_at(segment, seq));
    return 0;
}

/* Opens the file of that name, if it is still the one that is mapped. */
static int
open_log(struct sf_segment *segment)
{
    struct stat status;
    int fd = sf_lock_open(segment->path);
    int rc = 0;

    if (fd < 0)
        return fd == -ENOENT ? -SF_EGONE : fd;
    if (fstat(fd, &status) != 0)
        rc = -errno;
    else if (status.st_dev != segment->device || status.st_ino != segment->inode)
        rc = -SF_EGONE;
    if (rc == 0)
        return fd;
    sf_lock_close(fd);
    return rc;
}

/* The lock belongs to an open file. Each call opens the file anew: threads that share one would share the lock. */
int
sf_log_lock(struct sf_segment *segment, int64_t timeout_ns)
{
    int fd = sf_kept_take(&segment->turn);
    int rc;

    if (fd < 0)
        fd = open_log(segment);
    if (fd < 0)
        return fd;
    rc = sf_lock(fd, LOG_LOCK, timeout_ns);
    if (rc == 0)
        return fd;
    sf_lock_close(fd);
    return rc == -EAGAIN ? -SF_EBUSY : rc;
}

void
sf_log_unlock(struct sf_segment *segment, int fd)
{
    if (segment->lock_fd < 0)
        sf_kept_give(&segment->turn, fd);
    else
        sf_lock_close(fd);
}

int
sf_void_orphan(struct sf_segment *segment, uint64_t seq)
{
    struct sf_entry *entry = sf_entry_at(segment, seq);
    int fd;

    if (atomic_load(&entry->target) != SF_TARGET_NONE)
        return 0;
    /* While the lock is held no living sender has an undecided entry, and no entry takes this one's place. */
    fd = sf_log_lock(segment, 0);
    if (fd == -SF_EBUSY)
        return 0;
    if (fd < 0)
        return fd;
    if (atomic_load(&entry->number) == seq)
        make_void(entry);
    sf_log_unlock(segment, fd);
    return 0;
}

/* Whether a request changes anything in this state. The caller holds the log's lock; the last entry is decided. */
static enum sf_verdict
judge(const struct sf_state *state, const struct sf_request *request, uint64_t *seq)
{
    *seq = 0;
    if (request->only_if_park_seq != 0 && request->only_if_park_seq != state->park_seq)
        return SF_NOTHING_TO_DO;
    if (state->stop_seq != 0) {
        *seq = state->stop_seq;
        return request->kind == SF_STOP ? SF_NOTHING_TO_DO : SF_REFUSED_STOPPING;
    }
    if (request->kind == SF_RESUME && state->park_seq == 0)
        return SF_NOTHING_TO_DO;
    return SF_APPENDED;
}

/* The living rank that has applied the least. -ENOENT if none is alive. */
static int
slowest(struct sf_segment *segment, uint32_t *rank, uint64_t *applied)
{
    uint32_t empty = 0;
    int found = 0;

    for (uint32_t r = 0; r < segment->slot_count; r++) {
        struct sf_slot *slot = &segment->slots[r];
        uint64_t mine;

        if (!sf_slot_taken(segment, r, &empty))
            continue;
        mine = atomic_load(&slot->applied);
        uint64_t vote = atomic_load(&slot->vote);
        if (SF_VOTE_SAID(vote) == SF_VOTE_YES && SF_VOTE_SEQ(vote) > 0 && SF_VOTE_SEQ(vote) <= mine)
            mine = SF_VOTE_SEQ(vote) - 1; /* it still needs the entry, to read the verdict */
        /* The system call costs more than all the rest, so it is made only where the answer matters. */
        if ((found && mine >= *applied) || sf_slot_alive(segment->fd, r) == 0)
            continue;
        *rank = r;
        *applied = mine;
        found = 1;
    }
    return found ? 0 : -ENOENT;
}

static int
append_locked(struct sf_segment *segment, const struct sf_request *request, struct sf_receipt *receipt)
{
    struct sf_header *header = segment->header;
    /* Acquire: earlier senders wrote their entries before they stored the tail. */
    uint64_t tail = atomic_load(&header->tail);
    uint64_t applied = 0;
    struct sf_state state = sf_state_first();
    int rc;

    if (tail > SF_STEP_MAX)
        return -SF_ECORRUPT;
    if (tail > 0) {
        struct sf_entry *last = sf_entry_at(segment, tail);

        if (atomic_load_explicit(&last->number, memory_order_acquire) != tail)
            return -SF_ECORRUPT;
        /* If it is undecided its sender died. It is void, unless a rank decides it at this moment. */
        make_void(last);
        if (atomic_load(&last->target) == SF_TARGET_NONE)
            return -SF_EBUSY; /* other hosts have not decided yet when it is due */
        SF_POINT("append:voided");
        rc = sf_state_after(last, tail, &state);
        if (rc < 0)
            return rc;
    }
    if (slowest(segment, &receipt->stuck_rank, &applied) < 0) {
        receipt->verdict = SF_REFUSED_ENDED;
        return 0;
    }
    receipt->verdict = judge(&state, request, &receipt->seq);
    if (receipt->verdict != SF_APPENDED)
        return 0;
    if (applied > tail)
        return -SF_ECORRUPT;
    /* With several ranks one entry stays: each may still vote on the one that it applied last. Values and calls, which
     * can come in a flood, leave room for a stop. */
    uint64_t room = SF_LOG_CAPACITY - (segment->slot_count > 1);
    if (request->kind == SF_SET || request->kind == SF_CALL)
        room -= SF_LOG_SPARE;
    if (tail - applied >= room)
        return -SF_EFULL;

    uint64_t seq = tail + 1;
    struct sf_entry *entry = sf_entry_at(segment, seq);
    atomic_exchange(&entry->number, 0);
    SF_STORE_FENCE(); /* no reader sees the new fields under the old number */
    atomic_store_explicit(&entry->target, SF_TARGET_NONE, memory_order_relaxed);
    atomic_store_explicit(&entry->outcome, SF_OUTCOME(SF_OUTCOME_OPEN, seq), memory_order_relaxed);
    entry->id = request->id;
    entry->kind = request->kind;
    entry->sender_pid = getpid();
    entry->arg = request->arg;
    entry->duration_ns = request->duration_ns;
    entry->asked_ns = sf_realtime_ns();
    entry->before = state;
    entry->ranks = request->ranks;
    atomic_store_explicit(&entry->agreed, 0, memory_order_relaxed);
    atomic_store_explicit(&entry->low, request->elsewhere ? SF_TARGET_NONE : 0, memory_order_relaxed);
    memcpy(entry->sender, request->sender, sizeof entry->sender);
    memcpy(entry->mail, request->mail, sizeof entry->mail);
    entry->sender[SF_SENDER_MAX - 1] = 0;
    entry->mail[SF_MAIL_MAX - 1] = 0;
    atomic_store_explicit(&entry->number, seq, memory_order_release);
    SF_POINT("append:written");

    atomic_store(&header->tail, seq); /* the request exists from this store on */
    SF_POINT("append:published");
    if (request->target != 0) {
        uint64_t none = SF_TARGET_NONE;
        uint64_t given = request->target > state.target ? request->target : state.target;
        atomic_compare_exchange_strong(&entry->target, &none, given);
    }
    decide(segment, seq, SF_NO_RANK, 0);
    SF_POINT("append:decided");
    receipt->seq = seq;
    receipt->target = atomic_load(&entry->target);
    return 0;
}

int
sf_append(struct sf_segment *segment, const struct sf_request *request, int64_t timeout_ns, struct sf_receipt *receipt)
{
    int fd, rc;

    memset(receipt, 0, sizeof *receipt);
    if (request->kind == 0 || request->kind >= SF_KIND_END || request->arg > SF_STEP_MAX)
        return -EINVAL;
    if ((request->kind == SF_ADVANCE && request->arg == 0) || request->target > SF_STEP_MAX)
        return -EINVAL;
    if (request->elsewhere && request->target != 0)
        return -EINVAL;
    SF_POINT("append:opened");
    fd = sf_log_lock(segment, timeout_ns);
    if (fd < 0)
        return fd;
    SF_POINT("append:locked");
    rc = sf_segment_check(segment);
    if (rc == 0) {
        /* The sender before died while it held the lock, maybe after it had decided and before it woke the ranks. Makes
         * its entry void first: a rank that wakes and finds the lock held believes that the sender lives. */
        if (atomic_exchange_explicit(&segment->header->lock_pid, (int32_t)getpid(), memory_order_relaxed) != 0) {
            sf_log_void_last(segment, atomic_load(&segment->header->tail));
            wake_ranks(segment);
        }
        rc = append_locked(segment, request, receipt);
        atomic_store_explicit(&segment->header->lock_pid, 0, memory_order_relaxed);
    }
    sf_log_unlock(segment, fd);
    SF_POINT("append:unlocked");
    if (rc == 0 && receipt->verdict == SF_APPENDED)
        sf_announce(segment);
    return rc;
}

/* --- when all ranks are done with an entry --- */

static int
has_done(const struct sf_slot *slot, uint64_t seq)
{
    uint64_t bit = (seq - 1) & (SF_LOG_CAPACITY - 1);

    /* In this order: the rank clears the bit that an older entry left before it publishes that this one is applied. */
    if (atomic_load(&slot->applied) >= seq)
        return (atomic_load(&slot->done[bit / 64]) >> (bit % 64) & 1) != 0;
    return atomic_load(&slot->held) == seq;
}

int
sf_rank_lives(const struct sf_segment *segment, uint32_t slot)
{
    uint32_t state = atomic_load(&segment->slots[slot].state);
    if (state == SF_STATE_NONE || state >= SF_STATE_STOPPED)
        return 0;
    if (sf_slot_alive(segment->fd, slot) != 0)
        return 1;
    sf_note_lost(segment, slot);
    return 0;
}

int
sf_all_done(const struct sf_segment *segment, uint64_t seq, uint32_t self)
{
    for (uint32_t r = 0; r < segment->slot_count; r++) {
        if (r != self && !has_done(&segment->slots[r], seq) && sf_rank_lives(segment, r))
            return 0;
    }
    return 1;
}

uint32_t
sf_only_slot(const struct sf_segment *segment, const struct sf_entry *entry)
{
    for (uint32_t r = 0; entry->ranks != SF_RANKS_ALL && r < segment->slot_count; r++) {
        if (atomic_load(&segment->slots[r].rank) == entry->ranks - 1)
            return r;
    }
    return SF_NO_RANK;
}

/* The step at which a rank with this stride was done with an entry: where it applied it, or parked for it. */
static uint64_t
done_at(const struct sf_entry *entry, uint64_t seq, uint64_t target, uint64_t stride)
{
    struct sf_state state = entry->before;

    if ((entry->kind == SF_PAUSE || entry->kind == SF_ADVANCE) && sf_state_fold(&state, entry, seq, target) == 0)
        target = state.park;
    return stride > 1 ? (target + stride - 1) / stride * stride : target;
}

int
sf_conclude(struct sf_segment *segment, uint64_t seq)
{
    struct sf_entry *entry = sf_entry_at(segment, seq);
    uint64_t target = atomic_load(&entry->target), outcome = atomic_load(&entry->outcome);
    uint32_t first = 0;

    if (atomic_load(&entry->number) != seq || seq == 0)
        return 0;
    if (outcome != SF_OUTCOME(SF_OUTCOME_OPEN, seq))
        return SF_OUTCOME_CODE(outcome) != SF_OUTCOME_OPEN;
    if (target > SF_STEP_MAX || segment->slot_count == 1)
        return 0;
    uint32_t only = sf_only_slot(segment, entry);
    if (only != SF_NO_RANK) {
        /* A rank sets the outcome before it marks the entry as done. If only the mark is there, another process has
         * taken the slot since. */
        if (sf_rank_lives(segment, only) && !has_done(&segment->slots[only], seq))
            return 0;
        return atomic_load(&entry->outcome) == outcome ? -ESRCH : 1;
    }
    if (!sf_all_done(segment, seq, SF_NO_RANK))
        return 0;
    /* A rank that joined later has marks for all earlier entries. They do not count. */
    while (first < segment->slot_count && !(has_done(&segment->slots[first], seq) &&
                                            atomic_load(&segment->slots[first].attached_ns) <= entry->asked_ns))
        first++;
    if (first == segment->slot_count)
        return -ESRCH;
    uint64_t at = done_at(entry, seq, target, atomic_load(&segment->slots[first].stride));
    unsigned failed = atomic_load(&entry->agreed) & SF_ENTRY_FAILED;
    if (!atomic_compare_exchange_strong(&entry->outcome, &outcome,
                                        SF_OUTCOME(failed ? SF_OUTCOME_FAILED : SF_OUTCOME_APPLIED, at)))
        return SF_OUTCOME_CODE(outcome) != SF_OUTCOME_OPEN;
    sf_announce(segment);
    return 1;
}
