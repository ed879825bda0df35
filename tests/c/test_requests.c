/* One rank: stops, reloads and mail, and every pair of requests. */
#include "one_rank.h"

TEST(a_loop_that_swallows_the_stop_is_seen_to_run)
{
    BEGIN;
    checkpoint();
    sf_worker_stop_swallowed(WORKER);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    ask(&segment, SF_STOP, 0);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    CHECK_EQ(slot_of(path).state, SF_STATE_STOPPING);
    sf_worker_stop_swallowed(WORKER);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    CHECK_EQ(sf_worker_end(WORKER, SF_STATE_STOPPED), 0);
    CHECK_EQ(slot_of(path).state, SF_STATE_STOPPED);
}

TEST(a_stop_is_a_level)
{
    BEGIN;
    struct sf_request again = request_of(SF_STOP, 0);
    ask(&segment, SF_STOP, 0);
    for (int i = 0; i < 5; i++) {
        struct sf_due due = checkpoint();
        CHECK_EQ(due.action, SF_RAISE_STOP);
        CHECK_EQ(due.seq, 1);
        CHECK_EQ(due.entry.kind, SF_STOP);
        CHECK_EQ(strcmp(due.entry.sender, "the tests"), 0);
        CHECK_EQ(sf_pending(sf_process_counter), 1);
    }
    APPLIED_AT(1, 4);
    CHECK_EQ(slot_of(path).state, SF_STATE_STOPPING);
    struct sf_receipt receipt = ask_for(&segment, &again);
    CHECK_EQ(receipt.verdict, SF_NOTHING_TO_DO);
    CHECK_EQ(receipt.seq, 1);
    for (uint32_t kind = SF_PAUSE; kind < SF_KIND_END; kind++) {
        struct sf_request other = request_of(kind, 1);
        if (kind != SF_STOP)
            CHECK_EQ(ask_for(&segment, &other).verdict, SF_REFUSED_STOPPING);
    }
    sf_worker_end(WORKER, SF_STATE_STOPPED);
    CHECK_EQ(slot_of(path).state, SF_STATE_STOPPED);
    CHECK_EQ(ask_for(&segment, &again).verdict, SF_REFUSED_ENDED);
    END;
}

TEST(mail_is_handed_out_one_by_one_where_it_is_due_and_its_fate_is_what_the_caller_says)
{
    BEGIN;
    struct sf_due due;
    struct sf_request request = request_of(SF_SET, 0);
    strcpy(request.mail, "0123456789abcdef");
    ask_for(&segment, &request);
    ask(&segment, SF_CALL, 0);
    ask(&segment, SF_PAUSE, 0);
    uint64_t step;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_DELIVER);
    CHECK_EQ(due.seq, 1);
    CHECK_EQ(due.entry.kind, SF_SET);
    CHECK_EQ(strcmp(due.entry.mail, "0123456789abcdef"), 0);
    CHECK_EQ(slot_of(path).applied, 1);
    CHECK_EQ(outcome_of(path, 1), SF_OUTCOME_OPEN);
    CHECK_EQ(sf_pending(sf_process_counter), 1);
    sf_worker_publish_outcome(WORKER, 1, step, 1);
    CHECK_EQ(outcome_of(path, 1), SF_OUTCOME_FAILED);

    /* While one is being delivered, the next and all that stands behind it is left. */
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED | SF_DUE_NO_MAIL, &due), 0);
    CHECK_EQ(due.action, SF_GO);
    CHECK_EQ(slot_of(path).applied, 1);
    CHECK_EQ(sf_pending(sf_process_counter), 1);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_DELIVER);
    CHECK_EQ(due.entry.kind, SF_CALL);
    sf_worker_publish_outcome(WORKER, 2, step, 0);
    APPLIED_AT(2, step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_HOLD);
    sf_worker_parked(WORKER, due.seq, step, 0);

    /* Parked, it is handed out where the rank stands, and the rank stays parked. */
    ask(&segment, SF_SET, 0);
    CHECK_EQ(sf_worker_resume(WORKER, step), 0);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_DELIVER);
    CHECK_EQ(slot_of(path).state, SF_STATE_PARKED);
    sf_worker_publish_outcome(WORKER, 4, step, 0);
    APPLIED_AT(4, step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_HOLD);
    CHECK_EQ(due.seq, 3);
    END;
}

TEST(mail_that_waits_for_a_function_that_runs_gives_way_to_a_stop)
{
    BEGIN;
    struct sf_due due;
    uint64_t step;
    ask(&segment, SF_CALL, 0);
    sf_pass(sf_process_counter, &step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_DELIVER);
    ask(&segment, SF_SET, 0);
    ask(&segment, SF_PAUSE, 0);
    sf_pass(sf_process_counter, &step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED | SF_DUE_NO_MAIL, &due), 0);
    CHECK_EQ(due.action, SF_GO);
    CHECK_EQ(slot_of(path).applied, 1);
    ask(&segment, SF_STOP, 0);
    sf_pass(sf_process_counter, &step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED | SF_DUE_NO_MAIL, &due), 0);
    CHECK_EQ(due.action, SF_RAISE_STOP);
    CHECK_EQ(outcome_of(path, 2), SF_OUTCOME_SUPERSEDED);
    CHECK_EQ(outcome_of(path, 3), SF_OUTCOME_SUPERSEDED);
    APPLIED_AT(4, step);
    END;
}

TEST(an_uncounted_checkpoint_delivers_nothing_and_lets_the_loop_come_to_one_that_does)
{
    BEGIN;
    struct sf_due due;
    uint64_t step;
    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(sf_look(sf_process_counter, &step), 1);
    CHECK_EQ(sf_apply_due(WORKER, step, 0, &due), 0);
    CHECK_EQ(due.action, SF_HOLD);
    ask(&segment, SF_CALL, 0);
    CHECK_EQ(sf_apply_due(WORKER, step, 0, &due), 0);
    CHECK_EQ(due.action, SF_GO);
    CHECK_EQ(slot_of(path).applied, 0);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_DELIVER);
    sf_worker_publish_outcome(WORKER, due.seq, step, 0);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_HOLD);
    END;
}

TEST(a_call_that_passes_checkpoints_leaves_the_step_where_it_was)
{
    BEGIN;
    uint64_t step, inner;
    sf_pass(sf_process_counter, &step);
    for (int i = 0; i < 5; i++) {
        sf_pass(sf_process_counter, &inner);
        CHECK_EQ(inner, step + 1);
        CHECK_EQ(sf_worker_uncount(WORKER), step);
        CHECK_EQ(sf_step(sf_process_counter), step);
    }
    sf_pass(sf_process_counter, &inner);
    CHECK_EQ(inner, step + 1);
    END;
}

TEST(what_is_asked_while_a_call_passes_a_checkpoint_is_due_there_and_holds_up_nothing)
{
    BEGIN;
    struct sf_due due;
    uint64_t step, inner;
    sf_pass(sf_process_counter, &step);
    ask(&segment, SF_CALL, 0);
    sf_pass(sf_process_counter, &step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_DELIVER);
    sf_pass(sf_process_counter, &inner); /* counted, and not uncounted yet, when the pause is decided */
    ask(&segment, SF_PAUSE, 0);
    ask(&segment, SF_PAUSE, step + 5);
    CHECK_EQ(sf_worker_uncount(WORKER), step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED | SF_DUE_INNER, &due), 0);
    CHECK_EQ(due.action, SF_GO);
    ask(&segment, SF_PAUSE, 0);
    sf_pass(sf_process_counter, &inner);
    CHECK_EQ(sf_worker_uncount(WORKER), step);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED | SF_DUE_INNER, &due), 0);
    CHECK_EQ(due.action, SF_HOLD);
    /* Left by an exception, the function does not park; the loop does, and can be resumed there. */
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_HOLD);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_GO);
    END;
}

TEST(a_stop_ends_a_park)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    ask(&segment, SF_STOP, 0);
    CHECK_EQ(look_again().action, SF_RAISE_STOP);
    APPLIED_AT(1, 4);
    APPLIED_AT(2, 4);
    CHECK_EQ(slot_of(path).state, SF_STATE_STOPPING);
    CHECK_EQ(slot_of(path).park_ns, 0);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    END;
}

TEST(a_stop_supersedes_a_pause_that_was_not_reached)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 100);
    ask(&segment, SF_STOP, 0);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    SUPERSEDED_BY(1, 2);
    APPLIED_AT(2, 4);
    END;
}

TEST(a_reload_is_raised_once)
{
    BEGIN;
    ask(&segment, SF_RELOAD, 0);
    struct sf_due due = checkpoint();
    CHECK_EQ(due.action, SF_RAISE_RELOAD);
    CHECK_EQ(due.seq, 1);
    CHECK_EQ(due.entry.kind, SF_RELOAD);
    OPEN(1); /* the new code does not run yet */
    CHECK_EQ(slot_of(path).state, SF_STATE_RELOADING);
    CHECK_EQ(checkpoint().action, SF_GO);
    APPLIED_AT(1, 4);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    uint64_t step;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 0);
    END;
}

TEST(two_reloads_are_raised_one_after_the_other)
{
    BEGIN;
    ask(&segment, SF_RELOAD, 0);
    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(checkpoint().seq, 1);
    OPEN(2);
    CHECK_EQ(checkpoint().seq, 2);
    APPLIED_AT(1, 4);
    OPEN(2);
    CHECK_EQ(checkpoint().action, SF_GO);
    APPLIED_AT(2, 5); /* when the new code passes its first checkpoint */
    END;
}

TEST(a_reload_that_is_taken_back_has_failed)
{
    BEGIN;
    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    sf_worker_publish_outcome(WORKER, 1, 4, 1);
    CHECK_EQ(outcome_of(path, 1), SF_OUTCOME_FAILED);
    CHECK_EQ(checkpoint().action, SF_GO); /* the old code says nothing more of it */
    CHECK_EQ(outcome_of(path, 1), SF_OUTCOME_FAILED);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    END;
}

TEST(a_reload_can_be_left_for_another_thread_with_all_that_follows_it)
{
    BEGIN;
    struct sf_due due;
    uint64_t step;
    ask(&segment, SF_RELOAD, 0);
    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED | SF_DUE_NO_RELOAD, &due), 0);
    CHECK_EQ(due.action, SF_GO);
    CHECK_EQ(slot_of(path).applied, 0);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1); /* it stands in the word until it is taken */
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_RAISE_RELOAD);
    HOLDS(2);
    END;
}

TEST(a_watched_step_takes_the_slow_path_whatever_the_log_says)
{
    BEGIN;
    uint64_t step;
    sf_worker_watch(WORKER, 6);
    run_to(5);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1);
    CHECK_EQ(step, 6);
    struct sf_due due;
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_GO);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1); /* and each one after it */
    sf_worker_watch(WORKER, SF_NEVER);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 0);
    END;
}

TEST(a_request_with_a_given_target_is_applied_where_the_rank_stands)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 6);
    run_to(5);
    uint64_t step;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1);
    struct sf_request request = request_of(SF_RESUME, 0);
    request.target = step;
    CHECK_EQ(ask_for(&segment, &request).target, 6);
    struct sf_due due;
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_GO); /* never parked */
    SUPERSEDED_BY(1, 2);
    APPLIED_AT(2, 6);
    request.target = 1; /* never before the entries that stand there */
    request.kind = SF_PAUSE;
    CHECK_EQ(ask_for(&segment, &request).target, 6);
    END;
}

TEST(a_reload_while_parked_parks_the_new_code)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(look_again().action, SF_RAISE_RELOAD);
    HOLDS(1);
    CHECK_EQ(steps_passed(), 5);
    CHECK_EQ(slot_of(path).state, SF_STATE_PARKED);
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(look_again().action, SF_GO);
    run_to(9);
    END;
}

TEST(what_follows_a_reload_is_for_the_code_that_comes_next)
{
    BEGIN;
    ask(&segment, SF_RELOAD, 0);
    ask(&segment, SF_PAUSE, 0);
    ask(&segment, SF_RESUME, 0);
    ask(&segment, SF_STOP, 0);
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    CHECK_EQ(slot_of(path).applied, 1);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    CHECK_EQ(slot_of(path).applied, 4);
    END;
}

TEST(every_pair_of_requests_ends_with_a_fate_for_both)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);

    for (int kinds = 0; kinds < 4 * 4 * 4 * 2; kinds++) {
        static const uint32_t kind[] = {SF_PAUSE, SF_RESUME, SF_RELOAD, SF_ADVANCE};
        uint32_t trio[] = {kind[kinds % 4], kind[kinds / 4 % 4], kind[kinds / 16 % 4]};
        int look_between = kinds / 64;
        uint64_t first = view_of(path).tail + 1;

        for (int i = 0; i < 3; i++) {
            struct sf_request request = request_of(trio[i], trio[i] == SF_ADVANCE ? 2 : 0);
            ask_for(&segment, &request);
            if (look_between)
                slot_of(path).state == SF_STATE_PARKED ? look_again() : checkpoint();
        }
        for (int i = 0; i < 6; i++) {
            if (slot_of(path).state != SF_STATE_PARKED)
                checkpoint();
        }
        struct sf_request resume = request_of(SF_RESUME, 0);
        ask_for(&segment, &resume);
        look_again();
        uint64_t tail = view_of(path).tail;
        CHECK_EQ(slot_of(path).applied, tail);
        for (uint64_t seq = first; seq <= tail; seq++) {
            if (outcome_of(path, seq) == SF_OUTCOME_OPEN)
                FAIL("kinds %d: entry %" PRIu64 " of %" PRIu64 " is open", kinds, seq, tail);
        }
        CHECK_EQ(slot_of(path).state == SF_STATE_PARKED, 0);
    }
    sf_segment_close(&segment);
}
