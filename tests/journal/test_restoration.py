"""What every journal keeps of outcomes that went wrong (R11), and of being an older copy than its participants know."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from journal.samples import BRANCHES, propose, txid
from journal.stores import Store
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.events import Ended, Finished
from twophase.coordinator.journal.port import Journal, Restoration
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, Ending, contradicts, delegated


@pytest.mark.parametrize("ending", list(Ending))
@pytest.mark.parametrize("decision", [COMMIT, ABORT, delegated(0)], ids=str)
async def test_r11_an_ending_against_the_decision_is_found_without_history(
    store: Store, decision: Decision, ending: Ending
) -> None:
    journal = await store.open()
    name = txid(journal, 1)
    await journal.decide(propose(journal, 2))
    await journal.decide(propose(journal, 1, decision))
    journal.append(Finished(name, 0, ending))
    journal.append(Finished(name, 0, ending))
    journal.append(Ended(name, committed=decision == COMMIT))
    await journal.close()
    journal = await store.open()
    found = await journal.heuristics()
    assert [record.txid for record in found] == ([name] if contradicts(decision, ending) else [])
    assert all(record.endings == {0: ending} and record.branches == BRANCHES for record in found)
    await journal.close()


async def test_r11_heuristic_outcomes_come_oldest_first(journal: Journal) -> None:
    for sequence in (3, 1, 2):
        await journal.decide(propose(journal, sequence))
        journal.append(Finished(txid(journal, sequence), 1, Ending.LOST))
    assert [record.txid.sequence for record in await journal.heuristics()] == [1, 2, 3]


async def test_without_a_decision_only_what_is_lost_is_a_heuristic_outcome(journal: Journal) -> None:
    """It was to be committed, by a decision that another copy of the journal has."""
    for number, ending in enumerate(Ending):
        journal.append(Finished(txid(journal, number), 0, ending))
    assert [record.endings for record in await journal.heuristics()] == [{0: Ending.LOST}]


async def test_a_journal_is_in_quarantine_over_every_opening_until_it_is_lifted(store: Store) -> None:
    journal = await store.open()
    assert await journal.restoration() == Restoration()
    await journal.suspect("stock has seen more")
    await journal.suspect("payment has seen more")
    await journal.suspect("stock has seen more")
    await journal.close()
    journal = await store.open()
    assert await journal.restoration() == Restoration(("stock has seen more", "payment has seen more"))
    await journal.lift(epoch=7, position=40)
    await journal.close()
    journal = await store.open()
    assert await journal.restoration() == Restoration(floor=7)
    await journal.suspect("and again")
    assert await journal.restoration() == Restoration(("and again",), floor=7)
    await journal.close()


async def test_a_lifted_journal_goes_on_above_what_was_seen(store: Store) -> None:
    journal = await store.open()
    await journal.decide(propose(journal, 1))
    await journal.lift(epoch=7, position=40)
    await journal.close()
    journal = await store.open()
    assert journal.epoch.number == 8
    assert journal.position >= 40
    before = journal.position
    journal.append(Finished(txid(journal, 1), 0, Ending.APPLIED))
    await journal.flush()
    assert journal.position == before + 1
    await journal.close()


async def test_lifting_never_goes_back(store: Store) -> None:
    for _ in range(2):
        journal = await store.open()
        await journal.lift(epoch=1, position=0)
        await journal.close()
    journal = await store.open()
    assert journal.epoch.number == 3
    await journal.close()


async def test_a_file_of_the_first_version_gets_the_new_tables(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in schema.MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("INSERT INTO journal (id, label) VALUES ('0123456789abcdef', '')")
    connection.close()
    journal = await SqliteJournal.open(path)
    assert await journal.heuristics() == ()
    assert await journal.restoration() == Restoration()
    await journal.close()
