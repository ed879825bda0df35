/* What bench/ranks.py measures: how long ranks take to agree, and to park. One JSON object a line.
 *
 *   crowd agree FOLDER RANKS ROUNDS   ranks that another process on another CPU only steps: no wake is needed
 *   crowd park FOLDER RANKS ROUNDS STEP_NS   a process for each rank, with steps that sleep
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "sf_apply.h"
#include "sf_log.h"

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s (errno %d)\n", __FILE__, __LINE__, #condition, errno);                          \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static uint64_t next_id = 1;

static uint64_t
ask(struct sf_segment *segment, uint32_t kind, uint64_t *target)
{
    struct sf_request request = {.kind = kind, .id = next_id++};
    struct sf_receipt receipt;

    CHECK(sf_append(segment, &request, 10 * SF_SECOND, &receipt) == 0 && receipt.verdict == SF_APPENDED);
    *target = receipt.target;
    return receipt.seq;
}

static void
stay_on(int which)
{
    cpu_set_t all, one;

    CHECK(sched_getaffinity(0, sizeof all, &all) == 0);
    if (CPU_COUNT(&all) < 2)
        return;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &all) && which-- == 0)
            CPU_SET(cpu, &one);
    }
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
}

/* --- agreeing --- */

/* All ranks in turn: each counts a step, and if its word is set takes what the log holds for done once its step has
 * come. Every line of theirs is this process's, as it is theirs in a real job. */
static void
step_all(struct sf_segment *segment)
{
    for (;;) {
        for (uint32_t r = 0; r < segment->slot_count; r++) {
            struct sf_slot *slot = &segment->slots[r];
            uint64_t step = atomic_fetch_add(&slot->step, 1) + 1;

            if (atomic_load(&slot->word) == 0)
                continue;
            uint64_t seq = atomic_load(&slot->applied) + 1, tail = atomic_load(&segment->header->tail);
            if (seq <= tail && atomic_load(&sf_entry_at(segment, seq)->target) == SF_TARGET_NONE)
                CHECK(sf_decide_or_void(segment, seq, r, 1) == 0); /* it helps, as a rank does */
            if (seq <= tail && atomic_load(&sf_entry_at(segment, seq)->target) <= step) {
                /* None comes to the same target later than it. */
                CHECK(step == atomic_load(&sf_entry_at(segment, seq)->target));
                atomic_store(&slot->applied, seq);
                atomic_fetch_and(&slot->word, ~SF_WORD_PENDING);
            }
        }
    }
}

static int
compare(const void *left, const void *right)
{
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void
tell(const char *name, int64_t *found, int count)
{
    qsort(found, (size_t)count, sizeof *found, compare);
    printf("\"%s\": {\"median\": %" PRId64 ", \"least\": %" PRId64 ", \"most of ten\": %" PRId64 "}", name,
           found[count / 2], found[0], found[count * 9 / 10]);
}

static void
agree(const char *path, uint32_t ranks, int rounds)
{
    struct sf_segment made, segment;
    struct rlimit files;
    int64_t *took = calloc((size_t)rounds, sizeof *took);

    /* A descriptor for each rank, as each process has one: locks that one descriptor holds side by side become one. */
    CHECK(getrlimit(RLIMIT_NOFILE, &files) == 0);
    files.rlim_cur = files.rlim_max;
    CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
    CHECK(sf_segment_create(&made, path, ranks, 0) == 0);
    CHECK(sf_segment_open(&segment, path) == 0);
    for (uint32_t r = 0; r < ranks; r++) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        CHECK(fd >= 0);
        CHECK(r == 0 || sf_lock_try(fd, SF_SLOTS_OFFSET + r * sizeof(struct sf_slot), sizeof(struct sf_slot)) == 0);
        atomic_store(&segment.slots[r].state, SF_STATE_RUNNING);
    }
    pid_t stepping = fork();
    CHECK(stepping >= 0);
    if (stepping == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        stay_on(1);
        step_all(&segment);
    }
    stay_on(0);
    for (int i = -rounds / 10; i < rounds; i++) {
        uint64_t target;
        int64_t began = sf_monotonic_ns();
        uint64_t seq = ask(&segment, SF_SET, &target);
        int64_t ended = sf_monotonic_ns();
        if (i >= 0)
            took[i] = ended - began;
        for (uint32_t r = 0; r < ranks; r++) {
            while (atomic_load(&segment.slots[r].applied) < seq) {
                CHECK(waitpid(stepping, NULL, WNOHANG) == 0); /* it has ended, and said why */
                usleep(10);
            }
        }
    }
    kill(stepping, SIGKILL);
    waitpid(stepping, NULL, 0);
    printf("{\"ranks\": %u, ", ranks);
    tell("agreed", took, rounds);
    printf("}\n");
}

/* --- parking --- */

static void
run_rank(const char *path, uint32_t ranks, uint32_t rank, int64_t step_ns)
{
    uint64_t step;
    struct sf_due due;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    prctl(PR_SET_TIMERSLACK, 1000);
    CHECK(sf_worker_setup() == 0);
    if (rank == 0)
        CHECK(sf_worker_attach(&sf_process_worker, path, ranks, 0, 1) == 0);
    else
        CHECK(sf_worker_join(&sf_process_worker, path, rank, 1 + rank, 60 * SF_SECOND) == 0);
    for (;;) {
        uint64_t published = 0;

        nanosleep(&(struct timespec){.tv_nsec = step_ns}, NULL);
        if (!sf_pass(sf_process_counter, &step))
            continue;
        for (;;) {
            CHECK(sf_apply_due(&sf_process_worker, step, SF_DUE_COUNTED, &due) == 0);
            if (due.action != SF_HOLD)
                break;
            if (due.seq != published)
                sf_worker_parked(&sf_process_worker, due.seq, step, 0);
            published = due.seq;
            sf_worker_wait(&sf_process_worker, SF_SECOND);
        }
        sf_worker_unparked(&sf_process_worker, step);
        if (due.action == SF_RAISE_STOP)
            exit(0);
    }
}

static void
until_over(struct sf_segment *segment, uint64_t seq)
{
    int64_t end = sf_monotonic_ns() + 60 * SF_SECOND;

    for (;;) {
        uint32_t seen = sf_segment_changes(segment);
        if (SF_OUTCOME_CODE(atomic_load(&sf_entry_at(segment, seq)->outcome)) == SF_OUTCOME_APPLIED)
            return;
        CHECK(sf_monotonic_ns() < end);
        sf_segment_wait(segment, seen, SF_SECOND / 10);
    }
}

static void
park(const char *path, uint32_t ranks, int rounds, int64_t step_ns)
{
    struct sf_segment segment;
    int64_t *agreed = calloc((size_t)rounds, sizeof *agreed), *parked = calloc((size_t)rounds, sizeof *parked);
    int64_t *woken = calloc((size_t)rounds, sizeof *woken), *steps = calloc((size_t)rounds, sizeof *steps);
    pid_t *pids = calloc(ranks, sizeof *pids);
    uint64_t target;

    for (uint32_t r = 0; r < ranks; r++) {
        pids[r] = fork();
        CHECK(pids[r] >= 0);
        if (pids[r] == 0)
            run_rank(path, ranks, r, step_ns);
        while (r == 0 && sf_segment_open(&segment, path) != 0)
            usleep(1000);
    }
    for (uint32_t r = 0; r < ranks; r++) {
        while (atomic_load(&segment.slots[r].state) != SF_STATE_RUNNING)
            usleep(1000);
    }
    for (int i = 0; i < rounds; i++) {
        usleep((useconds_t)(step_ns / 1000 * 3));
        uint64_t least = UINT64_MAX;
        for (uint32_t r = 0; r < ranks; r++) {
            uint64_t step = atomic_load(&segment.slots[r].step);
            least = step < least ? step : least;
        }
        int64_t began = sf_monotonic_ns();
        uint64_t seq = ask(&segment, SF_PAUSE, &target);
        agreed[i] = sf_monotonic_ns() - began;
        steps[i] = (int64_t)(target - least);
        until_over(&segment, seq);
        parked[i] = sf_monotonic_ns() - began;
        usleep(5000);
        began = sf_monotonic_ns();
        seq = ask(&segment, SF_RESUME, &target);
        until_over(&segment, seq);
        woken[i] = sf_monotonic_ns() - began;
    }
    ask(&segment, SF_STOP, &target);
    for (uint32_t r = 0; r < ranks; r++) {
        int status;
        CHECK(waitpid(pids[r], &status, 0) == pids[r] && status == 0);
    }
    printf("{\"ranks\": %u, \"step\": %" PRId64 ", ", ranks, step_ns);
    tell("agreed", agreed, rounds);
    printf(", ");
    tell("parked", parked, rounds);
    printf(", ");
    tell("running", woken, rounds);
    printf(", ");
    tell("steps", steps, rounds);
    printf("}\n");
}

int
main(int argc, char **argv)
{
    char path[1000];

    CHECK(argc >= 5);
    snprintf(path, sizeof path, "%s/control", argv[2]);
    if (strcmp(argv[1], "agree") == 0)
        agree(path, (uint32_t)atoi(argv[3]), atoi(argv[4]));
    else
        park(path, (uint32_t)atoi(argv[3]), atoi(argv[4]), atoll(argv[5]));
    unlink(path);
    return 0;
}
