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
#include "sf_log.h"
#include "sf_open.h"
#include "sf_point.h"
#include "sf_read.h"
#include "sf_wait.h"

static uint64_t
slot_offset(uint32_t rank)
{
    return SF_SLOTS_OFFSET + (uint64_t)rank * sizeof(struct sf_slot);
}

/* The one check of a header, whether it was mapped or read. */
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
    /* All blocks now: on a full disk this fails here, and not as a fault at a store weeks later. */
    while ((rc = -posix_fallocate(segment->fd, 0, (off_t)SF_FILE_SIZE(slot_count))) == -EINTR)
        continue;
    if (rc < 0)
        goto fail;
    rc = segment->lock_fd = sf_lock_open(making);
    if (rc < 0)
        goto fail;
    rc = sf_lock_try(segment->lock_fd, slot_offset(rank), sizeof(struct sf_slot));
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
    struct sf_view view;
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
    rc = sf_read_view(segment->fd, &view);
    if (rc == 0)
        rc = map(segment, SF_FILE_SIZE(view.slot_count), view.slot_count);
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
    return sf_lock_held(fd, slot_offset(rank), sizeof(struct sf_slot));
}

int
sf_slots_held(int fd, uint32_t first, uint32_t end)
{
    return sf_lock_held(fd, slot_offset(first), slot_offset(end) - slot_offset(first));
}

void
sf_note_lost(const struct sf_segment *segment, uint32_t slot)
{
    int64_t never = 0;
    atomic_compare_exchange_strong(&segment->slots[slot].lost_ns, &never, sf_realtime_ns());
}

/* --- reading without a mapping --- */

#define PLAIN(field) atomic_load_explicit(&(field), memory_order_relaxed)

static int
read_header(int fd, struct sf_header *header)
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
    return header_check(header, PLAIN(header->magic), (uint64_t)status.st_size);
}

uint32_t
sf_read_layout_version(int fd)
{
    struct sf_header header;
    int rc = read_header(fd, &header);
    return rc == 0 || rc == -SF_ELAYOUT ? header.layout_version : 0;
}

/* An entry is overwritten only after its number was set to 0, so the number is read before and after the rest. */
static int
read_raw_entry(int fd, uint64_t seq, struct sf_entry *entry)
{
    uint64_t offset = SF_LOG_OFFSET + ((seq - 1) & (SF_LOG_CAPACITY - 1)) * sizeof *entry;
    uint64_t number;
    int rc = sf_read_at(fd, entry, sizeof *entry, offset);

    if (rc == 0)
        rc = sf_read_at(fd, &number, sizeof number, offset + offsetof(struct sf_entry, number));
    if (rc < 0)
        return rc;
    if (PLAIN(entry->number) != seq || number != seq)
        return -ENOENT;
    entry->sender[SF_SENDER_MAX - 1] = 0;
    entry->mail[SF_MAIL_MAX - 1] = 0;
    return 0;
}

int
sf_read_view(int fd, struct sf_view *view)
{
    /* The log may move on by a whole ring between the two reads; then the header is read again. */
    for (int attempt = 0; attempt < 100; attempt++) {
        struct sf_header header;
        struct sf_entry last;
        int rc = read_header(fd, &header);

        if (rc < 0)
            return rc;
        memset(view, 0, sizeof *view);
        view->layout_version = header.layout_version;
        view->slot_count = header.slot_count;
        view->created_ns = header.created_ns;
        view->world_size = header.world_size;
        view->tail = PLAIN(header.tail);
        view->changes = PLAIN(header.changes);
        view->state = sf_state_first();
        if (view->tail == 0)
            return 0;
        rc = read_raw_entry(fd, view->tail, &last);
        if (rc == -ENOENT)
            continue;
        if (rc < 0)
            return rc;
        if (PLAIN(last.target) == SF_TARGET_NONE && PLAIN(last.low) == 0 && sf_log_busy(fd) == 0) {
            /* Its sender died: it will be void, unless it was decided since it was read. */
            rc = read_raw_entry(fd, view->tail, &last);
            if (rc == -ENOENT)
                continue;
            if (rc < 0)
                return rc;
            if (PLAIN(last.target) == SF_TARGET_NONE)
                atomic_store_explicit(&last.target, SF_TARGET_VOID, memory_order_relaxed);
        }
        return sf_state_after(&last, view->tail, &view->state);
    }
    return -SF_ECORRUPT;
}

int
sf_read_slot(int fd, uint32_t rank, struct sf_slot_view *view)
{
    struct sf_slot slot;
    uint64_t mark[2];
    int rc;

    memset(view, 0, sizeof *view);
    /* Life first: a worker publishes how it ended before it lets go of its lock, so a slot that is read after its
     * lock was seen free holds the last word. */
    view->alive = sf_slot_alive(fd, rank);
    if (view->alive < 0)
        return view->alive;
    rc = sf_read_at(fd, &slot, sizeof slot, slot_offset(rank));
    if (rc == 0)
        rc = sf_read_at(fd, mark, sizeof mark, slot_offset(rank) + offsetof(struct sf_slot, mark_step));
    if (rc < 0)
        return rc;
    view->word = PLAIN(slot.word);
    view->step = PLAIN(slot.step);
    view->alarm = PLAIN(slot.alarm);
    view->state = PLAIN(slot.state);
    view->pid = PLAIN(slot.pid);
    view->applied = PLAIN(slot.applied);
    view->seen = PLAIN(slot.seen);
    view->attached_ns = PLAIN(slot.attached_ns);
    view->state_ns = PLAIN(slot.state_ns);
    view->mark_step = PLAIN(slot.mark_step);
    /* The pair is written while it is read, if it was not twice the same: then there is none. */
    if (mark[0] == PLAIN(slot.mark_step) && (int64_t)mark[1] == PLAIN(slot.mark_ns))
        view->mark_ns = PLAIN(slot.mark_ns);
    view->parked_ns = PLAIN(slot.parked_ns);
    view->park_ns = PLAIN(slot.park_ns);
    view->wakes = PLAIN(slot.wakes);
    view->deadline_ns = PLAIN(slot.deadline_ns);
    for (size_t i = 0; i < SF_LOG_CAPACITY / 64; i++)
        view->done[i] = PLAIN(slot.done[i]);
    view->vote = PLAIN(slot.vote);
    view->rank = PLAIN(slot.rank);
    view->generation = PLAIN(slot.generation);
    view->stride = PLAIN(slot.stride);
    view->lost_ns = PLAIN(slot.lost_ns);
    view->held = PLAIN(slot.held);
    for (int i = 0; i < SF_LEVELS; i++) {
        view->level[i].total = PLAIN(slot.level[i].total);
        view->level[i].done = PLAIN(slot.level[i].done);
        view->level[i].began_ns = PLAIN(slot.level[i].began_ns);
        view->level[i].parked_ns = PLAIN(slot.level[i].parked_ns);
    }
    return 0;
}

int
sf_read_entry(int fd, uint64_t seq, struct sf_entry_view *view)
{
    struct sf_entry entry;
    uint64_t tail;
    int rc = sf_read_at(fd, &tail, sizeof tail, offsetof(struct sf_header, tail));

    if (rc < 0)
        return rc;
    /* An entry that is written and not published may be written again, by another sender. */
    if (seq == 0 || seq > tail)
        return -ENOENT;
    rc = read_raw_entry(fd, seq, &entry);
    if (rc < 0)
        return rc;
    view->seq = seq;
    view->target = PLAIN(entry.target);
    view->outcome = PLAIN(entry.outcome);
    view->id = entry.id;
    view->kind = entry.kind;
    view->sender_pid = entry.sender_pid;
    view->arg = entry.arg;
    view->duration_ns = entry.duration_ns;
    view->asked_ns = entry.asked_ns;
    view->ranks = entry.ranks;
    view->agreed = PLAIN(entry.agreed);
    view->low = PLAIN(entry.low);
    memcpy(view->sender, entry.sender, sizeof view->sender);
    memcpy(view->mail, entry.mail, sizeof view->mail);
    return 0;
}
