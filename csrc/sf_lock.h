/* Record locks on byte ranges of the control file. A lock proves that its process lives; one lock guards the log.
 *
 * Open-file-description locks: they belong to an open file, not to a process. So a controller that opens and closes
 * the same file inside the worker's process takes nothing from the worker, and the kernel drops the lock when the last
 * descriptor of that open file is gone, however its owner ended. A forked child would keep the open file alive: the
 * fork hook in sf_worker.c closes each descriptor that was opened here. */
#ifndef SF_LOCK_H
#define SF_LOCK_H

#include <stdatomic.h>
#include <stdint.h>

/* Takes the lock if it is free. 0, -EAGAIN if another open file has it, or -errno. */
int sf_lock_try(int fd, uint64_t offset, uint64_t length);
/* Tries for up to timeout_ns. 0, -EAGAIN when the time is up, or -errno. */
int sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns);
int sf_unlock(int fd, uint64_t offset, uint64_t length);
/* 1 if an open file other than fd's holds the lock, 0 if none does, or -errno. */
int sf_lock_held(int fd, uint64_t offset, uint64_t length);

/* Opens a file to take locks on. The fork hook closes it in every forked child. The descriptor or -errno. */
int sf_lock_open(const char *path);
/* Releases all its locks and closes it. The release also holds for a child that shares the open file because it was
 * made without the C library's fork(). */
void sf_lock_close(int fd);

/* A descriptor to take locks on that stays open between two uses, to save the opening. One thread at a time has it; a
 * second one meanwhile opens another. Begins with fd = -1. */
struct sf_kept {
    _Atomic int fd;
    _Atomic unsigned forks; /* before which fd was opened: a forked child has closed it */
};

/* The descriptor, or -1 if there is none. */
int sf_kept_take(struct sf_kept *kept);
/* Releases all its locks and keeps it for the next use. Closes it if one is kept already, or too many are. */
void sf_kept_give(struct sf_kept *kept, int fd);

/* From here on a forked child closes fd, or no longer. -ENOSPC if the table is full. */
int sf_fork_close(int fd);
void sf_fork_keep(int fd);

/* The three parts of the fork hook. The first takes a mutex, which the other two release; all else is
 * async-signal-safe. */
void sf_fork_before(void);
void sf_fork_after_in_parent(void);
void sf_fork_after_in_child(void);

#endif
