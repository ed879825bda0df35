/* Votes of the ranks on an entry that all of them have applied: whether they go on with a reload. */
#ifndef SF_VOTE_H
#define SF_VOTE_H

#include "sf_log.h"

/* Gives the vote of the rank in `slot` on an entry that this rank has applied. */
void sf_vote(struct sf_segment *segment, uint64_t seq, uint32_t slot, enum sf_phase phase, int yes);

/* The verdict of the living ranks: SF_VOTE_YES once all have voted yes, SF_VOTE_NO once one has voted no; 0 while it is
 * open. The first call that finds a verdict commits it, for all. `give_up`: commits a no if it is still open. If other
 * hosts have a say in the entry, a yes needs them too: see sf_commit_vote(). */
unsigned sf_agreed(struct sf_segment *segment, uint64_t seq, enum sf_phase phase, int give_up);

/* Commits the verdict of all hosts, for an entry that they have a say in. Returns the verdict that holds: another one
 * if another process was first. */
unsigned sf_commit_vote(struct sf_segment *segment, uint64_t seq, enum sf_phase phase, unsigned verdict);

#endif
