"""What every journal promises about events, reads and durability, held against each store."""

from __future__ import annotations

import asyncio

import pytest

from journal.samples import BRANCHES, PAYMENT, SHOP, STOCK, begun, propose, request, txid
from journal.stores import Store
from twophase.coordinator.journal.events import Decided, Ended, Finished, Reason, Voted
from twophase.coordinator.journal.fold import fold
from twophase.coordinator.journal.port import (
    Basis,
    Journal,
    ParticipantRecord,
    Proposal,
    Ruling,
)
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, Vote, delegated


async def test_what_was_handed_over_is_read_at_once_and_after_reopening(store: Store) -> None:
    reason = Reason("BUSINESS", "OUT_OF_STOCK", "none left", retryable=False, participant="stock", operation="reserve")
    first = await store.open()
    name = txid(first, 1)
    first.append(begun(first, 1, request("order")))
    first.append(Voted(name, 0, Vote.YES))
    first.append(Voted(name, 1, Vote.NO))
    running = await first.transaction(name)
    assert running is not None
    assert (running.branches, running.hearers, running.votes) == (BRANCHES, None, {0: Vote.YES, 1: Vote.NO})
    assert (running.decision, running.committed, running.ended) == (None, None, False)
    await first.decide(Proposal(name, ABORT, first.epoch, request("order"), (STOCK,), (reason,)))
    first.append(Finished(name, 0, Ending.ABORTED))
    first.append(Ended(name, committed=False))
    ended = await first.transaction(name)
    assert ended is not None
    assert (ended.decision, ended.committed, ended.ended) == (ABORT, False, True)
    assert (ended.reasons, ended.branches, ended.hearers) == ((reason,), BRANCHES, frozenset({0}))
    assert ended.endings == {0: Ending.ABORTED}
    assert await first.request("order") == ended
    await first.close()
    second = await store.open()
    assert await second.transaction(name) == ended
    assert await second.request("order") == ended
    await second.close()


async def test_reads_see_decisions_that_are_still_under_way(journal: Journal) -> None:
    proposal = propose(journal, 1, COMMIT, claim=request("order"))
    under_way = asyncio.ensure_future(journal.decide(proposal))
    await asyncio.sleep(0)
    record = await journal.transaction(txid(journal, 1))
    by_request = await journal.request("order")
    assert record is not None
    assert record.decision == COMMIT
    assert by_request == record
    assert await under_way == Ruling(COMMIT, Basis.ACCEPTED)


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


# --- history


async def test_a_history_tells_every_event_in_its_place_and_its_prefixes_how_it_stood(store: Store) -> None:
    store.clock.at = 5_000
    first = await store.open()
    name = txid(first, 1)
    first.append(begun(first, 1, request("order")))
    first.append(begun(first, 2))
    store.clock.at = 4_000
    first.append(Voted(name, 0, Vote.YES))
    await first.decide(propose(first, 1, COMMIT, claim=request("order")))
    await first.close()
    store.clock.at = 9_000
    second = await store.open()
    second.append(Finished(name, 0, Ending.APPLIED))
    history = await second.history(name)
    assert [(happening.position, happening.at) for happening in history] == [
        (1, 5_000),
        (3, 4_000),
        (4, 4_000),
        (5, 9_000),
    ]
    assert fold(happening.event for happening in history) == await second.transaction(name)
    stood = [fold(happening.event for happening in history[: length + 1]) for length in range(4)]
    assert [record.decision for record in stood] == [None, None, COMMIT, COMMIT]
    assert [len(record.endings) for record in stood] == [0, 0, 0, 1]
    assert await second.history(txid(second, 1)) == ()
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
    task = asyncio.ensure_future(journal.decide(propose(journal, 1, decision, claim=request("order"))))
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
