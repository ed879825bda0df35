#include "sf_signal.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

#include "sf_clock.h"

static _Atomic int64_t ends_from_ns;

/* Calls only what is async-signal-safe: clock_gettime(), sigaction(), raise(). The signal is blocked while its handler
 * runs, in this thread; the default action is taken when it returns. */
static void
on_next(int number)
{
    struct sigaction action;
    int saved = errno;

    if (sf_monotonic_ns() >= atomic_load_explicit(&ends_from_ns, memory_order_acquire)) {
        memset(&action, 0, sizeof action);
        action.sa_handler = SIG_DFL;
        sigaction(number, &action, NULL);
        raise(number);
    }
    errno = saved;
}

int
sf_signal_next_ends(int number, int64_t after_ns)
{
    struct sigaction action;

    atomic_store_explicit(&ends_from_ns, sf_monotonic_ns() + after_ns, memory_order_release);
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_next;
    action.sa_flags = SA_RESTART | SA_ONSTACK;
    return sigaction(number, &action, NULL) == 0 ? 0 : -errno;
}
