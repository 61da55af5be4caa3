"""What a terminal shows while a run is under way: how far it is, how long it will take, and what failed.

Lives here: words and layout for a terminal. Must not live here: what is measured, what is found (`summary`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from twophase.benchmarks.report.paper.words import TITLES, duration
from twophase.benchmarks.report.values import Results, Section

_STARTING: Final = "starting Postgres servers, participants and a coordinator"


class Progression:
    """How far the run is, on stderr: a bar in a terminal, a line for each section elsewhere.

    `expected`: the seconds that each section will take, more or less. `keep` gets the results after each section.
    """

    def __init__(self, console: Console, expected: Mapping[Section, float], keep: Callable[[Results], None]) -> None:
        self._console = console
        self._expected = expected
        self._keep = keep
        self._whole = sum(expected.values())
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn(f"of about {duration(self._whole)}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(_STARTING, total=self._whole)
        self._begun: list[Section] = []

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Shows it while the block runs."""
        self._say(f"{len(self._expected)} sections, about {duration(self._whole)} in all")
        with self._progress:
            yield

    def __call__(self, section: Section, done: int, total: int, what: str, /) -> None:
        """So many of the measurements of a section are done; `what` comes next."""
        is_new = section not in self._begun
        if is_new:
            self._begun.append(section)
        before = sum(self._expected.get(each, 0.0) for each in self._begun[:-1])
        here = self._expected.get(section, 0.0)
        title = f"{TITLES[section]} ({len(self._begun)} of {len(self._expected)})"
        self._progress.update(self._task, description=f"{title}: {what}", completed=before + here * done / total)
        if self._progress.disable and is_new:
            share = 100 * before / self._whole if self._whole else 0
            self._say(f"{title}: {total} measurements, about {duration(here)}; {share:.0f} % of the run is done")

    def failed(self, section: Section, error: Exception) -> None:
        """Says so at once, with everything that helps to find out why."""
        self._say("".join(traceback.format_exception(error)).rstrip())
        self._say(f"{TITLES[section]} failed and will be missing from the report; the run goes on.")

    def so_far(self, results: Results) -> None:
        """Keeps them."""
        self._keep(results)

    def _say(self, text: str) -> None:
        self._console.print(Text(text), soft_wrap=True)  # a line stays a line where nobody sees it wrapped
