"""The SQLite journal's own promises: opening (R10), failure (R10), counted syncs (R14), cost."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from journal.samples import begun, propose, request, txid
from twophase.contract.names import Txid
from twophase.coordinator.journal import schema, sqlite_open, sqlite_writer
from twophase.coordinator.journal.events import Ended
from twophase.coordinator.journal.port import (
    Basis,
    JournalError,
    JournalFailed,
    JournalLocked,
    JournalUnusable,
    Ruling,
)
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.journal.sqlite_batch import Item, Written, write
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, delegated

PRELUDE = """
import asyncio, sys
from journal.samples import propose, begun, txid
from twophase.coordinator.journal.port import JournalFailed
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT
"""
STRACE = shutil.which("strace")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def start(code: str, path: Path, *wrapper: str) -> subprocess.Popen[str]:
    """A child process that runs `code` with the journal's path as argument."""
    return subprocess.Popen(
        [*wrapper, sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"},
    )


def run(code: str, path: Path, *wrapper: str) -> str:
    """What the child wrote to its output. It must end well."""
    with start(code, path, *wrapper) as child:
        try:
            out, err = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == 0, err
    return out


async def close(journal: SqliteJournal) -> None:
    """Closes a journal that has failed."""
    with pytest.raises(JournalFailed):
        await journal.close()


def content(path: Path) -> bytes | None:
    """What is in a file; None for what is none."""
    return path.read_bytes() if path.is_file() else None


async def until(condition: Callable[[], bool]) -> None:
    """Waits for something that only looking can tell."""
    while not condition():  # noqa: ASYNC110 - SQLite and the file system tell nobody
        await asyncio.sleep(0)


def lines(error: JournalError) -> list[str]:
    return str(error).splitlines()


# --- opening: R10


async def test_a_new_journal_is_private_and_recognisable(path: Path) -> None:
    journal = await SqliteJournal.open(path, label="shop")
    assert journal.label == "shop"
    for name in ("journal.db", "journal.db-wal", "journal.db.lock"):
        assert stat.S_IMODE((path.parent / name).stat().st_mode) == 0o600, name
    await journal.close()
    assert {entry.name for entry in path.parent.iterdir()} == {"journal.db", "journal.db.lock"}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)


async def test_the_label_stays_until_another_is_given(path: Path) -> None:
    labels = []
    for label in (None, "shop", None, "store"):
        journal = await SqliteJournal.open(path, label=label)
        labels.append(journal.label)
        await journal.close()
    assert labels == ["", "shop", "shop", "store"]


async def test_r10_a_second_process_is_told_who_has_the_journal(path: Path) -> None:
    hold = """
    async def main():
        journal = await SqliteJournal.open(sys.argv[1])
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        await journal.close()
    asyncio.run(main())
    """
    holder = start(hold, path)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        before = content(path)
        link = path.parent / "link.db"
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(JournalLocked) as caught:
                await SqliteJournal.open(name)
            assert str(caught.value) == (
                f"journal {path} is in use by process {holder.pid}; stop that coordinator,"
                " or give this one a journal of its own"
            )
        assert content(path) == before
    finally:
        _, err = holder.communicate(timeout=30)
    assert (holder.returncode, err) == (0, "")
    await (await SqliteJournal.open(path)).close()


async def test_r10_a_killed_holder_leaves_no_lock_and_every_decision_that_was_told(path: Path) -> None:
    child = start(
        """
        async def main():
            journal = await SqliteJournal.open(sys.argv[1])
            print(journal.epoch, flush=True)
            async def client(first):
                for number in range(first, 10**9, 8):
                    ruling = await journal.decide(propose(journal, number))
                    print(number, flush=True)
            await asyncio.gather(*(client(first) for first in range(8)))
        asyncio.run(main())
        """,
        path,
    )
    assert child.stdout is not None
    epoch = child.stdout.readline().strip()
    told = [int(child.stdout.readline()) for _ in range(200)]
    child.kill()
    rest, _ = child.communicate(timeout=30)
    told += [int(line) for line in rest.split("\n")[:-1]]
    journal = await SqliteJournal.open(path)
    for number in told:
        record = await journal.transaction(Txid.parse(f"{epoch}-{number:012x}"))
        assert record is not None, number
        assert record.decision == COMMIT
    assert journal.position >= len(told)
    await journal.close()


async def test_r10_the_opening_waits_until_the_log_is_on_disk_or_says_who_is_in_the_way(path: Path) -> None:
    await (await SqliteJournal.open(path)).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        # A reader on an old state of the log keeps it from being moved into the file as a whole.
        with closing(sqlite3.connect(path, isolation_level=None)) as writer:
            writer.execute("UPDATE journal SET label = 'a'")
            reader.execute("BEGIN")
            reader.execute("SELECT * FROM journal").fetchall()
            writer.execute("UPDATE journal SET label = 'b'")
        with pytest.raises(JournalLocked, match="another program's SQLite connection; close that program"):
            await SqliteJournal.open(path, busy_timeout=0.01, attempts=2)
        assert reader.execute("SELECT count(*) FROM epochs").fetchone() == (1,)
        reader.execute("COMMIT")
        journal = await SqliteJournal.open(path, busy_timeout=0.01, attempts=2)
        assert (journal.epoch.number, journal.label) == (2, "b")
    await journal.close()


async def test_a_journal_of_a_newer_schema_is_left_alone(path: Path) -> None:
    await (await SqliteJournal.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    before = content(path)
    with pytest.raises(JournalUnusable) as caught:
        await SqliteJournal.open(path)
    assert str(caught.value) == (
        f"journal {path} has schema version {schema.VERSION + 1}, and this twophase knows versions up to"
        f" {schema.VERSION}; run the newer twophase that wrote it"
    )
    assert content(path) == before


def not_a_database(path: Path) -> None:
    path.write_text("order_id,customer_id\n" * 500)


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photos (name TEXT)")


def damaged(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))


def emptied_beside_its_log(path: Path) -> None:
    path.write_bytes(b"")
    path.with_name("journal.db-wal").write_bytes(b"something")


def without_identity(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM journal")


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (not_a_database, "cannot be used: file is not a database; restore it"),
        (damaged, "is damaged .*; restore it from a backup"),
        (emptied_beside_its_log, "is empty while its log journal.db-wal is not"),
        (without_identity, "is damaged .*; restore it from a backup"),
        (a_directory, "is not a file, so it cannot be a journal"),
    ],
)
async def test_r10_what_cannot_be_used_is_said_in_one_line(
    path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    await (await SqliteJournal.open(path)).close()
    spoil(path)
    before = content(path)
    for _ in range(2):
        with pytest.raises(JournalUnusable, match=message) as caught:
            await SqliteJournal.open(path)
        assert len(lines(caught.value)) == 1
    if spoil is not without_identity:
        assert before == content(path)


async def test_r10_a_big_journal_is_not_read_through_and_its_damage_found_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await SqliteJournal.open(path)).close()
    damaged(path)
    monkeypatch.setattr(sqlite_open, "CHECKED_BYTES", 0)
    with pytest.raises(JournalUnusable, match="database disk image is malformed; restore it from a backup"):
        await SqliteJournal.open(path)


def test_r10_an_opening_without_room_blames_the_disk(path: Path) -> None:
    out = run(
        """
        import resource
        from twophase.coordinator.journal.port import JournalUnusable
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            asyncio.run(SqliteJournal.open(sys.argv[1]))
        except JournalUnusable as error:
            print(error)
        """,
        path,
    )
    assert out.startswith(f"journal {path} cannot be used: ")
    assert out.endswith("; look after the disk, and the rights to the file and its directory\n")


def test_a_file_without_a_write_ahead_log_is_refused(path: Path) -> None:
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(JournalUnusable, match=r"write-ahead log here \(memory\); put it on a local disk"),
    ):
        sqlite_open.prepare(connection, path, None, 1)


async def test_another_program_s_file_is_left_alone(path: Path) -> None:
    of_another_program(path)
    before = content(path)
    with pytest.raises(JournalUnusable, match="not a journal of twophase; name another file"):
        await SqliteJournal.open(path)
    assert content(path) == before


async def test_a_missing_directory_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(JournalUnusable, match=f"does not exist; make it: mkdir -p {tmp_path}/a/b"):
        await SqliteJournal.open(tmp_path / "a" / "b" / "journal.db")
    assert not os.listdir(tmp_path)  # noqa: PTH208 - the loop has nothing else to do


async def test_a_place_out_of_reach_is_named_with_the_reason(path: Path) -> None:
    path.with_name("journal.db.lock").mkdir()
    with pytest.raises(JournalUnusable, match="cannot be opened: Is a directory; give it a place"):
        await SqliteJournal.open(path)
    dangling = path.with_name("dangling")
    (path.parent / "x.db").symlink_to(dangling / "journal.db")
    with pytest.raises(JournalUnusable, match="does not exist"):
        await SqliteJournal.open(path.parent / "x.db")


def nothing_yet(path: Path) -> None:
    path.touch()


def nothing_but_the_mode(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@pytest.mark.parametrize("leave", [nothing_yet, nothing_but_the_mode])
async def test_a_crash_while_the_journal_was_made_is_made_good(path: Path, leave: Callable[[Path], None]) -> None:
    leave(path)
    journal = await SqliteJournal.open(path)
    assert journal.epoch.number == 1
    await journal.close()


# --- failure: R10


async def test_r10_a_failed_write_fails_everybody_for_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await SqliteJournal.open(path)
    await journal.decide(propose(journal, 1))
    broken = sqlite3.OperationalError("disk I/O error")

    def fail(*_: object) -> Written:
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
    for call in (journal.decide(propose(journal, 1)), journal.unfinished(), journal.flush()):
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

    def fail(*_: object) -> Written:
        loop.call_soon_threadsafe(started.set)
        # The writer's thread stays here until somebody waits behind it.
        asyncio.run_coroutine_threadsafe(join(), loop).result(timeout=10)
        raise sqlite3.OperationalError("disk I/O error")

    async def join() -> None:
        behind.append(asyncio.create_task(journal.decide(propose(journal, 2))))
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
    deciding = asyncio.create_task(journal.decide(propose(journal, 1)))
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


# --- group commit and cost: R14


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

    def look(connection: sqlite3.Connection, items: Sequence[Item], position: int) -> Written:
        modes.append(connection.execute("PRAGMA synchronous").fetchone()[0])
        return write(connection, items, position)

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


async def test_no_question_of_the_hot_path_reads_the_history(path: Path) -> None:
    await (await SqliteJournal.open(path)).close()
    with closing(sqlite3.connect(path)) as connection:
        for sql in (
            schema.SELECT_DECISION,
            schema.SELECT_EPOCH,
            schema.SELECT_HOLDER,
            schema.RELEASE_REQUEST,
            schema.LAST_EPOCH,
            schema.LAST_POSITION,
            schema.EVENTS_OF_TRANSACTION,
            schema.EVENTS_OF_REQUEST,
            schema.EVENTS_OF_UNFINISHED,
            schema.EVENTS_OF_NEWEST,
            schema.EVENTS_OF_NEWEST_UNFINISHED,
        ):
            parameters = ("x",) * (2 if "?2" in sql else sql.count("?"))
            plan = [row[3] for row in connection.execute("EXPLAIN QUERY PLAN " + sql, parameters)]
            scans = [step for step in plan if step.startswith("SCAN") and step != "SCAN CONSTANT ROW"]
            assert [step for step in scans if "INDEX unfinished" not in step] == [], (sql, plan)


@pytest.mark.skipif(STRACE is None, reason="strace is not installed: syncs are counted by the journal alone")
@pytest.mark.parametrize(
    ("work", "syncs"),
    [
        ("await journal.decide(propose(journal, 1))", 1),
        ("await journal.decide(propose(journal, 1, ABORT))", 0),
        ("journal.append(begun(journal, 1)); await journal.transaction(txid(journal, 1))", 0),
        ("await journal.decide(propose(journal, 1, ABORT)); await journal.decide(propose(journal, 2))", 1),
        ("await asyncio.gather(*(journal.decide(propose(journal, number)) for number in range(50)))", 1),
    ],
    ids=["commit", "abort", "append", "abort then commit", "fifty commits"],
)
def test_r14_syncs_counted_by_the_kernel(path: Path, tmp_path: Path, work: str, syncs: int) -> None:
    trace = tmp_path / "trace"
    code = f"""
    async def main():
        journal = await SqliteJournal.open(sys.argv[1])
        await journal.decide(propose(journal, 0))
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


async def test_an_ended_delegation_is_released_in_the_batch_that_claims_anew(path: Path) -> None:
    journal = await SqliteJournal.open(path)
    await journal.decide(propose(journal, 1, delegated(0), claim=request("order")))
    journal.append(Ended(txid(journal, 1), committed=False))
    assert await journal.decide(propose(journal, 2, claim=request("order", 2))) == Ruling(COMMIT, Basis.ACCEPTED)
    await journal.close()
