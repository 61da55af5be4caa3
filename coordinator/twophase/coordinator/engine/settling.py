"""Settling by evidence: transactions of which the journal does not know the decision, and may not presume one.

Lives here: carrying out what every participant's rows prove, writing down what was seen. Must not live here: asking for
the rows (`asking`), what they prove (`protocol.evidence`), which transactions come here (`supervisor`).

The journal gets no decision for them: only the owner of an epoch decides commit (R5), and the owner's decision, which
the rows prove, is in another copy of the journal. What it gets are the facts that were seen (a branch has ended, all of
them have), so that Get tells the outcome and the request of a committed one is not carried out again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Gid, Txid
from twophase.coordinator.engine import messages
from twophase.coordinator.engine.asking import Asking, Evidence
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.underway import FINISH_SECONDS, Surroundings
from twophase.coordinator.journal.events import Begun, BranchRef, Ended, Finished, TransactionRecord
from twophase.coordinator.protocol.decisions import Ending
from twophase.coordinator.protocol.evidence import Conclusion, conclude
from twophase.v1 import participant_pb2

_log = logging.getLogger(__name__)


class Settling:
    """Asks, concludes, acts. Everything here may be done twice, or by two at once (R8)."""

    def __init__(self, around: Surroundings, asking: Asking) -> None:
        self._around = around
        self._asking = asking
        self._at_work: set[Txid] = set()
        self._told: set[tuple[Txid, str]] = set()

    async def settle(self, txid: Txid, record: TransactionRecord | None) -> bool:
        """Ends the transaction's branches as the rows of all participants prove it; True if nothing is left to do.

        Nothing is done, and an alarm raised once, while a participant is silent (it may hold the row that contradicts
        the others), if the rows prove nothing, and if they contradict each other.
        """
        if txid in self._at_work:
            return False
        self._at_work.add(txid)
        try:
            return await self._carry_out(txid, record, await self._asking.ask(txid))
        finally:
            self._at_work.discard(txid)

    async def _carry_out(self, txid: Txid, record: TransactionRecord | None, evidence: Evidence) -> bool:
        if evidence.silent:
            silent = ", ".join(peer.name for peer in evidence.silent)
            self._alarm(txid, evidence, f"participant {silent} does not answer, and may know how it ended")
            return False
        conclusion = conclude(sign for signs in evidence.signs().values() for sign in signs)
        match conclusion:
            case Conclusion.NOTHING:
                self._alarm(txid, evidence, "no participant's ledger tells how it ended")
                return False
            case Conclusion.CONTRADICTION:
                signs = "; ".join(
                    f"{name}: {', '.join(sorted(sign.value for sign in found))}"
                    for name, found in evidence.signs().items()
                )
                self._alarm(txid, evidence, f"the participants' ledgers contradict each other ({signs})")
                return False
            case Conclusion.COMMIT | Conclusion.ABORT:
                return await self._end(txid, record, evidence, commit=conclusion is Conclusion.COMMIT)

    async def _end(self, txid: Txid, record: TransactionRecord | None, evidence: Evidence, *, commit: bool) -> bool:
        prepared = evidence.prepared()
        if prepared:
            _log.critical(
                "transaction %s has no decision here; the ledger of %s proves %s, and %s is ended so",
                *(txid, ", ".join(evidence.signs()), "commit" if commit else "abort"),
                ", ".join(f"branch {ref.number} at {ref.participant}" for ref in prepared),
            )
        told = await asyncio.gather(*(self._tell(txid, ref, peer, commit=commit) for ref, peer in prepared.items()))
        endings = evidence.endings()
        endings |= {ref: ending for ref, ending in zip(prepared, told, strict=True) if ending is not None}
        self._write_down(txid, record, endings)
        if None in told:
            return False
        if record is None or not record.ended:
            self._around.journal.append(Ended(txid, commit))
        return True

    def _write_down(self, txid: Txid, record: TransactionRecord | None, endings: Mapping[BranchRef, Ending]) -> None:
        journal, known = self._around.journal, record.endings if record is not None else {}
        branches = {*record.branches} if record is not None else set()
        if not branches.issuperset(endings):
            journal.append(Begun(txid, None, tuple(endings)))
        for ref, ending in endings.items():
            if known.get(ref.number) is not ending:
                journal.append(Finished(txid, ref.number, ending))

    async def _tell(self, txid: Txid, ref: BranchRef, peer: Peer, *, commit: bool) -> Ending | None:
        """Ends one prepared branch; None if that was not answered."""
        gid = Gid(self._around.journal.journal_id, txid, ref.number)
        answer: participant_pb2.CommitResponse | participant_pb2.AbortResponse
        reach(CrashPoint.RECOVERY_BEFORE_EVIDENCE)
        try:
            if commit:
                answer = await peer.link.commit(messages.commit(gid), timeout=FINISH_SECONDS)
            else:
                answer = await peer.link.abort(messages.abort(gid), timeout=FINISH_SECONDS)
        except LinkLost as error:
            _log.info("branch %s at %s: %s", gid, peer.name, error)
            return None
        reach(CrashPoint.RECOVERY_AFTER_EVIDENCE)
        ending = messages.ending_in(answer) if peer.speaks_for(answer.identity) else None
        if ending is not None and (ending is Ending.APPLIED) is not commit:
            _log.critical(
                "heuristic outcome: branch %s at %s is %s, its siblings prove %s",
                *(gid, peer.name, ending.value, "commit" if commit else "abort"),
            )
        return ending

    def _alarm(self, txid: Txid, evidence: Evidence, why: str) -> None:
        """Once for each reason."""
        if (txid, why) in self._told:
            return
        self._told.add((txid, why))
        left = ", ".join(f"branch {ref.number} at {ref.participant}" for ref in evidence.prepared())
        _log.critical(
            "transaction %s has no decision here, and %s; %s",
            txid,
            why,
            f"{left} stays prepared" if left else "it waits",
        )
