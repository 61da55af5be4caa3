"""Short ways to say a transaction, a proposal, a request; for the tests of the journal."""

from __future__ import annotations

from twophase.contract.names import Epoch, Txid
from twophase.coordinator.journal.events import Begun, BranchRef, RequestRef
from twophase.coordinator.journal.port import Journal, ParticipantRecord, Proposal
from twophase.coordinator.protocol.decisions import COMMIT, Decision

STOCK = BranchRef(0, "stock")
PAYMENT = BranchRef(1, "payment")
BRANCHES = (STOCK, PAYMENT)
SHOP = ParticipantRecord("stock", "127.0.0.1:7001", "7301112223334445556", 1, "stock")
STRANGE_EPOCH = Epoch(77, "0badcafe")


def txid(journal: Journal, sequence: int) -> Txid:
    """A transaction of the journal's own epoch."""
    return Txid(journal.epoch, sequence)


def request(name: str, attempt: int = 1) -> RequestRef:
    """A request, its content hashed."""
    return RequestRef(name, attempt, bytes(range(32)))


def propose(
    journal: Journal,
    transaction: Txid | int,
    decision: Decision = COMMIT,
    *,
    epoch: Epoch | None = None,
    claim: RequestRef | None = None,
) -> Proposal:
    """A proposal by the journal's own epoch unless another is named."""
    name = txid(journal, transaction) if isinstance(transaction, int) else transaction
    return Proposal(name, decision, epoch or journal.epoch, claim, BRANCHES)


def begun(journal: Journal, sequence: int, claim: RequestRef | None = None) -> Begun:
    """The first event of a transaction."""
    return Begun(txid(journal, sequence), claim, BRANCHES)
