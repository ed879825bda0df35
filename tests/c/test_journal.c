/* The record of what was applied. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core.h"
#include "harness.h"
#include "sf_worker.h"

static char content[1 << 16];

static const char *
read_journal(const char *path)
{
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    ssize_t size = read(fd, content, sizeof content - 1);
    CHECK(size >= 0);
    content[size] = 0;
    close(fd);
    return content;
}

/* `text` without the number that stands for the time, which no test knows. */
static void
cut_time(char *text)
{
    char *from = text;
    while ((from = strstr(from, "\"time\": ")) != NULL) {
        from += strlen("\"time\": ");
        size_t size = strcspn(from, ",");
        memmove(from, from + size, strlen(from + size) + 1);
    }
}

TEST(each_applied_request_is_a_line_that_is_written_before_the_outcome)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);
    const char *journal = path_in("journal");
    struct sf_request request = request_of(SF_PAUSE, 40);

    CHECK_EQ(sf_journal_set(sf_worker_journal(WORKER), journal, "{\"head\": 1}\n", 12), 0);
    CHECK_EQ(access(journal, F_OK), -1); /* made with the first line */
    request.id = 0xabc;
    request.duration_ns = 1500000000;
    strcpy(request.sender, "ada \"q\" \\ \x01 \xc3\xa9 \xff\xc3");
    strcpy(request.mail, "version-3");
    ask_for(&segment, &request);
    checkpoint();
    ask(&segment, SF_RESUME, 0);
    checkpoint();
    CHECK_EQ(sf_journal_error(sf_worker_journal(WORKER)), 0);
    struct stat status;
    CHECK_EQ(stat(journal, &status), 0);
    CHECK_EQ(status.st_mode & 0777, 0600);
    read_journal(journal);
    cut_time(content);
    const char *expected = "{\"head\": 1}\n"
                           "{\"rank\": 0, \"step\": 1, \"time\": , \"kind\": \"pause\", \"id\": \"0000000000000abc\", "
                           "\"sender\": \"ada \\\"q\\\" \\\\ \\u0001 \xc3\xa9 \\ufffd\\ufffd\", \"arg\": 40, "
                           "\"duration\": 1.500000000, \"mail\": \"version-3\"}\n";
    CHECK(strncmp(content, expected, strlen(expected)) == 0);
    CHECK(strstr(content, "\"step\": 2, \"time\": , \"kind\": \"resume\"") != NULL);
    sf_segment_close(&segment);
}

TEST(a_journal_that_cannot_be_written_costs_no_request)
{
    const char *path = attach();
    struct sf_segment segment = open_segment(path);

    CHECK_EQ(sf_journal_set(sf_worker_journal(WORKER), path_in("none/journal"), "\n", 1), 0);
    ask(&segment, SF_PAUSE, 0);
    CHECK_EQ(checkpoint().action, SF_HOLD);
    CHECK_EQ(sf_journal_error(sf_worker_journal(WORKER)), ENOENT);
    CHECK_EQ(sf_journal_error(sf_worker_journal(WORKER)), 0); /* returned once */
    ask(&segment, SF_RESUME, 0);
    CHECK_EQ(look_again().action, SF_GO);
    CHECK_EQ(sf_journal_error(sf_worker_journal(WORKER)), 0);
    sf_segment_close(&segment);
}

TEST(a_journal_goes_on_in_a_new_file_of_the_same_path)
{
    struct sf_journal journal = SF_JOURNAL_NONE;
    struct sf_entry entry = {.kind = SF_STOP};
    char path[256], aside[256];

    snprintf(path, sizeof path, "%s", path_in("journal"));
    snprintf(aside, sizeof aside, "%s", path_in("journal.1"));
    CHECK_EQ(sf_journal_continue(&journal, "x", 1), -ENOMEM); /* none is kept */
    CHECK_EQ(sf_journal_set(&journal, path, "first\n", 6), 0);
    sf_journal_append(&journal, &entry, 0, 1);
    CHECK_EQ(rename(path, aside), 0);
    CHECK_EQ(sf_journal_continue(&journal, "second\n", 7), 0);
    CHECK(strcmp(read_journal(path), "second\n") == 0); /* made at once */
    sf_journal_append(&journal, &entry, 0, 2);
    CHECK(strncmp(read_journal(aside), "first\n{\"rank\": 0, \"step\": 1,", 28) == 0);
    CHECK(strchr(strchr(content, '\n') + 1, '\n')[1] == 0); /* one line behind the header */
    CHECK(strncmp(read_journal(path), "second\n{\"rank\": 0, \"step\": 2,", 29) == 0);
    CHECK_EQ(sf_journal_error(&journal), 0);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(mkdir(path, 0700), 0);
    CHECK(sf_journal_continue(&journal, "third\n", 6) < 0); /* and nothing is written any more */
    CHECK(sf_journal_error(&journal) != 0);
    sf_journal_append(&journal, &entry, 0, 3);
    CHECK_EQ(sf_journal_error(&journal), 0);
    sf_journal_close(&journal);
}

TEST(text_that_is_no_utf8_makes_a_line_that_is)
{
    static const char *const texts[] = {"\xc0\x80",     "\xed\xa0\x80", "\xf4\x90\x80\x80",
                                        "\xf0\x9f\x98", "\x80",         "\xf8\x88"};
    static const int marks[] = {2, 3, 4, 3, 1, 2};
    struct sf_journal journal = SF_JOURNAL_NONE;
    const char *path = path_in("journal");
    struct sf_entry entry = {.kind = SF_STOP};

    CHECK_EQ(sf_journal_set(&journal, path, "", 0), 0);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        strcpy(entry.sender, texts[i]);
        sf_journal_append(&journal, &entry, 7, i);
    }
    memset(entry.sender, 1, sizeof entry.sender); /* the longest line, without an end */
    memset(entry.mail, 0xff, sizeof entry.mail);
    sf_journal_append(&journal, &entry, UINT32_MAX, UINT64_MAX);
    sf_journal_close(&journal);
    char *line = strtok((char *)read_journal(path), "\n");
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++, line = strtok(NULL, "\n")) {
        int found = 0;
        for (const char *mark = line; (mark = strstr(mark, "\\ufffd")) != NULL; mark++)
            found++;
        CHECK_EQ(found, marks[i]);
    }
    CHECK(line != NULL && line[strlen(line) - 1] == '}');
}
