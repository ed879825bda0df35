/* Many ranks and many senders as threads of one process, for the thread sanitizer: the worker's real code with its two
 * globals made one per thread (see the Makefile), real appends, and a random schedule: at each named point a thread may
 * give way, sleep, or die. Ranks come late, die, and come again. All must apply the same entries at the same steps,
 * read the same verdicts, and leave no request without a fate. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/resource.h>

#include "harness.h"
#include "sf_worker.c"

#define RANKS_MAX 1024
#define THREADS_MAX 64
#define SENDERS_MAX 4
#define PATIENCE (30 * SF_SECOND)

struct plan {
    uint32_t ranks;
    uint32_t late; /* so many of them come when the others have begun */
    int senders;
    uint64_t requests; /* of each sender */
    uint64_t lead;     /* checkpoints that a rank may be ahead of the last, as collectives keep them together */
    uint32_t stride;   /* 0 for 1 */
    int deaths;        /* a sender dies at one of so many points; 0: never */
    int rank_deaths;   /* so does a rank, but for the first two; 0: never */
};

/* What has become of an entry, as the first rank to come to it found it. */
struct record {
    _Atomic uint64_t target;   /* plus one; VOIDED */
    _Atomic uint64_t step;     /* where it was applied; of an only rank it may lie behind the target */
    _Atomic uint64_t promised; /* the target that the sender was told, plus one */
    _Atomic uint32_t verdicts; /* two bits for each phase */
    _Atomic uint32_t failed;   /* a rank has said so, and lived on */
};

static struct {
    struct plan plan;
    struct sf_segment segment;
    uint64_t entries; /* room in the table */
    struct record *record;
    struct {
        _Atomic int there; /* it passes checkpoints, or is on the way to one */
        _Atomic uint64_t applied, stopped_at;
    } rank[RANKS_MAX];
    _Atomic int over;
    _Atomic uint64_t sent, died, ranks_died, came, helped, votes, refused;
} job;

#define VOIDED UINT64_MAX

/* --- the points --- */

int sf_point_armed = 1;

static _Thread_local struct {
    uint64_t random;
    uint64_t standing; /* a rank: the step at which it takes its turn */
    uint64_t due;      /* nothing is due before */
    uint64_t target;   /* of the entry that was folded: once it is applied, another may take its place */
    uint64_t asked;    /* what was asked before it came; it may be over */
    uint32_t rank;
    int folded, kind;
    int is_rank, is_sender;
    int is_mortal; /* a rank at a moment at which it may die */
    int lock_fd;   /* the log's lock that it may hold, -1 if none */
    jmp_buf died;
} me;

int __real_sf_lock_open(const char *path);
int __wrap_sf_lock_open(const char *path);
int __real_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns);
int __wrap_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns);
int __real_sf_lock_held(int fd, uint64_t offset, uint64_t length);
int __wrap_sf_lock_held(int fd, uint64_t offset, uint64_t length);
void __real_sf_lock_close(int fd);
void __wrap_sf_lock_close(int fd);

/* The sanitizer does not know that a record lock orders those who hold it one after the other, and that who finds one
 * free comes after the death of who had it. */
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
    return (due + worker.stride - 1) / worker.stride * worker.stride;
}

static void
note_applied(void)
{
    uint64_t seq = worker.applied;
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
        if (me.standing != due && !(job.plan.ranks == 1 && me.standing + 2 * worker.stride >= due))
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
            return; /* it will be told that the log is full, unless that one is dead */
    }
    if (entry->kind == SF_PAUSE || entry->kind == SF_ADVANCE || atomic_load(&entry->target) == SF_TARGET_VOID)
        return; /* may be for a step that nobody has come to */
    /* Where it is still open, those who were not done with it have died since. What was for one rank alone nobody has
     * done then. */
    if (entry->ranks != SF_RANKS_ALL && job.plan.ranks > 1 && sf_conclude(&job.segment, seq) == -ESRCH &&
        job.plan.rank_deaths > 0)
        return;
    if (job.plan.ranks > 1 && sf_conclude(&job.segment, seq) != 1)
        FAIL("entry %" PRIu64 " of kind %u was never told of: %d", seq, entry->kind, sf_conclude(&job.segment, seq));
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
        me.kind = (int)sf_entry_at(&worker.segment, worker.applied + 1)->kind;
        me.target = atomic_load(&sf_entry_at(&worker.segment, worker.applied + 1)->target);
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
static void
come(uint32_t rank)
{
    memset(&worker, 0, sizeof worker);
    worker.watch = SF_NEVER;
    worker.journal.fd = -1;
    worker.stride = job.plan.stride;
    worker.segment = job.segment;
    worker.segment.lock_fd = -1;
    worker.segment.turn = (struct sf_kept){.fd = -1};
    sf_worker_slot = &attach_page;
    int fd = sf_log_lock(&worker.segment, PATIENCE);
    if (fd < 0)
        FAIL("rank %u can't have the log's lock: %d", rank, fd);
    SF_POINT("join:locked");
    int rc = join_locked(job.segment.path, rank, random_next(&me.random));
    if (rc < 0)
        FAIL("rank %u can't come: %d", rank, rc);
    /* What it begins with is known before those who keep together see that it is there. */
    me.due = atomic_load(&worker.slot->step) + worker.stride;
    me.asked = atomic_load(&job.segment.header->tail);
    atomic_store(&job.rank[rank].applied, worker.applied);
    atomic_store(&job.rank[rank].there, 1);
    atomic_fetch_add(&job.came, 1);
    sf_lock_close(fd);
    me.lock_fd = -1;
    SF_POINT("join:done");
}

/* All that is left of it is its slot. */
static void
vanish(void)
{
    me.is_mortal = 0;
    atomic_store(&job.rank[me.rank].there, 0);
    worker.slot = NULL;
    DIES();
    if (worker.segment.lock_fd >= 0)
        close(worker.segment.lock_fd);
    worker.segment.lock_fd = -1;
    atomic_fetch_add(&job.ranks_died, 1);
}

/* Gives way to those that are waited for, of which there may be many for each processor. */
static void
give_way(int turns)
{
    if (turns % 64 == 63)
        usleep(100);
    else
        sched_yield();
}

static void
keep_together(uint64_t step)
{
    int64_t end = sf_monotonic_ns() + PATIENCE;
    uint64_t lead = job.plan.lead * job.plan.stride;

    for (uint32_t r = 0; r < job.plan.ranks; r++) {
        for (int i = 0; atomic_load(&job.rank[r].there) && step >= atomic_load(&job.segment.slots[r].step) + lead;
             i++) {
            give_way(i);
            if (i % 1024 == 1023 && sf_monotonic_ns() > end)
                FAIL("rank %u at step %" PRIu64 " waits for rank %u at %" PRIu64 ", state %u", me.rank, step, r,
                     atomic_load(&job.segment.slots[r].step), atomic_load(&job.segment.slots[r].state));
        }
    }
}

/* The vote on a reload, as the Python side has it: each rank says whether it can, did, and came through. */
struct ballot {
    uint64_t seq;
    enum sf_phase phase;
    int leaves; /* they leave their loops for it, and come to this step once more */
    int64_t end;
};

static unsigned
cast(struct ballot *ballot)
{
    return sf_worker_vote(ballot->seq, ballot->phase, random_next(&me.random) % (4 * job.plan.ranks) != 0);
}

/* What came of a phase: the same for all. Whether there is another one. */
static int
goes_on(struct ballot *ballot, unsigned verdict)
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
        sf_worker_set_back(me.standing - worker.stride);
    atomic_fetch_add(&job.refused, verdict == SF_VOTE_NO);
    sf_worker_tell(ballot->seq, me.standing, verdict == SF_VOTE_NO);
    if (verdict == SF_VOTE_NO && ballot->seq > me.asked)
        atomic_store(&record->failed, 1);
    return 0;
}

static int
vote(uint64_t seq)
{
    struct ballot ballot = {.seq = seq, .end = sf_monotonic_ns() + PATIENCE};
    unsigned verdict;

    do {
        verdict = cast(&ballot);
        for (int i = 0; verdict == 0; i++) {
            give_way(i);
            verdict = sf_worker_agreed(seq, ballot.phase, random_next(&me.random) % 65536 == 0);
            if (sf_monotonic_ns() > ballot.end)
                FAIL("rank %u: no verdict on entry %" PRIu64 ", phase %d", me.rank, seq, ballot.phase);
        }
    } while (goes_on(&ballot, verdict));
    return ballot.leaves;
}

static void
deliver(const struct sf_turn *turn)
{
    int failed = random_next(&me.random) % (8 * job.plan.ranks) == 0;

    if (turn->entry.ranks != SF_RANKS_ALL && turn->entry.ranks != me.rank + 1)
        FAIL("rank %u is handed what is for rank %u", me.rank, turn->entry.ranks - 1);
    sf_worker_tell(turn->seq, me.standing, failed);
    if (failed && turn->seq > me.asked)
        atomic_store(&job.record[turn->seq].failed, 1);
}

/* One checkpoint, as slow_path.py does it. */
static enum sf_action
pass_checkpoint(int counted)
{
    struct sf_turn turn;
    uint64_t published = 0;

    if (!(counted ? sf_pass(&me.standing) : sf_look(&me.standing)))
        return SF_GO;
    for (;;) {
        int rc = sf_turn(me.standing, counted, &turn);
        if (rc < 0)
            FAIL("rank %u: %d", me.rank, rc);
        if (turn.action == SF_DELIVER) {
            deliver(&turn);
            continue;
        }
        if (turn.action == SF_RAISE_RELOAD && !vote(turn.seq)) {
            published = 0; /* it stands where it stood */
            continue;
        }
        if (turn.action != SF_HOLD) {
            sf_worker_unparked(me.standing);
            return turn.action;
        }
        if (turn.seq != published)
            sf_worker_parked(turn.seq, me.standing, 0);
        published = turn.seq;
        rc = sf_worker_wait(PATIENCE);
        if (rc == -ETIMEDOUT)
            FAIL("rank %u sleeps at step %" PRIu64 ", word %u, applied %" PRIu64 " of %" PRIu64, me.rank, me.standing,
                 atomic_load(&worker.slot->word), worker.applied, atomic_load(&job.segment.header->tail));
    }
}

static void
run_until_stopped(void)
{
    enum sf_action action;
    uint64_t step = atomic_load(&worker.slot->step);

    do {
        keep_together(step);
        if (random_next(&me.random) % 64 == 0)
            pass_checkpoint(0);
        action = pass_checkpoint(1);
        if (me.standing != step + worker.stride)
            FAIL("rank %u: step %" PRIu64 " after %" PRIu64, me.rank, me.standing, step);
        step = atomic_load(&worker.slot->step);
    } while (action != SF_RAISE_STOP);
    if (worker.applied != atomic_load(&job.segment.header->tail))
        FAIL("rank %u stops, and has come to entry %" PRIu64 " only", me.rank, worker.applied);
    atomic_store(&job.rank[me.rank].stopped_at, step);
    atomic_store(&job.rank[me.rank].there, 0);
}

static void *
run_rank(void *argument)
{
    uint32_t rank = (uint32_t)(uintptr_t)argument;
    volatile int first = 1;

    me.rank = rank;
    me.is_rank = 1;
    me.lock_fd = -1;
    me.random = test_seed * 31 + rank;
    if (setjmp(me.died) != 0)
        vanish();
    int late = rank >= job.plan.ranks - job.plan.late || !first;
    for (uint64_t wait = late ? random_next(&me.random) % (first ? 200 : 20) : 0; wait > 0; wait--) {
        if (atomic_load(&job.over))
            return NULL;
        usleep(1000);
    }
    first = 0;
    me.folded = 0;
    me.is_mortal = rank > 1;
    come(rank);
    run_until_stopped();
    me.is_mortal = 0;
    return NULL;
}

/* --- a sender --- */

/* 1 if it was appended, 0 if there was nothing to do. `patient`: until the log takes it; else -SF_EFULL. */
static int
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

static int
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

static void *
run_sender(void *argument)
{
    volatile uint64_t sent = 0;

    me.is_sender = 1;
    me.random = test_seed * 77 + (uint64_t)(uintptr_t)argument;
    while (sent < job.plan.requests) {
        if (setjmp(me.died) != 0) {
            atomic_fetch_add(&job.died, 1); /* another one takes its place */
            sent++;
            continue;
        }
        sent += (uint64_t)send_any(1);
    }
    atomic_fetch_add(&job.sent, sent);
    me.is_sender = 0;
    return NULL;
}

/* --- the run --- */

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
           " settled by ranks, %" PRIu64 " ranks died, %" PRIu64 " came, %" PRIu64 " votes, %" PRIu64
           " no, step %" PRIu64,
           job.plan.ranks, tail, atomic_load(&job.died), job.plan.senders, voided, atomic_load(&job.helped),
           atomic_load(&job.ranks_died), atomic_load(&job.came), atomic_load(&job.votes), atomic_load(&job.refused),
           atomic_load(&job.rank[0].stopped_at));
}

static void
begin_job(struct plan plan)
{
    if (plan.stride == 0)
        plan.stride = 1;
    job.plan = plan;
    sf_worker_several = plan.ranks > 1;
    job.entries = plan.requests * (uint64_t)plan.senders * 2 + 1000;
    job.record = calloc(job.entries, sizeof *job.record);
    if (sf_segment_create(&job.segment, path_in("control"), plan.ranks, 0) != 0)
        FAIL("no segment");
    /* Rank 0 comes like the others. The descriptor stays: so who takes the log's lock opens one for it each time. */
    sf_unlock(job.segment.lock_fd, 0, 0);
}

static void
end_job(int64_t began)
{
    check_job();
    printf(", %.0f requests/s\n",
           (double)atomic_load(&job.segment.header->tail) * 1e9 / (double)(sf_monotonic_ns() - began));
    sf_segment_close(&job.segment);
    free((void *)job.record);
}

static void
run_job(struct plan plan)
{
    pthread_t ranks[THREADS_MAX], senders[SENDERS_MAX];
    int64_t began = sf_monotonic_ns();

    begin_job(plan);
    for (uint32_t r = 0; r < plan.ranks; r++)
        pthread_create(&ranks[r], NULL, run_rank, (void *)(uintptr_t)r);
    WITHIN(60, atomic_load(&job.came) >= plan.ranks - plan.late);
    for (int s = 0; s < plan.senders; s++)
        pthread_create(&senders[s], NULL, run_sender, (void *)(uintptr_t)(s + 1));
    for (int s = 0; s < plan.senders; s++)
        pthread_join(senders[s], NULL);
    atomic_store(&job.over, 1);
    send_one(SF_STOP, 0, 1);
    for (uint32_t r = 0; r < plan.ranks; r++)
        pthread_join(ranks[r], NULL);
    end_job(began);
}

/* SF_TEST_RANKS multiplies the number of requests. */
static uint64_t
of(uint64_t requests)
{
    const char *times = getenv("SF_TEST_RANKS");
    uint64_t share = strcmp(VARIANT, "plain") == 0 ? 5 : 1;
    return requests * share * (times ? strtoull(times, NULL, 10) : 1);
}

TEST(two_ranks_in_step_agree)
{
    run_job((struct plan){.ranks = 2, .senders = 2, .requests = of(1000), .lead = 1});
}

TEST(two_ranks_agree_while_senders_die)
{
    run_job((struct plan){.ranks = 2, .senders = 3, .requests = of(1000), .lead = 2, .deaths = 100});
}

TEST(two_ranks_that_drift_apart_agree)
{
    run_job((struct plan){.ranks = 2, .senders = 2, .requests = of(500), .lead = 500, .deaths = 300});
}

TEST(four_ranks_agree_while_senders_die)
{
    run_job((struct plan){.ranks = 4, .senders = 4, .requests = of(500), .lead = 3, .deaths = 100});
}

TEST(four_ranks_that_count_in_tens_agree)
{
    run_job((struct plan){.ranks = 4, .senders = 3, .requests = of(500), .lead = 2, .stride = 10, .deaths = 200});
}

TEST(four_ranks_of_which_two_die_and_come_again_agree)
{
    run_job((struct plan){
        .ranks = 4, .late = 1, .senders = 3, .requests = of(500), .lead = 2, .deaths = 200, .rank_deaths = 500});
}

TEST(sixteen_ranks_that_come_late_and_die_agree)
{
    run_job((struct plan){
        .ranks = 16, .late = 8, .senders = 3, .requests = of(200), .lead = 3, .deaths = 200, .rank_deaths = 2000});
}

TEST(sixty_four_ranks_agree)
{
    run_job((struct plan){.ranks = 64, .senders = 3, .requests = of(60), .lead = 2, .deaths = 200});
}

TEST(sixty_four_ranks_that_come_late_and_die_agree)
{
    run_job((struct plan){.ranks = 64,
                          .late = 32,
                          .senders = 3,
                          .requests = of(60),
                          .lead = 4,
                          .stride = 10,
                          .deaths = 200,
                          .rank_deaths = 5000});
}

TEST(one_rank_and_many_senders)
{
    run_job((struct plan){.ranks = 1, .senders = 4, .requests = of(500), .lead = 1, .deaths = 100});
}

/* --- a thousand ranks, of which this thread is one after the other --- */

struct simulated {
    unsigned char worker[sizeof worker];
    uint64_t standing, due, asked;
    int held;   /* parked */
    int voting; /* on a reload */
    struct ballot ballot;
};

static struct simulated *simulated;

static void
become(uint32_t rank)
{
    memcpy(&worker, simulated[rank].worker, sizeof worker);
    sf_worker_slot = worker.slot;
    me.rank = rank;
    me.standing = simulated[rank].standing;
    me.due = simulated[rank].due;
    me.asked = simulated[rank].asked;
}

static void
leave(void)
{
    struct simulated *self = &simulated[me.rank];

    memcpy(self->worker, &worker, sizeof worker);
    self->standing = me.standing;
    self->due = me.due;
    self->asked = me.asked;
}

/* Takes its turn as far as it goes without waiting for others. Whether it was told to stop. */
static int
take_turn(struct simulated *self)
{
    struct sf_turn turn;

    for (;;) {
        int rc = sf_turn(me.standing, SF_TURN_COUNTED, &turn);
        if (rc < 0)
            FAIL("rank %u: %d", me.rank, rc);
        if (turn.action == SF_DELIVER) {
            deliver(&turn);
            continue;
        }
        self->held = turn.action == SF_HOLD;
        if (self->held) {
            sf_worker_parked(turn.seq, me.standing, 0);
            return 0;
        }
        sf_worker_unparked(me.standing);
        if (turn.action == SF_RAISE_RELOAD) {
            self->voting = 1;
            self->ballot = (struct ballot){.seq = turn.seq};
            cast(&self->ballot);
        }
        return turn.action == SF_RAISE_STOP;
    }
}

/* One visit: a look at what it waits for, or a checkpoint. Whether it was told to stop. */
static int
visit(struct simulated *self)
{
    if (self->voting) {
        unsigned verdict = sf_worker_agreed(self->ballot.seq, self->ballot.phase, random_next(&me.random) % 65536 == 0);
        if (verdict == 0)
            return 0;
        if (goes_on(&self->ballot, verdict)) {
            cast(&self->ballot);
            return 0;
        }
        self->voting = 0;
        return self->ballot.leaves ? 0 : take_turn(self);
    }
    if (self->held)
        return take_turn(self);
    return sf_pass(&me.standing) ? take_turn(self) : 0;
}

TEST(a_thousand_ranks_that_come_and_die_agree)
{
    uint32_t ranks = 1024, stopped = 0;
    uint64_t wanted = strcmp(VARIANT, "plain") == 0 ? of(6) : of(10), sent = 0, lead = 3;
    int64_t began = sf_monotonic_ns(), asking = 0;
    struct rlimit files;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max; /* a descriptor for the lock of each */
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
    begin_job((struct plan){.ranks = ranks, .late = ranks / 4, .senders = 1, .requests = wanted, .lead = lead});
    simulated = calloc(ranks, sizeof *simulated);
    me.random = test_seed;
    me.is_rank = 1;
    me.lock_fd = -1;
    while (stopped < ranks) {
        uint64_t least = UINT64_MAX;
        for (uint32_t r = 0; r < ranks; r++) {
            uint64_t step = atomic_load(&job.segment.slots[r].step);
            if (atomic_load(&job.rank[r].there) && step < least)
                least = step;
        }
        uint32_t offset = (uint32_t)random_next(&me.random) % ranks,
                 stride = 1 + 2 * (uint32_t)(random_next(&me.random) % 500);
        for (uint32_t i = 0; i < ranks; i++) {
            uint32_t r = (offset + i * stride) % ranks;
            struct simulated *self = &simulated[r];
            uint64_t dice = random_next(&me.random);

            if (atomic_load(&job.rank[r].stopped_at) != 0)
                continue;
            if (!atomic_load(&job.rank[r].there)) {
                if (sent < wanted && dice % (sent < 3 && r < ranks - job.plan.late ? 1 : 50) != 0)
                    continue;
                memset(self, 0, sizeof *self);
                me.rank = r;
                me.folded = 0;
                come(r);
                me.standing = atomic_load(&worker.slot->step);
            } else {
                become(r);
                if (r > 1 && sent < wanted && dice % 5000 == 0) {
                    vanish();
                    continue;
                }
                if (!self->held && !self->voting && (me.standing >= least + lead || dice % 4 == 0))
                    continue;
                if (visit(self)) {
                    atomic_store(&job.rank[r].stopped_at, me.standing);
                    atomic_store(&job.rank[r].there, 0);
                    stopped++;
                }
            }
            leave();
        }
        if (sent <= wanted) {
            int64_t before = sf_monotonic_ns();
            me.is_rank = 0;
            int rc = sent < wanted ? send_any(0) : send_one(SF_STOP, 0, 0);
            me.is_rank = 1;
            sent += rc > 0;
            asking += rc > 0 ? sf_monotonic_ns() - before : 0;
        }
    }
    for (uint32_t r = 0; r < ranks; r++) {
        if (atomic_load(&job.rank[r].applied) != atomic_load(&job.segment.header->tail))
            FAIL("rank %u stopped, and had come to entry %" PRIu64 " only", r, atomic_load(&job.rank[r].applied));
    }
    printf("       an append takes %.0f us\n", (double)asking / 1e3 / (double)sent);
    end_job(began);
    free(simulated);
}
