"""R6: what a duplicate, a repetition, a copy and a further attempt of a request get."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fixtures.world import BOTH, World, is_applied, submission, until, until_true
from twophase.contract.names import Epoch
from twophase.coordinator.engine.api import (
    NEVER_SEEN,
    Answer,
    Outcome,
    Rejected,
)


@pytest.fixture
def world() -> World:
    return World()


async def test_r6_a_duplicate_joins_the_running_one(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        second = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.payment.calls["prepare"] == 1)
        gate.set()
        answers = await asyncio.gather(first, second)
    assert answers[0] == answers[1]
    assert world.order.calls["prepare"] == 1


async def test_r6_a_repetition_gets_the_recorded_outcome_and_the_results(world: World) -> None:
    async with world.coordinator() as engine:
        first = await engine.execute(submission(*BOTH))
        again = await engine.execute(submission(*BOTH))
    assert again == first
    assert world.order.calls["prepare"] == 1


async def test_r6_a_repetition_after_a_crash_gets_the_recorded_outcome(world: World) -> None:
    async with world.coordinator() as engine:
        first = await engine.execute(submission(*BOTH))
        old = engine.journal.epoch
    async with world.coordinator() as engine:
        await until_true(lambda: is_applied(engine, "r-1"))
        again = await engine.execute(replace(submission(*BOTH), seen_epoch=old))
    assert (again.outcome, again.txid, again.results) == (first.outcome, first.txid, first.results)


@pytest.mark.parametrize("crash", [False, True], ids=["same process", "after a crash"])
async def test_r6_a_repetition_hears_why_the_only_writer_refused(world: World, crash: bool) -> None:  # noqa: FBT001
    async with world.coordinator() as engine:
        first = await engine.execute(submission("order.refuse"))
        again = await engine.execute(submission("order.refuse"))
        view = await engine.view("r-1")
        await engine.journal.flush()
    if crash:
        async with world.coordinator() as engine:
            again = await engine.execute(submission("order.refuse"))
            view = await engine.view("r-1")
    assert [(reason.kind, reason.code) for reason in first.reasons] == [("BUSINESS", "NO_FUNDS")]
    assert again == first
    assert view is not None
    assert view.record.reasons == first.reasons


async def test_r6_a_repetition_hears_why_the_only_writer_refused_before_a_crash(world: World) -> None:
    """Nobody had heard of it then: the next coordinator asks the participant, and writes down what that says."""
    async with world.coordinator() as engine:
        gate = world.order.hold("apply")
        world.order.lose_answers = {"apply", "abort"}
        asking = asyncio.create_task(engine.execute(submission("order.refuse")))
        await until(lambda: world.order.calls["apply"] == 1)
        gate.set()
        await until(lambda: bool(world.order.ledger))
        asking.cancel()
    world.order.lose_answers = set()
    async with world.coordinator() as engine:
        await until_true(lambda: is_applied(engine, "r-1"))
        answer = await engine.execute(submission("order.refuse"))
    assert answer.outcome is Outcome.ABORTED
    assert [(reason.kind, reason.code) for reason in answer.reasons] == [("BUSINESS", "NO_FUNDS")]


async def test_r6_a_repetition_hears_that_the_only_writer_had_not_begun_before_a_crash(world: World) -> None:
    """It is barred, so it has no reason of its own; what was aborted by a crash alone may be tried again."""
    async with world.coordinator() as engine:
        world.order.hold("apply")
        asking = asyncio.create_task(engine.execute(submission("order.write")))
        await until(lambda: world.order.calls["apply"] == 1)
        await engine.journal.flush()
        asking.cancel()
    assert not world.order.ledger
    async with world.coordinator() as engine:
        await until_true(lambda: is_applied(engine, "r-1"))
        answer = await engine.execute(submission("order.write"))
    assert answer.outcome is Outcome.ABORTED
    assert [(reason.code, reason.participant, reason.retryable) for reason in answer.reasons] == [
        ("BARRED", "order", True)
    ]


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "running"])
async def test_r6_the_same_id_with_other_content_is_refused(world: World, finished: bool) -> None:  # noqa: FBT001
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.payment.calls["prepare"] == 1)
        if finished:
            gate.set()
            await first
        with pytest.raises(Rejected, match="other content") as refused:
            await engine.execute(submission("order.write=1", "payment.write=3"))
        assert refused.value.problem.field == "request_id"
        gate.set()
        await first


async def test_r6_after_an_abort_only_a_higher_attempt_runs(world: World) -> None:
    calls = ("order.write", "payment.maybe")
    world.payment.operations["maybe"] = world.payment.operations["refuse"]
    async with world.coordinator() as engine:
        first = await engine.execute(submission(*calls))
        world.payment.operations["maybe"] = world.payment.operations["write"]
        same = await engine.execute(submission(*calls))
        higher = await engine.execute(submission(*calls, attempt=2))
        late_copy = await engine.execute(submission(*calls))
    assert (first.outcome, same.outcome) == (Outcome.ABORTED, Outcome.ABORTED)
    assert same.reasons == first.reasons
    assert (higher.outcome, higher.attempt) == (Outcome.COMMITTED, 2)
    assert (late_copy.outcome, late_copy.attempt) == (Outcome.COMMITTED, 2), "the id is committed, and that is told"


async def test_r6_a_copy_from_an_older_epoch_without_a_record_is_not_seen_and_not_run(world: World) -> None:
    async with world.coordinator() as engine:
        old = engine.journal.epoch
    async with world.coordinator() as engine:
        for seen in (old, NEVER_SEEN, Epoch(engine.journal.epoch.number, "00000000")):
            answer = await engine.execute(replace(submission(*BOTH), seen_epoch=seen))
            assert answer == Answer(Outcome.NOT_SEEN, None, 1)
        assert world.order.calls["prepare"] == 0
        again = await engine.execute(replace(submission(*BOTH), seen_epoch=engine.journal.epoch))
        assert again.outcome is Outcome.COMMITTED


async def test_r6_what_was_told_aborted_stays_aborted_for_its_copies_after_a_crash(world: World) -> None:
    calls = ("order.write", "payment.refuse")
    async with world.coordinator() as engine:
        old = engine.journal.epoch
        assert (await engine.execute(submission(*calls))).outcome is Outcome.ABORTED
    async with world.coordinator() as engine:
        copy = await engine.execute(replace(submission(*calls), seen_epoch=old))
    assert copy.outcome in (Outcome.ABORTED, Outcome.NOT_SEEN)
    assert world.order.calls["prepare"] == 1


async def test_r6_a_higher_attempt_waits_for_the_running_one(world: World) -> None:
    async with world.coordinator() as engine:
        gate = world.payment.hold("prepare")
        first = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: world.payment.calls["prepare"] == 1)
        second = asyncio.create_task(engine.execute(submission(*BOTH, attempt=2)))
        gate.set()
        answers = await asyncio.gather(first, second)
    assert [answer.attempt for answer in answers] == [1, 1]
    assert len(world.order.applied) == 1
