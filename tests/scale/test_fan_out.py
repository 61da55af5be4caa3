"""Many participants: a transaction speaks to all of them side by side, so that each phase takes as long as the slowest.

Held by order and by virtual time, never by a stopwatch: `twophase bench scale` has the figures.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from fixtures.fakes import FakeLinks, FakeParticipant
from fixtures.virtual_time import run_virtually
from fixtures.world import submission, until
from twophase.benchmarks.without_database import OPERATION, NoDatabase, participant_named
from twophase.contract.addresses import Address
from twophase.contract.names import Gid
from twophase.coordinator import server
from twophase.coordinator.client import AsyncClient, Protocol, operation, step
from twophase.coordinator.engine.api import Outcome
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal.memory import MemoryDisk, MemoryJournal
from twophase.participant.outcomes import Applied, Committed, Prepared
from twophase.participant.server import ParticipantServer
from twophase.participant.work import Deadline, Work

MANY = 32
DELAY = 0.05


class Slow(FakeParticipant):
    """Does everything as the others do, and takes its time for it."""

    async def prepare(self, *given: object, **named: object) -> object:  # type: ignore[override]
        await asyncio.sleep(DELAY)
        return await super().prepare(*given, **named)  # type: ignore[arg-type]

    async def commit(self, *given: object, **named: object) -> object:  # type: ignore[override]
        await asyncio.sleep(DELAY)
        return await super().commit(*given, **named)  # type: ignore[arg-type]


async def engine_over(*participants: FakeParticipant) -> Engine:
    engine = Engine(await MemoryJournal.open(MemoryDisk()), FakeLinks(*participants), sweep_every=3600)
    await engine.start()
    for participant in participants:
        await engine.register(participant.name, f"{participant.name}:1")
    return engine


async def test_every_prepare_and_every_commit_is_out_before_the_first_answer() -> None:
    participants = [FakeParticipant(f"p-{number}") for number in range(MANY)]
    engine = await engine_over(*participants)
    gates = {call: [each.hold(call) for each in participants] for call in ("prepare", "commit")}
    asking = asyncio.create_task(engine.execute(submission(*(f"{each.name}.write=1" for each in participants))))
    for call in ("prepare", "commit"):
        await until(lambda call=call: all(each.calls[call] == 1 for each in participants))  # type: ignore[misc]
        for gate in gates[call]:
            gate.set()
    assert (await asking).outcome is Outcome.COMMITTED
    assert all(each.calls["prepare"] == each.calls["commit"] == 1 for each in participants), "and each of them once"
    await engine.abandon()


def test_so_many_participants_take_as_long_as_one() -> None:
    async def takes(*participants: FakeParticipant) -> float:
        engine = await engine_over(*participants)
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await engine.execute(submission(*(f"{each.name}.write=1" for each in participants)))
        assert answer.outcome is Outcome.COMMITTED
        taken = loop.time() - began
        await engine.abandon()
        return taken

    one = run_virtually(takes(Slow("slow"), FakeParticipant("swift")))
    many = run_virtually(takes(*(Slow(f"p-{number}") for number in range(MANY))))
    assert one >= 2 * DELAY, "two rounds"
    assert many < 1.1 * one


# --- over the wire ----------------------------------------------------------------------------------------------------


class Together(NoDatabase):
    """Answers only when all the others have been asked the same, too."""

    def __init__(self, participant: str, everyone: asyncio.Barrier) -> None:
        super().__init__(participant, 0.0)
        self._everyone = everyone

    async def prepare(self, gid: Gid, work: Work, *, deadline: Deadline, position: int, fingerprint: bytes) -> Prepared:
        await self._everyone.wait()
        return await super().prepare(gid, work, deadline=deadline, position=position, fingerprint=fingerprint)

    async def apply(
        self, gid: Gid, work: Work, *, deadline: Deadline, position: int, fingerprint: bytes, must_succeed: bool = False
    ) -> Applied:
        await self._everyone.wait()
        return await super().apply(gid, work, deadline=deadline, position=position, fingerprint=fingerprint)

    async def commit(self, gid: Gid) -> Committed:
        await self._everyone.wait()
        return await super().commit(gid)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """Of a coordinator whose participants answer only all together."""
    everyone = asyncio.Barrier(MANY)
    async with AsyncExitStack() as stack:
        settings = server.Settings(tmp_path / "journal", Address("127.0.0.1", 0), ballast=0)
        coordinator = await stack.enter_async_context(server.running(settings))
        for number in range(MANY):
            name = f"p-{number}"
            served = ParticipantServer(participant_named(name), resources=Together(name, everyone))
            await stack.enter_async_context(served)
            await coordinator.engine.register(name, served.address)
        yield await stack.enter_async_context(AsyncClient(coordinator.address))


async def test_over_the_wire_all_are_asked_before_any_has_answered(client: AsyncClient) -> None:
    done = await client.execute(*(operation(f"p-{number}", OPERATION, 1) for number in range(MANY)), deadline=60)
    assert done.applied


async def test_steps_of_a_saga_that_wait_for_nobody_are_asked_together(client: AsyncClient) -> None:
    steps = (step(f"s-{number}", operation(f"p-{number}", OPERATION, 1), after=()) for number in range(MANY))
    done = await client.execute(*steps, protocol=Protocol.SAGA, deadline=60)
    assert done.applied
