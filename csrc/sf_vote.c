#include "sf_vote.h"

#include "sf_point.h"

void
sf_vote(struct sf_segment *segment, uint64_t seq, uint32_t slot, enum sf_phase phase, int yes)
{
    atomic_store(&segment->slots[slot].vote, SF_VOTE(seq, phase, yes ? SF_VOTE_YES : SF_VOTE_NO));
    SF_POINT("vote:given");
    sf_announce(segment);
}

/* What a vote says of a phase of an entry. A rank that votes on a later phase has said yes to this one. */
static unsigned
vote_on(uint64_t vote, uint64_t seq, enum sf_phase phase)
{
    if (SF_VOTE_SEQ(vote) != seq)
        return SF_VOTE_SEQ(vote) > seq ? SF_VOTE_YES : 0;
    if (SF_VOTE_PHASE(vote) != phase)
        return SF_VOTE_PHASE(vote) > phase ? SF_VOTE_YES : 0;
    return SF_VOTE_SAID(vote) == SF_VOTE_OVER ? SF_VOTE_YES : SF_VOTE_SAID(vote);
}

/* Commits a verdict at this place of `agreed`. Returns the one that holds: another if another process was first. */
static unsigned
commit_verdict(struct sf_segment *segment, struct sf_entry *entry, unsigned shift, unsigned verdict)
{
    uint32_t agreed = atomic_load(&entry->agreed);

    while ((agreed >> shift & 3u) == 0) {
        SF_POINT("vote:counted");
        if (atomic_compare_exchange_weak(&entry->agreed, &agreed, agreed | verdict << shift)) {
            sf_announce(segment);
            return verdict;
        }
    }
    return agreed >> shift & 3u;
}

/* The verdict of the living ranks of this host, 0 while it is open. */
static unsigned
count_votes(struct sf_segment *segment, uint64_t seq, enum sf_phase phase, int give_up)
{
    unsigned verdict = SF_VOTE_YES;

    for (uint32_t r = 0; r < segment->slot_count && verdict != SF_VOTE_NO; r++) {
        unsigned vote = vote_on(atomic_load(&segment->slots[r].vote), seq, phase);
        /* The system call costs more than all the rest. Once the verdict is open, only a no matters. */
        if (vote != SF_VOTE_YES && (vote == SF_VOTE_NO || verdict != 0) && sf_rank_lives(segment, r))
            verdict = vote == SF_VOTE_NO || give_up ? SF_VOTE_NO : 0;
    }
    return verdict;
}

unsigned
sf_agreed(struct sf_segment *segment, uint64_t seq, enum sf_phase phase, int give_up)
{
    struct sf_entry *entry = sf_entry_at(segment, seq);
    int elsewhere = atomic_load(&entry->low) != 0;
    unsigned here = elsewhere ? SF_VERDICT_HERE(phase) : SF_VERDICT(phase);
    uint32_t agreed = atomic_load(&entry->agreed);
    unsigned verdict = agreed >> here & 3u;

    if (atomic_load(&entry->number) != seq)
        return SF_VOTE_NO; /* a damaged file: the log keeps an entry while ranks vote on it */
    if (elsewhere && (agreed >> SF_VERDICT(phase) & 3u) != 0)
        return agreed >> SF_VERDICT(phase) & 3u;
    if (verdict == 0 && (verdict = count_votes(segment, seq, phase, give_up)) != 0)
        verdict = commit_verdict(segment, entry, here, verdict);
    if (!elsewhere || verdict == 0)
        return verdict;
    /* One no is enough. A yes waits for the other hosts until the caller gives up. */
    return verdict == SF_VOTE_NO || give_up ? commit_verdict(segment, entry, SF_VERDICT(phase), SF_VOTE_NO) : 0;
}

unsigned
sf_commit_vote(struct sf_segment *segment, uint64_t seq, enum sf_phase phase, unsigned verdict)
{
    struct sf_entry *entry = sf_entry_at(segment, seq);

    return atomic_load(&entry->number) == seq ? commit_verdict(segment, entry, SF_VERDICT(phase), verdict) : SF_VOTE_NO;
}
