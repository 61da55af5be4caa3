"""A SQLite journal whose write, sync or read fails (R10), and what the file itself refuses."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from journal.children import STRACE, run
from journal.samples import propose, request, txid
from twophase.contract.names import Txid
from twophase.coordinator.journal import schema, sqlite_writer
from twophase.coordinator.journal.events import Ended
from twophase.coordinator.journal.port import (
    JournalFailed,
    Ruling,
)
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.journal.sqlite_batch import Written
from twophase.coordinator.protocol.decisions import ABORT, COMMIT


async def close(journal: SqliteJournal) -> None:
    """Closes a journal that has failed."""
    with pytest.raises(JournalFailed):
        await journal.close()


async def test_r10_a_failed_write_fails_everybody_for_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await SqliteJournal.open(path)
    await journal.decide(propose(journal, 1))
    broken = sqlite3.OperationalError("disk I/O error")

    def fail(*_: object, **__: object) -> Written:
        raise broken

    monkeypatch.setattr(sqlite_writer, "write", fail)
    results = await asyncio.gather(
        *(journal.decide(propose(journal, number, decision)) for number, decision in ((2, COMMIT), (3, ABORT))),
        journal.flush(),
        journal.transaction(txid(journal, 2)),
        return_exceptions=True,
    )
    monkeypatch.undo()
    for result in results:
        assert isinstance(result, JournalFailed)
        assert result.__cause__ is broken
        assert "disk I/O error" in str(result)
        assert "stop this process" in str(result)
    with pytest.raises(JournalFailed):
        await journal.decide(propose(journal, 1))
    for call in (journal.unfinished(), journal.flush()):
        with pytest.raises(JournalFailed):
            await call
    with pytest.raises(JournalFailed):
        journal.append(Ended(txid(journal, 1), committed=True))
    await close(journal)
    await journal.close()
    reopened = await SqliteJournal.open(path)
    assert [record.txid for record in await reopened.transactions(limit=9)] == [txid(journal, 1)]
    await reopened.close()


async def test_r10_what_waits_behind_a_failed_write_fails_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await SqliteJournal.open(path)
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    behind: list[asyncio.Task[Ruling]] = []

    def fail(*_: object, **__: object) -> Written:
        loop.call_soon_threadsafe(started.set)
        # The writer's thread stays here until somebody waits behind it.
        asyncio.run_coroutine_threadsafe(join(), loop).result(timeout=10)
        raise sqlite3.OperationalError("disk I/O error")

    async def join() -> None:
        behind.append(asyncio.ensure_future(journal.decide(propose(journal, 2))))
        await asyncio.sleep(0)

    monkeypatch.setattr(sqlite_writer, "write", fail)
    with pytest.raises(JournalFailed):
        await journal.decide(propose(journal, 1))
    assert started.is_set()
    with pytest.raises(JournalFailed):
        await behind[0]
    await close(journal)


async def test_r10_a_page_that_cannot_be_read_fails_the_journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await SqliteJournal.open(path)
    monkeypatch.setattr(schema, "EVENTS_OF_TRANSACTION", "SELECT nothing FROM nowhere WHERE ? = 1")
    with pytest.raises(JournalFailed, match="cannot be read"):
        await journal.transaction(txid(journal, 1))
    with pytest.raises(JournalFailed):
        await journal.decide(propose(journal, 1))
    await close(journal)


async def test_a_second_decision_is_refused_by_the_file_itself(path: Path) -> None:
    journal = await SqliteJournal.open(path)
    await journal.decide(propose(journal, 1, claim=request("order")))
    await journal.close()
    name = str(txid(journal, 1))
    with closing(sqlite3.connect(path)) as connection:
        for statement in (
            "UPDATE decisions SET decision = 'abort'",
            "UPDATE events SET body = '{}'",
            f"INSERT INTO decisions VALUES ('{name}', 'abort', NULL, NULL)",
            "INSERT INTO requests VALUES ('order', 2, 'another', 1)",
        ):
            with pytest.raises(sqlite3.IntegrityError):
                connection.execute(statement)


async def test_a_writer_that_is_cancelled_fails_the_journal_instead_of_hanging(path: Path) -> None:
    journal = await SqliteJournal.open(path)
    deciding = asyncio.ensure_future(journal.decide(propose(journal, 1)))
    await asyncio.sleep(0)
    (writer,) = (task for task in asyncio.all_tasks() if task.get_name() == f"writer of {path}")
    writer.cancel()
    with pytest.raises(JournalFailed, match="cancelled"):
        await deciding
    await close(journal)


def test_a_journal_that_nobody_closed_does_not_keep_its_process(path: Path) -> None:
    run("asyncio.run(SqliteJournal.open(sys.argv[1]))", path)


FILL_UP = """
import resource

async def main():
    journal = await SqliteJournal.open(sys.argv[1])
    print(journal.epoch)
    size = 400_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    told = []
    async def client(first):
        for number in range(first, 10**9, 8):
            await journal.decide(propose(journal, number))
            told.append(number)
    results = await asyncio.gather(*(client(first) for first in range(8)), return_exceptions=True)
    assert all(isinstance(result, JournalFailed) for result in results), results
    try:
        journal.append(begun(journal, 1))
    except JournalFailed:
        pass
    else:
        raise SystemExit("the journal goes on after a failed write")
    try:
        await journal.close()
    except JournalFailed:
        print(*told)

asyncio.run(main())
"""


async def test_r10_a_full_disk_fails_everybody_and_loses_nothing_that_was_told(path: Path) -> None:
    epoch, told, *_ = run(FILL_UP, path).split("\n")
    journal = await SqliteJournal.open(path)
    assert told
    for number in map(int, told.split()):
        record = await journal.transaction(Txid.parse(f"{epoch}-{number:012x}"))
        assert record is not None, number
    await journal.close()


@pytest.mark.skipif(STRACE is None, reason="strace is not installed: syncs cannot be made to fail")
async def test_r10_a_failed_sync_fails_the_journal(path: Path) -> None:
    code = """
    async def main():
        journal = await SqliteJournal.open(sys.argv[1])
        print(journal.epoch)
        for number in range(100):
            try:
                await journal.decide(propose(journal, number))
            except JournalFailed as error:
                print(number, error.__cause__)
                break
        try:
            await journal.close()
        except JournalFailed:
            print("closed")
    asyncio.run(main())
    """
    assert STRACE is not None
    inject = "inject=fdatasync,fsync:error=EIO:when=20+"
    out = run(code, path, STRACE, "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync", "-e", inject)
    epoch, failed, closed = out.splitlines()
    number, _, cause = failed.partition(" ")
    assert (cause, closed) == ("disk I/O error", "closed")
    journal = await SqliteJournal.open(path)
    for told in range(int(number)):
        record = await journal.transaction(Txid.parse(f"{epoch}-{told:012x}"))
        assert record is not None
        assert record.decision == COMMIT
    await journal.close()
