"""When a frame leaves: at once for who is alone, after a moment in company, one at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from twophase.contract.streams import departures
from twophase.contract.streams.departures import COMPANY, LINGER_SECONDS, LONGEST_SECONDS, Departures


class Ferry:
    """Carries all that is ready, once it is let go; up to `room` at a time."""

    def __init__(self, room: int = 100) -> None:
        self.company = 0
        self.room = room
        self.quay = 0
        self.loads: list[int] = []
        self.go = asyncio.Event()
        self.go.set()
        self.departures = Departures(self._send, lambda: self.company)

    def ready(self) -> None:
        self.quay += 1
        self.departures.ready()

    async def _send(self) -> bool:
        load = min(self.quay, self.room)
        self.quay -= load
        await self.go.wait()
        self.loads.append(load)
        return self.quay > 0

    async def until(self, loads: int) -> None:
        while len(self.loads) < loads:
            await asyncio.sleep(0)


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for company waits until the end of the test."""
    monkeypatch.setattr(departures, "LINGER_SECONDS", 3600.0)
    monkeypatch.setattr(departures, "LONGEST_SECONDS", 3600.0)


@pytest.fixture
async def ferry() -> Ferry:
    return Ferry()


@pytest.mark.usefixtures("for_ever")
async def test_who_is_alone_waits_for_nobody(ferry: Ferry) -> None:
    ferry.company = COMPANY - 1
    ferry.ready()
    ferry.ready()
    await ferry.until(1)
    assert ferry.loads == [2]
    assert not ferry.departures.due


async def test_in_company_one_frame_takes_what_comes_within_a_moment(ferry: Ferry) -> None:
    ferry.company = COMPANY
    for _ in range(3):
        ferry.ready()
        await asyncio.sleep(0)
    assert (ferry.loads, ferry.departures.due) == ([], True)
    await ferry.until(1)
    assert ferry.loads == [3]


async def test_the_more_are_expected_the_longer_a_frame_stays_up_to_a_limit(
    ferry: Ferry, monkeypatch: pytest.MonkeyPatch
) -> None:
    stays: list[float] = []

    def later(seconds: float, leave: Callable[[], None]) -> asyncio.TimerHandle:
        stays.append(seconds)
        return at(loop.time(), leave)

    loop = asyncio.get_running_loop()
    at = loop.call_at
    monkeypatch.setattr(loop, "call_later", later)
    for company in (COMPANY, 2 * COMPANY, 10_000):
        ferry.company = company
        ferry.ready()
        await ferry.until(len(stays))
    assert stays == [COMPANY * LINGER_SECONDS, 2 * COMPANY * LINGER_SECONDS, LONGEST_SECONDS]


@pytest.mark.usefixtures("for_ever")
async def test_when_the_company_is_gone_nothing_is_waited_for(ferry: Ferry) -> None:
    ferry.company = COMPANY
    ferry.ready()
    ferry.company = 0
    ferry.ready()
    await ferry.until(1)
    assert ferry.loads == [2]


async def test_one_frame_at_a_time_and_the_next_one_takes_what_came_meanwhile(ferry: Ferry) -> None:
    ferry.go.clear()
    ferry.ready()
    await asyncio.sleep(0)
    ferry.ready()
    ferry.ready()
    ferry.go.set()
    await ferry.until(1)
    assert (ferry.loads, ferry.quay) == ([1], 2)
    ferry.departures.ready()
    await ferry.until(2)
    assert ferry.loads == [1, 2]


async def test_what_did_not_fit_leaves_next() -> None:
    ferry = Ferry(room=2)
    for _ in range(5):
        ferry.ready()
    await ferry.until(3)
    assert ferry.loads == [2, 2, 1]


@pytest.mark.usefixtures("for_ever")
async def test_who_cannot_wait_sends_what_is_ready(ferry: Ferry) -> None:
    ferry.company = COMPANY
    ferry.ready()
    await ferry.departures.now()
    assert (ferry.loads, ferry.departures.due) == ([1], False)


async def test_after_the_end_nothing_leaves(ferry: Ferry) -> None:
    ferry.company = COMPANY
    ferry.ready()
    ferry.departures.stop()
    assert not ferry.departures.due
    ferry.company, other = 0, Ferry()
    other.go.clear()
    other.ready()
    await asyncio.sleep(0)
    other.departures.stop()
    while other.departures.due:
        await asyncio.sleep(0)
    assert (ferry.loads, other.loads) == ([], [])
