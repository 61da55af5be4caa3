"""Reading requests: every field of a call checked, and turned into the library's own values.

Lives here: the checks, and the problem of each field that fails one. Must not live here: what is done with the values
(`service`), the reading of payloads (`payloads`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration

from twophase.contract.names import MAX_SEQUENCE, Epoch, Gid, InvalidName, Txid, check_journal_id
from twophase.contract.status import Problem
from twophase.contract.text import shorten
from twophase.participant.errors import ParticipantError
from twophase.participant.work import DEADLINE_CAP, Deadline
from twophase.v1 import participant_pb2, types_pb2

T = TypeVar("T")

_FINGERPRINT_BYTES: Final = 32
_MAX_POSITION: Final = 2**63 - 1  # the ledger keeps it as a bigint
_LONGEST_NAME: Final = 256
_MOST_TXIDS: Final = 1_000


class Rejected(ParticipantError):
    """The call is wrong in itself: it is answered with a status, and nothing was started."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def invalid(field: str, value: str, message: str, remedy: str) -> Rejected:
    """A field that is malformed, missing or over its limit."""
    return Rejected(
        Problem(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason="INVALID_FIELD",
            message=message,
            field=field,
            value=value,
            remedy=remedy,
        )
    )


def gid_of(text: str) -> Gid:
    """Reads the field `gid`. Raises `Rejected`."""
    return _named("gid", text, Gid.parse, "send the branch's name as the coordinator gave it out")


def txid_of(text: str) -> Txid:
    """Reads the field `txid`. Raises `Rejected`."""
    return _named("txid", text, Txid.parse, "send the transaction's name as it stands in its GIDs")


def txids_of(texts: Sequence[str]) -> frozenset[Txid]:
    """Reads the field `txids`. Raises `Rejected`."""
    if len(texts) > _MOST_TXIDS:
        raise invalid(
            "txids", str(len(texts)), f"{len(texts)} transactions are more than {_MOST_TXIDS}", "ask in several calls"
        )
    return frozenset(map(txid_of, texts))


def journal_id_of(text: str) -> str:
    """Reads the field `journal_id`. Raises `Rejected`."""
    return _named("journal_id", text, check_journal_id, "send the id of the coordinator's journal")


def epoch_of(epoch: types_pb2.Epoch, field: str = "epoch") -> Epoch:
    """Reads an epoch. Raises `Rejected`."""
    remedy = "send the epoch that the journal gave out, with its nonce"
    return _named(field, epoch.nonce, lambda nonce: Epoch(epoch.number, nonce), remedy)


def horizons_of(horizons: Iterable[participant_pb2.Horizon]) -> dict[Epoch, int]:
    """Reads the field `horizons`. Raises `Rejected`."""
    found: dict[Epoch, int] = {}
    for index, horizon in enumerate(horizons):
        field = f"horizons[{index}]"
        epoch = epoch_of(horizon.epoch, f"{field}.epoch")
        if epoch in found:
            raise invalid(f"{field}.epoch", str(epoch), f"epoch {epoch} has two horizons", "send one for each epoch")
        if horizon.sequence > MAX_SEQUENCE:
            raise invalid(
                f"{field}.sequence",
                str(horizon.sequence),
                f"sequence {horizon.sequence} is over {MAX_SEQUENCE}, the highest there can be",
                "send the lowest sequence that is still in use",
            )
        found[epoch] = horizon.sequence
    return found


def check_operations(operations: Iterable[participant_pb2.BranchOperation]) -> None:
    """Raises `Rejected` if there are none."""
    if not any(True for _ in operations):
        raise invalid("operations", "", "the branch has no operations", "send at least one operation")


def deadline_of(request: participant_pb2.PrepareRequest | participant_pb2.ApplyRequest) -> Deadline:
    """The end of the time that is left, from now; at most `DEADLINE_CAP` seconds away."""
    left = _seconds(request.time_left) if request.HasField("time_left") else DEADLINE_CAP
    return Deadline.after(min(max(left, 0.0), DEADLINE_CAP))


def position_of(position: int) -> int:
    """Reads the field `journal_position`. Raises `Rejected`."""
    if position > _MAX_POSITION:
        raise invalid(
            "journal_position",
            str(position),
            f"journal position {position} is over {_MAX_POSITION}",
            "send the position that the journal had reached",
        )
    return position


def fingerprint_of(fingerprint: bytes) -> bytes:
    """Reads the field `fingerprint`. Raises `Rejected`."""
    if len(fingerprint) != _FINGERPRINT_BYTES:
        raise invalid(
            "fingerprint",
            fingerprint.hex(),
            f"the fingerprint has {len(fingerprint)} bytes, not {_FINGERPRINT_BYTES}",
            "send a hash of the operations, such as SHA-256",
        )
    return fingerprint


def kind_of(kind: types_pb2.BranchKind.ValueType) -> types_pb2.BranchKind.ValueType:
    """Reads the field `kind`; unset means work. Raises `Rejected`."""
    match kind:
        case types_pb2.BRANCH_KIND_UNSPECIFIED:
            return types_pb2.BRANCH_KIND_WORK
        case types_pb2.BRANCH_KIND_WORK | types_pb2.BRANCH_KIND_COMPENSATION:
            return kind
        case _:
            raise invalid("kind", str(kind), f"{kind} is no kind of a branch", "send WORK or COMPENSATION")


def abort_decision_of(decision: types_pb2.Decision.ValueType) -> types_pb2.Decision.ValueType:
    """Reads the field `decision` of an abort. Raises `Rejected`: nothing is barred under a commit, or under nothing."""
    if decision in (types_pb2.DECISION_ABORT, types_pb2.DECISION_DELEGATED):
        return decision
    raise invalid(
        "decision",
        str(decision),
        "a branch is aborted only under the decision ABORT or DELEGATED",
        "send the decision under which the branch must not be applied",
    )


def _named(field: str, text: str, read: Callable[[str], T], remedy: str) -> T:
    try:
        # Cut before it gets into a message: what is too long is no name either way.
        return read(text[:_LONGEST_NAME])
    except InvalidName as error:
        raise invalid(field, shorten(text), str(error), remedy) from error


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
