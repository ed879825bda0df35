# cython: language_level=3, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True, binding=False, auto_pickle=False, autotestdict=False

"""The C core as Python sees it: check the arguments, call C, raise. See csrc/ for how it works."""

import gc
import os
from _thread import RLock

cimport cython
from cpython.exc cimport PyErr_CheckSignals, PyErr_Fetch, PyErr_NormalizeException, PyErr_Restore
from cpython.object cimport PyObject, PyTypeObject, destructor
from cpython.pythread cimport PyThread_get_thread_ident
from libc.errno cimport EAGAIN, EFAULT, ENOENT, ENOSPC
from libc.signal cimport SIGKILL
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #ifndef SPARK_FAST_VERSION
    #error "setup.py defines SPARK_FAST_VERSION"
    #endif

    /* Called with the GIL held, where there is one. */
    #ifdef Py_GIL_DISABLED
    #define SF_COUNT_STEP sf_count
    #else
    #define SF_COUNT_STEP sf_count_in_turn
    #endif
    """
    const char *SPARK_FAST_VERSION
    uint64_t count_step "SF_COUNT_STEP"() noexcept

beginning = RLock()
"""Held while a first checkpoint imports what it needs and makes the run. A fork waits for it: the child would wait for
ever for a module that nobody in it is importing."""
os.register_at_fork(before=beginning.acquire, after_in_parent=beginning.release, after_in_child=beginning.release)

cdef bint forked = False


def is_forked() -> bool:
    """Whether this process is a forked child: locks that other threads of its parent held stay held in it."""
    return forked


def _note_fork():
    global forked
    forked = True


os.register_at_fork(after_in_child=_note_fork)

cdef int loads = 0


@cython.final
cdef class Loading:
    """A context in which a thread imports what a first checkpoint needs, alone."""

    def __enter__(self):
        global loads
        beginning.acquire()
        loads += 1

    def __exit__(self, *raised):
        global loads
        loads -= 1
        beginning.release()


loading = Loading()

LAYOUT_VERSION = SF_LAYOUT_VERSION
BUILD_VERSION = SPARK_FAST_VERSION.decode()
LOG_CAPACITY = SF_LOG_CAPACITY
NEVER = SF_NEVER
TARGET_NONE = SF_TARGET_NONE
TARGET_VOID = SF_TARGET_VOID
FLOAT = SF_FLOAT
INTEGER = SF_INTEGER
BOOLEAN = SF_BOOLEAN

cdef int64_t NS = 1_000_000_000
cdef int64_t LONGEST = 1 << 62


cdef object fail(int code, str call, object path):
    """Raises what a negative result of a C function means."""
    from spark_fast.core_errors import from_code  # here, because that module imports this one

    raise from_code(-code, call, None if path is None else os.fsdecode(path))


cdef int64_t to_ns(double seconds) except? -1:
    if not 0 <= seconds < 4e9:  # 126 years, so that sums with a clock fit too; a NaN fails as well
        raise ValueError(f"a time of {seconds} s is not between 0 and 4e9 s")
    return <int64_t>(seconds * 1e9)


cdef dict entry_dict(const sf_entry_view *entry):
    return {
        "seq": entry.seq, "target": entry.target, "id": entry.id, "kind": entry.kind, "arg": entry.arg,
        "outcome": SF_OUTCOME_CODE(entry.outcome), "value": SF_OUTCOME_VALUE(entry.outcome),
        "duration": entry.duration_ns / 1e9, "asked": entry.asked_ns / 1e9, "sender_pid": entry.sender_pid,
        "sender": (<bytes>entry.sender).decode("utf-8", "replace"),
        "mail": (<bytes>entry.mail).decode("utf-8", "replace"),
        "ranks": entry.ranks, "low": entry.low, "agreed": entry.agreed,
    }


cdef tuple append(sf_segment *segment, bytes path, unsigned kind, uint64_t ident, uint64_t arg, double duration,
                  str sender, str mail, uint64_t target, uint64_t only_if_park_seq, uint32_t ranks, bint elsewhere,
                  double timeout):
    cdef sf_request request
    cdef sf_receipt receipt
    cdef int64_t timeout_ns = to_ns(timeout)
    cdef int rc
    cdef bytes who = sender.encode("utf-8", "replace")[:SF_SENDER_MAX - 1]
    cdef bytes letter = mail.encode()

    if len(letter) >= SF_MAIL_MAX:
        raise ValueError(f"mail has {len(letter)} bytes: at most {SF_MAIL_MAX - 1} are taken")
    memset(&request, 0, sizeof(request))
    request.kind = kind
    request.id = ident
    request.arg = arg
    request.duration_ns = to_ns(duration)
    request.target = target
    request.only_if_park_seq = only_if_park_seq
    request.ranks = ranks
    request.elsewhere = elsewhere
    memcpy(request.sender, <const char *>who, len(who))
    memcpy(request.mail, <const char *>letter, len(letter))
    with nogil:
        rc = sf_append(segment, &request, timeout_ns, &receipt)
    if rc < 0:
        fail(rc, "append", path)
    return receipt.verdict, receipt.seq, receipt.target


@cython.final
cdef class Segment:
    """A control file, mapped. For senders and for those who wait; who only reads needs no mapping.

    Raises OSError or SegmentError when the file is no control file of this layout.
    """

    cdef sf_segment segment
    cdef readonly bytes path

    def __cinit__(self, path):
        self.segment.fd = -1
        self.path = os.fsencode(path)
        cdef int rc = sf_segment_open(&self.segment, self.path)
        if rc < 0:
            fail(rc, "open", self.path)

    def __dealloc__(self):
        sf_segment_close(&self.segment)

    def fileno(self) -> int:
        """The descriptor of the control file, for the read functions."""
        return self.segment.fd

    def check(self) -> None:
        """Raises SegmentError if the file was removed or is damaged."""
        cdef int rc = sf_segment_check(&self.segment)
        if rc < 0:
            fail(rc, "check", self.path)

    def append(self, kind: int, ident: int, *, arg: int = 0, duration: float = 0.0, sender: str = "", mail: str = "",
               target: int = 0, only_if_park_seq: int = 0, ranks: int = 0, elsewhere: bool = False,
               timeout: float = 5.0) -> tuple[int, int, int]:
        """Appends a request to the log; returns (verdict, sequence number, target). Costs some 20 µs.

        ranks: of a value or a call: 0 for all ranks, else the number of the one that it is for, plus one.
        elsewhere: other hosts have a say in its target, and the caller is to commit() it.
        """
        return append(&self.segment, self.path, kind, ident, arg, duration, sender, mail, target, only_if_park_seq,
                      ranks, elsewhere, timeout)

    def commit(self, seq: int, target: int) -> int:
        """Commits the target of an entry that other hosts have a say in; TARGET_VOID if it is not to be applied. The
        target that it has: another one if somebody was first."""
        return sf_commit(&self.segment, seq, target)

    def commit_vote(self, seq: int, phase: int, verdict: int) -> int:
        """Commits what all hosts have agreed on: 1 for yes, 2 for no. What stands: another verdict if somebody was
        first."""
        return sf_commit_vote(&self.segment, seq, phase, verdict)

    def void_orphan(self, seq: int) -> None:
        """Makes an entry void that has no target and whose sender is dead."""
        cdef int rc = sf_void_orphan(&self.segment, seq)
        if rc < 0:
            fail(rc, "void", self.path)

    def conclude(self, seq: int) -> bool | None:
        """Of several ranks: publishes what came of an entry that all who live are done with, where those who were not
        have died since. Whether it is published; None if all who were to do it have died."""
        cdef int rc = sf_conclude(&self.segment, seq)
        return None if rc < 0 else rc == 1

    def note_lost(self, slot: int) -> None:
        """Somebody saw just now that the process in a slot has died without a word."""
        cdef uint32_t number = slot
        sf_note_lost(&self.segment, number)

    def changes(self) -> int:
        """The count of what the workers have published, to hand to wait()."""
        return sf_segment_changes(&self.segment)

    def wait(self, seen: int, timeout: float) -> None:
        """Waits until changes() is no longer `seen`, or `timeout` seconds; may return early. Handles signals."""
        cdef uint32_t value = seen
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef int rc
        with nogil:
            rc = sf_segment_wait(&self.segment, value, timeout_ns)
        PyErr_CheckSignals()
        if rc == -EFAULT:
            fail(-SF_EGONE, "wait", self.path)


def read_view(fd: int) -> dict:
    """The header of a control file and the state that its whole log gives."""
    cdef sf_view view
    cdef int rc = sf_read_view(fd, &view)
    if rc < 0:
        fail(rc, "read", None)
    return {
        "slot_count": view.slot_count, "created": view.created_ns / 1e9, "tail": view.tail, "changes": view.changes,
        "park": view.state.park, "park_seq": view.state.park_seq, "stop_seq": view.state.stop_seq,
        "reload_seq": view.state.reload_seq, "world_size": view.world_size,
    }


def read_slot(fd: int, rank: int) -> dict:
    """What one rank has published, and whether its process lives."""
    cdef sf_slot_view view
    cdef int rc = sf_read_slot(fd, rank, &view)
    if rc < 0:
        fail(rc, "read", None)
    levels = [
        (view.level[i].done, view.level[i].total, view.level[i].began_ns / 1e9, view.level[i].parked_ns / 1e9)
        for i in range(SF_LEVELS) if view.level[i].began_ns > 0
    ]
    return {
        "alive": bool(view.alive), "state": view.state, "step": view.step, "pid": view.pid, "word": view.word,
        "applied": view.applied, "seen": view.seen, "attached": view.attached_ns / 1e9,
        "state_since": view.state_ns / 1e9, "mark_step": view.mark_step, "mark": view.mark_ns / 1e9,
        "parked": view.parked_ns / 1e9, "park_began": view.park_ns / 1e9, "wakes": view.wakes,
        "deadline": view.deadline_ns / 1e9, "levels": levels, "rank": view.rank, "generation": view.generation,
        "stride": view.stride, "lost": view.lost_ns / 1e9,
    }


def read_entry(fd: int, seq: int) -> dict | None:
    """One entry of the log; None if the log holds it no longer, or not yet."""
    cdef sf_entry_view view
    cdef int rc = sf_read_entry(fd, seq, &view)
    if rc == -ENOENT:
        return None
    if rc < 0:
        fail(rc, "read", None)
    return entry_dict(&view)


def read_layout_version(fd: int) -> int:
    """The layout version that a file claims, 0 if it is no control file."""
    return sf_read_layout_version(fd)


def lock_file(fd: int, timeout: float) -> bool:
    """Takes the record lock on the first byte of an open file; False if others held it all the time. A process forked
    meanwhile closes the file."""
    cdef int64_t timeout_ns = to_ns(timeout)
    cdef int handle = fd
    cdef int rc = sf_fork_close(handle)
    if rc == 0:
        with nogil:
            rc = sf_lock(handle, 0, 1, timeout_ns)
        if rc < 0:
            sf_fork_keep(handle)
    if rc < 0 and rc != -EAGAIN:
        fail(rc, "lock", None)
    return rc == 0


def unlock_file(fd: int) -> None:
    """Lets go of what lock_file() took."""
    sf_unlock(fd, 0, 1)
    sf_fork_keep(fd)


def any_lock(fd: int) -> bool:
    """Whether somebody holds a record lock anywhere in the file, through another open file than this one."""
    cdef int rc = sf_lock_held(fd, 0, 0)
    if rc < 0:
        fail(rc, "lock", None)
    return rc == 1


def next_signal_ends(number: int, after: float) -> None:
    """From here on this signal is overlooked for `after` seconds; then it has its default action, and the system takes
    it: also where no handler written in Python would be reached. signal.signal() undoes it."""
    cdef int rc = sf_signal_next_ends(number, to_ns(after))
    if rc < 0:
        fail(rc, "sigaction", None)


def arm_point(name: str, signal: int = SIGKILL) -> None:
    """For tests: the process sends itself the signal when it reaches the named point of a protocol."""
    cdef bytes encoded = name.encode()
    cdef int rc = sf_point_arm(encoded, signal)
    if rc < 0:
        fail(rc, "arm_point", None)


def point(name: str) -> None:
    """A named point of a protocol whose steps are taken in Python."""
    cdef bytes encoded
    if sf_point_armed:
        encoded = name.encode()
        sf_point_reached(encoded)


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
            hit = sf_look(&step)
        else:
            step = count_step()
            if sf_yield_due(&yield_policy):
                with nogil:
                    hit = sf_asked(step)
            else:
                hit = sf_asked(step)
        if hit:
            self.take_slow_path(step, collective, None)

    def pending(self):
        """Whether anything is asked of this worker: True means that the next checkpoint() will not just return.

        Never yields the GIL, blocks or raises. Costs less than checkpoint(). False before the first checkpoint.
        """
        return sf_pending()

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
                    sf_worker_quiet()
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
        return sf_worker_step()

    def uncount(self) -> int:
        """The checkpoint that was counted last was no step of the loop: the loop's step."""
        return sf_worker_uncount()

    def set_back(self, step: int) -> None:
        """The loop begins again from where it was at this step."""
        sf_worker_set_back(step)

    def attached(self) -> bool:
        """Whether this process is the worker of a run."""
        return sf_worker_attached()

    def place(self, rank: int, world_size: int, stride: int = 1) -> None:
        """Where this process stands in its job, and how many steps its checkpoints count. Before attach() or join()."""
        sf_worker_place(rank, world_size, stride)

    def attach(self, path, *, slot_count: int, slot: int, cookie: int) -> None:
        """Makes the control file and becomes its worker. OSError when it can't be made; then nothing has changed."""
        cdef bytes encoded = os.fsencode(path)
        cdef int rc = sf_worker_attach(encoded, slot_count, slot, cookie)
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
            rc = sf_worker_join(name, number, drawn, timeout_ns)
        if rc < 0:
            fail(rc, "join", encoded)

    def vote(self, seq: int, phase: int, yes: bool) -> int:
        """Votes on an entry that was applied. Returns what came of it so far, as agreed()."""
        return sf_worker_vote(seq, phase, yes)

    def agreed(self, seq: int, phase: int, give_up: bool = False) -> int:
        """What the living ranks have agreed on: 1 for yes, 2 for no, 0 if it is open. give_up: settles it with a no."""
        return sf_worker_agreed(seq, phase, give_up)

    def in_the_log(self) -> tuple[int, int]:
        """The numbers of the entry that was applied last, and of the last there is; 0 and 0 if not attached."""
        cdef uint64_t applied = 0, tail = 0
        sf_worker_in_the_log(&applied, &tail)
        return applied, tail

    def changes(self) -> int:
        """As Segment.changes(); 0 if not attached."""
        return sf_segment_changes(sf_worker_segment()) if sf_worker_attached() else 0

    def wait_for_change(self, seen: int, timeout: float) -> None:
        """As Segment.wait()."""
        cdef uint32_t value = seen
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef sf_segment *segment = sf_worker_segment()
        if segment is not NULL:
            with nogil:
                sf_segment_wait(segment, value, timeout_ns)
        PyErr_CheckSignals()

    def give_up(self, seq: int) -> int:
        """Nobody has said for too long when this entry is due: it never is, on this host. The target that it has."""
        cdef sf_segment *segment = sf_worker_segment()
        return SF_TARGET_VOID if segment is NULL else sf_commit(segment, seq, SF_TARGET_VOID)

    def quiet(self) -> None:
        """From here on nothing controls this process."""
        sf_worker_quiet()

    def begin_anew(self) -> None:
        """In a forked child of a worker: its next checkpoint is the first of a process that is no worker yet."""
        sf_worker_begin_anew()

    def stop_alone(self) -> None:
        """Checkpoints take the slow path from here on, also where nothing controls this process."""
        sf_worker_stop_alone()

    def stop_swallowed(self) -> None:
        """Publishes that the loop has swallowed the stop that was raised, and goes on."""
        sf_worker_stop_swallowed()

    def fileno(self) -> int:
        """The descriptor of the control file, -1 if not attached."""
        return sf_worker_segment().fd if sf_worker_attached() else -1

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
        cdef sf_turn_result turn
        cdef uint64_t at = step
        cdef int may = (
            (SF_TURN_COUNTED if counted else 0)
            | (0 if reload else SF_TURN_NO_RELOAD)
            | (0 if mail else SF_TURN_NO_MAIL)
            | (SF_TURN_INNER if inner else 0)
        )
        cdef int rc
        sf_worker_journal().inner = inner
        with nogil:
            rc = sf_turn(at, may, &turn)
        if rc < 0:
            fail(rc, "checkpoint", None)
        entry = None
        if turn.action > SF_HOLD:
            entry = entry_dict(&turn.entry)
            entry["held"] = turn.held
            if turn.action == SF_DELIVER:
                # Kept here, where no signal handler comes in between: what was handed out is not lost.
                entry["thread"] = PyThread_get_thread_ident()
                self.handed = [*self.handed, entry]
        return turn.action, turn.seq, turn.park_for / 1e9, entry

    def tell(self, seq: int, step: int, *, failed: bool) -> None:
        """Publishes what came of a reload, or of mail, that turn() handed out."""
        sf_worker_tell(seq, step, failed)
        self.handed = [entry for entry in self.handed if entry["seq"] != seq]

    def watch(self, step: int) -> None:
        """From this step on each checkpoint takes the slow path; NEVER ends that."""
        sf_worker_watch(step)

    def keep_journal(self, path, header: bytes) -> None:
        """What is applied is written to this file, which begins with the header."""
        cdef bytes encoded = os.fsencode(path)
        cdef int rc = sf_journal_set(sf_worker_journal(), encoded, header, len(header))
        if rc < 0:
            fail(rc, "journal", encoded)

    def continue_journal(self, header: bytes) -> None:
        """Goes on in a new file in the place of the one that was renamed. It is made at once, and begins with the
        header. Raises OSError; then nothing is written down any more."""
        cdef int rc = sf_journal_continue(sf_worker_journal(), header, len(header))
        if rc < 0:
            fail(rc, "journal", None)

    def journal_begun(self) -> bool:
        """Whether anything was written down."""
        return sf_worker_journal().fd >= 0

    def journal_error(self) -> int:
        """The errno of what broke the journal, once; 0 if nothing did."""
        return sf_journal_error(sf_worker_journal())

    def parked(self, seq: int, step: int, deadline: float) -> None:
        """Publishes that the worker is parked; deadline: the time at which it goes on by itself, 0 for never."""
        sf_worker_parked(seq, step, to_ns(deadline))

    def unparked(self, step: int) -> None:
        """Publishes that the worker waits no more."""
        sf_worker_unparked(step)

    def wait(self, timeout: float) -> None:
        """Parks for up to `timeout` seconds; may return early. Handles signals."""
        cdef int64_t timeout_ns = to_ns(timeout)
        with nogil:
            sf_worker_wait(timeout_ns)
        PyErr_CheckSignals()

    def wait_for_resume(self, step: int, timeout: float, turns) -> bool:
        """As wait(). Then, holding the lock `turns`, applies a resume if that is all that has come: whether it did.

        All in one call: code of a process that has slept is in no cache, and each line of it takes microseconds.
        """
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef uint64_t at = step
        with nogil:
            sf_worker_wait(timeout_ns)
        PyErr_CheckSignals()
        with turns:
            return sf_worker_resume(at)

    def append(self, kind: int, ident: int, *, arg: int = 0, duration: float = 0.0, sender: str = "", mail: str = "",
               target: int = 0, only_if_park_seq: int = 0, ranks: int = 0,
               timeout: float = 5.0) -> tuple[int, int, int]:
        """Segment.append() on the worker's own control file."""
        cdef sf_segment *segment = sf_worker_segment()
        if segment is NULL:
            fail(-SF_EGONE, "append", None)
        return append(segment, None, kind, ident, arg, duration, sender, mail, target, only_if_park_seq, ranks, False,
                      timeout)

    def end(self, state: int) -> None:
        """Publishes how the process ends and lets go of the run. Raises SegmentError if control was lost unnoticed."""
        cdef int rc = sf_worker_end(state)
        if rc < 0:
            fail(rc, "end", None)


worker = Worker()
worker.set_yield_interval(0.0)
worker.set_async_yield_interval(0.01)

cdef int setup = sf_worker_setup()
if setup < 0:
    fail(setup, "fork hook", None)

cdef Worker the_worker = worker


@cython.final
cdef class Track:
    """Iterates with a checkpoint before each item; what track() returns."""

    cdef object iterable
    cdef object iterator
    cdef readonly object total
    cdef uint64_t handed
    cdef int level

    def __cinit__(self, iterable, total):
        self.iterable = iterable
        self.iterator = None
        self.total = total
        self.level = -1

    @cython.critical_section
    def __iter__(self):
        cdef sf_since since
        self.leave()
        self.iterator = iter(self.iterable)
        self.handed = 0
        since.began_ns = 0
        self.level = sf_level_enter(0 if self.total is None else self.total, &since)
        return self

    @cython.critical_section
    def __next__(self):
        cdef uint64_t step
        if self.iterator is None:
            raise StopIteration
        sf_level_done(self.level, self.handed)
        if pass_in_loop(&step):
            the_worker.take_slow_path(step, True, GIVEN | ROUND if self.handed > 0 else 0)
        try:
            item = next(self.iterator)
        except BaseException:
            self.leave()
            raise
        self.handed += 1
        return item

    def __len__(self):
        return length_of(self.total)

    @property
    def done(self) -> int:
        """Items that were handed out."""
        return self.handed

    @property
    def index(self) -> int:
        """The number of the item that was handed out last, from 0; -1 before the first."""
        return <int64_t>self.handed - 1

    cdef void leave(self) noexcept:
        sf_level_leave(self.level)
        self.level = -1
        self.iterator = None

    def __dealloc__(self):
        sf_level_leave(self.level)


cdef inline int pass_in_loop(uint64_t *step) noexcept:
    cdef int hit
    step[0] = count_step()
    if sf_yield_due(&track_yield_policy):
        with nogil:
            hit = sf_asked(step[0])
    else:
        hit = sf_asked(step[0])
    return hit


cdef object length_of(object total):
    if total is None:
        raise TypeError("the length of this iterable is not known")
    return total


@cython.final
cdef class Place:
    """Where a loop with a key is. It outlives the loop's frame when a reload unwinds that. See worker/state/loops.py,
    which keeps them and says when one begins and ends."""

    cdef readonly str key
    cdef public object iterator
    cdef public Place parent
    cdef public dict ended
    cdef public dict passed
    cdef public object owner
    cdef public object thread
    cdef public object frames  # the thread and the task that its loop runs in
    cdef public bint inner
    cdef public bint claimed
    cdef public bint over
    cdef public bint raised  # its iterator did
    cdef readonly bint held
    cdef readonly bint again
    cdef readonly uint64_t handed
    cdef readonly dict kept
    cdef object current
    cdef sf_since since
    cdef int level  # of the status's progress; a reload may leave the object of the loop before alive, in a variable

    def __cinit__(self, key: str):
        self.key = key
        self.level = -1
        self.ended = {}
        self.passed = {}
        self.kept = {}
        self.since.began_ns = 0

    def go_on(self) -> None:
        """The loop runs again: an item whose body was not done is handed out once more."""
        self.again = self.held
        self.passed = {key: list(found) for key, found in self.ended.items()}

    cdef void show(self, object total) noexcept:
        """Shows the loop's progress, instead of that of an object that had the place before."""
        self.hide()
        self.level = sf_level_enter(0 if total is None else total, &self.since)

    cdef void hide(self) noexcept:
        sf_level_leave(self.level)
        self.level = -1

    cpdef void come_round(self) noexcept:
        """What was done with the item is done."""
        self.held = False
        self.current = None

    def item(self) -> object:
        """The item that was handed out last; None once its body has come round."""
        return self.current

    def pass_over(self, uint64_t handed, kept: dict) -> None:
        """The loop had ended: it hands out nothing more, and shows what it showed then."""
        self.iterator = nothing
        self.handed = handed
        self.kept = kept

    def begin_anew(self) -> object:
        """The loop is to begin at its first item again, with a new iterator. Returns the iterator and the item that it
        had, which may run code of the user's as they go."""
        gone = self.iterator, self.current
        self.iterator = self.current = None
        self.held = self.again = self.raised = False
        self.handed = 0
        self.kept = {}
        self.ended.clear()
        self.passed.clear()
        return gone

    def forget(self) -> None:
        """The loop is over, or left for good."""
        self.owner = self.thread = self.frames = self.parent = None
        self.iterator = self.current = None
        self.held = self.again = False
        self.ended.clear()
        self.passed.clear()


@cython.final
cdef class KeyedTrack:
    """Iterates with a checkpoint before each item, and keeps its place through a reload; what track(key=…) returns."""

    cdef object iterable
    cdef object enter
    cdef object advance
    cdef object left
    cdef readonly object total
    cdef readonly str key
    cdef Place place
    cdef uint64_t handed
    cdef bint given  # a new item, since the loop began or goes on
    cdef dict last_kept
    cdef object raised  # what is being raised while the loop's frame lets go of it

    def __cinit__(self, iterable, total, key: str, places):
        self.iterable = iterable
        self.total = total
        self.key = key
        self.enter, self.advance, self.left = places.enter, places.advance, places.leave
        self.last_kept = {}

    @cython.critical_section
    def __iter__(self):
        self.leave(None)
        self.place = self.enter(self.key, self.iterable, id(self))
        self.given = False
        self.place.show(self.total)
        return self

    @cython.critical_section
    def __next__(self):
        cdef Place place = self.place
        cdef uint64_t step
        cdef bint came_round = False
        if place is None:
            raise StopIteration
        if place.held and not place.again:
            came_round = True
            place.come_round()
            if place.inner:
                self.advance(place)
        sf_level_done(place.level, place.handed - place.held)
        if pass_in_loop(&step):
            the_worker.take_slow_path(step, True, (GIVEN if self.given else 0) | (ROUND if came_round else 0))
        if place.again:
            # That its body comes round will say nothing: the loops within it may all be at their ends.
            place.again = False
            return place.current
        try:
            item = next(place.iterator)
        except BaseException as error:
            self.leave(error)
            raise
        place.handed += 1
        place.current = item
        place.held = True
        self.given = True
        return item

    def __len__(self):
        return length_of(self.total)

    @property
    def kept(self) -> dict:
        """A dictionary that lives as long as the loop's place: empty when the loop begins, kept through a reload, and
        still here when the loop has ended. For sums over the loop's items."""
        return self.last_kept if self.place is None else self.place.kept

    @property
    def done(self) -> int:
        """Items that were handed out, those before a reload too."""
        return self.handed if self.place is None else self.place.handed

    @property
    def index(self) -> int:
        """The number of the item that was handed out last, from 0; it counts on through a reload. -1 before the
        first."""
        return <int64_t>(self.handed if self.place is None else self.place.handed) - 1

    cdef int leave(self, object error) except -1:
        cdef Place place = self.place
        if place is None:
            return 0
        self.place = None
        self.handed = place.handed
        self.last_kept = place.kept
        if place.owner is None:  # it was passed over
            place.hide()
        elif place.owner == id(self):
            place.hide()
            self.left(place, error, self.raised)
        return 0

    def __del__(self):
        self.leave(None)


# A `for` loop lets go of its iterator when it is left by a `break`, and also while an exception unwinds its frame. Only
# the finalizer's caller can tell the two apart: Cython puts the exception aside before __del__ runs.
cdef destructor finalize_track


cdef void finalize_keyed_track(PyObject *track) noexcept:
    cdef PyObject *kind = NULL
    cdef PyObject *value = NULL
    cdef PyObject *trace = NULL
    PyErr_Fetch(&kind, &value, &trace)
    if kind is not NULL:
        PyErr_NormalizeException(&kind, &value, &trace)
        (<KeyedTrack>track).raised = <object>value
    finalize_track(track)
    (<KeyedTrack>track).raised = None
    PyErr_Restore(kind, value, trace)


cdef PyTypeObject *keyed_track_type = <PyTypeObject *>KeyedTrack
finalize_track = keyed_track_type.tp_finalize
keyed_track_type.tp_finalize = finalize_keyed_track


cdef object nothing = iter(())


@cython.final
cdef class AsyncCheckpoint:
    """What checkpoint_async() returns: awaited, it passes a checkpoint. One object serves all calls."""

    cdef object slow
    cdef object trip

    def __cinit__(self, slow, trip):
        self.slow = slow
        self.trip = trip

    def __await__(self):
        cdef uint64_t step = count_step()
        if sf_asked(step):
            return self.slow(step).__await__()
        if sf_yield_due(&async_yield_policy):
            return self.trip().__await__()
        return nothing


# --- the board ---


@cython.final
cdef class Exposed:
    """One exposed value: what the script reads and assigns, and where it stands on the board."""

    cdef readonly str name
    cdef public object value
    cdef public int index
    cdef public int kind
    cdef public bint fast

    def __cinit__(self, name: str, value):
        self.name = name
        self.value = value
        self.index = -1
        self.kind = 0  # of the numbers that it takes: a float, or a whole one, or a bool
        self.fast = False  # whether a number of this kind can be put on the board with no more ado


cdef object missing = object()


@cython.final
cdef class State:
    """The exposed values, as attributes; what expose() returns. See spark_fast/worker/state/registry.py.

    Assigning a number costs some tens of nanoseconds, reading one what an attribute costs.
    """

    cdef dict found
    cdef object assign

    def __cinit__(self, found: dict, assign):
        self.found = found
        self.assign = assign

    @cython.critical_section  # as __setattr__: what another thread replaces must not vanish while it is taken
    cdef object look(self, object name):
        it = self.found.get(name)
        return missing if it is None else (<Exposed>it).value

    def __getattribute__(self, name):
        value = self.look(name)
        return object.__getattribute__(self, name) if value is missing else value

    @cython.critical_section
    def __setattr__(self, name, value):
        put(self, name, value)

    def __delattr__(self, name):
        raise AttributeError(f"what is exposed stays: {name!r}")

    def __getitem__(self, name):
        value = self.look(name)
        if value is missing:
            raise KeyError(name)
        return value

    @cython.critical_section
    def __setitem__(self, name, value):
        put(self, name, value)

    def __contains__(self, name):
        return name in self.found

    def __iter__(self):
        return iter(list(self.found))

    def __len__(self):
        return len(self.found)

    def __dir__(self):
        return sorted(self.found)

    def __repr__(self):
        inside = ", ".join(f"{name}={(<Exposed>it).value!r}" for name, it in self.found.items())
        return f"<State: {inside}>"


cdef int put(State state, object name, object value) except -1:
    cdef uint64_t bits
    cdef double number
    cdef int64_t whole
    cdef int overflow = 0
    cdef int kind
    it = state.found.get(name)
    if it is not None and (<Exposed>it).fast:
        kind = (<Exposed>it).kind
        if type(value) is float:
            if kind != SF_FLOAT:
                state.assign(name, it, value)
                return 0
            number = value
            memcpy(&bits, &number, sizeof(bits))
            (<Exposed>it).value = value
            sf_board_put_number((<Exposed>it).index, SF_FLOAT, bits, number, sf_worker_step())
            return 0
        if type(value) is int and kind != SF_BOOLEAN:
            whole = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow:
                (<Exposed>it).value = value
                sf_board_put_number((<Exposed>it).index, SF_INTEGER, <uint64_t>whole, <double>whole, sf_worker_step())
                return 0
        elif type(value) is bool and kind == SF_BOOLEAN:
            whole = value
            (<Exposed>it).value = value
            sf_board_put_number((<Exposed>it).index, SF_BOOLEAN, <uint64_t>whole, <double>whole, sf_worker_step())
            return 0
    state.assign(name, it, value)
    return 0


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1


def board_create(path) -> None:
    """Makes the board of this process. OSError when it can't be made."""
    cdef bytes encoded = os.fsencode(path)
    cdef int rc = sf_board_create(encoded)
    if rc < 0:
        fail(rc, "board", encoded)


def board_add() -> int:
    """A new cell on the board: its index. OSError when all are in use."""
    cdef int rc = sf_board_add()
    if rc == -ENOSPC:
        raise OSError(ENOSPC, f"it has no more than {SF_BOARD_CELLS} values")
    if rc < 0:
        fail(rc, "board", None)
    return rc


def board_keep_history(index: int) -> None:
    """Has the cell keep the history of its numbers. OSError when there is no room."""
    cdef int rc = sf_board_keep_history(index)
    if rc < 0:
        fail(rc, "board", None)


def board_put_number(index: int, value) -> None:
    """Puts a number into a cell, and into its history: a bool, a whole number of 64 bits, or what can be a float."""
    cdef double number
    cdef int64_t whole
    cdef uint64_t bits
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        whole = value
        sf_board_put_number(index, SF_BOOLEAN if isinstance(value, bool) else SF_INTEGER, <uint64_t>whole,
                            <double>whole, sf_worker_step())
        return
    number = value
    memcpy(&bits, &number, sizeof(bits))
    sf_board_put_number(index, SF_FLOAT, bits, number, sf_worker_step())


def board_put_text(index: int, text: bytes) -> None:
    """Puts a text, JSON, into a cell. OSError when there is no room for it."""
    cdef int rc = sf_board_put_text(index, text, len(text), sf_worker_step())
    if rc < 0:
        fail(rc, "board", None)


def board_described() -> None:
    """Tells readers that what describes the values was written anew."""
    sf_board_described()


def board_watched(within: float) -> bool:
    """Whether somebody has looked at the board within the last seconds."""
    return sf_board_watched(to_ns(within)) != 0


def board_forget() -> None:
    """From here on this process writes no board."""
    sf_board_forget()


def read_board(fd: int) -> tuple[int, int, int]:
    """The header of a board: how many cells it has, how often the description and how often the values changed."""
    cdef sf_board_view view
    cdef int rc = sf_board_read(fd, &view)
    if rc < 0:
        fail(rc, "read", None)
    return view.cells, view.descriptions, view.changes


def read_cells(fd: int, count: int) -> list[tuple[object, int, float]]:
    """The first cells of a board: each its value, its step and its time. A text comes as bytes, a cell that nothing
    was put into as None."""
    cdef sf_cell_view views[SF_BOARD_CELLS]
    cdef int handle = fd
    cdef uint32_t most = count
    cdef int found
    with nogil:
        found = sf_board_read_cells(handle, views, most)
    if found < 0:
        fail(found, "read", None)
    return [(cell_value(fd, i, &views[i]), views[i].step, views[i].time_ns / 1e9) for i in range(found)]


cdef object cell_value(int fd, uint32_t index, sf_cell_view *view):
    cdef double number
    cdef char *text
    cdef int rc
    if view.kind == SF_FLOAT:
        memcpy(&number, &view.bits, sizeof(number))
        return number
    if view.kind == SF_INTEGER:
        return <int64_t>view.bits
    if view.kind == SF_BOOLEAN:
        return view.bits != 0
    if view.kind != SF_TEXT:
        return None
    text = <char *>malloc(SF_TEXT_MAX)
    if text is NULL:
        raise MemoryError
    try:
        rc = sf_board_read_text(fd, index, view, text)
        for _ in range(100):
            if rc != -EAGAIN:
                break
            rc = sf_board_read_cell(fd, index, view)
            if rc == 0:
                rc = sf_board_read_text(fd, index, view, text)
        if rc < 0:
            fail(rc, "read", None)
        return text[:view.text_size]
    finally:
        free(text)


def read_history(int fd, uint32_t index) -> tuple[list, list, list, list, list, list]:
    """The history of a cell: steps, times, last, low, high and mean values, oldest first. What was not finite has no
    low, high and mean: NaN stands there."""
    cdef sf_cell_view view
    cdef sf_bucket *buckets
    cdef double nothing_finite = float("nan")
    cdef int rc = sf_board_read_cell(fd, index, &view)
    cdef int i
    if rc < 0:
        fail(rc, "read", None)
    buckets = <sf_bucket *>malloc(SF_BUCKETS * sizeof(sf_bucket))
    if buckets is NULL:
        raise MemoryError
    try:
        with nogil:
            rc = sf_board_read_history(fd, &view, buckets)
        if rc < 0:
            fail(rc, "read", None)
        for i in range(rc):
            if buckets[i].finite == 0:
                buckets[i].low = buckets[i].high = buckets[i].mean = nothing_finite
        return (
            [buckets[i].step for i in range(rc)], [buckets[i].time_ns / 1e9 for i in range(rc)],
            [buckets[i].last for i in range(rc)], [buckets[i].low for i in range(rc)],
            [buckets[i].high for i in range(rc)], [buckets[i].mean for i in range(rc)],
        )
    finally:
        free(buckets)


def touch_board(fd: int) -> None:
    """Says on a board that somebody shows it to a person."""
    cdef int rc = sf_board_touch(fd)
    if rc < 0:
        fail(rc, "write", None)


# --- the garbage collector ---

cdef extern from "Python.h":
    int PyObject_GC_IsTracked(PyObject *thing)
    void PyObject_GC_Track(void *thing)
    void PyObject_GC_UnTrack(void *thing)


def frozen_referrers(tuple sought not None) -> list:
    """What `gc.get_referrers(*sought)` finds, and also what `gc.freeze()` hides from it.

    What was frozen is frozen afterwards, and nothing else is: garbage that came later stays collectable. No other
    thread runs in between. Costs two passes over all objects; the next young collection looks at all that is not
    frozen. For a process that has frozen objects.
    """
    cdef list others, found = []
    cdef bint enabled = gc.isenabled()
    gc.disable()
    try:
        others = gc.get_objects()
        others.append(others)
        gc.unfreeze()
        try:
            found = gc.get_referrers(*sought)
            others.append(found)
        finally:
            # gc.freeze() takes all that is tracked.
            for thing in others:
                if PyObject_GC_IsTracked(<PyObject *>thing):
                    PyObject_GC_UnTrack(<PyObject *>thing)
            gc.freeze()
            for thing in others:
                if not PyObject_GC_IsTracked(<PyObject *>thing):
                    PyObject_GC_Track(<PyObject *>thing)
            others.clear()
    finally:
        if enabled:
            gc.enable()
    return found
