"""When one figure is said to be better than another, and where that turns.

Lives here: comparing medians by their spreads, and the crossing of two lines. Must not live here: sentences.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.paper.spreads import Spread, longest_of, spread_among
from twophase.benchmarks.report.values import Level, Results, Section, Who

MARGIN: Final = 0.05
"""Medians that are closer than this share are no difference: it is of no use to anybody."""
ONCE_MARGIN: Final = 0.25
"""The same, if there is only one repetition: then nobody knows the spread."""
_WHOLE: Final = {"%": 100.0, "per 10,000": 10_000.0}
"""By the unit of a share."""


class Strength(Enum):
    """How sure a difference is. The value is what the report says of it."""

    CLEAR = "clear: the brackets do not touch"
    LIKELY = "likely: the brackets overlap, but neither median lies in the other's"
    ONCE = "measured once: the spread is not known"
    NONE = "no difference was found: one median lies in the brackets of the other, or they are at most 5 % apart"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two contenders at the same factors. `better` is None where there is no difference that can be told."""

    first: Spread
    second: Spread
    more_is_better: bool
    factors: Mapping[str, Level]

    @property
    def strength(self) -> Strength:
        """How sure it is that the two differ."""
        first, second = self.first, self.second
        high, low = max(first.value, second.value), min(first.value, second.value)
        once = 1 in (first.repetitions, second.repetitions)
        if high == low or (math.isfinite(high) and high - low <= (ONCE_MARGIN if once else MARGIN) * high):
            return Strength.NONE
        if first.low <= second.value <= first.high or second.low <= first.value <= second.high:
            return Strength.NONE
        if once:
            return Strength.ONCE
        return Strength.CLEAR if first.high < second.low or second.high < first.low else Strength.LIKELY

    @property
    def first_is_better(self) -> bool | None:
        """None if there is no difference that can be told."""
        if self.strength is Strength.NONE:
            return None
        return (self.first.value > self.second.value) is self.more_is_better

    @property
    def ratio(self) -> float:
        """The higher median by the lower one; infinite if that is zero."""
        high, low = max(self.first.value, self.second.value), min(self.first.value, self.second.value)
        return high / low if low else math.inf


def spread_of(results: Results, section: Section, who: Who, figure: str, **factors: Level) -> Spread | None:
    """A figure over the repetitions; what never ended counts, as endless. Give every factor, or levels are mixed."""
    cells: dict[tuple[object, ...], list[float]] = {}
    values = []
    for each in results.of(section):
        value = each.figures.get(figure)
        if value is None or math.isnan(value):
            continue
        cells.setdefault((each.who, *sorted(each.factors.items())), []).append(value)
        if each.who is who and all(each.factors.get(name) == level for name, level in factors.items()):
            values.append(value)
    known = CATALOGUE[section].figures[figure]
    if known.is_longest:
        return longest_of(values)
    return spread_among(values, list(cells.values()), whole=_WHOLE.get(known.unit))


def combinations(results: Results, section: Section, *whos: Who) -> list[Mapping[str, Level]]:
    """At which factors all of these were measured: by the first factor, then by the next one, each level in the order
    of measuring."""
    found: list[Mapping[str, Level]] = []
    for each in results.of(section):
        if each.factors not in found and all(results.of(section, who, **each.factors) for who in whos):
            found.append(each.factors)
    places = {name: results.levels(section, name) for name in CATALOGUE[section].factors}
    return sorted(
        found, key=lambda each: [levels.index(each[name]) if name in each else -1 for name, levels in places.items()]
    )


def compared(
    results: Results, section: Section, figure: str, first: Who = Who.TWO_PHASE, second: Who = Who.SAGA
) -> list[Comparison]:
    """Two contenders wherever both have the figure."""
    more_is_better = bool(CATALOGUE[section].figures[figure].more_is_better)
    found = []
    for factors in combinations(results, section, first, second):
        one = spread_of(results, section, first, figure, **factors)
        other = spread_of(results, section, second, figure, **factors)
        if one is not None and other is not None:
            found.append(Comparison(one, other, more_is_better, factors))
    return found


@dataclass(frozen=True, slots=True)
class Turn:
    """Between two neighbouring levels the better one becomes the other, or the difference is lost.

    `about` is the level at which the medians would be equal, if there is a way to tell.
    """

    before: Comparison
    after: Comparison
    about: float | None


def turns(line: Sequence[Comparison], factor: str) -> Iterator[Turn]:
    """Where the verdict changes along a factor. The comparisons are in the factor's order."""
    for before, after in itertools.pairwise(line):
        if before.first_is_better is not after.first_is_better:
            yield Turn(before, after, _crossing(before, after, factor))


def _crossing(before: Comparison, after: Comparison, factor: str) -> float | None:
    """Logarithms of ratio and level lie on a straight line, more or less; without one there is no crossing."""
    low, high = before.factors[factor], after.factors[factor]
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low <= 0 or high <= 0:
        return None
    medians = (before.first.value, before.second.value, after.first.value, after.second.value)
    if not all(math.isfinite(median) and median > 0 for median in medians):
        return None
    one, other = math.log(medians[0] / medians[1]), math.log(medians[2] / medians[3])
    if one * other >= 0:
        return None
    return math.exp(math.log(low) + (math.log(high) - math.log(low)) * one / (one - other))
