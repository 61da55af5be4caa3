"""The clients of the checkout: they send orders and write down what they were told.

Lives here: concurrency, the record, asking again. Must not live here: whether the databases agree (`audit`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from twophase.coordinator.client import (
    AsyncClient,
    CallRejected,
    CoordinatorUnavailable,
    Outcome,
    OutcomeUnknown,
    Protocol,
    SagaCompensated,
    Step,
    TransactionAborted,
    operation,
    step,
)
from twophase.sandbox.checkout.orders import Order

DEADLINE: Final = 10.0
RETRIES: Final = 9
_SETTLE_SECONDS: Final = 30.0
_POLL: Final = 0.1


class Told(Enum):
    """What a client knows of its order in the end."""

    COMMITTED = "committed"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client was told of one order.

    `reason` is the refusal's code and `message` its text; both are empty for a committed order. `seconds` is from the
    first attempt to the answer, `attempts` how many it took. `compensated`: it was refused after a part of it was done,
    and that was undone; only a saga can be.
    """

    order: Order
    told: Told
    seconds: float
    attempts: int
    reason: str = ""
    message: str = ""
    compensated: bool = False


async def place_orders(
    address: str, orders: Sequence[Order], protocol: Protocol, *, clients: int, on_answer: Callable[[Answer], None]
) -> list[Answer]:
    """Sends all orders in their order, `clients` of them at a time; returns the answers in the order they came."""
    waiting = iter(orders)
    answers: list[Answer] = []

    async with AsyncClient(address) as client:

        async def work() -> None:
            for order in waiting:
                answer = await _place(client, order, protocol)
                answers.append(answer)
                on_answer(answer)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(clients, len(orders))):
                group.create_task(work())
    return answers


def steps(order: Order) -> tuple[Step, ...]:
    """What has to happen for an order. As a saga: it is written down, then pieces are reserved while a delivery is
    planned; the money is taken last."""
    payloads = order.payloads()
    place = step("place", operation("order", "place", payloads["order"]))
    reserve = step("reserve", operation("inventory", "reserve", payloads["inventory"]), after=(place,))
    schedule = step("schedule", operation("delivery", "schedule", payloads["delivery"]), after=(place,))
    charge = step("charge", operation("payment", "charge", payloads["payment"]), after=(reserve, schedule), pivot=True)
    return place, reserve, schedule, charge


async def _place(client: AsyncClient, order: Order, protocol: Protocol) -> Answer:
    started = time.monotonic()

    def answer(told: Told, attempts: int, reason: str = "", message: str = "", *, compensated: bool = False) -> Answer:
        return Answer(order, told, time.monotonic() - started, attempts, reason, message, compensated)

    try:
        # A retry is a new attempt under the same request id: somebody else was in the way (a lock), and may be gone.
        done = await client.execute(
            *steps(order), protocol=protocol, request_id=order.request_id, deadline=DEADLINE, retries=RETRIES
        )
    except TransactionAborted as aborted:
        message = aborted.refusals[0].message if aborted.refusals else str(aborted)
        undone = isinstance(aborted, SagaCompensated)
        return answer(Told.REFUSED, aborted.attempt, aborted.code, message, compensated=undone)
    except OutcomeUnknown as unknown:
        return await _ask(client, order, answer, unknown)
    except (CallRejected, CoordinatorUnavailable) as rejected:
        return answer(Told.REFUSED, 1, type(rejected).__name__, str(rejected))
    return answer(Told.COMMITTED, done.attempt)


async def _ask(client: AsyncClient, order: Order, answer: Callable[..., Answer], unknown: OutcomeUnknown) -> Answer:
    """Asks what became of an order, until that is known or for half a minute."""
    end = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < end:
        try:
            found = await client.outcome(order.request_id)
        except CoordinatorUnavailable:
            found = None
        if found is not None and found.outcome is Outcome.COMMITTED:
            return answer(Told.COMMITTED, found.attempt)
        if found is not None and found.outcome in (Outcome.ABORTED, Outcome.COMPENSATED):
            reason = found.refusals[0].code if found.refusals else "ABORTED"
            undone = found.outcome is Outcome.COMPENSATED
            return answer(Told.REFUSED, found.attempt, reason, str(unknown), compensated=undone)
        await asyncio.sleep(_POLL)
    return answer(Told.UNKNOWN, unknown.attempt, "UNKNOWN", str(unknown))
