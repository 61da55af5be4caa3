"""Journals to look at, and a look at one.

Lives here: a file with a transaction of each kind, what `twophase journal inspect` tells of it as JSON, and what it
must leave as it is. Must not live here: what is expected of either.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from journal.samples import BRANCHES, PAYMENT, SHOP, begun, propose, request, txid
from twophase.contract.names import Txid
from twophase.coordinator import cli
from twophase.coordinator.journal.events import Ended, Finished, Reason, Voted
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import ABORT, COMMIT, Ending, Vote, delegated

COUNTS = {
    "committed": 4,
    "aborted": 1,
    "unknown": 1,
    "undecided": 1,
    "unfinished": 3,
    "heuristic": 1,
    "sagas": {"completed": 0, "compensated": 0, "running": 0},
}


async def fill(journal: SqliteJournal) -> None:
    """One of each kind, sequences 1 to 7."""
    await journal.register(SHOP)
    await journal.register(replace(SHOP, name="payment", database="pay"))
    for sequence in range(1, 8):
        journal.append(begun(journal, sequence, request(f"order-{sequence}")))
        journal.append(Voted(txid(journal, sequence), 0, Vote.READ_ONLY if sequence == 4 else Vote.YES))
    await journal.decide(propose(journal, 1, COMMIT, claim=request("order-1")))
    for branch in (0, 1):
        journal.append(Finished(txid(journal, 1), branch, Ending.APPLIED))
    journal.append(Ended(txid(journal, 1), committed=True))
    await journal.decide(propose(journal, 2, COMMIT))
    journal.append(Finished(txid(journal, 2), 0, Ending.APPLIED))
    reason = Reason("BUSINESS", "OUT_OF_STOCK", "none left", retryable=False, participant="stock", operation="take")
    await journal.decide(Proposal(txid(journal, 3), ABORT, journal.epoch, request("order-3"), BRANCHES, (reason,)))
    await journal.decide(Proposal(txid(journal, 4), delegated(1), journal.epoch, None, (PAYMENT,)))
    await journal.decide(propose(journal, 5, delegated(1)))
    journal.append(Finished(txid(journal, 5), 1, Ending.APPLIED))
    journal.append(Ended(txid(journal, 5), committed=True))
    await journal.decide(propose(journal, 6, COMMIT))
    journal.append(Finished(txid(journal, 6), 0, Ending.LOST))
    journal.append(Ended(txid(journal, 6), committed=True))
    await journal.flush()


def make(path: Path) -> Txid:
    """A journal with one of each kind, closed; the first transaction's name."""

    async def making() -> Txid:
        journal = await SqliteJournal.open(path, label="shop")
        await fill(journal)
        await journal.close()
        return txid(journal, 1)

    return asyncio.run(making())


def inspect(runner: CliRunner, path: Path, *options: str) -> dict[str, Any]:
    result = runner.invoke(cli.app, ["journal", "inspect", str(path), "--json", *options])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert isinstance(told, dict)
    return told


async def one_more(path: Path, sequence: int) -> None:
    journal = await SqliteJournal.open(path)
    await journal.decide(propose(journal, sequence))
    await journal.close()


def traces(directory: Path) -> dict[str, tuple[str, int]]:
    """Every file of a directory: what is in it, and when that was written."""
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in directory.iterdir()
    }
