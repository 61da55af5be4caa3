"""Payloads: what fits a type is read exactly, and what does not is told with field, value and expectation."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Any

import pydantic
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.descriptor_pb2 import UninterpretedOption
from google.protobuf.message import Message

from twophase.participant.errors import DeclarationError, PayloadError
from twophase.participant.payloads import NOTHING, ResultError, Undeclared, payload_type_of
from twophase.v1 import types_pb2


@dataclass(frozen=True)
class Line:
    sku: str
    quantity: int


@dataclass(frozen=True)
class Order:
    customer_id: str
    total: Decimal
    lines: list[Line] = field(default_factory=list)


class Area(Enum):
    NORTH = "north"


class Model(pydantic.BaseModel, extra="allow"):
    number: int


def of_json(text: str) -> types_pb2.Payload:
    return types_pb2.Payload(json=text)


def of_message(message: types_pb2.Epoch | types_pb2.Operation) -> types_pb2.Payload:
    packed = AnyMessage()
    packed.Pack(message)
    return types_pb2.Payload(message=packed)


@pytest.mark.parametrize(
    ("annotation", "document", "value"),
    [
        (Order, '{"customer_id": "c", "total": "12.50"}', Order("c", Decimal("12.50"))),
        (Order, '{"customer_id": "c", "total": 12.5}', Order("c", Decimal("12.5"))),
        (Order, '{"customer_id": "c", "total": 12}', Order("c", Decimal(12))),
        (
            Order,
            '{"customer_id": "ü", "total": "1", "lines": [{"sku": "a", "quantity": 2}]}',
            Order("ü", Decimal(1), [Line("a", 2)]),
        ),
        (Order | None, "null", None),
        (list[Line], '[{"sku": "a", "quantity": 2}]', [Line("a", 2)]),
        (dict, '{"a": [1, 2.5, null]}', {"a": [1, 2.5, None]}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Any, '"x"', "x"),
        (str, '"x"', "x"),
        (Area, '"north"', Area.NORTH),
        (datetime.date, '"2026-11-21"', datetime.date(2026, 11, 21)),
        (
            uuid.UUID,
            '"12345678-1234-5678-1234-567812345678"',
            uuid.UUID("12345678-1234-5678-1234-567812345678"),
        ),
        (Model, '{"number": 1}', Model(number=1)),
    ],
)
def test_json_of_the_type_is_read(annotation: object, document: str, value: object) -> None:
    assert payload_type_of(annotation).decode(of_json(document)) == value


@pytest.mark.parametrize(
    ("annotation", "document", "told"),
    [
        (Order, '{"total": "1"}', "takes JSON for Order: field 'customer_id' is missing"),
        (Order, '{"customer_id": 7, "total": "1"}', "field 'customer_id' should be a valid string, got 7"),
        (Order, '{"customer_id": "c", "total": "x"}', "field 'total' should be a valid decimal, got \"x\""),
        (Order, '{"customer_id": "c", "total": "NaN"}', "field 'total' should be a finite number, got \"NaN\""),
        (Order, '{"customer_id": "c", "total": "1", "tip": 3}', "field 'tip' is not known; leave it out"),
        (
            Order,
            '{"customer_id": "c", "total": "1", "lines": [{"sku": "a", "quantity": "2"}]}',
            "field 'lines[0].quantity' should be a valid integer, got \"2\"",
        ),
        (Order, '{"customer_id": "c", "total": "1", "lines": [{"sku": "a", "quantity": 1, "x": 0}]}', "lines[0].x"),
        (list[Line], '[{"sku": "a"}]', "field '[0].quantity' is missing"),
        (Order, "[1]", "the document should be an object, got [1]"),
        (Order, "", "the payload is not JSON: Expecting value at line 1 column 1"),
        (Order, '{"customer_id":', "is not JSON: Expecting value at line 1 column 16"),
        (
            Order,
            '{"customer_id": "c", "total": 12345678901234567.89}',
            "12345678901234567.89, which JSON readers round",
        ),
        (Any, '{"x": 1e400}', "1e400"),
        (Any, '{"x": 1e999999999999999999999}', "write an exact decimal as a string"),
        (Any, '{"x": NaN}', "has NaN, which JSON does not know"),
        (Any, '{"x": -Infinity}', "has -Infinity"),
        (Any, '{"x": {"a": 1, "b": 2, "a": 3}}', "has the field 'a' more than once"),
        (Any, "[" * 100_000, "nested too deeply"),
        (Any, "9" * 5000, "a number that cannot be read"),
        (Any, '"\\ud800"', "takes JSON for Any: Invalid JSON"),
        (Model, '{"number": 1, "tip": 3}', "field 'tip' is not known"),
        (bool, "1", "should be a valid boolean, got 1"),
        (dict, "[1]", "takes JSON for dict: the document should be an object, got [1]"),
    ],
)
def test_a_misfit_is_told_with_field_value_and_expectation(annotation: object, document: str, told: str) -> None:
    with pytest.raises(PayloadError) as raised:
        payload_type_of(annotation).decode(of_json(document))
    assert told in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_many_misfits_are_told_in_part() -> None:
    with pytest.raises(PayloadError, match="and 2 more"):
        payload_type_of(list[int]).decode(of_json('["a", "b", "c", "d", "e"]'))


def test_a_message_is_read_and_a_wrong_one_is_told_by_both_names() -> None:
    epoch = payload_type_of(types_pb2.Epoch)
    assert epoch.message_type == "twophase.v1.Epoch"
    assert epoch.decode(of_message(types_pb2.Epoch(number=3))) == types_pb2.Epoch(number=3)
    with pytest.raises(
        PayloadError, match=r"takes the protobuf message twophase.v1.Epoch, but was given .*twophase.v1.Operation"
    ):
        epoch.decode(of_message(types_pb2.Operation(name="x")))


def test_json_for_a_message_and_a_message_for_json_are_told_on_both_sides() -> None:
    with pytest.raises(PayloadError, match=r"takes the protobuf message twophase.v1.Epoch, but was given JSON: \{\}"):
        payload_type_of(types_pb2.Epoch).decode(of_json("{}"))
    with pytest.raises(
        PayloadError, match=r"takes JSON for Order, but was given the protobuf message twophase.v1.Epoch"
    ):
        payload_type_of(Order).decode(of_message(types_pb2.Epoch(number=3)))


def test_broken_bytes_are_told() -> None:
    broken = types_pb2.Payload(message=AnyMessage(type_url="type.googleapis.com/twophase.v1.Epoch", value=b"\xff"))
    with pytest.raises(PayloadError, match="the 1 bytes given are not one"):
        payload_type_of(types_pb2.Epoch).decode(broken)
    with pytest.raises(PayloadError, match="without a type_url"):
        payload_type_of(types_pb2.Epoch).decode(types_pb2.Payload(message=AnyMessage(value=b"x")))


def test_nothing_takes_nothing_and_something_wants_something() -> None:
    assert NOTHING.decode(types_pb2.Payload()) is None
    with pytest.raises(PayloadError, match="takes no payload, but was given JSON: 1"):
        NOTHING.decode(of_json("1"))
    with pytest.raises(PayloadError, match="takes JSON for Order, but was given nothing"):
        payload_type_of(Order).decode(types_pb2.Payload())
    with pytest.raises(PayloadError, match="no declared type"):
        Undeclared().decode(of_json("1"))


@pytest.mark.parametrize(
    ("annotation", "value", "document"),
    [
        (Order, Order("ü", Decimal("12.50"), []), '{"customer_id":"ü","total":"12.50","lines":[]}'),
        (Decimal, Decimal("0.10"), '"0.10"'),
        (dict, {"total": Decimal("0.10")}, '{"total":"0.10"}'),
        (list[int], [1, 2], "[1,2]"),
    ],
)
def test_results_are_written_with_decimals_as_strings(annotation: object, value: object, document: str) -> None:
    assert payload_type_of(annotation).encode(value) == of_json(document)
    assert Undeclared().encode(value) == of_json(document)


def test_none_is_an_empty_result() -> None:
    for kind in (NOTHING, Undeclared(), payload_type_of(Order | None)):
        assert kind.encode(None) == types_pb2.Payload()


def test_a_message_is_an_any_of_its_type() -> None:
    epoch = types_pb2.Epoch(number=3)
    assert payload_type_of(types_pb2.Epoch).encode(epoch) == of_message(epoch)
    assert Undeclared().encode(epoch) == of_message(epoch)


@pytest.mark.parametrize(
    ("annotation", "value", "told"),
    [
        (None, 1, "declared to return None and returned 1 (a int)"),
        (Order, 1, "returned 1 (a int), which is not JSON for Order"),
        (types_pb2.Epoch, 1, "declared to return twophase.v1.Epoch and returned 1"),
        (float, float("nan"), "not JSON compliant"),
        (str, "\ud800", "surrogates not allowed"),
    ],
)
def test_a_result_of_another_type_is_an_error(annotation: object, value: object, told: str) -> None:
    with pytest.raises(ResultError) as raised:
        payload_type_of(annotation).encode(value)
    assert told in str(raised.value)


@pytest.mark.parametrize("value", [float("inf"), object(), b"\xff", "\ud800"])
def test_a_result_that_json_cannot_hold_is_an_error(value: object) -> None:
    with pytest.raises(ResultError, match="which is not None, a protobuf message or what can be written as JSON"):
        Undeclared().encode(value)


def test_a_message_that_lacks_a_required_field_is_an_error() -> None:
    incomplete = UninterpretedOption.NamePart()
    for kind in (Undeclared(), payload_type_of(UninterpretedOption.NamePart)):
        with pytest.raises(ResultError, match=r"returned a google\.protobuf\.UninterpretedOption\.NamePart that"):
            kind.encode(incomplete)


def test_a_result_that_holds_itself_is_an_error() -> None:
    endless: list[object] = []
    endless.append(endless)
    for kind in (Undeclared(), payload_type_of(list)):
        with pytest.raises(ResultError, match="returned"):
            kind.encode(endless)


@pytest.mark.parametrize("annotation", [object(), type("Opaque", (), {}), list[types_pb2.Epoch], Message])
def test_an_annotation_that_nothing_reads_is_an_error(annotation: object) -> None:
    with pytest.raises(DeclarationError, match=r"use a dataclass|name a generated message class"):
        payload_type_of(annotation)
