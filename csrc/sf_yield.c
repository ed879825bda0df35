#include "sf_yield.h"

#include "sf_clock.h"

#define NEVER_LEFT (INT64_MAX / 2)

void
sf_yield_set(struct sf_yield *yield, int64_t interval_ns)
{
    int64_t now = sf_monotonic_ns();

    atomic_store_explicit(&yield->interval_ns, interval_ns, memory_order_relaxed);
    atomic_store_explicit(&yield->looked_ns, now, memory_order_relaxed);
    atomic_store_explicit(&yield->yielded_ns, now, memory_order_relaxed);
    atomic_store_explicit(&yield->budget, 1, memory_order_relaxed);
    atomic_store_explicit(&yield->left, interval_ns == INT64_MAX ? NEVER_LEFT : 1, memory_order_relaxed);
}

int
sf_yield_look(struct sf_yield *yield, int64_t now)
{
    const int64_t most = 1024;
    int64_t interval = atomic_load_explicit(&yield->interval_ns, memory_order_relaxed);

    if (interval == INT64_MAX) {
        atomic_store_explicit(&yield->left, NEVER_LEFT, memory_order_relaxed);
        return 0;
    }
    if (now == 0)
        now = sf_monotonic_ns();

    int64_t took = now - atomic_load_explicit(&yield->looked_ns, memory_order_relaxed);
    int64_t calls = atomic_load_explicit(&yield->budget, memory_order_relaxed);
    int64_t next = most;
    if (took > 0) {
        double fit = (double)calls * (double)interval / (double)took / 4;
        next = fit >= (double)most ? most : (int64_t)fit;
    }
    if (next > 2 * calls)
        next = 2 * calls;
    if (next < 1)
        next = 1;
    atomic_store_explicit(&yield->looked_ns, now, memory_order_relaxed);
    atomic_store_explicit(&yield->budget, next, memory_order_relaxed);
    atomic_store_explicit(&yield->left, next, memory_order_relaxed);

    if (now - atomic_load_explicit(&yield->yielded_ns, memory_order_relaxed) < interval)
        return 0;
    atomic_store_explicit(&yield->yielded_ns, now, memory_order_relaxed);
    return 1;
}
