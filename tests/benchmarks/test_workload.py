"""The same transfers for everyone, closed loops that keep time, and clients that fail."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterator

import pytest

from twophase.benchmarks.pacing import Move, NotDone, run_tasks, run_threads
from twophase.benchmarks.workload import Books, Order, Tally, Transfer, transfers

ORDER = Order(clients=3, seconds=0.05, warm_up=0.02, seed="1/0/3", accounts=1_000)


def first(count: int, seed: str, client: int) -> list[Transfer]:
    return list(itertools.islice(transfers(seed, client, 1_000), count))


def test_the_same_seed_gives_every_contender_the_same_transfers() -> None:
    assert first(50, "1/0/16", 3) == first(50, "1/0/16", 3)
    assert first(50, "1/0/16", 3) != first(50, "1/0/16", 4)
    assert first(50, "1/0/16", 3) != first(50, "2/0/16", 3)


def test_a_transfer_moves_something_between_accounts_that_are_there() -> None:
    for transfer in first(2_000, "1/0/1", 0):
        assert transfer.amount != 0
        assert 1 <= transfer.left <= 1_000
        assert 1 <= transfer.right <= 1_000


def test_the_books_survive_the_way_between_processes() -> None:
    books = Books()
    for transfer in first(100, "1/0/1", 0):
        books.enter(transfer)
    again = Books.from_json(books.to_json())
    assert again == books
    again.add(books)
    assert sum(again.changes["left"].values()) == 2 * sum(books.changes["left"].values())
    assert sum(again.changes["left"].values()) + sum(again.changes["right"].values()) == 0


def test_only_what_is_done_in_the_time_that_counts_is_measured_and_all_of_it_is_in_the_books() -> None:
    tally = Tally(begin=10.0, end=11.0)
    transfer = Transfer(1, 2, 5)
    for now in (9.99, 10.0, 10.5, 11.0):
        tally.done(transfer, f"t{now}", began=now - 0.25, now=now)
    told = tally.to_json()
    assert told["latencies_ms"] == [250.0, 250.0]
    assert told["committed"] == len(told["txids"]) == 4
    assert dict(told["books"]["left"]) == {1: -20}


def test_threads_send_until_the_end_and_tell_its_limits() -> None:
    moments: list[str] = []

    def move(transfer: Transfer) -> str:
        if transfer.amount < 0:
            raise NotDone
        return "t"

    tally = run_threads(lambda: contextlib.nullcontext(move), ORDER, moments.append)
    assert moments == ["begin", "end"]
    assert tally.end - tally.begin >= ORDER.seconds
    assert tally.refused > 0
    assert len(tally.ends) == len(tally.txids) > 0
    assert sum(tally.books.changes["right"].values()) > 0


async def test_tasks_do_the_same() -> None:
    moments: list[str] = []

    async def move(transfer: Transfer) -> str:
        await asyncio.sleep(0)
        if transfer.amount < 0:
            raise NotDone
        return "t"

    tally = await run_tasks(move, ORDER, moments.append)
    assert moments == ["begin", "end"]
    assert tally.refused > 0
    assert len(tally.ends) == len(tally.txids) > 0


def test_a_client_that_fails_ends_the_round_with_what_it_says() -> None:
    sent = itertools.count()

    def move(transfer: Transfer) -> str:
        if next(sent) == 10:
            raise ValueError("the eleventh")
        return ""

    forever = Order(clients=3, seconds=3_600, warm_up=0, seed="1", accounts=10)
    with pytest.raises(ValueError, match="the eleventh"):
        run_threads(lambda: contextlib.nullcontext(move), forever, lambda _: None)


def test_a_client_that_cannot_connect_ends_the_round_with_what_it_says() -> None:
    connecting = itertools.count()

    @contextlib.contextmanager
    def client() -> Iterator[Move]:
        if next(connecting) == 1:
            raise ConnectionError("too many clients")
        yield lambda _: ""

    forever = Order(clients=3, seconds=3_600, warm_up=0, seed="1", accounts=10)
    with pytest.raises(ConnectionError, match="too many clients"):
        run_threads(client, forever, lambda _: None)
