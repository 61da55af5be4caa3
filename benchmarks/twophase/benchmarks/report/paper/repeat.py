"""Two runs beside each other: whether the same came out again, figure by figure and conclusion by conclusion.

Lives here: the comparison, and its lines for a terminal. Must not live here: when two figures differ (`compare`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from twophase.benchmarks.report.catalogue import CATALOGUE, Quantity
from twophase.benchmarks.report.paper.compare import (
    MARGIN,
    Comparison,
    Strength,
    combinations,
    spread_of,
)
from twophase.benchmarks.report.paper.conclude.all import conclude
from twophase.benchmarks.report.paper.conclude.values import verdict
from twophase.benchmarks.report.paper.words import NAMES, TITLES, levels, quantity, spread
from twophase.benchmarks.report.values import Results, Section, Who

_FARTHEST: Final = 3
_OF_TIME: Final = ("ms", "per second")
"""The units of what may depend on how fast the machine is."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure of one contender in both runs. `slower` is how many times as long the machine took for the same work
    in the second one."""

    section: Section
    who: Who
    figure: Quantity
    both: Comparison
    slower: float = 1.0

    @property
    def came_again(self) -> bool:
        """True if there is no difference by the report's own rule."""
        return self.both.strength is Strength.NONE

    @property
    def is_of_the_pace(self) -> bool:
        """True if it did not come again, and the machine's own pace explains why: had the second run gone at the first
        one's, it would have come out anywhere between what it did and that corrected for all of the pace, depending on
        how much of it is processor time; and some of that is no difference."""
        first, second = self.both.first, self.both.second
        if self.came_again or self.figure.unit not in _OF_TIME or not math.isfinite(second.value):
            return False
        factor = 1 / self.slower if self.figure.unit == "ms" else self.slower
        values = [second.value, second.value * factor]
        ends = [end * share for end in (second.low, second.high) for share in (1, factor)]
        meets = min(values) <= first.high and first.low <= max(values)
        return meets or min(ends) <= first.value <= max(ends)

    def __str__(self) -> str:
        first, second = spread(self.both.first), spread(self.both.second)
        about = ", ".join(part for part in (NAMES[self.who], levels(self.both.factors)) if part)
        return f"{quantity(self.figure)}, {about}: {first}, then {second}"


@dataclass(frozen=True, slots=True)
class Repeat:
    """`turned`: conclusions that name one protocol as better in one run and the other in the other, in words."""

    pairs: tuple[Pair, ...]
    turned: tuple[str, ...]
    same: int
    weaker: tuple[str, ...]
    differences: tuple[str, ...]

    @property
    def is_repeated(self) -> bool:
        """True if no conclusion turned round."""
        return not self.turned


def repeat_of(first: Results, second: Results) -> Repeat:
    """What both have measured."""
    turned, weaker, same = [], [], 0
    one, other = conclude(first), conclude(second)
    for name in one.keys() & other.keys():
        before, after = one[name].better, other[name].better
        told = f"{one[name].matter}: {verdict(before)}, then {verdict(after)}"
        if before is after:
            same += 1
        elif before is None or after is None:
            weaker.append(told)
        else:
            turned.append(told)
    return Repeat(
        tuple(_pairs(first, second)),
        tuple(sorted(turned)),
        same,
        tuple(sorted(weaker)),
        tuple(_differences(first, second)),
    )


def lines_of(found: Repeat) -> Iterator[str]:
    """For a terminal."""
    yield from found.differences
    for section in CATALOGUE:
        of_it = [pair for pair in found.pairs if pair.section is section]
        if not of_it:
            continue
        again = sum(pair.came_again for pair in of_it)
        explained = sum(pair.is_of_the_pace for pair in of_it)
        more = f", {explained} more if the machine's pace is taken into account" if explained else ""
        yield f"{TITLES[section]}: {again} of {len(of_it)} medians came again{more}{_pace(of_it[0].slower)}"
        left = [pair for pair in of_it if not (pair.came_again or pair.is_of_the_pace)]
        left.sort(key=lambda pair: -pair.both.ratio)
        yield from (f"  {pair}" for pair in left[:_FARTHEST])
    again = sum(pair.came_again for pair in found.pairs)
    yield (
        f"{again} of {len(found.pairs)} medians came again: they are within each other's spread, or at most"
        f" {MARGIN:.0%} apart. Of 20, 19 are expected to, of a machine that is as fast both times."
    )
    if explained := sum(pair.is_of_the_pace for pair in found.pairs):
        yield (
            f"{explained} more differ by no more than the machine itself did: together {again + explained} of"
            f" {len(found.pairs)}."
        )
    told = f"{found.same} of {found.same + len(found.weaker) + len(found.turned)} conclusions came out the same"
    yield f"{told}{'.' if found.is_repeated and not found.weaker else ':'}"
    yield from (f"  no difference in one of the two: {each}" for each in found.weaker)
    yield from (f"  turned round: {each}" for each in found.turned)


def _pace(slower: float) -> str:
    if abs(slower - 1) <= MARGIN:
        return ""
    how = f"{slower:.2f} times slower" if slower > 1 else f"{1 / slower:.2f} times faster"
    return f" (the machine itself was {how} the second time)"


def _pairs(first: Results, second: Results) -> Iterator[Pair]:
    for section, entry in CATALOGUE.items():
        before, after = first.pace_us(section), second.pace_us(section)
        slower = after / before if before and after else 1.0
        for who in first.whos(section):
            for factors in combinations(first, section, who):
                for name, figure in entry.figures.items():
                    one = spread_of(first, section, who, name, **factors)
                    other = spread_of(second, section, who, name, **factors)
                    if one is not None and other is not None:
                        both = Comparison(one, other, bool(figure.more_is_better), factors)
                        yield Pair(section, who, figure, both, slower)


def _differences(first: Results, second: Results) -> Iterator[str]:
    """What was not the same, so that nobody wonders."""
    told: Mapping[str, tuple[object, object]] = {
        "suite": (first.suite, second.suite),
        "seed": (first.seed, second.seed),
        **{
            name: (first.setting.get(name, "unknown"), second.setting.get(name, "unknown"))
            for name in ("machine", "versions", "revision")
        },
    }
    for name, (one, other) in told.items():
        if one != other:
            yield f"Not the same {name}: {one}, then {other}."
