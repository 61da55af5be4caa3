"""Settling by evidence: transactions of which the journal does not know the decision, and may not presume one.

Lives here: asking every participant for its rows, carrying out what they prove, writing down what was seen. Must not
live here: what rows prove (`protocol.evidence`), which transactions come here (`supervisor`).

The journal gets no decision for them: only the owner of an epoch decides commit (R5), and the owner's decision, which
the rows prove, is in another copy of the journal. What it gets are the facts that were seen (a branch has ended, all of
them have), so that Get tells the outcome and the request of a committed one is not carried out again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass

from twophase.contract.names import Gid, InvalidName, Txid
from twophase.coordinator.engine import messages
from twophase.coordinator.engine.links import LinkLost, LinkRejected
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.running import FINISH_SECONDS, Surroundings
from twophase.coordinator.journal.events import Begun, BranchRef, Ended, Finished, TransactionRecord
from twophase.coordinator.protocol.decisions import Ending
from twophase.coordinator.protocol.evidence import Conclusion, Sign, conclude
from twophase.v1 import participant_pb2, types_pb2

_log = logging.getLogger(__name__)

ASK_SECONDS = 2.0  # how long one question of recovery may take


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the participants know of one transaction: the answers, and who gave none."""

    answers: Mapping[Peer, participant_pb2.InspectResponse]
    silent: tuple[Peer, ...]

    def signs(self) -> dict[str, frozenset[Sign]]:
        """What the rows say, by participant, where there are any."""
        found = {peer.name: frozenset(map(_sign_of, _rows(answer))) for peer, answer in self.answers.items()}
        return {name: signs for name, signs in found.items() if signs}

    def at(self, sign: Sign) -> tuple[str, ...]:
        """The participants with such a row."""
        return tuple(name for name, signs in self.signs().items() if sign in signs)

    def endings(self) -> dict[BranchRef, Ending]:
        """How branches have ended, by their rows."""
        return {
            BranchRef(Gid.parse(row.gid).branch, peer.name): _ENDINGS[row.outcome]
            if row.decision != types_pb2.DECISION_COMMIT
            else Ending.LOST
            for peer, answer in self.answers.items()
            for row in _rows(answer)
        }

    def prepared(self) -> dict[BranchRef, Peer]:
        """The branches that are prepared."""
        return {
            BranchRef(Gid.parse(gid).branch, peer.name): peer
            for peer, answer in self.answers.items()
            for gid in answer.prepared_gids
        }


class Settling:
    """Asks, concludes, acts. Everything here may be done twice, or by two at once (R8)."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._at_work: set[Txid] = set()
        self._told: set[tuple[Txid, str]] = set()

    async def ask(self, txid: Txid) -> Evidence:
        """The rows and prepared branches of a transaction, from every participant that answers now."""
        request = participant_pb2.InspectRequest(journal_id=self._around.journal.journal_id, txid=str(txid))
        peers = tuple(self._around.peers)
        found = await asyncio.gather(*(self._inspect(peer, request) for peer in peers))
        answers = {peer: answer for peer, answer in zip(peers, found, strict=True) if answer is not None}
        return Evidence(answers, tuple(peer for peer in peers if peer not in answers))

    async def settle(self, txid: Txid, record: TransactionRecord | None) -> bool:
        """Ends the transaction's branches as the rows of all participants prove it; True if nothing is left to do.

        Nothing is done, and an alarm raised once, while a participant is silent (it may hold the row that contradicts
        the others), if the rows prove nothing, and if they contradict each other.
        """
        if txid in self._at_work:
            return False
        self._at_work.add(txid)
        try:
            return await self._carry_out(txid, record, await self.ask(txid))
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
        try:
            if commit:
                answer = await peer.link.commit(messages.commit(gid), timeout=FINISH_SECONDS)
            else:
                answer = await peer.link.abort(messages.abort(gid), timeout=FINISH_SECONDS)
        except LinkLost as error:
            _log.info("branch %s at %s: %s", gid, peer.name, error)
            return None
        ending = messages.ending_in(answer) if peer.speaks_for(answer.identity) else None
        if ending is not None and (ending is Ending.APPLIED) is not commit:
            _log.critical(
                "heuristic outcome: branch %s at %s is %s, its siblings prove %s",
                *(gid, peer.name, ending.value, "commit" if commit else "abort"),
            )
        return ending

    async def _inspect(
        self, peer: Peer, request: participant_pb2.InspectRequest
    ) -> participant_pb2.InspectResponse | None:
        if peer.away:
            return None
        try:
            await self._around.peers.ready(peer, within=ASK_SECONDS)
            answer = await peer.link.inspect(request, timeout=ASK_SECONDS)
        except LinkRejected as error:
            _log.warning("participant %s will not tell its rows of %s: %s", peer.name, request.txid, error)
            return None
        except LinkLost as error:
            _log.info("participant %s was not asked about %s: %s", peer.name, request.txid, error)
            self._around.peers.lost(peer)
            peer.doubted.set()
            return None
        return answer if peer.speaks_for(answer.identity) and _are_names(answer) else None

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


_ENDINGS = {
    participant_pb2.LEDGER_OUTCOME_APPLIED: Ending.APPLIED,
    participant_pb2.LEDGER_OUTCOME_REFUSED: Ending.REFUSED,
    participant_pb2.LEDGER_OUTCOME_TOMBSTONE: Ending.ABORTED,
}


def _rows(answer: participant_pb2.InspectResponse) -> list[participant_pb2.LedgerEntry]:
    """The rows of work; a compensation says nothing about the decision of two-phase commit."""
    return [row for row in answer.entries if row.kind == types_pb2.BRANCH_KIND_WORK and row.outcome in _ENDINGS]


def _sign_of(row: participant_pb2.LedgerEntry) -> Sign:
    if row.outcome == participant_pb2.LEDGER_OUTCOME_APPLIED:
        return Sign.COMMITTED
    if row.outcome == participant_pb2.LEDGER_OUTCOME_TOMBSTONE:
        match row.decision:
            case types_pb2.DECISION_COMMIT:
                return Sign.COMMITTED
            case types_pb2.DECISION_ABORT:
                return Sign.ABORTED
            case _:
                return Sign.DELEGATED
    return Sign.DELEGATED


def _are_names(answer: participant_pb2.InspectResponse) -> bool:
    """Whether every name in the answer has its form; an answer with others is none."""
    try:
        for gid in (*answer.prepared_gids, *(row.gid for row in answer.entries)):
            Gid.parse(gid)
    except InvalidName as error:
        _log.warning("a participant answered with a name that is none: %s", error)
        return False
    return True
