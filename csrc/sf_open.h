/* Opening files such that none of them becomes a standard stream.
 *
 * A process that was started with closed standard streams gets the numbers 0 to 2 for the first files that it opens.
 * Whatever its code then prints would be written into the control file. */
#ifndef SF_OPEN_H
#define SF_OPEN_H

#include <sys/types.h>

/* As open(2), closed on exec: a descriptor of 3 or more, or -1 and errno. mode: of a file that is made. */
int sf_open(const char *path, int flags, mode_t mode);

/* Opens a file of the run's owner. The core opens all of its files with this function. The descriptor, -errno, or
 * -SF_EFOREIGN if it is not a regular file of this user with exactly one name.
 *
 * Another user may have put something else under this name. A named pipe would block the call, a symbolic link would
 * lead to another file, and the other user could read what we write into a file of theirs. So the call does not block
 * and follows no link, and the checks look at the open file: nothing can be swapped in after them. */
int sf_open_own(const char *path, int flags, mode_t mode);

#endif
