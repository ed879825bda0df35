#include "harness.h"

#include <dirent.h>
#include <stdarg.h>
#include <sys/prctl.h>

/* The tests have SIGBUS for themselves, and fork as they like. */
const char *__asan_default_options(void);
const char *__tsan_default_options(void);

__attribute__((visibility("default"))) const char *
__asan_default_options(void)
{
    return "handle_sigbus=0:handle_segv=1:abort_on_error=0";
}

__attribute__((visibility("default"))) const char *
__tsan_default_options(void)
{
    return "handle_sigbus=0:halt_on_error=1:history_size=4";
}

#define TESTS_MAX 256
#define DEADLINE 90

static struct {
    const char *file, *name;
    void (*body)(void);
} tests[TESTS_MAX];
static int test_count;

char test_folder[64];
uint64_t test_seed;
static pid_t test_pid;

void
register_test(const char *file, const char *name, void (*body)(void))
{
    if (test_count == TESTS_MAX)
        abort();
    tests[test_count].file = file;
    tests[test_count].name = name;
    tests[test_count].body = body;
    test_count++;
}

void
fail_at(const char *file, int line, const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "    %s:%d: %s (pid %d, SF_TEST_SEED=%" PRIu64 ")\n", file, line, text, (int)getpid(), test_seed);
    _exit(101);
}

const char *
path_in(const char *name)
{
    static char buffers[8][256];
    static int next;
    char *buffer = buffers[next++ % 8];

    snprintf(buffer, sizeof buffers[0], "%s/%s", test_folder, name);
    return buffer;
}

/* splitmix64 */
uint64_t
random_next(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

pid_t
spawn(int (*body)(void *), void *argument)
{
    pid_t parent = getpid();
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child < 0)
        FAIL("fork: %s", strerror(errno));
    if (child > 0)
        return child;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
        _exit(0);
    _exit(body(argument));
}

int
reap(pid_t child, double seconds)
{
    int64_t end = sf_monotonic_ns() + (int64_t)(seconds * 1e9);
    int status;

    for (;;) {
        pid_t got = waitpid(child, &status, WNOHANG);
        if (got == child)
            return status;
        if (got < 0 && errno != EINTR)
            FAIL("waitpid: %s", strerror(errno));
        if (sf_monotonic_ns() > end)
            FAIL("the child %d still lives after %g s", (int)child, seconds);
        usleep(200);
    }
}

void
kill_child(pid_t child)
{
    kill(child, SIGKILL);
    reap(child, 20);
}

void *
share(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        FAIL("mmap: %s", strerror(errno));
    return memory;
}

void
poke(const char *path, uint64_t offset, const void *bytes, size_t length)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || pwrite(fd, bytes, length, (off_t)offset) != (ssize_t)length)
        FAIL("%s: %s", path, strerror(errno));
    close(fd);
}

static void
empty_folder(void)
{
    DIR *folder = opendir(test_folder);
    struct dirent *item;
    char path[400];

    while (folder && (item = readdir(folder)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", test_folder, item->d_name);
        remove(path); /* also an empty folder */
    }
    if (folder)
        closedir(folder);
}

static void
on_deadline(int number)
{
    static const char text[] = "    past the deadline\n";
    (void)number;
    (void)!write(2, text, sizeof text - 1);
    _exit(102);
}

static int
run_test(int index)
{
    int status;

    fflush(NULL);
    test_pid = fork();
    if (test_pid < 0)
        FAIL("fork: %s", strerror(errno));
    if (test_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        const char *longer = getenv("SF_TEST_DEADLINE");
        signal(SIGALRM, on_deadline);
        alarm(longer ? (unsigned)atoi(longer) : DEADLINE);
        tests[index].body();
        exit(0); /* not _exit: the leak sanitizer looks at the end */
    }
    while (waitpid(test_pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -1;
    }
    empty_folder();
    if (WIFSIGNALED(status))
        fprintf(stderr, "    ended by signal %d\n", WTERMSIG(status));
    else if (WEXITSTATUS(status) != 0)
        fprintf(stderr, "    ended with status %d\n", WEXITSTATUS(status));
    return status;
}

/* runner [-o file] [part of a test's name]: the file gets one line, "passed failed", at its end. */
int
main(int argc, char **argv)
{
    const char *wanted = NULL, *results = NULL, *seed = getenv("SF_TEST_SEED");
    int passed = 0, failed = 0;

    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "-o") == 0 && i + 1 < argc)
            results = argv[++i];
        else
            wanted = argv[i];
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    test_seed = seed ? strtoull(seed, NULL, 10) : (uint64_t)sf_realtime_ns() / 1000;
    strcpy(test_folder, "/tmp/sf-test-XXXXXX");
    if (mkdtemp(test_folder) == NULL) {
        perror(test_folder);
        return 1;
    }
    for (int i = 0; i < test_count; i++) {
        int64_t began = sf_monotonic_ns();
        if (wanted && strstr(tests[i].name, wanted) == NULL)
            continue;
        int bad = run_test(i);
        double took = (double)(sf_monotonic_ns() - began) / 1e9;
        printf("%-6s %-5s %5.2f s  %s\n", bad ? "FAILED" : "ok", VARIANT, took, tests[i].name);
        bad ? failed++ : passed++;
    }
    rmdir(test_folder);
    printf("%d passed, %d failed (%s, SF_TEST_SEED=%" PRIu64 ")\n", passed, failed, VARIANT, test_seed);
    if (results) {
        FILE *file = fopen(results, "a");
        if (file == NULL || fprintf(file, "%d %d\n", passed, failed) < 0 || fclose(file) != 0)
            return 1;
    }
    return failed != 0;
}
