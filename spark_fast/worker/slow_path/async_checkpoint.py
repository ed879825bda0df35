"""The checkpoint for asyncio loops."""

from collections.abc import Awaitable

from spark_fast._core import AsyncCheckpoint, worker
from spark_fast.worker.slow_path.checkpoint import enter_checkpoint, note_stop

__all__ = ["checkpoint_async"]


# asyncio takes longer to import than all the rest together, so only the functions that need it import it.


_NAP = 0.05
"""Seconds between two looks of a parked task that can't wait in a thread."""


async def _trip() -> None:
    import asyncio

    await asyncio.sleep(0)


async def _slow(step: int) -> None:
    try:
        await _park(step)
    except BaseException as error:
        note_stop(error)
        raise


async def _park(step: int) -> None:
    import asyncio

    hold = enter_checkpoint(step, True, None)
    if hold is None:
        return
    loop = asyncio.get_running_loop()
    try:
        hold.begin()
        while hold.should_wait():
            # The loop's other tasks run on. A thread of the executor waits, and only while the run is paused. If the
            # executor has no thread left, the tasks that have them may wait for this very task.
            limit = hold.timeout()
            try:
                waiting = loop.run_in_executor(None, worker.wait, limit)
            except RuntimeError:  # it was shut down, or the system gives no thread
                await asyncio.sleep(min(limit, _NAP))
                continue
            try:
                await asyncio.wait([waiting], timeout=limit)
            finally:
                waiting.cancel()
    finally:
        hold.end()


_checkpoint = AsyncCheckpoint(_slow, _trip)


def checkpoint_async() -> Awaitable[None]:
    """Pass a checkpoint in an asyncio loop, by `await checkpoint_async()`. While it is parked, the event loop's other
    tasks run on.

    Idle it costs about as much as `checkpoint()` and takes no trip through the event loop, but for one after each
    `configure(async_yield_interval=…)`, 10 ms by default, so that a tight loop starves no other task. The step counts
    when it is awaited. Pause hooks run in the event loop's thread. A task that is cancelled while it is parked ends at
    once; a thread of the loop's default executor then waits on for up to a second.

    Raises what `checkpoint()` raises.
    """
    return _checkpoint
