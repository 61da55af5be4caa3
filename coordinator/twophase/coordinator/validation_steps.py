"""The operations of a request: each by itself, and the order that their steps make.

Lives here: from the messages to the engine's calls. Steps are checked whichever protocol runs them, so that a request
that is fit for one is fit for the other. Must not live here: the other fields (`validation`), whether an operation has
a compensation (only its participant knows).

Every function raises `Rejected` with the field, the value and the remedy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from twophase.contract import names
from twophase.contract.text import shorten
from twophase.coordinator import reasons
from twophase.coordinator.complaints import check_name, missing, over, reject
from twophase.coordinator.engine.api import Call, Limits
from twophase.coordinator.protocol.graph import BesideThePivot, Cycle, Step, TwoPivots, graph
from twophase.v1 import types_pb2

_LISTED: Final = 8


def calls(operations: Sequence[types_pb2.Operation], limits: Limits) -> tuple[Call, ...]:
    """The calls that these operations ask for, each a step with its name and those that come before it."""
    count = len(operations)
    if count == 0:
        missing("operations", f"give 1 to {limits.operations} operations")
    if count > limits.operations:
        over("operations", count, f"{count} operations are over the limit of {limits.operations}", "send fewer")
    for index, operation in enumerate(operations):
        _check(f"operations[{index}]", operation, limits)
    participants = len({operation.participant for operation in operations})
    if participants > limits.participants:
        message = f"operations at {participants} participants are over the limit of {limits.participants}"
        over("operations", participants, message, "name fewer participants")
    steps = _step_names(operations)
    numbers = {step: number for number, step in enumerate(steps)}
    made = tuple(
        Call(
            operation.participant,
            operation.name,
            operation.payload,
            step,
            _after(number, operation, numbers),
            operation.pivot,
        )
        for number, (operation, step) in enumerate(zip(operations, steps, strict=True))
    )
    # Operations that name nothing are a line, whatever they are.
    if any(operation.pivot or operation.HasField("after") for operation in operations):
        _check_shape(made)
    return made


def _check(at: str, operation: types_pb2.Operation, limits: Limits) -> None:
    check_name(f"{at}.participant", operation.participant, names.check_participant_name, "give a registered name")
    check_name(f"{at}.name", operation.name, names.check_operation_name, "give a name the participant declares")
    size = operation.payload.ByteSize()
    if size > limits.payload_bytes:
        message = f"the payload of {at} has {size} bytes, over the limit of {limits.payload_bytes}"
        over(f"{at}.payload", size, message, "send less, or a reference to it")


def _step_names(operations: Sequence[types_pb2.Operation]) -> tuple[str, ...]:
    """The names of the steps. A name that is given stands; one that is not makes way for it."""
    given: dict[str, int] = {}
    for index, operation in enumerate(operations):
        if not operation.step:
            continue
        field = f"operations[{index}].step"
        check_name(field, operation.step, names.check_step_name, "give such a name, or none")
        if operation.step in given:
            fact = f"step {operation.step!r} is the name of operations[{given[operation.step]}], too"
            _refuse(field, operation.step, fact, "give each step a name of its own, or none")
        given[operation.step] = index
    taken, counts = set(given), dict[str, int]()
    found = []
    for operation in operations:
        name = operation.step
        if not name:
            usual = name = f"{operation.participant}.{operation.name}"
            counts.setdefault(usual, 1)
            while name in taken:
                counts[usual] += 1
                name = f"{usual}-{counts[usual]}"
            taken.add(name)
        found.append(name)
    return tuple(found)


def _after(number: int, operation: types_pb2.Operation, numbers: Mapping[str, int]) -> tuple[int, ...]:
    """The numbers of the steps before one."""
    if not operation.HasField("after"):
        return (number - 1,) if number else ()
    for name in operation.after.steps:
        field = f"operations[{number}].after"
        if name not in numbers:
            fact = f"{field} names '{shorten(name)}', and no step of this request has that name"
            _refuse(field, shorten(name), fact, f"name some of {_list([repr(step) for step in numbers])}")
        if numbers[name] == number:
            _refuse(field, name, f"step {name!r} waits for itself", "take its name out of its own `after`")
    return tuple(sorted({numbers[name] for name in operation.after.steps}))


def _check_shape(made: Sequence[Call]) -> None:
    """Refuses steps that make no saga."""
    try:
        graph(Step(number, frozenset(call.after), call.pivot) for number, call in enumerate(made))
    except Cycle as error:
        first = error.steps.index(min(error.steps))
        circle = [made[number].step for number in (*error.steps[first:], *error.steps[:first])]
        pairs = [f"{one!r} after {two!r}" for one, two in zip(circle, [*circle[1:], circle[0]], strict=True)]
        fact = f"these steps wait for each other in a circle: {_list(pairs)}"
        _refuse(f"operations[{min(error.steps)}].after", circle[0], fact, "take one of them out of the other's `after`")
    except TwoPivots as error:
        one, two = (made[number].step for number in error.steps[:2])
        fact = f"steps {one!r} and {two!r} are both the pivot"
        remedy = "keep one: the step after which the rest is repeated until it is done"
        _refuse(f"operations[{error.steps[1]}].pivot", two, fact, remedy)
    except BesideThePivot as error:
        beside, pivot = (made[number].step for number in error.steps)
        fact = (
            f"step {beside!r} is neither before the pivot {pivot!r} nor after it, so nobody could say if it is undone"
        )
        remedy = f"name {pivot!r} in its `after`, or name it in the `after` of {pivot!r}"
        _refuse(f"operations[{error.steps[0]}].after", beside, fact, remedy)


def _list(texts: Sequence[str]) -> str:
    return ", ".join(texts[:_LISTED]) + (f", ... ({len(texts)})" if len(texts) > _LISTED else "")


def _refuse(field: str, value: str, fact: str, remedy: str) -> NoReturn:
    reject(reasons.MALFORMED_STEPS, field, value, fact, remedy)
