# A control file as a controller sees it: sending requests, waiting for them, and reading what ranks publish.

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
    """A mapped control file, to send requests and to wait. Reading needs no mapping: see read_view().

    Raises OSError or SegmentError if the file is no control file of this layout.
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
        """Return the descriptor of the control file, for the read functions."""
        return self.segment.fd

    def check(self) -> None:
        """Raise SegmentError if the file was removed or is damaged."""
        cdef int rc = sf_segment_check(&self.segment)
        if rc < 0:
            fail(rc, "check", self.path)

    def append(self, kind: int, ident: int, *, arg: int = 0, duration: float = 0.0, sender: str = "", mail: str = "",
               target: int = 0, only_if_park_seq: int = 0, ranks: int = 0, elsewhere: bool = False,
               timeout: float = 5.0) -> tuple[int, int, int]:
        """Append a request to the log; return (verdict, sequence number, target). Costs some 20 µs.

        ranks: of a value or a call: 0 for all ranks, else the number of the only one that it is for, plus one.
        elsewhere: other hosts have a say in its target, and the caller must commit() it.

        Raises OSError or SegmentError, also if another sender holds the log's lock for all of `timeout` seconds.
        """
        return append(&self.segment, self.path, kind, ident, arg, duration, sender, mail, target, only_if_park_seq,
                      ranks, elsewhere, timeout)

    def commit(self, seq: int, target: int) -> int:
        """Commit the target of an entry that other hosts have a say in, or TARGET_VOID if it must not be applied.
        Return the target that the entry has: another one if another process was first."""
        return sf_commit(&self.segment, seq, target)

    def commit_vote(self, seq: int, phase: int, verdict: int) -> int:
        """Commit the verdict of all hosts: 1 for yes, 2 for no. Return the verdict that holds: another one if another
        process was first."""
        return sf_commit_vote(&self.segment, seq, phase, verdict)

    def void_orphan(self, seq: int) -> None:
        """Make an entry void if it has no target and its sender is dead."""
        cdef int rc = sf_void_orphan(&self.segment, seq)
        if rc < 0:
            fail(rc, "void", self.path)

    def conclude(self, seq: int) -> bool | None:
        """Publish the outcome of an entry of several ranks, if all living ranks are done with it and the others died.
        Return whether it is published; None if every rank that had to do it has died."""
        cdef int rc = sf_conclude(&self.segment, seq)
        return None if rc < 0 else rc == 1

    def note_lost(self, slot: int) -> None:
        """Note that the process of a slot was seen dead just now, without an end state."""
        cdef uint32_t number = slot
        sf_note_lost(&self.segment, number)

    def changes(self) -> int:
        """Return the count of the changes that the workers have published, for wait()."""
        return sf_segment_changes(&self.segment)

    def wait(self, seen: int, timeout: float) -> None:
        """Wait until changes() is no longer `seen`, for up to `timeout` seconds; may return early. Handles signals."""
        cdef uint32_t value = seen
        cdef int64_t timeout_ns = to_ns(timeout)
        cdef int rc
        with nogil:
            rc = sf_segment_wait(&self.segment, value, timeout_ns)
        PyErr_CheckSignals()
        if rc == -EFAULT:
            fail(-SF_EGONE, "wait", self.path)


def read_view(fd: int) -> dict:
    """Return the header of a control file and the state after its whole log."""
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
    """Return the state that one rank has published, and whether its process lives."""
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
    """Return one entry of the log; None if the log no longer holds it, or not yet."""
    cdef sf_entry_view view
    cdef int rc = sf_read_entry(fd, seq, &view)
    if rc == -ENOENT:
        return None
    if rc < 0:
        fail(rc, "read", None)
    return entry_dict(&view)


def read_layout_version(fd: int) -> int:
    """Return the layout version that a file claims, 0 if it is no control file."""
    return sf_read_layout_version(fd)
