/* How the hosts of a job agree on the step of a request, as a model for SPIN: spark_fast/hosts/protocol.py, answers.py
 * and gathering.py on one side, csrc/sf_log.c and csrc/sf_apply.c, cut down, on the other.
 *
 * Each host has a relay and one rank, which stands for all its ranks: agreement.pml shows that they act as one. The
 * store takes one call of one relay at a time. A value that a relay reads may be old when the relay acts on it, since the
 * other relays and the ranks move in between. A read that finds nothing although the value is there is a relay that
 * waits longer, or one that has run out of time: see EARLY.
 *
 * One d_step is one call to the store or to the run folder, together with what the relay does alone. A checkpoint is one
 * move as well. A relay that loses its connection to the store forgets the same as one that is killed, and goes on from
 * the same note: Relay.move(). So RESTARTS stands for both, and comes between any two moves. A call of which the answer
 * is lost is one that is made, and then a restart.
 *
 * Every run ends. At its end each request of a living host has a fate, each relay is at the end of the job's log, and no
 * rank waits.
 *
 * Left out: votes on a reload (votes.pml has the same rule within a host), the store's ring of 128 requests, values that
 * a user has forged (authentic.py takes them for absent), hosts that join later, a host that another takes the place of,
 * and what a status says. */

#ifndef HOSTS
#define HOSTS 2
#endif
#ifndef REQUESTS
#define REQUESTS 2
#endif
#ifndef SENDERS
#define SENDERS 2 /* hosts on which requests are sent, in turns */
#endif
#ifndef LAST
#define LAST 1 /* steps that a rank takes without a reason; it takes more if a request lies ahead */
#endif
#ifndef KINDS
#define KINDS 30 /* a set of the kinds below, a bit for each */
#endif
#ifndef DEATHS
#define DEATHS 0 /* hosts that die, relay and rank, at most */
#endif
#ifndef ENDS
#define ENDS 0 /* ranks that end by themselves or are killed, while their relays live, at most */
#endif
#ifndef RESTARTS
#define RESTARTS 0 /* relays that are killed or lose their connection, and start again, at most */
#endif
#ifndef LOST
#define LOST 0 /* 1: a relay that starts again may find its note gone */
#endif
#ifndef EARLY
#define EARLY 0 /* 1: a wait may run out of time at any moment; 0: only when nothing else in the job can move */
#endif
#ifndef GROUPS
#define GROUPS 0 /* 1: the hosts 1 and 2 are a group, which host 1 leads */
#endif

#define SET 1
#define PAUSE 2
#define RESUME 3
#define STOP 4

/* Steps begin with 1, and so does each request's id; 0 is absence. */
#define FAILED 252  /* Answer.why of a host that can't take part */
#define NOTHING 253 /* Answer.why: nothing, stopping or ended */
#define UNKNOWN 254 /* SF_TARGET_NONE of `low` */
#define VOID 255

#define ROOM (REQUESTS + RESTARTS * (1 + LOST * REQUESTS))
#define AT(h, n) ((h) * REQUESTS + (n))
#define IN(h, i) ((h) * ROOM + (i))
#define HOME(id) (((id) - 1) % SENDERS)
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define BESIDE(id) (kind[(id) - 1] != SET) /* _BESIDE in answers.py */

/* --- the job's store --- */

byte log[REQUESTS] = 0;             /* log/<n>: the id */
byte target[REQUESTS] = 0;          /* target/<n>: the step, or VOID */
byte without[REQUESTS] = 0;         /* and the hosts that were left out, a bit for each */
byte answer[HOSTS * REQUESTS] = 0;  /* low/<n>/<r> */
byte answer_park[HOSTS * REQUESTS] = 0;
byte group[REQUESTS] = 0;           /* lows/<n>/1: the largest step, or what stands for none; and the nearest park */
byte group_park[REQUESTS] = 0;
mtype = { ACTED, IDLE, DIED, TOO_LATE }
mtype done[HOSTS * REQUESTS] = 0;   /* done/<n>/<r> */
bool left[HOSTS] = 0;               /* state/<r> says that the ranks have ended, and the relay is gone */

/* --- the run folder of each host --- */

byte number[HOSTS * ROOM] = 0;      /* the host's own log: the request's number, from 1 */
byte low[HOSTS * ROOM] = 0;
byte decided[HOSTS * ROOM] = 0;     /* the entry's target: 0 open */
byte parked_at[HOSTS * ROOM] = 0;   /* the park before the entry */
byte tail[HOSTS] = 0;
byte log_park[HOSTS] = 0;           /* the fold of the host's log */
byte log_target[HOSTS] = 0;
bool log_stop[HOSTS] = 0;
byte noted[HOSTS] = 0;              /* Note.next, from 0 */
bool tried[REQUESTS] = 0;           /* Ask.tried */
mtype = { APPLIED, NOT_APPLIED, REFUSED, PARTLY }
mtype fate[REQUESTS] = 0;

/* --- the ranks --- */

byte step[HOSTS] = 0;
byte seen[HOSTS] = 0;               /* entries of the host's log that it has applied or passed */
byte park[HOSTS] = 0;
bool awaits[HOSTS] = 0;
bool over[HOSTS] = 0;               /* it has ended */

/* --- what only the model knows --- */

byte kind[REQUESTS] = 0;
byte acted_at[REQUESTS] = 0;        /* by id: where the first host has applied it */
bool acted[HOSTS * REQUESTS] = 0;   /* by host and id */
byte last_number[HOSTS] = 0;
bool dead[HOSTS] = 0;
byte deaths = 0, ends = 0, restarts = 0;

mtype = { LISTEN, SEARCH, PUT, APPEND, LOW, ANSWER, LEAD, AWAIT, DECIDE, COMMIT, TELL, LEFT, CHECKED }
mtype pc[HOSTS] = LISTEN;
bool gathers[REQUESTS] = 0; /* by id: its host's relay reads what became of it */

/* A wait has lasted for its time. */
#if EARLY
#define TIME_OVER 1
#else
#define TIME_OVER timeout
#endif
#define WAITS(h) (!dead[h] && (pc[h] == AWAIT || pc[h] == DECIDE))
#if REQUESTS > 2
#define ONE_GATHERS (GATHERS(1) || GATHERS(2) || GATHERS(3))
#elif REQUESTS > 1
#define ONE_GATHERS (GATHERS(1) || GATHERS(2))
#else
#define ONE_GATHERS GATHERS(1)
#endif
#define GATHERS(id) (gathers[(id) - 1] && !dead[HOME(id)])
#if HOSTS > 2
#define ONE_WAITS (WAITS(0) || WAITS(1) || WAITS(2))
#else
#define ONE_WAITS (WAITS(0) || WAITS(1))
#endif

/* decide() in sf_log.c, for `low`: a step that the rank has not passed, not beyond its park, not before the last target.
 * `next`: the step that a rank comes to next, or stands at if it decides this itself. */
inline decide_low(h, at, next)
{
    low[at] = next;
    if
    :: parked_at[at] > 0 && parked_at[at] < low[at] -> low[at] = parked_at[at]
    :: else -> skip
    fi;
    low[at] = MAX(low[at], log_target[h])
}

/* sf_apply_due(): the rank goes through the host's log at step[h]. */
inline look(h)
{
    awaits[h] = 0;
    do
    :: seen[h] == tail[h] || over[h] -> break
    :: else ->
        at = IN(h, seen[h]);
        if
        :: decided[at] == 0 ->
            if
            :: low[at] == UNKNOWN -> decide_low(h, at, step[h])
            :: else -> skip
            fi;
            awaits[h] = step[h] >= low[at];
            break
        :: decided[at] == VOID -> seen[h]++
        :: decided[at] != 0 && decided[at] != VOID && decided[at] > step[h] -> break
        :: else ->
            assert(decided[at] == step[h]); /* it has not run past it */
            id = log[number[at] - 1];
            assert(!acted[AT(h, id - 1)]);  /* once */
            acted[AT(h, id - 1)] = 1;
            assert(last_number[h] < number[at]); /* in the order of the job's log */
            last_number[h] = number[at];
            assert(acted_at[id - 1] == 0 || acted_at[id - 1] == step[h]); /* at one step on all hosts */
            acted_at[id - 1] = step[h];
            assert(fate[id - 1] != REFUSED && fate[id - 1] != NOT_APPLIED); /* after its sender heard the contrary */
            seen[h]++;
            if
            :: kind[id - 1] == PAUSE -> park[h] = step[h]
            :: kind[id - 1] == RESUME -> park[h] = 0
            :: kind[id - 1] == STOP -> over[h] = 1
            :: else -> skip
            fi
        fi
    od;
    at = 0; id = 0
}

#define AHEAD(h) (seen[h] < tail[h] && \
    ((decided[IN(h, seen[h])] == 0 && low[IN(h, seen[h])] > step[h]) || \
     (decided[IN(h, seen[h])] != VOID && decided[IN(h, seen[h])] > step[h])))
/* A rank that stands, by a park or before a target, is woken when its host's log has changed. */
#define WAKES(h) (seen[h] < tail[h] && \
    (decided[IN(h, seen[h])] == 0 -> \
        (low[IN(h, seen[h])] == UNKNOWN || (low[IN(h, seen[h])] <= step[h] && !awaits[h])) : \
        (awaits[h] || decided[IN(h, seen[h])] == VOID || decided[IN(h, seen[h])] <= step[h])))
#define STANDS(h) (awaits[h] || (park[h] > 0 && park[h] <= step[h]))

active [HOSTS] proctype Rank()
{
    byte at = 0, id = 0;
    byte h = _pid;

end:
    do
    /* checkpoint() */
    :: d_step {
        !dead[h] && !over[h] && !STANDS(h) && (step[h] < LAST || AHEAD(h)) ->
        step[h]++;
        look(h)
    }
    /* It looks without a step where it stands, and at its last step, which it comes to again and again. */
    :: d_step { !dead[h] && !over[h] && (STANDS(h) || (step[h] >= LAST && step[h] > 0)) && WAKES(h) -> look(h) }
    /* give_up(), after twice the bound. */
#if EARLY
    :: d_step {
        !dead[h] && awaits[h] && decided[IN(h, seen[h])] == 0 ->
        decided[IN(h, seen[h])] = VOID;
        look(h)
    }
#endif
#if ENDS
    :: d_step { ends < ENDS && !dead[h] && !over[h] -> ends++; over[h] = 1; awaits[h] = 0 }
#endif
    od
}

/* The end of a request that did not get a target: what its sender hears. */
inline refuse(id)
{
    fate[id - 1] = REFUSED;
    assert(acted_at[id - 1] == 0)
}

/* decide() in decision.py, answer by answer: `heard` and `heard_park` are the next one. */
inline take()
{
    if
    :: heard == FAILED -> failed = 1
    :: heard == NOTHING -> skip
    :: else ->
#ifdef TARGET_LEAST /* the least step, not the largest */
        largest = (largest == 0 || heard < largest -> heard : largest);
#else
        largest = MAX(largest, heard);
#endif
        nearest = (heard_park > 0 && (nearest == 0 || heard_park < nearest) -> heard_park : nearest)
    fi;
    heard = 0; heard_park = 0
}

inline decide()
{
    if
    :: failed || largest == 0 -> raw = VOID
    :: else ->
        if
        :: nearest > 0 && nearest < largest ->
            raw = (kind[id - 1] == RESUME || kind[id - 1] == STOP -> nearest : VOID)
        :: else -> raw = largest
        fi
    fi
}

/* Relay.move(), or a new process: all but the run folder is gone. */
inline forget()
{
    next = noted[h]; search_until = next + 1; id = 0; raw = 0; place = 0; said = 0; i = 0; n = 0;
    largest = 0; nearest = 0; failed = 0; beside = 0; heard_of = 0;
    do
    :: n < REQUESTS ->
        if
        :: HOME(n + 1) == h -> gathers[n] = 0; found[n] = 0
        :: else -> skip
        fi;
        if
        :: n >= next -> open[n] = 0
        :: else -> skip
        fi;
        n++
    :: else -> break
    od;
    n = 0;
    pc[h] = LISTEN
}

/* What a relay does about request k, or number k, whenever it is not at the next of the job's log. Relay.turn() has an
 * order for these; the model has none, so it knows more runs. */
#define NEXT_OF(i) (i + 1 == h -> i + 2 : i + 1)
#define OWN(k) (HOME((k) + 1) == h && fate[k] == 0)
#define OF_REQUEST(k) \
    /* _put() */ \
    :: d_step { \
        !dead[h] && pc[h] == LISTEN && OWN(k) && found[k] == 0 && !gathers[k] -> \
        id = k + 1; i = (tried[k] && SEARCHES -> 0 : next); pc[h] = SEARCH \
    } \
    /* _take_up(): the relay before has handed on the decision */ \
    :: d_step { \
        !dead[h] && pc[h] == LISTEN && OWN(k) && found[k] > 0 && found[k] <= next && !gathers[k] -> \
        assert(target[found[k] - 1] != 0); \
        if \
        :: target[found[k] - 1] == VOID -> refuse(k + 1) \
        :: else -> gathers[k] = 1 \
        fi \
    } \
    /* _report() */ \
    :: d_step { \
        !dead[h] && pc[h] == LISTEN && open[k] > 0 && (seen[h] >= open[k] || over[h]) -> \
        done[AT(h, k)] = (acted[AT(h, log[k] - 1)] -> ACTED : DIED); \
        open[k] = 0 \
    } \
    /* Gathering.look() */ \
    :: d_step { \
        !dead[h] && pc[h] == LISTEN && OWN(k) && gathers[k] && ALL_TOLD(found[k] - 1) -> \
        conclude(k, found[k] - 1) \
    } \
    :: d_step { \
        TIME_OVER && !dead[h] && pc[h] == LISTEN && OWN(k) && gathers[k] && !ALL_TOLD(found[k] - 1) -> \
        conclude(k, found[k] - 1) \
    }

#define TOLD(i, n) (done[AT(i, n)] != 0 || left[i] || (without[n] >> (i) & 1))
#if HOSTS > 2
#define ALL_TOLD(n) (TOLD(0, n) && TOLD(1, n) && TOLD(2, n))
#else
#define ALL_TOLD(n) (TOLD(0, n) && TOLD(1, n))
#endif
#if REQUESTS > 2
#define OF_EACH_REQUEST OF_REQUEST(0) OF_REQUEST(1) OF_REQUEST(2)
#define NOTHING_OPEN (!OWN(0) && !OWN(1) && !OWN(2) && open[0] == 0 && open[1] == 0 && open[2] == 0)
#elif REQUESTS > 1
#define OF_EACH_REQUEST OF_REQUEST(0) OF_REQUEST(1)
#define NOTHING_OPEN (!OWN(0) && !OWN(1) && open[0] == 0 && open[1] == 0)
#else
#define OF_EACH_REQUEST OF_REQUEST(0)
#define NOTHING_OPEN (!OWN(0) && open[0] == 0)
#endif
#ifdef NO_SEARCH /* a request that may stand in the job's log already is not looked for */
#define SEARCHES 0
#else
#define SEARCHES 1
#endif

/* combine() in decision.py: request k, from 0, has the number n. What hosts tell stays, so it is read in one move. */
inline conclude(k, n)
{
    late = 0; untold = 0; i = 0;
    do
    :: i < HOSTS ->
        if
        :: without[n] >> i & 1 -> skip
        :: else ->
            late = late || done[AT(i, n)] == TOO_LATE;
            if
            :: !TOLD(i, n) ->
                untold = 1;
                assert(EARLY || dead[i]) /* a host that lives tells what it did */
            :: else -> skip
            fi
        fi;
        i++
    :: else -> break
    od;
    if
    :: late || untold -> fate[k] = PARTLY
    :: !late && !untold && acted_at[k] == 0 -> fate[k] = (without[n] == 0 -> NOT_APPLIED : PARTLY)
    :: else ->
        fate[k] = APPLIED;
        i = 0;
        do
        :: i < HOSTS ->
            /* All have done it: but for hosts that it does not concern, those that were left out, and dead ranks. */
            assert(acted[AT(i, k)] || over[i] || log_stop[i] ||
                (kind[k] != SET && (done[AT(i, n)] == IDLE || (without[n] >> i & 1))));
            i++
        :: else -> break
        od
    fi;
    late = 0; untold = 0; i = 0;
    gathers[k] = 0
}

active [HOSTS] proctype Relay()
{
    byte h = _pid - HOSTS;
    byte search_until = 1;   /* behind Relay._begun: the requests before it are looked for in the host's log */
    byte next = 0;           /* Note.next */
    byte open[REQUESTS] = 0; /* Note.open: by number, the entry of the host's log, from 1 */
    byte found[REQUESTS] = 0; /* Relay._numbers: by id, the number, from 1 */
    byte id = 0, raw = 0;
    byte place = 0, said = 0; /* Appended.seq, and the step that it answers, or why there is none */
    byte largest = 0, nearest = 0, beside = 0, heard = 0, heard_park = 0;
    bool heard_of = 0;       /* it has asked whether the host's ranks have ended */
    bool failed = 0, late = 0, untold = 0;
    byte i = 0, n = 0;

    do
    OF_EACH_REQUEST

    /* --- _send(): a request of this host is put into the job's log --- */

    /* _search(). Places only fill, so what it finds was so at the moment of its last read. */
    :: atomic {
        !dead[h] && pc[h] == SEARCH ->
        if
        :: kind[id - 1] == 0 && (KINDS & (1 << SET)) -> kind[id - 1] = SET
        :: kind[id - 1] == 0 && (KINDS & (1 << PAUSE)) -> kind[id - 1] = PAUSE
        :: kind[id - 1] == 0 && (KINDS & (1 << RESUME)) -> kind[id - 1] = RESUME
        :: kind[id - 1] == 0 && (KINDS & (1 << STOP)) -> kind[id - 1] = STOP
        :: kind[id - 1] != 0 -> skip
        fi;
        d_step {
            do
            :: i < REQUESTS && log[i] != 0 && log[i] != id -> i++
            :: else -> break
            od;
            if
            :: i < REQUESTS && log[i] == id -> found[id - 1] = i + 1; i = 0; id = 0; pc[h] = LISTEN
            :: else -> tried[id - 1] = 1; pc[h] = PUT
            fi
        }
    }
    /* The compare-and-swap */
    :: d_step {
        !dead[h] && pc[h] == PUT ->
        assert(i < REQUESTS); /* a request stands in the log once */
        if
        :: log[i] == 0 -> log[i] = id
        :: else -> skip
        fi;
        if
        :: log[i] == id -> found[id - 1] = i + 1; i = 0; id = 0; pc[h] = LISTEN
        :: else -> i++
        fi
    }

    /* --- _follow() and _settle(): the next request of the job's log --- */

    /* It reads log/<n>, saves its note, reads target/<n> if it has just begun, and looks into the host's log:
     * RunFolder.find(). What changes between these has the effect that it has when it changes a moment later. */
    :: d_step {
        !dead[h] && pc[h] == LISTEN && next < REQUESTS && log[next] != 0 ->
        id = log[next];
#ifndef NO_SAVE /* the note is kept later */
        noted[h] = next;
#endif
        raw = (next < search_until -> target[next] : 0);
        place = 0; said = 0;
#ifndef NO_FIND /* what the relay before has appended is not looked for */
        i = (next < search_until -> tail[h] : 0);
        do
        :: i > 0 && number[IN(h, i - 1)] != next + 1 -> i--
        :: else -> break
        od;
        if
        :: i > 0 && low[IN(h, i - 1)] == UNKNOWN ->
            if
            :: decided[IN(h, i - 1)] == 0 -> decided[IN(h, i - 1)] = VOID
            :: else -> skip
            fi
        :: i > 0 && low[IN(h, i - 1)] != UNKNOWN ->
            place = i;
            said = (decided[IN(h, i - 1)] == VOID -> FAILED : low[IN(h, i - 1)])
        :: else -> skip
        fi;
        i = 0;
#endif
        if
        :: place == 0 && raw != VOID -> pc[h] = APPEND
        :: else -> pc[h] = (raw == 0 -> ANSWER : COMMIT)
        fi
    }
    /* RunFolder.append(): the entry is published, then `low` is decided. */
    :: d_step {
        !dead[h] && pc[h] == APPEND ->
        if
        :: over[h] || log_stop[h] || (kind[id - 1] == RESUME && log_park[h] == 0) ->
            said = NOTHING;
            pc[h] = (raw == 0 -> ANSWER : COMMIT)
        :: else ->
            i = IN(h, tail[h]);
            number[i] = next + 1;
            low[i] = UNKNOWN;
            parked_at[i] = log_park[h];
            tail[h]++;
            i = 0;
            place = tail[h];
            pc[h] = LOW
        fi
    }
    :: d_step {
        !dead[h] && pc[h] == LOW ->
        i = IN(h, place - 1);
        if
        :: low[i] == UNKNOWN ->
#ifdef LOW_IS_STEP /* the step that a rank is at, not the next */
            decide_low(h, i, step[h])
#else
            decide_low(h, i, step[h] + 1)
#endif
        :: else -> skip
        fi;
        said = low[i];
        i = 0;
        pc[h] = (raw == 0 -> ANSWER : COMMIT)
    }
    :: d_step {
        !dead[h] && pc[h] == ANSWER ->
        if
        :: HOME(id) == h ->
            largest = 0; nearest = 0; failed = 0; beside = 0; i = (h == 0);
            heard = said;
            heard_park = (place > 0 -> parked_at[IN(h, place - 1)] : 0);
            take();
            pc[h] = DECIDE
        :: else ->
            answer[AT(h, next)] = said;
            answer_park[AT(h, next)] = (place > 0 -> parked_at[IN(h, place - 1)] : 0);
            pc[h] = (GROUPS && h == 1 && HOME(id) == 0 -> LEAD : AWAIT)
        fi
    }
#if GROUPS
    /* Answers.gather(): the lead has read all, or tells nothing. */
    :: d_step {
#ifdef LEAD_ALONE /* the lead tells what it has read, though that is not all */
        !dead[h] && pc[h] == LEAD ->
#else
        !dead[h] && pc[h] == LEAD && answer[AT(2, next)] != 0 ->
#endif
        largest = 0; nearest = 0; failed = 0;
        heard = said;
        heard_park = answer_park[AT(1, next)];
        take();
        if
        :: answer[AT(2, next)] != 0 -> heard = answer[AT(2, next)]; heard_park = answer_park[AT(2, next)]; take()
        :: else -> skip
        fi;
        group[next] = (failed -> FAILED : (largest == 0 -> NOTHING : largest));
        group_park[next] = nearest;
        largest = 0; nearest = 0; failed = 0;
        pc[h] = AWAIT
    }
    :: d_step { !dead[h] && pc[h] == LEAD -> pc[h] = AWAIT }
    :: d_step {
        !dead[h] && pc[h] == DECIDE && h == 0 && i == 1 && group[next] != 0 ->
        heard = group[next];
        heard_park = group_park[next];
        take();
        i = HOSTS; heard_of = 0
    }
#endif
    /* _await(): the decision, or the end of the time that the asked host has. */
    :: d_step { !dead[h] && pc[h] == AWAIT && target[next] != 0 -> raw = target[next]; pc[h] = COMMIT }
#ifndef NO_TAKEOVER /* only the asked host decides */
    :: d_step {
        TIME_OVER && !dead[h] && pc[h] == AWAIT && (EARLY || !WAITS(HOME(id))) -> /* whose time is shorter */
#if !EARLY
        assert(dead[HOME(id)]); /* a host that lives decides */
#endif
#ifdef VOID_STORED /* stored, not swapped */
        target[next] = VOID;
#else
        target[next] = (target[next] == 0 -> VOID : target[next]);
#endif
        raw = target[next];
        pc[h] = COMMIT
    }
#endif
    /* Answers.ask(): what each of the other hosts answers. A host that does not is left out, where it was silent for
     * long and the request is such that hosts can be brought together again after it. */
    :: d_step {
        !dead[h] && pc[h] == DECIDE && i < HOSTS && answer[AT(i, next)] != 0 ->
        heard = answer[AT(i, next)];
        heard_park = answer_park[AT(i, next)];
        take();
        i = NEXT_OF(i); heard_of = 0
    }
    /* Roster.hear(), once: a host that has ended by then has no part in it. For the answer of another it waits. */
    :: d_step {
        !dead[h] && pc[h] == DECIDE && i < HOSTS && answer[AT(i, next)] == 0 && !heard_of ->
        if
        :: left[i] -> i = NEXT_OF(i)
        :: else -> heard_of = 1
        fi
    }
    :: d_step {
        TIME_OVER && !dead[h] && pc[h] == DECIDE && i < HOSTS && heard_of ->
#if !EARLY
        assert(dead[i]); /* a host that lives answers */
#endif
#ifdef LEAVES_OUT_ANY
        beside = beside | (1 << i);
#else
        if
        :: BESIDE(id) -> beside = beside | (1 << i)
        :: else -> failed = 1
        fi;
#endif
        i = NEXT_OF(i); heard_of = 0
    }
    :: d_step {
        !dead[h] && pc[h] == DECIDE && i == HOSTS ->
        decide();
        if
        :: target[next] == 0 -> target[next] = raw; without[next] = beside
        :: else -> skip
        fi;
        raw = target[next];
        largest = 0; nearest = 0; failed = 0; beside = 0; i = 0;
        pc[h] = COMMIT
    }
    /* The decision is handed to the ranks: RunFolder.commit(), a swap. */
    :: d_step {
        !dead[h] && pc[h] == COMMIT ->
        late = 0;
        if
        :: place > 0 ->
            i = IN(h, place - 1);
#ifndef NO_LATE /* the target is taken though the ranks may be past it */
            late = raw != VOID && (said == FAILED || raw < said || (parked_at[i] > 0 && parked_at[i] < raw));
#endif
            n = (late -> VOID : raw);
            if
#ifdef COMMIT_STORED /* stored, not swapped */
            :: true ->
#else
            :: decided[i] == 0 ->
#endif
                decided[i] = n;
                if
                :: n != VOID ->
                    log_target[h] = n;
                    if
                    :: kind[id - 1] == PAUSE -> log_park[h] = n
                    :: kind[id - 1] == RESUME -> log_park[h] = 0
                    :: kind[id - 1] == STOP -> log_park[h] = 0; log_stop[h] = 1
                    :: else -> skip
                    fi
                :: else -> skip
                fi
            :: else -> skip
            fi;
            late = late || (raw != VOID && decided[i] != raw);
            i = 0; n = 0
        :: else -> skip
        fi;
        pc[h] = TELL
    }
    :: d_step {
        !dead[h] && pc[h] == TELL ->
        if
        :: raw != VOID && late -> done[AT(h, next)] = TOO_LATE
        :: raw != VOID && !late && place == 0 -> done[AT(h, next)] = IDLE
        :: raw != VOID && !late && place > 0 -> open[next] = place
        :: else -> skip
        fi;
        if
        :: HOME(id) == h && fate[id - 1] == 0 ->
            found[id - 1] = next + 1;
            if
            :: raw == VOID -> refuse(id)
            :: else -> gathers[id - 1] = 1
            fi
        :: else -> skip
        fi;
        if
        :: HOME(id) != h -> answer[AT(h, next)] = 0; answer_park[AT(h, next)] = 0 /* _forget() */
        :: else -> skip
        fi;
        next++;
        id = 0; raw = 0; place = 0; said = 0; late = 0;
        pc[h] = LISTEN
    }

#if RESTARTS
    /* _save_later() */
    :: d_step { !dead[h] && pc[h] == LISTEN && noted[h] < next -> noted[h] = next }
    /* A relay is killed, or loses its connection. */
    :: d_step {
        restarts < RESTARTS && !dead[h] && pc[h] != LEFT && pc[h] != CHECKED ->
        restarts++;
        forget()
    }
#if LOST
    :: d_step {
        restarts < RESTARTS && !dead[h] && pc[h] != LEFT && pc[h] != CHECKED ->
        restarts++;
        noted[h] = 0;
        forget();
#ifndef SEARCH_ONE /* only the first request is looked for, as if the note were there */
        do
        :: search_until < REQUESTS && log[search_until] != 0 -> search_until++ /* _find_tail() */
        :: else -> break
        od;
        n = 0
#endif
    }
#endif
#endif
#if DEATHS
    :: d_step {
        deaths < DEATHS && !dead[h] && pc[h] != CHECKED ->
        deaths++;
        forget();
        dead[h] = 1;
        awaits[h] = 0
    }
#endif
    /* leave(): no rank of this host lives, and its senders wait for nothing. The relay says so, then takes the requests
     * that came until then. */
    :: d_step {
        !dead[h] && pc[h] == LISTEN && over[h] && !left[h] && NOTHING_OPEN ->
        left[h] = 1;
#ifdef LEAVES_DEAF /* it takes no more */
        pc[h] = LEFT;
#endif
    }
    :: d_step { !dead[h] && pc[h] == LISTEN && left[h] && (next == REQUESTS || log[next] == 0) -> pc[h] = LEFT }
    /* Nothing else in the job can move. */
    :: d_step {
        timeout && !ONE_WAITS && !ONE_GATHERS && !dead[h] && pc[h] != CHECKED ->
        assert(pc[h] == LEFT || (pc[h] == LISTEN && NOTHING_OPEN)); /* or a sender waits for ever */
        assert(pc[h] == LEFT || next == REQUESTS || log[next] == 0);
        assert(!awaits[h]); /* or a rank waits for ever */
#if !EARLY
        /* Of the hosts that live, all have done a request or none. */
        n = 0;
        do
        :: n < REQUESTS ->
            assert(acted_at[n] == 0 || acted[AT(h, n)] || over[h]);
            n++
        :: else -> break
        od;
        n = 0;
#endif
        pc[h] = CHECKED
    }
    :: dead[h] || pc[h] == CHECKED -> break
    od
}
