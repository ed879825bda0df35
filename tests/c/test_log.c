/* One rank: what each request does, alone and together with others. The worker and the sender are one thread. */
#include <pthread.h>
#include <sched.h>

#include "core.h"

/* Passes checkpoints that nothing is asked at, up to and with number `step`. */
static void
run_to(uint64_t step)
{
    uint64_t now = sf_step(sf_process_counter);
    while (now < step) {
        CHECK_EQ(checkpoint().action, SF_GO);
        now = sf_step(sf_process_counter);
    }
    CHECK_EQ(now, step);
}

#define APPLIED_AT(seq, step) check_fate(path, seq, SF_OUTCOME_APPLIED, step)
#define SUPERSEDED_BY(seq, other) check_fate(path, seq, SF_OUTCOME_SUPERSEDED, other)
#define OPEN(seq) check_fate(path, seq, SF_OUTCOME_OPEN, seq)
#define HOLDS(seq_of)                                                                                                  \
    do {                                                                                                               \
        struct sf_due holding = checkpoint();                                                                          \
        CHECK_EQ(holding.action, SF_HOLD);                                                                             \
        CHECK_EQ(holding.seq, seq_of);                                                                                 \
    } while (0)

#define BEGIN                                                                                                          \
    const char *path = attach();                                                                                       \
    struct sf_segment segment = open_segment(path);                                                                    \
    run_to(3)
#define END sf_segment_close(&segment)

TEST(idle_takes_the_slow_path_once_to_say_that_it_runs)
{
    const char *path = attach();
    uint64_t step;

    CHECK_EQ(slot_of(path).state, SF_STATE_IDLE);
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(sf_pass(sf_process_counter, &step), 0);
        CHECK_EQ(sf_pending(sf_process_counter), 0);
    }
    CHECK_EQ(step, 1001);
    CHECK_EQ(slot_of(path).step, 1001);
    CHECK(slot_of(path).alarm == SF_NEVER);
}

TEST(checkpoints_passed_before_the_run_was_made_count)
{
    uint64_t step;
    for (int i = 0; i < 4; i++) {
        CHECK_EQ(sf_pass(sf_process_counter, &step), 1); /* not attached: each asks for the slow path */
        CHECK_EQ(sf_pending(sf_process_counter), 0);
    }
    const char *path = attach();
    CHECK_EQ(slot_of(path).step, 4);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 0);
    CHECK_EQ(step, 5);
    CHECK_EQ(sf_worker_attach(WORKER, path, 1, 0, 1), -EALREADY);
}

static struct {
    struct sf_slot *slot;
    _Atomic int arrived, over;
    _Atomic uint64_t counted;
    uint64_t read;
} race;

/* Threads that call this go on together, as well as can be: number `of` is the last to come. */
static void
meet(int of)
{
    atomic_fetch_add(&race.arrived, 1);
    for (int i = 0; atomic_load(&race.arrived) < of; i++) {
        if (i > 1000)
            sched_yield();
    }
}

static void *
count_many(void *nothing)
{
    meet(4);
    for (int i = 0; i < 200000; i++)
        atomic_fetch_add(&race.counted, sf_count(sf_process_counter) > 0);
    return nothing;
}

TEST(threads_that_take_no_turns_lose_no_count)
{
    const char *path = attach();
    pthread_t threads[4];

    for (int i = 0; i < 4; i++)
        CHECK_EQ(pthread_create(&threads[i], NULL, count_many, NULL), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_EQ(race.counted, 800000);
    CHECK_EQ(slot_of(path).step, 800000);
}

#define RACES 200000
/* Seconds after which no further race begins: on a busy machine one takes some milliseconds. */
#define RACES_FOR 15

static void *
race_helper(void *nothing)
{
    for (int i = 1; i <= RACES; i++) {
        meet(4 * i - 2);
        if (atomic_load(&race.over))
            break;
        atomic_fetch_or(&race.slot->word, SF_WORD_PENDING);
        race.read = atomic_load(&race.slot->step);
        meet(4 * i);
    }
    return nothing;
}

/* The one order that the agreement of several ranks rests on. */
TEST(of_several_ranks_a_helper_reads_the_step_or_the_rank_sees_the_word)
{
    const char *path = path_in("control");
    pthread_t helper;
    uint64_t step;

    CHECK_EQ(sf_worker_setup(), 0);
    CHECK_EQ(sf_worker_attach(WORKER, path, 2, 0, 1), 0);
    race.slot = &sf_worker_segment(WORKER)->slots[0];
    atomic_store(&race.slot->alarm, SF_NEVER);
    CHECK_EQ(pthread_create(&helper, NULL, race_helper, NULL), 0);
    int64_t end = sf_monotonic_ns() + RACES_FOR * SF_SECOND;
    for (int i = 1; i <= RACES; i++) {
        atomic_store(&race.over, sf_monotonic_ns() > end);
        meet(4 * i - 2);
        if (atomic_load(&race.over))
            break;
        int asked = sf_pass(sf_process_counter, &step);
        meet(4 * i);
        if (!asked && race.read < step)
            FAIL("step %" PRIu64 ": the helper read %" PRIu64 ", and the word was clear", step, race.read);
        atomic_store(&race.slot->word, 0);
    }
    pthread_join(helper, NULL);
}

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

TEST(who_is_woken_applies_a_resume_at_once_and_leaves_all_else_to_a_turn)
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

TEST(a_resume_with_a_pause_behind_it_is_left_to_a_turn)
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

    ask(&segment, SF_PAUSE, 0); /* somebody else wants it to stay */
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

TEST(values_and_calls_leave_room_for_a_stop)
{
    BEGIN;
    struct sf_request request = request_of(SF_SET, 0);
    struct sf_receipt receipt;

    for (unsigned i = 0; i < SF_LOG_CAPACITY - SF_LOG_SPARE; i++)
        ask(&segment, i % 2 ? SF_SET : SF_CALL, 0);
    CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
    request = request_of(SF_CALL, 0);
    CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
    ask(&segment, SF_STOP, 0);
    END;
}

TEST(a_full_log_names_the_rank_and_empties_again)
{
    BEGIN;
    struct sf_request request = request_of(SF_PAUSE, 1000);
    struct sf_receipt receipt;

    for (int i = 0; i < (int)SF_LOG_CAPACITY; i++)
        ask(&segment, SF_PAUSE, 1000);
    for (int i = 0; i < 3; i++) {
        receipt.stuck_rank = 99;
        CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
        CHECK_EQ(receipt.stuck_rank, 0);
        CHECK_EQ(view_of(path).tail, SF_LOG_CAPACITY);
    }
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK_EQ(slot_of(path).applied, SF_LOG_CAPACITY);
    for (uint64_t seq = 1; seq < SF_LOG_CAPACITY; seq++)
        SUPERSEDED_BY(seq, seq + 1);
    OPEN(SF_LOG_CAPACITY);
    for (int i = 0; i < (int)SF_LOG_CAPACITY; i++)
        ask(&segment, SF_PAUSE, 1000);
    CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
    CHECK_EQ(checkpoint().action, SF_GO);
    OPEN(2 * SF_LOG_CAPACITY);
    END;
}

TEST(a_sender_waits_for_its_turn_and_no_longer_than_it_said)
{
    BEGIN;
    struct sf_request request = request_of(SF_PAUSE, 0);
    struct sf_receipt receipt;
    int fd = open(path, O_RDWR);

    CHECK_EQ(sf_lock_try(fd, LOG_BYTES), 0);
    CHECK_EQ(sf_log_busy(segment.fd), 1);
    CHECK_EQ(sf_append(&segment, &request, 20 * 1000000, &receipt), -SF_EBUSY);
    close(fd);
    CHECK_EQ(sf_log_busy(segment.fd), 0);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
    END;
}

TEST(nobody_is_asked_when_no_rank_is_alive)
{
    struct sf_segment made;
    struct sf_request request = request_of(SF_PAUSE, 0);
    CHECK_EQ(sf_segment_create(&made, path_in("control"), 2, 0), 0);
    CHECK_EQ(ask_for(&made, &request).verdict, SF_APPENDED); /* the maker has the lock: it is about to take its slot */
    sf_segment_let_go(&made);
    CHECK_EQ(ask_for(&made, &request).verdict, SF_REFUSED_ENDED); /* no worker has taken a slot */
    atomic_store(&made.slots[1].state, SF_STATE_RUNNING);         /* left behind by a killed one: no lock */
    CHECK_EQ(ask_for(&made, &request).verdict, SF_REFUSED_ENDED);
    sf_segment_close(&made);
}

/* --- entries that nobody has decided --- */

/* As a sender leaves it that died before it had told anybody: published, and no target. */
static uint64_t
orphan(const char *path, uint32_t kind, uint64_t argument)
{
    send_and_die(path, "append:published", kind, argument);
    uint64_t seq = view_of(path).tail;
    CHECK(entry_of(path, seq).target == SF_TARGET_NONE);
    return seq;
}

TEST(a_rank_that_meets_an_undecided_entry_of_a_living_sender_applies_it_where_it_stands)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    int sender = open(path, O_RDWR);
    CHECK_EQ(sf_lock_try(sender, LOG_BYTES), 0); /* a sender holds the log */
    CHECK_EQ(view_of(path).state.park_seq, seq);
    atomic_fetch_or(&segment.slots[0].word, SF_WORD_PENDING);
    HOLDS(seq);
    APPLIED_AT(seq, 4);
    CHECK_EQ(entry_of(path, seq).target, 4);
    close(sender);
    END;
}

TEST(a_rank_that_meets_an_undecided_entry_of_a_dead_sender_makes_it_void)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    CHECK_EQ(view_of(path).state.park_seq, 0); /* who reads knows as much */
    atomic_fetch_or(&segment.slots[0].word, SF_WORD_PENDING);
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK(entry_of(path, seq).target == SF_TARGET_VOID);
    OPEN(seq);
    CHECK_EQ(slot_of(path).applied, seq);
    run_to(9);
    END;
}

TEST(the_next_sender_makes_an_undecided_entry_void)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    CHECK_EQ(ask(&segment, SF_PAUSE, 7).seq, seq + 1);
    CHECK(entry_of(path, seq).target == SF_TARGET_VOID);
    run_to(6);
    HOLDS(seq + 1);
    APPLIED_AT(seq + 1, 7);
    END;
}

TEST(who_waits_for_the_fate_of_an_orphan_makes_it_void)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    int sender = open(path, O_RDWR);
    CHECK_EQ(sf_lock_try(sender, LOG_BYTES), 0);
    CHECK_EQ(sf_void_orphan(&segment, seq), 0);
    CHECK(entry_of(path, seq).target == SF_TARGET_NONE); /* somebody holds the log: it may be decided yet */
    close(sender);
    CHECK_EQ(sf_void_orphan(&segment, seq + 1), 0);
    CHECK_EQ(sf_void_orphan(&segment, seq), 0);
    CHECK(entry_of(path, seq).target == SF_TARGET_VOID);
    ask(&segment, SF_PAUSE, 9);
    CHECK_EQ(sf_void_orphan(&segment, seq + 1), 0);
    CHECK_EQ(entry_of(path, seq + 1).target, 4); /* what is decided stays */
    END;
}

TEST(a_parked_rank_applies_an_undecided_resume_where_it_is_parked)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    uint64_t seq = orphan(path, SF_RESUME, 0);
    int sender = open(path, O_RDWR);
    CHECK_EQ(sf_lock_try(sender, LOG_BYTES), 0);
    CHECK_EQ(look_again().action, SF_GO);
    APPLIED_AT(seq, 4);
    close(sender);
    run_to(9);
    END;
}

/* --- checkpoints that do not count --- */

static struct sf_due
look(void)
{
    struct sf_due due = {.action = SF_GO};
    uint64_t step;
    if (sf_look(sf_process_counter, &step)) {
        CHECK_EQ(sf_apply_due(WORKER, step, 0, &due), 0);
        if (due.action == SF_HOLD)
            sf_worker_parked(WORKER, due.seq, step, 0);
    }
    return due;
}

TEST(a_checkpoint_that_does_not_count_holds_and_applies_nothing)
{
    BEGIN;
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(sf_step(sf_process_counter), 3);
    ask(&segment, SF_PAUSE, 0);
    struct sf_due due = look();
    CHECK_EQ(due.action, SF_HOLD);
    CHECK_EQ(due.seq, 1);
    CHECK_EQ(slot_of(path).applied, 0);
    CHECK_EQ(slot_of(path).state, SF_STATE_PARKED);
    CHECK_EQ(slot_of(path).step, 3);
    CHECK_EQ(sf_worker_wait(WORKER, 1000),
             -ETIMEDOUT); /* it does wait, though the log holds more than it has applied */
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(sf_worker_wait(WORKER, SF_SECOND), 0);
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    CHECK_EQ(slot_of(path).applied, 0);
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK_EQ(slot_of(path).applied, 2);
    uint64_t step;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 0);
    END;
}

TEST(a_checkpoint_that_does_not_count_never_stops_or_reloads)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(look().action, SF_HOLD);
    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(look().action, SF_GO); /* lets the loop come to the checkpoint that can */
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    HOLDS(1);
    CHECK_EQ(look().action, SF_HOLD); /* parked already, seen by another thread */
    ask(&segment, SF_STOP, 0);
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(look_again().action, SF_RAISE_STOP);
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    END;
}

/* --- several ranks in one file, of which this process is one --- */

TEST(a_request_to_several_ranks_is_aimed_ahead_of_the_furthest_living_one)
{
    struct sf_segment segment;
    const char *path = path_in("control");
    CHECK_EQ(sf_worker_setup(), 0);
    CHECK_EQ(sf_worker_attach(WORKER, path, 4, 1, 12345), 0);
    segment = open_segment(path);
    struct sf_slot *slots = segment.slots;
    int other = open(path, O_RDWR), another = open(path, O_RDWR);

    run_to(3);
    atomic_store(&slots[0].step, 70); /* has no worker */
    atomic_store(&slots[2].step, 50);
    atomic_store(&slots[2].state, SF_STATE_RUNNING);
    CHECK_EQ(sf_lock_try(other, SLOT_BYTES(2)), 0);
    atomic_store(&slots[3].step, 90);
    atomic_store(&slots[3].state, SF_STATE_RUNNING); /* dead: its lock is free */
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 51);
    CHECK_EQ(atomic_load(&slots[2].word), SF_WORD_PENDING);
    CHECK_EQ(atomic_load(&slots[0].word), 0);

    /* A pause decides where everybody stands; what comes next is applied there. */
    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 51);
    run_to(50);
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    HOLDS(1);

    /* The rank that has applied the least is the one to be named. */
    struct sf_request request = request_of(SF_PAUSE, 0);
    struct sf_receipt receipt;
    int rc;
    do {
        rc = sf_append(&segment, &request, 0, &receipt);
        if (slot_of(path).state == SF_STATE_PARKED)
            look_again();
    } while (rc == 0);
    CHECK_EQ(rc, -SF_EFULL);
    CHECK_EQ(receipt.stuck_rank, 2);
    atomic_store(&slots[3].step, 10);
    CHECK_EQ(sf_lock_try(another, SLOT_BYTES(3)), 0);
    close(other); /* rank 2 dies, rank 3 is born: still stuck, at rank 3 */
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -SF_EFULL);
    CHECK_EQ(receipt.stuck_rank, 3);
    close(another); /* nobody but rank 1, which has applied all that it was asked */
    CHECK_EQ(look_again().action, SF_HOLD);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
    sf_segment_close(&segment);
}

/* --- what stands beside the log --- */

TEST(progress_levels_are_taken_and_given_back)
{
    int outer = enter_level(100); /* before there is a run */
    sf_level_done(outer, 5);
    const char *path = attach();
    CHECK_EQ(outer, 0);
    CHECK_EQ(slot_of(path).level[0].total, 100);
    CHECK_EQ(slot_of(path).level[0].done, 5);
    CHECK(slot_of(path).level[0].began_ns > 0);
    for (int i = 1; i < SF_LEVELS; i++)
        CHECK_EQ(enter_level(7), i);
    CHECK_EQ(enter_level(7), -1);
    sf_level_done(-1, 3);
    sf_level_leave(-1);
    sf_level_leave(2);
    CHECK_EQ(slot_of(path).level[2].began_ns, 0);
    CHECK_EQ(enter_level(0), 2);
    sf_level_leave(outer);
    CHECK_EQ(slot_of(path).level[0].began_ns, 0);
    struct sf_since since = {.began_ns = 77, .parked_ns = 5}; /* of a loop that goes on after a reload */
    CHECK_EQ(sf_level_enter(9, &since), 0);
    CHECK_EQ(slot_of(path).level[0].began_ns, 77);
    CHECK_EQ(slot_of(path).level[0].parked_ns, 5);
}

TEST(the_yield_comes_about_as_often_as_it_was_set)
{
    struct sf_yield yield;

    sf_yield_set(&yield, 0);
    for (int i = 0; i < 1000; i++)
        CHECK_EQ(sf_yield_due(&yield), 1);
    sf_yield_set(&yield, INT64_MAX);
    for (int i = 0; i < 1000000; i++)
        CHECK_EQ(sf_yield_due(&yield), 0);

    for (int64_t call = 20; call <= 10 * 1000 * 1000; call *= 10) { /* what one step takes, in ns of a clock of ours */
        const int64_t interval = 1000 * 1000;
        int64_t now = sf_monotonic_ns(), last = now, longest = 0;
        int yields = 0;
        sf_yield_set(&yield, interval);
        atomic_store(&yield.looked_ns, now);
        atomic_store(&yield.yielded_ns, now);
        for (int i = 0; i < 200000; i++) {
            int due;
            now += call;
            int64_t left = atomic_load(&yield.left) - 1;
            atomic_store(&yield.left, left);
            due = left > 0 ? 0 : sf_yield_look(&yield, now);
            if (due) {
                CHECK(now - last >= interval);
                longest = now - last > longest ? now - last : longest;
                last = now;
                yields++;
            }
        }
        int64_t most = call * 1024 > interval / 2 ? interval / 2 : call * 1024;
        if (yields == 0 && call * 200000 > 2 * interval)
            FAIL("no yield in %" PRId64 " ns", call * 200000);
        if (longest > interval + most + call)
            FAIL("steps of %" PRId64 " ns: a yield only after %" PRId64, call, longest);
    }
}
