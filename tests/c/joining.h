/* What the tests of joining ranks share. */
#ifndef JOINING_H
#define JOINING_H

#include "core.h"

#define BEGIN(slot_count)                                                                                              \
    const char *path = path_in("control");                                                                             \
    struct rank *first = rank_begin();                                                                                 \
    DOES(first, do_attach, slot_count, 0);                                                                             \
    struct sf_segment segment = open_segment(path)
#define END sf_segment_close(&segment)

static inline struct rank *
joined(uint64_t slot)
{
    struct rank *rank = rank_begin();
    DOES(rank, do_join, slot, 0);
    return rank;
}

/* A rank has been in the slot, and was killed. */
static inline void
had(uint64_t slot)
{
    rank_kill(joined(slot));
}

#endif
