/* A control file, made or opened, and what can be read of it. */
#ifndef SF_SEGMENT_H
#define SF_SEGMENT_H

#include <sys/types.h>

#include "sf_layout.h"
#include "sf_lock.h"

/* Errors beyond errno's own: what is wrong with a control file. Returned negative, as errno's are. */
#define SF_ENOTCONTROL 4001 /* no control file: wrong magic, or the file is not finished */
#define SF_ELAYOUT 4002     /* a control file of another layout version */
#define SF_ECORRUPT 4003    /* sizes, numbers or kinds in it make no sense */
#define SF_EGONE 4004       /* the file was removed, replaced or cut short after it was opened */
#define SF_EFULL 4005       /* the log is full: some rank has applied nothing for a long time */
#define SF_EBUSY 4006       /* another sender has held the log's lock for all the time allowed */
#define SF_EFOREIGN 4007    /* not a regular file of this user with one name: another user may have put it there */

/* One mapped control file. Sizes and counts are copies, checked when it was opened: the file may change under us. */
struct sf_segment {
    struct sf_header *header; /* NULL when closed */
    struct sf_slot *slots;
    struct sf_entry *log;
    size_t size;
    uint32_t slot_count;
    int fd;
    /* Holds the record lock on the worker's slot; -1 in a controller. An open file of its own, since a mapping keeps
     * the open file that it was made from, and with it the locks, alive: in a forked child too. */
    int lock_fd;
    /* In a controller: what it takes its turns at the log with. A worker opens the file anew for each: it has few. */
    struct sf_kept turn;
    dev_t device;
    ino_t inode;
    char path[1024];
};

/* Makes `path`: under a temporary name, all blocks allocated, with the record lock on slot `rank` held by a
 * descriptor that `segment` keeps, then renamed into place. The caller has made sure that nobody uses a file that was
 * there before. 0 or -errno. */
int sf_segment_create(struct sf_segment *segment, const char *path, uint32_t slot_count, uint32_t rank);

/* Maps an existing control file. 0, -errno, or one of the errors above. */
int sf_segment_open(struct sf_segment *segment, const char *path);
void sf_segment_close(struct sf_segment *segment);

/* Lets go of the record lock on the slot, if it is held; the mapping stays. */
void sf_segment_let_go(struct sf_segment *segment);

/* Whether the mapping is still a sound control file of this layout, and the file is still whole. One fstat. */
int sf_segment_check(const struct sf_segment *segment);

/* Waits until sf_header.changes is no longer `seen`, for up to timeout_ns. 0, -ETIMEDOUT, -EINTR, -EFAULT. */
int sf_segment_wait(struct sf_segment *segment, uint32_t seen, int64_t timeout_ns);
uint32_t sf_segment_changes(const struct sf_segment *segment);

/* 1 if a living process holds the slot, 0 if not, -errno. Asked through fd, which may be another open file. */
int sf_slot_alive(int fd, uint32_t rank);
/* The same of any of the slots from `first` up to but not including `end`. */
int sf_slots_held(int fd, uint32_t first, uint32_t end);

/* Somebody saw that no process holds a slot that was not given back: from when on that is known, for people. */
void sf_note_lost(const struct sf_segment *segment, uint32_t slot);

static inline struct sf_entry *
sf_entry_at(const struct sf_segment *segment, uint64_t seq)
{
    return &segment->log[(seq - 1) & (SF_LOG_CAPACITY - 1)];
}

/* --- reading without a mapping: nothing here can fault, and nothing is trusted --- */

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

int sf_read_view(int fd, struct sf_view *view);
int sf_read_slot(int fd, uint32_t rank, struct sf_slot_view *view);
/* -ENOENT if the log no longer, or not yet, holds an entry of this number. */
int sf_read_entry(int fd, uint64_t seq, struct sf_entry_view *view);
/* The layout version that the file claims, 0 if it is no control file. */
uint32_t sf_read_layout_version(int fd);

#endif
