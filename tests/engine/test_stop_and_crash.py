"""A coordinator that stops, that may begin nothing new, or that dies: what is told, and what its next start does."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from fixtures.virtual_time import run_virtually
from fixtures.world import BOTH, World, crash_while_deciding, is_applied, submission, until, until_true
from twophase.coordinator.engine import rejections
from twophase.coordinator.engine.api import (
    Outcome,
    Protocol,
    Rejected,
    Wait,
    Which,
)
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.memory import MemoryJournal


@pytest.fixture
def world() -> World:
    return World()


async def test_a_stopping_coordinator_takes_nothing_new_and_aborts_what_is_not_decided(world: World) -> None:
    async with world.coordinator() as engine:
        world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        await engine.stop(0)
        with pytest.raises(Rejected, match="stopping"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
        answer = await asking
    assert (answer.outcome, answer.reasons[0].code) == (Outcome.ABORTED, "STOPPING")
    assert world.nothing_prepared()


async def test_a_stopping_coordinator_lets_what_is_prepared_finish_within_its_grace(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        stopping = asyncio.create_task(engine.stop(10))
        await asyncio.sleep(0)
        with pytest.raises(Rejected, match="stopping"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
        assert not stopping.done()
        gate.set()
        answer = await asking
        await stopping
    assert (answer.outcome, answer.applied) == (Outcome.COMMITTED, True)


async def test_a_stopping_coordinator_does_not_wait_for_a_participant_that_does_not_answer(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("commit")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: len(world.order.applied) == 1)
        await engine.stop(0)
        answer = await asking
        assert (answer.outcome, answer.applied, answer.pending) == (Outcome.COMMITTED, False, ("payment",))
        assert len(world.payment.prepared) == 1
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "transactions that the next start has to finish: 1, at payment"
    ]
    gate.set()
    async with world.coordinator(register=False):
        await until(lambda: len(world.payment.applied) == 1)


async def test_a_stopping_coordinator_says_that_a_delegated_branch_is_pending(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.order.hold("apply")
        asking = asyncio.create_task(engine.execute(submission("order.write=1")))
        higher = asyncio.create_task(engine.execute(submission("order.write=1", attempt=2)))
        await until(lambda: world.order.calls["apply"] == 1)
        await engine.stop(0)
        answer = await asking
        assert (answer.outcome, answer.pending) == (Outcome.PENDING, ("order",))
        with pytest.raises(Rejected, match="stopping"):
            await higher
    gate.set()


async def test_a_stopping_coordinator_answers_who_is_still_being_let_in(world: World) -> None:
    async with world.coordinator() as engine:
        engine._peers.changed(engine._peers.get("order"))  # type: ignore[arg-type]
        gate = world.order.hold("handshake")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.order.calls["handshake"] > 1)
        stopping = asyncio.create_task(engine.stop(10))
        await asyncio.sleep(0)
        assert not stopping.done()
        gate.set()
        with pytest.raises(Rejected, match="stopping"):
            await asking
        await stopping
    assert world.order.calls["prepare"] == 0


async def test_r10_without_room_nothing_new_is_begun_and_everything_else_goes_on(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        engine.refusal = rejections.no_room("1 MiB are free", "80 MiB")
        joining = asyncio.create_task(engine.execute(submission(*BOTH)))
        with pytest.raises(Rejected, match="1 MiB are free"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
        with pytest.raises(Rejected, match="1 MiB are free"):
            await engine.register("unheard-of", "order:1")
        await engine.register("order", "order:1")
        gate.set()
        committed = await asking
        assert (committed.outcome, committed.applied) == (Outcome.COMMITTED, True)
        assert await joining == committed
        assert (await engine.execute(submission(*BOTH))).txid == committed.txid
        engine.refusal = None
        assert (await engine.execute(submission(*BOTH, request_id="r-2"))).outcome is Outcome.COMMITTED


async def test_r10_a_failed_journal_fails_the_engine_and_tells_nobody(world: World) -> None:
    journal = await MemoryJournal.open(world.disk)
    engine = Engine(journal, world.links, sweep_every=10)
    await engine.start()
    for name in world.participants:
        await engine.register(name, f"{name}:1")

    async def broken() -> None:
        raise OSError("no space left on device")

    world.disk.sync = broken
    asking = asyncio.create_task(engine.execute(submission(*BOTH)))
    await until(engine.failed.done)
    assert not asking.done()
    assert world.order.calls["commit"] == 0
    asking.cancel()
    await engine._tasks.cancel()


async def test_r9_what_was_not_decided_is_aborted_by_the_next_start(world: World) -> None:
    await crash_while_deciding(world, *BOTH)
    assert not world.nothing_prepared()
    async with world.coordinator(register=False) as engine:
        await until(world.nothing_prepared)
        assert not world.order.applied | world.payment.applied
        await until_true(lambda: _no_unfinished(engine))


async def _no_unfinished(engine: Engine) -> bool:
    return not await engine.views(limit=10, which=Which.UNFINISHED)


async def test_r8_what_was_decided_is_finished_by_the_next_start(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.hold("commit")
        world.payment.hold("commit")
        answer = await engine.execute(replace(submission(*BOTH), wait=Wait.DECIDED))
        assert answer.outcome is Outcome.COMMITTED
    for participant in world.participants.values():
        participant.gates["commit"].set()
    assert not world.order.applied
    async with world.coordinator(register=False):
        await until(lambda: bool(world.order.applied and world.payment.applied))
        assert world.nothing_prepared()


async def test_r8_a_participant_that_comes_back_late_is_finished_then(world: World) -> None:
    await crash_while_deciding(world, *BOTH)
    world.payment.down = True
    async with world.coordinator(register=False):
        await until(lambda: not world.order.prepared)
        assert world.payment.prepared
        world.payment.down = False
        await until(world.nothing_prepared)


async def test_a_delegated_branch_of_before_the_crash_is_settled_by_its_ledger(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.lose_answers = {"apply"}
        world.order.hold("abort")
        asking = asyncio.create_task(engine.execute(submission("order.write=1")))
        await until(lambda: world.order.calls["abort"] == 1)
        asking.cancel()
    world.order.gates["abort"].set()
    async with world.coordinator(register=False) as engine:
        await until_true(lambda: is_applied(engine, "r-1"))
        view = await engine.view("r-1")
    assert view is not None
    assert view.outcome is Outcome.COMMITTED


async def test_a_foreign_or_living_branch_is_left_alone(world: World) -> None:
    foreign = "tp-ffffffffffffffff-00000001-aaaaaaaa-000000000001-0000"
    world.order.prepared |= {foreign: [], "somebody else's": []}
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: len(world.order.prepared) == 3)
        sweeps = world.order.calls["list_prepared"]
        await until(lambda: world.order.calls["list_prepared"] > sweeps + 4)
        assert len(world.order.prepared) == 3
        gate.set()
        assert (await asking).outcome is Outcome.COMMITTED
    assert set(world.order.prepared) == {foreign, "somebody else's"}


def test_a_deadline_that_passes_after_the_end_sends_nothing(world: World) -> None:
    """A saga that was under way is the next start's: whoever is fenced, or has closed its journal, asks nobody."""

    async def whole() -> int:
        async with world.coordinator() as engine:
            world.payment.hold("apply")
            steps = tuple(replace(call, step=call.participant) for call in submission(*BOTH).calls)
            asked = replace(submission(*BOTH, deadline=5.0), calls=steps, protocol=Protocol.SAGA)
            asking = asyncio.create_task(engine.execute(asked))
            await until(lambda: bool(world.payment.calls["apply"]))
            await engine.stop(0)
            answer = await asking
            assert answer.outcome is Outcome.PENDING
            await engine.journal.close()
            before = sum((each.calls for each in world.participants.values()), Counter[str]())
            await asyncio.sleep(60)
            after = sum((each.calls for each in world.participants.values()), Counter[str]())
            return (after - before).total()

    assert run_virtually(whole()) == 0
