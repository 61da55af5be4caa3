"""The supervisor: it finishes what was left behind, at start, after every reconnect, and now and then for ever.

Lives here: reading in the right order, gathering evidence, taking transactions up again. Must not live here: the
verdict on a branch (`protocol.resolution`), and what a transaction does (`running`).

It never stops looking: a slow backend can finish its PREPARE after any scan.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Gid, InvalidName, Txid
from twophase.coordinator.engine import messages, reasons
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.running import FINISH_SECONDS, FIRST_PAUSE, LONGEST_PAUSE, Part, Running, Surroundings
from twophase.coordinator.journal.events import BranchRef, TransactionRecord
from twophase.coordinator.journal.port import EpochRecord, Proposal
from twophase.coordinator.protocol.decisions import ABORT
from twophase.coordinator.protocol.resolution import Owner, Seen, Verdict, resolve
from twophase.v1 import participant_pb2

_log = logging.getLogger(__name__)
_ASK_SECONDS = 2.0  # how long one question of recovery may take
# Seconds until the second sweep after a connection; the pause doubles up to the usual one. What was being prepared when
# the coordinator of before died is prepared by then, and was not when the first sweep looked.
_SWEEP_FIRST = 0.2
_AT_ONCE = 32  # transactions presumed aborted at the same time
_PAGE = 500


class Supervisor:
    """Recovery. One task a participant: greet, sweep, wait; while it is away, try again with a capped pause."""

    def __init__(self, around: Surroundings, live: Live, *, sweep_every: float) -> None:
        self._around = around
        self._live = live
        self._sweep_every = sweep_every
        self._watched: set[str] = set()
        self._reported: set[Gid] = set()
        self._presuming = asyncio.Semaphore(_AT_ONCE)

    async def start(self) -> None:
        """Takes up everything the journal says is unfinished, and begins to watch every participant.

        When it returns, every decided transaction is live; the rest goes on in the background.
        """
        for record in await self._around.journal.unfinished():
            self._take_up(record)
        for peer in self._around.peers:
            self.watch(peer)
        self._around.tasks.spawn(self._presume_begun(), name="presume what was begun")

    def watch(self, peer: Peer) -> None:
        """Sweeps this participant from now on."""
        if peer.name not in self._watched:
            self._watched.add(peer.name)
            self._around.tasks.spawn(self._watch(peer), name=f"watch {peer.name}")

    async def _watch(self, peer: Peer) -> None:
        away, quiet = FIRST_PAUSE, _SWEEP_FIRST
        while True:
            try:
                await self.sweep(peer)
            except LinkLost as error:
                self._around.peers.changed(peer)  # it shakes hands again before anything else is asked of it
                _log.info("participant %s is away: %s", peer.name, error)
                wait, away, quiet = away, min(2 * away, LONGEST_PAUSE), _SWEEP_FIRST
            else:
                wait, away, quiet = quiet, FIRST_PAUSE, min(2 * quiet, self._sweep_every)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))  # noqa: S311

    async def sweep(self, peer: Peer) -> None:
        """Looks for prepared branches of ours at one participant and finishes those nobody is at work on.

        The order of the readings is the design's; `protocol.resolution` says why. Raises `LinkLost`.
        """
        await self._around.peers.ready(peer, within=FINISH_SECONDS)
        reach(CrashPoint.RECOVERY_BEFORE_SWEEP)
        before = await self._prepared(peer)
        reach(CrashPoint.RECOVERY_AFTER_SWEEP)
        if not before:
            return
        live = self._live.names()
        records = {gid.txid: await self._around.journal.transaction(gid.txid) for gid in before}
        owners = _Owners(await self._around.journal.epochs(), self._around.journal.epoch.number)
        after = await self._prepared(peer)
        findings = resolve(
            (Seen(gid.txid, gid.branch) for gid in before),
            live,
            lambda txid: record.decision if (record := records[txid]) is not None else None,
            owners.of,
            {Seen(gid.txid, gid.branch) for gid in after},
        )
        for finding in findings:
            txid, ref = finding.seen.transaction, BranchRef(finding.seen.branch, peer.name)
            match finding.verdict:
                case Verdict.LEAVE:
                    pass
                case Verdict.FINISH_COMMIT | Verdict.FINISH_ABORT:
                    await self._finish(peer, records[txid], ref, commit=finding.verdict is Verdict.FINISH_COMMIT)
                case Verdict.PRESUME_ABORT:
                    await self._presume_abort(txid, records[txid], (ref,))
                case Verdict.ASK:
                    self._report(Gid(self._around.journal.journal_id, txid, ref.number), peer)

    async def _prepared(self, peer: Peer) -> list[Gid]:
        journal_id = self._around.journal.journal_id
        request = participant_pb2.ListPreparedRequest(journal_id=journal_id)
        answer = await peer.link.list_prepared(request, timeout=FINISH_SECONDS)
        found = []
        for branch in answer.branches:
            try:
                gid = Gid.parse(branch.gid)
            except InvalidName:
                _log.warning("participant %s listed %r, which is no GID of ours: left alone", peer.name, branch.gid)
                continue
            if gid.journal == journal_id:
                found.append(gid)
        return found

    # --- what is decided ----------------------------------------------------------------------------------------------

    def _take_up(self, record: TransactionRecord, extra: Iterable[BranchRef] = ()) -> None:
        """Makes a decided transaction live again, so that its branches are finished."""
        if record.decision is None or record.ended or record.txid in self._live:
            return
        parts = []
        hearers = [ref for ref in record.branches if record.hearers is not None and ref.number in record.hearers]
        for ref in dict.fromkeys((*hearers, *extra)):
            peer = self._around.peers.get(ref.participant)
            if peer is None:
                _log.critical("transaction %s has a branch at %s, which is not known", record.txid, ref.participant)
                return
            parts.append(Part(ref.number, peer))
        running = Running(self._around, record.txid, record.request, tuple(parts))
        running.reasons.extend(record.reasons)
        reach(CrashPoint.RECOVERY_BEFORE_TAKE_UP)
        self._live.add(running)
        running.resume(record.decision, {n: ending for n, ending in record.endings.items() if n in running.parts})
        reach(CrashPoint.RECOVERY_AFTER_TAKE_UP)

    async def _finish(self, peer: Peer, record: TransactionRecord | None, ref: BranchRef, *, commit: bool) -> None:
        if record is None or record.txid in self._live:
            return
        if not record.ended:
            self._take_up(record, (ref,))
            return
        # The transaction has ended and this branch is prepared all the same, after the end. It gets the decision.
        gid = Gid(self._around.journal.journal_id, record.txid, ref.number)
        _log.warning("branch %s at %s outlived its transaction, decided was %s", gid, peer.name, record.decision)
        if commit:
            await peer.link.commit(messages.commit(gid), timeout=FINISH_SECONDS)
        else:
            await peer.link.abort(messages.abort(gid), timeout=FINISH_SECONDS)

    # --- what is not --------------------------------------------------------------------------------------------------

    async def _presume_begun(self) -> None:
        """Aborts what earlier epochs began and did not decide, so that it does not stay open in the books."""
        await asyncio.gather(*(self._greet(peer) for peer in self._around.peers))
        before: Txid | None = None
        while True:
            page = await self._around.journal.transactions(limit=_PAGE, before=before, unfinished_only=True)
            if not page:
                return
            before = page[-1].txid
            left = [one for one in page if one.decision is None and one.txid.epoch != self._around.journal.epoch]
            await asyncio.gather(*(self._presume_abort(one.txid, one, one.branches) for one in left))

    async def _greet(self, peer: Peer) -> None:
        try:
            await self._around.peers.ready(peer, within=_ASK_SECONDS)
        except LinkLost as error:
            _log.info("participant %s is away: %s", peer.name, error)

    async def _presume_abort(
        self, txid: Txid, record: TransactionRecord | None, branches: tuple[BranchRef, ...]
    ) -> None:
        """Proposes abort for a transaction that nobody will decide, and obeys the answer.

        If a reachable participant has applied a branch of it, the journal lost its decision: nothing is concluded.
        """
        async with self._presuming:
            if txid in self._live or self._around.peers.behind is not None:
                return
            applied_at = await self._applied_at(txid)
            if applied_at:
                _log.critical(
                    "transaction %s is applied at %s and the journal has no decision: it was restored from an older"
                    " copy; nothing is presumed about it",
                    *(txid, ", ".join(applied_at)),
                )
                return
            known = record.branches if record is not None else ()
            request = record.request if record is not None else None
            everywhere = tuple(dict.fromkeys((*known, *branches)))
            journal = self._around.journal
            why = (reasons.presumed(),)
            reach(CrashPoint.RECOVERY_BEFORE_PRESUME)
            await journal.decide(Proposal(txid, ABORT, journal.epoch, request, everywhere, why))
            reach(CrashPoint.RECOVERY_AFTER_PRESUME)
            decided = await journal.transaction(txid)
            if decided is not None:
                self._take_up(decided, branches)

    async def _applied_at(self, txid: Txid) -> list[str]:
        """The reachable participants that have applied a branch of the transaction."""
        request = participant_pb2.InspectRequest(journal_id=self._around.journal.journal_id, txid=str(txid))

        async def applied(peer: Peer) -> bool:
            try:
                await self._around.peers.ready(peer, within=_ASK_SECONDS)
                answer = await peer.link.inspect(request, timeout=_ASK_SECONDS)
            except LinkLost:
                return False
            return any(row.outcome == participant_pb2.LEDGER_OUTCOME_APPLIED for row in answer.entries)

        peers = tuple(self._around.peers)
        answers = await asyncio.gather(*(applied(peer) for peer in peers))
        return [peer.name for peer, found in zip(peers, answers, strict=True) if found]

    def _report(self, gid: Gid, peer: Peer) -> None:
        if gid not in self._reported:
            self._reported.add(gid)
            _log.critical("branch %s is prepared at %s, and nothing here tells how it must end", gid, peer.name)


class _Owners:
    """Who may decide the transactions of which epoch."""

    def __init__(self, epochs: Iterable[EpochRecord], ours: int) -> None:
        self._epochs = {record.epoch: record for record in epochs}
        self._ours = ours

    def of(self, txid: Txid) -> Owner:
        """The owner of a transaction without a decision."""
        record = self._epochs.get(txid.epoch)
        if record is None:
            return Owner.STRANGE
        if txid.sequence < record.horizon:
            return Owner.FORGOTTEN
        if txid.epoch.number == self._ours:
            return Owner.OURS
        return Owner.FENCED if record.fenced else Owner.OTHERS
