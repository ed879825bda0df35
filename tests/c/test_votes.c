/* Votes: all ranks read one verdict, also if a rank dies, gives up or comes late. */
#include "core.h"

/* Three ranks that have met a reload, asked for in one way or the other. */
#define BEGIN_BY(asks)                                                                                                 \
    struct rank *ranks[3];                                                                                             \
    struct sf_segment segment = begin(ranks);                                                                          \
    uint64_t seq = asks(&segment, ranks, 3)
#define BEGIN BEGIN_BY(reload)
#define END sf_segment_close(&segment)
#define YES SF_VOTE_YES
#define NO SF_VOTE_NO

/* What a rank does: an entry, a phase, and what it says. */
#define SAYS(rank, phase, yes, verdict) DOES(rank, do_vote, seq << 4 | (phase) << 1 | (yes), verdict)
#define READS(rank, phase, verdict) DOES(rank, do_read, seq << 4 | (phase) << 1, verdict)
#define GIVES_UP(rank, phase, verdict) DOES(rank, do_read, seq << 4 | (phase) << 1 | 1, verdict)

static long
do_vote(struct rank *self, uint64_t argument)
{
    (void)self;
    return sf_worker_vote(WORKER, argument >> 4, (enum sf_phase)(argument >> 1 & 7), (int)(argument & 1));
}

static long
do_read(struct rank *self, uint64_t argument)
{
    (void)self;
    return sf_worker_agreed(WORKER, argument >> 4, (enum sf_phase)(argument >> 1 & 7), (int)(argument & 1));
}

static struct sf_segment
begin(struct rank **ranks)
{
    for (uint64_t r = 0; r < 3; r++) {
        ranks[r] = rank_begin();
        DOES(ranks[r], r == 0 ? do_attach : do_join, r == 0 ? 3 : r, 0);
        rank_run_to(ranks[r], 3);
    }
    return open_segment(path_in("control"));
}

static uint64_t
reload(struct sf_segment *segment, struct rank **ranks, int count)
{
    uint64_t seq = ask(segment, SF_RELOAD, 0).seq;
    for (int r = 0; r < count; r++)
        PASSES(ranks[r], SF_RAISE_RELOAD);
    return seq;
}

TEST(ranks_that_all_say_yes_agree_phase_by_phase)
{
    BEGIN;
    for (unsigned phase = SF_PHASE_READY; phase < SF_PHASE_END; phase++) {
        SAYS(ranks[2], phase, 1, 0);
        READS(ranks[0], phase, 0);
        SAYS(ranks[0], phase, 1, 0);
        READS(ranks[2], phase, 0);
        SAYS(ranks[1], phase, 1, YES);
        READS(ranks[0], phase, YES);
        READS(ranks[2], phase, YES);
        if (phase + 1 < SF_PHASE_END)
            READS(ranks[2], phase + 1, 0);
    }
    CHECK_EQ(entry_of(path_in("control"), seq).agreed, 1u << 8 | 1u << 10 | 1u << 12);
    END;
}

TEST(one_no_is_a_no_for_all_whichever_rank_reads_first)
{
    BEGIN;
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 0, NO); /* no rank has to wait for the third */
    READS(ranks[0], SF_PHASE_READY, NO);
    SAYS(ranks[2], SF_PHASE_READY, 1, NO);
    READS(ranks[1], SF_PHASE_READY, NO);

    for (int r = 0; r < 3; r++)
        DOES(ranks[r], do_tell_failed, seq, 0);
    seq = reload(&segment, ranks, 3); /* the next is another matter */
    SAYS(ranks[1], SF_PHASE_READY, 1, 0);
    READS(ranks[1], SF_PHASE_READY, 0);
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[2], SF_PHASE_READY, 1, YES);
    SAYS(ranks[2], SF_PHASE_EXECUTED, 0, NO);
    SAYS(ranks[0], SF_PHASE_EXECUTED, 1, NO);
    READS(ranks[1], SF_PHASE_READY, YES);
    END;
}

TEST(who_has_gone_on_to_a_later_phase_or_request_has_said_yes)
{
    BEGIN;
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[0], SF_PHASE_EXECUTED, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 1, 0);
    READS(ranks[1], SF_PHASE_READY, 0);
    SAYS(ranks[2], SF_PHASE_READY, 1, YES);
    SAYS(ranks[1], SF_PHASE_PROVED, 1, 0);
    SAYS(ranks[2], SF_PHASE_EXECUTED, 1, YES);
    SAYS(ranks[0], SF_PHASE_PROVED, 0, NO);
    READS(ranks[2], SF_PHASE_EXECUTED, YES);
    READS(ranks[2], SF_PHASE_PROVED, NO);
    END;
}

TEST(no_verdict_waits_for_the_vote_of_a_rank_that_died_or_ended)
{
    BEGIN;
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 1, 0);
    rank_kill(ranks[2]);
    READS(ranks[0], SF_PHASE_READY, YES);
    SAYS(ranks[0], SF_PHASE_EXECUTED, 1, 0);
    DOES(ranks[1], do_end, SF_STATE_FINISHED, 0);
    READS(ranks[0], SF_PHASE_EXECUTED, YES);
    CHECK_EQ(sf_agreed(&segment, seq, SF_PHASE_EXECUTED, 0), YES);
    END;
}

TEST(a_rank_killed_at_any_point_of_its_vote_leaves_one_verdict)
{
    static const char *const points[] = {"vote:given", "vote:counted"};

    for (int p = 0; p < 4; p++) {
        BEGIN;
        SAYS(ranks[0], SF_PHASE_READY, 1, 0);
        SAYS(ranks[1], SF_PHASE_READY, 1, 0);
        rank_arm(ranks[2], points[p / 2], SIGKILL);
        SAYS(ranks[2], SF_PHASE_READY, p % 2, RANK_DIED);
        READS(ranks[0], SF_PHASE_READY, YES); /* its vote would have died with it if no rank had counted it */
        READS(ranks[1], SF_PHASE_READY, YES);
        rank_kill(ranks[0]);
        rank_kill(ranks[1]);
        END;
        unlink(path_in("control"));
    }
}

TEST(a_rank_that_gives_up_commits_a_no_and_a_late_rank_reads_it)
{
    BEGIN;
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 1, 0);
    GIVES_UP(ranks[0], SF_PHASE_READY, NO);
    READS(ranks[1], SF_PHASE_READY, NO);
    SAYS(ranks[2], SF_PHASE_READY, 1, NO); /* too late */

    for (int r = 0; r < 3; r++)
        DOES(ranks[r], do_tell_failed, seq, 0);
    seq = reload(&segment, ranks, 3);
    for (int r = 0; r < 3; r++)
        rank_do(ranks[r], do_vote, seq << 4 | 1);
    GIVES_UP(ranks[1], SF_PHASE_READY, YES); /* there is nothing left to give up */
    GIVES_UP(ranks[1], SF_PHASE_EXECUTED, NO);
    SAYS(ranks[0], SF_PHASE_EXECUTED, 1, NO);
    END;
}

TEST(two_that_count_the_votes_at_once_come_to_one_verdict)
{
    BEGIN;
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    rank_arm(ranks[2], "vote:counted", SIGSTOP);
    SAYS(ranks[1], SF_PHASE_READY, 1, 0);
    rank_ask(ranks[2], do_vote, seq << 4 | 1);
    rank_stopped(ranks[2]); /* has counted three times yes, and has not said so */
    GIVES_UP(ranks[0], SF_PHASE_READY, YES);
    kill(ranks[2]->pid, SIGCONT);
    CHECK_EQ(rank_answer(ranks[2]), YES);

    rank_arm(ranks[2], "vote:counted", SIGSTOP);
    SAYS(ranks[0], SF_PHASE_EXECUTED, 1, 0);
    rank_ask(ranks[2], do_read, seq << 4 | SF_PHASE_EXECUTED << 1 | 1);
    rank_stopped(ranks[2]); /* has given up, and has not said so */
    SAYS(ranks[1], SF_PHASE_EXECUTED, 1, 0);
    rank_arm(ranks[0], "", SIGSTOP);
    SAYS(ranks[0], SF_PHASE_EXECUTED, 0, NO);
    kill(ranks[2]->pid, SIGCONT);
    CHECK_EQ(rank_answer(ranks[2]), NO);
    CHECK_EQ(entry_of(path_in("control"), seq).agreed, 1u << 8 | 2u << 10);
    END;
}

TEST(a_rank_that_comes_has_said_yes_to_all_that_was_asked_before_it_came)
{
    BEGIN;
    rank_kill(ranks[2]);
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    struct rank *late = rank_begin();
    DOES(late, do_join_now, 2, 0);
    SAYS(ranks[1], SF_PHASE_READY, 1, YES);
    SAYS(ranks[0], SF_PHASE_EXECUTED, 1, 0);
    SAYS(ranks[1], SF_PHASE_EXECUTED, 1, YES);

    rank_kill(late); /* and of those that are still being voted on, not only the last */
    ask(&segment, SF_PAUSE, 4000);
    ask(&segment, SF_RESUME, 0);
    late = rank_begin();
    DOES(late, do_join, 2, 0);
    SAYS(ranks[0], SF_PHASE_PROVED, 1, 0);
    SAYS(ranks[1], SF_PHASE_PROVED, 1, YES);

    ranks[2] = late;
    for (int r = 0; r < 2; r++)
        DOES(ranks[r], do_tell, seq, 0);
    for (int r = 0; r < 3; r++)
        PASSES(ranks[r], SF_GO);
    CHECK_EQ(outcome_of(path_in("control"), seq), SF_OUTCOME_APPLIED);
    seq = reload(&segment, ranks, 3); /* but has a say in what comes next */
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 1, 0);
    SAYS(late, SF_PHASE_READY, 0, NO);
    END;
}

TEST(a_rank_that_comes_fresh_and_repeats_a_reload_finds_the_verdict)
{
    struct rank *ranks[2] = {rank_begin(), rank_begin()}, *late = rank_begin();

    DOES(ranks[0], do_attach, 3, 0);
    DOES(ranks[1], do_join, 1, 0);
    struct sf_segment segment = open_segment(path_in("control"));
    uint64_t seq = reload(&segment, ranks, 2);
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 0, NO);
    DOES(late, do_join, 2, 0);
    PASSES(late, SF_RAISE_RELOAD);
    CHECK_EQ(late->due.seq, seq);
    SAYS(late, SF_PHASE_READY, 1, NO);

    for (int r = 0; r < 2; r++)
        DOES(ranks[r], do_tell_failed, seq, 0);
    CHECK_EQ(outcome_of(path_in("control"), seq), SF_OUTCOME_OPEN); /* it repeats it, so it has a part in it */
    DOES(late, do_tell_failed, seq, 0);
    CHECK_EQ(outcome_of(path_in("control"), seq), SF_OUTCOME_FAILED);
    END;
}

TEST(a_rank_that_has_not_read_a_verdict_still_finds_it)
{
    BEGIN;
    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 1, 0);
    SAYS(ranks[2], SF_PHASE_READY, 0, NO);
    /* The others go on, and as much is asked as the log takes. */
    struct sf_request request = request_of(SF_PAUSE, 4000);
    struct sf_receipt receipt;
    int rc;
    do {
        rc = sf_append(&segment, &request, 0, &receipt);
        rank_do(ranks[1], do_pass, 0);
        rank_do(ranks[2], do_pass, 0);
    } while (rc == 0);
    CHECK_EQ(rc, -SF_EFULL);
    CHECK_EQ(receipt.stuck_rank, 0);
    READS(ranks[0], SF_PHASE_READY, NO);
    CHECK_EQ(entry_of(path_in("control"), seq).seq, seq);
    END;
}

/* A reload that other hosts have a say in, met by these ranks. */
static uint64_t
reload_elsewhere(struct sf_segment *segment, struct rank **ranks, int count)
{
    struct sf_request request = request_of(SF_RELOAD, 0);
    request.elsewhere = 1;
    uint64_t seq = ask_for(segment, &request).seq;
    uint64_t low = entry_of(path_in("control"), seq).low;
    CHECK_EQ(sf_commit(segment, seq, low), low);
    for (int r = 0; r < count; r++)
        PASSES(ranks[r], SF_RAISE_RELOAD);
    return seq;
}

TEST(a_yes_of_all_ranks_here_waits_for_the_other_hosts)
{
    BEGIN_BY(reload_elsewhere);

    for (unsigned phase = SF_PHASE_READY; phase < SF_PHASE_END; phase++) {
        for (int r = 0; r < 3; r++)
            SAYS(ranks[r], phase, 1, 0);
        CHECK_EQ(entry_of(path_in("control"), seq).agreed >> SF_VERDICT_HERE(phase) & 3u, YES);
        READS(ranks[1], phase, 0);
        CHECK_EQ(sf_commit_vote(&segment, seq, (enum sf_phase)phase, YES), YES);
        CHECK_EQ(sf_commit_vote(&segment, seq, (enum sf_phase)phase, NO), YES); /* once and for all */
        READS(ranks[1], phase, YES);
        READS(ranks[0], phase, YES);
    }
    END;
}

TEST(a_no_of_another_host_is_one_for_the_ranks_here_whatever_they_have_said)
{
    BEGIN_BY(reload_elsewhere);

    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    CHECK_EQ(sf_commit_vote(&segment, seq, SF_PHASE_READY, NO), NO);
    READS(ranks[0], SF_PHASE_READY, NO);
    SAYS(ranks[1], SF_PHASE_READY, 1, NO);
    SAYS(ranks[2], SF_PHASE_READY, 0, NO);
    END;
}

TEST(a_no_here_does_not_wait_and_a_rank_that_gives_up_on_the_other_hosts_says_no_for_all_here)
{
    BEGIN_BY(reload_elsewhere);

    SAYS(ranks[0], SF_PHASE_READY, 1, 0);
    SAYS(ranks[1], SF_PHASE_READY, 0, NO);
    READS(ranks[0], SF_PHASE_READY, NO);
    CHECK_EQ(entry_of(path_in("control"), seq).agreed, NO << SF_VERDICT(0) | NO << SF_VERDICT_HERE(0));
    for (int r = 0; r < 3; r++)
        DOES(ranks[r], do_tell_failed, seq, 0);

    seq = reload_elsewhere(&segment, ranks, 3);
    for (int r = 0; r < 3; r++)
        SAYS(ranks[r], SF_PHASE_READY, 1, 0);
    GIVES_UP(ranks[2], SF_PHASE_READY, NO);
    READS(ranks[0], SF_PHASE_READY, NO);
    CHECK_EQ(sf_commit_vote(&segment, seq, SF_PHASE_READY, YES), NO); /* a yes comes too late */
    END;
}

TEST(an_only_rank_of_a_host_waits_for_the_other_hosts)
{
    struct rank *only = rank_begin();
    DOES(only, do_attach, 1, 0);
    struct sf_segment segment = open_segment(path_in("control"));
    uint64_t seq = reload_elsewhere(&segment, &only, 1);
    SAYS(only, SF_PHASE_READY, 1, 0);
    CHECK_EQ(sf_commit_vote(&segment, seq, SF_PHASE_READY, YES), YES);
    READS(only, SF_PHASE_READY, YES);
    SAYS(only, SF_PHASE_EXECUTED, 0, NO);
    END;
}

TEST(an_only_rank_is_of_one_mind)
{
    struct rank *only = rank_begin();
    DOES(only, do_attach, 1, 0);
    struct sf_segment segment = open_segment(path_in("control"));
    uint64_t seq = reload(&segment, &only, 1);
    SAYS(only, SF_PHASE_READY, 1, YES);
    SAYS(only, SF_PHASE_EXECUTED, 0, NO);
    END;
}
