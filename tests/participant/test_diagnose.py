"""Is a database set up as prepared transactions need it: each finding, and what to type, on a real Postgres."""

from __future__ import annotations

import itertools
from typing import Any, Final

import pytest
from psycopg import sql

from fixtures.clusters import Database, MakeCluster, MakeDatabase
from fixtures.second_phase import JOURNAL, gid_of, psql, value
from twophase.participant import diagnose as diagnosing
from twophase.participant.diagnose import diagnose
from twophase.participant.migrations import migrate
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

OK, WARNING, PROBLEM = (
    types_pb2.CHECK_RESULT_OK,
    types_pb2.CHECK_RESULT_WARNING,
    types_pb2.CHECK_RESULT_PROBLEM,
)
SUBJECTS: Final = [
    "server",
    "prepared slots",
    "ledger",
    "durability",
    "standbys",
    "old branches",
    "foreign prepared transactions",
    "vacuum horizon",
    "view of sessions",
]
OTHER_JOURNAL = "fedcba9876543210"

_numbers = itertools.count(1)


def checks(database: Database, *, dsn: str | None = None, participant: str = "payment") -> dict[str, types_pb2.Check]:
    found = diagnose(dsn or database.dsn, participant, JOURNAL)
    for check in found.checks:
        assert check.finding
        assert "\n" not in check.finding
        assert bool(check.remedy) is (check.result != OK), check
    return {check.subject: check for check in found.checks}


def prepare(database: Database, name: object) -> None:
    with database.connect(autocommit=False) as connection:
        connection.execute("SELECT pg_current_xact_id()")
        connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(str(name))))


@pytest.fixture
def role(database: Database) -> str:
    """A role with the rights a service needs, whose name has to be quoted."""
    name = f'Pay "Desk" of diagnosis {next(_numbers)}'
    database.cluster.create_role(name)
    migrate(database.dsn, "payment", role=name)
    return name


@pytest.fixture
def young(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is prepared is old."""
    monkeypatch.setattr(diagnosing, "_OLD", 0.0)


def test_a_database_that_is_as_it_should_be(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(fsync="on", full_page_writes="on", max_connections=20, max_prepared_transactions=20)
    database = Database(cluster, "postgres", cluster.dsn())
    migrate(database.dsn, "payment")

    found = diagnose(database.dsn, "payment", JOURNAL)

    assert [check.subject for check in found.checks] == SUBJECTS
    assert {check.result for check in found.checks} == {OK}
    assert not any(check.remedy for check in found.checks)
    assert found.identity is not None
    assert found.identity.system_identifier == cluster.system_identifier()
    told = {check.subject: check.finding for check in found.checks}
    version = value(database, "SHOW server_version")
    assert told["server"] == f"PostgreSQL {version}, database 'postgres', as 'postgres'"
    assert told["prepared slots"] == "max_prepared_transactions is 20: 0 taken, 20 free"
    assert told["durability"] == "fsync and full_page_writes are on, synchronous_commit is on"


def test_no_slots_is_a_problem_and_the_remedy_helps(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(max_prepared_transactions=0, max_connections=20)
    database = Database(cluster, "postgres", cluster.dsn())
    migrate(database.dsn, "payment")

    check = checks(database)["prepared slots"]

    assert (check.result, check.finding) == (
        PROBLEM,
        "max_prepared_transactions is 0, so the server prepares no transaction",
    )
    assert psql(cluster, database.dsn, check.remedy).returncode == 0
    del cluster.settings["max_prepared_transactions"]
    cluster.restart()
    assert checks(database)["prepared slots"].result == OK


def test_few_slots_are_a_warning_and_none_free_is_a_problem(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(max_prepared_transactions=2, max_connections=20)
    database = Database(cluster, "postgres", cluster.dsn())
    migrate(database.dsn, "payment")

    few = checks(database)["prepared slots"]
    prepare(database, gid_of(1))
    prepare(database, gid_of(2))
    full = checks(database)["prepared slots"]

    assert few.result == WARNING
    assert few.finding.startswith("max_prepared_transactions is 2: 0 taken, 2 free; max_connections is 20")
    assert few.remedy.startswith("ALTER SYSTEM SET max_prepared_transactions = 20;")
    assert full.result == PROBLEM
    assert "2 taken, 0 free" in full.finding
    assert full.remedy.startswith("twophase indoubt")


def test_nearly_no_free_slot_is_a_warning(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(max_prepared_transactions=11, max_connections=11)
    database = Database(cluster, "postgres", cluster.dsn())
    migrate(database.dsn, "payment")
    for number in range(10):
        prepare(database, gid_of(number))

    check = checks(database)["prepared slots"]

    assert (check.result, check.finding) == (WARNING, "max_prepared_transactions is 11: 10 taken, 1 free")


def test_what_is_not_durable_is_told_with_what_to_type(database: Database) -> None:
    check = checks(database)["durability"]  # these tests' cluster has both off

    assert check.result == PROBLEM
    assert "fsync is off" in check.finding
    assert "full_page_writes is off" in check.finding
    assert check.remedy.count("ALTER SYSTEM SET") == 2


def test_asynchronous_commit_of_the_role_is_a_warning(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(fsync="on", full_page_writes="on", synchronous_commit="off")
    database = Database(cluster, "postgres", cluster.dsn())
    migrate(database.dsn, "payment")

    check = checks(database)["durability"]

    assert (check.result, check.finding[:25]) == (WARNING, "synchronous_commit is off")


def test_a_ledger_that_is_missing_or_somebody_elses_is_a_problem(empty_database: Database, database: Database) -> None:
    missing = checks(empty_database)["ledger"]
    others = checks(database, participant="stock")["ledger"]

    assert (missing.result, missing.finding) == (PROBLEM, f"the database {empty_database.name!r} has no ledger")
    assert missing.remedy.startswith("twophase ledger sql --participant payment --role postgres")
    assert others.result == PROBLEM
    assert "holds the ledger of the participant 'payment'" in others.finding


def test_missing_rights_are_told_one_by_one_and_the_rest_is_looked_at_all_the_same(
    database: Database, role: str
) -> None:
    dsn = database.dsn_for(role)
    quoted = sql.Identifier(role).as_string(None)
    assert checks(database, dsn=dsn)["ledger"].result == OK
    with database.connect() as connection:
        connection.execute(f"REVOKE SELECT ON twophase.meta FROM {quoted}".encode())
        connection.execute(f"REVOKE INSERT, DELETE ON twophase.ledger FROM {quoted}".encode())

    found = checks(database, dsn=dsn)

    assert list(found) == SUBJECTS
    assert found["ledger"].result == PROBLEM
    assert found["ledger"].remedy.splitlines() == [
        f"GRANT SELECT ON twophase.meta TO {quoted};",
        f"GRANT INSERT, DELETE ON twophase.ledger TO {quoted};",
    ]
    assert psql(database.cluster, database.dsn, found["ledger"].remedy).returncode == 0
    assert checks(database, dsn=dsn)["ledger"].result == OK


def test_a_role_that_may_not_see_other_sessions_is_no_problem_and_is_told(database: Database, role: str) -> None:
    check = checks(database, dsn=database.dsn_for(role))["view of sessions"]

    quoted = sql.Identifier(role).as_string(None)
    assert (check.result, check.remedy) == (OK, "")
    assert f"GRANT pg_monitor TO {quoted} shows them" in check.finding
    with database.connect() as connection:
        connection.execute(f"GRANT pg_monitor TO {quoted}".encode())
    assert "sees the statements of all" in checks(database, dsn=database.dsn_for(role))["view of sessions"].finding


def test_a_role_that_may_not_read_the_identity_is_told_the_rest(database: Database, role: str) -> None:
    with database.connect() as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")

    found = diagnose(database.dsn_for(role), "payment", JOURNAL)

    assert found.identity is None
    assert [check.subject for check in found.checks] == SUBJECTS


def test_what_the_server_refuses_to_tell_is_a_warning_and_no_end(database: Database, role: str) -> None:
    with database.connect() as connection:
        connection.execute("REVOKE SELECT ON pg_stat_replication FROM PUBLIC")

    found = checks(database, dsn=database.dsn_for(role))

    assert list(found) == SUBJECTS
    assert found["standbys"].result == WARNING
    assert "permission denied" in found["standbys"].finding


def test_read_only_transactions_are_a_problem_and_the_remedy_helps(database: Database) -> None:
    with database.connect() as connection:
        connection.execute(f"ALTER DATABASE {database.name} SET default_transaction_read_only = on".encode())

    check = checks(database)["server"]

    assert (check.result, check.finding[-37:]) == (PROBLEM, "transactions are read-only by default")
    text = f"SET default_transaction_read_only = off; {check.remedy}"
    assert psql(database.cluster, database.dsn, text).returncode == 0
    assert checks(database)["server"].result == OK


def test_own_branches_are_told_once_they_are_old(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(database, gid_of(1))
    prepare(database, gid_of(2))
    young = checks(database)["old branches"]
    monkeypatch.setattr(diagnosing, "_OLD", 0.0)

    old = checks(database)["old branches"]

    assert (young.result, young.finding) == (OK, "prepared here by this coordinator: 2, for longer than a minute: 0")
    assert old.result == WARNING
    assert "for longer than a minute: 2; the oldest, " in old.finding
    assert str(gid_of(1)) in old.finding
    assert "twophase indoubt" in old.remedy


@pytest.mark.usefixtures("young")
def test_a_branch_of_the_same_coordinator_in_another_database_is_neither_ours_nor_foreign(
    database: Database, databases: MakeDatabase
) -> None:
    prepare(databases(), gid_of(1))

    found = checks(database)

    assert found["old branches"].result == found["foreign prepared transactions"].result == OK


def test_r9_foreign_prepared_transactions_are_told_and_never_touched(
    database: Database, databases: MakeDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = databases()
    prepare(elsewhere, "an_order")
    prepare(database, gid_of(1, journal=OTHER_JOURNAL))
    young = checks(database)["foreign prepared transactions"]
    monkeypatch.setattr(diagnosing, "_OLD", 0.0)

    old = checks(database)["foreign prepared transactions"]

    assert young.result == OK
    assert old.result == WARNING
    assert old.finding.startswith("on this server: 2, never touched by twophase; the oldest, 'an_order' in database ")
    assert f"{elsewhere.name!r}" in old.finding
    assert "of another program, owned by 'postgres'" in old.finding
    with elsewhere.connect() as connection:
        connection.execute("ROLLBACK PREPARED 'an_order'")
    left = checks(database)
    assert "of another coordinator" in left["foreign prepared transactions"].finding
    assert left["old branches"].result == OK
    assert database.prepared() == [str(gid_of(1, journal=OTHER_JOURNAL))]


class _Scripted:
    """A connection that answers every query with one row."""

    def __init__(self, *row: object) -> None:
        self._row = row

    def execute(self, _query: str) -> _Scripted:
        return self

    def fetchone(self) -> tuple[object, ...]:
        return self._row


@pytest.mark.parametrize(
    ("version", "number", "result"),
    [
        ("15.2", 150002, OK),
        ("17.9", 170009, WARNING),
        ("17.10", 170010, OK),
        ("18.3", 180003, WARNING),
        ("18.4", 180004, OK),
        ("19.0", 190000, OK),
    ],
)
def test_releases_that_can_overlook_row_locks_are_a_warning(version: str, number: int, result: int) -> None:
    connection: Any = _Scripted(version, number, False, "app", "payment", False)  # noqa: FBT003

    found, finding, remedy = diagnosing._server(connection)

    assert (found, version in finding) == (result, True)
    assert ("install PostgreSQL" in remedy) is (result == WARNING)


def test_a_standby_is_a_problem() -> None:
    connection: Any = _Scripted("18.6", 180006, True, "app", "payment", False)  # noqa: FBT003

    result, finding, remedy = diagnosing._server(connection)

    assert (result, "a standby" in finding) == (PROBLEM, True)
    assert "target_session_attrs=read-write" in remedy


@pytest.mark.parametrize(
    ("row", "result", "told"),
    [
        (("", 0, 0, 0), OK, "as durable as this server's disk"),
        (("", 2, 0, 0), WARNING, "none synchronous"),
        (("one", 1, 1, 0), OK, "1 of them synchronous"),
        (("one", 1, 0, 1), OK, "may not see"),
        (("one", 1, 0, 0), PROBLEM, "none of them synchronous"),
        (("one", 0, 0, 0), PROBLEM, "0 connected"),
    ],
)
def test_standbys_are_told_by_what_a_yes_is_worth(row: tuple[Any, ...], result: int, told: str) -> None:
    connection: Any = _Scripted(*row)

    found, finding, _ = diagnosing._standbys(connection)

    assert (found, told in finding) == (result, True), finding


@pytest.mark.parametrize(("age", "result"), [(19_999_999, OK), (20_000_000, WARNING), (200_000_000, PROBLEM)])
def test_the_horizon_is_a_problem_when_the_server_grows_anxious(age: int, result: int) -> None:
    connection: Any = _Scripted(age, "an_order", 200_000_000)

    found, finding, _ = diagnosing._horizon(connection)

    assert (found, f"{age:,}" in finding) == (result, True)
    assert ("'an_order'" in finding) is (result != OK)


def test_a_prepared_transaction_holds_vacuum_back(database: Database) -> None:
    prepare(database, gid_of(1))
    for _ in range(5):
        value(database, "SELECT pg_current_xact_id()")

    check = checks(database)["vacuum horizon"]

    assert check.result == OK
    assert check.finding.startswith("prepared transactions hold VACUUM back by ")


def test_a_database_that_goes_away_meanwhile_is_one_finding(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosing, "_SLOTS", "SELECT pg_terminate_backend(pg_backend_pid()), 1, 1")

    [check] = diagnose(database.dsn, "payment", JOURNAL).checks

    assert (check.subject, check.result) == ("server", PROBLEM)
    assert "terminating connection" in check.finding


def test_a_database_that_cannot_be_reached_is_a_finding_without_its_password(cluster: Cluster) -> None:
    dsn = f"postgresql://postgres:topsecret@127.0.0.1:{cluster.port}/nowhere"

    found = diagnose(dsn, "payment", JOURNAL)

    [check] = found.checks
    assert (check.subject, check.result) == ("server", PROBLEM)
    assert check.finding.startswith("the database cannot be reached: ")
    assert "topsecret" not in check.finding
    assert found.identity is None
