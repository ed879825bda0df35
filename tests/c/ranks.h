/* Many ranks and many senders in one process, on one segment: what test_ranks.c and test_crowd.c share.
 *
 * The code of the workers and of the appends is the real one. The schedule is random: at each named point the thread
 * may give way, sleep, or die. Ranks come late, die, and come again. All must apply the same entries at the same steps,
 * read the same verdicts, and leave no request without an outcome. */
#ifndef RANKS_H
#define RANKS_H

#include <setjmp.h>

#include "harness.h"
#include "sf_apply.h"
#include "sf_log.h"
#include "sf_point.h"

#define RANKS_MAX 1024
#define PATIENCE (30 * SF_SECOND)

struct plan {
    uint32_t ranks;
    uint32_t late; /* so many of them come when the others have begun */
    int senders;
    uint64_t requests; /* of each sender */
    uint64_t lead;     /* checkpoints that a rank may be ahead of the last, as collectives keep them together */
    uint32_t stride;   /* 0 for 1 */
    int deaths;        /* a sender dies at one of so many points; 0: never */
    int rank_deaths;   /* so does a rank, but for the first two; 0: never */
};

/* What the first rank that came to an entry found. The other ranks must find the same. */
struct record {
    _Atomic uint64_t target;   /* plus one; VOIDED */
    _Atomic uint64_t step;     /* where it was applied; of an only rank it may lie behind the target */
    _Atomic uint64_t promised; /* the target that the sender was told, plus one */
    _Atomic uint32_t verdicts; /* two bits for each phase */
    _Atomic uint32_t failed;   /* a rank has said so, and lived on */
};

struct job {
    struct plan plan;
    struct sf_segment segment;
    uint64_t entries; /* room in the table */
    struct record *record;
    struct {
        _Atomic int there; /* it passes checkpoints, or is on the way to one */
        _Atomic uint64_t applied, stopped_at;
    } rank[RANKS_MAX];
    _Atomic int over;
    _Atomic uint64_t sent, died, ranks_died, came, helped, votes, refused;
};

extern struct job job;

#define VOIDED UINT64_MAX

/* The rank or the sender that this thread is at the moment. */
struct actor {
    struct sf_worker *worker; /* of a rank */
    uint64_t random;
    uint64_t standing; /* a rank: the step at which it takes its turn */
    uint64_t due;      /* nothing is due before */
    uint64_t target;   /* of the entry that was folded: once it is applied, another may take its place */
    uint64_t asked;    /* what was asked before it came; it may be over */
    uint32_t rank;
    int folded, kind;
    int is_rank, is_sender;
    int is_mortal; /* a rank at a moment at which it may die */
    int lock_fd;   /* the log's lock that it may hold, -1 if none */
    jmp_buf died;
};

extern _Thread_local struct actor me;

/* A worker beside that of the process. */
struct own_worker {
    struct sf_worker worker;
    _Atomic(struct sf_slot *) page;
    _Atomic int has_peers;
    struct sf_slot attach_page, detached_page;
};

/* The vote on a reload, as the Python side has it: each rank says whether it can, did, and came through. */
struct ballot {
    uint64_t seq;
    enum sf_phase phase;
    int leaves; /* they leave their loops for it, and come to this step once more */
    int64_t end;
};

/* Makes this thread a rank of the job. */
void come(struct own_worker *own, uint32_t rank);
/* Ends it as a kill does: all that is left of it is its slot. */
void vanish(void);
/* Votes for the next phase, mostly with yes. Returns the verdict so far. */
unsigned cast_vote(struct ballot *ballot);
/* Checks a verdict against that of the other ranks. Whether the vote has another phase. */
int next_phase(struct ballot *ballot, unsigned verdict);
/* Publishes the outcome of mail that this rank was handed. */
void deliver(const struct sf_due *due);

/* 1 if it was appended, 0 if there was nothing to do. `patient`: tries until the log has room; else -SF_EFULL. */
int send_one(uint32_t kind, uint64_t argument, int patient);
int send_any(int patient);

void begin_job(struct plan plan);
void end_job(int64_t began);
/* So many requests, times what SF_TEST_RANKS says. */
uint64_t scaled(uint64_t requests);

#endif
