"""The engine's face: transactions go in, answers come out.

Lives here: admission (R6: request ids, attempts, epochs), who waits for what, start and stop. Must not live here: how
a transaction begins (`starting`) and what it does (`running`, `saga`), recovery (`supervisor`), gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial
from typing import Any

from twophase.contract.crashpoints import CrashPoint, reach
from twophase.contract.names import Txid
from twophase.coordinator.engine import dead_letters, reasons, rejections
from twophase.coordinator.engine.api import (
    DEFAULT_LIMITS,
    Answer,
    DeadLetter,
    Limits,
    Outcome,
    Rejected,
    Resolution,
    Result,
    Submission,
    View,
    Wait,
    Which,
)
from twophase.coordinator.engine.diagnosis import Diagnosis, diagnose
from twophase.coordinator.engine.fingerprints import request_fingerprint
from twophase.coordinator.engine.indoubt import Survey, survey
from twophase.coordinator.engine.links import Links
from twophase.coordinator.engine.live import Live
from twophase.coordinator.engine.peers import Peers
from twophase.coordinator.engine.pruning import Pruner
from twophase.coordinator.engine.recorded import (
    answer_of,
    answer_of_earlier,
    holds_its_id,
    results_of,
    view_at,
    view_of,
)
from twophase.coordinator.engine.starting import Starting
from twophase.coordinator.engine.supervisor import Supervisor
from twophase.coordinator.engine.tasks import Tasks
from twophase.coordinator.engine.underway import Surroundings, Underway
from twophase.coordinator.journal.events import Reason, TransactionRecord
from twophase.coordinator.journal.port import Journal
from twophase.coordinator.protocol.decisions import ABORT

_log = logging.getLogger(__name__)

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
        self._peers = Peers(journal, links, self._tasks, deadline_cap=limits.deadline_cap)
        self._around = Surroundings(journal, self._peers, self._tasks)
        self._live = Live()
        self._starting = Starting(self._around, self._live, limits, check=self._refuse_new)
        self._admissions: dict[str, asyncio.Future[Underway | None]] = {}
        self._supervisor = Supervisor(self._around, self._live, sweep_every=sweep_every)
        self._pruner = Pruner(
            self._around,
            self._live,
            limits,
            next_sequence=lambda: self._starting.next_sequence,
            paused=lambda: self._stopping or self.refusal is not None,
        )
        self.refusal: Rejected | None = None
        self._stopping = False
        self._patience: set[asyncio.Future[bool]] = set()
        self._peers.quarantine.on_proof(lambda: self._stop_all(reasons.quarantined()))

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
        self._stop_all(reasons.stopping())
        await self._all_ended(_STOP_SECONDS)
        for waiter in self._patience:
            _give_up(waiter)
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

    async def dead_letters(self) -> tuple[DeadLetter, ...]:
        """What sagas have failed at so often that somebody must look, those of the oldest saga first."""
        return await dead_letters.dead_letters(self.journal)

    async def retry_dead_letter(self, txid: Txid, step: str) -> None:
        """Tries one again at once. Raises `Rejected`."""
        await dead_letters.retry(self._live, self.journal, txid, step)

    async def resolve_dead_letter(
        self, txid: Txid, step: str, *, actor: str, reason: str, even_if_away: bool
    ) -> Resolution:
        """Takes one for done, by a person's word, durably. Raises `Rejected`; then nothing was recorded."""
        letter = (txid, step)
        return await dead_letters.resolve(
            self._around, self._live, letter, actor=actor, reason=reason, even_if_away=even_if_away
        )

    async def execute(self, submission: Submission) -> Answer:
        """Runs a transaction, or joins or recalls the one that runs or ran for the same request (R6).

        Raises `Rejected`; nothing was started then. A cancelled call cancels nothing of a transaction that began.
        """
        fingerprint = request_fingerprint(submission.calls, submission.protocol)
        arrived = asyncio.get_running_loop().time()
        while True:
            self._refuse_if_stopping()
            admission = self._admissions.get(submission.request_id)
            if admission is None:
                found: Underway | Answer | None = await self._admit(submission, fingerprint)
            else:
                running = await asyncio.shield(admission)
                found = await self._join(running, submission, fingerprint) if running is not None else None
            match found:
                case Answer():
                    return found
                case Underway():
                    answer = await self._answer(found, submission, arrived + submission.deadline)
                    if found.claimed_by is None:
                        return answer
                case None:
                    await asyncio.sleep(0)  # the admission that is over takes itself away at its turn of the loop

    # --- admission (R6) -----------------------------------------------------------------------------------------------

    async def _admit(self, submission: Submission, fingerprint: bytes) -> Underway | Answer:
        """The first copy of a request comes through here; others that come meanwhile wait for what it finds."""
        key = submission.request_id
        admission = self._admissions[key] = asyncio.get_running_loop().create_future()
        running: Underway | None = None
        try:
            found = await self._recall(submission, fingerprint) or await self._starting.start(submission, fingerprint)
            running = found if isinstance(found, Underway) else None
            return found
        finally:
            admission.set_result(running)
            if running is None or running.held is not None:
                del self._admissions[key]
            else:
                released = running.until(lambda: running.held is not None)
                released.add_done_callback(lambda _: self._admissions.pop(key, None))

    async def _join(self, running: Underway, submission: Submission, fingerprint: bytes) -> Underway | Answer | None:
        """What a copy of a request that is running gets; None to look again."""
        request = running.request
        if request is None or request.fingerprint != fingerprint:
            raise rejections.request_id_reused(submission.request_id)
        if submission.attempt == request.attempt:
            return running
        if submission.attempt < request.attempt:
            return answer_of_earlier(submission.attempt, latest=request.attempt)
        return running if await self._holds(running, submission) else None

    async def _recall(self, submission: Submission, fingerprint: bytes) -> Underway | Answer | None:
        """What the journal says of the request; None if this attempt may run."""
        record = await self.journal.request(submission.request_id)
        if record is not None and record.request is not None:
            same = record.request.fingerprint == fingerprint
            if holds_its_id(record):
                if not same:
                    raise rejections.request_id_reused(submission.request_id)
                running = self._live.get(record.txid)
                if running is None:
                    return await self._recorded(record, submission)
                if submission.attempt <= record.request.attempt or await self._holds(running, submission):
                    return running
                return await self._recall(submission, fingerprint)
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

    async def _holds(self, running: Underway, submission: Submission) -> bool:
        """Whether a transaction under way keeps its request id from a later attempt, for good or for too long. Raises
        `Rejected` if the coordinator stops meanwhile."""
        until = asyncio.get_running_loop().time() + submission.deadline
        if not await self._patiently(running.until(lambda: running.held is not None), until=until):
            self._refuse_if_stopping()
        return running.held is not False

    async def _recorded(self, record: TransactionRecord, submission: Submission) -> Answer:
        results: tuple[Result, ...] = ()
        if record.committed:
            journal_id = self.journal.journal_id
            results = await results_of(record, submission.calls, self._peers, journal_id=journal_id)
        return answer_of(record, attempt=submission.attempt, results=results)

    def _refuse_if_stopping(self) -> None:
        if self._stopping:
            raise rejections.stopping()

    def _refuse_new(self) -> None:
        self._refuse_if_stopping()
        if self._peers.quarantine.active:
            raise rejections.quarantined(self._peers.quarantine.proof)
        if self.refusal is not None:
            raise self.refusal

    def _stop_all(self, reason: Reason) -> None:
        for running in self._live:
            running.stop(reason)

    # --- answering ----------------------------------------------------------------------------------------------------

    async def _answer(self, running: Underway, submission: Submission, answer_by: float) -> Answer:
        """Waits as the submission asks. The transaction goes on whether or not somebody waits (R13)."""
        request = running.request
        attempt = request.attempt if request is not None else submission.attempt
        answerable = running.until(partial(_is_answerable, running, submission.wait))
        await self._patiently(answerable, until=answer_by + _ANSWER_GRACE)
        committed = running.committed
        if committed is None:
            return Answer(Outcome.PENDING, running.txid, attempt, pending=running.pending)
        reach(CrashPoint.COORDINATOR_BEFORE_REPLY)
        if running.resumed and (record := await self.journal.transaction(running.txid)) is not None:
            return await self._recorded(record, submission)
        return Answer(
            outcome=running.outcome,
            txid=running.txid,
            attempt=attempt,
            applied=running.ended,
            results=running.results(submission.calls) if committed else (),
            reasons=() if committed else tuple(running.reasons),
            pending=running.pending,
            heuristic=running.heuristic,
        )

    async def _patiently(self, waiter: asyncio.Future[bool], *, until: float) -> bool:
        """Waits for it; False if `until`, in the loop's time, comes first, or the coordinator stops."""
        timer = asyncio.get_running_loop().call_at(until, _give_up, waiter)
        self._patience.add(waiter)
        try:
            return await waiter
        finally:
            self._patience.discard(waiter)
            timer.cancel()

    async def _all_ended(self, within: float) -> None:
        """Waits for the transactions under way, and for the requests of which it is not yet clear whether they are. Not
        for what waits for a participant that is away, or for a person: the next start goes on with it."""
        ends = [each.until(partial(_has_ended, each)) for each in self._live if not each.settled]
        waiting: set[asyncio.Future[Any]] = {*ends, *self._admissions.values()}
        if waiting:
            await asyncio.wait(waiting, timeout=within)
            for end in ends:
                end.cancel()

    def _tell_what_is_left(self) -> None:
        if left := tuple(self._live):
            away = ", ".join(sorted({name for running in left for name in running.pending}))
            _log.warning("transactions that the next start has to finish: %d, at %s", len(left), away)


def _is_answerable(running: Underway, wait: Wait) -> bool:
    if running.committed is None:
        return False
    # An abort is nothing that is ever durable; the turn of a saga is.
    decided = running.committed or running.outcome is Outcome.COMPENSATED
    return running.settled or (decided and wait is Wait.DECIDED)


def _has_ended(running: Underway) -> bool:
    return running.ended


def _give_up(waiter: asyncio.Future[bool]) -> None:
    if not waiter.done():
        waiter.set_result(False)
