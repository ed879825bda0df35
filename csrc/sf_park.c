#include "sf_point.h"
#include "sf_wait.h"
#include "sf_worker_parts.h"

void
sf_worker_unpark(struct sf_worker *worker, uint64_t step, uint32_t state)
{
    int64_t began = atomic_load_explicit(&worker->slot->park_ns, memory_order_relaxed);

    if (began != 0) {
        /* Unsigned: a damaged segment may hold any number, and the sum must not overflow. */
        uint64_t total = (uint64_t)atomic_load_explicit(&worker->slot->parked_ns, memory_order_relaxed);
        total += (uint64_t)sf_monotonic_ns() - (uint64_t)began;
        atomic_store_explicit(&worker->slot->parked_ns, (int64_t)total, memory_order_relaxed);
        atomic_store_explicit(&worker->slot->park_ns, 0, memory_order_relaxed);
        atomic_store_explicit(&worker->slot->deadline_ns, 0, memory_order_relaxed);
    }
    atomic_store(&worker->slot->held, 0);
    sf_worker_set_mark(worker, step);
    sf_worker_set_state(worker, state);
}

void
sf_worker_parked(struct sf_worker *worker, uint64_t seq, uint64_t step, int64_t deadline_ns)
{
    if (worker->slot == NULL)
        return;
    if (sf_worker_get_state(worker) != SF_STATE_PARKED) {
        atomic_store_explicit(&worker->slot->park_ns, sf_monotonic_ns(), memory_order_relaxed);
        sf_worker_set_state(worker, SF_STATE_PARKED);
    }
    atomic_store_explicit(&worker->slot->deadline_ns, deadline_ns, memory_order_relaxed);
    SF_POINT("park:published");
    if (seq > worker->applied) {
        /* At a checkpoint that does not count. The pause is applied at the next that does, where the others park. */
        step += worker->stride;
    }
    sf_worker_complete(worker, seq, 0, step);
    sf_announce(&worker->segment);
}

void
sf_worker_unparked(struct sf_worker *worker, uint64_t step)
{
    if (worker->slot == NULL || sf_worker_get_state(worker) != SF_STATE_PARKED)
        return;
    sf_worker_unpark(worker, step, SF_STATE_RUNNING);
    sf_announce(&worker->segment);
}

int
sf_worker_wait(struct sf_worker *worker, int64_t timeout_ns)
{
    struct sf_slot *slot = worker->slot;
    int rc;

    if (slot == NULL)
        return 0;
    SF_POINT("park:waiting");
    rc = sf_wait(&slot->word, SF_WORD_HELD, timeout_ns);
    atomic_fetch_add_explicit(&slot->wakes, 1, memory_order_relaxed);
    return rc;
}

void
sf_worker_stop_swallowed(struct sf_worker *worker)
{
    if (worker->slot == NULL || sf_worker_get_state(worker) != SF_STATE_STOPPING)
        return;
    sf_worker_set_mark(worker, sf_step(worker->counter));
    sf_worker_set_state(worker, SF_STATE_RUNNING);
    sf_announce(&worker->segment);
}
