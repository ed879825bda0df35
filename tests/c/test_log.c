/* The log: its room, its lock, entries without a target, and checkpoints that do not count. */
#include "one_rank.h"

TEST(values_and_calls_leave_room_for_a_stop)
{
    BEGIN;
    struct sf_request request = request_of(SF_SET, 0);
    struct sf_receipt receipt;

    for (unsigned i = 0; i < SF_LOG_CAPACITY - SF_LOG_SPARE; i++)
        ask(&segment, i % 2 ? SF_SET : SF_CALL, 0);
    CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
    request = request_of(SF_CALL, 0);
    CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
    ask(&segment, SF_STOP, 0);
    END;
}

TEST(a_full_log_names_the_rank_and_empties_again)
{
    BEGIN;
    struct sf_request request = request_of(SF_PAUSE, 1000);
    struct sf_receipt receipt;

    for (int i = 0; i < (int)SF_LOG_CAPACITY; i++)
        ask(&segment, SF_PAUSE, 1000);
    for (int i = 0; i < 3; i++) {
        receipt.stuck_rank = 99;
        CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
        CHECK_EQ(receipt.stuck_rank, 0);
        CHECK_EQ(view_of(path).tail, SF_LOG_CAPACITY);
    }
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK_EQ(slot_of(path).applied, SF_LOG_CAPACITY);
    for (uint64_t seq = 1; seq < SF_LOG_CAPACITY; seq++)
        SUPERSEDED_BY(seq, seq + 1);
    OPEN(SF_LOG_CAPACITY);
    for (int i = 0; i < (int)SF_LOG_CAPACITY; i++)
        ask(&segment, SF_PAUSE, 1000);
    CHECK_EQ(sf_append(&segment, &request, SF_SECOND, &receipt), -SF_EFULL);
    CHECK_EQ(checkpoint().action, SF_GO);
    OPEN(2 * SF_LOG_CAPACITY);
    END;
}

TEST(a_sender_waits_for_its_turn_and_no_longer_than_it_said)
{
    BEGIN;
    struct sf_request request = request_of(SF_PAUSE, 0);
    struct sf_receipt receipt;
    int fd = open(path, O_RDWR);

    CHECK_EQ(sf_lock_try(fd, LOG_BYTES), 0);
    CHECK_EQ(sf_log_busy(segment.fd), 1);
    CHECK_EQ(sf_append(&segment, &request, 20 * 1000000, &receipt), -SF_EBUSY);
    close(fd);
    CHECK_EQ(sf_log_busy(segment.fd), 0);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
    END;
}

TEST(a_request_is_refused_when_no_rank_is_alive)
{
    struct sf_segment made;
    struct sf_request request = request_of(SF_PAUSE, 0);
    CHECK_EQ(sf_segment_create(&made, path_in("control"), 2, 0), 0);
    CHECK_EQ(ask_for(&made, &request).verdict, SF_APPENDED); /* the maker has the lock: it is about to take its slot */
    sf_segment_let_go(&made);
    CHECK_EQ(ask_for(&made, &request).verdict, SF_REFUSED_ENDED); /* no worker has taken a slot */
    atomic_store(&made.slots[1].state, SF_STATE_RUNNING);         /* left behind by a killed one: no lock */
    CHECK_EQ(ask_for(&made, &request).verdict, SF_REFUSED_ENDED);
    sf_segment_close(&made);
}

/* --- undecided entries --- */

/* An entry as a sender leaves it that dies before it decides: published, without a target. */
static uint64_t
orphan(const char *path, uint32_t kind, uint64_t argument)
{
    send_and_die(path, "append:published", kind, argument);
    uint64_t seq = view_of(path).tail;
    CHECK(entry_of(path, seq).target == SF_TARGET_NONE);
    return seq;
}

TEST(a_rank_that_meets_an_undecided_entry_of_a_living_sender_applies_it_where_it_stands)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    int sender = open(path, O_RDWR);
    CHECK_EQ(sf_lock_try(sender, LOG_BYTES), 0); /* a sender holds the log */
    CHECK_EQ(view_of(path).state.park_seq, seq);
    atomic_fetch_or(&segment.slots[0].word, SF_WORD_PENDING);
    HOLDS(seq);
    APPLIED_AT(seq, 4);
    CHECK_EQ(entry_of(path, seq).target, 4);
    close(sender);
    END;
}

TEST(a_rank_that_meets_an_undecided_entry_of_a_dead_sender_makes_it_void)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    CHECK_EQ(view_of(path).state.park_seq, 0); /* a reader sees that too */
    atomic_fetch_or(&segment.slots[0].word, SF_WORD_PENDING);
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK(entry_of(path, seq).target == SF_TARGET_VOID);
    OPEN(seq);
    CHECK_EQ(slot_of(path).applied, seq);
    run_to(9);
    END;
}

TEST(the_next_sender_makes_an_undecided_entry_void)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    CHECK_EQ(ask(&segment, SF_PAUSE, 7).seq, seq + 1);
    CHECK(entry_of(path, seq).target == SF_TARGET_VOID);
    run_to(6);
    HOLDS(seq + 1);
    APPLIED_AT(seq + 1, 7);
    END;
}

TEST(a_process_that_waits_for_the_outcome_of_an_orphan_makes_it_void)
{
    BEGIN;
    uint64_t seq = orphan(path, SF_PAUSE, 0);
    int sender = open(path, O_RDWR);
    CHECK_EQ(sf_lock_try(sender, LOG_BYTES), 0);
    CHECK_EQ(sf_void_orphan(&segment, seq), 0);
    CHECK(entry_of(path, seq).target == SF_TARGET_NONE); /* the log is locked: the entry may still be decided */
    close(sender);
    CHECK_EQ(sf_void_orphan(&segment, seq + 1), 0);
    CHECK_EQ(sf_void_orphan(&segment, seq), 0);
    CHECK(entry_of(path, seq).target == SF_TARGET_VOID);
    ask(&segment, SF_PAUSE, 9);
    CHECK_EQ(sf_void_orphan(&segment, seq + 1), 0);
    CHECK_EQ(entry_of(path, seq + 1).target, 4); /* what is decided stays */
    END;
}

TEST(a_parked_rank_applies_an_undecided_resume_where_it_is_parked)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    HOLDS(1);
    uint64_t seq = orphan(path, SF_RESUME, 0);
    int sender = open(path, O_RDWR);
    CHECK_EQ(sf_lock_try(sender, LOG_BYTES), 0);
    CHECK_EQ(look_again().action, SF_GO);
    APPLIED_AT(seq, 4);
    close(sender);
    run_to(9);
    END;
}

/* --- checkpoints that do not count --- */

static struct sf_due
look(void)
{
    struct sf_due due = {.action = SF_GO};
    uint64_t step;
    if (sf_look(sf_process_counter, &step)) {
        CHECK_EQ(sf_apply_due(WORKER, step, 0, &due), 0);
        if (due.action == SF_HOLD)
            sf_worker_parked(WORKER, due.seq, step, 0);
    }
    return due;
}

TEST(a_checkpoint_that_does_not_count_holds_and_applies_nothing)
{
    BEGIN;
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(sf_step(sf_process_counter), 3);
    ask(&segment, SF_PAUSE, 0);
    struct sf_due due = look();
    CHECK_EQ(due.action, SF_HOLD);
    CHECK_EQ(due.seq, 1);
    CHECK_EQ(slot_of(path).applied, 0);
    CHECK_EQ(slot_of(path).state, SF_STATE_PARKED);
    CHECK_EQ(slot_of(path).step, 3);
    CHECK_EQ(sf_worker_wait(WORKER, 1000),
             -ETIMEDOUT); /* it does wait, though the log holds more than it has applied */
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(sf_worker_wait(WORKER, SF_SECOND), 0);
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(slot_of(path).state, SF_STATE_RUNNING);
    CHECK_EQ(slot_of(path).applied, 0);
    CHECK_EQ(checkpoint().action, SF_GO);
    CHECK_EQ(slot_of(path).applied, 2);
    uint64_t step;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 0);
    END;
}

TEST(a_checkpoint_that_does_not_count_never_stops_or_reloads)
{
    BEGIN;
    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(look().action, SF_HOLD);
    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(look().action, SF_GO); /* lets the loop come to the checkpoint that can */
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    HOLDS(1);
    CHECK_EQ(look().action, SF_HOLD); /* parked already, seen by another thread */
    ask(&segment, SF_STOP, 0);
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(look_again().action, SF_RAISE_STOP);
    CHECK_EQ(look().action, SF_GO);
    CHECK_EQ(checkpoint().action, SF_RAISE_STOP);
    END;
}

/* --- several ranks in one file, of which this process is one --- */

TEST(a_request_to_several_ranks_is_aimed_ahead_of_the_furthest_living_one)
{
    struct sf_segment segment;
    const char *path = path_in("control");
    CHECK_EQ(sf_worker_setup(), 0);
    CHECK_EQ(sf_worker_attach(WORKER, path, 4, 1, 12345), 0);
    segment = open_segment(path);
    struct sf_slot *slots = segment.slots;
    int other = open(path, O_RDWR), another = open(path, O_RDWR);

    run_to(3);
    atomic_store(&slots[0].step, 70); /* has no worker */
    atomic_store(&slots[2].step, 50);
    atomic_store(&slots[2].state, SF_STATE_RUNNING);
    CHECK_EQ(sf_lock_try(other, SLOT_BYTES(2)), 0);
    atomic_store(&slots[3].step, 90);
    atomic_store(&slots[3].state, SF_STATE_RUNNING); /* dead: its lock is free */
    CHECK_EQ(ask(&segment, SF_PAUSE, 0).target, 51);
    CHECK_EQ(atomic_load(&slots[2].word), SF_WORD_PENDING);
    CHECK_EQ(atomic_load(&slots[0].word), 0);

    /* A pause decides where everybody stands; what comes next is applied there. */
    CHECK_EQ(ask(&segment, SF_RELOAD, 0).target, 51);
    run_to(50);
    CHECK_EQ(checkpoint().action, SF_RAISE_RELOAD);
    HOLDS(1);

    /* The rank that has applied the least is the one to be named. */
    struct sf_request request = request_of(SF_PAUSE, 0);
    struct sf_receipt receipt;
    int rc;
    do {
        rc = sf_append(&segment, &request, 0, &receipt);
        if (slot_of(path).state == SF_STATE_PARKED)
            look_again();
    } while (rc == 0);
    CHECK_EQ(rc, -SF_EFULL);
    CHECK_EQ(receipt.stuck_rank, 2);
    atomic_store(&slots[3].step, 10);
    CHECK_EQ(sf_lock_try(another, SLOT_BYTES(3)), 0);
    close(other); /* rank 2 dies, rank 3 is born: still stuck, at rank 3 */
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -SF_EFULL);
    CHECK_EQ(receipt.stuck_rank, 3);
    close(another); /* only rank 1 is left, which has applied everything */
    CHECK_EQ(look_again().action, SF_HOLD);
    CHECK_EQ(sf_append(&segment, &request, 0, &receipt), 0);
    sf_segment_close(&segment);
}
