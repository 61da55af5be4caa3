"""Opening a SQLite journal (R10): the lock, what is refused, what must be on disk before anything is acted on."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from journal.children import content, run, start
from journal.samples import propose, txid
from twophase.contract.names import Txid
from twophase.coordinator.journal import schema, sqlite_open
from twophase.coordinator.journal.port import (
    JournalError,
    JournalLocked,
    JournalUnusable,
)
from twophase.coordinator.journal.snapshot import snapshot
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import COMMIT


def lines(error: JournalError) -> list[str]:
    return str(error).splitlines()


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
                " start this one with --standby, or give it a journal of its own"
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
    try:
        told = [int(child.stdout.readline()) for _ in range(200)]
    finally:
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


async def test_r10_the_log_of_a_journal_that_was_moved_away_is_not_thrown_away(path: Path) -> None:
    decide = """
    import os
    async def main():
        journal = await SqliteJournal.open(sys.argv[1])
        await journal.decide(propose(journal, 1))
        print(journal.epoch, flush=True)
        os._exit(0)
    asyncio.run(main())
    """
    epoch = run(decide, path).strip()
    log = path.with_name("journal.db-wal")
    before = content(log)
    moved = shutil.move(path, path.with_name("moved.db"))
    with pytest.raises(JournalUnusable, match=r"there is no journal .*, but the log of one, journal.db-wal: put the j"):
        await SqliteJournal.open(path)
    assert (content(log), content(path)) == (before, None)
    shutil.move(moved, path)
    journal = await SqliteJournal.open(path)
    record = await journal.transaction(Txid.parse(f"{epoch}-{1:012x}"))
    assert record is not None
    assert record.decision == COMMIT
    await journal.close()


async def test_r10_a_journal_with_two_names_is_refused_since_it_would_have_two_locks_and_two_logs(path: Path) -> None:
    await (await SqliteJournal.open(path)).close()
    journal = await SqliteJournal.open(path)
    other = path.with_name("other.db")
    other.hardlink_to(path)
    with pytest.raises(JournalUnusable, match=r"with 2 names \(hard links\).*find DIRECTORY -samefile"):
        await SqliteJournal.open(other)
    await journal.decide(propose(journal, 1))
    await journal.close()
    with pytest.raises(JournalUnusable, match="with 2 names"):
        await SqliteJournal.open(path)
    other.unlink()
    reopened = await SqliteJournal.open(path)
    assert await reopened.transaction(txid(journal, 1)) is not None
    await reopened.close()


def test_links_that_lead_in_a_circle_are_no_place_for_a_journal(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(JournalUnusable):
        sqlite_open.take_lock(path)
    with pytest.raises(JournalUnusable), snapshot(path):
        raise AssertionError


@pytest.mark.parametrize("name", ["journal.db", "a journal\\of\tours.db"])
async def test_r10_a_journal_mounted_without_its_log_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / name
    await (await SqliteJournal.open(path)).close()
    escaped = str(path).replace("\\", "\\134").replace("\t", "\\011").replace(" ", "\\040")
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(sqlite_open, "_MOUNTS", mounts)
    line = "42 27 254:0 /elsewhere {} rw,relatime - ext4 /dev/vda rw\n"
    mounts.write_text(line.format("/") + line.format(escaped))
    with pytest.raises(JournalUnusable, match=r"mounted alone, without its log and its lock.*; mount its directory"):
        await SqliteJournal.open(path)
    mounts.write_text(line.format("/") + line.format(tmp_path))
    await (await SqliteJournal.open(path)).close()
    mounts.unlink()
    await (await SqliteJournal.open(path)).close()


async def test_a_copy_taken_as_the_docs_say_from_a_journal_in_use_has_all_that_was_told(path: Path) -> None:
    journal = await SqliteJournal.open(path, label="shop")
    await journal.decide(propose(journal, 1))
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    await journal.decide(propose(journal, 2))
    copied = await SqliteJournal.open(copy)
    assert (copied.journal_id, copied.label, copied.position) == (journal.journal_id, "shop", 1)
    assert copied.epoch.number == journal.epoch.number + 1
    assert [record.txid for record in await copied.transactions(limit=9)] == [txid(journal, 1)]
    await copied.close()
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
        from twophase.coordinator.journal.port import JournalFull
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
        try:
            asyncio.run(SqliteJournal.open(sys.argv[1]))
        except JournalFull as error:
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
