"""One request, from its first copy to its outcome: what is sent again, when, and what may be concluded.

Lives here: the client's side of R6. Must not live here: channels, payloads, new attempts (`client`).

A copy of the same request, attempt and content can be sent any number of times: it is executed at most once. So after a
lost answer the same request is sent again, until its outcome comes or patience ends. What is certain is only this:

- a copy that names no epoch (number 0) is never executed, so losing one loses nothing;
- a copy that names an epoch, and is not answered, may be executed, however late;
- NOT_SEEN and a rejection say that *this* copy started nothing, and nothing about lost ones; so does the outcome of an
  earlier attempt, which a saga that is not undone yet is answered with.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, Protocol

import grpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from twophase.contract.status import Problem, from_call
from twophase.coordinator import reasons
from twophase.coordinator.client.errors import (
    CoordinatorUnavailable,
    OutcomeUnknown,
    RequestIdReused,
    TwophaseError,
    of_problem,
)
from twophase.v1 import coordinator_pb2, types_pb2

FIRST_WAIT: Final = 0.05
LONGEST_WAIT: Final = 2.0
_ANSWER_SLACK: Final = 5.0
"""Seconds after its deadline within which a transaction is answered by a coordinator that is well."""

_PASSING: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})
NOT_OURS: Final = frozenset(
    {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED}
)
"""The coordinator gives these with its own details only: without them somebody else answered, and it saw nothing."""

_FINAL: Final = frozenset(
    {coordinator_pb2.OUTCOME_COMMITTED, coordinator_pb2.OUTCOME_ABORTED, coordinator_pb2.OUTCOME_COMPENSATED}
)


class Closed(Exception):
    """The channel was closed, before the call or under it."""


class Wire(Protocol):
    """What an execution needs of a channel to the coordinator. Both calls raise `Closed`."""

    async def ready(self, within: float) -> None:
        """Returns when there is a connection. Raises TimeoutError after `within` seconds."""
        ...

    async def execute(
        self, request: coordinator_pb2.ExecuteRequest, *, timeout: float
    ) -> coordinator_pb2.ExecuteResponse:
        """Sends one copy. Raises `grpc.aio.AioRpcError`, DEADLINE_EXCEEDED after `timeout` seconds."""
        ...


@dataclass(slots=True)
class EpochMemory:
    """The epoch of the last answer that a client had from its coordinator; number 0 until there was one."""

    seen: types_pb2.Epoch

    def note(self, epoch: types_pb2.Epoch) -> None:
        """Remembers the epoch of an answer; one without an epoch changes nothing."""
        if epoch.number:
            self.seen = types_pb2.Epoch(number=epoch.number, nonce=epoch.nonce)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to go on, in seconds: `start` until a copy is under way, `settle` in all once one is."""

    start: float
    settle: float
    deadline: float


class _AskAgain(Exception):
    """Not known yet, and asking again may help."""


class _NoTime(_AskAgain):
    """The answer did not come in time."""


class Execution:
    """One attempt at one request. `run` returns its final answer, or raises."""

    def __init__(
        self, wire: Wire, request: coordinator_pb2.ExecuteRequest, epochs: EpochMemory, patience: Patience
    ) -> None:
        self._wire = wire
        self._request = request
        self._epochs = epochs
        self._patience = patience
        self._began = asyncio.get_running_loop().time()
        self._may_run = False
        self._why = ""
        self._backoff = wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT)

    async def run(self) -> coordinator_pb2.ExecuteResponse:
        """Raises `CallRejected` and its kinds, `CoordinatorUnavailable`, `OutcomeUnknown`."""
        self._request.seen_epoch.CopyFrom(self._epochs.seen)
        try:
            return await self._ask()
        except _AskAgain as unsettled:
            return await self._ask_again(unsettled)

    async def _ask_again(self, unsettled: _AskAgain) -> coordinator_pb2.ExecuteResponse:
        """What follows a first try that settled nothing. Retrying is set up only here: that costs more than a call."""
        first: _AskAgain | None = unsettled

        async def ask() -> coordinator_pb2.ExecuteResponse:
            nonlocal first
            if first is not None:
                failed, first = first, None
                raise failed
            return await self._ask()

        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_AskAgain),
            wait=self._wait,
            stop=lambda _: self._left() <= 0,
            reraise=True,
        )
        try:
            return await retrying(ask)
        except _AskAgain as last:
            raise self._give_up(self._why or str(last)) from last

    async def _ask(self) -> coordinator_pb2.ExecuteResponse:
        """Sends one copy; a second one if the first only taught the epoch. Keeps what is worth telling in the end: that
        the last copy ran out of patience says less than why it was needed.
        """
        try:
            return await self._ask_once()
        except _AskAgain as unsettled:
            if not isinstance(unsettled, _NoTime) or not self._why:
                self._why = str(unsettled)
            raise

    async def _ask_once(self) -> coordinator_pb2.ExecuteResponse:
        await self._connect()
        response = await self._send()
        if response.outcome == coordinator_pb2.OUTCOME_NOT_SEEN:
            self._request.seen_epoch.CopyFrom(response.epoch)
            response = await self._send()
        if self._may_run and self._is_of_an_earlier_attempt(response):
            fact = f"attempt {response.attempt} is still being undone"
            raise _AskAgain(f"{fact}, and a copy of attempt {self._request.attempt} may be under way")
        if response.outcome in _FINAL:
            return response
        if response.outcome == coordinator_pb2.OUTCOME_NOT_SEEN:
            self._request.seen_epoch.CopyFrom(response.epoch)
            raise _AskAgain("the coordinator restarts again and again")
        self._may_run = True
        waits_for = f", waiting for {', '.join(response.pending)}" if response.pending else ""
        raise _AskAgain(f"transaction {response.txid} is not decided yet{waits_for}")

    def _is_of_an_earlier_attempt(self, response: coordinator_pb2.ExecuteResponse) -> bool:
        """Whether this copy waited in vain for an attempt that is being undone: it started nothing, a lost one may."""
        undone = response.outcome in (coordinator_pb2.OUTCOME_ABORTED, coordinator_pb2.OUTCOME_COMPENSATED)
        return undone and 0 < response.attempt < self._request.attempt

    async def _connect(self) -> None:
        try:
            await self._wire.ready(max(self._left(), 0))
        except TimeoutError as error:
            raise _AskAgain("the coordinator cannot be reached") from error
        except Closed as error:
            raise self._give_up("the client was closed while it waited") from error

    async def _send(self) -> coordinator_pb2.ExecuteResponse:
        executable = self._request.seen_epoch.number != 0
        timeout = min(self._patience.deadline + _ANSWER_SLACK, self._settle_left())
        try:
            response = await self._wire.execute(self._request, timeout=max(timeout, 0))
        except grpc.aio.AioRpcError as error:
            raise self._understand(from_call(error), executable=executable) from error
        except Closed as error:
            self._may_run |= executable
            raise self._give_up("the client was closed while it waited") from error
        self._epochs.note(response.epoch)
        return response

    def _understand(self, problem: Problem, *, executable: bool) -> Exception:
        """What a copy that failed means."""
        what = f"{problem.code.name}: {problem.message}"
        if problem.reason and problem.outcome_known:
            if problem.code in _PASSING:
                return _AskAgain(what)
            if problem.code is grpc.StatusCode.ALREADY_EXISTS:
                return RequestIdReused(problem)
            if self._may_run and problem.reason not in reasons.OUTCOMES:
                return self._give_up(f"an answer was lost, and now the coordinator rejects the request: {what}")
            return of_problem(problem)
        if problem.code in NOT_OURS and not problem.reason and not self._may_run:
            return of_problem(problem)
        self._may_run |= executable
        return _NoTime(what) if problem.code is grpc.StatusCode.DEADLINE_EXCEEDED else _AskAgain(what)

    def _give_up(self, why: str) -> TwophaseError:
        if self._may_run:
            return OutcomeUnknown(self._request.request_id, self._request.attempt, why)
        return CoordinatorUnavailable(f"{why}; this call started nothing, and may be repeated")

    def _settle_left(self) -> float:
        return self._began + self._patience.settle - asyncio.get_running_loop().time()

    def _left(self) -> float:
        limit = self._patience.settle if self._may_run else min(self._patience.start, self._patience.settle)
        return self._began + limit - asyncio.get_running_loop().time()

    def _wait(self, state: RetryCallState) -> float:
        return max(0.0, min(self._backoff(state), self._left()))
