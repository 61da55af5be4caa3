"""How a saga's steps are tried: as their participant says, whenever it says it."""

from __future__ import annotations

import asyncio

import pytest
from google.protobuf.duration_pb2 import Duration

from fixtures.fakes import Refuse
from fixtures.sagas import EVERYWHERE, NOWHERE, done_at, ended, saga
from fixtures.world import World, until
from twophase.coordinator.engine.api import Outcome
from twophase.v1 import types_pb2 as types


@pytest.fixture
def world() -> World:
    return World()


def broken(_: types.Payload) -> types.Payload:
    raise Refuse("BROKEN")


@pytest.mark.parametrize(
    ("calls", "at", "call", "end"),
    [
        (("stock.write", "payment.write"), "payment", "apply", {**EVERYWHERE, "order": 0}),
        (("stock.write", "payment.refuse"), "stock", "compensate", NOWHERE),
    ],
    ids=["a step after the pivot", "a compensation"],
)
async def test_r8_a_saga_that_is_taken_up_gives_each_attempt_the_time_that_its_operation_declares(
    world: World, calls: tuple[str, ...], at: str, call: str, end: dict[str, int]
) -> None:
    """Nobody has shaken hands yet when it is taken up. What needs longer than the usual time would never be done."""
    slow = world.participants[at]
    slow.attempt_deadline = Duration(seconds=40)
    pivot = 0 if call == "apply" else -1
    async with world.coordinator() as engine:
        gate = slow.hold(call)
        asking = asyncio.create_task(engine.execute(saga(*calls, pivot=pivot, deadline=60)))
        await until(lambda: slow.calls[call] == 1)
        asking.cancel()
        await engine.journal.flush()
    gate.set()
    async with world.coordinator(register=False) as engine:
        await ended(engine)

    assert slow.time_left[-2:] == pytest.approx([40, 40])
    assert done_at(world) == end


async def test_a_participant_that_is_deployed_anew_gives_a_dead_letter_more_time(world: World) -> None:
    """Too little time may be why it fails."""
    world.stock.compensations["write"] = broken
    async with world.coordinator() as engine:
        answer = await engine.execute(saga("stock.write", "payment.refuse"))
        assert (answer.outcome, answer.applied) == (Outcome.COMPENSATED, False)
        assert world.stock.time_left[-1] == pytest.approx(10)

        world.stock.attempt_deadline = Duration(seconds=40)
        await engine.register("stock", "stock:1")
        tried = len(world.stock.time_left)
        await until(lambda: len(world.stock.time_left) > tried + 1)
        assert world.stock.time_left[-1] == pytest.approx(40)


@pytest.mark.parametrize("attempts", [2, 9])
async def test_one_that_says_another_number_of_attempts_meanwhile_becomes_one_dead_letter(
    world: World, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It has failed more often already than is now allowed; or is allowed more."""
    world.stock.compensations["write"] = broken
    world.stock.retry.attempts = 5
    async with world.coordinator() as engine:
        tries = 0

        def anew(_: types.Payload) -> types.Payload:
            nonlocal tries
            tries += 1
            if tries == 4:
                engine._peers._peers["stock"].operations["write"].retry.attempts = attempts  # type: ignore[index]
            raise Refuse("BROKEN")

        world.stock.compensations["write"] = anew
        await engine.execute(saga("stock.write", "payment.refuse"))
        (letter,) = await engine.dead_letters()
        tried = tries
        await until(lambda: tries > tried + 5)

        assert letter.attempts == max(4, attempts)
        assert caplog.text.count("dead letter: ") == 1
