"""When a holder counts as frozen, without processes; and what a standby does about it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from twophase.coordinator import standby
from twophase.coordinator.journal.holder import CannotEnd, Holder
from twophase.coordinator.journal.lock import FileLock, Record
from twophase.coordinator.standby import Watch, stand_by

HOLDER = Holder(4711, "123", "boot/pid:[1]")


def test_a_heart_that_stands_still_long_enough_is_a_frozen_one() -> None:
    watch = Watch(3)
    seen = [watch.look(Record(HOLDER, beats)) for beats in (7, 8, 8, 8, 8, 8, 9, 9)]
    assert seen == [None, None, None, None, HOLDER, HOLDER, None, None]


def test_a_watch_without_patience_never_ends_anybody() -> None:
    watch = Watch(0)
    assert not any(watch.look(Record(HOLDER, 7)) for _ in range(1000))


def test_a_holder_that_shows_no_heartbeat_is_not_judged() -> None:
    watch = Watch(1)
    assert not any(watch.look(Record(HOLDER, 0)) for _ in range(10))
    assert not any(watch.look(None) for _ in range(10))


def test_another_holder_starts_anew() -> None:
    watch = Watch(2)
    after = replace(HOLDER, born="456")
    looks = [Record(HOLDER, 1)] * 2 + [Record(after, 1)] * 3
    assert [watch.look(record) for record in looks] == [None, None, None, None, after]


def test_words_that_cannot_be_read_start_anew() -> None:
    watch = Watch(2)
    assert [watch.look(each) for each in (Record(HOLDER, 1), Record(HOLDER, 1), None, Record(HOLDER, 1))] == [None] * 4


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standby, "POLL_SECONDS", 0.002)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.mark.usefixtures("quick")
async def test_a_frozen_holder_is_ended_once_and_waited_for_and_one_that_cannot_be_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[Holder] = []
    looks: list[Record | None] = []

    def end(holder: Holder) -> bool:
        ended.append(holder)
        if holder == HOLDER:
            raise CannotEnd("it belongs to another user")
        return True

    current = Record(HOLDER, 1)

    def read(_: Path) -> Record:
        looks.append(current)
        return current

    monkeypatch.setattr(Holder, "end", end)
    monkeypatch.setattr(standby, "read_record", read)
    journal = tmp_path / "journal"
    holding = FileLock(journal)
    said: list[str] = []
    waiting = asyncio.create_task(stand_by(journal, takeover_after=0.004, announce=said.append, stop=asyncio.Event()))
    with caplog.at_level(logging.INFO):
        await until(lambda: ended)
        seen = len(looks)
        await until(lambda: len(looks) > seen + 5)
        assert ended == [HOLDER]
        current = Record(replace(HOLDER, pid=4712), 1)
        await until(lambda: len(ended) == 2)
        assert not waiting.done()
        holding.release()
        lock = await waiting
    assert lock is not None
    lock.release()
    assert ended == [HOLDER, replace(HOLDER, pid=4712)]
    assert said == [f"twophase coordinator stands by: process 4711 has the journal {journal}"]
    still = "has the journal and showed no sign of life for 0.004 s"
    why = "it belongs to another user. Kill it by hand, and this one takes over"
    assert [record.message for record in caplog.records] == [
        f"process 4711 {still}; it is not killed: {why}",
        f"process 4712 {still}: killed it, and take over",
    ]


async def test_nobody_is_waited_for_where_the_journal_is_free(tmp_path: Path) -> None:
    said: list[str] = []
    lock = await stand_by(tmp_path / "journal", takeover_after=5, announce=said.append, stop=asyncio.Event())
    assert lock is not None
    lock.release()
    assert said == []


@pytest.mark.usefixtures("quick")
async def test_a_standby_that_is_told_to_stop_takes_nothing(tmp_path: Path) -> None:
    holding = FileLock(tmp_path / "journal")
    stop = asyncio.Event()
    waiting = asyncio.create_task(
        stand_by(tmp_path / "journal", takeover_after=0, announce=lambda _: stop.set(), stop=stop)
    )
    assert await asyncio.wait_for(waiting, 10) is None
    holding.release()
