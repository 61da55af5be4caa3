"""Operations as the steps of a saga: what each is called, what comes before it, and which is the pivot.

Lives here: `step`, and its written form. Must not live here: what makes a graph of steps malformed; the coordinator
says that, under either protocol.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from twophase.contract.names import InvalidName, check_step_name
from twophase.coordinator.client.errors import invalid
from twophase.coordinator.client.values import Operation
from twophase.v1 import types_pb2


@dataclass(frozen=True, slots=True)
class Step:
    """An operation with a place in a saga; made by `step`. `after` is None for "the one before it in the call"."""

    name: str
    operation: Operation
    after: tuple[str, ...] | None = None
    pivot: bool = False


def step(name: str, operation: Operation, *, after: Iterable[str | Step] | None = None, pivot: bool = False) -> Step:
    """An operation that is given to `AsyncClient.execute` as a step with a name.

        reserve = step("reserve", operation("inventory", "reserve", order), after=())
        draw = step("draw", operation("design", "draw", order), after=())
        pay = step("pay", operation("payment", "charge", order), after=(reserve, draw), pivot=True)
        send = step("send", operation("delivery", "book", order))

    `name`: 1 to 64 characters of A-Z, a-z, 0-9, `.`, `_`, `:` and `-`, once in a call. `after`: the steps that must be
    done before this one begins, as such or by their names; `()` for none, so that it begins at once; None for the one
    before it in the call. `pivot`: after it the saga only goes forward; what comes before it is compensated if it is
    refused, what comes after it is repeated until it is done. At most one step is the pivot, and every other one comes
    before it or after it.

    Two-phase commit takes steps, too, and runs their operations without regard to order and pivot. Raises
    `InvalidRequest` for a malformed name, and for text as `after`; the coordinator refuses the rest.
    """
    try:
        check_step_name(name)
    except InvalidName as error:
        raise invalid("step", name, str(error), "name the step so") from error
    if isinstance(after, str):
        raise invalid("after", after, f"after of step {name!r} is text, not steps", f"give ({after!r},)")
    before = None if after is None else tuple(one.name if isinstance(one, Step) else one for one in after)
    return Step(name, operation, before, pivot)


def operation_message(given: Operation | Step) -> types_pb2.Operation:
    """An operation, for the wire."""
    operation = given.operation if isinstance(given, Step) else given
    message = types_pb2.Operation(participant=operation.participant, name=operation.name, payload=operation.payload)
    if isinstance(given, Step):
        message.step, message.pivot = given.name, given.pivot
        if given.after is not None:
            message.after.CopyFrom(types_pb2.After(steps=given.after))
    return message
