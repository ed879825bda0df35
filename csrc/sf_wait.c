#include "sf_wait.h"

#include <errno.h>
#include <limits.h>
#include <time.h>

#include "sf_clock.h"

static struct timespec
timespec_of(int64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / SF_SECOND), .tv_nsec = (long)(ns % SF_SECOND)};
}

static int
poll_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    const int64_t longest = 50 * 1000000;
    int64_t end = sf_monotonic_ns() + timeout_ns;
    int64_t nap = 50 * 1000;

    for (;;) {
        if (atomic_load_explicit(word, memory_order_acquire) != expected)
            return 0;
        int64_t left = end - sf_monotonic_ns();
        if (left <= 0)
            return -ETIMEDOUT;
        struct timespec pause = timespec_of(nap < left ? nap : left);
        if (nanosleep(&pause, NULL) != 0 && errno == EINTR)
            return -EINTR;
        nap = nap * 2 < longest ? nap * 2 : longest;
    }
}

static void
poll_wake(_Atomic uint32_t *word)
{
    (void)word; /* the waiting process polls */
}

const struct sf_wait_ops sf_wait_poll = {.wait = poll_wait, .wake = poll_wake, .name = "poll"};

#ifdef __linux__

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Without FUTEX_PRIVATE_FLAG: the other side is another process. */
static int
futex_wait(_Atomic uint32_t *word, uint32_t expected, int64_t timeout_ns)
{
    struct timespec timeout = timespec_of(timeout_ns > 0 ? timeout_ns : 0);

    if (syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0) == 0)
        return 0;
    return errno == EAGAIN ? 0 : -errno;
}

static void
futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

const struct sf_wait_ops sf_wait_futex = {.wait = futex_wait, .wake = futex_wake, .name = "futex"};
const struct sf_wait_ops *sf_wait_ops = &sf_wait_futex;

#else

const struct sf_wait_ops *sf_wait_ops = &sf_wait_poll;

#endif
