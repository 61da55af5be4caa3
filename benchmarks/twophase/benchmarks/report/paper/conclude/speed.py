"""What is concluded about speed: capacity, contention, what atomicity costs, more participants.

Lives here: functions of results. Each gives None if what it needs was not measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from twophase.benchmarks.report.paper.compare import Comparison, Strength, compared, spread_of, turns
from twophase.benchmarks.report.paper.conclude.values import (
    SAME,
    Conclusion,
    better_of,
    both,
    other,
    otherwise,
    subject,
    verdict,
)
from twophase.benchmarks.report.paper.spreads import Spread
from twophase.benchmarks.report.paper.words import (
    NAMES,
    level,
    levels,
    listed,
    milliseconds,
    number,
    sentence,
    spread,
    times,
)
from twophase.benchmarks.report.values import Level, Results, Section, Who

_MANY: Final = 100
"""Refusals in 10,000 from which on they are told in the sentence itself."""


def capacity(found: Results) -> Conclusion | None:
    """Who does more a second, with as many clients as were measured and the fewest refusals."""
    line = compared(found, Section.CAPACITY, "throughput_per_s")
    if not line:
        return None
    workload = found.levels(Section.CAPACITY, "workload")[:1]
    usual = [each for each in line if [each.factors.get("workload")] == workload] or line
    fewest = min(float(each.factors.get("refused_share", 0)) for each in usual)
    usual = [each for each in usual if float(each.factors.get("refused_share", 0)) == fewest]
    chosen = max(usual, key=lambda each: float(each.factors.get("clients", 0)))
    better = better_of(chosen)
    where = levels(chosen.factors)
    if better is None:
        text = (
            "While transactions rarely want the same rows, two-phase commit and a saga do about as many a second:"
            f" {SAME}."
        )
    else:
        text = (
            f"While transactions rarely want the same rows, {subject(better)} does {times(chosen.ratio)} as many a"
            f" second as {subject(other(better))}."
        )
    flips = otherwise(line, chosen)
    return Conclusion(
        Section.CAPACITY,
        "throughput without contention",
        text,
        both(chosen, "per second"),
        f"{where}.",
        flips,
        chosen.strength,
        better,
    )


def latency(found: Results) -> Conclusion | None:
    """Who is slow more rarely, at the highest rate that was offered of the first workload."""
    line = compared(found, Section.LATENCY, "p99_ms")
    if not line:
        return None
    usual = [each for each in line if each.factors.get("workload") == line[0].factors.get("workload")]
    chosen = max(usual, key=lambda each: float(each.factors["offered_per_s"]))
    better = better_of(chosen)
    rate = level("offered_per_s", chosen.factors["offered_per_s"])
    one, two = milliseconds(chosen.first.value), milliseconds(chosen.second.value)
    if better is None:
        text = f"With {rate}, the slowest of a hundred takes about as long under both: {SAME}."
    else:
        text = f"With {rate}, 99 of 100 take at most {one} under two-phase commit, and {two} under a saga."
    figures = both(chosen, "ms", "99 of 100 take at most, ")
    for who in (Who.TWO_PHASE, Who.SAGA):
        middle = spread_of(found, Section.LATENCY, who, "p50_ms", **chosen.factors)
        if middle is not None:
            figures.append((f"median, {NAMES[who]}", f"{spread(middle)} ms"))
    return Conclusion(
        Section.LATENCY,
        "latency at an offered rate",
        text,
        figures,
        f"{levels(chosen.factors)}.",
        otherwise(line, chosen),
        chosen.strength,
        better,
    )


def contention(found: Results) -> Conclusion | None:
    """Who does more, the fewer rows all share; and where that turns."""
    line = along(compared(found, Section.CONTENTION, "throughput_per_s"), found)
    if not line:
        return None
    last = line[-1]
    better = better_of(last)
    where = level("hot_rows", last.factors["hot_rows"])
    if better is None:
        text = f"With {where}, two-phase commit and a saga do about as many a second: {SAME}."
    else:
        text = (
            f"With {where}, {subject(better)} does {times(last.ratio)} as many transactions a second as"
            f" {subject(other(better))}."
        )
    in_turn = spread_of(found, Section.CONTENTION, Who.IN_TURN, "throughput_per_s", **last.factors)
    if in_turn is not None:
        beside = Comparison(in_turn, last.second, more_is_better=True, factors=last.factors)
        text += (
            " If two-phase commit asks its participants one after the other (in turn) instead of all at once,"
            f" {_beside_a_saga(beside)}."
        )
    figures = [
        (
            level("hot_rows", each.factors["hot_rows"]),
            f"two-phase commit {spread(each.first)}, saga {spread(each.second)} per second",
        )
        for each in ([line[0], last] if len(line) > 1 else [last])
    ]
    for who in (Who.TWO_PHASE, Who.SAGA):
        refused = spread_of(found, Section.CONTENTION, who, "refused_per_10000", **last.factors)
        if refused is not None:
            figures.append((f"refused, {NAMES[who]}", f"{spread(refused)} per 10,000"))
        if refused is not None and refused.value >= _MANY:
            tries = number(refused.value)
            text += f" Of 10,000 tries, {tries} are refused under {subject(who)}, having waited for each other's rows."
    if in_turn is not None:
        figures.append((f"{where}, {NAMES[Who.IN_TURN]}", f"{spread(in_turn)} per second"))
    clients = level("clients", last.factors["clients"]) if "clients" in last.factors else ""
    return Conclusion(
        Section.CONTENTION,
        f"throughput with {where}",
        text,
        figures,
        f"{where}{', ' if clients else ''}{clients}.",
        turning(line, "hot_rows", "from no shared row to one for all"),
        last.strength,
        better,
    )


def _beside_a_saga(in_turn: Comparison) -> str:
    """What in turn comes to, in a clause."""
    match in_turn.first_is_better:
        case None:
            return "it does about as many as a saga"
        case True:
            return f"it does {times(in_turn.ratio)} as many as a saga"
        case False:
            return f"a saga does {times(in_turn.ratio)} as many"


def along(comparisons: Sequence[Comparison], found: Results) -> list[Comparison]:
    """From the least contention to the most, with the most clients that were measured."""
    clients = found.levels(Section.CONTENTION, "clients")
    kept = [each for each in comparisons if not clients or each.factors.get("clients") == max(clients, key=float)]

    def by_sharing(each: Comparison) -> float:
        rows = float(each.factors["hot_rows"])
        return -rows if rows else float("-inf")

    return sorted(kept, key=by_sharing)


def turning(line: Sequence[Comparison], factor: str, whole: str) -> str:
    """Where along a factor the verdict changes, in words."""
    told = []
    for turn in turns(line, factor):
        before, after = better_of(turn.before), better_of(turn.after)
        low, high = (level(factor, each.factors[factor]) for each in (turn.before, turn.after))
        about = f", at about {level(factor, _rounded(turn.about))}" if turn.about is not None else ""
        told.append(f"it turns between {low} ({verdict(before)}) and {high} ({verdict(after)}){about}")
    if told:
        return "; ".join(told) + "."
    if len(line) < 2:
        return "not known: measured at one level."
    return f"nowhere {whole}: {verdict(better_of(line[0]))} at every level that was measured."


def price(found: Results) -> Conclusion | None:
    """What atomicity costs, beside independent commits that have none."""
    line = compared(found, Section.CAPACITY, "throughput_per_s", Who.LOCAL, Who.TWO_PHASE)
    if not line:
        return None
    chosen = max(line, key=lambda each: (-float(each.factors.get("refused_share", 0)), _clients(each)))
    if chosen.first_is_better is None:
        text = f"Atomicity costs nothing that can be told beside independent local commits: {SAME}."
    elif chosen.first_is_better:
        share = chosen.second.value / chosen.first.value
        text = (
            f"Atomicity has its price: two-phase commit does {number(100 * share)} % of what independent local commits"
            " do, which promise nothing."
        )
    else:
        text = f"Two-phase commit does {times(chosen.ratio)} as much as independent local commits do."
    figures = [
        ("independent local commits", f"{spread(chosen.first)} per second"),
        ("two-phase commit", f"{spread(chosen.second)} per second"),
    ]
    half = [
        each.figures["half_per_10000"]
        for each in found.of(Section.ISOLATION, Who.LOCAL)
        if "half_per_10000" in each.figures
    ]
    if half:
        worst = max(half)
        figures.append(("left half done for good by independent commits, at most", f"{number(worst)} per 10,000"))
    return Conclusion(
        Section.CAPACITY,
        "the price of atomicity",
        text,
        figures,
        f"{levels(chosen.factors)}.",
        _price_elsewhere(line),
        chosen.strength,
        compares=False,
    )


def peers(found: Results) -> Conclusion | None:
    """How much both protocols do beside what one would otherwise use for the same."""
    told, figures, where = [], [], ""
    for ours, theirs in ((Who.TWO_PHASE, Who.LOOP), (Who.TWO_PHASE, Who.SQLALCHEMY), (Who.SAGA, Who.DBOS)):
        line = compared(found, Section.CAPACITY, "throughput_per_s", ours, theirs)
        if not line:
            continue
        chosen = max(line, key=lambda each: (-float(each.factors.get("refused_share", 0)), _clients(each)))
        where = levels(chosen.factors)
        share = "as much as" if chosen.first_is_better is None else _share(chosen)
        told.append(f"{subject(ours)} here does {share} {subject(theirs)}")
        figures += [(NAMES[who], f"{spread(each)} per second") for who, each in _named(chosen, ours, theirs)]
    if not told:
        return None
    return Conclusion(
        Section.CAPACITY,
        "beside other tools",
        sentence(f"{listed(told)}."),
        list(dict.fromkeys(figures)),
        f"{where}; a loop and SQLAlchemy keep no log, so what they leave in doubt after a crash stays there.",
        "",
        None,
    )


def _share(chosen: Comparison) -> str:
    if not chosen.second.value:
        return "more than"
    ratio = chosen.first.value / chosen.second.value
    return f"{times(ratio)} as much as" if ratio > 1 else f"{number(100 * ratio)} % of what is done by"


def _named(chosen: Comparison, ours: Who, theirs: Who) -> Iterator[tuple[Who, Spread]]:
    yield ours, chosen.first
    yield theirs, chosen.second


def fan_out(found: Results) -> Conclusion | None:
    """Whose latency grows slower with the number of participants."""
    line = sorted(compared(found, Section.FAN_OUT, "p50_ms"), key=lambda each: float(each.factors["participants"]))
    if not line:
        return None
    last = line[-1]
    better = better_of(last)
    where = level("participants", last.factors["participants"])
    if better is None:
        text = f"With {where}, a transaction takes about as long under both: {SAME}."
    else:
        text = (
            f"With {where}, a transaction takes {times(last.ratio)} as long under {subject(other(better))} as under"
            f" {subject(better)}."
        )
    return Conclusion(
        Section.FAN_OUT,
        f"latency with {where}",
        text,
        both(last, "ms, median"),
        f"{where}.",
        turning(line, "participants", "in what was measured"),
        last.strength,
        better,
    )


def _price_elsewhere(line: Sequence[Comparison]) -> str:
    shares = [each.second.value / each.first.value for each in line if each.first.value]
    free = [each for each in line if each.strength is Strength.NONE]
    told = f"between {number(100 * min(shares))} and {number(100 * max(shares))} % over all settings" if shares else ""
    if len(line) == 1:
        return "not known: measured in one setting."
    return f"{told}{'; no difference with ' + levels(free[0].factors) if free else ''}."


def _clients(each: Comparison) -> float:
    return float(each.factors.get("clients", 0))


def _rounded(value: float) -> Level:
    return round(value) if value >= 1 else value
