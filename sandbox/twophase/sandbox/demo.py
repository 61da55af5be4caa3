"""The demo: orders through four services with four databases, and a check that each is everywhere or nowhere.

Lives here: its course, and its result as values. Must not live here: options (`cli`), what is shown (`report`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from twophase.coordinator.client import AsyncClient, Protocol
from twophase.sandbox.checkout import services
from twophase.sandbox.checkout.audit import Findings, audit, prepared
from twophase.sandbox.checkout.driver import Answer, Told, place_orders
from twophase.sandbox.checkout.opening import Opening
from twophase.sandbox.checkout.orders import Order
from twophase.sandbox.system import System

_REST_SECONDS: Final = 15.0
_POLL: Final = 0.05


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended. `seconds` is the time the clients took, without starting and checking."""

    protocol: Protocol
    answers: tuple[Answer, ...]
    findings: Findings
    seconds: float
    clients: int

    @property
    def consistent(self) -> bool:
        """True if the databases agree with each other and with what the clients were told, and nothing is in doubt."""
        return self.findings.consistent and self.in_doubt == 0

    @property
    def in_doubt(self) -> int:
        """Prepared transactions that are left, and orders whose client does not know the outcome."""
        return len(self.findings.prepared) + len(self.findings.unknown)

    def count(self, told: Told) -> int:
        """How many orders had this answer."""
        return sum(answer.told is told for answer in self.answers)

    @property
    def compensated(self) -> int:
        """How many of the refused orders had begun, and were undone; only sagas are."""
        return sum(answer.compensated for answer in self.answers)

    @property
    def refused_by_reason(self) -> dict[str, int]:
        """How many orders were refused, by the reason's code, the most frequent first."""
        return dict(Counter(answer.reason for answer in self.answers if answer.told is Told.REFUSED).most_common())

    @property
    def retries(self) -> int:
        """Attempts beyond the first, because another order was in the way."""
        return sum(answer.attempts - 1 for answer in self.answers)

    def latency_ms(self, percent: float) -> float | None:
        """A percentile (nearest rank) of the committed orders' times, in milliseconds; None if there are none."""
        times = sorted(answer.seconds for answer in self.answers if answer.told is Told.COMMITTED)
        if not times:
            return None
        return 1000 * times[min(len(times) - 1, int(len(times) * percent / 100))]


async def run_orders(
    system: System,
    orders: Sequence[Order],
    opening: Opening,
    protocol: Protocol,
    *,
    clients: int,
    on_answer: Callable[[Answer], None],
) -> Result:
    """Fills the databases of a running system, sends the orders, waits for rest, and checks the books."""
    await asyncio.to_thread(services.seed, system, orders, opening)
    started = time.monotonic()
    answers = await place_orders(system.address, orders, protocol, clients=clients, on_answer=on_answer)
    seconds = time.monotonic() - started
    await _rest(system)
    findings = await asyncio.to_thread(audit, system.connect, orders, answers, opening)
    return Result(protocol=protocol, answers=tuple(answers), findings=findings, seconds=seconds, clients=clients)


async def _rest(system: System) -> None:
    """Waits until nothing is prepared and no saga under way; what is still there after that is found by the audit."""
    end = time.monotonic() + _REST_SECONDS
    async with AsyncClient(system.address) as client:
        while await anext(client.transactions(unfinished_only=True), None) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
    for name in services.NAMES:
        while await asyncio.to_thread(prepared, system.connect, name) and time.monotonic() < end:  # noqa: ASYNC110
            await asyncio.sleep(_POLL)
