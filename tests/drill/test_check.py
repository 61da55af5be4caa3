"""The drills' checker finds what is wrong: a check that cannot fail is none."""

from __future__ import annotations

from decimal import Decimal

import pytest

from twophase.sandbox.bank import ACCOUNTS, ITEMS, NAMES, OPENING, STOCK, Movement, Sale
from twophase.sandbox.drill.check import Books, violations
from twophase.sandbox.drill.load import Record, Told, Transfer

TEN = Decimal(10)
TRANSFER = Transfer("t", (("east", Movement("t", 1, -TEN)), ("west", Movement("t", 2, TEN))))


def books(*booked: str, twice: bool = False) -> Books:
    """Books in which the transfer is booked at these banks."""
    held = {"east": [(1, -TEN)], "west": [(2, TEN)]}
    movements = {bank: ({"t": held[bank] * (2 if twice else 1)} if bank in booked else {}) for bank in NAMES}
    balances = {bank: dict.fromkeys(range(1, ACCOUNTS + 1), OPENING) for bank in NAMES}
    for bank, transfers in movements.items():
        for account, amount in transfers.get("t", []):
            balances[bank][account] += amount
    sales: dict[str, dict[str, list[tuple[int, int]]]] = {bank: {} for bank in NAMES}
    stocks = {bank: dict.fromkeys(range(1, ITEMS + 1), STOCK) for bank in NAMES}
    return Books(movements, balances, dict.fromkeys(NAMES, ()), sales, stocks)


def found(told: Told, held: Books) -> list[str]:
    return [violation.split(":")[0] for violation in violations(Record({"t": (TRANSFER, told)}), held)]


@pytest.mark.parametrize("told", [Told.OK, Told.UNKNOWN])
def test_booked_everywhere_is_right_for_ok_and_for_unknown(told: Told) -> None:
    assert found(told, books("east", "west")) == []


@pytest.mark.parametrize("told", [Told.FAILED, Told.UNKNOWN])
def test_booked_nowhere_is_right_for_failed_and_for_unknown(told: Told) -> None:
    assert found(told, books()) == []


@pytest.mark.parametrize("told", list(Told))
def test_r1_booked_at_one_bank_only_is_wrong_whatever_was_told(told: Told) -> None:
    assert "R1" in found(told, books("east"))
    assert "money" in found(told, books("east"))


def test_r6_told_committed_and_not_there() -> None:
    assert found(Told.OK, books()) == ["R6"]


def test_r6_told_failed_and_there() -> None:
    assert found(Told.FAILED, books("east", "west")) == ["R6"]


def test_r7_booked_twice() -> None:
    assert "R7" in found(Told.OK, books("east", "west", twice=True))


def test_r7_a_balance_that_its_movements_do_not_explain() -> None:
    held = books("east", "west")
    held.balances["east"][7] += 1
    held.balances["west"][7] -= 1
    assert found(Told.OK, held) == ["R7", "R7"]


def test_r9_a_branch_that_is_still_prepared() -> None:
    held = books("east", "west")
    held.prepared["north"] = ("tp-something",)
    assert found(Told.OK, held) == ["R9"]


def test_a_transfer_that_nobody_sent() -> None:
    assert "R1" in [violation.split(":")[0] for violation in violations(Record({}), books("east", "west"))]


ORDER = Transfer("t", TRANSFER.movements, sales=(("west", Sale("t", 3, 2)),))


def of_order(told: Told, held: Books) -> list[str]:
    return [violation.split(":")[0] for violation in violations(Record({"t": (ORDER, told)}), held)]


def sold(held: Books, *pieces: int) -> Books:
    held.sales["west"]["t"] = [(3, each) for each in pieces]
    held.stocks["west"][3] -= sum(pieces)
    return held


def test_an_order_that_is_paid_and_delivered_is_right() -> None:
    assert of_order(Told.OK, sold(books("east", "west"), 2)) == []


def test_r7_an_order_that_is_paid_and_not_delivered() -> None:
    assert "R7" in of_order(Told.OK, books("east", "west"))


def test_r1_an_order_that_is_delivered_and_not_paid() -> None:
    assert "R1" in of_order(Told.UNKNOWN, sold(books("west"), 2))


def test_r7_an_order_that_is_delivered_twice() -> None:
    assert "R7" in of_order(Told.OK, sold(books("east", "west"), 2, 2))


def test_r7_a_stock_that_its_sales_do_not_explain() -> None:
    held = sold(books("east", "west"), 2)
    held.stocks["north"][1] -= 1
    assert of_order(Told.OK, held) == ["R7"]


def test_a_transfer_that_left_something_where_it_had_no_business() -> None:
    held = books("east", "west")
    held.sales["north"]["t"] = [(1, 1)]
    held.stocks["north"][1] -= 1
    assert "R7" in found(Told.OK, held)
