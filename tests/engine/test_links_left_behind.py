"""Links to where no participant is any more: they are closed, and no other one is."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from fixtures.fakes import FakeParticipant
from fixtures.world import BOTH, World, submission, until
from twophase.coordinator.engine import peers
from twophase.coordinator.engine.api import Limits, Outcome, Rejected
from twophase.coordinator.engine.links import Link

AT_ONCE = Limits(default_deadline=0.01, deadline_cap=0.01)


class Place(FakeParticipant):
    """The participant `order`, by a link of its own."""

    def __init__(self, closed: Counter[Link]) -> None:
        super().__init__("order")
        self.closed = closed

    async def close(self) -> None:
        self.closed[self] += 1


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Counter[Link]:
    monkeypatch.setattr(peers, "_RETIRED_SECONDS", 0.05)
    return Counter()


@pytest.fixture
def world(closed: Counter[Link]) -> World:
    world = World()
    for number in range(1, 5):
        place = Place(closed)
        place.identity.CopyFrom(world.order.identity)
        world.links.at[f"order:{number}"] = place
    return world


async def test_where_a_participant_was_before_is_left_and_where_it_is_stays(
    world: World, closed: Counter[Link]
) -> None:
    async with world.coordinator(limits=AT_ONCE) as engine:
        for number in (2, 3, 2):
            await engine.register("order", f"order:{number}")
        await until(lambda: closed[world.links.at["order:3"]] == 1)  # the last that went out of use
        assert set(closed) == {world.links.at["order:1"], world.links.at["order:3"]}
        answer = await engine.execute(submission(*BOTH))
        assert answer.outcome is Outcome.COMMITTED


async def test_where_a_participant_could_not_be_registered_is_left(world: World, closed: Counter[Link]) -> None:
    other = world.links.at["order:4"]
    assert isinstance(other, Place)
    other.identity.database = "elsewhere"
    async with world.coordinator(limits=AT_ONCE) as engine:
        with pytest.raises(Rejected):
            await engine.register("order", "order:4")
        await until(lambda: closed[other] == 1)
        assert len(closed) == 1


async def test_a_link_is_not_closed_while_somebody_registers_by_it(world: World, closed: Counter[Link]) -> None:
    place = world.links.at["order:2"]
    assert isinstance(place, Place)
    async with world.coordinator(limits=AT_ONCE) as engine:
        gate = place.hold("handshake")
        registering = asyncio.create_task(engine.register("order", "order:2"))
        await until(lambda: place.calls["handshake"] > 0)
        engine._peers._retire(place)
        engine._peers._retire(world.links.at["order:3"])
        await until(lambda: closed[world.links.at["order:3"]] == 1)
        gate.set()
        await registering
        await until(lambda: closed[world.links.at["order:1"]] == 1)
        assert closed[place] == 0
