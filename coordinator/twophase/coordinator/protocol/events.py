"""What can happen to a transaction: the events the machines take. A saga's step is a branch like any other.

Lives here: the events. Must not live here: what they lead to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from twophase.coordinator.protocol.decisions import Decision, Ending, Vote


@dataclass(frozen=True, slots=True)
class Voted:
    """A branch voted, or its vote was lost."""

    branch: int
    vote: Vote


@dataclass(frozen=True, slots=True)
class DeadlinePassed:
    """The transaction's time is up."""


@dataclass(frozen=True, slots=True)
class RollbackAsked:
    """The client, or a coordinator that is stopping, wants an end by abort."""


@dataclass(frozen=True, slots=True)
class Ruled:
    """The journal's answer to the proposal: the actual decision, durable if it is commit or delegated."""

    decision: Decision


@dataclass(frozen=True, slots=True)
class ApplyLost:
    """The delegated branch did not answer: it may be applied, running, or never begun."""

    branch: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A branch ended, by its participant's own word."""

    branch: int
    ending: Ending


@dataclass(frozen=True, slots=True)
class Unreached:
    """An attempt to finish a branch was not answered; it is being repeated."""

    branch: int


@dataclass(frozen=True, slots=True)
class GaveUp:
    """A step of a saga was refused as often as it may be tried; no row says so, and it may yet be under way."""

    step: int


@dataclass(frozen=True, slots=True)
class Turned:
    """The journal's answer: the turn of the saga is durable."""


@dataclass(frozen=True, slots=True)
class Compensated:
    """A step is undone, or proven to have nothing to undo, by the participant's own word or a person's."""

    step: int


Event: TypeAlias = Voted | DeadlinePassed | RollbackAsked | Ruled | ApplyLost | Finished | Unreached
SagaEvent: TypeAlias = Ruled | Finished | GaveUp | DeadlinePassed | RollbackAsked | Turned | Compensated | Unreached
