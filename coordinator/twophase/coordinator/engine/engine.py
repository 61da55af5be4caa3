"""The engine's face: transactions go in, answers come out.

Lives here: admission (R6: request ids, attempts, epochs; known participants and operations), who waits for what, start
and stop. Must not live here: what a transaction does (`running`), recovery (`supervisor`), gRPC.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import MAX_SEQUENCE, Txid
from twophase.coordinator.engine import reasons, rejections
from twophase.coordinator.engine.api import (
    DEFAULT_LIMITS,
    Answer,
    Call,
    Limits,
    Outcome,
    Rejected,
    Result,
    Submission,
    View,
    Wait,
    Which,
)
from twophase.coordinator.engine.diagnosis import Diagnosis, diagnose
from twophase.coordinator.engine.fingerprints import request_fingerprint
from twophase.coordinator.engine.indoubt import Survey, survey
from twophase.coordinator.engine.links import LinkLost, Links
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peer, Peers
from twophase.coordinator.engine.pruning import Pruner
from twophase.coordinator.engine.recorded import (
    answer_of,
    answer_of_earlier,
    holds_its_id,
    results_of,
    view_at,
    view_of,
)
from twophase.coordinator.engine.running import Part, Running, Surroundings
from twophase.coordinator.engine.supervisor import Supervisor
from twophase.coordinator.engine.tasks import Tasks
from twophase.coordinator.journal.events import Reason, RequestRef, TransactionRecord
from twophase.coordinator.journal.port import Journal
from twophase.coordinator.protocol.decisions import ABORT
from twophase.coordinator.protocol.twophase import Phase
from twophase.v1 import participant_pb2

_log = logging.getLogger(__name__)

Offers: TypeAlias = Mapping[str, participant_pb2.OperationDescription]

_ANSWER_GRACE = 1.0  # seconds after the deadline in which what is decided may still become applied before the answer
_STOP_SECONDS = 1.0  # how long the rollbacks of a stopping coordinator are waited for


class Engine:
    """Runs transactions over one open journal. Make it, and call everything, in one event loop.

    `failed` gets an exception when the engine cannot go on (a failed journal, a fenced epoch, a defect): then the
    process must end at once and start again, which recovers (R10). While `refusal` is set, every new transaction and
    participant gets it, and nothing is begun; what runs goes on, and what is recorded is told.
    """

    def __init__(
        self, journal: Journal, links: Links, *, limits: Limits = DEFAULT_LIMITS, sweep_every: float = 5.0
    ) -> None:
        self.journal = journal
        self.limits = limits
        self._tasks = Tasks()
        self._peers = Peers(journal, links, self._tasks)
        self._around = Surroundings(journal, self._peers, self._tasks)
        self._sequence = itertools.count(1)
        self._last_sequence = 0
        self._live = Live(self._tasks)
        self._admissions: dict[str, asyncio.Future[Running | None]] = {}
        self._supervisor = Supervisor(self._around, self._live, sweep_every=sweep_every)
        self._pruner = Pruner(
            self._around,
            self._live,
            limits,
            next_sequence=lambda: self._last_sequence + 1,
            paused=lambda: self._stopping or self.refusal is not None,
        )
        self.refusal: Rejected | None = None
        self._stopping = False
        self._patience: set[asyncio.Timeout] = set()
        self._peers.quarantine.on_proof(lambda: self._roll_back_voting(reasons.quarantined()))

    @property
    def quarantine(self) -> str:
        """What proves that the journal is older than its participants; empty unless something does. Then nothing new is
        begun, and no missing decision is taken for an abort."""
        return self._peers.quarantine.proof

    @property
    def failed(self) -> asyncio.Future[None]:
        """Done, with an exception, when the process must end."""
        return self._tasks.failed

    async def start(self) -> None:
        """Knows its participants again and takes up what was left; recovery goes on in the background."""
        await self._peers.load()
        await self._supervisor.start()
        self._tasks.spawn(self._pruner.run(), name="prune")

    async def stop(self, grace: float) -> None:
        """Takes nothing new, lets running transactions end for up to `grace` seconds, aborts those not decided by then.

        Whoever waits for one is answered with what is known of it. What is decided and not finished then is finished by
        the next start. The journal stays open.
        """
        self._stopping = True
        await self._all_ended(grace)
        self._roll_back_voting(reasons.stopping())
        await self._all_ended(_STOP_SECONDS)
        for patience in (each for each in self._patience if not each.expired()):
            patience.reschedule(0)
        self._tell_what_is_left()
        await self._tasks.cancel()

    async def abandon(self) -> None:
        """Ends everything where it stands, as a crash would. The journal stays open."""
        self._stopping = True
        await self._tasks.cancel()

    async def register(self, name: str, address: str) -> None:
        """Makes a participant known, durably. Raises `Rejected`."""
        self._refuse_if_stopping()
        # One that is known may have moved, and what is decided has to be finished there.
        if self.refusal is not None and self._peers.get(name) is None:
            raise self.refusal
        peer = await self._peers.register(name, address)
        self._supervisor.watch(peer)

    async def view(self, key: Txid | str, *, with_events: bool = False, at: int | None = None) -> View | None:
        """What is known of a transaction, by its name or by its request id; None if there is no record.

        `at`, in milliseconds since 1970: as it stood then, None if nothing of it had happened yet. By request id it is
        the attempt that answers for it today.
        """
        record = await (self.journal.transaction(key) if isinstance(key, Txid) else self.journal.request(key))
        if record is None or not (with_events or at is not None):
            return view_of(record) if record is not None else None
        history = await self.journal.history(record.txid)
        view = view_at(history, max((happening.at for happening in history), default=0) if at is None else at)
        return view if view is None or with_events else replace(view, history=())

    async def views(self, *, limit: int, before: Txid | None = None, which: Which = Which.ALL) -> tuple[View, ...]:
        """Transactions, the newest first, at most `limit`, only those older than `before`."""
        if which is Which.HEURISTIC:
            wrong = await self.journal.heuristics()
            records = tuple(record for record in reversed(wrong) if before is None or record.txid < before)[:limit]
        else:
            unfinished = which is Which.UNFINISHED
            records = await self.journal.transactions(limit=limit, before=before, unfinished_only=unfinished)
        return tuple(view_of(record) for record in records)

    async def in_doubt(self) -> Survey:
        """Everything that is prepared and not finished, as the participants and the journal tell it; takes seconds if a
        participant is away."""
        return await survey(self._around, self._live)

    async def diagnose(self) -> Diagnosis:
        """How the coordinator, its journal and every participant are; takes seconds if a participant is away."""
        return await diagnose(self._around, self._live, self.limits, self.refusal)

    async def execute(self, submission: Submission) -> Answer:
        """Runs a transaction, or joins or recalls the one that runs or ran for the same request (R6).

        Raises `Rejected`; nothing was started then. A cancelled call cancels nothing of a transaction that began.
        """
        fingerprint = request_fingerprint(submission.calls)
        arrived = asyncio.get_running_loop().time()
        while True:
            self._refuse_if_stopping()
            admission = self._admissions.get(submission.request_id)
            if admission is None:
                found: Running | Answer | None = await self._admit(submission, fingerprint)
            else:
                running = await asyncio.shield(admission)
                found = await self._join(running, submission, fingerprint) if running is not None else None
            match found:
                case Answer():
                    return found
                case Running():
                    answer = await self._answer(found, submission, arrived + submission.deadline)
                    if found.claimed_by is None:
                        return answer
                case None:
                    continue

    # --- admission (R6) -----------------------------------------------------------------------------------------------

    async def _admit(self, submission: Submission, fingerprint: bytes) -> Running | Answer:
        """The first copy of a request comes through here; others that come meanwhile wait for what it finds."""
        key = submission.request_id
        admission = self._admissions[key] = asyncio.get_running_loop().create_future()
        running: Running | None = None
        try:
            found = await self._recall(submission, fingerprint) or await self._start(submission, fingerprint)
            running = found if isinstance(found, Running) else None
            return found
        finally:
            admission.set_result(running)
            if running is None or running.decided.done():
                del self._admissions[key]
            else:
                running.decided.add_done_callback(lambda _: self._admissions.pop(key, None))

    async def _join(self, running: Running, submission: Submission, fingerprint: bytes) -> Running | Answer | None:
        """What a copy of a request that is running gets; None to look again."""
        request = running.request
        if request is None or request.fingerprint != fingerprint:
            raise rejections.request_id_reused(submission.request_id)
        if submission.attempt == request.attempt:
            return running
        if submission.attempt < request.attempt:
            return answer_of_earlier(submission.attempt, latest=request.attempt)
        try:
            async with self._patient(until=None):
                committed = await asyncio.shield(running.decided)
        except TimeoutError:
            raise rejections.stopping() from None
        return running if committed else None

    async def _recall(self, submission: Submission, fingerprint: bytes) -> Running | Answer | None:
        """What the journal says of the request; None if this attempt may run."""
        record = await self.journal.request(submission.request_id)
        if record is not None and record.request is not None:
            same = record.request.fingerprint == fingerprint
            if holds_its_id(record):
                if not same:
                    raise rejections.request_id_reused(submission.request_id)
                return self._live.get(record.txid) or await self._recorded(record, submission)
            if record.decision is None and record.committed is None and self._peers.quarantine.doubts(record.txid):
                return answer_of(record, attempt=submission.attempt)
            if record.decision == ABORT or record.committed is False:
                if submission.attempt < record.request.attempt:
                    return answer_of_earlier(submission.attempt, latest=record.request.attempt)
                if submission.attempt == record.request.attempt:
                    if not same:
                        raise rejections.request_id_reused(submission.request_id)
                    return answer_of(record, attempt=submission.attempt)
        if submission.seen_epoch is not None and submission.seen_epoch != self.journal.epoch:
            return Answer(Outcome.NOT_SEEN, None, submission.attempt)
        return None

    async def _recorded(self, record: TransactionRecord, submission: Submission) -> Answer:
        results: tuple[Result, ...] = ()
        if record.committed:
            journal_id = self.journal.journal_id
            results = await results_of(record, submission.calls, self._peers, journal_id=journal_id)
        return answer_of(record, attempt=submission.attempt, results=results)

    async def _start(self, submission: Submission, fingerprint: bytes) -> Running:
        """Checks what can be checked before anything is sent, and begins. Raises `Rejected`."""
        loop = asyncio.get_running_loop()
        arrived = loop.time()
        self._refuse_new()
        if len(self._live) >= self.limits.running:
            raise rejections.full(len(self._live), self.limits.running)
        groups: dict[str, list[tuple[int, Call]]] = {}
        for index, call in enumerate(submission.calls):
            groups.setdefault(call.participant, []).append((index, call))
        peers = [self._known(name, group[0][0]) for name, group in groups.items()]
        answers = await asyncio.gather(*(self._offered(peer, within=submission.deadline) for peer in peers))
        away: Reason | None = None
        parts = []
        for number, (peer, offered, group) in enumerate(zip(peers, answers, groups.values(), strict=True)):
            if isinstance(offered, LinkLost):
                away = away or reasons.unreachable(peer.name, str(offered))
                continue
            described = [await self._checked(peer, offered, index, call) for index, call in group]
            calls = tuple(call for _, call in group)
            parts.append(Part(number, peer, calls, read_only=all(one.read_only for one in described)))
        self._refuse_new()
        request = RequestRef(submission.request_id, submission.attempt, fingerprint)
        running = Running(self._around, self._next_txid(), request, tuple(parts))
        self._live.add(running)
        left = submission.deadline - (loop.time() - arrived)
        if away is not None:
            running.refuse(away)
        elif left <= 0:
            running.refuse(reasons.deadline(submission.deadline, tuple(groups)))
        else:
            running.begin(deadline=left)
        return running

    def _next_txid(self) -> Txid:
        sequence = self._last_sequence = next(self._sequence)
        if sequence >= MAX_SEQUENCE:
            raise RuntimeError(f"epoch {self.journal.epoch} has given out all its {MAX_SEQUENCE} transactions; restart")
        return Txid(self.journal.epoch, sequence)

    def _known(self, name: str, index: int) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            raise rejections.unknown_participant(index, name)
        return peer

    async def _offered(self, peer: Peer, *, within: float) -> Offers | LinkLost:
        try:
            return await self._peers.ready(peer, within=within)
        except LinkLost as error:
            return error

    async def _checked(
        self, peer: Peer, offered: Offers, index: int, call: Call
    ) -> participant_pb2.OperationDescription:
        described = offered.get(call.operation)
        if described is None:
            try:  # it may have been deployed anew since it shook hands
                await self._peers.greet(peer)
            except LinkLost:
                pass
            else:
                offered = peer.operations or {}
                described = offered.get(call.operation)
        if described is None:
            raise rejections.unknown_operation(index, call, sorted(offered))
        rejections.refuse_another_type(described, index, call)
        return described

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise rejections.stopping()

    def _refuse_new(self) -> None:
        self._refuse_if_stopping()
        if self._peers.quarantine.active:
            raise rejections.quarantined(self._peers.quarantine.proof)
        if self.refusal is not None:
            raise self.refusal

    def _roll_back_voting(self, reason: Reason) -> None:
        for running in self._live:
            if running.state.phase is Phase.VOTING:
                running.roll_back(reason)

    # --- answering ----------------------------------------------------------------------------------------------------

    async def _answer(self, running: Running, submission: Submission, answer_by: float) -> Answer:
        """Waits as the submission asks. The transaction goes on whether or not somebody waits (R13)."""
        request = running.request
        attempt = request.attempt if request is not None else submission.attempt
        try:
            async with self._patient(until=answer_by + _ANSWER_GRACE):
                committed = await asyncio.shield(running.decided)
                if not committed or submission.wait is Wait.APPLIED:
                    await running.settled.wait()
        except TimeoutError:
            if not running.decided.done():
                return Answer(Outcome.PENDING, running.txid, attempt, pending=running.pending)
        reach(CrashPoint.COORDINATOR_BEFORE_REPLY)
        committed = running.decided.result()
        if running.resumed and (record := await self.journal.transaction(running.txid)) is not None:
            return await self._recorded(record, submission)
        return Answer(
            outcome=Outcome.COMMITTED if committed else Outcome.ABORTED,
            txid=running.txid,
            attempt=attempt,
            applied=running.ended.is_set(),
            results=running.results(submission.calls) if committed else (),
            reasons=() if committed else tuple(running.reasons),
            pending=running.pending,
            heuristic=running.heuristic,
        )

    @asynccontextmanager
    async def _patient(self, *, until: float | None) -> AsyncIterator[None]:
        """Raises TimeoutError inside the block at `until`, in the loop's time, or when the coordinator stops."""
        async with asyncio.timeout_at(until) as patience:
            self._patience.add(patience)
            try:
                yield
            finally:
                self._patience.discard(patience)

    async def _all_ended(self, within: float) -> None:
        """Waits for the transactions under way, and for the requests of which it is not yet clear whether they are."""
        ends = [asyncio.ensure_future(running.ended.wait()) for running in self._live]
        waiting: set[asyncio.Future[Any]] = {*ends, *self._admissions.values()}
        if waiting:
            await asyncio.wait(waiting, timeout=within)
            for end in ends:
                end.cancel()

    def _tell_what_is_left(self) -> None:
        if left := tuple(self._live):
            away = ", ".join(sorted({name for running in left for name in running.pending}))
            _log.warning("transactions that the next start has to finish: %d, at %s", len(left), away)
