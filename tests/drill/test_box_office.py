"""The check of the drills without Postgres finds what is wrong: each kind of wrong is made, and must be told."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from twophase.sandbox.bank import NAMES, Movement
from twophase.sandbox.drill.box_office import CATEGORIES, BoxOffice, Purchase
from twophase.sandbox.drill.business import Told, Transfer
from twophase.sandbox.tcc.names import Gid, gid_of
from twophase.sandbox.tcc.store import Store, Work
from twophase.v1 import participant_pb2, types_pb2

PAYER, HOUSE = NAMES[:2]
NAME: Final = "seats-1"


class Banks:
    """What the banks have booked, as connections that know one question."""

    def __init__(self) -> None:
        self.booked: dict[str, list[tuple[str]]] = {PAYER: [], HOUSE: []}
        self._asked = ""

    def connect(self, bank: str) -> Any:
        self._asked = bank
        return self

    def __enter__(self) -> Banks:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, query: str) -> Banks:
        assert query == "SELECT transfer FROM movement"
        return self

    def fetchall(self) -> list[tuple[str]]:
        return self.booked[self._asked]


class House:
    """A theatre's file with one purchase in it, and the office that sold it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.banks = Banks()
        self.store = Store(path, CATEGORIES)
        self.office = BoxOffice("", path, {})

    def sell(self, sequence: int = 1, *, seats: int = 2) -> Gid:
        gid = gid_of(f"tp-0123456789abcdef-00000001-00000000-{sequence:012x}-0000")
        content = json.dumps({"reference": NAME, "category": "stalls", "seats": seats})
        operation = participant_pb2.BranchOperation(name="book", payload=types_pb2.Payload(json=content))
        self.store.reserve(Work(gid, (operation,), time.monotonic() + 60))
        return gid

    def pay(self) -> None:
        for bank in (PAYER, HOUSE):
            self.banks.booked[bank].append((NAME,))

    def told(self, told: Told, *, undone: bool = False) -> None:
        moves = () if undone else tuple((bank, Movement(NAME, 1, Decimal(1))) for bank in (PAYER, HOUSE))
        self.office.sold[NAME] = (Purchase(Transfer(NAME, moves), "stalls", 2, undone), told)

    def wrong(self) -> list[str]:
        return self.office.violations(self.banks.connect)

    def run(self, sql: str) -> None:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as db:
            db.execute("PRAGMA ignore_check_constraints = ON")
            db.execute(sql)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path / "theatre.sqlite")
    yield made
    made.store.close()


def test_what_is_right_is_not_told(house: House) -> None:
    house.store.confirm(house.sell())
    house.pay()
    for told in (Told.OK, Told.UNKNOWN):
        house.told(told)
        assert house.wrong() == []


def test_a_purchase_that_is_nowhere_may_have_failed(house: House) -> None:
    for told in (Told.FAILED, Told.UNKNOWN):
        house.told(told)
        assert house.wrong() == []


def test_seats_without_money_and_money_without_seats(house: House) -> None:
    house.told(Told.UNKNOWN)
    house.pay()
    assert [each[:3] for each in house.wrong()] == ["R1:", "R1:"]
    house.banks = Banks()
    house.store.confirm(house.sell())
    assert [each[:3] for each in house.wrong()] == ["R1:", "R1:"]


def test_what_clients_were_told_is_held_against_the_seats(house: House) -> None:
    house.told(Told.OK)
    assert any("told committed, and no seat is sold" in each for each in house.wrong())
    house.store.confirm(house.sell())
    house.pay()
    house.told(Told.FAILED)
    assert any("told failed, and seats are sold" in each for each in house.wrong())
    house.told(Told.UNKNOWN, undone=True)
    assert any("seats are sold" in each for each in house.wrong())
    assert not house.office.is_at_rest()


def test_seats_that_are_sold_twice_or_in_another_number(house: House) -> None:
    house.told(Told.OK)
    house.pay()
    house.store.confirm(house.sell(1))
    house.store.confirm(house.sell(2))
    assert any("is sold as [2, 2]" in each for each in house.wrong())


def test_seats_that_are_still_reserved(house: House) -> None:
    house.sell()
    assert not house.office.is_at_rest()
    assert [each[:3] for each in house.wrong()] == ["R9:", "R9:"]
    house.run("DELETE FROM branch")
    assert house.wrong() == ["R9: 2 seats of stalls are held by nobody"]


@pytest.mark.parametrize(
    "sql", ["UPDATE category SET free = free + 1", "UPDATE booking SET seats = 3", "DELETE FROM booking"]
)
def test_seats_that_do_not_add_up(house: House, sql: str) -> None:
    house.store.confirm(house.sell())
    house.run(sql)
    assert any(each.startswith("seats: ") for each in house.wrong())


def test_what_did_not_add_up_for_a_moment_is_told_at_the_end(house: House) -> None:
    house.office.wrong.append("seats: once")
    assert house.wrong() == ["seats: once"]
