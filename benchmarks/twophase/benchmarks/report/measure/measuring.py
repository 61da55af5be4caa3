"""The run of all sections, one after the other, on one system; and where and with what it took place.

Lives here: `measure`, and what becomes of a run that goes wrong. Must not live here: a section (`sections`), sizes
(`plan`).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from twophase.benchmarks.contenders import Contender, missing, versions
from twophase.benchmarks.report.measure.bench import POSTGRES, Bench, Void
from twophase.benchmarks.report.measure.method import method_of
from twophase.benchmarks.report.measure.plan import PLANS, Plan
from twophase.benchmarks.report.measure.sections import capacity, clearing, crash, isolation, network
from twophase.benchmarks.report.measure.sections.common import Work
from twophase.benchmarks.report.values import Measurement, Results, Section, Suite, Who
from twophase.benchmarks.revision import revision
from twophase.participant.resource import Settings
from twophase.sandbox.drill.setting import setting_of
from twophase.sandbox.errors import SandboxError
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


class Watcher(Protocol):
    """Who is told how a run goes."""

    def __call__(self, section: Section, done: int, total: int, what: str, /) -> None:
        """So many of a section's measurements are done; `what` comes next."""

    def failed(self, section: Section, error: Exception) -> None:
        """A section could not be measured."""

    def so_far(self, results: Results) -> None:
        """A section is over: what the results would be if the run ended now."""


async def measure(
    suite: Suite,
    *,
    seed: int,
    guardian: Guardian,
    watcher: Watcher,
    plan: Plan | None = None,
    postgres: Mapping[str, str] | None = None,
    sections: Collection[Section] = tuple(Section),
) -> Results:
    """Measures everything of a suite. If money is missing, or a ledger not exact, it stops there, and the run is void.

    A section that fails is left out, and the next ones are measured on a new system. If the task is cancelled, whatever
    was measured until then is returned, and the cancellation is over; if that is nothing, it goes on.

    Everything that it starts belongs to `guardian`, which whoever gave it closes. `plan` replaces the suite's,
    `postgres` are further settings of the servers, and `sections` are those that are wanted. Raises `SandboxError` if
    the system cannot be started.
    """
    run = _Run(suite, seed, plan or PLANS[suite], postgres or {}, guardian, watcher, sections)
    try:
        await run.through()
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or not run.measurements:
            raise
        task.uncancel()
        return run.results(interrupted=True)
    return run.results()


class _Run:
    """The run under way: what is left to measure, and what has been."""

    def __init__(
        self,
        suite: Suite,
        seed: int,
        plan: Plan,
        postgres: Mapping[str, str],
        guardian: Guardian,
        watcher: Watcher,
        sections: Collection[Section],
    ) -> None:
        absent = {
            who: f"{package} is not installed"
            for who, contender in ((Who.SQLALCHEMY, Contender.SQLALCHEMY), (Who.DBOS, Contender.DBOS_POSTGRES))
            if (package := missing(contender))
        }
        self.measurements: list[Measurement] = []
        self._plan = plan.without(absent)
        self._postgres = postgres
        self._guardian = guardian
        self._watcher = watcher
        self._left = [section for section in SECTIONS if section in sections]
        self._took: dict[Section, float] = {}
        self._load_before = os.getloadavg()
        self._began = time.monotonic()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._found = Results(
            suite, seed, started, 0.0, {}, (), left_out={str(who): why for who, why in absent.items()}
        )

    async def through(self) -> None:
        """All sections. Raises `SandboxError` if not even the first system can be started."""
        while self._left:
            to_do = len(self._left)
            try:
                await self._on_one_system()
            except SandboxError as error:
                if len(self._left) < to_do:
                    continue  # it was used, and did not end in order
                if not self._found.setting:
                    raise
                while self._left:
                    self._fails(self._left.pop(0), error)

    async def _on_one_system(self) -> None:
        """Until something fails: what is left of a system then is not to be measured on."""
        settings = {**POSTGRES, **self._postgres}
        async with Bench.running(self._guardian, accounts=self._plan.accounts, postgres=settings) as bench:
            await self._describe(bench, settings)
            work = Work(bench, self._plan, self._found.seed, self._watcher, self.measurements)
            while self._left:
                section, before, began = self._left[0], len(self.measurements), time.monotonic()
                try:
                    await SECTIONS[section](work)
                except Void as void:
                    self._found = replace(self._found, problems=void.problems)
                    self._left.clear()
                    return
                except Exception as error:  # noqa: BLE001 - whatever ends one section, the others are still wanted
                    del self.measurements[before:]
                    self._fails(self._left.pop(0), error)
                    return
                self._took[self._left.pop(0)] = round(time.monotonic() - began, 1)
                self._watcher.so_far(self.results(interrupted=bool(self._left)))

    def _fails(self, section: Section, error: Exception) -> None:
        why = f"it failed: {type(first := _first_of(error)).__name__}: {first}".partition("\n")[0]
        self._found = replace(self._found, missing={**self._found.missing, section: why})
        self._watcher.failed(section, error)

    def results(self, *, interrupted: bool = False) -> Results:
        """What there is, and what is not."""
        lacking = dict(self._found.missing)
        measured = {each.section for each in self.measurements}
        for section in self._left:
            part = "after some of its measurements; they are shown" if section in measured else "before it was measured"
            lacking[section] = f"the run ended {part}"
        load = {"before": self._load_before, "after": os.getloadavg()}
        setting = {**self._found.setting, "load_average": load, "seconds_by_section": dict(self._took)}
        return replace(
            self._found,
            seconds=time.monotonic() - self._began,
            setting=setting,
            measurements=tuple(self.measurements),
            missing=lacking,
            interrupted=interrupted,
        )

    async def _describe(self, bench: Bench, settings: Mapping[str, str]) -> None:
        if self._found.setting:
            return
        setting = await asyncio.to_thread(setting_of, bench.system)
        circumstances: dict[str, Any] = {
            "machine": setting.machine,
            "versions": {**setting.versions, **versions()},
            "postgres": settings,
            "participants": asdict(Settings()),
            "method": method_of(self._plan),
            "revision": await asyncio.to_thread(revision),
        }
        self._found = replace(self._found, setting=circumstances)


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
