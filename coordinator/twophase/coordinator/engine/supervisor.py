"""The supervisor: it finishes what was left behind, at start, after every reconnect, and now and then for ever.

Lives here: reading in the right order, presuming abort, taking transactions up again. Must not live here: the verdict
on a branch (`protocol.resolution`), settling by evidence (`settling`), and what a transaction does (`running`).

It never stops looking: a slow backend can finish its PREPARE after any scan.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Iterable

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Epoch, Gid, InvalidName, Txid
from twophase.coordinator.engine import messages, reasons
from twophase.coordinator.engine.asking import ASK_SECONDS, Asking
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peer
from twophase.coordinator.engine.quarantine import Quarantine
from twophase.coordinator.engine.recorded import shown_heuristics
from twophase.coordinator.engine.running import Running
from twophase.coordinator.engine.saga import SagaUnderway
from twophase.coordinator.engine.settling import Settling
from twophase.coordinator.engine.underway import FINISH_SECONDS, FIRST_PAUSE, LONGEST_PAUSE, Part, Surroundings
from twophase.coordinator.journal.events import BranchRef, Finished, TransactionRecord
from twophase.coordinator.journal.port import BelowHorizon, EpochRecord, Proposal
from twophase.coordinator.protocol.decisions import ABORT, SAGA, contradicts
from twophase.coordinator.protocol.evidence import Sign
from twophase.coordinator.protocol.resolution import Owner, Seen, Verdict, resolve
from twophase.v1 import participant_pb2, types_pb2

_log = logging.getLogger(__name__)

# Seconds until the second sweep after a connection; the pause doubles up to the usual one. What was being prepared when
# the coordinator of before died is prepared by then, and was not when the first sweep looked.
_SWEEP_FIRST = 0.2
_BEAT = 1.0  # seconds between two looks at a journal that nobody uses
_AT_ONCE = 200  # transactions presumed aborted, or settled by evidence, at the same time
_PAGE = 500
_TAKEN_UP_AT_ONCE = 20  # decided transactions, between two turns of the event loop


class Supervisor:
    """Recovery. One task a participant: greet, sweep, wait; while it is away, try again with a capped pause."""

    def __init__(self, around: Surroundings, live: Live, *, sweep_every: float) -> None:
        self._around = around
        self._live = live
        self._sweep_every = sweep_every
        self._watched: set[str] = set()
        self._asking = Asking(around)
        self._settling = Settling(around, self._asking)
        self._presuming: set[Txid] = set()
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def start(self) -> None:
        """Takes up everything the journal says is unfinished, and begins to watch every participant.

        When it returns, every decided transaction is live; the rest goes on in the background.
        """
        for record in await self._around.journal.heuristics():
            _log.critical("heuristic outcome: transaction %s, %s", record.txid, shown_heuristics(record))
        for number, record in enumerate(await self._around.journal.unfinished()):
            self._take_up(record)
            if number % _TAKEN_UP_AT_ONCE == 0:
                await asyncio.sleep(0)  # a loop that stands still looks frozen to whoever stands by
        for peer in self._around.peers:
            self.watch(peer)
        self._around.tasks.spawn(self._end_begun(), name="end what was begun")
        self._around.tasks.spawn(self._beat(), name="look at the journal")

    def watch(self, peer: Peer) -> None:
        """Sweeps this participant from now on."""
        if peer.name not in self._watched:
            self._watched.add(peer.name)
            self._around.tasks.spawn(self._watch(peer), name=f"watch {peer.name}")

    async def _watch(self, peer: Peer) -> None:
        first = min(_SWEEP_FIRST, self._sweep_every)
        away, quiet = FIRST_PAUSE, first
        while True:
            peer.doubted.clear()
            try:
                await self.sweep(peer)
            except LinkLost as error:
                self._around.peers.lost(peer)
                _log.info("participant %s is away: %s", peer.name, error)
                await asyncio.sleep(_jittered(away))
                away, quiet = min(2 * away, LONGEST_PAUSE), first
            else:
                await self._until_doubted(peer, _jittered(quiet))
                away, quiet = FIRST_PAUSE, min(2 * quiet, self._sweep_every)

    async def _until_doubted(self, peer: Peer, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await peer.doubted.wait()
                await asyncio.sleep(FIRST_PAUSE)  # everyone who got no answer at the same time doubts it once

    async def _beat(self) -> None:
        """Asks the journal something now and then: one that failed while nobody used it must end the process (R10)."""
        while True:
            await asyncio.sleep(min(_BEAT, self._sweep_every))
            await self._around.journal.restoration()

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
        live = self._live.names() - {gid.txid for gid in before if self._is_done_with(gid.txid, gid.branch)}
        journal, quarantine = self._around.journal, self._around.peers.quarantine
        records = {gid.txid: await journal.transaction(gid.txid) for gid in before}
        for gid in before:
            if quarantine.is_strange(gid.txid.epoch):
                await quarantine.prove(
                    f"{gid} is prepared at participant {peer.name!r}, and this journal never gave out that epoch"
                )
        owners = _Owners(await journal.epochs(), quarantine, ours=journal.epoch)
        after = await self._prepared(peer)
        findings = resolve(
            (Seen(gid.txid, gid.branch) for gid in before),
            live,
            lambda txid: record.decision if (record := records[txid]) is not None else None,
            owners.of,
            {Seen(gid.txid, gid.branch) for gid in after},
        )
        work: list[Awaitable[object]] = []
        for finding in findings:
            txid, ref = finding.seen.transaction, BranchRef(finding.seen.branch, peer.name)
            match finding.verdict:
                case Verdict.LEAVE:
                    pass
                case Verdict.FINISH_COMMIT | Verdict.FINISH_ABORT:
                    commit = finding.verdict is Verdict.FINISH_COMMIT
                    work.append(self._finish(peer, records[txid], ref, commit=commit))
                case Verdict.PRESUME_ABORT:
                    work.append(self._presume_abort(txid, records[txid], (ref,)))
                case Verdict.ASK:
                    work.append(self._settle(txid, records[txid]))
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome

    def _is_done_with(self, txid: Txid, branch: int) -> bool:
        """Whether the transaction is under way here, and will do nothing more about this branch."""
        running = self._live.get(txid)
        return isinstance(running, Running) and running.is_done_with(branch)

    async def _prepared(self, peer: Peer) -> list[Gid]:
        journal_id = self._around.journal.journal_id
        request = participant_pb2.ListPreparedRequest(journal_id=journal_id)
        answer = await peer.link.list_prepared(request, timeout=FINISH_SECONDS)
        _believe(peer, answer.identity)
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
        if record.decision == SAGA:
            self._take_up_saga(record)
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

    def _take_up_saga(self, record: TransactionRecord) -> None:
        running = SagaUnderway.of(self._around, record)
        if running is None:
            return
        reach(CrashPoint.RECOVERY_BEFORE_TAKE_UP)
        self._live.add(running)
        running.resume(record)
        reach(CrashPoint.RECOVERY_AFTER_TAKE_UP)

    async def _finish(self, peer: Peer, record: TransactionRecord | None, ref: BranchRef, *, commit: bool) -> None:
        if record is None:
            return
        live = record.txid in self._live
        if live and not self._is_done_with(record.txid, ref.number):
            return
        if not live and not record.ended:
            self._take_up(record, (ref,))
            return
        # It is over for its transaction, or was never known to it, and is prepared all the same. It gets the decision:
        # if the transaction still waits for others, that may take long, and nobody else would tell this one.
        gid = Gid(self._around.journal.journal_id, record.txid, ref.number)
        _log.warning(
            "branch %s at %s is prepared, and its transaction is done with it; decided was %s",
            *(gid, peer.name, record.decision),
        )
        answer: participant_pb2.CommitResponse | participant_pb2.AbortResponse
        async with peer.slots:
            if commit:
                answer = await peer.link.commit(messages.commit(gid), timeout=FINISH_SECONDS)
            else:
                answer = await peer.link.abort(messages.abort(gid), timeout=FINISH_SECONDS)
        _believe(peer, answer.identity)
        ending = messages.ending_in(answer)
        if ending is not None and record.decision is not None and contradicts(record.decision, ending):
            self._around.journal.append(Finished(record.txid, ref.number, ending))
            _log.critical(
                "heuristic outcome: branch %s at %s is %s, decided was %s",
                *(gid, peer.name, ending.value, record.decision),
            )
            await self._around.journal.flush()

    # --- what is not --------------------------------------------------------------------------------------------------

    async def _end_begun(self) -> None:
        """Ends what earlier epochs began and did not decide, so that it does not stay open in the books."""
        await asyncio.gather(*(self._greet(peer) for peer in self._around.peers))
        while True:
            if await self._begun_is_ended():
                return
            await asyncio.sleep(self._sweep_every)

    async def _begun_is_ended(self) -> bool:
        """Goes through all of it once; whether nothing of it is left."""
        journal, done = self._around.journal, True
        owners = _Owners(await journal.epochs(), self._around.peers.quarantine, ours=journal.epoch)
        before: Txid | None = None
        while page := await journal.transactions(limit=_PAGE, before=before, unfinished_only=True):
            before = page[-1].txid
            work = []
            for one in page:
                if one.decision is not None or one.txid.epoch == journal.epoch:
                    continue
                match owners.of(one.txid):
                    case Owner.FENCED | Owner.OURS:
                        work.append(self._presume_abort(one.txid, one, one.branches))
                    case Owner.RESTORED | Owner.FORGOTTEN | Owner.STRANGE:
                        work.append(self._settle(one.txid, one))
                    case Owner.OTHERS:
                        pass
            done = all(await asyncio.gather(*work)) and done
        return done

    async def _greet(self, peer: Peer) -> None:
        try:
            await self._around.peers.ready(peer, within=ASK_SECONDS)
        except LinkLost as error:
            _log.info("participant %s is away: %s", peer.name, error)

    async def _settle(self, txid: Txid, record: TransactionRecord | None) -> bool:
        async with self._at_once:
            return await self._settling.settle(txid, record)

    async def _presume_abort(
        self, txid: Txid, record: TransactionRecord | None, branches: tuple[BranchRef, ...]
    ) -> bool:
        """Proposes abort for a transaction that nobody will decide, and obeys the answer; whether that was done.

        If a reachable participant has committed a branch of it, the journal lost its decision: it is an older copy.
        """
        if txid in self._presuming:
            return False
        self._presuming.add(txid)
        try:
            async with self._at_once:
                return await self._presume(txid, record, branches)
        finally:
            self._presuming.discard(txid)

    async def _presume(self, txid: Txid, record: TransactionRecord | None, branches: tuple[BranchRef, ...]) -> bool:
        evidence = await self._asking.ask(txid)
        committed = evidence.at(Sign.COMMITTED)
        quarantine = self._around.peers.quarantine
        if committed:
            await quarantine.prove(
                f"transaction {txid} is committed at {', '.join(committed)}, and this journal has no decision on it"
            )
        if txid in self._live:
            return True
        if quarantine.doubts(txid):
            return False  # the next sweep settles it by evidence
        known = record.branches if record is not None else ()
        request = record.request if record is not None else None
        everywhere = tuple(dict.fromkeys((*known, *branches)))
        journal = self._around.journal
        why = (reasons.presumed(),)
        reach(CrashPoint.RECOVERY_BEFORE_PRESUME)
        try:
            await journal.decide(Proposal(txid, ABORT, journal.epoch, request, everywhere, why))
        except BelowHorizon:
            return False  # the horizon rose meanwhile; the next sweep settles it by evidence
        reach(CrashPoint.RECOVERY_AFTER_PRESUME)
        decided = await journal.transaction(txid)
        if decided is not None:
            self._take_up(decided, branches)
        return True


def _believe(peer: Peer, identity: types_pb2.DatabaseIdentity) -> None:
    """Raises `LinkLost` for what comes from elsewhere: hands are shaken anew before it counts, however quiet it is."""
    if not peer.speaks_for(identity):
        raise LinkLost(f"the answer of participant {peer.name!r} comes from another database or timeline")


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311


class _Owners:
    """Who may decide the transactions of which epoch."""

    def __init__(self, epochs: Iterable[EpochRecord], quarantine: Quarantine, *, ours: Epoch) -> None:
        self._epochs = {record.epoch: record for record in epochs}
        self._quarantine = quarantine
        self._ours = ours

    def of(self, txid: Txid) -> Owner:
        """The owner of a transaction without a decision."""
        if self._quarantine.doubts(txid):
            return Owner.RESTORED
        record = self._epochs.get(txid.epoch)
        if record is None:
            return Owner.STRANGE
        if txid.sequence < record.horizon:
            return Owner.FORGOTTEN
        if txid.epoch == self._ours:
            return Owner.OURS
        return Owner.FENCED if record.fenced else Owner.OTHERS
