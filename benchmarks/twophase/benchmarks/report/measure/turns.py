"""In which order contenders are measured: everyone once before anyone again, and nobody always behind the same one.

Lives here: the order. Must not live here: what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from twophase.benchmarks.report.values import Who

_Level = TypeVar("_Level")


def turns(repetitions: int, levels: Sequence[_Level], whos: Sequence[Who]) -> Iterator[tuple[int, _Level, Who]]:
    """Repetition, level, contender."""
    number = 0
    for repetition in range(repetitions):
        for level in levels:
            first = number % len(whos)
            number += 1
            for who in (*whos[first:], *whos[:first]):
                yield repetition, level, who
