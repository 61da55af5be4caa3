"""The drills with a second coordinator that stands by: the first one is killed, or frozen and then woken up.

Lives here: who is frozen or killed when, and who must have taken over. Must not live here: how a standby decides that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from twophase.sandbox.drill.stage import COORDINATOR, NotHit, Skipped, Stage
from twophase.sandbox.drill.values import Drill
from twophase.sandbox.processes import Program

_AFTER: Final = 1.0
_TAKEOVER_SECONDS: Final = 20.0
_AT_WORK: Final = 0.5
_POLL: Final = 0.005
_READY: Final = "is ready on"


async def _killed(stage: Stage) -> None:
    async with _standing_by(stage, 1) as standbys:
        await stage.program(COORDINATOR).kill()
        await _takeover(stage, standbys)
    await stage.revive(COORDINATOR)


async def _frozen(stage: Stage) -> None:
    async with _standing_by(stage, 1) as standbys:
        await _freeze(stage, standbys)
    await stage.revive(COORDINATOR)


async def _two_standbys(stage: Stage) -> None:
    """The first is frozen; of the two that stand by, one takes over, and is killed; then the other one does."""
    async with _standing_by(stage, 2) as standbys:
        winner = await _freeze(stage, standbys)
        (other,) = (standby for standby in standbys if standby is not winner)
        if _READY in other.output:
            raise NotHit("two coordinators say that they are ready, on one journal")
        await winner.kill()
        await _takeover(stage, (other,))
    await stage.revive(COORDINATOR)


async def _freeze(stage: Stage, standbys: Sequence[Program]) -> Program:
    """Freezes the coordinator, and wakes it up once another one has taken over. Returns that one."""
    first = stage.program(COORDINATOR)
    first.signal(signal.SIGSTOP)
    try:
        winner = await _takeover(stage, standbys)
    finally:
        if first.is_running:
            first.signal(signal.SIGCONT)
    code = await first.wait(timeout=_TAKEOVER_SECONDS)
    if code != -signal.SIGKILL:
        raise NotHit(f"the frozen coordinator ended with {code}, and was not killed by the one that took over")
    return winner


async def _takeover(stage: Stage, standbys: Sequence[Program]) -> Program:
    """Waits until one has taken over, measures, and lets it work for a moment. Raises `NotHit`."""
    started = time.monotonic()
    while time.monotonic() < started + _TAKEOVER_SECONDS:
        for standby in standbys:
            if _READY in standby.output:
                await standby.become_ready()
                stage.figures["takeover_s"] = time.monotonic() - started
                await standby.become_ready()
                await stage.measure()
                await asyncio.sleep(_AT_WORK)
                return standby
        await asyncio.sleep(_POLL)
    raise NotHit(f"nobody took over within {_TAKEOVER_SECONDS:g} s")


@contextlib.asynccontextmanager
async def _standing_by(stage: Stage, count: int) -> AsyncIterator[Sequence[Program]]:
    """Coordinators that stand by while the block runs; at its end they are killed, whatever they have become."""
    if not hasattr(os, "pidfd_open"):
        raise Skipped("this system has no safe handles to processes: a frozen coordinator is not killed here")
    standbys = tuple(stage.system.standby(f"--takeover-after={_AFTER:g}") for _ in range(count))
    try:
        for standby in standbys:
            await standby.stand_by()
        yield standbys
    finally:
        # One that waits would take over from one that is killed.
        for standby in sorted(standbys, key=lambda each: _READY in each.output):
            await standby.kill()


TAKEOVERS: Final = (
    Drill("killed, with a standby", "SIGKILL for the coordinator; the standby takes over", _killed),
    Drill(
        "frozen, with a standby",
        "SIGSTOP for the coordinator; the standby kills it and takes over; SIGCONT",
        _frozen,
        quick=True,
    ),
    Drill("two standbys", "SIGSTOP; one of two takes over, and is killed; then the other does", _two_standbys),
)
