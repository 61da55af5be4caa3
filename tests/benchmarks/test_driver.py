"""The processes of the contenders: what becomes of a run when one of them fails, and which answers count as done."""

from __future__ import annotations

import asyncio
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import pytest

from twophase.benchmarks import clients, cpu, through_coordinator
from twophase.benchmarks.clients import Clients
from twophase.benchmarks.contenders import Contender, Places
from twophase.benchmarks.revision import revision
from twophase.benchmarks.workload import Order
from twophase.contract.addresses import Address
from twophase.coordinator.client import Committed, Protocol, TransactionAborted
from twophase.sandbox.errors import ProcessFailed
from twophase.sandbox.guardian import Guardian
from twophase.sandbox.ports import free_port

ORDER = Order(clients=2, seconds=0.05, warm_up=0.0, seed="1", accounts=10)


@pytest.fixture
def nowhere() -> Places:
    """Databases that are not there."""
    at = f"postgresql://nobody@{Address('127.0.0.1', free_port())}/nothing?connect_timeout=5"
    return Places(at, at)


async def loop_clients(guardian: Guardian, directory: Path, places: Places) -> Clients:
    environment = places.to_environment()
    module = "twophase.benchmarks.driver"
    return await Clients.start(module, Contender.LOOP, environment=environment, guardian=guardian, directory=directory)


async def test_a_contender_that_fails_ends_the_run_with_what_it_said(
    guardian: Guardian, tmp_path: Path, nowhere: Places
) -> None:
    driver = await loop_clients(guardian, tmp_path, nowhere)
    try:
        with pytest.raises(ProcessFailed, match=r"clients-loop ended in its work(.|\n)*refused"):
            await driver.run(asdict(ORDER), lambda _: None, seconds=0.05)
    finally:
        await driver.close()


async def test_a_contender_that_says_nothing_ends_the_run(
    guardian: Guardian, tmp_path: Path, nowhere: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "PATIENCE", 0.1)
    driver = await loop_clients(guardian, tmp_path, nowhere)
    # Whoever gives the orders wakes it up; here it cannot.
    monkeypatch.setattr(driver.program, "signal", lambda _: None)
    with pytest.raises(ProcessFailed, match="clients-loop has not ended its work"):
        await driver.run(asdict(ORDER), lambda _: None, seconds=0.05)
    monkeypatch.undo()
    await driver.close()


def wait_until_frozen(pid: int) -> None:
    end = time.monotonic() + 30
    while cpu._fields(pid)[0] != "T":
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.skipif(not cpu.is_known(), reason="this machine has no /proc")
async def test_whoever_is_not_at_work_is_frozen(guardian: Guardian, tmp_path: Path, nowhere: Places) -> None:
    driver = await loop_clients(guardian, tmp_path, nowhere)
    try:
        await asyncio.to_thread(wait_until_frozen, driver.program.pid)
    finally:
        await driver.close()
    assert not driver.program.is_running


class Client:
    """An `AsyncClient` that answers what it was told to."""

    answer: Committed | Exception

    def __init__(self, address: str) -> None:
        assert address == "127.0.0.1:1"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def execute(self, *operations: Any, protocol: Protocol) -> Committed:
        assert protocol is Protocol.SAGA
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def committed(**changes: Any) -> Committed:
    usual: dict[str, Any] = {
        "txid": "t",
        "request_id": "r",
        "attempt": 1,
        "results": (),
        "applied": True,
        "pending": (),
        "heuristic": (),
    }
    return Committed(**{**usual, **changes})


async def run(answer: Committed | Exception, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Client, "answer", answer, raising=False)
    monkeypatch.setattr(through_coordinator, "AsyncClient", Client)
    places = Places("", "", "127.0.0.1:1")
    return await through_coordinator.run(places, ORDER, lambda _: None, protocol=Protocol.SAGA)


async def test_what_is_applied_everywhere_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = await run(committed(), monkeypatch)
    assert set(tally.txids) == {"t"}
    assert tally.refused == 0


async def test_what_is_aborted_is_refused_and_not_in_the_books(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = await run(TransactionAborted("r", "t", 1, ()), monkeypatch)
    assert tally.refused > 0
    assert not tally.ends
    assert not tally.txids
    assert not any(tally.books.changes.values())


async def test_what_is_committed_and_not_applied_yet_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExceptionGroup) as failed:
        await run(committed(applied=False, pending=("left",)), monkeypatch)
    assert "not applied yet at left" in str(failed.value.exceptions[0])


def test_a_revision_is_told_only_in_a_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_git(*_: Any, **__: Any) -> Any:
        raise FileNotFoundError("git")

    def elsewhere(command: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 128, "", "not a git repository")

    monkeypatch.setattr(subprocess, "run", without_git)
    assert revision() is None
    monkeypatch.setattr(subprocess, "run", elsewhere)
    assert revision() is None
