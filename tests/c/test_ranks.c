/* Ranks and senders as threads, for the thread sanitizer. See ranks.h. */
#include <pthread.h>
#include <sched.h>

#include "ranks.h"

#define THREADS_MAX 64
#define SENDERS_MAX 4

/* --- a rank --- */

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

static int
vote(uint64_t seq)
{
    struct ballot ballot = {.seq = seq, .end = sf_monotonic_ns() + PATIENCE};
    unsigned verdict;

    do {
        verdict = cast_vote(&ballot);
        for (int i = 0; verdict == 0; i++) {
            give_way(i);
            verdict = sf_worker_agreed(me.worker, seq, ballot.phase, random_next(&me.random) % 65536 == 0);
            if (sf_monotonic_ns() > ballot.end)
                FAIL("rank %u: no verdict on entry %" PRIu64 ", phase %d", me.rank, seq, ballot.phase);
        }
    } while (next_phase(&ballot, verdict));
    return ballot.leaves;
}

/* One checkpoint, as the Python side runs it. */
static enum sf_action
pass_checkpoint(int counted)
{
    struct sf_due due;
    uint64_t published = 0;

    if (!(counted ? sf_pass(me.worker->counter, &me.standing) : sf_look(me.worker->counter, &me.standing)))
        return SF_GO;
    for (;;) {
        int rc = sf_apply_due(me.worker, me.standing, counted, &due);
        if (rc < 0)
            FAIL("rank %u: %d", me.rank, rc);
        if (due.action == SF_DELIVER) {
            deliver(&due);
            continue;
        }
        if (due.action == SF_RAISE_RELOAD && !vote(due.seq)) {
            published = 0; /* it stands where it stood */
            continue;
        }
        if (due.action != SF_HOLD) {
            sf_worker_unparked(me.worker, me.standing);
            return due.action;
        }
        if (due.seq != published)
            sf_worker_parked(me.worker, due.seq, me.standing, 0);
        published = due.seq;
        rc = sf_worker_wait(me.worker, PATIENCE);
        if (rc == -ETIMEDOUT)
            FAIL("rank %u sleeps at step %" PRIu64 ", word %u, applied %" PRIu64 " of %" PRIu64, me.rank, me.standing,
                 atomic_load(&me.worker->slot->word), me.worker->applied, atomic_load(&job.segment.header->tail));
    }
}

static void
run_until_stopped(void)
{
    enum sf_action action;
    uint64_t step = atomic_load(&me.worker->slot->step);

    do {
        keep_together(step);
        if (random_next(&me.random) % 64 == 0)
            pass_checkpoint(0);
        action = pass_checkpoint(1);
        if (me.standing != step + me.worker->stride)
            FAIL("rank %u: step %" PRIu64 " after %" PRIu64, me.rank, me.standing, step);
        step = atomic_load(&me.worker->slot->step);
    } while (action != SF_RAISE_STOP);
    if (me.worker->applied != atomic_load(&job.segment.header->tail))
        FAIL("rank %u stops, and has come to entry %" PRIu64 " only", me.rank, me.worker->applied);
    atomic_store(&job.rank[me.rank].stopped_at, step);
    atomic_store(&job.rank[me.rank].there, 0);
}

static void *
run_rank(void *argument)
{
    static _Thread_local struct own_worker own;
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
    come(&own, rank);
    run_until_stopped();
    me.is_mortal = 0;
    return NULL;
}

/* --- a sender --- */

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

TEST(two_ranks_in_step_agree)
{
    run_job((struct plan){.ranks = 2, .senders = 2, .requests = scaled(1000), .lead = 1});
}

TEST(two_ranks_agree_while_senders_die)
{
    run_job((struct plan){.ranks = 2, .senders = 3, .requests = scaled(1000), .lead = 2, .deaths = 100});
}

TEST(two_ranks_that_drift_apart_agree)
{
    run_job((struct plan){.ranks = 2, .senders = 2, .requests = scaled(500), .lead = 500, .deaths = 300});
}

TEST(four_ranks_agree_while_senders_die)
{
    run_job((struct plan){.ranks = 4, .senders = 4, .requests = scaled(500), .lead = 3, .deaths = 100});
}

TEST(four_ranks_that_count_in_tens_agree)
{
    run_job((struct plan){.ranks = 4, .senders = 3, .requests = scaled(500), .lead = 2, .stride = 10, .deaths = 200});
}

TEST(four_ranks_of_which_two_die_and_come_again_agree)
{
    run_job((struct plan){
        .ranks = 4, .late = 1, .senders = 3, .requests = scaled(500), .lead = 2, .deaths = 200, .rank_deaths = 500});
}

TEST(sixteen_ranks_that_come_late_and_die_agree)
{
    run_job((struct plan){
        .ranks = 16, .late = 8, .senders = 3, .requests = scaled(200), .lead = 3, .deaths = 200, .rank_deaths = 2000});
}

TEST(sixty_four_ranks_agree)
{
    run_job((struct plan){.ranks = 64, .senders = 3, .requests = scaled(60), .lead = 2, .deaths = 200});
}

TEST(sixty_four_ranks_that_come_late_and_die_agree)
{
    run_job((struct plan){.ranks = 64,
                          .late = 32,
                          .senders = 3,
                          .requests = scaled(60),
                          .lead = 4,
                          .stride = 10,
                          .deaths = 200,
                          .rank_deaths = 5000});
}

TEST(one_rank_and_many_senders)
{
    run_job((struct plan){.ranks = 1, .senders = 4, .requests = scaled(500), .lead = 1, .deaths = 100});
}
