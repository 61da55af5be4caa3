"""How a call is refused for a field that is wrong: INVALID_ARGUMENT with the field, the value and the remedy.

Lives here: building `Rejected` for a field, and the checks of one field by itself. Must not live here: which fields a
message has (`validation`), what only the engine can refuse (`engine.rejections`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import grpc

from twophase.contract.names import InvalidName, Txid
from twophase.contract.status import Problem
from twophase.contract.text import shorten
from twophase.coordinator import reasons
from twophase.coordinator.engine.api import Rejected


def check_txid(field: str, text: str, remedy: str) -> Txid:
    """The transaction that a field names. Raises `Rejected`."""
    if not text:
        missing(field, remedy)
    try:
        return Txid.parse(text)
    except InvalidName as error:
        malformed(field, text, brief(error, text), remedy)


def check_name(field: str, text: str, check: Callable[[str], str], remedy: str) -> None:
    """Refuses a name that is empty, or that `check` refuses."""
    if not text:
        missing(field, remedy)
    try:
        check(text)
    except InvalidName as error:
        malformed(field, text, brief(error, text), remedy)


def brief(error: InvalidName, text: str) -> str:
    """The error's own words around a value cut short: what follows the value says what is expected."""
    return str(error).replace(repr(text), f"'{shorten(text)}'")


def missing(field: str, remedy: str) -> NoReturn:
    """A field that is needed is empty."""
    reject(reasons.MISSING_FIELD, field, "", f"{field} is missing", remedy)


def malformed(field: str, value: object, fact: str, remedy: str) -> NoReturn:
    """A field does not have its form."""
    reject(reasons.MALFORMED_FIELD, field, value, fact, remedy)


def over(field: str, value: object, fact: str, remedy: str) -> NoReturn:
    """A field is larger than the coordinator takes."""
    reject(reasons.OVER_LIMIT, field, value, fact, remedy)


def unknown(field: str, number: int, remedy: str) -> NoReturn:
    """A number that names no value of the field's enum."""
    reject(reasons.UNKNOWN_VALUE, field, number, f"{field} {number} names no value this coordinator knows", remedy)


def reject(reason: str, field: str, value: object, fact: str, remedy: str) -> NoReturn:
    """Refuses a call for one of its fields."""
    raise Rejected(
        Problem(
            code=grpc.StatusCode.INVALID_ARGUMENT,
            reason=reason,
            message=f"{fact}; {remedy}" if fact.startswith(field) else f"{field}: {fact}; {remedy}",
            field=field,
            value=str(value),
            remedy=remedy,
        )
    )
