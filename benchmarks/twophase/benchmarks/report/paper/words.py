"""How contenders, levels and numbers are called: the same in sentences, tables and drawings.

Lives here: names and number formats. Must not live here: what is said with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from twophase.benchmarks.report.catalogue import Quantity
from twophase.benchmarks.report.paper.spreads import Spread
from twophase.benchmarks.report.values import NEVER, Level, Section, Who

NAMES: Final[Mapping[Who, str]] = {
    Who.LOCAL: "independent local commits",
    Who.LOOP: "hand-written loop",
    Who.SQLALCHEMY: "SQLAlchemy twophase",
    Who.TWO_PHASE: "two-phase commit",
    Who.IN_TURN: "two-phase commit in turn",
    Who.SAGA: "saga",
    Who.DBOS: "DBOS saga",
}
"""In tables and drawings."""

SUBJECTS: Final[Mapping[Who, str]] = {
    Who.LOCAL: "independent local commits",
    Who.LOOP: "a hand-written loop",
    Who.SQLALCHEMY: "SQLAlchemy's two-phase session",
    Who.TWO_PHASE: "two-phase commit",
    Who.IN_TURN: "two-phase commit whose branches prepare in turn",
    Who.SAGA: "a saga",
    Who.DBOS: "a saga with DBOS",
}
"""In sentences."""

TITLES: Final[Mapping[Section, str]] = {
    Section.CAPACITY: "Capacity",
    Section.LATENCY: "Latency at an offered rate",
    Section.CONTENTION: "Contention",
    Section.CRASH: "A dead coordinator",
    Section.SLOW: "A slow participant",
    Section.PARTITION: "A partition",
    Section.ISOLATION: "What others can see",
    Section.FAN_OUT: "More participants",
    Section.CLEARING: "Clearing what is in doubt",
}

ENDLESS: Final = "not in the time measured"
"""What did not happen while it was measured has no number."""

_MOMENTS: Final[Mapping[str, str]] = {
    "coordinator.after-vote": "when all had prepared and nothing was decided",
    "coordinator.before-commit": "when it was decided and nobody had been told",
    "saga.after-step": "right after a first step",
    "saga.before-step": "right before a second step",
}

_LONG_MS: Final = 1_000
_MINUTE_AND_A_HALF: Final = 90


def number(value: float) -> str:
    """Three digits that count, and no more: 0.123, 12.3, 1,230."""
    if not math.isfinite(value):
        return ENDLESS
    if value == 0:
        return "0"
    places = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    return f"{rounded:,.{places}f}".rstrip("0").rstrip(".") if places > 0 else f"{rounded:,.0f}"


def milliseconds(value: float) -> str:
    """With its unit; in seconds from one second on."""
    if not math.isfinite(value):
        return ENDLESS
    return f"{number(value / 1_000)} s" if value >= _LONG_MS else f"{number(value)} ms"


def duration(seconds: float) -> str:
    """About how long, as one says it."""
    return f"{seconds:.0f} s" if seconds < _MINUTE_AND_A_HALF else f"{seconds / 60:.0f} minutes"


def times(ratio: float) -> str:
    """How often one number goes into another."""
    return f"{number(ratio)} times" if ratio < 1_000 else "more than a thousand times"


def spread(found: Spread | None) -> str:
    """Median, and where another run's would lie if there is more than one repetition: 120 (110 to 133)."""
    if found is None:
        return "–"
    if found.repetitions == 1 or not math.isfinite(found.low):
        return number(found.value)
    return f"{number(found.value)} ({number(found.low)} to {number(found.high)})"


def quantity(found: Quantity) -> str:
    """For the head of a column or an axis."""
    return f"{found.label} ({found.unit})" if found.unit else found.label


def level(factor: str, value: Level) -> str:
    """What a factor is set to, in a sentence: 16 clients, an outage of 10 s."""
    if factor == "outage_s":
        return "never started again" if value == NEVER else f"an outage of {plain(value)} s"
    if factor == "hot_rows":
        return {0: "no shared row", 1: "one row for all"}.get(_whole(value), f"{plain(value)} shared rows")
    if factor == "clients":
        return "1 client" if value == 1 else f"{plain(value)} clients"
    if factor == "branches":
        return "1 branch in doubt" if value == 1 else f"{plain(value)} branches in doubt"
    if factor == "point":
        return f"killed {moment(value)}"
    if factor == "refused_share":
        return f"{plain(value)} % meant to be refused"
    words = {
        "participants": "{} participants",
        "decided": "decided before the crash: {}",
        "delay_ms": "{} ms late",
        "seconds": "cut off for {} s",
        "offered_per_s": "{} offered a second",
    }
    return words.get(factor, "{}").format(plain(value))


def moment(point: Level) -> str:
    """When a coordinator died, in a clause."""
    return _MOMENTS.get(plain(point), f"at {plain(point)}")


def levels(factors: Mapping[str, Level]) -> str:
    """A combination of factors, in a sentence."""
    return ", ".join(level(factor, value) for factor, value in factors.items())


def plain(value: Level) -> str:
    """A level alone, for a cell."""
    return value if isinstance(value, str) else f"{value:,.10g}"


def listed(parts: Iterable[str], *, last: str = "and") -> str:
    """One, two and three."""
    found: Sequence[str] = list(parts)
    return f"{', '.join(found[:-1])} {last} {found[-1]}" if len(found) > 1 else "".join(found)


def sentence(text: str) -> str:
    """With a capital letter at its beginning."""
    return text[:1].upper() + text[1:]


def _whole(value: Level) -> int:
    return int(value) if isinstance(value, int | float) else -1
