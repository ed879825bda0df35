/* The board: what the worker puts there is what others read, at any time, for as long as the run lasts. */
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>

#include "core.h"
#include "sf_board.h"

static int
open_board(void)
{
    int fd = open(path_in("board"), O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static uint32_t
new_number(void)
{
    int index = sf_board_add();
    CHECK(index >= 0);
    CHECK_EQ(sf_board_keep_history((uint32_t)index), 0);
    return (uint32_t)index;
}

static void
put(uint32_t index, double value, uint64_t step)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    sf_board_put_number(index, SF_FLOAT, bits, value, step);
}

static struct sf_cell_view
cell_of(int fd, uint32_t index)
{
    struct sf_cell_view view;
    CHECK_EQ(sf_board_read_cell(fd, index, &view), 0);
    return view;
}

static struct sf_bucket buckets[SF_BUCKETS];

static int
history_of(int fd, uint32_t index)
{
    struct sf_cell_view view = cell_of(fd, index);
    return sf_board_read_history(fd, &view, buckets);
}

TEST(a_board_reads_back_what_was_put_there)
{
    struct sf_board_view view;
    struct sf_cell_view cells[SF_BOARD_CELLS];
    char text[64];

    CHECK_EQ(sf_board_create(path_in("board")), 0);
    CHECK_EQ(sf_board_create(path_in("board")), -EALREADY);
    int fd = open_board();
    CHECK_EQ(sf_board_read(fd, &view), 0);
    CHECK_EQ(view.cells, 0);
    uint32_t number = new_number();
    uint32_t letter = (uint32_t)sf_board_add();
    put(number, 0.25, 7);
    CHECK_EQ(sf_board_put_text(letter, "{\"a\": 1}", 8, 9), 0);
    CHECK_EQ(sf_board_read(fd, &view), 0);
    CHECK_EQ(view.cells, 2);
    CHECK_EQ(view.changes, 2);
    CHECK_EQ(sf_board_read_cells(fd, cells, view.cells), 2);
    double value;
    memcpy(&value, &cells[0].bits, sizeof value);
    CHECK(value == 0.25);
    CHECK_EQ(cells[0].kind, SF_FLOAT);
    CHECK_EQ(cells[0].step, 7);
    CHECK(llabs(cells[0].time_ns - sf_realtime_ns()) < 60 * SF_SECOND);
    CHECK_EQ(cells[1].kind, SF_TEXT);
    CHECK_EQ(cells[1].text_size, 8);
    CHECK_EQ(sf_board_read_text(fd, 1, &cells[1], text), 0);
    CHECK_EQ(memcmp(text, "{\"a\": 1}", 8), 0);
    CHECK_EQ(sf_board_read_cells(fd, cells, 1000), SF_BOARD_CELLS);
    CHECK_EQ(cells[2].kind, SF_NONE);
    sf_board_described();
    CHECK_EQ(sf_board_read(fd, &view), 0);
    CHECK_EQ(view.descriptions, 1);
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_mode & 07777, 0600);
    CHECK((uint64_t)status.st_blocks * 512 >= (uint64_t)status.st_size); /* no hole: a full disk has failed before */
    CHECK_EQ(access(path_in("board.new"), F_OK), -1);
}

TEST(texts_grow_and_a_replaced_one_is_told_from_a_whole_one)
{
    static char long_text[100000], read_back[SF_TEXT_MAX];

    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = (uint32_t)sf_board_add();
    memset(long_text, 'x', sizeof long_text);
    for (size_t size = 1; size < sizeof long_text; size = size * 3 + 1) {
        CHECK_EQ(sf_board_put_text(index, long_text, size, size), 0);
        struct sf_cell_view view = cell_of(fd, index);
        CHECK_EQ(view.text_size, size);
        CHECK_EQ(sf_board_read_text(fd, index, &view, read_back), 0);
        CHECK_EQ(memcmp(read_back, long_text, size), 0);
    }
    struct sf_cell_view old = cell_of(fd, index);
    for (uint32_t i = 0; i < SF_TEXT_PARTS; i++) {
        CHECK_EQ(sf_board_read_text(fd, index, &old, read_back), i + 1 < SF_TEXT_PARTS ? 0 : -EAGAIN);
        CHECK_EQ(sf_board_put_text(index, "y", 1, 1), 0);
    }
    CHECK_EQ(sf_board_put_text(index, long_text, (size_t)SF_TEXT_MAX + 1, 1), -EFBIG);
    CHECK_EQ(cell_of(fd, index).text_size, 1);
}

/* Every assignment is in the history, however many there were, and the whole run is covered. */
TEST(a_history_of_any_length_covers_the_whole_run)
{
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number();
    uint64_t next = 1;
    static const uint64_t lengths[] = {1, 2, 1023, 1024, 1025, 2047, 2048, 5000, 100000, 1000000};

    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
        for (; next <= lengths[l]; next++)
            put(index, (double)next, next);
        int count = history_of(fd, index);
        CHECK(count >= 0 && count < (int)SF_BUCKETS);
        uint64_t covered = 0;
        for (int i = 0; i < count; i++) {
            CHECK_EQ(buckets[i].step, covered + 1);
            CHECK(buckets[i].low == (double)(covered + 1));
            covered += buckets[i].count;
            CHECK(buckets[i].high == (double)covered && buckets[i].last == (double)covered);
            CHECK(fabs(buckets[i].mean - (buckets[i].low + buckets[i].high) / 2) < 1e-6 * (double)covered);
            CHECK_EQ(buckets[i].finite, buckets[i].count);
        }
        /* What is missing has not filled a bucket, and is less than one. */
        CHECK(lengths[l] - covered < (count ? buckets[0].count : 1));
        if (lengths[l] >= SF_BUCKETS)
            CHECK(count >= (int)SF_BUCKETS / 2);
    }
}

TEST(what_is_not_finite_is_kept_apart)
{
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number();
    for (uint64_t step = 1; step <= SF_BUCKETS; step++)
        put(index, step % 4 == 1 ? (double)NAN : step % 4 == 2 ? (double)INFINITY : step % 8 < 4 ? 1.0 : 3.0, step);
    int count = history_of(fd, index);
    CHECK_EQ(count, SF_BUCKETS / 2);
    for (int i = 0; i < count; i++) {
        CHECK_EQ(buckets[i].count, 2);
        CHECK_EQ(buckets[i].finite, i % 2 ? 2 : 0);
        if (i % 2)
            CHECK(buckets[i].mean == (buckets[i].low + buckets[i].high) / 2 && buckets[i].high <= 3);
        else
            CHECK(isinf(buckets[i].last));
    }
}

TEST(a_board_that_is_full_says_so_and_keeps_what_it_has)
{
    CHECK_EQ(sf_board_add(), -EBADF);
    put(0, 1, 1); /* without a board nothing happens */
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    for (uint32_t i = 0; i < SF_BOARD_CELLS; i++)
        CHECK_EQ(sf_board_add(), i);
    CHECK_EQ(sf_board_add(), -ENOSPC);
    CHECK_EQ(sf_board_keep_history(SF_BOARD_CELLS), -EBADF);
    put(SF_BOARD_CELLS, 1, 1);
    put(SF_BOARD_CELLS - 1, 5, 3);
    CHECK_EQ(cell_of(fd, SF_BOARD_CELLS - 1).step, 3);
}

TEST(a_board_is_watched_only_after_a_touch)
{
    CHECK_EQ(sf_board_watched(SF_SECOND), 0);
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    CHECK_EQ(sf_board_watched(SF_SECOND), 0);
    CHECK_EQ(sf_board_touch(fd), 0);
    CHECK_EQ(sf_board_watched(SF_SECOND), 1);
    WITHIN(5, !sf_board_watched(SF_SECOND / 20));
}

static int
assign_in_child(void *unused)
{
    (void)unused;
    put(0, 99, 99);
    return sf_board_add() == -EBADF ? 0 : 1;
}

TEST(a_forked_child_assigns_for_itself)
{
    CHECK_EQ(sf_worker_setup(), 0);
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    put(new_number(), 1, 1);
    CHECK_EQ(reap(spawn(assign_in_child, NULL), 10), 0);
    CHECK_EQ(cell_of(fd, 0).step, 1);
    put(0, 2, 2);
    CHECK_EQ(cell_of(fd, 0).step, 2);
}

TEST(a_board_that_is_cut_short_ends_no_process)
{
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number();
    put(index, 1, 1);
    CHECK_EQ(ftruncate(fd, 0), 0);
    for (uint64_t step = 2; step < 5000; step++)
        put(index, 1, step);
    struct sf_board_view view;
    CHECK_EQ(sf_board_read(fd, &view), -SF_EGONE);
}

static _Atomic int writing;

static void *
write_on(void *argument)
{
    uint32_t index = *(uint32_t *)argument;
    static const char *const texts[] = {"aaaaaaaaaa", "bbbbbbbbbbbbbbbbbbbb"};
    for (uint64_t i = 1; atomic_load(&writing); i++) {
        put(index, (double)i, i);
        if (i % 16 == 0)
            sf_board_put_text(index + 1, texts[i / 16 % 2], i / 16 % 2 ? 20 : 10, i);
    }
    return NULL;
}

TEST(a_reader_sees_whole_values_while_the_worker_writes_without_a_pause)
{
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number();
    CHECK_EQ(sf_board_add(), 1);
    pthread_t writer;
    int64_t end = sf_monotonic_ns() + SF_SECOND;
    int seen = 0, histories = 0, texts = 0;
    atomic_store(&writing, 1);
    CHECK_EQ(pthread_create(&writer, NULL, write_on, &index), 0);
    while (sf_monotonic_ns() < end) {
        struct sf_cell_view view;
        char text[64];
        if (sf_board_read_cell(fd, index, &view) == 0 && view.kind == SF_FLOAT) {
            double value;
            memcpy(&value, &view.bits, sizeof value);
            CHECK(value == (double)view.step);
            seen++;
            int count = sf_board_read_history(fd, &view, buckets);
            CHECK(count >= 0 || count == -EAGAIN);
            histories += count > 0;
            for (int i = 1; i < count; i++) {
                CHECK_EQ(buckets[i].count, buckets[0].count);
                CHECK_EQ(buckets[i].step, buckets[i - 1].step + buckets[i - 1].count);
            }
        }
        if (sf_board_read_cell(fd, index + 1, &view) == 0 && view.kind == SF_TEXT &&
            sf_board_read_text(fd, index + 1, &view, text) == 0) {
            CHECK(view.text_size == 10 || view.text_size == 20);
            for (uint32_t i = 0; i < view.text_size; i++)
                CHECK_EQ(text[i], view.text_size == 10 ? 'a' : 'b');
            texts++;
        }
    }
    atomic_store(&writing, 0);
    pthread_join(writer, NULL);
    CHECK(seen > 10 && histories > 10 && texts > 10);
}

/* What a thread of a build without the GIL may do while another exposes more. */
static void *
assign_on(void *argument)
{
    uint32_t index = *(uint32_t *)argument;
    for (uint64_t i = 1; atomic_load(&writing); i++)
        put(index, (double)i, i);
    return NULL;
}

/* Of a cell that is written all the time: a reader may find it in the middle of that as often as it looks. */
static uint64_t
step_of_busy(int fd, uint32_t index)
{
    struct sf_cell_view view;
    int rc;

    while ((rc = sf_board_read_cell(fd, index, &view)) == -EAGAIN)
        continue;
    CHECK_EQ(rc, 0);
    return view.step;
}

TEST(a_thread_assigns_while_another_makes_the_board_longer)
{
    static char text[300000];
    pthread_t writer;

    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number();
    atomic_store(&writing, 1);
    CHECK_EQ(pthread_create(&writer, NULL, assign_on, &index), 0);
    memset(text, 'x', sizeof text);
    for (uint32_t i = 1; i < 200; i++) {
        uint32_t added = new_number();
        CHECK_EQ(added, i);
        put(added, (double)i, i);
        if (i % 20 == 0)
            CHECK_EQ(sf_board_put_text(added, text, i * 1500, i), 0);
    }
    for (uint64_t step = step_of_busy(fd, index); step_of_busy(fd, index) == step;)
        continue; /* it still writes what others see */
    atomic_store(&writing, 0);
    pthread_join(writer, NULL);
    uint64_t last = cell_of(fd, index).step, covered = 0;
    int count = history_of(fd, index);
    for (int i = 0; i < count; i++) {
        CHECK_EQ(buckets[i].step, covered + 1);
        covered += buckets[i].count;
    }
    CHECK(covered <= last && last - covered < (count ? buckets[0].count : 1));
    for (uint32_t i = 1; i < 200; i++)
        CHECK_EQ(cell_of(fd, i).step, i);
}

TEST(a_pointer_into_the_board_stays_good_however_long_it_becomes)
{
    static char text[SF_TEXT_MAX];

    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number(), letter = (uint32_t)sf_board_add();
    struct sf_cell *before = sf_cell_of(sf_board_header(), index);
    put(index, 1, 1);
    CHECK_EQ(sf_board_put_text(letter, text, sizeof text, 2), 0);
    CHECK(before != sf_cell_of(sf_board_header(), index)); /* it was longer than what was mapped */
    CHECK_EQ(atomic_load(&before->step), 1);
    atomic_store(&before->step, 5);
    CHECK_EQ(cell_of(fd, index).step, 5);
    put(index, 2, 6);
    CHECK_EQ(atomic_load(&before->step), 6);
    /* If the file is cut short, no thread dies either, wherever one is writing. */
    CHECK_EQ(ftruncate(fd, 0), 0);
    atomic_store(&before->step, 7);
    put(index, 3, 8);
    CHECK_EQ(sf_board_put_text(letter, text, sizeof text, 9), 0);
    CHECK(new_number() > letter);
}

/* The guard of the board, which is mapped further than it reaches, takes only what is missing of the file for its own.
 */
TEST(a_signal_for_another_mapping_leaves_the_board)
{
    CHECK_EQ(signal(SIGBUS, SIG_IGN) == SIG_ERR, 0);
    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number();
    for (int i = 0; i < 40; i++)
        new_number();
    CHECK_EQ(raise(SIGBUS), 0);
    put(index, 2, 2);
    CHECK_EQ(cell_of(fd, index).step, 2);
}

/* Bytes of addresses that this process has. */
static uint64_t
addresses(void)
{
    unsigned long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return pages * 4096;
}

static int
expose_with_few_addresses(void *unused)
{
    static char text[SF_TEXT_MAX];
    struct rlimit limit, few;

    (void)unused;
    CHECK_EQ(getrlimit(RLIMIT_AS, &limit), 0);
    few = limit;
    few.rlim_cur = addresses() + (1 << 20);
    CHECK_EQ(setrlimit(RLIMIT_AS, &few), 0);
    CHECK_EQ(sf_board_create(path_in("board")), 0); /* as much as it takes, and no more */
    int fd = open_board();
    int index = sf_board_add();
    CHECK_EQ(sf_board_put_text((uint32_t)index, "short", 5, 1), 0);
    CHECK_EQ(sf_board_put_text((uint32_t)index, text, sizeof text, 2), -ENOMEM);
    CHECK_EQ(sf_board_put_text((uint32_t)index, "still", 5, 3), 0);
    CHECK_EQ(cell_of(fd, (uint32_t)index).step, 3);
    CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
    CHECK_EQ(sf_board_put_text((uint32_t)index, text, sizeof text, 4), 0);
    CHECK_EQ(cell_of(fd, (uint32_t)index).text_size, sizeof text);
    return 0;
}

TEST(under_a_limit_on_addresses_a_board_takes_what_it_needs_and_says_when_there_is_no_more)
{
    CHECK_EQ(reap(spawn(expose_with_few_addresses, NULL), 20), 0);
}

TEST(a_board_has_a_limit_whatever_its_texts_are)
{
    static char text[SF_TEXT_MAX];
    struct stat status;
    int rc = 0;

    CHECK_EQ(sf_board_create(path_in("board")), 0);
    for (uint32_t i = 0; i < SF_BOARD_CELLS && rc == 0; i++) {
        CHECK_EQ(sf_board_add(), (int)i);
        rc = sf_board_put_text(i, text, sizeof text, 1);
    }
    CHECK_EQ(rc, -ENOSPC);
    CHECK_EQ(stat(path_in("board"), &status), 0);
    CHECK((uint64_t)status.st_size <= SF_BOARD_SIZE_MAX);
    uint64_t full = (uint64_t)status.st_size;
    for (int round = 0; round < 20; round++)
        CHECK_EQ(sf_board_put_text(0, text, sizeof text, 2), 0); /* what has its room keeps it */
    CHECK_EQ(stat(path_in("board"), &status), 0);
    CHECK_EQ((uint64_t)status.st_size, full);
}

TEST(a_damaged_board_crashes_no_reader_and_no_writer)
{
    static char text[SF_TEXT_MAX];
    uint64_t random = test_seed;

    CHECK_EQ(sf_board_create(path_in("board")), 0);
    int fd = open_board();
    uint32_t index = new_number();
    CHECK_EQ(sf_board_add(), 1);
    for (int round = 0; round < 500; round++) {
        struct sf_board_view view;
        struct sf_cell_view cells[SF_BOARD_CELLS];
        uint64_t junk = random_next(&random) % 3 ? random_next(&random) : UINT64_MAX;
        static const uint64_t limits[] = {512, SF_CELLS_OFFSET + 512, SF_REGIONS_OFFSET + 60000};
        uint64_t limit = limits[random_next(&random) % 3];
        poke(path_in("board"), (limit - 512) + random_next(&random) % 500, &junk, 1 + random_next(&random) % 8);
        put(index, (double)round, (uint64_t)round);
        sf_board_put_text(1, "text", 4, (uint64_t)round);
        sf_board_watched(SF_SECOND);
        sf_board_read(fd, &view);
        int count = sf_board_read_cells(fd, cells, SF_BOARD_CELLS);
        for (int i = 0; i < (count < 2 ? count : 2); i++) {
            sf_board_read_history(fd, &cells[i], buckets);
            sf_board_read_text(fd, (uint32_t)i, &cells[i], text);
        }
    }
}
