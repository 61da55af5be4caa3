"""The drills' checker finds what is wrong: a check that cannot fail is none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import pytest

from twophase.sandbox.bank import ACCOUNTS, ITEMS, NAMES, OPENING, STOCK, Movement, Question, Sale
from twophase.sandbox.drill.business import Entry, Record, Saga, SagaStep, Told, Transfer
from twophase.sandbox.drill.check import Book, Books, violations

TEN = Decimal(10)
TRANSFER = Transfer("t", (("east", Movement("t", 1, -TEN)), ("west", Movement("t", 2, TEN))))
TAKEN: Entry = ("account", 1, -TEN)
GIVEN: Entry = ("account", 2, TEN)


def empty() -> dict[str, Book]:
    return {
        bank: Book(
            balances=dict.fromkeys(range(1, ACCOUNTS + 1), OPENING), stocks=dict.fromkeys(range(1, ITEMS + 1), STOCK)
        )
        for bank in NAMES
    }


def write(held: dict[str, Book], bank: str, *entries: Entry, undo: bool = False) -> dict[str, Book]:
    """Books these entries of `t`, as its bank would; with `undo` what takes them back."""
    book = held[bank]
    page = book.undone if undo else book.done
    for what, number, amount in entries:
        booked = -amount if undo else amount
        page.setdefault("t", Counter())[what, number, booked] += 1
        if what == "account":
            book.balances[number] += booked
        else:
            book.stocks[number] -= int(booked)
    return held


def books(*booked: str, twice: bool = False) -> dict[str, Book]:
    """Books in which the transfer is booked at these banks."""
    held = empty()
    entries = {"east": TAKEN, "west": GIVEN}
    for bank in booked:
        write(held, bank, *[entries[bank]] * (2 if twice else 1))
    return held


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
    held["east"].balances[7] += 1
    held["west"].balances[7] -= 1
    assert found(Told.OK, held) == ["R7", "R7"]


def test_r9_a_branch_that_is_still_prepared() -> None:
    held = books("east", "west")
    held["north"].prepared = ("tp-something",)
    assert found(Told.OK, held) == ["R9"]


def test_a_transfer_that_nobody_sent() -> None:
    assert "R1" in [violation.split(":")[0] for violation in violations(Record({}), books("east", "west"))]


ORDER = Transfer("t", TRANSFER.movements, sales=(("west", Sale("t", 3, 2)),))


def of_order(told: Told, held: Books) -> list[str]:
    return [violation.split(":")[0] for violation in violations(Record({"t": (ORDER, told)}), held)]


def sold(held: dict[str, Book], *pieces: int) -> dict[str, Book]:
    return write(held, "west", *(("item", 3, Decimal(each)) for each in pieces))


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
    held["north"].stocks[1] -= 1
    assert of_order(Told.OK, held) == ["R7"]


def test_a_transfer_that_left_something_where_it_had_no_business() -> None:
    held = books("east", "west")
    write(held, "north", ("item", 1, Decimal(1)))
    assert "R7" in found(Told.OK, held)


def test_r2_a_transfer_that_was_undone() -> None:
    held = write(books("east", "west"), "east", TAKEN, undo=True)
    assert "R2" in found(Told.OK, held)


STEPS = (
    SagaStep("look", "north", Question(1)),
    SagaStep("reserve", "west", Sale("t", 3, 2)),
    SagaStep("take", "east", Movement("t", 1, -TEN)),
    SagaStep("give", "west", Movement("t", 2, TEN)),
)
SAGA = Saga("t", STEPS, 5.0)
RESERVED: Entry = ("item", 3, Decimal(2))


def of_saga(told: Told, held: Books) -> list[str]:
    return [violation.split(":")[0] for violation in violations(Record({"t": (SAGA, told)}), held)]


def done() -> dict[str, Book]:
    return write(write(empty(), "east", TAKEN), "west", RESERVED, GIVEN)


def undone() -> dict[str, Book]:
    """The last step was refused, and the two before it are undone."""
    held = write(write(empty(), "east", TAKEN), "west", RESERVED)
    return write(write(held, "east", TAKEN, undo=True), "west", RESERVED, undo=True)


@pytest.mark.parametrize("told", [Told.OK, Told.UNKNOWN])
def test_a_saga_that_is_done_everywhere_is_right_for_ok_and_for_unknown(told: Told) -> None:
    assert of_saga(told, done()) == []


@pytest.mark.parametrize("told", [Told.FAILED, Told.UNKNOWN])
@pytest.mark.parametrize("held", [empty, undone])
def test_a_saga_of_which_nothing_is_left_is_right_for_failed_and_for_unknown(
    told: Told, held: Callable[[], Books]
) -> None:
    assert of_saga(told, held()) == []


def test_r6_a_saga_that_was_told_done_and_is_undone() -> None:
    assert of_saga(Told.OK, undone()) == ["R6"]
    assert of_saga(Told.OK, empty()) == ["R6"]


def test_r6_a_saga_that_was_told_undone_and_is_done() -> None:
    assert of_saga(Told.FAILED, done()) == ["R6"]


@pytest.mark.parametrize("told", list(Told))
def test_r1_a_saga_that_stopped_in_the_middle_is_wrong_whatever_was_told(told: Told) -> None:
    assert "R1" in of_saga(told, write(empty(), "west", RESERVED))


@pytest.mark.parametrize("told", list(Told))
def test_r1_a_step_that_was_not_undone_with_the_others(told: Told) -> None:
    held = write(write(empty(), "east", TAKEN), "west", RESERVED)
    assert "R1" in of_saga(told, write(held, "east", TAKEN, undo=True))


def test_r1_a_saga_that_is_done_and_of_which_one_step_is_undone() -> None:
    assert "R1" in of_saga(Told.OK, write(done(), "west", RESERVED, undo=True))


def test_r7_a_step_that_was_done_twice() -> None:
    assert "R7" in of_saga(Told.OK, write(done(), "west", RESERVED))


def test_r7_a_step_that_was_done_twice_and_undone_twice() -> None:
    held = write(undone(), "east", TAKEN)
    assert of_saga(Told.FAILED, write(held, "east", TAKEN, undo=True)) == ["R7"]


def test_r7_a_step_that_was_undone_twice() -> None:
    assert "R7" in of_saga(Told.FAILED, write(undone(), "east", TAKEN, undo=True))


def test_r7_a_step_that_was_undone_and_never_done() -> None:
    assert "R7" in of_saga(Told.FAILED, write(empty(), "east", TAKEN, undo=True))


def test_r7_a_compensation_that_took_back_something_else() -> None:
    held = write(write(empty(), "east", TAKEN), "east", ("account", 5, -TEN), undo=True)
    assert "R7" in of_saga(Told.FAILED, held)


def test_what_a_compensation_booked_counts_for_balances_and_stocks() -> None:
    held = undone()
    held["east"].balances[1] -= TEN
    held["west"].stocks[3] -= 2
    assert of_saga(Told.FAILED, held) == ["R7", "R7", "money"]
