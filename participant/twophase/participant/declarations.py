"""Reading a function into the specification of an operation, or of its compensation, with what to write if it is wrong.

Lives here: the checks at import time, of a function alone and of a compensation against its operation. Must not live
here: a participant's operations by name (`operations`), how they are called (`bound`).
"""

from __future__ import annotations

import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from twophase.contract.names import InvalidName, check_operation_name
from twophase.participant.bound import CompensationSpec, OperationSpec
from twophase.participant.errors import DeclarationError
from twophase.participant.payloads import NOTHING, PayloadType, Undeclared, payload_type_of, type_name
from twophase.participant.retry import Retry
from twophase.participant.work import DEADLINE_CAP

_EXAMPLE: Final = "def charge(connection: psycopg.Connection, order: Charge) -> None"
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True, slots=True)
class _Signature:
    """A function as it was declared. `what` names it in messages, `example` is how it could be written instead."""

    what: str
    example: str
    asynchronous: bool
    parameters: Sequence[inspect.Parameter]
    annotations: Mapping[str, Any]

    def type_of(self, parameter: inspect.Parameter) -> Any:
        """The annotation of a parameter. Raises `DeclarationError` if it has none."""
        if parameter.name not in self.annotations:
            raise DeclarationError(
                f"parameter '{parameter.name}' of {self.what} has no type; annotate it, as in: {self.example}"
            )
        return self.annotations[parameter.name]


def operation_of(
    function: Callable[..., Any], name: str | None, *, read_only: bool, retry: Retry | None, deadline: float | None
) -> OperationSpec:
    """The operation that a function is. Raises `DeclarationError`."""
    _check_function(function, _EXAMPLE)
    try:
        checked = check_operation_name(function.__name__ if name is None else name)
    except InvalidName as error:
        raise DeclarationError(f'{error}; give it a name: @operation(name="...")') from error
    if deadline is not None and not (math.isfinite(deadline) and 0 < deadline <= DEADLINE_CAP):
        raise DeclarationError(
            f"operation '{checked}' has the deadline {deadline}; give it seconds, more than 0 and at most"
            f" {DEADLINE_CAP:g}"
        )
    signature = _read(function, f"operation '{checked}'", _EXAMPLE)
    if len(signature.parameters) > 2:
        raise DeclarationError(
            f"operation '{checked}' has {len(signature.parameters)} parameters, but gets a connection and one payload;"
            f" put what it takes into a dataclass and write: {_EXAMPLE}"
        )
    payload: PayloadType = NOTHING
    default: object = inspect.Parameter.empty
    if len(signature.parameters) > 1:
        second = signature.parameters[1]
        default = second.default
        payload = _payload_type(signature.type_of(second), f"parameter '{second.name}' of operation '{checked}'")
    result: PayloadType = Undeclared()
    returned = signature.annotations.get("return", Any)
    if returned is not Any:
        result = _payload_type(returned, f"the result of operation '{checked}'")
    return OperationSpec(
        name=checked,
        function=function,
        read_only=read_only,
        asynchronous=signature.asynchronous,
        payload=payload,
        result=result,
        takes_payload=len(signature.parameters) > 1,
        default=default,
        retry=retry,
        deadline=deadline,
    )


def compensation_of(function: Callable[..., Any], spec: OperationSpec) -> CompensationSpec:
    """What undoes an operation, checked against it. Raises `DeclarationError`."""
    example = _example(function, spec)
    _check_function(function, example)
    what = f"the compensation '{function.__name__}' of operation '{spec.name}'"
    if spec.read_only:
        raise DeclarationError(
            f"operation '{spec.name}' is declared read_only, so there is nothing to undo; leave out"
            f" '{function.__name__}', or the declaration"
        )
    if spec.compensation is not None:
        raise DeclarationError(
            f"operation '{spec.name}' has the compensation '{spec.compensation.function.__name__}' already;"
            f" leave out '{function.__name__}', or put both into one function"
        )
    if inspect.iscoroutinefunction(function) != spec.asynchronous:
        raise DeclarationError(
            f"{what} is declared with {keyword(not spec.asynchronous)}, and its operation with"
            f" {keyword(spec.asynchronous)}; write: {example}"
        )
    signature = _read(function, what, example)
    takes = 2 if spec.takes_payload else 1
    if not takes <= len(signature.parameters) <= takes + 1:
        gets = "a connection, what the operation was given" if spec.takes_payload else "a connection"
        raise DeclarationError(
            f"{what} has {len(signature.parameters)} parameter{'s' if len(signature.parameters) > 1 else ''}, but gets"
            f" {gets} and, if it takes one more, what the operation returned; write: {example}"
        )
    given, returned = _types(spec)
    if spec.takes_payload:
        _check_fits(signature, signature.parameters[1], given, f"operation '{spec.name}' is given")
    takes_result = len(signature.parameters) > takes
    if takes_result:
        last = signature.parameters[takes]
        annotation = signature.type_of(last)
        if isinstance(spec.result, Undeclared):
            raise DeclarationError(
                f"{what} takes what that returns, which is not declared; annotate it:"
                f" {keyword(spec.asynchronous)} {spec.function.__name__}(...) -> {type_name(annotation)}"
            )
        if spec.result is NOTHING:
            raise DeclarationError(f"{what} takes what that returns, which is None; leave out '{last.name}'")
        _check_fits(signature, last, returned, f"operation '{spec.name}' returns")
    return CompensationSpec(function=function, takes_result=takes_result)


def keyword(asynchronous: object) -> str:
    """How such a function is declared."""
    return "async def" if asynchronous else "def"


def _read(function: Callable[..., Any], what: str, example: str) -> _Signature:
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise DeclarationError(f"{what} is a generator; return the result instead of yielding it")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters:
        raise DeclarationError(f"{what} has no parameter for the connection; write: {example}")
    for parameter in parameters:
        if parameter.kind not in _POSITIONAL:
            raise DeclarationError(
                f"{what} has the parameter '{parameter.name}', which cannot be given by position; write: {example}"
            )
    signature = _Signature(
        what, example, inspect.iscoroutinefunction(function), parameters, _annotations(function, what)
    )
    _check_connection(signature)
    return signature


def _check_function(function: object, example: str) -> None:
    if not inspect.isfunction(function):
        raise DeclarationError(f"{function!r} is not a function; declare one, such as: {example}")


def _annotations(function: Callable[..., Any], what: str) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError as error:
        raise DeclarationError(
            f"an annotation of {what} cannot be read: {error}; define or import that name at the top level of the"
            " module, before the function and not under TYPE_CHECKING"
        ) from error
    except (TypeError, SyntaxError) as error:
        raise DeclarationError(f"an annotation of {what} is no type: {error}") from error


def _check_connection(signature: _Signature) -> None:
    parameter = signature.parameters[0]
    annotation = signature.annotations.get(parameter.name, Any)
    if annotation is Any:
        return
    wanted = psycopg.AsyncConnection if signature.asynchronous else psycopg.Connection
    given = typing.get_origin(annotation) or annotation
    if isinstance(given, type) and issubclass(wanted, given) and given is not object:
        return
    raise DeclarationError(
        f"the first parameter of {signature.what}, '{parameter.name}', is annotated {type_name(annotation)}, but an"
        f" operation declared with {keyword(signature.asynchronous)} gets a psycopg.{wanted.__name__}; write:"
        f" {parameter.name}: psycopg.{wanted.__name__}"
    )


def _payload_type(annotation: object, where: str) -> PayloadType:
    try:
        return payload_type_of(annotation)
    except DeclarationError as error:
        raise DeclarationError(f"{where}: {error}") from error


def _types(spec: OperationSpec) -> tuple[Any, Any]:
    """What an operation is given, if it is given something, and what it returns, as annotated."""
    annotations = _annotations(spec.function, f"operation '{spec.name}'")
    _, *given = inspect.signature(spec.function).parameters
    return annotations[given[0]] if given else None, annotations.get("return", Any)


def _example(function: object, spec: OperationSpec) -> str:
    """A compensation that would fit, under its own name."""
    given, returned = _types(spec)
    parameters = [f"connection: psycopg.{'AsyncConnection' if spec.asynchronous else 'Connection'}"]
    if spec.takes_payload:
        parameters.append(f"{list(inspect.signature(spec.function).parameters)[1]}: {type_name(given)}")
    if spec.result is not NOTHING and not isinstance(spec.result, Undeclared):
        parameters.append(f"result: {type_name(returned)}")
    name = getattr(function, "__name__", "undo")
    return f"{keyword(spec.asynchronous)} {name}({', '.join(parameters)}) -> None"


def _check_fits(signature: _Signature, parameter: inspect.Parameter, comes: Any, says: str) -> None:
    annotation = signature.type_of(parameter)
    if not _takes(annotation, comes):
        raise DeclarationError(
            f"parameter '{parameter.name}' of {signature.what} is annotated {type_name(annotation)}, but {says}"
            f" {type_name(comes)}; write: {signature.example}"
        )


def _takes(annotation: Any, comes: Any) -> bool:
    """True if every value of the type `comes` is one of the type `annotation`, as far as annotations tell."""
    annotation, comes = _bare(annotation), _bare(comes)
    if annotation in (Any, object) or annotation == comes:
        return True
    if _is_union(comes):
        return all(_takes(annotation, each) for each in typing.get_args(comes))
    if _is_union(annotation):
        return any(_takes(each, comes) for each in typing.get_args(annotation))
    return annotation in getattr(typing.get_origin(comes) or comes, "__mro__", ())


def _bare(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if typing.get_origin(annotation) is typing.Annotated else annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
