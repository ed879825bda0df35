#include "sf_state.h"

#include "sf_error.h"

struct sf_state
sf_state_first(void)
{
    return (struct sf_state){.park = SF_NEVER};
}

int
sf_state_fold(struct sf_state *state, const struct sf_entry *entry, uint64_t seq, uint64_t target)
{
    if (entry->kind == 0 || entry->kind >= SF_KIND_END || entry->arg > SF_STEP_MAX || target > SF_STEP_MAX)
        return -SF_ECORRUPT;
    if (target > state->target)
        state->target = target;
    switch (entry->kind) {
    case SF_PAUSE:
        state->park = entry->arg > target ? entry->arg : target;
        state->park_seq = seq;
        state->park_for = entry->duration_ns > 0 ? entry->duration_ns : 0;
        break;
    case SF_ADVANCE:
        state->park = target + entry->arg;
        state->park_seq = seq;
        state->park_for = 0;
        break;
    case SF_STOP:
        if (state->stop_seq == 0)
            state->stop_seq = seq;
        /* fall through */
    case SF_RESUME:
        state->park = SF_NEVER;
        state->park_seq = 0;
        state->park_for = 0;
        break;
    case SF_RELOAD:
        state->reload_seq = seq;
        break;
    }
    return 0;
}

int
sf_state_after(const struct sf_entry *entry, uint64_t seq, struct sf_state *state)
{
    uint64_t target = atomic_load_explicit(&entry->target, memory_order_acquire);

    *state = entry->before;
    if (state->target > SF_STEP_MAX)
        return -SF_ECORRUPT;
    if (target == SF_TARGET_VOID)
        return 0;
    /* Undecided: the state if it is not made void. It takes effect no earlier than the entry before it. */
    return sf_state_fold(state, entry, seq, target == SF_TARGET_NONE ? state->target : target);
}
