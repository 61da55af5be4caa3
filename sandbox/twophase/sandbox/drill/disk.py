"""The drills in which the journal's disk is the trouble: full, or failing, or cut off between a write and its sync.

Lives here: what happens to the disk, and what the coordinator must do then. Must not live here: the disk itself
(`twophase.sandbox.small_disk`) and the injection (`twophase.sandbox.syncs`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import signal
import time
from collections.abc import AsyncIterator
from typing import Final

import grpc

from twophase.contract.status import from_call
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.stage import COORDINATOR, NotHit, Skipped, Stage
from twophase.sandbox.drill.values import Act, Drill
from twophase.sandbox.small_disk import NoSmallDisk, SmallDisk
from twophase.sandbox.syncs import AtSync, NoInjection, wrapper
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

_BALLAST: Final = "TWOPHASE_BALLAST"
_BALLAST_MIB: Final = 4
_MIB: Final = 1 << 20
_FAILED: Final = 74
_DIE_SECONDS: Final = 20.0
_ANSWER_SECONDS: Final = 10.0
_ROOM_SECONDS: Final = 10.0
_POLL: Final = 0.05
# So many syncs of one thread are more than the start of a coordinator takes.
_NTH: Final = 40


async def _full(stage: Stage) -> None:
    async with _small_disk(stage) as disk:
        coordinator = stage.program(COORDINATOR)
        disk.fill()
        await _ends(stage, _FAILED)
        await coordinator.start()
        await stage.measure()
        if await _takes_work(stage):
            raise NotHit("the disk is full, and new work was taken")
        disk.empty()
        end = time.monotonic() + _ROOM_SECONDS
        while not await _takes_work(stage):
            if time.monotonic() > end:
                raise NotHit(f"there is room again, and no work was taken within {_ROOM_SECONDS:g} s")
            await asyncio.sleep(_POLL)


def _sync(what: AtSync, code: int) -> Act:
    async def act(stage: Stage) -> None:
        try:
            traced = await asyncio.to_thread(wrapper, what, nth=_NTH)
        except NoInjection as reason:
            raise Skipped(str(reason)) from reason
        coordinator = stage.program(COORDINATOR)
        await coordinator.stop()
        coordinator.wrapper = traced
        try:
            await coordinator.start()
            await _ends(stage, code)
        finally:
            coordinator.wrapper = ()
            await coordinator.kill()
        await stage.revive(COORDINATOR)

    return act


async def _ends(stage: Stage, code: int) -> None:
    """Waits until the coordinator has ended by itself. Raises `NotHit`."""
    try:
        ended = await stage.program(COORDINATOR).wait(timeout=_DIE_SECONDS)
    except TimeoutError:
        raise NotHit(f"the coordinator went on for {_DIE_SECONDS:g} s") from None
    if ended != code:
        raise NotHit(f"the coordinator ended with {ended} instead of {code}")


async def _takes_work(stage: Stage) -> bool:
    """Whether something new is begun. Raises `NotHit` if it is refused for anything but the disk."""
    operation = types_pb2.Operation(participant=NAMES[0], name="look", payload=types_pb2.Payload(json='{"account": 1}'))
    request = coordinator_pb2.ExecuteRequest(request_id=secrets.token_hex(8), operations=[operation])
    async with grpc.aio.insecure_channel(stage.system.address) as channel:
        try:
            await coordinator_pb2_grpc.CoordinatorStub(channel).Execute(request, timeout=_ANSWER_SECONDS)
        except grpc.aio.AioRpcError as error:
            problem = from_call(error)
            if problem.reason != "NO_ROOM":
                raise NotHit(f"work is refused, and not because the disk is full: {error}") from error
            return False
    return True


@contextlib.asynccontextmanager
async def _small_disk(stage: Stage) -> AsyncIterator[SmallDisk]:
    """The journal lives on a small disk while the block runs, and then where it was."""
    system, coordinator = stage.system, stage.program(COORDINATOR)
    before = system.journal
    size = await asyncio.to_thread(lambda: before.stat().st_size)
    try:
        mib = size // _MIB + 6 * _BALLAST_MIB
        disk = await asyncio.to_thread(SmallDisk.mount, system.guardian, mib=mib)
    except NoSmallDisk as reason:
        raise Skipped(str(reason)) from reason
    outside = disk.outside / before.name
    log = f"{before.name}-wal"
    await coordinator.stop()
    shutil.copy2(before, outside)
    system.journal, coordinator.wrapper = disk.directory / before.name, disk.wrapper
    coordinator.environment[_BALLAST] = str(_BALLAST_MIB)
    try:
        await coordinator.start()
        yield disk
    finally:
        await coordinator.kill()
        system.journal, coordinator.wrapper = before, ()
        del coordinator.environment[_BALLAST]
        shutil.copy2(outside, before)
        with contextlib.suppress(FileNotFoundError):  # a coordinator that had stopped leaves no log
            shutil.copy2(outside.with_name(log), before.with_name(log))
        disk.unmount(system.guardian)
        await coordinator.start()


DISKS: Final = (
    Drill("the journal's disk is full", "it ends, finishes what is decided, and waits for room", _full, quick=True),
    Drill("a sync of the journal fails", "EIO at every fdatasync: the coordinator ends", _sync(AtSync.FAILS, _FAILED)),
    Drill(
        "killed between write and sync",
        "SIGKILL at an fdatasync of the journal",
        _sync(AtSync.DIES, -signal.SIGKILL),
        quick=True,
    ),
)
