"""Which request ids are certainly new: wrong in one direction only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from journal.samples import begun, propose, request
from twophase.coordinator.journal import novelty, schema
from twophase.coordinator.journal.novelty import Novelty
from twophase.coordinator.journal.port import JournalClosed
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.journal.sqlite_reader import Reader, Rows

MANY = 64


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(novelty, "AT_ONCE", 3)
    monkeypatch.setattr(novelty, "PAUSE", 0)


class File:
    """The ids in a journal's file, and those on their way there."""

    def __init__(self, *names: str) -> None:
        self.names = set(names)
        self.on_the_way: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked: list[str] = []

    async def settled(self) -> None:
        self.names |= self.on_the_way

    async def page(self, after: str, limit: int) -> Sequence[str]:
        self.asked.append(after)
        await self.gate.wait()
        return sorted(name for name in self.names if name > after)[:limit]

    def take(self, known: Novelty, name: str) -> None:
        known.note(name)
        self.on_the_way.add(name)


@contextlib.asynccontextmanager
async def keeping(known: Novelty) -> AsyncIterator[None]:
    task = asyncio.create_task(known.keep())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def turns() -> None:
    for _ in range(MANY):
        await asyncio.sleep(0)


def new(known: Novelty, *names: str) -> list[str]:
    return [name for name in names if known.is_new(name)]


async def test_r6_nothing_is_new_before_all_of_the_file_is_learned() -> None:
    file = File(*"abcdefgh")
    file.gate.clear()
    known = Novelty(file.settled, file.page)
    async with keeping(known):
        await turns()
        assert new(known, "a", "h", "stranger") == []
        file.gate.set()
        await turns()
        assert new(known, *"abcdefgh", "stranger") == ["stranger"]
        assert file.asked == ["", "c", "f"]


@pytest.mark.parametrize("already", [3, 6])
async def test_a_file_of_whole_pages_is_learned_whole(already: int) -> None:
    file = File(*"abcdef"[:already])
    known = Novelty(file.settled, file.page)
    async with keeping(known):
        await turns()
        assert new(known, *"abcdef") == list("abcdef"[already:])


async def test_r6_what_is_handed_over_is_known_at_once_and_while_the_file_is_learned() -> None:
    file = File("z")
    known = Novelty(file.settled, file.page)
    known.note("first")
    file.gate.clear()
    async with keeping(known):
        await turns()
        known.note("second")
        file.gate.set()
        await turns()
        known.note("third")
        assert new(known, "z", "first", "second", "third", "fourth") == ["fourth"]


async def test_r6_learning_anew_misses_nothing_that_is_on_its_way_and_forgets_what_is_gone() -> None:
    file = File("a", "b")
    known = Novelty(file.settled, file.page, bits=1 << 20, crowded=6)
    async with keeping(known):
        await turns()
        for name in ("c", "d", "e"):
            file.take(known, name)
        file.names.discard("a")
        assert new(known, "a") == []
        file.gate.clear()
        file.take(known, "f")  # the sixth
        await turns()
        file.take(known, "g")  # while it is learned
        assert new(known, *"abcdefgh") == ["h"]
        file.gate.set()
        await turns()
        assert new(known, *"abcdefgh") == ["a", "h"]
        asked = len(file.asked)
        file.take(known, "i")
        await turns()
        assert len(file.asked) == asked  # not again at once


async def test_ids_with_the_same_hash_are_not_taken_for_new() -> None:
    file = File(*map(str, range(200)))
    known = Novelty(file.settled, file.page, bits=8)
    async with keeping(known):
        while len(file.asked) < 200 // 3:
            await turns()
        await turns()
        assert new(known, *map(str, range(200, 400))) == []


async def test_a_new_request_is_told_without_reading_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[object] = []

    async def look(self: Reader, sql: str, *parameters: object) -> Rows:
        if sql == schema.EVENTS_OF_REQUEST:
            looked_for.extend(parameters)
        return await read(self, sql, *parameters)

    read = Reader.read
    monkeypatch.setattr(Reader, "read", look)
    first = await SqliteJournal.open(path)
    for number, name in enumerate("abcdefg", start=1):
        first.append(begun(first, number, request(name)))
    await first.decide(propose(first, 9, claim=request("h")))
    await first.close()
    looked_for.clear()

    second = await SqliteJournal.open(path)
    while True:
        looked_for.clear()
        assert await second.request("stranger") is None
        if not looked_for:
            break
    for name in "abcdefgh":
        assert await second.request(name) is not None
    assert looked_for == list("abcdefgh")
    second.append(begun(second, 1, request("stranger")))
    assert await second.request("stranger") is not None
    await second.decide(propose(second, 2, claim=request("another")))
    assert await second.request("another") is not None
    await second.close()
    with pytest.raises(JournalClosed):
        await second.request("yet another")
