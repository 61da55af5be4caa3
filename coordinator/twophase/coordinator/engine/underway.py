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
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from twophase.contract.names import Gid, Txid
from twophase.coordinator.engine.api import Call, Outcome, Result
from twophase.coordinator.engine.links import LinkLost
from twophase.coordinator.engine.peers import Peer, Peers
from twophase.coordinator.engine.tasks import Tasks
from twophase.coordinator.engine.trying import going_on
from twophase.coordinator.journal import events as facts
from twophase.coordinator.journal.port import Basis, Journal, Proposal, Ruling
from twophase.coordinator.protocol.decisions import ABORT, Decision
from twophase.v1 import participant_pb2, types_pb2

A = TypeVar("A")
T = TypeVar("T")

_log = logging.getLogger(__name__)

FINISH_SECONDS: Final = 5.0  # how long one attempt at phase two may take
ANSWER_MARGIN: Final = 1.0  # how much longer than the deadline an answer to work is waited for
_CROWD: Final = 32  # more than usually wait for one transaction
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0  # between attempts that were not answered, in seconds, with full jitter


@dataclass(eq=False, slots=True)
class Part:
    """One branch of a transaction under way: where it is, what it does, what it returned.

    `calls` is empty for a transaction taken up from the journal that only has to be finished. `attempts` counts how
    often it was told in vain what it must hear, and `last_error` is what the last of these ended in. `timeline` is its
    database's when it voted. `ref` is what the journal calls it.
    """

    number: int
    peer: Peer
    calls: tuple[Call, ...] = ()
    read_only: bool = False
    results: tuple[types_pb2.Payload, ...] = ()
    attempts: int = 0
    last_error: str = ""
    timeline: int | None = None
    ref: facts.BranchRef = field(init=False)

    def __post_init__(self) -> None:
        self.ref = facts.BranchRef(self.number, self.peer.name)

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
    `committed` is None until the outcome may be told. `held` is None until it is certain whether its request id stays
    with it for good (True) or may be used by a later attempt. `settled` says that nobody needs to be waited for any
    more, `ended` that every branch is over. `until` waits for any of this.
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
        self.committed: bool | None = None
        self.held: bool | None = None
        self.settled = False
        self.ended = False
        self._around = around
        self._loop = loop
        self._deadline_at = loop.time()
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._calls: list[asyncio.Future[Any]] = []
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[bool]]] = []

    @property
    @abstractmethod
    def open(self) -> tuple[int, ...]:
        """The branches that are not over."""

    @property
    @abstractmethod
    def outcome(self) -> Outcome:
        """How it ends; ask once it is known whether it is `committed`."""

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

    def until(self, condition: Callable[[], bool]) -> asyncio.Future[bool]:
        """A future of the caller's own: True as soon as the condition holds. It is looked at now, and whenever it may
        have changed."""
        waiter: asyncio.Future[bool] = self._loop.create_future()
        if condition():
            waiter.set_result(True)
        else:
            if len(self._waiting) >= _CROWD:  # most of them have given up, where something takes days
                self._waiting = [each for each in self._waiting if not each[1].done()]
            self._waiting.append((condition, waiter))
        return waiter

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
        self._timer = self._around.tasks.later(seconds, self._time_is_up)

    def _time_left(self) -> float:
        return max(0.0, self._deadline_at - self._loop.time())

    def _branches(self) -> tuple[facts.BranchRef, ...]:
        return tuple([part.ref for part in self.parts.values()])

    def _spawn(self, what: str, branch: int, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._around.tasks.spawn(work, name=f"{what} {self.gid(branch)}")
        self._calls.append(task)
        return task

    def _follow(self, awaited: Awaitable[A], then: Callable[[asyncio.Future[A]], None]) -> asyncio.Future[A]:
        """Calls `then` with what is awaited when that is done, unless the transaction is over by then."""
        call = self._around.tasks.follow(awaited, then)
        self._calls.append(call)
        return call

    def _decide(
        self,
        decision: Decision,
        hearers: tuple[facts.BranchRef, ...],
        definition: facts.Definition | None = None,
    ) -> Awaitable[Ruling]:
        """Proposes a decision; only what the journal answers counts, whatever was proposed (R5): `_obey` it."""
        journal = self._around.journal
        why = tuple(self.reasons) if decision == ABORT else ()
        return journal.decide(Proposal(self.txid, decision, journal.epoch, self.request, hearers, why, definition))

    def _obey(self, ruling: Ruling) -> Decision:
        if ruling.basis is Basis.CLAIMED:
            self.claimed_by = ruling.claimed_by
        return ruling.decision

    def _give_reason(self, reason: facts.Reason) -> None:
        if self.committed is None:
            self.reasons.append(reason)

    def _tell(self, *, committed: bool) -> None:
        self.committed = committed
        self._changed()

    def _release(self, *, held: bool) -> None:
        if self.held is None:
            self.held = held
            self._changed()

    def _settle(self) -> None:
        self.settled = True
        self._changed()

    def _over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for call in self._calls:
            if not call.done() and call is not asyncio.current_task():
                call.cancel()  # work whose branch is barred already, or an abort that a late no made needless
        self._calls.clear()
        self.settled = self.ended = True
        self._changed()

    def _changed(self) -> None:
        """Tells whoever waits for what has come true. Nobody stays here longer: what is over is no ring of references,
        or it would wait for the garbage collector."""
        waiting, self._waiting = self._waiting, []
        for condition, waiter in waiting:
            if waiter.done():
                continue
            if condition():
                waiter.set_result(True)
            else:
                self._waiting.append((condition, waiter))

    def _believe(
        self,
        part: Part,
        answer: participant_pb2.ApplyResponse | participant_pb2.CommitResponse | participant_pb2.AbortResponse,
    ) -> None:
        """Raises `LinkLost` for an answer from another database or timeline than the one that shook hands."""
        if not part.peer.speaks_for(answer.identity):
            self._around.peers.changed(part.peer)
            raise LinkLost(f"the answer of participant {part.peer.name!r} comes from another database or timeline")

    def _repeat(
        self,
        part: Part,
        send: Callable[[], Awaitable[A]],
        read: Callable[[A], T],
        then: Callable[[T], None],
    ) -> None:
        """Sends until `read` finds an answer in what comes back (it raises `LinkLost` where there is none), however
        long that takes (R13); `then` gets it."""

        async def attempt() -> T:
            return read(await send())

        def answered(last: asyncio.Future[T]) -> None:
            then(last.result())

        def first_is_answered(first: asyncio.Future[A]) -> None:
            try:
                found = read(first.result())
            except LinkLost as error:
                self._follow(self._until_answered(part, attempt, failed=error), answered)
            else:
                then(found)

        slots = part.peer.slots
        if part.peer.is_ready and slots.take():
            self._follow(send(), first_is_answered).add_done_callback(slots.give_back)
        else:
            self._follow(self._until_answered(part, attempt), answered)

    async def _until_answered(
        self,
        part: Part,
        attempt: Callable[[], Awaitable[T]],
        *,
        slots: AbstractAsyncContextManager[object] | None = None,
        failed: LinkLost | None = None,
    ) -> T:
        """Repeats `attempt` until it is answered, however long that takes (R13), each time within one of the `slots`:
        those of the second phase unless others are given. `failed` is what the first attempt ended in, if it was
        made."""

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

        if failed is None:
            try:
                return await once()
            except LinkLost as error:
                failed = error
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(LinkLost),
            wait=wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE),
            before_sleep=unanswered,
        )
        return await retrying(going_on(failed, once))


UNBOUNDED: Final[AbstractAsyncContextManager[object]] = nullcontext()
"""Slots without number, for work: what bounds it is the participant's."""
