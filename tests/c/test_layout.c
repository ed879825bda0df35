/* Another build of the same layout version must find every byte in the same place: numbers, not names. */
#include "core.h"

#define AT(type, field, number) CHECK_EQ(offsetof(struct type, field), number)

TEST(the_header_lies_where_layout_3_says)
{
    CHECK_EQ(SF_LAYOUT_VERSION, 3);
    CHECK_EQ(SF_PAGE, 4096);
    CHECK_EQ(SF_LOG_OFFSET, 4096);
    CHECK_EQ(SF_LOG_CAPACITY, 128);
    CHECK_EQ(SF_SLOTS_OFFSET, 36864);
    CHECK_EQ(SF_FILE_SIZE(1), 37248);
    CHECK_EQ(SF_FILE_SIZE(SF_SLOTS_MAX), 36864 + 65536 * 384);
    AT(sf_header, magic, 0);
    AT(sf_header, layout_version, 8);
    AT(sf_header, header_size, 12);
    AT(sf_header, entry_size, 16);
    AT(sf_header, log_capacity, 20);
    AT(sf_header, slot_size, 24);
    AT(sf_header, slot_count, 28);
    AT(sf_header, log_offset, 32);
    AT(sf_header, slots_offset, 40);
    AT(sf_header, file_size, 48);
    AT(sf_header, created_ns, 56);
    AT(sf_header, world_size, 64);
    AT(sf_header, tail, 128);
    AT(sf_header, lock_pid, 136);
    AT(sf_header, changes, 256);
    CHECK_EQ(sizeof(struct sf_header), 384);
    CHECK_EQ(memcmp(&(uint64_t){SF_MAGIC}, "SPARKFT1", 8), 0);
}

TEST(an_entry_lies_where_layout_3_says)
{
    AT(sf_entry, number, 0);
    AT(sf_entry, target, 8);
    AT(sf_entry, outcome, 16);
    AT(sf_entry, id, 24);
    AT(sf_entry, kind, 32);
    AT(sf_entry, sender_pid, 36);
    AT(sf_entry, arg, 40);
    AT(sf_entry, duration_ns, 48);
    AT(sf_entry, asked_ns, 56);
    AT(sf_entry, before, 64);
    AT(sf_entry, ranks, 112);
    AT(sf_entry, agreed, 116);
    AT(sf_entry, low, 120);
    AT(sf_entry, sender, 128);
    AT(sf_entry, mail, 192);
    CHECK_EQ(sizeof(struct sf_entry), 256);
    AT(sf_state, target, 0);
    AT(sf_state, park, 8);
    AT(sf_state, park_seq, 16);
    AT(sf_state, stop_seq, 24);
    AT(sf_state, reload_seq, 32);
    AT(sf_state, park_for, 40);
    CHECK_EQ(sizeof(struct sf_state), 48);
}

TEST(a_slot_lies_where_layout_3_says)
{
    AT(sf_slot, word, 0);
    AT(sf_slot, stride, 4);
    AT(sf_slot, step, 8);
    AT(sf_slot, alarm, 16);
    AT(sf_slot, held, 24);
    AT(sf_slot, applied_at, 32);
    AT(sf_slot, lost_ns, 40);
    AT(sf_slot, state, 128);
    AT(sf_slot, pid, 132);
    AT(sf_slot, cookie, 136);
    AT(sf_slot, applied, 144);
    AT(sf_slot, seen, 152);
    AT(sf_slot, attached_ns, 160);
    AT(sf_slot, state_ns, 168);
    AT(sf_slot, mark_step, 176);
    AT(sf_slot, mark_ns, 184);
    AT(sf_slot, parked_ns, 192);
    AT(sf_slot, park_ns, 200);
    AT(sf_slot, wakes, 208);
    AT(sf_slot, deadline_ns, 216);
    AT(sf_slot, done, 224);
    AT(sf_slot, vote, 240);
    AT(sf_slot, rank, 248);
    AT(sf_slot, generation, 252);
    AT(sf_slot, level, 256);
    CHECK_EQ(sizeof(struct sf_slot), 384);
    AT(sf_level, total, 0);
    AT(sf_level, done, 8);
    AT(sf_level, began_ns, 16);
    AT(sf_level, parked_ns, 24);
    CHECK_EQ(sizeof(struct sf_level), 32);
}

TEST(the_numbers_in_the_file_are_those_of_layout_3)
{
    CHECK_EQ(SF_PAUSE, 1);
    CHECK_EQ(SF_RESUME, 2);
    CHECK_EQ(SF_STOP, 3);
    CHECK_EQ(SF_RELOAD, 4);
    CHECK_EQ(SF_ADVANCE, 5);
    CHECK_EQ(SF_SET, 6);
    CHECK_EQ(SF_CALL, 7);
    CHECK_EQ(SF_STATE_IDLE, 1);
    CHECK_EQ(SF_STATE_RUNNING, 2);
    CHECK_EQ(SF_STATE_PARKED, 3);
    CHECK_EQ(SF_STATE_STOPPING, 4);
    CHECK_EQ(SF_STATE_RELOADING, 5);
    CHECK_EQ(SF_STATE_STOPPED, 6);
    CHECK_EQ(SF_STATE_FINISHED, 7);
    CHECK_EQ(SF_STATE_FAILED, 8);
    CHECK_EQ(SF_WORD_PENDING, 1);
    CHECK_EQ(SF_WORD_HELD, 2);
    CHECK_EQ(SF_WORD_STOPPED, 4);
    CHECK_EQ(SF_WORD_ATTACH, 8);
    CHECK(SF_TARGET_NONE == UINT64_MAX && SF_TARGET_VOID == UINT64_MAX - 1 && SF_NEVER == UINT64_MAX);
    CHECK_EQ(SF_RANKS_ALL, 0);
    CHECK_EQ(SF_ENTRY_FAILED, 1);
    CHECK_EQ(SF_VOTE(5, SF_PHASE_PROVED, SF_VOTE_NO), 5 << 4 | 2 << 2 | 2);
    CHECK_EQ(SF_OUTCOME_CODE(SF_OUTCOME(SF_OUTCOME_SUPERSEDED, 77)), SF_OUTCOME_SUPERSEDED);
    CHECK_EQ(SF_OUTCOME_VALUE(SF_OUTCOME(SF_OUTCOME_FAILED, 77)), 77);
}
