"""The verb `twophase demo`: its options, what it says when they are wrong, its exit codes.

Lives here: what stands between a command line and `demo`. Must not live here: the demo itself. Imported when the verb
runs; what takes long to import, or starts threads, is imported later still.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer

from twophase.sandbox.checkout.csv_orders import COLUMNS, read_orders
from twophase.sandbox.checkout.generated import CLOSED_AREA, generate_orders
from twophase.sandbox.checkout.opening import Opening
from twophase.sandbox.checkout.orders import Order
from twophase.sandbox.errors import OrdersInvalid
from twophase.sandbox.signals import Failure, end_on_signals, run

INCONSISTENT: Final = 1
WRONG_INPUT: Final = 2

_USUAL_COUNT: Final = 200
_MOST: Final = 1_000_000
_MOST_STOCK: Final = 10**12
_MONEY: Final = re.compile(r"[0-9]{1,12}(\.[0-9]{1,4})?")


class _Protocol(Enum):
    """The client's `Protocol`, by its name; the client itself is imported later."""

    TWO_PHASE = "two-phase"
    SAGA = "saga"


def demo(
    orders: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"A CSV file, with the columns {', '.join(COLUMNS)}. Lines of one order may be anywhere in it.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(min=1, max=_MOST, show_default=str(_USUAL_COUNT), help="How many orders to make up."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(show_default="1", help="What to make them up from: same seed, same orders.")
    ] = None,
    clients: Annotated[int, typer.Option(min=1, max=256, help="How many orders are under way at a time.")] = 8,
    stock: Annotated[int, typer.Option(min=0, max=_MOST_STOCK, help="Pieces of every SKU at the start.")] = 500,
    funds: Annotated[str, typer.Option(metavar="AMOUNT", help="Money of every customer at the start.")] = "10000",
    closed_area: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AREA",
            show_default=CLOSED_AREA,
            help="An area where nothing is delivered. Repeat it for more; '' for none.",
        ),
    ] = None,
    protocol: Annotated[
        _Protocol, typer.Option(help="Whether orders are two-phase commits, or sagas that are undone if refused.")
    ] = _Protocol.TWO_PHASE,
    json_: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--json", help="Print one JSON object, and nothing else, on standard output.")
    ] = False,
    keep: Annotated[  # noqa: FBT002 - an option of a command line
        bool, typer.Option("--keep", help="Keep everything running afterwards, and say what to try.")
    ] = False,
) -> None:
    """Run orders through four services with four databases, and check that every one is everywhere or nowhere.

    Starts a coordinator, four participants and four Postgres clusters on free
    ports, sends the orders, checks all four databases, and removes everything
    again. The exit code is 0 only if they agree.
    """
    try:
        placed, source = _orders(orders, count, seed)
        money = _funds(funds)
    except OrdersInvalid as error:
        _fail(str(error), WRONG_INPUT)
    areas = tuple(area for area in (closed_area if closed_area is not None else [CLOSED_AREA]) if area)
    opening = Opening(stock=stock, funds=money, closed_areas=areas)
    code = run(_run(placed, source, opening, protocol, clients=clients, show=_Show(as_json=json_, keep=keep)))
    if isinstance(code, Failure):
        _fail(code.message, code.code)
    raise typer.Exit(code)


@dataclass(frozen=True, slots=True)
class _Show:
    """What is wanted on the screen, and whether the system stays afterwards."""

    as_json: bool
    keep: bool


async def _run(
    placed: Sequence[Order], source: str, opening: Opening, chosen: _Protocol, *, clients: int, show: _Show
) -> int:
    """Runs it all; returns the exit code. Imported late: gRPC starts threads, and the guardian must come before."""
    from twophase.sandbox.guardian import Guardian

    end_on_signals()
    with Guardian() as guardian:
        from rich.console import Console

        from twophase.coordinator.client import Protocol
        from twophase.sandbox import report
        from twophase.sandbox.checkout.services import services
        from twophase.sandbox.demo import run_orders
        from twophase.sandbox.system import System

        protocol = Protocol[chosen.name]
        screen, aside = report.screen(), Console(stderr=True, highlight=False)
        progress = report.Progression(aside, quiet=show.as_json)
        async with contextlib.AsyncExitStack() as stack:
            with progress.starting("starting four databases and their services"):
                system = await stack.enter_async_context(System(services(), guardian=guardian))
            with progress.orders(len(placed)) as on_answer:
                result = await run_orders(system, placed, opening, protocol, clients=clients, on_answer=on_answer)
            if show.as_json:
                typer.echo(report.to_json(result, opening, source))
            else:
                report.show(screen, result, opening, source)
            if show.keep:
                report.show_kept(aside if show.as_json else screen, system, protocol)
                await _interruption()
        return 0 if result.consistent else INCONSISTENT


async def _interruption() -> None:
    """Returns when the user has had enough; that is the ordinary end of a system that was kept."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


def _orders(path: Path | None, count: int | None, seed: int | None) -> tuple[list[Order], str]:
    """The orders, and where they are from, in words. Raises `OrdersInvalid`."""
    if path is None:
        number, start = count if count is not None else _USUAL_COUNT, seed if seed is not None else 1
        return generate_orders(number, start), f"made up from seed {start}"
    if count is not None or seed is not None:
        raise OrdersInvalid("--orders brings its own orders; leave --count and --seed out, or leave --orders out")
    return read_orders(path), f"from {path}"


def _funds(text: str) -> Decimal:
    """An amount of money. Raises `OrdersInvalid`."""
    if _MONEY.fullmatch(text) is None:
        raise OrdersInvalid(f"--funds {text!r} is no amount of money; expected digits, such as 10000 or 99.50")
    return Decimal(text)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"twophase demo: {message}", err=True)
    raise typer.Exit(code)
