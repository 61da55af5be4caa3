"""What the coordinator says is in doubt, over fake participants."""

from __future__ import annotations

import asyncio

import pytest

from fixtures.unswept import World, decide, submission, until
from twophase.contract.names import Epoch, Gid, Txid
from twophase.coordinator.engine.indoubt import Doubt, Survey
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.journal.events import Begun, BranchRef, Ended, Finished, Voted
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, Vote, delegated
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2

JOURNAL_OF_ANOTHER = "fedcba9876543210"


@pytest.fixture
def world() -> World:
    return World()


def of(survey: Survey, participant: str) -> Doubt:
    [found] = [doubt for doubt in survey.branches if doubt.participant == participant]
    return found


async def test_nothing_is_in_doubt(world: World) -> None:
    async with world.coordinator() as engine:
        await engine.execute(submission())
        assert await engine.in_doubt() == Survey((), (), "")


async def test_a_branch_that_waits_for_the_others_is_told_with_whose_vote(world: World) -> None:
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: bool(world.order.prepared) and world.payment.calls["prepare"] == 1)
        [doubt] = (await engine.in_doubt()).branches
        gate.set()
        await running
    assert (doubt.participant, doubt.doing) == ("order", "waits for the vote of payment")
    assert doubt.seen is not None
    assert (doubt.seen.owner, doubt.age) == ("order", 1.0)
    assert doubt.record is not None
    assert doubt.record.request is not None
    assert (doubt.record.request.request_id, doubt.record.decision) == ("r-1", None)


async def test_a_decided_branch_is_told_with_every_attempt_and_the_last_error(world: World) -> None:
    commit = world.payment.commit
    asked, busy = asyncio.Event(), asyncio.Event()

    async def refuse(request: pb.CommitRequest, *, timeout: float) -> pb.CommitResponse:
        asked.set()
        await busy.wait()
        raise LinkLost("payment is busy")

    world.payment.commit = refuse  # type: ignore[method-assign]
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await asked.wait()
        first = of(await engine.in_doubt(), "payment")
        busy.set()
        [transaction] = engine._live
        await until(lambda: transaction.parts[1].attempts >= 2)
        later = of(await engine.in_doubt(), "payment")
        world.payment.commit = commit  # type: ignore[method-assign]
        await running
    assert (first.doing, first.attempts, first.last_error) == ("commits it", 0, "")
    assert first.record is not None
    assert first.record.decision == COMMIT
    assert later.attempts >= 2
    assert later.doing.startswith("commits it")
    assert later.doing.endswith(f": {later.attempts} attempts in vain")
    assert later.last_error == "payment is busy"


async def test_a_branch_at_a_participant_that_is_away_is_told_by_the_journal(world: World) -> None:
    gate = world.payment.hold("commit")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["commit"] == 1)
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
        gate.set()
        await running
    assert [(one.participant, one.error) for one in survey.unanswered] == [("payment", "payment is down")]
    doubt = of(survey, "payment")
    assert (doubt.seen, doubt.age) == (None, 0.0)
    assert doubt.doing.startswith("commits it")


async def test_a_participant_that_is_away_is_waited_for_and_told_so(world: World) -> None:
    gate = world.payment.hold("commit")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["commit"] == 1)
        world.payment.down = True
        gate.set()
        [peer] = [peer for peer in engine._peers if peer.name == "payment"]
        world.payment.gates["list_prepared"].set()  # its watcher notices
        await until(lambda: peer.away)
        doubt = of(await engine.in_doubt(), "payment")
        world.payment.down = False
        await running
    assert (doubt.doing, doubt.attempts) == ("commits it as soon as payment is back: 1 attempt in vain", 1)
    assert "payment went down" in doubt.last_error


async def test_the_branch_that_all_wait_for_is_told_so(world: World) -> None:
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["prepare"] == 1 and bool(world.order.prepared))
        world.payment.down = True
        doubt = of(await engine.in_doubt(), "payment")
        world.payment.down = False
        gate.set()
        await running
    assert doubt.doing == "waits for its vote"


async def test_what_is_undecided_at_a_participant_that_is_away_is_told_too(world: World) -> None:
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: world.payment.calls["prepare"] == 1 and bool(world.order.prepared))
        world.order.down = True
        doubt = of(await engine.in_doubt(), "order")
        world.order.down = False
        gate.set()
        await running
    assert (doubt.seen, doubt.doing) == (None, "waits for the vote of payment")


async def test_an_older_participant_is_asked_what_it_has_prepared(world: World) -> None:
    world.order.not_offered.add("observe")
    gate = world.payment.hold("prepare")
    async with world.coordinator() as engine:
        running = asyncio.create_task(engine.execute(submission()))
        await until(lambda: bool(world.order.prepared) and world.payment.calls["prepare"] == 1)
        world.order.gates["list_prepared"].set()
        doubt = of(await engine.in_doubt(), "order")
        gate.set()
        await running
    assert doubt.seen is not None
    assert list(doubt.seen.locks) == []


async def test_an_answer_from_another_database_does_not_count(world: World) -> None:
    async with world.coordinator() as engine:
        other = types_pb2.DatabaseIdentity(system_identifier="99", timeline=1, database="order")
        world.order.identity = other
        survey = await engine.in_doubt()
    [unanswered] = survey.unanswered
    assert unanswered.participant == "order"
    assert "another database" in unanswered.error


async def test_r9_a_foreign_name_is_not_told(world: World) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 9)
        world.order.seen_prepared = ["an_order", str(Gid(JOURNAL_OF_ANOTHER, txid, 1))]
        assert (await engine.in_doubt()).branches == ()


async def test_what_was_finished_while_it_was_looked_at_is_not_in_doubt(world: World) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        await decide(engine, txid, COMMIT, "order", "payment")
        engine.journal.append(Finished(txid, 0, Ending.APPLIED))
        gid = Gid(engine.journal.journal_id, txid, 0)
        world.order.seen_prepared = [str(gid)]
        world.order.gates["list_prepared"].set()
        gone = (await engine.in_doubt()).branches
        world.order.gates["list_prepared"].clear()
        engine.journal.append(Finished(txid, 1, Ending.APPLIED))
        engine.journal.append(Ended(txid, committed=True))
        world.order.seen_prepared, world.order.prepared = [], {str(gid): []}
        survey = asyncio.create_task(engine.in_doubt())
        await asyncio.sleep(0)
        world.order.gates["list_prepared"].set()
        [outlived] = (await survey).branches
    assert gone == ()
    assert outlived.doing == "finishes it at the next sweep: it was over"


@pytest.mark.parametrize(
    ("decision", "doing"),
    [
        (COMMIT, "commits it at the next sweep"),
        (ABORT, "rolls it back at the next sweep"),
        (delegated(0), "nothing: it is prepared although the decision was delegated to one branch; somebody must look"),
        (None, "nobody decided it: aborts it at the next sweep"),
    ],
)
async def test_a_branch_that_nobody_is_at_work_on_is_told_with_what_will_become_of_it(
    world: World, decision: Decision | None, doing: str
) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        if decision is not None:
            await decide(engine, txid, decision, "order", "payment")
        world.payment.prepared[str(Gid(engine.journal.journal_id, txid, 1))] = []
        [doubt] = (await engine.in_doubt()).branches
    assert doubt.doing == doing


async def test_a_branch_of_an_earlier_epoch_is_aborted_and_of_a_strange_one_is_not(world: World) -> None:
    first = await MemoryJournal.open(world.disk)
    epoch = first.epoch
    await first.close()
    async with world.coordinator() as engine:
        journal_id = engine.journal.journal_id
        for number, owner in enumerate((epoch, Epoch(epoch.number, "ffffffff"))):
            world.order.prepared[str(Gid(journal_id, Txid(owner, 1), number))] = []
        fenced, strange = (await engine.in_doubt()).branches
        await engine._peers.quarantine.prove("payment has seen epoch 9")
        quarantined = await engine.in_doubt()
    assert fenced.doing == "nobody decided it: aborts it at the next sweep"
    assert strange.doing == "settles it by evidence only: this journal never gave out its epoch"
    assert quarantined.quarantine == "payment has seen epoch 9"
    assert {doubt.doing for doubt in quarantined.branches} == {
        "settles it by evidence only: a decision on it may be lost with a newer journal"
    }


async def test_the_oldest_comes_first_and_what_nobody_saw_comes_last(world: World) -> None:
    async with world.coordinator() as engine:
        journal_id = engine.journal.journal_id
        await decide(engine, Txid(engine.journal.epoch, 1), COMMIT, "order", "payment")
        for sequence in (7, 3, 5):
            world.order.prepared[str(Gid(journal_id, Txid(engine.journal.epoch, sequence), 1))] = []
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
    assert [(doubt.gid.txid.sequence, doubt.seen is not None) for doubt in survey.branches] == [
        (7, True),
        (3, True),
        (5, True),
        (1, False),
    ]
    assert survey.branches[-1].doing == "commits it at the next sweep"


@pytest.mark.parametrize(
    ("vote", "decision", "told"),
    [
        (Vote.YES, None, True),
        (Vote.LOST, None, True),
        (None, None, True),
        (Vote.READ_ONLY, None, False),
        (Vote.NO, None, False),
        (Vote.YES, COMMIT, True),
        (None, COMMIT, True),
    ],
)
async def test_at_a_participant_that_is_away_only_what_may_be_prepared_is_told(
    world: World,
    vote: Vote | None,
    decision: Decision | None,
    told: bool,  # noqa: FBT001
) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        branches = (BranchRef(0, "order"), BranchRef(1, "payment"))
        engine.journal.append(Begun(txid, None, branches))
        if vote is not None:
            engine.journal.append(Voted(txid, 1, vote))
        if decision is not None:
            await engine.journal.decide(Proposal(txid, decision, engine.journal.epoch, None, branches))
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
    assert bool(survey.branches) is told


async def test_what_the_decision_did_not_concern_is_not_in_doubt_at_a_participant_that_is_away(world: World) -> None:
    async with world.coordinator() as engine:
        txid = Txid(engine.journal.epoch, 900)
        branches = (BranchRef(0, "order"), BranchRef(1, "payment"))
        engine.journal.append(Begun(txid, None, branches))
        await engine.journal.decide(Proposal(txid, COMMIT, engine.journal.epoch, None, branches[:1]))
        world.payment.down = True
        survey = await engine.in_doubt()
        world.payment.down = False
    assert survey.branches == ()
