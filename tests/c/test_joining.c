/* A rank that comes to a run that others have begun: where it begins, and what it leaves behind if it dies coming. */
#include "joining.h"

TEST(a_rank_that_comes_fresh_applies_all_that_the_log_holds_where_it_was_due)
{
    BEGIN(2);
    rank_run_to(first, 3);
    CHECK_EQ(ask(&segment, SF_PAUSE, 6).target, 4);
    rank_run_to(first, 5);
    PASSES(first, SF_HOLD);
    DOES(first, do_park, 1, 0);
    APPLIED_AT(1, 6);
    CHECK_EQ(ask(&segment, SF_RESUME, 0).target, 6);
    DOES(first, do_again, 0, SF_GO);
    rank_run_to(first, 9);
    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 10);
    PASSES(first, SF_RAISE_RELOAD);
    DOES(first, do_tell, 3, 0);
    APPLIED_AT(3, 10);

    struct rank *second = joined(1);
    struct sf_slot_view slot = slot_at(path, 1);
    CHECK_EQ(slot.state, SF_STATE_IDLE);
    CHECK_EQ(slot.step, 0);
    CHECK_EQ(slot.applied, 0);
    CHECK_EQ(slot.rank, 1);
    CHECK_EQ(slot.generation, 1);
    CHECK_EQ(slot.pid, second->pid);
    CHECK_EQ(slot.alive, 1);
    rank_run_to(second, 3);
    CHECK_EQ(slot_at(path, 1).state, SF_STATE_RUNNING);
    CHECK_EQ(slot_at(path, 1).applied, 0);
    PASSES(second, SF_GO);
    CHECK_EQ(slot_at(path, 1).applied, 1);
    PASSES(second, SF_GO);
    CHECK_EQ(slot_at(path, 1).applied, 1);
    PASSES(second, SF_GO); /* the pause is over at the step where it parks */
    CHECK_EQ(slot_at(path, 1).applied, 2);
    rank_run_to(second, 9);
    PASSES(second, SF_RAISE_RELOAD);
    CHECK_EQ(second->due.seq, 3);
    APPLIED_AT(3, 10); /* an outcome that was set before it joined stays */

    /* From here on both have a part in everything. */
    rank_run_to(first, 12);
    rank_run_to(second, 12);
    CHECK_EQ(ask(&segment, SF_STOP, 0).target, 13);
    PASSES(first, SF_RAISE_STOP);
    OPEN(4);
    PASSES(second, SF_RAISE_STOP);
    APPLIED_AT(4, 13);
    END;
}

TEST(checkpoints_passed_before_a_rank_came_count)
{
    BEGIN(2);
    rank_run_to(first, 2);
    ask(&segment, SF_PAUSE, 6);
    struct rank *second = rank_begin();
    for (int i = 0; i < 4; i++)
        rank_do(second, do_pass, 0);
    DOES(second, do_join, 1, 0);
    CHECK_EQ(slot_at(path, 1).step, 4);
    CHECK_EQ(slot_at(path, 1).state, SF_STATE_RUNNING);
    PASSES(second, SF_GO);
    CHECK_EQ(slot_at(path, 1).applied, 1);
    PASSES(second, SF_HOLD);
    CHECK_EQ(second->step, 6);
    END;
}

TEST(a_rank_that_comes_when_the_others_are_far_ahead_begins_where_they_are)
{
    BEGIN(2);
    ask(&segment, SF_PAUSE, 5000);
    CHECK_EQ(rank_do(first, do_pass, 0), SF_GO);
    rank_run_to(first, SF_JOIN_LEAD + 1);
    struct rank *second = joined(1);
    CHECK_EQ(slot_at(path, 1).step, SF_JOIN_LEAD + 1);
    CHECK_EQ(slot_at(path, 1).applied, 1); /* and it knows of the pause that is to come */
    PASSES(second, SF_GO);
    CHECK_EQ(slot_at(path, 1).alarm, 5000);
    CHECK_EQ(slot_at(path, 1).state, SF_STATE_RUNNING);
    END;
}

TEST(a_rank_that_comes_when_the_log_has_forgotten_begins_where_the_others_are)
{
    BEGIN(3);
    for (uint32_t i = 0; i < SF_LOG_CAPACITY / 2; i++) {
        ask(&segment, SF_PAUSE, 900);
        ask(&segment, SF_RESUME, 0);
        PASSES(first, SF_GO);
    }
    CHECK_EQ(first->step, SF_LOG_CAPACITY / 2);
    struct rank *early = joined(1); /* all of it is there still */
    CHECK_EQ(slot_at(path, 1).applied, 0);
    CHECK_EQ(slot_at(path, 1).step, 0);
    rank_run_to(early, 1);
    CHECK_EQ(slot_at(path, 1).applied, 2);
    rank_kill(early);

    ask(&segment, SF_PAUSE, 900);
    PASSES(first, SF_GO);
    struct rank *second = joined(2);
    CHECK_EQ(slot_at(path, 2).applied, SF_LOG_CAPACITY + 1);
    CHECK_EQ(slot_at(path, 2).step, first->step);
    PASSES(second, SF_GO);
    CHECK_EQ(slot_at(path, 2).alarm, 900);
    END;
}

TEST(a_rank_that_comes_after_another_begins_where_the_furthest_is_with_what_is_due_later)
{
    BEGIN(3);
    had(1);
    struct rank *third = joined(2);
    rank_run_to(first, 10);
    rank_run_to(third, 8);
    CHECK_EQ(ask(&segment, SF_PAUSE, 500).target, 11);
    CHECK_EQ(ask(&segment, SF_RESUME, 0).target, 11);
    CHECK_EQ(ask(&segment, SF_PAUSE, 20).target, 11);
    rank_run_to(first, 14);
    CHECK_EQ(ask(&segment, SF_SET, 0).target, 15);

    /* One of them has come by what is due at step 11, and one has not. It was not for the one that comes at 14. */
    struct rank *second = joined(1);
    CHECK_EQ(slot_at(path, 1).step, 14);
    CHECK_EQ(slot_at(path, 1).applied, 3);
    CHECK_EQ(slot_at(path, 1).generation, 2);
    CHECK_EQ(slot_at(path, 1).state, SF_STATE_RUNNING);
    rank_run_to(third, 14);
    CHECK_EQ(outcome_of(path, 2), SF_OUTCOME_APPLIED);
    struct rank *all[] = {first, second, third};
    for (int r = 0; r < 3; r++) {
        OPEN(4);
        PASSES(all[r], SF_DELIVER);
        CHECK_EQ(all[r]->step, 15);
        DOES(all[r], do_tell, 4, 0);
    }
    APPLIED_AT(4, 15);
    for (int r = 0; r < 3; r++) {
        rank_run_to(all[r], 19);
        PASSES(all[r], SF_HOLD);
        CHECK_EQ(all[r]->due.seq, 3);
        DOES(all[r], do_park, 3, 0);
    }
    APPLIED_AT(3, 20);
    END;
}

TEST(what_stands_behind_a_reload_is_not_for_a_rank_that_comes_a_step_later)
{
    BEGIN(2);
    had(1);
    rank_run_to(first, 3);
    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 4);
    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 4);
    CHECK_EQ(ask(&segment, SF_SET, 0).target, 4);
    PASSES(first, SF_RAISE_RELOAD);
    DOES(first, do_tell, 1, 0);
    for (int left = 0; left < 2; left++) {
        if (left)
            DOES(first, do_set_back, 3, 0);
        struct rank *second = joined(1);
        CHECK_EQ(slot_at(path, 1).step, 4);
        CHECK_EQ(slot_at(path, 1).applied, 3);
        PASSES(second, SF_GO);
        rank_kill(second);
    }
    /* The other one comes to that step once more. */
    PASSES(first, SF_RAISE_RELOAD);
    CHECK_EQ(first->step, 4);
    DOES(first, do_set_back, 3, 0);
    PASSES(first, SF_DELIVER);
    CHECK_EQ(first->step, 4);
    DOES(first, do_tell, 3, 0);
    APPLIED_AT(3, 4);
    END;
}

TEST(a_reload_of_parked_ranks_leaves_them_and_a_rank_that_comes_where_they_park)
{
    BEGIN(3);
    had(2);
    struct rank *second = joined(1);
    rank_run_to(first, 3);
    rank_run_to(second, 3);
    ask(&segment, SF_PAUSE, 0);
    PASSES(first, SF_HOLD);
    PASSES(second, SF_HOLD);
    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 4);
    DOES(first, do_again, 0, SF_RAISE_RELOAD);
    DOES(first, do_set_back, 3, 0);
    struct rank *third = joined(2); /* one has left its loop, and one has not heard of it */
    PASSES(third, SF_HOLD);
    DOES(second, do_again, 0, SF_RAISE_RELOAD);
    DOES(second, do_set_back, 3, 0);
    PASSES(first, SF_HOLD);
    PASSES(second, SF_HOLD);
    CHECK_EQ(ask(&segment, SF_ADVANCE, 2).target, 4);
    struct rank *all[] = {first, second, third};
    for (int r = 0; r < 3; r++) {
        CHECK_EQ(all[r]->step, 4);
        DOES(all[r], do_again, 0, SF_GO);
        PASSES(all[r], SF_GO);
        PASSES(all[r], SF_HOLD);
        CHECK_EQ(all[r]->step, 6);
    }
    END;
}

TEST(a_rank_that_comes_knows_of_the_pause_that_stands_before_what_it_has_to_apply)
{
    BEGIN(3);
    had(1);
    struct rank *third = joined(2);
    rank_run_to(first, 10);
    ask(&segment, SF_PAUSE, 16);
    rank_run_to(third, 11);
    rank_run_to(first, 11);
    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 12);
    struct rank *second = joined(1);
    CHECK_EQ(slot_at(path, 1).applied, 1);
    PASSES(second, SF_RAISE_RELOAD);
    CHECK_EQ(second->step, 12);
    rank_run_to(second, 15);
    PASSES(second, SF_HOLD);
    CHECK_EQ(second->due.seq, 1);
    END;
}

TEST(a_rank_that_comes_while_the_others_are_parked_parks_at_its_first_checkpoint)
{
    BEGIN(2);
    had(1);
    rank_run_to(first, 3);
    ask(&segment, SF_PAUSE, 0);
    PASSES(first, SF_HOLD);
    DOES(first, do_park, 1, 0);
    APPLIED_AT(1, 4);
    struct rank *second = joined(1);
    PASSES(second, SF_HOLD);
    CHECK_EQ(second->step, 4);
    CHECK_EQ(second->due.seq, 1);
    DOES(second, do_park, 1, 0);
    CHECK_EQ(slot_at(path, 1).state, SF_STATE_PARKED);

    ask(&segment, SF_RESUME, 0);
    DOES(second, do_again, 0, SF_GO);
    OPEN(2);
    DOES(first, do_again, 0, SF_GO);
    APPLIED_AT(2, 4);
    END;
}

TEST(a_rank_that_comes_as_the_others_are_about_to_park_parks_where_they_do)
{
    BEGIN(2);
    had(1);
    rank_run_to(first, 3);
    ask(&segment, SF_PAUSE, 0);
    rank_arm(first, "turn:folded", SIGSTOP);
    rank_ask(first, do_pass, 0);
    rank_stopped(first); /* stands at step 4, and has not said that it has applied anything */
    struct rank *second = joined(1);
    kill(first->pid, SIGCONT);
    CHECK_EQ(rank_answer(first), SF_HOLD);
    PASSES(second, SF_HOLD);
    CHECK_EQ(second->step, 4);
    END;
}

static long
do_vote_ready(struct rank *self, uint64_t yes)
{
    (void)self;
    return sf_worker_vote(WORKER, self->due.seq, SF_PHASE_READY, (int)yes);
}

TEST(a_rank_that_comes_need_not_know_whether_the_others_leave_for_a_reload)
{
    for (uint64_t yes = 0; yes < 2; yes++) {
        BEGIN(3);
        had(2);
        struct rank *second = joined(1);
        rank_run_to(first, 3);
        rank_run_to(second, 3);
        ask(&segment, SF_RELOAD, 0);
        ask(&segment, SF_SET, 0);
        ask(&segment, SF_PAUSE, 0);
        PASSES(first, SF_RAISE_RELOAD);
        PASSES(second, SF_RAISE_RELOAD);
        DOES(first, do_vote_ready, 1, 0);
        struct rank *third = joined(2);
        PASSES(third, SF_DELIVER);
        CHECK_EQ(third->step, 4);
        DOES(third, do_tell, 2, 0);
        DOES(third, do_again, 0, SF_HOLD);

        DOES(second, do_vote_ready, yes, yes ? SF_VOTE_YES : SF_VOTE_NO);
        struct rank *both[] = {first, second};
        for (int r = 0; r < 2; r++) {
            if (yes) {
                DOES(both[r], do_set_back, 3, 0);
                PASSES(both[r], SF_DELIVER);
            } else {
                DOES(both[r], do_again, 0, SF_DELIVER);
            }
            DOES(both[r], do_tell, 2, 0);
            DOES(both[r], do_again, 0, SF_HOLD);
            CHECK_EQ(both[r]->step, 4);
        }
        APPLIED_AT(2, 4);
        rank_kill(third);
        rank_kill(second);
        rank_kill(first);
        END;
        unlink(path);
    }
}

/* As when a launcher has ended all of them to begin anew. */
TEST(a_rank_that_comes_when_all_have_died_begins_where_they_were)
{
    BEGIN(2);
    struct rank *second = joined(1);
    rank_run_to(first, 20);
    rank_run_to(second, 22);
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 23);
    rank_kill(first);
    rank_kill(second);
    first = joined(0);
    CHECK_EQ(slot_at(path, 0).step, 22);
    CHECK_EQ(slot_at(path, 0).applied, 0); /* they had not come to it */
    PASSES(first, SF_HOLD);
    CHECK_EQ(first->step, 23);
    DOES(first, do_park, 1, 0);
    second = joined(1);
    CHECK_EQ(slot_at(path, 1).step, 22);
    CHECK_EQ(ask(&segment, SF_RESUME, 0).target, 23);
    DOES(first, do_again, 0, SF_GO);
    PASSES(second, SF_GO);
    APPLIED_AT(2, 23);
    END;
}

/* The dead count only if no rank lives. */
TEST(a_rank_that_comes_begins_with_one_that_lives_and_has_passed_no_checkpoint_yet)
{
    BEGIN(3);
    struct rank *second = joined(1);
    rank_run_to(second, 2);
    rank_kill(second);
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 1);
    second = joined(1);
    CHECK_EQ(slot_at(path, 1).step, 0);
    struct rank *third = joined(2);
    CHECK_EQ(slot_at(path, 2).step, 0);
    struct rank *all[] = {first, second, third};
    for (int r = 0; r < 3; r++) {
        OPEN(1);
        PASSES(all[r], SF_HOLD);
        CHECK_EQ(all[r]->step, 1);
        DOES(all[r], do_park, 1, 0);
    }
    APPLIED_AT(1, 1);
    END;
}

TEST(a_run_that_is_to_stop_stops_the_rank_that_comes)
{
    BEGIN(2);
    rank_run_to(first, 3);
    ask(&segment, SF_STOP, 0);
    PASSES(first, SF_RAISE_STOP);
    struct rank *second = joined(1);
    rank_run_to(second, 3);
    PASSES(second, SF_RAISE_STOP);
    PASSES(second, SF_RAISE_STOP);
    rank_kill(second);
    second = joined(1);
    PASSES(second, SF_RAISE_STOP);
    END;
}
