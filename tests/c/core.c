#include "core.h"

static uint64_t published;
static uint64_t standing;

const char *
attach(void)
{
    const char *path = path_in("control");
    CHECK_EQ(sf_worker_setup(), 0);
    CHECK_EQ(sf_worker_attach(path, 1, 0, 12345), 0);
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

/* The first checkpoint of new code says that it runs. Mail is delivered by nobody, with success. */
static int
turn_at(struct sf_turn *turn)
{
    int rc;

    if (reload_seq != 0)
        sf_worker_tell(reload_seq, reload_step, 0);
    while ((rc = sf_turn(standing, SF_TURN_COUNTED, turn)) == 0 && turn->action == SF_DELIVER)
        sf_worker_tell(turn->seq, standing, 0);
    reload_seq = rc == 0 && turn->action == SF_RAISE_RELOAD ? turn->seq : 0;
    reload_step = standing;
    return rc;
}

static struct sf_turn
take_turn(void)
{
    struct sf_turn turn;
    CHECK_EQ(turn_at(&turn), 0);
    if (turn.action != SF_HOLD) {
        sf_worker_unparked(standing);
        published = 0;
    } else if (turn.seq != published) {
        sf_worker_parked(turn.seq, standing, 0);
        published = turn.seq;
    }
    return turn;
}

struct sf_turn
checkpoint(void)
{
    if (!sf_pass(&standing))
        return (struct sf_turn){.action = SF_GO};
    return take_turn();
}

struct sf_turn
look_again(void)
{
    return take_turn();
}

uint64_t
steps_passed(void)
{
    return standing;
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
    struct sf_turn turn;

    if (!sf_pass(&standing))
        return SF_GO;
    for (;;) {
        int rc = turn_at(&turn);
        if (rc < 0)
            return rc;
        if (turn.action != SF_HOLD) {
            sf_worker_unparked(standing);
            published = 0;
            return (int)turn.action;
        }
        if (turn.seq != published) {
            sf_worker_parked(turn.seq, standing, 0);
            published = turn.seq;
        }
        rc = sf_worker_wait(slice_ns);
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
slot_of(const char *path)
{
    struct sf_slot_view view;
    int fd = open_plain(path);
    CHECK_EQ(sf_read_slot(fd, 0, &view), 0);
    close(fd);
    return view;
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
