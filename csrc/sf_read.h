/* Reading all of some bytes of a file at a place, without a mapping: nothing here can fault. */
#ifndef SF_READ_H
#define SF_READ_H

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

#include "sf_error.h"

/* 0, -SF_EGONE if the file ends before, or -errno. */
static inline int
sf_read_at(int fd, void *buffer, size_t length, uint64_t offset)
{
    for (size_t done = 0; done < length;) {
        ssize_t count = pread(fd, (char *)buffer + done, length - done, (off_t)(offset + done));
        if (count == 0)
            return -SF_EGONE;
        if (count < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        done += (size_t)count;
    }
    return 0;
}

#endif
