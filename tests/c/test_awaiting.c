/* Entries that other hosts have a say in: this host says from when it could act, and acts when all have said so. */
#include "core.h"

#define BEGIN                                                                                                          \
    const char *path = path_in("control");                                                                             \
    struct rank *ranks[2] = {rank_begin(), rank_begin()};                                                              \
    DOES(ranks[0], do_attach, 2, 0);                                                                                   \
    DOES(ranks[1], do_join, 1, 0);                                                                                     \
    struct sf_segment segment = open_segment(path);                                                                    \
    rank_run_to(ranks[0], 5);                                                                                          \
    rank_run_to(ranks[1], 3)
#define END sf_segment_close(&segment)

static struct sf_receipt
ask_elsewhere(struct sf_segment *segment, uint32_t kind, uint64_t argument)
{
    struct sf_request request = request_of(kind, argument);
    request.elsewhere = 1;
    struct sf_receipt receipt = ask_for(segment, &request);
    CHECK_EQ(receipt.verdict, SF_APPENDED);
    CHECK(receipt.target == SF_TARGET_NONE);
    return receipt;
}

static long
do_wait(struct rank *self, uint64_t timeout_ns)
{
    (void)self;
    return sf_worker_wait(WORKER, (int64_t)timeout_ns);
}

static long
do_resume(struct rank *self, uint64_t unused)
{
    (void)unused;
    return sf_worker_resume(WORKER, self->step);
}

TEST(this_host_says_once_from_when_it_could_act_and_its_ranks_go_on_until_then)
{
    BEGIN;
    CHECK_EQ(ask_elsewhere(&segment, SF_PAUSE, 0).seq, 1);
    CHECK_EQ(entry_of(path, 1).low, 6);
    CHECK_EQ(slot_at(path, 0).word, SF_WORD_PENDING); /* so no rank passes step 6 without a look at the log */
    CHECK_EQ(slot_at(path, 1).word, SF_WORD_PENDING);
    rank_run_to(ranks[1], 5);
    CHECK_EQ(slot_at(path, 1).applied, 0);
    PASSES(ranks[0], SF_AWAIT);
    CHECK_EQ(ranks[0]->due.seq, 1);
    CHECK_EQ(ranks[0]->due.entry.low, 6);
    DOES(ranks[0], do_again, 0, SF_AWAIT);
    PASSES(ranks[1], SF_AWAIT);
    CHECK_EQ(entry_of(path, 1).low, 6);
    CHECK_EQ(slot_at(path, 0).applied, 0);
    OPEN(1);

    CHECK_EQ(sf_commit(&segment, 1, 6), 6);
    for (int r = 0; r < 2; r++) {
        DOES(ranks[r], do_again, 0, SF_HOLD);
        DOES(ranks[r], do_park, 1, 0);
    }
    APPLIED_AT(1, 6);
    END;
}

TEST(a_rank_that_waits_for_other_hosts_announces_nothing_and_so_does_not_wake_itself)
{
    BEGIN;
    ask_elsewhere(&segment, SF_PAUSE, 0);
    PASSES(ranks[0], SF_AWAIT);
    uint32_t seen = sf_segment_changes(&segment);
    DOES(ranks[0], do_again, 0, SF_AWAIT);
    CHECK_EQ(sf_segment_changes(&segment), seen);

    CHECK_EQ(sf_commit(&segment, 1, 9), 9);
    CHECK(sf_segment_changes(&segment) != seen);
    seen = sf_segment_changes(&segment);
    DOES(ranks[0], do_again, 0, SF_GO); /* and neither does one that only comes nearer to the step */
    PASSES(ranks[0], SF_GO);
    CHECK_EQ(sf_segment_changes(&segment), seen);
    rank_run_to(ranks[0], 8);
    PASSES(ranks[0], SF_HOLD);
    CHECK(sf_segment_changes(&segment) != seen);
    END;
}

TEST(all_ranks_act_at_the_step_that_was_committed_however_late_that_is)
{
    BEGIN;
    ask_elsewhere(&segment, SF_CALL, 0);
    PASSES(ranks[0], SF_AWAIT);
    CHECK_EQ(sf_commit(&segment, 1, 9), 9); /* another host is further ahead */
    DOES(ranks[0], do_again, 0, SF_GO);
    rank_run_to(ranks[0], 8);
    rank_run_to(ranks[1], 8);
    for (int r = 0; r < 2; r++) {
        PASSES(ranks[r], SF_DELIVER);
        DOES(ranks[r], do_tell, 1, 0);
    }
    APPLIED_AT(1, 9);

    ask_elsewhere(&segment, SF_RELOAD, 0); /* committed before any rank came to it */
    CHECK_EQ(sf_commit(&segment, 2, 12), 12);
    rank_run_to(ranks[1], 11);
    rank_run_to(ranks[0], 11);
    PASSES(ranks[0], SF_RAISE_RELOAD);
    PASSES(ranks[1], SF_RAISE_RELOAD);
    END;
}

TEST(a_rank_that_was_about_to_wait_finds_what_was_committed_in_between)
{
    static const uint64_t targets[] = {6, 9, SF_TARGET_VOID};

    for (int t = 0; t < 3; t++) {
        BEGIN;
        ask_elsewhere(&segment, SF_PAUSE, 0);
        rank_arm(ranks[0], "turn:settled", SIGSTOP);
        rank_ask(ranks[0], do_pass, 0);
        rank_stopped(ranks[0]);
        sf_commit(&segment, 1, targets[t]);
        kill(ranks[0]->pid, SIGCONT);
        CHECK_EQ(rank_answer(ranks[0]), t == 0 ? SF_HOLD : SF_GO);
        CHECK_EQ(slot_at(path, 0).applied, t != 1);
        rank_arm(ranks[0], "", SIGSTOP);
        if (t == 1) {
            rank_run_to(ranks[0], 8);
            PASSES(ranks[0], SF_HOLD);
        }
        rank_kill(ranks[0]);
        rank_kill(ranks[1]);
        END;
        unlink(path);
    }
}

TEST(a_commit_wakes_who_waits_for_it)
{
    BEGIN;
    ask_elsewhere(&segment, SF_PAUSE, 0);
    PASSES(ranks[0], SF_AWAIT);
    uint32_t changes = sf_segment_changes(&segment);
    CHECK_EQ(sf_commit(&segment, 1, 6), 6);
    CHECK(sf_segment_changes(&segment) != changes);
    CHECK_EQ(slot_at(path, 1).word, SF_WORD_PENDING);

    for (int r = 0; r < 2; r++)
        rank_do(ranks[r], r == 0 ? do_again : do_pass, 0);
    rank_run_to(ranks[1], 5);
    PASSES(ranks[1], SF_HOLD);
    for (int r = 0; r < 2; r++)
        DOES(ranks[r], do_park, 1, 0);
    APPLIED_AT(1, 6);

    /* Parked ranks are woken by what is asked, find that it is not decided, and are woken when it is. */
    ask_elsewhere(&segment, SF_RESUME, 0);
    CHECK_EQ(entry_of(path, 2).low, 6);
    for (int r = 0; r < 2; r++) {
        DOES(ranks[r], do_resume, 0, 0);
        DOES(ranks[r], do_again, 0, SF_AWAIT);
        CHECK_EQ(slot_at(path, (uint32_t)r).state, SF_STATE_PARKED);
    }
    CHECK_EQ(sf_commit(&segment, 2, 6), 6);
    for (int r = 0; r < 2; r++)
        DOES(ranks[r], do_resume, 0, 1);
    APPLIED_AT(2, 6);
    END;
}

TEST(a_parked_rank_is_woken_by_the_commit_of_what_ends_its_park)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    rank_run_to(ranks[1], 5);
    for (int r = 0; r < 2; r++) {
        PASSES(ranks[r], SF_HOLD);
        DOES(ranks[r], do_park, 1, 0);
    }
    ask_elsewhere(&segment, SF_RESUME, 0);
    DOES(ranks[0], do_again, 0, SF_AWAIT);
    rank_ask(ranks[1], do_wait, 20 * SF_SECOND); /* has been woken; as if it had not looked yet */
    CHECK_EQ(rank_answer(ranks[1]), 0);
    CHECK_EQ(sf_commit(&segment, 2, 6), 6);
    DOES(ranks[0], do_resume, 0, 1);
    DOES(ranks[1], do_resume, 0, 1);
    APPLIED_AT(2, 6);
    END;
}

TEST(of_two_commits_the_first_counts)
{
    BEGIN;
    ask_elsewhere(&segment, SF_PAUSE, 0);
    CHECK_EQ(sf_commit(&segment, 1, 9), 9);
    CHECK_EQ(sf_commit(&segment, 1, 12), 9);
    CHECK_EQ(sf_commit(&segment, 1, SF_TARGET_VOID), 9);
    rank_run_to(ranks[0], 8);
    PASSES(ranks[0], SF_HOLD);

    struct sf_request request = request_of(SF_RESUME, 0);
    request.elsewhere = 1;
    struct sf_receipt receipt = ask_for(&segment, &request);
    CHECK(sf_commit(&segment, receipt.seq, SF_TARGET_VOID) == SF_TARGET_VOID);
    CHECK(sf_commit(&segment, receipt.seq, 9) == SF_TARGET_VOID); /* too late: returns the target that holds */
    DOES(ranks[0], do_again, 0, SF_HOLD);
    CHECK_EQ(slot_at(path, 0).applied, 2);
    CHECK_EQ(ranks[0]->due.seq, 1);
    END;
}

TEST(what_is_void_everywhere_lets_the_ranks_go_on)
{
    BEGIN;
    ask_elsewhere(&segment, SF_STOP, 0);
    PASSES(ranks[0], SF_AWAIT);
    rank_run_to(ranks[1], 5);
    PASSES(ranks[1], SF_AWAIT);
    CHECK(sf_commit(&segment, 1, SF_TARGET_VOID) == SF_TARGET_VOID);
    for (int r = 0; r < 2; r++) {
        DOES(ranks[r], do_again, 0, SF_GO);
        CHECK_EQ(slot_at(path, (uint32_t)r).applied, 1);
        rank_run_to(ranks[r], 20);
    }
    CHECK_EQ(view_of(path).state.stop_seq, 0);
    END;
}

TEST(nothing_more_is_asked_until_it_is_decided)
{
    BEGIN;
    struct sf_request request = request_of(SF_PAUSE, 0);
    struct sf_receipt receipt;
    struct rank *late = rank_begin();

    ask_elsewhere(&segment, SF_RELOAD, 0);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -SF_EBUSY);
    CHECK_EQ(sf_void_orphan(&segment, 1), 0); /* its sender is gone, and that says nothing */
    CHECK_EQ(sf_append(&segment, &request, SF_SECOND / 100, &receipt), -SF_EBUSY);
    CHECK(entry_of(path, 1).target == SF_TARGET_NONE);
    CHECK_EQ(view_of(path).tail, 1);
    CHECK_EQ(view_of(path).state.reload_seq, 1);
    rank_kill(ranks[1]);
    DOES(late, do_join, 1, 0); /* one may come meanwhile, and waits with the others */
    CHECK(entry_of(path, 1).target == SF_TARGET_NONE);
    CHECK_EQ(slot_at(path, 1).applied, 0);
    PASSES(late, SF_AWAIT);
    PASSES(ranks[0], SF_AWAIT);

    CHECK_EQ(sf_commit(&segment, 1, 6), 6);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
    CHECK_EQ(receipt.seq, 2);
    DOES(late, do_again, 0, SF_RAISE_RELOAD);
    DOES(ranks[0], do_again, 0, SF_RAISE_RELOAD);
    END;
}

TEST(a_rank_that_comes_when_nobody_is_left_waits_for_what_is_undecided)
{
    static const uint64_t targets[] = {7, SF_TARGET_VOID};

    for (int t = 0; t < 2; t++) {
        BEGIN;
        ask_elsewhere(&segment, SF_PAUSE, 0);
        rank_kill(ranks[0]);
        rank_kill(ranks[1]);
        struct rank *late = rank_begin();
        DOES(late, do_join, 1, 0);
        CHECK_EQ(slot_at(path, 1).applied, 0);
        PASSES(late, SF_AWAIT);
        CHECK_EQ(late->step, 6);
        sf_commit(&segment, 1, targets[t]);
        DOES(late, do_again, 0, SF_GO);
        PASSES(late, targets[t] == 7 ? SF_HOLD : SF_GO);
        CHECK_EQ(late->step, 7);
        rank_kill(late);
        END;
        unlink(path);
    }
}

TEST(a_sender_that_died_before_this_host_had_said_anything_leaves_it_to_the_ranks)
{
    static const char *const points[] = {"append:published", "decide:signalled", "append:decided"};

    for (int p = 0; p < 3; p++) {
        BEGIN;
        pid_t sender = fork();
        if (sender == 0) {
            CHECK_EQ(sf_point_arm(points[p], SIGKILL), 0);
            ask_elsewhere(&segment, SF_PAUSE, 0);
            _exit(1);
        }
        int status = reap(sender, 20);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        CHECK((entry_of(path, 1).low == SF_TARGET_NONE) == (p < 2));
        if (p == 0)
            CHECK_EQ(sf_commit(&segment, 1, 8), 8); /* the process that takes its place may still have it decided */
        rank_run_to(ranks[1], 4);
        if (p == 0) {
            rank_run_to(ranks[0], 7);
            PASSES(ranks[0], SF_HOLD);
        } else {
            CHECK_EQ(entry_of(path, 1).low, 6);
            PASSES(ranks[0], SF_AWAIT);
        }
        rank_kill(ranks[0]);
        rank_kill(ranks[1]);
        END;
        unlink(path);
    }
}

TEST(a_commit_whose_process_died_in_the_middle_stands)
{
    BEGIN;
    ask_elsewhere(&segment, SF_PAUSE, 0);
    PASSES(ranks[0], SF_AWAIT);
    pid_t helper = fork();
    if (helper == 0) {
        CHECK_EQ(sf_point_arm("commit:target", SIGKILL), 0);
        sf_commit(&segment, 1, 6);
        _exit(1);
    }
    int status = reap(helper, 20);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    DOES(ranks[0], do_again, 0, SF_HOLD);
    rank_run_to(ranks[1], 5);
    PASSES(ranks[1], SF_HOLD);
    END;
}

TEST(code_of_one_rank_holds_for_a_pause_that_is_not_decided_and_goes_on_if_it_is_off)
{
    BEGIN;
    rank_run_to(ranks[1], 5);
    ask_elsewhere(&segment, SF_PAUSE, 0);
    DOES(ranks[0], do_look, 0, SF_HOLD);
    CHECK_EQ(sf_commit(&segment, 1, SF_TARGET_VOID), (long long)SF_TARGET_VOID);
    DOES(ranks[0], do_look_again, 0, SF_GO);
    PASSES(ranks[0], SF_GO);
    END;
}

TEST(a_target_can_be_given_or_decided_elsewhere_and_not_both)
{
    BEGIN;
    struct sf_request request = request_of(SF_PAUSE, 0);
    struct sf_receipt receipt;
    request.elsewhere = 1;
    request.target = 7;
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -EINVAL);
    CHECK_EQ(view_of(path).tail, 0);
    END;
}
