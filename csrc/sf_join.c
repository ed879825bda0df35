/* Joining a run that another rank has made: where a late rank begins, so that no two ranks act on different steps. */
#include <errno.h>

#include "sf_lock.h"
#include "sf_point.h"
#include "sf_worker_parts.h"

/* How far the living ranks of a run have come; if none lives, how far the dead had. */
struct front {
    uint64_t step;                /* the furthest */
    uint64_t applied, applied_at; /* the last entry that one has applied, and the step; applied_at 0 if unknown */
};

/* Moves the front on to where the rank of a slot is, if that is further. */
static void
include_rank(const struct sf_slot *slot, struct front *front)
{
    uint64_t step = atomic_load(&slot->step), applied, at;

    if (step <= SF_STEP_MAX && step > front->step)
        front->step = step;
    for (int attempt = 0; attempt < 1000; attempt++) {
        at = atomic_load(&slot->applied_at);
        applied = atomic_load(&slot->applied);
        if (at <= SF_STEP_MAX && at == atomic_load(&slot->applied_at))
            break;
        at = 0; /* being written, or left half written by a rank that died */
    }
    if (at > front->step)
        front->step = at; /* the rank has passed more checkpoints meanwhile */
    if (applied > front->applied || (applied == front->applied && at < front->applied_at)) {
        front->applied = applied;
        front->applied_at = at;
    }
}

static struct front
find_front(struct sf_worker *worker, uint32_t number)
{
    struct front alive = {0}, all = {0};
    uint32_t empty = 0;
    int lives = 0; /* a rank lives, maybe still at step 0: then the steps of the dead do not matter */

    for (uint32_t r = 0; r < worker->segment.slot_count; r++) {
        struct sf_slot *slot = &worker->segment.slots[r];
        struct front with = alive;

        include_rank(slot, &all);
        if (r == number || !sf_slot_taken(&worker->segment, r, &empty))
            continue;
        include_rank(slot, &with);
        /* Asking the kernel costs more than all the rest, so only where the answer matters. */
        if ((!lives || with.step > alive.step || with.applied > alive.applied) &&
            sf_slot_alive(worker->segment.fd, r) != 0) {
            alive = with;
            lives = 1;
        }
    }
    return lives ? alive : all;
}

/* Computes the state after entries 1..seq. */
static int
state_at(struct sf_worker *worker, uint64_t seq, uint64_t tail, struct sf_state *state)
{
    struct sf_entry *next = sf_entry_at(&worker->segment, seq + 1);

    if (seq == tail && tail == 0) {
        *state = sf_state_first();
        return 0;
    }
    if (seq == tail)
        return sf_state_after(sf_entry_at(&worker->segment, tail), tail, state);
    if (atomic_load(&next->number) != seq + 1)
        return -SF_ECORRUPT;
    *state = next->before;
    return state->target > SF_STEP_MAX ? -SF_ECORRUPT : 0;
}

/* Moves the front on to the last entry that is due at its step or before. Ranks that leave their loops for a reload
 * pass that step a second time, so an entry behind the reload is due there all the same. */
static int
apply_passed(struct sf_worker *worker, struct front *front, uint64_t tail)
{
    uint64_t oldest = tail > SF_LOG_CAPACITY ? tail - SF_LOG_CAPACITY : 0;
    uint64_t due = front->applied_at;

    if (front->applied > tail)
        return -SF_ECORRUPT;
    if (front->applied < oldest)
        front->applied = oldest; /* each living rank has applied what the log has dropped */
    while (front->applied < tail) {
        struct sf_entry *entry = sf_entry_at(&worker->segment, front->applied + 1);
        uint64_t target = atomic_load(&entry->target);

        if (atomic_load(&entry->number) != front->applied + 1)
            return -SF_ECORRUPT;
        if (target == SF_TARGET_NONE)
            return 0; /* other hosts have not decided yet whether it is to be applied */
        if (target != SF_TARGET_VOID) {
            due = target > due ? target : due;
            if (due > front->step)
                return 0;
            front->applied_at = due;
        }
        front->applied++;
    }
    return 0;
}

/* Finds where the rank that takes the slot begins. The caller holds the log's lock. */
static int
find_start(struct sf_worker *worker, uint32_t number, struct front *start)
{
    uint64_t tail = atomic_load(&worker->segment.header->tail);
    uint64_t own_step = atomic_load(&atomic_load(worker->counter.page)->step);
    struct front front = find_front(worker, number);
    int rc;

    if (tail > SF_STEP_MAX)
        return -SF_ECORRUPT;
    sf_log_void_last(&worker->segment, tail);
    *start = (struct front){.step = own_step};
    worker->applied = 0;
    worker->state = sf_state_first();
    if (atomic_load(&worker->segment.slots[number].state) == SF_STATE_NONE && tail <= SF_LOG_CAPACITY &&
        front.step <= own_step + SF_JOIN_LEAD * (uint64_t)worker->stride)
        return 0;

    /* If the others park, this rank's first checkpoint counts as the one where they are, and it parks there. Otherwise
     * its first checkpoint is their next; entries that are due before are for the ranks that passed that step. */
    *start = front;
    rc = apply_passed(worker, &front, tail);
    if (rc == 0)
        rc = state_at(worker, front.applied, tail, &worker->state);
    if (rc < 0)
        return rc;
    /* Without a runner it joins from within its first checkpoint, which has been counted. */
    uint64_t counted = own_step > 0 ? worker->stride : 0;
    int parked = sf_state_parks(&worker->state, front.step) && front.step + counted >= own_step + worker->stride;
    if (parked && start->applied + SF_LOG_CAPACITY > tail) {
        start->step -= worker->stride;
    } else {
        *start = front;
        if (start->step + counted < own_step)
            start->step = own_step - counted;
    }
    start->step += counted;
    worker->applied = start->applied;
    return state_at(worker, worker->applied, tail, &worker->state);
}

/* Fills the slot before it takes the slot's lock: once the lock is held, others take the rank for a living one, while
 * the state in the slot may still be that of a rank that died there. */
int
sf_worker_join_locked(struct sf_worker *worker, const char *path, uint32_t number, uint64_t cookie)
{
    struct sf_slot *slot = &worker->segment.slots[number];
    struct front start;
    int rc = sf_segment_check(&worker->segment);

    if (rc < 0)
        return rc;
    rc = sf_slot_alive(worker->segment.fd, number);
    if (rc != 0)
        return rc < 0 ? rc : -EADDRINUSE;
    rc = find_start(worker, number, &start);
    if (rc < 0)
        return rc;
    /* No other process waits for this rank to do earlier entries; if it applies one all the same, it marks it again. */
    for (size_t i = 0; i < SF_LOG_CAPACITY / 64; i++)
        atomic_store(&slot->done[i], UINT64_MAX);
    atomic_store(&slot->vote, SF_VOTE(atomic_load(&worker->segment.header->tail), SF_PHASE_END - 1, SF_VOTE_OVER));
    atomic_store(&slot->applied, worker->applied);
    atomic_store(&slot->applied_at, start.applied_at);
    atomic_store(&slot->held, 0);
    atomic_store(&slot->parked_ns, 0);
    atomic_store(&slot->park_ns, 0);
    atomic_store(&slot->deadline_ns, 0);
    atomic_store(&slot->alarm, SF_NEVER);
    atomic_store(&slot->lost_ns, 0);
    atomic_store(&slot->stride, worker->stride);
    atomic_store(&slot->step, start.step);
    /* So its first checkpoint reads the log: what it has to do, and the pause that is in force. */
    atomic_store(&slot->word, SF_WORD_PENDING);
    SF_POINT("join:filled");
    rc = worker->segment.lock_fd = sf_lock_open(path);
    if (rc < 0)
        return rc;
    rc = sf_lock_try(worker->segment.lock_fd, sf_slot_offset(number), sizeof *slot);
    if (rc < 0)
        return rc == -EAGAIN ? -EADDRINUSE : rc;
    SF_POINT("join:seated");
    sf_worker_take_slot(worker, number, cookie, start.step);
    return 0;
}

int
sf_worker_join(struct sf_worker *worker, const char *path, uint32_t slot, uint64_t cookie, int64_t timeout_ns)
{
    int fd, rc;

    if (worker->slot != NULL)
        return -EALREADY;
    rc = sf_segment_open(&worker->segment, path);
    if (rc < 0)
        return rc;
    rc = slot < worker->segment.slot_count ? sf_log_lock(&worker->segment, timeout_ns) : -EINVAL;
    if (rc >= 0) {
        fd = rc;
        SF_POINT("join:locked");
        rc = sf_worker_join_locked(worker, path, slot, cookie);
        sf_log_unlock(&worker->segment, fd);
    }
    if (rc < 0) {
        sf_segment_close(&worker->segment);
        return rc;
    }
    sf_announce(&worker->segment);
    SF_POINT("join:done");
    return 0;
}
