# cython: language_level=3, binding=False, auto_pickle=False

"""What the figures stand beside: methods that do all but the thing measured, a bare futex, a stopwatch."""

cimport cython
from libc.errno cimport EAGAIN, EINTR, ETIMEDOUT, errno
from libc.stdint cimport int64_t, uint32_t

cdef extern from *:
    """
    #include <linux/futex.h>
    #include <stdatomic.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>

    static inline void twin_nothing(void) { __asm__ volatile(""); }

    static inline int64_t
    twin_now(void)
    {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    }

    static int
    twin_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns)
    {
        struct timespec timeout = {timeout_ns / 1000000000, timeout_ns % 1000000000};
        return syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, NULL, 0) == 0 ? 0 : -1;
    }

    static void
    twin_wake(uint32_t *word, uint32_t value)
    {
        atomic_store((_Atomic uint32_t *)word, value);
        syscall(SYS_futex, word, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    """
    void twin_nothing() noexcept nogil
    int64_t twin_now() noexcept nogil
    int twin_wait(uint32_t *word, uint32_t expected, int64_t timeout_ns) noexcept nogil
    void twin_wake(uint32_t *word, uint32_t value) noexcept nogil


@cython.final
cdef class Empty:
    """The same kind of extension type as spark_fast's worker."""

    def empty(self):
        twin_nothing()

    def empty_nogil(self):
        with nogil:
            twin_nothing()

    def empty_keyword(self, *, bint collective=True):
        if not collective:
            twin_nothing()

    @cython.binding(True)
    def empty_cyfunction(self):
        twin_nothing()


def function():
    twin_nothing()


def function_keyword(*, bint collective=True):
    if not collective:
        twin_nothing()


@cython.binding(True)
def cyfunction():
    twin_nothing()


DEF EXACT = 4096
DEF BINS = EXACT + 64 * 64


@cython.final
cdef class Stopwatch:
    """Times laps: to the nanosecond up to 4 µs, to 2 % above. A lap costs one call and one reading of the clock."""

    cdef int64_t last
    cdef readonly int64_t longest
    cdef readonly int64_t laps
    cdef int64_t bins[BINS]

    def start(self):
        self.last = twin_now()

    def lap(self):
        cdef int64_t now = twin_now()
        cdef int64_t took = now - self.last
        cdef int64_t bin = took
        cdef int shift = 0
        if took > self.longest:
            self.longest = took
        if took >= EXACT:
            while (bin >> shift) >= 128:
                shift += 1
            bin = EXACT + shift * 64 + (bin >> shift) - 64
        self.bins[bin] += 1
        self.laps += 1
        self.last = now

    def percentile(self, double percent) -> int:
        """The lap that this percentage of the laps did not exceed, in ns."""
        cdef int64_t left = <int64_t>(self.laps * percent / 100)
        cdef int bin
        for bin in range(BINS):
            left -= self.bins[bin]
            if left < 0:
                break
        if bin < EXACT:
            return bin
        shift, rest = divmod(bin - EXACT, 64)
        return (rest + 64) << shift


@cython.final
cdef class Futex:
    """A word in shared memory (any writable buffer), to wait on and to wake."""

    cdef object buffer
    cdef uint32_t *word

    def __cinit__(self, buffer):
        cdef unsigned char[::1] view = buffer
        self.buffer = view  # keeps the memory where it is
        self.word = <uint32_t *>&view[0]

    @property
    def value(self) -> int:
        return self.word[0]

    @value.setter
    def value(self, value: int) -> None:
        self.word[0] = value

    def wait(self, expected: int, timeout: float) -> int:
        """Waits until the word is no longer `expected`; CLOCK_MONOTONIC in ns at which this thread ran again."""
        cdef uint32_t before = expected
        cdef int64_t timeout_ns = <int64_t>(timeout * 1e9)
        cdef int64_t end = twin_now() + timeout_ns
        cdef int64_t woken = 0
        cdef int rc = 0
        cdef int error = 0
        with nogil:
            while self.word[0] == before and rc == 0:
                rc = twin_wait(self.word, before, timeout_ns)
                woken = twin_now()
                error = errno
                if rc != 0 and (error == EAGAIN or error == EINTR) and woken < end:
                    rc = 0
        if rc != 0:
            raise TimeoutError(f"not woken: errno {error}")
        return woken

    def wake(self, value: int) -> int:
        """Sets the word and wakes who waits; CLOCK_MONOTONIC in ns just before."""
        cdef uint32_t after = value
        cdef int64_t began = twin_now()
        twin_wake(self.word, after)
        return began
