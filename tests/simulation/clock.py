"""Virtual time: an event loop whose clock jumps to the next timer as soon as nothing else is to be done.

Lives here: the loop, and running one coroutine in it. Must not live here: anything that is simulated.

Nothing waits, so an hour passes in a moment; and what happens when depends on the seed alone.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stuck(Exception):
    """Nothing will ever happen any more, and the simulation has not ended."""


class _Timeless(selectors.SelectSelector):
    """Never waits; says instead how long it would have waited."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck("everybody waits, and for nobody")
        self.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Starts at time 0. Signals, sockets and threads are out of its world."""

    def __init__(self) -> None:
        self._timeless = _Timeless()
        super().__init__(self._timeless)

    def time(self) -> float:
        """Seconds since the start."""
        return self._timeless.now


def run(work: Coroutine[Any, Any, T], *, seed: int) -> T:
    """Runs `work` to its end in a world of its own. Raises `Stuck`, and whatever `work` raises."""
    random.seed(seed)  # the pauses of the engine are random, too
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
