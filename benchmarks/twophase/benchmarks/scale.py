"""The run of `twophase bench scale`: many participants, many transactions at once, a long history.

Lives here: the processes, and what is done with them. Must not live here: what the figures come to (`scale_values`).

The coordinator is the real one, a process of its own with a journal on the disk. The participants have no database
behind them (`without_database`), so that what is measured is the coordinator, over the real wire.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from twophase.benchmarks import resident
from twophase.benchmarks.history import multiply
from twophase.benchmarks.parts import Part
from twophase.benchmarks.revision import revision
from twophase.benchmarks.scale_values import FanOut, FanOuts, Memory, Sample, Scale, Sizes, Starts
from twophase.benchmarks.without_database import OPERATION, addresses_in, arguments
from twophase.coordinator.client import AsyncClient, Committed, Operation, Wait, operation
from twophase.sandbox.drill.setting import setting_here
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.processes import Program

_PARTICIPANTS: Final = (sys.executable, "-m", "twophase.benchmarks.without_database")
_SWIFT: Final = "swift"
_PAIR: Final = ("left", "right")
# Enough that they are not what is waited for; more would take turns on the processors with the coordinator.
_PROCESSES: Final = 2
_DEADLINE: Final = 60.0
_SAMPLE_SECONDS: Final = 0.25
_STEPS: Final = 10  # how often the progress of a long run is told

Progress = Callable[[str], None]
"""Is told what is done now."""


async def run_scale(sizes: Sizes, parts: Collection[Part], guardian: Guardian, progress: Progress) -> Scale:
    """Measures what is asked for, one after the other. Raises `SandboxError` if a process fails."""
    setting, measured, before = setting_here(), await asyncio.to_thread(revision), os.getloadavg()
    fan_outs = await _fan_outs(sizes, guardian, progress) if Part.FAN_OUT in parts else None
    memory = await _memory(sizes, guardian, progress) if Part.MEMORY in parts else None
    starts = await _starts(sizes, guardian, progress) if Part.START in parts else []
    return Scale(sizes, setting, fan_outs, memory, starts, {"before": before, "after": os.getloadavg()}, measured)


class _Site:
    """Participants, and coordinators on one journal or another: one at a time, all at the same address."""

    def __init__(self, guardian: Guardian) -> None:
        self.directory: Final = guardian.directory()
        self.journal = self.directory / "journal"
        self.coordinator: Final = Program(
            "coordinator",
            lambda listen: ["serve", "--journal", str(self.journal), "--listen", listen],
            guardian=guardian,
            directory=self.directory,
        )
        self._guardian = guardian

    @asynccontextmanager
    async def serving(self, delays: Mapping[str, float]) -> AsyncIterator[AsyncClient]:
        """While the block runs, there are these participants (by name their delays, in seconds), and at its begin a
        coordinator that knows them."""
        async with AsyncExitStack() as stack:
            await self._start(stack, self.coordinator)
            client = await stack.enter_async_context(AsyncClient(self.coordinator.address))
            for number in range(min(_PROCESSES, len(delays))):
                share = dict(itertools.islice(delays.items(), number, None, _PROCESSES))
                await self._serve(stack, client, f"participants-{number}", share)
            yield client

    async def _serve(
        self, stack: AsyncExitStack, client: AsyncClient, process: str, delays: Mapping[str, float]
    ) -> None:
        program = Program(
            process,
            lambda listen: arguments(listen, delays),
            guardian=self._guardian,
            directory=self.directory,
            executable=_PARTICIPANTS,
        )
        await self._start(stack, program)
        for name, address in addresses_in(program.output).items():
            await client.register(name, address)

    @staticmethod
    async def _start(stack: AsyncExitStack, program: Program) -> None:
        await program.start()
        stack.push_async_callback(program.kill)


def _write(*names: str) -> tuple[Operation, ...]:
    return tuple(operation(name, OPERATION, 1) for name in names)


async def _seconds(work: Awaitable[Committed]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def _fan_outs(sizes: Sizes, guardian: Guardian, progress: Progress) -> FanOuts:
    progress(f"starting {sizes.participants} participants that answer after {1000 * sizes.delay:g} ms")
    slow = [f"slow-{number}" for number in range(sizes.participants)]
    lone, one, everyone = _write(slow[0]), _write(slow[0], _SWIFT), _write(*slow)
    kinds = {
        "one participant, in one phase": (lone, Wait.APPLIED),
        "one participant, and one without delay": (one, Wait.APPLIED),
        f"{len(slow)} participants": (everyone, Wait.APPLIED),
        "one participant, decided": (lone, Wait.DECIDED),
        f"{len(slow)} participants, decided": (everyone, Wait.DECIDED),
    }
    taken: dict[str, list[float]] = {what: [] for what in kinds}
    async with _Site(guardian).serving(dict.fromkeys(slow, sizes.delay) | {_SWIFT: 0.0}) as client:
        for operations, wait in kinds.values():
            await client.execute(*operations, wait=wait)  # to warm up
        for number in range(sizes.repeats):
            progress(f"fan-out: repetition {number + 1} of {sizes.repeats}")
            for what, (operations, wait) in kinds.items():
                taken[what].append(1000 * await _seconds(client.execute(*operations, wait=wait)))
                # What is decided may still have its second phase before it.
                await asyncio.sleep(2 * sizes.delay)
    return FanOuts(len(slow), *(FanOut(what, tuple(latencies)) for what, latencies in taken.items()))


async def _memory(sizes: Sizes, guardian: Guardian, progress: Progress) -> Memory:
    site = _Site(guardian)
    async with site.serving(dict.fromkeys(_PAIR, 0.0)) as client:
        pid = site.coordinator.pid
        idle = resident.now_mb(pid)
        progress(f"warming up with {sizes.warm_up:,} transactions, {sizes.concurrent:,} at the same time")
        whole = sizes.warm_up + sizes.transactions
        samples: list[Sample] = []
        begun, done = itertools.count(1), 0
        first_sample = 0.0

        async def clients() -> None:
            nonlocal done
            while next(begun) <= whole:
                await client.execute(*_write(*_PAIR), deadline=_DEADLINE)
                done += 1
                if not done % max(1, whole // _STEPS):
                    progress(f"memory: {done:,} of {whole:,} transactions")

        async def watch() -> None:
            while True:
                if done >= sizes.warm_up:
                    samples.append(Sample(done - sizes.warm_up, resident.now_mb(pid)))
                await asyncio.sleep(_SAMPLE_SECONDS)

        watching = asyncio.create_task(watch())
        try:
            first_sample = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for _ in range(sizes.concurrent):
                    group.create_task(clients())
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        samples.append(Sample(done - sizes.warm_up, resident.now_mb(pid)))
        return Memory(
            concurrent=sizes.concurrent,
            warm_up=sizes.warm_up,
            transactions=sizes.transactions,
            idle_mb=idle,
            peak_mb=resident.peak_mb(pid),
            samples=tuple(samples),
            seconds=time.perf_counter() - first_sample,
        )


async def _starts(sizes: Sizes, guardian: Guardian, progress: Progress) -> list[Starts]:
    site = _Site(guardian)
    async with site.serving(dict.fromkeys(_PAIR, 0.0)) as client:
        await site.coordinator.stop()
        empty = site.directory / "of-0"
        shutil.copy(site.journal, empty)
        site.journal = site.directory / "of-1"
        shutil.copy(empty, site.journal)
        await site.coordinator.start()
        await client.execute(*_write(*_PAIR))
        await site.coordinator.stop()
        journals = {0: empty}
        for ended in sorted(sizes.ended):
            progress(f"writing a journal of {ended:,} ended transactions")
            journals[ended] = site.directory / f"of-{ended}-made"
            shutil.copy(site.journal, journals[ended])
            await _multiply(journals[ended], ended - 1)
        taken: dict[int, list[tuple[float, float]]] = {ended: [] for ended in journals}
        for number, ended in _in_turn(list(journals), sizes.starts):
            progress(f"start {number + 1} of {sizes.starts}, {ended:,} ended transactions")
            site.journal = journals[ended]
            taken[ended].append(await _start(site))
    return [
        Starts(
            ended,
            journals[ended].stat().st_size / 1e6,
            tuple(ready for ready, _ in times),
            tuple(committed for _, committed in times),
        )
        for ended, times in taken.items()
    ]


async def _multiply(journal: Path, copies: int) -> None:
    """A thread cannot be cancelled: it is told."""
    given_up = threading.Event()
    try:
        await asyncio.to_thread(multiply, journal, copies, given_up=given_up.is_set)
    finally:
        given_up.set()


def _in_turn(lengths: list[int], times: int) -> Iterator[tuple[int, int]]:
    """Everyone once before anyone again, and nobody always first."""
    for number in range(times):
        first = number % len(lengths)
        for ended in lengths[first:] + lengths[:first]:
            yield number, ended


async def _start(site: _Site) -> tuple[float, float]:
    """Seconds until it is ready, and until it has committed something; both from its start."""
    began = time.perf_counter()
    await site.coordinator.start()
    ready = time.perf_counter() - began
    async with AsyncClient(site.coordinator.address) as client:
        await client.execute(*_write(*_PAIR))
        committed = time.perf_counter() - began
    await site.coordinator.stop()
    return ready, committed
