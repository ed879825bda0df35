# Loops that pass a checkpoint at each item, and checkpoint_async().

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
            hit = sf_asked(sf_process_counter, step[0])
    else:
        hit = sf_asked(sf_process_counter, step[0])
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
        if sf_asked(sf_process_counter, step):
            return self.slow(step).__await__()
        if sf_yield_due(&async_yield_policy):
            return self.trip().__await__()
        return nothing
