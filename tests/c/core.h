/* What the tests of the core share: a worker's loop as spark_fast/worker/slow_path.py runs it, and a sender. */
#ifndef CORE_H
#define CORE_H

#include "harness.h"
#include "sf_lock.h"
#include "sf_point.h"
#include "sf_segment.h"
#include "sf_wait.h"
#include "sf_worker.h"

#define LOG_BYTES SF_LOG_OFFSET, (SF_SLOTS_OFFSET - SF_LOG_OFFSET)
#define SLOT_BYTES(rank) SF_SLOTS_OFFSET + (uint64_t)(rank) * sizeof(struct sf_slot), sizeof(struct sf_slot)
#define ENTRY_OFFSET(seq) (SF_LOG_OFFSET + ((seq) - 1) % SF_LOG_CAPACITY * sizeof(struct sf_entry))

/* Makes this process the worker of rank 0 of a new control file in the test's folder: its path. */
const char *attach(void);
struct sf_segment open_segment(const char *path);

/* Appends; fails the test unless the verdict is SF_APPENDED. */
struct sf_receipt ask(struct sf_segment *segment, uint32_t kind, uint64_t argument);
struct sf_receipt ask_for(struct sf_segment *segment, const struct sf_request *request);
struct sf_request request_of(uint32_t kind, uint64_t argument);

/* One checkpoint that does not wait: GO if the fast path let it through. Publishes a park, as Python does. */
struct sf_turn checkpoint(void);
/* Once more at the same step: what a parked worker does when it has been woken. */
struct sf_turn look_again(void);
uint64_t steps_passed(void);

/* A progress level of a loop that begins now. */
int enter_level(uint64_t total);

/* One whole checkpoint, that waits as long as it is asked to: SF_GO, SF_RAISE_STOP, SF_RAISE_RELOAD or an error. */
int checkpoint_waiting(int64_t slice_ns);

struct sf_entry_view entry_of(const char *path, uint64_t seq);
struct sf_slot_view slot_of(const char *path);
struct sf_view view_of(const char *path);
unsigned outcome_of(const char *path, uint64_t seq);

/* A process that appends one request and is killed at a named point. */
void send_and_die(const char *path, const char *point, uint32_t kind, uint64_t argument);

#endif
