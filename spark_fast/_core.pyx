# cython: language_level=3, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True, binding=False, auto_pickle=False, autotestdict=False

"""The C core as Python sees it: checks the arguments, calls C, raises. How it works is in csrc/."""

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
    #define SF_COUNT_STEP() sf_count(sf_process_counter)
    #else
    #define SF_COUNT_STEP() sf_count_in_turn(sf_process_counter)
    #endif
    """
    const char *SPARK_FAST_VERSION
    uint64_t count_step "SF_COUNT_STEP"() noexcept

attach_lock = RLock()
"""Held while a first checkpoint imports what it needs and makes the run. A fork waits for it: otherwise the child could
wait for ever for a module that another thread of its parent was importing."""
os.register_at_fork(before=attach_lock.acquire, after_in_parent=attach_lock.release, after_in_child=attach_lock.release)

cdef bint forked = False


def is_forked() -> bool:
    """Return whether this process is a forked child. Locks that other threads of its parent held stay held in it."""
    return forked


def _note_fork():
    global forked
    forked = True


os.register_at_fork(after_in_child=_note_fork)

cdef int loads = 0


@cython.final
cdef class Loading:
    """A context in which one thread at a time imports what a first checkpoint needs."""

    def __enter__(self):
        global loads
        attach_lock.acquire()
        loads += 1

    def __exit__(self, *raised):
        global loads
        loads -= 1
        attach_lock.release()


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


cdef object fail(int code, str call, object path):
    """Raise the exception for a negative result of a C function."""
    from spark_fast.runfiles.core_errors import from_code  # here, because that module imports this one

    raise from_code(-code, call, None if path is None else os.fsdecode(path))


cdef int64_t to_ns(double seconds) except? -1:
    if not 0 <= seconds < 4e9:  # 126 years, so that sums with a clock fit too; a NaN fails as well
        raise ValueError(f"a time of {seconds} s is not between 0 and 4e9 s")
    return <int64_t>(seconds * 1e9)


include "core_segment.pxi"
include "core_process.pxi"
include "core_worker.pxi"
include "core_track.pxi"
include "core_board.pxi"
