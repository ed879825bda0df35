/* A rank that joins: which slot it gets, and what happens if it, or a sender, dies in the middle. */
#include "joining.h"

static long
do_count_descriptors(struct rank *self, uint64_t unused)
{
    int next = open(self->path, O_RDONLY | O_CLOEXEC);
    (void)unused;
    close(next);
    return next;
}

TEST(a_slot_that_a_living_process_has_is_refused_and_nothing_has_changed)
{
    BEGIN(3);
    struct rank *second = joined(1), *other = rank_begin();
    rank_run_to(second, 5);
    struct sf_slot_view before[2] = {slot_at(path, 0), slot_at(path, 1)};

    long descriptors = rank_do(other, do_count_descriptors, 0);
    DOES(other, do_join, 1, -EADDRINUSE);
    DOES(other, do_join, 0, -EADDRINUSE);
    DOES(other, do_join, 3, -EINVAL);
    DOES(other, do_join, UINT32_MAX, -EINVAL);
    DOES(other, do_count_descriptors, 0, descriptors);
    struct sf_slot_view after[2] = {slot_at(path, 0), slot_at(path, 1)};
    CHECK_EQ(memcmp(before, after, sizeof before), 0);
    DOES(first, do_join, 2, -EALREADY);
    rank_run_to(second, 9);

    DOES(other, do_join, 2, 0); /* the failures have left it free to come elsewhere */
    rank_kill(second);
    CHECK_EQ(slot_at(path, 1).alive, 0);
    joined(1);

    strcpy(other->path, path_in("nothing"));
    DOES(other, do_join, 0, -EALREADY);
    struct rank *lost = rank_begin();
    strcpy(lost->path, path_in("nothing"));
    DOES(lost, do_join, 0, -ENOENT);
    END;
}

TEST(of_two_that_come_to_one_slot_at_once_one_has_it)
{
    BEGIN(2);
    for (int round = 0; round < 20; round++) {
        struct rank *both[2] = {rank_begin(), rank_begin()};
        rank_ask(both[0], do_join, 1);
        rank_ask(both[1], do_join, 1);
        long one = rank_answer(both[0]), other = rank_answer(both[1]);
        CHECK((one == 0 && other == -EADDRINUSE) || (one == -EADDRINUSE && other == 0));
        CHECK_EQ(slot_at(path, 1).pid, both[one == 0 ? 0 : 1]->pid);
        CHECK_EQ(slot_at(path, 1).generation, round + 1);
        rank_kill(both[0]);
        rank_kill(both[1]);
    }
    END;
}

TEST(ranks_that_come_at_once_all_come)
{
    enum { MANY = 8 };
    BEGIN(MANY + 1);
    struct rank *ranks[MANY];

    rank_run_to(first, 2);
    ask(&segment, SF_PAUSE, 4);
    for (int i = 0; i < MANY; i++) {
        ranks[i] = rank_begin();
        rank_ask(ranks[i], do_join, (uint64_t)i + 1);
    }
    for (int i = 0; i < MANY; i++)
        CHECK_EQ(rank_answer(ranks[i]), 0);
    for (int i = 0; i < MANY; i++) {
        rank_run_to(ranks[i], 3);
        PASSES(ranks[i], SF_HOLD);
        DOES(ranks[i], do_park, 1, 0);
    }
    OPEN(1);
    rank_run_to(first, 3);
    PASSES(first, SF_HOLD);
    DOES(first, do_park, 1, 0);
    APPLIED_AT(1, 4);
    END;
}

/* --- deaths, and senders in the middle --- */

TEST(a_rank_killed_at_any_point_of_its_joining_blocks_no_other)
{
    static const char *const points[] = {"join:locked", "join:filled", "join:seated", "attach:filled", "join:done"};

    for (size_t p = 0; p < 2 * (sizeof points / sizeof *points); p++) {
        BEGIN(2);
        struct sf_request request = request_of(SF_RESUME, 0);
        struct sf_receipt receipt;

        if (p % 2)
            had(1);
        rank_run_to(first, 3);
        ask(&segment, SF_PAUSE, 0);
        PASSES(first, SF_HOLD);
        DOES(first, do_park, 1, 0);
        APPLIED_AT(1, 4);

        struct rank *second = rank_begin();
        rank_arm(second, points[p / 2], SIGKILL);
        DOES(second, do_join, 1, RANK_DIED);
        CHECK_EQ(slot_at(path, 1).alive, 0);
        CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
        CHECK_EQ(receipt.verdict, SF_APPENDED);
        CHECK_EQ(receipt.target, 4);
        DOES(first, do_again, 0, SF_GO);
        APPLIED_AT(2, 4);
        rank_run_to(first, 9);
        CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 10);
        PASSES(first, SF_RAISE_RELOAD);
        DOES(first, do_tell, 3, 0);
        APPLIED_AT(3, 10);

        second = joined(1);
        PASSES(first, SF_GO);
        if (slot_at(path, 1).step == 0) {
            CHECK(slot_at(path, 1).applied == 0);
        } else {
            CHECK_EQ(slot_at(path, 1).step, 10);
            CHECK_EQ(slot_at(path, 1).applied, 3);
        }
        rank_kill(second);
        rank_kill(first);
        sf_segment_close(&segment);
        unlink(path);
    }
}

TEST(a_rank_waits_for_a_sender_that_has_its_turn_and_no_longer_than_it_said)
{
    static const char *const points[] = {"append:locked", "append:published", "append:decided"};

    for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
        BEGIN(2);
        struct rank *second = rank_begin();
        rank_run_to(first, 3);
        int status;
        pid_t sender = fork();
        if (sender == 0) {
            CHECK_EQ(sf_point_arm(points[p], SIGSTOP), 0);
            ask(&segment, SF_PAUSE, 6);
            _exit(0);
        }
        do
            CHECK_EQ(waitpid(sender, &status, WUNTRACED), sender);
        while (!WIFSTOPPED(status));
        DOES(second, do_join_now, 1, -SF_EBUSY);
        CHECK_EQ(slot_at(path, 1).state, SF_STATE_NONE);
        CHECK_EQ(slot_at(path, 1).alive, 0);
        rank_ask(second, do_join, 1);
        kill(sender, SIGCONT);
        CHECK_EQ(reap(sender, 20), 0);
        CHECK_EQ(rank_answer(second), 0);
        rank_run_to(second, 5);
        CHECK_EQ(slot_at(path, 1).applied, 1);
        PASSES(second, SF_HOLD);
        rank_kill(second);
        rank_kill(first);
        END;
        unlink(path);
    }
}

TEST(what_a_sender_left_undecided_is_void_for_a_rank_that_comes)
{
    BEGIN(2);
    rank_run_to(first, 3);
    send_and_die(path, "append:published", SF_PAUSE, 0);
    struct rank *second = joined(1);
    CHECK(entry_of(path, 1).target == SF_TARGET_VOID);
    rank_run_to(second, 6);
    CHECK_EQ(slot_at(path, 1).applied, 1);
    rank_run_to(first, 6);

    send_and_die(path, "append:decided", SF_PAUSE, 0);
    rank_kill(second);
    second = joined(1);
    CHECK_EQ(entry_of(path, 2).target, 7);
    PASSES(second, SF_HOLD);
    CHECK_EQ(second->step, 7);
    END;
}

/* The log's lock is held, as if the sender lived; but the rank that joins holds it. */
TEST(an_orphan_that_a_rank_meets_while_another_comes_is_the_same_for_both)
{
    static const char *const points[] = {"join:locked", "join:seated"};

    for (int p = 0; p < 2; p++) {
        BEGIN(2);
        rank_run_to(first, 3);
        send_and_die(path, "append:published", SF_PAUSE, 0);
        struct rank *second = rank_begin();
        rank_arm(second, points[p], SIGSTOP);
        rank_ask(second, do_join, 1);
        rank_stopped(second);
        atomic_fetch_or(&segment.slots[0].word, SF_WORD_PENDING);
        long action = rank_do(first, do_pass, 0);
        kill(second->pid, SIGCONT);
        CHECK_EQ(rank_answer(second), 0);
        uint64_t target = entry_of(path, 1).target;
        CHECK(target != SF_TARGET_NONE);
        CHECK_EQ(action, target == SF_TARGET_VOID ? SF_GO : SF_HOLD);
        rank_run_to(second, 3);
        PASSES(second, action);
        rank_kill(second);
        rank_kill(first);
        END;
        unlink(path);
    }
}

/* It has the lock of a slot that still tells of the rank that died there. */
TEST(no_outcome_waits_for_a_joining_rank_that_never_sees_the_entry)
{
    static const char *const points[] = {"join:locked", "join:filled", "join:seated", "attach:filled", "join:done"};

    for (size_t p = 0; p < sizeof points / sizeof *points; p++) {
        BEGIN(2);
        struct rank *second = joined(1);
        rank_run_to(first, 3);
        rank_run_to(second, 3);
        CHECK_EQ(ask(&segment, SF_SET, 0).target, 4);
        PASSES(first, SF_DELIVER);
        rank_kill(second);
        second = rank_begin();
        rank_arm(second, points[p], SIGSTOP);
        rank_ask(second, do_join, 1);
        rank_stopped(second);
        DOES(first, do_tell, 1, 0);
        kill(second->pid, SIGCONT);
        CHECK_EQ(rank_answer(second), 0);
        CHECK_EQ(slot_at(path, 1).applied, 1);
        APPLIED_AT(1, 4);
        rank_kill(second);
        rank_kill(first);
        END;
        unlink(path);
    }
}
