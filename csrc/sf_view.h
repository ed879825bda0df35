/* Reading a control file without a mapping. A read can't fault, whatever happens to the file, and nothing that was read
 * is trusted. */
#ifndef SF_VIEW_H
#define SF_VIEW_H

#include "sf_layout.h"

/* The header, and the state after the whole log. */
struct sf_view {
    uint32_t layout_version;
    uint32_t slot_count;
    int64_t created_ns;
    uint32_t world_size;
    uint64_t tail;
    uint32_t changes;
    struct sf_state state; /* after all entries of the log */
};

/* A plain copy of sf_slot. */
struct sf_slot_view {
    uint32_t word, state;
    int32_t pid;
    int alive;
    uint64_t step, alarm, applied, seen, mark_step, wakes;
    int64_t attached_ns, state_ns, mark_ns, parked_ns, park_ns, deadline_ns;
    uint64_t done[SF_LOG_CAPACITY / 64], vote;
    uint32_t rank, generation, stride;
    int64_t lost_ns;
    uint64_t held;
    struct {
        uint64_t total, done;
        int64_t began_ns, parked_ns;
    } level[SF_LEVELS];
};

/* A plain copy of sf_entry. */
struct sf_entry_view {
    uint64_t seq, target, outcome, id, arg;
    uint32_t kind;
    int32_t sender_pid;
    int64_t duration_ns, asked_ns;
    uint32_t ranks, agreed;
    uint64_t low;
    char sender[SF_SENDER_MAX];
    char mail[SF_MAIL_MAX];
};

/* Copies an entry that the caller has mapped or read. The texts of the copy end with a zero byte. */
void sf_entry_copy(struct sf_entry_view *view, const struct sf_entry *entry, uint64_t seq);

/* Each reads from an open control file: 0, -errno, or an error of sf_error.h. */
int sf_read_view(int fd, struct sf_view *view);
int sf_read_slot(int fd, uint32_t rank, struct sf_slot_view *view);
/* -ENOENT if the log no longer, or not yet, holds an entry of this number. */
int sf_read_entry(int fd, uint64_t seq, struct sf_entry_view *view);
/* The layout version that the file claims, 0 if it is no control file. */
uint32_t sf_read_layout_version(int fd);

#endif
