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
from twophase.sandbox.drill.outside import Bank, Row, wrong
from twophase.sandbox.drill.stage import Stage
from twophase.sandbox.system import System

TEN = Decimal(10)
BARRED = (
    "INSERT INTO twophase.ledger (gid, kind, outcome, decision, journal_position)"
    " VALUES (%s, 'compensation', 'tombstone', 'delegated', 1)"
)
GID = "tp-0123456789abcdef-1-ab-7"
OPENINGS = (("account", 1, Decimal(100)), ("account", 2, Decimal(100)), ("item", 1, Decimal(5)))


def moved(amount: Decimal, gid: str | None, *, account: int = 1) -> Row:
    return Row("t", "account", account, amount, undo=False, gid=gid, kind=gid and "work")


def back(row: Row, *, gid: str | None = None) -> Row:
    """What takes a row back; by the compensation of its branch, unless another one is given."""
    return replace(row, amount=-row.amount, undo=True, gid=gid or row.gid, kind="compensation")


SOLD = Row("t", "item", 1, Decimal(2), undo=False, gid=f"{GID}-2", kind="work")
EAST = Bank((), OPENINGS, (moved(-TEN, f"{GID}-1"),), frozenset({f"{GID}-1"}))
WEST = Bank((), OPENINGS, (moved(TEN, f"{GID}-2"), SOLD), frozenset({f"{GID}-2"}))


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
    found = wrong({"east": EAST, "west": replace(WEST, booked=(), applied=frozenset())})
    assert found == ["the movements of transfer t sum to -10, not to 0"]


def test_a_branch_that_is_applied_without_its_work() -> None:
    found = wrong({"east": EAST, "west": WEST, "north": Bank((), OPENINGS, (), frozenset({f"{GID}-3"}))})
    assert found == [f"transaction {GID} is applied at ['east', 'north', 'west'] and booked at ['east', 'west']"]


def test_work_of_no_branch() -> None:
    found = wrong({"east": replace(EAST, booked=(moved(-TEN, None),), applied=frozenset()), "west": WEST})
    assert found == ["transfer t is booked at east by no branch of the ledger"]


def test_where_the_ledger_was_pruned_a_branch_may_be_missing_and_money_may_not() -> None:
    pruned = replace(EAST, booked=(moved(-TEN, None),), applied=frozenset())
    assert wrong({"east": pruned, "west": WEST}, pruned=True) == []
    assert wrong({"east": pruned, "west": replace(WEST, booked=())}, pruned=True) == [
        "the movements of transfer t sum to -10, not to 0"
    ]


def test_a_transfer_that_was_booked_by_two_transactions() -> None:
    other = GID.replace("-7", "-8")
    twice = replace(
        EAST,
        booked=(moved(-TEN, f"{GID}-1"), moved(Decimal(0), f"{other}-1")),
        applied=frozenset({f"{GID}-1", f"{other}-1"}),
    )
    assert wrong({"east": twice, "west": WEST}) == [f"transfer t is booked by several transactions: {GID}, {other}"]


def undone(bank: Bank) -> Bank:
    """Everything that this bank did is taken back by the compensations of its branches."""
    taken_back = tuple(back(row) for row in bank.booked)
    return replace(bank, booked=(*bank.booked, *taken_back), compensated=bank.applied)


def test_a_saga_that_is_undone_everywhere_is_right() -> None:
    assert wrong({"east": undone(EAST), "west": undone(WEST)}) == []


def test_a_step_that_only_looked_books_nothing_and_needs_no_compensation() -> None:
    look = Bank((), OPENINGS, (), frozenset({f"{GID}-3"}), looks=frozenset({f"{GID}-3"}))
    assert wrong({"east": EAST, "west": WEST, "north": look}) == []
    assert wrong({"east": undone(EAST), "west": undone(WEST), "north": look}) == []
    compensated = replace(look, compensated=look.applied)
    assert wrong({"east": undone(EAST), "west": undone(WEST), "north": compensated}) == []


def test_a_saga_that_is_undone_at_one_bank_only() -> None:
    assert wrong({"east": undone(EAST), "west": WEST}) == [
        "the movements of transfer t sum to 10, not to 0",
        f"transaction {GID} is compensated, and not at ['west']",
    ]


def test_what_was_undone_and_never_done() -> None:
    nothing = Bank((), OPENINGS, (), frozenset(), compensated=frozenset({f"{GID}-1"}))
    assert wrong({"east": nothing}) == [f"{GID}-1 is compensated at east, and was never applied"]


def test_what_was_undone_twice() -> None:
    twice = undone(EAST)
    twice = replace(twice, booked=(*twice.booked, back(EAST.booked[0])))
    assert f"the compensation of {GID}-1 at east does not take back what the work did, once" in wrong(
        {"east": twice, "west": undone(WEST)}
    )


def test_what_was_taken_back_from_another_account() -> None:
    elsewhere = replace(
        EAST, booked=(EAST.booked[0], back(replace(EAST.booked[0], number=2))), compensated=EAST.applied
    )
    assert wrong({"east": elsewhere, "west": undone(WEST)}) == [
        f"the compensation of {GID}-1 at east does not take back what the work did, once"
    ]


def test_what_was_taken_back_by_work() -> None:
    by_work = replace(EAST, booked=(*EAST.booked, replace(back(EAST.booked[0]), kind="work")))
    assert f"a row of transfer t at east was written by the work of {GID}-1" in wrong({"east": by_work, "west": WEST})


def test_what_a_person_took_back_is_right_if_its_compensation_is_barred() -> None:
    by_hand = replace(back(EAST.booked[0]), gid=None, kind=None)
    held = replace(EAST, booked=(*EAST.booked, by_hand), resolved=EAST.applied)
    assert wrong({"east": held, "west": undone(WEST)}) == []
    not_barred = replace(held, resolved=frozenset())
    assert wrong({"east": not_barred, "west": undone(WEST)}) == [
        "transfer t is booked at east by no branch of the ledger",
        f"transaction {GID} is compensated, and not at ['east']",
    ]
    something_else = replace(held, booked=(*EAST.booked, replace(by_hand, number=2)))
    assert wrong({"east": something_else, "west": undone(WEST)}) == [
        "transfer t is booked at east by no branch of the ledger"
    ]


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
    row = (
        "INSERT INTO twophase.ledger (gid, kind, outcome, results, fingerprint, journal_position)"
        " VALUES (%s, %s, %s, %s, '', 1)"
    )
    gid = "tp-0123456789abcdef-00000001-0123abcd-000000000007-0001"
    look = "tp-0123456789abcdef-00000001-0123abcd-000000000008-0001"
    with psycopg.connect(empty_database.dsn, autocommit=True) as connection:
        connection.execute(SCHEMA.encode())
        with connection.transaction():
            connection.execute("INSERT INTO movement VALUES ('t', 1, -10)")
            connection.execute("INSERT INTO sale VALUES ('t', 1, 2)")
            connection.execute(row, [gid, "work", "applied", [b""]])
        with connection.transaction():
            connection.execute("INSERT INTO movement VALUES ('t', 1, 10, true)")
            connection.execute(row, [gid, "compensation", "applied", []])
        connection.execute(row, [look, "work", "applied", [b"something"]])
        connection.execute(BARRED, [look])
        connection.execute("INSERT INTO movement VALUES ('u', 2, 10)")
        connection.execute("UPDATE account SET balance = balance + 10 WHERE id = 3")
    found = outside.read(empty_database.dsn)
    assert set(found.booked) == {
        Row("t", "account", 1, -TEN, undo=False, gid=gid, kind="work"),
        Row("t", "item", 1, Decimal(2), undo=False, gid=gid, kind="work"),
        Row("t", "account", 1, TEN, undo=True, gid=gid, kind="compensation"),
        Row("u", "account", 2, TEN, undo=False),
    }
    assert (found.applied, found.compensated) == (frozenset({gid, look}), frozenset({gid}))
    assert (found.looks, found.resolved) == (frozenset({look}), frozenset({look}))
    assert outside.transaction_of(gid) == gid[:-5]
    at_start = {(what, number): opening for what, number, opening in found.openings}
    assert at_start["account", 1] == OPENING, "its movements were booked, and its balance not changed"
    assert at_start["account", 3] == OPENING + 10
    assert at_start["item", 1] == STOCK + 2
    assert at_start["account", 4] == OPENING
