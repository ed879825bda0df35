/* Making, opening and reading control files, whole and damaged. */
#include "core.h"

TEST(a_made_file_reads_back_as_it_was_made)
{
    struct sf_segment made, opened;
    const char *path = path_in("control");
    int64_t before = sf_realtime_ns();

    CHECK_EQ(sf_segment_create(&made, path, 3, 1), 0);
    CHECK_EQ(sf_segment_check(&made), 0);
    CHECK_EQ(sf_segment_open(&opened, path), 0);
    CHECK_EQ(sf_segment_check(&opened), 0);
    CHECK_EQ(opened.slot_count, 3);
    CHECK_EQ(opened.size, SF_FILE_SIZE(3));

    struct stat status;
    CHECK_EQ(stat(path, &status), 0);
    CHECK_EQ(status.st_size, SF_FILE_SIZE(3));
    CHECK_EQ(status.st_mode & 07777, 0600);
    CHECK((uint64_t)status.st_blocks * 512 >= SF_FILE_SIZE(3)); /* all blocks are there, none is a hole */
    CHECK_EQ(access(path_in("control.new"), F_OK), -1);

    struct sf_view view = view_of(path);
    CHECK_EQ(view.layout_version, SF_LAYOUT_VERSION);
    CHECK_EQ(view.slot_count, 3);
    CHECK_EQ(view.tail, 0);
    CHECK(view.state.park == SF_NEVER && view.state.stop_seq == 0);
    CHECK(view.created_ns >= before && view.created_ns <= sf_realtime_ns());
    CHECK_EQ(sf_read_layout_version(opened.fd), SF_LAYOUT_VERSION);

    struct sf_slot_view slot;
    CHECK_EQ(sf_read_slot(opened.fd, 1, &slot), 0);
    CHECK_EQ(slot.alive, 1);
    CHECK(slot.alarm == SF_NEVER);
    CHECK_EQ(sf_read_slot(opened.fd, 0, &slot), 0);
    CHECK_EQ(slot.alive, 0);
    CHECK_EQ(sf_read_slot(opened.fd, 2, &slot), 0);
    CHECK_EQ(slot.alive, 0);
    CHECK(sf_read_slot(opened.fd, 3, &slot) < 0);
    CHECK(sf_read_slot(opened.fd, UINT32_MAX, &slot) < 0);

    sf_segment_close(&opened);
    sf_segment_close(&opened); /* closing twice does no harm */
    sf_segment_close(&made);
}

TEST(what_can_not_be_made_or_opened_says_so_and_leaves_nothing)
{
    struct sf_segment segment;
    char longest[1200];

    memset(longest, 'x', sizeof longest);
    longest[sizeof longest - 1] = 0;
    CHECK_EQ(sf_segment_create(&segment, path_in("control"), 0, 0), -EINVAL);
    CHECK_EQ(sf_segment_create(&segment, path_in("control"), SF_SLOTS_MAX + 1, 0), -EINVAL);
    CHECK_EQ(sf_segment_create(&segment, path_in("control"), 2, 2), -EINVAL);
    CHECK_EQ(sf_segment_create(&segment, longest, 1, 0), -ENAMETOOLONG);
    CHECK_EQ(sf_segment_create(&segment, path_in("no/folder"), 1, 0), -ENOENT);
    CHECK_EQ(sf_segment_open(&segment, path_in("control")), -ENOENT);
    CHECK_EQ(sf_segment_open(&segment, longest), -ENAMETOOLONG);
    CHECK_EQ(access(path_in("control"), F_OK), -1);
    CHECK_EQ(access(path_in("control.new"), F_OK), -1);

    CHECK_EQ(sf_segment_create(&segment, path_in("control"), 1, 0), 0);
    sf_segment_close(&segment);
    CHECK_EQ(symlink(path_in("control"), path_in("link")), 0);
    CHECK_EQ(sf_segment_open(&segment, path_in("link")), -SF_EFOREIGN);
    CHECK_EQ(mkfifo(path_in("pipe"), 0600), 0);
    CHECK_EQ(sf_segment_open(&segment, path_in("pipe")), -SF_EFOREIGN);
    CHECK_EQ(sf_segment_open(&segment, test_folder), -SF_EFOREIGN);
    CHECK_EQ(link(path_in("control"), path_in("second name")), 0);
    CHECK_EQ(sf_segment_open(&segment, path_in("control")), -SF_EFOREIGN);
    CHECK_EQ(sf_lock_open(path_in("second name")), -SF_EFOREIGN);
    CHECK_EQ(unlink(path_in("second name")), 0);
    CHECK_EQ(sf_segment_open(&segment, path_in("control")), 0);
    sf_segment_close(&segment);

    /* A folder where the file should go: the rename fails, and what was being made is gone. */
    CHECK_EQ(mkdir(path_in("taken"), 0700), 0);
    CHECK_EQ(sf_segment_create(&segment, path_in("taken"), 1, 0), -EISDIR);
    CHECK_EQ(access(path_in("taken.new"), F_OK), -1);
    CHECK_EQ(segment.fd, -1);
    rmdir(path_in("taken"));
}

TEST(the_largest_run_is_made_and_read)
{
    struct sf_segment segment;
    struct sf_slot_view slot;

    CHECK_EQ(sf_segment_create(&segment, path_in("control"), SF_SLOTS_MAX, SF_SLOTS_MAX - 1), 0);
    int fd = open(path_in("control"), O_RDWR);
    CHECK_EQ(sf_read_slot(fd, SF_SLOTS_MAX - 1, &slot), 0);
    CHECK_EQ(slot.alive, 1);
    CHECK_EQ(sf_segment_check(&segment), 0);
    close(fd);
    sf_segment_close(&segment);
}

TEST(a_second_file_in_the_place_of_the_first_makes_the_first_gone)
{
    struct sf_segment first, second;
    struct sf_request request = request_of(SF_PAUSE, 0);
    struct sf_receipt receipt;

    CHECK_EQ(sf_segment_create(&first, path_in("control"), 1, 0), 0);
    CHECK_EQ(sf_segment_create(&second, path_in("control"), 1, 0), 0);
    CHECK_EQ(sf_segment_check(&first), -SF_EGONE);
    CHECK_EQ(sf_segment_check(&second), 0);
    CHECK_EQ(sf_append(&first, &request, 0, &receipt), -SF_EGONE);
    CHECK_EQ(unlink(path_in("control")), 0);
    CHECK_EQ(sf_append(&second, &request, 0, &receipt), -SF_EGONE);
    sf_segment_close(&first);
    sf_segment_close(&second);
}

/* --- damage --- */

/* What a reader finds wrong. Opening for requests looks at the header only. */
static int
error_of(const char *path)
{
    struct sf_header header;
    struct sf_view view;
    struct sf_segment segment;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    int read = sf_read_view(fd, &view);
    int opened = sf_segment_open(&segment, path);

    CHECK_EQ(opened, sf_read_header(fd, &header));
    if (opened == 0)
        sf_segment_close(&segment);
    else
        CHECK_EQ(opened, read);
    close(fd);
    return read;
}

TEST(each_header_field_that_lies_is_found_out)
{
    static const struct {
        const char *name;
        size_t offset, size;
        int error;
    } fields[] = {
#define FIELD(name, error) {#name, offsetof(struct sf_header, name), sizeof(((struct sf_header *)0)->name), error}
        FIELD(magic, -SF_ENOTCONTROL),   FIELD(layout_version, -SF_ELAYOUT), FIELD(header_size, -SF_ECORRUPT),
        FIELD(entry_size, -SF_ECORRUPT), FIELD(log_capacity, -SF_ECORRUPT),  FIELD(slot_size, -SF_ECORRUPT),
        FIELD(slot_count, -SF_ECORRUPT), FIELD(log_offset, -SF_ECORRUPT),    FIELD(slots_offset, -SF_ECORRUPT),
        FIELD(file_size, -SF_ECORRUPT),
    };
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    ask(&segment, SF_PAUSE, 0);
    uint64_t values[] = {0, 1, 2, 127, 129, 4095, UINT32_MAX, UINT64_MAX, UINT64_MAX - 1, 1ull << 31, 1ull << 63};

    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) {
        uint64_t was = 0;
        int fd = open(path, O_RDWR);
        CHECK_EQ(pread(fd, &was, fields[f].size, (off_t)fields[f].offset), (long)fields[f].size);
        for (size_t v = 0; v < sizeof values / sizeof *values; v++) {
            if (memcmp(&values[v], &was, fields[f].size) == 0)
                continue;
            poke(path, fields[f].offset, &values[v], fields[f].size);
            if (error_of(path) != fields[f].error)
                FAIL("%s = %" PRIu64 ": %d", fields[f].name, values[v], error_of(path));
            CHECK_EQ(sf_segment_check(&segment), fields[f].error); /* what was mapped before finds it as well */
            struct sf_request request = request_of(SF_RESUME, 0);
            struct sf_receipt receipt;
            CHECK_EQ(sf_append(&segment, &request, 0, &receipt), fields[f].error);
        }
        for (int bit = 0; bit < (int)fields[f].size * 8; bit++) {
            uint64_t flipped = was ^ (UINT64_C(1) << bit);
            poke(path, fields[f].offset, &flipped, fields[f].size);
            CHECK_EQ(error_of(path), fields[f].error);
        }
        poke(path, fields[f].offset, &was, fields[f].size);
        CHECK_EQ(error_of(path), 0);
        close(fd);
    }
    /* Of another layout: the version can be read, for the error message. */
    uint32_t other = 77;
    poke(path, offsetof(struct sf_header, layout_version), &other, sizeof other);
    int fd = open(path, O_RDWR);
    CHECK_EQ(sf_read_layout_version(fd), 77);
    uint64_t magic = 0;
    poke(path, 0, &magic, sizeof magic);
    CHECK_EQ(sf_read_layout_version(fd), 0);
    close(fd);
    sf_segment_close(&segment);
}

TEST(a_header_that_tells_of_more_slots_than_the_file_holds_is_gone)
{
    const char *path = attach();
    uint32_t slots = 2;
    uint64_t size = SF_FILE_SIZE(2);

    poke(path, offsetof(struct sf_header, slot_count), &slots, sizeof slots);
    poke(path, offsetof(struct sf_header, file_size), &size, sizeof size);
    CHECK_EQ(error_of(path), -SF_EGONE);
}

TEST(entries_that_lie_are_found_out)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    struct sf_request request = request_of(SF_RESUME, 0);
    struct sf_receipt receipt;
    struct sf_due due;
    uint64_t at;

    at = ENTRY_OFFSET(ask(&segment, SF_PAUSE, 0).seq);
#define BREAK(field, type, broken)                                                                                     \
    do {                                                                                                               \
        type was, bad = (broken);                                                                                      \
        int fd = open(path, O_RDWR);                                                                                   \
        CHECK_EQ(pread(fd, &was, sizeof was, (off_t)(at + offsetof(struct sf_entry, field))), (long)sizeof was);       \
        close(fd);                                                                                                     \
        poke(path, at + offsetof(struct sf_entry, field), &bad, sizeof bad);                                           \
        CHECK_EQ(error_of(path), -SF_ECORRUPT);                                                                        \
        CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -SF_ECORRUPT);                                            \
        CHECK_EQ(sf_apply_due(WORKER, 1, 1, &due), -SF_ECORRUPT);                                                      \
        poke(path, at + offsetof(struct sf_entry, field), &was, sizeof was);                                           \
    } while (0)
    BREAK(kind, uint32_t, 0);
    BREAK(kind, uint32_t, SF_KIND_END);
    BREAK(kind, uint32_t, UINT32_MAX);
    BREAK(arg, uint64_t, SF_STEP_MAX + 1);
    BREAK(arg, uint64_t, UINT64_MAX);
    BREAK(number, uint64_t, 0);
    BREAK(number, uint64_t, 2);
    BREAK(number, uint64_t, 1 + SF_LOG_CAPACITY);
    CHECK_EQ(checkpoint().action, SF_HOLD);
    sf_segment_close(&segment);
}

TEST(a_tail_that_lies_is_found_out)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    struct sf_request request = request_of(SF_RESUME, 0);
    struct sf_receipt receipt;
    struct sf_due due;
    uint64_t tails[] = {2, 3, 129, 1000, SF_STEP_MAX, SF_STEP_MAX + 1, UINT64_MAX, UINT64_MAX - 1};

    ask(&segment, SF_PAUSE, 0);
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        poke(path, offsetof(struct sf_header, tail), &tails[i], sizeof tails[i]);
        CHECK_EQ(error_of(path), -SF_ECORRUPT);
        CHECK_EQ(sf_append(&segment, &request, 0, &receipt), -SF_ECORRUPT);
    }
    for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
        poke(path, offsetof(struct sf_header, tail), &tails[i], sizeof tails[i]);
        if (tails[i] == 2 || tails[i] == 3) /* would apply the first, and then find no second */
            continue;
        CHECK_EQ(sf_apply_due(WORKER, 1, 1, &due), -SF_ECORRUPT);
    }
    sf_segment_close(&segment);
}

TEST(a_slot_that_is_no_longer_the_workers_own_ends_control)
{
    const char *path = attach();
    struct sf_due due;
    uint64_t cookie = 999, applied = 5;

    CHECK_EQ(sf_apply_due(WORKER, 1, 1, &due), 0);
    poke(path, SF_SLOTS_OFFSET + offsetof(struct sf_slot, cookie), &cookie, sizeof cookie);
    CHECK_EQ(sf_apply_due(WORKER, 2, 1, &due), -SF_ECORRUPT);
    cookie = 12345;
    poke(path, SF_SLOTS_OFFSET + offsetof(struct sf_slot, cookie), &cookie, sizeof cookie);
    CHECK_EQ(sf_apply_due(WORKER, 2, 1, &due), 0);
    poke(path, SF_SLOTS_OFFSET + offsetof(struct sf_slot, applied), &applied, sizeof applied);
    CHECK_EQ(sf_apply_due(WORKER, 2, 1, &due), -SF_ECORRUPT);
}

/* --- entries that are not there --- */

TEST(an_entry_that_the_log_does_not_hold_is_not_there)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    struct sf_entry_view view;
    int fd = open(path, O_RDWR);

    CHECK_EQ(sf_read_entry(fd, 1, &view), -ENOENT);
    CHECK_EQ(sf_read_entry(fd, 0, &view), -ENOENT); /* numbers begin at 1, but an unused entry's number is 0 */
    CHECK_EQ(sf_read_entry(fd, UINT64_MAX, &view), -ENOENT);
    ask(&segment, SF_RELOAD, 0);
    CHECK_EQ(sf_read_entry(fd, 1, &view), 0);
    CHECK_EQ(sf_read_entry(fd, 2, &view), -ENOENT);
    CHECK_EQ(sf_read_entry(fd, 1 + SF_LOG_CAPACITY, &view), -ENOENT);
    while (ask(&segment, SF_RELOAD, 0).seq <= SF_LOG_CAPACITY)
        checkpoint();
    CHECK_EQ(sf_read_entry(fd, 1, &view), -ENOENT);
    CHECK_EQ(sf_read_entry(fd, 1 + SF_LOG_CAPACITY, &view), 0);
    close(fd);
    sf_segment_close(&segment);
}

TEST(an_entry_that_was_written_and_never_published_is_not_there)
{
    const char *path = attach();
    struct sf_entry_view view;
    int fd = open(path, O_RDWR);

    send_and_die(path, "append:written", SF_PAUSE, 0);
    CHECK_EQ(view_of(path).tail, 0);
    CHECK_EQ(sf_read_entry(fd, 1, &view), -ENOENT);
    close(fd);
}

TEST(an_entry_reads_back_as_it_was_sent)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    struct sf_request request = {.kind = SF_PAUSE, .id = 0xfeedface12345678, .arg = 42, .duration_ns = 7 * SF_SECOND};
    int64_t before = sf_realtime_ns();

    memset(request.sender, 's', sizeof request.sender); /* no zero at the end: cut off */
    memset(request.mail, 'm', sizeof request.mail);
    CHECK_EQ(ask_for(&segment, &request).seq, 1);
    struct sf_entry_view entry = entry_of(path, 1);
    CHECK_EQ(entry.seq, 1);
    CHECK_EQ(entry.kind, SF_PAUSE);
    CHECK(entry.id == request.id);
    CHECK_EQ(entry.arg, 42);
    CHECK_EQ(entry.duration_ns, 7 * SF_SECOND);
    CHECK_EQ(entry.sender_pid, getpid());
    CHECK(entry.asked_ns >= before && entry.asked_ns <= sf_realtime_ns());
    CHECK_EQ(strlen(entry.sender), SF_SENDER_MAX - 1);
    CHECK_EQ(strlen(entry.mail), SF_MAIL_MAX - 1);
    sf_segment_close(&segment);
}

/* --- files cut short, read without a mapping --- */

TEST(a_file_of_any_length_reads_without_a_fault)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path), again;
    struct sf_view view;
    struct sf_slot_view slot;
    struct sf_entry_view entry;
    int fd = open(path, O_RDWR);

    for (int i = 0; i < 3; i++)
        ask(&segment, SF_PAUSE, 1000);
    sf_segment_close(&segment);
    sf_worker_detach(WORKER);
    for (int64_t size = (int64_t)SF_FILE_SIZE(1) - 1; size >= 0; size--) {
        int64_t page = size % SF_PAGE;
        if (size > 5000 && page > 1 && page < SF_PAGE - 1 && size % 239 != 0 && size < (int64_t)SF_SLOTS_OFFSET - 2)
            continue;
        CHECK_EQ(ftruncate(fd, size), 0);
        int wanted = size < (int64_t)sizeof(struct sf_header) ? -SF_ENOTCONTROL : -SF_EGONE;
        CHECK_EQ(sf_read_view(fd, &view), wanted);
        CHECK_EQ(sf_segment_open(&again, path), wanted);
        CHECK_EQ(sf_read_slot(fd, 0, &slot), -SF_EGONE);
        int rc = sf_read_entry(fd, 3, &entry);
        CHECK(rc == (size >= (int64_t)ENTRY_OFFSET(4) ? 0 : -SF_EGONE) || rc == -SF_ENOTCONTROL);
        CHECK(sf_read_layout_version(fd) == 0);
    }
    close(fd);
}

/* --- death while it is made --- */

static int
die_attaching(void *point)
{
    CHECK_EQ(sf_point_arm(point, SIGKILL), 0);
    attach();
    return 0;
}

TEST(a_worker_killed_while_it_attaches_leaves_nothing_that_stands_in_the_way)
{
    static const char *const points[] = {"create:opened", "create:filled", "create:renamed", "attach:filled",
                                         "attach:done"};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        const char *path = path_in("control");
        int status = reap(spawn(die_attaching, (void *)points[i]), 20);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        CHECK_EQ(access(path, F_OK), i < 2 ? -1 : 0);
        if (i >= 2) {
            struct sf_segment segment = open_segment(path);
            struct sf_request request = request_of(SF_PAUSE, 0);
            CHECK_EQ(slot_of(path).alive, 0);
            CHECK_EQ(ask_for(&segment, &request).verdict, SF_REFUSED_ENDED);
            sf_segment_close(&segment);
        }
        CHECK_EQ(sf_worker_attach(WORKER, path, 1, 0, 1), 0); /* the next one finds its way */
        CHECK_EQ(slot_of(path).alive, 1);
        CHECK_EQ(access(path_in("control.new"), F_OK), -1);
        sf_worker_detach(WORKER);
        CHECK_EQ(slot_of(path).alive, 0);
        unlink(path);
    }
}
