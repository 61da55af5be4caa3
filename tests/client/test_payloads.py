"""What goes into an operation, and what comes out of a result."""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from twophase.coordinator.client import InvalidRequest, Result, ResultMismatch, operation
from twophase.v1 import types_pb2


class Area(Enum):
    NORTH = "north"


@dataclass(frozen=True, slots=True)
class Line:
    sku: str
    price: Decimal


@dataclass(frozen=True, slots=True)
class Order:
    lines: tuple[Line, ...]
    area: Area


def sent(payload: object) -> Any:
    return json.loads(operation("p", "o", payload).payload.json)


def test_a_dataclass_is_written_field_by_field_and_money_as_text() -> None:
    order = Order((Line("A-1", Decimal("19.90")),), Area.NORTH)

    assert sent(order) == {"lines": [{"sku": "A-1", "price": "19.90"}], "area": "north"}


def test_values_that_json_has_no_word_for_are_written_as_text() -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    key = UUID(int=1)

    assert sent({"d": date(2026, 1, 2), "t": when, "u": key, "n": None, "x": [1, 1.5, True, "ü"]}) == {
        "d": "2026-01-02",
        "t": "2026-01-02T03:04:05+00:00",
        "u": "00000000-0000-0000-0000-000000000001",
        "n": None,
        "x": [1, 1.5, True, "ü"],
    }


def test_r6_equal_values_are_written_equally() -> None:
    one = operation("p", "o", OrderedDict(a=1, b={"y": 1, "x": 2}))
    two = operation("p", "o", {"b": {"x": 2, "y": 1}, "a": 1})
    fields = [(f"field {number}", float(number)) for number in range(100)]
    forth, back = Struct(), Struct()
    forth.update(dict(fields))
    back.update(dict(reversed(fields)))

    assert one == two
    assert operation("p", "o", forth) == operation("p", "o", back)


def test_nothing_is_sent_as_nothing() -> None:
    assert operation("p", "o").payload.WhichOneof("content") is None


def test_a_message_is_packed_with_its_type() -> None:
    payload = operation("p", "o", Duration(seconds=3)).payload

    assert payload.message.TypeName() == "google.protobuf.Duration"


@pytest.mark.parametrize(
    ("payload", "names"),
    [
        ({"a": [1, float("nan")]}, "p.o.a[1]"),
        ({"a": float("inf")}, "p.o.a"),
        ({"a": Decimal("NaN")}, "p.o.a"),
        ({"a": b"x"}, "p.o.a"),
        ({"a": {1, 2}}, "p.o.a"),
        ({"a": {1: 2}}, "key 1"),
        ({"a": object()}, "object"),
        ({"a": Line}, "type"),
        ({"a": "\ud800"}, "Unicode"),
    ],
)
def test_what_would_arrive_as_something_else_is_refused_by_its_path(payload: object, names: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        operation("p", "o", payload)

    assert names in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(("participant", "name"), [("", "o"), ("P", "o"), ("p", ""), ("p", "o p")])
def test_malformed_names_are_refused(participant: str, name: str) -> None:
    with pytest.raises(InvalidRequest):
        operation(participant, name)


def result(**content: Any) -> Result:
    return Result("p", "o", types_pb2.Payload(**content))


def packed(seconds: int) -> AnyMessage:
    message = AnyMessage()
    message.Pack(Duration(seconds=seconds))
    return message


def test_results_are_read_as_what_they_are() -> None:
    assert result().value is None
    assert result(json='{"a": [1]}').value == {"a": [1]}
    assert result(message=packed(3)).decode(Duration).seconds == 3


def test_a_result_read_as_something_else_is_a_mismatch_that_says_what_it_is() -> None:
    with pytest.raises(ResultMismatch, match=r"decode\(google.protobuf.Duration\)"):
        _ = result(message=packed(3)).value
    with pytest.raises(ResultMismatch, match=r"not a google.protobuf.Struct but a google.protobuf.Duration"):
        result(message=packed(3)).decode(Struct)
    with pytest.raises(ResultMismatch, match="JSON or nothing"):
        result(json="1").decode(Duration)
    with pytest.raises(ResultMismatch, match="not JSON"):
        _ = result(json="{").value
    damaged = AnyMessage(type_url="type.googleapis.com/google.protobuf.Duration", value=b"\xff")
    with pytest.raises(ResultMismatch, match="damaged"):
        result(message=damaged).decode(Duration)
