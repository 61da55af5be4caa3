"""What a terminal shows: how far the run is, and its conclusions in five lines.

Lives here: words and layout for a terminal. Must not live here: the files, exit codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from twophase.benchmarks.report.paper.conclude.all import FIRST, conclude
from twophase.benchmarks.report.paper.words import TITLES
from twophase.benchmarks.report.values import Results, Section

_LINES: Final = 4


def lines_of(results: Results, files: Sequence[Path]) -> Iterator[str]:
    """The conclusions that matter most, or why there are none; and where the report is. Five lines at most."""
    if results.is_void:
        yield "This run is void: the databases did not hold what they should."
        yield from list(results.problems)[: _LINES - 1]
    else:
        conclusions = conclude(results)
        found = [conclusions[name].text for name in FIRST if name in conclusions][:_LINES]
        yield from found or ["Nothing was measured that two-phase commit and a saga could be compared by."]
    yield f"The report: {', '.join(str(path) for path in files)}"


def show(console: Console, results: Results, files: Sequence[Path]) -> None:
    """Prints them."""
    for line in lines_of(results, files):
        console.print(Text(line))


class Progression:
    """How far the run is, on stderr: a bar in a terminal, a line for each section elsewhere."""

    def __init__(self, console: Console) -> None:
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
        self._task = self._progress.add_task("starting Postgres servers, participants and a coordinator", total=None)
        self._told: Section | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows it while the block runs."""
        with self._progress:
            yield

    def __call__(self, section: Section, done: int, total: int, what: str) -> None:
        """So many of the measurements of a section are done; `what` comes next."""
        title = f"{TITLES[section]} ({list(Section).index(section) + 1} of {len(Section)})"
        self._progress.update(self._task, description=f"{title}: {what}", completed=done, total=total)
        if self._progress.disable and self._told is not section:
            self._told = section
            self._console.print(Text(f"{title}: {total} measurements"))
