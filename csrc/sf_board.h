/* The board: the values that a run exposes, in the file `board` of its run folder. The worker writes it. Any process of
 * the run's owner reads it at any time, with pread; the worker never waits for a reader.
 *
 *   0      header     one page
 *   4096   cells      SF_BOARD_CELLS, one per value
 *   ...    regions    histories and texts, added as values come
 *
 * A history covers the whole run in a fixed number of buckets. A bucket summarizes `stride` assignments. When
 * all are used, each is merged with its neighbour, which frees half of them, and the stride doubles. So an assignment
 * costs constant time, except for one in `stride` * SF_BUCKETS / 2, which costs some microseconds.
 *
 * Callers that write a cell hold the GIL, or a lock of their own, and so take turns. Other threads may extend the board
 * meanwhile, under a mutex; no address where the board has ever been is unmapped. */
#ifndef SF_BOARD_H
#define SF_BOARD_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "sf_clock.h"

#define SF_BOARD_MAGIC UINT64_C(0x314442204b524153) /* "SARK BD1", read as a little-endian number */
#define SF_BOARD_VERSION 1u
#define SF_BOARD_CELLS 256u
#define SF_BUCKETS 1024u /* an even number */
#define SF_TEXT_MAX (1u << 20)
#define SF_TEXT_PARTS 4u
#define SF_BOARD_SIZE_MAX (UINT64_C(1) << 28)

enum sf_value_kind { SF_NONE = 0, SF_FLOAT = 1, SF_INTEGER = 2, SF_BOOLEAN = 3, SF_TEXT = 4, SF_VALUE_END = 5 };

/* The summary of some consecutive assignments. */
struct sf_bucket {
    uint64_t step; /* of the first */
    int64_t time_ns;
    double low, high, mean; /* of those that are finite */
    double last;
    uint32_t count;
    uint32_t finite;
};

struct sf_history {
    /* Odd while buckets are merged. Raised by the worker, with release. A reader that reads the same even number before
     * and after the buckets has a consistent copy. */
    _Atomic uint32_t joins;
    _Atomic uint32_t used; /* buckets that are whole; release by the worker, acquire by readers */
    struct sf_bucket bucket[SF_BUCKETS];
};

struct sf_cell {
    _Atomic uint32_t turns; /* odd while the cell is written; as sf_history.joins */
    _Atomic uint32_t kind;
    _Atomic uint64_t bits; /* of the double, or of the int64_t */
    _Atomic uint64_t step;
    _Atomic int64_t time_ns; /* CLOCK_REALTIME, to some milliseconds */
    _Atomic uint64_t text_offset;
    _Atomic uint32_t text_size;
    uint32_t reserved;
    _Atomic uint64_t history_offset; /* 0: it has none */
    uint64_t padding[9];
};

struct sf_board_header {
    _Atomic uint64_t magic; /* written last with release by the worker */
    uint32_t version;
    uint32_t header_size;
    uint32_t cell_size;
    uint32_t cell_capacity;
    uint32_t bucket_size;
    uint32_t bucket_capacity;
    _Atomic uint32_t cells;        /* in use */
    _Atomic uint32_t descriptions; /* raised whenever the description of the values is rewritten */
    uint64_t padding[11];
    _Atomic uint64_t changes; /* assignments so far; relaxed by the worker */
    uint64_t more[15];
    /* CLOCK_MONOTONIC of the last read by a process that shows the values to a person. That process writes it. */
    _Atomic int64_t watched_ns;
};

#define SF_CELLS_OFFSET 4096u
#define SF_REGIONS_OFFSET (SF_CELLS_OFFSET + SF_BOARD_CELLS * (uint64_t)sizeof(struct sf_cell))

static_assert(sizeof(struct sf_bucket) == 56, "board 1");
static_assert(sizeof(struct sf_cell) == 128, "board 1");
static_assert(offsetof(struct sf_history, bucket) == 8, "board 1");
static_assert(offsetof(struct sf_board_header, changes) == 128, "board 1");
static_assert(offsetof(struct sf_board_header, watched_ns) == 256, "board 1");
static_assert(SF_REGIONS_OFFSET % 4096 == 0, "board 1");

/* --- the worker's side --- */

/* What the worker knows of a cell, in its own memory. The file is a copy for others, which the worker never trusts. */
struct sf_own_cell {
    _Atomic uint64_t history_offset; /* stored with release once the history exists; loaded with acquire */
    uint64_t text_offset;
    uint64_t text_capacity; /* of each of the SF_TEXT_PARTS that take turns */
    uint64_t stride;
    uint32_t used;
    uint32_t part;
};

struct sf_board {
    /* NULL: there is no board. It moves when the file has become longer than its mapping. The old mapping stays, and
     * shows the same file, for a thread that is writing there. Stored with release; loaded with acquire. */
    _Atomic(struct sf_board_header *) header;
    _Atomic uint32_t cells;
    struct sf_own_cell own[SF_BOARD_CELLS];
    /* Guarded by the mutex. */
    void *base;
    uint64_t size;
    uint64_t mapped; /* may reach far beyond the end of the file */
    int fd;
};

/* The one board of this process. */
extern struct sf_board sf_board;

/* Makes the file under another name, with all its blocks allocated, and renames it. 0, -EALREADY if there is a board,
 * or -errno. */
int sf_board_create(const char *path);
/* Adds a cell: its index, -ENOSPC if all are in use, or -EBADF without a board. */
int sf_board_add(void);
/* Makes room for a history, if the cell has none. 0 or -errno. */
int sf_board_keep_history(uint32_t index);
/* Stores a text, of at most SF_TEXT_MAX bytes. 0 or -errno; then the cell is as it was. */
int sf_board_put_text(uint32_t index, const char *text, size_t size, uint64_t step);
/* Publishes that the description of the values was rewritten. */
void sf_board_described(void);
/* Whether a process has called sf_board_touch() within the last `within_ns`. */
int sf_board_watched(int64_t within_ns);
/* Ends the writing, in a forked child. Async-signal-safe. */
void sf_board_forget(void);

void sf_board_join(struct sf_board_header *header, uint32_t index);

static inline struct sf_board_header *
sf_board_header(void)
{
    return atomic_load_explicit(&sf_board.header, memory_order_acquire);
}

static inline struct sf_cell *
sf_cell_of(struct sf_board_header *header, uint32_t index)
{
    return (struct sf_cell *)((char *)header + SF_CELLS_OFFSET) + index;
}

static inline struct sf_history *
sf_history_at(struct sf_board_header *header, uint64_t offset)
{
    return (struct sf_history *)((char *)header + offset);
}

static inline void
sf_bucket_add(struct sf_bucket *bucket, double value)
{
    double rest = value - value;

    bucket->last = value;
    bucket->count++;
    if (rest != 0 || rest != rest)
        return; /* not a number, or infinite */
    bucket->finite++;
    if (bucket->finite == 1) {
        bucket->low = bucket->high = bucket->mean = value;
        return;
    }
    if (value < bucket->low)
        bucket->low = value;
    if (value > bucket->high)
        bucket->high = value;
    bucket->mean += (value - bucket->mean) / bucket->finite;
}

/* Stores a number, and adds it to the history. kind: SF_FLOAT, SF_INTEGER or SF_BOOLEAN. */
static inline void
sf_board_put_number(uint32_t index, uint32_t kind, uint64_t bits, double value, uint64_t step)
{
    /* The header is loaded last: a mapping that is as new as the offset is long enough. */
    if (index >= atomic_load_explicit(&sf_board.cells, memory_order_acquire))
        return;
    struct sf_own_cell *own = &sf_board.own[index];
    uint64_t history_offset = atomic_load_explicit(&own->history_offset, memory_order_acquire);
    struct sf_board_header *header = sf_board_header();
    if (header == NULL)
        return;
    struct sf_cell *cell = sf_cell_of(header, index);
    int64_t now = sf_clock_ns(CLOCK_REALTIME_COARSE);

    atomic_fetch_add_explicit(&cell->turns, 1, memory_order_acq_rel);
    atomic_store_explicit(&cell->kind, kind, memory_order_relaxed);
    atomic_store_explicit(&cell->bits, bits, memory_order_relaxed);
    atomic_store_explicit(&cell->step, step, memory_order_relaxed);
    atomic_store_explicit(&cell->time_ns, now, memory_order_relaxed);
    uint32_t turns = atomic_load_explicit(&cell->turns, memory_order_relaxed);
    atomic_store_explicit(&cell->turns, turns + 1, memory_order_release);
    if (history_offset != 0) {
        struct sf_history *history = sf_history_at(header, history_offset);
        struct sf_bucket *bucket = &history->bucket[own->used];

        if (bucket->count == 0) {
            bucket->step = step;
            bucket->time_ns = now;
        }
        sf_bucket_add(bucket, value);
        if (bucket->count >= own->stride) {
            own->used++;
            atomic_store_explicit(&history->used, own->used, memory_order_release);
            if (own->used == SF_BUCKETS)
                sf_board_join(header, index);
        }
    }
    uint64_t changes = atomic_load_explicit(&header->changes, memory_order_relaxed);
    atomic_store_explicit(&header->changes, changes + 1, memory_order_relaxed);
}

/* --- the readers' side: nothing here can fault, and nothing is trusted --- */

struct sf_board_view {
    uint32_t cells;
    uint32_t descriptions;
    uint64_t changes;
};

struct sf_cell_view {
    uint32_t turns;
    uint32_t kind;
    uint32_t text_size;
    uint64_t bits;
    uint64_t step;
    int64_t time_ns;
    uint64_t text_offset;
    uint64_t history_offset;
};

/* 0, -SF_ENOTCONTROL, -SF_ELAYOUT, -SF_ECORRUPT, -SF_EGONE or -errno. */
int sf_board_read(int fd, struct sf_board_view *view);
int sf_board_read_cell(int fd, uint32_t index, struct sf_cell_view *view);
/* Up to `count` cells from the first. The number, or an error; -EAGAIN if the worker writes without a pause. */
int sf_board_read_cells(int fd, struct sf_cell_view *views, uint32_t count);
/* The text of a cell, of view->text_size bytes. -EAGAIN if it was replaced meanwhile. */
int sf_board_read_text(int fd, uint32_t index, const struct sf_cell_view *view, char *text);
/* The whole buckets of a history, SF_BUCKETS at most: their number, or an error. */
int sf_board_read_history(int fd, const struct sf_cell_view *view, struct sf_bucket *buckets);
/* Notes that a person is shown the values. 0 or -errno. */
int sf_board_touch(int fd);

#endif
