"""The service over a fake engine, for every test here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from service.service_fakes import Served, served


@pytest_asyncio.fixture
async def service() -> AsyncIterator[Served]:
    async with served() as running:
        yield running
