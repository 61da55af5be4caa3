"""What a client may send, checked before the engine sees anything of it.

Lives here: one function a request message, from the message to the engine's values. Must not live here: questions that
only the engine can answer (is there such a participant, was this request id used), the operations of a request and
their order (`validation_steps`), mapping of answers (`wire`).

Every function raises `Rejected` with the field, the value and the remedy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf import duration_pb2

from twophase.contract import names
from twophase.contract.addresses import Address, InvalidAddress
from twophase.contract.names import Epoch, InvalidName, Txid
from twophase.contract.text import shorten
from twophase.coordinator.complaints import brief, check_name, check_txid, malformed, missing, over, unknown
from twophase.coordinator.engine.api import NEVER_SEEN, Limits, NeverSeen, Protocol, Submission, Wait, Which
from twophase.coordinator.validation_steps import calls
from twophase.v1 import coordinator_pb2

MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100
_NANOS: Final = 1_000_000_000
# The range of google.protobuf.Duration, 10,000 years.
_MAX_SECONDS: Final = 315_576_000_000
# The range of google.protobuf.Timestamp, from year 1 to year 9999.
_FIRST_MOMENT: Final = -62_135_596_800
_LAST_MOMENT: Final = 253_402_300_799
_LONGEST_ACTOR: Final = 128
_LONGEST_REASON: Final = 1000
# A step that was given no name has a longer one than may be given: its participant's, its operation's, and a number.
_LONGEST_STEP: Final = 160
_WAITS: Final = {
    coordinator_pb2.WAIT_UNSPECIFIED: Wait.APPLIED,
    coordinator_pb2.WAIT_APPLIED: Wait.APPLIED,
    coordinator_pb2.WAIT_DECIDED: Wait.DECIDED,
}
_PROTOCOLS: Final = {
    coordinator_pb2.PROTOCOL_UNSPECIFIED: Protocol.TWO_PHASE,
    coordinator_pb2.PROTOCOL_TWO_PHASE: Protocol.TWO_PHASE,
    coordinator_pb2.PROTOCOL_SAGA: Protocol.SAGA,
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


@dataclass(frozen=True, slots=True)
class Word:
    """A person's word that a dead letter is done: which one, who says so, and why."""

    txid: Txid
    step: str
    actor: str
    reason: str
    even_if_away: bool


def submission(request: coordinator_pb2.ExecuteRequest, limits: Limits) -> Submission:
    """The transaction that an Execute asks for."""
    check_name("request_id", request.request_id, names.check_request_id, "make one id for each piece of business, once")
    return Submission(
        request_id=request.request_id,
        attempt=request.attempt or 1,
        seen_epoch=_seen_epoch(request),
        calls=calls(request.operations, limits),
        deadline=_deadline(request, limits),
        wait=_wait(request.wait),
        protocol=_protocol(request.protocol),
        in_turn=request.in_turn,
    )


def registration(request: coordinator_pb2.RegisterRequest) -> tuple[str, str]:
    """The name and the address of the participant that Register makes known."""
    check_name(
        "participant", request.participant, names.check_participant_name, "give the name the participant runs under"
    )
    if not request.address:
        missing("address", "give host:port, as reached from the coordinator")
    try:
        address = Address.parse(request.address)
    except InvalidAddress as error:
        malformed("address", request.address, str(error), "give host:port, as reached from the coordinator")
    if address.port == 0:
        malformed("address", request.address, f"address {address} has port 0", "give the port it listens on")
    return request.participant, str(address)


def question(request: coordinator_pb2.GetRequest) -> Question:
    """What Get asks for."""
    return Question(_key(request), request.with_events, _moment(request))


def _key(request: coordinator_pb2.GetRequest) -> Txid | str:
    which = request.WhichOneof("key")
    if which is None:
        missing("key", "set txid or request_id")
    if which == "txid":
        return check_txid("txid", request.txid, "give it as Execute answered it")
    check_name("request_id", request.request_id, names.check_request_id, "give the id that was sent with Execute")
    return request.request_id


def page(request: coordinator_pb2.ListRequest) -> Page:
    """The page that List asks for."""
    if request.page_size > MAX_PAGE:
        over("page_size", request.page_size, f"page_size {request.page_size} is over {MAX_PAGE}", "ask for less")
    before = None
    if request.page_token:
        before = check_txid("page_token", request.page_token, "give next_page_token of the page before, or nothing")
    return Page(request.page_size or DEFAULT_PAGE, before, _which(request))


def dead_letter(
    request: coordinator_pb2.RetryDeadLetterRequest | coordinator_pb2.ResolveDeadLetterRequest,
) -> tuple[Txid, str]:
    """The saga and the step of a dead letter."""
    remedy = "give it as ListDeadLetters tells it"
    txid = check_txid("txid", request.txid, remedy)
    _text("step", request.step, _LONGEST_STEP, remedy)
    return txid, request.step


def resolution(request: coordinator_pb2.ResolveDeadLetterRequest) -> Word:
    """Which dead letter is taken for done, by whom, and why."""
    txid, step = dead_letter(request)
    _text("actor", request.actor, _LONGEST_ACTOR, f"say who resolves it, in 1 to {_LONGEST_ACTOR} characters")
    remedy = f"say in 1 to {_LONGEST_REASON} characters what was done instead, or why nothing needs to be"
    _text("reason", request.reason, _LONGEST_REASON, remedy)
    return Word(txid, step, request.actor, request.reason, request.even_if_away)


def _text(field: str, text: str, longest: int, remedy: str) -> None:
    """A line for people."""
    if not text.strip():
        missing(field, remedy)
    if len(text) > longest:
        over(field, shorten(text), f"{field} has {len(text)} characters, over the limit of {longest}", remedy)
    if not text.isprintable():
        malformed(field, shorten(text), f"{field} has line breaks, or other characters that cannot be printed", remedy)


def _which(request: coordinator_pb2.ListRequest) -> Which:
    if request.unfinished_only and request.heuristic_only:
        fact = "heuristic_only cannot be asked for together with unfinished_only"
        malformed("heuristic_only", "true", fact, "ask for them one after the other")
    if request.unfinished_only:
        return Which.UNFINISHED
    return Which.HEURISTIC if request.heuristic_only else Which.ALL


def _moment(request: coordinator_pb2.GetRequest) -> int | None:
    if not request.HasField("at"):
        return None
    seconds, nanos = request.at.seconds, request.at.nanos
    if not (_FIRST_MOMENT <= seconds <= _LAST_MOMENT and 0 <= nanos < _NANOS):
        malformed("at", f"{seconds}.{nanos:09d}", "at is no moment between the years 1 and 9999", "give such a moment")
    # Up to the end of the millisecond: that is how exactly the journal tells the time.
    return seconds * 1000 + nanos // 1_000_000


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
        malformed("seen_epoch", value, brief(error, seen.nonce), remedy)


def _deadline(request: coordinator_pb2.ExecuteRequest, limits: Limits) -> float:
    if not request.HasField("deadline"):
        return limits.default_deadline
    given = request.deadline
    remedy = f"give more than 0 and at most {limits.deadline_cap:g} s, or leave it for {limits.default_deadline:g} s"
    shown = f"{given.seconds} s {given.nanos} ns"
    if not _well_formed(given):
        fact = f"deadline {shown} is no duration: nanos must be below 10^9 and have the sign of seconds"
        malformed("deadline", shown, fact, remedy)
    if (given.seconds, given.nanos) <= (0, 0):
        malformed("deadline", shown, f"deadline {shown} is not greater than 0", remedy)
    seconds = given.seconds + given.nanos / _NANOS
    if seconds > limits.deadline_cap:
        over("deadline", shown, f"deadline {shown} is over the cap of {limits.deadline_cap:g} s", remedy)
    return seconds


def _well_formed(duration: duration_pb2.Duration) -> bool:
    same_sign = duration.seconds * duration.nanos >= 0
    return same_sign and abs(duration.nanos) < _NANOS and abs(duration.seconds) <= _MAX_SECONDS


def _protocol(number: coordinator_pb2.Protocol.ValueType) -> Protocol:
    if number not in _PROTOCOLS:
        unknown("protocol", number, "give PROTOCOL_TWO_PHASE or PROTOCOL_SAGA, or leave it for two-phase commit")
    return _PROTOCOLS[number]


def _wait(number: coordinator_pb2.Wait.ValueType) -> Wait:
    if number not in _WAITS:
        unknown("wait", number, "give WAIT_APPLIED or WAIT_DECIDED, or leave it")
    return _WAITS[number]
