# The board: exposed values as the script assigns them, and as a controller reads them.

@cython.final
cdef class Exposed:
    """One exposed value: what the script reads and assigns, and its cell on the board."""

    cdef readonly str name
    cdef public object value
    cdef public int index
    cdef public int kind
    cdef public bint fast

    def __cinit__(self, name: str, value):
        self.name = name
        self.value = value
        self.index = -1
        self.kind = 0  # of the numbers that it takes: SF_FLOAT, SF_INTEGER or SF_BOOLEAN
        self.fast = False  # whether a number of this kind goes to the board without further checks


cdef object missing = object()


@cython.final
cdef class State:
    """What expose() returns: the exposed values as attributes. See spark_fast/worker/state/registry.py.

    Assigning a number costs some tens of nanoseconds, reading one as much as an attribute.
    """

    cdef dict found
    cdef object assign

    def __cinit__(self, found: dict, assign):
        self.found = found
        self.assign = assign

    @cython.critical_section  # as __setattr__: another thread may replace the value while it is read
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
            sf_board_put_number((<Exposed>it).index, SF_FLOAT, bits, number, sf_step(sf_process_counter))
            return 0
        if type(value) is int and kind != SF_BOOLEAN:
            whole = PyLong_AsLongLongAndOverflow(value, &overflow)
            if not overflow:
                (<Exposed>it).value = value
                sf_board_put_number((<Exposed>it).index, SF_INTEGER, <uint64_t>whole, <double>whole,
                                    sf_step(sf_process_counter))
                return 0
        elif type(value) is bool and kind == SF_BOOLEAN:
            whole = value
            (<Exposed>it).value = value
            sf_board_put_number((<Exposed>it).index, SF_BOOLEAN, <uint64_t>whole, <double>whole,
                                sf_step(sf_process_counter))
            return 0
    state.assign(name, it, value)
    return 0


cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1


def board_create(path) -> None:
    """Make the board of this process. Raises OSError if it can't be made."""
    cdef bytes encoded = os.fsencode(path)
    cdef int rc = sf_board_create(encoded)
    if rc < 0:
        fail(rc, "board", encoded)


def board_add() -> int:
    """Add a cell to the board; return its index. Raises OSError if all are in use."""
    cdef int rc = sf_board_add()
    if rc == -ENOSPC:
        raise OSError(ENOSPC, f"it has no more than {SF_BOARD_CELLS} values")
    if rc < 0:
        fail(rc, "board", None)
    return rc


def board_keep_history(index: int) -> None:
    """Have the cell keep the history of its numbers. Raises OSError if there is no room."""
    cdef int rc = sf_board_keep_history(index)
    if rc < 0:
        fail(rc, "board", None)


def board_put_number(index: int, value) -> None:
    """Put a number into a cell and its history: a bool, an int of 64 bits, or anything that float() takes."""
    cdef double number
    cdef int64_t whole
    cdef uint64_t bits
    if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
        whole = value
        sf_board_put_number(index, SF_BOOLEAN if isinstance(value, bool) else SF_INTEGER, <uint64_t>whole,
                            <double>whole, sf_step(sf_process_counter))
        return
    number = value
    memcpy(&bits, &number, sizeof(bits))
    sf_board_put_number(index, SF_FLOAT, bits, number, sf_step(sf_process_counter))


def board_put_text(index: int, text: bytes) -> None:
    """Put a JSON text into a cell. Raises OSError if there is no room for it."""
    cdef int rc = sf_board_put_text(index, text, len(text), sf_step(sf_process_counter))
    if rc < 0:
        fail(rc, "board", None)


def board_described() -> None:
    """Publish that the description of the values was rewritten."""
    sf_board_described()


def board_watched(within: float) -> bool:
    """Return whether a process has called touch_board() within the last `within` seconds."""
    return sf_board_watched(to_ns(within)) != 0


def board_forget() -> None:
    """End the writing of the board in this process."""
    sf_board_forget()


def read_board(fd: int) -> tuple[int, int, int]:
    """Return the header of a board: the number of cells, of changes of the description, and of changes of values."""
    cdef sf_board_view view
    cdef int rc = sf_board_read(fd, &view)
    if rc < 0:
        fail(rc, "read", None)
    return view.cells, view.descriptions, view.changes


def read_cells(fd: int, count: int) -> list[tuple[object, int, float]]:
    """Return the first cells of a board: of each its value, step and time. A text comes as bytes, an empty cell as
    None."""
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
    """Return the history of a cell: steps, times, last, low, high and mean values, oldest first. Where no value was
    finite, low, high and mean are NaN."""
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
    """Note on a board that it is shown to a person."""
    cdef int rc = sf_board_touch(fd)
    if rc < 0:
        fail(rc, "write", None)
