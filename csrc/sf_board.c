#include "sf_board.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sf_guard.h"
#include "sf_open.h"
#include "sf_point.h"
#include "sf_read.h"
#include "sf_error.h"

/* A reader that finds the writer at work tries again. A write takes some nanoseconds, unless the system lets another
 * process run in the middle of it. So the later tries are some time apart, 20 ms in all. */
#define TRIES 220
#define TRIES_AT_ONCE 20
#define BETWEEN_NS 100000
#define PAGE UINT64_C(4096)

/* The mapping is longer than the file, and twice as long each time. */
#define FIRST_MAPPED (UINT64_C(1) << 21)

struct sf_board sf_board = {.fd = -1};

/* Held to extend the board. */
static pthread_mutex_t board_mutex = PTHREAD_MUTEX_INITIALIZER;

/* --- the worker's side --- */

/* Maps the file anew, `size` bytes and room to grow. Another thread may be writing through an old mapping, so those
 * stay mapped, and guarded, for the life of the process. All mappings together take twice the room of the last. */
static int
map_further(uint64_t size)
{
    uint64_t mapped = sf_board.mapped != 0 ? sf_board.mapped : FIRST_MAPPED;
    void *base;
    int rc;

    while (mapped < size)
        mapped *= 2;
    base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, sf_board.fd, 0);
    if (base == MAP_FAILED && mapped > size) {
        /* Under a limit on the address space: as much as it allows. */
        mapped = size;
        base = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_SHARED, sf_board.fd, 0);
    }
    if (base == MAP_FAILED)
        return -errno;
    rc = sf_guard_add(base, size, sf_board.fd);
    if (rc < 0) {
        munmap(base, mapped);
        return rc;
    }
    sf_board.base = base;
    sf_board.mapped = mapped;
    if (sf_board_header() != NULL)
        atomic_store_explicit(&sf_board.header, base, memory_order_release);
    return 0;
}

/* Makes the file longer. The caller holds the mutex. */
static int
grow(uint64_t more)
{
    uint64_t size = sf_board.size + (more + PAGE - 1) / PAGE * PAGE;
    int rc;

    if (size > SF_BOARD_SIZE_MAX)
        return -ENOSPC;
    while ((rc = -posix_fallocate(sf_board.fd, (off_t)sf_board.size, (off_t)(size - sf_board.size))) == -EINTR)
        continue;
    if (rc < 0)
        return rc;
    if (size > sf_board.mapped) {
        rc = map_further(size);
        if (rc < 0)
            return rc;
    } else {
        sf_guard_resize(sf_board.base, size);
    }
    sf_board.size = size;
    return 0;
}

int
sf_board_create(const char *path)
{
    char making[1100];
    struct sf_board_header *header;
    int rc;

    if ((size_t)snprintf(making, sizeof making, "%s.new", path) >= sizeof making)
        return -ENAMETOOLONG;
    pthread_mutex_lock(&board_mutex);
    if (sf_board_header() != NULL) {
        rc = -EALREADY;
        goto done;
    }
    if (unlink(making) != 0 && errno != ENOENT) {
        rc = -errno;
        goto done;
    }
    atomic_store(&sf_board.cells, 0);
    memset(sf_board.own, 0, sizeof sf_board.own);
    sf_board.base = NULL;
    sf_board.size = sf_board.mapped = 0;
    rc = sf_open_own(making, O_CREAT | O_EXCL | O_RDWR, 0600);
    if (rc < 0)
        goto done;
    sf_board.fd = rc;
    rc = grow(SF_REGIONS_OFFSET);
    if (rc < 0)
        goto fail;
    header = sf_board.base;
    header->version = SF_BOARD_VERSION;
    header->header_size = sizeof(struct sf_board_header);
    header->cell_size = sizeof(struct sf_cell);
    header->cell_capacity = SF_BOARD_CELLS;
    header->bucket_size = sizeof(struct sf_bucket);
    header->bucket_capacity = SF_BUCKETS;
    atomic_store_explicit(&header->magic, SF_BOARD_MAGIC, memory_order_release);
    SF_POINT("board:filled");
    if (rename(making, path) == 0) {
        atomic_store_explicit(&sf_board.header, header, memory_order_release);
        goto done;
    }
    rc = -errno;
fail:
    unlink(making);
    if (sf_board.base != NULL) {
        sf_guard_remove(sf_board.base);
        munmap(sf_board.base, sf_board.mapped);
    }
    close(sf_board.fd);
    sf_board.fd = -1;
done:
    pthread_mutex_unlock(&board_mutex);
    return rc;
}

int
sf_board_add(void)
{
    int rc = -EBADF;

    if (sf_board_header() == NULL)
        return rc;
    pthread_mutex_lock(&board_mutex);
    uint32_t cells = atomic_load_explicit(&sf_board.cells, memory_order_relaxed);
    if (cells < SF_BOARD_CELLS) {
        atomic_store_explicit(&sf_board_header()->cells, cells + 1, memory_order_release);
        atomic_store_explicit(&sf_board.cells, cells + 1, memory_order_release);
        rc = (int)cells;
    } else {
        rc = -ENOSPC;
    }
    pthread_mutex_unlock(&board_mutex);
    return rc;
}

int
sf_board_keep_history(uint32_t index)
{
    struct sf_own_cell *own;
    int rc = 0;

    if (sf_board_header() == NULL || index >= atomic_load_explicit(&sf_board.cells, memory_order_acquire))
        return -EBADF;
    own = &sf_board.own[index];
    pthread_mutex_lock(&board_mutex);
    if (atomic_load_explicit(&own->history_offset, memory_order_relaxed) == 0) {
        uint64_t offset = sf_board.size;
        rc = grow(sizeof(struct sf_history));
        if (rc == 0) {
            own->stride = 1;
            own->used = 0;
            atomic_store_explicit(&own->history_offset, offset, memory_order_release);
            atomic_store_explicit(&sf_cell_of(sf_board_header(), index)->history_offset, offset, memory_order_release);
        }
    }
    pthread_mutex_unlock(&board_mutex);
    return rc;
}

static void
join_pair(struct sf_bucket *to, const struct sf_bucket *one, const struct sf_bucket *other)
{
    struct sf_bucket joined = *one;

    joined.count = one->count + other->count;
    joined.finite = one->finite + other->finite;
    joined.last = other->last;
    if (one->finite == 0) {
        joined.low = other->low;
        joined.high = other->high;
        joined.mean = other->mean;
    } else if (other->finite != 0) {
        if (other->low < joined.low)
            joined.low = other->low;
        if (other->high > joined.high)
            joined.high = other->high;
        joined.mean += (other->mean - one->mean) * ((double)other->finite / joined.finite);
    }
    *to = joined;
}

void
sf_board_join(struct sf_board_header *header, uint32_t index)
{
    struct sf_own_cell *own = &sf_board.own[index];
    struct sf_history *history = sf_history_at(header, atomic_load(&own->history_offset));

    atomic_fetch_add(&history->joins, 1);
    for (uint32_t i = 0; i < SF_BUCKETS / 2; i++)
        join_pair(&history->bucket[i], &history->bucket[2 * i], &history->bucket[2 * i + 1]);
    memset(&history->bucket[SF_BUCKETS / 2], 0, SF_BUCKETS / 2 * sizeof(struct sf_bucket));
    own->used = SF_BUCKETS / 2;
    /* A bucket counts its assignments in 32 bits. They last for more than a year. */
    if (own->stride < (UINT64_C(1) << 31))
        own->stride *= 2;
    atomic_store(&history->used, own->used);
    atomic_fetch_add(&history->joins, 1);
}

int
sf_board_put_text(uint32_t index, const char *text, size_t size, uint64_t step)
{
    struct sf_board_header *header;
    struct sf_own_cell *own;
    struct sf_cell *cell;
    uint64_t offset;

    if (sf_board_header() == NULL || index >= atomic_load_explicit(&sf_board.cells, memory_order_acquire))
        return -EBADF;
    own = &sf_board.own[index];
    if (size > SF_TEXT_MAX)
        return -EFBIG;
    if (size > own->text_capacity) {
        uint64_t capacity = 256, at;

        while (capacity < size)
            capacity *= 2;
        pthread_mutex_lock(&board_mutex);
        at = sf_board.size;
        int rc = grow(SF_TEXT_PARTS * capacity);
        pthread_mutex_unlock(&board_mutex);
        if (rc < 0)
            return rc;
        own->text_offset = at;
        own->text_capacity = capacity;
    }
    own->part = (own->part + 1) % SF_TEXT_PARTS;
    offset = own->text_offset + own->part * own->text_capacity;
    header = sf_board_header();
    memcpy((char *)header + offset, text, size);
    cell = sf_cell_of(header, index);
    atomic_fetch_add(&cell->turns, 1);
    atomic_store_explicit(&cell->kind, SF_TEXT, memory_order_relaxed);
    atomic_store_explicit(&cell->step, step, memory_order_relaxed);
    atomic_store_explicit(&cell->time_ns, sf_clock_ns(CLOCK_REALTIME_COARSE), memory_order_relaxed);
    atomic_store_explicit(&cell->text_offset, offset, memory_order_relaxed);
    atomic_store_explicit(&cell->text_size, (uint32_t)size, memory_order_relaxed);
    atomic_fetch_add(&cell->turns, 1);
    uint64_t changes = atomic_load_explicit(&header->changes, memory_order_relaxed);
    atomic_store_explicit(&header->changes, changes + 1, memory_order_relaxed);
    return 0;
}

void
sf_board_described(void)
{
    struct sf_board_header *header = sf_board_header();

    if (header != NULL)
        atomic_fetch_add(&header->descriptions, 1);
}

int
sf_board_watched(int64_t within_ns)
{
    struct sf_board_header *header = sf_board_header();
    int64_t watched;

    if (header == NULL)
        return 0;
    watched = atomic_load_explicit(&header->watched_ns, memory_order_relaxed);
    return watched > sf_clock_ns(CLOCK_MONOTONIC_COARSE) - within_ns;
}

void
sf_board_forget(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;

    /* The mapping stays: the thread that forked may have been in the middle of a store, and continues it here. */
    atomic_store(&sf_board.header, NULL);
    board_mutex = fresh; /* another thread of the parent may have held it */
}

/* --- the readers' side --- */

static void
wait_between(int tries)
{
    struct timespec time = {.tv_nsec = BETWEEN_NS};

    if (tries >= TRIES_AT_ONCE)
        nanosleep(&time, NULL);
}

int
sf_board_read(int fd, struct sf_board_view *view)
{
    struct sf_board_header header;
    int rc = sf_read_at(fd, &header, sizeof header, 0);

    if (rc < 0)
        return rc;
    if (atomic_load(&header.magic) != SF_BOARD_MAGIC)
        return -SF_ENOTCONTROL;
    if (header.version != SF_BOARD_VERSION)
        return -SF_ELAYOUT;
    view->cells = atomic_load(&header.cells);
    if (header.header_size != sizeof header || header.cell_size != sizeof(struct sf_cell) ||
        header.cell_capacity != SF_BOARD_CELLS || header.bucket_size != sizeof(struct sf_bucket) ||
        header.bucket_capacity != SF_BUCKETS || view->cells > SF_BOARD_CELLS)
        return -SF_ECORRUPT;
    view->descriptions = atomic_load(&header.descriptions);
    view->changes = atomic_load(&header.changes);
    return 0;
}

static void
view_cell(struct sf_cell_view *view, struct sf_cell *cell)
{
    view->turns = atomic_load(&cell->turns);
    view->kind = atomic_load(&cell->kind);
    view->bits = atomic_load(&cell->bits);
    view->step = atomic_load(&cell->step);
    view->time_ns = atomic_load(&cell->time_ns);
    view->text_offset = atomic_load(&cell->text_offset);
    view->text_size = atomic_load(&cell->text_size);
    view->history_offset = atomic_load(&cell->history_offset);
}

static int
check_cell(const struct sf_cell_view *view)
{
    if (view->kind >= SF_VALUE_END || view->text_size > SF_TEXT_MAX || view->text_offset > SF_BOARD_SIZE_MAX ||
        view->history_offset > SF_BOARD_SIZE_MAX)
        return -SF_ECORRUPT;
    return 0;
}

int
sf_board_read_cell(int fd, uint32_t index, struct sf_cell_view *view)
{
    struct sf_cell cell, again;
    uint64_t offset = SF_CELLS_OFFSET + index * (uint64_t)sizeof cell;

    if (index >= SF_BOARD_CELLS)
        return -EINVAL;
    for (int tries = 0; tries < TRIES; tries++) {
        int rc = sf_read_at(fd, &cell, sizeof cell, offset);
        if (rc == 0)
            rc = sf_read_at(fd, &again, sizeof again, offset);
        if (rc < 0)
            return rc;
        if (atomic_load(&cell.turns) % 2 == 0 && memcmp(&cell, &again, sizeof cell) == 0) {
            view_cell(view, &cell);
            return check_cell(view);
        }
        wait_between(tries);
    }
    return -EAGAIN;
}

int
sf_board_read_cells(int fd, struct sf_cell_view *views, uint32_t count)
{
    static_assert(SF_BOARD_CELLS * sizeof(struct sf_cell) <= 1 << 16, "fits on the stack, twice");
    struct sf_cell cells[SF_BOARD_CELLS], again[SF_BOARD_CELLS];
    int rc;

    if (count > SF_BOARD_CELLS)
        count = SF_BOARD_CELLS;
    rc = sf_read_at(fd, cells, count * sizeof *cells, SF_CELLS_OFFSET);
    if (rc == 0)
        rc = sf_read_at(fd, again, count * sizeof *again, SF_CELLS_OFFSET);
    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < count; i++) {
        if (atomic_load(&cells[i].turns) % 2 == 0 && memcmp(&cells[i], &again[i], sizeof *cells) == 0) {
            view_cell(&views[i], &cells[i]);
            rc = check_cell(&views[i]);
        } else {
            rc = sf_board_read_cell(fd, i, &views[i]); /* it was being written */
        }
        if (rc < 0)
            return rc;
    }
    return (int)count;
}

int
sf_board_read_text(int fd, uint32_t index, const struct sf_cell_view *view, char *text)
{
    struct sf_cell_view now;
    int rc = sf_read_at(fd, text, view->text_size, view->text_offset);

    if (rc == 0)
        rc = sf_board_read_cell(fd, index, &now);
    if (rc < 0)
        return rc;
    /* Each text raises `turns` by two and overwrites the oldest part. So this one is intact until as many more texts
     * have been written as there are other parts. */
    return now.turns - view->turns < 2 * (SF_TEXT_PARTS - 1) ? 0 : -EAGAIN;
}

int
sf_board_read_history(int fd, const struct sf_cell_view *view, struct sf_bucket *buckets)
{
    uint32_t before[2], after[2]; /* joins, used */
    int rc;

    if (view->history_offset == 0)
        return 0;
    for (int tries = 0; tries < TRIES; tries++) {
        rc = sf_read_at(fd, before, sizeof before, view->history_offset);
        if (rc < 0)
            return rc;
        if (before[1] > SF_BUCKETS)
            return -SF_ECORRUPT;
        rc = sf_read_at(fd, buckets, before[1] * sizeof *buckets,
                        view->history_offset + offsetof(struct sf_history, bucket));
        if (rc == 0)
            rc = sf_read_at(fd, after, sizeof after, view->history_offset);
        if (rc < 0)
            return rc;
        if (before[0] % 2 == 0 && before[0] == after[0])
            return (int)before[1];
        wait_between(tries);
    }
    return -EAGAIN;
}

int
sf_board_touch(int fd)
{
    int64_t now = sf_monotonic_ns();
    ssize_t count = pwrite(fd, &now, sizeof now, offsetof(struct sf_board_header, watched_ns));
    return count == (ssize_t)sizeof now ? 0 : count < 0 ? -errno : -EIO;
}
