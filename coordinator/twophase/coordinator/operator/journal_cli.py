"""The verb `twophase journal inspect`: a journal's file, looked at without a coordinator.

Lives here: options, layout, exit codes. Must not live here: how the file is read (`journal.offline`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from twophase.contract.names import MAX_SEQUENCE, InvalidName, Txid
from twophase.coordinator import wire
from twophase.coordinator.client import Transaction
from twophase.coordinator.client.values import transaction_of
from twophase.coordinator.engine.recorded import view_at
from twophase.coordinator.journal.events import DeadLettered, Event, Happening
from twophase.coordinator.journal.offline import Inspection, OfflineJournal, Sagas, open_offline
from twophase.coordinator.journal.port import EpochRecord, JournalUnusable
from twophase.coordinator.operator import moments, plans, words
from twophase.coordinator.operator.connection import FAILED, AsJson, fail
from twophase.coordinator.operator.screen import columns, facts, screen
from twophase.coordinator.operator.tx_cli import render

_SHOWN_EPOCHS: Final = 10
_SHOWN_UNFINISHED: Final = 50

journal_app: Final = typer.Typer(
    name="journal",
    help="Look at a coordinator's journal without a coordinator.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@journal_app.callback()
def _journal() -> None:
    """Look at a coordinator's journal without a coordinator."""


@journal_app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The journal's file, as given to serve --journal.")],
    *,
    tx: Annotated[
        str | None,
        typer.Option("--tx", metavar="TXID|REQUEST_ID", help="Show one transaction, and what happened to it."),
    ] = None,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Only what is not over, all of it, and what would become of it.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Look into a journal's file: who wrote it, what is in it, and what a coordinator would do that starts on it.

    The file is copied and the copy is read: nothing in the file or beside it changes, also while a coordinator is
    writing it. The exit code is not 0 if it is no journal, is damaged, or has no such transaction.
    """
    try:
        with open_offline(file) as journal:
            found = journal.inspect()
            if tx is not None:
                _show_transaction(journal, found, tx, json=json)
            else:
                pending = [_told(history, found) for history in journal.unfinished()]
                _show(found, pending, only_unfinished=unfinished, json=json)
    except JournalUnusable as error:
        said = str(error)
        fail(said if str(file) in said else f"{file}: {said}")
    if found.integrity != "ok":
        fail(f"journal {file} is damaged: {found.integrity}; restore it from a backup", FAILED)


def _told(history: Sequence[Happening], found: Inspection) -> Transaction:
    """A transaction as a coordinator would tell it."""
    view = view_at(tuple(history), max(happening.at for happening in history))
    assert view is not None  # noqa: S101 - a history has events
    return transaction_of(wire.transaction(view, found.journal_id))


def _show_transaction(journal: OfflineJournal, found: Inspection, name: str, *, json: bool) -> None:
    try:
        history = journal.history(Txid.parse(name)) or journal.history(name)
    except InvalidName:
        history = journal.history(name)
    if not history:
        fail(f"journal {found.path} has no record of {name!r}, neither as a transaction nor as a request")
    transaction = _told(history, found)
    plan = plans.plan(transaction, found)
    if json:
        typer.echo(words.to_json({"transaction": {**words.as_dict(transaction), "at_start": plan}}))
        return
    console = screen()
    render(console, transaction, None)
    console.print()
    console.print(f"a coordinator that starts on this file would {plan}")


def _show(found: Inspection, pending: list[Transaction], *, only_unfinished: bool, json: bool) -> None:
    if json:
        open_ones = [{**words.as_dict(one), "at_start": plans.plan(one, found)} for one in pending]
        whole = {"unfinished": open_ones} if only_unfinished else {**_as_dict(found), "unfinished": open_ones}
        typer.echo(words.to_json(whole))
        return
    console = screen()
    if not only_unfinished:
        _draw(console, found)
    _draw_unfinished(console, found, pending, limit=len(pending) if only_unfinished else _SHOWN_UNFINISHED)


def _draw(console: Console, found: Inspection) -> None:
    console.print(facts(_facts(found)))
    console.print()
    shown = found.epochs[-_SHOWN_EPOCHS:]
    rows = [(str(one.epoch.number), one.epoch.nonce, _standing(one), _horizon(one)) for one in reversed(shown)]
    console.print(columns(("epoch", "nonce", "", "remembered from"), rows, right=("epoch",)))
    if len(shown) < len(found.epochs):
        console.print(f"... and {len(found.epochs) - len(shown)} earlier epochs; --json has them all")
    console.print()
    if found.participants:
        headings = ("participant", "address", "database", "server", "timeline")
        known = [
            (one.name, one.address, one.database, one.system_identifier, str(one.timeline))
            for one in found.participants
        ]
        console.print(columns(headings, known, right=("timeline",)))
    else:
        console.print("no participant is known")
    console.print()
    if found.newest:
        console.print("the newest events:")
        rows = [
            (str(h.position), _time(h.at), str(h.event.txid), _kind(h.event).lower().replace("_", " "))
            for h in found.newest
        ]
        console.print(columns(("position", "time", "transaction", "event"), rows, right=("position",)))
        console.print()


def _facts(found: Inspection) -> Iterator[tuple[str, str]]:
    counts = found.counts
    yield "journal", f"{found.journal_id}" + (f" ({found.label})" if found.label else "")
    yield "file", f"{found.path}, {found.file_bytes:,} bytes, and {found.log_bytes:,} in its log"
    yield "form", f"schema version {found.schema_version}, application id {found.application_id:#010x}"
    yield "integrity", found.integrity
    ends = [f"{counts.committed:,} committed", f"{counts.aborted:,} aborted"]
    if counts.unknown:
        ends.append(f"{counts.unknown:,} delegated and not heard of yet")
    yield "transactions", ", ".join((*ends, f"{counts.undecided:,} undecided"))
    sagas = counts.sagas
    if sagas != Sagas(0, 0, 0):
        yield "sagas", f"{sagas.completed:,} done, {sagas.compensated:,} compensated, {sagas.running:,} under way"
    started = " or started" if sagas.running else ""
    yield "not over", f"{counts.unfinished:,} decided{started}, {counts.undecided:,} undecided"
    if counts.heuristic:
        yield "HEURISTIC", f"{counts.heuristic:,} with a branch that ended against the decision"
    yield "last event", f"{found.position:,}" + (f", at {_time(found.newest[0].at)}" if found.newest else "")
    for proof in found.proofs:
        yield "QUARANTINE", f"older than its participants: {proof}"
    yield "at its start", plans.opening(found)


def _draw_unfinished(console: Console, found: Inspection, pending: list[Transaction], *, limit: int) -> None:
    if not pending:
        console.print("everything is over: a coordinator that starts on it has nothing to finish")
        return
    console.print("what is not over, and what a coordinator would do that starts on this file:")
    rows = [(one.txid, one.outcome.value, plans.plan(one, found)) for one in pending[:limit]]
    console.print(columns(("transaction", "outcome", "it would"), rows))
    if limit < len(pending):
        console.print(f"... and {len(pending) - limit} more; see --unfinished")


def _standing(record: EpochRecord) -> str:
    return "fenced" if record.fenced else "open: its coordinator runs, or was the last"


def _horizon(record: EpochRecord) -> str:
    if record.horizon >= MAX_SEQUENCE:
        return "nothing: all of it is forgotten"
    return f"{record.epoch}-{record.horizon:012x}" if record.horizon else "the beginning"


def _kind(event: Event) -> str:
    """As `twophase.v1.EventKind` calls it."""
    return "DEAD_LETTER" if isinstance(event, DeadLettered) else type(event).__name__.upper()


def _time(at: int) -> str:
    return moments.full(datetime.fromtimestamp(at / 1000, tz=UTC))


def _as_dict(found: Inspection) -> dict[str, Any]:
    """For JSON: the values as they are, moments in ISO 8601."""
    whole = asdict(found)
    whole["path"] = str(found.path)
    whole["epochs"] = [
        {"number": one.epoch.number, "nonce": one.epoch.nonce, "fenced": one.fenced, "horizon": one.horizon}
        for one in found.epochs
    ]
    whole["newest"] = [
        {
            "position": one.position,
            "at": datetime.fromtimestamp(one.at / 1000, tz=UTC),
            "txid": str(one.event.txid),
            "kind": _kind(one.event),
        }
        for one in found.newest
    ]
    whole["at_start"] = plans.opening(found)
    return whole
