"""A long history costs a start nothing: counted in steps of SQLite, from opening the journal to the first commit."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fixtures.fakes import FakeLinks, FakeParticipant
from fixtures.world import BOTH, submission
from twophase.benchmarks.history import multiply
from twophase.coordinator.engine.api import Outcome
from twophase.coordinator.engine.engine import Engine
from twophase.coordinator.journal import novelty, sqlite_open
from twophase.coordinator.journal.sqlite import SqliteJournal

SHORT = 10
LONG = 400


class Meter:
    """Counts the steps of SQLite's machine on every connection that is made meanwhile."""

    def __init__(self, connect: Callable[..., sqlite3.Connection]) -> None:
        self.steps = 0
        self._connect = connect

    def connect(self, *given: Any, **named: Any) -> sqlite3.Connection:
        connection = self._connect(*given, **named)
        connection.set_progress_handler(self._step, 1)
        return connection

    def _step(self) -> None:
        self.steps += 1


async def commit_one(path: Path, request_id: str) -> SqliteJournal:
    """A coordinator on this journal starts, commits, and ends; returns the journal, closed."""
    participants = FakeParticipant("order"), FakeParticipant("payment")
    journal = await SqliteJournal.open(path)
    engine = Engine(journal, FakeLinks(*participants), sweep_every=3600)
    await engine.start()
    for participant in participants:
        await engine.register(participant.name, f"{participant.name}:1")
    answer = await engine.execute(submission(*BOTH, request_id=request_id))
    assert answer.outcome is Outcome.COMMITTED
    await engine.stop(grace=30)
    await journal.close()
    return journal


@pytest.fixture
async def journals(tmp_path: Path) -> dict[int, Path]:
    """Journals by the number of transactions that have ended in them."""
    paths = {ended: tmp_path / f"of-{ended}" for ended in (SHORT, LONG)}
    await commit_one(paths[SHORT], "first")
    shutil.copy(paths[SHORT], paths[LONG])
    for ended, path in paths.items():
        multiply(path, ended - 1)
    return paths


async def test_a_multiplied_history_reads_as_one_that_was_lived(journals: dict[int, Path]) -> None:
    journal = await SqliteJournal.open(journals[LONG])
    records = await journal.transactions(limit=LONG + 1)
    assert len(records) == LONG
    assert all(record.ended and record.committed for record in records)
    assert [record.txid.sequence for record in records] == list(range(LONG, 0, -1))
    assert await journal.unfinished() == ()
    last = await journal.request(f"first-{LONG - 1}")
    assert last is not None
    assert last.txid == records[0].txid
    assert journal.position == len(records) * len(await journal.history(records[0].txid))
    await journal.close()


async def test_a_start_takes_no_more_steps_with_a_longer_history(
    journals: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A small file is read through once, whatever is in it.
    monkeypatch.setattr(sqlite_open, "CHECKED_BYTES", 0)
    # Its request ids are learned beside everything else, a page at a time; here that gets no further than the first.
    monkeypatch.setattr(novelty, "AT_ONCE", SHORT // 2)
    monkeypatch.setattr(novelty, "PAUSE", 3600.0)
    steps = {}
    for ended, path in journals.items():
        with monkeypatch.context() as patch:
            meter = Meter(sqlite3.connect)
            patch.setattr(sqlite3, "connect", meter.connect)
            await commit_one(path, "second")
            steps[ended] = meter.steps
    # Batches may fall differently; one look at every transaction would be a step each, at least.
    assert steps[SHORT] > 100
    assert steps[LONG] - steps[SHORT] < (LONG - SHORT) / 2, steps


def test_a_look_at_every_transaction_would_be_seen(journals: dict[int, Path]) -> None:
    steps = {}
    for ended, path in journals.items():
        meter = Meter(sqlite3.connect)
        with closing(meter.connect(path)) as connection:
            connection.execute("SELECT count(decided) FROM transactions").fetchall()
        steps[ended] = meter.steps
    assert steps[LONG] - steps[SHORT] > (LONG - SHORT) / 2
