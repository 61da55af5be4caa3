"""The service over a fake engine, for every test here: asked by unary calls, and by a stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from service.service_fakes import Served, served


@pytest_asyncio.fixture(params=[False, True], ids=["unary", "by stream"])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    async with served(by_stream=request.param) as running:
        yield running
