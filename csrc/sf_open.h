/* Opening files such that none of them becomes a standard stream.
 *
 * A process that was started with closed standard streams gets the numbers 0 to 2 for the first files that it opens.
 * Whatever its code then prints would be written into the control file. */
#ifndef SF_OPEN_H
#define SF_OPEN_H

#include <sys/types.h>

/* As open(2), closed on exec: a descriptor of 3 or more, or -1 and errno. mode: of a file that is made. */
int sf_open(const char *path, int flags, mode_t mode);

#endif
