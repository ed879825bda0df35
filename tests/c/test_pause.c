/* One rank: pauses, resumes and advances, alone and one after the other. */
#include "one_rank.h"

/* Asks while the sender reads a step that is two too small, as it may where the worker's stores are held back. */
static struct sf_receipt
ask_late(struct sf_segment *segment, uint32_t kind, uint64_t argument)
{
    atomic_fetch_sub(&segment->slots[0].step, 2);
    struct sf_receipt receipt = ask(segment, kind, argument);
    atomic_fetch_add(&segment->slots[0].step, 2);
    CHECK(receipt.target < steps_passed());
    return receipt;
}

TEST(an_only_rank_that_has_passed_a_target_applies_it_at_its_next_checkpoint)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);

    run_to(5);
    ask_late(&segment, SF_PAUSE, 0);
    HOLDS(1);
    CHECK_EQ(steps_passed(), 6);
    APPLIED_AT(1, 6);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(look_again().action, SF_GO);
    APPLIED_AT(2, 6);

    run_to(9);
    ask_late(&segment, SF_PAUSE, 9); /* a step that it has passed too */
    HOLDS(3);
    APPLIED_AT(3, 10);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(look_again().action, SF_GO);

    run_to(13);
    ask_late(&segment, SF_ADVANCE, 1);
    HOLDS(5);
    APPLIED_AT(5, 14);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(look_again().action, SF_GO);

    run_to(17);
    ask_late(&segment, SF_PAUSE, 20);
    ask_late(&segment, SF_RESUME, 0);
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK_EQ(outcome_of(path, 7), SF_OUTCOME_SUPERSEDED);
    APPLIED_AT(8, 18);

    run_to(25);
    ask_late(&segment, SF_RELOAD, 0);
    ask_late(&segment, SF_STOP, 0);
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    APPLIED_AT(10, 27);
    END;
}

TEST(a_woken_worker_applies_a_resume_at_once_and_leaves_all_else_to_the_slow_path)
{
    BEGIN;
    CHECK_EQ(sf_worker_resume(WORKER, 3), 0);
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    CHECK_EQ(sf_worker_resume(WORKER, 4), 0); /* nothing has come */
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(sf_worker_resume(WORKER, 4), 1);
    APPLIED_AT(2, 4);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    CHECK_EQ(slot_of(path).applied, 2);
    CHECK_EQ(sf_pending(sf_process_counter), 0);
    uint64_t step;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 0);

    static const uint32_t kinds[] = {SF_PAUSE, SF_ADVANCE, SF_RELOAD, SF_STOP};
    static const enum sf_action actions[] = {SF_HOLD, SF_GO, SF_RAISE_RELOAD, SF_RAISE_STOP};
    for (int i = 0; i < 4; i++) {
        uint64_t seq = ask(&segment, SF_PAUSE, 0).seq;
        HOLDS(seq);
        ask(&segment, kinds[i], kinds[i] == SF_ADVANCE);
        CHECK_EQ(sf_worker_resume(WORKER, steps_passed()), 0);
        CHECK_EQ(slot_of(path).applied, seq);
        CHECK_EQ(look_again().action, actions[i]);
        if (actions[i] == SF_HOLD) {
            ask(&segment, SF_RESUME, 0);
            CHECK_EQ(look_again().action, SF_GO);
        }
    }
    END;
}

TEST(a_resume_with_a_pause_behind_it_is_left_to_the_slow_path)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    ask(&segment, SF_RESUME, 0);
    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(sf_worker_resume(WORKER, 4), 0);
    CHECK_EQ(slot_of(path).applied, 1);
    CHECK_EQ(look_again().action, SF_GO);
    HOLDS(3);
    APPLIED_AT(3, 5);
    END;
}

TEST(a_pause_parks_at_the_next_checkpoint_and_a_resume_ends_it_there)
{
    BEGIN;
    struct sf_receipt pause = ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(pause.seq, 1);
    CHECK_EQ(pause.target, 4);
    CHECK_EQ(sf_pending(sf_process_counter), 1);
    CHECK_EQ(view_of(path).state.park, 4);
    CHECK_EQ(view_of(path).state.park_seq, 1);
    OPEN(1);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING); /* asked is not done */

    HOLDS(1);
    APPLIED_AT(1, 4);
    CHECK_EQ(slot_of(path).state, SF_STATE_PARKED);
    CHECK_EQ(slot_of(path).word, SF_WORD_HELD);
    CHECK(slot_of(path).park_ns > 0);
    CHECK_EQ(look_again().action, SF_HOLD); /* woken for nothing */
    CHECK_EQ(sf_worker_wait(WORKER, 1000), -ETIMEDOUT);
    CHECK_EQ(slot_of(path).wakes, 1);

    CHECK_EQ(ask(&segment, SF_RESUME, 0).target, 4); /* parked ranks stand still */
    CHECK_EQ(sf_worker_wait(WORKER, SF_SECOND), 0);
    CHECK_EQ(look_again().action, SF_GO);
    APPLIED_AT(2, 4);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    CHECK_EQ(slot_of(path).park_ns, 0);
    CHECK(slot_of(path).parked_ns > 0);
    CHECK_EQ(slot_of(path).word, 0);
    CHECK_EQ(slot_of(path).applied, 2);
    CHECK(view_of(path).state.park == SF_NEVER);
    run_to(50);
    END;
}

TEST(a_pause_and_its_resume_before_the_checkpoint_are_passed_over)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(checkpoint().action, SF_GO);
    SUPERSEDED_BY(1, 2);
    APPLIED_AT(2, 4);
    CHECK_EQ(slot_of(path).parked_ns, 0);
    run_to(9);
    END;
}

TEST(a_later_pause_takes_the_place_of_an_earlier_one)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    ask(&segment, SF_PAUSE, 0);
    HOLDS(2);
    SUPERSEDED_BY(1, 2);
    APPLIED_AT(2, 4);
    ask(&segment, SF_PAUSE, 0); /* while it is parked: applied where it stands */
    CHECK_EQ(look_again().seq, 3);
    APPLIED_AT(3, 4);
    APPLIED_AT(2, 4); /* what was applied stays applied */
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(look_again().action, SF_GO);
    run_to(9);
    END;
}

TEST(a_pause_at_a_step_parks_there_and_not_before)
{
    BEGIN;
    CHECK_EQ(ask(&segment, SF_PAUSE, 10).target, 4);
    CHECK_EQ(view_of(path).state.park, 10);
    run_to(9);
    CHECK_EQ(slot_of(path).alarm, 10);
    CHECK_EQ(slot_of(path).applied, 1);
    OPEN(1);
    CHECK_EQ(sf_pending(sf_process_counter), 0);
    HOLDS(1);
    APPLIED_AT(1, 10);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(look_again().action, SF_GO);
    CHECK(slot_of(path).alarm == SF_NEVER);
    run_to(20);
    END;
}

TEST(a_pause_at_a_step_that_has_passed_parks_now)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 1);
    HOLDS(1);
    APPLIED_AT(1, 4);
    END;
}

TEST(a_pause_at_a_step_may_be_taken_back)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 10);
    run_to(6);
    CHECK_EQ(ask(&segment, SF_RESUME, 0).target, 7);
    run_to(20);
    SUPERSEDED_BY(1, 2);
    APPLIED_AT(2, 7);
    END;
}

TEST(a_request_behind_a_pause_at_a_step_is_applied_no_later_than_there)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 4);
    CHECK_EQ(ask(&segment, SF_PAUSE, 10).target, 4);
    run_to(9);
    SUPERSEDED_BY(1, 2);
    HOLDS(2);
    END;
}

TEST(parked_and_asked_to_park_later_it_runs_until_then)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    ask(&segment, SF_PAUSE, 8);
    CHECK_EQ(look_again().action, SF_GO);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    run_to(7);
    HOLDS(2);
    APPLIED_AT(2, 8);
    END;
}

TEST(an_advance_runs_so_many_steps_and_parks)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    CHECK_EQ(ask(&segment, SF_ADVANCE, 3).target, 4);
    CHECK_EQ(look_again().action, SF_GO);
    OPEN(2); /* applied when it parks again */
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    run_to(6);
    HOLDS(2);
    APPLIED_AT(2, 7);
    ask(&segment, SF_ADVANCE, 1);
    CHECK_EQ(look_again().action, SF_GO);
    HOLDS(3);
    APPLIED_AT(3, 8);
    ask(&segment, SF_ADVANCE, 100);
    CHECK_EQ(look_again().action, SF_GO);
    run_to(20);
    ask(&segment, SF_RESUME, 0);
    run_to(200);
    SUPERSEDED_BY(4, 5);
    END;
}

TEST(an_advance_of_code_that_came_while_it_was_parked_runs_so_many_steps)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(look_again().action, SF_RAISE_RELOAD);
    HOLDS(1);
    uint64_t parked = steps_passed();
    ask(&segment, SF_ADVANCE, 2);
    CHECK_EQ(look_again().action, SF_GO);
    run_to(parked + 1);
    HOLDS(3);
    CHECK_EQ(steps_passed(), parked + 2);
    END;
}

TEST(an_advance_of_a_running_worker_counts_from_where_it_is_applied)
{
    BEGIN;
    CHECK_EQ(ask(&segment, SF_ADVANCE, 2).target, 4);
    run_to(5);
    HOLDS(1);
    APPLIED_AT(1, 6);
    END;
}

TEST(an_advance_by_nothing_and_numbers_without_sense_are_refused)
{
    BEGIN;
    struct sf_receipt receipt;
    struct sf_request request = request_of(SF_ADVANCE, 0);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -EINVAL);
    request = request_of(SF_PAUSE, SF_STEP_MAX + 1);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -EINVAL);
    request = request_of(0, 0);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -EINVAL);
    request = request_of(SF_KIND_END, 0);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -EINVAL);
    CHECK_EQ(view_of(path).tail, 0);
    request = request_of(SF_PAUSE, SF_STEP_MAX);
    CHECK_EQ(ask_for(&segment, &request).verdict, SF_APPENDED);
    run_to(9);
    END;
}

TEST(a_timed_pause_tells_how_long_and_its_end_ends_only_itself)
{
    BEGIN;
    struct sf_request timed = request_of(SF_PAUSE, 0), end = request_of(SF_RESUME, 0);
    timed.duration_ns = 5 * SF_SECOND;
    ask_for(&segment, &timed);
    struct sf_due due = checkpoint();
    CHECK_EQ(due.action, SF_HOLD);
    CHECK_EQ(due.park_for, 5 * SF_SECOND);
    CHECK_EQ(view_of(path).state.park_for, 5 * SF_SECOND);

    ask(&segment, SF_PAUSE, 0); /* another sender wants it to stay parked */
    due = look_again();
    CHECK_EQ(due.seq, 2);
    CHECK_EQ(due.park_for, 0);
    end.only_if_park_seq = 1;
    struct sf_receipt receipt = ask_for(&segment, &end);
    CHECK_EQ(receipt.verdict, SF_NOTHING_TO_DO);
    CHECK_EQ(view_of(path).tail, 2);
    end.only_if_park_seq = 2;
    CHECK_EQ(ask_for(&segment, &end).verdict, SF_APPENDED);
    CHECK_EQ(look_again().action, SF_GO);
    end.only_if_park_seq = 2;
    CHECK_EQ(ask_for(&segment, &end).verdict, SF_NOTHING_TO_DO);
    run_to(9);
    END;
}

TEST(a_pause_for_less_than_nothing_is_until_resumed)
{
    BEGIN;
    struct sf_request timed = request_of(SF_PAUSE, 0);
    timed.duration_ns = -5;
    ask_for(&segment, &timed);
    CHECK_EQ(checkpoint().park_for, 0);
    END;
}

TEST(a_resume_of_what_runs_is_nothing_to_do)
{
    BEGIN;
    struct sf_request resume = request_of(SF_RESUME, 0);
    CHECK_EQ(ask_for(&segment, &resume).verdict, SF_NOTHING_TO_DO);
    ask(&segment, SF_PAUSE, 0);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(ask_for(&segment, &resume).verdict, SF_NOTHING_TO_DO);
    CHECK_EQ(view_of(path).tail, 2);
    run_to(9);
    END;
}
