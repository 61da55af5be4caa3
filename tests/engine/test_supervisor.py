"""Recovery in numbers, on virtual time: who is asked how often, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from fixtures.fakes import FakeLinks, FakeParticipant
from fixtures.virtual_time import run_virtually
from fixtures.world import BOTH, World, submission
from twophase.contract.names import Epoch, Gid, Txid
from twophase.coordinator.engine.api import Outcome, Wait
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.events import Begun, BranchRef
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.coordinator.journal.port import JournalFailed, Proposal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision

BRANCHES = (BranchRef(0, "order"), BranchRef(1, "payment"))
MANY = 300
LONG = 1_000  # seconds, of virtual time


def now() -> float:
    return asyncio.get_running_loop().time()


async def left_in_doubt(world: World, number: int, *, decided: bool) -> None:
    """A coordinator died; both branches of so many transactions are prepared."""
    async with world.coordinator() as engine:
        journal = engine.journal
        txids = [Txid(journal.epoch, 1_000 + sequence) for sequence in range(number)]
        for txid in txids:
            journal.append(Begun(txid, None, BRANCHES))
        if decided:
            for txid in txids:
                await journal.decide(Proposal(txid, COMMIT, journal.epoch, None, BRANCHES))
        await journal.flush()
    for txid in txids:
        for ref in BRANCHES:
            world.participants[ref.participant].prepared[str(Gid(journal.journal_id, txid, ref.number))] = []
    for participant in world.participants.values():
        participant.calls.clear()


async def gone(participant: FakeParticipant, *, within: float) -> float:
    """Waits until nothing is prepared there; how long that took, in virtual seconds."""
    began = now()
    async with asyncio.timeout(within):
        while participant.prepared:
            await asyncio.sleep(0.001)
    return now() - began


async def test_the_loop_turns_while_many_are_taken_up_or_a_standby_would_take_the_coordinator_for_frozen() -> None:
    world = World()
    await left_in_doubt(world, MANY, decided=True)
    for participant in world.participants.values():
        participant.down = True
    engine = Engine(await MemoryJournal.open(world.disk), world.links)
    loop = asyncio.get_running_loop()
    live: list[int] = []

    def look() -> None:
        live.append(len(engine._live))
        loop.call_soon(look)

    look()
    await engine.start()
    assert len(engine._live) == MANY
    assert max(later - earlier for earlier, later in pairwise(live)) < MANY // 10
    await engine.abandon()


@pytest.mark.parametrize("how", ["down", "silent"])
def test_a_participant_that_was_away_for_long_is_finished_in_one_pass(how: str) -> None:
    async def play() -> None:
        world = World()
        await left_in_doubt(world, MANY, decided=True)
        setattr(world.payment, how, True)
        async with world.coordinator(register=False, sweep_every=5.0):
            await gone(world.order, within=1)
            await asyncio.sleep(LONG)
            meanwhile = Counter(world.payment.calls)
            setattr(world.payment, how, False)
            took = await gone(world.payment, within=10)
        asked = world.payment.calls - meanwhile
        assert meanwhile["handshake"] < 2.5 * LONG, "one probe in about a second, whoever waits"
        assert meanwhile["commit"] <= 1, "nobody else knocks at a dead address"
        assert asked["commit"] == MANY, "once each"
        assert asked["handshake"] <= 2
        assert took <= (1.5 if how == "down" else 7.0), "at once when it is seen to be back"

    run_virtually(play())


def test_a_participant_lost_in_the_middle_is_asked_by_one_only() -> None:
    """Not at the start: it was there, and many transactions find it gone at the same time."""

    async def play() -> None:
        world = World()
        async with world.coordinator(sweep_every=5.0) as engine:
            gate = world.payment.hold("commit")
            wait = replace(submission(*BOTH), wait=Wait.DECIDED)
            answers = [await engine.execute(replace(wait, request_id=f"r-{number}")) for number in range(MANY)]
            assert {answer.outcome for answer in answers} == {Outcome.COMMITTED}
            world.payment.down = True
            gate.set()
            await asyncio.sleep(5)
            before = Counter(world.payment.calls)
            await asyncio.sleep(LONG)
            waited = world.payment.calls - before
            assert waited["commit"] == 0
            assert LONG / 1.5 < waited["handshake"] < 2.5 * LONG
            world.payment.down = False
            await gone(world.payment, within=1.5)
        assert len(world.payment.applied) == MANY

    run_virtually(play())


@pytest.mark.parametrize("how", ["down", "silent"])
@pytest.mark.parametrize("decided", [True, False], ids=["decided", "undecided"])
def test_one_dead_participant_holds_up_nobody_else(how: str, decided: bool) -> None:  # noqa: FBT001
    """`stock` has no part in these transactions, and is asked about them all the same if they are undecided."""

    async def play(dead: str) -> float:
        world = World()
        await left_in_doubt(world, MANY, decided=decided)
        setattr(world.participants[dead], how, True)
        async with world.coordinator(register=False, sweep_every=5.0):
            return await gone(world.order, within=30)

    async def whole() -> float:
        world = World()
        await left_in_doubt(world, MANY, decided=decided)
        async with world.coordinator(register=False, sweep_every=5.0):
            return await gone(world.order, within=30)

    undisturbed = run_virtually(whole())
    for dead in ("payment", "stock"):
        late = run_virtually(play(dead)) - undisturbed
        # Before abort is presumed a participant gets two seconds to say that it knows better: once, not once for each.
        assert late < (2.5 if how == "silent" and not decided else 0.5)


def test_a_live_commit_is_not_later_for_a_dead_neighbour() -> None:
    async def play() -> None:
        world = World()
        async with world.coordinator(sweep_every=5.0) as engine:
            gate = world.payment.hold("commit")
            began = now()
            answer = await engine.execute(replace(submission(*BOTH), wait=Wait.DECIDED))
            world.payment.silent = True
            gate.set()
            while not world.order.applied:
                await asyncio.sleep(0.001)
            assert answer.outcome is Outcome.COMMITTED
            assert now() - began < 0.5
            other = await engine.execute(submission("order.write", "stock.write", request_id="r-2"))
            assert (other.outcome, other.applied) == (Outcome.COMMITTED, True)
            assert now() - began < 0.5

    run_virtually(play())


@pytest.mark.parametrize("decision", [COMMIT, ABORT], ids=str)
def test_r9_a_branch_that_is_prepared_again_does_not_wait_for_the_others(decision: Decision) -> None:
    """Its server failed over to a standby that had the PREPARE and not what followed. `payment` cannot be told."""

    async def play() -> None:
        world = World()
        await left_in_doubt(world, 1, decided=decision == COMMIT)
        (gid,) = world.order.prepared
        world.payment.hold("commit" if decision == COMMIT else "abort")
        async with world.coordinator(sweep_every=5.0) as engine:
            await gone(world.order, within=10)
            await asyncio.sleep(1)
            world.order.ledger.pop(gid, None)
            world.order.prepared[gid] = []
            told = {doubt.participant: doubt.doing for doubt in (await engine.in_doubt()).branches}
            await gone(world.order, within=10)
            assert world.payment.prepared, "it is still waited for"
            assert world.order.applied == ({gid} if decision == COMMIT else set())
        assert told["order"] == "finishes it at the next sweep: it was over"

    run_virtually(play())


def test_r9_a_branch_the_journal_never_knew_does_not_wait_for_the_others() -> None:
    """What was begun is lost with the crash. `payment` is found first, and then can be asked, and cannot roll back."""

    async def play() -> None:
        world = World()
        async with world.coordinator() as engine:
            journal_id, txid = engine.journal.journal_id, Txid(engine.journal.epoch, 1_000)
        world.payment.prepared[str(Gid(journal_id, txid, 1))] = []
        world.payment.hold("abort")
        async with world.coordinator(register=False, sweep_every=5.0) as engine:
            while txid not in engine._live:
                await asyncio.sleep(0.001)
            world.order.prepared[str(Gid(journal_id, txid, 0))] = []
            told = {doubt.participant: doubt.doing for doubt in (await engine.in_doubt()).branches}
            await gone(world.order, within=10)
            assert world.payment.prepared, "it is still waited for"
        assert told["order"] == "rolls it back at the next sweep"

    run_virtually(play())


def test_a_thousand_in_doubt_cost_a_participant_a_handful_of_questions() -> None:
    async def play() -> None:
        world = World()
        await left_in_doubt(world, 500, decided=False)
        async with world.coordinator(register=False, sweep_every=5.0):
            await gone(world.order, within=5)
            await gone(world.payment, within=5)
        for participant in world.participants.values():
            assert participant.calls["inspect"] <= 20
        assert world.order.calls["abort"] == world.payment.calls["abort"] == 500, "each is told once"

    run_virtually(play())


def test_a_participant_of_before_is_asked_one_by_one() -> None:
    async def play() -> None:
        world = World()
        await left_in_doubt(world, 20, decided=False)
        for participant in world.participants.values():
            participant.one_by_one = True
        async with world.coordinator(register=False, sweep_every=5.0):
            await gone(world.order, within=5)
        assert world.stock.calls["inspect"] >= 20

    run_virtually(play())


def test_an_answer_that_names_what_was_not_asked_for_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        world = World()
        await left_in_doubt(world, 1, decided=False)
        stranger = str(Gid(world.disk.journal_id, Txid(Epoch(1, "0badcafe"), 1), 0))
        inspect = world.stock.inspect

        async def lying(request: object, *, timeout: float) -> object:
            answer = await inspect(request, timeout=timeout)  # type: ignore[arg-type]
            answer.prepared_gids.append(stranger)
            return answer

        world.stock.inspect = lying  # type: ignore[method-assign,assignment]
        async with world.coordinator(register=False, sweep_every=5.0):
            await gone(world.order, within=5)

    run_virtually(play())
    assert "names what was not asked for" in caplog.text


def test_r10_a_journal_that_failed_while_nobody_used_it_ends_the_process() -> None:
    async def play() -> None:
        world = World()
        journal = await MemoryJournal.open(world.disk)
        engine = Engine(journal, FakeLinks(), sweep_every=5.0)
        await engine.start()
        await asyncio.sleep(60)
        assert not engine.failed.done()
        journal.fail(OSError("the disk is gone"))
        await asyncio.sleep(1.5)
        with pytest.raises(JournalFailed, match="the disk is gone"):
            engine.failed.result()
        await engine._tasks.cancel()

    run_virtually(play())
