#include "sf_open.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sf_error.h"

int
sf_open(const char *path, int flags, mode_t mode)
{
    int fd = open(path, flags | O_CLOEXEC, mode);
    int high, error;

    if (fd < 0 || fd > STDERR_FILENO)
        return fd;
    high = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    error = errno;
    close(fd);
    errno = error;
    return high;
}

int
sf_open_own(const char *path, int flags, mode_t mode)
{
    struct stat status;
    int fd = sf_open(path, flags | O_NOFOLLOW | O_NONBLOCK, mode);
    int error = 0;

    if (fd < 0) /* a link, a folder, or a pipe without a reader */
        return errno == ELOOP || errno == EMLINK || errno == EISDIR || errno == ENXIO ? -SF_EFOREIGN : -errno;
    if (fstat(fd, &status) != 0)
        error = errno;
    else if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || status.st_nlink > 1)
        error = SF_EFOREIGN;
    else if (status.st_nlink == 0)
        error = ENOENT; /* removed since it was opened */
    if (error == 0)
        return fd;
    close(fd);
    return -error;
}
