/* A worker process, and senders in processes of their own, as fast as they can; some are killed anywhere. */
#include "core.h"

#define SENDERS 3
#define SECONDS 0.5

struct show {
    _Atomic int over;
    _Atomic uint64_t appended[SENDERS], nothing[SENDERS], full[SENDERS];
};
static struct show *show;

static int
stress_worker(void *argument)
{
    uint64_t random = test_seed ^ 77;
    (void)argument;
    attach();
    for (;;) {
        int rc = checkpoint_waiting(5 * SF_SECOND);
        if (rc == SF_RAISE_STOP) {
            sf_worker_end(WORKER, SF_STATE_STOPPED);
            return 0;
        }
        if (rc < 0)
            FAIL("the worker lost control: %d", rc);
        for (volatile uint64_t i = random_next(&random) % 300; i > 0; i--)
            ;
    }
}

/* Asks, and then sees to it that what it asked comes to an end. */
static int
stress_sender(void *argument)
{
    int me = *(int *)argument;
    const char *path = path_in("control");
    struct sf_segment segment = open_segment(path);
    uint64_t random = test_seed + (uint64_t)me * 1000 + (uint64_t)getpid();
    struct sf_receipt receipt;

    while (!atomic_load(&show->over)) {
        static const uint32_t kinds[] = {SF_PAUSE, SF_RESUME, SF_RESUME, SF_RELOAD, SF_ADVANCE, SF_RESUME};
        uint32_t kind = kinds[random_next(&random) % 6];
        uint64_t argument_of = kind == SF_ADVANCE ? 1 + random_next(&random) % 20 : 0;
        if (kind == SF_PAUSE && random_next(&random) % 2)
            argument_of = atomic_load(&segment.slots[0].step) + random_next(&random) % 10000;
        struct sf_request request = request_of(kind, argument_of);
        uint32_t seen = sf_segment_changes(&segment);
        int rc = sf_append(&segment, &request, 20 * SF_SECOND, &receipt);

        if (rc == -SF_EFULL) {
            atomic_fetch_add(&show->full[me], 1);
            sf_segment_wait(&segment, seen, SF_SECOND / 100);
            continue;
        }
        CHECK_EQ(rc, 0);
        if (receipt.verdict == SF_NOTHING_TO_DO) {
            atomic_fetch_add(&show->nothing[me], 1);
            continue;
        }
        CHECK_EQ(receipt.verdict, SF_APPENDED);
        atomic_fetch_add(&show->appended[me], 1);
        CHECK(receipt.target < SF_STEP_MAX);

        struct sf_entry_view entry;
        int found = sf_read_entry(segment.fd, receipt.seq, &entry);
        CHECK(found == 0 || found == -ENOENT);
        if (found == 0) {
            CHECK(entry.id == request.id && entry.kind == kind && entry.arg == argument_of);
            CHECK_EQ(entry.target, receipt.target);
        }
        if (random_next(&random) % 4 == 0) { /* waits for the worker, as a person does */
            int64_t end = sf_monotonic_ns() + 20 * SF_SECOND;
            for (;;) {
                struct sf_slot_view slot;
                seen = sf_segment_changes(&segment);
                CHECK_EQ(sf_read_slot(segment.fd, 0, &slot), 0);
                /* A reload is applied when the next checkpoint says that the new code runs. */
                if (slot.applied >= receipt.seq &&
                    (kind != SF_RELOAD || sf_read_entry(segment.fd, receipt.seq, &entry) != 0 ||
                     SF_OUTCOME_CODE(entry.outcome) != SF_OUTCOME_OPEN))
                    break;
                sf_segment_wait(&segment, seen, SF_SECOND / 10);
                if (sf_monotonic_ns() > end)
                    FAIL("entry %" PRIu64 " was never applied", receipt.seq);
            }
            if (sf_read_entry(segment.fd, receipt.seq, &entry) == 0 && kind != SF_PAUSE && kind != SF_ADVANCE) {
                CHECK_EQ(SF_OUTCOME_CODE(entry.outcome), SF_OUTCOME_APPLIED);
                CHECK(SF_OUTCOME_VALUE(entry.outcome) >= entry.target);
            }
        }
    }
    sf_segment_close(&segment);
    return 0;
}

static uint64_t
appended_so_far(void)
{
    uint64_t total = 0;
    for (int s = 0; s < SENDERS; s++)
        total += atomic_load(&show->appended[s]);
    return total;
}

static void
run_stress(int killing)
{
    const char *path = path_in("control");
    int numbers[SENDERS], killed = 0;
    pid_t senders[SENDERS];
    uint64_t random = test_seed, full = 0;

    show = share(sizeof *show);
    pid_t worker = spawn(stress_worker, NULL);
    WITHIN(20, access(path, F_OK) == 0 && slot_of(path).state == SF_STATE_RUNNING);
    for (int s = 0; s < SENDERS; s++) {
        numbers[s] = s;
        senders[s] = spawn(stress_sender, &numbers[s]);
    }
    int64_t end = sf_monotonic_ns() + (int64_t)(SECONDS * 1e9);
    /* On a busy machine it takes longer until there is something to check. */
    while (sf_monotonic_ns() < end || appended_so_far() <= 100) {
        usleep(500 + (useconds_t)(random_next(&random) % 3000));
        if (killing) {
            int s = (int)(random_next(&random) % SENDERS);
            kill(senders[s], SIGKILL);
            int status = reap(senders[s], 20);
            CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
            senders[s] = spawn(stress_sender, &numbers[s]);
            killed++;
        }
    }
    atomic_store(&show->over, 1);
    for (int s = 0; s < SENDERS; s++)
        CHECK_EQ(reap(senders[s], 30), 0);

    /* The log may be full of what the worker has not come to yet; the stop is tried until there is room. */
    struct sf_segment segment = open_segment(path);
    struct sf_request stop = request_of(SF_STOP, 0);
    struct sf_receipt receipt;
    int rc;
    end = sf_monotonic_ns() + 20 * SF_SECOND;
    while ((rc = sf_append(&segment, &stop, SF_SECOND, &receipt)) == -SF_EFULL && sf_monotonic_ns() < end)
        usleep(1000);
    CHECK_EQ(rc, 0);
    CHECK_EQ(receipt.verdict, SF_APPENDED);
    CHECK_EQ(reap(worker, 30), 0);

    uint64_t tail = view_of(path).tail, last_target = 0;
    CHECK_EQ(tail, receipt.seq);
    CHECK_EQ(slot_of(path).applied, tail);
    CHECK_EQ(slot_of(path).state, SF_STATE_STOPPED);
    for (uint64_t seq = tail > SF_LOG_CAPACITY ? tail - SF_LOG_CAPACITY + 1 : 1; seq <= tail; seq++) {
        struct sf_entry_view entry = entry_of(path, seq);
        CHECK(entry.target != SF_TARGET_NONE);
        if (entry.target == SF_TARGET_VOID) {
            CHECK(killing);
            CHECK_EQ(SF_OUTCOME_CODE(entry.outcome), SF_OUTCOME_OPEN);
            continue;
        }
        CHECK(entry.target >= last_target);
        last_target = entry.target;
        if (SF_OUTCOME_CODE(entry.outcome) == SF_OUTCOME_OPEN)
            FAIL("entry %" PRIu64 " of %" PRIu64 ", kind %u, has no fate", seq, tail, entry.kind);
    }
    uint64_t total = appended_so_far();
    for (int s = 0; s < SENDERS; s++)
        full += atomic_load(&show->full[s]);
    if (!killing)
        CHECK_EQ(total + 1, tail); /* none lost, none twice */
    else
        CHECK(total + 1 <= tail);
    printf("       %" PRIu64 " requests, %" PRIu64 " times full, %d senders killed, step %" PRIu64 "\n", total, full,
           killed, slot_of(path).step);
    sf_segment_close(&segment);
}

TEST(no_request_is_lost_between_processes_and_each_gets_a_fate)
{
    run_stress(0);
}

TEST(senders_killed_anywhere_lose_nothing_but_their_own_last_request)
{
    run_stress(1);
}
