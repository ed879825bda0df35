/* What the files of the worker share, and no other file uses. */
#ifndef SF_WORKER_PARTS_H
#define SF_WORKER_PARTS_H

#include "sf_apply.h"
#include "sf_log.h"

/* The slot and the header still belong to this worker. The worker reads anything else of the segment only after this
 * check, and checks each number again where it uses it. 0 or an error. */
int sf_worker_check(struct sf_worker *worker);

/* Sets the step from which checkpoints take the slow path. */
void sf_worker_set_alarm(struct sf_worker *worker);

/* Marks entry seq as done by this rank, and sets its outcome if no other rank has to do it. */
void sf_worker_complete(struct sf_worker *worker, uint64_t seq, int failed, uint64_t step);

/* Fills slot `number` of the segment, and moves the worker there. `step`: of its last checkpoint. */
void sf_worker_take_slot(struct sf_worker *worker, uint32_t number, uint64_t cookie, uint64_t step);

/* Takes a slot of the segment, which is mapped. The caller holds the log's lock. 0 or an error. */
int sf_worker_join_locked(struct sf_worker *worker, const char *path, uint32_t number, uint64_t cookie);

/* Publishes `state` of a worker that no longer is parked. Comes before the outcome of the entry that ended the park: a
 * sender that reads that it was applied also reads a worker that runs. */
void sf_worker_unpark(struct sf_worker *worker, uint64_t step, uint32_t state);

static inline void
sf_worker_set_state(struct sf_worker *worker, uint32_t state)
{
    atomic_store_explicit(&worker->slot->state_ns, sf_realtime_ns(), memory_order_relaxed);
    atomic_store_explicit(&worker->slot->state, state, memory_order_release);
}

static inline uint32_t
sf_worker_get_state(struct sf_worker *worker)
{
    return atomic_load_explicit(&worker->slot->state, memory_order_relaxed);
}

/* A step and its time, from which others compute the speed since then. */
static inline void
sf_worker_set_mark(struct sf_worker *worker, uint64_t step)
{
    atomic_store_explicit(&worker->slot->mark_ns, 0, memory_order_release);
    atomic_store_explicit(&worker->slot->mark_step, step, memory_order_release);
    atomic_store_explicit(&worker->slot->mark_ns, sf_monotonic_ns(), memory_order_release);
}

#endif
