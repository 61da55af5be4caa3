"""SIGTERM to a coordinator with work under way: it ends in time, and whatever it left is finished later."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fixtures.two_banks import SECONDS, booked, prepared, send, two_banks, until
from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.contract.status import from_call
from twophase.coordinator.client import Committed
from twophase.sandbox.system import System
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

pytestmark = pytest.mark.integration


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks() as system:
        yield system


async def restarted(system: System, *, grace: float) -> None:
    await system.coordinator.stop()
    system.coordinator.environment["TWOPHASE_GRACE"] = str(grace)
    await system.coordinator.start()


async def decided_and_not_applied(system: System) -> asyncio.Task[Committed]:
    """A transfer that is decided, and cannot be applied at one bank, which is frozen."""
    east = system.participants["east"]
    await east.stop()
    east.environment[VARIABLE] = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED.value
    await east.start()
    del east.environment[VARIABLE]
    running = asyncio.create_task(send(system))
    await east.wait(timeout=SECONDS)
    await until(lambda: prepared(system) == [1, 0])
    return running


async def is_serving(system: System) -> bool:
    async with grpc.aio.insecure_channel(system.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def finished_by_the_next_start(system: System) -> None:
    system.coordinator.environment.clear()
    await system.coordinator.start()
    east = system.participants["east"]
    if not east.is_running:
        await east.start()
    await until(lambda: prepared(system) == [0, 0])
    assert booked(system) == [["first"], ["first"]]


async def test_what_is_decided_and_cannot_be_finished_does_not_keep_it(system: System) -> None:
    await restarted(system, grace=0.5)
    running = await decided_and_not_applied(system)
    assert await system.coordinator.stop() == 0
    done = await running
    assert (done.applied, done.pending) == (False, ("east",))
    assert "transactions that the next start has to finish: 1, at east" in system.coordinator.log.read_text()
    await finished_by_the_next_start(system)


async def test_what_can_be_finished_is_finished_and_nothing_new_is_taken(system: System) -> None:
    await restarted(system, grace=30)
    await send(system, "greeting")  # who has not shaken hands yet would keep the other one from preparing
    system.participants["west"].signal(signal.SIGSTOP)
    running = asyncio.create_task(send(system))
    await until(lambda: prepared(system) == [1, 0])
    system.coordinator.signal(signal.SIGTERM)
    async with asyncio.timeout(SECONDS):
        while await is_serving(system):
            await asyncio.sleep(0.01)
    look = types_pb2.Operation(participant="east", name="look")
    request = coordinator_pb2.ExecuteRequest(request_id="refused", operations=[look])
    async with grpc.aio.insecure_channel(system.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await coordinator_pb2_grpc.CoordinatorStub(channel).Execute(request, timeout=SECONDS)
    problem = from_call(caught.value)
    assert (problem.code, problem.reason, problem.outcome_known) == (grpc.StatusCode.UNAVAILABLE, "STOPPING", True)
    system.participants["west"].signal(signal.SIGCONT)
    assert await system.coordinator.wait(timeout=SECONDS) == 0
    done = await running
    assert done.applied
    assert prepared(system) == [0, 0]
    assert "has to finish" not in system.coordinator.log.read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
async def test_a_second_signal_ends_it_at_once(system: System, number: signal.Signals) -> None:
    await restarted(system, grace=60)
    running = await decided_and_not_applied(system)
    system.coordinator.signal(signal.SIGTERM)
    async with asyncio.timeout(SECONDS):
        while await is_serving(system):
            await asyncio.sleep(0.01)
    system.coordinator.signal(number)
    assert await system.coordinator.wait(timeout=SECONDS) == -number
    await finished_by_the_next_start(system)
    assert (await running).txid.startswith("00000002-")
