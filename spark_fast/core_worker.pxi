# The worker of this process: checkpoint(), and what the package's Python code calls on its slow path.

cdef sf_yield yield_policy
cdef sf_yield track_yield_policy
cdef sf_yield async_yield_policy
cdef int64_t TRACK_YIELD_NS = 50_000

GIVEN = 1
ROUND = 2


@cython.final
cdef class Worker:
    """The one worker of this process. `checkpoint` of the public interface is its bound method: a bound method of an
    extension type is the cheapest thing that Python can call."""

    cdef object slow
    cdef readonly list handed

    def __cinit__(self):
        self.slow = None
        self.handed = []

    def checkpoint(self, *, bint collective=True):
        """Lets the run be controlled here: the only place where a request takes effect.

        Idle it returns at once. Asked to pause, it parks until the run is resumed; asked to stop, it raises
        SparkStopError; asked to reload, it raises SparkReloadError. A stop is raised once in each thread and each
        asyncio task, and then lets checkpoints elsewhere pass, as those of a validation before saving; in code that
        swallows it and comes back to the same place it is raised again, and from then on everywhere but in the
        `except` and `finally` blocks that handle it.

        collective: True counts a step and applies requests. False is for code that not every rank of a job runs:
            it can park, but it never stops or reloads, and it does not count.

        Costs some tens of nanoseconds: one store of the step and one atomic load with the GIL released. The first
        call makes the run (about a millisecond) and never fails: without a run the loop goes on uncontrolled, after
        one warning. Any thread may call it. In a forked child of a worker that passes checkpoints itself it does
        nothing, and says so in a line; of one that has passed none, the child is a run of its own.
        """
        cdef uint64_t step
        cdef int hit
        if not collective:
            hit = sf_look(sf_process_counter, &step)
        else:
            step = count_step()
            if sf_yield_due(&yield_policy):
                with nogil:
                    hit = sf_asked(sf_process_counter, step)
            else:
                hit = sf_asked(sf_process_counter, step)
        if hit:
            self.take_slow_path(step, collective, None)

    def pending(self):
        """Whether anything is asked of this worker: True means that the next checkpoint() will not just return.

        Never yields the GIL, blocks or raises. Costs less than checkpoint(). False before the first checkpoint.
        """
        return sf_pending(sf_process_counter)

    cdef int take_slow_path(self, uint64_t step, bint counted, object done) except -1:
        # done: of a track() loop, GIVEN if it has handed out a new item since it began, and ROUND if the body of its
        # last item has come round; None where that can't be told.
        if self.slow is None:
            with beginning:
                if loads:
                    return 0  # of a signal handler, in the middle of that
                try:
                    with loading:
                        from spark_fast.worker.slow_path.checkpoint import checkpoint
                except Exception as error:  # it was removed or replaced since, or there is no descriptor left
                    sf_worker_detach(&sf_process_worker)
                    try:
                        os.write(2, f"spark_fast: warning: this run can't be controlled: {error!r}\n".encode())
                    except OSError:
                        pass
                    return 0
            self.slow = checkpoint
        self.slow(step, counted, done)
        return 0

    def set_yield_interval(self, interval: float | None) -> None:
        """Seconds between yields of the GIL at the least; 0 for every call, None for never."""
        cdef int64_t ns = (1 << 63) - 1 if interval is None else to_ns(interval)
        sf_yield_set(&yield_policy, ns)
        sf_yield_set(&track_yield_policy, max(ns, TRACK_YIELD_NS))

    def set_async_yield_interval(self, interval: float) -> None:
        """Seconds between trips of checkpoint_async() through the event loop at the least."""
        sf_yield_set(&async_yield_policy, to_ns(interval))

    def step(self) -> int:
        """Checkpoints passed."""
        return sf_step(sf_process_counter)

    def uncount(self) -> int:
        """The checkpoint that was counted last was no step of the loop: the loop's step."""
        return sf_worker_uncount(&sf_process_worker)

    def set_back(self, step: int) -> None:
        """The loop begins again from where it was at this step."""
        sf_worker_set_back(&sf_process_worker, step)

    def attached(self) -> bool:
        """Whether this process is the worker of a run."""
        return sf_worker_attached(&sf_process_worker)

    def place(self, rank: int, world_size: int, stride: int = 1) -> None:
        """Where this process stands in its job, and how many steps its checkpoints count. Before attach() or join()."""
        sf_worker_place(&sf_process_worker, rank, world_size, stride)

    def attach(self, path, *, slot_count: int, slot: int, cookie: int) -> None:
        """Makes the control file and becomes its worker. OSError when it can't be made; then nothing has changed."""
        cdef bytes encoded = os.fsencode(path)
        cdef int rc = sf_worker_attach(&sf_process_worker, encoded, slot_count, slot, cookie)
        if rc < 0:
            fail(rc, "attach", encoded)

    def join(self, path, *, slot: int, cookie: int, timeout: float) -> None:
        """Becomes a worker of a control file that another rank has made. OSError with EADDRINUSE if a living process
        has the slot, SegmentError, or another OSError; then nothing has changed."""
        cdef bytes encoded = os.fsencode(path)
        cdef uint32_t number = slot
        cdef uint64_t drawn = cookie
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef const char *name = encoded
        cdef int rc
        with nogil:
            rc = sf_worker_join(&sf_process_worker, name, number, drawn, timeout_ns)
        if rc < 0:
            fail(rc, "join", encoded)

    def vote(self, seq: int, phase: int, yes: bool) -> int:
        """Votes on an entry that was applied. Returns what came of it so far, as agreed()."""
        return sf_worker_vote(&sf_process_worker, seq, phase, yes)

    def agreed(self, seq: int, phase: int, give_up: bool = False) -> int:
        """What the living ranks have agreed on: 1 for yes, 2 for no, 0 if it is open. give_up: settles it with a no."""
        return sf_worker_agreed(&sf_process_worker, seq, phase, give_up)

    def in_the_log(self) -> tuple[int, int]:
        """The numbers of the entry that was applied last, and of the last there is; 0 and 0 if not attached."""
        cdef uint64_t applied = 0, tail = 0
        sf_worker_in_the_log(&sf_process_worker, &applied, &tail)
        return applied, tail

    def changes(self) -> int:
        """As Segment.changes(); 0 if not attached."""
        if not sf_worker_attached(&sf_process_worker):
            return 0
        return sf_segment_changes(sf_worker_segment(&sf_process_worker))

    def wait_for_change(self, seen: int, timeout: float) -> None:
        """As Segment.wait()."""
        cdef uint32_t value = seen
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef sf_segment *segment = sf_worker_segment(&sf_process_worker)
        if segment is not NULL:
            with nogil:
                sf_segment_wait(segment, value, timeout_ns)
        PyErr_CheckSignals()

    def give_up(self, seq: int) -> int:
        """Nobody has said for too long when this entry is due: it never is, on this host. The target that it has."""
        cdef sf_segment *segment = sf_worker_segment(&sf_process_worker)
        return SF_TARGET_VOID if segment is NULL else sf_commit(segment, seq, SF_TARGET_VOID)

    def quiet(self) -> None:
        """From here on nothing controls this process."""
        sf_worker_detach(&sf_process_worker)

    def begin_anew(self) -> None:
        """In a forked child of a worker: its next checkpoint is the first of a process that is no worker yet."""
        sf_worker_begin_anew(&sf_process_worker)

    def stop_alone(self) -> None:
        """Checkpoints take the slow path from here on, also where nothing controls this process."""
        sf_worker_stop_alone(&sf_process_worker)

    def stop_swallowed(self) -> None:
        """Publishes that the loop has swallowed the stop that was raised, and goes on."""
        sf_worker_stop_swallowed(&sf_process_worker)

    def fileno(self) -> int:
        """The descriptor of the control file, -1 if not attached."""
        return sf_worker_segment(&sf_process_worker).fd if sf_worker_attached(&sf_process_worker) else -1

    def turn(
        self, step: int, counted: bool, *, reload: bool = True, mail: bool = True, inner: int = 0
    ) -> tuple[int, int, float, dict | None]:
        """Applies what is due: (action, sequence number, seconds to stay parked, the entry that asks).

        The entry of mail has the pause that is in force there, 0 if none is, as "held", and the thread as "thread"; it
        stands in `handed` until tell().

        reload: False leaves a reload, and what stands behind it in the log, for a later turn.
        mail: False does the same with values to set and functions to call.
        inner: of a checkpoint of a function that was called: how many it has passed; 0 for one of the loop.

        Raises SegmentError or OSError when control is lost.
        """
        cdef sf_due due
        cdef uint64_t at = step
        cdef int may = (
            (SF_DUE_COUNTED if counted else 0)
            | (0 if reload else SF_DUE_NO_RELOAD)
            | (0 if mail else SF_DUE_NO_MAIL)
            | (SF_DUE_INNER if inner else 0)
        )
        cdef int rc
        sf_worker_journal(&sf_process_worker).inner = inner
        with nogil:
            rc = sf_apply_due(&sf_process_worker, at, may, &due)
        if rc < 0:
            fail(rc, "checkpoint", None)
        entry = None
        if due.action > SF_HOLD:
            entry = entry_dict(&due.entry)
            entry["held"] = due.held
            if due.action == SF_DELIVER:
                # Kept here, where no signal handler comes in between: what was handed out is not lost.
                entry["thread"] = PyThread_get_thread_ident()
                self.handed = [*self.handed, entry]
        return due.action, due.seq, due.park_for / 1e9, entry

    def tell(self, seq: int, step: int, *, failed: bool) -> None:
        """Publishes what came of a reload, or of mail, that turn() handed out."""
        sf_worker_publish_outcome(&sf_process_worker, seq, step, failed)
        self.handed = [entry for entry in self.handed if entry["seq"] != seq]

    def watch(self, step: int) -> None:
        """From this step on each checkpoint takes the slow path; NEVER ends that."""
        sf_worker_watch(&sf_process_worker, step)

    def keep_journal(self, path, header: bytes) -> None:
        """What is applied is written to this file, which begins with the header."""
        cdef bytes encoded = os.fsencode(path)
        cdef int rc = sf_journal_set(sf_worker_journal(&sf_process_worker), encoded, header, len(header))
        if rc < 0:
            fail(rc, "journal", encoded)

    def continue_journal(self, header: bytes) -> None:
        """Goes on in a new file in the place of the one that was renamed. It is made at once, and begins with the
        header. Raises OSError; then nothing is written down any more."""
        cdef int rc = sf_journal_continue(sf_worker_journal(&sf_process_worker), header, len(header))
        if rc < 0:
            fail(rc, "journal", None)

    def journal_begun(self) -> bool:
        """Whether anything was written down."""
        return sf_worker_journal(&sf_process_worker).fd >= 0

    def journal_error(self) -> int:
        """The errno of what broke the journal, once; 0 if nothing did."""
        return sf_journal_error(sf_worker_journal(&sf_process_worker))

    def parked(self, seq: int, step: int, deadline: float) -> None:
        """Publishes that the worker is parked; deadline: the time at which it goes on by itself, 0 for never."""
        sf_worker_parked(&sf_process_worker, seq, step, to_ns(deadline))

    def unparked(self, step: int) -> None:
        """Publishes that the worker waits no more."""
        sf_worker_unparked(&sf_process_worker, step)

    def wait(self, timeout: float) -> None:
        """Parks for up to `timeout` seconds; may return early. Handles signals."""
        cdef int64_t timeout_ns = to_ns(timeout)
        with nogil:
            sf_worker_wait(&sf_process_worker, timeout_ns)
        PyErr_CheckSignals()

    def wait_for_resume(self, step: int, timeout: float, turns) -> bool:
        """As wait(). Then, holding the lock `turns`, applies a resume if that is all that has come: whether it did.

        All in one call: code of a process that has slept is in no cache, and each line of it takes microseconds.
        """
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef uint64_t at = step
        with nogil:
            sf_worker_wait(&sf_process_worker, timeout_ns)
        PyErr_CheckSignals()
        with turns:
            return sf_worker_resume(&sf_process_worker, at)

    def append(self, kind: int, ident: int, *, arg: int = 0, duration: float = 0.0, sender: str = "", mail: str = "",
               target: int = 0, only_if_park_seq: int = 0, ranks: int = 0,
               timeout: float = 5.0) -> tuple[int, int, int]:
        """Segment.append() on the worker's own control file."""
        cdef sf_segment *segment = sf_worker_segment(&sf_process_worker)
        if segment is NULL:
            fail(-SF_EGONE, "append", None)
        return append(segment, None, kind, ident, arg, duration, sender, mail, target, only_if_park_seq, ranks, False,
                      timeout)

    def end(self, state: int) -> None:
        """Publishes how the process ends and lets go of the run. Raises SegmentError if control was lost unnoticed."""
        cdef int rc = sf_worker_end(&sf_process_worker, state)
        if rc < 0:
            fail(rc, "end", None)


worker = Worker()
worker.set_yield_interval(0.0)
worker.set_async_yield_interval(0.01)

cdef int setup = sf_worker_setup()
if setup < 0:
    fail(setup, "fork hook", None)

cdef Worker the_worker = worker
