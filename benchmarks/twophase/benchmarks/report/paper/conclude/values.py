"""A conclusion, and what every one is made with.

Lives here: the value, the crash point that is looked at, phrases that all conclusions use. Must not live here: any one
conclusion. Every text is computed: if the figures say otherwise, it comes out otherwise, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.paper.compare import Comparison, Strength, spread_of
from twophase.benchmarks.report.paper.words import NAMES, SUBJECTS, levels, listed, sentence, spread
from twophase.benchmarks.report.values import Level, Results, Section, Who

SAME: Final = "no difference was found that is larger than the spread"
FEW: Final = 4
"""Settings told by name; more of them are counted."""


@dataclass(frozen=True, slots=True)
class Conclusion:
    """What was found. `matter` names it in a few words; `better` is None if there is no difference to tell. `compares`:
    it is about two-phase commit beside a saga."""

    section: Section
    matter: str
    text: str
    figures: Sequence[tuple[str, str]]
    holds_when: str
    flips_when: str
    strength: Strength | None
    better: Who | None = None
    compares: bool = True

    def in_figures(self) -> str:
        """The numbers behind it, in one line."""
        return sentence("; ".join(f"{name}: {value}" for name, value in self.figures)) + "."


def better_of(comparison: Comparison) -> Who | None:
    """Of two-phase commit and saga."""
    if comparison.first_is_better is None:
        return None
    return Who.TWO_PHASE if comparison.first_is_better else Who.SAGA


def both(comparison: Comparison, unit: str, what: str = "") -> list[tuple[str, str]]:
    """The two medians with their spreads."""
    pairs = ((Who.TWO_PHASE, comparison.first), (Who.SAGA, comparison.second))
    return [(f"{what}{NAMES[who]}", f"{spread(found)} {unit}".strip()) for who, found in pairs]


def verdict(who: Who | None) -> str:
    """Who is ahead, in a clause."""
    return "no difference" if who is None else f"{SUBJECTS[who]} is ahead"


def other(who: Who) -> Who:
    """The one protocol or the other."""
    return Who.SAGA if who is Who.TWO_PHASE else Who.TWO_PHASE


def otherwise(line: Sequence[Comparison], found: Comparison) -> str:
    """In which of the other settings it comes out differently, in words."""
    others = [each for each in line if each is not found]
    told = []
    for who in (Who.TWO_PHASE, Who.SAGA, None):
        group = [each for each in others if better_of(each) is who]
        if group and who is not better_of(found):
            told.append(f"{verdict(who)} with {_settings(group)}")
    if told:
        return "; ".join(told) + "."
    if not others:
        return "not known: measured in one setting."
    return f"in none of the {len(others)} other settings that were measured." if len(others) > 1 else _ONLY


_ONLY: Final = "not in the one other setting that was measured."


def _settings(group: Sequence[Comparison]) -> str:
    if len(group) > FEW:
        return f"{len(group)} of the settings that were measured, among them {levels(group[0].factors)}"
    return listed((levels(each.factors) for each in group), last="and with")


def worst_points(found: Results) -> dict[Who, Level]:
    """Where a kill harms others most: of all points at which a protocol was killed, by the longest wait for a row."""
    chosen: dict[Who, Level] = {}
    for who in (Who.TWO_PHASE, Who.SAGA):
        worst = -math.inf
        for point in dict.fromkeys(each.factors["point"] for each in found.of(Section.CRASH, who)):
            wait = sum(
                min(spread.value, 1e9)
                for outage in found.levels(Section.CRASH, "outage_s")
                if (spread := spread_of(found, Section.CRASH, who, "victim_max_ms", point=point, outage_s=outage))
            )
            if wait > worst:
                worst, chosen[who] = wait, point
    return chosen


def crashed(found: Results, figure: str, outage: Level) -> Comparison | None:
    """Both protocols killed where it harms others most, for this long."""
    points = worst_points(found)
    spreads = {
        who: spread_of(found, Section.CRASH, who, figure, point=point, outage_s=outage) for who, point in points.items()
    }
    first, second = spreads.get(Who.TWO_PHASE), spreads.get(Who.SAGA)
    if first is None or second is None:
        return None
    more = bool(CATALOGUE[Section.CRASH].figures[figure].more_is_better)
    return Comparison(first, second, more, {"outage_s": outage})


def subject(who: Who) -> str:
    """For the beginning of a sentence or within it."""
    return SUBJECTS[who]


Concludes: TypeAlias = Callable[[Results], Conclusion | None]
