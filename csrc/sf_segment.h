/* A control file: making it, mapping it, and asking which of its slots are held by a living process. */
#ifndef SF_SEGMENT_H
#define SF_SEGMENT_H

#include <sys/types.h>

#include "sf_error.h"
#include "sf_layout.h"
#include "sf_lock.h"

/* One mapped control file. Sizes and counts are copies, checked when it was opened: other processes may change the
 * file. */
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
    /* In a controller: an open file for the next lock of the log. A worker opens the file each time. */
    struct sf_kept turn;
    dev_t device;
    ino_t inode;
    char path[1024];
};

/* Makes `path`: under a temporary name, all blocks allocated, with the record lock on slot `rank` held by a
 * descriptor that `segment` keeps, then renamed into place. The caller has made sure that no process uses a file that
 * was there before. 0 or -errno. */
int sf_segment_create(struct sf_segment *segment, const char *path, uint32_t slot_count, uint32_t rank);

/* Maps an existing control file. 0, -errno, or an error of sf_error.h. */
int sf_segment_open(struct sf_segment *segment, const char *path);
void sf_segment_close(struct sf_segment *segment);

/* Releases the record lock on the slot, if it is held; the mapping stays. */
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

/* Notes the time at which the process of a slot was first seen dead, for people to read. */
void sf_note_lost(const struct sf_segment *segment, uint32_t slot);

static inline struct sf_entry *
sf_entry_at(const struct sf_segment *segment, uint64_t seq)
{
    return &segment->log[(seq - 1) & (SF_LOG_CAPACITY - 1)];
}

/* Where the slot of a rank lies in the file. */
static inline uint64_t
sf_slot_offset(uint32_t rank)
{
    return SF_SLOTS_OFFSET + (uint64_t)rank * sizeof(struct sf_slot);
}

/* Reads and checks the header of a control file without a mapping. 0, -errno, or an error of sf_error.h. */
int sf_read_header(int fd, struct sf_header *header);

#endif
