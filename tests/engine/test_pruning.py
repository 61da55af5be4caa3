"""The pruner over both stores: what it forgets, what it must not, and what the participants hear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.world import BOTH, World, submission, until
from journal.stores import HandSetClock, MemoryStore, SqliteStore, Store
from twophase.contract.names import MAX_SEQUENCE, Epoch, Gid, Txid
from twophase.coordinator.engine.api import Answer, Limits, Outcome
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.engine.pruning import Pruner
from twophase.coordinator.engine.rejections import stopping
from twophase.coordinator.journal.events import Finished
from twophase.coordinator.journal.port import Journal
from twophase.coordinator.protocol.decisions import Ending
from twophase.v1 import participant_pb2 as pb
from twophase.v1 import types_pb2

LIMITS = Limits(deadline_cap=5.0, default_deadline=5.0, retention=100.0)
# With these limits nothing of before is on the way after as many seconds.
QUIET = 100.0


@dataclass
class Place:
    """A coordinator over some store, whose clocks stand still until a test moves them."""

    world: World
    store: Store
    ticks: float = 1000.0

    @property
    def clock(self) -> HandSetClock:
        return self.store.clock

    def passes(self, seconds: float) -> None:
        """Time passes, on the wall and in the process."""
        self.ticks += seconds
        self.clock.at += round(seconds * 1000)

    @asynccontextmanager
    async def coordinator(self) -> AsyncIterator[tuple[Engine, Pruner]]:
        journal: Journal = await self.store.open()
        engine = Engine(journal, self.world.links, limits=LIMITS, sweep_every=0.01)
        await engine.start()
        for name in self.world.participants:
            await engine.register(name, f"{name}:1")
        pruner = Pruner(
            engine._around,
            engine._live,
            LIMITS,
            next_sequence=lambda: engine._starting.next_sequence,
            clock=self.clock,
            monotonic=lambda: self.ticks,
        )
        try:
            yield engine, pruner
            if engine.failed.done():
                engine.failed.result()
        finally:
            await engine._tasks.cancel()
            await journal.close()


@pytest.fixture(params=["memory", "sqlite"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    store = MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "journal.db")
    return Place(World(), store)


async def done(engine: Engine, *names: str) -> list[Answer]:
    """Transactions of these requests, all over."""
    answers = [await engine.execute(submission(*BOTH, request_id=name)) for name in names]
    await engine.journal.flush()
    return answers


async def settled(place: Place, pruner: Pruner) -> int:
    """A round, and another one once all of before has come home and is past retention."""
    first = await pruner.prune()
    place.passes(QUIET + 1)
    return first + await pruner.prune()


async def known(engine: Engine) -> list[str]:
    records = await engine.journal.transactions(limit=1000)
    return sorted(record.request.request_id for record in records if record.request is not None)


def rows(world: World) -> int:
    return sum(len(participant.ledger) for participant in world.participants.values())


# --- what goes


async def test_what_is_over_is_forgotten_here_and_at_every_participant(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        answers = await done(engine, "a", "b", "c")
        assert rows(place.world) == 6

        # The newest event's transaction stays, so that no position is given out twice.
        assert await settled(place, pruner) == 2

        assert await known(engine) == ["c"]
        assert rows(place.world) == 2
        assert answers[0].txid is not None
        assert await engine.view(answers[0].txid) is None
        assert await engine.view("a") is None
        assert place.world.order.horizons == {engine.journal.epoch: 3}


async def test_r6_a_duplicate_of_what_was_forgotten_is_a_new_request(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        (first, *_) = await done(engine, "a", "b")
        (again,) = await done(engine, "a")
        assert again == replace(first, results=again.results)
        await settled(place, pruner)
        (anew,) = await done(engine, "a")
    assert anew.outcome is Outcome.COMMITTED
    assert anew.txid != first.txid


async def test_aborted_ones_go_too(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        refused = await engine.execute(submission("order.write", "payment.refuse", request_id="no"))
        assert refused.outcome is Outcome.ABORTED
        await done(engine, "a")
        assert await settled(place, pruner) == 1
        assert await known(engine) == ["a"]


async def test_an_earlier_epoch_is_forgotten_whole_once_everybody_was_asked(place: Place) -> None:
    async with place.coordinator() as (engine, _):
        await done(engine, "a", "b")
        first = engine.journal.epoch
    async with place.coordinator() as (engine, pruner):
        await done(engine, "c")
        assert await settled(place, pruner) == 2
        assert {given.epoch: given.horizon for given in await engine.journal.epochs()}[first] == MAX_SEQUENCE
        assert place.world.payment.horizons[first] == MAX_SEQUENCE
        assert rows(place.world) == 2


# --- what does not


async def test_nothing_goes_before_retention_and_nothing_on_the_wall_clock_s_word_alone(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        await done(engine, "a", "b")
        assert await pruner.prune() == 0
        place.ticks += 10 * QUIET
        assert await pruner.prune() == 0  # old enough by the process' clock only
        place.clock.at += 365 * 86_400_000
        await done(engine, "c", "d")
        place.clock.at += 365 * 86_400_000
        assert await pruner.prune() == 2  # "c" and "d" are as old by the wall clock, and ended a moment ago
        assert await known(engine) == ["c", "d"]


async def test_a_clock_that_is_set_back_forgets_nothing(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        await done(engine, "a", "b")
        await pruner.prune()
        place.ticks += 10 * QUIET
        place.clock.at -= 365 * 86_400_000
        assert await pruner.prune() == 0
        assert await known(engine) == ["a", "b"]


async def test_a_restart_starts_the_quiet_anew(place: Place) -> None:
    """What an earlier process did may have ended the moment before it died, whatever the wall clock says."""
    async with place.coordinator() as (engine, _):
        await done(engine, "a", "b")
    place.clock.at += 365 * 86_400_000
    async with place.coordinator() as (engine, pruner):
        assert await pruner.prune() == 0
        place.ticks += QUIET - 1
        assert await pruner.prune() == 0
        place.ticks += 2
        assert await pruner.prune() == 1


async def test_r9_what_is_under_way_holds_its_horizon(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        await done(engine, "a")
        gate = place.world.payment.hold("commit")
        slow = asyncio.create_task(engine.execute(submission(*BOTH, request_id="slow")))
        await until(lambda: place.world.payment.calls["commit"] > 1)
        await done_elsewhere(engine, "b", "c")
        assert pruner._bound(engine.journal.epoch) == 2
        assert await settled(place, pruner) == 1
        assert await known(engine) == ["b", "c", "slow"]
        gate.set()
        assert (await slow).outcome is Outcome.COMMITTED


async def test_r9_what_has_not_begun_yet_is_above_every_horizon(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        await settled(place, pruner)
        (first,) = await done(engine, "a")
        await settled(place, pruner)
        (second,) = await done(engine, "b")
        assert [answer.outcome for answer in (first, second)] == [Outcome.COMMITTED] * 2
        assert place.world.order.horizons.get(engine.journal.epoch, 0) <= 2


async def done_elsewhere(engine: Engine, *names: str) -> None:
    for name in names:
        await engine.execute(submission("order.write", "stock.write", request_id=name))
    await engine.journal.flush()


async def test_r11_a_heuristic_outcome_stays(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        (wrong, *_) = await done(engine, "wrong", "a", "b")
        assert wrong.txid is not None
        engine.journal.append(Finished(wrong.txid, 0, Ending.LOST))
        await done(engine, "c")
        await settled(place, pruner)
        assert await known(engine) == ["c", "wrong"]
        assert [record.txid for record in await engine.journal.heuristics()] == [wrong.txid]


async def test_while_one_participant_is_silent_no_gap_of_an_earlier_epoch_counts_as_over(place: Place) -> None:
    async with place.coordinator() as (engine, _):
        await done(engine, "a", "b")
        first = engine.journal.epoch
    async with place.coordinator() as (engine, pruner):
        await done_elsewhere(engine, "c")
        place.world.payment.down = True
        await settled(place, pruner)
        assert {given.epoch: given.horizon for given in await engine.journal.epochs()}[first] == 3
        place.world.payment.down = False
        await until(lambda: not any(peer.away for peer in engine._peers))
        await pruner.prune()
        assert {given.epoch: given.horizon for given in await engine.journal.epochs()}[first] == MAX_SEQUENCE


async def test_a_branch_that_is_prepared_holds_the_horizon_of_its_epoch(place: Place) -> None:
    async with place.coordinator() as (engine, _):
        await done(engine, "a", "b", "c")
        first = engine.journal.epoch
    async with place.coordinator() as (engine, pruner):
        await done(engine, "d")
        gid = str(Gid(engine.journal.journal_id, Txid(first, 2), 9))
        gate = place.world.order.hold("commit")
        place.world.order.prepared[gid] = []
        await settled(place, pruner)
        assert {given.epoch: given.horizon for given in await engine.journal.epochs()}[first] == 2
        gate.set()


async def test_an_answer_of_another_database_tells_nothing_of_what_is_prepared(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        peer = engine._peers.get("payment")
        assert peer is not None
        assert await pruner._prepared() == ({}, True)
        peer.record = replace(peer.record, timeline=7)
        assert await pruner._prepared() == ({}, False)


async def test_in_quarantine_nothing_is_forgotten(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        await done(engine, "a", "b")
        await pruner.prune()
        await engine._peers.quarantine.prove("stock has seen epoch 9")
        place.passes(10 * QUIET)
        assert await pruner.prune() == 0
        assert await known(engine) == ["a", "b"]


async def test_r10_on_a_full_disk_and_while_it_stops_nothing_is_written_that_can_wait(place: Place) -> None:
    async with place.coordinator() as (engine, _):
        await done(engine, "a", "b")
        paused = False
        pruner = Pruner(
            engine._around,
            engine._live,
            LIMITS,
            next_sequence=lambda: engine._starting.next_sequence,
            paused=lambda: paused,
            clock=place.clock,
            monotonic=lambda: place.ticks,
        )
        await pruner.prune()
        place.passes(QUIET + 1)
        paused = True
        assert await pruner.prune() == 0
        paused = False
        assert await pruner.prune() == 1
        assert not engine._pruner._paused()
        engine.refusal = stopping()
        assert engine._pruner._paused()
        engine.refusal = None
        await engine.stop(0)
        assert engine._pruner._paused()


async def test_what_an_earlier_process_could_not_finish_holds_its_horizon(place: Place) -> None:
    async with place.coordinator() as (engine, _):
        await done(engine, "a")
        place.world.payment.hold("commit")
        slow = asyncio.create_task(engine.execute(submission(*BOTH, request_id="slow")))
        await until(lambda: place.world.payment.calls["commit"] > 1)
        await done_elsewhere(engine, "b")
        slow.cancel()
        first = engine.journal.epoch
    async with place.coordinator() as (engine, pruner):
        await done_elsewhere(engine, "c")
        assert await settled(place, pruner) == 1
        assert await known(engine) == ["b", "c", "slow"]
        assert {given.epoch: given.horizon for given in await engine.journal.epochs()}[first] == 2
        place.world.payment.gates["commit"].set()
        await until(lambda: len(engine._live) == 0)
        await done_elsewhere(engine, "d")
        assert await settled(place, pruner) == 3
        assert await known(engine) == ["d"]


# --- what participants hear


async def test_r8_a_crash_before_the_participants_hear_of_it_is_made_good(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        await done(engine, "a", "b", "c")
        for participant in place.world.participants.values():
            participant.lose_answers.add("handshake")
            participant.hold("handshake")
        pruning = asyncio.create_task(settled(place, pruner))
        await until(lambda: place.world.order.calls["handshake"] > 2)
        pruning.cancel()
        await asyncio.wait({pruning})
        assert (await known(engine), rows(place.world)) == (["c"], 6)
    for participant in place.world.participants.values():
        participant.lose_answers.clear()
        participant.gates["handshake"].set()
    async with place.coordinator() as (engine, _):
        await until(lambda: rows(place.world) == 2)


async def test_a_participant_with_much_to_prune_hears_of_it_until_nothing_is_left(place: Place) -> None:
    place.world.order.pruned_at_once = 2
    async with place.coordinator() as (engine, pruner):
        await done(engine, *(f"r-{number}" for number in range(9)))
        await settled(place, pruner)
        assert len(place.world.order.ledger) == 1
        before = place.world.order.calls["handshake"]
        place.passes(1)
        await pruner.prune()
        assert place.world.order.calls["handshake"] == before  # there is no news any more


async def test_r5_a_late_branch_below_the_horizon_is_never_presumed_aborted(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """It was prepared by whatever: a backup of the database, say. Nothing here tells how it must end."""
    async with place.coordinator() as (engine, _):
        (first, *_) = await done(engine, "a", "b")
    async with place.coordinator() as (engine, pruner):
        await done(engine, "c")
        await settled(place, pruner)
        assert first.txid is not None
        gid = str(Gid(engine.journal.journal_id, first.txid, 0))
        aborts = place.world.order.calls["abort"]
        place.world.order.prepared[gid] = []
        await until(lambda: "no participant's ledger tells how it ended" in caplog.text)
        assert gid in place.world.order.prepared
        assert place.world.order.calls["abort"] == aborts
        # Another participant remembers: then that is how it ends.
        other = str(Gid(engine.journal.journal_id, first.txid, 1))
        place.world.payment._row(other, pb.LEDGER_OUTCOME_APPLIED, [])
        await until(lambda: gid in place.world.order.applied)


async def test_r5_a_horizon_that_rises_while_abort_is_presumed_stops_that(place: Place) -> None:
    async with place.coordinator() as (engine, _):
        await done(engine, "a")
        first = engine.journal.epoch
    async with place.coordinator() as (engine, pruner):
        await done(engine, "b")
        gate = place.world.payment.hold("inspect")
        asked = place.world.payment.calls["inspect"]
        gid = Gid(engine.journal.journal_id, Txid(first, 50), 0)
        presuming = asyncio.create_task(engine._supervisor._presume_abort(gid.txid, None, ()))
        await until(lambda: place.world.payment.calls["inspect"] > asked)
        await settled(place, pruner)
        gate.set()
        assert await presuming is False
        assert await engine.view(gid.txid) is None


async def test_another_timeline_hears_everything_again(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        await done(engine, "a", "b")
        await settled(place, pruner)
        world = place.world
        world.payment.horizons.clear()
        world.payment.identity = types_pb2.DatabaseIdentity(
            system_identifier=world.payment.identity.system_identifier, timeline=2, database="payment"
        )
        peer = engine._peers.get("payment")
        assert peer is not None
        await engine._peers.greet(peer)
        await pruner.prune()
        assert world.payment.horizons == {engine.journal.epoch: 2}


async def test_many_horizons_are_told_in_several_handshakes(place: Place) -> None:
    async with place.coordinator() as (engine, pruner):
        for number in range(1, 121):
            engine._peers.allow(Epoch(number, "0badcafe"), 7)
        await pruner.prune()
        assert all(len(one.horizons) == 120 for one in place.world.participants.values())


async def test_the_pruner_runs_by_itself(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    from twophase.coordinator.engine import pruning

    monkeypatch.setattr(pruning, "LONGEST_INTERVAL", 0.001)
    rounds = asyncio.Event()

    async def count(_: Pruner) -> int:
        rounds.set()
        return 0

    monkeypatch.setattr(Pruner, "prune", count)
    async with place.coordinator():
        await asyncio.wait_for(rounds.wait(), timeout=5)
