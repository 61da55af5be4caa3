"""What every journal promises about opening, decisions (R5) and request ids (R6), held against each store.

Events, reads and durability are in test_events.py, the stores' own ways to fail in test_memory.py and test_sqlite_*.py.
"""

from __future__ import annotations

import asyncio

import pytest

from journal.samples import SHOP, STRANGE_EPOCH, begun, propose, request, txid
from journal.stores import Store
from twophase.contract.names import Txid, check_journal_id
from twophase.coordinator.journal.events import Ended, Finished
from twophase.coordinator.journal.port import (
    Basis,
    BelowHorizon,
    EpochFenced,
    Journal,
    JournalClosed,
    JournalLocked,
    NotTheOwner,
    Ruling,
)
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, delegated

ACCEPTED = Basis.ACCEPTED
EARLIER = Basis.EARLIER


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
    with pytest.raises(JournalClosed, match="open it again"):
        await journal.decide(propose(journal, 1))
    for call in (
        journal.flush(),
        journal.register(SHOP),
        journal.fence(journal.epoch),
        journal.participants(),
        journal.epochs(),
        journal.transaction(txid(journal, 1)),
        journal.history(txid(journal, 1)),
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
    first = [
        asyncio.ensure_future(journal.decide(propose(journal, 1))),
        asyncio.create_task(journal.fence(journal.epoch)),
    ]
    await asyncio.sleep(0)
    before, _, after = await asyncio.gather(*first, journal.decide(propose(journal, 2)), return_exceptions=True)
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
