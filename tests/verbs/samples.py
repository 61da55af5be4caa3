"""Transactions as a coordinator tells them."""

from __future__ import annotations

from typing import Any

from twophase.v1 import coordinator_pb2 as pb
from twophase.v1 import types_pb2

TXID = "00000001-cafe0001-0000000000{:02x}"
NOON_MS = 1_795_262_584_512  # 2026-11-21 12:03:04.512 UTC


def gid(number: int, branch: int) -> str:
    return f"tp-0123456789abcdef-{TXID.format(number)}-{branch:04x}"


def branch(number: int, at: int, participant: str, state: str) -> pb.Branch:
    return pb.Branch(gid=gid(number, at), participant=participant, state=pb.BranchState.Value(f"BRANCH_STATE_{state}"))


def event(after: int, kind: str, **fields: Any) -> pb.TransactionEvent:
    """`after` is in milliseconds since the first."""
    made = pb.TransactionEvent(position=100 + after, kind=pb.EventKind.Value(f"EVENT_KIND_{kind}"), **fields)
    made.at.FromMilliseconds(NOON_MS + after)
    return made


def committed(number: int = 1, request: str = "order/1042", **changes: Any) -> pb.Transaction:
    """Two branches, both applied."""
    values: dict[str, Any] = {
        "txid": TXID.format(number),
        "request_id": request,
        "attempt": 1,
        "outcome": pb.OUTCOME_COMMITTED,
        "decision": types_pb2.DECISION_COMMIT,
        "applied": True,
        "branches": [branch(number, 0, "inventory", "APPLIED"), branch(number, 1, "payment", "APPLIED")],
        "events": [
            event(0, "BEGUN"),
            event(5, "VOTED", gid=gid(number, 1), participant="payment", vote=types_pb2.VOTE_YES),
            event(7, "VOTED", gid=gid(number, 0), participant="inventory", vote=types_pb2.VOTE_YES),
            event(9, "DECIDED", decision=types_pb2.DECISION_COMMIT),
            event(12, "FINISHED", gid=gid(number, 0), participant="inventory", state=pb.BRANCH_STATE_APPLIED),
            event(1_250, "FINISHED", gid=gid(number, 1), participant="payment", state=pb.BRANCH_STATE_APPLIED),
            event(1_250, "ENDED", outcome=pb.OUTCOME_COMMITTED),
        ],
    }
    return pb.Transaction(**(values | changes))


def aborted(number: int = 2, request: str = "order/1043") -> pb.Transaction:
    """Refused by one."""
    refusal = types_pb2.Refusal(
        kind=types_pb2.REFUSAL_KIND_BUSINESS,
        code="OUT_OF_STOCK",
        message="3 of A-1 are left, 5 are wanted",
        participant="inventory",
        operation="reserve",
    )
    return committed(
        number,
        request,
        attempt=3,
        outcome=pb.OUTCOME_ABORTED,
        decision=types_pb2.DECISION_ABORT,
        branches=[branch(number, 0, "inventory", "REFUSED"), branch(number, 1, "payment", "ABORTED")],
        refusals=[refusal],
        events=[],
    )
