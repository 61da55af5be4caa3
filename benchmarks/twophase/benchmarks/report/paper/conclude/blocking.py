"""What is concluded about waiting: a dead coordinator, what comes after it, a slow participant, a partition, clearing.

Lives here: functions of results. Each gives None if what it needs was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from twophase.benchmarks.report.paper.compare import Comparison, combinations, compared, spread_of
from twophase.benchmarks.report.paper.conclude.values import (
    SAME,
    Conclusion,
    better_of,
    both,
    crashed,
    other,
    otherwise,
    subject,
    verdict,
    worst_points,
)
from twophase.benchmarks.report.paper.words import (
    NAMES,
    level,
    levels,
    listed,
    milliseconds,
    moment,
    plain,
    spread,
    times,
)
from twophase.benchmarks.report.values import NEVER, Level, Results, Section, Who

_NEARLY: Final = 0.9
"""Of an outage: who waits for so much of it waits as long as it lasts."""


def waiting(found: Results) -> Conclusion | None:
    """How long others wait for a row while the coordinator is dead."""
    line = _outages(found, "victim_max_ms")
    finite = [each for each in line if each.factors["outage_s"] != NEVER]
    if not line:
        return None
    chosen = (finite or line)[-1]
    outage = chosen.factors["outage_s"]
    better = better_of(chosen)
    dead = "never started again" if outage == NEVER else f"dead for {plain(outage)} s"
    one, two = milliseconds(chosen.first.value), milliseconds(chosen.second.value)
    if better is None:
        text = (
            f"A coordinator that is {dead} makes others wait about as long under both: up to {one} for a hot row under"
            f" two-phase commit, {two} under a saga; {SAME}."
        )
    else:
        text = (
            f"A coordinator that is {dead} makes others wait for a hot row for up to {one} under two-phase commit, and"
            f" for up to {two} under a saga.{_as_long(finite)}"
        )
    figures = both(chosen, "ms", "longest wait for a hot row, ")
    endless = crashed(found, "victim_max_ms", NEVER)
    if endless is not None and endless is not chosen:
        figures += both(endless, "ms", "never started again: longest wait by the end of measuring, ")
    points = worst_points(found)
    for who in (Who.TWO_PHASE, Who.SAGA):
        control = spread_of(found, Section.CRASH, who, "control_p99_ms", point=points[who], outage_s=outage)
        if control is not None:
            figures.append((f"rows nobody else uses: 99 of 100 wait at most, {NAMES[who]}", f"{spread(control)} ms"))
    return Conclusion(
        Section.CRASH,
        "waiting for a row while the coordinator is dead",
        text,
        figures,
        f"killed where it harms others most: {listed(f'{subject(who)} {moment(at)}' for who, at in points.items())}.",
        f"{_by_outage(line, chosen)} {_harmless(found, points, outage)}".strip(),
        chosen.strength,
        better,
    )


def aftermath(found: Results) -> Conclusion | None:
    """What a crash costs those who use the coordinator, and how soon it is over once it is back."""
    line = [each for each in _outages(found, "lost") if each.factors["outage_s"] != NEVER]
    if not line:
        return None
    chosen = line[-1]
    outage, better = chosen.factors["outage_s"], better_of(chosen)
    if better is None:
        text = (
            f"For those who need the coordinator, {plain(outage)} s without it cost about as many transactions under"
            f" both: {SAME}."
        )
    else:
        text = (
            f"For those who need the coordinator, {plain(outage)} s without it cost {subject(other(better))}"
            f" {times(chosen.ratio)} as many transactions as {subject(better)}."
        )
    figures = both(chosen, "transactions not done that would have been", "")
    points = worst_points(found)
    for who, figure, what in (
        (Who.TWO_PHASE, "clear_ms", "ready again until no branch is in doubt"),
        (Who.SAGA, "consistent_ms", "ready again until the last saga has ended"),
    ):
        took = spread_of(found, Section.CRASH, who, figure, point=points[who], outage_s=outage)
        if took is not None:
            figures.append((what, f"{spread(took)} ms"))
    return Conclusion(
        Section.CRASH,
        "transactions lost by a crash",
        text,
        figures,
        f"{level('outage_s', outage)}; both stand still while nobody coordinates.",
        _by_outage(line, chosen),
        chosen.strength,
        better,
    )


def slow(found: Results) -> Conclusion | None:
    """How long one slow participant keeps rows locked at the others."""
    line = sorted(compared(found, Section.SLOW, "lock_hold_p50_ms"), key=lambda each: float(each.factors["delay_ms"]))
    if not line:
        return None
    chosen = line[-1]
    better = better_of(chosen)
    late = f"{plain(chosen.factors['delay_ms'])} ms"
    if better is None:
        text = f"A participant that answers {late} late locks rows elsewhere about as long under both: {SAME}."
    else:
        text = (
            f"A participant that answers {late} late keeps rows at the others locked {times(chosen.ratio)} as long"
            f" under {subject(other(better))} as under {subject(better)}."
        )
    figures = both(chosen, "ms", "row locked elsewhere, ")
    for who in (Who.TWO_PHASE, Who.SAGA):
        others = spread_of(found, Section.SLOW, who, "others_p99_ms", **chosen.factors)
        if others is not None:
            figures.append((f"99 of 100 transactions that do not need it, {NAMES[who]}", f"{spread(others)} ms"))
    return Conclusion(
        Section.SLOW,
        "locks held while a participant is slow",
        text,
        figures,
        f"{late} for each of its answers.",
        otherwise(line, chosen),
        chosen.strength,
        better,
    )


def cut_off(found: Results) -> Conclusion | None:
    """Who waits while the coordinator and a participant cannot hear each other."""
    line = sorted(compared(found, Section.PARTITION, "victim_max_ms"), key=lambda each: float(each.factors["seconds"]))
    if not line:
        return None
    chosen = line[-1]
    better = better_of(chosen)
    cut = f"{plain(chosen.factors['seconds'])} s"
    one, two = milliseconds(chosen.first.value), milliseconds(chosen.second.value)
    if better is None:
        text = f"A partition of {cut} makes others wait for a row about as long under both: {SAME}."
    else:
        text = (
            f"A partition of {cut} between the coordinator and a participant makes others wait there for a row for"
            f" up to {one} under two-phase commit, and for up to {two} under a saga."
        )
    figures = both(chosen, "ms", "longest wait, ")
    for figure, what in (("done_without_it_per_s", "done without it"), ("done_with_it_per_s", "done with it")):
        for who in (Who.TWO_PHASE, Who.SAGA):
            done = spread_of(found, Section.PARTITION, who, figure, **chosen.factors)
            if done is not None:
                figures.append((f"{what} meanwhile, {NAMES[who]}", f"{spread(done)} per second"))
    return Conclusion(
        Section.PARTITION,
        "waiting for a row behind a partition",
        text,
        figures,
        f"cut off for {cut}.",
        otherwise(line, chosen),
        chosen.strength,
        better,
    )


def clearing(found: Results) -> Conclusion | None:
    """How long until nothing is in doubt after the coordinator is started."""
    took = [
        (factors, clear)
        for factors in combinations(found, Section.CLEARING, Who.TWO_PHASE)
        if (clear := spread_of(found, Section.CLEARING, Who.TWO_PHASE, "clear_ms", **factors))
    ]
    if not took:
        return None
    took.sort(key=lambda each: float(each[0]["branches"]))
    most = took[-1][0]["branches"]
    chosen, slowest = max((each for each in took if each[0]["branches"] == most), key=lambda each: each[1].value)
    text = (
        f"{plain(most)} branches left in doubt are gone {milliseconds(slowest.value)} after the coordinator is"
        " started, and nobody has to do anything but start it."
        if math.isfinite(slowest.value)
        else f"{plain(most)} branches left in doubt were not gone in the time measured."
    )
    return Conclusion(
        Section.CLEARING,
        "clearing what is in doubt",
        text,
        [(levels(factors), f"{spread(each)} ms") for factors, each in (took[0], (chosen, slowest))],
        f"{levels(chosen)}.",
        "",
        None,
    )


def _outages(found: Results, figure: str) -> list[Comparison]:
    """From the shortest to the longest, never at the end."""
    outages = sorted(
        found.levels(Section.CRASH, "outage_s"), key=lambda each: math.inf if each == NEVER else float(each)
    )
    return [each for outage in outages if (each := crashed(found, figure, outage)) is not None]


def _as_long(line: Sequence[Comparison]) -> str:
    """Whether waits under two-phase commit grow with the outage."""
    outages = [(1_000 * float(each.factors["outage_s"]), each.first.value) for each in line]
    long = [(outage, wait) for outage, wait in outages if outage]
    grows = len(long) > 1 and all(wait >= _NEARLY * outage for outage, wait in long)
    return " Under two-phase commit whoever waits without a timeout waits as long as it is away." if grows else ""


def _by_outage(line: Sequence[Comparison], chosen: Comparison) -> str:
    others = [each for each in line if each is not chosen and better_of(each) is not better_of(chosen)]
    if others:
        return (
            "; ".join(
                f"{verdict(better_of(each))} with {level('outage_s', each.factors['outage_s'])}" for each in others
            )
            + "."
        )
    if len(line) == 1:
        return "not known: one outage was measured."
    first, last = (level("outage_s", each.factors["outage_s"]) for each in (line[0], line[-1]))
    return f"at no outage that was measured, from {first} to {last}."


def _harmless(found: Results, points: dict[Who, Level], outage: Level) -> str:
    """Points at which a kill of two-phase commit makes nobody wait longer than a saga does."""
    saga = spread_of(found, Section.CRASH, Who.SAGA, "victim_max_ms", point=points[Who.SAGA], outage_s=outage)
    told = []
    for point in dict.fromkeys(each.factors["point"] for each in found.of(Section.CRASH, Who.TWO_PHASE)):
        wait = spread_of(found, Section.CRASH, Who.TWO_PHASE, "victim_max_ms", point=point, outage_s=outage)
        if saga and wait and better_of(Comparison(wait, saga, more_is_better=False, factors={})) is not Who.SAGA:
            told.append(f"killed {moment(point)}, two-phase commit makes nobody wait longer than a saga does")
    return "".join(f"{each[:1].upper()}{each[1:]}." for each in told)
