"""The check after each round finds what it must: missing money, a ledger that says otherwise, a branch left behind."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import psycopg
import pytest

from fixtures.clusters import Database, MakeDatabase
from twophase.benchmarks import audit
from twophase.benchmarks.bank import FILL, NAMES, OPENING, SCHEMA, UPDATE
from twophase.benchmarks.workload import Books, Transfer
from twophase.contract.names import Epoch, Gid, Txid
from twophase.participant import ledger
from twophase.sandbox.system import System
from twophase.v1 import types_pb2

TRANSFER = Transfer(left=3, right=4, amount=25)
TXID = Txid(Epoch(1, "0123abcd"), 1)
WORK, COMPENSATION = types_pb2.BRANCH_KIND_WORK, types_pb2.BRANCH_KIND_COMPENSATION


@pytest.fixture
def banks(databases: MakeDatabase) -> dict[str, Database]:
    found = {name: databases(name) for name in NAMES}
    for database in found.values():
        with database.connect() as connection:
            connection.execute(SCHEMA)
            connection.execute(FILL, (OPENING, 10))
    return found


@pytest.fixture
def system(banks: dict[str, Database]) -> System:
    """As much of a system as the check looks at."""

    def cluster_of(name: str) -> Any:
        connect: Callable[[str], psycopg.Connection] = lambda _: banks[name].connect()  # noqa: E731
        return SimpleNamespace(connect=connect)

    return cast("System", SimpleNamespace(cluster_of=cluster_of))


def move(banks: dict[str, Database], name: str) -> None:
    amount, account = {"left": (-25, 3), "right": (25, 4)}[name]
    with banks[name].connect() as connection:
        connection.execute(UPDATE, (amount, account))


def enter(banks: dict[str, Database], name: str, *, kind: types_pb2.BranchKind.ValueType = WORK) -> None:
    gid = Gid("0123456789abcdef", TXID, NAMES.index(name))
    with banks[name].connect() as connection, connection.transaction():
        connection.execute("SELECT set_config('twophase.branch', %s || ' ' || current_user, true)", [str(gid)])
        connection.execute(ledger.applied(gid, kind, (), fingerprint=b"", position=0))


def told() -> Books:
    books = Books()
    books.enter(TRANSFER)
    return books


def test_what_was_told_done_and_is_there_is_no_problem(banks: dict[str, Database], system: System) -> None:
    for name in NAMES:
        move(banks, name)
        enter(banks, name)
    assert audit.problems_with_money(system, told()) == []
    assert audit.problems_with_ledgers(system, {str(TXID)}) == []
    assert audit.wait_for_rest(system) == []


def test_half_a_transfer_is_found(banks: dict[str, Database], system: System) -> None:
    move(banks, "left")
    assert audit.problems_with_money(system, told()) == [
        "account 4 of right holds 1000000, what was told done makes 1000025"
    ]


def test_a_transfer_that_nobody_was_told_is_found(banks: dict[str, Database], system: System) -> None:
    for name in NAMES:
        move(banks, name)
    assert len(audit.problems_with_money(system, Books())) == 2


def test_a_ledger_row_too_few_and_too_many_is_found(banks: dict[str, Database], system: System) -> None:
    enter(banks, "left")
    assert audit.problems_with_ledgers(system, {str(TXID)}) == [f"right has not applied {TXID}, which was told"]
    assert audit.problems_with_ledgers(system, set()) == [f"left has applied {TXID}, which nobody was told"]


def test_what_was_compensated_counts_as_not_done(banks: dict[str, Database], system: System) -> None:
    for name in NAMES:
        enter(banks, name)
        enter(banks, name, kind=COMPENSATION)
    assert audit.problems_with_ledgers(system, set()) == []


def test_a_branch_that_stays_prepared_is_found(
    banks: dict[str, Database], system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_REST_SECONDS", 0.05)
    with banks["left"].connect() as connection:
        connection.execute("BEGIN")
        connection.execute(UPDATE, (1, 1))
        connection.execute("PREPARE TRANSACTION 'somebody-s'")
    assert audit.wait_for_rest(system) == ["somebody-s is still prepared at left"]
