"""What `twophase journal inspect` tells of sagas."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from journal.samples import BRANCHES, SHOP, request, txid
from twophase.contract.names import Txid
from twophase.coordinator import cli
from twophase.coordinator.journal.events import (
    DeadLettered,
    Definition,
    Ended,
    Finished,
    Reason,
    Resolved,
    SagaStep,
    Turned,
)
from twophase.coordinator.journal.port import Proposal
from twophase.coordinator.journal.sqlite import SqliteJournal
from twophase.coordinator.protocol.decisions import SAGA, Ending

STEPS = (
    SagaStep("take", "stock", "take", b"", (), pivot=False),
    SagaStep("pay", "payment", "charge", b"", (0,), pivot=False),
)


async def begin_saga(journal: SqliteJournal, sequence: int, *endings: Ending) -> Txid:
    """A saga of two steps, of which the first ended so."""
    name = txid(journal, sequence)
    definition = Definition(STEPS, 10_000)
    await journal.decide(
        Proposal(name, SAGA, journal.epoch, request(f"saga-{sequence}"), BRANCHES, definition=definition)
    )
    for branch, ending in enumerate(endings):
        journal.append(Finished(name, branch, ending))
    return name


async def fill_with_sagas(journal: SqliteJournal) -> None:
    """Under way, about to turn, going back, compensated by a person's word, done, and one with nothing left to do."""
    await journal.register(SHOP)
    await journal.register(replace(SHOP, name="payment", database="pay"))
    reason = Reason("BUSINESS", "NO_FUNDS", "none left", retryable=False, participant="payment", operation="charge")
    await begin_saga(journal, 1, Ending.APPLIED)
    await begin_saga(journal, 2, Ending.APPLIED, Ending.REFUSED)
    back = await begin_saga(journal, 3, Ending.APPLIED, Ending.REFUSED)
    await journal.turn(Turned(back, (reason,)))
    undone = await begin_saga(journal, 4, Ending.APPLIED, Ending.REFUSED)
    await journal.turn(Turned(undone, (reason,)))
    journal.append(DeadLettered(undone, 0, 10, reason))
    journal.append(Resolved(undone, 0, "ada", "put back by hand"))
    journal.append(Ended(undone, committed=False))
    done = await begin_saga(journal, 5, Ending.APPLIED, Ending.APPLIED)
    journal.append(Ended(done, committed=True))
    await begin_saga(journal, 6, Ending.APPLIED, Ending.APPLIED)
    await journal.flush()


async def make(path: Path, fill: Callable[[SqliteJournal], Awaitable[object]]) -> None:
    """A journal with sagas in it, closed."""
    journal = await SqliteJournal.open(path)
    await fill(journal)
    await journal.close()


def inspect(runner: CliRunner, path: Path, *options: str) -> str:
    """What is printed."""
    result = runner.invoke(cli.app, ["journal", "inspect", str(path), *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_sagas_are_counted_apart_and_told_what_becomes_of_them(runner: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(make(path, fill_with_sagas))

    told = json.loads(inspect(runner, path, "--json"))
    shown = inspect(runner, path)
    one = inspect(runner, path, "--tx", "saga-4")

    assert told["counts"] == {
        "committed": 0,
        "aborted": 0,
        "unknown": 0,
        "undecided": 0,
        "unfinished": 4,
        "heuristic": 0,
        "sagas": {"completed": 1, "compensated": 1, "running": 4},
    }
    assert [one["at_start"] for one in told["unfinished"]] == [
        "go on with pay",
        "turn it, since pay never happens, and undo the rest",
        "undo take",
        "note that it is over",
    ]
    assert "sagas         1 done, 1 compensated, 4 under way" in shown
    assert "4 decided or started, 0 undecided" in shown
    assert {"FINISHED", "ENDED", "RESOLVED", "DEAD_LETTER"} <= {event["kind"] for event in told["newest"]}
    assert "dead letter" in shown
    assert "taken for done by ada: put back by hand" in one
    assert "compensated: what was done of it is undone" in one
    assert "would do nothing: it is over" in one


def test_a_saga_waits_for_every_participant_that_is_not_known(runner: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    asyncio.run(make(path, lambda journal: begin_saga(journal, 1, Ending.APPLIED)))

    (one,) = json.loads(inspect(runner, path, "--json"))["unfinished"]

    assert one["at_start"] == "wait: it does not know payment, stock (register it)"
