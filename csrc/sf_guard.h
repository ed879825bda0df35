/* SIGBUS on one of our mappings: the file behind it was cut short. The handler lays empty pages over the whole mapping
 * and returns, so that the load or store that faulted finds zeros; a magic of zero says what happened. Faults elsewhere
 * go to the handler that was there before. */
#ifndef SF_GUARD_H
#define SF_GUARD_H

#include <stddef.h>

/* Guards [base, base + size), mapped from fd. 0, -ENOSPC if too many are guarded, or -errno. */
int sf_guard_add(void *base, size_t size, int fd);
/* The file has become longer: guards more of a mapping that reaches beyond the file's end. */
void sf_guard_resize(void *base, size_t size);
/* Call it before you unmap the range. */
void sf_guard_remove(void *base);

#endif
