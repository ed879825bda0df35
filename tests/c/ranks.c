#include "ranks.h"

#include <sched.h>

#include "sf_lock.h"
#include "sf_worker_parts.h"

struct job job;
int sf_point_armed = 1;

_Thread_local struct actor me;

int __real_sf_lock_open(const char *path);
int __wrap_sf_lock_open(const char *path);
int __real_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns);
int __wrap_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns);
int __real_sf_lock_held(int fd, uint64_t offset, uint64_t length);
int __wrap_sf_lock_held(int fd, uint64_t offset, uint64_t length);
void __real_sf_lock_close(int fd);
void __wrap_sf_lock_close(int fd);

/* The sanitizer does not know that a record lock orders its holders one after the other, nor that a thread that finds
 * one free runs after the death of the holder. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
static char log_lock, slot_locks;
#define LOCKED() __tsan_acquire(&log_lock)
#define UNLOCKED() __tsan_release(&log_lock)
#define SEEN_DEAD() __tsan_acquire(&slot_locks)
#define DIES() __tsan_release(&slot_locks)
#else
#define LOCKED() (void)0
#define UNLOCKED() (void)0
#define SEEN_DEAD() (void)0
#define DIES() (void)0
#endif

int
__wrap_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns)
{
    int rc = __real_sf_lock(fd, offset, length, timeout_ns);
    LOCKED();
    return rc;
}

int
__wrap_sf_lock_held(int fd, uint64_t offset, uint64_t length)
{
    int rc = __real_sf_lock_held(fd, offset, length);
    if (rc == 0)
        SEEN_DEAD();
    return rc;
}

void
__wrap_sf_lock_close(int fd)
{
    if (fd == me.lock_fd)
        me.lock_fd = -1;
    UNLOCKED();
    __real_sf_lock_close(fd);
}

/* Each descriptor that the log's lock is taken with is opened here; so a thread can die without one. That of a rank is
 * none of the few that a forked child closes: here are more ranks than a process has. */
int
__wrap_sf_lock_open(const char *path)
{
    if (!me.is_rank)
        return me.lock_fd = __real_sf_lock_open(path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && me.lock_fd < 0)
        me.lock_fd = fd;
    return fd < 0 ? -errno : fd;
}

/* Where an entry with this target is due: no earlier than what is before it, at one of the steps that the rank comes
 * by.
 */
static uint64_t
due_at_step(uint64_t target)
{
    uint64_t due = target > me.due ? target : me.due;
    return (due + me.worker->stride - 1) / me.worker->stride * me.worker->stride;
}

static void
note_applied(void)
{
    uint64_t seq = me.worker->applied;
    uint64_t before = atomic_exchange(&job.rank[me.rank].applied, seq);
    struct record *record = &job.record[seq];
    uint64_t target = me.folded ? me.target : VOIDED;
    uint64_t none = 0;

    if (seq >= job.entries)
        FAIL("entry %" PRIu64 " was never asked for", seq);
    if (before + 1 != seq)
        FAIL("rank %u comes to entry %" PRIu64 " after %" PRIu64, me.rank, seq, before);
    uint64_t told = target == VOIDED ? VOIDED : target + 1;
    if (!atomic_compare_exchange_strong(&record->target, &none, told) && none != told)
        FAIL("rank %u: entry %" PRIu64 " has target %" PRIu64 ", and had %" PRIu64, me.rank, seq, told - 1, none - 1);
    if (me.folded) {
        uint64_t due = due_at_step(target), nowhere = 0;
        /* An only rank may have passed the target when it was decided; where it is parked it does what is asked for its
         * next step. */
        if (me.standing != due && !(job.plan.ranks == 1 && me.standing + 2 * me.worker->stride >= due))
            FAIL("rank %u: entry %" PRIu64 ": target %" PRIu64 ", due at %" PRIu64 ", applied at %" PRIu64, me.rank,
                 seq, target, due, me.standing);
        if (!atomic_compare_exchange_strong(&record->step, &nowhere, me.standing) && nowhere != me.standing)
            FAIL("rank %u applies entry %" PRIu64 " at %" PRIu64 ", another one at %" PRIu64, me.rank, seq, me.standing,
                 nowhere);
        me.due = me.standing;
    }
    me.folded = 0;
}

/* The one whose turn it is takes the place of an old entry. Each rank that lives has applied it, and said so. */
static void
check_oldest(void)
{
    uint64_t tail = atomic_load(&job.segment.header->tail);
    uint64_t seq = tail + 1 - SF_LOG_CAPACITY;

    if (tail < SF_LOG_CAPACITY)
        return;
    struct sf_entry *entry = sf_entry_at(&job.segment, seq);
    if (atomic_load(&entry->number) != seq)
        return; /* the sender before died as it wrote here, and had published nothing */
    uint32_t empty = 0;
    for (uint32_t r = 0; r < job.plan.ranks; r++) {
        if (sf_slot_taken(&job.segment, r, &empty) && atomic_load(&job.segment.slots[r].applied) <= seq)
            return; /* the append will fail because the log is full, unless that rank is dead */
    }
    if (entry->kind == SF_PAUSE || entry->kind == SF_ADVANCE || atomic_load(&entry->target) == SF_TARGET_VOID)
        return; /* may be for a step that no rank has come to */
    /* If it is still open, the ranks that were not done with it have died. An entry for one rank stays open then. */
    if (entry->ranks != SF_RANKS_ALL && job.plan.ranks > 1 && sf_conclude(&job.segment, seq) == -ESRCH &&
        job.plan.rank_deaths > 0)
        return;
    if (job.plan.ranks > 1 && sf_conclude(&job.segment, seq) != 1)
        FAIL("entry %" PRIu64 " of kind %u never got an outcome: %d", seq, entry->kind, sf_conclude(&job.segment, seq));
    unsigned code = SF_OUTCOME_CODE(atomic_load(&entry->outcome));
    int failed = atomic_load(&job.record[seq].failed) != 0;
    if (code == SF_OUTCOME_OPEN || (failed && code != SF_OUTCOME_FAILED))
        FAIL("entry %" PRIu64 " of kind %u ended with %u, failed %d", seq, entry->kind, code, failed);
}

static _Noreturn void
die(void)
{
    if (me.lock_fd >= 0) {
        sf_fork_keep(me.lock_fd);
        UNLOCKED();
        close(me.lock_fd);
        me.lock_fd = -1;
    }
    longjmp(me.died, 1);
}

void
sf_point_reached(const char *name)
{
    uint64_t r = random_next(&me.random);

    if (me.is_rank && strcmp(name, "turn:folded") == 0) {
        me.kind = (int)sf_entry_at(&me.worker->segment, me.worker->applied + 1)->kind;
        me.target = atomic_load(&sf_entry_at(&me.worker->segment, me.worker->applied + 1)->target);
        me.folded = 1;
    }
    if (me.is_rank && strcmp(name, "turn:applied") == 0)
        note_applied();
    if (me.is_rank && strcmp(name, "turn:settled") == 0)
        atomic_fetch_add(&job.helped, 1);
    if (me.is_sender && strcmp(name, "append:locked") == 0)
        check_oldest();
    if (me.is_sender && job.plan.deaths && (r >> 20) % (uint64_t)job.plan.deaths == 0 &&
        strcmp(name, "append:unlocked") != 0)
        die();
    if (me.is_mortal && job.plan.rank_deaths && (r >> 20) % (uint64_t)job.plan.rank_deaths == 0)
        die();
    if (r % 8 == 0)
        sched_yield();
    else if (r % 512 == 1)
        usleep((useconds_t)(r >> 40) % 100);
    else if (r % 4 == 2)
        for (volatile uint64_t i = (r >> 40) % 500; i > 0; i--)
            ;
}

/* --- a rank --- */

/* As sf_worker_join(), but in the mapping that all threads share: the sanitizer tells accesses by their address. */
void
come(struct own_worker *own, uint32_t rank)
{
    own->attach_page = (struct sf_slot)SF_ATTACH_PAGE;
    own->detached_page = (struct sf_slot)SF_DETACHED_PAGE;
    own->page = &own->attach_page;
    own->has_peers = 0;
    own->worker = (struct sf_worker){
        .counter = {&own->page, &own->has_peers},
        .attach_page = &own->attach_page,
        .detached_page = &own->detached_page,
        .stride = job.plan.stride,
        .watch = SF_NEVER,
        .journal = SF_JOURNAL_NONE,
        .segment = job.segment,
    };
    own->worker.segment.lock_fd = -1;
    own->worker.segment.turn = (struct sf_kept){.fd = -1};
    me.worker = &own->worker;
    int fd = sf_log_lock(&me.worker->segment, PATIENCE);
    if (fd < 0)
        FAIL("rank %u can't have the log's lock: %d", rank, fd);
    SF_POINT("join:locked");
    int rc = sf_worker_join_locked(me.worker, job.segment.path, rank, random_next(&me.random));
    if (rc < 0)
        FAIL("rank %u can't come: %d", rank, rc);
    /* What it begins with is known before those who keep together see that it is there. */
    me.due = atomic_load(&me.worker->slot->step) + me.worker->stride;
    me.asked = atomic_load(&job.segment.header->tail);
    atomic_store(&job.rank[rank].applied, me.worker->applied);
    atomic_store(&job.rank[rank].there, 1);
    atomic_fetch_add(&job.came, 1);
    sf_lock_close(fd);
    me.lock_fd = -1;
    SF_POINT("join:done");
}

void
vanish(void)
{
    me.is_mortal = 0;
    atomic_store(&job.rank[me.rank].there, 0);
    me.worker->slot = NULL;
    DIES();
    if (me.worker->segment.lock_fd >= 0)
        close(me.worker->segment.lock_fd);
    me.worker->segment.lock_fd = -1;
    atomic_fetch_add(&job.ranks_died, 1);
}

unsigned
cast_vote(struct ballot *ballot)
{
    return sf_worker_vote(me.worker, ballot->seq, ballot->phase, random_next(&me.random) % (4 * job.plan.ranks) != 0);
}

int
next_phase(struct ballot *ballot, unsigned verdict)
{
    struct record *record = &job.record[ballot->seq];
    unsigned shift = 2 * ballot->phase;
    uint32_t before = atomic_load(&record->verdicts);

    while ((before >> shift & 3) == 0 &&
           !atomic_compare_exchange_weak(&record->verdicts, &before, before | verdict << shift))
        ;
    before = atomic_load(&record->verdicts);
    if (job.plan.ranks > 1 && (before >> shift & 3) != verdict)
        FAIL("rank %u: entry %" PRIu64 ", phase %d: verdict %u, and it was %u", me.rank, ballot->seq, ballot->phase,
             verdict, before >> shift & 3);
    atomic_fetch_add(&job.votes, 1);
    ballot->leaves |= ballot->phase == SF_PHASE_READY && verdict == SF_VOTE_YES;
    if (verdict == SF_VOTE_YES && ++ballot->phase < SF_PHASE_END)
        return 1;
    if (ballot->leaves)
        sf_worker_set_back(me.worker, me.standing - me.worker->stride);
    atomic_fetch_add(&job.refused, verdict == SF_VOTE_NO);
    sf_worker_publish_outcome(me.worker, ballot->seq, me.standing, verdict == SF_VOTE_NO);
    if (verdict == SF_VOTE_NO && ballot->seq > me.asked)
        atomic_store(&record->failed, 1);
    return 0;
}

void
deliver(const struct sf_due *due)
{
    int failed = random_next(&me.random) % (8 * job.plan.ranks) == 0;

    if (due->entry.ranks != SF_RANKS_ALL && due->entry.ranks != me.rank + 1)
        FAIL("rank %u is handed what is for rank %u", me.rank, due->entry.ranks - 1);
    sf_worker_publish_outcome(me.worker, due->seq, me.standing, failed);
    if (failed && due->seq > me.asked)
        atomic_store(&job.record[due->seq].failed, 1);
}

/* --- a sender --- */

int
send_one(uint32_t kind, uint64_t argument, int patient)
{
    struct sf_request request = {.kind = kind, .id = random_next(&me.random), .arg = argument};
    struct sf_receipt receipt;
    int rc;

    if ((kind == SF_SET || kind == SF_CALL) && random_next(&me.random) % 2)
        request.ranks = 1 + (uint32_t)(random_next(&me.random) % job.plan.ranks);
    do {
        me.lock_fd = -1;
        rc = sf_append(&job.segment, &request, PATIENCE, &receipt);
        if (rc == -SF_EFULL)
            usleep(200);
    } while (rc == -SF_EFULL && patient);
    me.lock_fd = -1;
    if (rc == -SF_EFULL)
        return rc;
    if (rc < 0)
        FAIL("append: %d", rc);
    if (receipt.verdict == SF_NOTHING_TO_DO)
        return 0;
    if (receipt.verdict != SF_APPENDED || receipt.seq == 0 || receipt.seq >= job.entries)
        FAIL("verdict %d, entry %" PRIu64, receipt.verdict, receipt.seq);
    if (receipt.target > SF_STEP_MAX)
        FAIL("entry %" PRIu64 " has no target, though its sender lives: %" PRIx64, receipt.seq, receipt.target);
    if (atomic_exchange(&job.record[receipt.seq].promised, receipt.target + 1) != 0)
        FAIL("entry %" PRIu64 " was given to two senders", receipt.seq);
    return 1;
}

int
send_any(int patient)
{
    static const uint32_t kinds[] = {SF_PAUSE, SF_RESUME, SF_PAUSE,  SF_RESUME,  SF_RESUME, SF_RELOAD,
                                     SF_SET,   SF_SET,    SF_CALL,   SF_ADVANCE, SF_RESUME, SF_CALL,
                                     SF_SET,   SF_PAUSE,  SF_RESUME, SF_RESUME};
    uint64_t r = random_next(&me.random);
    uint32_t kind = kinds[r % (sizeof kinds / sizeof *kinds)];
    uint64_t number = kind == SF_ADVANCE ? 1 + (r >> 32) % 4 : 0;

    if (kind == SF_PAUSE && (r >> 40) % 2)
        number = atomic_load(&job.segment.slots[0].step) + (r >> 32) % 16;
    return send_one(kind, number, patient);
}

/* --- the job --- */

static void
check_job(void)
{
    uint64_t tail = atomic_load(&job.segment.header->tail), voided = 0;

    for (uint64_t seq = 1; seq <= tail; seq++) {
        uint64_t target = atomic_load(&job.record[seq].target), promised = atomic_load(&job.record[seq].promised);
        if (target == 0)
            FAIL("no rank came to entry %" PRIu64 " of %" PRIu64, seq, tail);
        voided += target == VOIDED;
        if (promised != 0 && promised != target)
            FAIL("entry %" PRIu64 ": its sender was told %" PRIu64 ", and its target is %" PRIu64, seq, promised - 1,
                 target - 1);
    }
    if (voided > atomic_load(&job.died))
        FAIL("%" PRIu64 " entries are void, and %" PRIu64 " senders died", voided, atomic_load(&job.died));
    if (job.plan.rank_deaths == 0 && job.plan.late == 0) {
        for (uint32_t r = 1; r < job.plan.ranks; r++) {
            if (atomic_load(&job.rank[r].stopped_at) != atomic_load(&job.rank[0].stopped_at))
                FAIL("rank %u stopped elsewhere", r);
        }
    }
    printf("       %u ranks, %" PRIu64 " requests, %" PRIu64 " of %d senders died, %" PRIu64 " void, %" PRIu64
           " decided by ranks, %" PRIu64 " ranks died, %" PRIu64 " came, %" PRIu64 " votes, %" PRIu64
           " no, step %" PRIu64,
           job.plan.ranks, tail, atomic_load(&job.died), job.plan.senders, voided, atomic_load(&job.helped),
           atomic_load(&job.ranks_died), atomic_load(&job.came), atomic_load(&job.votes), atomic_load(&job.refused),
           atomic_load(&job.rank[0].stopped_at));
}

void
begin_job(struct plan plan)
{
    if (plan.stride == 0)
        plan.stride = 1;
    job.plan = plan;
    job.entries = plan.requests * (uint64_t)plan.senders * 2 + 1000;
    job.record = calloc(job.entries, sizeof *job.record);
    if (sf_segment_create(&job.segment, path_in("control"), plan.ranks, 0) != 0)
        FAIL("no segment");
    /* Rank 0 joins like the others. The descriptor stays, so that each lock of the log opens one of its own. */
    sf_unlock(job.segment.lock_fd, 0, 0);
}

void
end_job(int64_t began)
{
    check_job();
    printf(", %.0f requests/s\n",
           (double)atomic_load(&job.segment.header->tail) * 1e9 / (double)(sf_monotonic_ns() - began));
    sf_segment_close(&job.segment);
    free((void *)job.record);
}

uint64_t
scaled(uint64_t requests)
{
    const char *times = getenv("SF_TEST_RANKS");
    uint64_t share = strcmp(VARIANT, "plain") == 0 ? 5 : 1;
    return requests * share * (times ? strtoull(times, NULL, 10) : 1);
}
