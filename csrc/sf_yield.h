/* When a checkpoint yields the GIL.
 *
 * Reading a clock costs more than the whole checkpoint. So calls are counted, and the clock is read after as many of
 * them as are expected to take a quarter of the interval. In free-threaded builds several threads change the fields
 * without a lock: the accesses are relaxed, and a lost count does no harm. */
#ifndef SF_YIELD_H
#define SF_YIELD_H

#include <stdatomic.h>
#include <stdint.h>

struct sf_yield {
    _Atomic int64_t interval_ns; /* 0: every call. INT64_MAX: never. */
    _Atomic int64_t left;        /* calls until the clock is read */
    _Atomic int64_t budget;      /* what `left` was set to */
    _Atomic int64_t looked_ns;
    _Atomic int64_t yielded_ns;
};

void sf_yield_set(struct sf_yield *yield, int64_t interval_ns);

/* Reads the clock, or takes `now` for it if that is not 0, and sets `left` anew. Whether this call yields. */
int sf_yield_look(struct sf_yield *yield, int64_t now);

/* Whether this call yields. */
static inline int
sf_yield_due(struct sf_yield *yield)
{
    int64_t left = atomic_load_explicit(&yield->left, memory_order_relaxed) - 1;

    atomic_store_explicit(&yield->left, left, memory_order_relaxed);
    if (__builtin_expect(left > 0, 1))
        return 0;
    if (atomic_load_explicit(&yield->interval_ns, memory_order_relaxed) == 0)
        return 1; /* `left` stays at or below 0, so that every call comes here */
    return sf_yield_look(yield, 0);
}

#endif
