"""What happened in a drill, and when: who was down, what the clients were told, how many branches were prepared.

Lives here: the timeline as a value, and who writes it. Must not live here: how it is drawn (`chart`).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import psycopg

from twophase.sandbox.drill.business import Answered, Told
from twophase.sandbox.postgres import Cluster

RECOVERY: Final = "recovery"
"""Who is marked while it is measured how long branches stay in doubt."""
IN_DOUBT, DONE = "in doubt", "done"
STEP: Final = 0.1
"""Seconds: the width of a bar of answers, and about the time between two looks at what is prepared."""
LATE: Final = 0.5
"""Seconds: a branch that is prepared for longer is not just passing through."""
_LOOK_AT_PROCESSES: Final = 0.02

_PREPARED: Final[LiteralString] = """
SELECT count(*), count(*) FILTER (WHERE prepared < clock_timestamp() - make_interval(secs => %s))
FROM pg_prepared_xacts WHERE gid LIKE 'tp-%%'"""


@dataclass(frozen=True, slots=True)
class Mark:
    """At this moment, in seconds since the drill began, that became of somebody."""

    at: float
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class Sample:
    """How many branches were prepared on all servers, and how many of them for longer than `LATE`."""

    at: float
    prepared: int
    late: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """One drill. `before` is what everybody was when it began; `answers` are counted in steps of `STEP` seconds."""

    seconds: float = 0.0
    before: Mapping[str, str] = field(default_factory=dict)
    marks: tuple[Mark, ...] = ()
    samples: tuple[Sample, ...] = ()
    answers: tuple[Mapping[Told, int], ...] = ()

    @property
    def late_from(self) -> float | None:
        """When a branch was first seen that was prepared for longer than `LATE`."""
        return min((sample.at for sample in self.samples if sample.late), default=None)

    @property
    def late_until(self) -> float | None:
        """When such a branch was last seen."""
        return max((sample.at for sample in self.samples if sample.late), default=None)

    def to_json(self) -> dict[str, Any]:
        """The timeline as JSON can hold it, in milliseconds since the drill began."""
        return {
            "timeline": [{"at_ms": _ms(mark.at), "who": mark.who, "what": mark.what} for mark in self.marks],
            "in_doubt_first_ms": _ms(self.late_from),
            "in_doubt_last_ms": _ms(self.late_until),
            "prepared": [
                {"at_ms": _ms(sample.at), "branches": sample.prepared, "late": sample.late} for sample in self.samples
            ],
            "answers_per_100_ms": {told.value: [counted.get(told, 0) for counted in self.answers] for told in Told},
        }


class Recorder:
    """Writes the timeline of one drill after the other. `watch` may be called at any time, from any thread."""

    def __init__(self) -> None:
        self._now: dict[str, str] = {}
        self._before: dict[str, str] = {}
        self._began = time.monotonic()
        self._marks: list[Mark] = []
        self._samples: list[Sample] = []

    def watch(self, who: str, what: str) -> None:
        """That became of somebody, now."""
        self._now[who] = what
        self._marks.append(Mark(time.monotonic() - self._began, who, what))

    @contextlib.asynccontextmanager
    async def recording(self, clusters: Iterable[Cluster], look: Callable[[], None]) -> AsyncIterator[None]:
        """Records from here to the end of the block. `look` is called often: it is to find out who died by himself."""
        self._before = dict(self._now)
        self._began = time.monotonic()
        self._marks, self._samples = [], []
        over = threading.Event()
        looking = asyncio.create_task(_repeat(look))
        sampling = asyncio.create_task(asyncio.to_thread(self._sample, tuple(clusters), over))
        try:
            yield
        finally:
            over.set()
            looking.cancel()
            await asyncio.wait((looking, sampling))
            sampling.result()

    def timeline(self, answers: Iterable[Answered]) -> Timeline:
        """What was recorded last, with the answers that the clients had."""
        seconds = time.monotonic() - self._began
        counted = [Counter[Told]() for _ in range(int(seconds / STEP) + 1)]
        for answer in answers:
            counted[min(max(int((answer.at - self._began) / STEP), 0), len(counted) - 1)][answer.told] += 1
        return Timeline(seconds, self._before, tuple(self._marks), tuple(self._samples), tuple(counted))

    def _sample(self, clusters: tuple[Cluster, ...], over: threading.Event) -> None:
        eyes = [_Eye(cluster) for cluster in clusters]
        try:
            while not over.wait(STEP):
                seen = [eye.look() for eye in eyes]
                at = time.monotonic() - self._began
                self._samples.append(Sample(at, sum(all_ for all_, _ in seen), sum(late for _, late in seen)))
        finally:
            for eye in eyes:
                eye.close()


class _Eye:
    """Looks at one server. While it is down it says what was there last: prepared branches outlive their server."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._connection: psycopg.Connection | None = None
        self._seen = (0, 0)

    def look(self) -> tuple[int, int]:
        try:
            if self._connection is None:
                self._connection = self._cluster.connect()
            row = self._connection.execute(_PREPARED, [LATE]).fetchone()
        except psycopg.Error:
            self.close()
        else:
            assert row is not None  # noqa: S101 - an aggregate returns one row
            self._seen = (row[0], row[1])
        return self._seen

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


async def _repeat(look: Callable[[], None]) -> None:
    while True:
        look()
        await asyncio.sleep(_LOOK_AT_PROCESSES)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
