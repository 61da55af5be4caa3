"""The form of an error on the wire: a gRPC status with `google.rpc` details.

Lives here: building and reading it, the same on both sides. Must not live here: which error has which code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, cast

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from twophase.contract.text import shorten
from twophase.v1 import types_pb2

T = TypeVar("T")

DOMAIN: Final = "twophase"
_DETAILS: Final = "grpc-status-details-bin"
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode if code is not grpc.StatusCode.OK}


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a call was refused as such: nothing was started, and the outcome is known to be "nothing".

    `code` is the gRPC status; `reason` a name in UPPER_SNAKE_CASE for programs; `message` the fact, with the value and
    the remedy in words; `field` the path of the request's field (`operations[2].payload`) or empty; `value` what was
    given, cut short; `remedy` what to do; `outcome_known` is False only where something may have been started.
    """

    code: grpc.StatusCode
    reason: str
    message: str
    field: str = ""
    value: str = ""
    remedy: str = ""
    outcome_known: bool = True


class FailedCall(Protocol):
    """The part of a failed call that carries its status: `grpc.aio.AioRpcError` has it, and so has `grpc.Call`."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...


def to_status(problem: Problem) -> status_pb2.Status:
    """The `google.rpc.Status` of a problem: ErrorInfo always, BadRequest if a field is named."""
    named = {"field": problem.field, "value": shorten(problem.value), "remedy": problem.remedy}
    metadata = {key: text for key, text in named.items() if text}
    metadata["outcome_known"] = "true" if problem.outcome_known else "false"
    status = status_pb2.Status(code=problem.code.value[0], message=problem.message)
    _pack(status, error_details_pb2.ErrorInfo(reason=problem.reason, domain=DOMAIN, metadata=metadata))
    if problem.field:
        violation = error_details_pb2.BadRequest.FieldViolation(field=problem.field, description=problem.message)
        _pack(status, error_details_pb2.BadRequest(field_violations=[violation]))
    return status


def _pack(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> None:
    packed = Any()
    packed.Pack(detail)
    status.details.append(packed)


def to_failure(problem: Problem) -> types_pb2.CallFailure:
    """A problem as it is told on a stream of calls."""
    status = to_status(problem)
    return types_pb2.CallFailure(code=status.code, message=status.message, details=status.SerializeToString())


def of_failure(failure: types_pb2.CallFailure) -> grpc.aio.AioRpcError:
    """What was told on a stream, as the error that the unary call raises. A code that is none becomes UNKNOWN."""
    trailers = grpc.aio.Metadata((_DETAILS, failure.details)) if failure.details else grpc.aio.Metadata()
    return _error(_CODES.get(failure.code, grpc.StatusCode.UNKNOWN), failure.message, trailers)


def failed_call(code: grpc.StatusCode, message: str) -> grpc.aio.AioRpcError:
    """The error of a call that nobody answered."""
    return _error(code, message, grpc.aio.Metadata())


def readable(answer: T | None) -> T:
    """An answer as it came. gRPC gives None for bytes that are no message of the call's type: then this raises what
    other implementations of it raise, an `AioRpcError` with INTERNAL and no known outcome.
    """
    if answer is None:
        raise failed_call(grpc.StatusCode.INTERNAL, "the answer is no message of this call; is it of another contract?")
    return answer


def _error(code: grpc.StatusCode, message: str, trailers: grpc.aio.Metadata) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailers, details=message)


def from_call(call: FailedCall) -> Problem:
    """What a failed call says of itself. One without our details has an empty `reason` and no known outcome."""
    code = call.code()
    message = call.details() or ""
    info = _info(call)
    if info is None:
        return Problem(code=code, reason="", message=message, outcome_known=False)
    return Problem(
        code=code,
        reason=info.reason,
        message=message,
        field=info.metadata.get("field", ""),
        value=info.metadata.get("value", ""),
        remedy=info.metadata.get("remedy", ""),
        outcome_known=info.metadata.get("outcome_known") == "true",
    )


def _info(call: FailedCall) -> error_details_pb2.ErrorInfo | None:
    try:
        status = rpc_status.from_call(cast(grpc.Call, call))
        if status is not None and status.code != code_pb2.OK:
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    return info
    except (ValueError, DecodeError):  # details that contradict the status, or are no details: a proxy's, not ours
        return None
    return None
