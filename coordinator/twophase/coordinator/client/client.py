"""`AsyncClient`: the calls an application makes.

Lives here: the public calls, the channel, new attempts. Must not live here: what follows a lost answer (`execution`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Final, Self, TypeVar

import grpc
from tenacity import (
    AsyncRetrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    stop_after_delay,
    wait_random_exponential,
)

from twophase.contract.addresses import Address, InvalidAddress
from twophase.contract.status import Problem, from_call
from twophase.coordinator.client.connection import Connection, Method
from twophase.coordinator.client.errors import (
    CallRejected,
    CoordinatorUnavailable,
    InvalidRequest,
    NotFound,
    SagaCompensated,
    TransactionAborted,
    invalid,
    of_problem,
)
from twophase.coordinator.client.execution import (
    FIRST_WAIT,
    LONGEST_WAIT,
    NOT_OURS,
    Closed,
    EpochMemory,
    Execution,
    Patience,
)
from twophase.coordinator.client.findings import (
    DeadLetter,
    Diagnosis,
    InDoubt,
    Resolution,
    dead_letter_of,
    diagnosis_of,
    in_doubt_of,
)
from twophase.coordinator.client.refusal import Refusal
from twophase.coordinator.client.requests import execute_request, text, timestamp
from twophase.coordinator.client.steps import Step
from twophase.coordinator.client.values import (
    Committed,
    Operation,
    Protocol,
    Transaction,
    Wait,
    committed_of,
    refusals_of,
    transaction_of,
)
from twophase.v1 import coordinator_pb2, coordinator_pb2_grpc, types_pb2

_PASSING: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
_USUAL_DEADLINE: Final = 10.0
_LONGEST_DEADLINE: Final = 60.0
_SETTLING: Final = 30.0
_PAGE: Final = 200
# What a coordinator needs, in seconds, that asks all its participants while one of them is away.
_LOOKING: Final = 20.0

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncClient:
    """A client of one coordinator. Make one for each process and share it; use it within one event loop.

    `address` is `host:port`; raises `InvalidRequest` if it is not. `timeout` is how long, in seconds, the calls other
    than `execute` go on trying while the coordinator is away. Connects at the first call, and again after every loss.
    """

    def __init__(self, address: str, *, timeout: float = 10.0) -> None:
        try:
            self._address = str(Address.parse(address))
        except InvalidAddress as error:
            raise invalid("address", address, str(error), "give it as in 127.0.0.1:7400") from error
        self._timeout = timeout
        self._epochs = EpochMemory(types_pb2.Epoch())
        self._connected: Connection | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connection; a later call opens one again. An `execute` under way raises `OutcomeUnknown`, or
        `CoordinatorUnavailable` if it had not begun; its transaction goes on.
        """
        connection, self._connected = self._connected, None
        if connection is not None:
            await connection.close()

    async def execute(
        self,
        *operations: Operation | Step,
        protocol: Protocol = Protocol.TWO_PHASE,
        deadline: float | None = None,
        wait: Wait = Wait.APPLIED,
        request_id: str | None = None,
        attempt: int = 1,
        in_turn: bool = False,
        retries: int = 0,
        give_up_after: float | None = None,
    ) -> Committed:
        """Runs the operations, all or none, and returns once they are committed (and applied, unless `wait` says else).

        `protocol`: two-phase commit, or a saga. A saga runs the operations one after the other, or as their `step`s
        say; each commits at once, for others to see, and if one is refused, what was done before it is undone by the
        compensations that the operations declare. Nothing else of this call changes.

        `deadline`, in seconds: the transaction is decided by then, or aborted; a saga that is not certain to be done by
        then is undone. Without one the coordinator's default holds. `request_id` names this piece of business, for as
        long as the coordinator remembers it (7 days after it ended, unless configured): what is sent again later runs
        again. Give your own (an order number) if you want to ask for the outcome after a crash of this process, else
        one is made. `attempt` counts from 1 and is raised only to try again, under the same id, what was aborted or
        undone; `retries` does so by itself, up to that many times, after a refusal that is retryable (a conflict, a
        participant that is away).

        `in_turn`: the branches of a two-phase commit prepare one after the other, in the order of their participants'
        names, instead of all at the same time. It makes one transaction slower, and many that want the same rows at
        several participants much faster: they queue for them, instead of waiting for each other until a lock timeout.

        A lost answer is asked for again, for `give_up_after` seconds in all (each attempt; by default the deadline and
        30 s more). Until it is certain that the coordinator has the request, only for as long as the deadline.

        Cancelling this call does not cancel the transaction, which runs on to its outcome: `outcome(request_id)`.

        Raises `TransactionAborted`, `InvalidRequest`, `NotFound`, `RequestIdReused` and `CoordinatorUnavailable`, which
        all mean that nothing happened, but what `TransactionAborted.heuristic` tells of; for a saga that began and is
        undone `SagaCompensated`, a `TransactionAborted`; and `OutcomeUnknown`, the only one of them where
        `outcome_known` is False.
        """
        request = execute_request(
            operations,
            protocol=protocol,
            deadline=deadline,
            wait=wait,
            request_id=request_id,
            attempt=attempt,
            in_turn=in_turn,
        )
        whole = _LONGEST_DEADLINE if deadline is None else deadline
        patience = Patience(
            start=_USUAL_DEADLINE if deadline is None else deadline,
            settle=whole + _SETTLING if give_up_after is None else give_up_after,
            deadline=whole,
        )
        if retries == 0:
            return await self._attempt(request, patience)

        async def once() -> Committed:
            try:
                return await self._attempt(request, patience)
            except TransactionAborted as aborted:
                request.attempt = max(request.attempt, aborted.attempt) + 1
                raise

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, TransactionAborted) and error.retryable),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            stop=stop_after_attempt(retries + 1),
            reraise=True,
        )
        return await retrying(once)

    async def get(self, txid: str, *, events: bool = False, at: datetime | None = None) -> Transaction:
        """What the coordinator knows of a transaction, with its `events` if they are wanted; with `at` as it stood at
        that moment, by the coordinator's clock (a naive time is local time).

        Raises `NotFound` if it has no record (up to then), which does not mean that the transaction was aborted;
        `InvalidRequest`, `CoordinatorUnavailable`.
        """
        request = coordinator_pb2.GetRequest(txid=text("txid", txid), with_events=events, at=timestamp(at))
        response = await self._read(lambda stub: stub.Get, request)
        return transaction_of(response.transaction)

    async def outcome(self, request_id: str, *, events: bool = False, at: datetime | None = None) -> Transaction | None:
        """What became of a request: its committed attempt if there is one, else its latest. `events` and `at` as in
        `get`.

        None if the coordinator has no record of it. That does not mean aborted: a copy may be under way. `execute` with
        the same request id and operations settles it. Raises `InvalidRequest`, `CoordinatorUnavailable`.
        """
        request = coordinator_pb2.GetRequest(
            request_id=text("request_id", request_id), with_events=events, at=timestamp(at)
        )
        response = await self._read(lambda stub: stub.Get, request)
        return transaction_of(response.transaction) if response.HasField("transaction") else None

    async def transactions(
        self, *, unfinished_only: bool = False, heuristic_only: bool = False
    ) -> AsyncIterator[Transaction]:
        """All transactions the coordinator knows of, the newest first; fetched page by page. Raises as `get`.

        `unfinished_only`: those that are not finished at every participant; `heuristic_only`: those of which a branch
        ended against the decision. Not both.
        """
        token = ""
        while True:
            request = coordinator_pb2.ListRequest(
                unfinished_only=unfinished_only, heuristic_only=heuristic_only, page_size=_PAGE, page_token=token
            )
            response = await self._read(lambda stub: stub.List, request)
            for message in response.transactions:
                yield transaction_of(message)
            token = response.next_page_token
            if not token:
                return

    async def in_doubt(self) -> InDoubt:
        """Every branch that is in doubt at this moment, and what the coordinator is doing about it. It asks all
        participants, which takes seconds if one is away: for people who look, not for polling.

        Raises `CoordinatorUnavailable`, and `CallRejected` if this coordinator does not offer it.
        """
        request = coordinator_pb2.ListInDoubtRequest()
        return in_doubt_of(await self._read(lambda stub: stub.ListInDoubt, request, at_least=_LOOKING))

    async def diagnose(self) -> Diagnosis:
        """How the coordinator, its journal and every participant are; takes seconds if one is away. Raises as
        `in_doubt`.
        """
        request = coordinator_pb2.CoordinatorDiagnoseRequest()
        return diagnosis_of(await self._read(lambda stub: stub.Diagnose, request, at_least=_LOOKING))

    async def dead_letters(self) -> tuple[DeadLetter, ...]:
        """What sagas have failed at so often that somebody must look, those of the oldest saga first. Each is tried
        again all the same. Raises as `in_doubt`.
        """
        response = await self._read(lambda stub: stub.ListDeadLetters, coordinator_pb2.ListDeadLettersRequest())
        return tuple(dead_letter_of(letter) for letter in response.dead_letters)

    async def retry_dead_letter(self, txid: str, step: str) -> None:
        """Tries a dead letter again at once, and counts its failures anew. May be repeated.

        Raises `NotFound` if there is no such dead letter (any more); `InvalidRequest`, `CoordinatorUnavailable`.
        """
        request = coordinator_pb2.RetryDeadLetterRequest(txid=text("txid", txid), step=text("step", step))
        await self._read(lambda stub: stub.RetryDeadLetter, request, changes=True)

    async def resolve_dead_letter(
        self, txid: str, step: str, *, actor: str, reason: str, even_if_away: bool = False
    ) -> Resolution:
        """Takes a dead letter for done, by a person's word: the saga goes on, and it is not tried any more. Its
        participant is asked to bar it. `actor` (1 to 128 characters) and `reason` (1 to 1000) are recorded, durably.

        Raises `CallRejected` if the participant is away, unless `even_if_away`: a copy that is under way may then take
        effect later. Raises `NotFound` if there is no such dead letter, or it was done meanwhile; `InvalidRequest`,
        `CoordinatorUnavailable`. Repeated, it records nothing again.
        """
        request = coordinator_pb2.ResolveDeadLetterRequest(
            txid=text("txid", txid),
            step=text("step", step),
            actor=text("actor", actor),
            reason=text("reason", reason),
            even_if_away=even_if_away,
        )
        response = await self._read(lambda stub: stub.ResolveDeadLetter, request, at_least=_LOOKING, changes=True)
        return Resolution(response.barred, response.done)

    async def register(self, name: str, address: str) -> None:
        """Makes a participant known to the coordinator, durably. May be repeated; a new address replaces the old one.

        Raises `CallRejected` if it cannot be reached at `host:port`, says it is somebody else, or its name belongs to
        another database; `InvalidRequest`, `CoordinatorUnavailable`.
        """
        request = coordinator_pb2.RegisterRequest(participant=text("name", name), address=text("address", address))
        await self._read(lambda stub: stub.Register, request, changes=True)

    async def _attempt(self, request: coordinator_pb2.ExecuteRequest, patience: Patience) -> Committed:
        response = await Execution(self._connection(), request, self._epochs, patience).run()
        if response.outcome == coordinator_pb2.OUTCOME_COMMITTED:
            return committed_of(request.request_id, response)
        refusals = refusals_of(response)
        attempt = response.attempt or request.attempt
        if response.outcome == coordinator_pb2.OUTCOME_COMPENSATED:
            raise SagaCompensated(request.request_id, response.txid, attempt, refusals, pending=tuple(response.pending))
        heuristic = tuple(response.heuristic)
        if not heuristic:
            _raise_if_the_request_was_wrong(refusals)
        raise TransactionAborted(request.request_id, response.txid, attempt, refusals, heuristic=heuristic)

    async def _read(
        self,
        method: Callable[[coordinator_pb2_grpc.CoordinatorAsyncStub], Method[_Request, _Response]],
        request: _Request,
        *,
        at_least: float = 0.0,
        changes: bool = False,
    ) -> _Response:
        """A call that may be repeated whatever became of it: it is, until it is answered or `timeout` is over. Each try
        may take that long, or `at_least` seconds. If it `changes` something, a lost answer leaves open whether it did.
        """
        connection = self._connection()
        lost = False
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(CoordinatorUnavailable),
            wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
            stop=stop_after_delay(self._timeout),
            reraise=True,
        )

        async def once() -> _Response:
            nonlocal lost
            try:
                await connection.ready(self._timeout)
            except TimeoutError as error:
                raise _unavailable(f"the coordinator at {self._address} cannot be reached", lost=lost) from error
            try:
                return await connection.call(method(connection.stub), request, timeout=max(self._timeout, at_least))
            except grpc.aio.AioRpcError as error:
                problem = from_call(error)
                unanswered = changes and not problem.outcome_known and problem.code not in NOT_OURS
                lost |= unanswered
                if unanswered or problem.code in _PASSING:
                    why = f"the coordinator does not answer: {problem.code.name}: {problem.message}"
                    raise _unavailable(why, lost=lost) from error
                raise _rejected(problem, lost=lost) from error
            except Closed:
                lost |= changes
                raise

        try:
            return await retrying(once)
        except Closed as error:
            raise _unavailable("the client was closed while it waited", lost=lost) from error

    def _connection(self) -> Connection:
        if self._connected is None:
            self._connected = Connection(self._address)
        return self._connected


def _raise_if_the_request_was_wrong(refusals: tuple[Refusal, ...]) -> None:
    """An abort that blames the request is an error of the request, also when it comes as a recorded outcome."""
    if not refusals:
        return
    refusal = refusals[0]
    where = f"{refusal.participant}.{refusal.operation}"
    match refusal.kind:
        case "INVALID_PAYLOAD":
            problem = Problem(grpc.StatusCode.INVALID_ARGUMENT, refusal.code, refusal.message, "operations", where)
            raise InvalidRequest(problem)
        case "UNKNOWN_OPERATION":
            raise NotFound(Problem(grpc.StatusCode.NOT_FOUND, refusal.code, refusal.message, "operations", where))
        case _:
            return


def _unavailable(why: str, *, lost: bool) -> CoordinatorUnavailable:
    but = "; what was asked for may have been done all the same, and may be asked for again" if lost else ""
    return CoordinatorUnavailable(f"{why}{but}", outcome_known=not lost)


def _rejected(problem: Problem, *, lost: bool) -> CallRejected:
    """A rejection says nothing of an earlier copy, which may even be the reason for it."""
    if not lost:
        return of_problem(problem)
    but = "an answer was lost before, and what was asked for may have been done by then"
    error = of_problem(replace(problem, message=f"{problem.message}; {but}"))
    error.outcome_known = False
    return error
