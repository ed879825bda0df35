/* One property, run on both ways of waiting and across threads and processes: no wake is lost. */
#include <pthread.h>

#include "core.h"

#define LONG (20 * SF_SECOND)

struct meeting {
    _Atomic uint32_t word;
    _Atomic uint32_t answer;
    const struct sf_wait_ops *ops;
    uint64_t seed;
    uint32_t rounds;
};

static void
dawdle(uint64_t *random)
{
    uint64_t r = random_next(random);
    if (r % 64 == 0)
        usleep((useconds_t)(r >> 32) % 300);
    else
        for (volatile uint64_t i = (r >> 32) % 400; i > 0; i--)
            ;
}

/* Waits until the word is no longer `seen`. Every wait must end because of a wake or of another value. */
static void
wait_for_change(struct meeting *meeting, _Atomic uint32_t *word, uint32_t seen)
{
    while (atomic_load(word) == seen) {
        int rc = meeting->ops->wait(word, seen, LONG);
        if (rc != 0)
            FAIL("%s: round %u: %d", meeting->ops->name, seen, rc);
    }
}

static void *
answer_each_round(void *argument)
{
    struct meeting *meeting = argument;
    uint64_t random = meeting->seed ^ 1;

    for (uint32_t round = 0; round < meeting->rounds; round++) {
        dawdle(&random);
        wait_for_change(meeting, &meeting->word, round);
        dawdle(&random);
        atomic_store(&meeting->answer, round + 1);
        meeting->ops->wake(&meeting->answer);
    }
    return NULL;
}

static void
ask_each_round(struct meeting *meeting)
{
    uint64_t random = meeting->seed;

    for (uint32_t round = 0; round < meeting->rounds; round++) {
        dawdle(&random);
        atomic_store(&meeting->word, round + 1);
        meeting->ops->wake(&meeting->word);
        dawdle(&random);
        wait_for_change(meeting, &meeting->answer, round);
    }
}

static void
threads_meet(const struct sf_wait_ops *ops, uint32_t rounds)
{
    struct meeting meeting = {.ops = ops, .seed = test_seed, .rounds = rounds};
    pthread_t thread;

    CHECK_EQ(pthread_create(&thread, NULL, answer_each_round, &meeting), 0);
    ask_each_round(&meeting);
    pthread_join(thread, NULL);
}

static int
answering_process(void *argument)
{
    answer_each_round(argument);
    return 0;
}

static void
processes_meet(const struct sf_wait_ops *ops, uint32_t rounds)
{
    struct meeting *meeting = share(sizeof *meeting);

    meeting->ops = ops;
    meeting->seed = test_seed;
    meeting->rounds = rounds;
    pid_t child = spawn(answering_process, meeting);
    ask_each_round(meeting);
    CHECK_EQ(reap(child, 20), 0);
}

TEST(no_wake_is_lost_between_threads_by_futex)
{
    threads_meet(&sf_wait_futex, 4000);
}

TEST(no_wake_is_lost_between_threads_by_polling)
{
    threads_meet(&sf_wait_poll, 300);
}

TEST(no_wake_is_lost_between_processes_by_futex)
{
    processes_meet(&sf_wait_futex, 4000);
}

TEST(no_wake_is_lost_between_processes_by_polling)
{
    processes_meet(&sf_wait_poll, 300);
}

static void *
wait_once(void *argument)
{
    wait_for_change(argument, &((struct meeting *)argument)->word, 0);
    return NULL;
}

TEST(a_wake_wakes_every_waiter)
{
    const struct sf_wait_ops *all[] = {&sf_wait_futex, &sf_wait_poll};
    for (int o = 0; o < 2; o++) {
        struct meeting meeting = {.ops = all[o]};
        pthread_t threads[8];
        for (int i = 0; i < 8; i++)
            CHECK_EQ(pthread_create(&threads[i], NULL, wait_once, &meeting), 0);
        usleep(2000); /* most of them wait by now; the others find the value */
        atomic_store(&meeting.word, 1);
        meeting.ops->wake(&meeting.word);
        for (int i = 0; i < 8; i++)
            pthread_join(threads[i], NULL);
    }
}

static void
do_nothing(int number)
{
    (void)number;
}

TEST(a_wait_ends_by_the_value_the_time_or_a_signal)
{
    const struct sf_wait_ops *all[] = {&sf_wait_futex, &sf_wait_poll};
    struct sigaction action = {.sa_handler = do_nothing};

    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    for (int o = 0; o < 2; o++) {
        _Atomic uint32_t word = 5;
        CHECK_EQ(all[o]->wait(&word, 4, LONG), 0); /* another value: no wait at all */
        for (int i = 0; i < 3; i++) {
            int64_t timeout = (int64_t[]){0, 1000000, 60 * 1000000}[i];
            int64_t began = sf_monotonic_ns();
            CHECK_EQ(all[o]->wait(&word, 5, timeout), -ETIMEDOUT);
            int64_t took = sf_monotonic_ns() - began;
            CHECK(took >= timeout && took < timeout + 60 * SF_SECOND);
        }
        CHECK_EQ(all[o]->wait(&word, 5, -1), -ETIMEDOUT);
        all[o]->wake(&word); /* no process waits */

        pid_t self = getpid();
        pid_t child = fork();
        if (child == 0) {
            for (;;) { /* until it was seen: one signal might come before the wait */
                usleep(5000);
                if (kill(self, SIGUSR1) != 0 || getppid() != self)
                    _exit(0);
            }
        }
        CHECK_EQ(all[o]->wait(&word, 5, LONG), -EINTR);
        kill_child(child);
    }
}

TEST(a_word_whose_page_is_gone_ends_the_wait)
{
    const char *path = attach();
    struct sf_segment other = open_segment(path);

    CHECK_EQ(truncate(path, 0), 0);
    CHECK_EQ(sf_wait_futex.wait(&other.header->changes, 0, LONG), -EFAULT);
    sf_wait_futex.wake(&other.header->changes);
    CHECK_EQ(sf_worker_wait(WORKER, LONG), -EFAULT);
    sf_wait_ops = &sf_wait_poll;
    CHECK_EQ(sf_worker_wait(WORKER, LONG), 0); /* the fault of the load was covered: the word is 0, and not HELD */
    sf_segment_close(&other);
}

/* --- the table of operations, replaced --- */

static int fake_waits, fake_wakes;
static _Atomic uint32_t *last_woken[64];
static void (*meanwhile)(void);

static int
fake_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    (void)timeout_ns;
    fake_waits++;
    if (meanwhile)
        meanwhile();
    return atomic_load(word) == expected ? -ETIMEDOUT : 0;
}

static void
fake_wake(_Atomic uint32_t *word)
{
    last_woken[fake_wakes++ % 64] = word;
}

static const struct sf_wait_ops fake = {.wait = fake_wait, .wake = fake_wake, .name = "fake"};

static int
wakes_of(_Atomic uint32_t *word)
{
    int count = 0;
    for (int i = 0; i < fake_wakes && i < 64; i++)
        count += last_woken[i] == word;
    return count;
}

TEST(only_a_parked_rank_is_woken_and_every_change_is_announced)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    sf_wait_ops = &fake;

    CHECK_EQ(checkpoint().action, SF_GO); /* says that it runs */
    fake_wakes = 0;
    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(wakes_of(&segment.slots[0].word), 0); /* it runs: no process waits on its word */
    CHECK_EQ(wakes_of(&segment.header->changes), 1);
    CHECK_EQ(checkpoint().action, SF_HOLD);
    CHECK_EQ(wakes_of(&sf_worker_segment(WORKER)->header->changes), 2); /* applied, and parked */
    fake_wakes = 0;
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(wakes_of(&segment.slots[0].word), 1);
    CHECK_EQ(look_again().action, SF_GO);
    sf_segment_close(&segment);
}

static const char *control;

static void
resume_meanwhile(void)
{
    struct sf_segment segment = open_segment(control);
    ask(&segment, SF_RESUME, 0);
    sf_segment_close(&segment);
    meanwhile = NULL;
}

TEST(a_resume_between_the_look_and_the_wait_is_not_slept_over)
{
    control = attach();
    struct sf_segment segment = open_segment(control);

    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(checkpoint().action, SF_HOLD);
    sf_wait_ops = &fake;
    CHECK_EQ(sf_worker_wait(WORKER, 0), -ETIMEDOUT); /* nothing came: this would wait */
    meanwhile = resume_meanwhile;
    CHECK_EQ(sf_worker_wait(WORKER, 0), 0); /* it came after the look: does not wait */
    CHECK_EQ(look_again().action, SF_GO);
    CHECK_EQ(fake_waits, 2);
    sf_segment_close(&segment);
}

static void *
change_later(void *argument)
{
    usleep(1000);
    sf_announce(argument);
    return NULL;
}

TEST(a_watcher_waits_for_the_next_change)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    uint32_t seen = sf_segment_changes(&segment);
    pthread_t thread;

    CHECK_EQ(sf_segment_wait(&segment, seen, 1000000), -ETIMEDOUT);
    CHECK_EQ(sf_segment_wait(&segment, seen + 1, LONG), 0);
    CHECK_EQ(pthread_create(&thread, NULL, change_later, &segment), 0);
    while (sf_segment_changes(&segment) == seen)
        CHECK_EQ(sf_segment_wait(&segment, seen, LONG), 0);
    pthread_join(thread, NULL);
    sf_segment_close(&segment);
}
