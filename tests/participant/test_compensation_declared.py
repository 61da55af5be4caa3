"""Compensations as they are declared: what fits, what is refused at import time, what they are given, what is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, cast

import psycopg
import pydantic
import pytest
from google.protobuf.duration_pb2 import Duration

from twophase.participant import DeclarationError, Participant, ParticipantError, PayloadError, Refused, Retry
from twophase.participant.bound import BoundUndo, MisfitWork
from twophase.participant.errors import UnknownOperation
from twophase.participant.payloads import NOTHING, ResultError, Undeclared, payload_type_of
from twophase.participant.work import AsyncConnection, SyncConnection, Work
from twophase.v1 import participant_pb2, types_pb2


@dataclass(frozen=True)
class Reserve:
    item: str
    pieces: int


@dataclass(frozen=True)
class ReserveMany(Reserve):
    times: int = 2


@dataclass(frozen=True)
class Reserved:
    shelf: str
    worth: Decimal


CONNECTION = cast(SyncConnection, object())
ASYNC_CONNECTION = cast(AsyncConnection, object())
ORDER = '{"item": "tea", "pieces": 2}'
RESERVED = types_pb2.Payload(json='{"shelf":"A","worth":"1.50"}')


def operation(name: str = "reserve", json: str | None = ORDER) -> participant_pb2.BranchOperation:
    payload = types_pb2.Payload() if json is None else types_pb2.Payload(json=json)
    return participant_pb2.BranchOperation(name=name, payload=payload)


@pytest.fixture
def inventory() -> Participant:
    return Participant("inventory")


@pytest.fixture
def seen() -> list[object]:
    return []


def reserve(connection: psycopg.Connection, order: Reserve) -> Reserved:
    return Reserved("A", Decimal("1.50"))


def count(connection: psycopg.Connection, order: Reserve) -> int:
    return order.pieces


def close(connection: psycopg.Connection) -> None: ...
def opened(connection: psycopg.Connection) -> Reserved | None:
    return None


def stamp(connection: psycopg.Connection, epoch: types_pb2.Epoch) -> types_pb2.Epoch:
    return epoch


def anything(connection: psycopg.Connection, order: Reserve):  # type: ignore[no-untyped-def]
    return None


async def wait(connection: psycopg.AsyncConnection, order: Reserve) -> None: ...


# What is given


def test_a_compensation_gets_what_its_operation_was_given_and_what_it_returned(
    inventory: Participant, seen: list[object]
) -> None:
    inventory.operation(reserve)

    @inventory.compensation(reserve)
    def release(connection: psycopg.Connection, order: Reserve, reserved: Reserved) -> None:
        seen.append((connection, order, reserved))

    work: Work = inventory.undo([operation()], [RESERVED])
    assert not work.asynchronous
    assert not work.read_only
    assert work.run(CONNECTION) == ()
    assert seen == [(CONNECTION, Reserve("tea", 2), Reserved("A", Decimal("1.50")))]
    assert work.running == ""


async def test_coroutines_are_undone_by_coroutines(inventory: Participant, seen: list[object]) -> None:
    inventory.operation(wait)

    @inventory.compensation("wait")
    async def stop(connection: psycopg.AsyncConnection, order: Reserve) -> None:
        seen.append((connection, order))

    work: Work = inventory.undo([operation("wait")], [types_pb2.Payload()])
    assert work.asynchronous
    assert await work.run_async(ASYNC_CONNECTION) == ()
    assert seen == [(ASYNC_CONNECTION, Reserve("tea", 2))]


def test_an_operation_that_takes_nothing_is_undone_with_its_result_alone(
    inventory: Participant, seen: list[object]
) -> None:
    inventory.operation(opened)
    inventory.operation(close)

    @inventory.compensation(opened)
    def shut(connection: psycopg.Connection, result: Reserved | None) -> None:
        seen.append(result)

    @inventory.compensation(close)
    def reopen(connection: psycopg.Connection) -> None:
        seen.append("reopened")

    inventory.undo([operation("opened", None)], [types_pb2.Payload()]).run(CONNECTION)
    inventory.undo([operation("opened", None)], [RESERVED]).run(CONNECTION)
    inventory.undo([operation("close", None)], [types_pb2.Payload()]).run(CONNECTION)
    assert seen == [None, Reserved("A", Decimal("1.50")), "reopened"]


def test_messages_are_given_as_messages(inventory: Participant, seen: list[object]) -> None:
    inventory.operation(stamp)

    @inventory.compensation(stamp)
    def unstamp(connection: psycopg.Connection, epoch: types_pb2.Epoch, stamped: types_pb2.Epoch) -> None:
        seen.extend((epoch, stamped))

    given, returned = types_pb2.Payload(), types_pb2.Payload()
    given.message.Pack(types_pb2.Epoch(number=1))
    returned.message.Pack(types_pb2.Epoch(number=2))
    inventory.undo([participant_pb2.BranchOperation(name="stamp", payload=given)], [returned]).run(CONNECTION)
    assert seen == [types_pb2.Epoch(number=1), types_pb2.Epoch(number=2)]


def test_the_default_of_the_operation_stands_in_its_compensation_too(
    inventory: Participant, seen: list[object]
) -> None:
    @inventory.operation
    def charge(connection: psycopg.Connection, text: str = "the operation's") -> None: ...

    @inventory.compensation(charge)
    def refund(connection: psycopg.Connection, text: str = "its own") -> None:
        seen.append(text)

    inventory.undo([operation("charge", None)], [types_pb2.Payload()]).run(CONNECTION)
    assert seen == ["the operation's"]


def test_several_operations_are_undone_in_reverse_and_those_that_read_not_at_all(
    inventory: Participant, seen: list[object]
) -> None:
    @inventory.operation
    def add(connection: psycopg.Connection, number: int) -> int:
        return number

    @inventory.operation(read_only=True)
    def look(connection: psycopg.Connection) -> None: ...

    @inventory.compensation(add)
    def subtract(connection: psycopg.Connection, number: int, added: int) -> None:
        seen.append((number, added))

    results = [types_pb2.Payload(json="10"), types_pb2.Payload(), types_pb2.Payload(json="20")]
    inventory.undo([operation("add", "1"), operation("look", None), operation("add", "2")], results).run(CONNECTION)
    assert seen == [(2, 20), (1, 10)]


def test_nothing_is_undone_if_one_result_cannot_be_read(inventory: Participant) -> None:
    inventory.operation(count)

    @inventory.compensation(count)
    def uncount(connection: psycopg.Connection, order: Reserve, counted: int) -> None:
        pytest.fail("ran")

    work = inventory.undo([operation("count"), operation("count")], [RESERVED, types_pb2.Payload(json="2")])
    with pytest.raises(ResultError, match="the result of operation 'count' cannot be read by its compensation: it is"):
        work.run(CONNECTION)
    assert work.running == "count"


def test_a_compensation_that_raises_can_be_named(inventory: Participant) -> None:
    inventory.operation(reserve)

    @inventory.compensation(reserve)
    def release(connection: psycopg.Connection, order: Reserve) -> None:
        raise Refused("NOT_NOW", "the shelf is being counted", retryable=True)

    work = inventory.undo([operation()], [RESERVED])
    with pytest.raises(Refused):
        work.run(CONNECTION)
    assert work.running == "reserve"


def test_a_coroutine_behind_a_plain_compensation_is_an_error(inventory: Participant) -> None:
    async def hidden(connection: psycopg.Connection, order: Reserve) -> None: ...

    inventory.operation(reserve)

    @inventory.compensation(reserve)
    def release(connection: psycopg.Connection, order: Reserve) -> Any:
        return hidden(connection, order)

    with pytest.raises(ParticipantError, match="of operation 'reserve' is declared with def, and returned"):
        inventory.undo([operation()], [RESERVED]).run(CONNECTION)


@pytest.mark.parametrize(
    ("operations", "results", "error", "told"),
    [
        ([operation("sell")], [RESERVED], UnknownOperation, "has no operation 'sell'; it has reserve, close"),
        ([operation("close", None)], [RESERVED], UnknownOperation, "has no compensation; declare one: @compensation("),
        ([operation(json='{"item": "tea"}')], [RESERVED], PayloadError, "field 'pieces' is missing"),
        ([operation()], [], ParticipantError, "the ledger has 0 results of the branch, and 1 operations are to be"),
    ],
    ids=["no such operation", "not compensated", "misfit payload", "other operations"],
)
async def test_what_cannot_be_undone_becomes_work_that_says_so(
    inventory: Participant,
    operations: list[participant_pb2.BranchOperation],
    results: list[types_pb2.Payload],
    error: type[Exception],
    told: str,
) -> None:
    inventory.operation(reserve)
    inventory.operation(close)

    @inventory.compensation(reserve)
    def release(connection: psycopg.Connection, order: Reserve) -> None:
        pytest.fail("ran")

    work = inventory.undo(operations, results)
    assert isinstance(work, MisfitWork)
    with pytest.raises(error) as raised:
        work.run(CONNECTION)
    assert told in str(raised.value)
    assert work.running == (operations[0].name if issubclass(error, PayloadError) else "")


# What is declared


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


# Results that can be read back


class Tagged(pydantic.BaseModel):
    tag: str = pydantic.Field(alias="theTag")
    sizes: frozenset[int] = frozenset()


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Reserved, Reserved("A", Decimal("1.50"))),
        (Reserved | None, None),
        (dict[int, Decimal], {1: Decimal("0.10")}),
        (tuple[str, ...], ("a", "b")),
        (bytes, b"ab"),
        (float, 0.1),
        (float, 3),
        (Tagged, Tagged(theTag="t", sizes=frozenset({1}))),
        (types_pb2.Epoch, types_pb2.Epoch(number=3)),
        (None, None),
    ],
)
def test_what_was_written_is_read_back(annotation: object, value: object) -> None:
    kind = payload_type_of(annotation)
    assert kind.restore(kind.encode(value)) == value


@pytest.mark.parametrize(
    ("annotation", "result", "told"),
    [
        (Reserved, types_pb2.Payload(), "is not JSON for Reserved: the document should be"),
        (Reserved, types_pb2.Payload(json='{"shelf": "A"}'), "is not JSON for Reserved: field 'worth' is missing"),
        (types_pb2.Epoch, RESERVED, "is JSON: {"),
        (None, RESERVED, "is JSON: {"),
    ],
)
def test_a_result_of_another_release_that_cannot_be_read_is_told(
    annotation: object, result: types_pb2.Payload, told: str
) -> None:
    with pytest.raises(ResultError) as raised:
        payload_type_of(annotation).restore(result)
    assert str(raised.value).startswith(told)


def test_a_message_is_no_json_result_and_what_is_not_declared_is_not_read() -> None:
    packed = types_pb2.Payload()
    packed.message.Pack(types_pb2.Epoch(number=3))
    with pytest.raises(ResultError, match=r"is the protobuf message twophase\.v1\.Epoch, not JSON for Reserved"):
        payload_type_of(Reserved).restore(packed)
    with pytest.raises(ResultError, match="no declared type"):
        Undeclared().restore(RESERVED)
    assert NOTHING.restore(types_pb2.Payload()) is None


class Positive(pydantic.BaseModel):
    number: Annotated[int, pydantic.Field(gt=0)]


@pytest.mark.parametrize("returned", [None, Positive.model_construct(number=0)], ids=["none", "invalid"])
def test_work_whose_compensation_could_not_read_its_result_is_refused_before_it_is_done(
    inventory: Participant, returned: Positive
) -> None:
    """What cannot be undone must fail while it still can."""

    @inventory.operation
    def take(connection: psycopg.Connection) -> Positive:
        return returned

    assert len(inventory.bind([operation("take", None)]).run(CONNECTION)) == 1

    @inventory.compensation(take)
    def give(connection: psycopg.Connection, taken: Positive) -> None: ...

    with pytest.raises(ResultError, match="of operation 'take' cannot be read by its compensation: it is not JSON"):
        inventory.bind([operation("take", None)]).run(CONNECTION)
