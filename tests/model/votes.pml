/* How ranks agree that a reload is done by all of them or by none: two-phase votes, as a model for SPIN.
 *
 * After entry e has come due, a rank goes through the phases ready, executed and proved. In each it stores its vote for
 * (e, phase) in its own slot: sf_vote() in csrc/sf_vote.c. Then it looks: sf_agreed(), which goes through the votes of
 * all ranks and swaps the entry's agreed[phase] from open to yes, if all that are there said yes, or to no, if one said
 * no or this one has waited too long. It does what agreed[phase] says, whoever swapped it. After a no it takes its part
 * back and goes on to what the log says next. agree() in spark_fast/worker/reload/vote.py is the loop around both.
 *
 * A new rank may take the slot of one that died: sf_worker_join(), find_front(), apply_passed(). It begins behind
 * what the others are at, and counts as one that has said yes to all of that.
 *
 * One d_step is one access to shared memory, together with what the process does alone. A wait is for the header's
 * `changes` to move from what it was before the look: `moved` stands for that. Every run ends, and who has not
 * gone through all entries by then waits for ever.
 *
 * Left out: what is executed and how it is taken back; SF_VOTE_OVER of a rank that has read a verdict, which is a yes
 * to all but the log's end. How far the others are is read rank by rank, and only ever grows: what is found was so at
 * some moment in between, so it is one move. */

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

#ifndef TAKES
#define TAKES 0 /* 1: a new rank takes the slot of one that died, at any time */
#endif

#define PHASES 3
#define BALLOTS (ENTRIES * PHASES) /* (e, phase) as e * PHASES + phase */

#define OPEN 0
#define YES 1
#define NO 2

/* --- shared memory --- */

byte agreed[BALLOTS] = OPEN; /* sf_entry */
byte ballot[RANKS] = 0;      /* sf_slot: the vote, one word: the ballot, from 1; 0 before the first vote */
byte applied[RANKS] = 0;
byte vote[RANKS] = OPEN;
bool gone[RANKS] = 0;        /* dead: sf_slot_alive() */
bool joined = !JOINS;

bool moved[RANKS] = 0;  /* sf_header.changes is another than this rank loaded before its look */
bool asleep[RANKS] = 0; /* the kernel's */

/* --- what only the model knows --- */

byte deaths = 0;
byte acted[BALLOTS] = OPEN; /* what the first rank to go on took for agreed */
byte takes = 0;
byte oldest[RANKS] = 0; /* the ballot from which on this rank is asked: those before it found it there already */

#define LATE (RANKS - 1)
#define TAKEN(r) (joined || (r) != LATE)
#define MINE (e * PHASES + phase)
#define LATER(r) (oldest[r] > MINE || (JOINS && (r) == LATE)) /* what r says of this, it says when it is asked no more */

/* What a look would find. Wakes have to do while nobody has died before one that he owed; later, whoever sleeps looks
 * around now and then, and a look that finds the same again changes nothing. */
#ifdef DEAD_COUNT /* the dead are waited for */
#define ASKED(r) TAKEN(r)
#else
#define ASKED(r) (TAKEN(r) && !gone[r])
#endif
/* count_votes(): whoever is further on has said yes. */
#ifdef BEHIND_IS_YES /* and whoever is not so far */
#define SAID(r) (ballot[r] == MINE + 1 -> vote[r] : YES)
#elif !defined(ANY_BALLOT)
#define SAID(r) (ballot[r] == MINE + 1 -> vote[r] : (ballot[r] > MINE + 1 -> YES : OPEN))
#else /* a vote is taken for one of this phase whatever it was for */
#define SAID(r) vote[r]
#endif
#define SETTLES(r) (!ASKED(r) || SAID(r) == YES)
#define REFUSES(r) (ASKED(r) && SAID(r) == NO)
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

mtype = {
    BEGIN, VOTE, TELL_VOTE, COUNTER, AGREED, VOTES, THERE, DECIDE, TELL, WAIT, SLEEP, FINISHED, DEAD, CHECKED,
    JOIN, FRONT, FILL, SEAT, TELL_JOIN
}

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

/* The loop over ranks in sf_agreed(). A rank that has said no counts itself as any other does. */
inline to_next_rank()
{
    i++;
    says = OPEN;
    if
    :: found == NO || i == RANKS ->
        i = 0;
        last = 0;
        pc = (found == OPEN -> WAIT : DECIDE);
#ifdef VOTE_AFTER_LOOK
        ballot[_pid] = MINE + 1;
        vote[_pid] = mine;
#endif
#ifdef COUNTER_AFTER_LOOK
        moved[_pid] = 0;
#endif
    :: else -> pc = VOTES
    fi
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
    mine = OPEN; found = OPEN; last = 0;
    pc = (e == ENTRIES -> FINISHED : BEGIN)
}

active [RANKS] proctype Rank()
{
    mtype pc = (JOINS && _pid == LATE -> JOIN : BEGIN);
    byte e = 0, phase = 0;
    byte mine = OPEN;  /* what it votes */
    byte found = OPEN; /* sf_agreed()'s verdict so far: YES, NO, or OPEN for a vote that is missing */
    byte says = OPEN;  /* the vote that it has loaded */
    bool last = 0;     /* it has waited too long: its last look, give_up */
    byte i = 0, n = 0;

end:
    do
    /* A rank that comes late begins with the log's first entry. */
    :: d_step { pc == JOIN -> pc = FILL }

#if TAKES
    /* One that takes a slot: sf_worker_join_locked(). How far the others are, or those were that died; perhaps one entry more,
     * if that is due where they stand. */
    :: d_step { pc == DEAD && takes < TAKES -> takes++; pc = FRONT }
    :: atomic {
        pc == FRONT ->
        d_step {
            i = 0; n = 0; e = 0;
            do
            :: n < RANKS -> i = i + !gone[n]; n++
            :: else -> break
            od;
            n = 0;
            do
            :: n < RANKS -> e = ((!gone[n] || i == 0) && applied[n] > e -> applied[n] : e); n++
            :: else -> break
            od;
            i = 0; n = 0
        }
        if
        :: e < ENTRIES -> e++ /* apply_passed() */
        :: true
        fi;
        pc = FILL
    }
#endif
    /* What stands in the log by now, it has said yes to: SF_VOTE_OVER. More may be appended later. */
    :: atomic {
        pc == FILL ->
        n = e;
        do
        :: n < ENTRIES -> n++
        :: break
        od;
        d_step {
#ifndef FILL_NO_VOTE /* the vote of the one before stays */
            ballot[_pid] = n * PHASES;
            vote[_pid] = (n > 0 -> YES : OPEN);
#endif
            oldest[_pid] = n * PHASES;
            applied[_pid] = e;
            n = 0;
            pc = SEAT
        }
    }
    :: d_step {
        pc == SEAT ->
        gone[_pid] = 0;
        joined = 1;
        moved[_pid] = 1;
        /* What another has begun with may be decided without it. */
        n = 0;
        do
        :: n < RANKS ->
            oldest[_pid] = (applied[n] * PHASES > oldest[_pid] -> applied[n] * PHASES : oldest[_pid]);
            n++
        :: else -> break
        od;
        n = 0;
        pc = TELL_JOIN
    }
    :: d_step { pc == TELL_JOIN -> announce(); pc = (e == ENTRIES -> FINISHED : BEGIN) }

    /* The entry has come due, or the phase is done. A rank that comes late may find it decided: then it has no vote. */
    :: d_step {
        pc == BEGIN && agreed[MINE] != OPEN ->
        assert(agreed[MINE] == NO || LATER(_pid));
        applied[_pid] = e + 1;
        n = agreed[MINE];
        next_ballot(n);
        n = 0
    }
    :: d_step { pc == BEGIN && agreed[MINE] == OPEN -> applied[_pid] = e + 1; mine = YES; pc = VOTE }
    :: d_step { pc == BEGIN && agreed[MINE] == OPEN -> applied[_pid] = e + 1; mine = NO; pc = VOTE }

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
            assert(!(mine == NO && agreed[MINE] == YES) || LATER(_pid)); /* a no of a rank that lives is heard */
            n = agreed[MINE];
            next_ballot(n);
            n = 0
        :: else -> pc = VOTES; i = 0; found = YES
        fi
    }
    :: d_step {
        pc == VOTES ->
#ifndef VOTE_AFTER_LOOK
        says = SAID(i);
#else
        says = (i == _pid -> mine : SAID(i));
#endif
        if
        :: says != YES && (says == NO || found != OPEN) -> pc = THERE /* else it is asked for nothing */
        :: else -> to_next_rank()
        fi
    }
    /* is_there() */
    :: d_step {
        pc == THERE ->
        if
        :: ASKED(i) -> found = (says == NO || last -> NO : OPEN)
        :: else -> skip
        fi;
        to_next_rank()
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
                assert(gone[n] || LATER(n) || ballot[n] > MINE + 1 ||
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
    :: d_step { pc == SLEEP -> asleep[_pid] = 0; found = OPEN; last = 1; pc = COUNTER }
#endif

    :: d_step {
        deaths < DEATHS && pc != DEAD && pc != CHECKED && (pc != FINISHED || TAKES) && !gone[_pid] ->
        deaths++;
        gone[_pid] = 1;
        asleep[_pid] = 0; moved[_pid] = 0;
        e = 0; phase = 0; mine = OPEN; found = OPEN; says = OPEN; last = 0; i = 0;
        pc = DEAD
    }
    :: d_step {
        timeout && pc != CHECKED ->
        assert(pc == DEAD || pc == FINISHED); /* or it waits for ever */
        pc = CHECKED
    }
    od
}
