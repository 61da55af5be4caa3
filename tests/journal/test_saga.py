"""What every journal promises about sagas: their start, their turn, and what rides along, held against each store."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from journal.samples import BRANCHES, STOCK, STRANGE_EPOCH, begun, propose, request, txid
from journal.stores import Store
from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.events import (
    Compensated,
    DeadLettered,
    Decided,
    Definition,
    Ended,
    Event,
    Finished,
    Reason,
    RequestRef,
    Resolved,
    SagaStep,
    Turned,
)
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.port import (
    Basis,
    EpochFenced,
    Journal,
    JournalClosed,
    JournalFailed,
    NotTheOwner,
    Proposal,
    Pruning,
    Ruling,
)
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, SAGA, Decision, Ending, delegated

DAY = 86_400_000
NONE_LEFT = Reason("BUSINESS", "OUT_OF_STOCK", "none left", retryable=False, participant="stock", operation="reserve")
TWO_STEPS = Definition(
    (
        SagaStep("reserve", "stock", "reserve", b"\x00\xff", after=(), pivot=False),
        SagaStep("pay", "payment", "charge", b"", after=(0,), pivot=True),
    ),
    deadline=30_000,
)


def saga(journal: Journal, transaction: Txid | int, claim: RequestRef | None = None) -> Proposal:
    """The start of a saga, by the journal's own epoch."""
    name = txid(journal, transaction) if isinstance(transaction, int) else transaction
    return Proposal(name, SAGA, journal.epoch, claim, BRANCHES, definition=TWO_STEPS)


def turn(journal: Journal, sequence: int = 1) -> Turned:
    return Turned(txid(journal, sequence), (NONE_LEFT,))


def turns(history: tuple[object, ...]) -> int:
    """How often a history says that the saga turned."""
    return sum(isinstance(getattr(happening, "event", None), Turned) for happening in history)


# --- the start --------------------------------------------------------------------------------------------------------


async def test_r4_the_start_is_one_forced_write_with_all_that_the_saga_is(store: Store) -> None:
    first = await store.open()
    before = first.syncs
    assert await first.decide(saga(first, 1, request("order"))) == Ruling(SAGA, Basis.ACCEPTED)
    assert first.syncs == before + 1
    await first.close()
    second = await store.open()
    (record,) = await second.unfinished()
    assert (record.definition, record.decision, record.committed) == (TWO_STEPS, SAGA, None)
    assert (record.turned, record.branches, record.request) == (False, BRANCHES, request("order"))
    await second.close()


@pytest.mark.parametrize("second", [COMMIT, ABORT, delegated(0), SAGA], ids=str)
async def test_r5_a_start_is_written_once(journal: Journal, second: Decision) -> None:
    await journal.decide(saga(journal, 1))
    assert await journal.decide(propose(journal, 1, second)) == Ruling(SAGA, Basis.EARLIER)


async def test_r5_only_its_owner_starts_a_saga_and_who_finishes_it_can_but_abort_it(store: Store) -> None:
    first = await store.open()
    await first.close()
    second = await store.open()
    with pytest.raises(NotTheOwner):
        await second.decide(saga(second, txid(first, 1)))
    assert await second.decide(propose(second, txid(first, 1), ABORT)) == Ruling(ABORT, Basis.ACCEPTED)
    await second.close()


async def test_r6_a_saga_claims_its_request_until_it_is_compensated(journal: Journal) -> None:
    await journal.decide(saga(journal, 1, request("order", 1)))
    await journal.turn(turn(journal))
    claimed = Ruling(ABORT, Basis.CLAIMED, txid(journal, 1))
    assert await journal.decide(saga(journal, 2, request("order", 2))) == claimed
    journal.append(Ended(txid(journal, 1), committed=False))
    assert await journal.decide(saga(journal, 3, request("order", 3))) == Ruling(SAGA, Basis.ACCEPTED)
    assert (await journal.decide(propose(journal, 4, COMMIT, claim=request("order", 4)))).claimed_by == txid(journal, 3)


async def test_r6_a_saga_that_is_done_holds_its_request(journal: Journal) -> None:
    await journal.decide(saga(journal, 1, request("order", 1)))
    journal.append(Ended(txid(journal, 1), committed=True))
    ruling = await journal.decide(saga(journal, 2, request("order", 2)))
    assert ruling == Ruling(ABORT, Basis.CLAIMED, txid(journal, 1))


@pytest.mark.parametrize("decision", [SAGA, delegated(0)], ids=str)
async def test_r6_an_end_that_is_told_again_gives_nobody_else_s_claim_back(
    journal: Journal, decision: Decision
) -> None:
    """Two who finish the same transaction both write its end."""
    await journal.decide(propose(journal, 1, decision, claim=request("order", 1)))
    journal.append(Ended(txid(journal, 1), committed=False))
    await journal.decide(saga(journal, 2, request("order", 2)))
    journal.append(Ended(txid(journal, 1), committed=False))
    ruling = await journal.decide(saga(journal, 3, request("order", 3)))
    assert ruling == Ruling(ABORT, Basis.CLAIMED, txid(journal, 2))


# --- the turn ---------------------------------------------------------------------------------------------------------


async def test_r4_the_turn_is_durable_before_it_returns(store: Store) -> None:
    first = await store.open()
    await first.decide(saga(first, 1))
    before = first.syncs
    await first.turn(turn(first))
    assert (first.syncs, first.position) == (before + 1, 2)
    await first.close()
    second = await store.open()
    (record,) = await second.unfinished()
    assert (record.turned, record.committed, record.reasons) == (True, False, (NONE_LEFT,))
    await second.close()


async def test_r4_a_crash_takes_no_turn_that_was_told_and_may_take_all_that_came_after() -> None:
    disk = MemoryDisk()
    journal = await MemoryJournal.open(disk)
    await journal.decide(saga(journal, 1))
    await journal.turn(turn(journal))
    journal.append(Compensated(txid(journal, 1), 1, empty=True))
    disk.crash()
    record = await (await MemoryJournal.open(disk)).transaction(txid(journal, 1))
    assert record is not None
    assert (record.turned, record.compensated) == (True, {})


async def test_r4_a_second_turn_waits_for_the_first_one_s_sync() -> None:
    gate = asyncio.Event()
    gate.set()

    async def sync() -> None:
        await gate.wait()

    journal = await MemoryJournal.open(MemoryDisk(sync=sync))
    await journal.decide(saga(journal, 1))
    gate.clear()
    both = [asyncio.create_task(journal.turn(turn(journal))) for _ in range(2)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not any(task.done() for task in both)
    gate.set()
    await asyncio.gather(*both)
    await journal.close()


async def test_a_turn_that_cannot_be_synced_is_not_told() -> None:
    broken = False

    async def sync() -> None:
        if broken:
            raise OSError(5, "Input/output error")

    journal = await MemoryJournal.open(MemoryDisk(sync=sync))
    await journal.decide(saga(journal, 1))
    broken = True
    with pytest.raises(JournalFailed):
        await journal.turn(turn(journal))


async def test_a_turn_is_written_once(store: Store) -> None:
    first = await store.open()
    await first.decide(saga(first, 1))
    await asyncio.gather(*(first.turn(turn(first)) for _ in range(3)))
    await first.turn(Turned(txid(first, 1)))
    assert turns(await first.history(txid(first, 1))) == 1
    await first.close()
    second = await store.open()
    await second.turn(Turned(txid(first, 1)))
    history = await second.history(txid(first, 1))
    assert (turns(history), second.position) == (1, 2)
    record = await second.transaction(txid(first, 1))
    assert record is not None
    assert record.reasons == (NONE_LEFT,)
    await second.close()


async def test_a_turn_and_its_start_of_one_moment_keep_their_order(journal: Journal) -> None:
    ruling, nothing = await asyncio.gather(journal.decide(saga(journal, 1)), journal.turn(turn(journal)))
    assert (ruling, nothing) == (Ruling(SAGA, Basis.ACCEPTED), None)


async def test_r5_a_fenced_epoch_turns_nothing(journal: Journal) -> None:
    await journal.decide(saga(journal, 1))
    await journal.fence(journal.epoch)
    with pytest.raises(EpochFenced):
        await journal.turn(turn(journal))
    record = await journal.transaction(txid(journal, 1))
    assert record is not None
    assert not record.turned


async def test_r5_whoever_finishes_another_s_saga_turns_it_once_that_one_is_fenced(store: Store) -> None:
    first = await store.open()
    await first.decide(saga(first, 1))
    await first.close()
    second = await store.open()
    await second.turn(turn(first))
    record = await second.transaction(txid(first, 1))
    assert record is not None
    assert record.turned
    await second.close()


@pytest.mark.parametrize("decision", [None, COMMIT, ABORT, delegated(0)], ids=str)
async def test_what_was_never_started_as_a_saga_cannot_turn(journal: Journal, decision: Decision | None) -> None:
    journal.append(begun(journal, 1))
    if decision is not None:
        await journal.decide(propose(journal, 1, decision))
    with pytest.raises(ValueError, match="no saga that was started here"):
        await journal.turn(turn(journal))
    assert turns(await journal.history(txid(journal, 1))) == 0
    assert (await journal.decide(saga(journal, 2))).basis is Basis.ACCEPTED


async def test_r5_a_strange_owner_s_saga_is_left_alone(journal: Journal) -> None:
    with pytest.raises(NotTheOwner, match="fence it"):
        await journal.turn(Turned(Txid(STRANGE_EPOCH, 1)))


async def test_only_turn_writes_turns(journal: Journal) -> None:
    await journal.decide(saga(journal, 1))
    with pytest.raises(ValueError, match=r"hand it to turn\(\)"):
        journal.append(turn(journal))


async def test_a_closed_journal_turns_nothing(store: Store) -> None:
    journal = await store.open()
    await journal.decide(saga(journal, 1))
    await journal.close()
    with pytest.raises(JournalClosed):
        await journal.turn(turn(journal))


async def test_a_cancelled_turn_is_written_all_the_same(store: Store) -> None:
    journal = await store.open()
    await journal.decide(saga(journal, 1))
    task = asyncio.create_task(journal.turn(turn(journal)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await journal.close()
    reopened = await store.open()
    assert turns(await reopened.history(txid(journal, 1))) == 1
    await reopened.close()


# --- what rides along -------------------------------------------------------------------------------------------------


async def test_what_happens_to_the_steps_forces_nothing_and_is_kept_in_its_order(store: Store) -> None:
    first = await store.open()
    name = txid(first, 1)
    await first.decide(saga(first, 1))
    await first.turn(turn(first))
    before = first.syncs
    along: list[Event] = [
        Finished(name, 0, Ending.APPLIED),
        Finished(name, 1, Ending.REFUSED),
        DeadLettered(name, 0, 5, NONE_LEFT),
        Resolved(name, 0, "ada", "paid back by hand"),
        Compensated(name, 1, empty=True),
    ]
    for event in along:
        first.append(event)
    assert first.syncs == before
    await first.close()
    second = await store.open()
    history = await second.history(name)
    assert [happening.event for happening in history][2:] == along
    assert isinstance(history[0].event, Decided)
    await second.close()


async def test_an_ended_saga_is_forgotten_whole(store: Store) -> None:
    journal = await store.open()
    name = txid(journal, 1)
    await journal.decide(saga(journal, 1, request("order")))
    await journal.turn(turn(journal))
    journal.append(Compensated(name, 0, empty=False))
    journal.append(Ended(name, committed=False))
    await journal.decide(saga(journal, 2))
    store.clock.at += 2 * DAY
    pruning = Pruning(journal.epoch, 100, store.clock.at - DAY, journal.position, settled=True, limit=200)
    assert (await journal.prune(pruning)).forgotten == 1
    assert (await journal.transaction(name), await journal.history(name)) == (None, ())
    assert await journal.request("order") is None
    with pytest.raises(ValueError, match="no saga"):
        await journal.turn(turn(journal))
    await journal.close()
    again = await store.open()
    assert [record.txid for record in await again.unfinished()] == [txid(journal, 2)]
    await again.close()


async def test_a_saga_that_has_turned_and_not_ended_is_never_forgotten(store: Store) -> None:
    journal = await store.open()
    await journal.decide(saga(journal, 1))
    await journal.turn(turn(journal))
    await journal.decide(saga(journal, 2))
    store.clock.at += 2 * DAY
    pruning = Pruning(journal.epoch, 100, store.clock.at - DAY, journal.position, settled=True, limit=200)
    assert (await journal.prune(pruning)).forgotten == 0
    await journal.close()


# --- a file of an earlier program -------------------------------------------------------------------------------------


async def test_a_journal_of_schema_version_2_opens_and_takes_sagas(path: Path) -> None:
    older = await SqliteJournal.open(path)
    older.append(begun(older, 1))
    await older.decide(propose(older, 1, COMMIT, claim=request("order")))
    await older.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 2")
    journal = await SqliteJournal.open(path)
    record = await journal.request("order")
    assert record is not None
    assert (record.decision, record.definition, record.turned) == (COMMIT, None, False)
    assert record.branches[0] == STOCK
    await journal.decide(saga(journal, 1))
    await journal.turn(turn(journal))
    await journal.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    assert journal.epoch > Epoch(1, "00000000")
