"""What all sections of the report share: what they are given, and figures that many of them have.

Lives here: small helpers. Must not live here: a section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from twophase.benchmarks.report.measure.bench import Bench, Run
from twophase.benchmarks.report.measure.books import shares
from twophase.benchmarks.report.measure.pace import pace_us
from twophase.benchmarks.report.measure.plan import Plan
from twophase.benchmarks.report.measure.task import Told
from twophase.benchmarks.report.values import Level, Measurement, Section, Who, percentile

Progress = Callable[[Section, int, int, str], None]
"""Is told the section, how much of it is done and of how much, and what is measured now."""

NOT_DONE = (Told.REFUSED, Told.CONFLICT, Told.AWAY)


@dataclass(slots=True)
class Work:
    """What a section is given: the bench, the plan, the seed, and where its measurements go. `pace_before` is the
    machine's pace when the last one was over."""

    bench: Bench
    plan: Plan
    seed: int
    progress: Progress
    measurements: list[Measurement] = field(default_factory=list)
    pace_before: float = field(default_factory=pace_us)

    def add(
        self,
        section: Section,
        who: Who,
        factors: Mapping[str, Level],
        repetition: int,
        figures: Mapping[str, float],
        series: Mapping[str, list[float]] | None = None,
    ) -> None:
        """One more measurement, which is over."""
        pace = pace_us()
        between, self.pace_before = (self.pace_before + pace) / 2, pace
        self.measurements.append(Measurement(section, who, factors, repetition, figures, series or {}, between))


def latency_figures(latencies: list[float], per_second: float) -> dict[str, float]:
    """The three that most sections have; latencies in seconds."""
    in_ms = [1000 * each for each in latencies]
    return {"throughput_per_s": per_second, "p50_ms": percentile(in_ms, 50), "p99_ms": percentile(in_ms, 99)}


def closed_figures(run: Run) -> dict[str, float]:
    """Of a closed loop: what was done in the time that counts."""
    inside = run.log.inside()
    done = [answer.seconds for answer in inside if answer.told is Told.OK]
    return {
        **latency_figures(done, len(done) / run.log.seconds),
        "cpu_ms": run.cpu_ms,
        "refused_per_10000": shares(inside, *NOT_DONE),
        "compensated_per_10000": shares(inside, Told.UNDONE),
        "half_per_10000": shares(inside, Told.HALF),
    }


def only(figures: Mapping[str, float], *names: str) -> dict[str, float]:
    """Those of the figures that a section wants."""
    return {name: figures[name] for name in names}
