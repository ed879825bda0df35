/* The record of what was applied: one line of JSON for each entry, appended to a file by the worker, before it
 * publishes that the entry was applied. A line is written by one write(2): a process that is killed leaves whole lines.
 */
#ifndef SF_JOURNAL_H
#define SF_JOURNAL_H

#include "sf_layout.h"

struct sf_journal {
    int fd;       /* -1: not begun */
    int broken;   /* nothing can be written any more */
    int error;    /* errno of what broke it, until it was told */
    char *path;   /* NULL: no journal is kept */
    char *header; /* the first line, with its newline */
    size_t header_size;
    uint64_t inner; /* checkpoints that the function that runs has passed; 0 outside of one */
};

#define SF_JOURNAL_NONE ((struct sf_journal){.fd = -1})

/* From here on lines go to `path`, which is made with the first of them. 0 or -ENOMEM; then nothing has changed. */
int sf_journal_set(struct sf_journal *journal, const char *path, const char *header, size_t header_size);

/* Goes on in a new file of the same path, which is made at once and begins with `header`. The caller has renamed the
 * file that was there. 0 or -errno; then nothing is written any more, but for -ENOMEM, where nothing has changed. */
int sf_journal_continue(struct sf_journal *journal, const char *header, size_t header_size);

/* Appends the line of an entry that `rank` applies at `step`. Never fails: a journal that can't be written is given up,
 * and sf_journal_error() says why, once. */
void sf_journal_append(struct sf_journal *journal, const struct sf_entry *entry, uint32_t rank, uint64_t step);

/* errno of what broke it, 0 if nothing did or it was told before. */
int sf_journal_error(struct sf_journal *journal);

void sf_journal_close(struct sf_journal *journal);

#endif
