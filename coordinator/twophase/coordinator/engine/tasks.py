"""The engine's own tasks: they outlive the calls that caused them (R13), and none fails unseen.

Lives here: starting and ending them. Must not live here: what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """A set of running tasks. The first one that fails sets `failed`: then the process must end and recover (R10)."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._cancelled = False
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Starts `work` now; its exception, if it ends by one, is the engine's. After `cancel` none of it is done."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        if self._cancelled:
            task.cancel()  # a deadline that passes after the end, say: nobody may hear of it any more
        self._running.add(task)
        task.add_done_callback(self._done)
        return task

    def fail(self, error: BaseException) -> None:
        """Reports a failure that has no task of its own."""
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # it is seen, also if nobody awaits it

    async def cancel(self) -> None:
        """Cancels what is left, and what is started from now on, and waits until the former is over."""
        self._cancelled = True
        running = tuple(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
