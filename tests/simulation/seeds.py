"""Running seeds: one, many, or the first that breaks a rule.

Lives here: what stands between a seed and a verdict. Must not live here: the run itself (`world`).
"""

from __future__ import annotations

import contextlib
import logging
import random
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from fixtures.virtual_time import Stuck, run_virtually
from simulation.check import violations
from simulation.runs import CALM, Run, Setting
from simulation.world import World


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a seed showed."""

    seed: int
    transfers: int
    violations: tuple[str, ...]
    trace: tuple[str, ...] = ()


def run_seed(
    seed: int, setting: Setting = CALM, *, world: type[World] = World, keep_trace: bool = False, **parts: Any
) -> Verdict:
    """Runs one seed. The same seed with the same parts runs the same way every time."""

    async def whole() -> Run:
        return await world(seed, setting, keep_trace=keep_trace, **parts).go()

    nonces = random.Random(seed)  # noqa: S311 - it must repeat
    with _alarms() as alarms, patch.object(secrets, "token_hex", lambda size: nonces.randbytes(size).hex()):
        try:
            random.seed(seed)  # the pauses of the engine are random, too
            run = run_virtually(whole())
        except Stuck as stuck:
            return Verdict(seed, 0, (f"stuck: {stuck}",))
    run.alarms = alarms
    return Verdict(seed, len(run.transfers), violations(run), tuple(run.trace))


def first_wrong(seeds: Iterable[int], setting: Setting = CALM, **parts: Any) -> Verdict | None:
    """The first seed that breaks a rule; None if none does."""
    for seed in seeds:
        verdict = run_seed(seed, setting, **parts)
        if verdict.violations:
            return verdict
    return None


@contextlib.contextmanager
def _alarms() -> Iterator[list[str]]:
    """What the coordinator logs as critical while the block runs; nothing else of its log is kept."""
    logger = logging.getLogger("twophase")
    found: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage())

    collector, propagates = Collector(level=logging.CRITICAL), logger.propagate
    logger.addHandler(collector)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(collector)
        logger.propagate = propagates
