"""The section on isolation: what somebody could see who reads both banks, and how long it was there to be seen.

Lives here: the load with its observer, and the figures. Must not live here: how a look is made (`probes`).
"""

from __future__ import annotations

from typing import Final

from twophase.benchmarks.report.measure.bank import LEFT, RIGHT
from twophase.benchmarks.report.measure.bench import Bench, Run
from twophase.benchmarks.report.measure.books import shares
from twophase.benchmarks.report.measure.business import Mix, Workload
from twophase.benchmarks.report.measure.probes import CHARGES, RESERVATIONS, TRANSFERS, Observer
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.measure.task import Task, Told
from twophase.benchmarks.report.measure.turns import turns
from twophase.benchmarks.report.values import Level, Section, percentile

LOOKS: Final = 100.0


async def isolation(work: Work) -> None:
    """An open load, a part of it meant to be refused at the last participant, and somebody who looks on."""
    plan, section, bench = work.plan, Section.ISOLATION, work.bench
    every = list(turns(plan.repetitions, plan.isolation, plan.whos[section]))
    for number, (repetition, (workload, percent, rate), who) in enumerate(every):
        work.progress(section, number, len(every), f"{who}, {workload}, {percent} % meant to be refused")
        mix = Mix(workload, plan.accounts, refused_share=percent / 100)
        seed = f"{work.seed}/{section}/{repetition}/{workload}/{percent}"
        task = Task(bench.next_run(), mix, seed, plan.isolation_seconds, plan.warm_up, rate=rate)
        observer = _observer(bench, workload)
        run = await bench.load(who, task, observer.watch)
        factors: dict[str, Level] = {"workload": workload.value, "refused_share": percent}
        work.add(section, who, factors, repetition, _figures(run, observer))


def _observer(bench: Bench, workload: Workload) -> Observer:
    """Of an order it asks what is reserved and what is paid: who acts on one expects the other."""
    if workload is Workload.ORDER:
        first, second = (bench.dsn("inventory"), RESERVATIONS), (bench.dsn("payment"), CHARGES)
    else:
        first, second = (bench.dsn(LEFT), TRANSFERS), (bench.dsn(RIGHT), TRANSFERS)
    return Observer(first, second, LOOKS)


def _figures(run: Run, observer: Observer) -> dict[str, float]:
    due = run.log.due()
    undone = {answer.name for answer in run.log.answers if answer.told is Told.UNDONE}
    undone |= {name for name, page in run.books.items() if page.was_undone}
    seen_undone = sum(any(deed in undone for deed in shown) for shown in observer.shown)
    windows = _windows_ms(run)
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


def _windows_ms(run: Run) -> list[float]:
    """From when others could see the first part until they could see all of it, or nothing any more.

    Of orders only what is sold in the end: the checkout's compensations leave no trace.
    """
    if run.task.mix.workload is Workload.ORDER:
        every = run.orders.seen.values()
        sold = set.intersection(*(set(of_one) for of_one in every))
        times = [[of_one[name] for of_one in every] for name in sorted(sold)]
        return [1000 * (max(each) - min(each)) for each in times]
    return [1000 * (page.last_seen - page.first_seen) for page in run.books.values() if len(page.entries) > 1]
