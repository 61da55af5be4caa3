"""The verbs `twophase tx list` and `twophase tx show`.

Lives here: options, layout, exit codes. Must not live here: words (`words`), times (`moments`), the connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from twophase.contract.names import InvalidName, Txid
from twophase.coordinator.client import AsyncClient, NotFound, Protocol, Transaction
from twophase.coordinator.operator import moments, words
from twophase.coordinator.operator.connection import (
    DEFAULT_COORDINATOR,
    AsJson,
    Coordinator,
    ask,
    fail,
)
from twophase.coordinator.operator.screen import columns, facts, plain, screen

_TXID_WIDTH: Final = 30
_OUTCOME_WIDTH: Final = 11
_GAP: Final = 2
_MOST: Final = 60
_AT_ONCE: Final = 100

tx_app: Final = typer.Typer(
    name="tx",
    help="Look at transactions: which there are, and what happened to one.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@tx_app.command("list")
def list_(
    *,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Only those not over at every participant.")] = False,
    heuristic: Annotated[
        bool, typer.Option("--heuristic", help="Only those of which a branch ended against the decision.")
    ] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many, the newest first.")] = 50,
    coordinator: Coordinator = DEFAULT_COORDINATOR,
    json: AsJson = False,
) -> None:
    """List transactions, the newest first."""
    if unfinished and heuristic:
        raise typer.BadParameter("not together with --unfinished", param_hint="--heuristic")
    kind = {"unfinished_only": unfinished, "heuristic_only": heuristic}
    if json:
        found = ask(coordinator, lambda client: _collect(client.transactions(**kind), limit))
        shown = [words.as_dict(transaction) for transaction in found[:limit]]
        typer.echo(words.to_json({"transactions": shown, "more": len(found) > limit}))
        return
    listing = Listing(screen())
    more = ask(coordinator, lambda client: listing.show(client.transactions(**kind), limit))
    if more:
        typer.echo(f"... and older ones: these are the newest {limit}; see --limit", err=True)


@tx_app.command()
def show(
    name: Annotated[
        str, typer.Argument(metavar="TXID|REQUEST_ID", help="A transaction's name, or the id of its request.")
    ],
    *,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help=f"As it stood then, by the coordinator's clock: {moments.FORMS}."),
    ] = None,
    coordinator: Coordinator = DEFAULT_COORDINATOR,
    json: AsJson = False,
) -> None:
    """Show a transaction: its outcome, its branches, and what happened when."""
    moment = None
    if at is not None:
        try:
            moment = moments.parse(at, now=datetime.now().astimezone())
        except moments.NoMoment as error:
            raise typer.BadParameter(str(error), param_hint="--at") from error
    transaction = ask(coordinator, lambda client: _find(client, name, moment))
    if transaction is None:
        then = "" if moment is None else f" up to {moments.full(moment)}"
        fail(
            f"there is no record of {name!r}{then}, neither as a transaction nor as a request; that does not mean that"
            " it was aborted: check that this is its coordinator. What ended long ago is pruned"
        )
    if json:
        typer.echo(words.to_json({"transaction": words.as_dict(transaction), "at": moment}))
    else:
        render(screen(), transaction, moment)


async def _find(client: AsyncClient, name: str, at: datetime | None) -> Transaction | None:
    try:
        txid = str(Txid.parse(name))
    except InvalidName:
        pass
    else:
        try:
            return await client.get(txid, events=True, at=at)
        except NotFound:
            pass
    return await client.outcome(name, events=True, at=at)


async def _collect(transactions: AsyncIterator[Transaction], limit: int) -> list[Transaction]:
    """The newest, one more than `limit` if there are more."""
    found = []
    async for transaction in transactions:
        found.append(transaction)
        if len(found) > limit:
            break
    return found


class Listing:
    """A table that is printed while its rows come in: the widths are settled before the first one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rest = max(20, min(_MOST, (console.width - _TXID_WIDTH - _OUTCOME_WIDTH - 3 * _GAP) // 2))
        self._header = True

    async def show(self, transactions: AsyncIterator[Transaction], limit: int) -> bool:
        """Prints at most `limit`; True if there are more."""
        rows: list[Transaction] = []
        shown = 0
        more = False
        async for transaction in transactions:
            if shown == limit:
                more = True
                break
            rows.append(transaction)
            shown += 1
            if len(rows) == _AT_ONCE:
                self._print(rows)
                rows.clear()
        if rows:
            self._print(rows)
        if shown == 0:
            self._console.print("there is none")
        return more

    def _print(self, transactions: list[Transaction]) -> None:
        table = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="dim", show_header=self._header)
        table.add_column("transaction", width=_TXID_WIDTH, no_wrap=True)
        table.add_column("outcome", width=_OUTCOME_WIDTH, no_wrap=True)
        for heading in ("request", "where it stands"):
            table.add_column(heading, width=self._rest, overflow="fold")
        for one in transactions:
            request = one.request_id + (f" (attempt {one.attempt})" if one.attempt > 1 else "")
            table.add_row(one.txid, one.outcome.value, plain(request), plain(words.standing(one)))
        self._console.print(table)
        self._header = False


def render(console: Console, transaction: Transaction, at: datetime | None) -> None:
    """A transaction on the screen: what is known of it, its branches, its timeline."""
    console.print(facts(_facts(transaction, at)))
    console.print()
    console.print(_branches(transaction) if transaction.branches else "no work was sent to anybody")
    if transaction.events:
        console.print()
        console.print(f"what happened on {moments.day(transaction.events[0].at)}, in local time:")
        console.print(columns(("time", "ms", "what", "at"), _timeline(transaction), right=("ms",)))


def _branches(transaction: Transaction) -> Table:
    told = [(branch, words.state(branch.state, transaction)) for branch in transaction.branches]
    if transaction.protocol is Protocol.TWO_PHASE:
        return columns(("branch at", "state", "gid"), [(one.participant, state, one.gid) for one, state in told])
    steps = [(one.step, f"{one.participant}.{one.operation}", state, one.gid) for one, state in told]
    return columns(("step", "operation", "state", "gid"), steps)


def _facts(transaction: Transaction, at: datetime | None) -> Iterator[tuple[str, str]]:
    if at is not None:
        yield "as it stood", moments.full(at)
    yield "transaction", transaction.txid
    if transaction.request_id:
        yield "request", f"{transaction.request_id}, attempt {transaction.attempt}"
    if transaction.protocol is Protocol.SAGA:
        yield "protocol", "saga"
    yield "outcome", words.explained(transaction)
    yield "where it stands", words.standing(transaction)
    for number, refusal in enumerate(transaction.refusals):
        yield "why" if number == 0 else "and", str(refusal)


def _timeline(transaction: Transaction) -> Iterator[tuple[str, str, str, str]]:
    first = last = transaction.events[0].at
    for event in transaction.events:
        if moments.day(event.at) != moments.day(last):
            yield str(moments.day(event.at)), "", "", ""
        last = event.at
        since = round((event.at - first).total_seconds() * 1000)
        yield moments.time_of_day(event.at), f"{since:+,d}", *words.happened(event, transaction)
