"""Declared operations, bound to what one branch gives them: the `Work` that a resource manager runs.

Lives here: the specification of an operation and of its compensation, and their calls. Must not live here: how they
were declared (`declarations`), the transaction around them (`branch`).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final

from twophase.participant.errors import ParticipantError, PayloadError
from twophase.participant.payloads import PayloadType, ResultError
from twophase.participant.retry import Retry, duration
from twophase.participant.work import AsyncConnection, SyncConnection
from twophase.v1 import participant_pb2, types_pb2

log = logging.getLogger("twophase.participant")

MAX_RESULT_BYTES: Final = 1 << 20
"""What the operations of one branch may return together: it is kept in the ledger, and sent in one message."""


@dataclass(frozen=True, slots=True)
class CompensationSpec:
    """What undoes an operation. It gets the connection, then what the operation was given if that takes something,
    then, with `takes_result`, what it returned."""

    function: Callable[..., Any]
    takes_result: bool


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """One declared operation.

    `takes_payload` is False for a function without a second parameter; `payload` then takes nothing. `default` is what
    stands where no payload is given; `inspect.Parameter.empty` if nothing does. `deadline` in seconds.
    """

    name: str
    function: Callable[..., Any]
    read_only: bool
    asynchronous: bool
    payload: PayloadType
    result: PayloadType
    takes_payload: bool
    default: object = inspect.Parameter.empty
    retry: Retry | None = None
    deadline: float | None = None
    compensation: CompensationSpec | None = None

    def bind(self, payload: types_pb2.Payload) -> tuple[object, ...]:
        """What the function takes behind the connection. Raises `PayloadError`, whose message names the operation."""
        if payload.WhichOneof("content") is None and self.default is not inspect.Parameter.empty:
            return (self.default,)
        try:
            value = self.payload.decode(payload)
        except PayloadError as error:
            raise PayloadError(f"operation '{self.name}' {error}", operation=self.name) from error
        except Exception as error:  # a validator or __post_init__ of the service's own may raise anything
            log.exception("operation '%s': its payload could not be read", self.name)
            raise PayloadError(
                f"operation '{self.name}' takes {self.payload.expected}, and reading the payload as that raised"
                f" {type(error).__name__}; the participant's log has the traceback. To refuse a value, let the"
                " validator raise ValueError.",
                operation=self.name,
            ) from error
        return (value,) if self.takes_payload else ()

    def describe(self) -> participant_pb2.OperationDescription:
        """The operation as the handshake tells it."""
        return participant_pb2.OperationDescription(
            name=self.name,
            read_only=self.read_only,
            message_type=self.payload.message_type,
            has_compensation=self.compensation is not None,
            attempt_deadline=None if self.deadline is None else duration(self.deadline),
            retry=None if self.retry is None else self.retry.message(),
        )


@dataclass(frozen=True, slots=True)
class BoundOperation:
    """One operation with what it is given, ready to be called. `arguments` follow the connection."""

    spec: OperationSpec
    arguments: tuple[object, ...]

    def encode(self, value: object) -> types_pb2.Payload:
        """Writes what the function returned. Raises `ParticipantError`."""
        _check_awaited(value, f"operation '{self.spec.name}'")
        try:
            written = self.spec.result.encode(value)
        except ParticipantError as error:
            raise ParticipantError(f"operation '{self.spec.name}' {error}") from error
        if self.spec.compensation is not None and self.spec.compensation.takes_result:
            # Now the work can still be refused; later nobody could undo it.
            _restored(self.spec, written)
        return written


@dataclass(slots=True)
class BoundWork:
    """The operations of one branch, in order: the `Work` that a resource manager runs.

    `running` is the name of the operation at work, and of the one that failed once `run` has raised; else empty.
    """

    calls: tuple[BoundOperation, ...]
    running: str = ""

    @property
    def read_only(self) -> bool:
        return all(call.spec.read_only for call in self.calls)

    @property
    def asynchronous(self) -> bool:
        return any(call.spec.asynchronous for call in self.calls)

    def run(self, connection: SyncConnection) -> tuple[types_pb2.Payload, ...]:
        results = []
        for call in self.calls:
            self.running = call.spec.name
            results.append(call.encode(call.spec.function(connection, *call.arguments)))
        return self._ended(results)

    async def run_async(self, connection: AsyncConnection) -> tuple[types_pb2.Payload, ...]:
        results = []
        for call in self.calls:
            self.running = call.spec.name
            results.append(call.encode(await call.spec.function(connection, *call.arguments)))
        return self._ended(results)

    def _ended(self, results: list[types_pb2.Payload]) -> tuple[types_pb2.Payload, ...]:
        size = sum(result.ByteSize() for result in results)
        if size > MAX_RESULT_BYTES:
            raise ResultError(
                f"the operations of the branch returned {size} bytes; at most {MAX_RESULT_BYTES} are kept"
            )
        self.running = ""
        return tuple(results)


@dataclass(frozen=True, slots=True)
class BoundCompensation:
    """One compensation with what it is given. `arguments` follow the connection; the result, if it takes that, follows
    them, as the ledger keeps it."""

    spec: OperationSpec
    function: Callable[..., Any]
    arguments: tuple[object, ...]
    result: types_pb2.Payload | None

    def given(self) -> tuple[object, ...]:
        """All that follows the connection. Raises `ResultError`."""
        return self.arguments if self.result is None else (*self.arguments, _restored(self.spec, self.result))


@dataclass(slots=True)
class BoundUndo:
    """The compensations of one branch, in the order in which they run: `Work`, too. What they return is dropped."""

    calls: tuple[BoundCompensation, ...]
    asynchronous: bool
    running: str = ""

    @property
    def read_only(self) -> bool:
        return False

    def run(self, connection: SyncConnection) -> tuple[types_pb2.Payload, ...]:
        for call, arguments in self._given():
            undone = call.function(connection, *arguments)
            _check_awaited(undone, f"the compensation of operation '{call.spec.name}'")
        self.running = ""
        return ()

    async def run_async(self, connection: AsyncConnection) -> tuple[types_pb2.Payload, ...]:
        for call, arguments in self._given():
            await call.function(connection, *arguments)
        self.running = ""
        return ()

    def _given(self) -> Iterator[tuple[BoundCompensation, tuple[object, ...]]]:
        """Each with its arguments, in turn; every result is read before anything is undone."""
        given = []
        for call in self.calls:
            self.running = call.spec.name
            given.append((call, call.given()))
        for call, arguments in given:
            self.running = call.spec.name
            yield call, arguments


@dataclass(frozen=True, slots=True)
class MisfitWork:
    """What stands for work that cannot be bound, where the refusal has to go through the ledger: it only raises."""

    error: ParticipantError
    asynchronous: bool

    @property
    def running(self) -> str:
        return self.error.operation if isinstance(self.error, PayloadError) else ""

    @property
    def read_only(self) -> bool:
        return False

    def run(self, connection: SyncConnection) -> tuple[types_pb2.Payload, ...]:  # noqa: ARG002 - as `Work` has it
        raise self.error

    async def run_async(self, connection: AsyncConnection) -> tuple[types_pb2.Payload, ...]:  # noqa: ARG002
        raise self.error


def _check_awaited(value: object, whose: str) -> None:
    if inspect.isawaitable(value):
        if isinstance(value, Coroutine):
            value.close()
        raise ParticipantError(f"{whose} is declared with def, and returned an awaitable; declare it with async def")


def _restored(spec: OperationSpec, result: types_pb2.Payload) -> object:
    try:
        return spec.result.restore(result)
    except ParticipantError as error:
        raise ResultError(
            f"the result of operation '{spec.name}' cannot be read by its compensation: it {error}"
        ) from error
