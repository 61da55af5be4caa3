"""What every journal promises about forgetting (R5, R6, R9, R11), held against each store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from journal.samples import begun, propose, request, txid
from journal.stores import Store
from twophase.contract.names import MAX_SEQUENCE, Epoch, Txid
from twophase.coordinator.journal.events import Ended, Finished
from twophase.coordinator.journal.port import Basis, BelowHorizon, Journal, Pruned, Pruning, Ruling
from twophase.coordinator.journal.pruning import Candidate, Plan, plan
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Ending, delegated

DAY = 86_400_000


async def end(journal: Journal, sequences: Iterable[int]) -> None:
    """Transactions that are over, each with a request of its own."""
    for sequence in sequences:
        claim = request(f"order-{sequence}")
        journal.append(begun(journal, sequence, claim))
        await journal.decide(propose(journal, sequence, COMMIT, claim=claim))
        journal.append(Ended(txid(journal, sequence), committed=True))
    await journal.flush()


async def prune(store: Store, journal: Journal, epoch: Epoch | None = None, **changes: object) -> Pruned:
    """Everything below sequence 100 that ended at least a day ago, unless it is said otherwise."""
    values = {
        "below": 100,
        "ended_before": store.clock.at - DAY,
        "up_to": journal.position,
        "settled": True,
        "limit": 200,
    }
    return await journal.prune(Pruning(epoch or journal.epoch, **(values | changes)))  # type: ignore[arg-type]


async def left(journal: Journal) -> list[int]:
    return sorted(record.txid.sequence for record in await journal.transactions(limit=1000))


async def horizon(journal: Journal, epoch: Epoch | None = None) -> int:
    wanted = epoch or journal.epoch
    return next(given.horizon for given in await journal.epochs() if given.epoch == wanted)


async def test_what_ended_before_retention_is_forgotten_with_its_request_and_its_decision(store: Store) -> None:
    journal = await store.open()
    await end(journal, (1, 2))
    store.clock.at += 2 * DAY
    await end(journal, (3,))
    assert await prune(store, journal) == Pruned(3, 2, more=False)
    assert (await left(journal), await horizon(journal)) == ([3], 3)
    assert await journal.transaction(txid(journal, 1)) is None
    assert await journal.history(txid(journal, 1)) == ()
    assert await journal.request("order-1") is None
    await journal.close()
    again = await store.open()
    assert (await left(again), await horizon(again, journal.epoch)) == ([3], 3)
    assert await again.request("order-2") is None
    await again.close()


async def test_r5_a_late_branch_of_what_was_forgotten_is_never_presumed_aborted(store: Store) -> None:
    first = await store.open()
    await end(first, (1, 2))
    await first.close()
    second = await store.open()
    await end(second, (1,))
    store.clock.at += 2 * DAY
    assert (await prune(store, second, first.epoch, below=MAX_SEQUENCE)).horizon == MAX_SEQUENCE
    for sequence in (1, 2, 3, 77):
        for decision in (ABORT, COMMIT):
            with pytest.raises(BelowHorizon):
                await second.decide(propose(second, Txid(first.epoch, sequence), decision))
    await second.close()


async def test_r6_the_request_id_of_what_was_forgotten_is_free_again(store: Store) -> None:
    journal = await store.open()
    await end(journal, (1, 2))
    store.clock.at += 2 * DAY
    ruling = await journal.decide(propose(journal, 3, COMMIT, claim=request("order-1", 2)))
    assert ruling.basis is Basis.CLAIMED
    await prune(store, journal)
    assert await journal.decide(propose(journal, 4, COMMIT, claim=request("order-1", 3))) == Ruling(
        COMMIT, Basis.ACCEPTED
    )
    await journal.close()


async def test_every_attempt_at_a_request_is_forgotten_alone(store: Store) -> None:
    journal = await store.open()
    journal.append(begun(journal, 1, request("order", 1)))
    await journal.decide(propose(journal, 1, ABORT, claim=request("order", 1)))
    journal.append(Ended(txid(journal, 1), committed=False))
    store.clock.at += 2 * DAY
    await journal.decide(propose(journal, 2, COMMIT, claim=request("order", 2)))
    journal.append(Ended(txid(journal, 2), committed=True))
    await journal.flush()
    assert (await prune(store, journal)).forgotten == 1
    record = await journal.request("order")
    assert record is not None
    assert record.txid == txid(journal, 2)
    await journal.close()


async def test_r6_an_earlier_attempt_never_answers_for_a_commit_that_is_forgotten(store: Store) -> None:
    """Its record is kept, because its own epoch has something that has not ended."""
    first = await store.open()
    first.append(begun(first, 1))
    await first.decide(propose(first, 2, ABORT, claim=request("order", 1)))
    first.append(Ended(txid(first, 2), committed=False))
    aborted = txid(first, 2)
    await first.close()
    journal = await store.open()
    await journal.decide(propose(journal, 1, COMMIT, claim=request("order", 2)))
    journal.append(Ended(txid(journal, 1), committed=True))
    await end(journal, (2,))
    store.clock.at += 2 * DAY
    assert (await prune(store, journal)).forgotten >= 1
    assert await journal.transaction(aborted) is not None
    assert await journal.request("order") is None
    await journal.close()


@pytest.mark.parametrize("stopped_by", ["begun", "decided", "young", "late", "delegated"])
async def test_r9_the_horizon_stops_at_the_first_that_is_not_over(store: Store, stopped_by: str) -> None:
    journal = await store.open()
    await end(journal, (1,))
    store.clock.at += 2 * DAY if stopped_by == "young" else 0
    up_to = journal.position
    match stopped_by:
        case "begun":
            journal.append(begun(journal, 2))
        case "decided":
            await journal.decide(propose(journal, 2, COMMIT))
        case "delegated":
            await journal.decide(propose(journal, 2, delegated(0)))
            journal.append(Finished(txid(journal, 2), 0, Ending.APPLIED))
        case _:
            await end(journal, (2,))
    store.clock.at += 0 if stopped_by == "young" else 2 * DAY
    await end(journal, (3, 4))
    store.clock.at += 0 if stopped_by == "young" else 2 * DAY
    up_to = up_to if stopped_by == "late" else journal.position
    assert await prune(store, journal, up_to=up_to) == Pruned(2, 1, more=False)
    assert await left(journal) == [2, 3, 4]
    await journal.close()


async def test_a_sequence_without_a_record_stops_it_unless_the_epoch_is_settled(store: Store) -> None:
    first = await store.open()
    await end(first, (1, 2, 5, 6))
    await first.close()
    second = await store.open()
    await end(second, (1,))
    store.clock.at += 2 * DAY
    assert await prune(store, second, first.epoch, below=MAX_SEQUENCE, settled=False) == Pruned(3, 2, more=False)
    assert await prune(store, second, first.epoch, below=6) == Pruned(6, 1, more=False)
    assert await prune(store, second, first.epoch, below=MAX_SEQUENCE) == Pruned(MAX_SEQUENCE, 1, more=False)
    assert await prune(store, second, first.epoch, below=MAX_SEQUENCE) == Pruned(MAX_SEQUENCE, 0, more=False)
    await second.close()


async def test_nothing_at_or_above_the_bound_is_forgotten(store: Store) -> None:
    journal = await store.open()
    await end(journal, (1, 2, 3, 4))
    store.clock.at += 2 * DAY
    assert await prune(store, journal, below=3) == Pruned(3, 2, more=False)
    assert await left(journal) == [3, 4]
    # Never back.
    assert await prune(store, journal, below=1) == Pruned(3, 0, more=False)
    await journal.close()


def test_the_rule_itself_stops_at_the_bound_whatever_it_is_given() -> None:
    pruning = Pruning(Epoch(1, "0badcafe"), below=2, ended_before=10, up_to=10, settled=True)
    candidates = [Candidate(sequence, 5, 5, kept=False, newest=False) for sequence in (1, 2, 3)]
    assert plan(pruning, 0, candidates, all_there=True) == Plan(2, (1,))


async def test_an_epoch_in_which_nothing_has_begun_costs_no_write(store: Store) -> None:
    journal = await store.open()
    syncs = journal.syncs
    assert await prune(store, journal, below=1) == Pruned(0, 0, more=False)
    assert journal.syncs == syncs
    await journal.close()


async def test_positions_are_never_reused_because_the_newest_event_stays(store: Store) -> None:
    first = await store.open()
    await end(first, (1, 2))
    position = first.position
    store.clock.at += 2 * DAY
    assert await prune(store, first) == Pruned(2, 1, more=False)
    await first.close()
    second = await store.open()
    assert second.position == position
    assert await prune(store, second, first.epoch, below=MAX_SEQUENCE) == Pruned(2, 0, more=False)
    assert await left(second) == [2]
    await second.close()


async def test_r11_a_heuristic_outcome_stays_and_the_horizon_passes_it(store: Store) -> None:
    first = await store.open()
    claim = request("order")
    await end(first, (1,))
    await first.decide(propose(first, 2, COMMIT, claim=claim))
    first.append(Finished(txid(first, 2), 0, Ending.LOST))
    first.append(Ended(txid(first, 2), committed=True))
    await end(first, (3, 4))
    history = await first.history(txid(first, 2))
    store.clock.at += 2 * DAY
    assert await prune(store, first) == Pruned(4, 2, more=False)
    assert await left(first) == [2, 4]
    await first.close()
    second = await store.open()
    assert await second.history(txid(first, 2)) == history
    assert [record.txid for record in await second.heuristics()] == [txid(first, 2)]
    held = await second.decide(propose(second, 1, COMMIT, claim=request("order", 2)))
    assert held.claimed_by == txid(first, 2)
    assert await second.decide(propose(second, txid(first, 2), ABORT)) == Ruling(COMMIT, Basis.EARLIER)
    await second.close()


async def test_kept_heuristics_do_not_stand_in_the_way_of_later_batches(store: Store) -> None:
    journal = await store.open()
    for sequence in (1, 2, 3):
        await journal.decide(propose(journal, sequence, COMMIT))
        journal.append(Finished(txid(journal, sequence), 0, Ending.LOST))
        journal.append(Ended(txid(journal, sequence), committed=True))
    await end(journal, (4, 5, 6))
    store.clock.at += 2 * DAY
    steps = [await prune(store, journal, limit=1)]
    while steps[-1].more:
        steps.append(await prune(store, journal, limit=1))
    assert [(step.horizon, step.forgotten) for step in steps] == [(2, 0), (3, 0), (4, 0), (5, 1), (6, 1), (6, 0)]
    assert await left(journal) == [1, 2, 3, 6]
    # Neither in that of what is written below the horizon later.
    journal.append(begun(journal, 5))
    journal.append(Ended(txid(journal, 5), committed=True))
    await end(journal, (7,))
    store.clock.at += 2 * DAY
    assert (await prune(store, journal, limit=1, below=6)).forgotten == 1
    assert await left(journal) == [1, 2, 3, 6, 7]
    await journal.close()


async def test_what_was_written_below_the_horizon_later_goes_when_it_is_over(store: Store) -> None:
    """Evidence from the participants is written down for a transaction whose record is gone."""
    journal = await store.open()
    await end(journal, (1, 2, 3))
    store.clock.at += 2 * DAY
    await prune(store, journal)
    journal.append(begun(journal, 1))
    journal.append(Ended(txid(journal, 1), committed=True))
    await end(journal, (4,))
    assert (await prune(store, journal)).forgotten == 1
    assert await left(journal) == [1, 4]
    store.clock.at += 2 * DAY
    assert (await prune(store, journal)).forgotten == 1
    assert await left(journal) == [4]
    await journal.close()


async def test_r5_epochs_and_fences_outlive_their_transactions(store: Store) -> None:
    strange = Epoch(77, "0badcafe")
    first = await store.open()
    await first.fence(strange)
    await end(first, (1,))
    await first.close()
    second = await store.open()
    await end(second, (1,))
    store.clock.at += 2 * DAY
    await prune(store, second, first.epoch, below=MAX_SEQUENCE)
    assert [(given.epoch, given.fenced) for given in await second.epochs()] == [
        (first.epoch, True),
        (second.epoch, False),
    ]
    assert await second.decide(propose(second, Txid(strange, 1), ABORT)) == Ruling(ABORT, Basis.ACCEPTED)
    assert await prune(store, second, strange) == Pruned(0, 0, more=False)
    await second.close()


async def test_pruning_is_durable_when_it_returns_and_costs_nothing_if_there_is_nothing(store: Store) -> None:
    journal = await store.open()
    await end(journal, (1, 2))
    syncs = journal.syncs
    assert (await prune(store, journal)).forgotten == 0
    assert journal.syncs == syncs
    store.clock.at += 2 * DAY
    assert (await prune(store, journal)).forgotten == 1
    assert journal.syncs == syncs + 1
    await journal.close()


async def test_decisions_of_the_same_moment_are_made_all_the_same(store: Store) -> None:
    journal = await store.open()
    await end(journal, range(1, 30))
    store.clock.at += 2 * DAY
    pruning = asyncio.create_task(prune(store, journal, below=30))
    rulings = await asyncio.gather(*(journal.decide(propose(journal, number)) for number in range(30, 60)))
    # Of the newest event's transaction it depends on who comes first.
    forgotten = (await pruning).forgotten
    assert forgotten in (28, 29)
    assert {ruling.basis for ruling in rulings} == {Basis.ACCEPTED}
    assert await left(journal) == [*range(forgotten + 1, 60)]
    await journal.close()
