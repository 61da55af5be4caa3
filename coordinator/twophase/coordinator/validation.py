"""What a client may send, checked before the engine sees anything of it.

Lives here: one function a request message, from the message to the engine's values. Must not live here: questions that
only the engine can answer (is there such a participant, was this request id used), mapping of answers (`wire`).

Every function raises `Rejected` with the field, the value and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

import grpc
from google.protobuf import duration_pb2

from twophase.contract import names
from twophase.contract.addresses import Address, InvalidAddress
from twophase.contract.names import Epoch, InvalidName, Txid
from twophase.contract.status import Problem
from twophase.contract.text import shorten
from twophase.coordinator import reasons
from twophase.coordinator.engine.api import NEVER_SEEN, Call, Limits, NeverSeen, Rejected, Submission, Wait, Which
from twophase.v1 import coordinator_pb2, types_pb2

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
_NANOS: Final = 1_000_000_000
# The range of google.protobuf.Duration, 10,000 years.
_MAX_SECONDS: Final = 315_576_000_000
# The range of google.protobuf.Timestamp, from year 1 to year 9999.
_FIRST_MOMENT: Final = -62_135_596_800
_LAST_MOMENT: Final = 253_402_300_799
_WAITS: Final = {
    coordinator_pb2.WAIT_UNSPECIFIED: Wait.APPLIED,
    coordinator_pb2.WAIT_APPLIED: Wait.APPLIED,
    coordinator_pb2.WAIT_DECIDED: Wait.DECIDED,
}


@dataclass(frozen=True, slots=True)
class Page:
    """Which transactions to list: at most `size`, only those older than `before`."""

    size: int
    before: Txid | None
    which: Which


@dataclass(frozen=True, slots=True)
class Question:
    """Which transaction Get asks for, whether with its events, and, in milliseconds since 1970, as it stood when."""

    key: Txid | str
    with_events: bool
    at: int | None


def submission(request: coordinator_pb2.ExecuteRequest, limits: Limits) -> Submission:
    """The transaction that an Execute asks for."""
    _name("request_id", request.request_id, names.check_request_id, "make one id for each piece of business, once")
    _protocol(request.protocol)
    return Submission(
        request_id=request.request_id,
        attempt=request.attempt or 1,
        seen_epoch=_seen_epoch(request),
        calls=_calls(request, limits),
        deadline=_deadline(request, limits),
        wait=_wait(request.wait),
    )


def registration(request: coordinator_pb2.RegisterRequest) -> tuple[str, str]:
    """The name and the address of the participant that Register makes known."""
    _name("participant", request.participant, names.check_participant_name, "give the name the participant runs under")
    if not request.address:
        _missing("address", "give host:port, as reached from the coordinator")
    try:
        address = Address.parse(request.address)
    except InvalidAddress as error:
        _malformed("address", request.address, str(error), "give host:port, as reached from the coordinator")
    if address.port == 0:
        _malformed("address", request.address, f"address {address} has port 0", "give the port it listens on")
    return request.participant, str(address)


def question(request: coordinator_pb2.GetRequest) -> Question:
    """What Get asks for."""
    return Question(_key(request), request.with_events, _moment(request))


def _key(request: coordinator_pb2.GetRequest) -> Txid | str:
    which = request.WhichOneof("key")
    if which is None:
        _missing("key", "set txid or request_id")
    if which == "txid":
        return _txid("txid", request.txid, "give it as Execute answered it")
    _name("request_id", request.request_id, names.check_request_id, "give the id that was sent with Execute")
    return request.request_id


def page(request: coordinator_pb2.ListRequest) -> Page:
    """The page that List asks for."""
    if request.page_size > MAX_PAGE:
        _over("page_size", request.page_size, f"page_size {request.page_size} is over {MAX_PAGE}", "ask for less")
    before = None
    if request.page_token:
        before = _txid("page_token", request.page_token, "give next_page_token of the page before, or nothing")
    return Page(request.page_size or DEFAULT_PAGE, before, _which(request))


def _which(request: coordinator_pb2.ListRequest) -> Which:
    if request.unfinished_only and request.heuristic_only:
        fact = "heuristic_only cannot be asked for together with unfinished_only"
        _malformed("heuristic_only", "true", fact, "ask for them one after the other")
    if request.unfinished_only:
        return Which.UNFINISHED
    return Which.HEURISTIC if request.heuristic_only else Which.ALL


def _moment(request: coordinator_pb2.GetRequest) -> int | None:
    if not request.HasField("at"):
        return None
    seconds, nanos = request.at.seconds, request.at.nanos
    if not (_FIRST_MOMENT <= seconds <= _LAST_MOMENT and 0 <= nanos < _NANOS):
        _malformed("at", f"{seconds}.{nanos:09d}", "at is no moment between the years 1 and 9999", "give such a moment")
    # Up to the end of the millisecond: that is how exactly the journal tells the time.
    return seconds * 1000 + nanos // 1_000_000


def _calls(request: coordinator_pb2.ExecuteRequest, limits: Limits) -> tuple[Call, ...]:
    count = len(request.operations)
    if count == 0:
        _missing("operations", f"give 1 to {limits.operations} operations")
    if count > limits.operations:
        _over("operations", count, f"{count} operations are over the limit of {limits.operations}", "send fewer")
    calls = tuple(_call(index, operation, limits) for index, operation in enumerate(request.operations))
    participants = len({call.participant for call in calls})
    if participants > limits.participants:
        message = f"operations at {participants} participants are over the limit of {limits.participants}"
        _over("operations", participants, message, "name fewer participants")
    return calls


def _call(index: int, operation: types_pb2.Operation, limits: Limits) -> Call:
    at = f"operations[{index}]"
    _name(f"{at}.participant", operation.participant, names.check_participant_name, "give a registered name")
    _name(f"{at}.name", operation.name, names.check_operation_name, "give a name the participant declares")
    size = operation.payload.ByteSize()
    if size > limits.payload_bytes:
        message = f"the payload of {at} has {size} bytes, over the limit of {limits.payload_bytes}"
        _over(f"{at}.payload", size, message, "send less, or a reference to it")
    return Call(operation.participant, operation.name, operation.payload)


def _seen_epoch(request: coordinator_pb2.ExecuteRequest) -> Epoch | NeverSeen | None:
    if not request.HasField("seen_epoch"):
        return None
    seen = request.seen_epoch
    if seen.number == 0 and not seen.nonce:
        return NEVER_SEEN
    try:
        return Epoch(seen.number, seen.nonce)
    except InvalidName as error:
        value = f"{seen.number}/{seen.nonce}"
        remedy = "give the epoch of the last answer as it came, number 0 without nonce if there was none, or leave it"
        _malformed("seen_epoch", value, _brief(error, seen.nonce), remedy)


def _deadline(request: coordinator_pb2.ExecuteRequest, limits: Limits) -> float:
    if not request.HasField("deadline"):
        return limits.default_deadline
    given = request.deadline
    remedy = f"give more than 0 and at most {limits.deadline_cap:g} s, or leave it for {limits.default_deadline:g} s"
    shown = f"{given.seconds} s {given.nanos} ns"
    if not _well_formed(given):
        fact = f"deadline {shown} is no duration: nanos must be below 10^9 and have the sign of seconds"
        _malformed("deadline", shown, fact, remedy)
    if (given.seconds, given.nanos) <= (0, 0):
        _malformed("deadline", shown, f"deadline {shown} is not greater than 0", remedy)
    seconds = given.seconds + given.nanos / _NANOS
    if seconds > limits.deadline_cap:
        _over("deadline", shown, f"deadline {shown} is over the cap of {limits.deadline_cap:g} s", remedy)
    return seconds


def _well_formed(duration: duration_pb2.Duration) -> bool:
    same_sign = duration.seconds * duration.nanos >= 0
    return same_sign and abs(duration.nanos) < _NANOS and abs(duration.seconds) <= _MAX_SECONDS


def _protocol(number: coordinator_pb2.Protocol.ValueType) -> None:
    match number:
        case coordinator_pb2.PROTOCOL_UNSPECIFIED | coordinator_pb2.PROTOCOL_TWO_PHASE:
            return
        case coordinator_pb2.PROTOCOL_SAGA:
            raise Rejected(
                Problem(
                    code=grpc.StatusCode.UNIMPLEMENTED,
                    reason=reasons.NOT_OFFERED,
                    message="this coordinator does not run sagas; leave `protocol` unset for two-phase commit",
                    field="protocol",
                    value="PROTOCOL_SAGA",
                    remedy="leave it unset for two-phase commit",
                )
            )
        case _:
            _unknown("protocol", number, "leave it unset for two-phase commit")


def _wait(number: coordinator_pb2.Wait.ValueType) -> Wait:
    if number not in _WAITS:
        _unknown("wait", number, "give WAIT_APPLIED or WAIT_DECIDED, or leave it")
    return _WAITS[number]


def _txid(field: str, text: str, remedy: str) -> Txid:
    if not text:
        _missing(field, remedy)
    try:
        return Txid.parse(text)
    except InvalidName as error:
        _malformed(field, text, _brief(error, text), remedy)


def _name(field: str, text: str, check: Callable[[str], str], remedy: str) -> None:
    if not text:
        _missing(field, remedy)
    try:
        check(text)
    except InvalidName as error:
        _malformed(field, text, _brief(error, text), remedy)


def _brief(error: InvalidName, text: str) -> str:
    """The error's own words around a value cut short: what follows the value says what is expected."""
    return str(error).replace(repr(text), f"'{shorten(text)}'")


def _missing(field: str, remedy: str) -> NoReturn:
    _reject(reasons.MISSING_FIELD, field, "", f"{field} is missing", remedy)


def _malformed(field: str, value: object, fact: str, remedy: str) -> NoReturn:
    _reject(reasons.MALFORMED_FIELD, field, value, fact, remedy)


def _over(field: str, value: object, fact: str, remedy: str) -> NoReturn:
    _reject(reasons.OVER_LIMIT, field, value, fact, remedy)


def _unknown(field: str, number: int, remedy: str) -> NoReturn:
    _reject(reasons.UNKNOWN_VALUE, field, number, f"{field} {number} names no value this coordinator knows", remedy)


def _reject(reason: str, field: str, value: object, fact: str, remedy: str) -> NoReturn:
    raise Rejected(
        Problem(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason=reason,
            message=f"{fact}; {remedy}" if fact.startswith(field) else f"{field}: {fact}; {remedy}",
            field=field,
            value=str(value),
            remedy=remedy,
        )
    )
