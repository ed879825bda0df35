#include "sf_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "sf_clock.h"
#include "sf_open.h"

#ifndef F_OFD_SETLK
#error "spark_fast needs open file description locks (F_OFD_SETLK): Linux 3.15 or macOS 10.15"
#endif

static int
lock_command(int fd, int command, short type, uint64_t offset, uint64_t length, struct flock *result)
{
    *result = (struct flock){
        .l_type = type,
        .l_whence = SEEK_SET,
        .l_start = (off_t)offset,
        .l_len = (off_t)length,
    };
    while (fcntl(fd, command, result) != 0) {
        if (errno == EINTR)
            continue;
        return errno == EACCES ? -EAGAIN : -errno;
    }
    return 0;
}

int
sf_lock_try(int fd, uint64_t offset, uint64_t length)
{
    struct flock lock;
    return lock_command(fd, F_OFD_SETLK, F_WRLCK, offset, length, &lock);
}

int
sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns)
{
    int64_t end = sf_monotonic_ns() + timeout_ns;
    long nap = 20 * 1000;

    for (;;) {
        int rc = sf_lock_try(fd, offset, length);
        if (rc != -EAGAIN || sf_monotonic_ns() >= end)
            return rc;
        struct timespec pause = {.tv_nsec = nap};
        nanosleep(&pause, NULL);
        nap = nap < 1000 * 1000 ? nap * 2 : nap;
    }
}

int
sf_unlock(int fd, uint64_t offset, uint64_t length)
{
    struct flock lock;
    return lock_command(fd, F_OFD_SETLK, F_UNLCK, offset, length, &lock);
}

int
sf_lock_held(int fd, uint64_t offset, uint64_t length)
{
    struct flock lock;
    int rc = lock_command(fd, F_OFD_GETLK, F_WRLCK, offset, length, &lock);
    return rc < 0 ? rc : lock.l_type != F_UNLCK;
}

/* Slots hold fd + 1, 0 when free. */
#define FORK_TABLE 1024
static _Atomic int fork_table[FORK_TABLE];

int
sf_fork_close(int fd)
{
    for (int i = 0; i < FORK_TABLE; i++) {
        int empty = 0;
        if (atomic_compare_exchange_strong(&fork_table[i], &empty, fd + 1))
            return 0;
    }
    return -ENOSPC;
}

void
sf_fork_keep(int fd)
{
    for (int i = 0; i < FORK_TABLE; i++) {
        int held = fd + 1;
        if (atomic_compare_exchange_strong(&fork_table[i], &held, 0))
            return;
    }
}

/* Held while a lock's file is opened and entered in the table, and while it is removed and closed. */
static pthread_mutex_t fork_mutex = PTHREAD_MUTEX_INITIALIZER;

int
sf_lock_open(const char *path)
{
    int fd, rc;

    pthread_mutex_lock(&fork_mutex);
    fd = sf_open_own(path, O_RDWR, 0);
    rc = fd < 0 ? fd : sf_fork_close(fd);
    if (rc < 0 && fd >= 0)
        close(fd);
    pthread_mutex_unlock(&fork_mutex);
    return rc < 0 ? rc : fd;
}

void
sf_lock_close(int fd)
{
    pthread_mutex_lock(&fork_mutex);
    sf_unlock(fd, 0, 0);
    sf_fork_keep(fd);
    close(fd);
    pthread_mutex_unlock(&fork_mutex);
}

/* The number of forks between the first process and this one. */
static _Atomic unsigned forks;

/* The most descriptors that are kept while unused. The rest of the table is for those in use. */
#define KEPT_MOST 32
static _Atomic int kept_count;

int
sf_kept_take(struct sf_kept *kept)
{
    int fd = -1;

    if (atomic_load(&kept->fd) >= 0)
        fd = atomic_exchange(&kept->fd, -1);
    if (fd < 0)
        return -1;
    atomic_fetch_sub(&kept_count, 1);
    return atomic_load(&kept->forks) == atomic_load(&forks) ? fd : -1;
}

void
sf_kept_give(struct sf_kept *kept, int fd)
{
    int none = -1;

    sf_unlock(fd, 0, 0);
    if (atomic_fetch_add(&kept_count, 1) < KEPT_MOST) {
        atomic_store(&kept->forks, atomic_load(&forks));
        if (atomic_compare_exchange_strong(&kept->fd, &none, fd))
            return;
    }
    atomic_fetch_sub(&kept_count, 1);
    sf_lock_close(fd);
}

void
sf_fork_before(void)
{
    pthread_mutex_lock(&fork_mutex);
}

void
sf_fork_after_in_parent(void)
{
    pthread_mutex_unlock(&fork_mutex);
}

void
sf_fork_after_in_child(void)
{
    for (int i = 0; i < FORK_TABLE; i++) {
        int held = atomic_exchange(&fork_table[i], 0);
        if (held != 0)
            close(held - 1);
    }
    atomic_fetch_add(&forks, 1);
    pthread_mutex_unlock(&fork_mutex);
}
