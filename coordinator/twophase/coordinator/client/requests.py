"""The calls of a client as the contract's messages.

Lives here: writing requests, and what is wrong with one before it is sent. Must not live here: payloads (`payloads`),
steps (`steps`), reading answers (`values`).
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from google.protobuf import duration_pb2, timestamp_pb2

from twophase.contract.names import InvalidName, check_request_id
from twophase.coordinator.client.errors import invalid
from twophase.coordinator.client.steps import Step, operation_message
from twophase.coordinator.client.values import Operation, Protocol, Wait
from twophase.coordinator.transport import MAX_MESSAGE_BYTES
from twophase.v1 import coordinator_pb2

_WAITS: Final = {Wait.APPLIED: coordinator_pb2.WAIT_APPLIED, Wait.DECIDED: coordinator_pb2.WAIT_DECIDED}
_PROTOCOLS: Final = {
    Protocol.TWO_PHASE: coordinator_pb2.PROTOCOL_TWO_PHASE,
    Protocol.SAGA: coordinator_pb2.PROTOCOL_SAGA,
}


def execute_request(
    operations: Sequence[Operation | Step],
    *,
    protocol: Protocol,
    deadline: float | None,
    wait: Wait,
    request_id: str | None,
    attempt: int,
    in_turn: bool,
) -> coordinator_pb2.ExecuteRequest:
    """A whole transaction. Raises `InvalidRequest`."""
    name = uuid.uuid4().hex if request_id is None else request_id
    try:
        check_request_id(name)
    except InvalidName as error:
        raise invalid("request_id", name, str(error), "make one id for each piece of business, once") from error
    if attempt < 1 or attempt >= 2**32:
        raise invalid("attempt", attempt, f"attempt {attempt} is not between 1 and {2**32 - 1}", "count from 1")
    request = coordinator_pb2.ExecuteRequest(
        request_id=name,
        attempt=attempt,
        protocol=_PROTOCOLS[protocol],
        operations=[operation_message(operation) for operation in operations],
        wait=_WAITS[wait],
        in_turn=in_turn,
    )
    if deadline is not None:
        request.deadline.CopyFrom(_duration(deadline))
    if request.ByteSize() > MAX_MESSAGE_BYTES:
        fact = f"all operations together have {request.ByteSize()} bytes, over {MAX_MESSAGE_BYTES}"
        raise invalid("operations", request.ByteSize(), fact, "send less, or references to it")
    return request


def text(field: str, given: str) -> str:
    """Returns `given` if it can be sent. Raises `InvalidRequest` for lone surrogates: bytes that were no UTF-8."""
    try:
        given.encode()
    except UnicodeEncodeError as error:
        fact = f"{field} {given!a} is no Unicode text"
        raise invalid(field, ascii(given), fact, "give it in UTF-8") from error
    return given


def timestamp(at: datetime | None) -> timestamp_pb2.Timestamp | None:
    """A moment; a naive time is local time."""
    if at is None:
        return None
    moment = timestamp_pb2.Timestamp()
    moment.FromDatetime(at.astimezone(UTC))
    return moment


def _duration(seconds: float) -> duration_pb2.Duration:
    nanos = round(seconds * 1e9) if 0 < seconds < 1e9 else 0
    if nanos <= 0:
        fact = f"deadline {seconds} is not a number of seconds greater than 0"
        raise invalid("deadline", seconds, fact, "give seconds, or leave it for the coordinator's default")
    return duration_pb2.Duration(seconds=nanos // 10**9, nanos=nanos % 10**9)
