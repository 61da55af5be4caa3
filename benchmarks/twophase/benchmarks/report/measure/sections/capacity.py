"""The sections without failures: capacity, latency at an offered rate, contention, and how many participants.

Lives here: their loads and figures. Must not live here: how much of them there is (`plan`).
"""

from __future__ import annotations

from typing import Final

from twophase.benchmarks.report.measure.bank import FANNED
from twophase.benchmarks.report.measure.books import holds_ms
from twophase.benchmarks.report.measure.business import Mix, Workload
from twophase.benchmarks.report.measure.sections.common import Work, closed_figures, latency_figures, only
from twophase.benchmarks.report.measure.task import Task, Told
from twophase.benchmarks.report.measure.turns import turns
from twophase.benchmarks.report.values import Section, percentile

CONNECTIONS: Final = 32
FAN_CLIENTS: Final = 4
_LATE_SECONDS: Final = 1.0


async def capacity(work: Work) -> None:
    """Closed loops."""
    plan, section = work.plan, Section.CAPACITY
    every = list(turns(plan.repetitions, plan.capacity, plan.whos[section]))
    for number, (repetition, cell, who) in enumerate(every):
        work.progress(section, number, len(every), f"{who}, {cell.clients} clients, {cell.workload}")
        mix = Mix(cell.workload, plan.accounts, refused_share=cell.refused_percent / 100)
        seed = f"{work.seed}/{section}/{repetition}/{cell}"
        task = Task(work.bench.next_run(), mix, seed, plan.seconds, plan.warm_up, cell.clients)
        factors = {
            "workload": cell.workload.value,
            "clients": cell.clients,
            "refused_share": cell.refused_percent,
        }
        work.add(section, who, factors, repetition, closed_figures(await work.bench.load(who, task)))


async def latency(work: Work) -> None:
    """Open loops: what is late counts from when it was due, and what was not answered as at least the timeout."""
    plan, section = work.plan, Section.LATENCY
    every = list(turns(plan.repetitions, plan.latency, plan.whos[section]))
    for number, (repetition, (workload, rate), who) in enumerate(every):
        work.progress(section, number, len(every), f"{who}, {rate:g} a second, {workload}")
        seed = f"{work.seed}/{section}/{repetition}/{workload}/{rate}"
        task = Task(
            work.bench.next_run(),
            Mix(workload, plan.accounts),
            seed,
            plan.latency_seconds,
            plan.warm_up,
            clients=CONNECTIONS,
            rate=rate,
        )
        run = await work.bench.load(who, task)
        due = run.log.due()
        done_in_time = sum(answer.told is Told.OK and answer.end < task.seconds for answer in due)
        latencies = [answer.seconds for answer in due if answer.told in (Told.OK, Told.UNKNOWN)]
        late = sum(answer.seconds > _LATE_SECONDS or answer.told is Told.UNKNOWN for answer in due)
        figures = {
            **latency_figures(latencies, done_in_time / task.seconds),
            "late_per_10000": 10_000 * late / len(due) if due else 0.0,
        }
        series = {"latencies_ms": [round(1000 * each, 3) for each in latencies]}
        factors = {"workload": workload.value, "offered_per_s": rate}
        work.add(section, who, factors, repetition, figures, series)


async def contention(work: Work) -> None:
    """Closed loops on fewer and fewer rows; 0 hot rows are transfers over all accounts."""
    plan, section = work.plan, Section.CONTENTION
    every = list(turns(plan.repetitions, plan.hot_rows, plan.whos[section]))
    for number, (repetition, rows, who) in enumerate(every):
        work.progress(section, number, len(every), f"{who}, {rows or 'no'} hot rows")
        mix = Mix(Workload.HOT if rows else Workload.UNIFORM, plan.accounts, hot_rows=rows)
        seed = f"{work.seed}/{section}/{repetition}/{rows}"
        task = Task(work.bench.next_run(), mix, seed, plan.seconds, plan.warm_up, plan.contention_clients)
        run = await work.bench.load(who, task)
        figures = closed_figures(run)
        wanted = ("throughput_per_s", "p99_ms", "refused_per_10000", "compensated_per_10000", "half_per_10000")
        factors = {"hot_rows": rows, "clients": plan.contention_clients}
        locked = {"lock_hold_p50_ms": percentile(holds_ms(run.books), 50)}
        work.add(section, who, factors, repetition, {**only(figures, *wanted), **locked})


async def fan_out(work: Work) -> None:
    """Transfers among more and more banks. All banks are one process, with databases on two servers."""
    plan, section = work.plan, Section.FAN_OUT
    every = list(turns(plan.repetitions, plan.fan_out, plan.whos[section]))
    work.progress(section, 0, len(every), "many banks start")
    await work.bench.fan_out(min(max(plan.fan_out), len(FANNED)))
    for number, (repetition, participants, who) in enumerate(every):
        work.progress(section, number, len(every), f"{who}, {participants} participants")
        mix = Mix(Workload.FAN_OUT, plan.accounts, participants=participants)
        seed = f"{work.seed}/{section}/{repetition}/{participants}"
        seconds = plan.fan_seconds_among(participants)
        task = Task(work.bench.next_run(), mix, seed, seconds, plan.warm_up, clients=FAN_CLIENTS)
        figures = closed_figures(await work.bench.load(who, task))
        wanted = ("p50_ms", "p99_ms", "throughput_per_s")
        work.add(section, who, {"participants": participants}, repetition, only(figures, *wanted))
