"""The verb `twophase indoubt`: what is in doubt at this moment, why, and who waits for it.

Lives here: options, exit codes, and where it is read from. Must not live here: layout (`indoubt_view`).
"""

from __future__ import annotations

import json as encoding
import time
from collections.abc import Callable
from typing import Annotated, Final

import typer

from twophase.coordinator.client import AsyncClient
from twophase.coordinator.operator.connection import DEFAULT_COORDINATOR, UNREACHABLE, AsJson, Coordinator, ask, fail
from twophase.coordinator.operator.indoubt_view import Sight, as_dict, show
from twophase.coordinator.operator.screen import screen

IN_DOUBT: Final = 4
"""The exit code if something is in doubt for longer than asked about."""

_INTERRUPTED: Final = 130
_MOST_HEURISTIC: Final = 100


def indoubt(
    *,
    coordinator: Coordinator = DEFAULT_COORDINATOR,
    older_than: Annotated[
        float,
        typer.Option(
            "--older-than",
            metavar="SECONDS",
            min=0,
            help="Exit with 4 if a branch is in doubt for so long, or nobody knows for how long.",
        ),
    ] = 10.0,
    everything: Annotated[
        bool, typer.Option("--all", help="List all branches, those of transactions that are just running, too.")
    ] = False,
    watch: Annotated[
        float | None,
        typer.Option("--watch", metavar="SECONDS", min=1, help="Look again and again, until Ctrl-C."),
    ] = None,
    dsn: Annotated[
        str | None,
        typer.Option(
            "--dsn",
            metavar="DSN",
            help="Look into this database instead, without a coordinator: nothing is known of decisions then. A"
            " password belongs in PGPASSWORD or in ~/.pgpass.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show every branch that is prepared and not finished: what it waits for, and who waits for it.

    It changes nothing. Exits with 0 if nothing is in doubt for longer than --older-than, with 4 if something is, with 3
    if the coordinator does not answer.
    """
    if watch is not None and json:
        raise typer.BadParameter("not together with --json", param_hint="--watch")
    look = _looking_at(coordinator) if dsn is None else _looking_into(dsn)
    console = screen()
    try:
        while True:
            try:
                sight = look()
            except typer.Exit as ended:
                if watch is None or ended.exit_code != UNREACHABLE:
                    raise  # else it may be back at the next look
            else:
                if json:
                    typer.echo(encoding.dumps(as_dict(sight)))
                else:
                    if watch is not None:
                        console.clear()
                    show(console, sight, everything=everything)
                if watch is None:
                    raise typer.Exit(IN_DOUBT if sight.has_older_than(older_than) else 0)
            time.sleep(watch)
    except KeyboardInterrupt:
        raise typer.Exit(_INTERRUPTED if watch is None else 0) from None


def _looking_at(coordinator: str) -> Callable[[], Sight]:
    async def both(client: AsyncClient) -> Sight:
        doubts = await client.in_doubt()
        heuristic = []
        async for transaction in client.transactions(heuristic_only=True):
            heuristic.append(transaction)
            if len(heuristic) == _MOST_HEURISTIC:
                break
        return Sight(doubts, tuple(heuristic))

    return lambda: ask(coordinator, both)


def _looking_into(dsn: str) -> Callable[[], Sight]:
    try:
        from twophase.coordinator.operator.offline import look_into
    except ModuleNotFoundError as error:
        fail(f"--dsn needs {error.name}, which is not installed; type: pip install 'twophase[participant]'")

    return lambda: look_into(dsn)
