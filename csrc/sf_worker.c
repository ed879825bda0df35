#include "sf_worker.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "sf_board.h"
#include "sf_lock.h"
#include "sf_point.h"
#include "sf_worker_parts.h"

static struct sf_slot attach_page = SF_ATTACH_PAGE;
static struct sf_slot detached_page = SF_DETACHED_PAGE;

_Atomic(struct sf_slot *) sf_process_page = &attach_page;
_Atomic int sf_process_has_peers;

struct sf_worker sf_process_worker = {
    .counter = {&sf_process_page, &sf_process_has_peers},
    .attach_page = &attach_page,
    .detached_page = &detached_page,
    .stride = 1,
    .watch = SF_NEVER,
    .journal = {.fd = -1},
};

int
sf_worker_attached(struct sf_worker *worker)
{
    return worker->slot != NULL;
}

struct sf_segment *
sf_worker_segment(struct sf_worker *worker)
{
    return worker->slot ? &worker->segment : NULL;
}

struct sf_journal *
sf_worker_journal(struct sf_worker *worker)
{
    return &worker->journal;
}

uint64_t
sf_worker_uncount(struct sf_worker *worker)
{
    return atomic_fetch_sub(&atomic_load(worker->counter.page)->step, worker->stride) - worker->stride;
}

void
sf_worker_set_back(struct sf_worker *worker, uint64_t step)
{
    _Atomic uint64_t *counted = &atomic_load(worker->counter.page)->step;
    uint64_t now = atomic_load(counted);

    if (step < now)
        atomic_fetch_sub(counted, now - step);
}

/* A forked child of a worker is detached: nothing that it does, its end included, may show in the run. The child of a
 * process that never attached may still become a worker itself. Async-signal-safe. */
static void
after_fork_in_child(void)
{
    struct sf_worker *worker = &sf_process_worker;

    sf_fork_after_in_child();
    sf_board_forget();
    atomic_store(&worker->detached_page->word, 0);
    if (worker->slot != NULL) {
        worker->segment.lock_fd = -1; /* closed above: another file may get the number */
        worker->slot = NULL;
        atomic_store(worker->counter.page, worker->detached_page);
    }
}

static int setup_result;

static void
setup(void)
{
    setup_result = -pthread_atfork(sf_fork_before, sf_fork_after_in_parent, after_fork_in_child);
}

int
sf_worker_setup(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, setup);
    return setup_result;
}

static void
copy_levels(struct sf_slot *to, struct sf_slot *from)
{
    for (int i = 0; i < SF_LEVELS; i++) {
        atomic_store(&to->level[i].total, atomic_load(&from->level[i].total));
        atomic_store(&to->level[i].done, atomic_load(&from->level[i].done));
        atomic_store(&to->level[i].began_ns, atomic_load(&from->level[i].began_ns));
        atomic_store(&to->level[i].parked_ns, atomic_load(&from->level[i].parked_ns));
    }
}

void
sf_worker_place(struct sf_worker *worker, uint32_t rank, uint32_t world_size, uint32_t stride)
{
    uint64_t counted = atomic_load(&worker->attach_page->step) / worker->stride;

    worker->rank = rank;
    worker->world_size = world_size;
    worker->stride = stride;
    atomic_store(&worker->attach_page->step, counted * stride);
    atomic_store(&worker->attach_page->stride, stride);
    atomic_store(&worker->detached_page->stride, stride);
}

void
sf_worker_take_slot(struct sf_worker *worker, uint32_t number, uint64_t cookie, uint64_t step)
{
    struct sf_slot *page = atomic_load(worker->counter.page);
    struct sf_slot *slot = &worker->segment.slots[number];

    worker->slot = slot;
    worker->number = number;
    if (worker->world_size == 0) {
        worker->rank = number;
        worker->world_size = worker->segment.slot_count;
    }
    worker->cookie = cookie;
    copy_levels(slot, page);
    atomic_store_explicit(&slot->pid, (int32_t)getpid(), memory_order_relaxed);
    atomic_store_explicit(&slot->cookie, cookie, memory_order_relaxed);
    atomic_store_explicit(&slot->rank, worker->rank, memory_order_relaxed);
    atomic_store_explicit(&slot->stride, worker->stride, memory_order_relaxed);
    atomic_fetch_add_explicit(&slot->generation, 1, memory_order_relaxed);
    atomic_store_explicit(&slot->attached_ns, sf_realtime_ns(), memory_order_relaxed);
    atomic_store(&slot->step, step);
    sf_worker_set_mark(worker, step);
    SF_POINT("attach:filled");
    atomic_store_explicit(&slot->state_ns, sf_realtime_ns(), memory_order_relaxed);
    atomic_store(&slot->state, step > 0 ? SF_STATE_RUNNING : SF_STATE_IDLE);
    /* A worker that has passed no checkpoint takes the slow path at its first, to publish that it runs. */
    if (step == 0)
        atomic_store_explicit(&slot->alarm, 1, memory_order_relaxed);
    atomic_store(worker->counter.has_peers, worker->segment.slot_count > 1 || worker->world_size > 1);
    atomic_store(worker->counter.page, slot);
}

int
sf_worker_attach(struct sf_worker *worker, const char *path, uint32_t slot_count, uint32_t slot, uint64_t cookie)
{
    int rc;

    if (worker->slot != NULL)
        return -EALREADY;
    rc = sf_segment_create(&worker->segment, path, slot_count, slot);
    if (rc < 0)
        return rc;
    worker->applied = 0;
    worker->state = sf_state_first();
    if (worker->world_size != 0)
        worker->segment.header->world_size = worker->world_size;
    sf_worker_take_slot(worker, slot, cookie, atomic_load(&atomic_load(worker->counter.page)->step));
    sf_announce(&worker->segment);
    SF_POINT("attach:done");
    return 0;
}

void
sf_worker_detach(struct sf_worker *worker)
{
    struct sf_slot *page = atomic_load(worker->counter.page);

    if (page == worker->detached_page)
        return;
    uint64_t step = atomic_load(&page->step);
    atomic_store(&worker->detached_page->step, step <= SF_STEP_MAX ? step : 0); /* a damaged page may say anything */
    copy_levels(worker->detached_page, page);
    atomic_store(worker->counter.page, worker->detached_page);
    if (worker->slot != NULL) {
        /* The mapping stays: another thread may have loaded the pointer, and be about to load the word. */
        worker->slot = NULL;
        sf_segment_let_go(&worker->segment);
    }
}

void
sf_worker_begin_anew(struct sf_worker *worker)
{
    if (worker->slot != NULL)
        return;
    atomic_store(&worker->attach_page->step, 0);
    atomic_store(worker->counter.page, worker->attach_page);
}

int
sf_worker_check(struct sf_worker *worker)
{
    int rc = sf_segment_check(&worker->segment);

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&worker->slot->cookie, memory_order_relaxed) != worker->cookie ||
        atomic_load_explicit(&worker->slot->applied, memory_order_relaxed) != worker->applied)
        return -SF_ECORRUPT;
    return 0;
}

int
sf_worker_end(struct sf_worker *worker, uint32_t state)
{
    int rc;

    if (worker->slot == NULL)
        return 0;
    rc = sf_worker_check(worker);
    if (rc == 0) {
        sf_worker_unpark(worker, sf_step(worker->counter), state);
        sf_announce(&worker->segment);
    }
    sf_worker_detach(worker);
    return rc;
}

void
sf_worker_stop_alone(struct sf_worker *worker)
{
    atomic_fetch_or(&worker->detached_page->word, SF_WORD_STOPPED);
}

void
sf_worker_set_alarm(struct sf_worker *worker)
{
    uint64_t alarm = worker->state.stop_seq != 0 ? SF_NEVER : worker->state.park;
    if (worker->watch < alarm)
        alarm = worker->watch;
    atomic_store_explicit(&worker->slot->alarm, alarm, memory_order_relaxed);
}

void
sf_worker_watch(struct sf_worker *worker, uint64_t step)
{
    worker->watch = step;
    if (worker->slot != NULL)
        sf_worker_set_alarm(worker);
}

int
sf_level_enter(uint64_t total, struct sf_since *since)
{
    struct sf_slot *slot = atomic_load(&sf_process_page);

    if (since->began_ns == 0) {
        since->began_ns = sf_monotonic_ns();
        since->parked_ns = atomic_load_explicit(&slot->parked_ns, memory_order_relaxed);
    }
    for (int level = 0; level < SF_LEVELS; level++) {
        int64_t free = 0;
        if (!atomic_compare_exchange_strong(&slot->level[level].began_ns, &free, since->began_ns))
            continue;
        atomic_store_explicit(&slot->level[level].total, total, memory_order_relaxed);
        atomic_store_explicit(&slot->level[level].done, 0, memory_order_relaxed);
        atomic_store_explicit(&slot->level[level].parked_ns, since->parked_ns, memory_order_relaxed);
        return level;
    }
    return -1;
}

void
sf_level_leave(int level)
{
    struct sf_slot *slot = atomic_load(&sf_process_page);
    if (level >= 0)
        atomic_store_explicit(&slot->level[level].began_ns, 0, memory_order_relaxed);
}
