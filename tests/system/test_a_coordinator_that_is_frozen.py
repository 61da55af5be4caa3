"""A coordinator that is frozen in the middle, with another one standing by: what it was doing is finished, once."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest

from fixtures.two_banks import SECONDS, booked, prepared, send, two_banks, until
from twophase.contract.crashpoints import VARIABLE, CrashPoint
from twophase.sandbox.system import System

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no handles to processes"),
]


@pytest.fixture
async def system() -> AsyncIterator[System]:
    async with two_banks() as system:
        yield system


async def test_r5_what_it_was_doing_is_finished_by_the_one_that_takes_over(system: System) -> None:
    east = system.participants["east"]
    await east.stop()
    east.environment[VARIABLE] = CrashPoint.PARTICIPANT_BEFORE_COMMIT_PREPARED.value
    await east.start()
    del east.environment[VARIABLE]
    second = system.standby("--takeover-after=1")
    await second.stand_by()
    running = asyncio.create_task(send(system))
    # It dies when it is told to commit: so it is decided, and cannot be applied everywhere.
    await east.wait(timeout=SECONDS)
    system.coordinator.signal(signal.SIGSTOP)
    assert prepared(system)[0] == 1
    await second.become_ready()
    system.coordinator.signal(signal.SIGCONT)
    assert await system.coordinator.wait(timeout=SECONDS) == -signal.SIGKILL
    await east.start()
    done = await running
    assert done.txid.startswith("00000001-")
    await until(lambda: prepared(system) == [0, 0])
    assert booked(system) == [["first"], ["first"]]
    assert await second.stop() == 0


async def test_r9_what_it_had_not_decided_is_aborted_and_the_client_gets_its_commit(system: System) -> None:
    west = system.participants["west"]
    second = system.standby("--takeover-after=1")
    await second.stand_by()
    west.signal(signal.SIGSTOP)
    running = asyncio.create_task(send(system))
    await until(lambda: prepared(system)[0] == 1)
    system.coordinator.signal(signal.SIGSTOP)
    await second.become_ready()
    west.signal(signal.SIGCONT)
    done = await running
    assert done.txid.startswith("00000002-")
    await until(lambda: prepared(system) == [0, 0])
    assert booked(system) == [["first"], ["first"]]
    assert await second.stop() == 0
