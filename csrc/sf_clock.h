#ifndef SF_CLOCK_H
#define SF_CLOCK_H

#include <stdint.h>
#include <time.h>

#define SF_SECOND INT64_C(1000000000)

static inline int64_t
sf_clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * SF_SECOND + now.tv_nsec;
}

#define sf_monotonic_ns() sf_clock_ns(CLOCK_MONOTONIC)
#define sf_realtime_ns() sf_clock_ns(CLOCK_REALTIME)

#endif
