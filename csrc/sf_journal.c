#include "sf_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sf_clock.h"
#include "sf_open.h"

static const char *const kinds[SF_KIND_END] = {
    [SF_PAUSE] = "pause",     [SF_RESUME] = "resume", [SF_STOP] = "stop", [SF_RELOAD] = "reload",
    [SF_ADVANCE] = "advance", [SF_SET] = "set",       [SF_CALL] = "call",
};

/* The longest line: each byte of sender and mail as \u00xx or as U+FFFD, and some numbers. */
#define LINE_MAX_SIZE (6 * (SF_SENDER_MAX + SF_MAIL_MAX) + 512)

/* Bytes of the UTF-8 character at `text`, 0 if it is none. */
static int
character(const unsigned char *text)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    int size = text[0] < 0x80 ? 1 : (text[0] & 0xe0) == 0xc0 ? 2 : (text[0] & 0xf0) == 0xe0 ? 3 : 4;
    uint32_t code = text[0];

    if (size == 1)
        return 1;
    if (size == 4 && (text[0] & 0xf8) != 0xf0)
        return 0;
    code &= 0xffu >> (size + 1);
    for (int i = 1; i < size; i++) {
        if ((text[i] & 0xc0) != 0x80) /* also at the zero byte that ends it */
            return 0;
        code = code << 6 | (text[i] & 0x3f);
    }
    if (code < least[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return 0;
    return size;
}

/* Writes `text`, of at most `most` bytes or up to its zero byte, as the inside of a JSON string. */
static char *
escape(char *to, const char *text, size_t most)
{
    char copy[SF_SENDER_MAX + SF_MAIL_MAX + 4] = {0};
    const unsigned char *from = (const unsigned char *)copy;

    memcpy(copy, text, strnlen(text, most));
    while (*from != 0) {
        int size = character(from);

        if (size == 0) {
            to = stpcpy(to, "\\ufffd");
            size = 1;
        } else if (size == 1 && (*from < 0x20 || *from == 0x7f)) {
            to += sprintf(to, "\\u%04x", *from);
        } else {
            if (*from == '"' || *from == '\\')
                *to++ = '\\';
            memcpy(to, from, (size_t)size);
            to += size;
        }
        from += size;
    }
    *to = 0;
    return to;
}

static void
give_up(struct sf_journal *journal, int error)
{
    journal->broken = 1;
    journal->error = error;
}

static int
write_whole(int fd, const char *text, size_t size)
{
    ssize_t count;

    do
        count = write(fd, text, size);
    while (count < 0 && errno == EINTR);
    if (count == (ssize_t)size)
        return 0;
    return count < 0 ? errno : ENOSPC; /* readers skip the torn line that this leaves */
}

int
sf_journal_set(struct sf_journal *journal, const char *path, const char *header, size_t header_size)
{
    char *new_path = strdup(path);
    char *new_header = malloc(header_size + 1);

    if (new_path == NULL || new_header == NULL) {
        free(new_path);
        free(new_header);
        return -ENOMEM;
    }
    memcpy(new_header, header, header_size);
    sf_journal_close(journal);
    *journal = (struct sf_journal){.fd = -1, .path = new_path, .header = new_header, .header_size = header_size};
    return 0;
}

/* Opens the file and writes the header. 0 or -errno; then the journal writes nothing more. */
static int
begin(struct sf_journal *journal)
{
    int fd = sf_open_own(journal->path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int error = fd < 0 ? -fd : write_whole(fd, journal->header, journal->header_size);

    journal->fd = fd < 0 ? -1 : fd;
    if (error != 0)
        give_up(journal, error);
    return -error;
}

int
sf_journal_continue(struct sf_journal *journal, const char *header, size_t header_size)
{
    char *path = journal->path == NULL ? NULL : strdup(journal->path);
    int rc = path == NULL ? -ENOMEM : sf_journal_set(journal, path, header, header_size);

    free(path);
    return rc < 0 ? rc : begin(journal);
}

void
sf_journal_append(struct sf_journal *journal, const struct sf_entry *entry, uint32_t rank, uint64_t step)
{
    char line[LINE_MAX_SIZE];
    int64_t now = sf_realtime_ns();
    int64_t duration = entry->duration_ns > 0 ? entry->duration_ns : 0;
    char *end;
    int error;

    if (journal->path == NULL || journal->broken)
        return;
    if (journal->fd < 0 && begin(journal) < 0)
        return;
    end = line + sprintf(line,
                         "{\"rank\": %u, \"step\": %llu, \"time\": %lld.%09lld, \"kind\": \"%s\", "
                         "\"id\": \"%016llx\", \"sender\": \"",
                         rank, (unsigned long long)step, (long long)(now / SF_SECOND), (long long)(now % SF_SECOND),
                         kinds[entry->kind], (unsigned long long)entry->id);
    end = escape(end, entry->sender, SF_SENDER_MAX - 1);
    end += sprintf(end, "\", \"arg\": %llu, \"duration\": %lld.%09lld, \"mail\": \"", (unsigned long long)entry->arg,
                   (long long)(duration / SF_SECOND), (long long)(duration % SF_SECOND));
    end = escape(end, entry->mail, SF_MAIL_MAX - 1);
    end = stpcpy(end, "\"");
    if (journal->inner > 0)
        end += sprintf(end, ", \"inner\": %llu", (unsigned long long)journal->inner);
    end = stpcpy(end, "}\n");
    error = write_whole(journal->fd, line, (size_t)(end - line));
    if (error != 0)
        give_up(journal, error);
}

int
sf_journal_error(struct sf_journal *journal)
{
    int error = journal->error;
    journal->error = 0;
    return error;
}

void
sf_journal_close(struct sf_journal *journal)
{
    if (journal->fd >= 0)
        close(journal->fd);
    free(journal->path);
    free(journal->header);
    *journal = SF_JOURNAL_NONE;
}
