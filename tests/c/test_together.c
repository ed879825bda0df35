/* Several ranks: which rank has done what, requests for one rank, ranks that count in strides, checkpoints that do not
 * count.
 */
#include "core.h"

#define FAILED_AT(seq, step) check_fate(path, seq, SF_OUTCOME_FAILED, step)
#define BEGIN                                                                                                          \
    const char *path = path_in("control");                                                                             \
    struct rank *ranks[3];                                                                                             \
    begin(ranks, 1);                                                                                                   \
    struct sf_segment segment = open_segment(path)
#define END sf_segment_close(&segment)
#define RUN_TO(step)                                                                                                   \
    for (int rank_to_run = 0; rank_to_run < 3; rank_to_run++)                                                          \
    rank_run_to(ranks[rank_to_run], step)

static void
begin(struct rank **ranks, uint64_t stride)
{
    for (uint64_t r = 0; r < 3; r++) {
        ranks[r] = rank_begin();
        DOES(ranks[r], do_stride, stride, 0);
        DOES(ranks[r], r == 0 ? do_attach : do_join, r == 0 ? 3 : r, 0);
    }
    for (int r = 0; r < 3; r++)
        rank_run_to(ranks[r], 3 * stride);
}

static struct sf_receipt
ask_rank(struct sf_segment *segment, uint32_t kind, uint32_t rank)
{
    struct sf_request request = request_of(kind, 0);
    request.ranks = rank + 1;
    return ask_for(segment, &request);
}

static void
park(struct rank *rank, uint64_t seq)
{
    PASSES(rank, SF_HOLD);
    CHECK_EQ(rank->due.seq, seq);
    DOES(rank, do_park, seq, 0);
}

/* --- which rank has done what --- */

/* Between the last word of the last rank and what comes of it for all. */
TEST(the_outcome_of_an_advance_or_a_pause_is_where_the_ranks_parked_whichever_process_sets_it)
{
    for (uint64_t stride = 1; stride <= 10; stride += 9) {
        const char *path = path_in("control");
        struct rank *ranks[3];
        begin(ranks, stride);
        struct sf_segment segment = open_segment(path);
        CHECK_EQ(ask(&segment, SF_ADVANCE, 2 * stride).target, 4 * stride);
        for (int r = 0; r < 3; r++) {
            rank_run_to(ranks[r], 5 * stride);
            PASSES(ranks[r], SF_HOLD);
            if (r == 2)
                rank_arm(ranks[r], "done:told", SIGKILL);
            DOES(ranks[r], do_park, 1, r == 2 ? RANK_DIED : 0);
        }
        OPEN(1);
        CHECK_EQ(sf_conclude(&segment, 1), 1);
        APPLIED_AT(1, 6 * stride);

        CHECK_EQ(ask(&segment, SF_PAUSE, 7 * stride + 3).target, 6 * stride);
        for (int r = 0; r < 2; r++) {
            DOES(ranks[r], do_again, 0, SF_GO);
            rank_run_to(ranks[r], stride == 1 ? 9 : 70);
            PASSES(ranks[r], SF_HOLD);
            if (r == 1)
                rank_arm(ranks[r], "done:told", SIGKILL);
            DOES(ranks[r], do_park, 2, r == 1 ? RANK_DIED : 0);
        }
        OPEN(2);
        CHECK_EQ(sf_conclude(&segment, 2), 1);
        APPLIED_AT(2, stride == 1 ? 10 : 80);
        rank_kill(ranks[0]);
        END;
        unlink(path);
    }
}

TEST(a_request_is_over_when_the_last_rank_is_done_with_it)
{
    BEGIN;
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 4);
    park(ranks[2], 1);
    park(ranks[0], 1);
    OPEN(1);
    PASSES(ranks[1], SF_HOLD);
    OPEN(1); /* applied is not parked */
    DOES(ranks[1], do_park, 1, 0);
    APPLIED_AT(1, 4);

    CHECK_EQ(ask(&segment, SF_RESUME, 0).target, 4);
    for (int r = 0; r < 3; r++) {
        OPEN(2);
        DOES(ranks[r], do_again, 0, SF_GO);
    }
    APPLIED_AT(2, 4);

    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 5);
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_RAISE_RELOAD);
    for (int r = 2; r >= 0; r--) {
        OPEN(3);
        DOES(ranks[r], do_tell, 3, 0);
    }
    APPLIED_AT(3, 5);

    CHECK_EQ(ask(&segment, SF_CALL, 0).target, 6);
    for (int r = 0; r < 3; r++) {
        PASSES(ranks[r], SF_DELIVER);
        OPEN(4);
        DOES(ranks[r], do_tell, 4, 0);
    }
    APPLIED_AT(4, 6);
    RUN_TO(9);
    ask(&segment, SF_STOP, 0);
    for (int r = 0; r < 3; r++) {
        OPEN(5);
        PASSES(ranks[r], SF_RAISE_STOP);
    }
    APPLIED_AT(5, 10);
    END;
}

TEST(an_entry_that_one_rank_fails_at_has_failed_whichever_rank_is_last)
{
    BEGIN;
    for (uint64_t failing = 0; failing < 3; failing++) {
        uint64_t seq = ask(&segment, SF_CALL, 0).seq;
        for (uint64_t r = 0; r < 3; r++) {
            PASSES(ranks[r], SF_DELIVER);
            DOES(ranks[r], r == failing ? do_tell_failed : do_tell, seq, 0);
        }
        FAILED_AT(seq, 4 + failing);
    }
    uint64_t seq = ask(&segment, SF_CALL, 0).seq; /* and what comes next knows nothing of it */
    for (uint64_t r = 0; r < 3; r++) {
        PASSES(ranks[r], SF_DELIVER);
        DOES(ranks[r], do_tell, seq, 0);
    }
    APPLIED_AT(seq, 7);
    END;
}

TEST(no_outcome_waits_for_a_rank_that_died_or_ended_before_it_was_done)
{
    BEGIN;
    uint64_t seq = ask(&segment, SF_CALL, 0).seq;
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_DELIVER);
    rank_kill(ranks[1]);
    DOES(ranks[0], do_tell, seq, 0);
    OPEN(seq);
    DOES(ranks[2], do_tell, seq, 0);
    APPLIED_AT(seq, 4);

    seq = ask(&segment, SF_CALL, 0).seq;
    PASSES(ranks[0], SF_DELIVER);
    DOES(ranks[2], do_end, SF_STATE_FINISHED, 0);
    DOES(ranks[0], do_tell, seq, 0);
    APPLIED_AT(seq, 5);
    END;
}

TEST(a_process_that_waits_finds_out_that_the_ranks_that_were_not_done_have_died)
{
    BEGIN;
    uint64_t seq = ask(&segment, SF_CALL, 0).seq;
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_DELIVER);
    DOES(ranks[0], do_tell_failed, seq, 0);
    CHECK_EQ(sf_conclude(&segment, seq), 0);
    OPEN(seq);
    rank_kill(ranks[2]);
    CHECK_EQ(sf_conclude(&segment, seq), 0);
    OPEN(seq);
    rank_kill(ranks[1]);
    OPEN(seq);
    CHECK_EQ(sf_conclude(&segment, seq), 1);
    FAILED_AT(seq, 4);
    CHECK_EQ(sf_conclude(&segment, seq), 1);

    seq = ask(&segment, SF_CALL, 0).seq;
    PASSES(ranks[0], SF_DELIVER);
    rank_kill(ranks[0]);
    CHECK_EQ(sf_conclude(&segment, seq), -ESRCH); /* no rank has done it, and none ever will */
    struct rank *late = rank_begin();
    DOES(late, do_join, 0, 0);
    CHECK_EQ(slot_of(path).applied, seq);
    CHECK_EQ(sf_conclude(&segment, seq), -ESRCH); /* one that never heard of it is no witness */
    OPEN(seq);
    CHECK_EQ(sf_conclude(&segment, seq + 1), 0);
    CHECK_EQ(sf_conclude(&segment, 0), 0);
    END;
}

TEST(what_an_older_request_left_in_its_place_is_not_taken_for_done)
{
    BEGIN;
    ask(&segment, SF_CALL, 0);
    for (int r = 0; r < 3; r++) {
        PASSES(ranks[r], SF_DELIVER);
        DOES(ranks[r], do_tell_failed, 1, 0);
    }
    for (uint32_t i = 1; i < SF_LOG_CAPACITY; i++) { /* once round the ring, by ranks that are done with all */
        ask(&segment, i % 2 ? SF_PAUSE : SF_RESUME, i % 2 ? 4000 : 0);
        for (int r = 0; r < 3; r++)
            PASSES(ranks[r], SF_GO);
    }
    uint64_t seq = ask(&segment, SF_PAUSE, 0).seq;
    CHECK_EQ(seq, 1 + SF_LOG_CAPACITY);
    park(ranks[0], seq);
    OPEN(seq);
    PASSES(ranks[1], SF_HOLD);
    park(ranks[2], seq);
    OPEN(seq);
    DOES(ranks[1], do_park, seq, 0);
    CHECK_EQ(outcome_of(path, seq), SF_OUTCOME_APPLIED);
    END;
}

/* Round the ring once more while one rank still has to say what became of it. */
TEST(what_is_told_late_says_nothing_of_the_request_that_took_its_place)
{
    BEGIN;
    uint64_t seq = ask(&segment, SF_RELOAD, 0).seq;
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_RAISE_RELOAD);
    for (uint32_t i = 0; i < SF_LOG_CAPACITY / 2 - 1; i++) {
        ask(&segment, SF_PAUSE, 4000);
        ask(&segment, SF_RESUME, 0);
        for (int r = 0; r < 3; r++)
            PASSES(ranks[r], SF_GO);
    }
    ask(&segment, SF_PAUSE, 4000);
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_GO);
    CHECK_EQ(ask(&segment, SF_RESUME, 0).seq, seq + SF_LOG_CAPACITY);
    DOES(ranks[1], do_tell_failed, seq, 0);
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_GO);
    CHECK_EQ(outcome_of(path, seq + SF_LOG_CAPACITY), SF_OUTCOME_APPLIED);
    END;
}

TEST(a_pause_that_its_resume_overtakes_is_superseded_for_all)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    park(ranks[0], 1);
    ask(&segment, SF_RESUME, 0);
    PASSES(ranks[1], SF_GO);
    SUPERSEDED_BY(1, 2);
    DOES(ranks[0], do_again, 0, SF_GO);
    PASSES(ranks[2], SF_GO);
    SUPERSEDED_BY(1, 2);
    APPLIED_AT(2, 4);
    END;
}

/* --- for one rank --- */

TEST(mail_for_one_rank_passes_by_on_the_others)
{
    static const uint32_t kinds[] = {SF_SET, SF_CALL};

    BEGIN;
    for (uint32_t k = 0; k < 2; k++) {
        uint64_t seq = ask_rank(&segment, kinds[k], 1).seq;
        PASSES(ranks[0], SF_GO);
        PASSES(ranks[2], SF_GO);
        CHECK_EQ(slot_at(path, 0).applied, seq);
        OPEN(seq);
        PASSES(ranks[1], SF_DELIVER);
        CHECK_EQ(ranks[1]->due.entry.ranks, 2);
        OPEN(seq);
        DOES(ranks[1], do_tell, seq, 0);
        APPLIED_AT(seq, 4 + k);
    }
    uint64_t seq = ask_rank(&segment, SF_SET, 2).seq;
    PASSES(ranks[2], SF_DELIVER);
    DOES(ranks[2], do_tell_failed, seq, 0);
    PASSES(ranks[0], SF_GO);
    PASSES(ranks[1], SF_GO);
    FAILED_AT(seq, 6);
    END;
}

TEST(mail_for_a_rank_is_for_its_number_in_the_job_and_not_in_the_file)
{
    const char *path = path_in("control");
    CHECK_EQ(sf_worker_setup(), 0);
    sf_worker_place(WORKER, 5, 8, 1);
    CHECK_EQ(sf_worker_attach(WORKER, path, 2, 1, 12345), 0);
    struct sf_segment segment = open_segment(path);
    CHECK_EQ(slot_at(path, 1).rank, 5);
    CHECK_EQ(view_of(path).world_size, 8);
    CHECK_EQ(view_of(path).slot_count, 2);
    ask_rank(&segment, SF_SET, 1);
    CHECK_EQ(checkpoint().action, SF_GO);
    ask_rank(&segment, SF_SET, 5);
    uint64_t step;
    struct sf_due due;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1);
    CHECK_EQ(sf_apply_due(WORKER, step, SF_DUE_COUNTED, &due), 0);
    CHECK_EQ(due.action, SF_DELIVER);
    END;
}

/* --- strides --- */

TEST(ranks_that_count_in_tens_act_at_the_same_ten)
{
    const char *path = path_in("control");
    struct rank *ranks[3];
    begin(ranks, 10);
    struct sf_segment segment = open_segment(path);

    CHECK_EQ(slot_at(path, 2).stride, 10);
    rank_run_to(ranks[1], 50);
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 60); /* one reads 50: it may have passed 51 when it sees the word */
    for (int r = 0; r < 3; r++) {
        if (r != 1)
            rank_run_to(ranks[r], 50);
        park(ranks[r], 1);
        CHECK_EQ(ranks[r]->step, 60);
    }
    APPLIED_AT(1, 60);

    /* Fewer steps than a stride are one stride; a step between two is the later. */
    CHECK_EQ(ask(&segment, SF_ADVANCE, 3).target, 60);
    for (int r = 0; r < 3; r++) {
        DOES(ranks[r], do_again, 0, SF_GO);
        park(ranks[r], 2);
        CHECK_EQ(ranks[r]->step, 70);
    }
    APPLIED_AT(2, 70);
    /* The pause was for step 63, so what is asked now is due from there: where they all stand. */
    CHECK_EQ(ask(&segment, SF_PAUSE, 85).target, 63);
    for (int r = 2; r >= 0; r--) {
        DOES(ranks[r], do_again, 0, SF_GO);
        rank_run_to(ranks[r], 80);
        park(ranks[r], 3);
        CHECK_EQ(ranks[r]->step, 90);
    }
    ask(&segment, SF_RESUME, 0);
    for (int r = 0; r < 3; r++)
        DOES(ranks[r], do_again, 0, SF_GO);
    END;
}

TEST(a_rank_that_counts_in_ones_beside_others_that_count_in_tens_passes_no_target)
{
    const char *path = path_in("control");
    struct rank *tens = rank_begin(), *ones = rank_begin();
    DOES(tens, do_stride, 10, 0);
    DOES(tens, do_attach, 2, 0);
    DOES(ones, do_join, 1, 0);
    struct sf_segment segment = open_segment(path);

    rank_run_to(tens, 20);
    rank_run_to(ones, 12);
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 30);
    park(tens, 1);
    rank_run_to(ones, 29);
    park(ones, 1);
    APPLIED_AT(1, 30);
    END;
}

TEST(checkpoints_counted_in_strides_before_a_rank_came_are_carried_over)
{
    const char *path = path_in("control");
    struct rank *first = rank_begin();
    DOES(first, do_stride, 10, 0);
    rank_do(first, do_pass, 0);
    rank_do(first, do_pass, 0);
    DOES(first, do_attach, 1, 0);
    CHECK_EQ(slot_at(path, 0).step, 20);
    struct sf_segment segment = open_segment(path);
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 30);
    park(first, 1);
    APPLIED_AT(1, 30);
    END;
}

/* --- checkpoints that do not count --- */

TEST(a_rank_in_code_of_its_own_holds_where_the_others_park_and_no_step_is_lost)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    DOES(ranks[0], do_look, 0, SF_HOLD);
    CHECK_EQ(ranks[0]->due.seq, 1);
    DOES(ranks[0], do_park, 1, 0);
    CHECK_EQ(slot_at(path, 0).step, 3);
    CHECK_EQ(slot_at(path, 0).applied, 0);
    CHECK_EQ(slot_at(path, 0).state, SF_STATE_PARKED);
    park(ranks[1], 1);
    OPEN(1);
    park(ranks[2], 1);
    APPLIED_AT(1, 4); /* all of them stand still */

    ask(&segment, SF_RESUME, 0);
    DOES(ranks[0], do_look_again, 0, SF_GO);
    OPEN(2);
    DOES(ranks[1], do_again, 0, SF_GO);
    DOES(ranks[2], do_again, 0, SF_GO);
    PASSES(ranks[0], SF_GO);
    CHECK_EQ(ranks[0]->step, 4);
    APPLIED_AT(2, 4);
    RUN_TO(9);
    END;
}

TEST(a_rank_that_a_signal_woke_in_code_of_its_own_is_not_parked)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    DOES(ranks[0], do_look, 0, SF_HOLD);
    DOES(ranks[0], do_park, 1, 0);
    DOES(ranks[0], do_unpark, 0, 0);
    park(ranks[1], 1);
    park(ranks[2], 1);
    OPEN(1);
    park(ranks[0], 1);
    APPLIED_AT(1, 4);
    END;
}

TEST(a_rank_in_code_of_its_own_that_comes_to_a_park_last_tells_of_it)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    park(ranks[1], 1);
    park(ranks[2], 1);
    OPEN(1);
    DOES(ranks[0], do_look, 0, SF_HOLD);
    DOES(ranks[0], do_park, 1, 0);
    CHECK_EQ(outcome_of(path, 1), SF_OUTCOME_APPLIED);
    ask(&segment, SF_RESUME, 0);
    DOES(ranks[0], do_look_again, 0, SF_GO);
    PASSES(ranks[0], SF_GO);
    CHECK_EQ(slot_at(path, 0).state, SF_STATE_RUNNING);
    CHECK_EQ(slot_at(path, 0).applied, 2);
    END;
}

TEST(a_rank_in_code_of_its_own_goes_on_to_where_the_others_wait_for_it)
{
    static const uint32_t kinds[] = {SF_SET, SF_CALL, SF_RELOAD, SF_STOP};
    static const enum sf_action actions[] = {SF_DELIVER, SF_DELIVER, SF_RAISE_RELOAD, SF_RAISE_STOP};

    BEGIN;
    for (int k = 0; k < 4; k++) {
        uint64_t seq = ask(&segment, kinds[k], 0).seq;
        DOES(ranks[0], do_look, 0, SF_GO);
        OPEN(seq);
        for (int r = 0; r < 3; r++) {
            PASSES(ranks[r], actions[k]);
            if (kinds[k] != SF_STOP)
                DOES(ranks[r], do_tell, seq, 0);
        }
        APPLIED_AT(seq, 4 + (uint64_t)k);
    }
    END;
}

TEST(a_rank_that_counts_in_tens_holds_in_code_of_its_own_at_the_same_ten)
{
    const char *path = path_in("control");
    struct rank *ranks[3];
    begin(ranks, 10);
    struct sf_segment segment = open_segment(path);

    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(entry_of(path, 1).target, 40);
    DOES(ranks[0], do_look, 0, SF_HOLD);
    CHECK_EQ(ranks[0]->step, 30);
    ask(&segment, SF_RESUME, 0);
    DOES(ranks[0], do_look_again, 0, SF_GO);
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_GO);
    ask(&segment, SF_PAUSE, 55); /* at 60 for all of them: 50 is not yet the last before it */
    DOES(ranks[0], do_look, 0, SF_GO);
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_GO);
    DOES(ranks[0], do_look, 0, SF_HOLD);
    END;
}
