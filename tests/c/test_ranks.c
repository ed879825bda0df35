/* Many ranks and many senders as threads of one process, for the thread sanitizer: the worker's real code with its two
 * globals made one per thread (see the Makefile), real appends, and a random schedule: at each named point a thread may
 * give way, sleep, or, if it is a sender, die. All ranks must apply the same entries at the same steps. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>

#include "harness.h"
#include "sf_worker.c"

#define RANKS_MAX 4
#define SENDERS_MAX 4
#define PATIENCE (30 * SF_SECOND)

struct plan {
    uint32_t ranks;
    int senders;
    uint64_t requests; /* of each sender */
    uint64_t lead;     /* steps that a rank may be ahead of the last, as collectives keep them together */
    int deaths;        /* a sender dies at one of so many points; 0: never */
};

static struct {
    struct plan plan;
    struct sf_segment segment;
    uint64_t entries;                     /* room in the tables */
    _Atomic uint64_t *applied[RANKS_MAX]; /* by sequence number: the step, or VOIDED */
    _Atomic uint64_t *promised;           /* by sequence number: the target that the sender was told */
    _Atomic uint64_t *kinds;              /* by sequence number: kind and target, as rank 0 folded it */
    _Atomic uint64_t sent, died, helped, passed, stopped_at[RANKS_MAX];
} job;

#define VOIDED UINT64_MAX

/* --- the points --- */

int sf_point_armed = 1;

static _Thread_local struct {
    uint64_t random;
    uint64_t standing; /* a rank: the step at which it takes its turn */
    uint32_t rank;
    int folded;
    int is_rank, is_sender;
    int lock_fd; /* a sender: the log's lock that it may hold, -1 if none */
    jmp_buf died;
} me;

int __real_sf_lock_open(const char *path);
int __wrap_sf_lock_open(const char *path);
int __real_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns);
int __wrap_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns);
void __real_sf_lock_close(int fd);
void __wrap_sf_lock_close(int fd);

/* The sanitizer does not know that a record lock orders those who hold it one after the other. */
#if defined(__SANITIZE_THREAD__)
void __tsan_acquire(void *address);
void __tsan_release(void *address);
static char log_lock;
#define LOCKED() __tsan_acquire(&log_lock)
#define UNLOCKED() __tsan_release(&log_lock)
#else
#define LOCKED() (void)0
#define UNLOCKED() (void)0
#endif

int
__wrap_sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns)
{
    int rc = __real_sf_lock(fd, offset, length, timeout_ns);
    LOCKED();
    return rc;
}

void
__wrap_sf_lock_close(int fd)
{
    UNLOCKED();
    __real_sf_lock_close(fd);
}

/* Each descriptor that a lock is taken with is opened here; so a sender can die without one. */
int
__wrap_sf_lock_open(const char *path)
{
    return me.lock_fd = __real_sf_lock_open(path);
}

static void
note_applied(void)
{
    uint64_t seq = worker.applied;
    if (seq >= job.entries)
        FAIL("entry %" PRIu64 " was never asked for", seq);
    if (atomic_load(&job.applied[me.rank][seq]) != 0)
        FAIL("rank %u applies entry %" PRIu64 " twice", me.rank, seq);
    atomic_store(&job.applied[me.rank][seq], me.folded ? me.standing : VOIDED);
    me.folded = 0;
}

void
sf_point_reached(const char *name)
{
    uint64_t r = random_next(&me.random);

    if (me.is_rank && strcmp(name, "turn:folded") == 0) {
        struct sf_entry *entry = sf_entry_at(&worker.segment, worker.applied + 1);
        if (me.rank == 0)
            atomic_store(&job.kinds[worker.applied + 1], atomic_load(&entry->target) * 8 + entry->kind);
        me.folded = 1;
    }
    if (me.is_rank && strcmp(name, "turn:applied") == 0)
        note_applied();
    if (me.is_rank && strcmp(name, "turn:settled") == 0)
        atomic_fetch_add(&job.helped, 1);
    if (me.is_sender && job.plan.deaths && (r >> 20) % (uint64_t)job.plan.deaths == 0 &&
        strcmp(name, "append:unlocked") != 0) {
        if (me.lock_fd >= 0) {
            sf_fork_keep(me.lock_fd);
            UNLOCKED();
            close(me.lock_fd);
        }
        longjmp(me.died, 1);
    }
    if (r % 8 == 0)
        sched_yield();
    else if (r % 512 == 1)
        usleep((useconds_t)(r >> 40) % 100);
    else if (r % 4 == 2)
        for (volatile uint64_t i = (r >> 40) % 500; i > 0; i--)
            ;
}

/* --- a rank --- */

static void
join_run(uint32_t rank)
{
    struct sf_slot *slot = &job.segment.slots[rank];

    worker.segment = job.segment;
    worker.number = worker.rank = rank;
    worker.cookie = 1000 + rank;
    worker.applied = 0;
    worker.state = sf_state_first();
    worker.slot = slot;
    sf_worker_slot = slot;
    me.rank = rank;
    me.is_rank = 1;
    me.random = test_seed * 31 + rank;
}

static void
keep_together(uint64_t step)
{
    int64_t end = sf_monotonic_ns() + PATIENCE;

    for (uint32_t r = 0; r < job.plan.ranks; r++) {
        for (int i = 0; step >= atomic_load(&job.segment.slots[r].step) + job.plan.lead; i++) {
            sched_yield();
            if (i % 1024 == 1023 && sf_monotonic_ns() > end)
                FAIL("rank %u at step %" PRIu64 " waits for rank %u at %" PRIu64 ", state %u", me.rank, step, r,
                     atomic_load(&job.segment.slots[r].step), atomic_load(&job.segment.slots[r].state));
        }
    }
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

static void *
run_rank(void *argument)
{
    enum sf_action action;
    uint64_t step = 0;

    join_run(*(uint32_t *)argument);
    do {
        keep_together(step);
        if (random_next(&me.random) % 64 == 0)
            pass_checkpoint(0);
        action = pass_checkpoint(1);
        if (me.standing != step + 1)
            FAIL("rank %u: step %" PRIu64 " after %" PRIu64, me.rank, me.standing, step);
        step = me.standing;
    } while (action != SF_RAISE_STOP);
    atomic_store(&job.stopped_at[me.rank], step);
    atomic_fetch_add(&job.passed, step);
    return NULL;
}

/* --- a sender --- */

static int
send_one(uint32_t kind, uint64_t argument)
{
    struct sf_request request = {.kind = kind, .id = random_next(&me.random), .arg = argument};
    struct sf_receipt receipt;
    int rc;

    do {
        me.lock_fd = -1;
        rc = sf_append(&job.segment, &request, PATIENCE, &receipt);
        if (rc == -SF_EFULL)
            usleep(200);
    } while (rc == -SF_EFULL);
    me.lock_fd = -1;
    if (rc < 0)
        FAIL("append: %d", rc);
    if (receipt.verdict == SF_NOTHING_TO_DO)
        return 0;
    if (receipt.verdict != SF_APPENDED || receipt.seq == 0 || receipt.seq >= job.entries)
        FAIL("verdict %d, entry %" PRIu64, receipt.verdict, receipt.seq);
    if (receipt.target > SF_STEP_MAX)
        FAIL("entry %" PRIu64 " has no target, though its sender lives: %" PRIx64, receipt.seq, receipt.target);
    if (atomic_exchange(&job.promised[receipt.seq], receipt.target) != 0)
        FAIL("entry %" PRIu64 " was given to two senders", receipt.seq);
    return 1;
}

static void *
run_sender(void *argument)
{
    static const uint32_t kinds[] = {SF_PAUSE,   SF_RESUME,  SF_PAUSE,  SF_RESUME, SF_RESUME, SF_RELOAD,
                                     SF_ADVANCE, SF_ADVANCE, SF_RESUME, SF_RELOAD, SF_PAUSE,  SF_RESUME};
    volatile uint64_t sent = 0;

    me.is_sender = 1;
    me.random = test_seed * 77 + (uint64_t)(uintptr_t)argument;
    while (sent < job.plan.requests) {
        if (setjmp(me.died) != 0) {
            atomic_fetch_add(&job.died, 1); /* another one takes its place */
            sent++;
            continue;
        }
        uint64_t r = random_next(&me.random);
        uint32_t kind = kinds[r % 12];
        uint64_t number = kind == SF_ADVANCE ? 1 + (r >> 32) % 4 : 0;
        if (kind == SF_PAUSE && (r >> 40) % 2)
            number = atomic_load(&job.segment.slots[0].step) + (r >> 32) % 16;
        sent += (uint64_t)send_one(kind, number);
    }
    atomic_fetch_add(&job.sent, sent);
    me.is_sender = 0;
    return NULL;
}

/* --- the run --- */

static void
run_job(struct plan plan)
{
    pthread_t ranks[RANKS_MAX], senders[SENDERS_MAX];
    uint32_t numbers[RANKS_MAX];
    int64_t began = sf_monotonic_ns();

    job.plan = plan;
    sf_worker_several = plan.ranks > 1;
    job.entries = plan.requests * (uint64_t)plan.senders * 2 + 1000;
    job.promised = calloc(job.entries, sizeof *job.promised);
    job.kinds = calloc(job.entries, sizeof *job.kinds);
    if (sf_segment_create(&job.segment, path_in("control"), plan.ranks, 0) != 0)
        FAIL("no segment");
    int life = open(path_in("control"), O_RDWR | O_CLOEXEC);
    for (uint32_t r = 0; r < plan.ranks; r++) {
        struct sf_slot *slot = &job.segment.slots[r];
        job.applied[r] = calloc(job.entries, sizeof *job.applied[r]);
        if (r > 0 && sf_lock_try(life, SF_SLOTS_OFFSET + r * sizeof *slot, sizeof *slot) != 0)
            FAIL("no lock on slot %u", r);
        atomic_store(&slot->cookie, 1000 + r);
        atomic_store(&slot->state, SF_STATE_RUNNING);
    }
    for (uint32_t r = 0; r < plan.ranks; r++) {
        numbers[r] = r;
        pthread_create(&ranks[r], NULL, run_rank, &numbers[r]);
    }
    for (int s = 0; s < plan.senders; s++)
        pthread_create(&senders[s], NULL, run_sender, (void *)(uintptr_t)(s + 1));
    for (int s = 0; s < plan.senders; s++)
        pthread_join(senders[s], NULL);
    send_one(SF_STOP, 0);
    for (uint32_t r = 0; r < plan.ranks; r++)
        pthread_join(ranks[r], NULL);

    uint64_t tail = atomic_load(&job.segment.header->tail), voided = 0, due = 0;
    for (uint64_t seq = 1; seq <= tail; seq++) {
        uint64_t step = atomic_load(&job.applied[0][seq]), promised = atomic_load(&job.promised[seq]);
        for (uint32_t r = 0; r < plan.ranks; r++) {
            uint64_t other = atomic_load(&job.applied[r][seq]);
            if (other == 0)
                FAIL("rank %u never came to entry %" PRIu64 " of %" PRIu64, r, seq, tail);
            if (other != step)
                FAIL("entry %" PRIu64 ": rank 0 at %" PRIu64 ", rank %u at %" PRIu64, seq, step, r, other);
        }
        if (step == VOIDED) {
            if (promised != 0)
                FAIL("entry %" PRIu64 ": its sender was told %" PRIu64 ", and it is void", seq, promised);
            voided++;
            continue;
        }
        /* Applied at its target; but no earlier than what was before it, and after a reload by the code that came. */
        uint64_t target = atomic_load(&job.kinds[seq]) / 8;
        due = target > due ? target : due;
        if (plan.ranks == 1 && step > due)
            due = step; /* an only rank may have passed the target when it was decided */
        if (step != due || (promised != 0 && promised != target))
            FAIL("entry %" PRIu64 ": target %" PRIu64 ", its sender was told %" PRIu64 ", applied at %" PRIu64
                 ", due at %" PRIu64,
                 seq, target, promised, step, due);
        due += atomic_load(&job.kinds[seq]) % 8 == SF_RELOAD;
    }
    for (uint32_t r = 1; r < plan.ranks; r++) {
        if (atomic_load(&job.stopped_at[r]) != atomic_load(&job.stopped_at[0]))
            FAIL("rank %u stopped elsewhere", r);
    }
    if (voided > atomic_load(&job.died))
        FAIL("%" PRIu64 " entries are void, and %" PRIu64 " senders died", voided, atomic_load(&job.died));
    printf("       %u ranks, %d senders, %" PRIu64 " requests, %" PRIu64 " senders died, %" PRIu64 " void, %" PRIu64
           " settled by ranks, step %" PRIu64 ", %.0f requests/s\n",
           plan.ranks, plan.senders, tail, atomic_load(&job.died), voided, atomic_load(&job.helped),
           atomic_load(&job.stopped_at[0]), (double)tail * 1e9 / (double)(sf_monotonic_ns() - began));
    sf_segment_close(&job.segment);
    close(life);
    free((void *)job.promised);
    free((void *)job.kinds);
    for (uint32_t r = 0; r < plan.ranks; r++)
        free((void *)job.applied[r]);
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
    run_job((struct plan){.ranks = 2, .senders = 2, .requests = of(1500), .lead = 1});
}

TEST(two_ranks_agree_while_senders_die)
{
    run_job((struct plan){.ranks = 2, .senders = 3, .requests = of(1500), .lead = 2, .deaths = 100});
}

TEST(two_ranks_that_drift_apart_agree)
{
    run_job((struct plan){.ranks = 2, .senders = 2, .requests = of(1000), .lead = 500, .deaths = 300});
}

TEST(four_ranks_in_step_agree)
{
    run_job((struct plan){.ranks = 4, .senders = 3, .requests = of(1000), .lead = 1});
}

TEST(four_ranks_agree_while_senders_die)
{
    run_job((struct plan){.ranks = 4, .senders = 4, .requests = of(1000), .lead = 3, .deaths = 100});
}

TEST(one_rank_and_many_senders)
{
    run_job((struct plan){.ranks = 1, .senders = 4, .requests = of(500), .lead = 1, .deaths = 100});
}
