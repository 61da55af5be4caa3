"""The steps of a request: their names, their order, and those that make no saga."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.service_fakes import Served, op, request
from twophase.contract.status import Problem
from twophase.coordinator.engine.api import DEFAULT_LIMITS, Call, Protocol, Rejected
from twophase.coordinator.protocol.graph import Step, graph
from twophase.coordinator.validation_steps import calls
from twophase.v1 import coordinator_pb2, types_pb2

Operation = types_pb2.Operation
SAGA = coordinator_pb2.PROTOCOL_SAGA
TWO_PHASE = coordinator_pb2.PROTOCOL_TWO_PHASE


def step(
    name: str = "", *, after: Iterable[str] | None = None, pivot: bool = False, at: str = "inventory"
) -> Operation:
    made = op(at)
    made.step, made.pivot = name, pivot
    if after is not None:
        made.after.CopyFrom(types_pb2.After(steps=after))
    return made


async def shape(service: Served, *operations: Operation) -> list[tuple[str, tuple[int, ...], bool]]:
    """What reaches the engine of a saga's steps, and of the same request in two-phase commit."""
    await service.stub.Execute(request(operations=operations, protocol=SAGA))
    await service.stub.Execute(request(operations=operations))
    saga, two_phase = service.engine.submissions
    assert (saga.protocol, two_phase.protocol) == (Protocol.SAGA, Protocol.TWO_PHASE)
    assert saga.calls == two_phase.calls
    return [(call.step, call.after, call.pivot) for call in saga.calls]


async def test_steps_that_say_nothing_run_in_order_under_their_operations_names(service: Served) -> None:
    assert await shape(service, op("a"), op("b"), op("a"), op("a")) == [
        ("a.reserve", (), False),
        ("b.reserve", (0,), False),
        ("a.reserve-2", (1,), False),
        ("a.reserve-3", (2,), False),
    ]


async def test_steps_wait_for_whom_they_name_and_for_nobody_if_they_name_none(service: Served) -> None:
    assert await shape(
        service,
        step("reserve"),
        step("draw", after=()),
        step("pay", after=("draw", "reserve", "draw"), pivot=True),
        step("send"),
    ) == [("reserve", (), False), ("draw", (), False), ("pay", (0, 1), True), ("send", (2,), False)]


async def test_a_step_may_wait_for_one_that_comes_later_in_the_request(service: Served) -> None:
    assert await shape(service, step("b", after=("a",)), step("a", after=())) == [("b", (1,), False), ("a", (), False)]


async def test_a_name_that_is_given_stands_and_one_that_is_not_makes_way(service: Served) -> None:
    names = [name for name, *_ in await shape(service, op("a"), step("a.reserve"), op("a"), step("a.reserve-2"))]

    assert names == ["a.reserve-3", "a.reserve", "a.reserve-4", "a.reserve-2"]


async def test_a_step_can_be_named_by_the_name_it_has_by_itself(service: Served) -> None:
    assert await shape(service, op("a"), op("b"), step("c", after=("a.reserve",)))


async def test_a_request_of_as_many_operations_as_may_be_is_a_line(service: Served) -> None:
    *_, (_, after, _) = await shape(service, *[op(f"p{n % 64}") for n in range(256)])

    assert after == (254,)


CIRCLE = [step("a", after=("c",)), step("b", after=("a",)), step("c", after=("b",)), step("d", after=())]
BAD_STEPS: dict[str, tuple[list[Operation], str, str, str]] = {
    "an odd name": (
        [step("to pay")],
        "operations[0].step",
        "MALFORMED_FIELD",
        "step name 'to pay' is not 1 to 64 characters",
    ),
    "a long name": ([step("x" * 65)], "operations[0].step", "MALFORMED_FIELD", "is not 1 to 64 characters"),
    "two of one name": (
        [step("pay"), step("reserve"), step("pay")],
        "operations[2].step",
        "MALFORMED_STEPS",
        "step 'pay' is the name of operations[0], too",
    ),
    "a step that is not there": (
        [step("reserve"), step("pay", after=("reserve", "ship"))],
        "operations[1].after",
        "MALFORMED_STEPS",
        "names 'ship', and no step of this request has that name; name some of 'reserve', 'pay'",
    ),
    "a step that has no name": ([step("a", after=("",))], "operations[0].after", "MALFORMED_STEPS", "names ''"),
    "a step that waits for itself": (
        [step("pay", after=("pay",))],
        "operations[0].after",
        "MALFORMED_STEPS",
        "step 'pay' waits for itself",
    ),
    "a circle": (
        CIRCLE,
        "operations[0].after",
        "MALFORMED_STEPS",
        "in a circle: 'a' after 'c', 'c' after 'b', 'b' after 'a'",
    ),
    "a circle through the order of the request": (
        [step("a", after=("b",)), step("b")],
        "operations[0].after",
        "MALFORMED_STEPS",
        "'a' after 'b', 'b' after 'a'",
    ),
    "two pivots": (
        [step("a", pivot=True), step("b"), step("c", pivot=True)],
        "operations[2].pivot",
        "MALFORMED_STEPS",
        "steps 'a' and 'c' are both the pivot",
    ),
    "a step beside the pivot": (
        [step("pay", pivot=True), step("draw", after=())],
        "operations[1].after",
        "MALFORMED_STEPS",
        "step 'draw' is neither before the pivot 'pay' nor after it",
    ),
}


@pytest.mark.parametrize("protocol", [SAGA, TWO_PHASE])
@pytest.mark.parametrize(("operations", "field", "reason", "said"), BAD_STEPS.values(), ids=BAD_STEPS.keys())
async def test_steps_that_make_no_saga_are_refused_under_either_protocol_and_named(
    service: Served,
    operations: list[Operation],
    field: str,
    reason: str,
    said: str,
    protocol: coordinator_pb2.Protocol.ValueType,
) -> None:
    problem, _ = await service.refused(service.stub.Execute(request(operations=operations, protocol=protocol)))

    assert (problem.code, problem.field, problem.reason) == (grpc.StatusCode.INVALID_ARGUMENT, field, reason)
    assert said in problem.message
    assert problem.remedy
    assert problem.message.endswith(problem.remedy)
    assert service.engine.submissions == []


async def test_what_is_named_is_cut_so_that_the_answer_arrives(service: Served) -> None:
    many = [step(f"{n}{'x' * 60}", after=(f"{(n + 1) % 256}{'x' * 60}",)) for n in range(256)]
    unknown = [*(step(f"{n}{'x' * 60}") for n in range(255)), step("last", after=("\x1b" * 10_000,))]

    circle, _ = await service.refused(service.stub.Execute(request(operations=many)))
    stranger, _ = await service.refused(service.stub.Execute(request(operations=unknown)))

    assert (circle.reason, stranger.reason) == ("MALFORMED_STEPS", "MALFORMED_STEPS")
    assert "..." in stranger.remedy
    assert "\x1b" not in stranger.message


NAMES = st.sampled_from(["", "a", "b", "a.reserve", "a.reserve-2", "b.reserve"])
STEPS = st.builds(
    step,
    NAMES,
    after=st.none() | st.lists(NAMES, max_size=3),
    pivot=st.booleans(),
    at=st.sampled_from(["a", "b"]),
)


def checked(operations: list[Operation]) -> tuple[Call, ...] | Problem:
    try:
        return calls(operations, DEFAULT_LIMITS)
    except Rejected as rejected:
        return rejected.problem


@given(st.lists(STEPS, min_size=1, max_size=6))
def test_whatever_is_asked_for_is_a_saga_or_is_refused_with_a_field(operations: list[Operation]) -> None:
    made = checked(operations)
    if isinstance(made, Problem):
        assert made.code is grpc.StatusCode.INVALID_ARGUMENT
        assert made.field.startswith("operations[")
        assert made.remedy
        return
    assert len({call.step for call in made}) == len(operations)
    shape = graph(Step(number, frozenset(call.after), call.pivot) for number, call in enumerate(made))
    for number, (operation, call) in enumerate(zip(operations, made, strict=True)):
        assert call.step == operation.step or not operation.step
        waits_for = {made[before].step for before in call.after}
        expected = set(operation.after.steps) if operation.HasField("after") else {made[number - 1].step} - {call.step}
        assert waits_for == (expected if number or operation.HasField("after") else set())
        assert shape.pivot in (None, number) or operation.pivot is False
