"""Events for any number of pages, each made and turned into JSON once."""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Feed"]

_KEPT = 16
"""How many events are kept for pages that are behind. A page that is further behind gets the whole state again."""


class Feed:
    """Publishes changes as numbered events.

    No event is queued for a page: the page asks for the events after the last one that it got. So a page on a slow line
    costs no memory, and skips the events that it has missed.

    name: the name of the events.
    whole: returns the whole state as JSON, for a page that begins or is too far behind.
    """

    def __init__(self, name: str, whole: Callable[[], str]) -> None:
        self._name = name
        self._whole = whole
        self._number = 0
        self._events: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self.bells: set[asyncio.Event] = set()

    @property
    def watched(self) -> bool:
        """Whether a page takes the events."""
        return bool(self.bells)

    def publish(self, text: str) -> None:
        """Add an event with this JSON, and wake all pages."""
        self._number += 1
        self._events.append((self._number, self._framed(text)))
        self.ring()

    def ring(self) -> None:
        """Wake all pages."""
        for bell in self.bells:
            bell.set()

    @property
    def begun(self) -> bool:
        """Whether there was an event. Before the first one a page gets nothing, not even the whole state."""
        return self._number > 0

    def since(self, number: int | None) -> tuple[int | None, bytes]:
        """Return the number of the last event, and the events after number `number`, framed to be sent.

        number: None for the whole state.
        """
        if number == self._number or not self.begun:
            return number, b""
        if number is None or not self._events or self._events[0][0] > number + 1:
            return self._number, self._framed(self._whole())
        return self._number, b"".join(event for at, event in self._events if at > number)

    def _framed(self, text: str) -> bytes:
        return f"event: {self._name}\nid: {self._number}\ndata: {text}\n\n".encode()
