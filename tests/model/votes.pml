/* How ranks agree that a reload is done by all of them or by none: two-phase votes, as a model for SPIN.
 *
 * After entry e has come due, a rank goes through the phases ready, executed and proved. In each it stores its vote for
 * (e, phase) in its own slot, then looks at the votes of all ranks that are taken and alive, then swaps the entry's
 * agreed[phase] from open to yes, if all said yes, or to no, if one said no or it has waited too long. It does what
 * agreed[phase] says, whoever swapped it. After a no it takes its part back and goes on to what the log says next.
 *
 * One d_step is one access to shared memory, together with what the process does alone. A wait is for the header's
 * `changes` to move from what it was before the look: `moved` stands for that. Every run ends, and who has not
 * gone through all entries by then waits for ever.
 *
 * Left out: what is executed and how it is taken back; a slot that a new rank takes over from a dead one. */

#ifndef RANKS
#define RANKS 2
#endif
#ifndef ENTRIES
#define ENTRIES 1 /* reloads, one after the other */
#endif
#ifndef DEATHS
#define DEATHS 0 /* at most */
#endif
#ifndef IMPATIENT
#define IMPATIENT 0 /* 1: a rank may find at any time that it has waited too long */
#endif
#ifndef JOINS
#define JOINS 0 /* 1: the last rank attaches at any time and goes through all entries from the first */
#endif

#define PHASES 3
#define BALLOTS (ENTRIES * PHASES) /* (e, phase) as e * PHASES + phase */

#define OPEN 0
#define YES 1
#define NO 2

/* --- shared memory --- */

byte agreed[BALLOTS] = OPEN; /* sf_entry */
byte ballot[RANKS] = 0;      /* sf_slot: the vote, one word: the ballot, from 1; 0 before the first vote */
byte vote[RANKS] = OPEN;
bool gone[RANKS] = 0;        /* dead: sf_slot_alive() */
bool joined = !JOINS;

bool moved[RANKS] = 0;  /* sf_header.changes is another than this rank loaded before its look */
bool asleep[RANKS] = 0; /* the kernel's */

/* --- what only the model knows --- */

byte deaths = 0;
byte acted[BALLOTS] = OPEN; /* what the first rank to go on took for agreed */

#define LATE (RANKS - 1)
#define TAKEN(r) (joined || (r) != LATE)
#define MINE (e * PHASES + phase)

/* What a look would find. Wakes have to do while nobody has died before one that he owed; later, whoever sleeps looks
 * around now and then, and a look that finds the same again changes nothing. */
#ifdef DEAD_COUNT /* the dead are waited for */
#define ASKED(r) TAKEN(r)
#else
#define ASKED(r) (TAKEN(r) && !gone[r])
#endif
#define SAYS(r, what) (ballot[r] == MINE + 1 && vote[r] == what)
#define SETTLES(r) ((r) == _pid || !ASKED(r) || SAYS(r, YES))
#define REFUSES(r) (ASKED(r) && SAYS(r, NO))
#if RANKS > 2
#define ALL_SETTLE (SETTLES(0) && SETTLES(1) && SETTLES(2))
#define ONE_SAYS_NO (REFUSES(0) || REFUSES(1) || REFUSES(2))
#else
#define ALL_SETTLE (SETTLES(0) && SETTLES(1))
#define ONE_SAYS_NO (REFUSES(0) || REFUSES(1))
#endif
#define FINDS (agreed[MINE] != OPEN || ALL_SETTLE || ONE_SAYS_NO)
#ifdef NO_SLICES
#define LOOKS_AROUND 0
#else
#define LOOKS_AROUND (deaths > 0 && FINDS)
#endif

mtype = { BEGIN, VOTE, TELL_VOTE, COUNTER, AGREED, OTHERS, DECIDE, TELL, WAIT, SLEEP, FINISHED, DEAD, JOIN, CHECKED }

/* sf_announce() */
inline announce()
{
    n = 0;
    do
    :: n < RANKS -> moved[n] = 1; asleep[n] = 0; n++
    :: else -> break
    od;
    n = 0
}

/* For `e`, `phase`: on to the next ballot; after a no, to the next entry's first. */
inline next_ballot(outcome)
{
    assert(acted[MINE] == OPEN || acted[MINE] == outcome); /* all do the same */
    acted[MINE] = outcome;
    if
    :: outcome == YES && phase < PHASES - 1 -> phase++
    :: else -> phase = 0; e++
    fi;
    mine = OPEN; found = OPEN;
    pc = (e == ENTRIES -> FINISHED : BEGIN)
}

active [RANKS] proctype Rank()
{
    mtype pc = (JOINS && _pid == LATE -> JOIN : BEGIN);
    byte e = 0, phase = 0;
    byte mine = OPEN;  /* what it votes */
    byte found = OPEN; /* what its look has found so far: YES, NO, or OPEN for a vote that is missing */
    byte i = 0, n = 0;

end:
    do
    :: d_step { pc == JOIN -> joined = 1; pc = BEGIN }

    /* The entry has come due, or the phase is done. A rank that comes late may find it decided: then it has no vote. */
    :: d_step {
        pc == BEGIN && agreed[MINE] != OPEN ->
        assert(agreed[MINE] == NO || (JOINS && _pid == LATE));
        n = agreed[MINE];
        next_ballot(n);
        n = 0
    }
    :: d_step { pc == BEGIN && agreed[MINE] == OPEN -> mine = YES; pc = VOTE }
    :: d_step { pc == BEGIN && agreed[MINE] == OPEN -> mine = NO; pc = VOTE }

    :: d_step {
        pc == VOTE ->
#ifndef VOTE_AFTER_LOOK
        ballot[_pid] = MINE + 1;
        vote[_pid] = mine;
#endif
        pc = TELL_VOTE
    }
    :: d_step {
        pc == TELL_VOTE ->
#if !defined(VOTE_NOT_TOLD) && !defined(VOTE_AFTER_LOOK)
        announce();
#endif
        pc = COUNTER
    }

    /* The look: the counter of changes first, what is agreed, then each rank. */
    :: d_step { pc == COUNTER -> moved[_pid] = 0; pc = AGREED }
    :: d_step {
        pc == AGREED ->
        if
        :: agreed[MINE] != OPEN ->
            assert(!(mine == NO && agreed[MINE] == YES) || JOINS); /* a no of a rank that lives is heard */
            n = agreed[MINE];
            next_ballot(n);
            n = 0
        :: else -> pc = OTHERS; i = 0; found = YES
        fi
    }
    :: d_step {
        pc == OTHERS ->
        if
        :: i == _pid -> found = (mine == NO -> NO : found)
        :: i != _pid ->
            if
            :: !ASKED(i) -> skip
            :: else ->
                if
#ifndef ANY_BALLOT /* a vote is taken for one of this phase whatever it was for */
                :: ballot[i] == MINE + 1 && vote[i] == NO -> found = NO
                :: ballot[i] != MINE + 1 -> found = (found == YES -> OPEN : found)
#else
                :: vote[i] == NO -> found = NO
                :: vote[i] == OPEN -> found = (found == YES -> OPEN : found)
#endif
                :: else -> skip
                fi
            fi
        fi;
        i++;
        if
        :: found == NO || i == RANKS ->
            i = 0;
            pc = (found == OPEN -> WAIT : DECIDE);
#ifdef VOTE_AFTER_LOOK
            ballot[_pid] = MINE + 1;
            vote[_pid] = mine;
#endif
#ifdef COUNTER_AFTER_LOOK
            moved[_pid] = 0;
#endif
        :: else -> skip
        fi
    }

    /* The compare-and-swap. Who finds that somebody was first does what that one has decided. */
    :: d_step {
        pc == DECIDE ->
#ifndef DECISION_STORED /* a store in its place */
        if
        :: agreed[MINE] == OPEN -> agreed[MINE] = found
        :: else -> skip
        fi;
#else
        agreed[MINE] = found;
#endif
        if
        :: found == YES && agreed[MINE] == YES ->
            /* Every rank that lives and was there to be asked has said yes: it votes for this, or has gone on. */
            n = 0;
            do
            :: n < RANKS ->
                assert(gone[n] || (JOINS && n == LATE) || ballot[n] > MINE + 1 ||
                    (ballot[n] == MINE + 1 && vote[n] == YES));
                n++
            :: else -> break
            od;
            n = 0
        :: else -> skip
        fi;
        pc = TELL
    }
    :: d_step {
        pc == TELL ->
#ifndef DECISION_NOT_TOLD
        announce();
#endif
#ifndef OWN_MIND /* a rank does what it has found, and not what was decided */
        found = agreed[MINE];
#endif
        next_ballot(found)
    }

    /* sf_wait(): the kernel compares the counter and puts to sleep in one move. */
    :: d_step { pc == WAIT -> asleep[_pid] = !moved[_pid]; pc = SLEEP }
    :: d_step { pc == SLEEP && !asleep[_pid] -> found = OPEN; pc = COUNTER }
    :: d_step { pc == SLEEP && asleep[_pid] && LOOKS_AROUND -> asleep[_pid] = 0 }
#if IMPATIENT
    :: d_step { pc == SLEEP -> asleep[_pid] = 0; found = NO; pc = DECIDE }
#endif

    :: d_step {
        deaths < DEATHS && pc != DEAD && pc != FINISHED && pc != CHECKED ->
        deaths++;
        gone[_pid] = 1;
        asleep[_pid] = 0; moved[_pid] = 0;
        e = 0; phase = 0; mine = OPEN; found = OPEN; i = 0;
        pc = DEAD
    }
    :: d_step {
        timeout && pc != CHECKED ->
        assert(pc == DEAD || pc == FINISHED); /* or it waits for ever */
        pc = CHECKED
    }
    od
}
