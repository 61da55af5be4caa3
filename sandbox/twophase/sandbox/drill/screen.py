"""What `twophase drill` shows in a terminal: what is going on, the table, what to look at.

Lives here: words and layout. Must not live here: options and exit codes (`twophase.sandbox.drill_cli`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from twophase.sandbox.drill.business import Told
from twophase.sandbox.drill.run import Outcome, Report, Verdict
from twophase.sandbox.drill.values import Drill
from twophase.sandbox.system import System

_WIDE: Final = 400
_VERDICTS: Final = {Verdict.PASSED: "ok", Verdict.FAILED: "WRONG", Verdict.SKIPPED: "skipped"}


def screen() -> Console:
    """Standard output; in a pipe no line is cut."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_WIDE)


class Progression:
    """What is going on, on stderr; silent where nobody looks (no terminal, or asked to be quiet)."""

    def __init__(self, console: Console, count: int, *, quiet: bool) -> None:
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task(
            "starting a coordinator, four banks and three Postgres servers", total=count
        )

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows it while the block runs."""
        with self._progress:
            yield

    def begins(self, drill: Drill) -> None:
        """A drill begins."""
        self._progress.update(self._task, description=drill.name)

    def ended(self, outcome: Outcome) -> None:
        """A drill has ended."""
        self._progress.advance(self._task)
        if not self._progress.disable:
            line = f"{_VERDICTS[outcome.verdict]:7}  {outcome.drill.name}  {_milliseconds(outcome.recovery_ms)}"
            self._progress.console.print(Text(line.rstrip()))


def show(console: Console, report: Report) -> None:
    """The table of a run and what it comes to."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("drill")
    table.add_column("outcome", no_wrap=True)
    for title in ("recovery", "time", *(told.value for told in Told)):
        table.add_column(title, justify="right", no_wrap=True)
    for outcome in report.outcomes:
        style = "bold" if outcome.verdict is Verdict.FAILED else ""
        told = (str(count) for count in outcome.told.values())
        recovered, took = _milliseconds(outcome.recovery_ms), f"{outcome.seconds:.1f} s"
        table.add_row(Text(outcome.drill.name), _VERDICTS[outcome.verdict], recovered, took, *told, style=style)
    console.print(table)
    for line in lines_of(report):
        console.print(Text(line))


def lines_of(report: Report) -> Iterator[str]:
    """What a run comes to, in sentences."""
    for outcome in report.outcomes:
        if outcome.skipped:
            yield f"skipped: {outcome.drill.name}: {outcome.skipped}"
        for violation in outcome.wrong:
            yield f"WRONG: {outcome.drill.name}: {violation}"
    summary = report.to_json()
    counts = (
        f"{summary['drills_passed']} passed, {summary['drills_failed']} failed, {summary['drills_skipped']} skipped"
    )
    yield (
        f"{len(report.outcomes)} drills: {counts}; {summary['violations']} violations,"
        f" {summary['outside_violations']} by the outside checker; {report.in_doubt_left} in doubt"
    )
    yield f"{len(report.wanted & report.hit)} of {len(report.wanted)} crash points of these drills hit"
    if summary["points_missed"]:
        yield f"NOT HIT: {', '.join(summary['points_missed'])}"
    if summary["recovery_ms_median"] is not None:
        median, longest = summary["recovery_ms_median"], summary["recovery_ms_max"]
        yield f"from ready to nothing of before in doubt: median {median:.0f} ms, longest {longest:.0f} ms"


def keep_logs(system: System, to: Path) -> None:
    """Copies the log of every process and every server. Raises `OSError`."""
    to.mkdir(parents=True, exist_ok=True)
    for log in system.directory.glob("*.log"):
        shutil.copy(log, to)
    for cluster in system.clusters.values():
        shutil.copy(cluster.log, to / f"postgres-{cluster.name}.log")


def _milliseconds(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.0f} ms"
