"""What `twophase bench transfer` shows in a terminal: what is going on, and its two tables.

Lives here: words and layout. Must not live here: options and exit codes (`cli`), figures (`values`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from twophase.benchmarks.contenders import ABOUT, OURS, Contender
from twophase.benchmarks.cpu import THREADS
from twophase.benchmarks.values import Figures, Plan, Report
from twophase.benchmarks.wanted import Wanted

if TYPE_CHECKING:
    from twophase.benchmarks.counts import Cost

_WIDE: Final = 400
_COUNTED: Final = ("journal_syncs", "wal_syncs", "statements", "round_trips", "frames")


def screen() -> Console:
    """Standard output; in a pipe no line is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


class Progression:
    """What is going on, on stderr: a bar in a terminal, a line for each number of clients elsewhere."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        total = plan.rounds * len(plan.clients) * len(plan.contenders)
        self._task = self._progress.add_task("starting a coordinator, two banks and two Postgres servers", total=total)
        self._plan = plan
        self._told: tuple[int, int] | None = None
        self._begun = 0

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows it while the block runs."""
        with self._progress:
            yield

    def begins(self, contender: Contender, clients: int, number: int) -> None:
        """A round of a contender begins."""
        what = f"round {number + 1} of {self._plan.rounds}, {_clients(clients)}"
        self._progress.update(self._task, description=f"{what}: {ABOUT[contender]}", completed=self._begun)
        self._begun += 1
        if self._progress.disable and self._told != (number, clients):
            self._told = (number, clients)
            self._console.print(Text(what))


def show(console: Console, report: Report) -> None:
    """The throughput and latency of a run, and where its processor time went; or why it is void."""
    if report.is_void:
        console.print(Text("This run is void: the databases do not hold what they should.", style="bold"))
        for problem in report.problems:
            console.print(Text(f"  {problem}"))
        return
    console.print(_speeds(report))
    for costs in (_costs(report), _threads(report)):
        if costs.row_count:
            console.print()
            console.print(costs)
    wanted = report.wanted()
    if wanted:
        console.print()
        console.print(wanted_table(wanted))
    console.print()
    for line in lines_of(report):
        console.print(Text(line))


def wanted_table(wanted: Sequence[Wanted]) -> Table:
    """What is wanted beside what was measured."""
    table = plain_table("wanted", "limit", "measured", "")
    for each in wanted:
        measured = f"{each.measured:,.2f}{each.unit}"
        table.add_row(Text(each.what), each.limit_in_words, measured, "met" if each.met else "MISSED")
    return table


def plain_table(first: str, *numbers: str) -> Table:
    """A table without lines: what it is about, and columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first, no_wrap=True)
    for title in numbers:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def lines_of(report: Report) -> Iterator[str]:
    """How it was measured, in sentences."""
    plan = report.plan
    for clients, ratio in report.saga_of_dbos().items():
        yield f"{_clients(clients)}: the saga has {ratio:.1f} times the throughput of the faster DBOS"
    refused = sum(each.refused for each in report.figures())
    done = sum(each.committed for each in report.measured)
    yield (
        f"medians of {plan.rounds} rounds of {plan.seconds:g} s each, taken in turn; seed {plan.seed},"
        f" {plan.accounts:,} accounts at each bank"
    )
    yield f"checked after every round: {done:,} transfers, to the last account and ledger row; {refused} refused"
    before, after = (report.circumstances["load_average"][moment][0] for moment in ("before", "after"))
    yield f"{report.setting.machine}; load average {before:.1f} before, {after:.1f} after"
    yield ", ".join(f"{name} {version}" for name, version in report.setting.versions.items())


def show_counts(console: Console, costs: Mapping[str, Cost], changed: Sequence[str]) -> None:
    """What was counted, and what of it is not as in the baseline."""
    table = plain_table("of one transaction", "journal syncs", "WAL syncs", "statements", "round trips", "frames")
    table.add_column("messages to participants", no_wrap=True)
    for case, cost in costs.items():
        counted = cost.to_json()
        messages = ", ".join(f"{count} {name}" for name, count in counted["messages"].items())
        numbers = (str(counted.get(name, "")) for name in _COUNTED)
        table.add_row(Text(case), *numbers, messages)
    console.print(table)
    for line in changed:
        console.print(Text(f"CHANGED: {line}"))
    console.print(Text("not as in the baseline" if changed else "all as in the baseline"))


def _speeds(report: Report) -> Table:
    titles = ("per second", "slowest - fastest", "of the loop", "median ms", "of the loop", "99 % ms")
    table = plain_table("transfers between two databases", *titles)
    for clients, figures in _by_clients(report):
        table.add_row(Text(_clients(clients), style="bold"))
        for each in figures:
            loop = report.baseline_of(each)
            table.add_row(
                Text(f"  {ABOUT[each.contender]}", style="bold" if each.contender in OURS else ""),
                f"{each.throughput:,.0f}",
                f"{each.slowest:,.0f} - {each.fastest:,.0f}",
                _ratio(each.throughput, loop.throughput) if loop else "",
                f"{each.latency_ms(50):.1f}",
                _ratio(each.latency_ms(50), loop.latency_ms(50)) if loop else "",
                f"{each.latency_ms(99):.1f}",
            )
    return table


def _costs(report: Report) -> Table:
    names = list(dict.fromkeys(name for each in report.figures() for name in each.cpu_ms()))
    table = plain_table("processor time of a transfer, ms", *names, "together")
    for clients, of_so_many in _by_clients(report):
        known = [(each, spent) for each in of_so_many if (spent := each.cpu_ms())]
        if known:
            table.add_row(Text(_clients(clients), style="bold"))
        for each, spent in known:
            cells = [f"{spent[name]:.2f}" for name in names]
            table.add_row(Text(f"  {ABOUT[each.contender]}"), *cells, f"{sum(spent.values()):.2f}")
    return table


def _threads(report: Report) -> Table:
    table = plain_table("the same by kind of thread, ms", *THREADS)
    for figures in report.figures():
        spent = figures.thread_ms()
        if spent:
            table.add_row(Text(f"{ABOUT[figures.contender]}, {_clients(figures.clients)}", style="bold"))
        for process in dict.fromkeys(name.partition(": ")[0] for name in spent):
            cells = (f"{spent.get(f'{process}: {kind}', 0.0):.2f}" for kind in THREADS)
            table.add_row(Text(f"  {process}"), *cells)
    return table


def _by_clients(report: Report) -> Iterator[tuple[int, list[Figures]]]:
    for clients in report.plan.clients:
        yield clients, [each for each in report.figures() if each.clients == clients]


def _clients(number: int) -> str:
    return "1 client" if number == 1 else f"{number} clients"


def _ratio(value: float, of: float) -> str:
    return f"{value / of:.2f}" if of else ""
