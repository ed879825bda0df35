/* A thousand ranks. This thread is one after the other. See ranks.h. */
#include <sys/resource.h>

#include "ranks.h"

struct simulated {
    struct own_worker own;
    uint64_t standing, due, asked;
    int held;   /* parked */
    int voting; /* on a reload */
    struct ballot ballot;
};

static struct simulated *simulated;

static void
become(uint32_t rank)
{
    me.worker = &simulated[rank].own.worker;
    me.rank = rank;
    me.standing = simulated[rank].standing;
    me.due = simulated[rank].due;
    me.asked = simulated[rank].asked;
}

static void
leave(void)
{
    struct simulated *self = &simulated[me.rank];

    self->standing = me.standing;
    self->due = me.due;
    self->asked = me.asked;
}

/* Applies what is due, as far as it needs no other rank. Whether it is to stop. */
static int
apply_all(struct simulated *self)
{
    struct sf_due due;

    for (;;) {
        int rc = sf_apply_due(me.worker, me.standing, SF_DUE_COUNTED, &due);
        if (rc < 0)
            FAIL("rank %u: %d", me.rank, rc);
        if (due.action == SF_DELIVER) {
            deliver(&due);
            continue;
        }
        self->held = due.action == SF_HOLD;
        if (self->held) {
            sf_worker_parked(me.worker, due.seq, me.standing, 0);
            return 0;
        }
        sf_worker_unparked(me.worker, me.standing);
        if (due.action == SF_RAISE_RELOAD) {
            self->voting = 1;
            self->ballot = (struct ballot){.seq = due.seq};
            cast_vote(&self->ballot);
        }
        return due.action == SF_RAISE_STOP;
    }
}

/* One visit: a look at what it waits for, or a checkpoint. Whether it is to stop. */
static int
visit(struct simulated *self)
{
    if (self->voting) {
        unsigned verdict =
            sf_worker_agreed(me.worker, self->ballot.seq, self->ballot.phase, random_next(&me.random) % 65536 == 0);
        if (verdict == 0)
            return 0;
        if (next_phase(&self->ballot, verdict)) {
            cast_vote(&self->ballot);
            return 0;
        }
        self->voting = 0;
        return self->ballot.leaves ? 0 : apply_all(self);
    }
    if (self->held)
        return apply_all(self);
    return sf_pass(me.worker->counter, &me.standing) ? apply_all(self) : 0;
}

TEST(a_thousand_ranks_that_come_and_die_agree)
{
    uint32_t ranks = 1024, stopped = 0;
    uint64_t wanted = strcmp(VARIANT, "plain") == 0 ? scaled(6) : scaled(10), sent = 0, lead = 3;
    int64_t began = sf_monotonic_ns(), asking = 0;
    struct rlimit files;

    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &files), 0);
    files.rlim_cur = files.rlim_max; /* a descriptor for the lock of each */
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &files), 0);
    begin_job((struct plan){.ranks = ranks, .late = ranks / 4, .senders = 1, .requests = wanted, .lead = lead});
    simulated = calloc(ranks, sizeof *simulated);
    me.random = test_seed;
    me.is_rank = 1;
    me.lock_fd = -1;
    while (stopped < ranks) {
        uint64_t least = UINT64_MAX;
        for (uint32_t r = 0; r < ranks; r++) {
            uint64_t step = atomic_load(&job.segment.slots[r].step);
            if (atomic_load(&job.rank[r].there) && step < least)
                least = step;
        }
        uint32_t offset = (uint32_t)random_next(&me.random) % ranks,
                 stride = 1 + 2 * (uint32_t)(random_next(&me.random) % 500);
        for (uint32_t i = 0; i < ranks; i++) {
            uint32_t r = (offset + i * stride) % ranks;
            struct simulated *self = &simulated[r];
            uint64_t dice = random_next(&me.random);

            if (atomic_load(&job.rank[r].stopped_at) != 0)
                continue;
            if (!atomic_load(&job.rank[r].there)) {
                if (sent < wanted && dice % (sent < 3 && r < ranks - job.plan.late ? 1 : 50) != 0)
                    continue;
                memset(self, 0, sizeof *self);
                me.rank = r;
                me.folded = 0;
                come(&self->own, r);
                me.standing = atomic_load(&me.worker->slot->step);
            } else {
                become(r);
                if (r > 1 && sent < wanted && dice % 5000 == 0) {
                    vanish();
                    continue;
                }
                if (!self->held && !self->voting && (me.standing >= least + lead || dice % 4 == 0))
                    continue;
                if (visit(self)) {
                    atomic_store(&job.rank[r].stopped_at, me.standing);
                    atomic_store(&job.rank[r].there, 0);
                    stopped++;
                }
            }
            leave();
        }
        if (sent <= wanted) {
            int64_t before = sf_monotonic_ns();
            me.is_rank = 0;
            int rc = sent < wanted ? send_any(0) : send_one(SF_STOP, 0, 0);
            me.is_rank = 1;
            sent += rc > 0;
            asking += rc > 0 ? sf_monotonic_ns() - before : 0;
        }
    }
    for (uint32_t r = 0; r < ranks; r++) {
        if (atomic_load(&job.rank[r].applied) != atomic_load(&job.segment.header->tail))
            FAIL("rank %u stopped, and had come to entry %" PRIu64 " only", r, atomic_load(&job.rank[r].applied));
    }
    printf("       an append takes %.0f us\n", (double)asking / 1e3 / (double)sent);
    end_job(began);
    free(simulated);
}
