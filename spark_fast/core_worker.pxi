# The worker of this process: checkpoint(), and what the package's Python code calls on its slow path.

cdef sf_yield yield_policy
cdef sf_yield track_yield_policy
cdef sf_yield async_yield_policy
cdef int64_t TRACK_YIELD_NS = 50_000

ITEM_YIELDED = 1
BODY_DONE = 2


@cython.final
cdef class Worker:
    """The one worker of this process. The public function `checkpoint` is its bound method: a bound method of an
    extension type is the cheapest thing that Python can call."""

    cdef object slow
    cdef readonly list handed

    def __cinit__(self):
        self.slow = None
        self.handed = []

    def checkpoint(self, *, bint collective=True):
        """Let a controller act on the run here. Requests take effect at a checkpoint and nowhere else.

        Without a request it returns at once. After a pause it parks until the run is resumed. After a stop it raises
        SparkStopError, after a reload SparkReloadError.

        A stop is raised once in each thread and each asyncio task. Checkpoints at other places of the code then pass,
        so that a script can validate and save. If the code swallows the stop and comes back to the same place, the stop
        is raised again there, and from then on everywhere except in the `except` and `finally` blocks that handle it.

        collective: True counts a step and applies requests. False is for code that not every rank of a job runs:
            it can park, but it never stops or reloads, and it does not count.

        Costs some tens of nanoseconds: one store of the step, and one atomic load with the GIL released. The first
        call makes the run, which takes about a millisecond. It never fails: if the run can't be made, the loop goes on
        uncontrolled, after one warning. Any thread may call it. In a forked child of a worker that has passed
        checkpoints it does nothing, and prints a line that says so; if the worker has passed none, the child is a run
        of its own.
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
        """Return whether a request waits for this worker. True means that the next checkpoint() does not just return.

        Never yields the GIL, blocks or raises. Costs less than checkpoint(). False before the first checkpoint.
        """
        return sf_pending(sf_process_counter)

    cdef int take_slow_path(self, uint64_t step, bint counted, object done) except -1:
        # done: of a track() loop, ITEM_YIELDED if it has handed out a new item since it began, and BODY_DONE if the
        # body of its last item is complete; None for a checkpoint outside track().
        if self.slow is None:
            with attach_lock:
                if loads:
                    return 0  # a checkpoint of a signal handler, in the middle of the imports
                try:
                    with loading:
                        from spark_fast import _load
                        from spark_fast.worker.slow_path.checkpoint import checkpoint

                        _load()
                except Exception as error:  # the package was removed or replaced, or no descriptor is left
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
        """Set the least seconds between two yields of the GIL; 0 yields at every call, None never."""
        cdef int64_t ns = (1 << 63) - 1 if interval is None else to_ns(interval)
        sf_yield_set(&yield_policy, ns)
        sf_yield_set(&track_yield_policy, max(ns, TRACK_YIELD_NS))

    def set_async_yield_interval(self, interval: float) -> None:
        """Set the least seconds between two yields of checkpoint_async() to the event loop."""
        sf_yield_set(&async_yield_policy, to_ns(interval))

    def step(self) -> int:
        """Return the step: the checkpoints passed, times the stride."""
        return sf_step(sf_process_counter)

    def uncount(self) -> int:
        """Take back the last count, of a checkpoint that was no step of the loop. Return the loop's step."""
        return sf_worker_uncount(&sf_process_worker)

    def set_back(self, step: int) -> None:
        """Set the step back to this earlier one."""
        sf_worker_set_back(&sf_process_worker, step)

    def attached(self) -> bool:
        """Return whether this process is the worker of a run."""
        return sf_worker_attached(&sf_process_worker)

    def place(self, rank: int, world_size: int, stride: int = 1) -> None:
        """Set the rank, the number of ranks and the steps that a checkpoint counts, before attach() or join()."""
        sf_worker_place(&sf_process_worker, rank, world_size, stride)

    def attach(self, path, *, slot_count: int, slot: int, cookie: int) -> None:
        """Make a control file and take a slot of it. Raises OSError if it can't be made; then nothing has changed."""
        cdef bytes encoded = os.fsencode(path)
        cdef int rc = sf_worker_attach(&sf_process_worker, encoded, slot_count, slot, cookie)
        if rc < 0:
            fail(rc, "attach", encoded)

    def join(self, path, *, slot: int, cookie: int, timeout: float) -> None:
        """Take a slot of a control file that another rank has made. Raises OSError with EADDRINUSE if a living process
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
        """Vote on an entry that was applied. Return the verdict so far, as agreed() does."""
        return sf_worker_vote(&sf_process_worker, seq, phase, yes)

    def agreed(self, seq: int, phase: int, give_up: bool = False) -> int:
        """Return the verdict of the living ranks: 1 for yes, 2 for no, 0 if it is open. give_up: commits a no if it is
        open."""
        return sf_worker_agreed(&sf_process_worker, seq, phase, give_up)

    def in_the_log(self) -> tuple[int, int]:
        """Return the numbers of the last entry that was applied and of the log's last; 0 and 0 if not attached."""
        cdef uint64_t applied = 0, tail = 0
        sf_worker_in_the_log(&sf_process_worker, &applied, &tail)
        return applied, tail

    def changes(self) -> int:
        """Return the count of Segment.changes(); 0 if not attached."""
        if not sf_worker_attached(&sf_process_worker):
            return 0
        return sf_segment_changes(sf_worker_segment(&sf_process_worker))

    def wait_for_change(self, seen: int, timeout: float) -> None:
        """Wait as Segment.wait() does; return at once if not attached."""
        cdef uint32_t value = seen
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef sf_segment *segment = sf_worker_segment(&sf_process_worker)
        if segment is not NULL:
            with nogil:
                sf_segment_wait(segment, value, timeout_ns)
        PyErr_CheckSignals()

    def give_up(self, seq: int) -> int:
        """Make an entry void on this host, since the other hosts have not decided its target in time. Return the target
        that it has."""
        cdef sf_segment *segment = sf_worker_segment(&sf_process_worker)
        return SF_TARGET_VOID if segment is NULL else sf_commit(segment, seq, SF_TARGET_VOID)

    def detach(self) -> None:
        """End the control of this process."""
        sf_worker_detach(&sf_process_worker)

    def begin_anew(self) -> None:
        """Make the next checkpoint of a forked child the first of a process that is no worker yet."""
        sf_worker_begin_anew(&sf_process_worker)

    def stop_alone(self) -> None:
        """Have the checkpoints of a detached process take the slow path, so that it can stop by itself."""
        sf_worker_stop_alone(&sf_process_worker)

    def stop_swallowed(self) -> None:
        """Publish that the loop has swallowed the stop that was raised, and goes on."""
        sf_worker_stop_swallowed(&sf_process_worker)

    def fileno(self) -> int:
        """Return the descriptor of the control file, -1 if not attached."""
        return sf_worker_segment(&sf_process_worker).fd if sf_worker_attached(&sf_process_worker) else -1

    def apply_due(
        self, step: int, counted: bool, *, reload: bool = True, mail: bool = True, inner: int = 0
    ) -> tuple[int, int, float, dict | None]:
        """Apply the entries that are due. Return (action, sequence number, seconds to stay parked, entry or None).

        An entry with mail also has the keys "held", the pause that is in force there or 0, and "thread". It stays in
        `handed` until publish_outcome().

        reload: False leaves a reload, and every entry behind it in the log, for a later call.
        mail: False does the same with values to set and functions to call.
        inner: the number of checkpoints that a called function has passed; 0 for a checkpoint of the loop.

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
                # Kept here, where no signal handler can run in between, so that the mail is not lost.
                entry["thread"] = PyThread_get_thread_ident()
                self.handed = [*self.handed, entry]
        return due.action, due.seq, due.park_for / 1e9, entry

    def publish_outcome(self, seq: int, step: int, *, failed: bool) -> None:
        """Publish the outcome of a reload or of mail that apply_due() has returned."""
        sf_worker_publish_outcome(&sf_process_worker, seq, step, failed)
        self.handed = [entry for entry in self.handed if entry["seq"] != seq]

    def watch(self, step: int) -> None:
        """Have each checkpoint from this step on take the slow path; NEVER ends that."""
        sf_worker_watch(&sf_process_worker, step)

    def keep_journal(self, path, header: bytes) -> None:
        """Record what is applied in this file, which begins with the header."""
        cdef bytes encoded = os.fsencode(path)
        cdef int rc = sf_journal_set(sf_worker_journal(&sf_process_worker), encoded, header, len(header))
        if rc < 0:
            fail(rc, "journal", encoded)

    def continue_journal(self, header: bytes) -> None:
        """Create a new file in the place of the one that was renamed. It begins with the header. Raises OSError; then
        the journal records nothing more."""
        cdef int rc = sf_journal_continue(sf_worker_journal(&sf_process_worker), header, len(header))
        if rc < 0:
            fail(rc, "journal", None)

    def journal_begun(self) -> bool:
        """Return whether the journal has a file."""
        return sf_worker_journal(&sf_process_worker).fd >= 0

    def journal_error(self) -> int:
        """Return the errno that broke the journal, once; else 0."""
        return sf_journal_error(sf_worker_journal(&sf_process_worker))

    def parked(self, seq: int, step: int, deadline: float) -> None:
        """Publish that the worker is parked. deadline: the time at which it continues by itself, 0 for never."""
        sf_worker_parked(&sf_process_worker, seq, step, to_ns(deadline))

    def unparked(self, step: int) -> None:
        """Publish that the worker no longer waits."""
        sf_worker_unparked(&sf_process_worker, step)

    def wait(self, timeout: float) -> None:
        """Park for up to `timeout` seconds; may return early. Handles signals."""
        cdef int64_t timeout_ns = to_ns(timeout)
        with nogil:
            sf_worker_wait(&sf_process_worker, timeout_ns)
        PyErr_CheckSignals()

    def wait_for_resume(self, step: int, timeout: float, lock) -> bool:
        """Wait as wait() does. Then, under `lock`, apply a resume if the log holds nothing else that is new. Return
        whether it did.

        This is one call because the code of a process that has slept is in no cache: each line takes microseconds.
        """
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef uint64_t at = step
        with nogil:
            sf_worker_wait(&sf_process_worker, timeout_ns)
        PyErr_CheckSignals()
        with lock:
            return sf_worker_resume(&sf_process_worker, at)

    def append(self, kind: int, ident: int, *, arg: int = 0, duration: float = 0.0, sender: str = "", mail: str = "",
               target: int = 0, only_if_park_seq: int = 0, ranks: int = 0,
               timeout: float = 5.0) -> tuple[int, int, int]:
        """Append a request to the worker's own control file, as Segment.append() does."""
        cdef sf_segment *segment = sf_worker_segment(&sf_process_worker)
        if segment is NULL:
            fail(-SF_EGONE, "append", None)
        return append(segment, None, kind, ident, arg, duration, sender, mail, target, only_if_park_seq, ranks, False,
                      timeout)

    def end(self, state: int) -> None:
        """Publish how the process ends and leave the run. Raises SegmentError if control was lost unnoticed."""
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
