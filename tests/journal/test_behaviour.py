"""What every journal promises, held against each store. A crash of the machine is tried on the memory disk; SQLite's
own ways to fail are in test_sqlite.py."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import pytest

from journal.samples import BRANCHES, PAYMENT, SHOP, STOCK, STRANGE_EPOCH, begun, propose, request, txid
from twophase.contract.names import Epoch, Txid, check_journal_id
from twophase.coordinator.journal.events import Decided, Ended, Finished, Reason, Voted
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.coordinator.journal.memory_state import Horizon
from twophase.coordinator.journal.port import (
    Basis,
    BelowHorizon,
    EpochFenced,
    Journal,
    JournalClosed,
    JournalLocked,
    NotTheOwner,
    ParticipantRecord,
    Proposal,
    Ruling,
)
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, Vote, delegated

ACCEPTED = Basis.ACCEPTED
EARLIER = Basis.EARLIER


class Store(Protocol):
    """A place where one journal is kept."""

    async def open(self) -> Journal: ...

    def set_horizon(self, epoch: Epoch, sequence: int) -> None:
        """As pruning will; only while the journal is closed."""


class MemoryStore:
    def __init__(self) -> None:
        self.disk = MemoryDisk()

    async def open(self) -> Journal:
        return await MemoryJournal.open(self.disk)

    def set_horizon(self, epoch: Epoch, sequence: int) -> None:
        self.disk.durable.append(Horizon(epoch, sequence))


class SqliteStore:
    def __init__(self, path: Path) -> None:
        self.path = path

    async def open(self) -> Journal:
        return await SqliteJournal.open(self.path)

    def set_horizon(self, epoch: Epoch, sequence: int) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None)
        connection.execute("UPDATE epochs SET horizon = ? WHERE number = ?", (sequence, epoch.number))
        connection.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "journal.db")


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    opened = await store.open()
    yield opened
    await opened.close()


# --- opening


async def test_a_journal_keeps_its_id_and_gives_out_epochs(store: Store) -> None:
    first = await store.open()
    check_journal_id(first.journal_id)
    await first.close()
    second = await store.open()
    assert second.journal_id == first.journal_id
    assert (first.epoch.number, second.epoch.number) == (1, 2)
    assert first.epoch.nonce != second.epoch.nonce
    await second.close()


async def test_r5_opening_fences_every_lower_epoch(store: Store) -> None:
    epochs = []
    for _ in range(3):
        journal = await store.open()
        epochs.append(journal.epoch)
        await journal.close()
    journal = await store.open()
    epochs.append(journal.epoch)
    assert [(given.epoch, given.fenced, given.horizon) for given in await journal.epochs()] == [
        (epochs[0], True, 0),
        (epochs[1], True, 0),
        (epochs[2], True, 0),
        (epochs[3], False, 0),
    ]
    await journal.close()


async def test_an_open_journal_is_locked(store: Store, journal: Journal) -> None:
    with pytest.raises(JournalLocked, match="in use"):
        await store.open()
    assert (await journal.decide(propose(journal, 1))).basis is ACCEPTED


async def test_closing_twice_is_fine_and_then_nothing_works(store: Store) -> None:
    journal = await store.open()
    await asyncio.gather(journal.close(), journal.close())
    await journal.close()
    with pytest.raises(JournalClosed, match="open it again"):
        journal.append(begun(journal, 1))
    for call in (
        journal.decide(propose(journal, 1)),
        journal.flush(),
        journal.register(SHOP),
        journal.fence(journal.epoch),
        journal.participants(),
        journal.epochs(),
        journal.transaction(txid(journal, 1)),
        journal.request("r"),
        journal.unfinished(),
        journal.transactions(limit=1),
    ):
        with pytest.raises(JournalClosed):
            await call


# --- decide: R5


@pytest.mark.parametrize("first", [COMMIT, ABORT, delegated(1)], ids=str)
@pytest.mark.parametrize("second", [COMMIT, ABORT, delegated(0)], ids=str)
async def test_r5_the_first_decision_wins(journal: Journal, first: Decision, second: Decision) -> None:
    assert await journal.decide(propose(journal, 1, first)) == Ruling(first, ACCEPTED)
    assert await journal.decide(propose(journal, 1, second)) == Ruling(first, EARLIER)


async def test_r5_proposals_of_one_moment_are_judged_in_their_order(journal: Journal) -> None:
    rulings = await asyncio.gather(
        *(journal.decide(propose(journal, 1, decision)) for decision in (ABORT, COMMIT, delegated(0))),
        *(journal.decide(propose(journal, 2, decision)) for decision in (COMMIT, ABORT, COMMIT)),
    )
    assert rulings == [
        Ruling(ABORT, ACCEPTED),
        Ruling(ABORT, EARLIER),
        Ruling(ABORT, EARLIER),
        Ruling(COMMIT, ACCEPTED),
        Ruling(COMMIT, EARLIER),
        Ruling(COMMIT, EARLIER),
    ]


async def test_r5_a_decision_outlives_its_epoch(store: Store) -> None:
    first = await store.open()
    await first.decide(propose(first, 1, COMMIT))
    await first.close()
    second = await store.open()
    assert await second.decide(propose(second, txid(first, 1), ABORT)) == Ruling(COMMIT, EARLIER)
    await second.close()


async def test_r5_a_fenced_owner_s_transaction_can_only_be_aborted(store: Store) -> None:
    first = await store.open()
    await first.close()
    second = await store.open()
    for decision in (COMMIT, delegated(0)):
        with pytest.raises(NotTheOwner):
            await second.decide(propose(second, txid(first, 1), decision))
    assert await second.decide(propose(second, txid(first, 1), ABORT)) == Ruling(ABORT, ACCEPTED)
    await second.close()


async def test_r5_a_strange_owner_s_transaction_is_left_alone_until_it_is_fenced(journal: Journal) -> None:
    strange = Txid(STRANGE_EPOCH, 1)
    with pytest.raises(NotTheOwner):
        await journal.decide(propose(journal, strange, ABORT))
    assert await journal.transaction(strange) is None
    await journal.fence(STRANGE_EPOCH)
    assert await journal.decide(propose(journal, strange, ABORT)) == Ruling(ABORT, ACCEPTED)
    assert [given.epoch for given in await journal.epochs()] == [journal.epoch]


async def test_r5_a_fenced_epoch_decides_nothing_more(journal: Journal) -> None:
    await journal.decide(propose(journal, 1, COMMIT))
    await journal.fence(journal.epoch)
    await journal.fence(journal.epoch)
    for decision in (COMMIT, ABORT, delegated(0)):
        with pytest.raises(EpochFenced):
            await journal.decide(propose(journal, 2, decision))
    assert await journal.transaction(txid(journal, 2)) is None
    assert await journal.decide(propose(journal, 1, ABORT)) == Ruling(COMMIT, EARLIER)


async def test_r5_a_proposer_this_journal_never_knew_decides_nothing(journal: Journal) -> None:
    with pytest.raises(EpochFenced, match="never given out"):
        await journal.decide(propose(journal, Txid(STRANGE_EPOCH, 1), epoch=STRANGE_EPOCH))


async def test_r5_fence_and_proposal_of_one_moment_keep_their_order(journal: Journal) -> None:
    before, _, after = await asyncio.gather(
        journal.decide(propose(journal, 1)),
        journal.fence(journal.epoch),
        journal.decide(propose(journal, 2)),
        return_exceptions=True,
    )
    assert before == Ruling(COMMIT, ACCEPTED)
    assert isinstance(after, EpochFenced)


async def test_r5_below_the_horizon_nothing_is_presumed(store: Store) -> None:
    first = await store.open()
    await first.decide(propose(first, 1, COMMIT))
    await first.close()
    store.set_horizon(first.epoch, 5)
    second = await store.open()
    with pytest.raises(BelowHorizon):
        await second.decide(propose(second, txid(first, 4), ABORT))
    assert await second.decide(propose(second, txid(first, 5), ABORT)) == Ruling(ABORT, ACCEPTED)
    assert await second.decide(propose(second, txid(first, 1), ABORT)) == Ruling(COMMIT, EARLIER)
    assert [given.horizon for given in await second.epochs()] == [5, 0]
    await second.close()


# --- request ids: R6


async def test_r6_one_commit_a_request(journal: Journal) -> None:
    await journal.decide(propose(journal, 1, COMMIT, claim=request("order", 1)))
    ruling = await journal.decide(propose(journal, 2, COMMIT, claim=request("order", 2)))
    assert ruling == Ruling(ABORT, Basis.CLAIMED, txid(journal, 1))
    second = await journal.transaction(txid(journal, 2))
    assert second is not None
    assert (second.decision, second.committed) == (ABORT, False)
    assert await journal.decide(propose(journal, 2, COMMIT)) == Ruling(ABORT, EARLIER)
    holder = await journal.request("order")
    assert holder is not None
    assert holder.txid == txid(journal, 1)


async def test_r6_claims_of_one_moment_are_judged_in_their_order(journal: Journal) -> None:
    rulings = await asyncio.gather(
        *(journal.decide(propose(journal, number, claim=request("order", number))) for number in (1, 2, 3))
    )
    claimed = Ruling(ABORT, Basis.CLAIMED, txid(journal, 1))
    assert rulings == [Ruling(COMMIT, ACCEPTED), claimed, claimed]


async def test_r6_a_commit_holds_its_request_for_ever(store: Store) -> None:
    first = await store.open()
    await first.decide(propose(first, 1, COMMIT, claim=request("order")))
    first.append(Ended(txid(first, 1), committed=False))
    await first.close()
    second = await store.open()
    ruling = await second.decide(propose(second, 1, COMMIT, claim=request("order", 2)))
    assert ruling == Ruling(ABORT, Basis.CLAIMED, txid(first, 1))
    await second.close()


async def test_r6_a_delegation_holds_its_request_until_it_proved_refused(journal: Journal) -> None:
    await journal.decide(propose(journal, 1, delegated(0), claim=request("order", 1)))
    journal.append(Finished(txid(journal, 1), 0, Ending.REFUSED))
    ruling = await journal.decide(propose(journal, 2, COMMIT, claim=request("order", 2)))
    assert ruling == Ruling(ABORT, Basis.CLAIMED, txid(journal, 1))
    journal.append(Ended(txid(journal, 1), committed=False))
    assert await journal.decide(propose(journal, 3, COMMIT, claim=request("order", 3))) == Ruling(COMMIT, ACCEPTED)
    ruling = await journal.decide(propose(journal, 4, COMMIT, claim=request("order", 4)))
    assert ruling.claimed_by == txid(journal, 3)


async def test_r6_a_delegation_that_was_applied_holds_its_request(journal: Journal) -> None:
    await journal.decide(propose(journal, 1, delegated(0), claim=request("order", 1)))
    journal.append(Ended(txid(journal, 1), committed=True))
    ruling = await journal.decide(propose(journal, 2, delegated(1), claim=request("order", 2)))
    assert ruling == Ruling(ABORT, Basis.CLAIMED, txid(journal, 1))


async def test_r6_an_abort_claims_nothing(journal: Journal) -> None:
    await journal.decide(propose(journal, 1, ABORT, claim=request("order", 1)))
    assert await journal.decide(propose(journal, 2, ABORT, claim=request("order", 2))) == Ruling(ABORT, ACCEPTED)
    assert await journal.decide(propose(journal, 3, COMMIT, claim=request("order", 3))) == Ruling(COMMIT, ACCEPTED)
    assert await journal.decide(propose(journal, 4, ABORT, claim=request("order", 4))) == Ruling(ABORT, ACCEPTED)


async def test_r6_a_request_answers_with_its_holder_else_with_its_highest_attempt(journal: Journal) -> None:
    assert await journal.request("order") is None
    for number, attempt in ((1, 2), (2, 10), (3, 3)):
        journal.append(begun(journal, number, request("order", attempt)))
    journal.append(begun(journal, 4, request("another", 99)))
    record = await journal.request("order")
    assert record is not None
    assert (record.txid, record.request) == (txid(journal, 2), request("order", 10))
    await journal.decide(propose(journal, 3, COMMIT, claim=request("order", 3)))
    record = await journal.request("order")
    assert record is not None
    assert (record.txid, record.decision) == (txid(journal, 3), COMMIT)


async def test_r6_a_request_whose_beginning_was_lost_is_found_by_its_decision(journal: Journal) -> None:
    await journal.decide(propose(journal, 1, ABORT, claim=request("order", 4)))
    record = await journal.request("order")
    assert record is not None
    assert record.request == request("order", 4)


# --- events and reads


async def test_what_was_handed_over_is_read_at_once_and_after_reopening(store: Store) -> None:
    reason = Reason("BUSINESS", "OUT_OF_STOCK", "none left", retryable=False, participant="stock", operation="reserve")
    first = await store.open()
    name = txid(first, 1)
    first.append(begun(first, 1, request("order")))
    first.append(Voted(name, 0, Vote.YES))
    first.append(Voted(name, 1, Vote.NO))
    running = await first.transaction(name)
    assert running is not None
    assert (running.branches, running.votes) == (BRANCHES, {0: Vote.YES, 1: Vote.NO})
    assert (running.decision, running.committed, running.ended) == (None, None, False)
    await first.decide(Proposal(name, ABORT, first.epoch, request("order"), (STOCK,), (reason,)))
    first.append(Finished(name, 0, Ending.ABORTED))
    first.append(Ended(name, committed=False))
    ended = await first.transaction(name)
    assert ended is not None
    assert (ended.decision, ended.committed, ended.ended) == (ABORT, False, True)
    assert (ended.reasons, ended.branches, ended.endings) == ((reason,), (STOCK,), {0: Ending.ABORTED})
    assert await first.request("order") == ended
    await first.close()
    second = await store.open()
    assert await second.transaction(name) == ended
    assert await second.request("order") == ended
    await second.close()


async def test_reads_see_decisions_that_are_still_under_way(journal: Journal) -> None:
    proposal = propose(journal, 1, COMMIT, claim=request("order"))
    under_way = asyncio.create_task(journal.decide(proposal))
    await asyncio.sleep(0)
    record = await journal.transaction(txid(journal, 1))
    by_request = await journal.request("order")
    assert record is not None
    assert record.decision == COMMIT
    assert by_request == record
    assert await under_way == Ruling(COMMIT, ACCEPTED)


async def test_only_decide_writes_decisions(journal: Journal) -> None:
    with pytest.raises(ValueError, match=r"propose it to decide"):
        journal.append(Decided(txid(journal, 1), COMMIT, None, BRANCHES))
    assert await journal.transaction(txid(journal, 1)) is None


async def test_unfinished_is_what_is_decided_and_not_ended_the_oldest_first(store: Store) -> None:
    first = await store.open()
    for number in (4, 1, 2, 3):
        first.append(begun(first, number))
    await asyncio.gather(
        first.decide(propose(first, 4, ABORT)),
        first.decide(propose(first, 1, COMMIT)),
        first.decide(propose(first, 2, delegated(0))),
    )
    first.append(Ended(txid(first, 1), committed=True))
    first.append(Finished(txid(first, 4), 0, Ending.ABORTED))
    assert [record.txid for record in await first.unfinished()] == [txid(first, 2), txid(first, 4)]
    await first.close()
    second = await store.open()
    assert [record.endings for record in await second.unfinished()] == [{}, {0: Ending.ABORTED}]
    second.append(Ended(txid(first, 4), committed=False))
    # A word that comes late does not open it again.
    second.append(Finished(txid(first, 4), 1, Ending.ABORTED))
    assert [record.txid for record in await second.unfinished()] == [txid(first, 2)]
    await second.close()


async def test_transactions_are_listed_newest_first_in_pages(store: Store) -> None:
    first = await store.open()
    for number in (2, 1, 300):
        first.append(begun(first, number))
    await first.close()
    second = await store.open()
    second.append(begun(second, 0))
    await second.decide(propose(second, 7, COMMIT))
    second.append(Ended(txid(second, 7), committed=True))
    expected = [txid(second, 7), txid(second, 0), txid(first, 300), txid(first, 2), txid(first, 1)]
    assert [record.txid for record in await second.transactions(limit=10)] == expected
    assert [record.txid for record in await second.transactions(limit=2)] == expected[:2]
    assert [record.txid for record in await second.transactions(limit=2, before=expected[1])] == expected[2:4]
    assert [record.txid for record in await second.transactions(limit=2, unfinished_only=True)] == expected[1:3]
    for limit in (0, -1):
        with pytest.raises(ValueError, match="at least one"):
            await second.transactions(limit=limit)
    await second.close()


async def test_participants_are_added_and_replaced_by_name(store: Store) -> None:
    first = await store.open()
    moved = ParticipantRecord("stock", "127.0.0.1:9", "7301112223334445556", 2, "stock")
    payment = ParticipantRecord("payment", "127.0.0.1:8", "1", 1, "pay")
    for participant in (SHOP, payment, moved):
        await first.register(participant)
    assert await first.participants() == (payment, moved)
    await first.close()
    second = await store.open()
    assert await second.participants() == (payment, moved)
    await second.close()


# --- durability: R4, R12, R14


async def test_r14_a_commit_costs_one_forced_write_and_an_abort_none(journal: Journal) -> None:
    before = journal.syncs
    await journal.decide(propose(journal, 1, ABORT))
    assert journal.syncs == before
    await journal.decide(propose(journal, 2, COMMIT))
    assert journal.syncs == before + 1
    await journal.decide(propose(journal, 3, delegated(0)))
    assert journal.syncs == before + 2


async def test_r14_concurrent_decisions_share_forced_writes(journal: Journal) -> None:
    before = journal.syncs
    await asyncio.gather(*(journal.decide(propose(journal, number)) for number in range(200)))
    assert 1 <= journal.syncs - before <= 3


async def test_the_position_counts_what_is_durable_and_never_goes_back(store: Store) -> None:
    first = await store.open()
    assert first.position == 0
    first.append(begun(first, 1))
    await first.decide(propose(first, 2, ABORT))
    assert first.position == 0
    await first.decide(propose(first, 1, COMMIT))
    assert first.position == 3
    first.append(Ended(txid(first, 1), committed=True))
    await first.flush()
    assert first.position == 4
    await first.close()
    second = await store.open()
    assert second.position == 4
    await second.decide(propose(second, 1, COMMIT))
    assert second.position == 5
    await second.close()


@pytest.mark.parametrize("decision", [COMMIT, ABORT], ids=str)
async def test_a_cancelled_decide_still_writes(store: Store, decision: Decision) -> None:
    journal = await store.open()
    task = asyncio.create_task(journal.decide(propose(journal, 1, decision, claim=request("order"))))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    record = await journal.transaction(txid(journal, 1))
    assert record is not None
    assert record.decision == decision
    await journal.close()
    reopened = await store.open()
    assert await reopened.request("order") == record
    await reopened.close()


async def test_a_cancelled_read_disturbs_nothing(journal: Journal) -> None:
    journal.append(begun(journal, 1))
    for _ in range(3):
        task = asyncio.create_task(journal.transaction(txid(journal, 1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
    record = await journal.transaction(txid(journal, 1))
    assert record is not None
    assert record.branches == (STOCK, PAYMENT)
