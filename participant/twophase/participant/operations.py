"""What a service declares: a participant and its operations, with the types they take and return.

Lives here: the decorators, and the way from a branch's operations to what was declared. Must not live here: the checks
of functions (`declarations`), how they are run (`bound`, `resource`), gRPC (`service`), the reading of payloads
(`payloads`).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar, overload

from twophase.contract.names import InvalidName, check_participant_name
from twophase.contract.text import shorten
from twophase.participant.bound import (
    BoundCompensation,
    BoundOperation,
    BoundUndo,
    BoundWork,
    MisfitWork,
    OperationSpec,
)
from twophase.participant.declarations import compensation_of, keyword, operation_of
from twophase.participant.errors import DeclarationError, ParticipantError, UnknownOperation
from twophase.participant.retry import Retry
from twophase.v1 import participant_pb2, types_pb2

F = TypeVar("F", bound=Callable[..., Any])


class Participant:
    """A service with a database of its own, and the operations it offers.

        payment = Participant("payment")

        @payment.operation
        def charge(connection: psycopg.Connection, order: Charge) -> None:
            ...

    `name` is 1 to 63 characters of a-z, 0-9 and '-', starting with a letter; it belongs to one database. `dsn` is a
    libpq connection string; without it, it is given when the participant is run.
    """

    def __init__(self, name: str, *, dsn: str | None = None) -> None:
        try:
            self.name: Final = check_participant_name(name)
        except InvalidName as error:
            raise DeclarationError(str(error)) from error
        self.dsn: Final = dsn
        self._operations: dict[str, OperationSpec] = {}

    def __repr__(self) -> str:
        return f"Participant({self.name!r}, operations: {', '.join(self._operations) or 'none'})"

    @property
    def operations(self) -> Mapping[str, OperationSpec]:
        """The declared operations by name, in the order of their declaration."""
        return types.MappingProxyType(self._operations)

    @property
    def asynchronous(self) -> bool:
        """True if the operations are coroutines; all of one participant are, or none."""
        return any(spec.asynchronous for spec in self._operations.values())

    @overload
    def operation(self, function: F, /) -> F: ...

    @overload
    def operation(
        self,
        /,
        *,
        name: str | None = None,
        read_only: bool = False,
        retry: Retry | None = None,
        deadline: float | None = None,
    ) -> Callable[[F], F]: ...

    def operation(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        read_only: bool = False,
        retry: Retry | None = None,
        deadline: float | None = None,
    ) -> Callable[..., Any]:
        """Declares a function as an operation, and returns it unchanged.

        The function gets a connection inside the branch's local transaction, and a payload of the type that annotates
        its second parameter: a protobuf message class, a dataclass or what else pydantic reads from JSON, `dict` or
        `Any`. Without a second parameter it takes nothing. It returns a protobuf message, what JSON can hold, or None;
        it raises `Refused` to refuse. It must neither commit nor roll back. With `def` it runs in a thread, with
        `async def` in the event loop.

        `name` is the function's name unless given. `read_only` promises that it writes nothing: a branch of such
        operations runs READ ONLY and takes no part in the second phase.

        The rest is for sagas, of which an operation is a step. `deadline` is how long one attempt may take, its
        compensation's attempts included, in seconds: 10 unless given, and at most 60. `retry` is how it is tried again
        after a refusal that is retryable: `Retry()` unless given.

        Raises `DeclarationError`, whose message says what to write instead.
        """

        def declare(declared: F) -> F:
            self._add(operation_of(declared, name, read_only=read_only, retry=retry, deadline=deadline))
            return declared

        return declare if function is None else declare(function)

    def compensation(self, operation: Callable[..., Any] | str, /) -> Callable[[F], F]:
        """Declares a function as what undoes an operation in a saga, and returns it unchanged.

            @inventory.compensation(reserve)
            def release(connection: psycopg.Connection, order: Reserve, reserved: Reserved) -> None: ...

        `operation` is the operation's function, or its name. The compensation gets a connection inside a local
        transaction of its own, then the payload that the operation was given (if that takes one), then, if it has a
        further parameter, what the operation returned, as the ledger kept it. It is called only for work that was
        committed, and it is committed once; what it returns does not matter. It is no operation: nobody can call it by
        name.

        A compensation cannot refuse for good. Whatever it raises, it is tried again, with the pauses of the operation's
        `retry`, until it is done; operators see it after as many failures as that has attempts.

        Raises `DeclarationError`, whose message says what to write instead.
        """

        def declare(declared: F) -> F:
            spec = self._declared(operation)
            self._operations[spec.name] = replace(spec, compensation=compensation_of(declared, spec))
            return declared

        return declare

    def bind(self, operations: Iterable[participant_pb2.BranchOperation]) -> BoundWork:
        """Reads every payload of a branch, before any business code runs.

        Raises `UnknownOperation` or `PayloadError`, whose messages name the operation.
        """
        bound = []
        for operation in operations:
            spec = self._spec(operation.name)
            bound.append(BoundOperation(spec, spec.bind(operation.payload)))
        return BoundWork(tuple(bound))

    def undo(
        self, operations: Sequence[participant_pb2.BranchOperation], results: Sequence[types_pb2.Payload]
    ) -> BoundUndo | MisfitWork:
        """The compensations of a branch, the last operation's first, with what its operations were given and returned.

        Nothing undoes what only reads. What cannot be bound becomes work that raises why (`UnknownOperation`,
        `PayloadError`), so that it is refused like any other compensation that fails.
        """
        try:
            return BoundUndo(self._bind_undo(operations, results), asynchronous=self.asynchronous)
        except ParticipantError as error:
            return MisfitWork(error, asynchronous=self.asynchronous)

    def _bind_undo(
        self, operations: Sequence[participant_pb2.BranchOperation], results: Sequence[types_pb2.Payload]
    ) -> tuple[BoundCompensation, ...]:
        if len(operations) != len(results):
            raise ParticipantError(
                f"the ledger has {len(results)} results of the branch, and {len(operations)} operations are to be"
                " undone; send those that were applied under its name"
            )
        undone = []
        for operation, result in zip(operations, results, strict=True):
            spec = self._spec(operation.name)
            if spec.read_only:
                continue
            compensation = spec.compensation
            if compensation is None:
                raise UnknownOperation(
                    f"operation '{spec.name}' of participant '{self.name}' was applied as a step of a saga, and has no"
                    f" compensation; declare one: @compensation({spec.function.__name__})",
                    operation=spec.name,
                )
            kept = result if compensation.takes_result else None
            undone.append(BoundCompensation(spec, compensation.function, spec.bind(operation.payload), kept))
        return tuple(reversed(undone))

    def _spec(self, name: str) -> OperationSpec:
        spec = self._operations.get(name)
        if spec is None:
            raise UnknownOperation(
                f"participant '{self.name}' has no operation '{shorten(name)}'; it has {self._offered()}",
                operation=name,
            )
        return spec

    def _declared(self, operation: Callable[..., Any] | str) -> OperationSpec:
        """The operation that a compensation names. Raises `DeclarationError`."""
        if isinstance(operation, str):
            if operation not in self._operations:
                raise DeclarationError(
                    f"participant '{self.name}' has no operation '{shorten(operation)}' to compensate; it has"
                    f" {self._offered()}; declare it first"
                )
            return self._operations[operation]
        found = [spec for spec in self._operations.values() if spec.function is operation]
        name = getattr(operation, "__name__", repr(operation))
        if not found:
            raise DeclarationError(
                f"'{name}' is no operation of participant '{self.name}'; it has {self._offered()};"
                " declare the operation first, and name it: @compensation(charge)"
            )
        if len(found) > 1:
            raise DeclarationError(
                f"'{name}' is declared as {' and '.join(spec.name for spec in found)}; give the name of the one that is"
                f' compensated: @compensation("{found[0].name}")'
            )
        return found[0]

    def _offered(self) -> str:
        return ", ".join(self._operations) or "none"

    def _add(self, spec: OperationSpec) -> None:
        if spec.name in self._operations:
            raise DeclarationError(
                f"participant '{self.name}' has an operation '{spec.name}' already;"
                ' give one of them another name: @operation(name="...")'
            )
        for other in self._operations.values():
            if other.asynchronous != spec.asynchronous:
                raise DeclarationError(
                    f"operation '{spec.name}' is declared with {keyword(spec.asynchronous)} and '{other.name}' with"
                    f" {keyword(other.asynchronous)}; declare all operations of participant '{self.name}' the same way"
                )
        self._operations[spec.name] = spec
