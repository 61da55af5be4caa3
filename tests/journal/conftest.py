"""What the tests of the journal have."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from journal.stores import MemoryStore, SqliteStore, Store
from twophase.coordinator.journal.port import Journal


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore() if request.param == "memory" else SqliteStore(tmp_path / "journal.db")


@pytest.fixture
async def journal(store: Store) -> AsyncIterator[Journal]:
    opened = await store.open()
    yield opened
    await opened.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a SQLite journal may be made."""
    return tmp_path / "journal.db"
