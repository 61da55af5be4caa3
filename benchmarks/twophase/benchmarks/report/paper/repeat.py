"""Two runs beside each other: whether the same came out again, figure by figure and conclusion by conclusion.

Lives here: the comparison, and its lines for a terminal. Must not live here: when two figures differ (`compare`).
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure of one contender in both runs."""

    section: Section
    who: Who
    figure: Quantity
    both: Comparison

    @property
    def came_again(self) -> bool:
        """True if there is no difference by the report's own rule."""
        return self.both.strength is Strength.NONE

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
        yield f"{TITLES[section]}: {again} of {len(of_it)} medians came again"
        left = sorted((pair for pair in of_it if not pair.came_again), key=lambda pair: -pair.both.ratio)
        yield from (f"  {pair}" for pair in left[:_FARTHEST])
    again = sum(pair.came_again for pair in found.pairs)
    yield (
        f"{again} of {len(found.pairs)} medians came again: they are within each other's spread, or at most"
        f" {MARGIN:.0%} apart. Of 20, 19 are expected to."
    )
    told = f"{found.same} of {found.same + len(found.weaker) + len(found.turned)} conclusions came out the same"
    yield f"{told}{'.' if found.is_repeated and not found.weaker else ':'}"
    yield from (f"  no difference in one of the two: {each}" for each in found.weaker)
    yield from (f"  turned round: {each}" for each in found.turned)


def _pairs(first: Results, second: Results) -> Iterator[Pair]:
    for section, entry in CATALOGUE.items():
        for who in first.whos(section):
            for factors in combinations(first, section, who):
                for name, figure in entry.figures.items():
                    one = spread_of(first, section, who, name, **factors)
                    other = spread_of(second, section, who, name, **factors)
                    if one is not None and other is not None:
                        yield Pair(section, who, figure, Comparison(one, other, bool(figure.more_is_better), factors))


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
