"""The way out of quarantine: what it needs, what it changes, and what stays a matter of evidence."""

from __future__ import annotations

import pytest

from fixtures.world import BOTH, World, submission, until, until_true
from twophase.contract.names import Epoch, Gid, Txid
from twophase.coordinator.engine.api import Outcome, Rejected
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.fingerprints import request_fingerprint
from twophase.coordinator.journal.events import Begun, BranchRef, RequestRef
from twophase.coordinator.journal.memory import MemoryJournal
from twophase.coordinator.journal.port import Restoration
from twophase.coordinator.restoring import CannotLift, lift
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2

LOST = Epoch(3, "0badcafe")


@pytest.fixture
async def world() -> World:
    """The journal knows three participants, and one of them has seen a later epoch and a higher position."""
    world = World()
    async with world.coordinator() as engine:
        assert (await engine.execute(submission(*BOTH))).outcome is Outcome.COMMITTED
    world.payment.seen_epoch = types_pb2.Epoch(number=LOST.number, nonce=LOST.nonce)
    world.payment.highest_position = 1_000
    return world


async def lifted(world: World, *declared: tuple[str, str]) -> Restoration:
    journal = await MemoryJournal.open(world.disk)
    try:
        await lift(journal, world.links, declared)
        return await journal.restoration()
    finally:
        await journal.close()


def gid(world: World, branch: int = 0) -> str:
    return str(Gid(world.disk.journal_id, Txid(LOST, 7), branch))


async def test_it_goes_on_above_everything_that_was_seen(world: World) -> None:
    async with world.coordinator(register=False) as engine:
        await until(lambda: bool(engine.quarantine))
    assert await lifted(world) == Restoration(floor=3)
    async with world.coordinator(register=False) as engine:
        assert engine.journal.epoch.number == 4
        assert engine.journal.position >= 1_000
        answer = await engine.execute(submission(*BOTH, request_id="r-2"))
        assert (answer.outcome, engine.quarantine) == (Outcome.COMMITTED, "")
    async with world.coordinator(register=False) as engine:
        again = await engine.execute(submission(*BOTH, request_id="r-2"))
        assert (again.txid, engine.quarantine) == (answer.txid, "")


async def test_every_participant_must_tell_what_it_has_seen(world: World) -> None:
    world.stock.down = True
    with pytest.raises(CannotLift, match=r"'stock' does not tell .*start it"):
        await lifted(world)
    assert (await _restoration(world)).floor == 0


async def test_a_participant_with_another_database_tells_nothing(world: World) -> None:
    world.stock.identity = types_pb2.DatabaseIdentity(system_identifier="1", timeline=1, database="stock")
    with pytest.raises(CannotLift, match="answers for database 'stock' of server 1"):
        await lifted(world)


async def test_a_journal_without_participants_is_not_the_one_that_was_restored() -> None:
    with pytest.raises(CannotLift, match="knows no participant"):
        await lifted(World())


async def test_what_is_declared_counts_though_the_copy_does_not_know_it(world: World) -> None:
    world.disk.durable[:] = [entry for entry in world.disk.durable if getattr(entry, "name", "") != "payment"]
    assert (await lifted(world, ("payment", "payment:1"))).floor == 3
    with pytest.raises(CannotLift, match="is 'order'"):
        await lifted(world, ("payment", "order:1"))


async def test_the_option_that_was_left_behind_does_nothing(world: World) -> None:
    await lifted(world)
    async with world.coordinator(register=False) as engine:
        await until(lambda: engine._peers.get("payment").here.is_set())  # type: ignore[union-attr]
    with pytest.raises(CannotLift, match="start without --after-restore"):
        await lifted(world)
    world.payment.highest_position = 5_000
    assert (await lifted(world)).floor > 4, "it was restored again"


async def _restoration(world: World) -> Restoration:
    journal = await MemoryJournal.open(world.disk)
    known = await journal.restoration()
    await journal.close()
    return known


async def test_what_was_lost_stays_a_matter_of_evidence(world: World) -> None:
    """No missing decision of an epoch up to the lift means abort, neither of a lost epoch nor of a known one."""
    earlier = next(iter(world.order.applied))
    known = str(Gid(world.disk.journal_id, Txid(Gid.parse(earlier).txid.epoch, 99), 0))
    await lifted(world)
    world.order.prepared |= {gid(world): [], known: []}
    async with world.coordinator(register=False) as engine:
        sweeps = world.order.calls["list_prepared"]
        await until(lambda: world.order.calls["list_prepared"] > sweeps + 6)
        assert set(world.order.prepared) == {gid(world), known}
        world.payment._row(gid(world, 1), pb.LEDGER_OUTCOME_APPLIED, [])
        await until(lambda: gid(world) in world.order.applied)
        assert set(world.order.prepared) == {known}
        assert engine.quarantine == ""


async def test_r6_a_request_that_was_open_in_the_copy_is_not_carried_out_again(world: World) -> None:
    """Its outcome may be in the lost stretch: pending, until it is settled."""
    async with world.coordinator(register=False, sweep_every=60) as engine:
        await until(lambda: bool(engine.quarantine))
    journal = await MemoryJournal.open(world.disk)
    epoch = journal.epoch
    open_ = submission(*BOTH, request_id="r-open")
    ref = RequestRef("r-open", 1, request_fingerprint(open_.calls))
    journal.append(Begun(Txid(epoch, 5), ref, (BranchRef(0, "order"), BranchRef(1, "payment"))))
    await journal.close()
    await lifted(world)
    async with world.coordinator(register=False) as engine:
        before = world.order.calls["prepare"]
        assert (await engine.execute(open_)).outcome is Outcome.PENDING
        world.order._row(str(Gid(world.disk.journal_id, Txid(epoch, 5), 0)), pb.LEDGER_OUTCOME_APPLIED, [])

        async def committed() -> bool:
            return (await engine.execute(open_)).outcome is Outcome.COMMITTED

        await until_true(committed)
        assert world.order.calls["prepare"] == before


async def test_quarantine_ends_only_by_the_lift(world: World) -> None:
    engine: Engine
    async with world.coordinator(register=False) as engine:
        await until(lambda: bool(engine.quarantine))
        with pytest.raises(Rejected):
            await engine.execute(submission(*BOTH, request_id="r-2"))
