"""The checks at start: what is wrong with a database, and what to type; the tests type it."""

from __future__ import annotations

import itertools
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fixtures.clusters import Database, MakeCluster, MakeDatabase
from fixtures.second_phase import psql, until, value
from twophase.contract.names import InvalidName
from twophase.participant.database import IDENTITY, identity_of
from twophase.participant.errors import NotReady
from twophase.participant.migrations import GRANTS, ROUTINES, VERSION, migrate, migration_sql
from twophase.participant.outcomes import Identity
from twophase.participant.preflight import preflight
from twophase.participant.resource import ResourceManager, Settings
from twophase.sandbox.postgres import Cluster

_numbers = itertools.count(1)


@pytest.fixture
def role(database: Database) -> str:
    """A role with the printed rights, whose name has to be quoted."""
    name = f'Pay "Desk" {next(_numbers)}'
    database.cluster.create_role(name)
    migrate(database.dsn, "payment", role=name)
    return name


def check(dsn: str, *, participant: str = "payment", connections: int = 8) -> Identity:
    return preflight(dsn, participant, connections=connections)


def problem(dsn: str, *, participant: str = "payment") -> NotReady:
    with pytest.raises(NotReady) as caught:
        check(dsn, participant=participant)
    assert "\n" not in str(caught.value)
    assert caught.value.remedies
    return caught.value


def type_it(database: Database, *remedies: str) -> None:
    """As a person would: SQL into psql as the owner, a command into a shell."""
    for remedy in remedies:
        text = remedy.split("--  ")[0]
        command, _, into = remedy.partition(" | ")
        if command.startswith("twophase "):
            assert into == "psql DSN-OF-THE-OWNER"
            printed = subprocess.run(
                ["/bin/sh", "-c", f'PATH="$BIN:$PATH" {command}'],
                env={"BIN": str(Path(sys.executable).parent), "PATH": "/usr/bin:/bin"},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            text = printed.stdout
        said = psql(database.cluster, database.dsn, text)
        assert said.returncode == 0, said.stderr


# Which database it is


def test_the_identity_is_what_postgres_says(database: Database) -> None:
    identity = check(database.dsn)
    cluster = database.cluster
    control = subprocess.run(
        [cluster.binaries.program("pg_controldata"), cluster.data],
        env={"LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    told = dict(re.findall(r"^(.+?): +(.+)$", control, re.MULTILINE))
    assert identity.system_identifier == told["Database system identifier"] == cluster.system_identifier()
    assert identity.timeline == int(told["Latest checkpoint's TimeLineID"])
    assert identity.database == database.name == value(database, "SELECT current_database()")
    assert identity.message().timeline == identity.timeline


def test_the_databases_of_a_cluster_and_two_clusters_are_told_apart(
    databases: MakeDatabase, make_cluster: MakeCluster
) -> None:
    first, second = check(databases().dsn), check(databases().dsn)
    assert first.system_identifier == second.system_identifier
    assert first != second
    elsewhere = make_cluster()
    assert elsewhere.system_identifier() != first.system_identifier


# The server


def test_a_server_without_slots_is_refused_and_few_slots_are_a_warning(
    make_cluster: MakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = make_cluster(max_prepared_transactions=0, max_connections=20)
    database = Database(cluster, "postgres", cluster.dsn())
    migrate(database.dsn, "payment")
    error = problem(database.dsn)
    assert str(error) == "max_prepared_transactions is 0, so the server prepares no transaction"
    [remedy] = error.remedies
    assert remedy.endswith("-- then restart the server")
    type_it(database, remedy)
    # The command line of these clusters has the setting; what ALTER SYSTEM wrote is what a restart without it reads.
    del cluster.settings["max_prepared_transactions"]
    cluster.restart()
    assert value(database, "SHOW max_prepared_transactions") == "20"
    with caplog.at_level(logging.WARNING):
        check(database.dsn, connections=20)
        assert caplog.messages == []
        check(database.dsn, connections=21)
    [warning] = caplog.messages
    assert warning.startswith("max_prepared_transactions is 20, and 21 branches may run at a time")


@pytest.mark.parametrize("level", ["ROLE {role}", "DATABASE {database}", "ROLE {role} IN DATABASE {database}"])
def test_a_role_that_reads_only_by_default_is_refused(database: Database, role: str, level: str) -> None:
    quoted = '"' + role.replace('"', '""') + '"'
    with database.connect() as connection:
        where = level.format(role=quoted, database=database.name)
        connection.execute(f"ALTER {where} SET default_transaction_read_only = on".encode())
    error = problem(database.dsn_for(role))
    assert "read-only by default" in str(error)
    with database.connect() as connection:
        connection.execute("SET default_transaction_read_only = off")
        for remedy in error.remedies:
            connection.execute(remedy.encode())
    assert check(database.dsn_for(role)).database == database.name


def test_a_server_in_recovery_is_refused(make_cluster: MakeCluster) -> None:
    cluster = make_cluster()
    migrate(cluster.dsn(), "payment")
    cluster.stop()
    (cluster.data / "standby.signal").touch()
    cluster.start()
    error = problem(cluster.dsn())
    assert "is a standby and takes no writes" in str(error)
    assert "target_session_attrs=read-write" in error.remedies[0]
    with cluster.connect() as connection:
        connection.execute("SELECT pg_promote()")
        row = connection.execute(IDENTITY).fetchone()
    assert identity_of(row).timeline == 2
    assert check(cluster.dsn()).timeline == 2


# The ledger


def test_a_missing_ledger_is_told_and_the_command_makes_it(empty_database: Database) -> None:
    role = f'It\'s "me" {next(_numbers)}'
    empty_database.cluster.create_role(role)
    error = problem(empty_database.dsn_for(role))
    assert str(error) == f"the database {empty_database.name!r} has no ledger"
    type_it(empty_database, *error.remedies)
    assert check(empty_database.dsn_for(role)).database == empty_database.name


@pytest.mark.parametrize(("table", "right"), [(table, right) for table, rights in GRANTS.items() for right in rights])
def test_each_missing_right_is_told_and_what_is_typed_gives_it(
    database: Database, role: str, table: str, right: str
) -> None:
    dsn = database.dsn_for(role)
    assert check(dsn).database == database.name
    quoted = '"' + role.replace('"', '""') + '"'
    with database.connect() as connection:
        connection.execute(f"REVOKE {right} ON twophase.{table} FROM {quoted}".encode())
    error = problem(dsn)
    assert str(error) == f"the role {role!r} may not {right} on twophase.{table}"
    assert error.remedies == (f"GRANT {right} ON twophase.{table} TO {quoted};",)
    type_it(database, *error.remedies)
    assert check(dsn).database == database.name


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_procedure_that_may_not_be_called_is_told_and_what_is_typed_allows_it(
    database: Database, role: str, routine: str
) -> None:
    """Everyone may call a procedure, unless the installation is hardened."""
    with database.connect() as connection:
        connection.execute(f"REVOKE EXECUTE ON PROCEDURE {routine} FROM PUBLIC".encode())
    dsn = database.dsn_for(role)
    assert check(dsn).database == database.name
    quoted = '"' + role.replace('"', '""') + '"'
    with database.connect() as connection:
        connection.execute(f"REVOKE EXECUTE ON PROCEDURE {routine} FROM {quoted}".encode())
    error = problem(dsn)
    assert str(error) == f"the role {role!r} may not call {routine}"
    assert error.remedies == (f"GRANT EXECUTE ON PROCEDURE {routine} TO {quoted};",)
    type_it(database, *error.remedies)
    assert check(dsn).database == database.name


@pytest.mark.parametrize("routine", ROUTINES)
def test_a_missing_procedure_is_told_and_the_command_makes_it(database: Database, role: str, routine: str) -> None:
    with database.connect() as connection:
        connection.execute(f"DROP PROCEDURE {routine}".encode())
    error = problem(database.dsn_for(role))
    assert str(error) == f"the ledger lacks the procedure {routine}"
    type_it(database, *error.remedies)
    assert check(database.dsn_for(role)).database == database.name


def test_all_that_is_missing_is_told_at_once(database: Database) -> None:
    role = f"nobody {next(_numbers)}"
    database.cluster.create_role(role)
    error = problem(database.dsn_for(role))
    assert str(error).count("may not") == 1 + len(GRANTS)
    type_it(database, *error.remedies)
    assert check(database.dsn_for(role)).database == database.name


def test_a_role_that_acts_as_another_needs_the_rights_of_that_one(database: Database, role: str) -> None:
    quoted = '"' + role.replace('"', '""') + '"'
    login = f"login {next(_numbers)}"
    database.cluster.create_role(login)
    with database.connect() as connection:
        connection.execute(f'GRANT {quoted} TO "{login}"'.encode())
        connection.execute(f'ALTER ROLE "{login}" SET role = {quoted}'.encode())
        connection.execute(f'ALTER ROLE "{login}" SET default_transaction_read_only = on'.encode())
        connection.execute(f"REVOKE INSERT ON twophase.ledger FROM {quoted}".encode())
    error = problem(database.dsn_for(login))
    assert f"the role {role!r} may not INSERT on twophase.ledger" in str(error)
    type_it(database, *error.remedies)
    assert check(database.dsn_for(login)).database == database.name


def test_a_role_that_may_not_ask_for_the_identity_is_told_what_to_grant(database: Database, role: str) -> None:
    functions = ("pg_control_system()", "pg_walfile_name(pg_lsn)", "pg_current_wal_lsn()")
    with database.connect() as connection:
        for function in functions:
            connection.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC".encode())
    error = problem(database.dsn_for(role))
    assert "permission denied for function" in str(error)
    type_it(database, *error.remedies)
    assert check(database.dsn_for(role)).database == database.name


def test_the_ledger_of_another_participant_is_refused(databases: MakeDatabase) -> None:
    stock = databases("stock")
    error = problem(stock.dsn)
    assert str(error) == (f"the database {stock.name!r} holds the ledger of the participant 'stock', not of 'payment'")
    assert "'payment'" in error.remedies[0]
    assert check(stock.dsn, participant="stock").database == stock.name


@pytest.mark.parametrize(
    ("damage", "fact"),
    [
        ("UPDATE twophase.meta SET schema_version = 0", f"the ledger has version 0, this release needs {VERSION}"),
        ("DROP TABLE twophase.horizon", "lacks the table twophase.horizon"),
        ("DELETE FROM twophase.meta", "does not say whose it is"),
        ("DROP SCHEMA twophase CASCADE", "has no ledger"),
        ("ALTER TABLE twophase.meta RENAME TO other", "has no ledger"),
    ],
)
def test_an_older_or_damaged_ledger_is_brought_up_to_date_by_what_is_typed(
    database: Database, role: str, damage: str, fact: str
) -> None:
    with database.connect() as connection:
        connection.execute(damage.encode())
    error = problem(database.dsn_for(role))
    assert fact in str(error)
    type_it(database, *error.remedies)
    assert check(database.dsn_for(role)).database == database.name


def test_a_newer_ledger_is_refused(database: Database) -> None:
    with database.connect() as connection:
        connection.execute("UPDATE twophase.meta SET schema_version = 99")
    error = problem(database.dsn)
    assert str(error) == f"the ledger has version 99, this release knows {VERSION}"
    assert "newer release" in error.remedies[0]


# Connections that fail, and passwords


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql://payment:s3cret@127.0.0.1:1/payment", "cannot connect to its database: connection failed"),
        ("postgresql://payment:s3cret@127.0.0.1:1,127.0.0.1:2/payment", "cannot connect to its database: "),
        ("postgresql://payment:s3cret@no-such-host.invalid/payment", "cannot connect to its database: "),
        ("host=/nowhere password=s3cret", "cannot connect to its database: connection is bad"),
        ("postgresql://payment:s3cret@127.0.0.1:1/payment?sslmode=s3cret", "cannot connect"),
        ("postgresql://payment:s3cret@host:port/payment", "the DSN is neither"),
        ("postgresql://payment:1/s3cret@host/payment", "the DSN is neither"),
        ("postgresql://payment:1@s3cret@host/payment", "the DSN is neither"),
        ("payment s3cret", "the DSN is neither"),
        ("password='s3cret", "the DSN is neither"),
    ],
)
def test_a_database_that_cannot_be_reached_is_told_in_one_line_without_the_password(
    dsn: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        error = problem(dsn)
    assert said in str(error)
    assert "s3cret" not in str(error) + "".join(error.remedies) + caplog.text


@pytest.mark.parametrize("place", ["uri", "words", "query"])
def test_a_wrong_password_is_told_without_it(cluster: Cluster, place: str, caplog: pytest.LogCaptureFixture) -> None:
    host, port = cluster.address.split(":")
    dsn = {
        "uri": f"postgresql://postgres:s3%2Fcret@{cluster.address}/postgres",
        "words": f"host={host} port={port} user=postgres password=s3/cret dbname=postgres",
        "query": f"postgresql://postgres@{cluster.address}/postgres?password=s3%2Fcret",
    }[place]
    with caplog.at_level(logging.DEBUG):
        error = problem(dsn)
    assert "password authentication failed" in str(error)
    assert not re.search("s3(/|%2F)cret", str(error) + "".join(error.remedies) + caplog.text)


def test_a_database_that_does_not_exist_is_named(cluster: Cluster) -> None:
    assert 'database "nowhere" does not exist' in str(problem(cluster.dsn("nowhere")))


async def test_a_manager_that_is_not_ready_opens_nothing(empty_database: Database) -> None:
    manager = ResourceManager("payment", empty_database.dsn)
    with pytest.raises(NotReady, match="has no ledger"):
        await manager.open()
    with pytest.raises(NotReady, match="is not open"):
        await manager.list_prepared("0" * 16)
    with pytest.raises(NotReady, match="is not open"):
        _ = manager.identity
    await manager.close()
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        " AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    # The server takes a moment to see a session closed.
    await until(lambda: value(empty_database, others) == 0)


def test_a_participant_has_a_name() -> None:
    with pytest.raises(InvalidName):
        ResourceManager("Pay_ment", "")
    with pytest.raises(InvalidName):
        migration_sql(participant="")


@pytest.mark.parametrize("wrong", [{"work_connections": 0}, {"finish_connections": 0}])
def test_each_lane_has_a_connection(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="each needs at least 1"):
        Settings(**wrong)  # type: ignore[arg-type]
