#include "sf_guard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define GUARDS 1024

/* `base` is stored last when a guard is added and cleared first when it is removed: the handler reads nothing of a
 * guard whose base it has not seen (release and acquire). */
static struct {
    _Atomic uintptr_t base;
    _Atomic size_t size;
    _Atomic int fd;
} guards[GUARDS];
static _Atomic int guards_used;

static pthread_mutex_t guard_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static int installed;

static int
cover(uintptr_t base, size_t size)
{
    void *page = mmap((void *)base, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return page == MAP_FAILED ? -1 : 0;
}

/* Handles a fault at an address in one of our mappings. Also a SIGBUS without an address, which an earlier handler in
 * the chain has raised (Python's faulthandler does): then every mapping whose file is too short is covered. */
static int
handle(const siginfo_t *info)
{
    int used = atomic_load_explicit(&guards_used, memory_order_acquire);
    int covered = 0;

    for (int i = 0; i < used; i++) {
        uintptr_t base = atomic_load_explicit(&guards[i].base, memory_order_acquire);
        if (base == 0)
            continue;
        size_t size = atomic_load_explicit(&guards[i].size, memory_order_relaxed);
        if (info->si_code > 0) {
            uintptr_t address = (uintptr_t)info->si_addr;
            if (address >= base && address - base < size)
                return cover(base, size) == 0;
        } else {
            struct stat status;
            int fd = atomic_load_explicit(&guards[i].fd, memory_order_relaxed);
            if (fstat(fd, &status) == 0 && (uint64_t)status.st_size < size && cover(base, size) == 0)
                covered = 1;
        }
    }
    return covered;
}

static void
on_sigbus(int number, siginfo_t *info, void *context)
{
    int error = errno;

    if (handle(info)) {
        errno = error;
        return;
    }
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else if (previous.sa_handler != SIG_IGN || info->si_code > 0) {
        /* The default action, also if the signal was ignored: the faulting instruction runs again, or the signal that
         * was sent arrives again, and ends the process. */
        struct sigaction plain;
        memset(&plain, 0, sizeof plain);
        plain.sa_handler = SIG_DFL;
        sigaction(SIGBUS, &plain, NULL);
        if (info->si_code <= 0)
            raise(SIGBUS);
    }
    errno = error;
}

/* A child forked while another thread held the mutex must be able to take it. */
static void
before_fork(void)
{
    pthread_mutex_lock(&guard_mutex);
}

static void
after_fork(void)
{
    pthread_mutex_unlock(&guard_mutex);
}

int
sf_guard_add(void *base, size_t size, int fd)
{
    int rc = -ENOSPC;

    pthread_mutex_lock(&guard_mutex);
    if (!installed) {
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = on_sigbus;
        action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
        sigemptyset(&action.sa_mask);
        if (sigaction(SIGBUS, &action, &previous) != 0) {
            rc = -errno;
            goto done;
        }
        installed = 1;
        pthread_atfork(before_fork, after_fork, after_fork);
    }
    for (int i = 0; i < GUARDS; i++) {
        if (atomic_load_explicit(&guards[i].base, memory_order_relaxed) != 0)
            continue;
        atomic_store_explicit(&guards[i].size, size, memory_order_relaxed);
        atomic_store_explicit(&guards[i].fd, fd, memory_order_relaxed);
        atomic_store_explicit(&guards[i].base, (uintptr_t)base, memory_order_release);
        if (i >= atomic_load_explicit(&guards_used, memory_order_relaxed))
            atomic_store_explicit(&guards_used, i + 1, memory_order_release);
        rc = 0;
        break;
    }
done:
    pthread_mutex_unlock(&guard_mutex);
    return rc;
}

void
sf_guard_resize(void *base, size_t size)
{
    pthread_mutex_lock(&guard_mutex);
    for (int i = 0; i < GUARDS; i++) {
        if (atomic_load_explicit(&guards[i].base, memory_order_relaxed) == (uintptr_t)base)
            atomic_store_explicit(&guards[i].size, size, memory_order_relaxed);
    }
    pthread_mutex_unlock(&guard_mutex);
}

void
sf_guard_remove(void *base)
{
    pthread_mutex_lock(&guard_mutex);
    for (int i = 0; i < GUARDS; i++) {
        if (atomic_load_explicit(&guards[i].base, memory_order_relaxed) == (uintptr_t)base)
            atomic_store_explicit(&guards[i].base, 0, memory_order_release);
    }
    pthread_mutex_unlock(&guard_mutex);
}
