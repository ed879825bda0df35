#include "core.h"

static uint64_t published;
static uint64_t standing;

const char *
attach(void)
{
    const char *path = path_in("control");
    CHECK_EQ(sf_worker_setup(), 0);
    CHECK_EQ(sf_worker_attach(WORKER, path, 1, 0, 12345), 0);
    published = 0;
    return path;
}

struct sf_segment
open_segment(const char *path)
{
    struct sf_segment segment;
    CHECK_EQ(sf_segment_open(&segment, path), 0);
    return segment;
}

struct sf_request
request_of(uint32_t kind, uint64_t argument)
{
    static uint64_t next_id = 1000;
    struct sf_request request = {.kind = kind, .id = next_id++, .arg = argument};
    strcpy(request.sender, "the tests");
    return request;
}

struct sf_receipt
ask_for(struct sf_segment *segment, const struct sf_request *request)
{
    struct sf_receipt receipt;
    CHECK_EQ(sf_append(segment, request, 10 * SF_SECOND, &receipt), 0);
    return receipt;
}

struct sf_receipt
ask(struct sf_segment *segment, uint32_t kind, uint64_t argument)
{
    struct sf_request request = request_of(kind, argument);
    struct sf_receipt receipt = ask_for(segment, &request);
    CHECK_EQ(receipt.verdict, SF_APPENDED);
    return receipt;
}

static uint64_t reload_seq, reload_step;

/* Publishes at the first checkpoint of new code that it runs, and that each delivery of mail has succeeded. */
static int
turn_at(struct sf_due *due)
{
    int rc;

    if (reload_seq != 0)
        sf_worker_publish_outcome(WORKER, reload_seq, reload_step, 0);
    while ((rc = sf_apply_due(WORKER, standing, SF_DUE_COUNTED, due)) == 0 && due->action == SF_DELIVER)
        sf_worker_publish_outcome(WORKER, due->seq, standing, 0);
    reload_seq = rc == 0 && due->action == SF_RAISE_RELOAD ? due->seq : 0;
    reload_step = standing;
    return rc;
}

static struct sf_due
take_turn(void)
{
    struct sf_due due;
    CHECK_EQ(turn_at(&due), 0);
    if (due.action != SF_HOLD) {
        sf_worker_unparked(WORKER, standing);
        published = 0;
    } else if (due.seq != published) {
        sf_worker_parked(WORKER, due.seq, standing, 0);
        published = due.seq;
    }
    return due;
}

struct sf_due
checkpoint(void)
{
    if (!sf_pass(sf_process_counter, &standing))
        return (struct sf_due){.action = SF_GO};
    return take_turn();
}

struct sf_due
look_again(void)
{
    return take_turn();
}

uint64_t
steps_passed(void)
{
    return standing;
}

void
run_to(uint64_t step)
{
    uint64_t now = sf_step(sf_process_counter);
    while (now < step) {
        CHECK_EQ(checkpoint().action, SF_GO);
        now = sf_step(sf_process_counter);
    }
    CHECK_EQ(now, step);
}

int
enter_level(uint64_t total)
{
    struct sf_since since = {0};
    return sf_level_enter(total, &since);
}

int
checkpoint_waiting(int64_t slice_ns)
{
    struct sf_due due;

    if (!sf_pass(sf_process_counter, &standing))
        return SF_GO;
    for (;;) {
        int rc = turn_at(&due);
        if (rc < 0)
            return rc;
        if (due.action != SF_HOLD) {
            sf_worker_unparked(WORKER, standing);
            published = 0;
            return (int)due.action;
        }
        if (due.seq != published) {
            sf_worker_parked(WORKER, due.seq, standing, 0);
            published = due.seq;
        }
        rc = sf_worker_wait(WORKER, slice_ns);
        if (rc < 0 && rc != -ETIMEDOUT && rc != -EINTR && rc != -EFAULT)
            return rc;
    }
}

static int
open_plain(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        FAIL("%s: %s", path, strerror(errno));
    return fd;
}

struct sf_entry_view
entry_of(const char *path, uint64_t seq)
{
    struct sf_entry_view view;
    int fd = open_plain(path);
    CHECK_EQ(sf_read_entry(fd, seq, &view), 0);
    close(fd);
    return view;
}

struct sf_slot_view
slot_at(const char *path, uint32_t slot)
{
    struct sf_slot_view view;
    int fd = open_plain(path);
    CHECK_EQ(sf_read_slot(fd, slot, &view), 0);
    close(fd);
    return view;
}

struct sf_slot_view
slot_of(const char *path)
{
    return slot_at(path, 0);
}

struct sf_view
view_of(const char *path)
{
    struct sf_view view;
    int fd = open_plain(path);
    CHECK_EQ(sf_read_view(fd, &view), 0);
    close(fd);
    return view;
}

unsigned
outcome_of(const char *path, uint64_t seq)
{
    return SF_OUTCOME_CODE(entry_of(path, seq).outcome);
}

void
check_fate(const char *path, uint64_t seq, unsigned outcome, uint64_t value)
{
    struct sf_entry_view entry = entry_of(path, seq);
    if (SF_OUTCOME_CODE(entry.outcome) != outcome || SF_OUTCOME_VALUE(entry.outcome) != value)
        FAIL("entry %" PRIu64 ": outcome %u, value %" PRIu64 "; not %u, %" PRIu64, seq, SF_OUTCOME_CODE(entry.outcome),
             (uint64_t)SF_OUTCOME_VALUE(entry.outcome), outcome, value);
}

/* --- several ranks --- */

static int
run_rank(void *argument)
{
    struct rank *self = argument;

    CHECK_EQ(sf_worker_setup(), 0);
    for (uint32_t done = 0;; done++) {
        while (atomic_load(&self->asked) == done)
            sf_wait_futex.wait(&self->asked, done, 10 * SF_SECOND);
        self->answer = self->what(self, self->argument);
        atomic_store(&self->answered, done + 1);
        sf_wait_futex.wake(&self->answered);
    }
}

struct rank *
rank_begin(void)
{
    struct rank *rank = share(sizeof *rank);
    strcpy(rank->path, path_in("control"));
    rank->pid = spawn(run_rank, rank);
    return rank;
}

void
rank_ask(struct rank *rank, long (*what)(struct rank *self, uint64_t argument), uint64_t argument)
{
    rank->what = what;
    rank->argument = argument;
    atomic_fetch_add(&rank->asked, 1);
    sf_wait_futex.wake(&rank->asked);
}

long
rank_answer(struct rank *rank)
{
    int64_t end = sf_monotonic_ns() + 30 * SF_SECOND;
    uint32_t answered;

    while ((answered = atomic_load(&rank->answered)) != atomic_load(&rank->asked)) {
        int status;
        if (waitpid(rank->pid, &status, WNOHANG) == rank->pid) {
            if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
                FAIL("a rank ended with status %#x", status);
            return RANK_DIED;
        }
        if (sf_monotonic_ns() > end)
            FAIL("a rank does not answer");
        sf_wait_futex.wait(&rank->answered, answered, SF_SECOND / 100);
    }
    return rank->answer;
}

long
rank_do(struct rank *rank, long (*what)(struct rank *self, uint64_t argument), uint64_t argument)
{
    rank_ask(rank, what, argument);
    return rank_answer(rank);
}

void
rank_kill(struct rank *rank)
{
    kill_child(rank->pid);
}

void
rank_stopped(struct rank *rank)
{
    int status;
    do
        CHECK_EQ(waitpid(rank->pid, &status, WUNTRACED), rank->pid);
    while (!WIFSTOPPED(status));
}

static long
do_arm_to_kill(struct rank *self, uint64_t point)
{
    (void)self;
    return sf_point_arm((const char *)(uintptr_t)point, SIGKILL);
}

static long
do_arm_to_stop(struct rank *self, uint64_t point)
{
    (void)self;
    return sf_point_arm((const char *)(uintptr_t)point, SIGSTOP);
}

/* The name is one of the program's own texts: a forked child has it at the same place. */
void
rank_arm(struct rank *rank, const char *point, int signal_number)
{
    DOES(rank, signal_number == SIGKILL ? do_arm_to_kill : do_arm_to_stop, (uint64_t)(uintptr_t)point, 0);
}

long
do_attach(struct rank *self, uint64_t slot_count)
{
    return sf_worker_attach(WORKER, self->path, (uint32_t)slot_count, 0, 1000);
}

long
do_join(struct rank *self, uint64_t slot)
{
    return sf_worker_join(WORKER, self->path, (uint32_t)slot, 1000 + slot, 20 * SF_SECOND);
}

long
do_join_now(struct rank *self, uint64_t slot)
{
    return sf_worker_join(WORKER, self->path, (uint32_t)slot, 1000 + slot, 0);
}

long
do_stride(struct rank *self, uint64_t stride)
{
    (void)self;
    sf_worker_place(WORKER, 0, 0, (uint32_t)stride);
    return 0;
}

static long
turn_of(struct rank *self, uint64_t may)
{
    int rc = sf_apply_due(WORKER, self->step, (int)may, &self->due);

    if (rc == 0 && self->due.action != SF_HOLD && self->due.action != SF_AWAIT)
        sf_worker_unparked(WORKER, self->step);
    return rc < 0 ? rc : (long)self->due.action;
}

long
do_pass(struct rank *self, uint64_t may)
{
    self->due = (struct sf_due){.action = SF_GO};
    return sf_pass(sf_process_counter, &self->step) ? turn_of(self, may | SF_DUE_COUNTED) : SF_GO;
}

long
do_set_back(struct rank *self, uint64_t step)
{
    (void)self;
    sf_worker_set_back(WORKER, step);
    return 0;
}

long
do_look(struct rank *self, uint64_t unused)
{
    (void)unused;
    self->due = (struct sf_due){.action = SF_GO};
    return sf_look(sf_process_counter, &self->step) ? turn_of(self, 0) : SF_GO;
}

long
do_again(struct rank *self, uint64_t may)
{
    return turn_of(self, may | SF_DUE_COUNTED);
}

long
do_look_again(struct rank *self, uint64_t unused)
{
    (void)unused;
    return turn_of(self, 0);
}

long
do_park(struct rank *self, uint64_t seq)
{
    sf_worker_parked(WORKER, seq, self->step, 0);
    return 0;
}

long
do_unpark(struct rank *self, uint64_t unused)
{
    (void)unused;
    sf_worker_unparked(WORKER, self->step);
    return 0;
}

long
do_tell(struct rank *self, uint64_t seq)
{
    sf_worker_publish_outcome(WORKER, seq, self->step, 0);
    return 0;
}

long
do_tell_failed(struct rank *self, uint64_t seq)
{
    sf_worker_publish_outcome(WORKER, seq, self->step, 1);
    return 0;
}

long
do_end(struct rank *self, uint64_t state)
{
    (void)self;
    return sf_worker_end(WORKER, (uint32_t)state);
}

void
rank_run_to(struct rank *rank, uint64_t step)
{
    do
        PASSES(rank, SF_GO);
    while (rank->step < step);
    CHECK_EQ(rank->step, step);
}

struct death {
    const char *path, *point;
    struct sf_request request;
};

static int
die_sending(void *argument)
{
    struct death *death = argument;
    struct sf_receipt receipt;
    struct sf_segment segment = open_segment(death->path);

    CHECK_EQ(sf_point_arm(death->point, SIGKILL), 0);
    CHECK_EQ(sf_append(&segment, &death->request, 10 * SF_SECOND, &receipt), 0);
    return 0;
}

void
send_and_die(const char *path, const char *point, uint32_t kind, uint64_t argument)
{
    struct death death = {.path = path, .point = point, .request = request_of(kind, argument)};
    int status = reap(spawn(die_sending, &death), 30);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        FAIL("the sender was not killed at %s (status %#x)", point, status);
}
