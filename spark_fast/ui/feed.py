"""Events for any number of pages, each made and turned into JSON once."""

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["Feed"]

_KEPT = 16
"""Events that are kept for pages that are behind; one that is further behind is told everything anew."""


class Feed:
    """What has changed, as numbered events.

    Nothing is queued for a page: it asks for what came after the last event that it has sent. So one on a slow line
    costs no memory, and skips what it has missed.

    name: of its events.
    whole: gives everything as JSON, for a page that begins, or was too slow.
    """

    def __init__(self, name: str, whole: Callable[[], str]) -> None:
        self._name = name
        self._whole = whole
        self._number = 0
        self._events: deque[tuple[int, bytes]] = deque(maxlen=_KEPT)
        self.bells: set[asyncio.Event] = set()

    @property
    def watched(self) -> bool:
        """Whether there is a page."""
        return bool(self.bells)

    def publish(self, text: str) -> None:
        """One more event."""
        self._number += 1
        self._events.append((self._number, self._framed(text)))
        self.ring()

    def ring(self) -> None:
        """Wakes all pages."""
        for bell in self.bells:
            bell.set()

    @property
    def begun(self) -> bool:
        """Whether there was an event. Before the first there is nothing to tell, not even everything."""
        return self._number > 0

    def since(self, number: int | None) -> tuple[int | None, bytes]:
        """What came after this event, framed to be sent, and the number of the last; None for everything."""
        if number == self._number or not self.begun:
            return number, b""
        if number is None or not self._events or self._events[0][0] > number + 1:
            return self._number, self._framed(self._whole())
        return self._number, b"".join(event for at, event in self._events if at > number)

    def _framed(self, text: str) -> bytes:
        return f"event: {self._name}\nid: {self._number}\ndata: {text}\n\n".encode()
