"""The journal's disk is full, really: nothing that was told is lost, what is decided is finished, new work waits."""

from __future__ import annotations

import asyncio
import resource
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fixtures.two_banks import SECONDS, booked, prepared, transfer, two_banks, until
from twophase.contract.status import from_call
from twophase.coordinator.client import (
    AsyncClient,
    Committed,
    OutcomeUnknown,
    TransactionAborted,
)
from twophase.sandbox.small_disk import NoSmallDisk, SmallDisk
from twophase.sandbox.system import System
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

pytestmark = pytest.mark.integration
_BALLAST_MIB = 4
_FAILED = 74
_MANY = range(1, 41)  # each on an account of its own


@pytest.fixture
async def system() -> AsyncIterator[System]:
    environment = {"TWOPHASE_BALLAST": str(_BALLAST_MIB), "TWOPHASE_GRACE": "1"}
    async with two_banks(environment=environment) as system:
        yield system


@pytest.fixture
async def disk(system: System) -> SmallDisk:
    """A small disk, to which the journal has moved."""
    try:
        disk = await asyncio.to_thread(SmallDisk.mount, system.guardian, mib=6 * _BALLAST_MIB)
    except NoSmallDisk as reason:
        pytest.skip(str(reason))
    await system.coordinator.stop()
    shutil.copy2(system.journal, disk.outside)
    system.journal = disk.directory / system.journal.name
    system.coordinator.wrapper = disk.wrapper
    await system.coordinator.start()
    return disk


async def execute(client: AsyncClient, name: str, *, give_up_after: float = 30.0) -> Committed:
    account = int(name.rpartition("/")[2]) if "/" in name else 1
    moves = transfer(name, account=account, amount=1)
    return await client.execute(*moves, request_id=name, deadline=20, retries=20, give_up_after=give_up_after)


def log(system: System) -> str:
    return system.coordinator.log.read_text(encoding="utf-8")


async def refused(system: System) -> None:
    """Sends something new, once: it is refused, and told why."""
    look = types_pb2.Operation(participant="east", name="look", payload=types_pb2.Payload(json='{"account": 1}'))
    request = coordinator_pb2.ExecuteRequest(request_id="refused", operations=[look])
    async with grpc.aio.insecure_channel(system.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await coordinator_pb2_grpc.CoordinatorStub(channel).Execute(request, timeout=SECONDS)
    problem = from_call(caught.value)
    assert (problem.code, problem.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_ROOM")
    assert problem.outcome_known
    assert "MiB are free on the disk of the coordinator's journal, and nothing was started" in problem.message


async def is_serving(system: System) -> bool:
    async with grpc.aio.insecure_channel(system.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def many_prepared(system: System, client: AsyncClient, **named: Any) -> list[asyncio.Task[Committed]]:
    """Transfers that one bank has prepared, and the other, which is frozen, has not yet."""
    system.participants["west"].signal(signal.SIGSTOP)
    running = [asyncio.create_task(execute(client, f"many/{number}", **named)) for number in _MANY]
    await until(lambda: prepared(system)[0] == len(_MANY))
    return running


async def test_r10_a_write_that_finds_the_disk_full_ends_the_process_and_the_next_one_finishes(
    system: System, disk: SmallDisk
) -> None:
    ballast = disk.outside / f"{system.journal.name}.ballast"
    async with AsyncClient(system.address) as client:
        await execute(client, "before")
        assert ballast.stat().st_size == _BALLAST_MIB << 20
        running = await many_prepared(system, client)
        disk.fill()
        system.participants["west"].signal(signal.SIGCONT)
        # All of them decide now, and there is no room to write it down.
        assert await system.coordinator.wait(timeout=SECONDS) == _FAILED
        assert "database or disk is full" in log(system)
        assert not any(task.done() for task in running)

        await system.coordinator.start()
        assert not ballast.exists()
        assert "nothing new is begun, what is decided is finished; make room" in log(system)
        await until(lambda: prepared(system) == [0, 0])
        assert booked(system)[0] == booked(system)[1]
        assert await is_serving(system)
        await refused(system)

        disk.empty()
        done = await asyncio.gather(*running)
    assert {committed.applied for committed in done} == {True}
    assert ballast.stat().st_size == _BALLAST_MIB << 20
    assert booked(system) == [sorted(["before", *(f"many/{number}" for number in _MANY)])] * 2
    assert "new transactions are taken again" in log(system)


async def test_r10_new_work_is_refused_before_a_write_fails(system: System, disk: SmallDisk) -> None:
    async with AsyncClient(system.address) as client:
        await execute(client, "before")
        (disk.outside / "filler").write_bytes(b"x" * (disk.free() - (_BALLAST_MIB << 20) + (1 << 20)))
        await until(lambda: "nothing new is begun" in log(system))
        pid = system.coordinator.pid
        await refused(system)
        assert (await execute(client, "before")).applied
        disk.empty()
        await execute(client, "after")
    assert system.coordinator.pid == pid
    assert booked(system) == [["after", "before"]] * 2
    assert log(system).count("nothing new is begun") == log(system).count("taken again") == 1


async def test_r10_a_write_that_fails_in_the_middle_tells_nobody_a_decision_that_is_not_there(system: System) -> None:
    async with AsyncClient(system.address) as client:
        await execute(client, "before")
        running = await many_prepared(system, client, give_up_after=5.0)
        # For this process alone, no file may grow beyond what the journal's log has now, and half a page.
        size = (await asyncio.to_thread(Path(f"{system.journal}-wal").stat)).st_size + 2048
        resource.prlimit(system.coordinator.pid, resource.RLIMIT_FSIZE, (size, size))
        system.participants["west"].signal(signal.SIGCONT)
        assert await system.coordinator.wait(timeout=SECONDS) == _FAILED
        await system.coordinator.start()
        told = await asyncio.gather(*running, return_exceptions=True)
    await until(lambda: prepared(system) == [0, 0])
    east, west = booked(system)
    assert east == west
    for number, answer in zip(_MANY, told, strict=True):
        match answer:
            case Committed():
                assert f"many/{number}" in east
            case TransactionAborted():
                assert f"many/{number}" not in east
            case _:
                assert isinstance(answer, OutcomeUnknown)
