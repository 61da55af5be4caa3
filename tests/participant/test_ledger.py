"""The ledger's statements: what their conditions let through, which rows their ranges hold, how they are found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

import psycopg
import pytest
from psycopg import sql

from fixtures.clusters import Database
from fixtures.second_phase import EPOCH, JOURNAL, RESULTS, WORK, ask, empty, gid_of, make_purse
from twophase.contract.names import MAX_SEQUENCE, Epoch, Gid
from twophase.participant import ledger
from twophase.sandbox.postgres import Cluster
from twophase.v1 import types_pb2

GID = gid_of()
TOMBSTONE = ledger.tombstone(GID, WORK, types_pb2.DECISION_ABORT)


@pytest.fixture(scope="module")
def shared(cluster: Cluster) -> Iterator[Database]:
    database = make_purse(cluster, "ledger")
    yield database
    cluster.drop_database(database.name)


@pytest.fixture
def session(shared: Database) -> Iterator[psycopg.Connection]:
    """A session with an empty ledger, in autocommit."""
    with empty(shared).connect() as connection:
        yield connection


def applied(gid: Gid = GID) -> bytes:
    return ledger.applied(gid, WORK, RESULTS, fingerprint=b"\x01" * 32, position=5)


def begin(session: psycopg.Connection, gid: Gid) -> None:
    session.execute("BEGIN")
    session.execute("SELECT set_config('twophase.branch', %s || ' ' || current_user, true)", (str(gid),))


def horizon(session: psycopg.Connection, sequence: int, epoch: Epoch = EPOCH) -> None:
    session.execute(ledger.RAISE_HORIZON, {"epoch": f"{JOURNAL}-{epoch}", "sequence": sequence})


def test_r7_the_row_of_a_branch_goes_only_into_its_own_transaction(session: psycopg.Connection) -> None:
    for wrong in (None, gid_of(8), gid_of(journal="f" * 16)):
        if wrong is not None:
            begin(session, wrong)
        with pytest.raises(psycopg.errors.NotNullViolation) as caught:
            session.execute(applied())
        assert ledger.is_not_our_transaction(caught.value)
        assert not ledger.is_below_horizon(caught.value)
        assert not ledger.is_taken(caught.value)
        if wrong is not None:
            session.execute("ROLLBACK")
    begin(session, GID)
    session.execute(applied())
    session.execute("COMMIT")
    row = session.execute(ledger.SELECT_ROW, ledger.key_of(GID, WORK)).fetchone()
    assert row is not None
    assert ledger.entry_of(row).results == RESULTS


def test_r5_no_row_is_written_below_the_horizon_and_every_row_at_it(session: psycopg.Connection) -> None:
    horizon(session, 7)
    horizon(session, 1_000, Epoch(EPOCH.number, "ffffffff"))
    for at, fits in ((gid_of(6, 0xFFFF), False), (gid_of(7, 0), True), (gid_of(0, epoch=Epoch(4, "aabbccdd")), True)):
        begin(session, at)
        statements: tuple[tuple[bytes, ledger.Params | None], ...] = (
            (applied(at), None),
            (ledger.INSERT_VERDICT.encode(), ledger.tombstone(at, WORK, types_pb2.DECISION_ABORT)),
        )
        for statement, row in statements:
            session.execute("SAVEPOINT before")
            if fits:
                session.execute(statement, row)
            else:
                with pytest.raises(psycopg.errors.NotNullViolation) as caught:
                    session.execute(statement, row)
                assert ledger.is_below_horizon(caught.value)
                assert not ledger.is_not_our_transaction(caught.value)
            session.execute("ROLLBACK TO before")
        session.execute("ROLLBACK")


def test_r7_one_row_a_branch_and_deed(session: psycopg.Connection) -> None:
    session.execute(ledger.INSERT_VERDICT, TOMBSTONE)
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        session.execute(ledger.INSERT_VERDICT, TOMBSTONE)
    assert ledger.is_taken(caught.value)
    session.execute(ledger.INSERT_VERDICT, {**TOMBSTONE, "kind": "compensation"})


def test_an_error_of_another_table_is_not_taken_for_one_of_the_ledger(session: psycopg.Connection) -> None:
    session.execute("CREATE TEMP TABLE ledger (gid text PRIMARY KEY, outcome text NOT NULL)")
    session.execute("INSERT INTO pg_temp.ledger VALUES ('a', 'b')")
    for values in ("('a', 'b')", "('c', NULL)", "(NULL, 'b')"):
        with pytest.raises(psycopg.errors.IntegrityError) as caught:
            session.execute(f"INSERT INTO pg_temp.ledger VALUES {values}".encode())
        assert not ledger.is_taken(caught.value)
        assert not ledger.is_below_horizon(caught.value)
        assert not ledger.is_not_our_transaction(caught.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("on", "on"), ("remote_apply", "remote_apply")],
)
def test_r7_a_row_is_never_committed_asynchronously(session: psycopg.Connection, before: str, after: str) -> None:
    session.execute(f"SET synchronous_commit = {before}".encode())
    begin(session, GID)
    session.execute(applied())
    assert ask(session, "SHOW synchronous_commit") == after
    session.execute("ROLLBACK")
    assert ask(session, "SHOW synchronous_commit") == before
    session.execute("BEGIN")
    session.execute(ledger.DURABLE)
    assert ask(session, "SHOW synchronous_commit") == after
    session.execute("ROLLBACK")


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_the_row_holds_what_was_given_however_the_session_reads_literals(
    session: psycopg.Connection, conforming: str
) -> None:
    """The role may have any name, and a path of business code finds other operators first."""
    name = f"it's a \\role {conforming}"
    with suppress(psycopg.errors.DuplicateObject):
        session.execute(sql.SQL("CREATE ROLE {} SUPERUSER").format(sql.Identifier(name)))
    session.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(name)))
    session.execute("CREATE SCHEMA IF NOT EXISTS odd")
    session.execute("CREATE OR REPLACE FUNCTION odd.never(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false'")
    with suppress(psycopg.errors.DuplicateFunction):
        session.execute("CREATE OPERATOR odd.= (LEFTARG = text, RIGHTARG = text, FUNCTION = odd.never)")
    session.execute(f"SET standard_conforming_strings = {conforming}; SET search_path = odd, pg_catalog".encode())
    given = (types_pb2.Payload(json='"it\'s \\"'), types_pb2.Payload(), types_pb2.Payload(json="1" * 100_000))
    session.execute("BEGIN")
    session.execute(ledger.mark(GID, ask(session, ledger.OF_SESSION)).encode())
    session.execute(ledger.applied(GID, WORK, given, fingerprint=b"'\\\0", position=5))
    found = session.execute("SELECT * FROM twophase.ledger").fetchall()
    session.execute("ROLLBACK")
    assert [(row[0], row[1], row[2], row[6], row[7]) for row in found] == [(str(GID), "work", "applied", b"'\\\0", 5)]
    assert tuple(types_pb2.Payload.FromString(result) for result in found[0][4]) == given


@pytest.mark.parametrize(
    ("names", "inside", "outside"),
    [
        (
            ledger.range_of_journal(JOURNAL),
            [gid_of(), gid_of(epoch=Epoch(2**32 - 1, "ffffffff"))],
            ["e" * 16, "f" * 16],
        ),
        (ledger.range_of_transaction(JOURNAL, GID.txid), [gid_of(7, 0), gid_of(7, 0xFFFF)], [gid_of(6), gid_of(8)]),
        (ledger.range_below(JOURNAL, EPOCH, 7), [gid_of(0, 0), gid_of(6, 0xFFFF)], [gid_of(7, 0), gid_of(8)]),
        (ledger.range_below(JOURNAL, EPOCH, 0), [], [gid_of(0, 0)]),
        (
            ledger.range_below(JOURNAL, EPOCH, MAX_SEQUENCE),
            [gid_of(0, 0), gid_of(MAX_SEQUENCE - 1, 0xFFFF)],
            [gid_of(0, epoch=Epoch(3, "aabbccde")), gid_of(0, epoch=Epoch(4, "00000000"))],
        ),
    ],
)
def test_a_range_of_names_holds_what_it_says(
    names: Mapping[str, str], inside: list[Gid], outside: list[Gid | str]
) -> None:
    assert all(names["low"] <= str(gid) < names["high"] for gid in inside)
    others = [gid_of(journal=each) if isinstance(each, str) else each for each in outside]
    assert not any(names["low"] <= str(gid) < names["high"] for gid in others)


def test_a_long_ledger_is_read_through_its_indexes(shared: Database, session: psycopg.Connection) -> None:
    session.execute(
        "INSERT INTO twophase.ledger (gid, kind, outcome, journal_position)"
        " SELECT 'tp-' || (ARRAY['0123456789abcdef', 'ffffffffffffffff'])[1 + n % 2] || '-00000003-aabbccdd-'"
        " || lpad(to_hex(n), 12, '0') || '-0001', 'work', 'applied', n FROM generate_series(1, 4000) AS n"
    )
    session.execute("ANALYZE twophase.ledger")
    with psycopg.ClientCursor(session) as cursor:
        for query, params in (
            (ledger.HIGHEST_POSITION, {"journal": JOURNAL}),
            (ledger.SELECT_ROWS, ledger.range_of_transaction(JOURNAL, GID.txid)),
            (ledger.SELECT_ROW, ledger.key_of(GID, WORK)),
            (ledger.PRUNE, {**ledger.range_below(JOURNAL, EPOCH, 3), "journal": JOURNAL, "limit": 10}),
        ):
            cursor.execute(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS OFF) {query}".encode(), params)
            plan = "\n".join(str(line) for (line,) in cursor.fetchall())
            assert "Seq Scan on ledger" not in plan, plan
            assert "Index" in plan, plan
    highest = session.execute(ledger.HIGHEST_POSITION, {"journal": "f" * 16}).fetchone()
    assert highest == (3999,)
