# Locks on files, signals, kill points and the garbage collector.

def lock_file(fd: int, timeout: float) -> bool:
    """Take the record lock on the first byte of an open file. Return False if others held it all the time. A child that
    is forked while it is held closes the file."""
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
    """Release the lock of lock_file()."""
    sf_unlock(fd, 0, 1)
    sf_fork_keep(fd)


def any_lock(fd: int) -> bool:
    """Return whether another open file than this one has a record lock anywhere in the file."""
    cdef int rc = sf_lock_held(fd, 0, 0)
    if rc < 0:
        fail(rc, "lock", None)
    return rc == 1


def next_signal_ends(number: int, after: float) -> None:
    """Ignore this signal for `after` seconds; then give it its default action. The system takes that action even if the
    interpreter is stuck, so that no handler written in Python would run. signal.signal() undoes it."""
    cdef int rc = sf_signal_next_ends(number, to_ns(after))
    if rc < 0:
        fail(rc, "sigaction", None)


def arm_point(name: str, signal: int = SIGKILL) -> None:
    """Have the process send itself the signal when it reaches the named point of a protocol. For tests."""
    cdef bytes encoded = name.encode()
    cdef int rc = sf_point_arm(encoded, signal)
    if rc < 0:
        fail(rc, "arm_point", None)


def point(name: str) -> None:
    """Mark a named point of a protocol whose steps are in Python."""
    cdef bytes encoded
    if sf_point_armed:
        encoded = name.encode()
        sf_point_reached(encoded)


cdef extern from "Python.h":
    int PyObject_GC_IsTracked(PyObject *thing)
    void PyObject_GC_Track(void *thing)
    void PyObject_GC_UnTrack(void *thing)


def frozen_referrers(tuple sought not None) -> list:
    """Return what `gc.get_referrers(*sought)` finds, and also the referrers that `gc.freeze()` hides from it.

    For a process that has frozen objects. Afterwards the same objects are frozen as before: later garbage stays
    collectable. No other thread runs in between. Costs two passes over all objects, and makes the next young
    collection visit all that are not frozen.
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
            # gc.freeze() freezes all tracked objects, so the others are untracked meanwhile.
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
