"""`twophase journal inspect` leaves no trace in what it looks at, and sees it whole while it is written."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from journal.children import start
from journal.samples import propose
from twophase.coordinator import cli
from twophase.coordinator.journal import schema, snapshot
from twophase.coordinator.journal.offline import open_offline
from twophase.coordinator.journal.port import JournalUnusable
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import COMMIT
from verbs.journals import COUNTS, fill, inspect, make, one_more, traces


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    directory.mkdir()
    return directory / "journal.db"


# --- no trace


def test_a_closed_journal_is_read_without_a_trace(runner: CliRunner, path: Path) -> None:
    make(path)
    before = traces(path.parent)

    told = inspect(runner, path)

    assert traces(path.parent) == before
    assert told["counts"] == COUNTS
    assert (told["label"], told["integrity"], told["schema_version"]) == ("shop", "ok", schema.VERSION)


async def test_a_journal_in_use_is_read_without_a_trace(runner: CliRunner, path: Path) -> None:
    journal = await SqliteJournal.open(path)
    await fill(journal)
    held = {name: what for name, what in traces(path.parent).items() if not name.endswith(".lock")}

    told = await asyncio.to_thread(inspect, runner, path)

    assert {name: what for name, what in traces(path.parent).items() if not name.endswith(".lock")} == held
    assert told["counts"] == COUNTS
    assert told["log_bytes"] > 0
    # Its coordinator goes on as if nobody had looked.
    assert (await journal.decide(propose(journal, 8))).decision == COMMIT
    await journal.close()


def killed(path: Path) -> None:
    code = """
    async def main():
        journal = await SqliteJournal.open(sys.argv[1])
        for number in range(1, 4):
            await journal.decide(propose(journal, number))
        print("ready", flush=True)
        await asyncio.Event().wait()
    asyncio.run(main())
    """
    with start(code, path) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.kill()


def test_r10_the_log_that_a_killed_coordinator_left_counts_and_stays(runner: CliRunner, path: Path) -> None:
    killed(path)
    before = traces(path.parent)
    assert any(name.endswith("-wal") for name in before)

    told = inspect(runner, path)

    assert traces(path.parent) == before
    assert (told["counts"]["committed"], len(told["unfinished"])) == (3, 3)


def test_a_copy_without_its_log_is_read_as_what_it_is(runner: CliRunner, path: Path, tmp_path: Path) -> None:
    make(path)
    alone = tmp_path / "alone" / "backup.db"
    alone.parent.mkdir()
    alone.write_bytes(path.read_bytes())

    told = inspect(runner, alone)

    assert [file.name for file in alone.parent.iterdir()] == ["backup.db"]
    assert (told["counts"], told["log_bytes"]) == (COUNTS, 0)


@pytest.fixture
def foreign(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that whoever runs the test cannot write: where that is root, it is somebody else meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        place, temporary = Path(name) / "place", Path(name) / "temporary"
        for directory in (place, temporary):
            directory.mkdir()
        Path(name).chmod(0o755)
        temporary.chmod(0o777)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        yield place
        os.seteuid(os.getuid())
        place.chmod(0o755)


def test_a_directory_that_cannot_be_written_is_enough(runner: CliRunner, foreign: Path) -> None:
    path = foreign / "journal.db"
    killed(path)
    before = traces(foreign)
    for file in foreign.iterdir():
        file.chmod(0o444)
    foreign.chmod(0o555)
    if os.getuid() == 0:
        os.seteuid(65534)
    with pytest.raises(PermissionError):
        (foreign / "new").touch()

    told = inspect(runner, path)

    assert told["counts"]["committed"] == 3
    assert traces(foreign) == before


def test_a_directory_that_may_not_be_entered_is_said_in_one_line(runner: CliRunner, foreign: Path) -> None:
    foreign.chmod(0)
    if os.getuid() == 0:
        os.seteuid(65534)

    result = runner.invoke(cli.app, ["journal", "inspect", str(foreign / "journal.db")])

    assert (result.exit_code, result.stdout) == (1, "")
    assert "cannot be looked at: Permission denied" in result.stderr
    assert result.stderr.count("\n") == 1


# --- while it is written


def test_a_log_that_is_begun_anew_meanwhile_makes_it_copy_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window in which a copy would be of two times: between the file and its log, the log goes into the file."""
    asyncio.run(one_more(path, 1))
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("INSERT INTO participants VALUES ('a', 'a:1', '1', 1, 'a')")
        real, raced = shutil.copyfile, [False]

        def race(source: Path, target: Path) -> None:
            real(source, target)
            if not raced[0]:
                raced[0] = True
                writer.execute("INSERT INTO participants VALUES ('b', 'b:1', '1', 1, 'b')")
                writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
                # The log's first page, now: of what was in it before, only the file knows.
                writer.execute("INSERT INTO fences VALUES (77, '0badcafe')")

        monkeypatch.setattr(shutil, "copyfile", race)
        with open_offline(path) as journal:
            found = journal.inspect()

    assert raced[0]
    assert ([one.name for one in found.participants], found.integrity) == (["a", "b"], "ok")


def test_a_file_without_a_log_that_changes_meanwhile_is_copied_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asyncio.run(one_more(path, 1))
    real, raced = shutil.copyfile, [False]

    def race(source: Path, target: Path) -> None:
        real(source, target)
        if not raced[0]:
            raced[0] = True
            asyncio.run(one_more(path, 2))

    monkeypatch.setattr(shutil, "copyfile", race)
    with open_offline(path) as journal:
        found = journal.inspect()

    assert (len(found.epochs), found.counts.committed) == (2, 2)


def test_a_journal_written_faster_than_copied_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(one_more(path, 1))
    headers = iter(range(1000))
    monkeypatch.setattr(snapshot, "_header", lambda _: str(next(headers)).encode())

    with pytest.raises(JournalUnusable, match="faster than it can be copied"), open_offline(path):
        pass


async def test_every_look_at_a_journal_under_load_is_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from twophase.coordinator.journal import sqlite_writer

    monkeypatch.setattr(sqlite_writer, "CHECKPOINT_AT_LATEST", 30)
    journal = await SqliteJournal.open(path)
    told = 0
    ended = asyncio.Event()

    async def work() -> None:
        nonlocal told
        while not ended.is_set():
            await journal.decide(propose(journal, told + 1))
            told += 1

    def look() -> tuple[int, str]:
        with open_offline(path) as offline:
            found = offline.inspect()
            return found.counts.committed, found.integrity

    working = asyncio.create_task(work())
    looks = []
    for _ in range(8):
        least = told
        committed, integrity = await asyncio.to_thread(look)
        looks.append((least <= committed <= told + 1, integrity))
    ended.set()
    await working
    await journal.close()
    assert looks == [(True, "ok")] * 8
