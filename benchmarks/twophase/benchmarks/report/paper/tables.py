"""Tables of a section: medians and spreads, taken from the results by the catalogue's names.

Lives here: two shapes of tables. Must not live here: which section has which (`sections`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twophase.benchmarks.report.catalogue import CATALOGUE, Quantity
from twophase.benchmarks.report.paper.blocks import Table
from twophase.benchmarks.report.paper.compare import combinations, spread_of
from twophase.benchmarks.report.paper.words import NAMES, level, plain, quantity, sentence, spread
from twophase.benchmarks.report.values import NEVER, Level, Results, Section


def by_contender(found: Results, section: Section, figure: str) -> Table | None:
    """One figure: a row for each combination of factors, a column for each contender."""
    entry = CATALOGUE[section]
    whos = [who for who in found.whos(section) if any(figure in each.figures for each in found.of(section, who))]
    if not whos:
        return None
    rows = [
        [
            *_factors(entry.factors, factors),
            *(spread(spread_of(found, section, who, figure, **factors)) for who in whos),
        ]
        for factors in combinations(found, section)
    ]
    caption = f"{quantity(entry.figures[figure])}: median (spread)"
    names = [NAMES[who] for who in whos]
    return Table(sentence(caption), [*_heads(entry.factors), *names], rows, len(entry.factors))


def by_figure(found: Results, section: Section, figures: Sequence[str], caption: str) -> Table | None:
    """Several figures: a row for each combination and contender, a column for each figure."""
    entry = CATALOGUE[section]
    kept = [name for name in figures if any(name in each.figures for each in found.of(section))]
    if not kept:
        return None
    rows = []
    for factors in combinations(found, section):
        for who in found.whos(section):
            spreads = [spread_of(found, section, who, name, **factors) for name in kept]
            if any(spreads):
                rows.append([*_factors(entry.factors, factors), NAMES[who], *map(spread, spreads)])
    heads = [quantity(entry.figures[name]) for name in kept]
    head = [*_heads(entry.factors), "contender", *heads]
    return Table(f"{caption}: median (spread)", head, rows, len(entry.factors) + 1)


def _factors(known: Mapping[str, Quantity], factors: Mapping[str, Level]) -> list[str]:
    return [_cell(name, factors[name]) if name in factors else "–" for name in known]


def _cell(name: str, value: Level) -> str:
    return level(name, value) if value == NEVER or name == "hot_rows" else plain(value)


def _heads(factors: Mapping[str, Quantity]) -> list[str]:
    return [quantity(each) for each in factors.values()]
