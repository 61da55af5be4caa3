"""The engine's own tasks: they outlive the calls that caused them (R13), and none fails unseen.

Lives here: starting and ending them, and calling whoever is to hear of an answer or a deadline. Must not live here:
what they do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Tasks:
    """What is under way. The first of it that fails sets `failed`: then the process must end and recover (R10)."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._running: dict[asyncio.Future[Any], None] = {}  # cancelled in the order in which it was started
        self._cancelled = False
        self.failed: asyncio.Future[None] = self._loop.create_future()

    def spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        """Starts `work` now; its exception, if it ends by one, is the engine's. After `cancel` none of it is done."""
        task = self._loop.create_task(work, name=name)
        if self._cancelled:
            task.cancel()  # nobody may hear of it any more
        self._running[task] = None
        task.add_done_callback(self._ended)
        return task

    def follow(self, awaited: Awaitable[T], then: Callable[[asyncio.Future[T]], None]) -> asyncio.Future[T]:
        """Calls `then` with what is awaited when that is done, unless it was cancelled. An exception that `then` raises
        is the engine's. What is a future already costs no task. After `cancel` nothing is called any more."""
        future = asyncio.ensure_future(awaited)
        if self._cancelled:
            future.cancel()
        self._running[future] = None
        future.add_done_callback(partial(self._done, then))
        return future

    def later(self, seconds: float, work: Callable[[], None]) -> asyncio.TimerHandle:
        """Calls `work` in so many seconds, unless everything is cancelled by then. Its exception is the engine's."""
        return self._loop.call_later(seconds, self._carry_out, work)

    def fail(self, error: BaseException) -> None:
        """Reports a failure."""
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # it is seen, also if nobody awaits it

    async def cancel(self) -> None:
        """Cancels what is left, and what is started from now on, and waits until the former is over."""
        self._cancelled = True
        running = tuple(self._running)
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def _done(self, then: Callable[[asyncio.Future[T]], None], future: asyncio.Future[T]) -> None:
        del self._running[future]
        if future.cancelled():
            return
        future.exception()  # it is seen, also if nobody may hear of it any more
        self._carry_out(then, future)

    def _carry_out(self, work: Callable[P, None], *arguments: P.args, **named: P.kwargs) -> None:
        if self._cancelled:
            return
        try:
            work(*arguments, **named)
        except Exception as error:  # noqa: BLE001 - whatever it is, only a new start knows where things stand (R10)
            self.fail(error)
