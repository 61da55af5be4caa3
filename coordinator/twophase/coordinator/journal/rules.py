"""The rules of the journal, above all of `decide` (R5, R6), pure, in one place for every store.

Lives here: what is answered to a proposal, given what the journal holds, and what a decision does to its request id.
Must not live here: how the journal is read and written.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.events import Decided, Event, Turned
from twophase.coordinator.journal.port import Basis, BelowHorizon, EpochFenced, NotTheOwner, Proposal, Ruling
from twophase.coordinator.protocol.decisions import ABORT, Decision, DecisionKind


def decided_by(proposal: Proposal, decision: Decision) -> Decided:
    """The event of a proposal that was ruled so."""
    return Decided(proposal.txid, decision, proposal.request, proposal.branches, proposal.reasons, proposal.definition)


class Standing(Enum):
    """What an epoch may do. STRANGE: this journal never gave it out (it may be a restored one)."""

    OPEN = "open"
    FENCED = "fenced"
    STRANGE = "strange"


@dataclass(frozen=True, slots=True)
class EpochView:
    """What the journal knows of an epoch: its standing, and the lowest sequence whose record is certain to be kept."""

    standing: Standing
    horizon: int = 0


@dataclass(frozen=True, slots=True)
class Situation:
    """What the journal holds at the moment of a proposal.

    `existing` is the decision on record, `proposer` and `owner` are the epochs of the proposal and of its transaction,
    `holder` is the transaction that holds the proposal's request id.
    """

    existing: Decision | None
    proposer: EpochView
    owner: EpochView
    holder: Txid | None


def judge(proposal: Proposal, situation: Situation) -> Ruling:
    """The answer of `Journal.decide`; the order of the checks is the rule.

    With basis ACCEPTED or CLAIMED the answer is new and must be recorded. Raises `EpochFenced`, `BelowHorizon` or
    `NotTheOwner`; then nothing is recorded.
    """
    if situation.existing is not None:
        return Ruling(situation.existing, Basis.EARLIER)
    _check_proposer(proposal.epoch, situation.proposer.standing)
    _check_horizon(proposal.txid, situation.owner.horizon)
    if proposal.txid.epoch != proposal.epoch:
        _check_takeover(proposal, situation.owner.standing)
    if claims_request(proposal.decision) and situation.holder is not None:
        return Ruling(ABORT, Basis.CLAIMED, situation.holder)
    return Ruling(proposal.decision, Basis.ACCEPTED)


def judge_turn(turned: Turned, proposer: Epoch, situation: Situation) -> None:
    """The answer of `Journal.turn`: nothing, and the turn may be recorded.

    Raises `EpochFenced`, `NotTheOwner`, and ValueError for what was never started as a saga.
    """
    _check_proposer(proposer, situation.proposer.standing)
    if turned.txid.epoch != proposer and situation.owner.standing is not Standing.FENCED:
        raise _not_fenced(turned.txid, situation.owner.standing)
    if situation.existing is None or situation.existing.kind is not DecisionKind.SAGA:
        raise ValueError(f"transaction {turned.txid} is no saga that was started here: it cannot turn")


_MAY_YET_FAIL = (DecisionKind.DELEGATED, DecisionKind.SAGA)


def claims_request(decision: Decision) -> bool:
    """Whether the decision takes its transaction's request id: everything that may end in a commit does (R6)."""
    return decision.kind is not DecisionKind.ABORT


def releases_request(decision: Decision | None, *, committed: bool) -> bool:
    """Whether an `Ended` with this outcome gives the request id back: a delegate that proved refused, a saga that is
    compensated (R6)."""
    return decision is not None and decision.kind in _MAY_YET_FAIL and not committed


def needs_force(decision: Decision) -> bool:
    """Whether the decision must be durable before it is told: an abort that is lost is presumed again (R4, R12)."""
    return decision.kind is not DecisionKind.ABORT


def _check_proposer(epoch: Epoch, standing: Standing) -> None:
    match standing:
        case Standing.OPEN:
            return
        case Standing.FENCED:
            raise EpochFenced(f"epoch {epoch} is fenced: another coordinator finishes its transactions; stop this one")
        case Standing.STRANGE:
            raise EpochFenced(
                f"epoch {epoch} was never given out by this journal, which may be an older copy; stop this coordinator"
            )


def _check_horizon(txid: Txid, horizon: int) -> None:
    if txid.sequence < horizon:
        raise BelowHorizon(
            f"transaction {txid} is below its epoch's horizon, sequence {horizon}: its record may have been pruned, so"
            " that there is none proves nothing; ask every participant for its ledger rows"
        )


def _check_takeover(proposal: Proposal, owner: Standing) -> None:
    if proposal.decision != ABORT:
        raise NotTheOwner(
            f"transaction {proposal.txid} is of another epoch than {proposal.epoch}, which may only abort it,"
            f" not decide {proposal.decision}"
        )
    if owner is not Standing.FENCED:
        raise _not_fenced(proposal.txid, owner)


def _not_fenced(txid: Txid, owner: Standing) -> NotTheOwner:
    return NotTheOwner(
        f"transaction {txid} is of epoch {txid.epoch}, which is {owner.value} and not fenced;"
        " fence it before you finish its transactions"
    )


def check_event(event: Event) -> None:
    """Raises ValueError for the events that only `decide` and `turn` may write."""
    if isinstance(event, Decided):
        raise ValueError(  # noqa: TRY004 - a decision is an event; it is this way in that is wrong
            f"the decision on {event.txid} cannot be appended: propose it to decide()"
        )
    if isinstance(event, Turned):
        raise ValueError(f"the turn of {event.txid} cannot be appended: hand it to turn()")  # noqa: TRY004 - as above


def check_limit(limit: int) -> None:
    """Raises ValueError for a limit below 1."""
    if limit < 1:
        raise ValueError(f"limit {limit} is below 1: ask for at least one transaction")
