"""From an application's values to an operation's payload.

Lives here: what may be sent and how it is written. Must not live here: reading results (`values`).

A payload is written the same way every time it is built from equal values: what is sent again under a request id must
have the same content.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

from google.protobuf.message import EncodeError, Message

from twophase.contract.names import InvalidName, check_operation_name, check_participant_name
from twophase.coordinator.client.errors import InvalidRequest, invalid
from twophase.coordinator.client.values import Operation
from twophase.v1 import types_pb2

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"


def operation(participant: str, name: str, payload: object = None) -> Operation:
    """One operation, to be given to `AsyncClient.execute`.

    `payload` is a protobuf message, or what JSON can say: a dataclass, a mapping with text keys, a sequence, text,
    numbers, booleans, None within them. `Decimal`, `UUID`, `date`, `time` and `datetime` are written as text (ISO 8601
    for the latter), an `Enum` as its value. None: the operation takes nothing. Raises `InvalidRequest` for a malformed
    name and for a value that would not arrive as what it is: NaN, infinity, bytes, sets, keys that are not text.
    """
    try:
        check_participant_name(participant)
        check_operation_name(name)
    except InvalidName as error:
        raise invalid(
            "operation", f"{participant}.{name}", str(error), "name a participant and its operation"
        ) from error
    return Operation(participant, name, _payload(payload, f"the payload of {participant}.{name}"))


def _payload(value: object, where: str) -> types_pb2.Payload:
    payload = types_pb2.Payload()
    if isinstance(value, Message):
        try:
            payload.message.Pack(value, deterministic=True)
        except EncodeError as error:
            raise invalid("payload", type(value).__name__, f"{where}: {error}", "set what is required") from error
    elif value is not None:
        text = json.dumps(
            _plain(value, where), allow_nan=False, ensure_ascii=False, sort_keys=True, separators=(",", ":")
        )
        try:
            payload.json = text
        except UnicodeEncodeError as error:
            raise invalid(
                "payload", ascii(text), f"{where} is no Unicode text: {error}", "take surrogates out"
            ) from error
    return payload


def _plain(value: Any, where: str) -> Json:
    """What JSON says of a value; `where` names it in errors, as in `payload.lines[2].price`."""
    if isinstance(value, Enum):
        return _plain(value.value, where)
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            if not math.isfinite(value):
                raise _unfit(value, where, "is no finite number, and JSON has no word for it", "send None, or text")
            return value
        case Decimal():
            if not value.is_finite():
                raise _unfit(value, where, "is no finite number", "send None, or text")
            return str(value)
        case UUID():
            return str(value)
        case datetime() | date() | time():
            return value.isoformat()
        case Mapping():
            return {_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
        case bytes() | bytearray() | memoryview():
            raise _unfit(type(value), where, "is bytes, and JSON has only text", "send base64, or a protobuf message")
        case Sequence():
            return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                field.name: _plain(getattr(value, field.name), f"{where}.{field.name}")
                for field in dataclasses.fields(value)
            }
        case _:
            fact = f"is a {type(value).__qualname__}, which JSON cannot say"
            raise _unfit(type(value), where, fact, "send a protobuf message, a dataclass, or plain values")


def _key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise _unfit(key, where, f"has the key {key!r}, and JSON's keys are text", "make it text yourself")
    return key


def _unfit(value: object, where: str, fact: str, remedy: str) -> InvalidRequest:
    return invalid("payload", value, f"{where} {fact}", remedy)
