"""A scripted coordinator and a client of it, for every test here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from client.scripted import Scripted, serving
from twophase.coordinator.client import AsyncClient


@pytest_asyncio.fixture
async def coordinator() -> Scripted:
    return Scripted()


@pytest_asyncio.fixture
async def client(coordinator: Scripted) -> AsyncIterator[AsyncClient]:
    async with serving(coordinator) as port, AsyncClient(f"127.0.0.1:{port}", timeout=1.0) as client:
        yield client
