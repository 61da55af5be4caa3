"""What a machine wants done: the effects the caller carries out, in the order given.

Lives here: the effects. Must not live here: how they are carried out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from twophase.coordinator.protocol.decisions import Decision, Ending


@dataclass(frozen=True, slots=True)
class SendPrepare:
    """Send the branch its work and the request to prepare."""

    branch: int


@dataclass(frozen=True, slots=True)
class SendApply:
    """Send the delegated branch its work, to be committed locally."""

    branch: int


@dataclass(frozen=True, slots=True)
class SendCommit:
    """Have the prepared branch committed, until it is."""

    branch: int


@dataclass(frozen=True, slots=True)
class SendAbort:
    """Have the branch rolled back or barred, until it is."""

    branch: int


@dataclass(frozen=True, slots=True)
class SendSettle:
    """Ask the delegated branch how it ended, barring it if it did not, until it answers."""

    branch: int


@dataclass(frozen=True, slots=True)
class Propose:
    """Hand the decision to the journal."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class TellDecided:
    """The outcome is certain and may be told."""

    committed: bool


@dataclass(frozen=True, slots=True)
class TellUnreached:
    """Every participant that can be reached has rolled back: no reason to make the client wait for the others."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """The branch ended against the decision, proven by the participant's ledger (R11)."""

    branch: int
    ending: Ending


@dataclass(frozen=True, slots=True)
class End:
    """Every branch is over. Record the end and tell who waits for it."""

    committed: bool


@dataclass(frozen=True, slots=True)
class SendStep:
    """Have the step of a saga done, until it is answered. `must_succeed`: it is past the pivot, and tried for ever."""

    step: int
    must_succeed: bool


@dataclass(frozen=True, slots=True)
class SendAsk:
    """Ask the step how it ended, barring it if it did not, until it answers."""

    step: int


@dataclass(frozen=True, slots=True)
class SendCompensation:
    """Have the step undone, or barred, until it is."""

    step: int


@dataclass(frozen=True, slots=True)
class Turn:
    """Record that the saga goes back from here. A refusal or tombstone of the pivot, or before it, is durable."""


Effect: TypeAlias = (
    SendPrepare | SendApply | SendCommit | SendAbort | SendSettle | Propose | TellDecided | TellUnreached | Alarm | End
)
SagaEffect: TypeAlias = Propose | SendStep | SendAsk | SendCompensation | Turn | TellDecided | TellUnreached | End
