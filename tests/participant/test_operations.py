"""Declarations: what is accepted, what is refused at import time, and that payloads are read before any code runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import wraps
from typing import TYPE_CHECKING, Any, cast

import psycopg
import pytest

from twophase.participant import DeclarationError, Participant, ParticipantError, PayloadError, Refused
from twophase.participant.bound import MAX_RESULT_BYTES, MisfitWork
from twophase.participant.errors import UnknownOperation
from twophase.participant.work import AsyncConnection, SyncConnection, Work
from twophase.v1 import participant_pb2, types_pb2

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass(frozen=True)
class Charge:
    customer_id: str
    amount: Decimal


class Opaque:
    pass


@dataclass
class Unfinished:
    part: Fraction


@dataclass
class Coin:
    kind: str

    def __post_init__(self) -> None:
        self.cents = {"penny": 1}[self.kind]


CONNECTION = cast(SyncConnection, object())
ASYNC_CONNECTION = cast(AsyncConnection, object())


def operation(name: str, json: str | None = None) -> participant_pb2.BranchOperation:
    payload = types_pb2.Payload() if json is None else types_pb2.Payload(json=json)
    return participant_pb2.BranchOperation(name=name, payload=payload)


@pytest.fixture
def payment() -> Participant:
    return Participant("payment")


def test_an_operation_is_declared_with_its_types(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection, order: Charge) -> None: ...

    @payment.operation(name="balance.read", read_only=True)
    def read_balance(connection: psycopg.Connection[Any], key: types_pb2.Epoch) -> dict[str, Decimal]:
        return {}

    assert list(payment.operations) == ["charge", "balance.read"]
    assert [spec.describe() for spec in payment.operations.values()] == [
        participant_pb2.OperationDescription(name="charge"),
        participant_pb2.OperationDescription(name="balance.read", read_only=True, message_type="twophase.v1.Epoch"),
    ]
    assert not payment.asynchronous


def test_a_declared_function_stays_what_it_was(payment: Participant) -> None:
    def charge(connection: SyncConnection, order: Charge) -> None: ...

    assert payment.operation(charge) is charge
    assert payment.operation(name="again")(charge) is charge


def test_work_runs_the_operations_in_order_on_the_connection(payment: Participant) -> None:
    seen: list[object] = []

    @payment.operation
    def charge(connection: psycopg.Connection, order: Charge) -> dict[str, Decimal]:
        seen.append((connection, order))
        return {"left": Decimal("1.50")}

    @payment.operation(read_only=True)
    def ping(connection: psycopg.Connection) -> None:
        seen.append(connection)

    work: Work = payment.bind([operation("charge", '{"customer_id": "c", "amount": "2"}'), operation("ping")])
    assert not seen
    assert not work.asynchronous
    assert not work.read_only
    assert work.run(CONNECTION) == (types_pb2.Payload(json='{"left":"1.50"}'), types_pb2.Payload())
    assert seen == [(CONNECTION, Charge("c", Decimal(2))), CONNECTION]


async def test_coroutines_run_one_after_another(payment: Participant) -> None:
    seen: list[str] = []

    @payment.operation
    async def first(connection: psycopg.AsyncConnection, text: str) -> str:
        seen.append(text)
        return text

    @payment.operation
    async def second(connection: psycopg.AsyncConnection) -> None:
        seen.append("second")

    work: Work = payment.bind([operation("first", '"a"'), operation("second")])
    assert work.asynchronous
    assert await work.run_async(ASYNC_CONNECTION) == (types_pb2.Payload(json='"a"'), types_pb2.Payload())
    assert seen == ["a", "second"]


def test_r12_a_branch_is_read_only_if_every_operation_is(payment: Participant) -> None:
    @payment.operation(read_only=True)
    def look(connection: psycopg.Connection) -> None: ...

    @payment.operation
    def write(connection: psycopg.Connection) -> None: ...

    assert payment.bind([operation("look"), operation("look")]).read_only
    assert not payment.bind([operation("look"), operation("write")]).read_only


def test_no_business_code_runs_if_any_payload_is_misfit(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection, order: Charge) -> None:
        pytest.fail("ran")

    good = '{"customer_id": "c", "amount": "2"}'
    with pytest.raises(
        PayloadError, match=r"^operation 'charge' takes JSON for Charge: field 'amount' is missing$"
    ) as e:
        payment.bind([operation("charge", good), operation("charge", '{"customer_id": "c"}')])
    assert e.value.operation == "charge"
    with pytest.raises(UnknownOperation, match="participant 'payment' has no operation 'refund'; it has charge"):
        payment.bind([operation("charge", good), operation("refund")])


def test_a_validator_that_fails_is_a_misfit_too_and_tells_the_log(
    payment: Participant, caplog: pytest.LogCaptureFixture
) -> None:
    """What is no PayloadError would be no answer: the same payload would be sent again and again."""

    @payment.operation
    def insert(connection: psycopg.Connection, coin: Coin) -> None:
        pytest.fail("ran")

    with pytest.raises(
        PayloadError, match=r"operation 'insert' takes JSON for Coin, and .* raised KeyError;"
    ) as raised:
        payment.bind([operation("insert", '{"kind":"euro"}')])
    assert raised.value.operation == "insert"
    assert "euro" not in str(raised.value)
    assert "KeyError: 'euro'" in caplog.text


def test_without_operations_none_are_offered(payment: Participant) -> None:
    with pytest.raises(UnknownOperation, match="it has none"):
        payment.bind([operation("charge")])
    assert repr(payment) == "Participant('payment', operations: none)"


def test_a_default_stands_where_no_payload_is_given(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection, text: str = "default") -> str:
        return text

    results = payment.bind([operation("charge"), operation("charge", '"given"')]).run(CONNECTION)
    assert [result.json for result in results] == ['"default"', '"given"']


def test_a_refusal_leaves_the_work_as_it_was_raised(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection) -> None:
        raise Refused("NO_FUNDS", "customer c has not 2 left")

    with pytest.raises(Refused, match="NO_FUNDS"):
        payment.bind([operation("charge")]).run(CONNECTION)


def test_the_operation_that_failed_can_be_named(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection, amount: int) -> None:
        if amount > 1:
            raise Refused("NO_FUNDS", f"customer c has not {amount} left")

    work = payment.bind([operation("charge", "1"), operation("charge", "1")])
    assert work.running == ""
    work.run(CONNECTION)
    assert work.running == ""
    work = payment.bind([operation("charge", "1"), operation("charge", "2")])
    with pytest.raises(Refused):
        work.run(CONNECTION)
    assert work.running == "charge"


def test_results_have_a_limit(payment: Participant) -> None:
    @payment.operation
    def fetch(connection: psycopg.Connection) -> str:
        return "x" * (MAX_RESULT_BYTES // 2)

    assert len(payment.bind([operation("fetch")]).run(CONNECTION)) == 1
    with pytest.raises(ParticipantError, match="the operations of the branch returned 1048"):
        payment.bind([operation("fetch"), operation("fetch")]).run(CONNECTION)


async def test_work_that_is_misfit_only_raises() -> None:
    work: Work = MisfitWork(PayloadError("takes nothing", operation="charge"), asynchronous=True)
    assert not work.read_only
    with pytest.raises(PayloadError, match="takes nothing"):
        work.run(CONNECTION)
    with pytest.raises(PayloadError, match="takes nothing"):
        await work.run_async(ASYNC_CONNECTION)


def test_a_result_that_does_not_fit_names_its_operation(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection) -> None:
        return cast(None, 3)

    with pytest.raises(ParticipantError, match="operation 'charge' is declared to return None and returned 3"):
        payment.bind([operation("charge")]).run(CONNECTION)


def test_a_coroutine_behind_a_plain_function_is_an_error(payment: Participant) -> None:
    async def hidden(connection: psycopg.Connection) -> None: ...

    @payment.operation
    @wraps(hidden)
    def charge(connection: psycopg.Connection) -> Any:
        return hidden(connection)

    with pytest.raises(ParticipantError, match="operation 'hidden' is declared with def, and returned an awaitable"):
        payment.bind([operation("hidden")]).run(CONNECTION)


def no_parameters() -> None: ...
def three(connection: psycopg.Connection, a: str, b: str) -> None: ...
def keyword_only(connection: psycopg.Connection, *, order: str) -> None: ...
def anything(*connections: psycopg.Connection) -> None: ...
def untyped(connection: psycopg.Connection, order) -> None: ...  # type: ignore[no-untyped-def]
def opaque(connection: psycopg.Connection, order: Opaque) -> None: ...
def opaque_result(connection: psycopg.Connection) -> Opaque:
    return Opaque()


def unfinished(connection: psycopg.Connection, order: Unfinished) -> None: ...


def unimported(connection: psycopg.Connection, order: Fraction) -> None: ...
def no_type(connection: psycopg.Connection, order: str) -> None: ...


no_type.__annotations__["order"] = "list["


def swapped(order: Charge, connection: psycopg.Connection) -> None: ...
def wrong_connection(connection: psycopg.AsyncConnection) -> None: ...
async def wrong_async_connection(connection: psycopg.Connection) -> None: ...
def generator(connection: psycopg.Connection) -> Iterator[int]:
    yield 1


async def async_generator(connection: psycopg.AsyncConnection) -> AsyncIterator[int]:
    yield 1


def Upper(connection: psycopg.Connection) -> None: ...  # noqa: N802


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (no_parameters, "has no parameter for the connection; write: def charge("),
        (three, "has 3 parameters, but gets a connection and one payload"),
        (keyword_only, "has the parameter 'order', which cannot be given by position"),
        (anything, "has the parameter 'connections'"),
        (untyped, "parameter 'order' of operation 'untyped' has no type; annotate it"),
        (opaque, "parameter 'order' of operation 'opaque': Opaque cannot be read from JSON"),
        (opaque_result, "the result of operation 'opaque_result': Opaque cannot be read"),
        (unfinished, "Unfinished cannot be read from JSON: name 'Fraction' is not defined; every name in it"),
        (unimported, "name 'Fraction' is not defined; define or import that name at the top level"),
        (no_type, "an annotation of operation 'no_type' is no type"),
        (swapped, "'order', is annotated Charge, but an operation declared with def gets a psycopg.Connection"),
        (wrong_connection, "is annotated AsyncConnection, but an operation declared with def"),
        (wrong_async_connection, "is annotated Connection, but an operation declared with async def"),
        (generator, "operation 'generator' is a generator"),
        (async_generator, "operation 'async_generator' is a generator"),
        (Upper, "operation name 'Upper' is not 1 to 63 characters"),
        (lambda _connection: None, "'<lambda>' is not 1 to 63"),
        (Opaque, "is not a function; declare one"),
    ],
)
def test_a_wrong_declaration_says_what_to_write(payment: Participant, function: Callable[..., Any], told: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        payment.operation(function)
    assert told in str(raised.value)
    assert not payment.operations


def test_names_are_given_once(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection) -> None: ...

    with pytest.raises(DeclarationError, match="has an operation 'charge' already; give one of them another name"):
        payment.operation(name="charge")(lambda _connection: None)


def test_def_and_async_def_do_not_mix(payment: Participant) -> None:
    @payment.operation
    def charge(connection: psycopg.Connection) -> None: ...

    async def refund(connection: psycopg.AsyncConnection) -> None: ...

    with pytest.raises(
        DeclarationError, match="'refund' is declared with async def and 'charge' with def; declare all operations"
    ):
        payment.operation(refund)


@pytest.mark.parametrize("name", ["", "Payment", "pay_ment", "1st", "a" * 64])
def test_a_participant_needs_a_name_of_the_contract(name: str) -> None:
    with pytest.raises(DeclarationError, match="is not 1 to 63 characters"):
        Participant(name)
