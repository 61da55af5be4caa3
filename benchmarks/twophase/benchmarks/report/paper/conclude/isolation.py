"""What is concluded about what others see.

Lives here: functions of results. Each gives None if what it needs was not measured.
"""

from __future__ import annotations

from twophase.benchmarks.report.paper.compare import Comparison, compared, spread_of
from twophase.benchmarks.report.paper.conclude.values import SAME, Conclusion, better_of, both, otherwise
from twophase.benchmarks.report.paper.words import NAMES, levels, number, plain, spread
from twophase.benchmarks.report.values import Results, Section, Who


def visible(found: Results) -> Conclusion | None:
    """How often somebody who looks sees half of a transaction, or what is undone later."""
    line = compared(found, Section.ISOLATION, "seen_half_per_10000")
    if not line:
        return None
    chosen = max(line, key=lambda each: float(each.factors.get("refused_share", 0)))
    better = better_of(chosen)
    one, two = number(chosen.first.value), number(chosen.second.value)
    if better is None:
        text = f"Of 10,000 looks at both databases, {one} see two-phase commit half done and {two} a saga; {SAME}."
    else:
        text = f"Of 10,000 looks at both databases, {two} see a saga half done, and {one} two-phase commit."
    figures = both(chosen, "per 10,000", "seen half done, ")
    undone = {
        who: spread_of(found, Section.ISOLATION, who, "undone_seen_per_10000", **chosen.factors)
        for who in (Who.TWO_PHASE, Who.SAGA)
    }
    saga = undone[Who.SAGA]
    if saga is not None and saga.value > 0:
        text += f" {number(saga.value)} see something that the saga undoes later{_refused(chosen)}."
    text += " Plain reads may see two-phase commit half done, for milliseconds; reads FOR SHARE at both cannot."
    for who, seen in undone.items():
        if seen is not None:
            figures.append((f"seen and undone later, {NAMES[who]}", f"{spread(seen)} per 10,000"))
    held = spread_of(found, Section.ISOLATION, Who.SAGA, "reservation_p50_ms", **chosen.factors)
    if held is not None:
        figures.append(("a saga is half done for, median", f"{spread(held)} ms"))
    return Conclusion(
        Section.ISOLATION,
        "what others see",
        text,
        figures,
        f"{levels(chosen.factors)}; an observer that reads both databases without locking. FOR SHARE helps if both"
        " reading transactions stay open until the last row is read; with a saga it does not help.",
        otherwise(line, chosen),
        chosen.strength,
        better,
    )


def _refused(chosen: Comparison) -> str:
    share = chosen.factors.get("refused_share")
    return f" ({plain(share)} % of the transactions were meant to be refused)" if share is not None else ""
