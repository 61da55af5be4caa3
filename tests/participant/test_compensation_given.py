"""What a compensation is given: what its operation was given and returned, as the ledger kept it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import psycopg
import pydantic
import pytest

from fixtures.reserving import (
    ASYNC_CONNECTION,
    CONNECTION,
    RESERVED,
    Reserve,
    Reserved,
    close,
    count,
    opened,
    operation,
    reserve,
    stamp,
    wait,
)
from twophase.participant import Participant, ParticipantError, PayloadError, Refused
from twophase.participant.bound import MisfitWork
from twophase.participant.errors import UnknownOperation
from twophase.participant.payloads import NOTHING, ResultError, Undeclared, payload_type_of
from twophase.participant.work import Work
from twophase.v1 import participant_pb2, types_pb2


@pytest.fixture
def inventory() -> Participant:
    return Participant("inventory")


@pytest.fixture
def seen() -> list[object]:
    return []


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
