"""Shows exposed tensors of one element, from any library whose tensors have `item()`, without importing the library.

A tensor in the host's memory is read at once. A tensor on an accelerator is copied only while a controller reads the
values, a few times a second. The copy goes into pinned memory, with an event behind it. A later assignment takes the
number once the event shows that the copy is complete. So the training never waits for a display.
"""

import sys
import time
from typing import Any

from spark_fast import _core, stderr
from spark_fast._core import Exposed

__all__ = ["assign", "detached", "is_tensor"]

_LOOKED = 3.0
"""Seconds after a controller's last reading of the values for which copies are still made."""
_APART = 0.25
"""Seconds between two copies of one value."""


class _Copy:
    """A copy of one number to the host."""

    def __init__(self, tensor: Any) -> None:
        torch = sys.modules["torch"]
        self.device = tensor.device
        self._host = torch.empty((), dtype=tensor.dtype, pin_memory=True)
        self._event = torch.Event(tensor.device.type)
        self._stream_of = torch.accelerator.current_stream
        self.began = 0.0
        self.pending = False

    def begin(self, tensor: Any) -> None:
        self._host.copy_(tensor.reshape(()), non_blocking=True)
        # In the copy's stream. The default is a stream of the current device, which may be another device.
        self._event.record(self._stream_of(self.device))
        self.began = time.monotonic()
        self.pending = True

    def take(self) -> float | None:
        """Return the number, only once, if the copy is complete; else None."""
        if not self.pending or not self._event.query():
            return None
        self.pending = False
        return float(self._host.item())


_copies: dict[str, _Copy] = {}
_given_up: set[str] = set()


def is_tensor(found: object) -> bool:
    """Return whether the object holds numbers as tensors and arrays do, and is no plain value."""
    return not isinstance(found, (bool, int, float, str, dict, list, tuple)) and callable(getattr(found, "item", None))


def detached(name: str, found: Any) -> Any:
    """Return the tensor without its computation graph. Raises TypeError if it has more than one element."""
    detach = getattr(found, "detach", None)
    if callable(detach):
        found = detach()
    size = found.numel() if callable(getattr(found, "numel", None)) else getattr(found, "size", 1)
    if size != 1:
        raise TypeError(f"{name}: a tensor that is exposed has one element, not {size}")
    return found


def assign(it: Exposed, found: Any) -> object:
    """Put the number of a tensor on the board, now or later; return the tensor without its computation graph.

    Raises TypeError if the tensor has more than one element, or its element is no number.
    """
    found = detached(it.name, found)
    if it.index < 0:
        return found
    if _on_host(found):
        number = found.item()
        _put(it, number if isinstance(number, int) else float(number))
    elif it.name not in _given_up:
        try:
            _follow(it, found)
        except Exception as error:  # an accelerator without events or pinned memory: the training goes on
            _given_up.add(it.name)
            stderr.warn_of(f"the exposed tensor {it.name} can't be shown: copying it raised", error)
    return found


def _on_host(found: Any) -> bool:
    device = getattr(found, "device", "cpu")
    return "cpu" in (device, getattr(device, "type", None), getattr(device, "platform", None))


def _follow(it: Exposed, tensor: Any) -> None:
    copy = _copies.get(it.name)
    if copy is not None:
        number = copy.take()
        if number is not None:
            _put(it, number)
        if copy.pending or time.monotonic() - copy.began < _APART:
            return
    if not _core.board_watched(_LOOKED):
        return
    if copy is None or copy.device != tensor.device:
        copy = _copies[it.name] = _Copy(tensor)
    copy.begin(tensor)


def _put(it: Exposed, number: float) -> None:
    _core.board_put_number(it.index, number)
