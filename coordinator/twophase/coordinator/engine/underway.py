"""What every transaction under way has, whichever protocol runs it.

Lives here: its parts and surroundings, who waits for it, and repeating a call until it is answered. Must not live here:
what it does (`running` for two-phase commit, `saga` for sagas).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from twophase.contract.names import Gid, Txid
from twophase.coordinator.engine.api import Call, Outcome, Result
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.peers import Peer, Peers
from twophase.coordinator.engine.tasks import Tasks
from twophase.coordinator.journal import events as facts
from twophase.coordinator.journal.port import Basis, Journal, Proposal
from twophase.coordinator.protocol.decisions import ABORT, Decision
from twophase.v1 import participant_pb2, types_pb2

T = TypeVar("T")

_log = logging.getLogger(__name__)

FINISH_SECONDS: Final = 5.0  # how long one attempt at phase two may take
ANSWER_MARGIN: Final = 1.0  # how much longer than the deadline an answer to work is waited for
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # between attempts that were not answered, in seconds, with full jitter


@dataclass(eq=False, slots=True)
class Part:
    """One branch of a transaction under way: where it is, what it does, what it returned.

    `calls` is empty for a transaction taken up from the journal that only has to be finished. `attempts` counts how
    often it was told in vain what it must hear, and `last_error` is what the last of these ended in.
    """

    number: int
    peer: Peer
    calls: tuple[Call, ...] = ()
    read_only: bool = False
    results: tuple[types_pb2.Payload, ...] = ()
    attempts: int = 0
    last_error: str = ""

    def keep(self, results: Iterable[types_pb2.Payload]) -> None:
        """Takes what the operations returned. A participant may leave out those at the end that returned nothing."""
        returned = tuple(results)
        self.results = returned + (types_pb2.Payload(),) * (len(self.calls) - len(returned))


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every transaction works with."""

    journal: Journal
    peers: Peers
    tasks: Tasks


class Underway(ABC):
    """A transaction until it has ended. Everything runs in the engine's tasks: whoever waits may go away (R13).

    `resumed` says that it was taken up from the journal: then nothing but its outcome is known of it here.
    `decided` is done when the outcome may be told (True: committed), `released` when it is certain whether its request
    id stays with it for good (True) or may be used by a later attempt, `settled` when nobody needs to be waited for any
    more, `ended` when every branch is over.
    """

    def __init__(
        self, around: Surroundings, txid: Txid, request: facts.RequestRef | None, parts: tuple[Part, ...]
    ) -> None:
        loop = asyncio.get_running_loop()
        self.txid = txid
        self.request = request
        self.parts = {part.number: part for part in parts}
        self.reasons: list[facts.Reason] = []
        self.claimed_by: Txid | None = None
        self.resumed = False
        self.decided: asyncio.Future[bool] = loop.create_future()
        self.released: asyncio.Future[bool] = loop.create_future()
        self.settled = asyncio.Event()
        self.ended = asyncio.Event()
        self._around = around
        self._loop = loop
        self._deadline_at = loop.time()
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    @abstractmethod
    def open(self) -> tuple[int, ...]:
        """The branches that are not over."""

    @property
    @abstractmethod
    def outcome(self) -> Outcome:
        """How it ends; call it once `decided` is done."""

    @property
    def pending(self) -> tuple[str, ...]:
        """The participants whose branch is not over."""
        return tuple(dict.fromkeys(self.parts[number].peer.name for number in self.open))

    @property
    def heuristic(self) -> tuple[str, ...]:
        """The participants whose branch ended against the decision."""
        return ()

    @abstractmethod
    def results(self, calls: Iterable[Call]) -> tuple[Result, ...]:
        """What these calls returned, in their order; empty if the result of one is not at hand."""

    @abstractmethod
    def begin(self) -> None:
        """Begins it; its deadline is counted from now."""

    @abstractmethod
    def refuse(self, reason: facts.Reason) -> None:
        """Ends the transaction by abort before any work is sent; only its record stays."""

    @abstractmethod
    def stop(self, reason: facts.Reason) -> None:
        """The coordinator will not carry it on: it is aborted, if it can be without waiting for anybody."""

    def gid(self, branch: int) -> Gid:
        """The name of a branch."""
        return Gid(self._around.journal.journal_id, self.txid, branch)

    # --- for those who say what it does -------------------------------------------------------------------------------

    @abstractmethod
    def _unanswered(self, part: Part) -> None:
        """The first attempt at a part was not answered."""

    @abstractmethod
    def _time_is_up(self) -> None:
        """The deadline has passed."""

    def _start_the_clock(self, seconds: float) -> None:
        self._seconds = seconds
        self._deadline_at = self._loop.time() + seconds
        self._timer = self._loop.call_later(seconds, self._time_is_up)

    def _time_left(self) -> float:
        return max(0.0, self._deadline_at - self._loop.time())

    def _branches(self) -> tuple[facts.BranchRef, ...]:
        return tuple(facts.BranchRef(part.number, part.peer.name) for part in self.parts.values())

    def _spawn(self, what: str, branch: int, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._around.tasks.spawn(work, name=f"{what} {self.gid(branch)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _decide(
        self,
        decision: Decision,
        hearers: tuple[facts.BranchRef, ...],
        definition: facts.Definition | None = None,
    ) -> Decision:
        """Proposes a decision; only what the journal answers counts, whatever was proposed (R5)."""
        journal = self._around.journal
        why = tuple(self.reasons) if decision == ABORT else ()
        proposal = Proposal(self.txid, decision, journal.epoch, self.request, hearers, why, definition)
        ruling = await journal.decide(proposal)
        if ruling.basis is Basis.CLAIMED:
            self.claimed_by = ruling.claimed_by
        return ruling.decision

    def _give_reason(self, reason: facts.Reason) -> None:
        if not self.decided.done():
            self.reasons.append(reason)

    def _tell(self, *, committed: bool) -> None:
        self.decided.set_result(committed)

    def _release(self, *, held: bool) -> None:
        if not self.released.done():
            self.released.set_result(held)

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()  # work whose branch is barred already, or an abort that a late no made needless
        self.settled.set()
        self.ended.set()

    def _believe(
        self,
        part: Part,
        answer: participant_pb2.ApplyResponse | participant_pb2.CommitResponse | participant_pb2.AbortResponse,
    ) -> None:
        """Raises `LinkLost` for an answer from another database or timeline than the one that shook hands."""
        if not part.peer.speaks_for(answer.identity):
            self._around.peers.changed(part.peer)
            raise LinkLost(f"the answer of participant {part.peer.name!r} comes from another database or timeline")

    async def _until_answered(
        self,
        part: Part,
        attempt: Callable[[], Awaitable[T]],
        *,
        slots: AbstractAsyncContextManager[object] | None = None,
    ) -> T:
        """Repeats `attempt` until it is answered, however long that takes (R13), each time within one of the `slots`:
        those of the second phase unless others are given."""

        def unanswered(call: RetryCallState) -> None:
            if call.attempt_number == 1:
                self._unanswered(part)
            peer.doubted.set()
            error = call.outcome.exception() if call.outcome is not None else None
            part.attempts, part.last_error = call.attempt_number, str(error)
            _log.info("attempt %d at %s: %s", call.attempt_number, self.gid(part.number), error)

        peers, peer = self._around.peers, part.peer
        held = peer.slots if slots is None else slots

        async def once() -> T:
            while True:
                if not peer.here.is_set():
                    # Its watcher asks whether it is back, for all that wait for it.
                    self._unanswered(part)
                    await peer.here.wait()
                async with held:
                    if not peer.here.is_set():
                        continue
                    if peer.operations is None:
                        await peers.greet(peer)
                    return await attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(LinkLost),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            before_sleep=unanswered,
        )
        return await retrying(once)


UNBOUNDED: Final[AbstractAsyncContextManager[object]] = nullcontext()
"""Slots without number, for work: what bounds it is the participant's."""
