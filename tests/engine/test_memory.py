"""What a coordinator keeps of a transaction that is over: nothing."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from fixtures.world import BOTH, World, submission, until
from twophase.coordinator.engine.api import Outcome


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
async def test_what_is_over_is_gone_without_the_garbage_collector(world: World) -> None:
    """A ring of references for each transaction was an eighth of the coordinator's time, and memory until then."""
    async with world.coordinator() as engine:
        gate = world.payment.hold("commit")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: len(world.order.applied) == 1)
        [transaction] = (weakref.ref(each) for each in engine._live)
        gate.set()
        assert (await asking).outcome is Outcome.COMMITTED
        await until(lambda: len(engine._live) == 0)
        await until(lambda: transaction() is None)


async def test_who_has_given_up_waiting_for_what_takes_days_is_forgotten(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("commit")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: len(world.order.applied) == 1)
        [transaction] = engine._live
        for _ in range(500):
            again = asyncio.create_task(engine.execute(submission(*BOTH)))
            await until(lambda: len(engine._patience) == 2)
            again.cancel()
            await asyncio.gather(again, return_exceptions=True)

        assert len(transaction._waiting) < 50
        gate.set()
        assert (await first).outcome is Outcome.COMMITTED
