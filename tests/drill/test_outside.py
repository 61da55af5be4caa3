"""The outside checker imports nothing of the project, and finds what is wrong: a check that cannot fail is none."""

from __future__ import annotations

import ast
import contextlib
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest

from fixtures.clusters import Database
from twophase.participant import migrations
from twophase.sandbox.bank import OPENING, SCHEMA, STOCK
from twophase.sandbox.drill import outside
from twophase.sandbox.drill.outside import Bank, wrong
from twophase.sandbox.drill.stage import Stage
from twophase.sandbox.system import System

TEN = Decimal(10)
GID = "tp-0123456789abcdef-1-ab-7"
OPENINGS = (("account", 1, Decimal(100)), ("account", 2, Decimal(100)), ("item", 1, Decimal(5)))
EAST = Bank((), OPENINGS, (("t", -TEN, f"{GID}-1"),), (f"{GID}-1",))
WEST = Bank((), OPENINGS, (("t", TEN, f"{GID}-2"), ("t", Decimal(0), f"{GID}-2")), (f"{GID}-2",))


def test_it_imports_nothing_of_the_project() -> None:
    tree = ast.parse(Path(outside.__file__).read_text(encoding="utf-8"))
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert not {name for name in imported if name.startswith("twophase")}
    assert "psycopg" in imported


def test_what_agrees_is_right() -> None:
    assert wrong({"east": EAST, "west": WEST}) == []


def test_a_branch_that_is_still_prepared() -> None:
    assert wrong({"east": replace(EAST, prepared=(f"{GID}-1",)), "west": WEST}) == [
        f"{GID}-1 is still prepared on the server of east"
    ]


def test_money_that_was_made() -> None:
    openings = (("account", 1, Decimal(101)), *OPENINGS[1:])
    assert wrong({"east": replace(EAST, openings=openings), "west": WEST}) == [
        "account 1 of east began with 101, the others did not"
    ]


def test_a_transfer_at_one_bank_only() -> None:
    found = wrong({"east": EAST, "west": replace(WEST, booked=(), applied=())})
    assert found == ["the movements of transfer t sum to -10, not to 0"]


def test_a_branch_that_is_applied_without_its_work() -> None:
    found = wrong({"east": EAST, "west": WEST, "north": Bank((), OPENINGS, (), (f"{GID}-3",))})
    assert found == [f"transaction {GID} is applied at ['east', 'north', 'west'] and booked at ['east', 'west']"]


def test_work_of_no_branch() -> None:
    found = wrong({"east": replace(EAST, booked=(("t", -TEN, None),), applied=()), "west": WEST})
    assert found == ["transfer t is booked at east by no branch of the ledger"]


def test_where_the_ledger_was_pruned_a_branch_may_be_missing_and_money_may_not() -> None:
    pruned = replace(EAST, booked=(("t", -TEN, None),), applied=())
    assert wrong({"east": pruned, "west": WEST}, pruned=True) == []
    assert wrong({"east": pruned, "west": replace(WEST, booked=())}, pruned=True) == [
        "the movements of transfer t sum to -10, not to 0"
    ]


def test_a_transfer_that_was_booked_by_two_transactions() -> None:
    other = GID.replace("-7", "-8")
    twice = replace(
        EAST, booked=(("t", -TEN, f"{GID}-1"), ("t", Decimal(0), f"{other}-1")), applied=(f"{GID}-1", f"{other}-1")
    )
    assert wrong({"east": twice, "west": WEST}) == [f"transfer t is booked by several transactions: {GID}, {other}"]


def test_databases_that_are_not_named_are_told() -> None:
    ended = subprocess.run(
        [sys.executable, "-I", outside.__file__], input="", capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: outside.py [--pruned] < databases")


def _no_horizons(bank: str) -> contextlib.AbstractContextManager[SimpleNamespace]:
    cursor = SimpleNamespace(fetchall=list)
    return contextlib.nullcontext(SimpleNamespace(execute=lambda _: cursor))


async def test_a_checker_that_cannot_check_is_no_good_news() -> None:
    system = SimpleNamespace(
        connect=_no_horizons, dsn="postgresql://{}:secret@127.0.0.1:1/east?connect_timeout=5".format
    )
    found = await Stage(cast("System", system)).outside_verdict()
    assert len(found) == 1
    assert found[0].startswith("it failed (3): outside.py: a database cannot be read: ")
    assert "secret" not in found[0]


@pytest.mark.integration
def test_a_row_is_traced_to_the_branch_that_wrote_it_in_the_same_transaction(empty_database: Database) -> None:
    migrations.migrate(empty_database.dsn, "east")
    applied = (
        "INSERT INTO twophase.ledger (gid, kind, outcome, results, fingerprint, journal_position)"
        " VALUES (%s, 'work', 'applied', '{}', '', 1)"
    )
    gid = "tp-0123456789abcdef-00000001-0123abcd-000000000007-0001"
    with psycopg.connect(empty_database.dsn, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
        with connection.transaction():
            connection.execute("INSERT INTO movement VALUES ('t', 1, -10)")
            connection.execute("INSERT INTO sale VALUES ('t', 1, 2)")
            connection.execute(applied, [gid])
        connection.execute("INSERT INTO movement VALUES ('u', 2, 10)")
        connection.execute("UPDATE account SET balance = balance + 10 WHERE id = 3")
    found = outside.read(empty_database.dsn)
    assert sorted(found.booked, key=str) == [("t", -TEN, gid), ("t", Decimal(0), gid), ("u", TEN, None)]
    assert found.applied == (gid,)
    assert outside.transaction_of(gid) == gid[:-5]
    at_start = {(what, number): opening for what, number, opening in found.openings}
    assert at_start["account", 1] == OPENING + 10, "its movement was booked, and its balance not changed"
    assert at_start["account", 3] == OPENING + 10
    assert at_start["item", 1] == STOCK + 2
    assert at_start["account", 4] == OPENING
