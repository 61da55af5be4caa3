"""What a service declares: a participant and its operations, with the types they take and return.

Lives here: the decorator, its checks at import time, and the way from a branch's operations to what was declared. Must
not live here: how they are run (`bound`, `resource`), gRPC (`service`), the reading of payloads (`payloads`).
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, overload

import psycopg

from twophase.contract.names import InvalidName, check_operation_name, check_participant_name
from twophase.contract.text import shorten
from twophase.participant.bound import BoundOperation, BoundWork, OperationSpec
from twophase.participant.errors import DeclarationError, PayloadError, UnknownOperation
from twophase.participant.payloads import NOTHING, PayloadType, Undeclared, payload_type_of, type_name
from twophase.v1 import participant_pb2, types_pb2

F = TypeVar("F", bound=Callable[..., Any])

_EXAMPLE: Final = "def charge(connection: psycopg.Connection, order: Charge) -> None"
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


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
    def operation(self, /, *, name: str | None = None, read_only: bool = False) -> Callable[[F], F]: ...

    def operation(
        self, function: Callable[..., Any] | None = None, /, *, name: str | None = None, read_only: bool = False
    ) -> Callable[..., Any]:
        """Declares a function as an operation, and returns it unchanged.

        The function gets a connection inside the branch's local transaction, and a payload of the type that annotates
        its second parameter: a protobuf message class, a dataclass or what else pydantic reads from JSON, `dict` or
        `Any`. Without a second parameter it takes nothing. It returns a protobuf message, what JSON can hold, or None;
        it raises `Refused` to refuse. It must neither commit nor roll back. With `def` it runs in a thread, with
        `async def` in the event loop.

        `name` is the function's name unless given. `read_only` promises that it writes nothing: a branch of such
        operations runs READ ONLY and takes no part in the second phase.

        Raises `DeclarationError`, whose message says what to write instead.
        """

        def declare(declared: F) -> F:
            spec = _specify(declared, name, read_only=read_only)
            self._add(spec)
            return declared

        return declare if function is None else declare(function)

    def bind(self, operations: Iterable[participant_pb2.BranchOperation]) -> BoundWork:
        """Reads every payload of a branch, before any business code runs.

        Raises `UnknownOperation` or `PayloadError`, whose messages name the operation.
        """
        return BoundWork(tuple(self._bind(operation.name, operation.payload) for operation in operations))

    def _bind(self, name: str, payload: types_pb2.Payload) -> BoundOperation:
        spec = self._operations.get(name)
        if spec is None:
            offered = ", ".join(self._operations) or "none"
            raise UnknownOperation(
                f"participant '{self.name}' has no operation '{shorten(name)}'; it has {offered}", operation=name
            )
        nothing_given = payload.WhichOneof("content") is None
        if nothing_given and spec.optional:
            return BoundOperation(spec, ())
        try:
            value = spec.payload.decode(payload)
        except PayloadError as error:
            raise PayloadError(f"operation '{name}' {error}", operation=name) from error
        return BoundOperation(spec, (value,) if spec.takes_payload else ())

    def _add(self, spec: OperationSpec) -> None:
        if spec.name in self._operations:
            raise DeclarationError(
                f"participant '{self.name}' has an operation '{spec.name}' already;"
                ' give one of them another name: @operation(name="...")'
            )
        for other in self._operations.values():
            if other.asynchronous != spec.asynchronous:
                raise DeclarationError(
                    f"operation '{spec.name}' is declared with {_keyword(spec)} and '{other.name}' with"
                    f" {_keyword(other)}; declare all operations of participant '{self.name}' the same way"
                )
        self._operations[spec.name] = spec


def _specify(function: Callable[..., Any], name: str | None, *, read_only: bool) -> OperationSpec:
    if not inspect.isfunction(function):
        raise DeclarationError(f"{function!r} is not a function; declare one, such as: {_EXAMPLE}")
    try:
        checked = check_operation_name(function.__name__ if name is None else name)
    except InvalidName as error:
        raise DeclarationError(f'{error}; give it a name: @operation(name="...")') from error
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"operation '{checked}' is a generator; return the result instead of yielding it")
    asynchronous = inspect.iscoroutinefunction(function)
    parameters = _parameters(function, checked)
    annotations = _annotations(function, checked)
    _check_connection(parameters[0], annotations, checked, asynchronous=asynchronous)
    payload: PayloadType = NOTHING
    optional = False
    if len(parameters) > 1:
        second = parameters[1]
        optional = second.default is not inspect.Parameter.empty
        if second.name not in annotations:
            raise DeclarationError(
                f"parameter '{second.name}' of operation '{checked}' has no type; annotate it, as in: {_EXAMPLE}"
            )
        payload = _payload_type(annotations[second.name], f"parameter '{second.name}' of operation '{checked}'")
    result: PayloadType = Undeclared()
    if annotations.get("return", Any) is not Any:
        result = _payload_type(annotations["return"], f"the result of operation '{checked}'")
    return OperationSpec(
        name=checked,
        function=function,
        read_only=read_only,
        asynchronous=asynchronous,
        payload=payload,
        result=result,
        takes_payload=len(parameters) > 1,
        optional=optional,
    )


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise DeclarationError(f"operation '{name}' has no parameter for the connection; write: {_EXAMPLE}")
    for parameter in parameters:
        if parameter.kind not in _POSITIONAL:
            raise DeclarationError(
                f"operation '{name}' has the parameter '{parameter.name}', which cannot be given by position;"
                f" write: {_EXAMPLE}"
            )
    if len(parameters) > 2:
        raise DeclarationError(
            f"operation '{name}' has {len(parameters)} parameters, but gets a connection and one payload;"
            f" put what it takes into a dataclass and write: {_EXAMPLE}"
        )
    return parameters


def _annotations(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"an annotation of operation '{name}' cannot be read: {error}; define or import that name at the top level"
            " of the module, before the operation and not under TYPE_CHECKING"
        ) from error
    except (TypeError, SyntaxError) as error:
        raise DeclarationError(f"an annotation of operation '{name}' is no type: {error}") from error


def _check_connection(
    parameter: inspect.Parameter, annotations: Mapping[str, Any], name: str, *, asynchronous: bool
) -> None:
    annotation = annotations.get(parameter.name, Any)
    if annotation is Any:
        return
    wanted = psycopg.AsyncConnection if asynchronous else psycopg.Connection
    given = typing.get_origin(annotation) or annotation
    if isinstance(given, type) and issubclass(wanted, given) and given is not object:
        return
    keyword = "async def" if asynchronous else "def"
    raise DeclarationError(
        f"the first parameter of operation '{name}', '{parameter.name}', is annotated {type_name(annotation)}, but an"
        f" operation declared with {keyword} gets a psycopg.{wanted.__name__}; write:"
        f" {parameter.name}: psycopg.{wanted.__name__}"
    )


def _payload_type(annotation: object, where: str) -> PayloadType:
    try:
        return payload_type_of(annotation)
    except DeclarationError as error:
        raise DeclarationError(f"{where}: {error}") from error


def _keyword(spec: OperationSpec) -> str:
    return "async def" if spec.asynchronous else "def"
