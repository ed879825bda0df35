# Loops that pass a checkpoint at each item, and checkpoint_async().

@cython.final
cdef class Track:
    """What track() returns: iterates with a checkpoint before each item."""

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
            the_worker.take_slow_path(step, True, ITEM_YIELDED | BODY_DONE if self.handed > 0 else 0)
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
        """The number of items yielded."""
        return self.handed

    @property
    def index(self) -> int:
        """The number of the last item yielded, from 0; -1 before the first."""
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
    """The position of a loop with a key. It outlives the loop's frame when a reload unwinds that. worker/state/loops.py
    keeps the places, and decides when one begins and ends."""

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
    cdef public bint raised  # its iterator raised an exception
    cdef readonly bint held
    cdef readonly bint again
    cdef readonly uint64_t handed
    cdef readonly dict kept
    cdef object current
    cdef sf_since since
    cdef int level  # of the status's progress; after a reload the old loop object may still be alive in a variable

    def __cinit__(self, key: str):
        self.key = key
        self.level = -1
        self.ended = {}
        self.passed = {}
        self.kept = {}
        self.since.began_ns = 0

    def go_on(self) -> None:
        """Continue the loop after a reload: an item whose body was not complete is yielded once more."""
        self.again = self.held
        self.passed = {key: list(found) for key, found in self.ended.items()}

    cdef void show(self, object total) noexcept:
        """Show the loop's progress, instead of that of an object that had the place before."""
        self.hide()
        self.level = sf_level_enter(0 if total is None else total, &self.since)

    cdef void hide(self) noexcept:
        sf_level_leave(self.level)
        self.level = -1

    cpdef void come_round(self) noexcept:
        """Mark the body of the last item as complete."""
        self.held = False
        self.current = None

    def item(self) -> object:
        """Return the last item yielded; None once its body is complete."""
        return self.current

    def pass_over(self, uint64_t handed, kept: dict) -> None:
        """Mark a loop that had ended: it yields nothing more, and shows the progress that it had."""
        self.iterator = nothing
        self.handed = handed
        self.kept = kept

    def begin_anew(self) -> object:
        """Reset the loop to its first item, for a new iterator. Return the old iterator and item, since
        releasing them may run the user's code."""
        gone = self.iterator, self.current
        self.iterator = self.current = None
        self.held = self.again = self.raised = False
        self.handed = 0
        self.kept = {}
        self.ended.clear()
        self.passed.clear()
        return gone

    def forget(self) -> None:
        """Drop all references of a loop that is over, or left for good."""
        self.owner = self.thread = self.frames = self.parent = None
        self.iterator = self.current = None
        self.held = self.again = False
        self.ended.clear()
        self.passed.clear()


@cython.final
cdef class KeyedTrack:
    """What track(key=…) returns: iterates with a checkpoint before each item, and keeps its place through a reload."""

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
    cdef object raised  # the exception that is unwinding the loop's frame

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
            the_worker.take_slow_path(
                step, True, (ITEM_YIELDED if self.given else 0) | (BODY_DONE if came_round else 0)
            )
        if place.again:
            # The end of this body says nothing of the new code: the loops within it may all be at their ends.
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
        """A dictionary for sums over the loop's items. It is empty when the loop begins, survives a reload, and is
        still here when the loop has ended."""
        return self.last_kept if self.place is None else self.place.kept

    @property
    def done(self) -> int:
        """The number of items yielded, those before a reload included."""
        return self.handed if self.place is None else self.place.handed

    @property
    def index(self) -> int:
        """The number of the last item yielded, from 0; -1 before the first. It counts on through a reload."""
        return <int64_t>(self.handed if self.place is None else self.place.handed) - 1

    cdef int leave(self, object error) except -1:
        cdef Place place = self.place
        if place is None:
            return 0
        self.place = None
        self.handed = place.handed
        self.last_kept = place.kept
        if place.owner is None:  # the loop had ended before: see pass_over()
            place.hide()
        elif place.owner == id(self):
            place.hide()
            self.left(place, error, self.raised)
        return 0

    def __del__(self):
        self.leave(None)


# A `for` loop releases its iterator when a `break` leaves it, and also while an exception unwinds its frame. Only the
# finalizer's caller can tell the two apart: Cython puts the exception aside before __del__ runs.
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
    """What checkpoint_async() returns: passes a checkpoint when it is awaited. One object serves all calls."""

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
