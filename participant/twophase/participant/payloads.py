"""What an operation takes and returns, as types: reading a `Payload` into a value, and writing a value as a `Payload`.

Lives here: the three forms (nothing, JSON, a protobuf message), how an annotation chooses one, and what a caller is
told whose payload does not fit. Must not live here: operations, votes, Postgres.

JSON is read strictly: no unknown and no repeated fields, no number that stands in a string or the other way round. The
one exception is the exact decimal, which belongs in a string (`"12.50"`) and is written as one; a number is taken for
it only where reading it loses no digit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, DecimalException
from typing import Any, Final, Protocol

import pydantic
import pydantic_core
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, EncodeError, Message

from twophase.contract.text import shorten
from twophase.participant.errors import DeclarationError, ParticipantError, PayloadError
from twophase.v1 import types_pb2

_SHOWN_ERRORS: Final = 3
_UNKNOWN_FIELD: Final = ("unexpected_keyword_argument", "extra_forbidden")


class ResultError(ParticipantError):
    """An operation returned what its result type cannot hold. The branch is rolled back; a mistake in the service."""


class PayloadType(Protocol):
    """The type of a payload or of a result."""

    @property
    def expected(self) -> str:
        """The type in words, to stand behind "expects"."""
        ...

    @property
    def message_type(self) -> str:
        """The full name of the protobuf message; empty if it is none."""
        ...

    def decode(self, payload: types_pb2.Payload) -> object:
        """Reads a payload. Raises `PayloadError`, whose message names the field, the value and what is expected.

        The message is a predicate: the operation's name is to stand before it.
        """
        ...

    def encode(self, value: object) -> types_pb2.Payload:
        """Writes a result. Raises `ResultError`, whose message is a predicate too."""
        ...

    def restore(self, result: types_pb2.Payload) -> object:
        """Reads back what `encode` wrote, maybe in an earlier release. Raises `ResultError`, as `encode` does."""
        ...


def payload_type_of(annotation: Any) -> PayloadType:
    """The type that an annotation asks for. Raises `DeclarationError` for what can be neither JSON nor a message."""
    if annotation is None or annotation is type(None):
        return NOTHING
    if isinstance(annotation, type) and issubclass(annotation, Message):
        if annotation is Message:
            raise DeclarationError("google.protobuf.message.Message is no type to read; name a generated message class")
        return MessageType(annotation)
    try:
        adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(annotation)
        adapter.rebuild(raise_errors=True)  # a name that is missing now would otherwise be missed at the first payload
    except pydantic.errors.PydanticSchemaGenerationError as error:
        raise DeclarationError(
            f"{type_name(annotation)} cannot be read from JSON;"
            " use a dataclass, a pydantic model, dict, a plain type such as str, or a protobuf message class"
        ) from error
    except (pydantic.errors.PydanticUserError, pydantic.errors.PydanticUndefinedAnnotation) as error:
        reason = str(error).splitlines()[0]
        raise DeclarationError(
            f"{type_name(annotation)} cannot be read from JSON: {reason}; every name in it must be known where the"
            " operation is declared"
        ) from error
    return JsonType(adapter, type_name(annotation))


def type_name(annotation: object) -> str:
    """An annotation as its author wrote it, more or less."""
    return annotation.__qualname__ if isinstance(annotation, type) else str(annotation)


@dataclass(frozen=True, slots=True)
class Nothing:
    """No content."""

    expected: str = "nothing"
    message_type: str = ""

    def decode(self, payload: types_pb2.Payload) -> object:
        if payload.WhichOneof("content") is not None:
            raise PayloadError(f"takes no payload, but was given {_content(payload)}; leave the payload out")
        return None

    def encode(self, value: object) -> types_pb2.Payload:
        if value is not None:
            raise ResultError(f"is declared to return None and returned {_shown(value)}; annotate what it returns")
        return types_pb2.Payload()

    def restore(self, result: types_pb2.Payload) -> object:
        return _decoded(self, result)


NOTHING: Final = Nothing()


@dataclass(frozen=True, slots=True)
class JsonType:
    """One JSON document, read and written as pydantic does for the annotated type."""

    adapter: pydantic.TypeAdapter[Any]
    name: str

    @property
    def expected(self) -> str:
        return f"JSON for {self.name}"

    @property
    def message_type(self) -> str:
        return ""

    def decode(self, payload: types_pb2.Payload) -> object:
        if payload.WhichOneof("content") != "json":
            raise PayloadError(f"takes {self.expected}, but was given {_content(payload)}")
        try:
            _check_document(payload.json)
            value: object = self.adapter.validate_json(payload.json, strict=True, extra="forbid")
        except _Unreadable as error:
            raise PayloadError(f"takes {self.expected}, but the payload {error}") from error
        except pydantic.ValidationError as error:
            raise PayloadError(f"takes {self.expected}: {_told(error)}") from error
        return value

    def encode(self, value: object) -> types_pb2.Payload:
        if value is None:
            return types_pb2.Payload()
        try:
            return types_pb2.Payload(json=_document(self.adapter.dump_python(value, mode="json", warnings="error")))
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ResultError(f"returned {_shown(value)}, which is not {self.expected}: {reason}") from error

    def restore(self, result: types_pb2.Payload) -> object:
        """Not strictly: the document is the participant's own, and has what its types make of their values. A result
        is written under the fields' names, even where a payload is read by their aliases."""
        try:
            if result.WhichOneof("content") is None:
                return self.adapter.validate_python(None)
            if result.WhichOneof("content") == "json":
                value: object = self.adapter.validate_json(result.json, by_alias=True, by_name=True)
                return value
        except pydantic.ValidationError as error:
            raise ResultError(f"is not {self.expected}: {_told(error)}") from error
        raise ResultError(f"is {_content(result)}, not {self.expected}")


@dataclass(frozen=True, slots=True)
class MessageType:
    """A protobuf message."""

    message: type[Message]

    @property
    def expected(self) -> str:
        return f"the protobuf message {self.message_type}"

    @property
    def message_type(self) -> str:
        return self.message.DESCRIPTOR.full_name

    def decode(self, payload: types_pb2.Payload) -> object:
        if payload.WhichOneof("content") != "message" or payload.message.TypeName() != self.message_type:
            raise PayloadError(f"takes {self.expected}, but was given {_content(payload)}")
        value = self.message()
        try:
            value.ParseFromString(payload.message.value)
        except DecodeError as error:
            raise PayloadError(
                f"takes {self.expected}, but the {len(payload.message.value)} bytes given are not one: {error}"
            ) from error
        return value

    def encode(self, value: object) -> types_pb2.Payload:
        if not isinstance(value, self.message):
            raise ResultError(f"is declared to return {self.message_type} and returned {_shown(value)}")
        return _packed(value)

    def restore(self, result: types_pb2.Payload) -> object:
        return _decoded(self, result)


@dataclass(frozen=True, slots=True)
class Undeclared:
    """A result without an annotation, or with `Any`: its value decides."""

    expected: str = "None, a protobuf message or what can be written as JSON"
    message_type: str = ""

    def decode(self, payload: types_pb2.Payload) -> object:
        raise PayloadError(f"has no declared type to read {_content(payload)} as")

    def encode(self, value: object) -> types_pb2.Payload:
        if value is None:
            return types_pb2.Payload()
        if isinstance(value, Message):
            return _packed(value)
        try:
            return types_pb2.Payload(json=_document(pydantic_core.to_jsonable_python(value)))
        except (ValueError, RecursionError) as error:
            raise ResultError(f"returned {_shown(value)}, which is not {self.expected}: {error}") from error

    def restore(self, result: types_pb2.Payload) -> object:
        return _decoded(self, result)


def _decoded(kind: PayloadType, result: types_pb2.Payload) -> object:
    try:
        return kind.decode(result)
    except PayloadError as error:
        raise ResultError(f"is {_content(result)}, not {kind.expected}: {error}") from error


def _packed(value: Message) -> types_pb2.Payload:
    packed = AnyMessage()
    try:
        packed.Pack(value, deterministic=True)
    except EncodeError as error:
        raise ResultError(f"returned a {value.DESCRIPTOR.full_name} that is incomplete: {error}") from error
    return types_pb2.Payload(message=packed)


def _document(plain: object) -> str:
    text = json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    text.encode()  # a lone surrogate is no text, and the answer could not be sent
    return text


class _Unreadable(Exception):
    """What is wrong with a document, to stand behind "the payload"."""


def _check_document(text: str) -> None:
    """Refuses what JSON readers pass over in silence: a field given twice, a digit lost, NaN and infinity."""
    try:
        json.loads(text, parse_float=_exact, parse_constant=_no_constant, object_pairs_hook=_unrepeated)
    except json.JSONDecodeError as error:
        raise _Unreadable(
            f"is not JSON: {error.msg} at line {error.lineno} column {error.colno}, in '{shorten(text)}'"
        ) from error
    except RecursionError as error:
        raise _Unreadable("is JSON nested too deeply to be read") from error
    except ValueError as error:  # an integer of thousands of digits
        raise _Unreadable(f"is JSON with a number that cannot be read: {error}") from error


def _exact(literal: str) -> float:
    value = float(literal)
    try:
        exact = Decimal(literal) == Decimal(repr(value))
    except DecimalException:  # an exponent beyond everything
        exact = False
    if not exact:
        raise _Unreadable(
            f"has the number {shorten(literal)}, which JSON readers round to {value!r};"
            " write an exact decimal as a string, or give fewer digits"
        )
    return value


def _no_constant(literal: str) -> object:
    raise _Unreadable(f"has {literal}, which JSON does not know; leave the field out or write null")


def _unrepeated(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _Unreadable(f"has the field '{shorten(twice)}' more than once; give it once")
    return found


def _told(error: pydantic.ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False)
    told = [_problem(problem) for problem in problems[:_SHOWN_ERRORS]]
    if len(problems) > _SHOWN_ERRORS:
        told.append(f"and {len(problems) - _SHOWN_ERRORS} more")
    return "; ".join(told)


def _problem(problem: pydantic_core.ErrorDetails) -> str:
    path = _path(problem["loc"])
    kind = problem["type"]
    if kind == "missing":
        return f"field '{path}' is missing"
    if kind in _UNKNOWN_FIELD:
        return f"field '{path}' is not known; leave it out or correct its name"
    if kind == "json_invalid":
        return f"{problem['msg']}, in {shorten(str(problem['input']))}"
    expected = problem["msg"].removeprefix("Input ").removeprefix("Value error, ")
    where = f"field '{path}'" if path else "the document"
    return f"{where} {expected}, got {_shown_json(problem['input'])}"


def _path(location: Sequence[str | int]) -> str:
    path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return shorten(path.removeprefix("."))


def _shown_json(value: object) -> str:
    return shorten(json.dumps(value, ensure_ascii=False, default=str))


def _shown(value: object) -> str:
    return f"{shorten(repr(value))} (a {type(value).__qualname__})"


def _content(payload: types_pb2.Payload) -> str:
    match payload.WhichOneof("content"):
        case "json":
            return f"JSON: {shorten(payload.json)}"
        case "message":
            return f"the protobuf message {shorten(payload.message.TypeName()) or 'without a type_url'}"
        case _:
            return "nothing"
