/* What the tests of an only rank share: the worker and the sender are one thread. */
#ifndef ONE_RANK_H
#define ONE_RANK_H

#include "core.h"

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

#endif
