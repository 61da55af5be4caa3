"""What a run is asked for, and what it comes to, as values.

Lives here: the plan, the measurements and their medians, and the JSON object. Must not live here: measuring
(`transfer`), tables (`screen`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from twophase.benchmarks.contenders import ABOUT, OURS, Contender
from twophase.benchmarks.wanted import Wanted, at_least, at_most
from twophase.sandbox.drill.setting import Setting

CLIENTS: Final = (1, 16, 64)
THROUGHPUT_OF_LOOP: Final = {16: 0.7, 64: 1.0}
"""By number of clients, at least how much of the hand-written loop's throughput two-phase commit is to have."""
LATENCY_OF_LOOP: Final = 2.5
"""At most how many times the hand-written loop's median latency, with one client."""
SAGA_OF_DBOS: Final = {16: 5.0}
"""By number of clients, at least how many times the faster DBOS' throughput the saga is to have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `seconds` and `warm_up` are of one round of one contender with so many clients."""

    contenders: tuple[Contender, ...] = tuple(Contender)
    clients: tuple[int, ...] = CLIENTS
    rounds: int = 3
    seconds: float = 1.5
    warm_up: float = 0.4
    seed: int = 1
    accounts: int = 10_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One round. `cpu` is processor seconds by process while it counted, `threads` those of the processes of this
    project by process and kind of thread; empty where the machine does not tell."""

    contender: Contender
    clients: int
    number: int
    seconds: float
    latencies_ms: tuple[float, ...]
    committed: int
    refused: int
    cpu: Mapping[str, float] = field(default_factory=dict)
    threads: Mapping[str, float] = field(default_factory=dict)

    @property
    def throughput(self) -> float:
        """Transfers done in a second."""
        return len(self.latencies_ms) / self.seconds

    def latency_ms(self, percent: float) -> float:
        """A percentile (nearest rank); infinite if nothing was done in time."""
        ordered = sorted(self.latencies_ms)
        return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.inf


@dataclass(frozen=True, slots=True)
class Figures:
    """A contender with so many clients, over all rounds: medians of the rounds' figures, and the extremes."""

    contender: Contender
    clients: int
    rounds: tuple[Measured, ...]

    @property
    def throughput(self) -> float:
        """A second."""
        return statistics.median(each.throughput for each in self.rounds)

    @property
    def slowest(self) -> float:
        """The throughput of the slowest round."""
        return min(each.throughput for each in self.rounds)

    @property
    def fastest(self) -> float:
        """The throughput of the fastest round."""
        return max(each.throughput for each in self.rounds)

    def latency_ms(self, percent: float) -> float:
        """The median of the rounds' percentiles."""
        return statistics.median(each.latency_ms(percent) for each in self.rounds)

    @property
    def refused(self) -> int:
        """In all rounds together."""
        return sum(each.refused for each in self.rounds)

    def cpu_ms(self) -> dict[str, float]:
        """Processor time of a transfer by process, over all rounds: milliseconds. Empty if it is not known."""
        return self._each([each.cpu for each in self.rounds])

    def thread_ms(self) -> dict[str, float]:
        """The same by process and kind of thread."""
        return self._each([each.threads for each in self.rounds])

    def _each(self, spent: Sequence[Mapping[str, float]]) -> dict[str, float]:
        """Milliseconds for each transfer of what all rounds together have spent, in seconds."""
        done = sum(len(each.latencies_ms) for each in self.rounds)
        names = dict.fromkeys(name for each in spent for name in each)
        return {name: 1000 * sum(each.get(name, 0.0) for each in spent) / done for name in names} if done else {}


@dataclass(frozen=True, slots=True)
class Report:
    """A run. It is void if there is any problem."""

    plan: Plan
    setting: Setting
    circumstances: Mapping[str, Any]
    measured: Sequence[Measured]
    problems: Sequence[str]

    @property
    def is_void(self) -> bool:
        """True if the databases did not hold what they should, so that nothing was measured."""
        return bool(self.problems)

    def figures(self) -> list[Figures]:
        """By number of clients, and in the order of the contenders."""
        found = []
        for clients in self.plan.clients:
            for contender in self.plan.contenders:
                rounds = tuple(each for each in self.measured if (each.contender, each.clients) == (contender, clients))
                if rounds:
                    found.append(Figures(contender, clients, rounds))
        return found

    def baseline_of(self, figures: Figures) -> Figures | None:
        """The hand-written loop with as many clients, which the others are compared with."""
        same = (each for each in self.figures() if each.clients == figures.clients)
        return next((each for each in same if each.contender is Contender.LOOP), None)

    def saga_of_dbos(self) -> dict[int, float]:
        """By number of clients, how many times the faster DBOS' throughput the saga has; where both were measured."""
        found = {}
        for clients in self.plan.clients:
            speeds = {each.contender: each.throughput for each in self.figures() if each.clients == clients}
            fastest = max(
                (speeds[name] for name in (Contender.DBOS_SQLITE, Contender.DBOS_POSTGRES) if name in speeds),
                default=0.0,
            )
            if fastest and Contender.SAGA in speeds:
                found[clients] = speeds[Contender.SAGA] / fastest
        return found

    def wanted(self) -> list[Wanted]:
        """What the ratios are to be, for those that were measured; nothing of a void run."""
        if self.is_void:
            return []
        found = []
        for ours in self.figures():
            loop = self.baseline_of(ours)
            if ours.contender is not Contender.TWO_PHASE or loop is None:
                continue
            latency = _ratio(ours.latency_ms(50), loop.latency_ms(50))
            if ours.clients == 1 and latency is not None:
                found.append(at_most("latency of two-phase commit over the loop's, 1 client", latency, LATENCY_OF_LOOP))
            throughput = _ratio(ours.throughput, loop.throughput)
            if ours.clients in THROUGHPUT_OF_LOOP and throughput is not None:
                what = f"throughput of two-phase commit over the loop's, {ours.clients} clients"
                found.append(at_least(what, throughput, THROUGHPUT_OF_LOOP[ours.clients]))
        for clients, ratio in self.saga_of_dbos().items():
            if clients in SAGA_OF_DBOS:
                what = f"throughput of the saga over the faster DBOS', {clients} clients"
                found.append(at_least(what, ratio, SAGA_OF_DBOS[clients]))
        return found

    def to_json(self) -> dict[str, Any]:
        """Everything that was measured, and where."""
        return {
            "bench": "transfer",
            "void": self.is_void,
            "problems": list(self.problems),
            "setting": asdict(self.setting),
            **self.circumstances,
            "plan": asdict(self.plan),
            "saga_of_dbos": {str(clients): round(ratio, 3) for clients, ratio in self.saga_of_dbos().items()},
            "wanted": [each.to_json() for each in self.wanted()],
            "results": [self._result(each) for each in self.figures()],
        }

    def _result(self, figures: Figures) -> dict[str, Any]:
        loop = self.baseline_of(figures)
        p50, p99 = figures.latency_ms(50), figures.latency_ms(99)
        return {
            "contender": figures.contender,
            "about": ABOUT[figures.contender],
            "ours": figures.contender in OURS,
            "clients": figures.clients,
            "throughput": round(figures.throughput, 1),
            "throughput_min": round(figures.slowest, 1),
            "throughput_max": round(figures.fastest, 1),
            "throughput_of_loop": _ratio(figures.throughput, loop.throughput) if loop else None,
            "p50_ms": _finite(p50),
            "p50_of_loop": _ratio(p50, loop.latency_ms(50)) if loop else None,
            "p99_ms": _finite(p99),
            "refused": figures.refused,
            "cpu_ms": {name: round(value, 3) for name, value in figures.cpu_ms().items()},
            "thread_ms": {name: round(value, 3) for name, value in figures.thread_ms().items()},
            "rounds": [
                {
                    "number": each.number,
                    "seconds": round(each.seconds, 3),
                    "in_time": len(each.latencies_ms),
                    "committed": each.committed,
                    "refused": each.refused,
                    "throughput": round(each.throughput, 1),
                    "p50_ms": _finite(each.latency_ms(50)),
                    "p99_ms": _finite(each.latency_ms(99)),
                    "cpu_seconds": dict(each.cpu),
                }
                for each in figures.rounds
            ],
        }


def _ratio(value: float, of: float) -> float | None:
    return round(value / of, 3) if of and math.isfinite(value) and math.isfinite(of) else None


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None
