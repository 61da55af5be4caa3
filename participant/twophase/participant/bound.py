"""Declared operations, bound to what one branch gives them: the `Work` that a resource manager runs.

Lives here: the specification of an operation, and its call. Must not live here: how it was declared (`operations`), the
transaction around it (`branch`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from twophase.participant.errors import ParticipantError, PayloadError
from twophase.participant.payloads import PayloadType, ResultError
from twophase.participant.work import AsyncConnection, SyncConnection
from twophase.v1 import participant_pb2, types_pb2

MAX_RESULT_BYTES: Final = 1 << 20
"""What the operations of one branch may return together: it is kept in the ledger, and sent in one message."""


@dataclass(frozen=True, slots=True)
class OperationSpec:
    """One declared operation.

    `takes_payload` is False for a function without a second parameter; `payload` then takes nothing. `optional` says
    that the second parameter has a default, which stands where no payload is given.
    """

    name: str
    function: Callable[..., Any]
    read_only: bool
    asynchronous: bool
    payload: PayloadType
    result: PayloadType
    takes_payload: bool
    optional: bool

    def describe(self) -> participant_pb2.OperationDescription:
        """The operation as the handshake tells it."""
        return participant_pb2.OperationDescription(
            name=self.name, read_only=self.read_only, message_type=self.payload.message_type
        )


@dataclass(frozen=True, slots=True)
class BoundOperation:
    """One operation with what it is given, ready to be called. `arguments` follow the connection."""

    spec: OperationSpec
    arguments: tuple[object, ...]

    def encode(self, value: object) -> types_pb2.Payload:
        """Writes what the function returned. Raises `ParticipantError`."""
        if inspect.isawaitable(value):
            if isinstance(value, Coroutine):
                value.close()
            raise ParticipantError(
                f"operation '{self.spec.name}' is declared with def, and returned an awaitable;"
                " declare it with async def"
            )
        try:
            return self.spec.result.encode(value)
        except ParticipantError as error:
            raise ParticipantError(f"operation '{self.spec.name}' {error}") from error


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
class MisfitWork:
    """What stands for work that cannot be bound, where the refusal has to go through the ledger: it only raises."""

    error: PayloadError
    asynchronous: bool

    @property
    def running(self) -> str:
        return self.error.operation

    @property
    def read_only(self) -> bool:
        return False

    def run(self, connection: SyncConnection) -> tuple[types_pb2.Payload, ...]:  # noqa: ARG002 - as `Work` has it
        raise self.error

    async def run_async(self, connection: AsyncConnection) -> tuple[types_pb2.Payload, ...]:  # noqa: ARG002
        raise self.error
