"""Why a transaction was aborted, as a plain value.

Lives here: that one value, which both the answers (`values`) and the errors carry. Must not live here: its reading from
the contract's message (`values`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Refusal:
    """One reason for an abort; see `twophase.v1.Refusal`. `kind` is the enum's name without prefix ("BUSINESS")."""

    kind: str
    code: str
    message: str
    retryable: bool
    participant: str
    operation: str

    def __str__(self) -> str:
        where = ".".join(filter(None, (self.participant, self.operation)))
        return f"{self.code}: {self.message}" + (f" ({where})" if where else "")
