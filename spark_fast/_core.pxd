from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

# csrc/, as far as Python sees it. Nothing here needs the GIL.

cdef extern from "sf_layout.h" nogil:
    enum:
        SF_LAYOUT_VERSION
        SF_LEVELS
        SF_LOG_CAPACITY
        SF_SENDER_MAX
        SF_MAIL_MAX
    const uint64_t SF_NEVER
    const uint64_t SF_TARGET_NONE
    const uint64_t SF_TARGET_VOID
    struct sf_state:
        uint64_t target
        uint64_t park
        uint64_t park_seq
        uint64_t stop_seq
        uint64_t reload_seq
        int64_t park_for
    unsigned SF_OUTCOME_CODE(uint64_t outcome)
    uint64_t SF_OUTCOME_VALUE(uint64_t outcome)

cdef extern from "sf_error.h" nogil:
    enum:
        SF_EGONE

cdef extern from "sf_segment.h" nogil:
    struct sf_header:
        pass
    struct sf_segment:
        sf_header *header
        int fd
    int sf_segment_open(sf_segment *segment, const char *path)
    void sf_segment_close(sf_segment *segment)
    int sf_segment_check(const sf_segment *segment)
    void sf_note_lost(const sf_segment *segment, uint32_t slot)
    int sf_segment_wait(sf_segment *segment, uint32_t seen, int64_t timeout_ns)
    uint32_t sf_segment_changes(const sf_segment *segment)

cdef extern from "sf_view.h" nogil:
    struct sf_view:
        uint32_t layout_version
        uint32_t slot_count
        int64_t created_ns
        uint32_t world_size
        uint64_t tail
        uint32_t changes
        sf_state state
    struct sf_level_view "":
        uint64_t total
        uint64_t done
        int64_t began_ns
        int64_t parked_ns
    struct sf_slot_view:
        uint32_t word
        uint32_t state
        int32_t pid
        int alive
        uint64_t step
        uint64_t alarm
        uint64_t applied
        uint64_t seen
        uint64_t mark_step
        uint64_t wakes
        int64_t attached_ns
        int64_t state_ns
        int64_t mark_ns
        int64_t parked_ns
        int64_t park_ns
        int64_t deadline_ns
        uint32_t rank
        uint32_t generation
        uint32_t stride
        int64_t lost_ns
        sf_level_view level[4]
    struct sf_entry_view:
        uint64_t seq
        uint64_t target
        uint64_t outcome
        uint64_t id
        uint64_t arg
        uint32_t kind
        int32_t sender_pid
        int64_t duration_ns
        int64_t asked_ns
        uint32_t ranks
        uint32_t agreed
        uint64_t low
        char *sender
        char *mail
    int sf_read_view(int fd, sf_view *view)
    int sf_read_slot(int fd, uint32_t rank, sf_slot_view *view)
    int sf_read_entry(int fd, uint64_t seq, sf_entry_view *view)
    uint32_t sf_read_layout_version(int fd)

cdef extern from "sf_log.h" nogil:
    struct sf_request:
        uint32_t kind
        uint64_t id
        uint64_t arg
        int64_t duration_ns
        uint64_t target
        uint64_t only_if_park_seq
        uint32_t ranks
        int elsewhere
        char *sender
        char *mail
    struct sf_receipt:
        int verdict
        uint64_t seq
        uint64_t target
        uint32_t stuck_rank
    int sf_append(sf_segment *segment, const sf_request *request, int64_t timeout_ns, sf_receipt *receipt)
    int sf_void_orphan(sf_segment *segment, uint64_t seq)
    int sf_conclude(sf_segment *segment, uint64_t seq)
    uint64_t sf_commit(sf_segment *segment, uint64_t seq, uint64_t target)

cdef extern from "sf_vote.h" nogil:
    unsigned sf_commit_vote(sf_segment *segment, uint64_t seq, int phase, unsigned verdict)

cdef extern from "sf_point.h" nogil:
    int sf_point_arm(const char *name, int signal_number)
    void sf_point_reached(const char *name)
    int sf_point_armed

cdef extern from "sf_signal.h" nogil:
    int sf_signal_next_ends(int number, int64_t after_ns)

cdef extern from "sf_lock.h" nogil:
    int sf_lock(int fd, uint64_t offset, uint64_t length, int64_t timeout_ns)
    int sf_unlock(int fd, uint64_t offset, uint64_t length)
    int sf_lock_held(int fd, uint64_t offset, uint64_t length)
    int sf_fork_close(int fd)
    void sf_fork_keep(int fd)

cdef extern from "sf_journal.h" nogil:
    struct sf_journal:
        int fd
        uint64_t inner
    int sf_journal_set(sf_journal *journal, const char *path, const char *header, size_t header_size)
    int sf_journal_continue(sf_journal *journal, const char *header, size_t header_size)
    int sf_journal_error(sf_journal *journal)

cdef extern from "sf_yield.h" nogil:
    struct sf_yield:
        pass
    void sf_yield_set(sf_yield *policy, int64_t interval_ns) noexcept
    bint sf_yield_due(sf_yield *policy) noexcept

cdef extern from "sf_worker.h" nogil:
    struct sf_counter:
        pass
    const sf_counter sf_process_counter
    struct sf_worker:
        pass
    sf_worker sf_process_worker
    int sf_asked(sf_counter counter, uint64_t step) noexcept
    int sf_look(sf_counter counter, uint64_t *step) noexcept
    bint sf_pending(sf_counter counter) noexcept
    uint64_t sf_step(sf_counter counter) noexcept
    int sf_worker_setup()
    void sf_worker_place(sf_worker *worker, uint32_t rank, uint32_t world_size, uint32_t stride)
    int sf_worker_attach(sf_worker *worker, const char *path, uint32_t slot_count, uint32_t slot, uint64_t cookie)
    int sf_worker_join(sf_worker *worker, const char *path, uint32_t slot, uint64_t cookie, int64_t timeout_ns)
    void sf_worker_detach(sf_worker *worker)
    void sf_worker_begin_anew(sf_worker *worker)
    int sf_worker_end(sf_worker *worker, uint32_t state)
    bint sf_worker_attached(sf_worker *worker)
    sf_segment *sf_worker_segment(sf_worker *worker)
    sf_journal *sf_worker_journal(sf_worker *worker)
    uint64_t sf_worker_uncount(sf_worker *worker)
    void sf_worker_set_back(sf_worker *worker, uint64_t step)
    void sf_worker_watch(sf_worker *worker, uint64_t step)
    void sf_worker_stop_alone(sf_worker *worker)
    struct sf_since:
        int64_t began_ns
        int64_t parked_ns
    int sf_level_enter(uint64_t total, sf_since *since)
    void sf_level_leave(int level)
    void sf_level_done(int level, uint64_t done) noexcept

cdef extern from "sf_apply.h" nogil:
    enum:
        SF_DUE_COUNTED
        SF_DUE_NO_RELOAD
        SF_DUE_NO_MAIL
        SF_DUE_INNER
        SF_HOLD
        SF_DELIVER
    struct sf_due:
        int action
        uint64_t seq
        int64_t park_for
        uint64_t held
        sf_entry_view entry
    int sf_apply_due(sf_worker *worker, uint64_t step, int may, sf_due *due)
    void sf_worker_publish_outcome(sf_worker *worker, uint64_t seq, uint64_t step, int failed)
    unsigned sf_worker_vote(sf_worker *worker, uint64_t seq, int phase, int yes)
    unsigned sf_worker_agreed(sf_worker *worker, uint64_t seq, int phase, int give_up)
    void sf_worker_in_the_log(sf_worker *worker, uint64_t *applied, uint64_t *tail)
    void sf_worker_parked(sf_worker *worker, uint64_t seq, uint64_t step, int64_t deadline_ns)
    void sf_worker_unparked(sf_worker *worker, uint64_t step)
    int sf_worker_wait(sf_worker *worker, int64_t timeout_ns)
    bint sf_worker_resume(sf_worker *worker, uint64_t step)
    void sf_worker_stop_swallowed(sf_worker *worker)

cdef extern from "sf_board.h" nogil:
    enum:
        SF_BOARD_CELLS
        SF_BUCKETS
        SF_TEXT_MAX
        SF_FLOAT
        SF_INTEGER
        SF_BOOLEAN
        SF_TEXT
    struct sf_bucket:
        uint64_t step
        int64_t time_ns
        double low
        double high
        double mean
        double last
        uint32_t finite
    struct sf_board_view:
        uint32_t cells
        uint32_t descriptions
        uint64_t changes
    struct sf_cell_view:
        uint32_t kind
        uint32_t text_size
        uint64_t bits
        uint64_t step
        int64_t time_ns
        uint64_t history_offset
    int sf_board_create(const char *path)
    int sf_board_add()
    int sf_board_keep_history(uint32_t index)
    int sf_board_put_text(uint32_t index, const char *text, size_t size, uint64_t step)
    void sf_board_described()
    int sf_board_watched(int64_t within_ns)
    void sf_board_forget()
    void sf_board_put_number(uint32_t index, uint32_t kind, uint64_t bits, double value, uint64_t step) noexcept
    int sf_board_read(int fd, sf_board_view *view)
    int sf_board_read_cell(int fd, uint32_t index, sf_cell_view *view)
    int sf_board_read_cells(int fd, sf_cell_view *views, uint32_t count)
    int sf_board_read_text(int fd, uint32_t index, const sf_cell_view *view, char *text)
    int sf_board_read_history(int fd, const sf_cell_view *view, sf_bucket *buckets)
    int sf_board_touch(int fd)
