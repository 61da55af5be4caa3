"""The client: what an application imports to have business done everywhere or nowhere.

    from twophase.coordinator.client import AsyncClient, operation

    async with AsyncClient("127.0.0.1:7400") as client:
        done = await client.execute(
            operation("inventory", "reserve", {"sku": "A-1", "quantity": 2}),
            operation("payment", "charge", {"customer": "c1", "amount": Decimal("19.90")}),
            deadline=5.0,
        )

With `protocol=Protocol.SAGA` the same operations run as a saga, one after the other; `step` gives them another order.

`errors` says what can come instead of an answer; every error says whether the outcome is known. Needs gRPC and nothing
of the coordinator's own: no journal, no engine, no database driver.
"""

from twophase.coordinator.client.client import AsyncClient
from twophase.coordinator.client.errors import (
    CallRejected,
    CoordinatorUnavailable,
    InvalidRequest,
    NotFound,
    OutcomeUnknown,
    RequestIdReused,
    ResultMismatch,
    SagaCompensated,
    TransactionAborted,
    TwophaseError,
)
from twophase.coordinator.client.findings import (
    Check,
    CheckResult,
    DeadLetter,
    Diagnosis,
    HeldLock,
    InDoubt,
    InDoubtBranch,
    ParticipantDiagnosis,
    Resolution,
    Unanswered,
    Waiter,
)
from twophase.coordinator.client.payloads import operation
from twophase.coordinator.client.refusal import Refusal
from twophase.coordinator.client.steps import Step, step
from twophase.coordinator.client.values import (
    Branch,
    Committed,
    Event,
    Operation,
    Outcome,
    Protocol,
    Result,
    Transaction,
    Wait,
)

__all__ = [
    "AsyncClient",
    "Branch",
    "CallRejected",
    "Check",
    "CheckResult",
    "Committed",
    "CoordinatorUnavailable",
    "DeadLetter",
    "Diagnosis",
    "Event",
    "HeldLock",
    "InDoubt",
    "InDoubtBranch",
    "InvalidRequest",
    "NotFound",
    "Operation",
    "Outcome",
    "OutcomeUnknown",
    "ParticipantDiagnosis",
    "Protocol",
    "Refusal",
    "RequestIdReused",
    "Resolution",
    "Result",
    "ResultMismatch",
    "SagaCompensated",
    "Step",
    "Transaction",
    "TransactionAborted",
    "TwophaseError",
    "Unanswered",
    "Wait",
    "Waiter",
    "operation",
    "step",
]
