"""What the participants' ledgers prove about a transaction whose decision is not known here.

Lives here: the conclusion from what was found. Must not live here: asking, and acting on it.

A ledger row is written by the branch itself when it commits, or placed by a coordinator under a decision it has made.
So a row can tell the decision; an absent row never does (R7). Any one participant may hold the row that contradicts all
the others, so nothing is concluded before every one of them has answered.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum


class Sign(Enum):
    """What one ledger row of the transaction says.

    COMMITTED: a branch is applied, or was told to commit and is barred as lost: only a decided commit does that (R4).
    ABORTED: a tombstone was placed under a decision to abort.
    DELEGATED: the row of a delegate that did not apply, a refusal or a tombstone placed when it was asked how it ended.
    A delegated transaction has nothing prepared anywhere (R12): beside a prepared branch this row contradicts the
    protocol, and is no evidence for rolling anything back.
    """

    COMMITTED = "committed"
    ABORTED = "aborted"
    DELEGATED = "delegated"


class Conclusion(Enum):
    """What follows. NOTHING: the ledgers are silent. CONTRADICTION: they disagree, and a person must look."""

    COMMIT = "commit"
    ABORT = "abort"
    NOTHING = "nothing"
    CONTRADICTION = "contradiction"


def conclude(signs: Iterable[Sign]) -> Conclusion:
    """What the rows of all participants together prove. They all must have answered."""
    match frozenset(signs):
        case found if not found:
            return Conclusion.NOTHING
        case found if found == {Sign.COMMITTED}:
            return Conclusion.COMMIT
        case found if found == {Sign.ABORTED}:
            return Conclusion.ABORT
        case _:
            return Conclusion.CONTRADICTION
