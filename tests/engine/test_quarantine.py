"""A journal that is older than its participants: what proves it, what is not done then, what is done by evidence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.world import BOTH, World, crash_while_deciding, submission, until, until_true
from twophase.contract.names import Epoch, Gid, Txid
from twophase.coordinator.engine.api import Outcome, Rejected, Wait
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.events import Decided, Ended, Finished
from twophase.coordinator.journal.memory_state import Entry, Stamped
from twophase.coordinator.protocol.decisions import Ending
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2

STRANGE = Epoch(1, "0badcafe")


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def criticals(caplog: pytest.LogCaptureFixture) -> Callable[[str], int]:
    """How many alarms there were with these words."""
    caplog.set_level(logging.CRITICAL)
    return lambda words: sum(words in record.getMessage() for record in caplog.records)


def gid_of(world: World, *, epoch: Epoch = STRANGE, sequence: int = 1, branch: int = 0) -> str:
    return str(Gid(world.disk.journal_id, Txid(epoch, sequence), branch))


def seen_epoch(world: World) -> None:
    world.payment.seen_epoch = types_pb2.Epoch(number=9, nonce="00000000")


def seen_lower_epoch(world: World) -> None:
    world.payment.seen_epoch = types_pb2.Epoch(number=1, nonce="00000000")


def seen_position(world: World) -> None:
    world.payment.highest_position = 1_000


def strange_branch(world: World) -> None:
    world.payment.prepared[gid_of(world)] = []


def applied_branch(world: World) -> None:
    (gid,) = world.payment.prepared
    world.payment._row(gid, pb.LEDGER_OUTCOME_APPLIED, world.payment.prepared.pop(gid))


PROOFS = [seen_epoch, seen_lower_epoch, seen_position, strange_branch, applied_branch]


async def in_quarantine(engine: Engine) -> None:
    await until(lambda: bool(engine.quarantine))


def _tells_an_outcome(entry: Entry) -> bool:
    return isinstance(entry, Stamped) and isinstance(entry.event, Decided | Finished | Ended)


async def commit_lost_by_the_journal(world: World) -> Txid:
    """A transaction that the copy shows as begun and that then was decided, told, and applied at `order` only."""
    async with world.coordinator() as engine:
        world.payment.hold("commit")
        running = asyncio.create_task(engine.execute(replace(submission(*BOTH), wait=Wait.DECIDED)))
        await until(lambda: bool(world.order.prepared and world.payment.prepared))
        await engine.journal.flush()
        copy = [entry for entry in world.disk.durable if not _tells_an_outcome(entry)]
        answer = await running
        assert answer.outcome is Outcome.COMMITTED
        await until(lambda: bool(world.order.applied))
        assert answer.txid is not None
    world.disk.durable[:] = copy
    world.payment.gates["commit"].set()
    return answer.txid


# --- what proves it, and what follows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("prove", PROOFS)
async def test_an_older_journal_begins_nothing_and_presumes_nothing(
    world: World, prove: Callable[[World], None], criticals: Callable[[str], int]
) -> None:
    undecided = await crash_while_deciding(world, *BOTH)
    prove(world)
    world.stock.down = True  # so that nothing can be settled by evidence
    async with world.coordinator(register=False) as engine:
        await in_quarantine(engine)
        with pytest.raises(Rejected) as refused:
            await engine.execute(submission("stock.write", request_id="r-2"))
        problem = refused.value.problem
        assert (problem.code, problem.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "QUARANTINE")
        assert engine.quarantine in problem.message
        assert "--after-restore" in problem.remedy
        assert await engine.view(undecided) is None
        assert await engine.views(limit=10) == ()
        sweeps = world.order.calls["list_prepared"]
        await until(lambda: world.order.calls["list_prepared"] > sweeps + 6)
    assert world.order.prepared
    assert world.order.calls["abort"] == 0
    assert criticals("the journal is older than its participants") == 1


async def test_starting_again_is_no_way_out(world: World) -> None:
    await crash_while_deciding(world, *BOTH)
    seen_position(world)
    async with world.coordinator(register=False) as engine:
        await in_quarantine(engine)
        proof = engine.quarantine
    world.payment.highest_position = 0
    async with world.coordinator(register=False) as engine:
        assert engine.quarantine == proof
        with pytest.raises(Rejected, match="begins nothing new"):
            await engine.execute(submission(*BOTH, request_id="r-2"))
    assert world.order.prepared


async def test_an_older_journal_leaves_no_trace_at_the_participants(world: World) -> None:
    """What they have seen of the lost epochs must not be covered by its own."""
    seen = types_pb2.Epoch(number=1, nonce="00000000")
    async with world.coordinator():
        pass
    world.payment.seen_epoch = seen
    for _ in range(3):
        async with world.coordinator(register=False) as engine:
            await in_quarantine(engine)
            swept = world.payment.calls["list_prepared"]
            await until(lambda: world.payment.calls["list_prepared"] > swept)  # noqa: B023
    assert world.payment.seen_epoch == seen


async def test_in_quarantine_what_the_journal_decided_is_finished(world: World) -> None:
    async with world.coordinator() as engine:
        world.order.hold("commit")
        world.payment.hold("commit")
        answer = await engine.execute(replace(submission(*BOTH), wait=Wait.DECIDED))
    for participant in (world.order, world.payment):
        participant.gates["commit"].set()
    seen_epoch(world)
    async with world.coordinator(register=False) as engine:
        await until(lambda: bool(world.order.applied and world.payment.applied))
        again = await engine.execute(submission(*BOTH))
        assert (again.outcome, again.txid) == (Outcome.COMMITTED, answer.txid), "what is recorded is told"


async def test_what_is_running_when_it_is_proven_is_rolled_back(world: World) -> None:
    async with world.coordinator() as engine:
        world.payment.hold("prepare")
        asking = asyncio.create_task(engine.execute(submission(*BOTH)))
        await until(lambda: bool(world.order.prepared))
        world.stock.prepared[gid_of(world)] = []
        answer = await asking
        assert (answer.outcome, answer.reasons[0].code) == (Outcome.ABORTED, "QUARANTINE")
        world.payment.gates["prepare"].set()
        await until(lambda: not world.order.prepared and not world.payment.prepared)


# --- by evidence ------------------------------------------------------------------------------------------------------


async def test_r6_what_a_lost_journal_committed_is_committed_everywhere(world: World) -> None:
    txid = await commit_lost_by_the_journal(world)
    assert world.payment.prepared
    async with world.coordinator(register=False) as engine:
        await until(lambda: bool(world.payment.applied))
        await until_true(lambda: _ended(engine, txid))
        view = await engine.view(txid)
        assert view is not None
        assert (view.outcome, view.applied, view.record.decision) == (Outcome.COMMITTED, True, None)
        assert view.record.endings == {0: Ending.APPLIED, 1: Ending.APPLIED}
        again = await engine.execute(submission(*BOTH))
        assert (again.outcome, again.txid) == (Outcome.COMMITTED, txid), "its request is not carried out again"
    assert world.nothing_prepared()
    assert len(world.order.applied) == len(world.payment.applied) == 1


async def _ended(engine: Engine, txid: Txid) -> bool:
    view = await engine.view(txid)
    return view is not None and view.applied


async def test_a_branch_of_an_epoch_that_was_never_given_out_is_committed_by_evidence(world: World) -> None:
    async with world.coordinator():
        pass
    world.order.prepared[gid_of(world, branch=0)] = []
    world.payment._row(gid_of(world, branch=1), pb.LEDGER_OUTCOME_APPLIED, [])
    async with world.coordinator(register=False) as engine:
        await until(lambda: bool(world.order.applied))
        await until_true(lambda: _ended(engine, Txid(STRANGE, 1)))
        view = await engine.view(Txid(STRANGE, 1))
    assert view is not None
    assert view.outcome is Outcome.COMMITTED
    assert [branch.participant for branch in view.record.branches] == ["order", "payment"]


async def test_a_tombstone_under_commit_proves_a_commit_too(world: World) -> None:
    """Only a decided commit is sent, so what it found lost was to be committed (R4)."""
    async with world.coordinator():
        pass
    world.order.prepared[gid_of(world, branch=0)] = []
    lost = gid_of(world, branch=1)
    world.payment._row(lost, pb.LEDGER_OUTCOME_TOMBSTONE, [], types_pb2.DECISION_COMMIT)
    async with world.coordinator(register=False) as engine:
        await until(lambda: bool(world.order.applied))
        await until_true(lambda: _ended(engine, Txid(STRANGE, 1)))
        view = await engine.view(Txid(STRANGE, 1))
    assert view is not None
    assert view.record.endings == {0: Ending.APPLIED, 1: Ending.LOST}


async def test_a_tombstone_under_abort_rolls_back(world: World) -> None:
    await crash_while_deciding(world, *BOTH)
    seen_epoch(world)
    (gid,) = world.payment.prepared
    del world.payment.prepared[gid]
    world.payment._row(gid, pb.LEDGER_OUTCOME_TOMBSTONE, [], types_pb2.DECISION_ABORT)
    async with world.coordinator(register=False) as engine:
        await until(lambda: not world.order.prepared)
        await until_true(lambda: _ended(engine, Gid.parse(gid).txid))
        view = await engine.view(Gid.parse(gid).txid)
    assert view is not None
    assert view.outcome is Outcome.ABORTED
    assert not world.order.applied


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "no participant's ledger tells"),
        ({"payment": "applied", "stock": "abort"}, "contradict"),
        # A delegated transaction has nothing prepared: beside a prepared branch its row is no evidence (R12).
        ({"payment": "delegated"}, "contradict"),
        ({"payment": "refused"}, "contradict"),
        ({"payment": "applied", "stock": "delegated"}, "contradict"),
    ],
    ids=["none", "both", "delegated", "refused", "applied and delegated"],
)
async def test_what_is_not_proven_is_left_and_alarmed_once(
    world: World, rows: dict[str, str], words: str, criticals: Callable[[str], int]
) -> None:
    async with world.coordinator():
        pass
    world.order.prepared[gid_of(world, branch=0)] = []
    for branch, (name, kind) in enumerate(rows.items(), start=1):
        outcome, decision = ROWS[kind]
        world.participants[name]._row(gid_of(world, branch=branch), outcome, [], decision)
    async with world.coordinator(register=False):
        await until(lambda: criticals(words) == 1)
        sweeps = world.order.calls["list_prepared"]
        await until(lambda: world.order.calls["list_prepared"] > sweeps + 6)
    assert world.order.prepared
    assert criticals(words) == 1


async def test_nothing_is_concluded_while_a_participant_is_away_that_may_know_better(
    world: World, criticals: Callable[[str], int]
) -> None:
    await commit_lost_by_the_journal(world)
    world.stock.down = True
    async with world.coordinator(register=False):
        await until(lambda: criticals("participant stock does not answer") == 1)
        sweeps = world.order.calls["handshake"] + world.payment.calls["list_prepared"]
        await until(lambda: world.order.calls["handshake"] + world.payment.calls["list_prepared"] > sweeps + 6)
        assert world.payment.prepared
        world.stock.down = False
        await until(lambda: bool(world.payment.applied))
    assert criticals("participant stock does not answer") == 1


async def test_what_was_not_answered_is_settled_by_a_later_sweep(world: World) -> None:
    txid = await commit_lost_by_the_journal(world)
    world.payment.lose_answers = {"commit"}
    async with world.coordinator(register=False) as engine:
        await until(lambda: world.payment.calls["commit"] > 1)
        assert not await _ended(engine, txid), "nobody has said that the last branch is over"
        world.payment.lose_answers = set()
        await until_true(lambda: _ended(engine, txid))
    assert len(world.payment.applied) == 1


async def test_r11_a_branch_that_is_gone_before_its_evidence_is_carried_out_is_alarmed(
    world: World, criticals: Callable[[str], int]
) -> None:
    txid = await commit_lost_by_the_journal(world)
    gate = world.payment.hold("commit")
    sent = world.payment.calls["commit"]
    async with world.coordinator(register=False) as engine:
        await until(lambda: world.payment.calls["commit"] > sent)
        world.payment.prepared.clear()  # somebody rolls it back by hand
        gate.set()
        await until_true(lambda: _ended(engine, txid))
        view = await engine.view(txid)
        await engine.journal.flush()
    assert view is not None
    assert view.record.endings[1] is Ending.LOST
    assert criticals("heuristic outcome") == 1
    async with world.coordinator(register=False) as engine:
        assert [record.txid for record in await engine.journal.heuristics()] == [txid]
        assert criticals("heuristic outcome") == 2, "again at every start"


# --- R8 ---------------------------------------------------------------------------------------------------------------

ROWS = {
    "applied": (pb.LEDGER_OUTCOME_APPLIED, types_pb2.DECISION_UNSPECIFIED),
    "lost": (pb.LEDGER_OUTCOME_TOMBSTONE, types_pb2.DECISION_COMMIT),
    "abort": (pb.LEDGER_OUTCOME_TOMBSTONE, types_pb2.DECISION_ABORT),
    "delegated": (pb.LEDGER_OUTCOME_TOMBSTONE, types_pb2.DECISION_DELEGATED),
    "refused": (pb.LEDGER_OUTCOME_REFUSED, types_pb2.DECISION_UNSPECIFIED),
}
states = st.sampled_from(["nothing", "prepared", *ROWS])


@settings(max_examples=40, deadline=None)
@given(st.tuples(states, states, states), st.sampled_from(["once", "twice", "by two at once"]))
def test_r8_settled_twice_or_by_two_at_once_it_equals_once(found: tuple[str, str, str], how: str) -> None:
    async def play() -> dict[str, str]:
        world = World()
        async with world.coordinator() as engine:
            for name in world.participants:
                await engine.register(name, f"{name}:1")
        for branch, (name, state) in enumerate(zip(world.participants, found, strict=True)):
            gid = gid_of(world, branch=branch)
            if state == "prepared":
                world.participants[name].prepared[gid] = []
            elif state in ROWS:
                outcome, decision = ROWS[state]
                world.participants[name]._row(gid, outcome, [], decision)
        match how:
            case "by two at once":
                other = World()
                other.participants, other.links = world.participants, world.links
                other.disk.journal_id = world.disk.journal_id
                other.disk.durable[:] = world.disk.durable
                async with world.coordinator(register=False), other.coordinator(register=False):
                    await _swept(world)
            case _:
                for _ in range(2 if how == "twice" else 1):
                    async with world.coordinator(register=False):
                        await _swept(world)
        return {name: _state(world, name) for name in world.participants}

    after = asyncio.run(play())
    signs = {state for state in found if state in ROWS}
    if signs and signs <= {"applied", "lost"}:
        expected = ["applied" if state == "prepared" else state for state in found]
    elif signs == {"abort"}:
        expected = ["nothing" if state == "prepared" else state for state in found]
    else:
        expected = list(found)
    assert list(after.values()) == expected


async def _swept(world: World) -> None:
    counts = {name: participant.calls["list_prepared"] for name, participant in world.participants.items()}
    await until(lambda: all(world.participants[name].calls["list_prepared"] > counts[name] + 3 for name in counts))


def _state(world: World, name: str) -> str:
    participant = world.participants[name]
    if participant.prepared:
        return "prepared"
    for row in participant.ledger.values():
        return next(kind for kind, known in ROWS.items() if known == (row.outcome, row.decision))
    return "nothing"


def test_every_pair_of_signs_has_a_conclusion() -> None:
    from twophase.coordinator.protocol.evidence import Conclusion, Sign, conclude

    assert conclude([]) is Conclusion.NOTHING
    assert conclude([Sign.COMMITTED, Sign.COMMITTED]) is Conclusion.COMMIT
    assert conclude([Sign.ABORTED]) is Conclusion.ABORT
    assert conclude([Sign.DELEGATED]) is Conclusion.CONTRADICTION
    for one, other in product(Sign, Sign):
        if one is not other:
            assert conclude([one, other]) is Conclusion.CONTRADICTION


async def test_an_epoch_that_is_none_proves_nothing_and_its_participant_is_away(world: World) -> None:
    async with world.coordinator():
        pass
    world.payment.seen_epoch = types_pb2.Epoch(number=7, nonce="no nonce")
    async with world.coordinator(register=False) as engine:
        answered = world.payment.calls["handshake"]
        await until(lambda: world.payment.calls["handshake"] > answered + 2 or engine.failed.done())
        assert not engine.failed.done()
        assert not engine.quarantine
        world.payment.seen_epoch = None
        answer = await engine.execute(submission(*BOTH))
        assert answer.outcome is Outcome.COMMITTED
