/* The record of what was applied: one line of JSON for each entry, appended to a file by the worker, before it
 * publishes that the entry was applied. A line is written by one write(2): a process that is killed leaves whole lines.
 */
#ifndef SF_JOURNAL_H
#define SF_JOURNAL_H

#include "sf_layout.h"

struct sf_journal {
    int fd;       /* -1: not begun */
    int broken;   /* nothing can be written any more */
    int error;    /* errno of what broke it, until sf_journal_error() has returned it */
    char *path;   /* NULL: no journal is kept */
    char *header; /* the first line, with its newline */
    size_t header_size;
    uint64_t inner; /* checkpoints that the function that runs has passed; 0 outside of one */
};

#define SF_JOURNAL_NONE ((struct sf_journal){.fd = -1})

/* Sets the file that lines go to. The first line creates it. 0 or -ENOMEM; then nothing has changed. */
int sf_journal_set(struct sf_journal *journal, const char *path, const char *header, size_t header_size);

/* Creates a new file at the same path, which begins with `header`. The caller has renamed the old file. 0 or -errno;
 * after -ENOMEM nothing has changed, after another error the journal writes nothing more. */
int sf_journal_continue(struct sf_journal *journal, const char *header, size_t header_size);

/* Appends the line of an entry that `rank` applies at `step`. Never fails: after an error
 * the journal writes nothing more, and sf_journal_error() returns the error once. */
void sf_journal_append(struct sf_journal *journal, const struct sf_entry *entry, uint32_t rank, uint64_t step);

/* The errno that broke the journal; 0 if there is none, or it was returned before. */
int sf_journal_error(struct sf_journal *journal);

void sf_journal_close(struct sf_journal *journal);

#endif
