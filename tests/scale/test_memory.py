"""A transaction that has ended leaves nothing in memory: not in the coordinator, not in its client, not on the wire.

Counted in entries of every container there is, which does not depend on the machine: whatever is kept of a transaction
is an entry of something, were it only its name in a list. `twophase bench scale` has the megabytes.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from twophase.benchmarks.without_database import OPERATION, server_of
from twophase.contract.addresses import Address
from twophase.coordinator import server
from twophase.coordinator.client import AsyncClient, Protocol, operation

CONTAINERS = (dict, list, set, deque)
AT_ONCE = 20
WARM_UP = 200
MORE = 800
FEW = MORE // 2
"""Entries that come and go for other reasons: timers that are cancelled and not yet taken away, above all."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncExitStack() as stack:
        settings = server.Settings(tmp_path / "journal", Address("127.0.0.1", 0), ballast=0)
        coordinator = await stack.enter_async_context(server.running(settings))
        for name in ("left", "right"):
            served = await stack.enter_async_context(server_of(name, 0.0))
            await coordinator.engine.register(name, served.address)
        yield await stack.enter_async_context(AsyncClient(coordinator.address))


async def entries_of(transaction: Callable[[str], Awaitable[object]]) -> int:
    """How many more entries there are after `MORE` transactions. Each is given a request id of its own."""
    names = (f"request-{number}" for number in itertools.count(1))

    async def client(count: int) -> None:
        for _ in range(count):
            await transaction(next(names))

    async def run(count: int) -> None:
        async with asyncio.TaskGroup() as clients:
            for _ in range(AT_ONCE):
                clients.create_task(client(count // AT_ONCE))

    await run(WARM_UP)
    before = _entries()
    await run(MORE)
    grown = _entries() - before
    if grown < FEW:
        return grown
    # What is kept is kept every time.
    before = _entries()
    await run(MORE)
    return min(grown, _entries() - before)


def _entries() -> int:
    """Of everything the garbage collector knows, and of what that refers to: it does not track a dict of strings."""
    gc.collect()
    found = gc.get_objects()
    containers = {
        id(one): one for one in itertools.chain(found, gc.get_referents(*found)) if isinstance(one, CONTAINERS)
    }
    return sum(len(one) for one in containers.values())


@pytest.mark.parametrize("protocol", list(Protocol), ids=str)
async def test_nothing_stays_of_what_has_ended(client: AsyncClient, protocol: Protocol) -> None:
    async def transfer(request_id: str) -> None:
        operations = (operation(name, OPERATION, 1) for name in ("left", "right"))
        await client.execute(*operations, protocol=protocol, request_id=request_id, deadline=60)

    assert await entries_of(transfer) < FEW


async def test_what_is_kept_of_each_would_be_seen(client: AsyncClient) -> None:
    kept: list[str] = []
    by_name: dict[str, str] = {}

    async def forgetful(request_id: str) -> None:
        await client.execute(operation("left", OPERATION, 1), request_id=request_id, deadline=60)
        kept.append(request_id)
        by_name[request_id] = "done"

    assert await entries_of(forgetful) > FEW
    assert len(kept) == len(by_name) == WARM_UP + 2 * MORE
