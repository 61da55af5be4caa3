"""When a frame leaves.

Lives here: that one rule, for both halves. Must not live here: what is in a frame.

One frame is under way at a time. What is ready leaves at once while few others are expected on the stream: who is alone
waits for nobody. Where several are, it stays for a moment, and what is ready by then leaves with it. A frame costs as
much processor time as ten calls in it do, and where many are under way that time is what they wait for: so the more
there are, the longer it stays.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

COMPANY: Final = 4
"""From how many calls on that others are to be expected soon."""

LINGER_SECONDS: Final = 0.00025
"""How long a frame stays for each call that may have something to add."""

LONGEST_SECONDS: Final = 0.005
"""How long at most."""


class Departures:
    """Calls `send` for each frame, in a task; it returns True if something is left that was ready. `company` says how
    many calls may soon have something to add."""

    def __init__(self, send: Callable[[], Coroutine[Any, Any, bool]], company: Callable[[], int]) -> None:
        self._loop = asyncio.get_running_loop()
        self._send = send
        self._company = company
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None

    @property
    def due(self) -> bool:
        """Whether a frame is under way, or will be."""
        return self._sender is not None or self._timer is not None

    def ready(self) -> None:
        """Something is ready."""
        if self._sender is not None:
            return
        company = self._company()
        if company < COMPANY:
            self._leave()
        elif self._timer is None:
            self._timer = self._loop.call_later(min(LINGER_SECONDS * company, LONGEST_SECONDS), self._leave)

    async def now(self) -> None:
        """Sends what is ready, and returns when that frame has left."""
        if self._sender is None:
            self._leave()
        if self._sender is not None:
            await asyncio.wait((self._sender,))

    def stop(self) -> None:
        """Nothing leaves any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sender is not None:
            self._sender.cancel()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._sender = self._loop.create_task(self._send_one())

    async def _send_one(self) -> None:
        left = False
        try:
            left = await self._send()
        finally:
            self._sender = None
        if left:
            self.ready()
