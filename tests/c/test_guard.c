/* SIGBUS: the file is cut short under the mapping. */
#include <setjmp.h>

#include "core.h"
#include "sf_guard.h"

static volatile sig_atomic_t reached;
static sigjmp_buf back;

static void
plain_handler(int number)
{
    reached += number == SIGBUS;
    siglongjmp(back, 1);
}

static void
info_handler(int number, siginfo_t *info, void *context)
{
    reached += number == SIGBUS && info != NULL && context != NULL;
    siglongjmp(back, 1);
}

static void
quiet_handler(int number)
{
    reached += number == SIGBUS;
}

static void
install(void (*plain)(int), void (*with_info)(int, siginfo_t *, void *))
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_flags = SA_NODEFER;
    if (with_info) {
        action.sa_sigaction = with_info;
        action.sa_flags |= SA_SIGINFO;
    } else {
        action.sa_handler = plain;
    }
    CHECK_EQ(sigaction(SIGBUS, &action, NULL), 0);
}

/* A page that another part of the program has mapped, whose file is gone. */
static volatile char *
foreign_page(void)
{
    int fd = open(path_in("foreign"), O_CREAT | O_RDWR, 0600);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(page != MAP_FAILED);
    CHECK_EQ(ftruncate(fd, 0), 0);
    close(fd);
    return page;
}

TEST(a_worker_whose_file_is_cut_to_any_length_loses_control_and_lives)
{
    const char *path = path_in("control");
    CHECK_EQ(sf_worker_setup(), 0);

    for (int64_t size = 0; size < (int64_t)SF_FILE_SIZE(1);
         size += size % SF_PAGE ? SF_PAGE / 2 - 1 : SF_PAGE / 2 + 1) {
        struct sf_segment sender;
        struct sf_due due;
        struct sf_receipt receipt;
        struct sf_request request = request_of(SF_PAUSE, 0);
        uint64_t step;

        CHECK_EQ(sf_worker_attach(WORKER, path, 1, 0, 1), 0);
        CHECK_EQ(sf_segment_open(&sender, path), 0);
        for (int i = 0; i < 5; i++)
            sf_pass(sf_process_counter, &step);
        CHECK_EQ(truncate(path, size), 0);

        for (int i = 0; i < 3; i++)
            sf_pass(sf_process_counter, &step);
        sf_look(sf_process_counter, &step);
        sf_pending(sf_process_counter);
        CHECK(sf_apply_due(WORKER, step, 1, &due) < 0);
        sf_worker_parked(WORKER, 1, step, 0);
        sf_worker_wait(WORKER, 1000000);
        sf_level_done(enter_level(9), 4);
        sf_level_leave(0);
        CHECK(sf_append(sf_worker_segment(WORKER), &request, 0, &receipt) < 0);
        sf_announce(&sender);
        CHECK(sf_append(&sender, &request, 0, &receipt) < 0);
        CHECK(sf_decide_or_void(&sender, 1, SF_NO_RANK, 0) <= 0);
        sf_segment_wait(&sender, sf_segment_changes(&sender), 1000000);
        sf_worker_end(WORKER, SF_STATE_FINISHED);
        CHECK(!sf_worker_attached(WORKER));
        CHECK_EQ(sf_pass(sf_process_counter, &step), 0);
        sf_segment_close(&sender);
        unlink(path);
    }
}

TEST(a_load_behind_the_end_finds_zeros_and_a_store_stays)
{
    const char *path = attach();
    struct sf_slot *slot = &sf_worker_segment(WORKER)->slots[0];
    uint64_t step;

    CHECK_EQ(truncate(path, 0), 0);
    CHECK_EQ(atomic_load(&slot->cookie), 0);
    CHECK_EQ(atomic_load(&sf_worker_segment(WORKER)->header->magic), 0);
    atomic_store(&slot->cookie, 7);
    CHECK_EQ(atomic_load(&slot->cookie), 7);
    CHECK_EQ(sf_segment_check(sf_worker_segment(WORKER)), -SF_ENOTCONTROL);
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1); /* an alarm of zero: the slow path finds out */
    CHECK_EQ(access(path, F_OK), 0);
}

TEST(a_file_cut_short_and_grown_again_is_no_control_file)
{
    const char *path = attach();
    struct sf_due due;

    CHECK_EQ(truncate(path, 0), 0);
    CHECK_EQ(truncate(path, (off_t)SF_FILE_SIZE(1)), 0);
    uint64_t step;
    CHECK_EQ(sf_pass(sf_process_counter, &step), 1);
    CHECK_EQ(sf_apply_due(WORKER, step, 1, &due), -SF_ENOTCONTROL);
}

TEST(the_guard_covers_one_mapping_and_leaves_the_others)
{
    struct sf_segment first, second;

    CHECK_EQ(sf_segment_create(&first, path_in("first"), 1, 0), 0);
    CHECK_EQ(sf_segment_create(&second, path_in("second"), 1, 0), 0);
    CHECK_EQ(truncate(path_in("first"), 0), 0);
    CHECK_EQ(atomic_load(&first.header->magic), 0);
    CHECK(atomic_load(&second.header->magic) == SF_MAGIC);
    CHECK_EQ(sf_segment_check(&second), 0);
    sf_segment_close(&first);
    sf_segment_close(&second);
}

static void
a_fault_elsewhere_reaches(void (*plain)(int), void (*with_info)(int, siginfo_t *, void *))
{
    volatile char *page = foreign_page();

    install(plain, with_info);
    attach();
    reached = 0;
    if (sigsetjmp(back, 1) == 0) {
        page[0] = 1;
        FAIL("the store came back");
    }
    CHECK_EQ(reached, 1);
    if (sigsetjmp(back, 1) == 0) { /* and the next one too */
        (void)page[1];
        FAIL("the load came back");
    }
    CHECK_EQ(reached, 2);
    CHECK_EQ(truncate(path_in("control"), 0), 0); /* ours still works after theirs */
    CHECK_EQ(atomic_load(&sf_worker_segment(WORKER)->header->magic), 0);
    CHECK_EQ(reached, 2);
}

TEST(a_fault_elsewhere_reaches_the_plain_handler_that_was_there)
{
    a_fault_elsewhere_reaches(plain_handler, NULL);
}

TEST(a_fault_elsewhere_reaches_the_handler_with_info_that_was_there)
{
    a_fault_elsewhere_reaches(NULL, info_handler);
}

static int
fault_elsewhere(void *argument)
{
    void (*handler)(int) = *(void (**)(int))argument;
    volatile char *page = foreign_page();
    signal(SIGBUS, handler);
    attach();
    page[0] = 1;
    return 0;
}

static int
send_to_itself(void *argument)
{
    void (*handler)(int) = *(void (**)(int))argument;
    signal(SIGBUS, handler);
    attach();
    raise(SIGBUS);
    return 0;
}

TEST(with_no_handler_before_ours_a_fault_elsewhere_ends_the_process)
{
    void (*handlers[])(int) = {SIG_DFL, SIG_IGN}; /* the kernel does not let a fault be ignored */
    for (int i = 0; i < 2; i++) {
        int status = reap(spawn(fault_elsewhere, &handlers[i]), 20);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
        unlink(path_in("control"));
    }
}

TEST(a_sent_signal_does_what_it_did_before_we_came)
{
    void (*handler)(int) = SIG_DFL;
    int status = reap(spawn(send_to_itself, &handler), 20);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
    unlink(path_in("control"));
    handler = quiet_handler;
    CHECK_EQ(reap(spawn(send_to_itself, &handler), 20), 0);
    unlink(path_in("control"));
    handler = SIG_IGN;
    CHECK_EQ(reap(spawn(send_to_itself, &handler), 20), 0);
}

/* Python's faulthandler, installed after us: it hands a fault on by raising the signal again, without an address. */
static struct sigaction ours;

static void
raise_again(int number)
{
    reached++;
    CHECK_EQ(sigaction(number, &ours, NULL), 0);
    raise(number);
}

TEST(a_handler_in_front_of_ours_may_raise_the_signal_again_without_an_address)
{
    const char *path = attach();
    struct sigaction front;

    memset(&front, 0, sizeof front);
    front.sa_handler = raise_again;
    front.sa_flags = SA_NODEFER;
    sigemptyset(&front.sa_mask);
    CHECK_EQ(sigaction(SIGBUS, &front, &ours), 0);
    reached = 0;
    CHECK_EQ(truncate(path, 0), 0);
    CHECK_EQ(atomic_load(&sf_worker_segment(WORKER)->header->magic), 0);
    CHECK_EQ(reached, 1);
}

TEST(a_signal_without_an_address_goes_on_when_no_file_of_ours_is_short)
{
    install(plain_handler, NULL);
    attach();
    reached = 0;
    if (sigsetjmp(back, 1) == 0) {
        raise(SIGBUS);
        FAIL("the other handler was not called");
    }
    CHECK_EQ(reached, 1);
    CHECK(atomic_load(&sf_worker_segment(WORKER)->header->magic) == SF_MAGIC);
}

TEST(a_removed_guard_guards_nothing_and_its_place_is_used_again)
{
    volatile char *page = foreign_page();
    int fd = open(path_in("foreign"), O_RDWR);

    install(plain_handler, NULL);
    for (int i = 0; i < 5000; i++) { /* more than there are places */
        CHECK_EQ(sf_guard_add((void *)page, 4096, fd), 0);
        sf_guard_remove((void *)page);
    }
    if (sigsetjmp(back, 1) == 0) {
        page[0] = 1;
        FAIL("still guarded");
    }
    CHECK_EQ(sf_guard_add((void *)page, 4096, fd), 0);
    page[0] = 1;
    sf_guard_remove((void *)page);
    close(fd);
}

TEST(too_many_guards_are_refused)
{
    static char memory[2000];
    int added = 0, rc = 0;

    while (added < 2000 && (rc = sf_guard_add(memory + added, 1, 0)) == 0)
        added++;
    CHECK_EQ(rc, -ENOSPC);
    CHECK(added >= 1000);
    struct sf_segment segment;
    CHECK_EQ(sf_segment_create(&segment, path_in("control"), 1, 0), -ENOSPC);
    CHECK_EQ(access(path_in("control.new"), F_OK), -1);
    sf_guard_remove(memory);
    CHECK_EQ(sf_segment_create(&segment, path_in("control"), 1, 0), 0);
    sf_segment_close(&segment);
}
