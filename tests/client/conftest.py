"""A scripted coordinator and a client of it, for every test here: one that offers streams, and one that does not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from client.scripted import Scripted, serving
from twophase.coordinator.client import AsyncClient


@pytest_asyncio.fixture(params=[True, False], ids=["by stream", "unary"])
async def coordinator(request: pytest.FixtureRequest) -> Scripted:
    return Scripted(offers_streams=request.param)


@pytest_asyncio.fixture
async def client(coordinator: Scripted) -> AsyncIterator[AsyncClient]:
    """Connected already: what a test gives it little time for is the answer, not the connection."""
    async with serving(coordinator) as port, AsyncClient(f"127.0.0.1:{port}") as client:
        await client._connection().ready(within=30.0)
        yield client
