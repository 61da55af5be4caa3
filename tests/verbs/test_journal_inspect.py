"""`twophase journal inspect`: what it tells of a file, and what it says of one that it cannot read."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from twophase.contract.names import MAX_SEQUENCE, Txid
from twophase.coordinator import cli
from twophase.coordinator.journal import schema
from twophase.coordinator.journal.sqlite import SqliteJournal
from verbs.journals import inspect, make, one_more, traces


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "place"
    directory.mkdir()
    return directory / "journal.db"


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
    asyncio.run(one_more(path, 1))

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
    asyncio.run(one_more(path, 1))
    asyncio.run(one_more(path, 1))
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
