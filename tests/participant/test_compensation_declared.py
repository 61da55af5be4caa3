"""Compensations as they are declared: what fits, what is refused at import time, what a handshake tells."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import psycopg
import pytest
from google.protobuf.duration_pb2 import Duration

from fixtures.reserving import (
    RESERVED,
    Reserve,
    Reserved,
    ReserveMany,
    anything,
    close,
    count,
    opened,
    operation,
    reserve,
    wait,
)
from twophase.participant import DeclarationError, Participant, Retry
from twophase.participant.bound import BoundUndo
from twophase.participant.errors import UnknownOperation
from twophase.v1 import participant_pb2


@pytest.fixture
def inventory() -> Participant:
    return Participant("inventory")


def test_a_declared_compensation_stays_what_it_was_and_is_no_operation(inventory: Participant) -> None:
    def release(connection: psycopg.Connection, order: Reserve) -> None: ...

    inventory.operation(reserve)
    assert inventory.compensation(reserve)(release) is release
    assert list(inventory.operations) == ["reserve"]
    with pytest.raises(UnknownOperation):
        inventory.bind([operation("release")])
    assert isinstance(inventory.undo([operation()], [RESERVED]), BoundUndo)


def test_a_handshake_tells_what_a_saga_must_know(inventory: Participant) -> None:
    inventory.operation(retry=Retry(attempts=7, first_pause=0.5, longest_pause=2), deadline=1.5)(reserve)
    inventory.operation(close)

    @inventory.compensation(reserve)
    def release(connection: psycopg.Connection, order: Reserve) -> None: ...

    assert [spec.describe() for spec in inventory.operations.values()] == [
        participant_pb2.OperationDescription(
            name="reserve",
            has_compensation=True,
            attempt_deadline=Duration(seconds=1, nanos=500_000_000),
            retry=participant_pb2.RetryPolicy(
                attempts=7, first_pause=Duration(nanos=500_000_000), longest_pause=Duration(seconds=2)
            ),
        ),
        participant_pb2.OperationDescription(name="close"),
    ]


def test_a_policy_that_is_not_given_has_the_values_of_the_contract() -> None:
    assert Retry().message() == participant_pb2.RetryPolicy(
        attempts=5, first_pause=Duration(nanos=50_000_000), longest_pause=Duration(seconds=5)
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"attempts": 0}, "attempts=0): it is tried at least once"),
        ({"attempts": 2**32}, "attempts=4294967296"),
        ({"first_pause": 0}, "first_pause=0"),
        ({"first_pause": 6}, "first_pause=6, longest_pause=5.0"),
        ({"first_pause": float("nan")}, "first_pause=nan"),
        ({"longest_pause": float("inf")}, "longest_pause=inf"),
        ({"longest_pause": 86_401}, "at most 86400"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        Retry(**values)
    assert told in str(raised.value)


@pytest.mark.parametrize("deadline", [0, -1, 61, float("nan"), float("inf")])
def test_a_deadline_that_no_attempt_can_have_is_refused(inventory: Participant, deadline: float) -> None:
    with pytest.raises(DeclarationError, match=r"operation 'reserve' has the deadline .*; give it seconds"):
        inventory.operation(deadline=deadline)(reserve)


def fits_itself(connection: psycopg.Connection, order: Reserve, reserved: Reserved) -> None: ...
def fits_without_connection_type(connection, order: Reserve) -> int:  # type: ignore[no-untyped-def]
    return 1


def fits_any(connection: psycopg.Connection, order: Any, reserved: object) -> None: ...
def fits_more(connection: psycopg.Connection, order: Reserve | str, reserved: Reserved | None) -> None: ...
def fits_noted(connection: psycopg.Connection, order: Annotated[Reserve, "noted"]) -> None: ...


@pytest.mark.parametrize(
    "function", [fits_itself, fits_without_connection_type, fits_any, fits_more, fits_noted], ids=lambda f: f.__name__
)
def test_what_takes_at_least_what_comes_fits(inventory: Participant, function: Callable[..., Any]) -> None:
    inventory.operation(reserve)
    inventory.compensation(reserve)(function)
    assert inventory.operations["reserve"].describe().has_compensation


def test_a_base_class_fits_and_a_bare_container_too(inventory: Participant) -> None:
    @inventory.operation
    def many(connection: psycopg.Connection, order: ReserveMany) -> dict[str, int]:
        return {}

    @inventory.compensation(many)
    def undo(connection: psycopg.Connection, order: Reserve, result: dict) -> None: ...  # type: ignore[type-arg]

    assert inventory.operations["many"].compensation is not None


def nothing() -> None: ...
def connection_only(connection: psycopg.Connection) -> None: ...
def four(connection: psycopg.Connection, order: Reserve, reserved: Reserved, more: int) -> None: ...
def other_payload(connection: psycopg.Connection, order: Reserved) -> None: ...
def derived_payload(connection: psycopg.Connection, order: ReserveMany) -> None: ...
def other_result(connection: psycopg.Connection, order: Reserve, reserved: Reserve) -> None: ...
def untyped_payload(connection: psycopg.Connection, order) -> None: ...  # type: ignore[no-untyped-def]
def untyped_result(connection: psycopg.Connection, order: Reserve, reserved) -> None: ...  # type: ignore[no-untyped-def]
def keyword_only(connection: psycopg.Connection, order: Reserve, *, reserved: Reserved) -> None: ...
def swapped(order: Reserve, connection: psycopg.Connection) -> None: ...
def generator(connection: psycopg.Connection, order: Reserve) -> Iterator[int]:
    yield 1


async def asynchronous(connection: psycopg.AsyncConnection, order: Reserve) -> None: ...
async def asynchronous_generator(connection: psycopg.AsyncConnection, order: Reserve) -> AsyncIterator[int]:
    yield 1


_WRITE = "write: def {}(connection: psycopg.Connection, order: Reserve, result: Reserved) -> None"


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (nothing, "'nothing' of operation 'reserve' has no parameter for the connection; write: def nothing("),
        (connection_only, "has 1 parameter, but gets a connection, what the operation was given and, if it takes one"),
        (connection_only, _WRITE.format("connection_only")),
        (four, "has 4 parameters, but gets"),
        (
            other_payload,
            "'order' of the compensation 'other_payload' of operation 'reserve' is annotated Reserved",
        ),
        (other_payload, "operation 'reserve' is given Reserve; write: def other_payload("),
        (derived_payload, "is annotated ReserveMany, but operation 'reserve' is given Reserve"),
        (other_result, "is annotated Reserve, but operation 'reserve' returns Reserved"),
        (untyped_payload, "parameter 'order' of the compensation 'untyped_payload' of operation 'reserve' has no type"),
        (untyped_result, "parameter 'reserved' of the compensation 'untyped_result' of operation 'reserve' has no"),
        (keyword_only, "has the parameter 'reserved', which cannot be given by position"),
        (
            swapped,
            "first parameter of the compensation 'swapped' of operation 'reserve', 'order', is",
        ),
        (generator, "is a generator"),
        (asynchronous, "is declared with async def, and its operation with def; write: def asynchronous("),
        (asynchronous_generator, "is a generator"),
        (Reserve, "is not a function; declare one, such as: def Reserve(connection: psycopg.Connection, order"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_what_does_not_fit_says_what_to_write(inventory: Participant, function: Callable[..., Any], told: str) -> None:
    inventory.operation(reserve)
    with pytest.raises(DeclarationError) as raised:
        inventory.compensation(reserve)(function)
    assert told in str(raised.value)
    assert not inventory.operations["reserve"].describe().has_compensation


def test_def_for_async_def_says_what_to_write(inventory: Participant) -> None:
    inventory.operation(wait)
    with pytest.raises(DeclarationError, match=r"write: async def stop\(connection: psycopg.AsyncConnection, order: R"):

        @inventory.compensation(wait)
        def stop(connection: psycopg.Connection, order: Reserve) -> None: ...


def test_a_result_that_may_be_none_does_not_fit_what_wants_one(inventory: Participant) -> None:
    inventory.operation(opened)
    with pytest.raises(DeclarationError, match=r"annotated Reserved, but operation 'opened' returns .*Reserved \| N"):

        @inventory.compensation(opened)
        def shut(connection: psycopg.Connection, result: Reserved) -> None: ...


def test_a_result_that_is_nothing_or_not_declared_cannot_be_taken(inventory: Participant) -> None:
    inventory.operation(close)
    inventory.operation(anything)

    def reopen(connection: psycopg.Connection, result: Reserved) -> None: ...
    def forget(connection: psycopg.Connection, order: Reserve, result: Reserved) -> None: ...

    with pytest.raises(DeclarationError, match="takes what that returns, which is None; leave out 'result'"):
        inventory.compensation(close)(reopen)
    with pytest.raises(
        DeclarationError, match=r"which is not declared; annotate it: def anything\(\.\.\.\) -> Reserved"
    ):
        inventory.compensation(anything)(forget)


def test_what_only_reads_has_nothing_to_undo(inventory: Participant) -> None:
    inventory.operation(read_only=True)(count)
    with pytest.raises(DeclarationError, match="'count' is declared read_only, so there is nothing to undo; leave out"):
        inventory.compensation(count)(fits_any)


def test_an_operation_has_one_compensation(inventory: Participant) -> None:
    inventory.operation(reserve)
    inventory.compensation(reserve)(fits_itself)
    with pytest.raises(DeclarationError, match="'reserve' has the compensation 'fits_itself' already; leave"):
        inventory.compensation("reserve")(fits_any)
    compensation = inventory.operations["reserve"].compensation
    assert compensation is not None
    assert compensation.function is fits_itself


def test_only_declared_operations_of_this_participant_are_compensated(inventory: Participant) -> None:
    other = Participant("payment")
    other.operation(reserve)
    with pytest.raises(DeclarationError, match="'reserve' is no operation of participant 'inventory'; it has none"):
        inventory.compensation(reserve)(fits_itself)
    inventory.operation(count)
    with pytest.raises(DeclarationError, match="has no operation 'reserve' to compensate; it has count; declare it fi"):
        inventory.compensation("reserve")(fits_itself)
    # Without parentheses the compensation itself is taken for the operation.
    with pytest.raises(DeclarationError, match="'fits_itself' is no operation of participant 'inventory'"):
        inventory.compensation(fits_itself)(fits_any)


def test_a_function_that_is_two_operations_is_compensated_by_name(inventory: Participant) -> None:
    inventory.operation(reserve)
    inventory.operation(name="reserve.again")(reserve)
    with pytest.raises(DeclarationError, match=r"'reserve' is declared as reserve and reserve\.again; give the name"):
        inventory.compensation(reserve)(fits_itself)
    inventory.compensation("reserve.again")(fits_itself)
    told = [spec.describe().has_compensation for spec in inventory.operations.values()]
    assert told == [False, True]
