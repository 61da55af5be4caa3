"""What `twophase bench scale` is asked for, and what it comes to, as values.

Lives here: sizes, measurements, what is wanted of them, and the JSON object. Must not live here: measuring (`scale`),
tables (`scale_screen`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from twophase.benchmarks.wanted import Wanted, at_most
from twophase.sandbox.drill.setting import Setting

SLOWER_AT_MOST: Final = 1.5
PEAK_MB: Final = 200.0
GROWTH_MB: Final = 10.0
START_AT_MOST: Final = 1.2
_SHOWN_POINTS: Final = 20
_TENTHS: Final = 10


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of it. `delay` is in seconds; `ended` are the lengths of the journals' histories, in transactions."""

    participants: int = 32
    delay: float = 0.05
    repeats: int = 25
    concurrent: int = 1_000
    warm_up: int = 10_000
    transactions: int = 100_000
    ended: tuple[int, ...] = (1_000_000,)
    starts: int = 9


QUICK: Final = Sizes(repeats=5, concurrent=200, warm_up=1_000, transactions=5_000, ended=(50_000,), starts=3)
"""For a look, in half a minute; the limits are not for these sizes."""


@dataclass(frozen=True, slots=True)
class FanOut:
    """One kind of transaction: its latencies in milliseconds, one for each repetition."""

    what: str
    latencies_ms: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """Of all repetitions."""
        return statistics.median(self.latencies_ms)

    def to_json(self) -> dict[str, Any]:
        """With the extremes."""
        return {
            "what": self.what,
            "median_ms": round(self.median_ms, 2),
            "fastest_ms": round(min(self.latencies_ms), 2),
            "slowest_ms": round(max(self.latencies_ms), 2),
        }


@dataclass(frozen=True, slots=True)
class FanOuts:
    """One participant and all of them. `lone` is a single branch, which has no second phase: one message instead of two
    (R12). `one` is a two-phase commit with one participant that delays, and one that does not; `all` one of all that
    delay. `lone_decided` and `all_decided` are answered once the transaction is decided for good."""

    participants: int
    lone: FanOut
    one: FanOut
    all: FanOut
    lone_decided: FanOut
    all_decided: FanOut

    def rows(self) -> tuple[FanOut, ...]:
        """In the order in which they are shown."""
        return (self.lone, self.one, self.all, self.lone_decided, self.all_decided)

    def wanted(self) -> list[Wanted]:
        """The same protocol over all of them and over one; and what a client waits for the decision."""
        many = f"{self.participants} participants that delay, over one"
        return [
            at_most(f"{many}: two-phase commit, applied", self.all.median_ms / self.one.median_ms, SLOWER_AT_MOST),
            at_most(f"{many}: decided", self.all_decided.median_ms / self.lone_decided.median_ms, SLOWER_AT_MOST),
        ]

    def to_json(self) -> dict[str, Any]:
        """Every row, and how many times the lone branch's latency that of all of them is."""
        return {
            "participants": self.participants,
            "rows": [row.to_json() for row in self.rows()],
            "all_of_lone": round(self.all.median_ms / self.lone.median_ms, 3),
        }


@dataclass(frozen=True, slots=True)
class Sample:
    """How much of a process was in memory after so many transactions."""

    transactions: int
    rss_mb: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The coordinator's memory while `concurrent` transactions are under way all the time. Megabytes are 10^6 bytes.

    `idle_mb` before the first one, `samples` after the warm-up, `peak_mb` the highest of its whole life.
    """

    concurrent: int
    warm_up: int
    transactions: int
    idle_mb: float
    peak_mb: float
    samples: tuple[Sample, ...]
    seconds: float

    @property
    def first_mb(self) -> float:
        """The median of the first tenth of the samples."""
        return statistics.median(sample.rss_mb for sample in self.samples[: self._tenth])

    @property
    def last_mb(self) -> float:
        """The median of the last tenth of the samples."""
        return statistics.median(sample.rss_mb for sample in self.samples[-self._tenth :])

    @property
    def growth_mb(self) -> float:
        """From the first tenth to the last."""
        return self.last_mb - self.first_mb

    @property
    def _tenth(self) -> int:
        return max(1, len(self.samples) // _TENTHS)

    def wanted(self) -> list[Wanted]:
        """The peak and the growth."""
        load = f"{self.concurrent:,} at the same time"
        return [
            at_most(f"coordinator's memory at its peak, {load}", self.peak_mb, PEAK_MB, unit=" MB"),
            at_most(
                f"its growth over {self.transactions:,} transactions, after {self.warm_up:,}",
                self.growth_mb,
                GROWTH_MB,
                unit=" MB",
            ),
        ]

    def curve(self) -> list[Sample]:
        """Some of the samples, evenly."""
        step = max(1, len(self.samples) // _SHOWN_POINTS)
        return list(self.samples[::step])

    def to_json(self) -> dict[str, Any]:
        """With the curve, which is thinned."""
        return {
            "concurrent": self.concurrent,
            "warm_up": self.warm_up,
            "transactions": self.transactions,
            "seconds": round(self.seconds, 1),
            "idle_mb": round(self.idle_mb, 1),
            "peak_mb": round(self.peak_mb, 1),
            "first_mb": round(self.first_mb, 1),
            "last_mb": round(self.last_mb, 1),
            "growth_mb": round(self.growth_mb, 1),
            "curve": [[sample.transactions, round(sample.rss_mb, 1)] for sample in self.curve()],
        }


@dataclass(frozen=True, slots=True)
class Starts:
    """Starts on a journal of `ended` transactions: seconds from the start of the process, one for each repetition."""

    ended: int
    megabytes: float
    ready: tuple[float, ...]
    committed: tuple[float, ...]

    @property
    def ready_seconds(self) -> float:
        """The median until its ready line."""
        return statistics.median(self.ready)

    @property
    def committed_seconds(self) -> float:
        """The median until its first transaction was answered as committed and applied."""
        return statistics.median(self.committed)

    def to_json(self) -> dict[str, Any]:
        """Medians, and every repetition."""
        return {
            "ended": self.ended,
            "journal_mb": round(self.megabytes, 1),
            "ready_seconds": round(self.ready_seconds, 3),
            "committed_seconds": round(self.committed_seconds, 3),
            "ready": [round(seconds, 3) for seconds in self.ready],
            "committed": [round(seconds, 3) for seconds in self.committed],
        }


def wanted_of_starts(starts: Sequence[Starts]) -> list[Wanted]:
    """Every history over none, which comes first."""
    found = []
    for each in starts[1:]:
        over = f"start with {each.ended:,} ended transactions, over none"
        ready = each.ready_seconds / starts[0].ready_seconds
        found.append(at_most(f"{over}: ready", ready, START_AT_MOST))
        committed = each.committed_seconds / starts[0].committed_seconds
        found.append(at_most(f"{over}: first one committed", committed, START_AT_MOST))
    return found


@dataclass(frozen=True, slots=True)
class Scale:
    """A run. What was left out is None or empty."""

    sizes: Sizes
    setting: Setting
    fan_outs: FanOuts | None = None
    memory: Memory | None = None
    starts: Sequence[Starts] = ()
    load_average: Mapping[str, Sequence[float]] = field(default_factory=dict)
    revision: str | None = None

    def wanted(self) -> list[Wanted]:
        """Of everything that was measured."""
        return [
            *(self.fan_outs.wanted() if self.fan_outs else ()),
            *(self.memory.wanted() if self.memory else ()),
            *wanted_of_starts(self.starts),
        ]

    def to_json(self) -> dict[str, Any]:
        """Everything, and where it was measured."""
        return {
            "bench": "scale",
            "setting": asdict(self.setting),
            "revision": self.revision,
            "load_average": self.load_average,
            "sizes": asdict(self.sizes),
            "fan_out": self.fan_outs.to_json() if self.fan_outs else None,
            "memory": self.memory.to_json() if self.memory else None,
            "start": [each.to_json() for each in self.starts],
            "wanted": [each.to_json() for each in self.wanted()],
        }
