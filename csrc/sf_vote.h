/* Votes of the ranks on an entry that all of them have applied: whether they go on with a reload. */
#ifndef SF_VOTE_H
#define SF_VOTE_H

#include "sf_log.h"

/* Gives the vote of the rank in `slot` on an entry that it has applied. */
void sf_vote(struct sf_segment *segment, uint64_t seq, uint32_t slot, enum sf_phase phase, int yes);

/* What the ranks that live have agreed on: SF_VOTE_YES once all have said so, SF_VOTE_NO once one has; 0 if it is open.
 * Whoever asks first settles it, for all. `give_up`: settles it against, if it is still open. Where other hosts have a
 * say in the entry, a yes is the other hosts' too: see sf_commit_vote(). */
unsigned sf_agreed(struct sf_segment *segment, uint64_t seq, enum sf_phase phase, int give_up);

/* Commits what all hosts have agreed on, for an entry that they have a say in. What stands: another verdict if somebody
 * was first. */
unsigned sf_commit_vote(struct sf_segment *segment, uint64_t seq, enum sf_phase phase, unsigned verdict);

#endif
