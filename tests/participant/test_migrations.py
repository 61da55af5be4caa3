"""The ledger's tables: made in psql or by the library, again, by several at once, for a role with few rights."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from typer.testing import CliRunner

from fixtures.clusters import Database
from fixtures.second_phase import (
    EPOCH,
    FINGERPRINT,
    JOURNAL,
    WORK,
    Statements,
    ask,
    gid_of,
    managing,
    prepare,
    psql,
    value,
)
from twophase.participant import migrations
from twophase.participant.cli import ledger_app
from twophase.participant.errors import NotReady
from twophase.participant.migrations import GRANTS, ROUTINES, VERSION, migrate, migration_sql
from twophase.participant.outcomes import Aborted, Applied, Committed, Lost, Prepared, Tombstoned
from twophase.participant.work import Deadline
from twophase.v1 import types_pb2

ABORT = types_pb2.DECISION_ABORT

_SHAPE = """
SELECT string_agg(line, E'\n' ORDER BY line) FROM (
  SELECT format('%s.%s %s %s %s', attrelid::regclass, attname, atttypid::regtype, attnotnull, attcollation)
  FROM pg_attribute WHERE attrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'twophase'::regnamespace)
    AND attnum > 0
  UNION ALL SELECT format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE connamespace = 'twophase'::regnamespace
  UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'twophase'
  UNION ALL SELECT format('%s %s', oid::regclass, obj_description(oid)) FROM pg_class
    WHERE relnamespace = 'twophase'::regnamespace AND relkind = 'r'
  UNION ALL SELECT pg_get_functiondef(oid) || obj_description(oid) FROM pg_proc
    WHERE pronamespace = 'twophase'::regnamespace
  UNION ALL SELECT format('%s %s %s', table_name, grantee, privilege_type) FROM information_schema.table_privileges
    WHERE table_schema = 'twophase'
  UNION ALL SELECT 'meta ' || meta::text FROM twophase.meta
) AS shape (line)"""

_numbers = itertools.count(1)


@pytest.fixture
def role(empty_database: Database) -> str:
    """A role whose name has to be quoted, and that may do nothing but log in."""
    name = f'Shop\'s "Payment" {next(_numbers)}'
    empty_database.cluster.create_role(name)
    return name


@pytest.fixture
def second_database(empty_database: Database) -> Iterator[Database]:
    name = f"{empty_database.name}_too"
    yield Database(empty_database.cluster, name, empty_database.cluster.create_database(name))
    empty_database.cluster.drop_database(name)


def test_psql_makes_what_the_library_makes(empty_database: Database, second_database: Database, role: str) -> None:
    printed = CliRunner().invoke(ledger_app, ["sql", "--participant", "payment", "--role", role])
    assert (printed.exit_code, printed.stdout) == (0, migration_sql(participant="payment", role=role))
    assert printed.stdout.count("GRANT ") == len(GRANTS) + len(ROUTINES) + 1
    said = psql(empty_database.cluster, empty_database.dsn, printed.stdout)
    assert (said.returncode, said.stderr) == (0, "")
    migrate(second_database.dsn, "payment", role=role)
    shape = value(empty_database, _SHAPE)
    assert shape == value(second_database, _SHAPE)
    assert shape.count(role) == sum(map(len, GRANTS.values()))


def test_r8_a_migration_run_again_changes_nothing(empty_database: Database, role: str) -> None:
    migrate(empty_database.dsn, "payment", role=role)
    with empty_database.connect() as connection:
        connection.execute("INSERT INTO twophase.horizon VALUES ('kept', 5)")
    shape = value(empty_database, _SHAPE)
    for again in (None, role):
        migrate(empty_database.dsn, "payment", role=again)
    assert psql(empty_database.cluster, empty_database.dsn, migration_sql(participant="payment")).returncode == 0
    assert value(empty_database, _SHAPE) == shape
    assert value(empty_database, "SELECT sequence FROM twophase.horizon") == 5


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_r8_migrations_at_once_wait_for_each_other(empty_database: Database, isolation: str) -> None:
    with empty_database.connect() as connection:
        connection.execute(
            f"ALTER DATABASE {empty_database.name} SET default_transaction_isolation = '{isolation}'".encode()
        )
        # All of them are there before the first may begin.
        connection.execute("SELECT pg_advisory_lock(%s)", (migrations._LOCK,))
        with ThreadPoolExecutor(3) as threads:
            made = [threads.submit(migrate, empty_database.dsn, "payment") for _ in range(3)]
            waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            end = time.monotonic() + 20
            while ask(connection, waiting) < 3 and time.monotonic() < end:
                pass
            assert ask(connection, waiting) == 3
            connection.execute("SELECT pg_advisory_unlock_all()")
            for each in made:
                each.result(20)
    assert value(empty_database, "SELECT schema_version FROM twophase.meta") == VERSION


def test_an_older_ledger_is_brought_up_to_date(empty_database: Database) -> None:
    migrate(empty_database.dsn, "payment")
    shape = value(empty_database, _SHAPE)
    with empty_database.connect() as connection:
        connection.execute("UPDATE twophase.meta SET schema_version = 0")
        connection.execute("DROP INDEX twophase.ledger_position")
        connection.execute("DROP TABLE twophase.horizon")
        for routine in ROUTINES:
            connection.execute(f"DROP PROCEDURE {routine}".encode())
        connection.execute(
            "INSERT INTO twophase.ledger (gid, kind, outcome, journal_position) VALUES ('kept', 'work', 'applied', 1)"
        )
    migrate(empty_database.dsn, "payment")
    assert value(empty_database, _SHAPE) == shape
    assert value(empty_database, "SELECT gid FROM twophase.ledger") == "kept"


def test_a_newer_ledger_is_left_alone(empty_database: Database) -> None:
    migrate(empty_database.dsn, "payment")
    with empty_database.connect() as connection:
        connection.execute("UPDATE twophase.meta SET schema_version = 99")
    with pytest.raises(NotReady, match="the ledger has version 99, this release knows 2") as caught:
        migrate(empty_database.dsn, "payment")
    assert caught.value.remedies == ("use a newer release of twophase",)
    said = psql(empty_database.cluster, empty_database.dsn, migration_sql(participant="payment"))
    assert said.returncode == 3
    assert "HINT:  use a newer release of twophase" in said.stderr
    assert value(empty_database, "SELECT schema_version FROM twophase.meta") == 99


def test_the_ledger_of_another_participant_is_left_alone(empty_database: Database) -> None:
    migrate(empty_database.dsn, "stock")
    shape = value(empty_database, _SHAPE)
    with pytest.raises(NotReady, match="holds the ledger of the participant stock, not of payment") as caught:
        migrate(empty_database.dsn, "payment")
    assert "its own" in caught.value.remedies[0]
    # Without psql's ON_ERROR_STOP, too.
    text = "\\set ON_ERROR_STOP off\n" + migration_sql(participant="payment")
    assert "participant stock" in psql(empty_database.cluster, empty_database.dsn, text).stderr
    assert value(empty_database, _SHAPE) == shape


def test_r9_a_prepared_branch_does_not_hold_a_migration_up(empty_database: Database, role: str) -> None:
    """It may be the participant that migrates at its start which alone can finish the branch."""
    migrate(empty_database.dsn, "payment")
    with empty_database.connect(autocommit=False) as session:
        session.execute(
            "INSERT INTO twophase.ledger (gid, kind, outcome, journal_position) VALUES ('gid', 'work', 'applied', 1)"
        )
        session.execute("PREPARE TRANSACTION 'in doubt'")
    migrate(f"{empty_database.dsn}?options=-c%20lock_timeout%3D2s", "payment", role=role)
    assert empty_database.prepared() == ["in doubt"]


def test_a_role_that_may_not_make_a_schema_is_told_so(empty_database: Database, role: str) -> None:
    with pytest.raises(NotReady, match="the ledger was not made: permission denied for database"):
        migrate(empty_database.dsn_for(role), "payment")


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql://payment:s3cret@127.0.0.1:1/payment", "connection failed"),
        ("host=127.0.0.1 port=1 password=s3cret", "connection failed"),
        ("postgresql://payment:s3cret@host:port/x", "the DSN is neither"),
        # Characters that had to be percent-encoded: what is read as host, port or database is the password.
        ("postgresql://payment:1/s3cret@host/x", "the DSN is neither"),
        ("postgresql://payment:s3cret/1@host/x", "the DSN is neither"),
        ("postgresql://payment:1@s3cret@host/x", "the DSN is neither"),
        ("s3cret", "the DSN is neither"),
        ("password=s3cret bogus=1", "the DSN is neither"),
    ],
)
def test_what_cannot_be_reached_is_told_in_a_line_without_the_password(dsn: str, said: str) -> None:
    with pytest.raises(NotReady, match=said) as caught:
        migrate(dsn, "payment")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in "".join((str(caught.value), *caught.value.remedies))


# Nothing is left but the printed rights.


async def test_a_role_with_the_printed_rights_does_everything_and_no_more(empty_database: Database, role: str) -> None:
    assert (
        psql(empty_database.cluster, empty_database.dsn, migration_sql(participant="payment", role=role)).returncode
        == 0
    )
    with empty_database.connect() as connection:
        connection.execute("CREATE TABLE purse (piece integer)")
        connection.execute("GRANT INSERT ON purse TO PUBLIC")
    dsn = empty_database.dsn_for(role)
    async with managing(empty_database, dsn=dsn) as manager:
        assert (await manager.remember(JOURNAL, EPOCH, {})).last_epoch is None
        assert isinstance(await prepare(manager, gid_of(1)), Prepared)
        assert len((await manager.list_prepared(JOURNAL)).branches) == 1
        assert isinstance(await manager.commit(gid_of(1)), Committed)
        assert isinstance(await manager.commit(gid_of(1)), Committed)
        assert isinstance(await prepare(manager, gid_of(2)), Prepared)
        assert isinstance(await manager.abort(gid_of(2), WORK, ABORT), Aborted)
        assert isinstance(await manager.abort(gid_of(3), WORK, ABORT), Tombstoned)
        assert isinstance(await manager.commit(gid_of(4)), Lost)
        in_time = Deadline.after(20)
        work = Statements()
        done = await manager.apply(gid_of(5), work, deadline=in_time, position=1, fingerprint=FINGERPRINT)
        undone = await manager.compensate(
            gid_of(5), lambda _: work, deadline=in_time, position=1, fingerprint=FINGERPRINT
        )
        assert isinstance(done, Applied)
        assert isinstance(undone, Applied)
        assert len((await manager.inspect(JOURNAL, gid_of(5).txid)).entries) == 2
        kept = await manager.remember(JOURNAL, EPOCH, {EPOCH: 5})
        assert (kept.last_epoch, kept.highest_position) == (EPOCH, 42)
    assert value(empty_database, "SELECT count(*) FROM twophase.ledger") == 2
    with psycopg.connect(dsn, autocommit=True) as service:
        for forbidden in (
            "CREATE TABLE twophase.more ()",
            "DROP TABLE twophase.ledger",
            "ALTER TABLE twophase.ledger ADD COLUMN more integer",
            "TRUNCATE twophase.ledger",
            "UPDATE twophase.ledger SET outcome = 'applied'",
            "UPDATE twophase.meta SET participant = 'stock'",
            "DELETE FROM twophase.horizon",
            "DELETE FROM twophase.journal",
            "CREATE SCHEMA more",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                service.execute(forbidden.encode())


def test_the_names_in_the_text_are_quoted_and_checked() -> None:
    text = migration_sql(participant="payment", role='x"; DROP TABLE purse; --')
    assert 'TO "x""; DROP TABLE purse; --";' in text
    with pytest.raises(ValueError, match="participant name"):
        migration_sql(participant="pay'ment")


def test_migrate_from_the_command_line(empty_database: Database) -> None:
    told = CliRunner().invoke(ledger_app, ["migrate", "--participant", "payment", "--dsn", empty_database.dsn])
    assert (told.exit_code, told.stderr) == (0, "")
    assert asyncio.run(_opened(empty_database)) == empty_database.name


async def _opened(database: Database) -> str:
    async with managing(database) as manager:
        return manager.identity.database
