"""What the participants know of transactions: their ledger rows and prepared branches, asked for many at a time.

Lives here: the questions, and reading the answers as signs and endings. Must not live here: what follows from them.

Whoever asks while a participant is answering shares the next question: a thousand transactions in doubt cost a
participant a handful of calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from twophase.contract.names import Gid, InvalidName, Txid
from twophase.coordinator.engine.links import LinkLost, LinkRejected
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.underway import Surroundings
from twophase.coordinator.journal.events import BranchRef
from twophase.coordinator.protocol.decisions import Ending
from twophase.coordinator.protocol.evidence import Sign
from twophase.v1 import participant_pb2, types_pb2

_log = logging.getLogger(__name__)

ASK_SECONDS = 2.0  # how long one question of recovery may take
_MOST = 200  # transactions in one question


@dataclass(frozen=True, slots=True)
class Known:
    """What one participant knows of one transaction."""

    rows: tuple[participant_pb2.LedgerEntry, ...] = ()
    prepared: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the participants know of one transaction: the answers, and who gave none."""

    answers: Mapping[Peer, Known]
    silent: tuple[Peer, ...]

    def signs(self) -> dict[str, frozenset[Sign]]:
        """What the rows say, by participant, where there are any."""
        found = {peer.name: frozenset(map(_sign_of, known.rows)) for peer, known in self.answers.items()}
        return {name: signs for name, signs in found.items() if signs}

    def at(self, sign: Sign) -> tuple[str, ...]:
        """The participants with such a row."""
        return tuple(name for name, signs in self.signs().items() if sign in signs)

    def endings(self) -> dict[BranchRef, Ending]:
        """How branches have ended, by their rows."""
        return {
            BranchRef(Gid.parse(row.gid).branch, peer.name): _ending_of(row)
            for peer, known in self.answers.items()
            for row in known.rows
        }

    def prepared(self) -> dict[BranchRef, Peer]:
        """The branches that are prepared."""
        return {BranchRef(branch, peer.name): peer for peer, known in self.answers.items() for branch in known.prepared}


class Asking:
    """Asks the participants, one question at a time to each."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._waiting: defaultdict[Peer, dict[Txid, asyncio.Future[Known | None]]] = defaultdict(dict)
        self._busy: set[Peer] = set()

    async def ask(self, txid: Txid) -> Evidence:
        """The rows and prepared branches of a transaction, from every participant that answers now."""
        peers = tuple(self._around.peers)
        found = await asyncio.gather(*(self._wait_for(peer, txid) for peer in peers))
        answers = {peer: known for peer, known in zip(peers, found, strict=True) if known is not None}
        return Evidence(answers, tuple(peer for peer in peers if peer not in answers))

    async def _wait_for(self, peer: Peer, txid: Txid) -> Known | None:
        waiting = self._waiting[peer]
        if txid not in waiting:
            waiting[txid] = asyncio.get_running_loop().create_future()
        answer = waiting[txid]
        if peer not in self._busy:
            self._busy.add(peer)
            self._around.tasks.spawn(self._ask_all(peer), name=f"inspect at {peer.name}")
        return await asyncio.shield(answer)

    async def _ask_all(self, peer: Peer) -> None:
        waiting = self._waiting[peer]
        try:
            while waiting:
                asked = {txid: waiting.pop(txid) for txid in tuple(waiting)[:_MOST]}
                known = await self._inspect(peer, tuple(asked))
                for txid, answer in asked.items():
                    answer.set_result(None if known is None else known[txid])
        finally:
            self._busy.discard(peer)

    async def _inspect(self, peer: Peer, txids: tuple[Txid, ...]) -> dict[Txid, Known] | None:
        if peer.away:
            return None
        try:
            await self._around.peers.ready(peer, within=ASK_SECONDS)
            return _sorted(txids, await self._call(peer, txids))
        except LinkRejected as error:
            _log.warning("participant %s will not tell its rows: %s", peer.name, error)
        except LinkLost as error:
            _log.info("participant %s was not asked for its rows: %s", peer.name, error)
            self._around.peers.lost(peer)
            peer.doubted.set()
        return None

    async def _call(self, peer: Peer, txids: tuple[Txid, ...]) -> list[participant_pb2.InspectResponse]:
        journal_id, names = self._around.journal.journal_id, [str(txid) for txid in txids]
        request = participant_pb2.InspectRequest(journal_id=journal_id, txids=names)
        try:
            answers = [await peer.link.inspect(request, timeout=ASK_SECONDS)]
        except LinkRejected:  # one that was built before it could be asked for many at once
            requests = [participant_pb2.InspectRequest(journal_id=journal_id, txid=name) for name in names]
            answers = [await peer.link.inspect(each, timeout=ASK_SECONDS) for each in requests]
        if not all(peer.speaks_for(answer.identity) for answer in answers):
            raise LinkLost(f"the answer of participant {peer.name!r} comes from another database or timeline")
        return answers


def _sorted(txids: Iterable[Txid], answers: Iterable[participant_pb2.InspectResponse]) -> dict[Txid, Known]:
    """The answers by transaction. Raises `LinkRejected` for a name that has not its form: then nothing is believed."""
    rows: dict[Txid, list[participant_pb2.LedgerEntry]] = {txid: [] for txid in txids}
    prepared: dict[Txid, list[int]] = {txid: [] for txid in rows}
    try:
        for answer in answers:
            for row in answer.entries:
                # The rows of work: a compensation says nothing about the decision of two-phase commit.
                if row.kind == types_pb2.BRANCH_KIND_WORK and row.outcome in _ENDINGS:
                    rows[Gid.parse(row.gid).txid].append(row)
            for name in answer.prepared_gids:
                gid = Gid.parse(name)
                prepared[gid.txid].append(gid.branch)
    except (InvalidName, KeyError) as error:
        raise LinkRejected(f"the answer names what was not asked for: {error}") from error
    return {txid: Known(tuple(rows[txid]), tuple(prepared[txid])) for txid in rows}


_ENDINGS = {
    participant_pb2.LEDGER_OUTCOME_APPLIED: Ending.APPLIED,
    participant_pb2.LEDGER_OUTCOME_REFUSED: Ending.REFUSED,
    participant_pb2.LEDGER_OUTCOME_TOMBSTONE: Ending.ABORTED,
}


def _ending_of(row: participant_pb2.LedgerEntry) -> Ending:
    barred = row.outcome == participant_pb2.LEDGER_OUTCOME_TOMBSTONE
    return Ending.LOST if barred and row.decision == types_pb2.DECISION_COMMIT else _ENDINGS[row.outcome]


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
