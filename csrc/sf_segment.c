#include "sf_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sf_clock.h"
#include "sf_guard.h"
#include "sf_lock.h"
#include "sf_open.h"
#include "sf_point.h"
#include "sf_read.h"
#include "sf_wait.h"

/* Checks a header, whether it was mapped or read. */
static int
header_check(const struct sf_header *header, uint64_t magic, uint64_t file_size)
{
    if (magic != SF_MAGIC)
        return -SF_ENOTCONTROL;
    if (header->layout_version != SF_LAYOUT_VERSION)
        return -SF_ELAYOUT;
    if (header->header_size != sizeof(struct sf_header) || header->entry_size != sizeof(struct sf_entry) ||
        header->log_capacity != SF_LOG_CAPACITY || header->slot_size != sizeof(struct sf_slot) ||
        header->log_offset != SF_LOG_OFFSET || header->slots_offset != SF_SLOTS_OFFSET)
        return -SF_ECORRUPT;
    if (header->slot_count == 0 || header->slot_count > SF_SLOTS_MAX ||
        header->file_size != SF_FILE_SIZE(header->slot_count))
        return -SF_ECORRUPT;
    if (file_size < header->file_size)
        return -SF_EGONE;
    return 0;
}

int
sf_read_header(int fd, struct sf_header *header)
{
    struct stat status;
    int rc;

    if (fstat(fd, &status) != 0)
        return -errno;
    rc = sf_read_at(fd, header, sizeof *header, 0);
    if (rc == -SF_EGONE)
        return -SF_ENOTCONTROL; /* shorter than a header */
    if (rc < 0)
        return rc;
    return header_check(header, atomic_load_explicit(&header->magic, memory_order_relaxed), (uint64_t)status.st_size);
}

static int
map(struct sf_segment *segment, size_t size, uint32_t slot_count)
{
    struct stat status;
    void *base;
    int rc;

    if (fstat(segment->fd, &status) != 0)
        return -errno;
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    rc = sf_guard_add(base, size, segment->fd);
    if (rc < 0) {
        munmap(base, size);
        return rc;
    }
    segment->header = base;
    segment->log = (struct sf_entry *)((char *)base + SF_LOG_OFFSET);
    segment->slots = (struct sf_slot *)((char *)base + SF_SLOTS_OFFSET);
    segment->size = size;
    segment->slot_count = slot_count;
    segment->device = status.st_dev;
    segment->inode = status.st_ino;
    return 0;
}

static void
fill(struct sf_segment *segment, uint32_t slot_count)
{
    struct sf_header *header = segment->header;

    header->layout_version = SF_LAYOUT_VERSION;
    header->header_size = sizeof(struct sf_header);
    header->entry_size = sizeof(struct sf_entry);
    header->log_capacity = SF_LOG_CAPACITY;
    header->slot_size = sizeof(struct sf_slot);
    header->slot_count = slot_count;
    header->log_offset = SF_LOG_OFFSET;
    header->slots_offset = SF_SLOTS_OFFSET;
    header->file_size = SF_FILE_SIZE(slot_count);
    header->created_ns = sf_realtime_ns();
    header->world_size = slot_count;
    for (uint32_t slot = 0; slot < slot_count; slot++) {
        atomic_store_explicit(&segment->slots[slot].alarm, SF_NEVER, memory_order_relaxed);
        atomic_store_explicit(&segment->slots[slot].stride, 1, memory_order_relaxed);
        atomic_store_explicit(&segment->slots[slot].rank, slot, memory_order_relaxed);
    }
    atomic_store_explicit(&header->magic, SF_MAGIC, memory_order_release);
}

int
sf_segment_create(struct sf_segment *segment, const char *path, uint32_t slot_count, uint32_t rank)
{
    char making[sizeof segment->path + 8];
    int rc;

    memset(segment, 0, sizeof *segment);
    segment->fd = segment->lock_fd = -1;
    segment->turn.fd = -1;
    if (slot_count == 0 || slot_count > SF_SLOTS_MAX || rank >= slot_count)
        return -EINVAL;
    if (strlen(path) >= sizeof segment->path)
        return -ENAMETOOLONG;
    strcpy(segment->path, path);
    snprintf(making, sizeof making, "%s.new", path);

    if (unlink(making) != 0 && errno != ENOENT)
        return -errno;
    rc = sf_open_own(making, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (rc < 0)
        return rc;
    segment->fd = rc;
    SF_POINT("create:opened");
    /* Allocates all blocks now. So a full disk fails this call, and not a store weeks later. */
    while ((rc = -posix_fallocate(segment->fd, 0, (off_t)SF_FILE_SIZE(slot_count))) == -EINTR)
        continue;
    if (rc < 0)
        goto fail;
    rc = segment->lock_fd = sf_lock_open(making);
    if (rc < 0)
        goto fail;
    rc = sf_lock_try(segment->lock_fd, sf_slot_offset(rank), sizeof(struct sf_slot));
    if (rc < 0)
        goto fail;
    rc = map(segment, SF_FILE_SIZE(slot_count), slot_count);
    if (rc < 0)
        goto fail;
    fill(segment, slot_count);
    SF_POINT("create:filled");
    if (rename(making, path) != 0) {
        rc = -errno;
        goto fail;
    }
    SF_POINT("create:renamed");
    return 0;

fail:
    unlink(making);
    sf_segment_close(segment);
    return rc;
}

int
sf_segment_open(struct sf_segment *segment, const char *path)
{
    struct sf_header header;
    int rc;

    memset(segment, 0, sizeof *segment);
    segment->fd = segment->lock_fd = -1;
    segment->turn.fd = -1;
    if (strlen(path) >= sizeof segment->path)
        return -ENAMETOOLONG;
    strcpy(segment->path, path);
    rc = sf_open_own(path, O_RDWR, 0);
    if (rc < 0)
        return rc;
    segment->fd = rc;
    rc = sf_read_header(segment->fd, &header);
    if (rc == 0)
        rc = map(segment, SF_FILE_SIZE(header.slot_count), header.slot_count);
    if (rc < 0)
        sf_segment_close(segment);
    return rc;
}

void
sf_segment_close(struct sf_segment *segment)
{
    if (segment->header != NULL) {
        sf_guard_remove(segment->header);
        munmap(segment->header, segment->size);
        segment->header = NULL;
    }
    sf_segment_let_go(segment);
    int turn = sf_kept_take(&segment->turn);
    if (turn >= 0)
        sf_lock_close(turn);
    if (segment->fd >= 0) {
        close(segment->fd);
        segment->fd = -1;
    }
}

void
sf_segment_let_go(struct sf_segment *segment)
{
    if (segment->lock_fd >= 0) {
        sf_lock_close(segment->lock_fd);
        segment->lock_fd = -1;
    }
}

int
sf_segment_check(const struct sf_segment *segment)
{
    struct stat status;

    if (fstat(segment->fd, &status) != 0)
        return -errno;
    if (status.st_nlink == 0)
        return -SF_EGONE;
    return header_check(segment->header, atomic_load_explicit(&segment->header->magic, memory_order_acquire),
                        (uint64_t)status.st_size);
}

int
sf_segment_wait(struct sf_segment *segment, uint32_t seen, int64_t timeout_ns)
{
    return sf_wait(&segment->header->changes, seen, timeout_ns);
}

uint32_t
sf_segment_changes(const struct sf_segment *segment)
{
    return atomic_load_explicit(&segment->header->changes, memory_order_acquire);
}

int
sf_slot_alive(int fd, uint32_t rank)
{
    return sf_lock_held(fd, sf_slot_offset(rank), sizeof(struct sf_slot));
}

int
sf_slots_held(int fd, uint32_t first, uint32_t end)
{
    return sf_lock_held(fd, sf_slot_offset(first), sf_slot_offset(end) - sf_slot_offset(first));
}

void
sf_note_lost(const struct sf_segment *segment, uint32_t slot)
{
    int64_t never = 0;
    atomic_compare_exchange_strong(&segment->slots[slot].lost_ns, &never, sf_realtime_ns());
}
