"""The sections in which the network to one participant is not what it should be: it answers late, or not at all.

Lives here: the loads, with transfers that need that participant and others that do not, and what both notice. Must not
live here: how a network is made to fail (`twophase.sandbox.proxy`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from twophase.benchmarks.report.measure.area import in_slots
from twophase.benchmarks.report.measure.bank import LEFT, RIGHT
from twophase.benchmarks.report.measure.bench import Load, Run
from twophase.benchmarks.report.measure.books import holds_ms
from twophase.benchmarks.report.measure.business import Mix, Transfer, Workload
from twophase.benchmarks.report.measure.probes import PreparedWatch, Victim
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.measure.task import Answer, Task, Told
from twophase.benchmarks.report.measure.turns import turns
from twophase.benchmarks.report.values import Section, Who, percentile
from twophase.sandbox.networks import BLACKHOLE, WHOLE, Network
from twophase.sandbox.proxy import Proxy

HOT_ROWS: Final = 8
# A slow participant shall be noticed by its delay and not by lock timeouts; a cut shall meet rows that others want.
SLOW_HOT_SHARE: Final = 0.3
CUT_HOT_SHARE: Final = 0.8
# Half of the transfers do without the participant in question.
_FAR_SHARE: Final = 0.5
PATIENCE: Final = 2.0
BEFORE: Final = 1.0
AFTER: Final = 2.0
AT_ONCE: Final = 1.0
_VICTIM_RATE: Final = 20.0
_CLEAR_SECONDS: Final = 30.0


async def slow(work: Work) -> None:
    """One participant's answers come later."""
    plan, section, bench = work.plan, Section.SLOW, work.bench
    every = list(turns(plan.network_repetitions, plan.slow_ms, plan.whos[section]))
    async with bench.system.proxy_to_participant(RIGHT) as proxy:
        for number, (repetition, delay, who) in enumerate(every):
            work.progress(section, number, len(every), f"{who}, {delay} ms late")
            await proxy.set(Network(f"{delay} ms late", reply_delay=delay / 1000) if delay else WHOLE)
            task = _task(work, f"{section}/{repetition}/{delay}", plan.slow_seconds, hot=SLOW_HOT_SHARE)
            run = await bench.load(who, task)
            await proxy.set(WHOLE)
            work.add(section, who, {"delay_ms": delay}, repetition, _slow_figures(run))


async def partition(work: Work) -> None:
    """Nothing passes between the coordinator and one participant for a while, in either direction."""
    plan, section, bench = work.plan, Section.PARTITION, work.bench
    every = list(turns(plan.network_repetitions, plan.cuts, plan.whos[section]))
    async with bench.system.proxy_to_participant(RIGHT) as proxy:
        for number, (repetition, seconds, who) in enumerate(every):
            work.progress(section, number, len(every), f"{who}, cut off for {seconds:g} s")
            whole = BEFORE + seconds + AFTER
            watch = PreparedWatch([bench.dsn(LEFT), bench.dsn(RIGHT)])
            cut = _Cut(proxy, watch, seconds)
            victim = Victim(bench.dsn(RIGHT), range(1, HOT_ROWS + 1), _VICTIM_RATE, timeout=whole)
            task = _task(work, f"{section}/{repetition}/{seconds}", whole, hot=CUT_HOT_SHARE)
            run = await bench.load(who, task, cut.cut, watch.watch, victim.watch)
            series = {
                "goodput_per_100_ms": in_slots([each.end for each in run.log.answers if each.told is Told.OK], whole),
                "cut_ms": [1000 * (cut.began - run.log.begin), 1000 * (cut.ended - run.log.begin)],
            }
            figures = _cut_figures(run, cut, watch, victim)
            work.add(section, who, {"seconds": seconds}, repetition, figures, series)


@dataclass(slots=True)
class _Cut:
    """The time without a network, in seconds since 1970."""

    proxy: Proxy
    watch: PreparedWatch
    seconds: float
    began: float = 0.0
    ended: float = 0.0

    async def cut(self, load: Load) -> None:
        """Beside a load."""
        await load.begun.wait()
        await asyncio.sleep(BEFORE)
        await self.proxy.set(BLACKHOLE)
        self.began = time.time()
        await asyncio.sleep(self.seconds)
        await self.proxy.set(WHOLE)
        self.ended = time.time()
        await self.watch.until_none_of(self.ended, within=_CLEAR_SECONDS)


def _task(work: Work, seed: str, seconds: float, *, hot: float) -> Task:
    plan = work.plan
    mix = Mix(Workload.HOT, plan.accounts, hot_rows=HOT_ROWS, hot_share=hot, far_share=_FAR_SHARE)
    return Task(
        work.bench.next_run(),
        mix,
        f"{work.seed}/{seed}",
        seconds,
        plan.warm_up,
        rate=plan.network_rate,
        timeout=PATIENCE,
    )


def _needs_it(run: Run, answer: Answer) -> bool:
    deed = run.task.deed(answer.name)
    return isinstance(deed, Transfer) and RIGHT in deed.banks


def _slow_figures(run: Run) -> dict[str, float]:
    due = [answer for answer in run.log.due() if answer.told in (Told.OK, Told.UNKNOWN)]
    others = [1000 * answer.seconds for answer in due if not _needs_it(run, answer)]
    with_it = [1000 * answer.seconds for answer in due if _needs_it(run, answer)]
    needing = {name: page for name, page in run.books.items() if any(e.bank == RIGHT for e in page.entries)}
    return {
        "others_p50_ms": percentile(others, 50),
        "others_p99_ms": percentile(others, 99),
        "with_it_p50_ms": percentile(with_it, 50),
        "lock_hold_p50_ms": percentile(holds_ms(needing, LEFT), 50),
    }


def _cut_figures(run: Run, cut: _Cut, watch: PreparedWatch, victim: Victim) -> dict[str, float]:
    begin, end = cut.began - run.log.begin, cut.ended - run.log.begin
    length = end - begin
    done = [answer for answer in run.log.answers if answer.told is Told.OK and begin <= answer.end < end]
    with_it = [answer for answer in run.log.answers if _needs_it(run, answer) and begin <= answer.at < end]
    refused = [
        answer
        for answer in with_it
        if answer.told in (Told.REFUSED, Told.CONFLICT, Told.AWAY, Told.UNDONE) and answer.seconds < AT_ONCE
    ]
    figures = {
        "done_without_it_per_s": sum(not _needs_it(run, answer) for answer in done) / length,
        "done_with_it_per_s": sum(_needs_it(run, answer) for answer in done) / length,
        "refused_with_it_share": 100 * len(refused) / len(with_it) if with_it else 0.0,
        "victim_max_ms": 1000 * max(waited for _, waited in victim.waits),
        # What others saw of a deed, and not all of it or its end, as the cut ended.
        "consistent_ms": max([0.0, *(1000 * (each - cut.ended) for each in _ends(run, cut, watch))]),
    }
    if run.who is Who.TWO_PHASE:
        figures["in_doubt_max_ms"] = max([0.0, *(1000 * (seen.last - seen.prepared) for seen in watch.seen.values())])
    return figures


def _ends(run: Run, cut: _Cut, watch: PreparedWatch) -> list[float]:
    """When what was begun before the end of the cut was over: parts that others could see, and branches in doubt."""
    pages = [page.last_seen for page in run.books.values() if page.first_seen <= cut.ended < page.last_seen]
    return pages + [seen.last for seen in watch.left_at(cut.ended)]
