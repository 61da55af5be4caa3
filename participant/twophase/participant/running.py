"""What runs in this process: whoever asks for it again joins it, and it can be told to stop.

Lives here: the tasks that work on branches, by what they do to which. Must not live here: what they do (`resource`),
how business code is stopped (`lanes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
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
    task: asyncio.Task[Any]
    runs: set[Run]


class RunningBranches:
    """Tasks that go on when those who wait for them are cancelled."""

    def __init__(self) -> None:
        self._running: dict[Key, _Running] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    async def join(self, key: Key, terms: Branch, start: Callable[[set[Run]], Coroutine[Any, Any, _T]]) -> _T:
        """The answer of the call that runs under `key`, started if there is none."""
        running = self._running.get(key)
        if running is None:
            runs: set[Run] = set()
            task = self._task(start(runs))
            running = self._running[key] = _Running(terms, task, runs)
            task.add_done_callback(lambda _: self._running.pop(key, None))
        answer: _T = await asyncio.shield(running.task)
        return answer

    async def stop(self, gid: Gid, kind: Kind) -> None:
        """Tells what runs of a branch to stop, and waits a moment until it has."""
        found = [self._running.get((verb, gid, kind)) for verb in ("prepare", "apply")]
        tasks = []
        for running in found:
            if running is not None:
                running.terms.halt.requested = True
                for run in tuple(running.runs):
                    run.stop()
                tasks.append(running.task)
        if tasks:
            await asyncio.wait(tasks, timeout=_STOPPING)

    async def shielded(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Does something to its end, whoever stops waiting for it."""
        return await asyncio.shield(self._task(work))

    async def ended(self) -> None:
        """Waits until nothing runs any more."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _task(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that asyncio does not report what a cancelled caller never heard
