"""Trying again: a saga's step, or its compensation, until it is answered for good.

Lives here: the pauses, and waking whoever is in one. Must not live here: what is tried, and what its failures mean
(`saga`), and trying again what was not answered at all (`underway`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from twophase.coordinator.engine.policies import Policy
from twophase.coordinator.journal.events import Reason

T = TypeVar("T")


class NotThisTime(Exception):
    """The participant answered that the work, or the compensation, was refused and left no row; or with a status, where
    nothing but repeating is left."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


def going_on(failed: Exception, once: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """`once`, of which the first call has been made and raised `failed`. For what is to be tried again: to set that up
    costs more than most calls, so it is done only for those that failed."""
    first = [failed]

    async def again() -> T:
        if first:
            raise first.pop()
        return await once()

    return again


@dataclass(eq=False, slots=True)
class Trying:
    """What is being tried about a step: how often it failed, whether a person was told of that, and how to wake it
    between two attempts."""

    failures: int = 0
    told: bool = False
    again: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def persist(
        self,
        policy: Callable[[], Policy],
        once: Callable[[], Awaitable[T]],
        failed: Callable[[int, BaseException], None],
        *,
        for_ever: bool,
    ) -> T:
        """Repeats `once` while it raises `NotThisTime`, for ever or as often as the policy says; then the last one is
        raised. `failed` hears of each, with the number of those in a row. What the policy says is asked each time: it
        may be known only since the participant answered, and be another one once that is deployed anew."""
        try:
            return await once()
        except NotThisTime as error:
            again = going_on(error, once)

        def count(call: RetryCallState) -> None:
            error = call.outcome.exception() if call.outcome is not None else None
            if isinstance(error, NotThisTime):
                self.failures += 1
                failed(self.failures, error)

        retrying = AsyncRetrying(
            sleep=self._pause,
            retry=retry_if_exception_type(NotThisTime),
            stop=lambda call: not for_ever and call.attempt_number >= policy().attempts,
            wait=partial(_pause_after, policy),
            after=count,
            reraise=True,
        )
        return await retrying(again)

    async def _pause(self, seconds: float) -> None:
        self.again.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.again.wait()


def _pause_after(policy: Callable[[], Policy], call: RetryCallState) -> float:
    now = policy()
    return wait_random_exponential(multiplier=now.first_pause, max=now.longest_pause)(call)
