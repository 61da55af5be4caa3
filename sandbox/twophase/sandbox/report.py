"""What the demo shows: progress, the table, the JSON object, and what to try with `--keep`.

Lives here: words and layout. Must not live here: the run (`demo`) and the options (`cli`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from twophase.coordinator.client import Protocol
from twophase.sandbox.checkout.driver import Answer, Told
from twophase.sandbox.checkout.opening import Opening
from twophase.sandbox.demo import Result
from twophase.sandbox.system import System

_SHOWN_PROBLEMS: Final = 20
_WIDE: Final = 400

_PLACE_ORDER: Final = """\
# One more order, through the running system. Change it, and run it again.
import asyncio
import sys

from twophase.coordinator.client import AsyncClient, Protocol, TransactionAborted, operation


async def main(order_id: str, customer_id: str, sku: str, quantity: int) -> None:
    line = {{"sku": sku, "quantity": quantity}}
    async with AsyncClient("{address}") as client:
        try:
            done = await client.execute(
                operation(
                    "order",
                    "place",
                    {{
                        "order_id": order_id,
                        "customer_id": customer_id,
                        "area": "Cork",
                        "lines": [{{**line, "unit_price": "1.00"}}],
                    }},
                ),
                operation("inventory", "reserve", {{"order_id": order_id, "items": [line]}}),
                operation(
                    "payment",
                    "charge",
                    {{"order_id": order_id, "customer_id": customer_id, "amount": f"{{quantity}}.00"}},
                ),
                operation("delivery", "schedule", {{"order_id": order_id, "area": "Cork"}}),
                request_id=f"order/{{order_id}}",
                protocol=Protocol.{protocol},
            )
        except TransactionAborted as aborted:
            print(aborted)
        else:
            print(f"committed as {{done.txid}}:", *(f"{{result}} -> {{result.value}}" for result in done.results))


asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


class Progression:
    """What is going on, on stderr; silent where nobody looks (no terminal, or asked to be quiet)."""

    def __init__(self, console: Console, *, quiet: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[refused]}"),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._console = console
        self._quiet = quiet or not console.is_terminal
        self._refused = 0

    @contextmanager
    def starting(self, what: str) -> Iterator[None]:
        """While something starts that has no steps to count."""
        if self._quiet:
            yield
            return
        with self._console.status(what):
            yield

    @contextmanager
    def orders(self, total: int) -> Iterator[Callable[[Answer], None]]:
        """While orders are under way; gives what is to be called with each answer."""
        with self._progress:
            task = self._progress.add_task("orders", total=total, refused="")

            def on_answer(answer: Answer) -> None:
                self._refused += answer.told is Told.REFUSED
                self._progress.update(task, advance=1, refused=f"{self._refused} refused")

            yield on_answer


def screen() -> Console:
    """Standard output; where that is no terminal, nothing is cut to a width."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


def to_json(result: Result, opening: Opening, source: str) -> str:
    """The result as one JSON object. Money is text, so that it stays exact; times are null if nothing committed."""
    document: dict[str, Any] = {
        "protocol": result.protocol.value,
        "orders": len(result.answers),
        "committed": result.count(Told.COMMITTED),
        "refused": result.count(Told.REFUSED),
        **({"compensated": result.compensated} if result.protocol is Protocol.SAGA else {}),
        "refused_by_reason": result.refused_by_reason,
        "in_doubt": result.in_doubt,
        "consistent": result.consistent,
        "problems": list(result.findings.problems),
        "prepared_left": len(result.findings.prepared),
        "p50_ms": _rounded(result.latency_ms(50)),
        "p99_ms": _rounded(result.latency_ms(99)),
        "seconds": round(result.seconds, 3),
        "orders_per_second": round(len(result.answers) / result.seconds, 1),
        "retries": result.retries,
        "clients": result.clients,
        "source": source,
        "stock": opening.stock,
        "funds": str(opening.funds),
        "closed_areas": list(opening.closed_areas),
    }
    return json.dumps(document, ensure_ascii=False)


def show(console: Console, result: Result, opening: Opening, source: str) -> None:
    """The result as a table, then the check of the books."""
    committed, refused = result.count(Told.COMMITTED), result.count(Told.REFUSED)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    rows = [
        (Text("committed", "bold green"), Text(str(committed), "bold"), "in all four databases"),
        (Text("refused", "bold yellow"), Text(str(refused), "bold"), "in none"),
    ]
    if result.protocol is Protocol.SAGA:
        rows.append((Text("  compensated"), Text(str(result.compensated)), "of these: what was done of them is undone"))
    for reason, count in result.refused_by_reason.items():
        rows.append((Text(f"  {reason}"), Text(str(count)), _example(result, reason)))
    if unknown := result.count(Told.UNKNOWN):
        rows.append((Text("unknown", "bold red"), Text(str(unknown)), "no client knows how these ended"))
    p50, p99 = result.latency_ms(50), result.latency_ms(99)
    if p50 is not None and p99 is not None:
        rows.append((Text("median latency"), Text(f"{p50:.1f} ms"), f"99th percentile {p99:.1f} ms"))
    rate = len(result.answers) / result.seconds
    again = f", {result.retries} new attempts after a conflict" if result.retries else ""
    rows.append((Text("throughput"), Text(f"{rate:.0f}/s"), f"{result.clients} clients{again}"))
    # Where it is narrow, the remarks are cut short and never the figures.
    table.add_column(no_wrap=True, min_width=max(name.cell_len for name, _, _ in rows))
    table.add_column(no_wrap=True, min_width=max(figure.cell_len for _, figure, _ in rows), justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis", style="dim")
    for name, figure, remark in rows:
        table.add_row(name, figure, Text(remark))
    how = "sagas" if result.protocol is Protocol.SAGA else "two-phase commits"
    console.print(Text.assemble((f"{len(result.answers)} orders", "bold"), f" {source}, as {how}"), soft_wrap=True)
    console.print()
    console.print(table, highlight=False)
    console.print()
    _show_findings(console, result, opening)


def show_kept(console: Console, system: System, protocol: Protocol) -> None:
    """Where everything is, and what to try, while the system is kept running."""
    script = system.directory / "place_order.py"
    script.write_text(_PLACE_ORDER.format(address=system.address, protocol=protocol.name), encoding="utf-8")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for _ in range(3):
        table.add_column(no_wrap=True, overflow="ignore")
    table.add_row("coordinator", system.address, f"process {system.coordinator.pid}, journal {system.journal}")
    for name, program in system.participants.items():
        table.add_row(name, program.address, f"process {program.pid}, database {system.dsn(name)}")
    wide = Console(file=console.file, width=_WIDE, force_terminal=console.is_terminal, highlight=False)
    wide.print()
    wide.print("[bold]It keeps running[/] until you press Ctrl-C; then everything is removed.")
    wide.print()
    wide.print(table)
    wide.print()
    wide.print("Try, in another terminal:")
    for command in _commands(system, script):
        wide.print(f"  {command}", markup=False, soft_wrap=True)


def _commands(system: System, script: Path) -> list[str]:
    import sys

    def query(service: str, statement: str) -> str:
        psql = system.cluster_of(service).binaries.program("psql")
        return shlex.join([str(psql), system.dsn(service), "-c", statement])

    with system.connect("payment") as connection:
        customer = connection.execute("SELECT customer_id FROM account ORDER BY balance DESC, 1 LIMIT 1").fetchone()
    with system.connect("inventory") as connection:
        sku = connection.execute("SELECT sku FROM stock ORDER BY pieces DESC, 1 LIMIT 1").fetchone()
    return [
        shlex.join([sys.executable, str(script), "try-1", *map(str, [*(customer or ()), *(sku or ())]), "3"]),
        query("inventory", "SELECT * FROM reservation ORDER BY order_id DESC LIMIT 5"),
        query("payment", "SELECT * FROM account ORDER BY balance LIMIT 5"),
        query("payment", "SELECT * FROM pg_prepared_xacts"),
        query(
            "payment", "SELECT gid, kind, outcome, recorded_at FROM twophase.ledger ORDER BY recorded_at DESC LIMIT 5"
        ),
    ]


def _show_findings(console: Console, result: Result, opening: Opening) -> None:
    findings = result.findings
    console.print("[bold]The four databases, read with SQL[/]")
    if findings.problems:
        for problem in findings.problems[:_SHOWN_PROBLEMS]:
            console.print(Text(f"  WRONG  {problem}", "red"), soft_wrap=True)
        if len(findings.problems) > _SHOWN_PROBLEMS:
            console.print(f"  and {len(findings.problems) - _SHOWN_PROBLEMS} more")
    else:
        charged = sum((a.order.total for a in result.answers if a.told is Told.COMMITTED), Decimal(0))
        pieces = sum(line.quantity for a in result.answers if a.told is Told.COMMITTED for line in a.order.lines)
        for fact in (
            "every committed order is in all four, exactly once, line by line",
            "no refused order has left anything in any of them",
            f"money adds up: {charged:,.2f} charged, every customer had {opening.funds:,.2f}",
            f"stock adds up: {pieces:,} pieces reserved, of every SKU there were {opening.stock:,}",
        ):
            console.print(f"  [green]ok[/]  {fact}", highlight=False, soft_wrap=True)
    if findings.prepared:
        for gid in findings.prepared[:_SHOWN_PROBLEMS]:
            console.print(Text(f"  WRONG  still prepared: {gid}", "red"), soft_wrap=True)
    else:
        console.print("  [green]ok[/]  prepared transactions left: 0", highlight=False)


def _example(result: Result, reason: str) -> str:
    return next(answer.message for answer in result.answers if answer.reason == reason)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
