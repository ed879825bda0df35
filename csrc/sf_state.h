/* The state of a run: the fold of its log, entry by entry. Plain computation; nothing here waits or takes a lock. */
#ifndef SF_STATE_H
#define SF_STATE_H

#include "sf_layout.h"

/* The state before the first entry. */
struct sf_state sf_state_first(void);

/* Folds one decided entry into the state. 0, or -SF_ECORRUPT if no sender can have written such an entry. */
int sf_state_fold(struct sf_state *state, const struct sf_entry *entry, uint64_t seq, uint64_t target);

/* Computes the state after entry `seq`, whether it is decided, undecided or void. 0 or -SF_ECORRUPT. */
int sf_state_after(const struct sf_entry *entry, uint64_t seq, struct sf_state *state);

/* Whether the ranks of a run in this state park at `step`. */
static inline int
sf_state_parks(const struct sf_state *state, uint64_t step)
{
    return state->stop_seq == 0 && state->park <= step;
}

#endif
