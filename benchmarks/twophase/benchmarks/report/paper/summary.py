"""What a terminal shows when a run is over: its conclusions in five lines.

Lives here: which lines. Must not live here: the files, exit codes, how far a run is (`progression`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

from twophase.benchmarks.report.paper.conclude.all import FIRST, conclude
from twophase.benchmarks.report.paper.words import TITLES, listed
from twophase.benchmarks.report.values import Results

_LINES: Final = 4


def lines_of(results: Results, files: Sequence[Path]) -> Iterator[str]:
    """The conclusions that matter most, or why there are none; and where the report is. Five lines at most."""
    if results.is_void:
        yield "This run is void: the databases did not hold what they should."
        yield from list(results.problems)[: _LINES - 1]
    else:
        conclusions = conclude(results)
        room = _LINES
        if results.missing:
            room -= 1
            yield f"Not whole: {listed(f'{TITLES[section]} ({why})' for section, why in results.missing.items())}."
        found = [conclusions[name].text for name in FIRST if name in conclusions][:room]
        yield from found or ["Nothing was measured that two-phase commit and a saga could be compared by."]
    yield f"The report: {', '.join(str(path) for path in files)}"


def show(console: Console, results: Results, files: Sequence[Path]) -> None:
    """Prints them."""
    for line in lines_of(results, files):
        console.print(Text(line))
