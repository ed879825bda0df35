#include "sf_apply.h"

#include <string.h>

#include "sf_point.h"
#include "sf_vote.h"
#include "sf_wait.h"
#include "sf_worker_parts.h"

/* The highest target that is due at a checkpoint. An only rank whose loop stands still, parked or in a function that
 * was called, also applies what is asked for its next step. It may have been decided while a checkpoint was counted
 * whose count was not yet taken back: hence two steps. */
static uint64_t
due_at(struct sf_worker *worker, uint64_t step, int may)
{
    if (atomic_load_explicit(worker->counter.has_peers, memory_order_relaxed))
        return step;
    return may & SF_DUE_INNER || sf_state_parks(&worker->state, step) ? step + 2 * (uint64_t)worker->stride : step;
}

/* Sets the outcome of an entry, unless another rank or a sender has set it. */
static void
set_outcome(struct sf_worker *worker, uint64_t seq, unsigned code, uint64_t value)
{
    uint64_t open = SF_OUTCOME(SF_OUTCOME_OPEN, seq);
    atomic_compare_exchange_strong(&sf_entry_at(&worker->segment, seq)->outcome, &open, SF_OUTCOME(code, value));
}

/* Marks entry seq as done by this rank. The last living rank that is done with an entry sets its outcome. If the entry
 * is for one rank only, that rank sets the outcome before it marks the entry as done: sf_conclude() relies on it. */
void
sf_worker_complete(struct sf_worker *worker, uint64_t seq, int failed, uint64_t step)
{
    struct sf_entry *entry = sf_entry_at(&worker->segment, seq);
    uint64_t bit = (seq - 1) & (SF_LOG_CAPACITY - 1);

    if (worker->segment.slot_count == 1) {
        set_outcome(worker, seq, failed ? SF_OUTCOME_FAILED : SF_OUTCOME_APPLIED, step);
        return;
    }
    if (seq == 0 || atomic_load(&entry->number) != seq)
        return; /* another entry has taken its place in the log */
    if (failed)
        atomic_fetch_or(&entry->agreed, SF_ENTRY_FAILED);
    uint32_t only = sf_only_slot(&worker->segment, entry);
    if (only == worker->number)
        set_outcome(worker, seq, failed ? SF_OUTCOME_FAILED : SF_OUTCOME_APPLIED, step);
    if (worker->applied >= seq)
        atomic_fetch_or(&worker->slot->done[bit / 64], UINT64_C(1) << (bit % 64));
    else
        atomic_store(&worker->slot->held, seq);
    SF_POINT("done:told");
    if (only == SF_NO_RANK && sf_all_done(&worker->segment, seq, worker->number)) {
        failed = (atomic_load(&entry->agreed) & SF_ENTRY_FAILED) != 0;
        set_outcome(worker, seq, failed ? SF_OUTCOME_FAILED : SF_OUTCOME_APPLIED, step);
    }
}

/* Publishes that entry seq is applied. `over`: nothing is left to do for it at this step. */
static void
set_applied(struct sf_worker *worker, uint64_t seq, int over, uint64_t step)
{
    uint64_t bit = (seq - 1) & (SF_LOG_CAPACITY - 1);

    if (worker->segment.slot_count > 1) {
        atomic_fetch_and(&worker->slot->done[bit / 64], ~(UINT64_C(1) << (bit % 64)));
        atomic_store(&worker->slot->applied_at, SF_NEVER);
    } else if (over) {
        sf_worker_complete(worker, seq, 0, step);
    }
    worker->applied = seq;
    atomic_store(&worker->slot->applied, seq);
    atomic_store(&worker->slot->applied_at, step);
    SF_POINT("turn:applied");
    if (over && worker->segment.slot_count > 1)
        sf_worker_complete(worker, seq, 0, step);
}

/* Folds a decided entry whose step has come into the worker's state. 1 if nothing is left to do for it, 0 if something
 * is: a pause or an advance is over when the worker has parked for it, a reload when the new code runs, mail when it
 * was delivered. Or an error. */
static int
apply(struct sf_worker *worker, const struct sf_entry *entry, uint64_t seq, uint64_t target, uint64_t step,
      struct sf_due *due)
{
    uint64_t parked_by = worker->state.park_seq;
    int rc = sf_state_fold(&worker->state, entry, seq, target);

    if (rc < 0)
        return rc;
    sf_journal_append(&worker->journal, entry, worker->rank, step);
    SF_POINT("turn:folded");
    /* The entry ends the pause that was in force. If the worker has parked for that pause, its outcome is set, and this
     * swap changes nothing. */
    if (parked_by != 0 && worker->state.park_seq != parked_by)
        set_outcome(worker, parked_by, SF_OUTCOME_SUPERSEDED, seq);

    uint32_t state = sf_worker_get_state(worker);
    switch (entry->kind) {
    case SF_PAUSE:
        if (!sf_state_parks(&worker->state, step) && state == SF_STATE_PARKED)
            sf_worker_unpark(worker, step, SF_STATE_RUNNING); /* parked, and asked to park at a later step */
        break;
    case SF_ADVANCE:
        /* Code that a reload brought is parked one checkpoint behind the step of the pause. Several ranks park only at
         * the step that the log gives, so that all park at the same one. */
        if (state == SF_STATE_PARKED && !atomic_load(worker->counter.has_peers) &&
            worker->state.park < step + entry->arg)
            worker->state.park = step + entry->arg;
        /* fall through */
    case SF_RESUME:
        if (state == SF_STATE_PARKED)
            sf_worker_unpark(worker, step, SF_STATE_RUNNING);
        break;
    case SF_STOP:
        sf_worker_unpark(worker, step, SF_STATE_STOPPING);
        break;
    case SF_RELOAD:
        sf_worker_unpark(worker, step, SF_STATE_RELOADING);
        due->action = SF_RAISE_RELOAD;
        due->seq = seq;
        sf_entry_copy(&due->entry, entry, seq);
        break;
    case SF_SET:
    case SF_CALL:
        if (entry->ranks != SF_RANKS_ALL && entry->ranks - 1 != worker->rank)
            return 1;
        due->action = SF_DELIVER;
        due->seq = seq;
        due->held = sf_state_parks(&worker->state, step) ? worker->state.park_seq : 0;
        sf_entry_copy(&due->entry, entry, seq);
        break;
    }
    return entry->kind == SF_RESUME || entry->kind == SF_STOP;
}

static int
has_mail(uint32_t kind)
{
    return kind == SF_SET || kind == SF_CALL;
}

/* Whether the caller lets an entry of this kind be applied. */
static int
allowed(int may, uint32_t kind)
{
    return !(may & SF_DUE_NO_RELOAD && kind == SF_RELOAD) && !(may & SF_DUE_NO_MAIL && has_mail(kind));
}

/* Finds the target of an entry; helps to decide it if it is undecided. 0 or an error. */
static int
target_of(struct sf_worker *worker, uint64_t seq, int standing, uint64_t *target)
{
    struct sf_entry *entry = sf_entry_at(&worker->segment, seq);

    if (atomic_load_explicit(&entry->number, memory_order_acquire) != seq)
        return -SF_ECORRUPT;
    *target = atomic_load(&entry->target);
    if (*target == SF_TARGET_NONE) {
        SF_POINT("turn:met");
        int rc = sf_decide_or_void(&worker->segment, seq, worker->number, standing);
        if (rc < 0)
            return rc;
        *target = atomic_load(&entry->target);
        SF_POINT("turn:settled");
        /* Other hosts have a say in the target. Until they decide, it is the earliest step that this host can take. */
        if (*target == SF_TARGET_NONE)
            *target = atomic_load(&entry->low);
    }
    return 0;
}

/* Computes the state after the whole log. `wanted`: an entry asks for something that only a counted checkpoint can
 * do. */
static int
look_ahead(struct sf_worker *worker, uint64_t tail, struct sf_state *state, int *wanted)
{
    *state = worker->state;
    *wanted = 0;
    for (uint64_t seq = worker->applied + 1; seq <= tail; seq++) {
        struct sf_entry *entry = sf_entry_at(&worker->segment, seq);
        uint64_t target;
        int rc = target_of(worker, seq, 0, &target);

        if (rc < 0)
            return rc;
        if (target == SF_TARGET_VOID)
            continue;
        rc = sf_state_fold(state, entry, seq, target);
        if (rc < 0)
            return rc;
        if (entry->kind == SF_RELOAD || has_mail(entry->kind))
            *wanted = 1;
    }
    *wanted |= state->stop_seq != 0;
    return 0;
}

/* The sequence number of a stop that is due and stands behind an entry in the log; 0 if there is none. */
static uint64_t
stop_behind(struct sf_worker *worker, uint64_t seq, uint64_t tail, uint64_t step)
{
    uint64_t target;

    while (++seq <= tail) {
        if (target_of(worker, seq, 1, &target) < 0)
            return 0; /* the caller finds the same error when it comes to that entry */
        if (sf_entry_at(&worker->segment, seq)->kind == SF_STOP && target != SF_TARGET_VOID && target <= step)
            return seq;
    }
    return 0;
}

/* Sets HELD or STOPPED in the word as `level` says, and clears PENDING, since all entries up to `tail` were seen. A
 * sender may have published another entry and set PENDING just before it was cleared, so the tail is read again
 * afterwards. If there is more, sets PENDING again before anything else. Returns whether there is more. */
static int
clear_word(struct sf_worker *worker, struct sf_slot *slot, uint64_t tail, uint32_t level)
{
    uint32_t all = SF_WORD_HELD | SF_WORD_STOPPED;

    atomic_fetch_or(&slot->word, level);
    if (atomic_fetch_and(&slot->word, ~(all & ~level)) & SF_WORD_HELD & ~level)
        sf_wake(&slot->word); /* other threads of this process that are parked too */
    atomic_fetch_and(&slot->word, ~SF_WORD_PENDING);
    if (atomic_load(&worker->segment.header->tail) == tail)
        return 0;
    atomic_fetch_or(&slot->word, SF_WORD_PENDING);
    return 1;
}

static int
read_tail(struct sf_worker *worker, struct sf_slot *slot, uint64_t *tail)
{
    *tail = atomic_load(&worker->segment.header->tail);
    if (*tail < worker->applied || *tail - worker->applied > SF_LOG_CAPACITY)
        return -SF_ECORRUPT;
    atomic_store_explicit(&slot->seen, *tail, memory_order_relaxed);
    return 0;
}

/* Holds at a checkpoint that does not count while the log says that the rank parks at its next. Applies nothing. */
static int
apply_uncounted(struct sf_worker *worker, struct sf_slot *slot, uint64_t step, struct sf_due *due)
{
    struct sf_state state;
    uint64_t tail;
    int wanted, hold, rc;

    do {
        rc = read_tail(worker, slot, &tail);
        if (rc < 0)
            return rc;
        rc = look_ahead(worker, tail, &state, &wanted);
        if (rc < 0)
            return rc;
        hold = !wanted && sf_state_parks(&state, step + worker->stride);
        if (!hold) {
            if (tail > worker->applied)
                atomic_fetch_or(&slot->word, SF_WORD_PENDING);
            if (!sf_state_parks(&worker->state, step))
                atomic_fetch_and(&slot->word, ~SF_WORD_HELD);
            if (sf_worker_get_state(worker) == SF_STATE_PARKED) {
                sf_worker_unpark(worker, step, SF_STATE_RUNNING);
                sf_announce(&worker->segment);
            }
            return 0;
        }
    } while (clear_word(worker, slot, tail, SF_WORD_HELD));
    due->action = SF_HOLD;
    due->seq = state.park_seq;
    due->park_for = state.park_for;
    return 0;
}

int
sf_apply_due(struct sf_worker *worker, uint64_t step, int may, struct sf_due *due)
{
    struct sf_slot *slot = worker->slot;
    uint32_t level;
    uint64_t tail;
    int ahead, rc;

    memset(due, 0, sizeof *due);
    if (slot == NULL)
        return 0;
    rc = sf_worker_check(worker);
    if (rc < 0)
        return rc;
    if (!(may & SF_DUE_COUNTED))
        return apply_uncounted(worker, slot, step, due);

    uint64_t applied = worker->applied;
    uint32_t before = sf_worker_get_state(worker);
    int begins = before == SF_STATE_IDLE || before == SF_STATE_RELOADING;
    if (begins) {
        sf_worker_set_mark(worker, step);
        sf_worker_set_state(worker, SF_STATE_RUNNING);
    }
    do {
        rc = read_tail(worker, slot, &tail);
        if (rc < 0)
            return rc;
        ahead = 0;
        while (worker->applied < tail && !ahead && due->action == SF_GO) {
            uint64_t seq = worker->applied + 1;
            uint64_t target;

            rc = target_of(worker, seq, 1, &target);
            if (rc < 0)
                return rc;
            /* A value or a call waits while a function runs. A stop behind it does not: it can end that function. */
            uint32_t kind = sf_entry_at(&worker->segment, seq)->kind;
            uint64_t stop;
            if (target != SF_TARGET_VOID && has_mail(kind) && !allowed(may, kind) &&
                (stop = stop_behind(worker, seq, tail, due_at(worker, step, may))) != 0) {
                set_outcome(worker, seq, SF_OUTCOME_SUPERSEDED, stop);
                target = SF_TARGET_VOID;
            }
            if (target != SF_TARGET_VOID && (target > due_at(worker, step, may) || !allowed(may, kind))) {
                ahead = 1; /* the word stays set, so that the next checkpoint comes here again */
                break;
            }
            if (target != SF_TARGET_VOID) {
                uint64_t decided = atomic_load(&sf_entry_at(&worker->segment, seq)->target);
                if (decided == SF_TARGET_NONE) {
                    due->action = SF_AWAIT;
                    due->seq = seq;
                    sf_entry_copy(&due->entry, sf_entry_at(&worker->segment, seq), seq);
                    break;
                }
                if (decided != target)
                    continue; /* the other hosts have decided since */
            }
            rc = 0;
            if (target != SF_TARGET_VOID) {
                rc = apply(worker, sf_entry_at(&worker->segment, seq), seq, target < step ? target : step, step, due);
                if (rc < 0)
                    return rc;
            }
            set_applied(worker, seq, rc, step);
        }
        sf_worker_set_alarm(worker);
        level = worker->state.stop_seq != 0 ? SF_WORD_STOPPED : sf_state_parks(&worker->state, step) ? SF_WORD_HELD : 0;
        if (due->action != SF_GO)
            break; /* entries behind it are for a later call: the word stays set */
        if (ahead) {
            atomic_fetch_or(&slot->word, SF_WORD_PENDING);
            break;
        }
    } while (clear_word(worker, slot, tail, level));
    /* A rank that waits for an entry waits for announcements. If it found only that the entry is not due yet it must
     * not announce anything: its own announcement would wake it, again and again. */
    if (begins || worker->applied != applied || (due->action != SF_AWAIT && !ahead))
        sf_announce(&worker->segment);

    if (due->action != SF_GO) {
        atomic_fetch_or(&slot->word, SF_WORD_PENDING);
    } else if (level == SF_WORD_STOPPED) {
        due->action = SF_RAISE_STOP;
        due->seq = worker->state.stop_seq;
        sf_entry_copy(&due->entry, sf_entry_at(&worker->segment, due->seq), due->seq);
    } else if (level == SF_WORD_HELD) {
        due->action = SF_HOLD;
        due->seq = worker->state.park_seq;
        due->park_for = worker->state.park_for;
    }
    return 0;
}

int
sf_worker_resume(struct sf_worker *worker, uint64_t step)
{
    struct sf_slot *slot = worker->slot;
    uint64_t seq = worker->applied + 1;
    uint64_t tail, target;
    struct sf_due unused;

    if (slot == NULL || sf_worker_check(worker) < 0 || read_tail(worker, slot, &tail) < 0 || tail != seq)
        return 0;
    if (target_of(worker, seq, 1, &target) < 0 || target > due_at(worker, step, 0) ||
        sf_entry_at(&worker->segment, seq)->kind != SF_RESUME)
        return 0;
    if (atomic_load(&sf_entry_at(&worker->segment, seq)->target) != target)
        return 0; /* other hosts have not decided yet */
    if (apply(worker, sf_entry_at(&worker->segment, seq), seq, target < step ? target : step, step, &unused) < 0)
        return 0;
    set_applied(worker, seq, 1, step);
    sf_worker_set_alarm(worker);
    if (worker->state.stop_seq != 0 || sf_state_parks(&worker->state, step) || clear_word(worker, slot, tail, 0))
        return 0;
    sf_announce(&worker->segment);
    return 1;
}

void
sf_worker_publish_outcome(struct sf_worker *worker, uint64_t seq, uint64_t step, int failed)
{
    if (worker->slot == NULL)
        return;
    sf_worker_complete(worker, seq, failed, step);
    sf_announce(&worker->segment);
}

/* Once the verdict is final for this rank, marks its vote as over, so that the log may drop the entry. */
static unsigned
read_verdict(struct sf_worker *worker, uint64_t seq, enum sf_phase phase, unsigned verdict)
{
    if (verdict == SF_VOTE_NO || (verdict == SF_VOTE_YES && phase + 1 == SF_PHASE_END)) {
        uint64_t mine = atomic_load(&worker->slot->vote);
        if (SF_VOTE_SEQ(mine) == seq && SF_VOTE_SAID(mine) == SF_VOTE_YES)
            atomic_store(&worker->slot->vote, SF_VOTE(seq, SF_VOTE_PHASE(mine), SF_VOTE_OVER));
    }
    return verdict;
}

unsigned
sf_worker_vote(struct sf_worker *worker, uint64_t seq, enum sf_phase phase, int yes)
{
    if (worker->slot == NULL)
        return yes ? SF_VOTE_YES : SF_VOTE_NO;
    if (worker->segment.slot_count == 1 && atomic_load(&sf_entry_at(&worker->segment, seq)->low) == 0)
        return yes ? SF_VOTE_YES : SF_VOTE_NO; /* there is no other rank to agree with */
    sf_vote(&worker->segment, seq, worker->number, phase, yes);
    return read_verdict(worker, seq, phase, sf_agreed(&worker->segment, seq, phase, 0));
}

unsigned
sf_worker_agreed(struct sf_worker *worker, uint64_t seq, enum sf_phase phase, int give_up)
{
    if (worker->slot == NULL)
        return SF_VOTE_NO;
    return read_verdict(worker, seq, phase, sf_agreed(&worker->segment, seq, phase, give_up));
}

void
sf_worker_in_the_log(struct sf_worker *worker, uint64_t *applied, uint64_t *tail)
{
    *applied = *tail = 0;
    if (worker->slot == NULL)
        return;
    *applied = worker->applied;
    *tail = atomic_load(&worker->segment.header->tail);
    if (*tail < *applied || *tail - *applied > SF_LOG_CAPACITY)
        *tail = *applied; /* damaged: the next sf_apply_due() reports it */
}
