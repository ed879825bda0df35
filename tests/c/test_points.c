/* kill -9 at every named point, on both sides. The side that is left must go on, and the request is whole or void. */
#include "core.h"

/* What a request has become when its sender was killed at this point. */
enum fate { NOTHING, UNDECIDED, DECIDED };

static const struct {
    const char *name;
    enum fate fate;
} sender_points[] = {
    {"append:opened", NOTHING},  {"append:locked", NOTHING},      {"append:voided", NOTHING},
    {"append:written", NOTHING}, {"append:published", UNDECIDED}, {"decide:signalled", UNDECIDED},
    {"decide:decided", DECIDED}, {"append:decided", DECIDED},     {"append:unlocked", DECIDED},
};
#define SENDER_POINTS (sizeof sender_points / sizeof *sender_points)

static void
check_log(const char *path, size_t point, uint64_t before)
{
    CHECK_EQ(view_of(path).tail, before + (sender_points[point].fate != NOTHING));
    if (sender_points[point].fate == UNDECIDED)
        CHECK(entry_of(path, before + 1).target == SF_TARGET_NONE);
    if (sender_points[point].fate == DECIDED)
        CHECK(entry_of(path, before + 1).target < SF_STEP_MAX);
}

TEST(a_sender_killed_at_any_point_leaves_its_request_whole_or_void_for_a_running_rank)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);

    ask(&segment, SF_RELOAD, 0); /* an entry before it, so that there is a last one to make void */
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    for (size_t p = 0; p < SENDER_POINTS; p++) {
        uint64_t before = view_of(path).tail;
        send_and_die(path, sender_points[p].name, SF_PAUSE, 0);
        check_log(path, p, before);

        struct sf_due due = checkpoint();
        CHECK_EQ(due.action, sender_points[p].fate == DECIDED ? SF_HOLD : SF_GO);
        if (sender_points[p].fate == DECIDED) {
            CHECK_EQ(outcome_of(path, before + 1), SF_OUTCOME_APPLIED);
            ask(&segment, SF_RESUME, 0);
            CHECK_EQ(look_again().action, SF_GO);
        }
        /* The next sender finds the lock free. From then on an entry without a target is void. */
        struct sf_request request = request_of(SF_RELOAD, 0);
        struct sf_receipt receipt;
        CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
        CHECK_EQ(receipt.verdict, SF_APPENDED);
        if (sender_points[p].fate == UNDECIDED)
            CHECK(entry_of(path, before + 1).target == SF_TARGET_VOID);
        CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
        CHECK_EQ(slot_of(path).applied, view_of(path).tail);
        CHECK_EQ(checkpoint().action, SF_GO);
    }
    sf_segment_close(&segment);
}

TEST(a_sender_killed_at_any_point_leaves_the_log_to_the_next_sender)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);

    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    for (size_t p = 0; p < SENDER_POINTS; p++) {
        uint64_t before = view_of(path).tail;
        send_and_die(path, sender_points[p].name, SF_PAUSE, 1000000); /* no checkpoint between the two senders */
        struct sf_request request = request_of(SF_RELOAD, 0);
        struct sf_receipt receipt;
        CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
        CHECK_EQ(receipt.seq, before + 1 + (sender_points[p].fate != NOTHING));
        if (sender_points[p].fate == UNDECIDED)
            CHECK(entry_of(path, before + 1).target == SF_TARGET_VOID);
        if (sender_points[p].fate == DECIDED)
            CHECK_EQ(entry_of(path, before + 1).target, sf_step(sf_process_counter) + 1);
        CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
        CHECK_EQ(view_of(path).state.park_seq, sender_points[p].fate == DECIDED ? before + 1 : 0);
        if (sender_points[p].fate == DECIDED)
            ask(&segment, SF_RESUME, 0);
        CHECK_EQ(checkpoint().action, SF_GO);
        CHECK_EQ(slot_of(path).applied, view_of(path).tail);
    }
    sf_segment_close(&segment);
}

struct parked {
    _Atomic int resumed;
    _Atomic uint64_t passed;
};

static int
parked_worker(void *argument)
{
    struct parked *parked = argument;
    int rc;

    attach();
    for (;;) {
        rc = checkpoint_waiting(10 * SF_SECOND); /* longer than the test waits: only a wake can end it in time */
        if (rc != SF_GO)
            return rc == SF_RAISE_STOP ? 0 : 50;
        atomic_fetch_add(&parked->passed, 1);
        usleep(200);
    }
}

/* Parked is published before the wait begins: a rank between the two still meets what is asked by itself. */
static int
asleep(pid_t pid)
{
    char path[64], text[512] = "";

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0 && read(fd, text, sizeof text - 1) > 0);
    close(fd);
    const char *name_ends = strrchr(text, ')');
    CHECK(name_ends != NULL);
    return name_ends[2] == 'S';
}

TEST(a_sender_killed_at_any_point_does_not_leave_a_parked_rank_asleep)
{
    const char *path = path_in("control");

    for (size_t p = 0; p < SENDER_POINTS; p++) {
        struct parked *parked = share(sizeof *parked);
        pid_t worker = spawn(parked_worker, parked);

        WITHIN(20, access(path, F_OK) == 0 && atomic_load(&parked->passed) > 0);
        struct sf_segment segment = open_segment(path);
        ask(&segment, SF_PAUSE, 0);
        WITHIN(20, slot_of(path).state == SF_STATE_PARKED && asleep(worker));
        uint64_t passed = atomic_load(&parked->passed);
        send_and_die(path, sender_points[p].name, SF_RESUME, 0);

        struct sf_request request = request_of(SF_RESUME, 0);
        if (sender_points[p].fate == DECIDED) { /* the dead one's request stands */
            CHECK_EQ(ask_for(&segment, &request).verdict, SF_NOTHING_TO_DO);
        } else {
            CHECK_EQ(slot_of(path).state, SF_STATE_PARKED);
            CHECK_EQ(ask_for(&segment, &request).verdict, SF_APPENDED);
        }
        WITHIN(5, atomic_load(&parked->passed) > passed);
        ask(&segment, SF_STOP, 0);
        CHECK_EQ(reap(worker, 20), 0);
        CHECK_EQ(slot_of(path).alive, 0);
        sf_segment_close(&segment);
        unlink(path);
    }
}

/* --- a sender that is suspended, not dead, holds the log; the rank decides without it --- */

static int
suspended_sender(void *argument)
{
    struct sf_segment segment = open_segment(path_in("control"));
    CHECK_EQ(sf_point_arm(argument, SIGSTOP), 0);
    struct sf_receipt receipt = ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(receipt.seq, 1);
    return receipt.target == segment.slots[0].step ? 0 : 60;
}

TEST(a_rank_helps_a_suspended_sender_and_both_agree)
{
    static const char *const points[] = {"decide:signalled", "append:decided"};

    for (int p = 0; p < 2; p++) {
        const char *path = attach();
        struct sf_segment segment = open_segment(path);
        struct sf_request request = request_of(SF_RESUME, 0);
        struct sf_receipt receipt;
        int status;

        CHECK_EQ(checkpoint().action, SF_GO);
        pid_t sender = spawn(suspended_sender, (void *)points[p]);
        do
            CHECK_EQ(waitpid(sender, &status, WUNTRACED), sender);
        while (!WIFSTOPPED(status));
        CHECK_EQ(checkpoint().action, SF_HOLD);
        CHECK_EQ(entry_of(path, 1).target, steps_passed());
        CHECK_EQ(outcome_of(path, 1), SF_OUTCOME_APPLIED);
        CHECK_EQ(sf_append(&segment, &request, 1000000, &receipt), -SF_EBUSY);
        kill(sender, SIGCONT);
        CHECK_EQ(reap(sender, 20), 0);
        CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), 0);
        CHECK_EQ(look_again().action, SF_GO);
        sf_segment_close(&segment);
        sf_worker_end(WORKER, SF_STATE_FINISHED);
        unlink(path);
        CHECK_EQ(sf_point_arm("", SIGKILL), 0);
    }
}

/* --- the worker's side --- */

struct doomed {
    const char *point;
    uint32_t kind;
    _Atomic int armed;
};

static int
doomed_worker(void *argument)
{
    struct doomed *doomed = argument;

    attach();
    CHECK_EQ(checkpoint_waiting(SF_SECOND), SF_GO);
    CHECK_EQ(sf_point_arm(doomed->point, SIGKILL), 0);
    atomic_store(&doomed->armed, 1);
    for (;;) {
        int rc = checkpoint_waiting(SF_SECOND);
        if (rc < 0)
            return 50;
        usleep(100);
    }
    return 0;
}

TEST(a_worker_killed_at_any_point_is_lost_and_no_sender_waits_for_it)
{
    static const char *const points[] = {"turn:met",     "decide:signalled", "turn:settled", "turn:folded",
                                         "turn:applied", "park:published",   "park:waiting"};
    static const uint32_t kinds[] = {SF_PAUSE, SF_RELOAD, SF_STOP, SF_ADVANCE};
    const char *path = path_in("control");

    for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            if (p >= 5 && kinds[k] != SF_PAUSE && kinds[k] != SF_ADVANCE)
                continue;
            struct doomed *doomed = share(sizeof *doomed);
            doomed->point = points[p];
            pid_t worker = spawn(doomed_worker, doomed);
            WITHIN(20, atomic_load(&doomed->armed));
            struct sf_segment segment = open_segment(path);
            int holder = -1;
            uint64_t seq = 1;

            if (p < 3) { /* an entry that the worker has to decide: its sender seems to live */
                holder = open(path, O_RDWR);
                send_and_die(path, "append:published", kinds[k], 2);
                CHECK_EQ(sf_lock_try(holder, LOG_BYTES), 0);
                atomic_fetch_or(&segment.slots[0].word, SF_WORD_PENDING);
            } else {
                seq = ask(&segment, kinds[k], kinds[k] == SF_ADVANCE ? 2 : 0).seq;
            }
            int status = reap(worker, 20);
            if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
                FAIL("%s was not reached (kind %u, status %#x)", points[p], kinds[k], status);
            if (holder >= 0)
                close(holder);

            CHECK_EQ(slot_of(path).alive, 0);
            struct sf_entry_view entry = entry_of(path, seq);
            if (slot_of(path).applied >= seq && p != 2)
                CHECK(entry.target <= slot_of(path).step);
            if (p >= 3)
                CHECK(entry.target <= slot_of(path).step);
            else
                CHECK((p == 2) == (entry.target < SF_STEP_MAX));
            if (SF_OUTCOME_CODE(entry.outcome) == SF_OUTCOME_APPLIED) /* if it says so, it was */
                CHECK_EQ(SF_OUTCOME_VALUE(entry.outcome), slot_of(path).step);
            if (strcmp(points[p], "park:waiting") == 0 || strcmp(points[p], "park:published") == 0)
                CHECK_EQ(slot_of(path).state, SF_STATE_PARKED);

            struct sf_request request = request_of(SF_RESUME, 0);
            struct sf_receipt receipt;
            CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
            CHECK_EQ(receipt.verdict, SF_REFUSED_ENDED);
            CHECK(entry_of(path, seq).target != SF_TARGET_NONE); /* decided, one way or the other */
            CHECK_EQ(sf_segment_check(&segment), 0);
            sf_segment_close(&segment);
            unlink(path);
        }
    }
}
