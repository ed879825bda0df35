/* Counting checkpoints, seeing the word, yielding the GIL, and the progress of loops. */
#include <pthread.h>
#include <sched.h>

#include "one_rank.h"

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
