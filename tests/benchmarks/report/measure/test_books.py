"""The check behind every load: which answers fit which books."""

from __future__ import annotations

import pytest

from twophase.benchmarks.report.measure.bank import LEFT, RIGHT, Movement
from twophase.benchmarks.report.measure.books import Entry, Page, first, holds_ms, problems, shares
from twophase.benchmarks.report.measure.business import Transfer
from twophase.benchmarks.report.measure.task import Answer, Told

DEED = Transfer("r1/1", ((LEFT, Movement("r1/1", 3, -7)), (RIGHT, Movement("r1/1", 4, 7))))
TAKEN = Entry(LEFT, 3, -7, undo=False, written=10.0, seen=10.5)
GIVEN = Entry(RIGHT, 4, 7, undo=False, written=10.2, seen=11.0)
TAKEN_BACK = Entry(LEFT, 3, 7, undo=True, written=12.0, seen=12.5)


def found(told: Told, *entries: Entry, may_be_half: bool = False) -> list[str]:
    books = {"r1/1": Page(list(entries))} if entries else {}
    answer = Answer("r1/1", 0.0, 0.1, told)
    return list(problems(lambda _: DEED, [answer], books, may_be_half=may_be_half))


@pytest.mark.parametrize(
    ("told", "entries"),
    [
        (Told.OK, (TAKEN, GIVEN)),
        (Told.UNKNOWN, (TAKEN, GIVEN)),
        (Told.UNKNOWN, ()),
        (Told.UNKNOWN, (TAKEN, TAKEN_BACK)),
        (Told.REFUSED, ()),
        (Told.CONFLICT, ()),
        (Told.AWAY, ()),
        (Told.UNDONE, (TAKEN, TAKEN_BACK)),
    ],
)
def test_books_that_are_what_the_client_was_told(told: Told, entries: tuple[Entry, ...]) -> None:
    assert found(told, *entries) == []


@pytest.mark.parametrize(
    ("told", "entries"),
    [
        (Told.OK, ()),
        (Told.OK, (TAKEN,)),
        (Told.OK, (TAKEN, TAKEN, GIVEN)),
        (Told.OK, (TAKEN, GIVEN, TAKEN_BACK)),
        (Told.UNKNOWN, (GIVEN,)),
        (Told.REFUSED, (TAKEN,)),
        (Told.CONFLICT, (TAKEN, GIVEN)),
        (Told.AWAY, (TAKEN, GIVEN)),
        (Told.UNDONE, (TAKEN,)),
        (Told.UNDONE, (TAKEN_BACK,)),
        (Told.HALF, (TAKEN,)),
    ],
)
def test_books_that_are_not(told: Told, entries: tuple[Entry, ...]) -> None:
    (problem,) = found(told, *entries)
    assert f"r1/1 was told {told}" in problem


def test_half_is_in_order_only_for_who_promises_nothing_else() -> None:
    assert found(Told.HALF, TAKEN, may_be_half=True) == []
    assert found(Told.HALF, TAKEN, GIVEN, may_be_half=True)
    assert found(Told.HALF, may_be_half=True)


def test_what_nobody_sent_is_found() -> None:
    assert list(problems(lambda _: DEED, [], {"r9/1": Page([TAKEN])})) == ["r9/1 is booked, and nobody sent it"]


def test_a_row_is_locked_from_the_write_to_the_commit() -> None:
    page = Page([TAKEN, GIVEN])
    assert holds_ms({"r1/1": page}) == pytest.approx([500, 800])
    assert holds_ms({"r1/1": page}, RIGHT) == pytest.approx([800])
    assert (page.first_seen, page.last_seen) == (10.5, 11.0)
    assert not page.was_undone
    assert Page([TAKEN, TAKEN_BACK]).was_undone


def test_shares_are_of_ten_thousand() -> None:
    answers = [Answer("", 0, 0, told) for told in (Told.OK, Told.UNDONE, Told.HALF, Told.OK)]
    assert shares(answers, Told.UNDONE, Told.HALF) == 5_000
    assert shares([], Told.OK) == 0


def test_of_many_problems_some_are_told() -> None:
    assert first(iter("abcde")) == ["a", "b", "c", "and 2 more like these"]
    assert first(iter("abc")) == ["a", "b", "c"]
