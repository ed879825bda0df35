/* Whatever stands in the file: nothing crashes, nothing hangs, nothing is read out of bounds (the sanitizers look). */
#include "core.h"

static const uint64_t telling[] = {
    0,
    1,
    2,
    3,
    5,
    127,
    128,
    129,
    255,
    4096,
    UINT32_MAX,
    SF_STEP_MAX - 1,
    SF_STEP_MAX,
    SF_STEP_MAX + 1,
    UINT64_MAX >> 1,
    (UINT64_MAX >> 1) + 1,
    UINT64_MAX - 1,
    UINT64_MAX,
};

struct batch {
    uint64_t seed;
    _Atomic uint64_t iteration;
    int count;
};

/* Fields of which the ranks tell each other. */
static const struct {
    uint64_t offset, length;
} of_slot[] = {{offsetof(struct sf_slot, stride), 4},     {offsetof(struct sf_slot, step), 8},
               {offsetof(struct sf_slot, held), 8},       {offsetof(struct sf_slot, state), 4},
               {offsetof(struct sf_slot, applied), 8},    {offsetof(struct sf_slot, done), 8},
               {offsetof(struct sf_slot, done) + 8, 8},   {offsetof(struct sf_slot, vote), 8},
               {offsetof(struct sf_slot, rank), 4},       {offsetof(struct sf_slot, generation), 4},
               {offsetof(struct sf_slot, attached_ns), 8}},
  of_entry[] = {
      {offsetof(struct sf_entry, target), 8}, {offsetof(struct sf_entry, outcome), 8},
      {offsetof(struct sf_entry, kind), 4},   {offsetof(struct sf_entry, ranks), 4},
      {offsetof(struct sf_entry, agreed), 4}, {offsetof(struct sf_entry, low), 8},
};
#define ONE_OF(table, random) (table)[random_next(random) % (sizeof(table) / sizeof *(table))]

/* Mostly whole fields of the parts that mean something, with values that mean something. */
static void
mutate(int fd, uint64_t size, uint32_t slot_count, uint64_t tail, uint64_t *random)
{
    int changes = 1 + (int)(random_next(random) % 4);

    for (int i = 0; i < changes; i++) {
        uint64_t value = random_next(random) % 3 ? ONE_OF(telling, random) : random_next(random);
        uint64_t slot = SF_SLOTS_OFFSET + random_next(random) % slot_count * sizeof(struct sf_slot);
        uint64_t entry = ENTRY_OFFSET(1 + random_next(random) % (tail + 2));
        uint64_t offset, length = 8, field;

        switch (random_next(random) % 12) {
        case 0:
            offset = random_next(random) % sizeof(struct sf_header);
            break;
        case 1:
            offset = offsetof(struct sf_header, tail);
            value = random_next(random) % 2 ? value : tail + random_next(random) % 4 - 2;
            break;
        case 2:
        case 3:
        case 4:
            offset = entry + random_next(random) % 16 * 8;
            break;
        case 5:
            offset = slot + random_next(random) % sizeof(struct sf_slot);
            break;
        case 6:
            offset = slot + (random_next(random) % 2 ? 0 : 128) + random_next(random) % 16 * 8;
            break;
        case 7:
        case 8:
            field = random_next(random) % (sizeof of_slot / sizeof *of_slot);
            offset = slot + of_slot[field].offset;
            length = of_slot[field].length;
            break;
        case 9:
            field = random_next(random) % (sizeof of_entry / sizeof *of_entry);
            offset = entry + of_entry[field].offset;
            length = of_entry[field].length;
            break;
        case 10: /* a vote on what there is to vote on */
            offset = slot + offsetof(struct sf_slot, vote);
            value = SF_VOTE(random_next(random) % (tail + 2), random_next(random) % 4, random_next(random) % 4);
            break;
        default:
            offset = random_next(random) % size;
            length = 1;
        }
        if (offset + length > size)
            offset = size - length;
        CHECK_EQ(pwrite(fd, &value, length, (off_t)offset), (long)length);
    }
    if (random_next(random) % 40 == 0)
        CHECK_EQ(ftruncate(fd, (off_t)(random_next(random) % (2 * size))), 0);
}

/* What a rank and those who wait for it do with an entry, whatever it is. */
static void
deal_with(struct sf_segment *sender, uint64_t seq, uint64_t step, uint64_t *random)
{
    enum sf_phase phase = (enum sf_phase)(random_next(random) % SF_PHASE_END);

    switch (random_next(random) % 6) {
    case 0:
        sf_void_orphan(sender, seq);
        break;
    case 1:
        sf_conclude(sender, seq);
        break;
    case 2:
        sf_worker_publish_outcome(WORKER, seq, step, (int)(random_next(random) % 2));
        break;
    case 3:
        sf_worker_vote(WORKER, seq, phase, (int)(random_next(random) % 2));
        break;
    case 4:
        sf_worker_agreed(WORKER, seq, phase, (int)(random_next(random) % 2));
        break;
    default:
        sf_commit(sender, seq, random_next(random) % 2 ? step + random_next(random) % 3 : ONE_OF(telling, random));
    }
}

/* A checkpoint, counted or not, and a park if one is asked for. */
static void
pass_one(uint64_t *random)
{
    struct sf_due due;
    uint64_t step;

    if (random_next(random) % 4 == 0) {
        sf_look(sf_process_counter, &step);
        sf_apply_due(WORKER, step, 0, &due);
    } else {
        sf_pass(sf_process_counter, &step);
        sf_apply_due(WORKER, random_next(random) % 16 ? step : random_next(random), 1, &due);
    }
    sf_pending(sf_process_counter);
    if (due.action == SF_HOLD) {
        sf_worker_parked(WORKER, due.seq, step, (int64_t)random_next(random));
        sf_worker_resume(WORKER, step);
        sf_worker_wait(WORKER, 0);
    } else if (random_next(random) % 2) {
        sf_worker_unparked(WORKER, step);
    }
}

static void
use(struct sf_segment *sender, const char *path, int fd, uint64_t tail, uint64_t *random)
{
    struct sf_view view;
    struct sf_slot_view slot;
    struct sf_entry_view entry;
    struct sf_segment late;
    struct sf_receipt receipt;

    sf_read_view(fd, &view);
    sf_read_layout_version(fd);
    for (uint64_t seq = 0; seq <= tail + 2; seq++) {
        if (sf_read_entry(fd, seq, &entry) == 0)
            CHECK(strlen(entry.sender) < SF_SENDER_MAX && strlen(entry.mail) < SF_MAIL_MAX);
    }
    sf_read_slot(fd, 0, &slot);
    sf_read_slot(fd, 1, &slot);
    if (sf_segment_open(&late, path) == 0)
        sf_segment_close(&late);
    sf_segment_check(sender);

    for (int i = 0; i < 4; i++) {
        struct sf_request request = request_of(1 + random_next(random) % 7,
                                               random_next(random) % 2 ? 1 + random_next(random) % 5 : SF_STEP_MAX);
        request.duration_ns = (int64_t)random_next(random);
        if (random_next(random) % 4 == 0)
            request.only_if_park_seq = 1 + random_next(random) % 5;
        request.ranks = random_next(random) % 4 ? 0 : (uint32_t)ONE_OF(telling, random);
        request.elsewhere = random_next(random) % 4 == 0;
        sf_append(sender, &request, 0, &receipt);
        deal_with(sender, random_next(random) % (tail + 3), sf_step(sf_process_counter), random);
        pass_one(random);
        sf_level_done(enter_level(random_next(random)), random_next(random));
        sf_level_leave((int)(random_next(random) % SF_LEVELS));
    }
}

static int
run_batch(void *argument)
{
    struct batch *batch = argument;
    const char *path = path_in("control");

    CHECK_EQ(sf_worker_setup(), 0);
    for (int i = 0; i < batch->count; i++) {
        uint64_t random = batch->seed + (uint64_t)i;
        struct sf_segment sender;
        uint64_t step;
        int entries = (int)(random_next(&random) % 6);
        uint32_t slot_count = 1 + (uint32_t)(random_next(&random) % 3);
        int other = -1;

        atomic_store(&batch->iteration, (uint64_t)i);
        sf_worker_place(WORKER, 0, 0, 1 + (uint32_t)(random_next(&random) % 2) * 9);
        CHECK_EQ(sf_worker_attach(WORKER, path, slot_count, 0, 12345), 0);
        sender = open_segment(path);
        if (slot_count > 1 && random_next(&random) % 2) { /* a rank that does nothing, and is as the file says */
            other = open(path, O_RDWR | O_CLOEXEC);
            CHECK_EQ(sf_lock_try(other, SLOT_BYTES(1)), 0);
            atomic_store(&sender.slots[1].state, SF_STATE_RUNNING);
        }
        for (int e = 0; e < entries; e++) {
            struct sf_receipt receipt;
            struct sf_due due;
            struct sf_request request = request_of(1 + random_next(&random) % 7, 1 + random_next(&random) % 8);
            request.elsewhere = e == entries - 1 && random_next(&random) % 4 == 0;
            CHECK_EQ(sf_append(&sender, &request, SF_SECOND, &receipt), 0);
            if (sf_pass(sf_process_counter, &step) && random_next(&random) % 2) {
                CHECK_EQ(sf_apply_due(WORKER, step, 1, &due), 0);
                if (due.action == SF_HOLD)
                    sf_worker_parked(WORKER, due.seq, step, 0);
            }
        }
        int fd = open(path, O_RDWR | O_CLOEXEC);
        uint64_t tail = view_of(path).tail;
        for (int round = 0; round < 3; round++) {
            mutate(fd, SF_FILE_SIZE(slot_count), slot_count, tail, &random);
            use(&sender, path, fd, tail, &random);
        }
        close(fd);
        sf_worker_end(WORKER, SF_STATE_FINISHED);
        if (sf_worker_join(WORKER, path, (uint32_t)(random_next(&random) % 3), 54321, 0) == 0) {
            for (int step = 0; step < 4; step++) {
                pass_one(&random);
                deal_with(&sender, random_next(&random) % (tail + 3), sf_step(sf_process_counter), &random);
            }
            sf_worker_end(WORKER, SF_STATE_FAILED);
        }
        if (other >= 0)
            close(other);
        CHECK(!sf_worker_attached(WORKER));
        if (sf_pass(sf_process_counter,
                    &step)) { /* the loop goes on, uncontrolled; a step that was made up may reach the alarm once */
            struct sf_due due;
            CHECK_EQ(sf_apply_due(WORKER, step, 1, &due), 0);
            CHECK_EQ(due.action, SF_GO);
        }
        sf_segment_close(&sender);
        unlink(path);
    }
    return 0;
}

TEST(nothing_in_the_file_crashes_or_hangs_a_process)
{
    struct batch *batch = share(sizeof *batch);
    const char *many = getenv("SF_TEST_FUZZ");
    int batches = many ? atoi(many) : strcmp(VARIANT, "asan") == 0 ? 3 : 1;

    printf("       seed %" PRIu64 ", %d files\n", test_seed, batches * 300);
    for (int b = 0; b < batches; b++) {
        batch->seed = test_seed + (uint64_t)b * 1000000;
        batch->count = 300;
        int status = reap(spawn(run_batch, batch), 60);
        if (status != 0)
            FAIL("status %#x; seed %" PRIu64 " + iteration %" PRIu64, status, batch->seed,
                 atomic_load(&batch->iteration));
    }
}

TEST(random_bytes_are_no_control_file)
{
    const char *path = path_in("control");
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    uint64_t random = test_seed, words[SF_FILE_SIZE(1) / 8];
    struct sf_view view;
    struct sf_slot_view slot;
    struct sf_entry_view entry;

    for (int i = 0; i < 200; i++) {
        for (size_t w = 0; w < sizeof words / sizeof *words; w++)
            words[w] = random_next(&random);
        if (i % 2)
            words[0] = SF_MAGIC;
        CHECK_EQ(pwrite(fd, words, sizeof words, 0), (long)sizeof words);
        CHECK(sf_read_view(fd, &view) < 0);
        CHECK_EQ(sf_read_slot(fd, 0, &slot), 0);
        CHECK_EQ(sf_read_entry(fd, random_next(&random), &entry), -ENOENT);
    }
    close(fd);
}
