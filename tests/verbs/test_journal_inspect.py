"""`twophase journal inspect`: what it tells of a file, and that it leaves no trace in it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from journal.children import start
from journal.samples import BRANCHES, PAYMENT, SHOP, begun, propose, request, txid
from twophase.contract.names import MAX_SEQUENCE, Txid
from twophase.coordinator import cli
from twophase.coordinator.journal import schema, snapshot
from twophase.coordinator.journal.events import Ended, Finished, Reason, Voted
from twophase.coordinator.journal.offline import open_offline
from twophase.coordinator.journal.port import JournalUnusable, Proposal
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Ending, Vote, delegated


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    directory.mkdir()
    return directory / "journal.db"


async def fill(journal: SqliteJournal) -> None:
    """One of each kind, sequences 1 to 7."""
    await journal.register(SHOP)
    await journal.register(replace(SHOP, name="payment", database="pay"))
    for sequence in range(1, 8):
        journal.append(begun(journal, sequence, request(f"order-{sequence}")))
        journal.append(Voted(txid(journal, sequence), 0, Vote.READ_ONLY if sequence == 4 else Vote.YES))
    await journal.decide(propose(journal, 1, COMMIT, claim=request("order-1")))
    for branch in (0, 1):
        journal.append(Finished(txid(journal, 1), branch, Ending.APPLIED))
    journal.append(Ended(txid(journal, 1), committed=True))
    await journal.decide(propose(journal, 2, COMMIT))
    journal.append(Finished(txid(journal, 2), 0, Ending.APPLIED))
    reason = Reason("BUSINESS", "OUT_OF_STOCK", "none left", retryable=False, participant="stock", operation="take")
    await journal.decide(Proposal(txid(journal, 3), ABORT, journal.epoch, request("order-3"), BRANCHES, (reason,)))
    await journal.decide(Proposal(txid(journal, 4), delegated(1), journal.epoch, None, (PAYMENT,)))
    await journal.decide(propose(journal, 5, delegated(1)))
    journal.append(Finished(txid(journal, 5), 1, Ending.APPLIED))
    journal.append(Ended(txid(journal, 5), committed=True))
    await journal.decide(propose(journal, 6, COMMIT))
    journal.append(Finished(txid(journal, 6), 0, Ending.LOST))
    journal.append(Ended(txid(journal, 6), committed=True))
    await journal.flush()


def make(path: Path) -> Txid:
    """A journal with one of each kind, closed; the first transaction's name."""

    async def making() -> Txid:
        journal = await SqliteJournal.open(path, label="shop")
        await fill(journal)
        await journal.close()
        return txid(journal, 1)

    return asyncio.run(making())


def traces(directory: Path) -> dict[str, tuple[str, int]]:
    """Every file of a directory: what is in it, and when that was written."""
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in directory.iterdir()
    }


def inspect(runner: CliRunner, path: Path, *options: str) -> dict[str, Any]:
    result = runner.invoke(cli.app, ["journal", "inspect", str(path), "--json", *options])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert isinstance(told, dict)
    return told


COUNTS = {"committed": 4, "aborted": 1, "unknown": 1, "undecided": 1, "unfinished": 3, "heuristic": 1}


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


# --- while it is written


def test_a_log_that_is_begun_anew_meanwhile_makes_it_copy_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The window in which a copy would be of two times: between the file and its log, the log goes into the file."""
    asyncio.run(_one_more(path, 1))
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
    asyncio.run(_one_more(path, 1))
    real, raced = shutil.copyfile, [False]

    def race(source: Path, target: Path) -> None:
        real(source, target)
        if not raced[0]:
            raced[0] = True
            asyncio.run(_one_more(path, 2))

    monkeypatch.setattr(shutil, "copyfile", race)
    with open_offline(path) as journal:
        found = journal.inspect()

    assert (len(found.epochs), found.counts.committed) == (2, 2)


def test_a_journal_written_faster_than_copied_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asyncio.run(_one_more(path, 1))
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


async def _one_more(path: Path, sequence: int) -> None:
    journal = await SqliteJournal.open(path)
    await journal.decide(propose(journal, sequence))
    await journal.close()


# --- what it tells


def test_it_says_what_a_coordinator_would_do_with_what_is_not_over(runner: CliRunner, path: Path) -> None:
    first = make(path)

    told = {Txid.parse(one["txid"]).sequence: one["at_start"] for one in inspect(runner, path)["unfinished"]}

    assert told == {
        2: "commit at payment",
        3: "roll back at stock, payment",
        4: "ask payment how it ended, and bar it there if it did not commit",
        7: "ask every participant whether it is applied anywhere, and if it is not, abort it",
    }
    assert first.sequence == 1


def test_in_quarantine_it_says_that_nothing_is_concluded(runner: CliRunner, path: Path) -> None:
    make(path)

    async def suspect() -> None:
        journal = await SqliteJournal.open(path)
        await journal.suspect("stock has seen epoch 9")
        await journal.close()

    asyncio.run(suspect())

    told = inspect(runner, path)
    shown = runner.invoke(cli.app, ["journal", "inspect", str(path)]).stdout

    assert told["proofs"] == ["stock has seen epoch 9"]
    assert told["unfinished"][-1]["at_start"].startswith("conclude nothing")
    assert "QUARANTINE" in shown


def test_a_participant_that_is_not_known_is_told(runner: CliRunner, path: Path) -> None:
    asyncio.run(_one_more(path, 1))

    (one,) = inspect(runner, path)["unfinished"]

    assert one["at_start"] == "wait: it does not know payment, stock (register it)"


def test_what_it_shows_fits_and_names_everything(runner: CliRunner, path: Path) -> None:
    first = make(path)

    shown = runner.invoke(cli.app, ["journal", "inspect", str(path)])

    assert shown.exit_code == 0
    for words in (
        "4 committed, 1 aborted, 1 delegated and not heard of yet, 1 undecided",
        "3 decided, 1 undecided",
        "1 with a branch that ended against the decision",
        "(shop)",
        "0x74706a6c",
        "integrity     ok",
        "would give out epoch 2 or higher, and fence epoch 1",
        "127.0.0.1:7001",
        str(replace(first, sequence=7)),
        "the newest events:",
    ):
        assert words in shown.stdout, shown.stdout


def test_only_the_unfinished_or_one_transaction(runner: CliRunner, path: Path) -> None:
    first = make(path)

    assert list(inspect(runner, path, "--unfinished")) == ["unfinished"]
    by_txid = inspect(runner, path, "--tx", str(first))["transaction"]
    by_request = inspect(runner, path, "--tx", "order-1")["transaction"]
    shown = runner.invoke(cli.app, ["journal", "inspect", str(path), "--tx", str(first)]).stdout

    assert by_txid == by_request
    assert (by_txid["outcome"], by_txid["at_start"], len(by_txid["events"])) == (
        "committed",
        "do nothing: it is over",
        6,
    )
    assert "committed: every branch is applied" in shown
    assert "a coordinator that starts on this file would do nothing: it is over" in shown


def test_horizons_are_told(runner: CliRunner, path: Path) -> None:
    make(path)
    asyncio.run(_one_more(path, 1))
    asyncio.run(_one_more(path, 1))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE epochs SET horizon = 5 WHERE number = 1")
        connection.execute("UPDATE epochs SET horizon = ? WHERE number = 2", (MAX_SEQUENCE,))

    told = inspect(runner, path)["epochs"]
    shown = runner.invoke(cli.app, ["journal", "inspect", str(path)]).stdout

    assert [one["horizon"] for one in told] == [5, MAX_SEQUENCE, 0]
    assert f"00000001-{told[0]['nonce']}-000000000005" in shown
    assert "nothing: all of it is forgotten" in shown
    assert "the beginning" in shown


def test_an_older_schema_is_read_and_said(runner: CliRunner, path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in schema.MIGRATIONS[0]:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO journal VALUES ('0123456789abcdef', '')")
    before = traces(path.parent)

    told = inspect(runner, path)

    assert (told["schema_version"], told["counts"]["committed"]) == (1, 0)
    assert told["at_start"] == "a coordinator would give out epoch 1 or higher"
    assert traces(path.parent) == before


# --- what cannot be read


def nothing(path: Path) -> None:
    """There is no file."""


def empty(path: Path) -> None:
    path.touch()


def text(path: Path) -> None:
    path.write_text("orders\n" * 1000)


def directory(path: Path) -> None:
    path.mkdir()


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")


def newer(path: Path) -> None:
    make(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")


def without_identity(path: Path) -> None:
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM journal")


def an_odd_event(path: Path) -> None:
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        name = connection.execute("SELECT txid FROM events LIMIT 1").fetchone()[0]
        connection.execute("INSERT INTO events VALUES (99, ?, 0, 'sung', '{}')", (name,))


def beheaded(path: Path) -> None:
    make(path)
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nothing, "there is no file"),
        (empty, "is empty"),
        (text, "is not a SQLite file"),
        (directory, "is not a file"),
        (of_another_program, "not a journal of twophase"),
        (newer, "look at it with the newer twophase"),
        (without_identity, "is damaged"),
        (an_odd_event, "cannot be read"),
        (beheaded, "is damaged"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_cannot_be_read_is_said_in_one_line(
    runner: CliRunner, path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    spoil(path)

    result = runner.invoke(cli.app, ["journal", "inspect", str(path)])

    assert (result.exit_code, result.stdout) == (1, "")
    assert told in result.stderr
    assert str(path) in result.stderr
    assert result.stderr.count("\n") == 1


def test_damage_that_lets_it_be_read_is_said_and_no_success(runner: CliRunner, path: Path) -> None:
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        # Rows that their own table's definition forbids: SQLite's check finds them, and they can be read.
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'branch INTEGER,', 'branch INTEGER NOT NULL,')"
            " WHERE name = 'decisions'"
        )

    result = runner.invoke(cli.app, ["journal", "inspect", str(path)])

    assert result.exit_code == 1
    assert "4 committed" in result.stdout
    assert "is damaged: NULL value in decisions.branch" in result.stderr


def test_a_file_that_may_not_be_read_is_said(path: Path, monkeypatch: pytest.MonkeyPatch, runner: CliRunner) -> None:
    make(path)

    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied", str(source))

    monkeypatch.setattr(shutil, "copyfile", refuse)
    result = runner.invoke(cli.app, ["journal", "inspect", str(path)])

    assert result.exit_code == 1
    assert "Permission denied" in result.stderr
    assert "TMPDIR" in result.stderr


def test_a_transaction_without_a_record_is_told(runner: CliRunner, path: Path) -> None:
    make(path)

    result = runner.invoke(cli.app, ["journal", "inspect", str(path), "--tx", "order-99"])

    assert result.exit_code == 1
    assert "has no record of 'order-99'" in result.stderr
