/* A test is a function that runs in a process of its own, with an empty folder and a deadline. It fails by ending in
 * any other way than by returning: a failed check, a signal, a sanitizer's report, the deadline. */
#ifndef HARNESS_H
#define HARNESS_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sf_clock.h"

#if defined(__SANITIZE_THREAD__)
#define VARIANT "tsan"
#elif defined(__SANITIZE_ADDRESS__)
#define VARIANT "asan"
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define VARIANT "tsan"
#elif __has_feature(address_sanitizer)
#define VARIANT "asan"
#endif
#endif
#ifndef VARIANT
#define VARIANT "plain"
#endif

void register_test(const char *file, const char *name, void (*body)(void));

#define TEST(name)                                                                                                     \
    static void name(void);                                                                                            \
    __attribute__((constructor)) static void register_##name(void)                                                     \
    {                                                                                                                  \
        register_test(__FILE__, #name, name);                                                                          \
    }                                                                                                                  \
    static void name(void)

_Noreturn void fail_at(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

#define FAIL(...) fail_at(__FILE__, __LINE__, __VA_ARGS__)
#define CHECK(condition) ((condition) ? (void)0 : FAIL("%s", #condition))
#define CHECK_EQ(left, right)                                                                                          \
    do {                                                                                                               \
        long long left_value = (long long)(left), right_value = (long long)(right);                                    \
        if (left_value != right_value)                                                                                 \
            FAIL("%s is %lld, not %lld (%s)", #left, left_value, right_value, #right);                                 \
    } while (0)

/* The folder of the test that runs, and a path in it (one of a few buffers that take turns). */
extern char test_folder[64];
const char *path_in(const char *name);

/* Random numbers that a seed brings back. SF_TEST_SEED sets the seed; a failure prints it. */
extern uint64_t test_seed;
uint64_t random_next(uint64_t *state);

/* Starts a child that ends with its parent, runs `body` and exits with what it returns. */
pid_t spawn(int (*body)(void *), void *argument);
/* Waits for a child: its wait status. Fails if the child lives longer than `seconds`. */
int reap(pid_t child, double seconds);
void kill_child(pid_t child);

/* Fails unless the condition comes true. For what another process or thread does; looks every 100 us. */
#define WITHIN(seconds, condition)                                                                                     \
    do {                                                                                                               \
        int64_t within_end = sf_monotonic_ns() + (int64_t)((seconds) * 1e9);                                           \
        while (!(condition)) {                                                                                         \
            if (sf_monotonic_ns() > within_end)                                                                        \
                FAIL("not within %g s: %s", (double)(seconds), #condition);                                            \
            usleep(100);                                                                                               \
        }                                                                                                              \
    } while (0)

/* Memory that forked children share. */
void *share(size_t size);

void poke(const char *path, uint64_t offset, const void *bytes, size_t length);

#endif
