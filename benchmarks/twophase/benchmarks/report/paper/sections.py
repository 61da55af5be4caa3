"""The sections of the report: question, drawing, tables, how it was measured, what it does not say.

Lives here: what each section shows. Must not live here: drawing, comparing, prose that is always the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from twophase.benchmarks.report.catalogue import CATALOGUE
from twophase.benchmarks.report.paper.blocks import Block, Bullets, Heading, Paragraph, Part, Plot, Table
from twophase.benchmarks.report.paper.conclude.values import worst_points
from twophase.benchmarks.report.paper.method import LIMITS, MEASURED
from twophase.benchmarks.report.paper.tables import by_contender, by_figure
from twophase.benchmarks.report.paper.words import TITLES
from twophase.benchmarks.report.values import Results, Section

Draws: TypeAlias = Callable[[Results], Plot | None]


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a section shows: figures as tables by contender, and groups of figures in one table each."""

    alone: Sequence[str] = ()
    together: Sequence[tuple[str, Sequence[str]]] = ()


_SHOWN: Final[Mapping[Section, _Shown]] = {
    Section.CAPACITY: _Shown(
        ("throughput_per_s", "p50_ms", "p99_ms", "cpu_ms"),
        (("Refused, undone and left half done", ("refused_per_10000", "compensated_per_10000", "half_per_10000")),),
    ),
    Section.LATENCY: _Shown(("p50_ms", "p99_ms", "late_per_10000", "throughput_per_s")),
    Section.CONTENTION: _Shown(
        ("throughput_per_s", "p99_ms", "lock_hold_p50_ms"),
        (("Refused and undone", ("refused_per_10000", "compensated_per_10000", "half_per_10000")),),
    ),
    Section.CRASH: _Shown(
        together=(
            (
                "What others notice",
                ("victim_p99_ms", "victim_max_ms", "victim_late_share", "control_p99_ms"),
            ),
            ("Locks and doubt", ("lock_hold_p50_ms", "lock_hold_max_ms", "in_doubt_p50_ms", "in_doubt_max_ms")),
            (
                "The crash and after it",
                (
                    "goodput_before_per_s",
                    "lost",
                    "in_doubt_branches",
                    "clear_ms",
                    "unfinished",
                    "consistent_ms",
                ),
            ),
        )
    ),
    Section.SLOW: _Shown(
        together=(("One slow participant", ("others_p50_ms", "others_p99_ms", "with_it_p50_ms", "lock_hold_p50_ms")),)
    ),
    Section.PARTITION: _Shown(
        together=(
            ("Who could work", ("done_without_it_per_s", "done_with_it_per_s", "refused_with_it_share")),
            ("Who waited", ("victim_max_ms", "in_doubt_max_ms", "consistent_ms")),
        )
    ),
    Section.ISOLATION: _Shown(
        together=(
            (
                "Anomalies beside throughput",
                ("throughput_per_s", "seen_half_per_10000", "undone_seen_per_10000", "half_per_10000"),
            ),
            ("Reservations", ("reservation_p50_ms", "reservation_max_ms", "compensated_per_10000")),
        )
    ),
    Section.FAN_OUT: _Shown(together=(("More participants", ("p50_ms", "p99_ms", "throughput_per_s")),)),
    Section.CLEARING: _Shown(together=(("Until nothing is in doubt", ("clear_ms", "ready_ms")),)),
}


def sections(found: Results) -> Iterator[Part]:
    """All of them, also those of which there is nothing but the reason."""
    for section, entry in CATALOGUE.items():
        yield Part(section, TITLES[section], [Paragraph(entry.question), *_blocks(found, section)])


def _blocks(found: Results, section: Section) -> Iterator[Block]:
    if found.is_void:
        yield Paragraph("This run is void, so nothing was measured.")
    elif not found.of(section):
        yield Paragraph("Not measured in this run.")
    else:
        yield from _plots(found, section)
        yield from _tables(found, section)
    if section in found.missing:
        yield Paragraph(f"{found.missing[section]}.", "Not whole:")
    own = found.setting.get("method", {}).get(section, ())
    yield Heading("How it was measured")
    yield Paragraph(MEASURED[section])
    if own:
        yield Bullets([own] if isinstance(own, str) else list(own))
    yield Heading("What it does not say")
    yield Paragraph(LIMITS[section])


def _tables(found: Results, section: Section) -> Iterator[Table]:
    shown = _SHOWN[section]
    tables = [by_contender(found, section, figure) for figure in shown.alone]
    tables += [by_figure(found, section, figures, caption) for caption, figures in shown.together]
    yield from (table for table in tables if table is not None)


def _plots(found: Results, section: Section) -> Iterator[Plot]:
    # matplotlib takes a second to import, and who only reads results need not have it.
    from twophase.benchmarks.report.paper.draw import against, bars, distribution, through_time

    points = worst_points(found)
    draws: Mapping[Section, Sequence[Draws]] = {
        Section.CAPACITY: [bars.capacity],
        Section.LATENCY: [distribution.latencies],
        Section.CONTENTION: [against.contention],
        Section.CRASH: [
            lambda results: through_time.goodput_through_crash(results, points),
            lambda results: through_time.victims_through_crash(results, points),
            lambda results: distribution.locks(results, points),
        ],
        Section.SLOW: [against.slow],
        Section.PARTITION: [through_time.goodput_through_partition],
        Section.ISOLATION: [bars.anomalies],
        Section.FAN_OUT: [against.fan_out],
        Section.CLEARING: [against.clearing],
    }
    for draw in draws[section]:
        plot = draw(found)
        if plot is not None:
            yield plot
