"""The soak: thousands of sagas, some of them refused, while processes are killed at moments that nobody chose.

Lives here: the plan, the kills, and what it comes to. Must not live here: the sagas (`sagas`), the checkers (`check`,
`outside`), options and words (`twophase.sandbox.soak_cli`).

A drill kills where it hurts, and a soak where nobody thought of it. Kills are due by the number of sagas that are
answered, so that a seed makes the same plan on a slow machine and on a fast one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from twophase.coordinator.client import AsyncClient, Outcome, Protocol
from twophase.sandbox.bank import NAMES
from twophase.sandbox.drill.business import Business, Told
from twophase.sandbox.drill.check import read_books
from twophase.sandbox.drill.load import Load
from twophase.sandbox.drill.setting import Setting
from twophase.sandbox.drill.stage import COORDINATOR, Stage
from twophase.sandbox.drill.work import sagas_of

# How many processes die at once, and how often that is: mostly one, now and then all.
_DEATHS: Final = {1: 7, 2: 2, 1 + len(NAMES): 1}
# The coordinator dies as often as all participants together.
_WEIGHTS: Final = {COORDINATOR: float(len(NAMES)), **dict.fromkeys(NAMES, 1.0)}
# Seconds until one that died is started again.
_AWAY: Final = 0.5
_POLL: Final = 0.01


@dataclass(frozen=True, slots=True)
class Stroke:
    """Processes that are killed at once when so many sagas are answered; each is back after so many seconds."""

    answered: int
    victims: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a soak does. `kills` are strokes, of one process or several; `refused` is the part of the sagas that is made
    to be refused, or too slow.
    """

    sagas: int
    kills: int
    refused: float = 0.2
    seed: int = 1
    clients: int = 16

    def strokes(self) -> tuple[Stroke, ...]:
        """When who dies: the same from the same seed."""
        chance = random.Random(self.seed)  # noqa: S311 - no secret, and it must be repeatable
        moments = sorted(chance.randrange(self.sagas) for _ in range(self.kills))
        return tuple(Stroke(moment, _victims(chance)) for moment in moments)


def _victims(chance: random.Random) -> dict[str, float]:
    (number,) = chance.choices(list(_DEATHS), list(_DEATHS.values()))
    drawn = sorted(_WEIGHTS, key=lambda name: chance.random() ** (1 / _WEIGHTS[name]), reverse=True)[:number]
    return {name: chance.uniform(0.0, _AWAY) for name in drawn}


@dataclass(frozen=True, slots=True)
class Soaked:
    """What a soak came to. `outcomes` are the coordinator's, `told` the clients'; `to_the_end` is from the last answer
    until no saga was under way, in seconds. `undone` are the compensations that the banks booked.
    """

    plan: Plan
    outcomes: Counter[Outcome]
    told: Counter[Told]
    doomed: int
    undone: int
    kills: Counter[str]
    seconds: float
    to_the_end: float
    violations: tuple[str, ...]
    outside: tuple[str, ...]
    setting: Setting = field(default_factory=Setting)

    @property
    def passed(self) -> bool:
        """True if nothing is wrong."""
        return not self.violations and not self.outside

    @property
    def rate(self) -> float:
        """Sagas a second, the outages included."""
        return self.plan.sagas / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON can hold it."""
        begun = (Outcome.COMMITTED, Outcome.COMPENSATED)
        return {
            "sagas": self.plan.sagas,
            "seed": self.plan.seed,
            "clients": self.plan.clients,
            "completed": self.outcomes[Outcome.COMMITTED],
            "compensated": self.outcomes[Outcome.COMPENSATED],
            "not_begun": self.plan.sagas - sum(self.outcomes[each] for each in begun),
            "made_to_be_undone": self.doomed,
            "compensations": self.undone,
            "unknown": self.told[Told.UNKNOWN],
            "kills": self.kills.total(),
            "kills_by_process": dict(sorted(self.kills.items())),
            "seconds": round(self.seconds, 1),
            "sagas_per_second": round(self.rate, 1),
            "seconds_to_the_end": round(self.to_the_end, 2),
            "violations": list(self.violations),
            "outside_violations": list(self.outside),
            "started": self.setting.started,
            "machine": self.setting.machine,
            "versions": dict(self.setting.versions),
        }


@dataclass(slots=True)
class Soak:
    """One soak, on a system that runs. `kills` counts the dead by their name."""

    stage: Stage
    plan: Plan
    kills: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def run(self, on_answer: Callable[[int, int], None], *, setting: Setting | None = None) -> Soaked:
        """Runs it to its end. `on_answer` is told now and then how many sagas are answered, and how many have died."""
        self.stage.business = Business.SAGAS
        plan, system = self.plan, self.stage.system
        sagas = tuple(sagas_of(plan.sagas, plan.seed, doomed=plan.refused))
        load = Load(system.address, clients=plan.clients, seed=plan.seed, work=iter(sagas))
        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(load.run())
            group.create_task(self._kill(load, sending))
            while not sending.done():
                on_answer(len(load.record.answers), self.kills.total())
                await asyncio.wait({sending}, timeout=_POLL * 10)
        answered = time.monotonic()
        self.wrong += await self.stage.rest()
        ended = time.monotonic()
        await load.settle(system.address)
        on_answer(len(load.record.answers), self.kills.total())
        books = read_books(system.connect)
        return Soaked(
            plan=plan,
            outcomes=await self._outcomes(),
            told=load.record.count(),
            doomed=sum(saga.doomed for saga in sagas),
            undone=sum(page.total() for book in books.values() for page in book.undone.values()),
            kills=self.kills,
            seconds=answered - started,
            to_the_end=ended - answered,
            violations=(*self.wrong, *self.stage.verdict(load)),
            outside=await self.stage.outside_verdict(),
            setting=setting or Setting(),
        )

    async def _kill(self, load: Load, sending: asyncio.Task[None]) -> None:
        for stroke in self.plan.strokes():
            while len(load.record.answers) < stroke.answered:
                await self._look_for_the_dead()
                await asyncio.sleep(_POLL)
            for name in stroke.victims:
                await self.stage.program(name).kill()
                self.kills[name] += 1
            await asyncio.gather(*(self._start(name, away) for name, away in stroke.victims.items()))
        while not sending.done():
            await self._look_for_the_dead()
            await asyncio.wait({sending}, timeout=_POLL)

    async def _start(self, name: str, away: float) -> None:
        await asyncio.sleep(away)
        await self.stage.program(name).start()

    async def _look_for_the_dead(self) -> None:
        """Nobody but this module ends a process. Whoever ended by himself is wrong, and started again all the same."""
        for name in (COORDINATOR, *NAMES):
            if not self.stage.program(name).is_running:
                self.wrong.append(f"R10: {name} ended by itself")
                await self.stage.program(name).start()

    async def _outcomes(self) -> Counter[Outcome]:
        async with AsyncClient(self.stage.system.address) as client:
            return Counter([each.outcome async for each in client.transactions() if each.protocol is Protocol.SAGA])
