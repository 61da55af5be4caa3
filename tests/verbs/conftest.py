"""A scripted coordinator on a thread of its own, for verbs that run an event loop themselves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from client.scripted import Scripted, serving


@dataclass
class Told:
    """A coordinator that says what it is told to, and where it listens."""

    scripted: Scripted
    address: str


@pytest.fixture
def told() -> Iterator[Told]:
    scripted = Scripted()
    listening: list[int] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()

    async def serve() -> None:
        async with serving(scripted) as port:
            listening.append(port)
            ready.set()
            await ended.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert ready.wait(timeout=30)
    yield Told(scripted, f"127.0.0.1:{listening[0]}")
    loop.call_soon_threadsafe(ended.set)
    thread.join(timeout=30)
    loop.close()


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TZ", "UTC")
    return CliRunner()
