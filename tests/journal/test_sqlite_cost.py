"""What the SQLite journal costs: syncs (R14), waiting, and nothing that grows with the history."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from journal.children import STRACE, content, run
from journal.samples import begun, propose, request, txid
from twophase.coordinator.journal import schema, sqlite, sqlite_writer
from twophase.coordinator.journal.codec import decode
from twophase.coordinator.journal.events import Definition, Ended, Event, Finished, SagaStep, Voted
from twophase.coordinator.journal.port import (
    Basis,
    Ruling,
)
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.journal.sqlite_batch import Item, Written, write
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Decision, DecisionKind, Ending, Vote, delegated


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that only looking can tell."""
    while not condition():
        await asyncio.sleep(0)


async def test_unforced_events_are_written_by_themselves_within_a_moment(path: Path) -> None:
    journal = await SqliteJournal.open(path)
    syncs = journal.syncs
    with closing(sqlite3.connect(path)) as other:
        journal.append(begun(journal, 1))
        async with asyncio.timeout(10):
            await until(lambda: other.execute("SELECT count(*) FROM events").fetchone() == (1,))
    assert journal.syncs == syncs
    await journal.close()


async def test_a_decision_does_not_wait_for_company(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, "LINGER", 3600)
    journal = await SqliteJournal.open(path)
    journal.append(begun(journal, 1))
    async with asyncio.timeout(10):
        assert await journal.decide(propose(journal, 1)) == Ruling(COMMIT, Basis.ACCEPTED)
        assert journal.position == 2
        journal.append(Ended(txid(journal, 1), committed=True))
        await journal.close()


async def test_r4_sqlite_is_told_to_sync_whenever_a_batch_is_forced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await SqliteJournal.open(path)
    modes: list[int] = []

    def look(connection: sqlite3.Connection, items: Sequence[Item], position: int, **more: bool) -> Written:
        modes.append(connection.execute("PRAGMA synchronous").fetchone()[0])
        return write(connection, items, position, **more)

    monkeypatch.setattr(sqlite_writer, "write", look)
    for number, decision in enumerate((COMMIT, ABORT, COMMIT, ABORT, ABORT, delegated(0))):
        await journal.decide(propose(journal, number, decision))
    await journal.flush()
    normal, full = 1, 2
    assert modes == [full, normal, full, normal, normal, full, full]
    await journal.close()


@pytest.mark.parametrize("bound", ["CHECKPOINT_WHEN_IDLE", "CHECKPOINT_AT_LATEST"])
async def test_the_log_is_moved_into_the_file_in_time(path: Path, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_writer, bound, 1)
    monkeypatch.setattr(sqlite_writer, "IDLE", 0.001)
    journal = await SqliteJournal.open(path)
    before = content(path)
    await journal.decide(propose(journal, 1))
    async with asyncio.timeout(10):
        await until(lambda: content(path) != before)
    assert await journal.decide(propose(journal, 2)) == Ruling(COMMIT, Basis.ACCEPTED)
    await journal.close()


async def test_the_log_is_moved_into_the_file_in_time_if_few_sagas_have_large_payloads(path: Path) -> None:
    journal = await SqliteJournal.open(path)
    steps = (SagaStep("take", "stock", "take", bytes(5 << 20), (), pivot=False),)
    start = replace(propose(journal, 1, Decision(DecisionKind.SAGA)), definition=Definition(steps, 1000))
    assert (await journal.decide(start)).basis is Basis.ACCEPTED
    async with asyncio.timeout(10):
        await until(lambda: path.stat().st_size > 5 << 20)
    await journal.close()


async def test_lists_are_understood_beside_the_event_loop(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await SqliteJournal.open(path)
    await journal.decide(propose(journal, 1))
    threads: set[int] = set()

    def look(*event: Any) -> Event:
        threads.add(threading.get_ident())
        return decode(*event)

    monkeypatch.setattr(sqlite, "decode", look)
    assert len(await journal.unfinished()) == len(await journal.transactions(limit=9)) == 1
    assert threads
    assert threading.get_ident() not in threads
    await journal.close()


# A scan that ends with its first row.
BY_KEY = {schema.NEWEST_TRANSACTION: ["SCAN events"]}


async def test_no_question_of_the_hot_path_reads_the_history(path: Path) -> None:
    await (await SqliteJournal.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        for sql in (
            schema.SELECT_DECISIONS,
            schema.SELECT_EPOCH,
            schema.SELECT_HOLDERS,
            schema.RELEASE_REQUEST,
            schema.LAST_EPOCH,
            schema.LAST_POSITION,
            schema.NEWEST_TRANSACTION,
            schema.CANDIDATES,
            schema.STRAGGLERS,
            schema.RAISE_HORIZON,
            schema.REQUESTS_IN_EVENTS,
            schema.FORGET_REQUEST,
            schema.FORGET_EVENTS,
            schema.FORGET_DECISION,
            schema.FORGET_TRANSACTION,
            schema.EVENTS_OF_TRANSACTION,
            schema.HISTORY_OF_TRANSACTION,
            schema.EVENTS_OF_REQUEST,
            schema.SELECT_REQUEST_IDS,
            schema.EVENTS_OF_UNFINISHED,
            schema.EVENTS_OF_NEWEST,
            schema.EVENTS_OF_NEWEST_UNFINISHED,
        ):
            parameters = ("x",) * (2 if "?2" in sql else sql.count("?"))
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, parameters)]
            scans = [step for step in plan if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"]
            scans = [step for step in scans if "VIRTUAL TABLE" not in step]  # what is asked for: a JSON array
            assert [step for step in scans if "INDEX unfinished" not in step] == BY_KEY.get(sql, []), (sql, plan)


async def test_a_batch_is_a_handful_of_statements_however_many_it_decides(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each statement lets go of the interpreter's lock, and has to win it back from a busy event loop."""
    journal = await SqliteJournal.open(path)
    statements: list[list[str]] = []

    def look(connection: sqlite3.Connection, items: Sequence[Item], position: int, **more: bool) -> Written:
        statements.append([])
        connection.set_trace_callback(statements[-1].append)
        written = write(connection, items, position, **more)
        connection.set_trace_callback(None)
        return written

    monkeypatch.setattr(sqlite_writer, "write", look)
    for first, last in ((1, 2), (2, 52)):
        for number in range(first, last):
            journal.append(begun(journal, number, request(f"order-{number}")))
            journal.append(Voted(txid(journal, number), 0, Vote.YES))
        decisions = (propose(journal, each, claim=request(f"order-{each}")) for each in range(first, last))
        await asyncio.gather(*map(journal.decide, decisions))
    for number in range(1, 52):
        journal.append(Finished(txid(journal, number), 0, Ending.APPLIED))
        journal.append(Ended(txid(journal, number), committed=True))
    await journal.flush()
    alone, fifty, ended = (len(batch) for batch in statements)
    # Begin, commit; read decisions, holders, the epoch; write events, decisions, requests, progress (64 rows at once).
    assert alone == 9
    assert fifty == 9 + 2 + 1
    assert ended == 2 + 1 + 2 + 1
    await journal.close()


@pytest.mark.skipif(STRACE is None, reason="strace is not installed: syncs are counted by the journal alone")
@pytest.mark.parametrize(
    ("work", "syncs"),
    [
        ("await journal.decide(propose(journal, 1))", 1),
        ("await journal.decide(propose(journal, 1, ABORT))", 0),
        ("journal.append(begun(journal, 1)); await journal.transaction(txid(journal, 1))", 0),
        ("await journal.decide(propose(journal, 1, ABORT)); await journal.decide(propose(journal, 2))", 1),
        ("await asyncio.gather(*(journal.decide(propose(journal, number)) for number in range(50)))", 1),
        ("await journal.decide(propose(journal, 1, ABORT)); await journal.flush()", 1),
        ("await journal.decide(propose(journal, 1, ABORT)); await journal.register(SHOP)", 1),
        ("await journal.decide(propose(journal, 1, ABORT)); await journal.decide(propose(journal, 0))", 1),
    ],
    ids=[
        "commit",
        "abort",
        "append",
        "abort then commit",
        "fifty commits",
        "abort then flush",
        "abort then a participant that is known",
        "abort then a decision that is made",
    ],
)
def test_r14_syncs_counted_by_the_kernel(path: Path, tmp_path: Path, work: str, syncs: int) -> None:
    trace = tmp_path / "trace"
    code = f"""
    async def main():
        journal = await SqliteJournal.open(sys.argv[1])
        await journal.decide(propose(journal, 0))
        await journal.register(SHOP)
        import os
        os.access("/before", os.F_OK)
        {work}
        os.access("/after", os.F_OK)
        await journal.close()
    asyncio.run(main())
    """
    assert STRACE is not None
    run(
        code,
        path,
        STRACE,
        "-f",
        "-qq",
        "-o",
        str(trace),
        "-e",
        "trace=fsync,fdatasync,sync_file_range,access,faccessat",
    )
    text = trace.read_text()
    assert text.count('"/before"') == text.count('"/after"') == 1
    assert text.split('"/before"')[1].split('"/after"')[0].count("sync(") == syncs
