#include "sf_view.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "sf_log.h"
#include "sf_read.h"
#include "sf_segment.h"

#define PLAIN(field) atomic_load_explicit(&(field), memory_order_relaxed)

uint32_t
sf_read_layout_version(int fd)
{
    struct sf_header header;
    int rc = sf_read_header(fd, &header);
    return rc == 0 || rc == -SF_ELAYOUT ? header.layout_version : 0;
}

/* A sender that overwrites an entry first sets its number to 0. So the number is read before and after the rest. */
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
    return 0;
}

int
sf_read_view(int fd, struct sf_view *view)
{
    /* Between the two reads the log may advance by its whole capacity; then the header is read again. */
    for (int attempt = 0; attempt < 100; attempt++) {
        struct sf_header header;
        struct sf_entry last;
        int rc = sf_read_header(fd, &header);

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
            /* Its sender died: the entry will be void, unless it has been decided since it was read. */
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
    /* The lock first: a worker publishes its last state before it releases its lock, so a slot that is read after its
     * lock was free is final. */
    view->alive = sf_slot_alive(fd, rank);
    if (view->alive < 0)
        return view->alive;
    rc = sf_read_at(fd, &slot, sizeof slot, sf_slot_offset(rank));
    if (rc == 0)
        rc = sf_read_at(fd, mark, sizeof mark, sf_slot_offset(rank) + offsetof(struct sf_slot, mark_step));
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
    /* Two different readings: the worker is writing the pair, and mark_ns stays 0. */
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

void
sf_entry_copy(struct sf_entry_view *view, const struct sf_entry *entry, uint64_t seq)
{
    view->seq = seq;
    view->target = PLAIN(entry->target);
    view->outcome = PLAIN(entry->outcome);
    view->id = entry->id;
    view->arg = entry->arg;
    view->kind = entry->kind;
    view->sender_pid = entry->sender_pid;
    view->duration_ns = entry->duration_ns;
    view->asked_ns = entry->asked_ns;
    view->ranks = entry->ranks;
    view->agreed = PLAIN(entry->agreed);
    view->low = PLAIN(entry->low);
    memcpy(view->sender, entry->sender, sizeof view->sender);
    memcpy(view->mail, entry->mail, sizeof view->mail);
    view->sender[SF_SENDER_MAX - 1] = 0;
    view->mail[SF_MAIL_MAX - 1] = 0;
}

int
sf_read_entry(int fd, uint64_t seq, struct sf_entry_view *view)
{
    struct sf_entry entry;
    uint64_t tail;
    int rc = sf_read_at(fd, &tail, sizeof tail, offsetof(struct sf_header, tail));

    if (rc < 0)
        return rc;
    /* An entry that is not published yet may be overwritten by another sender. */
    if (seq == 0 || seq > tail)
        return -ENOENT;
    rc = read_raw_entry(fd, seq, &entry);
    if (rc < 0)
        return rc;
    sf_entry_copy(view, &entry, seq);
    return 0;
}
