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


def step(number: int, at: int, name: str, operation: str, state: str) -> pb.Branch:
    """A step of a saga; `operation` has its participant before it."""
    participant, _, operation_name = operation.partition(".")
    made = branch(number, at, participant, state)
    made.step, made.operation = name, operation_name
    return made


def happened_at(after: int, kind: str, step: str, participant: str, **fields: Any) -> pb.TransactionEvent:
    """An event of a saga's step."""
    return event(after, kind, step=step, participant=participant, **fields)


REFUSED = types_pb2.Refusal(
    kind=types_pb2.REFUSAL_KIND_BUSINESS,
    code="NO_FUNDS",
    message="12.00 of 19.90",
    participant="payment",
    operation="charge",
)


def compensated(number: int = 3, request: str = "order/1044", **changes: Any) -> pb.Transaction:
    """A saga of which the payment was refused, after stock was reserved."""
    values: dict[str, Any] = {
        "protocol": pb.PROTOCOL_SAGA,
        "outcome": pb.OUTCOME_COMPENSATED,
        "decision": types_pb2.DECISION_SAGA,
        "refusals": [REFUSED],
        "branches": [
            step(number, 0, "reserve", "inventory.reserve", "COMPENSATED"),
            step(number, 1, "pay", "payment.charge", "REFUSED"),
            step(number, 2, "send", "delivery.book", "ABORTED"),
        ],
        "events": [
            event(0, "DECIDED", decision=types_pb2.DECISION_SAGA),
            happened_at(5, "FINISHED", "reserve", "inventory", state=pb.BRANCH_STATE_APPLIED),
            happened_at(9, "FINISHED", "pay", "payment", state=pb.BRANCH_STATE_REFUSED),
            event(11, "TURNED", refusals=[REFUSED]),
            happened_at(14, "COMPENSATED", "send", "delivery", state=pb.BRANCH_STATE_ABORTED),
            happened_at(20, "DEAD_LETTER", "reserve", "inventory", refusals=[types_pb2.Refusal(code="X", message="y")]),
            happened_at(30, "RESOLVED", "reserve", "inventory", actor="ada", reason="put back by hand"),
            event(31, "ENDED", outcome=pb.OUTCOME_COMPENSATED),
        ],
    }
    return committed(number, request, **(values | changes))


def letter(number: int = 3, name: str = "reserve", **changes: Any) -> pb.DeadLetter:
    """A compensation that fails."""
    values: dict[str, Any] = {
        "txid": TXID.format(number),
        "request_id": "order/1044",
        "step": name,
        "participant": "inventory",
        "operation": "reserve",
        "kind": types_pb2.BRANCH_KIND_COMPENSATION,
        "attempts": 12,
        "refusal": types_pb2.Refusal(code="NO_SUCH_SKU", message="A-1 is gone"),
        "gid": gid(number, 0),
    }
    made = pb.DeadLetter(**(values | changes))
    made.since.FromMilliseconds(NOON_MS)
    return made
