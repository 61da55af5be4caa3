"""What runs in this process: whoever asks for it again joins it, and it can be told to stop.

Lives here: what is done to which branch, by its future answer. Must not live here: what they do (`resource`),
how business code is stopped (`lanes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias, TypeVar

from twophase.contract.names import Gid
from twophase.participant.lanes import Run
from twophase.participant.terms import Branch
from twophase.v1 import types_pb2

_T = TypeVar("_T")

Kind: TypeAlias = types_pb2.BranchKind.ValueType
Key: TypeAlias = tuple[str, Gid, Kind]

# In seconds: how long whoever must see a branch stopped waits for it.
_STOPPING: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Running:
    terms: Branch
    answer: asyncio.Future[Any]
    runs: set[Run]
    waiting: list[asyncio.Future[Any]] = field(default_factory=list)

    def tell(self) -> None:
        """Passes the answer on to everyone who still waits for it."""
        for waiter in self.waiting:
            if waiter.done():
                continue
            if self.answer.cancelled():
                waiter.cancel()
            elif (error := self.answer.exception()) is not None:
                waiter.set_exception(error)
            else:
                waiter.set_result(self.answer.result())


class RunningBranches:
    """Work that goes on when those who wait for it are cancelled."""

    def __init__(self) -> None:
        self._running: dict[Key, _Running] = {}
        self._answers: set[asyncio.Future[Any]] = set()

    def join(
        self, key: Key, terms: Branch, start: Callable[[set[Run]], asyncio.Future[_T] | Coroutine[Any, Any, _T]]
    ) -> asyncio.Future[_T]:
        """The answer of what runs under `key`, started if there is nothing. Whoever cancels it stops nothing.

        Raises what `start` raises.
        """
        running = self._running.get(key)
        if running is None:
            runs: set[Run] = set()
            answer = asyncio.ensure_future(start(runs))
            running = self._running[key] = _Running(terms, answer, runs)
            self._answers.add(answer)
            answer.add_done_callback(partial(self._forget, key))
        waiter: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
        running.waiting.append(waiter)
        return waiter

    async def stop(self, gid: Gid, kind: Kind) -> None:
        """Tells what runs of a branch to stop, and waits a moment until it has."""
        found = [self._running.get((verb, gid, kind)) for verb in ("prepare", "apply")]
        answers = []
        for running in found:
            if running is not None:
                running.terms.halt.requested = True
                for run in tuple(running.runs):
                    run.stop()
                answers.append(running.answer)
        if answers:
            await asyncio.wait(answers, timeout=_STOPPING)

    async def shielded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Does something to its end, whoever stops waiting for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._answers.add(task)
        task.add_done_callback(partial(self._forget, None))
        return await asyncio.shield(task)

    async def ended(self) -> None:
        """Waits until nothing runs any more."""
        while self._answers:
            await asyncio.wait(self._answers)

    def _forget(self, key: Key | None, answer: asyncio.Future[Any]) -> None:
        self._answers.discard(answer)
        if key is not None:
            self._running.pop(key).tell()
        if not answer.cancelled():
            answer.exception()  # looked at, so that asyncio does not report what a cancelled caller never heard
