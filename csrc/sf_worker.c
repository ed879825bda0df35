#include "sf_worker.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "sf_board.h"
#include "sf_lock.h"
#include "sf_point.h"
#include "sf_wait.h"

static struct sf_slot attach_page = {.word = SF_WORD_ATTACH, .stride = 1, .alarm = SF_NEVER};
static struct sf_slot quiet_page = {.word = 0, .stride = 1, .alarm = SF_NEVER};

_Atomic(struct sf_slot *) sf_worker_slot = &attach_page;
_Atomic int sf_worker_several;

/* What the worker holds in its own memory. The segment is a copy of it for others, and is never believed. */
static struct {
    struct sf_segment segment;
    _Atomic(struct sf_slot *) slot;    /* NULL: not attached */
    uint32_t number;                   /* of its slot */
    uint32_t rank, world_size, stride; /* world_size 0: nobody has said */
    uint64_t cookie;
    uint64_t applied;
    uint64_t watch; /* the step from which the worker's own Python wants the slow path */
    struct sf_state state;
    struct sf_journal journal;
} worker = {.stride = 1, .watch = SF_NEVER, .journal = {.fd = -1}};

int
sf_worker_attached(void)
{
    return worker.slot != NULL;
}

struct sf_segment *
sf_worker_segment(void)
{
    return worker.slot ? &worker.segment : NULL;
}

uint64_t
sf_worker_step(void)
{
    return atomic_load_explicit(&atomic_load(&sf_worker_slot)->step, memory_order_relaxed);
}

uint64_t
sf_worker_uncount(void)
{
    return atomic_fetch_sub(&atomic_load(&sf_worker_slot)->step, worker.stride) - worker.stride;
}

void
sf_worker_set_back(uint64_t step)
{
    _Atomic uint64_t *counted = &atomic_load(&sf_worker_slot)->step;
    uint64_t now = atomic_load(counted);

    if (step < now)
        atomic_fetch_sub(counted, now - step);
}

/* The highest target that is due at a checkpoint. Where the loop of an only rank stands still, in a function that was
 * called or parked, what is asked for its next step is, too; one more for a checkpoint that was counted and not
 * uncounted yet. */
static uint64_t
due_at(uint64_t step, int may)
{
    if (atomic_load_explicit(&sf_worker_several, memory_order_relaxed))
        return step;
    return may & SF_TURN_INNER || sf_state_parks(&worker.state, step) ? step + 2 * (uint64_t)worker.stride : step;
}

/* A child is no worker: nothing that it does, and not its end, may show in the run. Async-signal-safe. A child of a
 * process that never attached may still become a worker of its own. */
static void
after_fork_in_child(void)
{
    sf_fork_after_in_child();
    sf_board_forget();
    atomic_store(&quiet_page.word, 0);
    if (worker.slot != NULL) {
        worker.segment.lock_fd = -1; /* just closed: the number may come back as somebody else's */
        worker.slot = NULL;
        atomic_store(&sf_worker_slot, &quiet_page);
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
set_state(uint32_t state)
{
    atomic_store_explicit(&worker.slot->state_ns, sf_realtime_ns(), memory_order_relaxed);
    atomic_store_explicit(&worker.slot->state, state, memory_order_release);
}

static uint32_t
get_state(void)
{
    return atomic_load_explicit(&worker.slot->state, memory_order_relaxed);
}

static void
set_mark(uint64_t step)
{
    atomic_store_explicit(&worker.slot->mark_ns, 0, memory_order_release);
    atomic_store_explicit(&worker.slot->mark_step, step, memory_order_release);
    atomic_store_explicit(&worker.slot->mark_ns, sf_monotonic_ns(), memory_order_release);
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
sf_worker_place(uint32_t rank, uint32_t world_size, uint32_t stride)
{
    uint64_t counted = atomic_load(&attach_page.step) / worker.stride;

    worker.rank = rank;
    worker.world_size = world_size;
    worker.stride = stride;
    atomic_store(&attach_page.step, counted * stride);
    atomic_store(&attach_page.stride, stride);
    atomic_store(&quiet_page.stride, stride);
}

/* Fills its slot of worker.segment, and moves there. `step`: where it stands. */
static void
take_slot(uint32_t number, uint64_t cookie, uint64_t step)
{
    struct sf_slot *page = atomic_load(&sf_worker_slot);
    struct sf_slot *slot = &worker.segment.slots[number];

    worker.slot = slot;
    worker.number = number;
    if (worker.world_size == 0) {
        worker.rank = number;
        worker.world_size = worker.segment.slot_count;
    }
    worker.cookie = cookie;
    copy_levels(slot, page);
    atomic_store_explicit(&slot->pid, (int32_t)getpid(), memory_order_relaxed);
    atomic_store_explicit(&slot->cookie, cookie, memory_order_relaxed);
    atomic_store_explicit(&slot->rank, worker.rank, memory_order_relaxed);
    atomic_store_explicit(&slot->stride, worker.stride, memory_order_relaxed);
    atomic_fetch_add_explicit(&slot->generation, 1, memory_order_relaxed);
    atomic_store_explicit(&slot->attached_ns, sf_realtime_ns(), memory_order_relaxed);
    atomic_store(&slot->step, step);
    set_mark(step);
    SF_POINT("attach:filled");
    atomic_store_explicit(&slot->state_ns, sf_realtime_ns(), memory_order_relaxed);
    atomic_store(&slot->state, step > 0 ? SF_STATE_RUNNING : SF_STATE_IDLE);
    /* A worker that has passed no checkpoint takes the slow path at its first: to say that it runs. */
    if (step == 0)
        atomic_store_explicit(&slot->alarm, 1, memory_order_relaxed);
    atomic_store(&sf_worker_several, worker.segment.slot_count > 1 || worker.world_size > 1);
    atomic_store(&sf_worker_slot, slot);
}

int
sf_worker_attach(const char *path, uint32_t slot_count, uint32_t slot, uint64_t cookie)
{
    int rc;

    if (worker.slot != NULL)
        return -EALREADY;
    rc = sf_segment_create(&worker.segment, path, slot_count, slot);
    if (rc < 0)
        return rc;
    worker.applied = 0;
    worker.state = sf_state_first();
    if (worker.world_size != 0)
        worker.segment.header->world_size = worker.world_size;
    take_slot(slot, cookie, atomic_load(&atomic_load(&sf_worker_slot)->step));
    sf_announce(&worker.segment);
    SF_POINT("attach:done");
    return 0;
}

/* Where the ranks of a run stand that live; if none does, where those stood that have. */
struct front {
    uint64_t step;                /* the furthest */
    uint64_t applied, applied_at; /* the last entry that one has applied, and where; applied_at 0 if it can't be told */
};

static void
look_at(const struct sf_slot *slot, struct front *front)
{
    uint64_t step = atomic_load(&slot->step), applied, at;

    if (step <= SF_STEP_MAX && step > front->step)
        front->step = step;
    for (int attempt = 0; attempt < 1000; attempt++) {
        at = atomic_load(&slot->applied_at);
        applied = atomic_load(&slot->applied);
        if (at <= SF_STEP_MAX && at == atomic_load(&slot->applied_at))
            break;
        at = 0; /* being written, or by one that died writing it */
    }
    if (at > front->step)
        front->step = at; /* it has come further meanwhile */
    if (applied > front->applied || (applied == front->applied && at < front->applied_at)) {
        front->applied = applied;
        front->applied_at = at;
    }
}

static struct front
find_front(uint32_t number)
{
    struct front alive = {0}, all = {0};
    uint32_t empty = 0;
    int lives = 0; /* somebody does, if only at step 0: then it makes no difference where the dead stood */

    for (uint32_t r = 0; r < worker.segment.slot_count; r++) {
        struct sf_slot *slot = &worker.segment.slots[r];
        struct front with = alive;

        look_at(slot, &all);
        if (r == number || !sf_slot_taken(&worker.segment, r, &empty))
            continue;
        look_at(slot, &with);
        /* Asking the kernel costs more than all the rest, so only where the answer matters. */
        if ((!lives || with.step > alive.step || with.applied > alive.applied) &&
            sf_slot_alive(worker.segment.fd, r) != 0) {
            alive = with;
            lives = 1;
        }
    }
    return lives ? alive : all;
}

/* What the log says after its entries 1..seq. */
static int
state_at(uint64_t seq, uint64_t tail, struct sf_state *state)
{
    struct sf_entry *next = sf_entry_at(&worker.segment, seq + 1);

    if (seq == tail && tail == 0) {
        *state = sf_state_first();
        return 0;
    }
    if (seq == tail)
        return sf_state_after(sf_entry_at(&worker.segment, tail), tail, state);
    if (atomic_load(&next->number) != seq + 1)
        return -SF_ECORRUPT;
    *state = next->before;
    return state->target > SF_STEP_MAX ? -SF_ECORRUPT : 0;
}

/* Moves the front on to the last entry that is due at its step, or before. Where the ranks leave their loops for a
 * reload they come to that step once more, so that what stands behind it is due there all the same. */
static int
move_on(struct front *front, uint64_t tail)
{
    uint64_t oldest = tail > SF_LOG_CAPACITY ? tail - SF_LOG_CAPACITY : 0;
    uint64_t due = front->applied_at;

    if (front->applied > tail)
        return -SF_ECORRUPT;
    if (front->applied < oldest)
        front->applied = oldest; /* nobody lives who would not have come by it */
    while (front->applied < tail) {
        struct sf_entry *entry = sf_entry_at(&worker.segment, front->applied + 1);
        uint64_t target = atomic_load(&entry->target);

        if (atomic_load(&entry->number) != front->applied + 1)
            return -SF_ECORRUPT;
        if (target == SF_TARGET_NONE)
            return 0; /* other hosts have not said yet whether it is to be applied */
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

/* Finds where the rank that comes to the slot begins. The log's lock is held. */
static int
find_place(uint32_t number, struct front *place)
{
    uint64_t tail = atomic_load(&worker.segment.header->tail);
    uint64_t own_step = atomic_load(&atomic_load(&sf_worker_slot)->step);
    struct front front = find_front(number);
    int rc;

    if (tail > SF_STEP_MAX)
        return -SF_ECORRUPT;
    sf_log_void_last(&worker.segment, tail);
    *place = (struct front){.step = own_step};
    worker.applied = 0;
    worker.state = sf_state_first();
    if (atomic_load(&worker.segment.slots[number].state) == SF_STATE_NONE && tail <= SF_LOG_CAPACITY &&
        front.step <= own_step + SF_JOIN_LEAD * (uint64_t)worker.stride)
        return 0;

    /* No two ranks act on different steps. Where the others park, this one parks at its first checkpoint, which counts
     * as the one where they are. Else its first is their next: what is due before that is for those who came by it. */
    *place = front;
    rc = move_on(&front, tail);
    if (rc == 0)
        rc = state_at(front.applied, tail, &worker.state);
    if (rc < 0)
        return rc;
    /* Without a runner it comes within its first checkpoint, which has counted. */
    uint64_t counted = own_step > 0 ? worker.stride : 0;
    int parked = sf_state_parks(&worker.state, front.step) && front.step + counted >= own_step + worker.stride;
    if (parked && place->applied + SF_LOG_CAPACITY > tail) {
        place->step -= worker.stride;
    } else {
        *place = front;
        if (place->step + counted < own_step)
            place->step = own_step - counted;
    }
    place->step += counted;
    worker.applied = place->applied;
    return state_at(worker.applied, tail, &worker.state);
}

/* All of the slot is as the new rank needs it before its lock is taken: from then on others take it for one that lives,
 * while its state may still be that of a rank that died there. */
static int
join_locked(const char *path, uint32_t number, uint64_t cookie)
{
    struct sf_slot *slot = &worker.segment.slots[number];
    struct front place;
    int rc = sf_segment_check(&worker.segment);

    if (rc < 0)
        return rc;
    rc = sf_slot_alive(worker.segment.fd, number);
    if (rc != 0)
        return rc < 0 ? rc : -EADDRINUSE;
    rc = find_place(number, &place);
    if (rc < 0)
        return rc;
    /* What was asked before it came, nobody waits for it to do; where it does it all the same it says so again. */
    for (size_t i = 0; i < SF_LOG_CAPACITY / 64; i++)
        atomic_store(&slot->done[i], UINT64_MAX);
    atomic_store(&slot->vote, SF_VOTE(atomic_load(&worker.segment.header->tail), SF_PHASE_END - 1, SF_VOTE_OVER));
    atomic_store(&slot->applied, worker.applied);
    atomic_store(&slot->applied_at, place.applied_at);
    atomic_store(&slot->held, 0);
    atomic_store(&slot->parked_ns, 0);
    atomic_store(&slot->park_ns, 0);
    atomic_store(&slot->deadline_ns, 0);
    atomic_store(&slot->alarm, SF_NEVER);
    atomic_store(&slot->lost_ns, 0);
    atomic_store(&slot->stride, worker.stride);
    atomic_store(&slot->step, place.step);
    /* At its first checkpoint it looks at the log, for what it has to do and for the pause that is in force. */
    atomic_store(&slot->word, SF_WORD_PENDING);
    SF_POINT("join:filled");
    rc = worker.segment.lock_fd = sf_lock_open(path);
    if (rc < 0)
        return rc;
    rc = sf_lock_try(worker.segment.lock_fd, SF_SLOTS_OFFSET + number * (uint64_t)sizeof *slot, sizeof *slot);
    if (rc < 0)
        return rc == -EAGAIN ? -EADDRINUSE : rc;
    SF_POINT("join:seated");
    take_slot(number, cookie, place.step);
    return 0;
}

int
sf_worker_join(const char *path, uint32_t slot, uint64_t cookie, int64_t timeout_ns)
{
    int fd, rc;

    if (worker.slot != NULL)
        return -EALREADY;
    rc = sf_segment_open(&worker.segment, path);
    if (rc < 0)
        return rc;
    rc = slot < worker.segment.slot_count ? sf_log_lock(&worker.segment, timeout_ns) : -EINVAL;
    if (rc >= 0) {
        fd = rc;
        SF_POINT("join:locked");
        rc = join_locked(path, slot, cookie);
        sf_log_unlock(&worker.segment, fd);
    }
    if (rc < 0) {
        sf_segment_close(&worker.segment);
        return rc;
    }
    sf_announce(&worker.segment);
    SF_POINT("join:done");
    return 0;
}

void
sf_worker_quiet(void)
{
    struct sf_slot *page = atomic_load(&sf_worker_slot);

    if (page == &quiet_page)
        return;
    uint64_t step = atomic_load(&page->step);
    atomic_store(&quiet_page.step, step <= SF_STEP_MAX ? step : 0); /* a damaged page may say anything */
    copy_levels(&quiet_page, page);
    atomic_store(&sf_worker_slot, &quiet_page);
    if (worker.slot != NULL) {
        /* The mapping stays: another thread may be between its load of the pointer and its load of the word. */
        worker.slot = NULL;
        sf_segment_let_go(&worker.segment);
    }
}

void
sf_worker_begin_anew(void)
{
    if (worker.slot != NULL)
        return;
    atomic_store(&attach_page.step, 0);
    atomic_store(&sf_worker_slot, &attach_page);
}

/* --- yielding --- */

#define NEVER_LEFT (INT64_MAX / 2)

void
sf_yield_set(struct sf_yield *yield, int64_t interval_ns)
{
    int64_t now = sf_monotonic_ns();

    atomic_store_explicit(&yield->interval_ns, interval_ns, memory_order_relaxed);
    atomic_store_explicit(&yield->looked_ns, now, memory_order_relaxed);
    atomic_store_explicit(&yield->yielded_ns, now, memory_order_relaxed);
    atomic_store_explicit(&yield->budget, 1, memory_order_relaxed);
    atomic_store_explicit(&yield->left, interval_ns == INT64_MAX ? NEVER_LEFT : 1, memory_order_relaxed);
}

int
sf_yield_look(struct sf_yield *yield, int64_t now)
{
    const int64_t most = 1024;
    int64_t interval = atomic_load_explicit(&yield->interval_ns, memory_order_relaxed);

    if (interval == INT64_MAX) {
        atomic_store_explicit(&yield->left, NEVER_LEFT, memory_order_relaxed);
        return 0;
    }
    if (now == 0)
        now = sf_monotonic_ns();

    int64_t took = now - atomic_load_explicit(&yield->looked_ns, memory_order_relaxed);
    int64_t calls = atomic_load_explicit(&yield->budget, memory_order_relaxed);
    int64_t next = most;
    if (took > 0) {
        double fit = (double)calls * (double)interval / (double)took / 4;
        next = fit >= (double)most ? most : (int64_t)fit;
    }
    if (next > 2 * calls)
        next = 2 * calls;
    if (next < 1)
        next = 1;
    atomic_store_explicit(&yield->looked_ns, now, memory_order_relaxed);
    atomic_store_explicit(&yield->budget, next, memory_order_relaxed);
    atomic_store_explicit(&yield->left, next, memory_order_relaxed);

    if (now - atomic_load_explicit(&yield->yielded_ns, memory_order_relaxed) < interval)
        return 0;
    atomic_store_explicit(&yield->yielded_ns, now, memory_order_relaxed);
    return 1;
}

/* --- the slow path --- */

static void
set_alarm(void)
{
    uint64_t alarm = worker.state.stop_seq != 0 ? SF_NEVER : worker.state.park;
    if (worker.watch < alarm)
        alarm = worker.watch;
    atomic_store_explicit(&worker.slot->alarm, alarm, memory_order_relaxed);
}

void
sf_worker_watch(uint64_t step)
{
    worker.watch = step;
    if (worker.slot != NULL)
        set_alarm();
}

struct sf_journal *
sf_worker_journal(void)
{
    return &worker.journal;
}

/* The entry that held `open` is now decided to be `outcome`, unless somebody was first. */
static void
set_outcome(uint64_t seq, unsigned code, uint64_t value)
{
    uint64_t open = SF_OUTCOME(SF_OUTCOME_OPEN, seq);
    atomic_compare_exchange_strong(&sf_entry_at(&worker.segment, seq)->outcome, &open, SF_OUTCOME(code, value));
}

/* Every rank that lives has a part in what becomes of an entry. The last one to be done with it tells. What one rank
 * alone is to do, that one tells, before anything else: sf_conclude() relies on it. */
static void
complete(uint64_t seq, int failed, uint64_t step)
{
    struct sf_entry *entry = sf_entry_at(&worker.segment, seq);
    uint64_t bit = (seq - 1) & (SF_LOG_CAPACITY - 1);

    if (worker.segment.slot_count == 1) {
        set_outcome(seq, failed ? SF_OUTCOME_FAILED : SF_OUTCOME_APPLIED, step);
        return;
    }
    if (seq == 0 || atomic_load(&entry->number) != seq)
        return; /* forgotten by the log since */
    if (failed)
        atomic_fetch_or(&entry->agreed, SF_ENTRY_FAILED);
    uint32_t only = sf_only_slot(&worker.segment, entry);
    if (only == worker.number)
        set_outcome(seq, failed ? SF_OUTCOME_FAILED : SF_OUTCOME_APPLIED, step);
    if (worker.applied >= seq)
        atomic_fetch_or(&worker.slot->done[bit / 64], UINT64_C(1) << (bit % 64));
    else
        atomic_store(&worker.slot->held, seq);
    SF_POINT("done:told");
    if (only == SF_NO_RANK && sf_all_done(&worker.segment, seq, worker.number)) {
        failed = (atomic_load(&entry->agreed) & SF_ENTRY_FAILED) != 0;
        set_outcome(seq, failed ? SF_OUTCOME_FAILED : SF_OUTCOME_APPLIED, step);
    }
}

/* Publishes that entry seq is applied. `over`: nothing is left to do for it at this step. */
static void
set_applied(uint64_t seq, int over, uint64_t step)
{
    uint64_t bit = (seq - 1) & (SF_LOG_CAPACITY - 1);

    if (worker.segment.slot_count > 1) {
        atomic_fetch_and(&worker.slot->done[bit / 64], ~(UINT64_C(1) << (bit % 64)));
        atomic_store(&worker.slot->applied_at, SF_NEVER);
    } else if (over) {
        complete(seq, 0, step);
    }
    worker.applied = seq;
    atomic_store(&worker.slot->applied, seq);
    atomic_store(&worker.slot->applied_at, step);
    SF_POINT("turn:applied");
    if (over && worker.segment.slot_count > 1)
        complete(seq, 0, step);
}

static void
copy_entry(struct sf_entry_view *view, const struct sf_entry *entry, uint64_t seq)
{
    view->seq = seq;
    view->target = atomic_load(&entry->target);
    view->outcome = atomic_load(&entry->outcome);
    view->id = entry->id;
    view->arg = entry->arg;
    view->kind = entry->kind;
    view->sender_pid = entry->sender_pid;
    view->duration_ns = entry->duration_ns;
    view->asked_ns = entry->asked_ns;
    view->ranks = entry->ranks;
    view->agreed = atomic_load(&entry->agreed);
    view->low = atomic_load(&entry->low);
    memcpy(view->sender, entry->sender, sizeof view->sender);
    memcpy(view->mail, entry->mail, sizeof view->mail);
    view->sender[SF_SENDER_MAX - 1] = 0;
    view->mail[SF_MAIL_MAX - 1] = 0;
}

/* It no longer stands parked. Published before the fate of the request that ended the park, so that its sender, told
 * that it was applied, reads a worker that runs. */
static void
unpark(uint64_t step, uint32_t state)
{
    int64_t began = atomic_load_explicit(&worker.slot->park_ns, memory_order_relaxed);

    if (began != 0) {
        /* Unsigned: what stands in the segment may be anything, and must not overflow. */
        uint64_t total = (uint64_t)atomic_load_explicit(&worker.slot->parked_ns, memory_order_relaxed);
        total += (uint64_t)sf_monotonic_ns() - (uint64_t)began;
        atomic_store_explicit(&worker.slot->parked_ns, (int64_t)total, memory_order_relaxed);
        atomic_store_explicit(&worker.slot->park_ns, 0, memory_order_relaxed);
        atomic_store_explicit(&worker.slot->deadline_ns, 0, memory_order_relaxed);
    }
    atomic_store(&worker.slot->held, 0);
    set_mark(step);
    set_state(state);
}

/* Folds a decided entry whose step has come into the worker's state. 1 if nothing is left to do for it, 0 if something
 * is: a pause or an advance is over when the worker has parked for it, a reload when the new code runs, mail when it
 * was delivered. Or an error. */
static int
apply(const struct sf_entry *entry, uint64_t seq, uint64_t target, uint64_t step, struct sf_turn *turn)
{
    uint64_t parked_by = worker.state.park_seq;
    int rc = sf_state_fold(&worker.state, entry, seq, target);

    if (rc < 0)
        return rc;
    sf_journal_append(&worker.journal, entry, worker.rank, step);
    SF_POINT("turn:folded");
    /* The pause that was in force is in force no more. If the worker had parked for it, it was applied, and this
     * swap finds that. */
    if (parked_by != 0 && worker.state.park_seq != parked_by)
        set_outcome(parked_by, SF_OUTCOME_SUPERSEDED, seq);

    uint32_t state = get_state();
    switch (entry->kind) {
    case SF_PAUSE:
        if (!sf_state_parks(&worker.state, step) && state == SF_STATE_PARKED)
            unpark(step, SF_STATE_RUNNING); /* parked, and asked to park at a later step */
        break;
    case SF_ADVANCE:
        /* Code that came by a reload is parked one checkpoint behind the step of the pause. Several ranks keep to what
         * the log says: they must not park anywhere else. */
        if (state == SF_STATE_PARKED && !atomic_load(&sf_worker_several) && worker.state.park < step + entry->arg)
            worker.state.park = step + entry->arg;
        /* fall through */
    case SF_RESUME:
        if (state == SF_STATE_PARKED)
            unpark(step, SF_STATE_RUNNING);
        break;
    case SF_STOP:
        unpark(step, SF_STATE_STOPPING);
        break;
    case SF_RELOAD:
        unpark(step, SF_STATE_RELOADING);
        turn->action = SF_RAISE_RELOAD;
        turn->seq = seq;
        copy_entry(&turn->entry, entry, seq);
        break;
    case SF_SET:
    case SF_CALL:
        if (entry->ranks != SF_RANKS_ALL && entry->ranks - 1 != worker.rank)
            return 1;
        turn->action = SF_DELIVER;
        turn->seq = seq;
        turn->held = sf_state_parks(&worker.state, step) ? worker.state.park_seq : 0;
        copy_entry(&turn->entry, entry, seq);
        break;
    }
    return entry->kind == SF_RESUME || entry->kind == SF_STOP;
}

/* The slot and the header are still ours. Everything that a worker reads later is read behind this check, each number
 * checked once more where it is used. */
static int
check_own(void)
{
    int rc = sf_segment_check(&worker.segment);

    if (rc < 0)
        return rc;
    if (atomic_load_explicit(&worker.slot->cookie, memory_order_relaxed) != worker.cookie ||
        atomic_load_explicit(&worker.slot->applied, memory_order_relaxed) != worker.applied)
        return -SF_ECORRUPT;
    return 0;
}

static int
has_mail(uint32_t kind)
{
    return kind == SF_SET || kind == SF_CALL;
}

/* Whether a turn may apply an entry of this kind. */
static int
allowed(int may, uint32_t kind)
{
    return !(may & SF_TURN_NO_RELOAD && kind == SF_RELOAD) && !(may & SF_TURN_NO_MAIL && has_mail(kind));
}

/* Decides what is undecided. 0 and the target, or an error. */
static int
target_of(uint64_t seq, int standing, uint64_t *target)
{
    struct sf_entry *entry = sf_entry_at(&worker.segment, seq);

    if (atomic_load_explicit(&entry->number, memory_order_acquire) != seq)
        return -SF_ECORRUPT;
    *target = atomic_load(&entry->target);
    if (*target == SF_TARGET_NONE) {
        SF_POINT("turn:met");
        int rc = sf_settle(&worker.segment, seq, worker.number, standing);
        if (rc < 0)
            return rc;
        *target = atomic_load(&entry->target);
        SF_POINT("turn:settled");
        /* Other hosts have a say in it: not before the step that this host was first to be able to take. */
        if (*target == SF_TARGET_NONE)
            *target = atomic_load(&entry->low);
    }
    return 0;
}

/* What the log will say once all of it is applied. `wanted`: it asks for something that only a counted checkpoint
 * can do. */
static int
look_ahead(uint64_t tail, struct sf_state *state, int *wanted)
{
    *state = worker.state;
    *wanted = 0;
    for (uint64_t seq = worker.applied + 1; seq <= tail; seq++) {
        struct sf_entry *entry = sf_entry_at(&worker.segment, seq);
        uint64_t target;
        int rc = target_of(seq, 0, &target);

        if (rc < 0)
            return rc;
        if (target == SF_TARGET_VOID)
            continue;
        rc = sf_state_fold(state, entry, seq, target);
        if (rc < 0)
            return rc;
        if (entry->kind == SF_RELOAD || has_mail(entry->kind))
            *wanted = 1;
    }
    *wanted |= state->stop_seq != 0;
    return 0;
}

/* The stop that stands in the log behind an entry, if it is due: its sequence number; 0 if there is none. */
static uint64_t
stop_behind(uint64_t seq, uint64_t tail, uint64_t step)
{
    uint64_t target;

    while (++seq <= tail) {
        if (target_of(seq, 1, &target) < 0)
            return 0; /* found again, and told, where it is applied */
        if (sf_entry_at(&worker.segment, seq)->kind == SF_STOP && target != SF_TARGET_VOID && target <= step)
            return seq;
    }
    return 0;
}

/* Publishes whether the rank is held, and clears the word. The word is cleared only when all that it told of was seen.
 * An entry published in between set it before the clearing, and would be forgotten: the tail is read again after the
 * clearing, and if there is more, the word is set again before anything else. Returns whether there is more. */
static int
clear_word(struct sf_slot *slot, uint64_t tail, uint32_t level)
{
    uint32_t all = SF_WORD_HELD | SF_WORD_STOPPED;

    atomic_fetch_or(&slot->word, level);
    if (atomic_fetch_and(&slot->word, ~(all & ~level)) & SF_WORD_HELD & ~level)
        sf_wake(&slot->word); /* other threads of this process that are parked too */
    atomic_fetch_and(&slot->word, ~SF_WORD_PENDING);
    if (atomic_load(&worker.segment.header->tail) == tail)
        return 0;
    atomic_fetch_or(&slot->word, SF_WORD_PENDING);
    return 1;
}

static int
read_tail(struct sf_slot *slot, uint64_t *tail)
{
    *tail = atomic_load(&worker.segment.header->tail);
    if (*tail < worker.applied || *tail - worker.applied > SF_LOG_CAPACITY)
        return -SF_ECORRUPT;
    atomic_store_explicit(&slot->seen, *tail, memory_order_relaxed);
    return 0;
}

/* A checkpoint that does not count applies nothing, but it holds while the log says that the rank parks at its next. */
static int
turn_uncounted(struct sf_slot *slot, uint64_t step, struct sf_turn *turn)
{
    struct sf_state state;
    uint64_t tail;
    int wanted, hold, rc;

    do {
        rc = read_tail(slot, &tail);
        if (rc < 0)
            return rc;
        rc = look_ahead(tail, &state, &wanted);
        if (rc < 0)
            return rc;
        hold = !wanted && sf_state_parks(&state, step + worker.stride);
        if (!hold) {
            if (tail > worker.applied)
                atomic_fetch_or(&slot->word, SF_WORD_PENDING);
            if (!sf_state_parks(&worker.state, step))
                atomic_fetch_and(&slot->word, ~SF_WORD_HELD);
            if (get_state() == SF_STATE_PARKED) {
                unpark(step, SF_STATE_RUNNING);
                sf_announce(&worker.segment);
            }
            return 0;
        }
    } while (clear_word(slot, tail, SF_WORD_HELD));
    turn->action = SF_HOLD;
    turn->seq = state.park_seq;
    turn->park_for = state.park_for;
    return 0;
}

void
sf_worker_tell(uint64_t seq, uint64_t step, int failed)
{
    if (worker.slot == NULL)
        return;
    complete(seq, failed, step);
    sf_announce(&worker.segment);
}

/* Says that this rank has no further use for the entry, so that the log may forget it, once it knows what came of it.
 */
static unsigned
read_verdict(uint64_t seq, enum sf_phase phase, unsigned verdict)
{
    if (verdict == SF_VOTE_NO || (verdict == SF_VOTE_YES && phase + 1 == SF_PHASE_END)) {
        uint64_t mine = atomic_load(&worker.slot->vote);
        if (SF_VOTE_SEQ(mine) == seq && SF_VOTE_SAID(mine) == SF_VOTE_YES)
            atomic_store(&worker.slot->vote, SF_VOTE(seq, SF_VOTE_PHASE(mine), SF_VOTE_OVER));
    }
    return verdict;
}

unsigned
sf_worker_vote(uint64_t seq, enum sf_phase phase, int yes)
{
    if (worker.slot == NULL)
        return yes ? SF_VOTE_YES : SF_VOTE_NO;
    if (worker.segment.slot_count == 1 && atomic_load(&sf_entry_at(&worker.segment, seq)->low) == 0)
        return yes ? SF_VOTE_YES : SF_VOTE_NO; /* it has nobody to ask */
    sf_vote(&worker.segment, seq, worker.number, phase, yes);
    return read_verdict(seq, phase, sf_agreed(&worker.segment, seq, phase, 0));
}

unsigned
sf_worker_agreed(uint64_t seq, enum sf_phase phase, int give_up)
{
    if (worker.slot == NULL)
        return SF_VOTE_NO;
    return read_verdict(seq, phase, sf_agreed(&worker.segment, seq, phase, give_up));
}

int
sf_turn(uint64_t step, int may, struct sf_turn *turn)
{
    struct sf_slot *slot = worker.slot;
    uint32_t level;
    uint64_t tail;
    int ahead, rc;

    memset(turn, 0, sizeof *turn);
    if (slot == NULL)
        return 0;
    rc = check_own();
    if (rc < 0)
        return rc;
    if (!(may & SF_TURN_COUNTED))
        return turn_uncounted(slot, step, turn);

    uint64_t applied = worker.applied;
    uint32_t before = get_state();
    int begins = before == SF_STATE_IDLE || before == SF_STATE_RELOADING;
    if (begins) {
        set_mark(step);
        set_state(SF_STATE_RUNNING);
    }
    do {
        rc = read_tail(slot, &tail);
        if (rc < 0)
            return rc;
        ahead = 0;
        while (worker.applied < tail && !ahead && turn->action == SF_GO) {
            uint64_t seq = worker.applied + 1;
            uint64_t target;

            rc = target_of(seq, 1, &target);
            if (rc < 0)
                return rc;
            /* What waits for a function that runs is no reason to let a stop wait, that could end it. */
            uint32_t kind = sf_entry_at(&worker.segment, seq)->kind;
            uint64_t stop;
            if (target != SF_TARGET_VOID && has_mail(kind) && !allowed(may, kind) &&
                (stop = stop_behind(seq, tail, due_at(step, may))) != 0) {
                set_outcome(seq, SF_OUTCOME_SUPERSEDED, stop);
                target = SF_TARGET_VOID;
            }
            if (target != SF_TARGET_VOID && (target > due_at(step, may) || !allowed(may, kind))) {
                ahead = 1; /* the word stays set, so that the next checkpoint comes here again */
                break;
            }
            if (target != SF_TARGET_VOID) {
                uint64_t said = atomic_load(&sf_entry_at(&worker.segment, seq)->target);
                if (said == SF_TARGET_NONE) {
                    turn->action = SF_AWAIT;
                    turn->seq = seq;
                    copy_entry(&turn->entry, sf_entry_at(&worker.segment, seq), seq);
                    break;
                }
                if (said != target)
                    continue; /* other hosts have said just now when it is due */
            }
            rc = 0;
            if (target != SF_TARGET_VOID) {
                rc = apply(sf_entry_at(&worker.segment, seq), seq, target < step ? target : step, step, turn);
                if (rc < 0)
                    return rc;
            }
            set_applied(seq, rc, step);
        }
        set_alarm();
        level = worker.state.stop_seq != 0 ? SF_WORD_STOPPED : sf_state_parks(&worker.state, step) ? SF_WORD_HELD : 0;
        if (turn->action != SF_GO)
            break; /* what follows it in the log is for a later turn: the word stays set */
        if (ahead) {
            atomic_fetch_or(&slot->word, SF_WORD_PENDING);
            break;
        }
    } while (clear_word(slot, tail, level));
    /* A turn that only found an entry that is not due yet has published nothing. A rank that waits for that entry waits
     * for an announcement: its own would have it look again at once, for ever. */
    if (begins || worker.applied != applied || (turn->action != SF_AWAIT && !ahead))
        sf_announce(&worker.segment);

    if (turn->action != SF_GO) {
        atomic_fetch_or(&slot->word, SF_WORD_PENDING);
    } else if (level == SF_WORD_STOPPED) {
        turn->action = SF_RAISE_STOP;
        turn->seq = worker.state.stop_seq;
        copy_entry(&turn->entry, sf_entry_at(&worker.segment, turn->seq), turn->seq);
    } else if (level == SF_WORD_HELD) {
        turn->action = SF_HOLD;
        turn->seq = worker.state.park_seq;
        turn->park_for = worker.state.park_for;
    }
    return 0;
}

void
sf_worker_in_the_log(uint64_t *applied, uint64_t *tail)
{
    *applied = *tail = 0;
    if (worker.slot == NULL)
        return;
    *applied = worker.applied;
    *tail = atomic_load(&worker.segment.header->tail);
    if (*tail < *applied || *tail - *applied > SF_LOG_CAPACITY)
        *tail = *applied; /* damaged: the next turn says so */
}

int
sf_worker_resume(uint64_t step)
{
    struct sf_slot *slot = worker.slot;
    uint64_t seq = worker.applied + 1;
    uint64_t tail, target;
    struct sf_turn unused;

    if (slot == NULL || check_own() < 0 || read_tail(slot, &tail) < 0 || tail != seq)
        return 0;
    if (target_of(seq, 1, &target) < 0 || target > due_at(step, 0) ||
        sf_entry_at(&worker.segment, seq)->kind != SF_RESUME)
        return 0;
    if (atomic_load(&sf_entry_at(&worker.segment, seq)->target) != target)
        return 0; /* other hosts have not said yet */
    if (apply(sf_entry_at(&worker.segment, seq), seq, target < step ? target : step, step, &unused) < 0)
        return 0;
    set_applied(seq, 1, step);
    set_alarm();
    if (worker.state.stop_seq != 0 || sf_state_parks(&worker.state, step) || clear_word(slot, tail, 0))
        return 0;
    sf_announce(&worker.segment);
    return 1;
}

void
sf_worker_parked(uint64_t seq, uint64_t step, int64_t deadline_ns)
{
    if (worker.slot == NULL)
        return;
    if (get_state() != SF_STATE_PARKED) {
        atomic_store_explicit(&worker.slot->park_ns, sf_monotonic_ns(), memory_order_relaxed);
        set_state(SF_STATE_PARKED);
    }
    atomic_store_explicit(&worker.slot->deadline_ns, deadline_ns, memory_order_relaxed);
    SF_POINT("park:published");
    if (seq > worker.applied) {
        /* At a checkpoint that does not count: the pause is applied at the next that does, where the others stand. */
        step += worker.stride;
    }
    complete(seq, 0, step);
    sf_announce(&worker.segment);
}

void
sf_worker_unparked(uint64_t step)
{
    if (worker.slot == NULL || get_state() != SF_STATE_PARKED)
        return;
    unpark(step, SF_STATE_RUNNING);
    sf_announce(&worker.segment);
}

int
sf_worker_wait(int64_t timeout_ns)
{
    struct sf_slot *slot = worker.slot;
    int rc;

    if (slot == NULL)
        return 0;
    SF_POINT("park:waiting");
    rc = sf_wait(&slot->word, SF_WORD_HELD, timeout_ns);
    atomic_fetch_add_explicit(&slot->wakes, 1, memory_order_relaxed);
    return rc;
}

void
sf_worker_stop_swallowed(void)
{
    if (worker.slot == NULL || get_state() != SF_STATE_STOPPING)
        return;
    set_mark(sf_worker_step());
    set_state(SF_STATE_RUNNING);
    sf_announce(&worker.segment);
}

void
sf_worker_stop_alone(void)
{
    atomic_fetch_or(&quiet_page.word, SF_WORD_STOPPED);
}

int
sf_worker_end(uint32_t state)
{
    int rc;

    if (worker.slot == NULL)
        return 0;
    rc = check_own();
    if (rc == 0) {
        unpark(sf_worker_step(), state);
        sf_announce(&worker.segment);
    }
    sf_worker_quiet();
    return rc;
}

/* --- progress --- */

int
sf_level_enter(uint64_t total, struct sf_since *since)
{
    struct sf_slot *slot = atomic_load(&sf_worker_slot);

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
    struct sf_slot *slot = atomic_load(&sf_worker_slot);
    if (level >= 0)
        atomic_store_explicit(&slot->level[level].began_ns, 0, memory_order_relaxed);
}
