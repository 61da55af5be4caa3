"""The section on isolation: what somebody could see who reads both banks, and how long it was there to be seen.

Lives here: the load with its observer, and the figures. Must not live here: how a look is made (`probes`).
"""

from __future__ import annotations

from typing import Final

from twophase.benchmarks.report.measure.bank import LEFT, RIGHT
from twophase.benchmarks.report.measure.bench import Run
from twophase.benchmarks.report.measure.books import shares
from twophase.benchmarks.report.measure.business import Mix, Workload
from twophase.benchmarks.report.measure.probes import Observer
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.measure.task import Task, Told
from twophase.benchmarks.report.measure.turns import turns
from twophase.benchmarks.report.values import Level, Section, percentile

_LOOKS: Final = 100.0


async def isolation(work: Work) -> None:
    """An open load of transfers, some of them meant to be refused at the second bank, and somebody who looks on."""
    plan, section, bench = work.plan, Section.ISOLATION, work.bench
    every = list(turns(plan.repetitions, plan.isolation, plan.whos[section]))
    for number, (repetition, percent, who) in enumerate(every):
        work.progress(section, number, len(every), f"{who}, {percent} % meant to be refused")
        mix = Mix(Workload.UNIFORM, plan.accounts, refused_share=percent / 100)
        task = Task(
            bench.next_run(),
            mix,
            f"{work.seed}/{section}/{repetition}/{percent}",
            plan.isolation_seconds,
            plan.warm_up,
            rate=plan.isolation_rate,
        )
        observer = Observer(bench.dsn(LEFT), bench.dsn(RIGHT), _LOOKS)
        run = await bench.load(who, task, observer.watch)
        factors: dict[str, Level] = {"workload": Workload.UNIFORM.value, "refused_share": percent}
        work.add(section, who, factors, repetition, _figures(run, observer))


def _figures(run: Run, observer: Observer) -> dict[str, float]:
    undone = {name for name, page in run.books.items() if page.was_undone}
    seen_undone = sum(any(deed in undone for deed in shown) for shown in observer.shown)
    # From when others could see the first part of it until they could see all of it, or nothing any more.
    windows = [1000 * (page.last_seen - page.first_seen) for page in run.books.values() if len(page.entries) > 1]
    due = run.log.due()
    done = sum(answer.told is Told.OK and answer.end < run.task.seconds for answer in due)
    looks = max(1, observer.looks)
    return {
        "seen_half_per_10000": 10_000 * observer.looks_half / looks,
        "undone_seen_per_10000": 10_000 * seen_undone / looks,
        "half_per_10000": shares(due, Told.HALF),
        "reservation_p50_ms": percentile(windows, 50),
        "reservation_max_ms": max(windows, default=0.0),
        "compensated_per_10000": shares(due, Told.UNDONE),
        "throughput_per_s": done / run.task.seconds,
    }
