"""The checkpoint for asyncio loops."""

from collections.abc import Awaitable

from spark_fast._core import AsyncCheckpoint, worker
from spark_fast.worker.slow_path.checkpoint import enter_checkpoint, note_stop

__all__ = ["checkpoint_async"]


# Importing asyncio takes longer than importing the rest of the package, so only the functions that need it do so.


_NAP = 0.05
"""Seconds between two checks of a parked task that can't wait in a thread."""


async def _trip() -> None:
    """Let the event loop run its other tasks once."""
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
            # While the run is paused, a thread of the executor waits, so that the loop's other tasks run on. The wait
            # has a limit: if the executor has no free thread, the tasks that hold its threads may wait for this task.
            limit = hold.timeout()
            try:
                waiting = loop.run_in_executor(None, worker.wait, limit)
            except RuntimeError:  # the executor was shut down, or the system can't start a thread
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
    """Pass a checkpoint in an asyncio loop, with `await checkpoint_async()`. While the task is parked, the event loop's
    other tasks run on.

    If no request is due, it costs about as much as `checkpoint()`. It yields to the event loop only once in each
    `configure(async_yield_interval=…)`, 10 ms by default, so that a tight loop starves no other task. Awaiting it
    counts the step. Pause hooks run in the event loop's thread. A task that is cancelled while it is parked ends at
    once; a thread of the loop's default executor then waits on for up to a second.

    Raises what `checkpoint()` raises.
    """
    return _checkpoint
