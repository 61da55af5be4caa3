"""What a saga fails at for too long: it is a dead letter, is never dropped, and waits for a person."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fixtures.fakes import Refuse
from fixtures.sagas import NOWHERE, done_at, ended, saga
from fixtures.world import World, until
from twophase.coordinator.engine.api import DeadLetter, Outcome, Rejected, Resolution
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.events import Resolved
from twophase.v1 import types_pb2 as types


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def stuck(world: World) -> AsyncIterator[tuple[World, Engine]]:
    """A saga whose first step cannot be undone."""

    def never(_: types.Payload) -> types.Payload:
        raise Refuse("BROKEN")

    world.stock.compensations["write"] = never
    world.stock.retry.longest_pause.FromSeconds(1000)
    world.stock.retry.first_pause.FromNanoseconds(1)
    async with world.coordinator() as engine:
        asking = asyncio.create_task(engine.execute(saga("stock.write", "payment.refuse")))
        async with asyncio.timeout(5):
            while not await engine.dead_letters():
                await asyncio.sleep(0)
        yield world, engine
        asking.cancel()


async def the_dead_letter(engine: Engine) -> DeadLetter:
    async with asyncio.timeout(5):
        while not (letters := await engine.dead_letters()):
            await asyncio.sleep(0)
    (letter,) = letters
    return letter


async def test_a_compensation_that_keeps_failing_is_a_dead_letter_and_never_dropped(
    stuck: tuple[World, Engine],
) -> None:
    world, engine = stuck
    (letter,) = await engine.dead_letters()

    assert (letter.step, letter.participant, letter.compensation) == ("stock-0", "stock", True)
    assert letter.attempts == 3
    assert letter.reason.code == "BROKEN"
    assert letter.request_id == "r-1"
    tried = world.stock.calls["compensate"]
    await until(lambda: world.stock.calls["compensate"] > tried)


async def test_whoever_waits_is_told_when_a_compensation_becomes_a_dead_letter(world: World) -> None:
    def never(_: types.Payload) -> types.Payload:
        raise Refuse("BROKEN")

    world.stock.compensations["write"] = never
    async with world.coordinator() as engine:
        answer = await engine.execute(saga("stock.write", "payment.refuse", deadline=60))

        assert (answer.outcome, answer.applied, answer.pending) == (Outcome.COMPENSATED, False, ("stock",))


async def test_a_compensation_that_is_answered_with_a_status_again_and_again_is_a_dead_letter(world: World) -> None:
    """As by a service in another language whose code fails: nobody would ever hear of it. Who waits need not."""
    world.stock.failing.add("compensate")
    world.stock.retry.longest_pause.FromMilliseconds(20)
    async with world.coordinator() as engine:
        answer = await engine.execute(saga("stock.write", "payment.refuse", deadline=60))
        letter = await the_dead_letter(engine)

        assert (answer.outcome, answer.applied, answer.pending) == (Outcome.COMPENSATED, False, ("stock",))
        assert (letter.step, letter.compensation, letter.attempts) == ("stock-0", True, 3)
        assert letter.reason.code == "CALL_FAILED"
        assert "UNKNOWN: list index out of range" in letter.reason.message
        world.stock.failing.clear()
        await ended(engine)
        assert await engine.dead_letters() == ()
        assert done_at(world) == NOWHERE


async def test_so_is_a_step_after_the_pivot(world: World) -> None:
    world.payment.failing.add("apply")
    async with world.coordinator() as engine:
        asking = asyncio.create_task(engine.execute(saga("stock.write", "payment.write", pivot=0, deadline=60)))
        letter = await the_dead_letter(engine)

        assert (letter.participant, letter.compensation, letter.reason.code) == ("payment", False, "CALL_FAILED")
        world.payment.failing.clear()
        await ended(engine)
        assert (await asking).outcome is Outcome.COMMITTED


async def test_a_dead_letter_outlives_the_coordinator(stuck: tuple[World, Engine]) -> None:
    world, engine = stuck
    await engine.journal.flush()
    await engine.abandon()
    world.disk.crash()
    async with world.coordinator(register=False) as after:
        assert [letter.step for letter in await after.dead_letters()] == ["stock-0"]
        world.stock.compensations["write"] = lambda payload: payload
        await ended(after)
        assert await after.dead_letters() == ()
        assert done_at(world) == NOWHERE


async def test_a_coordinator_that_stops_does_not_wait_for_a_dead_letter(stuck: tuple[World, Engine]) -> None:
    _, engine = stuck
    async with asyncio.timeout(30):
        await engine.stop(grace=1000)


async def test_a_dead_letter_that_is_resolved_is_barred_recorded_and_over(stuck: tuple[World, Engine]) -> None:
    world, engine = stuck
    (letter,) = await engine.dead_letters()

    done = await engine.resolve_dead_letter(
        letter.txid, letter.step, actor="anna", reason="sent back by hand", even_if_away=False
    )
    await ended(engine)

    assert done == Resolution(barred=True, done=False)
    again = await engine.resolve_dead_letter(letter.txid, letter.step, actor="bob", reason="?", even_if_away=False)
    assert again == done
    assert await engine.dead_letters() == ()
    record = await engine.journal.transaction(letter.txid)
    assert record is not None
    assert [(each.actor, each.reason) for each in record.resolved.values()] == [("anna", "sent back by hand")]
    assert record.ended
    assert list(world.stock.compensated.values()) == ["tombstone"]


async def test_a_dead_letter_is_not_resolved_while_its_participant_is_away_unless_told_so(
    stuck: tuple[World, Engine],
) -> None:
    world, engine = stuck
    (letter,) = await engine.dead_letters()
    world.stock.down = True
    with pytest.raises(Rejected, match="cannot be barred"):
        await engine.resolve_dead_letter(letter.txid, letter.step, actor="a", reason="r", even_if_away=False)
    assert await engine.dead_letters() != ()

    done = await engine.resolve_dead_letter(letter.txid, letter.step, actor="a", reason="r", even_if_away=True)
    assert done == Resolution(barred=False, done=False)
    await ended(engine)


async def _resolved_and_not_barred(world: World, engine: Engine) -> None:
    """The coordinator dies between the record and the message that bars."""
    (letter,) = await engine.dead_letters()
    engine.journal.append(Resolved(letter.txid, letter.branch, "anna", "sent back by hand"))
    await engine.journal.flush()
    await engine.abandon()
    world.disk.crash()
    world.stock.compensations["write"] = lambda payload: payload


async def test_r6_what_a_person_took_for_done_is_barred_by_the_next_coordinator(stuck: tuple[World, Engine]) -> None:
    world, engine = stuck
    await _resolved_and_not_barred(world, engine)
    async with world.coordinator(register=False) as after:
        await ended(after)
    assert list(world.stock.compensated.values()) == ["tombstone"], "not compensated on top of what was done by hand"


async def test_what_a_person_took_for_done_does_not_wait_for_a_participant_that_is_away(
    stuck: tuple[World, Engine],
) -> None:
    world, engine = stuck
    await _resolved_and_not_barred(world, engine)
    world.stock.down = True
    async with world.coordinator(register=False) as after:
        await ended(after)
    assert list(world.stock.compensated.values()) == []


async def test_a_dead_letter_can_be_tried_again_at_once(stuck: tuple[World, Engine]) -> None:
    world, engine = stuck
    (letter,) = await engine.dead_letters()
    world.stock.compensations["write"] = lambda payload: payload
    await engine.retry_dead_letter(letter.txid, letter.step)
    await ended(engine)

    assert done_at(world) == NOWHERE
    with pytest.raises(Rejected, match="no dead letter"):
        await engine.retry_dead_letter(letter.txid, letter.step)


async def test_r13_whoever_resolves_one_and_hangs_up_leaves_it_neither_tried_on_nor_half_resolved(
    stuck: tuple[World, Engine],
) -> None:
    world, engine = stuck
    (letter,) = await engine.dead_letters()
    gate = world.stock.hold("abort")
    resolving = asyncio.create_task(
        engine.resolve_dead_letter(letter.txid, letter.step, actor="anna", reason="by hand", even_if_away=False)
    )
    await until(lambda: world.stock.calls["abort"] == 1)
    resolving.cancel()
    await asyncio.gather(resolving, return_exceptions=True)
    gate.set()
    await ended(engine)

    assert list(world.stock.compensated.values()) == ["tombstone"], "not compensated on top of what was done by hand"


async def test_one_that_was_done_while_somebody_was_about_to_resolve_it_is_no_dead_letter(
    stuck: tuple[World, Engine],
) -> None:
    world, engine = stuck
    (letter,) = await engine.dead_letters()
    gate = world.stock.hold("handshake")
    resolving = asyncio.create_task(
        engine.resolve_dead_letter(letter.txid, letter.step, actor="anna", reason="by hand", even_if_away=False)
    )
    await until(lambda: world.stock.calls["handshake"] > 2)
    world.stock.compensations["write"] = lambda payload: payload
    await engine.retry_dead_letter(letter.txid, letter.step)
    await ended(engine)
    gate.set()

    with pytest.raises(Rejected, match="no dead letter"):
        await resolving
    record = await engine.journal.transaction(letter.txid)
    assert record is not None
    assert record.resolved == {}


async def test_r6_a_later_attempt_is_answered_for_the_one_that_cannot_be_undone(stuck: tuple[World, Engine]) -> None:
    _, engine = stuck
    async with asyncio.timeout(30):
        answer = await engine.execute(saga("stock.write", "payment.refuse", attempt=2, deadline=0.01))

    assert (answer.outcome, answer.applied, answer.attempt) == (Outcome.COMPENSATED, False, 1)
    assert answer.pending == ("stock",)


async def test_r6_a_later_attempt_that_waits_for_one_that_cannot_be_undone_is_sent_away_when_the_coordinator_stops(
    stuck: tuple[World, Engine],
) -> None:
    _, engine = stuck
    later = asyncio.create_task(engine.execute(saga("stock.write", "payment.refuse", attempt=2, deadline=60)))
    await until(lambda: bool(engine._patience))
    await engine.stop(grace=0)
    with pytest.raises(Rejected, match="stopping"):
        await later


async def test_what_is_still_to_be_undone_is_told_without_those_that_refused_also_by_the_next_coordinator(
    stuck: tuple[World, Engine],
) -> None:
    world, engine = stuck
    await engine.journal.flush()
    await engine.abandon()
    world.disk.crash()
    async with world.coordinator(register=False) as after:
        answer = await after.execute(saga("stock.write", "payment.refuse", deadline=0.01))

    assert (answer.outcome, answer.pending) == (Outcome.COMPENSATED, ("stock",))


async def test_of_two_that_resolve_one_at_the_same_time_the_word_of_one_is_recorded(
    stuck: tuple[World, Engine],
) -> None:
    world, engine = stuck
    (letter,) = await engine.dead_letters()
    gate = world.stock.hold("handshake")
    resolving = [
        engine.resolve_dead_letter(letter.txid, letter.step, actor=actor, reason="by hand", even_if_away=False)
        for actor in ("anna", "ben")
    ]
    asking = asyncio.gather(*resolving)
    await until(lambda: world.stock.calls["handshake"] > 2)
    gate.set()

    assert [resolution.barred for resolution in await asking] == [True, True]
    await ended(engine)
    events = [happening.event for happening in await engine.journal.history(letter.txid)]
    assert [event.actor for event in events if isinstance(event, Resolved)] == ["anna"]
