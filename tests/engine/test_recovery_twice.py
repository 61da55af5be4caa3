"""R8: recovery run twice, or by two at once, equals once; whatever was left, and whoever dies in between."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.virtual_time import run_virtually
from fixtures.world import World
from twophase.contract.names import Gid, Txid
from twophase.coordinator.journal.events import Begun, BranchRef
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2

NAMES = ("order", "payment", "stock")


@dataclass(frozen=True)
class Left:
    """A transaction as a coordinator left it that died: its decision, whether its beginning is on record, and which of
    its two branches are finished already (the other ones are prepared)."""

    decision: Decision | None
    begun: bool
    finished: frozenset[int]


lefts = st.builds(
    Left, st.sampled_from([None, COMMIT, ABORT]), st.booleans(), st.frozensets(st.integers(0, 1), max_size=1)
)


def branches_of(number: int) -> tuple[BranchRef, BranchRef]:
    return BranchRef(0, NAMES[number % 3]), BranchRef(1, NAMES[(number + 1) % 3])


async def leave(world: World, lefts: list[Left]) -> None:
    async with world.coordinator() as engine:
        journal = engine.journal
        for number, left in enumerate(lefts):
            txid, branches = Txid(journal.epoch, 1_000 + number), branches_of(number)
            if left.begun:
                journal.append(Begun(txid, None, branches))
            if left.decision is not None:
                await journal.decide(Proposal(txid, left.decision, journal.epoch, None, branches))
        await journal.flush()
    for number, left in enumerate(lefts):
        for ref in branches_of(number):
            gid = str(Gid(journal.journal_id, Txid(journal.epoch, 1_000 + number), ref.number))
            participant = world.participants[ref.participant]
            if left.decision is None or ref.number not in left.finished:
                participant.prepared[gid] = []
            elif left.decision == COMMIT:
                participant._row(gid, pb.LEDGER_OUTCOME_APPLIED, [])
            else:
                participant._row(gid, pb.LEDGER_OUTCOME_TOMBSTONE, [], types_pb2.DECISION_ABORT)


async def recover(world: World, *, seconds: float = 30.0, whole: bool = False) -> None:
    async with world.coordinator(register=False, sweep_every=1.0) as engine:
        await asyncio.sleep(seconds)
        assert engine.quarantine == ""
        if whole:
            assert await engine.journal.transactions(limit=10, unfinished_only=True) == ()


def twin(world: World) -> World:
    """Another coordinator, on a copy of the journal's disk: it knows of the first one no more than the dead one did."""
    other = World()
    other.participants, other.links = world.participants, world.links
    other.disk.journal_id = world.disk.journal_id
    other.disk.durable[:] = world.disk.durable
    return other


@settings(max_examples=50, deadline=None)
@given(
    st.lists(lefts, min_size=1, max_size=6),
    st.sampled_from(["once", "twice", "in pieces"]),
    st.sets(st.sampled_from(NAMES), max_size=2),
    st.floats(0.0, 0.3),
)
def test_r8_recovery_ends_the_same_way_however_often_it_runs(
    lefts: list[Left], how: str, away: set[str], moment: float
) -> None:
    async def play() -> World:
        world = World()
        await leave(world, lefts)
        for name in away:
            world.participants[name].down = True
        match how:
            case "in pieces":  # it dies again and again, at any moment
                for part in (0.0, moment, moment * 2):
                    await recover(world, seconds=part)
            case "twice":
                await recover(world)
            case _:
                pass
        for name in away:
            world.participants[name].down = False
        await recover(world, whole=True)
        assert world.nothing_prepared()
        return world

    check(run_virtually(play()), lefts)


@settings(max_examples=30, deadline=None)
@given(st.lists(lefts, min_size=1, max_size=6))
def test_r8_two_recover_at_once_from_the_same_decisions(lefts: list[Left]) -> None:
    """The second one is a coordinator that should not be there any more; what is decided, both know."""
    decided = [left for left in lefts if left.decision is not None]

    async def play() -> World:
        world = World()
        await leave(world, decided)
        other = twin(world)
        await asyncio.gather(_run(world), _run(other))
        assert world.nothing_prepared()
        return world

    check(run_virtually(play()), decided)


async def _run(world: World) -> None:
    """As `recover`, of two that find each other's epoch strange."""
    async with world.coordinator(register=False, sweep_every=1.0):
        await asyncio.sleep(30)


def check(world: World, lefts: list[Left]) -> None:
    """Every transaction ended one way, everywhere: as it was decided, or by abort."""
    for number, left in enumerate(lefts):
        for ref in branches_of(number):
            participant = world.participants[ref.participant]
            applied = {Gid.parse(gid) for gid in participant.applied}
            ours = {gid for gid in applied if gid.txid.sequence == 1_000 + number and gid.branch == ref.number}
            assert bool(ours) is (left.decision == COMMIT), (left, ref)
