"""The engine runs sagas: forward, back, over crashes; and what a client and an operator see of it."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest

from fixtures.fakes import NotNow, Refuse, refuse
from fixtures.sagas import ALL, EVERYWHERE, NOWHERE, done_at, ended, saga
from fixtures.world import World, at_once, submission, until
from twophase.coordinator.engine.api import Outcome, Rejected, Submission, Wait
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.saga import SagaUnderway
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2 as types


@pytest.fixture
def world() -> World:
    return World()


async def test_every_step_is_done_in_its_order_and_the_results_come_in_that_of_the_request(world: World) -> None:
    async with world.coordinator() as engine:
        answer = await engine.execute(saga(*ALL))

        assert answer.outcome is Outcome.COMMITTED
        assert answer.applied
        assert [result.payload.json for result in answer.results] == ["1", "2", "3"]
        assert done_at(world) == EVERYWHERE
        positions = [each.calls["apply"] for each in world.participants.values()]
        assert positions == [1, 1, 1]


async def test_r4_a_saga_that_is_done_costs_one_forced_write_and_one_that_is_undone_two(world: World) -> None:
    async with world.coordinator() as engine:
        before = engine.journal.syncs
        await engine.execute(saga(*ALL, request_id="done"))
        done = engine.journal.syncs - before
        before = engine.journal.syncs
        await engine.execute(saga("stock.write", "payment.refuse", "order.write", request_id="undone", pivot=1))

        assert (done, engine.journal.syncs - before) == (1, 2)


async def test_a_refusal_undoes_what_was_done_before_it_and_says_why(world: World) -> None:
    async with world.coordinator() as engine:
        answer = await engine.execute(saga("stock.write", "payment.refuse", "order.write", pivot=1))

        assert answer.outcome is Outcome.COMPENSATED
        assert answer.applied
        assert [reason.code for reason in answer.reasons] == ["NO_FUNDS"]
        assert done_at(world) == NOWHERE
        assert world.order.calls["apply"] == 0


async def test_r7_after_the_turn_every_step_of_the_definition_is_barred_also_what_never_began(world: World) -> None:
    async with world.coordinator() as engine:
        await engine.execute(saga("stock.refuse", "payment.write", "order.write", pivot=0))

        assert [row.outcome for row in world.order.ledger.values()] == [pb.LEDGER_OUTCOME_TOMBSTONE]
        assert [row.outcome for row in world.payment.ledger.values()] == [pb.LEDGER_OUTCOME_TOMBSTONE]


async def test_a_refusal_that_left_no_row_is_tried_again_and_the_saga_goes_on(world: World) -> None:
    tries = iter((True, True, False))

    def flaky(payload: types.Payload) -> types.Payload:
        if next(tries):
            raise NotNow("LOCKED")
        return payload

    world.payment.operations["write"] = flaky
    async with world.coordinator() as engine:
        answer = await engine.execute(saga(*ALL))

        assert answer.outcome is Outcome.COMMITTED
        assert world.payment.calls["apply"] == 3


async def test_a_step_that_is_refused_too_often_is_asked_before_the_saga_turns(world: World) -> None:
    def never(_: types.Payload) -> types.Payload:
        raise NotNow("LOCKED")

    world.payment.operations["write"] = never
    async with world.coordinator() as engine:
        answer = await engine.execute(saga(*ALL))

        assert answer.outcome is Outcome.COMPENSATED
        assert [reason.code for reason in answer.reasons] == ["LOCKED"]
        assert (world.payment.calls["apply"], world.payment.calls["abort"]) == (3, 1)
        assert done_at(world) == NOWHERE


def time_is_up(engine: Engine) -> None:
    """The deadline of the only saga under way passes now."""
    (running,) = engine._live
    running._time_is_up()


async def test_at_the_deadline_the_steps_are_asked_and_one_that_proves_done_goes_on(world: World) -> None:
    """The answer of the last step is lost; by the time of the deadline it is applied, so nothing is undone."""
    async with world.coordinator() as engine:
        world.order.lose_answers.add("apply")
        asking = asyncio.create_task(engine.execute(saga(*ALL, deadline=60)))
        await until(lambda: bool(world.order.applied))
        time_is_up(engine)

        assert (await asking).outcome is Outcome.COMMITTED
        assert world.order.calls["abort"] == 1
        assert done_at(world) == EVERYWHERE


async def test_at_the_deadline_one_that_cannot_be_asked_does_not_keep_the_others_from_being_undone(
    world: World,
) -> None:
    async with world.coordinator() as engine:
        world.payment.lose_answers = {"apply", "abort", "compensate"}
        gate = world.payment.hold("apply")
        asking = asyncio.create_task(engine.execute(saga(*ALL, deadline=60)))
        await until(lambda: world.payment.calls["apply"] == 1)
        time_is_up(engine)
        answer = await asking

        assert answer.outcome is Outcome.COMPENSATED
        assert answer.pending == ("stock", "payment")
        gate.set()
        world.payment.lose_answers = set()
        await until(lambda: not engine._live.names())
        assert done_at(world) == NOWHERE


async def test_past_the_pivot_a_refusal_is_repeated_until_it_is_done(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    tries = iter((True,) * 4 + (False,))

    def stubborn(payload: types.Payload) -> types.Payload:
        if next(tries):
            raise Refuse("NO_COURIER")
        return payload

    world.order.operations["write"] = stubborn
    async with world.coordinator() as engine:
        with caplog.at_level(logging.CRITICAL):
            answer = await engine.execute(saga(*ALL, pivot=1))
            await ended(engine)

        assert answer.outcome is Outcome.COMMITTED
        assert done_at(world) == EVERYWHERE
        assert "dead letter: step 'order-2'" in caplog.text


async def test_r6_it_may_be_told_as_soon_as_it_is_certain(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.order.hold("apply")
        answer = await engine.execute(replace(saga(*ALL, pivot=1), wait=Wait.DECIDED))

        assert answer.outcome is Outcome.COMMITTED
        assert not answer.applied
        assert answer.pending == ("order",)
        gate.set()
        await until(lambda: not engine._live.names())


async def test_r6_it_may_be_told_as_soon_as_it_is_certain_that_it_will_be_undone(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.stock.hold("compensate")
        async with asyncio.timeout(30):
            answer = await engine.execute(
                replace(saga("stock.write", "payment.refuse", deadline=60), wait=Wait.DECIDED)
            )

        assert (answer.outcome, answer.applied, answer.pending) == (Outcome.COMPENSATED, False, ("stock",))
        gate.set()
        await ended(engine)


async def test_r6_a_request_runs_once_and_after_compensation_only_a_higher_attempt_runs(world: World) -> None:
    async with world.coordinator() as engine:
        world.payment.operations["write"] = refuse
        first = await engine.execute(saga(*ALL))
        again = await engine.execute(saga(*ALL))
        assert (first.outcome, again.outcome) == (Outcome.COMPENSATED, Outcome.COMPENSATED)
        assert first.txid == again.txid

        world.payment.operations["write"] = lambda payload: payload
        second = await engine.execute(saga(*ALL, attempt=2))
        third = await engine.execute(saga(*ALL, attempt=3))
        assert second.outcome is Outcome.COMMITTED
        assert (third.txid, third.attempt) == (second.txid, 2)
        assert done_at(world) == EVERYWHERE


async def test_r6_a_later_attempt_waits_until_the_one_before_is_undone(world: World) -> None:
    async with world.coordinator() as engine:
        world.payment.operations["write"] = refuse
        gate = world.stock.hold("compensate")
        first = asyncio.create_task(engine.execute(saga(*ALL)))
        await until(lambda: world.stock.calls["compensate"] == 1)
        world.payment.operations["write"] = lambda payload: payload
        second = asyncio.create_task(engine.execute(saga(*ALL, attempt=2)))
        await asyncio.sleep(0)
        assert world.stock.calls["apply"] == 1
        gate.set()

        assert (await first).outcome is Outcome.COMPENSATED
        assert (await second).outcome is Outcome.COMMITTED
        assert done_at(world) == EVERYWHERE


async def test_the_same_request_as_another_protocol_is_other_content(world: World) -> None:
    async with world.coordinator() as engine:
        await engine.execute(saga(*ALL))
        with pytest.raises(Rejected, match="used with other content"):
            await engine.execute(submission(*ALL))


async def test_a_step_without_compensation_before_the_pivot_is_refused_before_anything_runs(world: World) -> None:
    async with world.coordinator() as engine:
        del world.payment.compensations["write"]
        await engine.register("payment", "payment:1")
        with pytest.raises(Rejected, match="step 'payment-1' may have to be undone") as refused:
            await engine.execute(saga(*ALL))
        assert refused.value.problem.field == "operations[1]"
        with pytest.raises(Rejected, match="step 'payment-1' comes before the pivot"):
            await engine.execute(saga(*ALL, pivot=2))
        assert (await engine.execute(saga(*ALL, pivot=1))).outcome is Outcome.COMMITTED
        assert sum(each.calls["apply"] for each in world.participants.values()) == 3


async def test_a_compensation_declared_when_a_participant_was_deployed_anew_is_found(world: World) -> None:
    declared = world.payment.compensations.pop("write")
    async with world.coordinator() as engine:
        with pytest.raises(Rejected, match="step 'payment-1' may have to be undone"):
            await engine.execute(saga(*ALL))
        world.payment.compensations["write"] = declared
        assert (await engine.execute(saga(*ALL))).outcome is Outcome.COMMITTED


async def test_what_only_reads_needs_no_compensation(world: World) -> None:
    async with world.coordinator() as engine:
        answer = await engine.execute(saga("stock.read=1", "payment.write=2"))

        assert answer.outcome is Outcome.COMMITTED


async def test_a_participant_that_is_away_before_the_start_aborts_it(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.down = True
        engine._peers.changed(engine._peers.get("order"))  # type: ignore[arg-type]
        answer = await engine.execute(saga(*ALL, deadline=0.2))

        assert answer.outcome is Outcome.ABORTED
        assert done_at(world) == NOWHERE


# --- crashes ----------------------------------------------------------------------------------------------------------


async def crash_in(world: World, call: str, participant: str, asked: Submission) -> None:
    """The coordinator dies while this call of this participant is under way."""
    async with world.coordinator() as engine:
        gate = world.participants[participant].hold(call)
        asking = asyncio.create_task(engine.execute(asked))
        await until(lambda: world.participants[participant].calls[call] > 0)
        asking.cancel()
    gate.set()


@pytest.mark.parametrize("participant", ["stock", "payment", "order"])
async def test_r8_a_saga_whose_coordinator_died_in_a_step_is_completed_by_the_next(
    world: World, participant: str
) -> None:
    await crash_in(world, "apply", participant, saga(*ALL))
    async with world.coordinator(register=False) as engine:
        answer = await engine.execute(saga(*ALL))
        await ended(engine)

        assert answer.outcome is Outcome.COMMITTED
        assert [result.payload.json for result in answer.results] == ["1", "2", "3"]
        assert done_at(world) == EVERYWHERE


@pytest.mark.parametrize("participant", ["stock", "payment", "order"])
async def test_r8_a_saga_whose_coordinator_died_in_a_compensation_is_compensated_by_the_next(
    world: World, participant: str
) -> None:
    asked = saga(*ALL, "stock.refuse")
    await crash_in(world, "compensate", participant, asked)
    async with world.coordinator(register=False) as engine:
        answer = await engine.execute(asked)
        await ended(engine)

        assert answer.outcome is Outcome.COMPENSATED
        assert [reason.code for reason in answer.reasons] == ["NO_FUNDS"]
        assert done_at(world) == NOWHERE
        assert [len(each.undone) for each in world.participants.values()] == [1, 1, 1]


@pytest.mark.parametrize("last", ["order.write", "order.refuse"])
async def test_r8_a_saga_that_an_older_copy_of_the_journal_knows_ends_as_it_ended(world: World, last: str) -> None:
    """Every step answers from its ledger, whatever the copy knows of it."""
    asked = saga("stock.write=1", "payment.write=2", last)
    await crash_in(world, "apply", "payment", asked)
    copy = list(world.disk.durable)
    async with world.coordinator(register=False) as engine:
        told = await engine.execute(asked)
        await ended(engine)
    world.disk.durable[:] = copy
    async with world.coordinator(register=False) as engine:
        await until(lambda: bool(engine.quarantine))
        await ended(engine)
        view = await engine.view("r-1")

    assert view is not None
    assert (view.outcome, view.applied) == (told.outcome, True)
    assert done_at(world) == (EVERYWHERE if told.outcome is Outcome.COMMITTED else NOWHERE)
    assert max(len(each.undone) for each in world.participants.values()) <= 1


@pytest.mark.parametrize("is_refused", [True, False], ids=["refused", "asked at the deadline"])
async def test_a_saga_whose_coordinator_died_before_it_turned_says_where_it_was_refused(
    world: World, *, is_refused: bool
) -> None:
    asked = saga("stock.write", "payment.refuse" if is_refused else "payment.write")
    async with world.coordinator() as engine:
        turning, gate = asyncio.Event(), world.payment.hold("apply")

        async def never(_: object) -> None:
            turning.set()
            await asyncio.Event().wait()

        engine.journal.turn = never  # type: ignore[method-assign, assignment]
        asking = asyncio.create_task(engine.execute(asked))
        await until(lambda: world.payment.calls["apply"] == 1)
        if is_refused:
            gate.set()
        else:
            time_is_up(engine)
        await turning.wait()
        await engine.journal.flush()
        asking.cancel()
    gate.set()
    async with world.coordinator(register=False) as engine:
        answer = await engine.execute(asked)

    assert answer.outcome is Outcome.COMPENSATED
    assert [(reason.participant, reason.retryable) for reason in answer.reasons] == [("payment", True)]


async def test_r4_what_was_not_started_durably_never_happened(world: World) -> None:
    async with world.coordinator() as engine:
        gate = asyncio.Event()
        world.disk.sync = gate.wait  # type: ignore[assignment]
        asking = asyncio.create_task(engine.execute(saga(*ALL)))
        await until(lambda: bool(engine._live.names()))
        for _ in range(20):
            await asyncio.sleep(0)
        asking.cancel()
    world.disk.sync = at_once
    async with world.coordinator(register=False) as engine:
        assert await engine.view("r-1") is None
        assert sum(each.calls["apply"] for each in world.participants.values()) == 0


async def test_a_saga_is_left_to_the_next_start_when_the_coordinator_stops(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("apply")
        asking = asyncio.create_task(engine.execute(saga(*ALL)))
        await until(lambda: world.payment.calls["apply"] == 1)
        await engine.stop(grace=0)
        assert (await asking).outcome is Outcome.PENDING
    gate.set()
    async with world.coordinator(register=False) as engine:
        await ended(engine)
        assert done_at(world) == EVERYWHERE


async def test_a_saga_has_nothing_in_doubt(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("apply")
        asking = asyncio.create_task(engine.execute(saga(*ALL)))
        await until(lambda: world.payment.calls["apply"] == 1)
        assert any(isinstance(each, SagaUnderway) for each in engine._live)
        assert (await engine.in_doubt()).branches == ()
        gate.set()
        await asking
