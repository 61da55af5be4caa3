"""The run of all sections, one after the other, on one system; and where and with what it took place.

Lives here: `measure`. Must not live here: a section (`sections`), sizes (`plan`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict
from typing import Any, Final

from twophase.benchmarks.contenders import Contender, missing, versions
from twophase.benchmarks.report.measure.bench import POSTGRES, Bench, Void
from twophase.benchmarks.report.measure.method import method_of
from twophase.benchmarks.report.measure.plan import PLANS, Plan
from twophase.benchmarks.report.measure.sections import capacity, clearing, crash, isolation, network
from twophase.benchmarks.report.measure.sections.common import Progress, Work
from twophase.benchmarks.report.values import Results, Section, Suite, Who
from twophase.benchmarks.revision import revision
from twophase.participant.resource import Settings
from twophase.sandbox.drill.setting import setting_of
from twophase.sandbox.guardian import Guardian

SECTIONS: Final[Mapping[Section, Callable[[Work], Awaitable[None]]]] = {
    Section.CAPACITY: capacity.capacity,
    Section.LATENCY: capacity.latency,
    Section.CONTENTION: capacity.contention,
    Section.CRASH: crash.crash,
    Section.SLOW: network.slow,
    Section.PARTITION: network.partition,
    Section.ISOLATION: isolation.isolation,
    Section.CLEARING: clearing.clearing,
    Section.FAN_OUT: capacity.fan_out,  # last: its many banks are there from then on
}


async def measure(
    suite: Suite,
    *,
    seed: int,
    guardian: Guardian,
    progress: Progress,
    plan: Plan | None = None,
    postgres: Mapping[str, str] | None = None,
    sections: Collection[Section] = tuple(Section),
) -> Results:
    """Measures everything of a suite. If money is missing, or a ledger not exact, it stops there, and the run is void.

    Everything that it starts belongs to `guardian`, which whoever gave it closes. `plan` replaces the suite's,
    `postgres` are further settings of the servers, and `sections` are those that are wanted. Raises `SandboxError` if a
    process or a server fails.
    """
    plan, began = plan or PLANS[suite], time.monotonic()
    load_before = os.getloadavg()
    problems: list[str] = []
    left_out = {
        who: f"{package} is not installed"
        for who, contender in ((Who.SQLALCHEMY, Contender.SQLALCHEMY), (Who.DBOS, Contender.DBOS_POSTGRES))
        if (package := missing(contender))
    }
    plan = plan.without(left_out)
    async with Bench.running(guardian, accounts=plan.accounts, postgres=postgres) as bench:
        setting = await asyncio.to_thread(setting_of, bench.system)
        work = Work(bench, plan, seed, progress)
        try:
            for section, run in SECTIONS.items():
                if section in sections:
                    await run(work)
        except Void as void:
            problems += void.problems
    circumstances: dict[str, Any] = {
        "machine": setting.machine,
        "versions": {**setting.versions, **versions()},
        "postgres": {**POSTGRES, **(postgres or {})},
        "participants": asdict(Settings()),
        "method": method_of(plan),
        "revision": await asyncio.to_thread(revision),
        "load_average": {"before": load_before, "after": os.getloadavg()},
    }
    return Results(
        suite,
        seed,
        setting.started,
        time.monotonic() - began,
        circumstances,
        work.measurements,
        problems,
        {str(who): why for who, why in left_out.items()},
    )
