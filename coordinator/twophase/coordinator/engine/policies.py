"""How a saga's step is tried again: what its participant says of the operation, and the defaults.

Lives here: reading the policy. Must not live here: trying.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from twophase.v1 import participant_pb2


@dataclass(frozen=True, slots=True)
class Policy:
    """How often and how soon; durations in seconds. See `twophase.v1.RetryPolicy`."""

    attempts: int = 5
    first_pause: float = 0.05
    longest_pause: float = 5.0
    attempt_deadline: float = 10.0


_DEFAULT = Policy()


def policy_of(described: participant_pb2.OperationDescription | None) -> Policy:
    """The policy of an operation; the defaults for one that its participant does not describe (any more)."""
    if described is None:
        return _DEFAULT
    told = described.retry
    return Policy(
        attempts=told.attempts or _DEFAULT.attempts,
        first_pause=_seconds(told, "first_pause") or _DEFAULT.first_pause,
        longest_pause=_seconds(told, "longest_pause") or _DEFAULT.longest_pause,
        attempt_deadline=_seconds(described, "attempt_deadline") or _DEFAULT.attempt_deadline,
    )


def _seconds(message: participant_pb2.RetryPolicy | participant_pb2.OperationDescription, field: str) -> float:
    """0 for a duration that is not set, or makes no sense."""
    told: Duration = getattr(message, field)
    return max(0.0, told.seconds + told.nanos / 1e9)
